use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};

use super::*;
use crate::{
    http::{Body, LocalService},
    pipeline::{
        feedback::Format,
        spool,
        testing::{Directory, Peer, Seen, answer},
    },
    principal::Caller,
    secret::{Credential, authorization},
    series::{BatchBuilder, LabelRef, Sample},
};

/// Long, so that a slow machine does not outlive the forecasts.
const STEP: i64 = 60_000;

fn spool_in(directory: &Directory) -> Spool {
    let settings = spool::Settings { directory: directory.0.clone(), max_bytes: 1 << 30 };
    Spool::open(&settings, spool::Metrics::default()).unwrap()
}

fn filled(slot: &CredentialSlot) {
    slot.replace(Credential {
        authorization: authorization("Bearer inference").unwrap(),
        generation: 1,
        obtained_at: clock::now(),
        expires_at: None,
    });
}

fn forecast(name: &str, peer: &Peer) -> Forecast {
    let credential = CredentialSlot::new("infer");
    filled(&credential);
    Forecast {
        name: name.into(),
        selector: Selector::new("load*", [("", ""); 0]).unwrap(),
        endpoint: "projects/p/locations/l/endpoints/1".into(),
        upstream: peer.upstream(),
        credential,
        step: Duration::from_millis(STEP as u64),
        context: 8,
        min_context: 3,
        horizon: 2,
        interval: Duration::from_millis(20),
        max_series: 100,
        timeout: Duration::from_secs(5),
    }
}

