//! Downstream credentials: got from Google, used while they last, and never replaced by nothing.

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
