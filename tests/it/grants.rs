//! Grants: requested by one principal, approved by another, valid on their resource only. Each refusal has its status,
//! reason and record.

use serde_json::{Value, json};

use crate::{
    exchange::{self, exchanged},
    refusals::refused,
    support::{
        Answer, Gate, Harness,
        call::Call,
        google::claims,
        program::run,
        shell::{CommandOutput, Shell},
    },
};

pub(crate) const PROTECTED_PATH: &str = "/exporters/app/metrics";
const PREDICT: &str = "/v1/projects/p/locations/us-central1/endpoints/1:predict";
pub(crate) const GRANTS: &str = "[grants]\ndirectory = \"grants\"";

pub(crate) async fn harness() -> Harness {
    Harness::new().await.section("grants", GRANTS)
}

/// The principals that may approve.
pub(crate) fn lead(gate: &Gate) -> String {
    gate.issuer.token("lead", &["approve"]).mint()
}

/// A call with this JSON.
pub(crate) fn json_call(gate: &Gate, path: &str, token: &str, body: &Value) -> Call {
    gate.post(path).bearer(token).header("content-type", "application/json").body(body.to_string())
}

/// A request for this role there.
pub(crate) fn wish(role: &str, resource: &str, duration: &str) -> Value {
    json!({ "role": role, "resource": resource, "for": duration, "reason": "an incident" })
}

/// Asks, and gives the answer and the grant's id.
pub(crate) async fn asked(gate: &Gate, token: &str, wish: &Value) -> (Answer, String) {
    let answer = json_call(gate, "/grants", token, wish).send().await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    (answer, id)
}

pub(crate) fn answering(gate: &Gate, token: &str, id: &str, verb: &str) -> Call {
    json_call(gate, &format!("/grants/{id}:{verb}"), token, &json!({}))
}

