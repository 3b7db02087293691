//! Identity headers and assertions for upstreams: the gate's statements, never the client's.

use serde_json::json;

use crate::support::{Gate, Harness, google::claims, peers::jose, upstream::Seen};

const PROTECTED_PATH: &str = "/exporters/app/metrics";
const URL: &str = "https://gate.example";
const PREDICT: &str = "/v1/projects/p/locations/us-central1/endpoints/1:predict";

/// A gate that identifies the caller to the exporter `app` and Vertex, signed and in plain, and to the exporter `locked`
/// nothing.
async fn start() -> Gate {
    let harness = Harness::new().await;
    let config = harness.config();
    let exporters = config[config.find("[[exporter]]").unwrap()..].split("[vertex]").next().unwrap().to_owned();
    let told = exporters.replacen("name = \"app\"\n", "name = \"app\"\nassertion = true\nidentity_headers = true\n", 1);
    harness
        .section("gate", format!("[gate]\nurl = \"{URL}\"\nworkers = 1\ndrain = \"5s\""))
        .section("token_issuer", "[token_issuer]\nkeys = \"keys\"")
        .section("exporter", told)
        .more("vertex", "assertion = true")
        .start()
        .await
}

/// The values of all headers whose name, folded, begins with `x-wicketgate-`.
fn told(seen: &Seen) -> Vec<(String, String)> {
    let folded = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let headers = seen.headers.iter().filter(|(name, _)| folded(name.as_str()).starts_with("x-wicketgate-"));
    headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

#[tokio::test]
async fn an_upstream_can_verify_the_assertion() {
    let gate = start().await;
    let token = gate.token("scrape");
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&token).send().await.status, 200);
    let seen = gate.app.last();
    let assertion = seen.header("x-wicketgate-assertion").to_owned();
    let jwks = gate.get("/.well-known/jwks.json").send().await.json();
    let said = jose(&assertion, &jwks, URL, "exporter/app", "wicketgate-assertion+jwt").await;
    let payload = &said["payload"];
    assert_eq!((&payload["sub"], &payload["roles"]), (&"corp:tester".into(), &json!(["scrape"])), "{said}");
    assert_eq!(payload["exp"].as_i64().unwrap() - payload["iat"].as_i64().unwrap(), 300, "{said}");
    assert_eq!(seen.header("x-wicketgate-principal"), "corp:tester");
    assert_eq!((seen.header("x-wicketgate-issuer"), seen.header("x-wicketgate-roles")), ("corp", "scrape"));

    // not signed for each request, but for each caller and each route
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&token).send().await.status, 200);
    assert_eq!(gate.app.last().header("x-wicketgate-assertion"), assertion, "it was signed again");
    let other = gate.issuer.token("other", &["scrape"]).mint();
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&other).send().await.status, 200);
    assert_eq!(claims(gate.app.last().header("x-wicketgate-assertion"))["sub"], "corp:other");
    assert_eq!(gate.get("/exporters/locked/metrics").bearer(&token).send().await.status, 200);
    assert!(told(&gate.app.last()).is_empty(), "an upstream that was not to be told was: {:?}", gate.app.last());
    assert_eq!(gate.post(PREDICT).bearer(&gate.token("infer")).body("{}").send().await.status, 200);
    let seen = gate.google.vertex().pop().unwrap();
    assert_eq!(claims(seen.header("x-wicketgate-assertion"))["aud"], "vertex");
    assert_eq!(told(&seen).len(), 1, "{seen:?}");
}

#[tokio::test]
async fn an_assertion_is_no_credential_at_the_gate() {
    let gate = start().await;
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&gate.token("scrape")).send().await.status, 200);
    let before = gate.app.requests();
    let stolen = gate.app.last().header("x-wicketgate-assertion").to_owned();
    let answer = gate.get(PROTECTED_PATH).bearer(&stolen).send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (401, &"token_type".into()), "{answer:?}");
    assert_eq!(gate.app.requests(), before, "the upstream saw it");
}

#[tokio::test]
async fn identity_headers_of_a_client_are_removed_in_every_spelling() {
    let gate = start().await;
    let token = gate.token("scrape");
    let names = [
        "X-Wicketgate-Assertion",
        "x-wicketgate-principal",
        "X_Wicketgate_Principal",
        "x-Wicketgate_issuer",
        "X_WICKETGATE_ROLES",
        "x_wicketgate-assertion",
        "X-Wicketgate-Anything-Else",
    ];
    for path in [PROTECTED_PATH, "/exporters/locked/metrics"] {
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
             connection: close, x-wicketgate-assertion, X-Wicketgate-Principal, x_wicketgate_roles\r\n"
        );
        for name in names {
            // several values, on lines of their own and on one
            head.push_str(&format!("{name}: forged\r\n{name}: corp:root, forged\r\n"));
        }
        let answer = gate.door(0, b"http/1.1").raw(format!("{head}\r\n").as_bytes()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = gate.app.last();
        assert!(!format!("{:?}", seen.headers).contains("forged"), "{seen:?}");
        let mut found: Vec<String> = told(&seen).into_iter().map(|(name, _)| name).collect();
        found.sort_unstable();
        let expected: &[&str] = if path == PROTECTED_PATH {
            // listing them in `Connection` takes nothing away
            &["x-wicketgate-assertion", "x-wicketgate-issuer", "x-wicketgate-principal", "x-wicketgate-roles"]
        } else {
            &[]
        };
        assert_eq!(found, expected, "{path}");
    }
}

#[tokio::test]
async fn identity_headers_in_trailers_are_removed() {
    let gate = start().await;
    let token = gate.token("infer");
    let request = format!(
        "POST {PREDICT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
         te: trailers\r\ntrailer: x-wicketgate-principal\r\ntransfer-encoding: chunked\r\n\r\n\
         2\r\n{{}}\r\n0\r\nx-wicketgate-principal: forged\r\nX_Wicketgate_Assertion: forged\r\n\r\n"
    );
    let answer = gate.door(0, b"http/1.1").raw(request.as_bytes()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = gate.google.vertex().pop().unwrap();
    assert_eq!(seen.body, "{}", "{seen:?}");
    assert!(!format!("{seen:?}").contains("forged") && !seen.headers.contains_key("trailer"), "{seen:?}");
}

#[tokio::test]
async fn any_subject_is_one_header_value() {
    let gate = start().await;
    let odd = gate.issuer.token("Zoë, root\u{2028}x-admin: 1", &["scrape"]).mint();
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&odd).send().await.status, 200);
    let seen = gate.app.last();
    assert_eq!(seen.header("x-wicketgate-principal"), "corp:Zo%C3%AB%2C%20root%E2%80%A8x-admin:%201");
    assert!(!seen.headers.contains_key("x-admin"), "{seen:?}");
    assert_eq!(claims(seen.header("x-wicketgate-assertion"))["sub"], "corp:Zoë, root\u{2028}x-admin: 1");
}
