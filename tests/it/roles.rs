//! Roles of a request: assigned by claims, separated, activated one at a time; and warnings about rules without effect.

use serde_json::{Value, json};

use crate::{
    refusals::{is_refusal, refused, seen},
    support::{Gate, Harness, program::run, wire::remote_write},
};

const PREDICT: &str = "/v1/projects/p/locations/us-central1/endpoints/1:predict";
const PROTECTED_PATH: &str = "/exporters/app/metrics";
const BODY: &str = r#"{"instances":[{"input":[1,2,3],"horizon":2}]}"#;
const ROLE: &str = "X-Wicketgate-Role";

/// The shipped rules, with this separation.
fn separated(harness: &Harness, separation: &str) {
    let shipped = std::fs::read_to_string(harness.directory.join("policies/roles.toml")).unwrap();
    let (rules, _) = shipped.split_once("[separation_of_duty]").unwrap();
    harness.directory.write("policies/roles.toml", format!("{rules}[separation_of_duty]\n{separation}\n"));
}

async fn dynamic() -> Gate {
    let harness = Harness::new().await.keeping("kept_*");
    separated(&harness, "dynamic = [[\"ingest\", \"infer\"]]");
    harness.start().await
}

fn body() -> Vec<u8> {
    remote_write(&[("__name__", "kept_total")], &[(1, 1.0)])
}

#[tokio::test]
async fn claims_map_to_roles_by_every_matcher() {
    let harness = Harness::new().await;
    let rules = r#"
[[rule]]
role = "scrape"
issuers = ["corp"]
all = [
    { claim = "repository", value = "example/site" },
    { claim = "ref", prefix = "refs/tags/" },
    { claim = "/runner/address", cidr = "10.0.0.0/8" },
    { claim = "attempt", value = 1 },
    { claim = "protected", value = true },
    { claim = "/environments/name", value = "production" },
]
"#;
    harness.directory.write("policies/roles.toml", rules);
    let gate = harness.start().await;
    let good = || {
        let token = gate.issuer.token("job", &[]).claim("repository", "example/site").claim("ref", "refs/tags/v1");
        let token = token.claim("runner", json!({ "address": ["192.0.2.7", "10.9.8.7"] })).claim("attempt", 1);
        token.claim("protected", true).claim("environments", json!([{ "name": "test" }, { "name": "production" }]))
    };
    let answer = gate.get(PROTECTED_PATH).bearer(&good().mint()).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["roles"], json!(["scrape"]));
    // each of them counts
    for (claim, value) in [
        ("repository", json!("example/site2")),
        ("ref", json!("refs/heads/tags/")),
        ("runner", json!({ "address": "11.0.0.1" })),
        ("attempt", json!("1")),
        ("protected", json!("true")),
        ("environments", json!([{ "name": "test" }])),
        ("environments", Value::Null),
    ] {
        let token = good().claim(claim, value.clone()).mint();
        let (_, record) = refused(&gate, gate.get(PROTECTED_PATH).bearer(&token), 403, "not_permitted").await;
        assert_eq!(record["roles"], json!([]), "{claim} = {value}: {record}");
    }
}

#[tokio::test]
async fn dynamically_separated_roles_are_activated_one_for_each_request() {
    let gate = dynamic().await;
    let both = gate.issuer.token("both", &["ingest", "infer", "scrape"]).mint();

    // none said: nothing is done, and the text says what to send
    let (answer, record) = refused(&gate, gate.post(PREDICT).bearer(&both).body(BODY), 403, "role_not_activated").await;
    let told = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(told.contains("X-Wicketgate-Role: ingest") && told.contains("roles ingest, infer may"), "{told}");
    assert_eq!(record["roles"], json!(["infer", "ingest", "scrape"]), "{record}");
    refused(&gate, gate.write(&both, body()), 403, "role_not_activated").await;

    // one said: it is the only one, and the upstream does not learn of it
    let answer = gate.post(PREDICT).bearer(&both).header(ROLE, "infer").body(BODY).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["roles"], json!(["infer"]));
    let seen = gate.google.vertex().pop().expect("Vertex saw nothing");
    assert!(!seen.headers.keys().any(|name| name.as_str().contains("role")), "{:?}", seen.headers);
    let answer = gate.write(&both, body()).header(ROLE, "ingest").send().await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["roles"], json!(["ingest"]));

    // and what only another one may do is not permitted
    let (_, record) =
        refused(&gate, gate.post(PREDICT).bearer(&both).header(ROLE, "ingest").body(BODY), 403, "not_permitted").await;
    assert_eq!(record["roles"], json!(["ingest"]), "{record}");
    refused(&gate, gate.get(PROTECTED_PATH).bearer(&both).header(ROLE, "infer"), 403, "not_permitted").await;
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&both).header(ROLE, "scrape").send().await.status, 200);
}

