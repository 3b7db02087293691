//! The end of grants: expiry, revocation, and the streams that depend on them, over a restart of the gate too.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;
use wicketgate::internals::clock;

use crate::{
    grants::{PROTECTED_PATH, answering, asked, done, granted, harness, json_call, lead, listed, wish},
    refusals::refused,
    streams::{Stream, read, trailers},
    support::{Gate, eventually},
};

async fn before(stream: &Stream, terms: &str) -> Gate {
    let exporter = format!("[[exporter]]\nname = \"stream\"\nurl = \"http://{}\"\n{terms}", stream.address);
    harness().await.section("exporter", exporter).start().await
}

async fn is_open(stream: &Stream) {
    eventually("the stream to be open", || async { (stream.open() > 0).then_some(()) }).await;
}

#[tokio::test]
async fn grants_and_their_requests_expire() {
    let gate = harness().await.more("grants", "pending_timeout = \"1s\"").start().await;
    let tester = gate.token("observe");
    let (_, id) = asked(&gate, &tester, &wish("scrape", "exporter/app", "1h")).await;
    eventually("the request to expire", || async {
        (listed(&gate, &tester).await == [(id.clone(), "expired".into())]).then_some(())
    })
    .await;
    refused(&gate, answering(&gate, &lead(&gate), &id, "approve"), 409, "grant_state").await;

    let began = clock::monotonic();
    granted(&gate, &tester, &wish("scrape", "exporter/app", "2s")).await;
    eventually("the grant to end", || async {
        let answer = gate.get(PROTECTED_PATH).bearer(&tester).send().await;
        assert!(answer.status == 200 || began.elapsed() >= Duration::from_secs(2), "it ended before its time");
        (answer.status == 403).then_some(())
    })
    .await;
    refused(&gate, gate.get(PROTECTED_PATH).bearer(&tester), 403, "not_permitted").await;
}

#[tokio::test]
async fn a_stream_ends_with_its_grant_even_if_end_streams_is_false() {
    let stream = Stream::start("text/event-stream").await;
    let gate = before(&stream, "end_streams = false").await;
    let tester = gate.token("observe");
    let id = granted(&gate, &tester, &wish("scrape", "exporter/stream", "2s")).await;
    let (status, request, text) = read(&gate, &tester).await;
    assert_eq!(status, 200);
    assert!(text.contains("tick") && !text.ends_with("0\r\n\r\n"), "it ends as if it were whole: {text:?}");
    stream.ends().await;
    let record = gate.record(&request).await;
    assert_eq!((&record["reason"], &record["grants"][0]), (&"grant_ended".into(), &id.into()), "{record}");
}

#[tokio::test]
async fn a_stream_ends_when_its_grant_is_revoked_and_one_that_needs_none_goes_on() {
    let stream = Stream::start("text/event-stream").await;
    let gate = before(&stream, "").await;
    let tester = gate.token("observe");
    let scraper = gate.issuer.token("scraper", &["scrape"]).mint();
    let id = granted(&gate, &tester, &wish("scrape", "exporter/stream", "1h")).await;
    let lead = lead(&gate);
    let ended = async {
        let revoked = async {
            eventually("both streams to be open", || async { (stream.open() == 2).then_some(()) }).await;
            done(&gate, &lead, &id, "revoke").await;
        };
        let ((status, request, _), ()) = tokio::join!(read(&gate, &tester), revoked);
        assert_eq!(status, 200);
        eventually("one stream to be left", || async { (stream.open() == 1).then_some(()) }).await;
        request
    };
    let request = tokio::select! {
        (status, _, text) = read(&gate, &scraper) => panic!("a stream without a grant ended: {status} {text}"),
        request = ended => request,
    };
    assert_eq!(gate.record(&request).await["reason"], "grant_ended");
}

