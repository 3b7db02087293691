//! Shadow policies: evaluated with every request, recorded and counted, without effect on the response.

use serde_json::{Value, json};

use crate::{
    refusals::refused,
    support::{Gate, Harness, eventually, program::run},
};

const PAGE: &str = "/exporters/app/metrics";

fn shadow(harness: &Harness, files: &[(&str, &str)]) {
    std::fs::create_dir_all(harness.directory.join("policies/shadow")).unwrap();
    for (name, text) in files {
        harness.directory.write(&format!("policies/shadow/{name}"), text);
    }
}

async fn scrape(gate: &Gate, exporter: &str) -> Value {
    let target = format!("/exporters/{exporter}/metrics");
    let answer = gate.get(&target).bearer(&gate.token("scrape")).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    gate.record(&answer.id()).await
}

async fn counted(gate: &Gate, decision: &str, differs: bool) -> f64 {
    let labels = format!("decision=\"{decision}\",differs=\"{differs}\"");
    gate.metric(&format!("wicketgate_policy_shadow_total{{{labels}}}")).await
}

#[tokio::test]
async fn a_shadow_decision_is_recorded_and_changes_no_response() {
    let harness = Harness::new().await;
    // by a label that `app` has and `locked` has not
    let narrow = "@id(\"narrow\") permit (principal in Role::\"scrape\", action, resource is Exporter)\n\
                  when { resource.hasTag(\"team\") };\n\
                  @id(\"wide\") permit (principal in Role::\"infer\", action in Action::\"scrape\", resource);\n";
    shadow(&harness, &[("narrow.cedar", narrow)]);
    let gate = harness.start().await;

    let same = scrape(&gate, "app").await;
    assert_eq!((&same["decision"], &same["shadow_decision"]), (&json!("allow"), &json!("allow")), "{same}");
    assert_eq!(same["shadow_policies"], Value::Null, "{same}");
    assert_eq!(same["policies"], json!(["scrape"]), "{same}");

    let denies = scrape(&gate, "locked").await;
    assert_eq!((&denies["decision"], &denies["shadow_decision"]), (&json!("allow"), &json!("deny")), "{denies}");
    assert_eq!(denies["shadow_policies"], json!([]), "{denies}");

    // a request that only the shadow set permits is refused and reaches no upstream
    let before = gate.app.requests();
    let (_, allows) = refused(&gate, gate.get(PAGE).bearer(&gate.token("infer")), 403, "not_permitted").await;
    assert_eq!((&allows["decision"], &allows["shadow_decision"]), (&json!("deny"), &json!("allow")), "{allows}");
    assert_eq!(allows["shadow_policies"], json!(["wide"]), "{allows}");
    assert_eq!(gate.app.requests(), before);

    // the permit has it too, for what never ends
    let permit = gate.audit().into_iter().find(|line| line["event"] == "permit" && line["id"] == denies["id"]);
    assert_eq!(permit.unwrap()["shadow_decision"], "deny");
    assert_eq!(counted(&gate, "allow", false).await, 1.0);
    assert_eq!(counted(&gate, "deny", true).await, 1.0);
    assert_eq!(counted(&gate, "allow", true).await, 1.0);
    // the shadow set is not evaluated for unauthenticated requests
    let (_, unknown) = refused(&gate, gate.get(PAGE), 401, "no_token").await;
    assert_eq!(unknown["shadow_decision"], Value::Null, "{unknown}");
}

#[tokio::test]
async fn a_shadow_evaluation_error_denies_with_its_reason() {
    let harness = Harness::new().await;
    let text = "@id(\"all\") permit (principal, action, resource);\n\
                @id(\"large\") forbid (principal, action, resource)\n\
                when { context has size && (context.size + 9223372036854775807) > 3 };\n";
    shadow(&harness, &[("large.cedar", text)]);
    let gate = harness.start().await;
    let body = r#"{"instances":[{"input":[1,2,3],"horizon":2}]}"#;
    let target = "/v1/projects/p/locations/us-central1/endpoints/1:predict";
    let answer = gate.post(target).bearer(&gate.token("infer")).body(body).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let record = gate.record(&answer.id()).await;
    assert_eq!((&record["decision"], &record["shadow_decision"]), (&json!("allow"), &json!("deny")), "{record}");
    assert!(record["shadow_error"].as_str().unwrap().contains("overflow"), "{record}");
    assert_eq!(record["detail"], Value::Null, "{record}");
}

