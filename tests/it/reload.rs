//! Reload: a whole new configuration or none, by SIGHUP and by changed files.

use http::StatusCode;

use crate::support::{Gate, Harness, eventually};

const SUCCESSFUL: &str = "wicketgate_config_last_reload_successful";

async fn scrape(gate: &Gate, exporter: &str) -> StatusCode {
    gate.get(&format!("/exporters/{exporter}/metrics")).bearer(&gate.token("scrape")).send().await.status
}

fn with_another(gate: &Gate) -> String {
    let config = std::fs::read_to_string(gate.directory.join("wicketgate.toml")).unwrap();
    format!("{config}\n[[exporter]]\nname = \"another\"\nurl = \"{}\"\n", gate.app.url())
}

#[tokio::test]
async fn a_changed_file_is_reloaded_without_a_signal() {
    let gate = Harness::new().await.start().await;
    assert_eq!(scrape(&gate, "another").await, StatusCode::NOT_FOUND);
    gate.directory.write("wicketgate.toml", with_another(&gate));
    eventually("the new exporter", || async { (scrape(&gate, "another").await == StatusCode::OK).then_some(()) }).await;
}

#[tokio::test]
async fn sighup_reloads_everything() {
    let gate = Harness::new().await.start().await;
    // a file that is put in place as editors and Kubernetes do: written beside, then renamed
    gate.directory.write("next.toml", with_another(&gate));
    std::fs::rename(gate.directory.join("next.toml"), gate.directory.join("wicketgate.toml")).unwrap();
    gate.program.signal("HUP").await;
    eventually("the new exporter", || async { (scrape(&gate, "another").await == StatusCode::OK).then_some(()) }).await;
}

#[tokio::test]
async fn a_changed_policy_applies_at_once_to_known_tokens() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("scrape");
    let status = || async { gate.get("/exporters/app/metrics").bearer(&token).send().await.status };
    assert_eq!(status().await, StatusCode::OK);
    gate.directory.write("policies/closed.cedar", "@id(\"closed\")\nforbid (principal, action, resource);\n");
    eventually("the new policy", || async { (status().await == StatusCode::FORBIDDEN).then_some(()) }).await;
}

#[tokio::test]
async fn a_broken_configuration_keeps_the_last_good_gate() {
    let gate = Harness::new().await.start().await;
    let good = std::fs::read_to_string(gate.directory.join("wicketgate.toml")).unwrap();
    gate.directory.write("wicketgate.toml", good.replace("name = \"app\"", "nmae = \"app\""));
    gate.program.signal("HUP").await;
    let readiness = eventually("readiness to show the failed reload", || async {
        let answer = gate.admin("/readyz").await;
        answer.text().contains("nmae").then_some(answer)
    })
    .await;
    // it serves, so it is ready; and it says that it is not what the file says
    assert_eq!(readiness.status, StatusCode::OK, "{readiness:?}");
    assert_eq!(scrape(&gate, "app").await, StatusCode::OK);
    assert_eq!(gate.metric(SUCCESSFUL).await, 0.0, "the metric does not tell of the failed reload");

    gate.directory.write("wicketgate.toml", good);
    gate.program.signal("HUP").await;
    eventually("the trouble to be over", || async {
        (!gate.admin("/readyz").await.text().contains("nmae")).then_some(())
    })
    .await;
    assert_eq!(gate.metric(SUCCESSFUL).await, 1.0);
}

#[tokio::test]
async fn no_request_fails_during_a_reload() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("scrape");
    // each swap says so in the log
    let swaps = || gate.program.lines().iter().filter(|line| line.contains("the configuration was reloaded")).count();
    eventually("three swaps", || async {
        gate.program.signal("HUP").await;
        let answer = gate.get("/exporters/app/metrics").bearer(&token).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        (swaps() >= 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_removed_issuer_no_longer_affects_readiness() {
    let harness = Harness::new().await;
    let good = harness.config();
    // nothing listens there
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let issuer = format!("[[issuer]]\nname = \"away\"\nissuer = \"http://{unused}\"\naudiences = [\"wicketgate\"]");
    let gate = harness.more("issuer", issuer).start_unready().await;
    // one issuer's trouble is not another's: the gate is ready, and says what it lacks
    eventually("readiness to name the issuer", || async {
        let answer = gate.admin("/readyz").await;
        let told = answer.text().contains("warning: issuer away: its keys cannot be fetched");
        (told && answer.status == StatusCode::OK).then_some(())
    })
    .await;
    // the other issuer's callers are served all the same
    eventually("corp's keys", || async { (scrape(&gate, "app").await == StatusCode::OK).then_some(()) }).await;
    gate.directory.write("wicketgate.toml", good);
    let well = || async { (gate.admin("/readyz").await.text() == "ready\n").then_some(()) };
    eventually("the trouble to be gone with its issuer", well).await;
}

#[tokio::test]
async fn an_issuers_changed_ca_file_is_trusted_instead_of_the_old_one() {
    let harness = Harness::new().await;
    let ca = std::fs::read_to_string(harness.directory.join("ca.pem")).unwrap();
    harness.directory.write("idp-ca.pem", &ca);
    let gate = harness.more("issuer", "ca = \"idp-ca.pem\"").start().await;
    let fetched = || gate.issuer.server.seen().iter().filter(|seen| seen.target == "/jwks").count();
    assert_eq!(fetched(), 1);
    gate.directory.write("idp-ca.pem", format!("{ca}{ca}"));
    gate.program.signal("HUP").await;
    eventually("the keys to be fetched anew", || async { (fetched() == 2).then_some(()) }).await;
    assert_eq!(scrape(&gate, "app").await, StatusCode::OK);
}
