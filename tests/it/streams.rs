//! The end of open streams: with the credential that authorized them, expired or revoked.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http2, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Interval, interval},
};
use wicketgate::internals::clock;

use crate::{
    certificates::listen,
    exchange,
    support::{
        DEADLINE, Gate, Harness,
        clients::{CertificateAuthority, Draft},
        eventually,
        issuer::{Issuer, Key},
    },
};

/// Says something every now and then, for ever.
struct Endless {
    ticks: Interval,
    open: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.ticks.poll_tick(cx));
        self.sent.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"tick\n")))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An upstream that answers each request with an endless stream of this media type.
pub(crate) struct Stream {
    pub(crate) address: SocketAddr,
    open: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Stream {
    pub(crate) async fn start(media: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        let sent = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let counted = (open.clone(), sent.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (open, sent) = counted.clone();
                let answer = service_fn(move |_| {
                    open.fetch_add(1, Ordering::SeqCst);
                    let open = open.clone();
                    let sent = sent.clone();
                    let body = Endless { ticks: interval(Duration::from_millis(20)), open, sent };
                    let answer = Response::builder().header("content-type", media).body(body);
                    std::future::ready(answer)
                });
                connections.spawn(async move {
                    // the gate breaks it off: that is the point
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { address, open, sent, _tasks: tasks }
    }

    /// How many of its responses are still open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// How often it said something.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    pub(crate) async fn ends(&self) {
        eventually("the upstream's side to be closed", || async { (self.open() == 0).then_some(()) }).await;
    }
}

/// A gate in front of it, with a leeway of one second for `exp`.
async fn gate(stream: &Stream, terms: &str) -> Gate {
    let exporter = format!("[[exporter]]\nname = \"stream\"\nurl = \"http://{}\"\n{terms}", stream.address);
    Harness::new().await.section("exporter", exporter).more("issuer", "leeway = \"1s\"").start().await
}

/// Reads over HTTP/1.1 until the gate breaks off; the chunks as they were sent.
pub(crate) async fn read(gate: &Gate, token: &str) -> (StatusCode, String, String) {
    let head = format!(
        "GET /exporters/stream/events HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    let answer = gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
    (answer.status, answer.id(), answer.text())
}

fn ending_in(gate: &Gate, seconds: i64) -> String {
    gate.token_builder("scrape").claim("exp", clock::now().as_second() + seconds).mint()
}

#[tokio::test]
async fn a_stream_ends_with_its_token_as_an_error() {
    let stream = Stream::start("text/event-stream").await;
    let gate = gate(&stream, "").await;
    let began = clock::monotonic();
    let (status, id, text) = read(&gate, &ending_in(&gate, 1)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(began.elapsed() >= Duration::from_millis(500), "it ended before the token");
    assert!(text.contains("tick") && !text.ends_with("0\r\n\r\n"), "it ends as if it were whole: {text:?}");
    stream.ends().await;
    let record = gate.record(&id).await;
    assert_eq!((&record["decision"], &record["reason"]), (&"allow".into(), &"proof_expired".into()), "{record}");
}

#[tokio::test]
async fn a_stream_ends_when_the_key_of_its_token_is_withdrawn() {
    let stream = Stream::start("text/event-stream").await;
    let gate = gate(&stream, "").await;
    let token = gate.token("scrape");
    let withdrawn = async {
        eventually("the stream to be open", || async { (stream.open() > 0).then_some(()) }).await;
        let next = Key::rsa("next");
        gate.issuer.publish(&[&next]);
        // an unknown `kid` makes the gate look at once
        let fresh = gate.token_builder("scrape").signed_by(&next, "RS256").mint();
        assert_eq!(gate.get("/sd").bearer(&fresh).send().await.status, StatusCode::OK);
    };
    let ((status, id, text), ()) = tokio::join!(read(&gate, &token), withdrawn);
    assert_eq!(status, StatusCode::OK);
    assert!(!text.ends_with("0\r\n\r\n"), "it ends as if it were whole: {text:?}");
    stream.ends().await;
    assert_eq!(gate.record(&id).await["reason"], "proof_withdrawn");
}

#[tokio::test]
async fn a_stream_ends_when_its_clients_certificate_is_revoked() {
    let stream = Stream::start("text/event-stream").await;
    let authority = CertificateAuthority::new();
    let exporter = format!("[[exporter]]\nname = \"stream\"\nurl = \"http://{}\"", stream.address);
    let clients = "client_certificates = \"optional\", client_ca = \"clients.pem\", client_crls = [\"clients.crl\"]";
    let harness = Harness::new().await.section("exporter", exporter).section("listen", listen(clients));
    authority.write(&harness.directory, "clients.pem");
    authority.revoke(&harness.directory, "clients.crl", &[], 3600);
    let gate = harness.start().await;
    let shown = authority.issue(Draft::new());
    // a token of its own does not keep the stream
    let token = gate.token("scrape");
    let head = format!(
        "GET /exporters/stream/events HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    let revoked = async {
        eventually("the stream to be open", || async { (stream.open() > 0).then_some(()) }).await;
        authority.revoke(&gate.directory, "clients.crl", &[&shown], 3600);
    };
    let door = shown.door(&gate, b"http/1.1");
    let (answer, ()) = tokio::join!(door.raw(head.as_bytes()), revoked);
    assert_eq!(answer.status, StatusCode::OK);
    assert!(!answer.text().ends_with("0\r\n\r\n"), "it ends as if it were whole: {answer:?}");
    stream.ends().await;
    assert_eq!(gate.record(&answer.id()).await["reason"], "certificate_invalidated");
}

#[tokio::test]
async fn a_stream_ends_when_its_issuer_is_removed() {
    let stream = Stream::start("text/event-stream").await;
    let other = Issuer::start().await;
    let exporter = format!("[[exporter]]\nname = \"stream\"\nurl = \"http://{}\"", stream.address);
    let section = |name: &str, url: &str| {
        format!("[[issuer]]\nname = \"{name}\"\nissuer = \"{url}\"\naudiences = [\"wicketgate\"]\n")
    };
    let harness = exchange::harness().await.section("exporter", exporter);
    let corp = section("corp", &harness.issuer.url());
    let stays = section("other", &other.url());
    let gate = harness.section("issuer", format!("{corp}{stays}")).start().await;
    let token = gate.token("scrape");
    let (_, given) = exchange::exchanged(&gate, &token, exchange::URL).await;
    let own = given["access_token"].as_str().unwrap();
    let open = async |count: usize| {
        eventually("the streams", || async { (stream.open() == count).then_some(()) }).await;
    };
    let ended = async {
        let taken_out = async {
            open(3).await;
            let config = std::fs::read_to_string(gate.directory.join("wicketgate.toml")).unwrap();
            gate.directory.write("wicketgate.toml", config.replace(&corp, ""));
        };
        let ended = tokio::join!(read(&gate, &token), read(&gate, own), taken_out);
        open(1).await;
        ended
    };
    let others = other.token("tester", &["scrape"]).mint();
    let (one, two, ()) = tokio::select! {
        (status, _, text) = read(&gate, &others) => panic!("another issuer's stream ended: {status} {text}"),
        ended = ended => ended,
    };
    for (status, id, _) in [one, two] {
        assert_eq!(status, StatusCode::OK);
        assert_eq!(gate.record(&id).await["reason"], "proof_withdrawn");
    }
}

#[tokio::test]
async fn a_grpc_stream_ends_with_a_status() {
    let stream = Stream::start("application/grpc").await;
    let gate = gate(&stream, "").await;
    let request = Request::get("https://localhost/exporters/stream/events")
        .header("authorization", format!("Bearer {}", ending_in(&gate, 1)))
        .body(Empty::<Bytes>::new())
        .unwrap();
    let io = TokioIo::new(gate.door(0, b"h2").connect().await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let body = sender.send_request(request).await.unwrap().into_body();
    let trailers = trailers(body).await;
    // UNAUTHENTICATED
    assert_eq!(trailers["grpc-status"], "16", "{trailers:?}");
    stream.ends().await;
}

#[tokio::test]
async fn a_route_can_let_its_streams_continue() {
    let stream = Stream::start("text/event-stream").await;
    let gate = gate(&stream, "end_streams = false").await;
    let token = ending_in(&gate, 1);
    let outlived = async {
        eventually("the token to end", || async {
            let status = gate.get("/sd").bearer(&token).send().await.status;
            (stream.open() > 0 && status == StatusCode::UNAUTHORIZED).then_some(())
        })
        .await;
        let before = stream.sent.load(Ordering::SeqCst);
        eventually("the stream to go on for a second more", || async {
            (stream.sent.load(Ordering::SeqCst) > before + 50).then_some(())
        })
        .await;
    };
    tokio::select! {
        (status, _, text) = read(&gate, &token) => panic!("the stream ended: {status} {text}"),
        () = outlived => {}
    }
}

/// What a gRPC stream ends with, once it does.
pub(crate) async fn trailers(mut body: Incoming) -> HeaderMap {
    let trailers = async {
        let mut last = HeaderMap::new();
        while let Some(frame) = body.frame().await {
            last = frame.unwrap().into_trailers().unwrap_or_default();
        }
        last
    };
    tokio::time::timeout(DEADLINE, trailers).await.expect("the stream does not end")
}
