//! `wicketgate policy explain`: the gate's own decision, with the rules and policies that made it.

use serde_json::{Value, json};

use crate::support::{
    Harness,
    issuer::Issuer,
    program::{run, wicketgate},
    shell::feed,
};

const ENDPOINT: &str = "projects/p/locations/us-central1/endpoints/1";

/// What the program said: exit code, standard output, standard error.
async fn explain(arguments: &[&str]) -> (i32, String, String) {
    let output = run(&[&["policy", "explain"], arguments].concat()).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

async fn explain_json(arguments: &[&str]) -> (i32, Value) {
    let (code, out, err) = explain(&[arguments, &["--json"]].concat()).await;
    (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("not JSON ({e}): {out}{err}")))
}

/// A configuration in a directory, and the paths of it and of its policies.
async fn configured(harness: Harness) -> (Harness, String, String) {
    harness.directory.write("wicketgate.toml", harness.config());
    let path = |name: &str| harness.directory.join(name).to_str().unwrap().to_owned();
    let config = path("wicketgate.toml");
    let policies = path("policies");
    (harness, config, policies)
}

fn has(out: &str, lines: &[&str]) {
    for line in lines {
        assert!(out.contains(line), "`{line}` is not in:\n{out}");
    }
}

#[tokio::test]
async fn an_explanation_names_rules_and_policies_with_file_and_line() {
    let (harness, _, policies) = configured(Harness::new().await).await;
    harness.directory.write(
        "policies/more.cedar",
        "@id(\"office\")\nforbid (principal, action in Action::\"scrape\", resource)\nwhen { !context.tls }\n\
         unless { context.peer.isInRange(ip(\"10.0.0.0/8\")) };\n",
    );
    let claims = r#"{"sub":"anna","roles":["scrape","other"]}"#;
    let ask = ["--policies", &policies, "--claims", claims, "--issuer", "corp"];
    let scrape = ["--action", "Exporter.Scrape", "--exporter", "app"];

    let (code, out, err) = explain(&[&ask[..], &scrape].concat()).await;
    assert_eq!(code, 0, "{out}{err}");
    has(
        &out,
        &[
            "principal  corp:anna\n",
            "  + rule 1 gives `scrape`\n      met: claim = \"roles\", value = \"scrape\"; it is [\"scrape\",\"other\"]",
            "  - rule 3 does not give `infer`\n      not met: ",
            "roles decided with: scrape\n",
            "policies that permit it:\n  scrape (",
            "wicketgate.cedar:3)\n      @id(\"scrape\")\n      permit (principal in Role::\"scrape\"",
            "policies whose conditions are not met:\n  office (",
            "more.cedar:1)\n      not met, of its `when` and `unless`: 1\n",
            "are about something else",
        ],
    );
    assert!(out.ends_with("\nallowed\n"), "{out}");

    // circumstances count
    let (code, out, _) = explain(&[&ask[..], &scrape, &["--tls", "false"]].concat()).await;
    assert_eq!(code, 1, "{out}");
    has(&out, &["policies that forbid it:\n  office (", "denied: a policy forbids it\n"]);
    let (code, out, _) = explain(&[&ask[..], &scrape, &["--tls", "false", "--peer", "10.1.2.3"]].concat()).await;
    assert_eq!(code, 0, "{out}");
    has(&out, &["not met, of its `when` and `unless`: 2\n"]);

    // what is lacking is a role
    let predict = ["--action", "PredictionService.Predict", "--vertex", ENDPOINT];
    let (code, out, _) = explain(&[&ask[..], &predict].concat()).await;
    assert_eq!(code, 1, "{out}");
    has(&out, &["policies about it, but for others:\n  infer (", "denied: no policy permits it\n"]);

    // for programs
    let (code, told) = explain_json(&[&ask[..], &predict].concat()).await;
    assert_eq!((code, &told["decision"], &told["reason"]), (1, &json!("deny"), &json!("not_permitted")), "{told}");
    assert_eq!(told["rules"][2]["conditions"][0]["found"], r#"["scrape","other"]"#, "{told}");
    let infer = told["policies"].as_array().unwrap().iter().find(|policy| policy["id"] == "infer").unwrap();
    assert_eq!((&infer["outcome"], &infer["parts"]), (&json!("elsewhere"), &json!(["principal"])), "{infer}");
    assert_eq!((&infer["line"], &infer["effect"]), (&json!(9), &json!("permit")), "{infer}");
}

#[tokio::test]
async fn an_explanation_names_separation_and_activation() {
    let (harness, _, policies) = configured(Harness::new().await).await;
    let ask = |roles: &'static str| {
        ["--policies", &policies, "--roles", roles, "--action", "RemoteWrite.Write", "--service", "write"]
    };
    let (code, out, _) = explain(&ask("ingest")).await;
    assert_eq!(code, 0, "{out}");
    has(&out, &["role rules: not asked, since the roles are given", "roles decided with: ingest\n"]);
    let (code, out, _) = explain(&ask("ingest,infer")).await;
    assert_eq!(code, 1, "{out}");
    has(&out, &["policies: not asked", "denied: separation of duty: of infer, ingest some are kept apart"]);

    let roles = std::fs::read_to_string(harness.directory.join("policies/roles.toml")).unwrap();
    harness.directory.write("policies/roles.toml", roles.replace("static =", "dynamic ="));
    let (code, out, _) = explain(&ask("ingest,infer")).await;
    assert_eq!(code, 1, "{out}");
    has(&out, &["one of ingest, infer may be active at a time"]);
    let (code, out, _) = explain(&[&ask("ingest,infer")[..], &["--active-role", "ingest"]].concat()).await;
    assert_eq!(code, 0, "{out}");
    let (code, out, _) = explain(&[&ask("ingest,infer")[..], &["--active-role", "scrape"]].concat()).await;
    assert_eq!(code, 1, "{out}");
    has(&out, &["the role `scrape` that it activates is not held"]);
}

