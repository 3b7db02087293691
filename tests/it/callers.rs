//! Google credentials for each caller: Google's audit log names the caller, and one exchange serves a caller.

use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{Gate, Harness, eventually, google::claims, peers::jose, upstream};

const PREDICT: &str = "/v1/projects/p/locations/us-central1/endpoints/1:predict";
const URL: &str = "https://gate.example";
const AUDIENCE: &str = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/gate/providers/corp";
const FORECAST: &str = "[[forecast]]\nname = \"load\"\nmetric = \"kept_load\"\n\
                        endpoint = \"projects/p/locations/us-central1/endpoints/1\"\nstep = \"1s\"\nhorizon = 30";

/// A gate that asks Google as its callers.
async fn harness() -> Harness {
    let harness = Harness::new().await;
    let google = harness.config();
    let google = google[google.find("[google]").unwrap()..].split("\n\n").next().unwrap().to_owned();
    harness
        .section("gate", format!("[gate]\nurl = \"{URL}\"\nworkers = 2\ndrain = \"5s\""))
        .section("token_issuer", "[token_issuer]\nkeys = \"keys\"")
        .section("google", google.replace("subject_token = { file = \"subject.jwt\" }", "subject = \"caller\""))
}

fn caller(gate: &Gate, name: &str) -> String {
    gate.issuer.token(name, &["infer"]).mint()
}

fn subjects(exchanges: &[Value]) -> Vec<&str> {
    let mut subjects: Vec<&str> = exchanges.iter().map(|claims| claims["sub"].as_str().unwrap_or_default()).collect();
    subjects.sort_unstable();
    subjects
}

#[tokio::test]
async fn each_caller_is_a_subject_at_google_with_one_exchange() {
    let gate = harness().await.start().await;
    assert!(gate.google.exchanges().is_empty(), "an exchange was made before the first call");
    let alice = caller(&gate, "alice");
    let bob = caller(&gate, "bob");
    let mut calls = tokio::task::JoinSet::new();
    for token in [&alice, &bob] {
        for _ in 0..20 {
            calls.spawn(gate.post(PREDICT).bearer(token).body("{}").send());
        }
    }
    while let Some(answer) = calls.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    let exchanges = gate.google.exchanges();
    assert_eq!(subjects(&exchanges), ["corp:alice", "corp:bob"]);
    assert_eq!(gate.google.impersonations("infer@p.iam.gserviceaccount.com"), 2);
    for claims in &exchanges {
        assert_eq!(
            (&claims["iss"], &claims["aud"], &claims["group"]),
            (&URL.into(), &AUDIENCE.into(), &"infer".into())
        );
        assert!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap() <= 3600, "{claims}");
    }
    // each request carried its own caller's credential
    let answer = gate.post(PREDICT).bearer(&alice).body("{}").send().await;
    let seen = gate.google.vertex().pop().unwrap();
    assert!(seen.header("authorization").ends_with("-for-corp:alice"), "{seen:?}");
    let of_bob = gate.google.vertex().iter().filter(|s| s.header("authorization").ends_with("-for-corp:bob")).count();
    assert_eq!(of_bob, 20);
    let record = gate.record(&answer.id()).await;
    assert_eq!(
        (&record["credential"], &record["credential_generation"]),
        (&"google/infer".into(), &1.into()),
        "{record}"
    );

    // Google can verify it, with what the gate serves
    let jwks = gate.get("/.well-known/jwks.json").send().await.json();
    let said = jose(&gate.google.subject_tokens()[0], &jwks, URL, AUDIENCE, "JWT").await;
    assert_eq!(said["payload"]["sub"], exchanges[0]["sub"], "{said}");
    // and no label holds a caller
    assert_eq!(gate.metric("wicketgate_caller_credentials{credential=\"google/infer\"}").await, 2.0);
    let metrics = gate.admin("/metrics").await.text();
    assert!(!metrics.contains("alice"), "a metric names a caller");
}

#[tokio::test]
async fn a_subject_token_is_no_credential_at_the_gate() {
    let gate = harness().await.start().await;
    assert_eq!(gate.post(PREDICT).bearer(&caller(&gate, "alice")).body("{}").send().await.status, StatusCode::OK);
    let stolen = gate.google.subject_tokens().pop().unwrap();
    let before = gate.google.vertex().len();
    let answer = gate.post(PREDICT).bearer(&stolen).body("{}").send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (401, &"token_type".into()), "{answer:?}");
    assert_eq!(gate.google.vertex().len(), before);
}

