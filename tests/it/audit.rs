//! The audit log: a record of every request, in a chain that can be recomputed.

use http::StatusCode;
use serde_json::Value;

use crate::support::{Gate, Harness, eventually, upstream};

/// Recomputes the chain as `src/gate/audit/mod.rs` describes it, from the file's bytes alone; gives the number of lines.
fn recompute(text: &str) -> usize {
    let mut previous = [0_u8; 32];
    for (index, line) in text.lines().enumerate() {
        let parsed: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("line {}: {e}", index + 1));
        assert_eq!(parsed["seq"], index + 1, "the numbers have a gap");
        let end = line.rfind(",\"hash\":\"").unwrap_or_else(|| panic!("line {} has no hash", index + 1));
        let mut hasher = blake3::Hasher::new();
        hasher.update(&previous);
        hasher.update(&line.as_bytes()[..end]);
        let hash = hasher.finalize();
        assert_eq!(parsed["hash"], hash.to_hex().as_str(), "line {} breaks the chain", index + 1);
        previous = hash.into();
    }
    text.lines().count()
}

async fn some_requests(gate: &Gate) -> Vec<String> {
    let scrape = gate.token("scrape");
    let mut ids = Vec::new();
    for call in [
        gate.get("/exporters/app/metrics").bearer(&scrape),
        gate.get("/exporters/app/metrics"),
        gate.get("/nowhere").bearer(&scrape),
        gate.get("/exporters/app/a%2fb").bearer(&scrape),
        gate.get("/sd").bearer(&scrape),
    ] {
        ids.push(call.send().await.id());
    }
    for id in &ids {
        gate.record(id).await;
    }
    ids
}

#[tokio::test]
async fn the_chain_can_be_recomputed_and_goes_on_over_a_crash() {
    let mut gate = Harness::new().await.start().await;
    let ids = some_requests(&gate).await;
    let lines = recompute(&std::fs::read_to_string(gate.audit_file()).unwrap());
    // two of the five are permitted: they have two lines each
    assert_eq!(lines, ids.len() + 2);

    gate.kill_and_restart().await;
    some_requests(&gate).await;
    let text = std::fs::read_to_string(gate.audit_file()).unwrap();
    assert_eq!(recompute(&text), 2 * lines);
}

