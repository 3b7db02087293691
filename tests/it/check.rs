//! `wicketgate check` and the command line: every problem at once, each with its place and what to write instead.

use crate::support::{Harness, program::run};

#[tokio::test]
async fn a_good_configuration_is_good() {
    let harness = Harness::new().await;
    harness.directory.write("wicketgate.toml", harness.config());
    let file = harness.directory.join("wicketgate.toml");
    let output = run(&["check", "--config", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn every_problem_is_reported_at_once_with_its_line_key_and_remedy() {
    let harness = Harness::new().await;
    let config = "\
[gate]
wrokers = 2

[[listen]]
address = \"nowhere\"
tls = false

[[issuer]]
name = \"corp\"
issuer = \"https://idp.example\"
audiences = []
algorithms = [\"HS256\"]
leeway = \"soon\"

[[exporter]]
name = \"app\"
url = \"ftp://127.0.0.1\"

[audit]
file = \"audit.jsonl\"
";
    harness.directory.write("wicketgate.toml", config);
    let file = harness.directory.join("wicketgate.toml");
    let output = run(&["check", "--config", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    for (line, key) in
        [(2, "wrokers"), (5, "address"), (11, "audiences"), (12, "algorithms"), (13, "leeway"), (17, "url")]
    {
        let place = format!("wicketgate.toml:{line}:");
        let told = said.lines().find(|said| said.contains(&place) && said.contains(key));
        let told = told.unwrap_or_else(|| panic!("no problem at {place} with `{key}`:\n{said}"));
        let remedy = told.split(key).nth(1).unwrap_or_default().trim_matches(['`', ':', ' ']);
        assert!(remedy.len() > 10, "what to write instead is missing: {told}");
    }
}

#[tokio::test]
async fn an_inconsistent_issuer_section_names_what_to_write() {
    let secret = "client_secret = { env = \"X\" }";
    let introspection = format!("introspection = {{ url = \"https://idp.example/i\", client_id = \"g\", {secret} }}");
    for (line, key, remedy) in [
        ("token_type = \"JWT\"", "token_type", "at+jwt"),
        ("required_claims = { iss = \"x\" }", "required_claims", "leave it out"),
        ("required_claims = { roles = [\"x\"] }", "required_claims", "strings, numbers or booleans"),
        ("credential = \"a-token\"", "credential", "{ file ="),
        ("jwks = false", "jwks", "introspection"),
        ("jwks = true", "jwks", "leave it out"),
        ("introspection = { client_id = \"gate\" }", "introspection.client_secret", "{ file ="),
        ("jwks_url = \"http://idp.example/jwks\"", "jwks_url", "https"),
        (&format!("jwks = false\n{}", introspection.replace("https", "http")), "introspection.url", "https"),
        (
            &introspection.replace(" }}", ", cache = \"1h\" }").replace("\" } }", "\" }, cache = \"1h\" }"),
            "cache",
            "ten minutes",
        ),
        (&format!("{introspection}\njwks = false\njwks_url = \"https://idp.example/jwks\""), "jwks_url", "no effect"),
        (
            &format!("jwks_url = \"https://i.example/k\"\nintrospection = {{ client_id = \"g\", {secret} }}"),
            "introspection",
            "url",
        ),
        (
            &format!(
                "{introspection}\ntoken_review = {{ url = \"https://k.example\", credential = {{ env = \"X\" }} }}"
            ),
            "token_review",
            "not both",
        ),
        ("token_review = { credential = { env = \"X\" } }", "token_review.url", "kubernetes.default.svc"),
    ] {
        let harness = Harness::new().await;
        let issuer = "[[issuer]]\nname = \"odd\"\nissuer = \"https://idp.example\"\naudiences = [\"wicketgate\"]";
        let config = harness.more("issuer", format!("{issuer}\n{line}"));
        config.directory.write("wicketgate.toml", config.config());
        let output = run(&["check", "--config", config.directory.join("wicketgate.toml").to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(2), "{line}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let told = said.lines().any(|said| said.contains(&format!("{key}`")) && said.contains(remedy));
        assert!(told, "{line}: nothing of `{key}` and `{remedy}` in:\n{said}");
    }
}

#[tokio::test]
async fn a_shared_service_account_is_refused_unless_it_says_so() {
    let harness = Harness::new().await;
    let config = harness.config().replace("ingest@p.iam", "infer@p.iam");
    harness.directory.write("wicketgate.toml", &config);
    let file = harness.directory.join("wicketgate.toml");
    let file = file.to_str().unwrap();
    let output = run(&["check", "--config", file]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("service_accounts") && said.contains("shared"), "{said}");
    harness.directory.write("wicketgate.toml", config.replace("[google]", "[google]\nallow_shared_accounts = true"));
    let output = run(&["check", "--config", file]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn a_broken_policy_is_a_problem_with_its_file_and_line() {
    let harness = Harness::new().await;
    harness.directory.write("wicketgate.toml", harness.config());
    harness.directory.write("policies/broken.cedar", "\n\npermit (principal, action == Action::\"Fly\", resource);\n");
    let file = harness.directory.join("wicketgate.toml");
    let output = run(&["check", "--config", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("broken.cedar:3") && said.contains("Fly"), "{said}");
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let output = run(&["check", "--config", "/nonexistent/wicketgate.toml"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/wicketgate.toml"), "{output:?}");
}

#[tokio::test]
async fn serve_does_not_start_with_a_broken_configuration() {
    let harness = Harness::new().await.section("issuer", "[[issuer]]\nname = \"corp\"");
    harness.directory.write("wicketgate.toml", harness.config());
    let file = harness.directory.join("wicketgate.toml");
    let output = run(&["serve", "--config", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("wicketgate.toml:"), "{output:?}");
}

#[tokio::test]
async fn exit_codes_tell_wrong_usage_from_a_negative_answer() {
    for arguments in [&["fly"][..], &["serve"], &["serve", "--config"], &[]] {
        let output = run(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?} says nothing");
    }
    let output = run(&["version"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(env!("CARGO_PKG_VERSION")), "{output:?}");
}

#[tokio::test]
async fn the_example_is_a_configuration_with_every_key() {
    // its files are not there, so it cannot be good; but every key in it must be known and of its kind
    let harness = Harness::new().await;
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/wicketgate.example.toml")).unwrap();
    // a commented key is `# key = …`
    let keys = example.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line));
    harness.directory.write("wicketgate.toml", keys.collect::<Vec<_>>().join("\n"));
    let file = harness.directory.join("wicketgate.toml");
    let output = run(&["check", "--config", file.to_str().unwrap()]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    let strange: Vec<_> = said.lines().filter(|line| line.contains("unknown")).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

fn is_key(text: &str) -> bool {
    text.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

#[tokio::test]
async fn an_inconsistent_limit_names_what_to_write() {
    let cases = [
        ("request = \"1/m\"", "request", "unknown key"),
        ("requests = \"many\"", "requests", "600/m"),
        ("requests = 600", "requests", "string"),
        ("requests = { rate = \"1/m\", bust = \"1\" }", "requests.bust", "unknown key"),
        ("requests = { rate = \"1/m\", burst = \"0\" }", "requests", "whole number"),
        ("requests = { rate = \"1/s\", burst = \"100000\" }", "requests", "at most 86400"),
        ("requests = \"2000000/s\"", "requests", "smaller rate"),
        ("bytes = \"10 TB/m\"", "bytes", "100MiB"),
        ("streams = 0", "streams", "whole number"),
        ("", "name", "`requests`"),
        ("streams = 1\nroles = [\"poet\"]", "roles", "no rule gives the role `poet`"),
        ("streams = 1\nroutes = [\"exporter/none\"]", "routes", "no exporter is called `none`"),
        ("streams = 1\nroutes = [\"write\"]", "routes", "[ingest]"),
        ("streams = 1\nroutes = [\"moon\"]", "routes", "`exporter/NAME`"),
        ("streams = 1\nactions = [\"fly\"]", "actions", "`fly`"),
        ("tokens = \"1/m\"\nroutes = [\"exporter\"]", "tokens", "models"),
        ("instances = \"1/m\"\nactions = [\"scrape\"]", "instances", "`infer`"),
    ];
    let mut limits = String::new();
    for (number, (limit, ..)) in cases.iter().enumerate() {
        limits += &format!("[[limit]]\nname = \"l{number}\"\nper = \"principal\"\n{limit}\n");
    }
    let odd = [
        ("name = \"a\"\nper = \"person\"\nstreams = 1", "per", "`\"principal\"`"),
        ("name = \"b\"\nstreams = 1", "per", "missing"),
        ("name = \"two words\"\nper = \"gate\"\nstreams = 1", "name", "letters"),
        ("name = \"l0\"\nper = \"gate\"\nstreams = 1", "name", "two limits"),
    ];
    for (limit, ..) in odd {
        limits += &format!("[[limit]]\n{limit}\n");
    }
    let harness = Harness::new().await.section("limit", limits);
    let said = problems(&harness).await;
    for (number, (limit, key, remedy)) in cases.iter().chain(&odd).enumerate() {
        let place = format!("`limit[{number}].{key}`");
        let told = said
            .lines()
            .any(|said| said.contains("wicketgate.toml:") && said.contains(&place) && said.contains(remedy));
        assert!(told, "{limit}: nothing of {place} and `{remedy}` in:\n{said}");
    }
    let bytes = "[[limit]]\nname = \"l\"\nper = \"principal\"\nbytes = \"1MiB/m\"";
    let said = problems(&harness.keeping("up").section("limit", bytes)).await;
    assert!(said.contains("limit[0].bytes") && said.contains("max_body"), "{said}");
}

async fn problems(harness: &Harness) -> String {
    harness.directory.write("wicketgate.toml", harness.config());
    let output = run(&["check", "--config", harness.directory.join("wicketgate.toml").to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}