/// Approves, denies or revokes.
pub(crate) async fn done(gate: &Gate, token: &str, id: &str, verb: &str) -> Answer {
    let answer = answering(gate, token, id, verb).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// The role on the resource, granted to the token's principal; gives the grant's id.
pub(crate) async fn granted(gate: &Gate, token: &str, wish: &Value) -> String {
    let (_, id) = asked(gate, token, wish).await;
    done(gate, &lead(gate), &id, "approve").await;
    id
}

async fn status(gate: &Gate, path: &str, token: &str) -> u16 {
    gate.get(path).bearer(token).send().await.status.as_u16()
}

/// What `GET /grants` shows, by id.
pub(crate) async fn listed(gate: &Gate, token: &str) -> Vec<(String, String)> {
    let answer = gate.get("/grants").bearer(token).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    answer.json()["grants"].as_array().unwrap().iter().map(|g| (text(&g["id"]), text(&g["state"]))).collect()
}

#[tokio::test]
async fn a_role_is_requested_approved_used_and_revoked() {
    let gate = harness().await.start().await;
    let tester = gate.token("observe");
    let lead = lead(&gate);
    refused(&gate, gate.get(PROTECTED_PATH).bearer(&tester), 403, "not_permitted").await;
    let (answer, id) = asked(&gate, &tester, &wish("scrape", "exporter/app", "2h")).await;
    let record = gate.record(&answer.id()).await;
    assert_eq!((&record["action"], &record["resource"]), (&"Grant.Request".into(), &id.as_str().into()), "{record}");
    let note = json!({
        "id": id, "asker": "corp:tester", "role": "scrape", "resource": "exporter/app", "reason": "an incident",
        "seconds": 7200,
    });
    assert_eq!((&record["grant"], &record["status"]), (&note, &201.into()), "{record}");
    assert!(gate.permitted(&answer.id()), "it was kept without a permit");
    refused(&gate, gate.get(PROTECTED_PATH).bearer(&tester), 403, "not_permitted").await;

    let approval = done(&gate, &lead, &id, "approve").await;
    let grant = approval.json();
    assert_eq!((&grant["state"], &grant["approved"]["by"]), (&"approved".into(), &"corp:lead".into()), "{grant}");
    let record = gate.record(&approval.id()).await;
    assert_eq!((&record["action"], &record["principal"]), (&"Grant.Approve".into(), &"corp:lead".into()), "{record}");
    assert_eq!(record["grant"]["until"], grant["approved"]["until"], "{record}");

    let page = gate.get(PROTECTED_PATH).bearer(&tester).send().await;
    assert_eq!(page.status, 200, "{page:?}");
    let record = gate.record(&page.id()).await;
    assert_eq!((&record["grants"], &record["roles"]), (&json!([id]), &json!(["observe", "scrape"])), "{record}");
    // on that resource only, for that principal only
    refused(&gate, gate.get("/exporters/locked/metrics").bearer(&tester), 403, "not_permitted").await;
    let other = gate.issuer.token("other", &["observe"]).mint();
    let (_, record) = refused(&gate, gate.get(PROTECTED_PATH).bearer(&other), 403, "not_permitted").await;
    assert_eq!(record["grants"], Value::Null, "{record}");

    let revoked = done(&gate, &lead, &id, "revoke").await;
    assert_eq!(gate.record(&revoked.id()).await["action"], "Grant.Revoke");
    refused(&gate, gate.get(PROTECTED_PATH).bearer(&tester), 403, "not_permitted").await;
    refused(&gate, answering(&gate, &lead, &id, "approve"), 409, "grant_state").await;
    assert_eq!(listed(&gate, &tester).await, [(id, "revoked".into())]);
}

#[tokio::test]
async fn a_grant_on_an_endpoint_opens_that_endpoint() {
    let gate = harness().await.start().await;
    let tester = gate.token("observe");
    let endpoint = "projects/p/locations/us-central1/endpoints/1";
    let predict = |path: &str| gate.post(path).bearer(&tester).header("content-type", "application/json").body("{}");
    refused(&gate, predict(PREDICT), 403, "not_permitted").await;
    let id = granted(&gate, &tester, &wish("infer", endpoint, "1h")).await;
    let answer = predict(PREDICT).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["grants"], json!([id]));
    refused(&gate, predict(&PREDICT.replace("/1:", "/2:")), 403, "not_permitted").await;
    granted(&gate, &tester, &wish("infer", "projects/p/locations/us-central1/*", "1h")).await;
    assert_eq!(predict(&PREDICT.replace("/1:", "/2:")).send().await.status, 200);
}

#[tokio::test]
async fn a_requester_cannot_approve_its_own_grant() {
    // policies permit everything to every principal
    let harness = harness().await;
    harness.directory.write("policies/wicketgate.cedar", "@id(\"all\")\npermit (principal, action, resource);\n");
    let gate = harness.start().await;
    let tester = gate.token("observe");
    let (_, id) = asked(&gate, &tester, &wish("approve", "exporter/app", "1h")).await;
    let (_, record) = refused(&gate, answering(&gate, &tester, &id, "approve"), 403, "own_grant").await;
    assert_eq!((&record["grant"]["id"], &record["decision"]), (&id.into(), &"allow".into()), "{record}");

    // and the shipped policies forbid it besides
    let gate = self::harness().await.start().await;
    let both = gate.issuer.token("both", &["approve"]).mint();
    let (_, id) = asked(&gate, &both, &wish("scrape", "exporter/app", "1h")).await;
    let (_, record) = refused(&gate, answering(&gate, &both, &id, "approve"), 403, "forbidden").await;
    assert_eq!(record["policies"], json!(["grant-own"]), "{record}");
    refused(&gate, gate.get(PROTECTED_PATH).bearer(&both), 403, "not_permitted").await;
}