#[tokio::test]
async fn a_permit_is_written_before_the_exporter_is_asked() {
    let gate = Harness::new().await.start().await;
    let file = gate.audit_file();
    gate.app.answer(move |seen| {
        let id = seen.headers["x-request-id"].to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let permit = text.lines().any(|line| line.contains(r#""event":"permit""#) && line.contains(&id));
        upstream::reply(StatusCode::OK, "text/plain", if permit { "written" } else { "too soon" })
    });
    // the second request needs a permit of its own: the line of the first one does not serve it
    for _ in 0..2 {
        let answer = gate.get("/exporters/app/metrics").bearer(&gate.token("scrape")).send().await;
        assert_eq!(answer.text(), "written");
    }
}

#[tokio::test]
async fn request_text_cannot_forge_a_line() {
    let gate = Harness::new().await.start().await;
    // what ends a line in other eyes; control characters are no part of a subject
    let subject = "a\"}\u{2028}{\"event\":\"request\",\"principal\":\"corp:forged";
    let token = gate.issuer.token(subject, &["scrape"]).mint();
    let answer = gate.get("/exporters/app/metrics").bearer(&token).send().await;
    let record = gate.record(&answer.id()).await;
    assert_eq!(record["principal"], format!("corp:{subject}"));
    assert!(gate.audit().iter().all(|line| line["principal"] != "corp:forged"));
}

#[tokio::test]
async fn a_log_that_cannot_be_written_refuses_requests() {
    let mut harness = Harness::new().await;
    harness.file_limit = Some(16);
    let gate = harness.start().await;
    let token = gate.token("scrape");
    let mut served = 0;
    let refused = loop {
        let answer = gate.get("/exporters/app/metrics").bearer(&token).send().await;
        match answer.status {
            StatusCode::OK => served += 1,
            _ => break answer,
        }
        assert!(served < 100, "the log takes more than the disk has");
    };
    assert_eq!((refused.status.as_u16(), &refused.json()["reason"]), (503, &"audit_unavailable".into()), "{refused:?}");
    assert!(refused.header("retry-after").parse::<u32>().is_ok(), "{refused:?}");
    assert!(served > 0);
    assert_eq!(gate.app.requests(), served, "something was forwarded without a record");
    // what is in the file is a chain to its last line
    recompute(&std::fs::read_to_string(gate.audit_file()).unwrap());
}

#[tokio::test]
async fn a_client_that_disconnects_leaves_a_record() {
    let gate = Harness::new().await.start().await;
    // more than any buffer on the way holds
    gate.app.answer(|_| upstream::reply(StatusCode::OK, "text/plain", vec![b'x'; 32 << 20]));
    let token = gate.token("scrape");
    let head =
        format!("GET /exporters/app/metrics HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
    gate.door(0, b"http/1.1").abandon(head.as_bytes()).await;
    let record = eventually("the record of the abandoned request", || async {
        gate.audit().into_iter().find(|line| line["event"] == "request")
    })
    .await;
    assert_eq!((&record["decision"], &record["status"]), (&"allow".into(), &200.into()), "{record}");
    assert_eq!(record["reason"], "client_gone", "{record}");
    assert!(record["bytes_out"].as_u64().unwrap() < 32 << 20, "{record}");
}

#[tokio::test]
async fn a_client_that_disconnects_before_the_response_leaves_a_record() {
    // it listens and never answers
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let exporter = format!("[[exporter]]\nname = \"silent\"\nurl = \"http://{}\"", silent.local_addr().unwrap());
    let gate = Harness::new().await.more("exporter", exporter).start().await;
    let ask = |token: &str| {
        format!("GET /exporters/silent/metrics HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n")
    };
    let permitted = || async { gate.audit().into_iter().find(|line| line["event"] == "permit") };
    let head = ask(&gate.token("scrape"));
    let permit = gate.door(0, b"http/1.1").abandon_when(head.as_bytes(), eventually("the permit", permitted)).await;
    let record = gate.record(permit["id"].as_str().unwrap()).await;
    assert_eq!((&record["decision"], &record["reason"]), (&"allow".into(), &"client_gone".into()), "{record}");
    assert_eq!(record["status"], Value::Null, "{record}");
    assert_eq!(gate.metric("wicketgate_requests_total{route=\"exporter\",code=\"0\"}").await, 1.0);
}

#[tokio::test]
async fn a_request_that_is_cut_when_the_gate_stops_leaves_a_record() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let exporter = format!("[[exporter]]\nname = \"silent\"\nurl = \"http://{}\"", silent.local_addr().unwrap());
    let harness = Harness::new().await.section("gate", "[gate]\nworkers = 2\ndrain = \"100ms\"");
    let mut gate = harness.more("exporter", exporter).start().await;
    let door = gate.door(0, b"http/1.1");
    let token = gate.token("scrape");
    let head =
        format!("GET /exporters/silent/metrics HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
    let stopped = async {
        let permitted = || async { gate.audit().into_iter().find(|line| line["event"] == "permit") };
        let permit = eventually("the permit", permitted).await;
        gate.program.signal("TERM").await;
        gate.program.ended().await;
        permit
    };
    let permit = door.abandon_when(head.as_bytes(), stopped).await;
    let closed = gate.audit().into_iter().any(|line| line["event"] == "request" && line["id"] == permit["id"]);
    assert!(closed, "the cut request has no record: {:?}", gate.audit());
    recompute(&std::fs::read_to_string(gate.audit_file()).unwrap());
}

#[tokio::test]
async fn a_malformed_head_leaves_a_record() {
    let gate = Harness::new().await.start().await;
    let answer = gate.door(0, b"http/1.1").raw(b"GET /exporters/app/metrics HTTP/1.1\r\nno colon here\r\n\r\n").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
    let record = eventually("the record of the broken head", || async {
        gate.audit().into_iter().find(|line| line["event"] == "request" && line["status"] == 400)
    })
    .await;
    assert_eq!(record["decision"], "deny", "{record}");
    assert_eq!(gate.app.requests(), 0);
}
