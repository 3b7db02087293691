use std::sync::Mutex;

use super::*;
use crate::{
    pipeline::{
        spool,
        testing::{Directory, Peer, answer},
    },
    series::Selector,
};

const TEXT: &str = "text/plain; version=0.0.4";

fn destination(directory: &Directory, rules: &[&str]) -> Destination {
    let settings = spool::Settings { directory: directory.0.clone(), max_bytes: 1 << 30 };
    let spool = Spool::open(&settings, spool::Metrics::default()).unwrap();
    let rules = rules.iter().map(|rule| Selector::new(rule, [("", ""); 0]).unwrap()).collect();
    Destination { keep: Arc::new(KeepList::new(rules)), spool, metrics: Metrics::default() }
}

fn target(peer: &Peer, credential: Option<CredentialSlot>) -> Target {
    Target {
        job: "node".into(),
        instance: "host:9100".into(),
        upstream: peer.upstream(),
        credential,
        path: "/metrics?x=1".into(),
        interval: Duration::from_millis(10),
        timeout: Duration::from_secs(5),
        max_body: 1000,
    }
}

/// The series of the batch behind `after`, as text, with `stale` for stale markers.
async fn next_batch(spool: &Spool, after: u64) -> Vec<String> {
    assert!(spool.wait_beyond(after).await);
    let (batches, _) = spool.read_after(after, 1).await.unwrap();
    let mut found = Vec::new();
    assert_eq!(batches[0].1.caller(), Ok("scrape:node"));
    batches[0]
        .1
        .for_each_series(|labels, samples| {
            let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            for sample in samples {
                let value = if sample.is_stale() { "stale".to_owned() } else { sample.value.to_string() };
                found.push(format!("{} {value}", labels.join(",")));
            }
        })
        .unwrap();
    found
}

/// Scrapes a peer that gives these answers in turn and then the last one over and over; returns the batches.
async fn scrape(name: &str, rules: &[&str], pages: Vec<(u16, &'static str)>) -> (Vec<Vec<String>>, Destination) {
    let directory = Directory::new(name);
    let wanted = pages.len() as u64;
    let pages = Mutex::new(pages);
    let peer = Peer::start(move |_| {
        let mut pages = pages.lock().unwrap();
        let (status, page) = if pages.len() > 1 { pages.remove(0) } else { pages[0] };
        answer(status, TEXT, page)
    })
    .await;
    let destination = destination(&directory, rules);
    let shutdown = CancellationToken::new();
    let batches = async {
        let mut batches = Vec::new();
        for after in 0..wanted {
            batches.push(next_batch(&destination.spool, after).await);
        }
        shutdown.cancel();
        batches
    };
    let scraping = run(vec![target(&peer, None)], destination.clone(), shutdown.clone());
    let (batches, ()) = tokio::join!(batches, scraping);
    (batches, destination)
}

const OURS: &str = "instance=host:9100,job=node";

#[tokio::test]
async fn a_scrape_yields_what_prometheus_would_store() {
    let page = "# TYPE a gauge\na{x=\"1\",job=\"own\"} 1\na{x=\"2\"} 2\nb 3\n";
    let (batches, destination) = scrape("yields", &["a", "up", "scrape_samples_scraped"], vec![(200, page)]).await;
    let expected = [
        format!("__name__=a,exported_job=own,{OURS},x=1 1"),
        format!("__name__=a,{OURS},x=2 2"),
        format!("__name__=up,{OURS} 1"),
        format!("__name__=scrape_samples_scraped,{OURS} 3"),
    ];
    assert_eq!(batches[0], expected);
    let dropped = &destination.metrics.dropped;
    assert!(dropped.get_or_create(&Reason { reason: "not_kept" }).get() >= 2, "b and scrape_duration_seconds");
}

#[tokio::test]
async fn what_disappears_or_cannot_be_scraped_ends_with_a_stale_marker() {
    let both = (200, "a 1\nb 2\n");
    let pages = vec![both, (200, "a 1\n"), (500, "a 1\n"), both, (200, "a 1\nb{ 2\n"), (200, "a 5 1000\n"), (404, "")];
    let (batches, destination) = scrape("stale", &["a", "b", "up"], pages).await;
    let lines = |lines: &[&str]| {
        lines.iter().map(|line| line.replace(' ', &format!(",{OURS} "))).map(|l| format!("__name__={l}")).collect()
    };
    let sorted = |batch: &Vec<String>| {
        let mut batch = batch.clone();
        batch.sort();
        batch
    };
    let expected: [Vec<String>; 7] = [
        lines(&["a 1", "b 2", "up 1"]),
        lines(&["a 1", "b stale", "up 1"]),
        lines(&["a stale", "up 0"]),
        lines(&["a 1", "b 2", "up 1"]),
        // half a page is no page
        lines(&["a stale", "b stale", "up 0"]),
        // a series that brings its own time is not ended by us
        lines(&["a 5", "up 1"]),
        lines(&["up 0"]),
    ];
    for (number, (found, expected)) in batches.iter().zip(&expected).enumerate() {
        assert_eq!(&sorted(found), expected, "scrape {number}");
    }
    assert_eq!(destination.metrics.scrapes_failed.get_or_create(&Reason { reason: "format" }).get(), 1);
}

#[tokio::test]
async fn a_page_beyond_the_limit_is_a_failed_scrape() {
    let page: &'static str = Box::leak("a 1\n".repeat(300).into_boxed_str());
    let (batches, _) = scrape("large", &["a", "up"], vec![(200, page)]).await;
    assert_eq!(batches[0], [format!("__name__=up,{OURS} 0")]);
}

#[tokio::test]
async fn a_target_is_shown_its_credential_and_never_asked_without() {
    let directory = Directory::new("scrape-credential");
    let mut peer = Peer::start(|_| answer(200, TEXT, "a 1\n")).await;
    let slot = CredentialSlot::new("node");
    let destination = destination(&directory, &["up"]);
    let shutdown = CancellationToken::new();
    let targets = vec![target(&peer, Some(slot.clone()))];
    let watching = async {
        assert_eq!(next_batch(&destination.spool, 0).await, [format!("__name__=up,{OURS} 0")]);
        slot.replace(crate::secret::Credential {
            authorization: crate::secret::authorization("Bearer x").unwrap(),
            generation: 1,
            obtained_at: clock::now(),
            expires_at: None,
        });
        let seen = peer.next().await;
        assert_eq!(
            (&*seen.path, &seen.headers["authorization"]),
            ("/metrics?x=1", &HeaderValue::from_static("Bearer x"))
        );
        assert_eq!(seen.headers["accept"], ACCEPT);
        shutdown.cancel();
    };
    let scraping = run(targets, destination.clone(), shutdown.clone());
    tokio::join!(watching, scraping);
}