#[tokio::test]
async fn policy_decides_on_requests_and_approvals() {
    let harness = harness().await;
    let shipped = std::fs::read_to_string(harness.directory.join("policies/wicketgate.cedar")).unwrap();
    let leads = "@id(\"leads\") permit (principal in Role::\"train\", action == Action::\"Grant.Approve\", resource)\n\
                 when { resource.role == \"scrape\" && resource.resource == \"exporter/app\" && resource.seconds <= 3600\n\
                 && resource.asker.issuer == \"corp\" };\n\
                 @id(\"never\") forbid (principal, action == Action::\"Grant.Request\", resource)\n\
                 when { resource.role == \"administer\" };\n";
    harness.directory.write("policies/wicketgate.cedar", format!("{shipped}{leads}"));
    let gate = harness.start().await;
    let tester = gate.token("observe");
    let train = gate.issuer.token("trainer", &["train"]).mint();
    let ask = |wish: Value| json_call(&gate, "/grants", &tester, &wish);
    refused(&gate, ask(wish("administer", "exporter/app", "1h")), 403, "forbidden").await;
    let nobody = gate.issuer.token("nobody", &[]).mint();
    refused(&gate, json_call(&gate, "/grants", &nobody, &wish("scrape", "exporter/app", "1h")), 403, "not_permitted")
        .await;
    let (_, small) = asked(&gate, &tester, &wish("scrape", "exporter/app", "1h")).await;
    let (_, long) = asked(&gate, &tester, &wish("scrape", "exporter/app", "2h")).await;
    let (_, other) = asked(&gate, &tester, &wish("scrape", "exporter/locked", "1h")).await;
    for id in [&long, &other] {
        for verb in ["approve", "deny", "revoke"] {
            refused(&gate, answering(&gate, &train, id, verb), 403, "not_permitted").await;
        }
    }
    // each sees its own, and what it decides on
    assert_eq!(listed(&gate, &train).await, [(small.clone(), "pending".into())]);
    assert_eq!(listed(&gate, &tester).await.len(), 3);
    assert_eq!(listed(&gate, &nobody).await, []);
    assert_eq!(listed(&gate, &lead(&gate)).await.len(), 3);
    done(&gate, &train, &small, "approve").await;
    assert_eq!(status(&gate, PROTECTED_PATH, &tester).await, 200);
}

#[tokio::test]
async fn an_invalid_request_is_refused_with_what_to_write() {
    let gate = harness().await.start().await;
    let tester = gate.token("observe");
    let good = wish("scrape", "exporter/app", "1h");
    let bent = |name: &str, value: Value| {
        let mut wish = good.clone();
        wish[name] = value;
        wish
    };
    for (wish, reason, remedy) in [
        (bent("role", "".into()), "grant_role", "the name of a role"),
        (bent("role", "a b".into()), "grant_role", "the name of a role"),
        (bent("role", "scrape\u{202e}".into()), "grant_role", "the name of a role"),
        (bent("resource", "app".into()), "grant_resource", "exporter/NAME"),
        (bent("resource", "exporter/../app".into()), "grant_resource", "exporter/NAME"),
        (bent("for", "soon".into()), "grant_duration", "`2h`"),
        (bent("for", "0s".into()), "grant_duration", "`2h`"),
        (bent("for", "-1h".into()), "grant_duration", "`2h`"),
        (bent("for", "9h".into()), "grant_duration", "at most 28800 s"),
        (bent("reason", "  ".into()), "grant_reason", "explains the request"),
        (bent("reason", "a\nb".into()), "grant_reason", "one line"),
        (bent("reason", "x".repeat(501).into()), "grant_reason", "500 bytes"),
        (bent("by", "me".into()), "not_a_grant", "\"reason\""),
        (json!([]), "not_a_grant", "\"reason\""),
    ] {
        let (answer, _) = refused(&gate, json_call(&gate, "/grants", &tester, &wish), 400, reason).await;
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(remedy), "{detail}");
    }
    let form = gate.post("/grants").bearer(&tester).header("content-type", "text/plain").body(good.to_string());
    refused(&gate, form, 415, "not_json").await;
    let large = json_call(&gate, "/grants", &tester, &bent("reason", "x".repeat(9000).into()));
    refused(&gate, large, 413, "body_too_large").await;
    let own = json_call(&gate, "/grants", &tester, &bent("role", "observe".into()));
    refused(&gate, own, 409, "role_held").await;
    refused(&gate, json_call(&gate, "/grants", "no-token", &good), 401, "token_malformed").await;
    let nobodys = uuid::Uuid::now_v7().to_string();
    refused(&gate, answering(&gate, &lead(&gate), &nobodys, "approve"), 404, "unknown_grant").await;
    refused(&gate, gate.call(http::Method::DELETE, "/grants").bearer(&tester), 405, "method_not_allowed").await;
    assert_eq!(listed(&gate, &tester).await, []);

    // a few wait, not any number
    for _ in 0..20 {
        asked(&gate, &tester, &good).await;
    }
    refused(&gate, json_call(&gate, "/grants", &tester, &good), 409, "grants_pending").await;
    let (_, id) = asked(&gate, &gate.issuer.token("other", &["observe"]).mint(), &good).await;
    let longer = json_call(&gate, &format!("/grants/{id}:approve"), &lead(&gate), &json!({ "for": "2h" }));
    refused(&gate, longer, 400, "grant_duration").await;
}

