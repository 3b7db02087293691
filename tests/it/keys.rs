//! An issuer's keys: found by discovery, by URL or in a file; rotated and withdrawn; missing at the start.

use http::StatusCode;

use crate::support::{Gate, Harness, eventually, issuer::Key};

const ROOM: &str = "/exporters/app/metrics";

async fn status(gate: &Gate, token: &str) -> StatusCode {
    gate.get(ROOM).bearer(token).send().await.status
}

#[tokio::test]
async fn every_asymmetric_algorithm_is_verified() {
    let gate = Harness::new().await.start().await;
    for (kid, algorithm) in [("rsa", "RS256"), ("rsa", "PS256"), ("ec", "ES256"), ("ed", "EdDSA")] {
        let key = gate.issuer.key(kid);
        let token = gate.bent_token("scrape").signed_by(key, algorithm).mint();
        assert_eq!(status(&gate, &token).await, StatusCode::OK, "{algorithm}");
    }
    let fetched = gate.issuer.server.seen().iter().filter(|seen| seen.target == "/jwks").count();
    assert_eq!(fetched, 1, "the keys were fetched for each token");
}

#[tokio::test]
async fn keys_come_by_url_and_from_a_file_too() {
    let harness = Harness::new().await;
    let jwks = serde_json::json!({"keys": harness.issuer.keys.iter().map(|key| &key.jwk).collect::<Vec<_>>()});
    harness.directory.write("jwks.json", jwks.to_string());
    let url = harness.issuer.url();
    let issuers = format!(
        "[[issuer]]\nname = \"by-url\"\nissuer = \"https://url.example\"\naudiences = [\"wicketgate\"]\n\
         jwks_url = \"{url}/jwks\"\n\n\
         [[issuer]]\nname = \"by-file\"\nissuer = \"https://file.example\"\naudiences = [\"wicketgate\"]\n\
         jwks_file = \"jwks.json\""
    );
    let gate = harness.more("issuer", issuers).start().await;
    for (name, issuer) in [("by-url", "https://url.example"), ("by-file", "https://file.example")] {
        let token = gate.bent_token("scrape").claim("iss", issuer).mint();
        let answer = gate.get(ROOM).bearer(&token).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{name}: {answer:?}");
        let record = gate.record(&answer.id()).await;
        assert_eq!(record["principal"], format!("{name}:tester"), "{record}");
        assert_eq!(record["issuer"], name, "{record}");
    }
}

#[tokio::test]
async fn a_key_that_was_added_is_found_and_one_that_was_withdrawn_no_longer_counts() {
    let gate = Harness::new().await.start().await;
    let old = gate.token("scrape");
    assert_eq!(status(&gate, &old).await, StatusCode::OK);

    // the old key is withdrawn in the same step; an unknown `kid` makes the gate look
    let next = Key::rsa("next");
    gate.issuer.publish(&[&next]);
    let fresh = gate.bent_token("scrape").signed_by(&next, "RS256").mint();
    // refetches for unknown keys are at most one each 30 s
    eventually("the new key", || async { (status(&gate, &fresh).await == StatusCode::OK).then_some(()) }).await;
    assert_eq!(status(&gate, &old).await, StatusCode::UNAUTHORIZED, "a withdrawn key still counts");
}

#[tokio::test]
async fn unknown_keys_cannot_drive_fetches() {
    let gate = Harness::new().await.start().await;
    let fetches = || gate.issuer.server.seen().iter().filter(|seen| seen.target == "/jwks").count();
    let before = fetches();
    for number in 0..50 {
        let stranger = gate.bent_token("scrape").header("kid", format!("unknown-{number}")).mint();
        assert_eq!(status(&gate, &stranger).await, StatusCode::UNAUTHORIZED);
    }
    assert!(fetches() - before <= 2, "{} fetches for 50 unknown keys", fetches() - before);
}

#[tokio::test]
async fn a_gate_starts_without_its_issuer_and_is_ready_when_that_comes() {
    let harness = Harness::new().await;
    harness.issuer.set_down(true);
    let gate = harness.start_unready().await;
    assert_eq!(gate.admin("/livez").await.status, StatusCode::OK);
    let readiness = gate.admin("/readyz").await;
    assert_eq!(readiness.status, StatusCode::SERVICE_UNAVAILABLE, "{readiness:?}");
    assert!(readiness.text().contains("corp"), "readiness does not name the issuer: {readiness:?}");

    // Prometheus drops what is answered with 401 and keeps what is answered with 503
    let answer = gate.get(ROOM).bearer(&gate.token("scrape")).send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (503, &"issuer_unavailable".into()), "{answer:?}");
    assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
    let record = gate.record(&answer.id()).await;
    assert_eq!((&record["decision"], &record["status"]), (&"deny".into(), &503.into()), "{record}");

    gate.issuer.set_down(false);
    gate.ready().await;
    assert_eq!(status(&gate, &gate.token("scrape")).await, StatusCode::OK);
}

#[tokio::test]
async fn an_issuer_that_goes_away_takes_nobody_with_it() {
    let gate = Harness::new().await.start().await;
    gate.issuer.set_down(true);
    // a token never seen before is still verified with the last good keys
    assert_eq!(status(&gate, &gate.token("scrape")).await, StatusCode::OK);
}