#[tokio::test]
async fn only_an_assigned_role_is_activated_by_exactly_one_header() {
    let gate = dynamic().await;
    let ingest = gate.issuer.token("one", &["ingest", "scrape"]).mint();
    // one of the pair alone needs no header; with it the others are gone for this request
    assert_eq!(gate.write(&ingest, body()).send().await.status, 204);
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&ingest).send().await.status, 200);
    refused(&gate, gate.get(PROTECTED_PATH).bearer(&ingest).header(ROLE, "ingest"), 403, "not_permitted").await;
    for role in ["infer", "administer", "INGEST", "nobody"] {
        let call = gate.post(PREDICT).bearer(&ingest).header(ROLE, role).body(BODY);
        let (_, record) = refused(&gate, call, 403, "role_not_held").await;
        assert_eq!(record["roles"], json!(["ingest", "scrape"]), "{record}");
    }
    for role in ["", "ingest, infer", "ingest infer", "*", "ing\u{e9}st", &"r".repeat(129)] {
        refused(&gate, gate.get(PROTECTED_PATH).bearer(&ingest).header(ROLE, role), 400, "role_header").await;
    }
    let twice = gate.get(PROTECTED_PATH).bearer(&ingest).header(ROLE, "scrape").header(ROLE, "scrape");
    refused(&gate, twice, 400, "role_header").await;
    // another spelling activates nothing and travels nowhere
    let answer = gate.get(PROTECTED_PATH).bearer(&ingest).header("x_wicketgate_role", "ingest").send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!gate.app.last().headers.keys().any(|name| name.as_str().contains("role")), "{:?}", gate.app.last());
}

#[tokio::test]
async fn lists_show_what_the_active_role_permits() {
    let gate = dynamic().await;
    let both = gate.issuer.token("both", &["ingest", "scrape"]).mint();
    let listed = gate.get("/sd").bearer(&both).header(ROLE, "scrape").send().await;
    assert_eq!(listed.json().as_array().map(Vec::len), Some(2), "{listed:?}");
    let all = gate.get("/sd").bearer(&both).send().await;
    assert_eq!(all.json().as_array().map(Vec::len), Some(2), "{all:?}");
    refused(&gate, gate.get("/sd").bearer(&both).header(ROLE, "ingest"), 403, "not_permitted").await;
}