#[tokio::test]
async fn a_granted_role_is_separated_like_any_other() {
    let gate = harness().await.start().await;
    let ingest = gate.token("ingest");
    let observe = gate.token("observe");
    let endpoint = "projects/p/locations/us-central1/endpoints/1";
    let infer = wish("infer", endpoint, "1h");
    let (answer, _) = refused(&gate, json_call(&gate, "/grants", &ingest, &infer), 403, "separation_of_duty").await;
    assert!(answer.json()["detail"].as_str().unwrap().contains("combined with `ingest`"), "{answer:?}");

    // nor are both asked for in turn
    let (_, id) = asked(&gate, &observe, &infer).await;
    let both = wish("ingest", "projects/p/locations/us-central1/*", "1h");
    refused(&gate, json_call(&gate, "/grants", &observe, &both), 403, "separation_of_duty").await;
    done(&gate, &lead(&gate), &id, "approve").await;
    let predict = |token: &str| gate.post(PREDICT).bearer(token).body("{}");
    assert_eq!(predict(&observe).send().await.status, 200);

    // the same principal comes with another role: the decision itself refuses
    let (_, record) = refused(&gate, predict(&ingest), 403, "separation_of_duty").await;
    assert!(record["detail"].as_str().unwrap().contains("a grant gives `infer`"), "{record}");
    assert_eq!((&record["grants"], &record["decision"]), (&json!([id]), &"deny".into()), "{record}");
}

#[tokio::test]
async fn activating_another_role_does_not_bypass_separation() {
    let gate = exchange::harness().await.section("grants", GRANTS).start().await;
    let both = gate.issuer.token("tester", &["ingest", "observe"]).mint();
    let infer = wish("infer", "projects/p/locations/us-central1/endpoints/1", "1h");
    let narrowed = json_call(&gate, "/grants", &both, &infer).header("x-wicketgate-role", "observe");
    let (answer, _) = refused(&gate, narrowed, 403, "separation_of_duty").await;
    assert!(answer.json()["detail"].as_str().unwrap().contains("combined with `ingest`"), "{answer:?}");

    // nor is a token of the gate that carries the other role alone
    let given = exchange::ask(&gate, &exchange::good(&both, exchange::URL)).header("x-wicketgate-role", "observe");
    let given = given.send().await;
    assert_eq!(given.status, 200, "{given:?}");
    let given = given.json();
    let own = given["access_token"].as_str().unwrap();
    assert_eq!(
        (&claims(own)["roles"], &claims(own)["held_roles"]),
        (&json!(["observe"]), &json!(["ingest", "observe"]))
    );
    refused(&gate, json_call(&gate, "/grants", own, &infer), 403, "separation_of_duty").await;
    // not when it is given again, and not where the grant was had with a token that says less
    let (_, again) = exchanged(&gate, own, exchange::URL).await;
    let id = granted(&gate, &gate.token("observe"), &infer).await;
    for token in [own, again["access_token"].as_str().unwrap()] {
        let (_, record) = refused(&gate, gate.post(PREDICT).bearer(token).body("{}"), 403, "separation_of_duty").await;
        assert_eq!((&record["grants"], &record["roles"]), (&json!([id]), &json!(["infer", "ingest", "observe"])));
        assert_eq!(listed(&gate, token).await, [(id.clone(), "approved".into())]);
    }
}