#[tokio::test]
async fn a_shadow_of_rules_alone_uses_the_enforced_policies() {
    let harness = Harness::new().await;
    let rules = "[[rule]]\nrole = \"observe\"\nissuers = [\"*\"]\nclaim = \"roles\"\nvalue = \"scrape\"\n";
    shadow(&harness, &[("roles.toml", rules)]);
    let gate = harness.start().await;
    let record = scrape(&gate, "app").await;
    assert_eq!((&record["roles"], &record["shadow_roles"]), (&json!(["scrape"]), &json!(["observe"])), "{record}");
    assert_eq!(record["shadow_decision"], "deny", "{record}");
}

#[tokio::test]
async fn a_shadow_set_follows_its_files() {
    let gate = Harness::new().await.start().await;
    assert_eq!(scrape(&gate, "app").await["shadow_decision"], Value::Null);
    let folder = gate.directory.join("policies/shadow");
    let next = gate.directory.join("next");
    std::fs::create_dir(&next).unwrap();
    std::fs::write(next.join("a.cedar"), "@id(\"none\") forbid (principal, action, resource);\n").unwrap();
    std::fs::rename(&next, &folder).unwrap();
    let shadowed = || async { Some(scrape(&gate, "app").await).filter(|record| record["shadow_decision"] == "deny") };
    let record = eventually("the shadow to be asked", shadowed).await;
    assert_eq!(record["shadow_policies"], json!(["none"]), "{record}");

    std::fs::write(folder.join("a.cedar"), "@id(\"any\") permit (principal, action, resource);\n").unwrap();
    let allowed = || async { (scrape(&gate, "app").await["shadow_decision"] == "allow").then_some(()) };
    eventually("the changed shadow to be asked", allowed).await;

    std::fs::rename(&folder, &next).unwrap();
    let gone = || async { scrape(&gate, "app").await["shadow_decision"].is_null().then_some(()) };
    eventually("the shadow to be gone", gone).await;
}

#[tokio::test]
async fn a_broken_shadow_refuses_the_configuration_with_its_line() {
    for (files, expected) in [
        (&[("a.cedar", "\npermit (principal, action == Action::\"Fly\", resource);\n")][..], "shadow/a.cedar:2"),
        (&[("roles.toml", "[[rule]]\nrole = \"scrape\"\n")], "shadow/roles.toml:1"),
        (&[], "has no *.cedar files and no roles.toml"),
    ] {
        let harness = Harness::new().await;
        harness.directory.write("wicketgate.toml", harness.config());
        shadow(&harness, files);
        let file = harness.directory.join("wicketgate.toml");
        let output = run(&["check", "--config", file.to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
}

#[tokio::test]
async fn a_shadow_set_can_use_the_enforced_guardrails() {
    let harness = Harness::new().await;
    harness.directory.write("wicketgate.toml", harness.config());
    harness.directory.write("policies/guardrails.toml", "[scrape.quiet]\nhide_families = [\"go_*\"]\n");
    let guarded = "@id(\"guarded\") @oblige(\"quiet\") permit (principal, action in Action::\"scrape\", resource);\n";
    harness.directory.write("policies/guarded.cedar", guarded);
    let file = harness.directory.join("wicketgate.toml");
    for (set, code) in
        [(guarded, 0), ("permit (principal, action, resource);\n", 0), (&guarded.replace("quiet", "queit"), 2)]
    {
        shadow(&harness, &[("next.cedar", set)]);
        let output = run(&["check", "--config", file.to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(code), "{set}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.contains("shadow/next.cedar:1: `@oblige` names the guardrail `queit`"), code == 2, "{said}");
    }
}
