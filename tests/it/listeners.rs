//! Listeners: several at once, clear ones if configured, HTTP/1.1 and HTTP/2 on one port; and the admin listener.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::mpsc,
};

use http::{Method, StatusCode};

use tokio::task::JoinSet;

use crate::support::{Harness, call::Call, eventually, harness::PAGE, program::Program};

#[tokio::test]
async fn several_listeners_serve_the_same_gate_and_one_may_be_clear() {
    let harness = Harness::new().await;
    let gate = harness.more("listen", "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false").start().await;
    assert_eq!(gate.listeners.iter().map(|(_, tls)| *tls).collect::<Vec<_>>(), [true, false]);
    let token = gate.token("scrape");
    for index in 0..2 {
        let call = Call::new(gate.door(index, b"http/1.1"), Method::GET, "/exporters/app/metrics");
        let answer = call.bearer(&token).send().await;
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, PAGE), "listener {index}");
        let call = Call::new(gate.door(index, b"http/1.1"), Method::GET, "/exporters/app/metrics");
        assert_eq!(call.send().await.status, StatusCode::UNAUTHORIZED, "listener {index}");
    }
}

#[tokio::test]
async fn an_ipv4_client_of_an_ipv6_listener_is_known_by_its_ipv4_address() {
    let gate = Harness::new().await.section("listen", "[[listen]]\naddress = \"[::]:0\"\ntls = false").start().await;
    let door = crate::support::call::Connector { address: ([127, 0, 0, 1], gate.address().port()).into(), tls: None };
    let call = Call::new(door, Method::GET, "/exporters/app/metrics");
    let answer = call.bearer(&gate.token("scrape")).send().await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let record = gate.record(&answer.id()).await;
    assert!(record["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{record}");
}

#[tokio::test]
async fn both_versions_of_http_are_served_on_one_port() {
    let gate = Harness::new().await.start().await;
    let url = format!("https://localhost:{}/exporters/app/metrics", gate.address().port());
    let call = || Call::new(gate.door(0, b"h2"), Method::GET, &url).http2();
    let answer = call().bearer(&gate.token("scrape")).send().await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, PAGE));
    let record = gate.record(&answer.id()).await;
    assert_eq!(record["path"], "/exporters/app/metrics", "{record}");
    assert_eq!(call().send().await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn health_and_metrics_are_on_the_admin_listener_alone() {
    let gate = Harness::new().await.start().await;
    assert_eq!(gate.admin("/livez").await.status, StatusCode::OK);
    assert_eq!(gate.admin("/readyz").await.status, StatusCode::OK);
    for target in ["/", "/exporters/app/metrics", "/sd", "/debug", "/metrics/predictions"] {
        assert_eq!(gate.admin(target).await.status, StatusCode::NOT_FOUND, "{target}");
    }
    for target in ["/metrics", "/livez", "/readyz"] {
        let open = gate.get(target).send().await;
        assert!(open.status.is_client_error(), "{target} is open on the gate: {open:?}");
        let answer = gate.get(target).bearer(&gate.token("scrape")).send().await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{target} is served on the gate");
    }
}

#[tokio::test]
async fn metrics_have_no_label_with_a_principal() {
    let gate = Harness::new().await.keeping("kept_*").start().await;
    let token = gate.token("scrape");
    gate.get("/exporters/app/metrics").bearer(&token).send().await;
    gate.get("/exporters/app/metrics").send().await;
    let text = gate.admin("/metrics").await.text();
    for name in [
        "wicketgate_requests_total",
        "wicketgate_request_duration_seconds_bucket",
        "wicketgate_decisions_total",
        "wicketgate_tokens_total",
        "wicketgate_issuer_keys_age_seconds",
        "wicketgate_credential_age_seconds",
        "wicketgate_spool_bytes",
        "wicketgate_spool_batches",
        "wicketgate_ingest_samples_accepted_total",
    ] {
        let found = text.lines().any(|line| line.starts_with(name));
        assert!(found, "no {name} in\n{text}");
    }
    assert!(text.trim_end().ends_with("# EOF"), "not an OpenMetrics exposition");
    assert!(!text.contains("corp:tester") && !text.contains(&token), "a caller is named in the metrics");
}

#[tokio::test]
async fn upstream_connections_are_reused() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("scrape");
    for _ in 0..20 {
        assert_eq!(gate.get("/exporters/app/metrics").bearer(&token).send().await.status, StatusCode::OK);
    }
    assert_eq!(gate.app.requests(), 20);
    // one for each serving thread
    assert!(gate.app.connections() <= 2, "{} connections for 20 requests", gate.app.connections());
}

#[tokio::test]
async fn a_started_request_is_finished_before_the_gate_stops() {
    let slow = Held::start();
    let exporter = format!("[[exporter]]\nname = \"slow\"\nurl = \"http://{}\"", slow.address);
    let mut gate = Harness::new().await.more("exporter", exporter).start().await;
    let call = gate.get("/exporters/slow/metrics").bearer(&gate.token("scrape"));
    let mut asked = JoinSet::new();
    asked.spawn(call.send());
    eventually("the request to be at the exporter", || async { slow.asked.try_recv().ok() }).await;
    gate.program.signal("TERM").await;
    let address = gate.address();
    eventually("the gate to listen no more", || async {
        tokio::net::TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
    slow.release.send(()).unwrap();
    let answer = asked.join_next().await.unwrap().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "late"));
    let status = gate.program.ended().await;
    assert_eq!(status.code(), Some(0), "{:?}", gate.program.lines());
    assert_eq!(gate.record(&answer.id()).await["status"], 200);
}

/// An exporter that answers one request when it is told to. A thread: it waits, which no async task may.
struct Held {
    address: SocketAddr,
    asked: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
}

impl Held {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ((tell, asked), (release, released)) = (mpsc::channel(), mpsc::channel());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // the head of a GET comes in one piece
            let _ = stream.read(&mut [0; 8192]).unwrap();
            tell.send(()).unwrap();
            if released.recv().is_ok() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").unwrap();
            }
        });
        Self { address, asked, release }
    }
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let harness = Harness::new().await.section("listen", format!("[[listen]]\naddress = \"{address}\"\ntls = false"));
    harness.directory.write("wicketgate.toml", harness.config());
    let file = harness.directory.join("wicketgate.toml");
    let mut command = crate::support::program::wicketgate(&["serve", "--config", file.to_str().unwrap()]);
    let mut program = Program::start("wicketgate serve", &mut command, "");
    let status = program.ended().await;
    assert_ne!(status.code(), Some(0));
    eventually("an error that names the address", || async {
        program.lines().iter().any(|line| line.contains(&address.to_string())).then_some(())
    })
    .await;
}