#[tokio::test]
async fn a_grant_is_not_approved_once_its_role_became_separated() {
    let gate = harness().await.start().await;
    let (_, id) = asked(&gate, &gate.token("observe"), &wish("scrape", "exporter/app", "1h")).await;
    let roles = std::fs::read_to_string(gate.directory.join("policies/roles.toml")).unwrap();
    let apart = "static = [[\"ingest\", \"infer\"], [\"observe\", \"scrape\"]]";
    gate.directory.write("policies/roles.toml", roles.replace("static = [[\"ingest\", \"infer\"]]", apart));
    crate::support::eventually("the reload", || async {
        (gate.metric("wicketgate_config_last_reload_success_timestamp_seconds").await > 0.0
            && gate.program.lines().iter().any(|line| line.contains("was reloaded")))
        .then_some(())
    })
    .await;
    refused(&gate, answering(&gate, &lead(&gate), &id, "approve"), 403, "separation_of_duty").await;
}

#[tokio::test]
async fn a_token_of_the_gate_carries_no_granted_role() {
    let harness = exchange::harness().await.section("grants", GRANTS);
    let config = harness.config();
    let exporters = config[config.find("[[exporter]]").unwrap()..].split("[vertex]").next().unwrap().to_owned();
    let told = exporters.replacen("name = \"app\"\n", "name = \"app\"\nassertion = true\n", 1);
    let gate = harness.section("exporter", told).start().await;
    let tester = gate.token("observe");
    let id = granted(&gate, &tester, &wish("scrape", "exporter/app", "90s")).await;
    let (_, given) = exchanged(&gate, &tester, exchange::URL).await;
    let own = given["access_token"].as_str().unwrap();
    assert_eq!(claims(own)["roles"], json!(["observe"]));
    assert_eq!(status(&gate, PROTECTED_PATH, &tester).await, 200);
    let assertion = claims(gate.app.last().header("x-wicketgate-assertion"));
    assert_eq!(assertion["roles"], json!(["observe", "scrape"]), "{assertion}");
    let lives = assertion["exp"].as_i64().unwrap() - assertion["iat"].as_i64().unwrap();
    assert!(lives <= 90, "an assertion outlives the grant: {assertion}");
    done(&gate, &lead(&gate), &id, "revoke").await;
    for token in [own, &tester] {
        refused(&gate, gate.get(PROTECTED_PATH).bearer(token), 403, "not_permitted").await;
    }
}

#[tokio::test]
async fn without_the_section_there_are_no_grants() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("observe");
    for call in [gate.get("/grants"), gate.post("/grants").body("{}")] {
        let (answer, _) = refused(&gate, call.bearer(&token), 404, "unknown_route").await;
        assert!(answer.json()["detail"].as_str().unwrap().contains("[grants]"), "{answer:?}");
    }
}