#[tokio::test]
async fn a_token_of_the_gate_carries_the_active_role_only() {
    let url = "https://gate.example";
    let issue = format!("[gate]\nworkers = 1\nurl = \"{url}\"\n[token_issuer]\nkeys = \"keys\"");
    let harness = Harness::new().await.keeping("kept_*").section("gate", issue);
    separated(&harness, "");
    std::fs::create_dir_all(harness.directory.join("keys")).unwrap();
    let gate = harness.start().await;
    let both = gate.issuer.token("both", &["ingest", "infer"]).mint();
    let form: String = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
        .append_pair("subject_token", &both)
        .append_pair("subject_token_type", "urn:ietf:params:oauth:token-type:access_token")
        .append_pair("audience", url)
        .finish();
    let exchange = || {
        let call = gate.post("/oauth2/token").header("content-type", "application/x-www-form-urlencoded");
        call.body(form.clone())
    };
    // nothing is kept apart yet: the token has both
    let answer = exchange().send().await;
    let with_both = answer.json()["access_token"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned();
    assert_eq!(gate.post(PREDICT).bearer(&with_both).body(BODY).send().await.status, 200);

    let rules = std::fs::read_to_string(gate.directory.join("policies/roles.toml")).unwrap();
    gate.directory.write("policies/roles.toml", format!("{rules}dynamic = [[\"ingest\", \"infer\"]]\n"));
    gate.program.signal("HUP").await;
    crate::support::eventually("the separation to hold", || async {
        let answer = gate.post(PREDICT).bearer(&with_both).body(BODY).send().await;
        (answer.status == 403).then_some(())
    })
    .await;
    // an older token with both is as bound to choose as its holder
    refused(&gate, gate.post(PREDICT).bearer(&with_both).body(BODY), 403, "role_not_activated").await;
    let answer = gate.post(PREDICT).bearer(&with_both).header(ROLE, "infer").body(BODY).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");

    // a new one is of the role that was activated for asking
    let before = seen(&gate);
    let answer = exchange().send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (400, &"role_not_activated".into()), "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["decision"], "deny");
    let answer = exchange().header(ROLE, "scrape").send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (400, &"role_not_held".into()), "{answer:?}");
    let answer = exchange().header(ROLE, "a b").send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (400, &"role_header".into()), "{answer:?}");
    assert_eq!(seen(&gate), before);
    let answer = exchange().header(ROLE, "infer").send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let infer = answer.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(gate.post(PREDICT).bearer(&infer).body(BODY).send().await.status, 200);
    let answer = gate.write(&infer, body()).header(ROLE, "ingest").send().await;
    is_refusal(&gate, &answer, 403, "role_not_held").await;
}

#[tokio::test]
async fn an_inconsistent_rule_is_refused_and_one_without_effect_is_a_warning() {
    let more = "[[issuer]]\nname = \"jobs\"\nissuer = \"https://jobs.example\"\naudiences = [\"wicketgate\"]\n\
                jwks_url = \"https://jobs.example/jwks\"\nrequired_claims = { tenant = \"t-1\" }";
    let harness = Harness::new().await.more("issuer", more);
    harness.directory.write("wicketgate.toml", harness.config());
    let rule = |role: &str, rest: &str| format!("[[rule]]\nrole = \"{role}\"\nissuers = [\"jobs\"]\n{rest}\n");
    for (rules, code, place, told) in [
        (rule("scrape", "claim = \"tenant\"\nvalue = \"t-2\""), 2, "roles.toml:4: `rule[0].claim`", "can ever meet"),
        (rule("scrape", "claim = \"tenant\"\nvalue = \"t-1\""), 0, "", ""),
        (rule("janitor", "claim = \"a\"\nvalue = 1"), 0, "roles.toml:2: `rule[0].role`", "no policy mentions"),
    ] {
        harness.directory.write("policies/roles.toml", &rules);
        let output = run(&["check", "--config", harness.directory.join("wicketgate.toml").to_str().unwrap()]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{rules}\n{said}");
        assert_eq!(said.is_empty(), told.is_empty(), "{rules}\n{said}");
        assert!(said.contains(place) && said.contains(told), "{rules}\n{said}");
        assert_eq!(said.starts_with("warning: "), code == 0 && !told.is_empty(), "{said}");
    }
}

#[tokio::test]
async fn warnings_are_in_the_log_at_the_start_and_at_a_reload() {
    let harness = Harness::new().await;
    let file = harness.directory.join("policies/roles.toml");
    let shipped = std::fs::read_to_string(&file).unwrap();
    let extra =
        |role: &str| format!("[[rule]]\nrole = \"{role}\"\nissuers = [\"*\"]\nclaim = \"a\"\nvalue = \"b\"\n{shipped}");
    harness.directory.write("policies/roles.toml", extra("janitor"));
    let gate = harness.start().await;
    let logged = |role: &str| gate.program.lines().iter().any(|line| line.contains("WARN") && line.contains(role));
    assert!(logged("janitor"), "{:?}", gate.program.lines());
    gate.directory.write("policies/roles.toml", extra("caretaker"));
    gate.program.signal("HUP").await;
    crate::support::eventually("the warning of the reload", || async { logged("caretaker").then_some(()) }).await;
}
