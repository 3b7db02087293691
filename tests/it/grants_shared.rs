//! Grants shared over NATS: every gate sees the same grants, and none if the store is out of reach.

use serde_json::json;

use crate::{
    grants::{PROTECTED_PATH, answering, asked, done, granted, json_call, lead, listed, wish},
    refusals::refused,
    streams::{Stream, read},
    support::{Gate, Harness, eventually, peers::Nats},
};

/// A gate that keeps its grants in NATS, and shows it this password.
async fn harness(nats: &Nats, stale: &str, password: &str) -> Harness {
    let address = nats.address;
    let user = Nats::USER;
    let harness = Harness::new().await.section(
        "grants",
        format!(
            "[grants]\nmax_staleness = \"{stale}\"\n\
             nats = {{ url = \"nats://{address}\", user = \"{user}\", password = {{ file = \"nats.password\" }} }}"
        ),
    );
    harness.directory.write("nats.password", password);
    harness
}

async fn start(nats: &Nats, stale: &str) -> Gate {
    let gate = harness(nats, stale, Nats::PASSWORD).await.start().await;
    in_sight(&gate).await;
    gate
}

/// A second gate that takes the first one's tokens, and has an exporter `stream` besides.
async fn beside(one: &Gate, nats: &Nats, stream: &Stream) -> Gate {
    let url = one.issuer.url();
    let issuer = format!("[[issuer]]\nname = \"corp\"\nissuer = \"{url}\"\naudiences = [\"wicketgate\"]");
    let exporter = format!("[[exporter]]\nname = \"stream\"\nurl = \"http://{}\"", stream.address);
    let harness = harness(nats, "60s", Nats::PASSWORD).await;
    let gate = harness.section("issuer", issuer).more("exporter", exporter).start().await;
    in_sight(&gate).await;
    gate
}

/// Waits until readiness has nothing to say about grants.
async fn in_sight(gate: &Gate) {
    eventually("the bucket to be followed", || async {
        (!gate.admin("/readyz").await.text().contains("grants")).then_some(())
    })
    .await;
}

async fn answers(gate: &Gate, token: &str, status: u16) {
    eventually(&format!("the room to answer {status}"), || async {
        (gate.get(PROTECTED_PATH).bearer(token).send().await.status.as_u16() == status).then_some(())
    })
    .await;
}

