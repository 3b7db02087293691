//! Session lifetime: a session lasts while its provider refreshes it, and ends everywhere at once.

use serde_json::json;

use crate::{
    streams::Stream,
    support::{
        eventually,
        login_harness::{LoginHarness, PROTECTED_PATH, Plan, SESSION, jar, refused, with_session},
    },
};

#[tokio::test]
async fn a_session_lasts_while_its_provider_refreshes_it() {
    let house = LoginHarness::planned(Plan { ttl: json!({"IdToken": 4}), ..Plan::default() }).await;
    let mut ada = house.logged_in("ada").await;
    let first = jar(&ada);
    // both tabs still bring the old cookie when it is time
    let renewed = eventually("a new session", || async {
        let answer = house.gate.get(PROTECTED_PATH).header("cookie", &first).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.headers.get("set-cookie").map(|value| value.to_str().unwrap().to_owned())
    })
    .await;
    let calls = (0..8).map(|_| house.gate.get(PROTECTED_PATH).header("cookie", &first).send());
    let mut calls: tokio::task::JoinSet<_> = calls.collect();
    while let Some(answer) = calls.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("set-cookie"), renewed, "another session than the first tab has");
    }
    // on and on, though the provider takes each refresh token once
    let begun = wicketgate::internals::clock::monotonic();
    while begun.elapsed() < std::time::Duration::from_secs(12) {
        let page = ada.visit(&format!("{}{PROTECTED_PATH}", house.url)).await;
        assert_eq!((page.answer.status.as_u16(), page.way.len()), (200, 1), "{page:?}");
    }
}

