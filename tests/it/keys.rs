//! Keys of an issuer: by discovery, by URL or from a file; rotated, withdrawn, and missing at start.

use http::StatusCode;

use crate::support::{
    Gate, Harness, eventually,
    issuer::Key,
    upstream::{self, Upstream},
};

const PROTECTED_PATH: &str = "/exporters/app/metrics";

async fn status(gate: &Gate, token: &str) -> StatusCode {
    gate.get(PROTECTED_PATH).bearer(token).send().await.status
}

#[tokio::test]
async fn every_asymmetric_algorithm_is_verified() {
    let gate = Harness::new().await.start().await;
    for (kid, algorithm) in [("rsa", "RS256"), ("rsa", "PS256"), ("ec", "ES256"), ("ed", "EdDSA")] {
        let key = gate.issuer.key(kid);
        let token = gate.token_builder("scrape").signed_by(key, algorithm).mint();
        assert_eq!(status(&gate, &token).await, StatusCode::OK, "{algorithm}");
    }
    let fetched = gate.issuer.server.seen().iter().filter(|seen| seen.target == "/jwks").count();
    assert_eq!(fetched, 1, "the keys were fetched for each token");
}

#[tokio::test]
async fn keys_come_from_a_url_or_a_file() {
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
        let token = gate.token_builder("scrape").claim("iss", issuer).mint();
        let answer = gate.get(PROTECTED_PATH).bearer(&token).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{name}: {answer:?}");
        let record = gate.record(&answer.id()).await;
        assert_eq!(record["principal"], format!("{name}:tester"), "{record}");
        assert_eq!(record["issuer"], name, "{record}");
    }
}

#[tokio::test]
async fn an_added_key_is_found_and_a_withdrawn_key_is_refused() {
    let gate = Harness::new().await.start().await;
    let old = gate.token("scrape");
    assert_eq!(status(&gate, &old).await, StatusCode::OK);

    // the old key is withdrawn in the same step; an unknown `kid` makes the gate look
    let next = Key::rsa("next");
    gate.issuer.publish(&[&next]);
    let fresh = gate.token_builder("scrape").signed_by(&next, "RS256").mint();
    // refetches for unknown keys are at most one each 30 s
    eventually("the new key", || async { (status(&gate, &fresh).await == StatusCode::OK).then_some(()) }).await;
    assert_eq!(status(&gate, &old).await, StatusCode::UNAUTHORIZED, "a withdrawn key still counts");
}