async fn knows(gate: &Gate, token: &str, expected: &[(String, String)]) {
    eventually(&format!("the gate to know {expected:?}"), || async {
        (listed(gate, token).await == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn grants_and_revocations_apply_at_every_gate() {
    let nats = Nats::start().await;
    let stream = Stream::start("text/event-stream").await;
    let one = start(&nats, "60s").await;
    let two = beside(&one, &nats, &stream).await;
    let tester = one.token("observe");
    let lead = lead(&one);
    let (_, id) = asked(&one, &tester, &wish("scrape", "exporter/*", "1h")).await;
    knows(&two, &tester, &[(id.clone(), "pending".into())]).await;
    done(&two, &lead, &id, "approve").await;
    // where it was approved at once, elsewhere in a moment
    assert_eq!(two.get(PROTECTED_PATH).bearer(&tester).send().await.status, 200);
    answers(&one, &tester, 200).await;

    let revoked = async {
        eventually("the stream to be open", || async { (stream.open() > 0).then_some(()) }).await;
        done(&one, &lead, &id, "revoke").await;
    };
    let ((status, request, _), ()) = tokio::join!(read(&two, &tester), revoked);
    assert_eq!(status, 200);
    stream.ends().await;
    let record = two.record(&request).await;
    assert_eq!((&record["reason"], &record["grants"]), (&"grant_ended".into(), &json!([id])), "{record}");
    refused(&one, one.get(PROTECTED_PATH).bearer(&tester), 403, "not_permitted").await;
    refused(&two, two.get(PROTECTED_PATH).bearer(&tester), 403, "not_permitted").await;
    assert_eq!(listed(&two, &tester).await, [(id, "revoked".into())]);
}

#[tokio::test]
async fn concurrent_changes_at_two_gates_have_one_winner() {
    let nats = Nats::start().await;
    let stream = Stream::start("text/event-stream").await;
    let one = start(&nats, "60s").await;
    let two = beside(&one, &nats, &stream).await;
    let tester = one.token("observe");
    let lead = lead(&one);
    for verbs in [["approve", "approve"], ["approve", "deny"], ["deny", "approve"], ["approve", "approve"]] {
        let (_, id) = asked(&one, &tester, &wish("scrape", "exporter/app", "1h")).await;
        eventually("the other gate to know", || async {
            listed(&two, &tester).await.iter().any(|(known, _)| *known == id).then_some(())
        })
        .await;
        let (a, b) =
            tokio::join!(answering(&one, &lead, &id, verbs[0]).send(), answering(&two, &lead, &id, verbs[1]).send());
        let mut statuses = [a.status.as_u16(), b.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{a:?} {b:?}");
        let (won, lost) = if a.status == 200 { (a, b) } else { (b, a) };
        assert_eq!(lost.json()["reason"], "grant_state", "{lost:?}");
        let state = won.json()["state"].as_str().unwrap().to_owned();
        for gate in [&one, &two] {
            eventually("both gates to agree", || async {
                listed(gate, &tester).await.contains(&(id.clone(), state.clone())).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn no_grant_applies_while_the_store_is_out_of_reach() {
    let mut nats = Nats::start().await;
    let stream = Stream::start("text/event-stream").await;
    let exporter = format!("[[exporter]]\nname = \"stream\"\nurl = \"http://{}\"", stream.address);
    let gate = harness(&nats, "4s", Nats::PASSWORD).await.more("exporter", exporter).start().await;
    in_sight(&gate).await;
    let tester = gate.token("observe");
    let lead = lead(&gate);
    let id = granted(&gate, &tester, &wish("scrape", "exporter/*", "1h")).await;
    let stopped = async {
        eventually("the stream to be open", || async { (stream.open() > 0).then_some(()) }).await;
        nats.stop().await;
    };
    let ((_, request, _), ()) = tokio::join!(read(&gate, &tester), stopped);
    assert_eq!(gate.record(&request).await["reason"], "grant_ended");
    refused(&gate, gate.get(PROTECTED_PATH).bearer(&tester), 403, "not_permitted").await;
    refused(&gate, answering(&gate, &lead, &id, "revoke"), 503, "grants_unavailable").await;
    let more = json_call(&gate, "/grants", &tester, &wish("scrape", "exporter/app", "1h"));
    refused(&gate, more, 503, "grants_unavailable").await;
    assert_eq!(gate.metric("wicketgate_grants_approved").await, 0.0);
    let readiness = gate.admin("/readyz").await;
    assert!(readiness.status == 200 && readiness.text().contains("warning: grants"), "{readiness:?}");

    nats.go_on().await;
    answers(&gate, &tester, 200).await;
    in_sight(&gate).await;
    done(&gate, &lead, &id, "revoke").await;
    refused(&gate, gate.get(PROTECTED_PATH).bearer(&tester), 403, "not_permitted").await;
}

#[tokio::test]
async fn a_restarted_gate_has_the_current_grants() {
    let mut nats = Nats::start().await;
    let stream = Stream::start("text/event-stream").await;
    let one = start(&nats, "60s").await;
    let mut two = beside(&one, &nats, &stream).await;
    two.program.signal("KILL").await;
    two.program.ended().await;
    let tester = one.token("observe");
    let id = granted(&one, &tester, &wish("scrape", "exporter/app", "1h")).await;
    two.restart().await;
    knows(&two, &tester, &[(id, "approved".into())]).await;
    answers(&two, &tester, 200).await;

    // a NATS that has lost everything has granted nothing
    nats.stop().await;
    nats.forget();
    nats.go_on().await;
    for gate in [&one, &two] {
        answers(gate, &tester, 403).await;
        knows(gate, &tester, &[]).await;
        in_sight(gate).await;
    }
    granted(&one, &tester, &wish("scrape", "exporter/app", "1h")).await;
    answers(&two, &tester, 200).await;
}

#[tokio::test]
async fn a_gate_with_wrong_nats_credentials_grants_nothing() {
    let nats = Nats::start().await;
    let gate = harness(&nats, "60s", "a-wrong-password").await.start().await;
    let wish = json_call(&gate, "/grants", &gate.token("observe"), &wish("scrape", "exporter/app", "1h"));
    refused(&gate, wish, 503, "grants_unavailable").await;
    let readiness = gate.admin("/readyz").await.text();
    assert!(readiness.contains("warning: grants"), "{readiness}");
    // the password is read again for each connection
    gate.directory.write("nats.password", Nats::PASSWORD);
    in_sight(&gate).await;
    granted(&gate, &gate.token("observe"), &crate::grants::wish("scrape", "exporter/app", "1h")).await;
    let said = gate.program.lines().join("\n");
    assert!(!said.contains(Nats::PASSWORD) && !said.contains("a-wrong-password"), "{said}");
}

#[tokio::test]
async fn nats_is_verified_by_the_configured_ca_only() {
    let harness = Harness::new().await;
    let pair = (harness.directory.join("certs/gate.pem"), harness.directory.join("certs/gate.key"));
    let nats = Nats::start_with(Some(pair)).await;
    let section = |ca: &str| {
        format!(
            "[grants]\nnats = {{ url = \"tls://localhost:{}\", user = \"{}\", password = {{ file = \"nats.password\" }}{ca} }}",
            nats.address.port(),
            Nats::USER
        )
    };
    let strange = Harness::new().await.section("grants", section(""));
    strange.directory.write("nats.password", Nats::PASSWORD);
    let strange = strange.start().await;
    harness.directory.write("nats.password", Nats::PASSWORD);
    let gate = harness.section("grants", section(", ca = \"ca.pem\"")).start().await;
    in_sight(&gate).await;
    granted(&gate, &gate.token("observe"), &wish("scrape", "exporter/app", "1h")).await;
    // it had the time, and sends no password to an untrusted server
    let readiness = strange.admin("/readyz").await.text();
    assert!(readiness.contains("warning: grants"), "{readiness}");
}