#[tokio::test]
async fn an_inconsistent_section_names_what_to_write() {
    for (line, key, remedy) in [
        ("max_duration = \"9000h\"", "max_duration", "roles.toml"),
        ("max_staleness = \"10s\"", "max_staleness", "no effect"),
        ("dir = \"x\"", "dir", "directory"),
        ("nats = {}", "nats.url", "tls://"),
        ("nats = { url = \"nats://nats.example:4222\" }", "nats.url", "tls://"),
        ("nats = { url = \"https://nats.example\" }", "nats.url", "tls://"),
        ("nats = { url = \"tls://me:secret@nats.example\" }", "nats.url", "`token`"),
        ("nats = { url = \"tls://n.example\" }\ndirectory = \"x\"", "directory", "no effect"),
        ("nats = { url = \"nats://127.0.0.1\", ca = \"ca.pem\" }", "nats.ca", "no effect"),
        ("nats = { url = \"tls://n.example\", ca = \"absent.pem\" }", "nats.ca", "absent.pem"),
        ("nats = { url = \"tls://n.example\", bucket = \"a.b\" }", "nats.bucket", "letters"),
        ("nats = { url = \"tls://n.example\", user = \"me\" }", "nats.token", "`password`"),
        ("nats = { url = \"tls://n.example\", max_staleness = \"1s\" }", "nats.max_staleness", "unknown"),
        ("nats = { url = \"tls://n.example\" }\nmax_staleness = \"100ms\"", "max_staleness", "one second"),
    ] {
        let harness = Harness::new().await.section("grants", format!("[grants]\n{line}"));
        harness.directory.write("wicketgate.toml", harness.config());
        let output = run(&["check", "--config", harness.directory.join("wicketgate.toml").to_str().unwrap()]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        let told = said.lines().find(|said| said.contains(&format!("grants.{key}`")));
        assert!(told.is_some_and(|told| told.contains(remedy)), "{line}: {said}");
    }
}

/// The command line with this token.
async fn grant(gate: &Gate, shell: &Shell, token: &str, arguments: &[&str]) -> CommandOutput {
    shell.directory.write("token", token);
    let url = format!("https://localhost:{}", gate.address().port());
    let mut command = shell.command("grant");
    command.args(arguments).args(["--gate", &url, "--token-file", "token", "--ca"]).arg(gate.directory.join("ca.pem"));
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    CommandOutput { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

#[tokio::test]
async fn the_whole_life_of_a_grant_works_from_the_command_line() {
    let gate = harness().await.start().await;
    let shell = Shell::new();
    let tester = gate.token("observe");
    let lead = lead(&gate);
    let request =
        ["request", "--role", "scrape", "--resource", "exporter/app", "--for", "2h", "--reason", "an incident"];
    let said = grant(&gate, &shell, &tester, &request).await;
    assert_eq!(said.code, 0, "{said:?}");
    let id = said.out.split_whitespace().next().unwrap().to_owned();
    assert_eq!(said.out, format!("{id}  pending    corp:tester: scrape on exporter/app for 2h (an incident)"));
    assert_eq!(grant(&gate, &shell, &lead, &["list", "--pending"]).await.out, said.out);

    let said = grant(&gate, &shell, &tester, &["approve", &id]).await;
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    assert!(said.err.contains("403") && said.err.contains("Grant.Approve"), "{said:?}");
    let said = grant(&gate, &shell, &lead, &["approve", &id, "--for", "30m", "--json"]).await;
    let approved: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(approved["state"], "approved", "{said:?}");
    assert_eq!(status(&gate, PROTECTED_PATH, &tester).await, 200);
    let said = grant(&gate, &shell, &lead, &["revoke", &id]).await;
    assert!(said.code == 0 && said.out.contains("revoked") && said.out.contains("by corp:lead"), "{said:?}");
    assert_eq!(status(&gate, PROTECTED_PATH, &tester).await, 403);

    let (_, other) = asked(&gate, &tester, &wish("scrape", "exporter/app", "1h")).await;
    let said = grant(&gate, &shell, &lead, &["deny", &other]).await;
    assert!(said.code == 0 && said.out.contains("denied"), "{said:?}");
    let (_, third) = asked(&gate, &tester, &wish("scrape", "exporter/app", "1h")).await;
    let said = grant(&gate, &shell, &tester, &["revoke", &third]).await;
    assert!(said.code == 0 && said.out.contains("withdrawn"), "{said:?}");
    assert_eq!(grant(&gate, &shell, &lead, &["list", "--pending"]).await.err, "no grants");

    for wrong in [&["approve", "../sd"][..], &["list", "--token-file", "absent"], &["request"]] {
        let said = grant(&gate, &shell, &lead, wrong).await;
        assert_eq!(said.code, 2, "{wrong:?}: {said:?}");
    }
    let said = shell.run("grant list --gate http://gate.example --token-file token").await;
    assert_eq!((said.code, said.err.contains("https")), (2, true), "{said:?}");
    let said = shell.run("grant list --gate https://gate.example").await;
    assert!(said.code == 1 && said.err.contains("wicketgate login"), "{said:?}");
}
