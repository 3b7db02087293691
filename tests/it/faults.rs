//! A misbehaving issuer affects its own tokens only.
//!
//! What takes hours (an outage, its grace, fifty rotations) runs on a paused clock in `identity/issuer/tests.rs`.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use wicketgate::internals::clock;

use crate::support::{
    Answer, Gate, Harness, eventually,
    issuer::{Issuer, Key},
    upstream::{self, Upstream},
};

const PROTECTED_PATH: &str = "/exporters/app/metrics";

/// A server that does to each connection what it is told, and cannot be told anything.
async fn rude<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            open.spawn(serve(socket));
        }
    });
    (url, task)
}

fn section(name: &str, jwks: &str) -> String {
    format!(
        "[[issuer]]\nname = \"{name}\"\nissuer = \"https://{name}.example\"\naudiences = [\"wicketgate\"]\n\
         jwks_url = \"{jwks}\"\n"
    )
}

async fn ask(gate: &Gate, issuer: &str) -> Answer {
    let token = gate.token_builder("scrape").claim("iss", format!("https://{issuer}.example")).mint();
    gate.get(PROTECTED_PATH).bearer(&token).send().await
}

/// Waits until readiness warns of this issuer with these words, and holds the gate to being ready all the same.
async fn warned(gate: &Gate, issuer: &str, words: &str) {
    let told = || async {
        let answer = gate.admin("/readyz").await;
        assert_eq!(answer.status, StatusCode::OK, "one issuer's trouble makes the gate unready: {answer:?}");
        let line = format!("warning: issuer {issuer}: ");
        answer.text().lines().find(|said| said.starts_with(&line) && said.contains(words)).map(drop)
    };
    eventually(&format!("readiness to say `{words}` of {issuer}"), told).await;
}

#[tokio::test]
async fn a_slow_issuer_delays_only_its_own_tokens() {
    let (silent, _silent) = rude(|socket| async move {
        let _open = socket;
        std::future::pending::<()>().await;
    })
    .await;
    let (dripping, _dripping) = rude(|mut socket| async move {
        let _ = socket.read(&mut [0; 4096]).await;
        let _ = socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n")
            .await;
        while socket.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let harness = Harness::new().await;
    let issuers = format!("{}\n{}", section("silent", &silent), section("dripping", &dripping));
    let gate = harness.more("issuer", issuers).start_unready().await;
    // the issuer that answers is there at once
    let there = || async {
        let answer = gate.get(PROTECTED_PATH).bearer(&gate.token("scrape")).send().await;
        (answer.status == StatusCode::OK).then_some(())
    };
    eventually("the good issuer's keys", there).await;
    let began = clock::monotonic();
    let others = async {
        for _ in 0..50 {
            assert_eq!(gate.get(PROTECTED_PATH).bearer(&gate.token("scrape")).send().await.status, StatusCode::OK);
        }
        began.elapsed()
    };
    let (silent, dripping, others) = tokio::join!(ask(&gate, "silent"), ask(&gate, "dripping"), others);
    for answer in [silent, dripping] {
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["reason"]),
            (503, &"issuer_unavailable".into()),
            "{answer:?}"
        );
    }
    assert!(began.elapsed() < Duration::from_secs(30), "it waits for ever: {:?}", began.elapsed());
    assert!(others < Duration::from_secs(8), "good tokens wait for a slow issuer: {others:?}");
    warned(&gate, "silent", "did not answer within 10s").await;
    warned(&gate, "dripping", "within 10s").await;
}

#[tokio::test]
async fn an_oversized_key_set_is_not_read() {
    let declared = Upstream::start(|_| upstream::reply(StatusCode::OK, "application/json", vec![b' '; 10 << 20])).await;
    let (endless, _endless) = rude(|mut socket| async move {
        let _ = socket.read(&mut [0; 4096]).await;
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
        // 10 MiB and more, and it never says how much
        while socket.write_all(&chunk).await.is_ok() {}
    })
    .await;
    let many = Upstream::start(|_| {
        let key = Key::ed("ed").jwk;
        upstream::json(&json!({"keys": vec![key; 101]}))
    })
    .await;
    let useless = Upstream::start(|_| upstream::json(&json!({"keys": [{"kty": "oct", "k": "AAAA"}]}))).await;
    let broken = Upstream::start(|_| upstream::reply(StatusCode::OK, "application/json", "{\"keys\":")).await;
    let cases = [
        ("declared", declared.url(), "larger than 1048576 bytes"),
        ("endless", endless, "larger than 1048576 bytes"),
        ("many", many.url(), "a JWKS of 101 keys"),
        ("useless", useless.url(), "without one usable signature key"),
        ("broken", broken.url(), "not a JWKS"),
    ];
    let issuers: Vec<String> = cases.iter().map(|(name, url, _)| section(name, url)).collect();
    let gate = Harness::new().await.more("issuer", issuers.join("\n")).start().await;
    for (name, _, words) in &cases {
        warned(&gate, name, words).await;
        let answer = ask(&gate, name).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (503, &"issuer_unavailable".into()), "{name}");
    }
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&gate.token("scrape")).send().await.status, StatusCode::OK);
}

