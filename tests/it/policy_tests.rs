//! `wicketgate policy test`: the shipped tables pass, a failing case shows expected and actual, a case without effect
//! is refused.

use crate::support::{Harness, program::run};

async fn test(harness: &Harness, more: &[&str]) -> (Option<i32>, String, String) {
    let policies = harness.directory.join("policies");
    let output = run(&[&["policy", "test", "--policies", policies.to_str().unwrap()], more].concat()).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn with_cases(text: &str) -> Harness {
    let harness = Harness::new().await;
    let _ = std::fs::remove_dir_all(harness.directory.join("policies/tests"));
    std::fs::create_dir(harness.directory.join("policies/tests")).unwrap();
    harness.directory.write("policies/tests/some.toml", text);
    harness
}

#[tokio::test]
async fn the_shipped_tables_hold_and_exercise_every_policy() {
    let policies = concat!(env!("CARGO_MANIFEST_DIR"), "/policies");
    let output = run(&["policy", "test", "--policies", policies, "--coverage"]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("all as expected") && !said.contains("no case was decided"), "{said}");
}

#[tokio::test]
async fn a_failed_case_shows_expected_and_actual() {
    let cases = r#"
[[case]]
name = "right"
principal = { roles = ["scrape"] }
action = "Exporter.Scrape"
exporter = "node"
decision = "allow"

[[case]]
name = "wrong decision"
principal = { claims = { roles = ["ingest", "infer"] } }
action = "Exporter.Scrape"
exporter = "node"
decision = "allow"
policies = ["scrape"]

[[case]]
name = "wrong policies"
principal = { roles = ["scrape"] }
action = "Exporter.Scrape"
exporter = "node"
decision = "allow"
policies = ["scrape", "home"]

[[case]]
name = "wrong reason"
principal = { roles = [] }
action = "Exporter.Scrape"
exporter = "node"
decision = "deny"
denial = "forbidden"
"#;
    let harness = with_cases(cases).await;
    let (code, said, errors) = test(&harness, &["--coverage"]).await;
    assert_eq!(code, Some(1), "{said}{errors}");
    for part in [
        "FAILED wrong decision (",
        "some.toml:9)",
        "expected allow, by `scrape`\n  got      deny, separation_of_duty, by no policy; roles: infer, ingest; rule 2 gives",
        "FAILED wrong policies",
        "expected allow, by `home`, `scrape`\n  got      allow, by `scrape`; roles: scrape",
        "FAILED wrong reason",
        "expected deny, forbidden\n  got      deny, not_permitted, by no policy; roles: none",
        "1 of 14 policies decided a case",
        "no case was decided by `ingest`",
    ] {
        assert!(said.contains(part), "no `{part}` in:\n{said}");
    }
    assert!(!said.contains("FAILED right") && errors.contains("3 of 4 cases failed"), "{said}{errors}");
}

#[tokio::test]
async fn a_case_can_set_the_whole_context() {
    let every = |peer: &str, time: &str, size: u64| {
        format!(
            r#"
[[case]]
name = "{peer} {time} {size}"
principal = {{ issuer = "corp", subject = "job", roles = [] }}
action = "PredictionService.Predict"
vertex = "projects/p/locations/l/publishers/google/models/gemini@2"
context = {{ peer = "{peer}", method = "POST", tls = false, time = "{time}", size = {size}, certificate = {{ uris = ["spiffe://x/y"] }}, names = {{ resources = ["projects/p/locations/l/endpoints/1"], buckets = ["b"], service_accounts = ["a@b"] }} }}
"#
        )
    };
    let time = "2026-11-24T02:00:00Z";
    let later = "2027-01-01T00:00:00Z";
    let allowed = "decision = \"allow\"\npolicies = [\"exact\"]\n";
    let denied = "decision = \"deny\"\ndenial = \"not_permitted\"\n";
    let cases = [
        every("10.1.2.3", time, 100) + allowed,
        every("192.0.2.1", time, 100) + denied,
        every("10.1.2.3", later, 100) + denied,
        every("10.1.2.3", time, 101) + denied,
    ];
    let harness = with_cases(&cases.concat()).await;
    let policy = r#"
@id("exact")
permit (principal == Principal::"corp:job", action, resource is Model) when {
    principal.issuer == "corp" && resource has version && resource.version == "2" &&
    context.peer.isInRange(ip("10.0.0.0/8")) && context.method == "POST" && !context.tls &&
    context.time < datetime("2026-12-01") && context has size && context.size <= 100 &&
    context has certificate && context.certificate.uris.contains("spiffe://x/y") &&
    context has names && context.names.endpoints.contains(Endpoint::"projects/p/locations/l/endpoints/1") &&
    context.names.buckets.contains(Bucket::"b") && context.names.service_accounts.contains(ServiceAccount::"a@b")
};
"#;
    harness.directory.write("policies/exact.cedar", policy);
    let (code, said, errors) = test(&harness, &[]).await;
    assert_eq!(code, Some(0), "{said}{errors}");
}

#[tokio::test]
async fn a_case_without_effect_is_refused_with_its_line() {
    let harness = with_cases("").await;
    let (code, _, errors) = test(&harness, &[]).await;
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("has no `[[case]]`"), "{errors}");
    let good = "[[case]]\nname = \"a\"\nprincipal = { roles = [\"scrape\"] }\naction = \"Exporter.Scrape\"\n\
                exporter = \"node\"\ndecision = \"deny\"\n";
    for (from, to, line, key, remedy) in [
        ("Exporter.Scrape", "Exporter.Scrap", 4, "action", "there are Exporter.Scrape"),
        ("exporter = \"node\"", "service = \"write\"", 4, "action", "it applies to Exporter"),
        ("exporter = \"node\"\n", "", 1, "exporter", "write one of"),
        ("\"deny\"", "\"no\"", 6, "decision", "allow"),
        ("roles = [\"scrape\"]", "role = \"scrape\"", 3, "role", "unknown key"),
        ("principal = { roles = [\"scrape\"] }\n", "", 1, "principal", "missing"),
        ("decision", "denial = \"because\"\ndecision", 6, "denial", "write one of `not_permitted`"),
        ("decision", "policies = [\"scrap\"]\ndecision", 6, "policies", "no policy has the name `scrap`"),
        ("decision", "context = { peer = \"nowhere\" }\ndecision", 6, "peer", ""),
        ("decision", "context = { colour = \"red\" }\ndecision", 6, "colour", "unknown key"),
        ("decision", "expect = 1\ndecision", 6, "expect", "unknown key"),
    ] {
        harness.directory.write("policies/tests/some.toml", good.replacen(from, to, 1));
        let (code, said, errors) = test(&harness, &[]).await;
        assert_eq!((code, said.as_str()), (Some(2), ""), "{to}: {errors}");
        let place = format!("some.toml:{line}:");
        let told = errors.lines().any(|l| l.contains(&place) && l.contains(key) && l.contains(remedy));
        assert!(told, "nothing at {place} of `{key}` and `{remedy}` in:\n{errors}");
    }
}

#[tokio::test]
async fn policies_are_found_through_the_configuration() {
    let harness = with_cases("[[case]]\nname = \"a\"\nprincipal = { roles = [] }\naction = \"Gate.Home\"\nservice = \"home\"\ndecision = \"allow\"\n").await;
    harness.directory.write("wicketgate.toml", harness.config());
    let file = harness.directory.join("wicketgate.toml");
    let output = run(&["policy", "test", "--config", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = run(&["policy", "test", "--config", "/nonexistent/wicketgate.toml"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