#[tokio::test]
async fn a_refused_refresh_ends_the_session() {
    let house = LoginHarness::planned(Plan { ttl: json!({"IdToken": 4}), ..Plan::default() }).await;
    let ada = house.logged_in("ada").await;
    house.provider.set(json!({"people": {}})).await;
    let answer = eventually("the session to be over", || async {
        let answer = with_session(&house, &ada).send().await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (401, &json!("session_ended")), "{answer:?}");
    let detail = house.gate.record(&answer.id()).await["detail"].to_string();
    assert!(detail.contains("invalid_grant"), "{detail}");
    refused(&house, with_session(&house, &ada), 401, "session_ended").await;
}

#[tokio::test]
async fn an_unreachable_provider_ends_no_session_early() {
    let house = LoginHarness::planned(Plan { ttl: json!({"IdToken": 6}), ..Plan::default() }).await;
    let ada = house.logged_in("ada").await;
    let begun = wicketgate::internals::clock::monotonic();
    house.provider.stop().await;
    let answer = eventually("the session to run out", || async {
        let answer = with_session(&house, &ada).send().await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert!(begun.elapsed() > std::time::Duration::from_secs(4), "it ended early");
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (503, &json!("issuer_unavailable")), "{answer:?}");
    assert_eq!(answer.header("set-cookie"), "", "the session may still go on");
    let page = with_session(&house, &ada).header("sec-fetch-mode", "navigate").send().await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (503, "text/html; charset=utf-8"), "{page:?}");
    house.provider.go_on().await;
    eventually("the session to go on", || async { (house.status(&ada).await == 200).then_some(()) }).await;
}

#[tokio::test]
async fn no_session_exceeds_the_maximum() {
    let sessions = "[sessions]\nkeys = [\"session.key\"]\nmax_lifetime = \"3s\"".into();
    let house = LoginHarness::planned(Plan { sessions, ..Plan::default() }).await;
    let ada = house.logged_in("ada").await;
    let answer = eventually("the session to end", || async {
        let answer = with_session(&house, &ada).send().await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(answer.json()["reason"], "session_ended", "{answer:?}");
    let page = with_session(&house, &ada).header("sec-fetch-mode", "navigate").send().await;
    assert_eq!(page.header("location"), "/login?return=%2Fexporters%2Fapp%2Fmetrics", "{page:?}");
}

#[tokio::test]
async fn a_logout_ends_the_session_here_and_at_the_provider() {
    let mut house = LoginHarness::new().await;
    let mut ada = house.logged_in("ada").await;
    let session = jar(&ada);
    let home = house.visit(&mut ada, "/").await;
    let confirm = ada.submit(&home, &[]).await;
    assert!(confirm.url.as_str().starts_with(&house.provider.issuer), "{confirm:?}");
    let given = confirm.way.iter().find(|url| url.path() == "/session/end").unwrap().clone();
    for name in ["id_token_hint", "client_id", "state"] {
        assert!(given.query_pairs().any(|(known, _)| known == name), "{name} is missing: {given}");
    }
    assert!(ada.cookie(SESSION).is_none(), "the cookie is left over");
    // at once: before the provider has been answered
    let kept = || house.gate.get(PROTECTED_PATH).header("cookie", &session);
    refused(&house, kept(), 401, "session_ended").await;
    let back = ada.submit_until(&confirm, &[("logout", "yes")], Some(&format!("{}/", house.url))).await;
    assert_eq!(back.url.path(), "/", "{back:?}");
    let form = house.visit(&mut ada, "/").await;
    assert!(form.url.as_str().starts_with(&house.provider.issuer), "the provider still knows them: {form:?}");
    // and stays out over a crash
    house.gate.kill_and_restart().await;
    let answer = house.gate.get(PROTECTED_PATH).header("cookie", &session).send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (401, &json!("session_ended")), "{answer:?}");
    let other = house.logged_in("ada").await;
    assert_eq!(house.status(&other).await, 200);
}

#[tokio::test]
async fn a_logout_at_the_provider_ends_the_session_at_once() {
    let house = LoginHarness::new().await;
    let mut ada = house.logged_in("ada").await;
    let mut phone = house.logged_in("ada").await;
    let bob = house.logged_in("bob").await;
    let confirm = ada.visit(&format!("{}/session/end", house.provider.issuer)).await;
    ada.submit(&confirm, &[("logout", "yes")]).await;
    // the provider calls before it answers
    refused(&house, with_session(&house, &ada), 401, "session_ended").await;
    let phones = house.visit(&mut phone, PROTECTED_PATH).await;
    assert_eq!(phones.way.len(), 1, "another session of hers has ended too: {phones:?}");
    assert_ne!(house.status(&bob).await, 401);
}

#[tokio::test]
async fn a_stream_ends_with_a_logout() {
    let stream = Stream::start("text/event-stream").await;
    let exporter = Some(format!("http://{}", stream.address));
    let house = LoginHarness::planned(Plan { exporter, ..Plan::default() }).await;
    let mut ada = house.logged_in("ada").await;
    let head =
        format!("GET {PROTECTED_PATH} HTTP/1.1\r\nhost: gate\r\ncookie: {}\r\nconnection: close\r\n\r\n", jar(&ada));
    let door = house.gate.door(0, b"http/1.1");
    let signed_out = async {
        eventually("the stream to be open", || async { (stream.open() > 0).then_some(()) }).await;
        let page = house.visit(&mut ada, "/logout").await;
        ada.submit_until(&page, &[], Some(&house.provider.issuer)).await;
    };
    let (answer, ()) = tokio::join!(door.raw(head.as_bytes()), signed_out);
    assert_eq!(answer.status, 200);
    assert!(!answer.text().ends_with("0\r\n\r\n"), "it ends as if it were whole: {answer:?}");
    stream.ends().await;
    assert_eq!(house.gate.record(&answer.id()).await["reason"], "proof_withdrawn");
}

#[tokio::test]
async fn rotated_keys_end_no_session() {
    let house = LoginHarness::new().await;
    let ada = house.logged_in("ada").await;
    let directory = &house.gate.directory;
    let config = std::fs::read_to_string(directory.join("wicketgate.toml")).unwrap();
    directory.write("next.key", "n".repeat(32));
    directory.write("wicketgate.toml", config.replace("[\"session.key\"]", "[\"next.key\", \"session.key\"]"));
    house.reloaded(1).await;
    assert_eq!(house.status(&ada).await, 200, "sealed by the old key");
    let bob = house.logged_in("ada").await;
    directory.write("wicketgate.toml", config.replace("[\"session.key\"]", "[\"next.key\"]"));
    house.reloaded(2).await;
    assert_eq!(house.status(&bob).await, 200, "sealed by the new key");
    refused(&house, with_session(&house, &ada), 401, "session_invalid").await;
    // the file itself is part of the configuration
    directory.write("next.key", "m".repeat(32));
    house.reloaded(3).await;
    refused(&house, with_session(&house, &bob), 401, "session_invalid").await;
}

#[tokio::test]
async fn an_ended_session_stays_ended_over_a_reload() {
    let mut house = LoginHarness::new().await;
    let mut ada = house.logged_in("ada").await;
    let other = house.logged_in("ada").await;
    let gone = jar(&ada);
    let page = house.visit(&mut ada, "/logout").await;
    ada.submit_until(&page, &[], Some(&house.provider.issuer)).await;
    let config = std::fs::read_to_string(house.gate.directory.join("wicketgate.toml")).unwrap();
    let sessions = "[sessions]\nmax_lifetime = \"48h\"\nrevocations = \"another.revocations\"\n";
    house.gate.directory.write("wicketgate.toml", config.replace("[sessions]\n", sessions));
    house.reloaded(1).await;
    let copied = |house: &LoginHarness| house.gate.get(PROTECTED_PATH).header("cookie", &gone);
    refused(&house, copied(&house), 401, "session_ended").await;
    assert_eq!(house.status(&other).await, 200);
    house.gate.kill_and_restart().await;
    refused(&house, copied(&house), 401, "session_ended").await;
    assert_eq!(house.status(&other).await, 200);
}

#[tokio::test]
async fn without_a_key_sessions_end_with_the_process() {
    let mut house = LoginHarness::planned(Plan { sessions: String::new(), ..Plan::default() }).await;
    let ada = house.logged_in("ada").await;
    assert!(house.gate.program.lines().iter().any(|line| line.contains("end with it")), "no warning");
    assert_eq!(house.status(&ada).await, 200);
    house.gate.kill_and_restart().await;
    refused(&house, with_session(&house, &ada), 401, "session_invalid").await;
}