#[tokio::test]
async fn a_caller_that_google_refuses_affects_no_other_caller() {
    let harness = harness().await;
    harness.google.server.intercept(|seen| {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        let token = url::form_urlencoded::parse(body.as_bytes()).find(|(name, _)| name == "subject_token");
        let refused = token.is_some_and(|(_, token)| claims(&token)["sub"] == "corp:mallory");
        refused.then(|| {
            let error =
                json!({"error": "unauthorized_client", "error_description": "The given credential is rejected"});
            upstream::reply(StatusCode::BAD_REQUEST, "application/json", error.to_string())
        })
    });
    let gate = harness.start().await;
    let mallory = caller(&gate, "mallory");
    let alice = caller(&gate, "alice");
    for _ in 0..3 {
        let answer = gate.post(PREDICT).bearer(&mallory).body("{}").send().await;
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (503, &"no_credential".into()), "{answer:?}");
        assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
        assert!(!answer.text().contains("rejected"), "the client reads what Google said: {answer:?}");
    }
    assert!(gate.google.vertex().is_empty(), "a request without a credential reached Vertex");
    assert_eq!(gate.post(PREDICT).bearer(&alice).body("{}").send().await.status, StatusCode::OK);
    let readiness = gate.admin("/readyz").await;
    assert_eq!(readiness.status, StatusCode::OK, "one caller's trouble is the gate's: {readiness:?}");
    assert!(readiness.text().contains("google/infer"), "{readiness:?}");
    let signature = gate.google.subject_tokens()[0].rsplit('.').next().unwrap().to_owned();
    assert!(!gate.program.lines().join("\n").contains(&signature), "the log holds a subject token");
}

#[tokio::test]
async fn the_last_good_credential_is_used_until_it_expires_and_then_none() {
    let harness = harness().await;
    harness.google.set_lifetime(8);
    let gate = harness.start().await;
    let alice = caller(&gate, "alice");
    assert_eq!(gate.post(PREDICT).bearer(&alice).body("{}").send().await.status, StatusCode::OK);
    // from here on Google answers no exchange
    let down = || upstream::reply(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "");
    gate.google.server.intercept(move |seen| (seen.target == "/v1/token").then(down));
    assert_eq!(gate.post(PREDICT).bearer(&alice).body("{}").send().await.status, StatusCode::OK);
    let answer = eventually("the credential to end", || async {
        let answer = gate.post(PREDICT).bearer(&alice).body("{}").send().await;
        (answer.status != StatusCode::OK).then_some(answer)
    })
    .await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (503, &"no_credential".into()), "{answer:?}");
    // and it comes back by itself
    gate.google.server.intercept(|_| None);
    eventually("a new credential", || async {
        let answer = gate.post(PREDICT).bearer(&alice).body("{}").send().await;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_gates_own_requests_use_its_own_identity() {
    let gate = harness().await.keeping("kept_*").section("forecast", FORECAST).start().await;
    let exchanges = eventually("the gate's own exchange", || async {
        let exchanges = gate.google.exchanges();
        (!exchanges.is_empty()).then_some(exchanges)
    })
    .await;
    assert_eq!(subjects(&exchanges), ["wicketgate:forecast"]);
}

#[tokio::test]
async fn check_reports_what_caller_credentials_need() {
    for (from, to, told) in [
        ("[token_issuer]\nkeys = \"keys\"", "", "`subject = \"caller\"` of [google] needs it"),
        ("subject = \"caller\"", "subject = \"gate\"", "write `subject = \"caller\"`"),
        ("subject = \"caller\"", "subject = \"caller\"\nsubject_token = { file = \"x\" }", "leave it out"),
    ] {
        let harness = harness().await;
        harness.directory.write("wicketgate.toml", harness.config().replace(from, to));
        let file = harness.directory.join("wicketgate.toml");
        let output = crate::support::program::run(&["check", "--config", file.to_str().unwrap()]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(told), "{said}");
    }
}