#[tokio::test]
async fn redirects_of_an_issuer_are_not_followed() {
    let evil = Upstream::start(|_| upstream::json(&json!({"keys": [Key::ed("ed").jwk]}))).await;
    let at = evil.url();
    let moved = Upstream::start(move |_| {
        let mut answer = upstream::reply(StatusCode::FOUND, "text/plain", "");
        answer.headers_mut().insert("location", format!("{at}/jwks").parse().unwrap());
        answer
    })
    .await;
    // discovery with another issuer's name, and discovery that names a clear-text server
    let stranger = Upstream::start(|_| {
        upstream::json(&json!({"issuer": "https://stranger.example", "jwks_uri": "https://stranger.example/jwks"}))
    })
    .await;
    let clear = Upstream::start(|_| upstream::json(&json!({}))).await;
    let own = clear.url();
    clear.answer(move |_| upstream::json(&json!({"issuer": own, "jwks_uri": "http://192.0.2.1/jwks"})));
    let by_discovery = |name: &str, url: &str| {
        format!("[[issuer]]\nname = \"{name}\"\nissuer = \"{url}\"\naudiences = [\"wicketgate\"]\n")
    };
    let issuers = [
        section("moved", &moved.url()),
        by_discovery("stranger", &stranger.url()),
        by_discovery("clear", &clear.url()),
    ];
    let gate = Harness::new().await.more("issuer", issuers.join("\n")).start().await;
    warned(&gate, "moved", "302 Found").await;
    warned(&gate, "stranger", "is of the issuer `https://stranger.example`").await;
    warned(&gate, "clear", "`http://192.0.2.1/jwks`, which is not https").await;
    assert_eq!(evil.connections(), 0, "a redirect was followed");
}

/// Sends all of these at once; gives the answers.
async fn at_once(gate: &Gate, tokens: impl IntoIterator<Item = String>) -> Vec<Answer> {
    let calls: JoinSet<Answer> =
        tokens.into_iter().map(|token| gate.get(PROTECTED_PATH).bearer(&token).send()).collect();
    calls.join_all().await
}

#[tokio::test]
async fn a_rotation_under_load_refuses_no_good_request() {
    let gate = Harness::new().await.start().await;
    let fetches = || gate.issuer.server.seen().iter().filter(|seen| seen.target == "/jwks").count();
    let before = fetches();
    let old = gate.issuer.key("rsa");
    let next = Key::ec("next");
    let mint = |key: &Key, algorithm: &str, count: usize| -> Vec<String> {
        (0..count).map(|_| gate.token_builder("scrape").signed_by(key, algorithm).mint()).collect()
    };
    // the old key is still published: its tokens are good. The new one signs at once, which no issuer should do
    let first = mint(old, "RS256", 100);
    let then = mint(&next, "ES256", 100);
    let rotation = async {
        gate.issuer.publish(&[old, &next]);
        at_once(&gate, then.into_iter().chain(mint(old, "RS256", 50))).await
    };
    let (mut answers, after) = tokio::join!(at_once(&gate, first), rotation);
    answers.extend(after);
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != StatusCode::OK).collect();
    assert!(refused.is_empty(), "{} of {} refused: {:?}", refused.len(), answers.len(), refused.first());
    assert_eq!(fetches() - before, 1, "fetches for 100 tokens of one new key");

    // a second rotation before the next fetch: no good token is called invalid
    let last = Key::ec("last");
    gate.issuer.publish(&[&next, &last]);
    let tokens = mint(&last, "ES256", 50);
    for answer in at_once(&gate, tokens.clone()).await {
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["reason"]),
            (503, &"issuer_unavailable".into()),
            "{answer:?}"
        );
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=31).contains(&wait), "{answer:?}");
    }
    assert_eq!(fetches() - before, 1, "the floor does not hold");
    let known =
        || async { (gate.get(PROTECTED_PATH).bearer(&tokens[0]).send().await.status == StatusCode::OK).then_some(()) };
    eventually("the last key", known).await;
    assert!(at_once(&gate, tokens).await.iter().all(|answer| answer.status == StatusCode::OK));
    assert_eq!(fetches() - before, 2);
}

#[tokio::test]
async fn one_issuer_down_at_the_start_does_not_affect_the_other() {
    let down = Issuer::start().await;
    down.set_down(true);
    let more = format!("[[issuer]]\nname = \"down\"\nissuer = \"{}\"\naudiences = [\"wicketgate\"]\n", down.url());
    let gate = Harness::new().await.more("issuer", more).start().await;
    warned(&gate, "down", "502 Bad Gateway").await;
    let token = down.token("tester", &["scrape"]).mint();
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&token).send().await.status, StatusCode::SERVICE_UNAVAILABLE);
    down.set_down(false);
    let known =
        || async { (gate.get(PROTECTED_PATH).bearer(&token).send().await.status == StatusCode::OK).then_some(()) };
    eventually("the keys of an issuer that came back", known).await;
    let well = || async { (gate.admin("/readyz").await.text() == "ready\n").then_some(()) };
    eventually("readiness to say so", well).await;
}