#[tokio::test]
async fn a_decoded_token_lists_the_unchecked_rules() {
    let (harness, config, policies) = configured(Harness::new().await).await;
    let scrape = ["--action", "Exporter.Scrape", "--exporter", "app", "--token", "-"];
    let with = |config: &[&str], token: String| {
        let mut command = wicketgate(&[&["policy", "explain"], config, &scrape].concat());
        async move { feed(&mut command, &token).await }
    };
    let good = || harness.issuer.token("anna", &["scrape"]);
    let said = with(&["--config", &config], good().mint()).await;
    assert_eq!(said.code, 0, "{said:?}");
    has(&said.out, &["principal  corp:anna", "the token was only decoded: its signature was not checked"]);
    let said = with(&["--policies", &policies], good().mint()).await;
    assert_eq!(said.code, 2, "{said:?}");
    has(&said.err, &["`--issuer NAME`", "`--config FILE`"]);
    let said = with(&["--policies", &policies, "--issuer", "corp"], good().mint()).await;
    assert_eq!(said.code, 0, "{said:?}");

    // what a gate refuses without a key
    let said = with(&["--config", &config], good().claim("aud", "another").mint()).await;
    assert_eq!(said.code, 1, "{said:?}");
    has(&said.out, &["a gate would refuse it with 401 (token_audience)", "denied: the token would not be taken"]);
    let said = with(&["--config", &config], good().claim("exp", 1).mint()).await;
    has(&said.out, &["(token_expired)"]);
    let said = with(&["--config", &config], good().claim("iss", "https://other.example").mint()).await;
    assert_eq!(said.code, 2, "{said:?}");
    has(&said.err, &["the token cannot be explained: the token's issuer is not one this gate trusts"]);
    let said = with(&["--config", &config], "opaque".into()).await;
    assert_eq!(said.code, 2, "{said:?}");
}

#[tokio::test]
async fn a_token_is_verified_with_keys_from_a_file() {
    let harness = Harness::new().await;
    let other = Issuer::start().await;
    let keys = json!({ "keys": [harness.issuer.key("rsa").jwk] });
    harness.directory.write("jwks.json", keys.to_string());
    let (harness, config, _) = configured(harness.more("issuer", "jwks_file = \"jwks.json\"")).await;
    let ask =
        ["policy", "explain", "--config", &config, "--action", "Exporter.Scrape", "--exporter", "app", "--token", "-"];
    let with = async |token: String| feed(&mut wicketgate(&ask), &token).await;
    let said = with(harness.issuer.token("anna", &["scrape"]).mint()).await;
    assert_eq!(said.code, 0, "{said:?}");
    has(&said.out, &["the token's signature was checked"]);
    let forged = harness.issuer.token("anna", &["scrape"]).signed_by(other.key("rsa"), "RS256").mint();
    let said = with(forged).await;
    assert_eq!(said.code, 1, "{said:?}");
    has(&said.out, &["its signature was not checked", "(token_signature)"]);
}

