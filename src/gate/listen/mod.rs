//! Where connections come in: sockets, TLS, HTTP/1.1 and HTTP/2.
//!
//! Promises: a connection waits for a slot before it is accepted, has a deadline for its handshake and for each request
//! head, gives its slot back when its client does nothing, and is drained, not cut, when the program stops. What the
//! connection proves is the [`Peer`]; nothing else of a request is looked at here.

mod certificate;
mod clients;
mod idle;
mod pem;
mod tls;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::idle::{Activity, Watched};
pub(crate) use self::{
    pem::TlsError,
    tls::{ClientCertificates, Tls, server_config},
};
use crate::{clock, http::BodyError, peer::Peer};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// For the head of a request, for an idle connection until its next request, and for a client that takes no more of its
/// answer.
const HEAD_DEADLINE: Duration = Duration::from_secs(75);
/// hyper refuses larger heads by itself; the story refuses those over [`MAX_HEAD`] with a record and a reason.
const HEAD_BUFFER: usize = 128 * 1024;
/// How soon an open stream ends that its client's certificate no longer covers.
const LOOK_AFTER: Duration = Duration::from_secs(2);
const STREAMS: u32 = 256;
/// Half-open resets that a peer may have at once (HTTP/2 rapid reset, CVE-2023-44487).
const PENDING_RESETS: usize = 20;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Largest sum of header names and values that a request may have, in bytes.
pub(crate) const MAX_HEAD: usize = 32 * 1024;

/// One `[[listen]]` section.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where to listen.
    pub address: SocketAddr,
    /// Certificate and key, loaded; `None` for clear text.
    pub tls: Option<Tls>,
}

/// Why a request never became one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParseFailure {
    /// Its head is larger than the buffer, or has too many headers; the client was sent 431.
    TooLarge,
    /// It is not HTTP; the client was sent 400.
    Malformed,
}

/// What answers the requests of a listener: the gate, or the admin pages.
pub(crate) trait Service: Clone + Send + 'static {
    /// Its responses' body.
    type Body: http_body::Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static;

    /// The TLS settings for a connection that begins now.
    fn tls(&self) -> Option<Tls>;

    /// Answers a request.
    fn answer(&self, peer: Peer, request: Request<Incoming>) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Is told of a request that could not be read.
    fn parse_failed(&self, peer: &Peer, what: ParseFailure);
}

/// Opens a listening socket. Several may share one address, so that each worker has its own and the kernel spreads the
/// connections.
///
/// # Errors
/// When the address is taken or not of this machine.
pub(crate) fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether some program listens on `address` already: sockets that share an address would hide it.
#[must_use]
pub(crate) fn is_taken(address: SocketAddr) -> bool {
    address.port() != 0
        && std::net::TcpListener::bind(address).is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
}

/// Serves a listener until `stop`, then lets open requests end.
pub(crate) async fn serve<S: Service>(
    listener: TcpListener,
    service: S,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                let service = service.clone();
                let stop = stop.clone();
                connections.spawn(async move {
                    connection(stream, address, service, stop).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // out of files or memory: those pass, and trying at once would only burn the core
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // from here on nobody connects: what the kernel still took would only be cut
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection<S: Service>(stream: TcpStream, address: SocketAddr, service: S, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = service.tls() else {
        return http1(stream, Peer::without_certificate(address, false), service, stop).await;
    };
    let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, TlsAcceptor::from(tls.config.clone()).accept(stream));
    match handshake.await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificate = certificate::read(shown, tls.verifies());
            let peer = Peer { certificate, ..Peer::without_certificate(address, true) };
            let watched = peer.clone();
            let watcher = service.clone();
            let served = async {
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    http2(stream, peer, service, stop).await;
                } else {
                    http1(stream, peer, service, stop).await;
                }
            };
            tokio::select! {
                () = served => {}
                () = watch(watcher, watched) => {}
            }
        }
        Ok(Err(error)) => tracing::debug!(peer = %address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(peer = %address, "a TLS handshake took too long"),
    }
}

/// Looks after a connection's certificate while answers stream: each request is looked at by itself. Never ends.
async fn watch<S: Service>(service: S, peer: Peer) {
    while peer.certificate.is_some() && !peer.invalidated.is_cancelled() {
        tokio::time::sleep(LOOK_AFTER).await;
        if service.tls().is_some_and(|tls| tls.is_invalidated(&peer, clock::now())) {
            peer.invalidated.cancel();
        }
    }
    std::future::pending().await
}

async fn http1<S: Service, T>(stream: T, peer: Peer, service: S, stop: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::default());
    let asked = service.clone();
    let from = peer.clone();
    let watch = activity.clone();
    let answer = service_fn(move |request| answer(asked.clone(), from.clone(), request, watch.clone()));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BUFFER)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = last_call(&stop, &activity) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = activity.idle(HEAD_DEADLINE) => return,
            }
        }
    };
    if let Err(error) = ended {
        if error.is_parse_too_large() {
            service.parse_failed(&peer, ParseFailure::TooLarge);
        } else if error.is_parse() {
            service.parse_failed(&peer, ParseFailure::Malformed);
        }
        tracing::debug!(peer = %peer.address, error = crate::telemetry::chain(&error), "a connection ended badly");
    }
}

async fn http2<S: Service, T>(stream: T, peer: Peer, service: S, stop: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::default());
    let from = peer.clone();
    let watch = activity.clone();
    let answer = service_fn(move |request| answer(service.clone(), from.clone(), request, watch.clone()));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD_DEADLINE)
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_header_list_size(u32::try_from(HEAD_BUFFER).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = last_call(&stop, &activity) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = activity.idle(HEAD_DEADLINE) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %peer.address, error = crate::telemetry::chain(&error), "a connection ended badly");
    }
}

/// Answers a request on a connection that is watched.
async fn answer<S: Service>(
    service: S,
    peer: Peer,
    request: Request<Incoming>,
    activity: Arc<Activity>,
) -> Result<Response<Watched<S::Body>>, std::convert::Infallible> {
    let _waiting = activity.wait();
    let response = service.answer(peer, request).await;
    Ok(response.map(|body| Watched::new(body, activity.clone())))
}

/// Waits until no more requests shall come: the program stops, or the client does nothing.
async fn last_call(stop: &CancellationToken, activity: &Activity) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = activity.idle(HEAD_DEADLINE) => {}
    }
}

#[cfg(test)]
mod tests;
