//! `wicketgate policy diff`: the audit log of a real gate is replayed against two policy sets, and exactly the changed
//! decisions are listed.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use crate::{
    certificates::listen,
    support::{
        Gate, Harness,
        call::Call,
        clients::{CertificateAuthority, Draft},
        harness::Directory,
        program::run,
    },
};

const PREDICT: &str = "/v1/projects/p/locations/us-central1/endpoints/1:predict";
const BODY: &str = r#"{"instances":[{"input":[1,2,3],"horizon":2}]}"#;

/// What the program said: exit code, standard output, standard error.
async fn diff(arguments: &[&str]) -> (i32, String, String) {
    let output = run(&[&["policy", "diff"], arguments].concat()).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// The same as JSON, with the exit code.
async fn diff_json(arguments: &[&str]) -> (i32, Value) {
    let (code, out, err) = diff(&[arguments, &["--json"]].concat()).await;
    (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("not JSON ({e}): {out}{err}")))
}

/// A copy of the gate's policies under this name, with `replace` done to its `wicketgate.cedar`.
fn policies(directory: &Directory, name: &str, replace: &[(&str, &str)]) -> String {
    let from = directory.join("policies");
    let to = directory.join(name);
    std::fs::create_dir_all(&to).unwrap();
    for file in ["roles.toml", "wicketgate.cedar", "wicketgate.cedarschema"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let text = std::fs::read_to_string(to.join("wicketgate.cedar")).unwrap();
    let changed = replace.iter().fold(text, |text, (old, new)| {
        assert!(text.contains(old), "the shipped policies have no `{old}`");
        text.replace(old, new)
    });
    std::fs::write(to.join("wicketgate.cedar"), changed).unwrap();
    to.to_str().unwrap().to_owned()
}

/// Requests of every kind; waits until all are in the log.
async fn traffic(gate: &Gate) {
    let scrape = gate.token("scrape");
    let infer = gate.token("infer");
    let both = gate.issuer.token("both", &["scrape", "observe"]).mint();
    for (call, status) in [
        (gate.get("/exporters/app/metrics").bearer(&scrape), 200),
        (gate.get("/exporters/app/metrics").bearer(&scrape), 200),
        (gate.get("/exporters/locked/metrics").bearer(&scrape), 200),
        (gate.get("/exporters/locked/metrics").bearer(&both).header("X-Wicketgate-Role", "scrape"), 200),
        (gate.get("/exporters/app/metrics").bearer(&infer), 403),
        (gate.post(PREDICT).bearer(&infer).body(BODY), 200),
        (gate.post(PREDICT).bearer(&scrape).body(BODY), 403),
        (gate.get("/sd").bearer(&scrape), 200),
        (gate.get("/exporters/app/metrics"), 401),
        (gate.get("/nowhere").bearer(&scrape), 404),
    ] {
        let answer = call.send().await;
        assert_eq!(answer.status, status, "{answer:?}");
        gate.record(&answer.id()).await;
    }
}

#[tokio::test]
async fn exactly_the_changed_decisions_of_real_traffic_are_listed() {
    let gate = Harness::new().await.start().await;
    traffic(&gate).await;
    let old = policies(&gate.directory, "old", &[]);
    let narrow = "permit (principal in Role::\"scrape\", action in Action::\"scrape\", resource)\n\
                  unless { resource == Exporter::\"locked\" };";
    let opened = "@id(\"infer-reads\") permit (principal in Role::\"infer\", action == Action::\"Exporter.Scrape\", \
                  resource == Exporter::\"app\");\n@id(\"small\") forbid (principal, action == \
                  Action::\"PredictionService.Predict\", resource) when { context has size && context.size > 20 };";
    let scrape = "permit (principal in Role::\"scrape\", action in Action::\"scrape\", resource);";
    let new = policies(&gate.directory, "new", &[(scrape, &format!("{narrow}\n{opened}"))]);
    let log = gate.audit_file();
    let log = log.to_str().unwrap();

    let (code, told) = diff_json(&[&old, &new, "--against", log]).await;
    assert_eq!(code, 1, "{told}");
    let told_of = |change: &Value| {
        let seen = &change["seen"];
        let change = &change["change"];
        let of = |key: &str| change[key].as_str().unwrap().to_owned();
        let side = |side: &Value| (side["allowed"].as_bool().unwrap(), side["policies"].clone());
        (
            of("principal"),
            of("action"),
            of("resource"),
            side(&change["old"]),
            side(&change["new"]),
            seen["count"].clone(),
        )
    };
    let changes: Vec<_> = told["changes"].as_array().unwrap().iter().map(told_of).collect();
    let expected = |who: &str, action: &str, on: &str, old: (bool, Value), new: (bool, Value), count: i32| {
        (who.to_owned(), action.to_owned(), on.to_owned(), old, new, json!(count))
    };
    let endpoint = "projects/p/locations/us-central1/endpoints/1";
    let read = "Exporter.Scrape";
    assert_eq!(
        changes,
        [
            expected("corp:both", read, "locked", (true, json!(["scrape"])), (false, json!([])), 1),
            expected("corp:tester", read, "app", (false, json!([])), (true, json!(["infer-reads"])), 1),
            expected("corp:tester", read, "locked", (true, json!(["scrape"])), (false, json!([])), 1),
            expected(
                "corp:tester",
                "PredictionService.Predict",
                endpoint,
                (true, json!(["infer"])),
                (false, json!(["small"])),
                1
            ),
        ]
    );
    let replay = &told["replay"];
    assert_eq!((&replay["replayed"], &replay["refused_before"]), (&json!(8), &json!(2)), "{replay}");
    for none in ["unlike_record", "incomplete", "unreadable", "lost"] {
        assert_eq!(replay[none], 0, "{none}: {replay}");
    }

    // for people
    let (code, out, _) = diff(&[&old, &new, "--against", log]).await;
    assert_eq!(code, 1, "{out}");
    for line in [
        "~ policy scrape (",
        "+ policy infer-reads (",
        "corp:tester  Exporter.Scrape on locked",
        "    allow (by scrape) -> deny (not_permitted); once, ",
        "    deny (not_permitted) -> allow (by infer-reads); once, ",
        "8 requests replayed, 4 of them decided otherwise",
        "2 refused before policy was asked",
    ] {
        assert!(out.contains(line), "`{line}` is not in:\n{out}");
    }

    // the same policies change nothing
    let (code, told) = diff_json(&[&old, &old, "--against", log]).await;
    assert_eq!((code, &told["changes"], &told["replay"]["unlike_record"]), (0, &json!([]), &json!(0)), "{told}");
    // and an old set that was not served is told
    let (_, told) = diff_json(&[&new, &new, "--against", log]).await;
    assert_eq!(told["replay"]["unlike_record"], 4, "{told}");
}

#[tokio::test]
async fn labels_of_exporters_are_those_of_the_configuration() {
    let gate = Harness::new().await.start().await;
    traffic(&gate).await;
    let old = policies(&gate.directory, "old", &[]);
    let scrape = "permit (principal in Role::\"scrape\", action in Action::\"scrape\", resource);";
    let log = gate.audit_file();
    let log = log.to_str().unwrap();
    let by_label =
        "permit (principal in Role::\"scrape\", action, resource is Exporter) when { resource.hasTag(\"team\") };";
    let tagged = policies(&gate.directory, "tagged", &[(scrape, by_label)]);
    let config = gate.directory.join("wicketgate.toml");
    for (more, expected) in
        [(&["--config", config.to_str().unwrap()][..], &["locked", "sd"][..]), (&[], &["app", "locked", "sd"])]
    {
        let (_, told) = diff_json(&[&[&*old, &tagged, "--against", log], more].concat()).await;
        let changes = told["changes"].as_array().unwrap();
        let resources: BTreeSet<_> =
            changes.iter().filter_map(|change| change["change"]["resource"].as_str()).collect();
        assert_eq!(resources.into_iter().collect::<Vec<_>>(), expected, "{told}");
    }
}

#[tokio::test]
async fn a_record_holds_the_whole_policy_context() {
    const ROBOT: &str = "spiffe://example.org/robot";
    let harness = Harness::new().await;
    let authority = CertificateAuthority::new();
    authority.write(&harness.directory, "clients.pem");
    let infer = "permit (principal in Role::\"infer\", action in Action::\"infer\", resource);";
    let narrow = |size: u32| {
        format!(
            "permit (principal in Role::\"infer\", action in Action::\"infer\", resource) when {{ context.tls && \
             context.method == \"POST\" && context.peer.isLoopback() && context.time > datetime(\"2020-01-01\") && \
             context has size && context.size < {size} && context has certificate && \
             context.certificate.uris.contains(\"{ROBOT}\") }};"
        )
    };
    let clients = "client_certificates = \"optional\", client_ca = \"clients.pem\"";
    let harness = harness.section("listen", listen(clients));
    let served = policies(&harness.directory, "served", &[(infer, &narrow(100))]);
    let gate = harness.section("policy", "[policy]\ndirectory = \"served\"").start().await;
    let robot = authority.issue(Draft::spiffe(ROBOT));
    let other = authority.issue(Draft::spiffe("spiffe://example.org/other"));
    let long = BODY.replace("[1,2,3]", &format!("[{}1]", "1,".repeat(50)));
    for (door, body, status) in [
        (robot.door(&gate, b"http/1.1"), BODY, 200),
        (robot.door(&gate, b"http/1.1"), &long, 403),
        (other.door(&gate, b"http/1.1"), BODY, 403),
        (gate.door(0, b"http/1.1"), BODY, 403),
    ] {
        let call = Call::new(door, Method::POST, PREDICT).bearer(&gate.token("infer")).body(body.to_owned());
        let answer = call.send().await;
        assert_eq!(answer.status, status, "{answer:?}");
        gate.record(&answer.id()).await;
    }
    let log = gate.audit_file();
    let log = log.to_str().unwrap();
    let (code, told) = diff_json(&[&served, &served, "--against", log]).await;
    let replay = &told["replay"];
    assert_eq!((code, &replay["replayed"], &replay["unlike_record"]), (0, &json!(4), &json!(0)), "{told}");
    let new = policies(&gate.directory, "new", &[(infer, &narrow(10))]);
    let (_, told) = diff_json(&[&served, &new, "--against", log]).await;
    let counts: Vec<&Value> =
        told["changes"].as_array().unwrap().iter().map(|change| &change["seen"]["count"]).collect();
    assert_eq!(counts, [&json!(1)], "{told}");
}

#[tokio::test]
async fn changed_role_rules_are_reported_and_separation_is_checked_again() {
    let gate = Harness::new().await.start().await;
    let both = gate.issuer.token("both", &["scrape", "observe"]).mint();
    for role in [None, Some("scrape")] {
        let call = gate.get("/exporters/app/metrics").bearer(&both);
        let call = role
            .map_or(call, |role| gate.get("/exporters/app/metrics").bearer(&both).header("X-Wicketgate-Role", role));
        let answer = call.send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let record = gate.record(&answer.id()).await;
        assert_eq!(record["held_roles"], role.map_or(Value::Null, |_| json!(["observe", "scrape"])), "{record}");
        assert_eq!(record["active_role"], role.map_or(Value::Null, |role| json!(role)), "{record}");
    }
    let old = policies(&gate.directory, "old", &[]);
    let new = policies(&gate.directory, "new", &[]);
    let roles = std::fs::read_to_string(gate.directory.join("policies/roles.toml")).unwrap();
    let (before, _) = roles.split_once("[separation_of_duty]").unwrap();
    let roles = before.replace("value = \"infer\"", "value = \"inference\"");
    gate.directory
        .write("new/roles.toml", format!("{roles}[separation_of_duty]\nstatic = [[\"scrape\", \"observe\"]]\n"));
    let log = gate.audit_file();
    let (code, out, _) = diff(&[&old, &new, "--against", log.to_str().unwrap()]).await;
    assert_eq!(code, 1, "{out}");
    for line in [
        "- rule role = \"infer\", issuers = [*], claim = \"roles\", value = \"infer\"",
        "+ rule role = \"infer\", issuers = [*], claim = \"roles\", value = \"inference\"",
        "- static separation of ingest, infer",
        "+ static separation of scrape, observe",
        "a log holds no claims",
        // the one that activated a role held both all the same
        "    allow (by scrape) -> deny (separation_of_duty); 2 times, ",
    ] {
        assert!(out.contains(line), "`{line}` is not in:\n{out}");
    }
}

#[tokio::test]
async fn a_tampered_log_is_replayed_only_with_a_flag() {
    let gate = Harness::new().await.start().await;
    traffic(&gate).await;
    let old = policies(&gate.directory, "old", &[]);
    let text = std::fs::read_to_string(gate.audit_file()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let first = lines.iter().position(|line| line.contains("\"event\":\"request\"")).unwrap();
    lines[first] = lines[first].replace("corp:tester", "corp:another");
    lines.push("no line at all".into());
    // as an older version wrote it
    let plain = lines.iter().find(|line| line.contains("PredictionService") && line.contains("not_permitted")).unwrap();
    lines.push(plain.replace("\"context\"", "\"c\""));
    gate.directory.write("changed.jsonl", lines.join("\n") + "\n");
    let log = gate.directory.join("changed.jsonl");
    let log = log.to_str().unwrap();

    let (code, out, err) = diff(&[&old, &old, "--against", log]).await;
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    assert!(err.contains(&format!("line {}: its hash", first + 1)) && err.contains("--unverified"), "{err}");

    let (code, told) = diff_json(&[&old, &old, "--against", log, "--unverified"]).await;
    assert_eq!(code, 0, "{told}");
    let replay = &told["replay"];
    assert_eq!((&replay["unreadable"], &replay["incomplete"]), (&json!(1), &json!(1)), "{replay}");
    assert_eq!((&replay["replayed"], &replay["lines"]), (&json!(8), &json!(lines.len())), "{replay}");
}

#[tokio::test]
async fn a_shadow_folder_is_a_new_set_by_itself() {
    let gate = Harness::new().await.start().await;
    traffic(&gate).await;
    std::fs::create_dir(gate.directory.join("policies/shadow")).unwrap();
    gate.directory.write("policies/shadow/a.cedar", "@id(\"none\") forbid (principal, action, resource);\n");
    let old = gate.directory.join("policies");
    let new = gate.directory.join("policies/shadow");
    let log = gate.audit_file();
    let old = old.to_str().unwrap().to_owned();
    let new = new.to_str().unwrap().to_owned();
    let (code, told) = diff_json(&[&old, &new, "--against", log.to_str().unwrap()]).await;
    assert_eq!(code, 1, "{told}");
    let count: i64 = told["changes"].as_array().unwrap().iter().map(|c| c["seen"]["count"].as_i64().unwrap()).sum();
    assert_eq!(count, 6, "{told}");
}

#[tokio::test]
async fn without_a_log_the_directories_are_compared() {
    let harness = Harness::new().await;
    let old = policies(&harness.directory, "old", &[]);
    let more = "@id(\"home\")\npermit";
    let new = policies(&harness.directory, "new", &[(more, "@id(\"start\")\n// moved\npermit")]);
    let (code, out, _) = diff(&[&old, &new]).await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("- policy home (") && out.contains("+ policy start ("), "{out}");
    assert_eq!(out.lines().count(), 2, "{out}");
    let (code, out, _) = diff(&[&old, &old]).await;
    assert_eq!((code, out.trim()), (0, "the policies, rules and separations are the same"));

    harness.directory.write("new/broken.cedar", "\npermit (principal, action == Action::\"Fly\", resource);\n");
    for (arguments, expected) in [
        (&[&*old, &new][..], "broken.cedar:2"),
        (&[&*old, "/nonexistent"], "`/nonexistent` is no directory"),
        (&[&*old], "<NEW>"),
        (&[&*old, &old, "--unverified"], "--against"),
        (&[&*old, &old, "--against", "/nonexistent"], "/nonexistent: not replayed: it cannot be read"),
    ] {
        let (code, _, err) = diff(arguments).await;
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert!(err.contains(expected), "{arguments:?}: `{expected}` is not in:\n{err}");
    }
}
