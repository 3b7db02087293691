//! Vertex hosts: the location's shared host, or a dedicated endpoint's own.

use crate::support::{
    Harness,
    program::wicketgate,
    scripted_upstream::{Line, ScriptedUpstream, frame, message},
};

const LOCATION: &str = "projects/p/locations/us-central1";

fn with(regional: &ScriptedUpstream, own: &ScriptedUpstream) -> String {
    format!(
        "{}\n[[vertex.dedicated]]\nendpoint = \"{LOCATION}/endpoints/1\"\nurl = \"http://{}\"",
        regional.section(),
        own.address
    )
}

#[tokio::test]
async fn a_dedicated_endpoint_is_reached_at_its_own_host() {
    let regional = ScriptedUpstream::start().await;
    let own = ScriptedUpstream::start().await;
    let gate = Harness::new().await.section("vertex", with(&regional, &own)).start().await;
    let token = gate.token("infer");
    let mut line = Line::open(&gate).await;
    let endpoint = |id: u8| message(&[(1, format!("{LOCATION}/endpoints/{id}").as_bytes())]);
    for (id, path, is_own) in [
        (1, ":predict", true),
        (1, ":rawPredict", true),
        (1, ":streamRawPredict", true),
        (1, "/chat/completions", true),
        (1, ":explain", false),
        (1, "/invoke/predict", false),
        (2, ":predict", false),
        (1, "Predict", true),
        (1, "StreamRawPredict", true),
        (1, "Explain", false),
        (2, "Predict", false),
    ] {
        let lie = [("x-vertex-ai-endpoint-id", "9")];
        let mut open = if path.starts_with([':', '/']) {
            let open = line.post(&format!("/v1/{LOCATION}/endpoints/{id}{path}"), &token, &lie);
            open.write("{}").await;
            open
        } else {
            let open = line.call(&format!("/google.cloud.aiplatform.v1.PredictionService/{path}"), &token, &lie);
            open.write(frame(&endpoint(id))).await;
            open
        };
        open.pen = None;
        let forwarded = if is_own { own.next_request().await } else { regional.next_request().await };
        assert_eq!(forwarded.header("x-vertex-ai-endpoint-id"), if is_own { "1" } else { "" }, "{id} {path}");
        assert!(forwarded.header("authorization").starts_with("Bearer google-token-of-infer@"), "{:?}", forwarded.head);
        let (pen, _) = forwarded.answer("application/grpc", &[]);
        pen.end(&[("grpc-status", "0")]).await;
        open.said().await;
    }
}

#[tokio::test]
async fn a_project_that_is_not_listed_is_refused_by_rest_and_by_grpc() {
    let talker = ScriptedUpstream::start().await;
    let gate = Harness::new().await.section("vertex", talker.section() + "\nprojects = [\"p\"]").start().await;
    let token = gate.token("infer");
    let mut line = Line::open(&gate).await;
    let other = "projects/123456/locations/us-central1/endpoints/1";
    let answer = gate.post(&format!("/v1/{other}:predict")).bearer(&token).body("{}").send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (404, &"unknown_project".into()));
    assert_eq!(answer.json()["error"]["status"], "NOT_FOUND");
    let path = "/google.cloud.aiplatform.v1.PredictionService/Predict";
    let said = line.unary(path, &token, &[], &frame(&message(&[(1, other.as_bytes())]))).await;
    assert_eq!((said.code(), &gate.record(&said.id()).await["reason"]), (5, &"unknown_project".into()));
    assert_eq!(talker.count(), 0, "Vertex saw a refused call");
}

#[tokio::test]
async fn an_inconsistent_dedicated_endpoint_is_refused() {
    for (text, problem) in [
        (
            "endpoint = \"endpoints/1\"\nurl = \"https://1.test\"",
            "write `projects/PROJECT/locations/LOCATION/endpoints/ID`",
        ),
        ("endpoint = \"projects/p/locations/mars/endpoints/1\"\nurl = \"https://1.test\"", "add that to `locations`"),
        ("endpoint = \"projects/p/locations/us-central1/endpoints/1\"", "missing"),
        ("url = \"https://1.test\"", "missing"),
        (
            "endpoint = \"projects/p/locations/us-central1/endpoints/1\"\nurl = \"https://1.test\"\nid = 1",
            "unknown key",
        ),
    ] {
        let harness = Harness::new().await.more("vertex", format!("[[vertex.dedicated]]\n{text}"));
        harness.directory.write("wicketgate.toml", harness.config());
        let mut check = wicketgate(&["check", "--config", "wicketgate.toml"]);
        let output = check.current_dir(harness.directory.path()).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}: {said}");
        assert!(said.contains(problem) && said.contains("dedicated"), "{text}: {said}");
    }
}