#[tokio::test]
async fn a_grpc_stream_ends_with_the_status_of_its_ended_grant() {
    let stream = Stream::start("application/grpc").await;
    let gate = before(&stream, "").await;
    let tester = gate.token("observe");
    let id = granted(&gate, &tester, &wish("scrape", "exporter/stream", "1h")).await;
    let request = Request::get("https://localhost/exporters/stream/events")
        .header("authorization", format!("Bearer {tester}"))
        .body(Empty::<Bytes>::new())
        .unwrap();
    let io = TokioIo::new(gate.door(0, b"h2").connect().await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let body = sender.send_request(request).await.unwrap().into_body();
    is_open(&stream).await;
    done(&gate, &lead(&gate), &id, "revoke").await;
    let trailers = trailers(body).await;
    // PERMISSION_DENIED
    assert_eq!(trailers["grpc-status"], "7", "{trailers:?}");
    stream.ends().await;
}

#[tokio::test]
async fn what_was_answered_outlives_kill_9() {
    let mut gate = harness().await.start().await;
    let tester = gate.token("observe");
    let (_, pending) = asked(&gate, &tester, &wish("scrape", "exporter/locked", "1h")).await;
    let revoked = granted(&gate, &tester, &wish("scrape", "exporter/*", "1h")).await;
    done(&gate, &lead(&gate), &revoked, "revoke").await;
    gate.kill_and_restart().await;
    // what was taken away stays so
    refused(&gate, gate.get(PROTECTED_PATH).bearer(&tester), 403, "not_permitted").await;
    let approved = granted(&gate, &tester, &wish("scrape", "exporter/app", "1h")).await;
    gate.kill_and_restart().await;
    let answer = gate.get(PROTECTED_PATH).bearer(&tester).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["grants"][0], *approved);
    let states = [(approved, "approved"), (revoked, "revoked"), (pending.clone(), "pending")];
    assert_eq!(listed(&gate, &tester).await, states.map(|(id, state)| (id, state.into())));

    gate.program.signal("TERM").await;
    assert!(gate.program.ended().await.success());
    gate.restart().await;
    done(&gate, &lead(&gate), &pending, "approve").await;
    assert_eq!(gate.metric("wicketgate_grants_approved").await, 2.0);
}

#[tokio::test]
async fn changes_that_run_into_kill_9_are_answered_or_not_there() {
    let mut gate = harness().await.start().await;
    let tester = gate.token("observe");
    let lead = lead(&gate);
    let mut answered = Vec::new();
    for round in 0..3 {
        let (_, id) = asked(&gate, &tester, &wish("scrape", "exporter/app", "1h")).await;
        done(&gate, &lead, &id, if round == 1 { "deny" } else { "approve" }).await;
        answered.insert(0, (id, if round == 1 { "denied".to_owned() } else { "approved".to_owned() }));
        gate.kill_and_restart().await;
        assert_eq!(listed(&gate, &tester).await, answered);
    }
}

#[tokio::test]
async fn a_full_disk_changes_no_grant() {
    let mut harness = harness().await;
    // enough for the empty store and the audit log, not for many grants
    harness.file_limit = Some(160);
    let gate = harness.start().await;
    let mut kept = Vec::new();
    let refused = loop {
        assert!(kept.len() < 5_000, "the disk is never full");
        let token = gate.issuer.token(&format!("tester-{}", kept.len()), &["observe"]).mint();
        let mut wish = wish("scrape", "exporter/app", "1h");
        wish["reason"] = "x".repeat(500).into();
        let answer = json_call(&gate, "/grants", &token, &wish).send().await;
        if answer.status != 201 {
            break answer;
        }
        kept.push(token);
    };
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["reason"]),
        (503, &"grants_unavailable".into()),
        "{refused:?}"
    );
    assert!(!refused.header("retry-after").is_empty(), "{refused:?}");
    assert_eq!(listed(&gate, kept.last().unwrap()).await.len(), 1);
    assert_eq!(gate.metric("wicketgate_grants_pending").await, kept.len() as f64);
}
