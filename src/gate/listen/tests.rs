//! Connections between two ends of a pipe, with tokio's clock paused: what takes minutes takes none.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::Frame;
use hyper::client::conn::http2 as client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::Sleep,
};

use super::*;

/// Far beyond every deadline.
const HOUR: Duration = Duration::from_secs(3600);

/// Answers with one piece at once and another after this long.
#[derive(Clone)]
struct Slow(Duration);

struct Pieces {
    left: Vec<&'static str>,
    pause: Pin<Box<Sleep>>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.left.len() == 1 {
            ready!(self.pause.as_mut().poll(cx));
        }
        Poll::Ready(self.left.pop().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
    }
}

impl Service for Slow {
    type Body = Pieces;

    fn tls(&self) -> Option<Tls> {
        None
    }

    async fn answer(&self, _: Peer, _: Request<Incoming>) -> Response<Pieces> {
        Response::new(Pieces { left: vec!["last", "first"], pause: Box::pin(tokio::time::sleep(self.0)) })
    }

    fn parse_failed(&self, _: &Peer, _: ParseFailure) {}
}

fn peer() -> Peer {
    Peer::without_certificate(([127, 0, 0, 1], 4242).into(), true)
}

/// Serves one end of a pipe; the task ends with the connection.
fn served(pause: Duration) -> (DuplexStream, tokio::task::JoinHandle<()>) {
    let (ours, theirs) = duplex(64 * 1024);
    let connection = http2(theirs, peer(), Slow(pause), CancellationToken::new());
    #[allow(clippy::disallowed_methods, reason = "the test awaits it")]
    (ours, tokio::spawn(connection))
}

async fn ends(connection: tokio::task::JoinHandle<()>) -> bool {
    tokio::time::timeout(HOUR, connection).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_loses_its_http2_connection() {
    let (_silent, connection) = served(Duration::ZERO);
    assert!(ends(connection).await);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_only_answers_pings_loses_its_http2_connection() {
    let (mut stream, connection) = served(Duration::ZERO);
    // preface and empty SETTINGS
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    let pings = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return;
            }
            let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
            stream.read_exact(&mut payload).await.unwrap();
            // the PING of a graceful shutdown among them
            if (head[3], head[4]) == (6, 0) {
                let _ = stream.write_all(b"\x00\x00\x08\x06\x01\x00\x00\x00\x00").await;
                let _ = stream.write_all(&payload).await;
            }
        }
    };
    let (ended, ()) = tokio::join!(ends(connection), pings);
    assert!(ended);
}

/// What a client gets of an answer when its windows are this large and the answer's end takes this long.
async fn asked(window: u32, pause: Duration) -> (Option<Bytes>, bool) {
    let (stream, connection) = served(pause);
    let mut builder = client::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window);
    let (mut sender, driver) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    let request = Request::get("https://gate.test/").body(crate::http::Body::Empty).unwrap();
    let exchange = async move {
        let answer = sender.send_request(request).await.unwrap();
        crate::http::read_bounded(answer.into_body(), 1024, HOUR).await.ok()
    };
    let (body, _, ended) = tokio::join!(exchange, driver, ends(connection));
    (body, ended)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_its_answer_loses_its_http2_connection() {
    assert_eq!(asked(0, Duration::ZERO).await, (None, true));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_its_time_is_not_cut() {
    let whole = Bytes::from_static(b"firstlast");
    assert_eq!(asked(1024, HOUR / 2).await, (Some(whole), true));
}
