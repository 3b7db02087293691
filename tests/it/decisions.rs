//! Policies through the real program: labels of exporters, versions of models, and policies that fail.

use serde_json::json;

use crate::{
    refusals::refused,
    support::{Gate, Harness},
};

const PROTECTED_PATH: &str = "/exporters/app/metrics";
const MODEL: &str = "projects/p/locations/us-central1/models/m";

/// A gate with these policies in place of the shipped ones.
async fn gate(policies: &str) -> Gate {
    let harness = Harness::new().await;
    harness.directory.write("policies/wicketgate.cedar", policies);
    harness.start().await
}

#[tokio::test]
async fn a_policy_error_denies_what_another_policy_permits() {
    let gate = gate(
        "@id(\"all\") permit (principal, action, resource);\n\
         @id(\"overflows\") permit (principal, action, resource is Exporter)\n\
         when { context.method == \"HEAD\" && 9223372036854775807 + 1 > 0 };\n\
         @id(\"unknown\") permit (principal, action, resource is Model)\n\
         when { Endpoint::\"nobody's\".location == \"x\" };",
    )
    .await;
    let token = gate.token("scrape");
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&token).send().await.status, 200);
    let answer = gate.call(http::Method::HEAD, PROTECTED_PATH).bearer(&token).send().await;
    assert_eq!(answer.status, 403, "{answer:?}");
    let record = gate.record(&answer.id()).await;
    assert_eq!((&record["decision"], &record["reason"]), (&"deny".into(), &"policy_error".into()), "{record}");
    assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("overflow")), "{record}");
    let (_, record) = refused(&gate, gate.get(&format!("/v1/{MODEL}")).bearer(&token), 403, "policy_error").await;
    assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("does not exist")), "{record}");
    assert_eq!(record["policies"], json!([]), "{record}");
}

#[tokio::test]
async fn an_exporters_labels_and_a_models_version_decide() {
    let gate = gate(&format!(
        "@id(\"platform\") permit (principal in Role::\"scrape\", action in Action::\"scrape\", resource is Exporter)\n\
         when {{ resource.hasTag(\"team\") && resource.getTag(\"team\") == \"platform\" }};\n\
         @id(\"one\") permit (principal in Role::\"observe\", action, resource == Model::\"{MODEL}@2\");\n\
         @id(\"any\") permit (principal in Role::\"train\", action, resource in Model::\"{MODEL}\");\n\
         @id(\"by-name\") permit (principal in Role::\"infer\", action, resource is Model)\n\
         when {{ resource has version && resource.version == \"2\" }};"
    ))
    .await;
    let scrape = gate.token("scrape");
    let answer = gate.get(PROTECTED_PATH).bearer(&scrape).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["policies"], json!(["platform"]));
    // `locked` has no labels
    refused(&gate, gate.get("/exporters/locked/metrics").bearer(&scrape), 403, "not_permitted").await;

    for (role, policy, allowed) in [
        ("observe", "one", [false, true, false]),
        ("train", "any", [true; 3]),
        ("infer", "by-name", [false, true, false]),
    ] {
        let token = gate.token(role);
        for (version, allowed) in ["", "@2", "@3"].iter().zip(allowed) {
            let call = gate.get(&format!("/v1/{MODEL}{version}")).bearer(&token);
            if allowed {
                let answer = call.send().await;
                let record = gate.record(&answer.id()).await;
                assert_eq!((&record["decision"], &record["policies"]), (&"allow".into(), &json!([policy])), "{record}");
                assert_eq!(record["resource"], format!("{MODEL}{version}"), "{record}");
            } else {
                refused(&gate, call, 403, "not_permitted").await;
            }
        }
    }
}