#[tokio::test]
async fn unknown_key_ids_cannot_drive_fetches() {
    let gate = Harness::new().await.start().await;
    let fetches = || gate.issuer.server.seen().iter().filter(|seen| seen.target == "/jwks").count();
    let now = wicketgate::internals::clock::now().as_second();
    let before = fetches();
    for number in 0..50 {
        // older than the look at the keys that the first of them causes
        let old =
            gate.token_builder("scrape").claim("iat", now - 300).header("kid", format!("unknown-{number}")).mint();
        assert_eq!(status(&gate, &old).await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(fetches() - before, 1, "fetches for 50 unknown keys");
    assert_eq!(gate.metric("wicketgate_issuer_unknown_key_fetches_total{issuer=\"corp\"}").await, 1.0);

    // a possibly younger token may belong to an unseen rotation: it gets 503 with a time, so that no data is dropped
    let young = gate.token_builder("scrape").header("kid", "unknown").mint();
    let answer = gate.get(PROTECTED_PATH).bearer(&young).send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (503, &"issuer_unavailable".into()), "{answer:?}");
    let wait: u32 = answer.header("retry-after").parse().unwrap();
    assert!((1..=31).contains(&wait), "{answer:?}");
    assert_eq!(fetches() - before, 1, "it was asked for");
}

#[tokio::test]
async fn metrics_show_the_state_of_an_issuers_keys() {
    let gate = Harness::new().await.start().await;
    let of = |name: &str| format!("wicketgate_issuer_{name}{{issuer=\"corp\"}}");
    assert_eq!(gate.metric(&of("keys")).await, 3.0);
    assert_eq!(gate.metric(&of("failing")).await, 0.0);
    let fetches = |result: &str| format!("wicketgate_issuer_fetches_total{{issuer=\"corp\",result=\"{result}\"}}");
    assert_eq!((gate.metric(&fetches("success")).await, gate.metric(&fetches("failure")).await), (1.0, 0.0));
    let age = gate.metric(&of("keys_age_seconds")).await;
    let left = gate.metric(&of("grace_left_seconds")).await;
    assert!(age > 0.0 && age < 60.0 && (age + left - 86400.0).abs() < 1.0, "{age} {left}");

    gate.issuer.set_down(true);
    // an unknown key makes it look
    let stranger = gate.token_builder("scrape").header("kid", "unknown").mint();
    assert_eq!(status(&gate, &stranger).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((gate.metric(&of("failing")).await, gate.metric(&of("keys")).await), (1.0, 3.0));
    assert!(gate.metric(&fetches("failure")).await >= 1.0);
    let readiness = gate.admin("/readyz").await;
    assert_eq!(readiness.status, StatusCode::OK, "{readiness:?}");
    assert!(readiness.text().contains("warning: issuer corp: its keys cannot be refreshed"), "{readiness:?}");
}

#[tokio::test]
async fn a_gate_starts_without_its_issuer_and_becomes_ready_later() {
    let harness = Harness::new().await;
    harness.issuer.set_down(true);
    let gate = harness.start_unready().await;
    assert_eq!(gate.admin("/livez").await.status, StatusCode::OK);
    let readiness = gate.admin("/readyz").await;
    assert_eq!(readiness.status, StatusCode::SERVICE_UNAVAILABLE, "{readiness:?}");
    assert!(readiness.text().contains("corp"), "readiness does not name the issuer: {readiness:?}");

    // Prometheus drops what is answered with 401 and keeps what is answered with 503
    let answer = gate.get(PROTECTED_PATH).bearer(&gate.token("scrape")).send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (503, &"issuer_unavailable".into()), "{answer:?}");
    assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
    let record = gate.record(&answer.id()).await;
    assert_eq!((&record["decision"], &record["status"]), (&"deny".into(), &503.into()), "{record}");

    gate.issuer.set_down(false);
    gate.ready().await;
    assert_eq!(status(&gate, &gate.token("scrape")).await, StatusCode::OK);
}

#[tokio::test]
async fn an_unreachable_issuer_keeps_its_known_keys() {
    let gate = Harness::new().await.start().await;
    gate.issuer.set_down(true);
    // a token never seen before is still verified with the last good keys
    assert_eq!(status(&gate, &gate.token("scrape")).await, StatusCode::OK);
}

#[tokio::test]
async fn a_failing_issuer_does_not_affect_another() {
    let harness = Harness::new().await;
    let other = crate::support::issuer::Issuer::start().await;
    other.set_down(true);
    let section = |name: &str, url: &str| {
        format!("[[issuer]]\nname = \"{name}\"\nissuer = \"{url}\"\naudiences = [\"wicketgate\"]")
    };
    let gate = harness.more("issuer", section("other", &other.url())).start().await;
    let readiness = gate.admin("/readyz").await.text();
    assert!(readiness.contains("warning: issuer other"), "{readiness}");
    assert_eq!(status(&gate, &gate.token("scrape")).await, StatusCode::OK);
    let of_other = other.token("tester", &["scrape"]).mint();
    assert_eq!(status(&gate, &of_other).await, StatusCode::SERVICE_UNAVAILABLE);
    // its tokens are not taken for the other's, whatever key they name
    let confused = gate.token_builder("scrape").claim("iss", other.url()).mint();
    assert_eq!(status(&gate, &confused).await, StatusCode::SERVICE_UNAVAILABLE);

    other.set_down(false);
    eventually("the other issuer's keys", || async {
        (status(&gate, &of_other).await == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(status(&gate, &confused).await, StatusCode::UNAUTHORIZED);
}

/// Kubernetes' API server publishes its keys only to authenticated clients.
#[tokio::test]
async fn the_credential_for_keys_reaches_only_their_issuer() {
    let harness = Harness::new().await;
    harness.directory.write("account.token", "the-gates-own-account\n");
    let keys = serde_json::json!({"keys": harness.issuer.keys.iter().map(|key| &key.jwk).collect::<Vec<_>>()});
    let elsewhere = Upstream::start({
        let keys = keys.clone();
        move |_| upstream::json(&keys)
    })
    .await;
    let locked = Upstream::start(|_| upstream::reply(StatusCode::NOT_FOUND, "text/plain", "")).await;
    let own = locked.url();
    let other = elsewhere.url();
    locked.answer(move |seen| {
        if seen.header("authorization") != "Bearer the-gates-own-account" {
            return upstream::reply(StatusCode::UNAUTHORIZED, "text/plain", "");
        }
        let at = |host: &str| format!("{host}/openid/v1/jwks");
        match seen.target.as_str() {
            "/.well-known/openid-configuration" => {
                upstream::json(&serde_json::json!({"issuer": own, "jwks_uri": at(&own)}))
            }
            // another issuer below the same address, whose keys are at another
            "/tenant/.well-known/openid-configuration" => {
                upstream::json(&serde_json::json!({"issuer": format!("{own}/tenant"), "jwks_uri": at(&other)}))
            }
            "/openid/v1/jwks" => upstream::json(&keys),
            _ => upstream::reply(StatusCode::NOT_FOUND, "text/plain", ""),
        }
    });
    let section = |name: &str, path: &str| {
        format!(
            "[[issuer]]\nname = \"{name}\"\nissuer = \"{}{path}\"\naudiences = [\"wicketgate\"]\n\
             credential = {{ file = \"account.token\" }}\n",
            locked.url()
        )
    };
    let issuers = format!("{}\n{}", section("cluster", ""), section("tenant", "/tenant"));
    let gate = harness.more("issuer", issuers).start().await;
    for (name, path) in [("cluster", ""), ("tenant", "/tenant")] {
        let account = "system:serviceaccount:monitoring:prometheus";
        let token = gate.token_builder("scrape").claim("iss", format!("{}{path}", locked.url())).claim("sub", account);
        let answer = gate.get(PROTECTED_PATH).bearer(&token.header("typ", serde_json::Value::Null).mint()).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{name}: {answer:?}");
        assert_eq!(gate.record(&answer.id()).await["principal"], format!("{name}:{account}"));
    }
    assert_eq!(elsewhere.last().header("authorization"), "", "another server saw the credential");
    assert!(!gate.program.lines().join("\n").contains("the-gates-own-account"), "the log holds it");
}
