//! Downstream credentials: obtained from Google, used until they expire, never left out.

use http::StatusCode;
use serde_json::json;

use crate::support::{Harness, upstream};

const PREDICT: &str = "/v1/projects/p/locations/us-central1/endpoints/1:predict";

#[tokio::test]
async fn one_token_serves_many_requests() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("infer");
    for _ in 0..10 {
        assert_eq!(gate.post(PREDICT).bearer(&token).body("{}").send().await.status, StatusCode::OK);
    }
    assert_eq!(gate.google.impersonations("infer@p.iam.gserviceaccount.com"), 1);
    assert!(gate.metric("wicketgate_tokens_total{result=\"verified\"}").await <= 1.0, "a token was verified twice");
}

#[tokio::test]
async fn without_a_credential_the_answer_is_503_and_never_a_bare_request() {
    let harness = Harness::new().await;
    harness.google.server.answer(|seen| match seen.target.as_str() {
        "/v1/token" => upstream::reply(StatusCode::BAD_REQUEST, "application/json", r#"{"error":"invalid_grant"}"#),
        _ => upstream::json(&json!({})),
    });
    let gate = harness.start_unready().await;
    let token = gate.token("infer");
    let answer = crate::support::eventually("the keys to be there", || async {
        let answer = gate.post(PREDICT).bearer(&token).body("{}").send().await;
        (answer.json()["reason"] != "issuer_unavailable").then_some(answer)
    })
    .await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (503, &"no_credential".into()), "{answer:?}");
    assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
    assert!(gate.google.vertex().is_empty(), "a request without a credential reached Vertex");
    // the exporters need nothing of Google
    let scrape = gate.get("/exporters/app/metrics").bearer(&gate.token("scrape")).send().await;
    assert_eq!(scrape.status, StatusCode::OK, "{scrape:?}");
}

#[tokio::test]
async fn a_token_echoed_by_a_service_is_not_logged() {
    let harness = Harness::new().await;
    let own = std::fs::read_to_string(harness.directory.join("subject.jwt")).unwrap();
    harness.google.server.answer(|seen| {
        let repeated = json!({"error": "invalid_grant", "error_description": String::from_utf8_lossy(&seen.body)});
        upstream::reply(StatusCode::BAD_REQUEST, "application/json", repeated.to_string())
    });
    let gate = harness.start_unready().await;
    let readiness = crate::support::eventually("readiness to tell of the refusal", || async {
        let text = gate.admin("/readyz").await.text();
        text.contains("invalid_grant").then_some(text)
    })
    .await;
    let signature = own.trim().rsplit('.').next().unwrap();
    assert!(!readiness.contains(signature), "readiness shows the gate's own token:\n{readiness}");
    assert!(!gate.program.lines().join("\n").contains(signature), "the log holds the gate's own token");
}