/// A batch of series that end now, with these values.
fn batch(series: &[(&str, &[f64])]) -> Batch {
    let now = clock::now().as_millisecond();
    let mut builder = BatchBuilder::new([0; 16], now, &"corp:sender".into());
    for (name, values) in series {
        let first = now - STEP * (values.len() as i64 - 1);
        let labels: [LabelRef<'_>; 2] = [("__name__", name), ("job", "node")];
        let sample = |(place, value): (usize, &f64)| Sample { timestamp: first + STEP * place as i64, value: *value };
        builder.push(&labels, &values.iter().enumerate().map(sample).collect::<Vec<_>>());
    }
    builder.finish()
}

fn inputs(seen: &Seen) -> Vec<Vec<f64>> {
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    let input = |instance: &Value| serde_json::from_value(instance["input"].clone()).unwrap();
    body["instances"].as_array().unwrap().iter().map(input).collect()
}

/// Continues each series with its last value.
fn predict(seen: &Seen) -> http::Response<Body> {
    let prediction = |input: Vec<f64>| {
        let last = input[input.len() - 1];
        json!({"point_forecast": [last, last], "mean": [last, last], "p10": [last - 1.0, last - 1.0],
            "p50": [last, last], "p90": [last + 1.0, last + 1.0]})
    };
    let predictions: Vec<_> = inputs(seen).into_iter().map(prediction).collect();
    let body = json!({"predictions": predictions, "modelVersionId": "7", "deployedModelId": "42"});
    answer(200, "application/json", body.to_string())
}

/// Runs a sink while `test` does.
async fn running<T>(forecasts: Vec<Forecast>, spool: &Spool, test: impl AsyncFnOnce(Predictions, Metrics) -> T) -> T {
    let predictions = Predictions::new();
    let metrics = Metrics::default();
    let shutdown = CancellationToken::new();
    let sink = Vertex::new(forecasts, spool.clone(), predictions.clone(), metrics.clone());
    let testing = async {
        let result = test(predictions, metrics).await;
        shutdown.cancel();
        result
    };
    tokio::join!(testing, sink.run(shutdown.clone())).0
}

async fn page(predictions: &Predictions) -> String {
    let caller = Caller { principal: "corp:reader".into(), roles: [].into(), write_rules: None };
    let request = Request::builder().method(Method::GET).body(Body::Empty).unwrap();
    let response = predictions.serve(caller, request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    match response.into_body() {
        Body::Full(bytes) => String::from_utf8(Bytes::into(bytes)).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Looks until the page says `wanted`: each round publishes anew.
async fn page_with(predictions: &Predictions, peer: &mut Peer, wanted: &str) -> String {
    loop {
        let text = page(predictions).await;
        if text.contains(wanted) {
            return text;
        }
        peer.next().await;
    }
}

#[tokio::test]
async fn samples_go_to_the_model_and_come_back_as_metrics() {
    let directory = Directory::new("vertex-story");
    let spool = spool_in(&directory);
    let mut peer = Peer::start(predict).await;
    spool
        .append(batch(&[("load1", &[1.0, 2.0, 3.0]), ("other", &[1.0, 2.0, 3.0]), ("load_short", &[1.0])]))
        .await
        .unwrap();
    running(vec![forecast("load", &peer)], &spool, async |predictions, metrics| {
        let seen = peer.next().await;
        assert_eq!(seen.path, "/v1/projects/p/locations/l/endpoints/1:predict");
        assert_eq!(seen.headers["authorization"], "Bearer inference");
        assert_eq!(inputs(&seen), [[1.0, 2.0, 3.0]]);
        let labels = r#"forecast="load",metric="load1",job="node""#;
        let line = format!("wicketgate_forecast{{{labels},horizon=\"120s\",quantile=\"0.9\",model_version=\"7\"}} 4\n");
        let text = page_with(&predictions, &mut peer, &line).await;
        assert!(
            text.contains(&format!("wicketgate_forecast_mean{{{labels},horizon=\"60s\",model_version=\"7\"}} 3\n"))
        );
        let count = |name: &str| ByForecast { forecast: name.to_owned() };
        assert_eq!(metrics.taken.get_or_create(&count("load")).get(), 4);
        assert!(metrics.sent.get_or_create(&count("load")).get() >= 3);
    })
    .await;
}

#[tokio::test]
async fn windows_are_whole_again_after_a_restart() {
    let directory = Directory::new("vertex-restart");
    let spool = spool_in(&directory);
    let mut peer = Peer::start(predict).await;
    spool.append(batch(&[("load1", &[1.0, 2.0, 3.0])])).await.unwrap();
    running(vec![forecast("load", &peer)], &spool, async |_, _| peer.next().await).await;
    spool.close().await;
    let spool = spool_in(&directory);
    let mut after = Peer::start(predict).await;
    running(vec![forecast("load", &after)], &spool, async |_, _| {
        assert_eq!(inputs(&after.next().await), [[1.0, 2.0, 3.0]]);
    })
    .await;
}

#[tokio::test]
async fn without_a_credential_nothing_is_sent() {
    let directory = Directory::new("vertex-credential");
    let spool = spool_in(&directory);
    let mut peer = Peer::start(predict).await;
    spool.append(batch(&[("load1", &[1.0, 2.0, 3.0])])).await.unwrap();
    let slot = CredentialSlot::new("infer");
    let waiting = Forecast { credential: slot.clone(), ..forecast("load", &peer) };
    running(vec![waiting], &spool, async |_, metrics| {
        let refused = ByCode { forecast: "load".into(), code: "no_credential".into() };
        while metrics.requests.get_or_create(&refused).get() < 2 {
            tokio::task::yield_now().await;
        }
        filled(&slot);
        // the first that the peer ever sees has one
        assert_eq!(peer.next().await.headers["authorization"], "Bearer inference");
    })
    .await;
}

#[tokio::test]
async fn a_series_that_the_model_refuses_takes_no_other_with_it() {
    let directory = Directory::new("vertex-poison");
    let spool = spool_in(&directory);
    // as TimesFM does: 500 for the whole request, whatever is wrong with one instance
    let mut peer = Peer::start(|seen| match inputs(seen).iter().any(|input| input.contains(&666.0)) {
        true => answer(500, "application/json", r#"{"error":"boom"}"#),
        false => predict(seen),
    })
    .await;
    let names: Vec<_> = (0..9).map(|n| format!("load{n}")).collect();
    let values = |n: usize| if n == 5 { &[1.0, 666.0, 2.0] } else { &[1.0, 2.0, 3.0] };
    let series: Vec<(&str, &[f64])> = names.iter().enumerate().map(|(n, name)| (&**name, &values(n)[..])).collect();
    spool.append(batch(&series)).await.unwrap();
    running(vec![forecast("load", &peer)], &spool, async |predictions, metrics| {
        let shown = |text: &str| text.matches("wicketgate_forecast_timestamp_seconds{").count();
        while shown(&page(&predictions).await) < 8 {
            peer.next().await;
        }
        assert!(!page(&predictions).await.contains("load5"));
        let refused = ByForecast { forecast: "load".into() };
        while metrics.refused.get_or_create(&refused).get() == 0 {
            peer.next().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_is_down_holds_up_no_other_and_is_asked_again() {
    let directory = Directory::new("vertex-down");
    let spool = spool_in(&directory);
    let up = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_up = Arc::clone(&up);
    let mut down = Peer::start(move |seen| match is_up.load(std::sync::atomic::Ordering::Relaxed) {
        true => predict(seen),
        false => answer(503, "text/plain", "later"),
    })
    .await;
    let mut fine = Peer::start(predict).await;
    spool.append(batch(&[("load1", &[1.0, 2.0, 3.0])])).await.unwrap();
    running(vec![forecast("down", &down), forecast("fine", &fine)], &spool, async |predictions, _| {
        down.next().await;
        down.next().await;
        let text = page_with(&predictions, &mut fine, "forecast=\"fine\"").await;
        assert!(!text.contains("forecast=\"down\""));
        up.store(true, std::sync::atomic::Ordering::Relaxed);
        page_with(&predictions, &mut down, "forecast=\"down\"").await;
    })
    .await;
}

#[tokio::test]
async fn a_stale_series_is_no_longer_shown() {
    let directory = Directory::new("vertex-stale");
    let spool = spool_in(&directory);
    let mut peer = Peer::start(predict).await;
    spool.append(batch(&[("load1", &[1.0, 2.0, 3.0]), ("load2", &[1.0, 2.0, 3.0])])).await.unwrap();
    running(vec![forecast("load", &peer)], &spool, async |predictions, _| {
        page_with(&predictions, &mut peer, "load2").await;
        let end = f64::from_bits(crate::series::STALE_MARKER_BITS);
        spool.append(batch(&[("load2", &[end])])).await.unwrap();
        while page(&predictions).await.contains("load2") {
            peer.next().await;
        }
        assert!(predictions.page(Format::Text, 0).contains("load1"));
    })
    .await;
}

#[tokio::test]
async fn batches_are_released_once_sent_and_no_longer_reached() {
    let directory = Directory::new("vertex-release");
    let spool = spool_in(&directory);
    let mut peer = Peer::start(predict).await;
    spool.append(batch(&[("load1", &[1.0, 2.0, 3.0])])).await.unwrap();
    let short = Forecast { step: Duration::from_millis(1), context: 3000, min_context: 1, ..forecast("load", &peer) };
    running(vec![short], &spool, async |_, _| {
        peer.next().await;
        while spool.depth().batches > 0 {
            peer.next().await;
        }
    })
    .await;
    assert_eq!(spool.last_sequence(), 1);
}

#[tokio::test]
async fn without_forecasts_the_spool_empties() {
    let directory = Directory::new("vertex-none");
    let spool = spool_in(&directory);
    spool.append(batch(&[("load1", &[1.0])])).await.unwrap();
    running(vec![], &spool, async |_, _| {
        while spool.depth().batches > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn senders_that_never_pause_do_not_keep_rounds_from_beginning() {
    let directory = Directory::new("vertex-busy");
    let spool = spool_in(&directory);
    let mut peer = Peer::start(predict).await;
    spool.append(batch(&[("load1", &[1.0, 2.0, 3.0])])).await.unwrap();
    running(vec![forecast("load", &peer)], &spool, async |_, _| {
        let sending = async {
            loop {
                spool.append(batch(&[("other", &[1.0])])).await.unwrap();
            }
        };
        tokio::select! {
            () = sending => {}
            seen = peer.next() => assert_eq!(inputs(&seen), [[1.0, 2.0, 3.0]]),
        }
    })
    .await;
}