#[tokio::test]
async fn a_request_is_resolved_by_the_routes() {
    let (_harness, config, policies) = configured(Harness::new().await.keeping("kept_*")).await;
    let with = |request: &'static str, role: &'static str| {
        let config = config.clone();
        async move { explain_json(&["--config", &config, "--request", request, "--roles", role]).await }
    };
    for (request, role, action, kind, id) in [
        ("GET /exporters/locked/any?x=1", "scrape", "Exporter.Scrape", "exporter", "locked"),
        (
            "POST /v1/projects/p/locations/us-central1/endpoints/1:predict",
            "infer",
            "PredictionService.Predict",
            "vertex",
            ENDPOINT,
        ),
        ("POST /api/v1/write", "ingest", "RemoteWrite.Write", "service", "write"),
        ("GET https://gate.example/sd", "scrape", "Exporter.Discover", "service", "sd"),
    ] {
        let (code, told) = with(request, role).await;
        assert_eq!(code, 0, "{request}: {told}");
        let expected = (&json!(action), &json!({ "kind": kind, "id": id }));
        assert_eq!((&told["action"], &told["resource"]), expected, "{request}");
    }
    for (request, expected) in [
        ("GET /nowhere", "404 (unknown_route)"),
        ("POST /google.cloud.aiplatform.v1.PredictionService/Predict", "--action PredictionService.Predict"),
        ("DELETE /exporters/app/metrics", "405 (method_not_allowed)"),
        ("GET /exporters/app/a%2fb", "400 ("),
        ("POST /v1/projects/p/locations/us-central1/endpoints/1:fly", "404 (unknown_method)"),
        ("/exporters/app", "is no request"),
    ] {
        let (code, _, err) = explain(&["--config", &config, "--request", request, "--roles", "scrape"]).await;
        assert_eq!(code, 2, "{request}: {err}");
        assert!(err.contains(expected), "{request}: `{expected}` is not in {err}");
    }
    let (code, _, err) = explain(&["--policies", &policies, "--request", "GET /sd", "--roles", "scrape"]).await;
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("`--request` needs `--config FILE`"), "{err}");
}

#[tokio::test]
async fn the_shadow_decision_is_explained_too() {
    let (harness, config, _) = configured(Harness::new().await).await;
    std::fs::create_dir(harness.directory.join("policies/shadow")).unwrap();
    harness.directory.write("policies/shadow/a.cedar", "@id(\"none\") forbid (principal, action, resource);\n");
    let (code, out, _) = explain(&["--config", &config, "--request", "GET /sd", "--roles", "scrape"]).await;
    assert_eq!(code, 0, "{out}");
    has(&out, &["the shadow policies would deny it: a policy forbids it (by none); this differs"]);
}

#[tokio::test]
async fn wrong_usage_names_what_to_write() {
    let (_harness, config, policies) = configured(Harness::new().await).await;
    let scrape = ["--action", "Exporter.Scrape", "--exporter", "app"];
    let who = ["--policies", &*policies, "--roles", "scrape"];
    let directory = ["--policies", &*policies];
    for (arguments, expected) in [
        ([&who[..], &["--action", "predict", "--vertex", ENDPOINT]].concat(), "near it: "),
        ([&who[..], &["--action", "predict", "--vertex", ENDPOINT]].concat(), "PredictionService.Predict"),
        ([&who[..], &["--action", "Fly", "--exporter", "app"]].concat(), "an action is a method such as"),
        ([&who[..], &["--action", "infer", "--vertex", ENDPOINT]].concat(), "no action is called `infer`"),
        ([&who[..], &["--action", "Exporter.Scrape"]].concat(), "`--exporter NAME`"),
        ([&directory[..], &scrape].concat(), "say who is asking"),
        ([&directory[..], &scrape, &["--claims", "{"], &["--issuer", "corp"]].concat(), "no JSON object"),
        ([&directory[..], &scrape, &["--claims", "{}"]].concat(), "--issuer"),
        ([&who[..], &scrape, &["--claims", "{}", "--issuer", "corp"]].concat(), "cannot be used with"),
        ([&who[..], &scrape, &["--vertex", ENDPOINT]].concat(), "cannot be used with"),
        ([&who[..], &scrape, &["--peer", "nowhere"]].concat(), "--peer"),
        ([&who[..], &scrape, &["--active-role", "no role"]].concat(), "is no role"),
        ([&["--roles", "scrape"][..], &scrape].concat(), "--config"),
        (
            [&["--config", &*config, "--claims", "{}", "--issuer", "crop"][..], &scrape].concat(),
            "no issuer is called `crop`; there are: corp",
        ),
        ([&["--policies", "/nonexistent", "--roles", "scrape"][..], &scrape].concat(), "/nonexistent"),
        ([&directory[..], &scrape, &["--token", "/nonexistent", "--issuer", "a"]].concat(), "`/nonexistent`"),
    ] {
        let (code, _, err) = explain(&arguments).await;
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert!(err.contains(expected), "{arguments:?}: `{expected}` is not in:\n{err}");
    }
}
