//! The one way out: every request this program sends to another server leaves through here.
//!
//! Promises: TLS is verified against named roots; every wait has a deadline; connections are pooled for each worker,
//! so that a request and its upstream connection stay on one core. It never follows a redirect and never reads a proxy
//! setting from the environment.

pub(crate) mod oauth;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri, Version,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::http::{Body, ReadError, read_bounded};

/// How long a TCP connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Idle upstream connections are closed after this long.
const POOL_IDLE: Duration = Duration::from_secs(90);
/// How often an HTTP/2 connection that is in use is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Bytes that an upstream may send on one gRPC call, and on all of a connection's, before they are read.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Serving runtimes that one process may have.
pub(crate) const MAX_WORKERS: usize = 64;

/// Which runtime a request runs on: its upstream connections belong to that runtime alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker(usize);

impl Worker {
    /// The runtime for background work: refreshes, the data path.
    pub const BACKGROUND: Self = Self(0);

    /// The `index`th serving runtime, from 0.
    #[must_use]
    pub fn serving(index: usize) -> Self {
        Self(index + 1)
    }
}

/// Makes this client's cryptography the process's: google-cloud-auth's HTTP client takes the process's and panics where
/// there is none. Call it once before anything starts; a second call changes nothing.
pub(crate) fn share_cryptography() {
    // an error means that one is set already
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum ClientError {
    #[error("cannot connect to the upstream")]
    Connect(#[source] hyper_util::client::legacy::Error),
    #[error("the upstream broke off")]
    Send(#[source] hyper_util::client::legacy::Error),
    #[error("the upstream did not answer within {0:?}")]
    Deadline(Duration),
    #[error("the upstream's answer cannot be read")]
    Body(#[from] ReadError),
    #[error("not a request that can be sent")]
    Request(#[from] http::Error),
}

/// Why a client could not be built from its settings.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum BuildError {
    #[error("cannot read the CA file `{path}`: {problem}", path = .0.display(), problem = .1)]
    CaFile(PathBuf, rustls::pki_types::pem::Error),
    #[error("the CA file `{}` holds no usable certificate", .0.display())]
    NoCa(PathBuf),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("`{0}` is not an http:// or https:// URL with a host")]
    Url(String),
    #[error("`{0}` holds a user name or password; put them in a secret source")]
    Userinfo(String),
}

type Connections = Pool<HttpsConnector<HttpConnector>, Body>;

/// A pooled HTTP client with one set of TLS roots.
#[derive(Debug)]
pub struct Client {
    tls: ClientConfig,
    pools: Box<[Pools]>,
}

/// One runtime's connections.
#[derive(Debug, Default)]
struct Pools {
    any: OnceLock<Connections>,
    /// For gRPC, which has no other form: by ALPN over TLS, by prior knowledge in clear.
    http2: OnceLock<Connections>,
}

/// What an upstream is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// What it prefers of HTTP/1.1 and HTTP/2.
    Any,
    Http2,
}

/// The clients of this process, by the CA file they trust. Loading the configuration again gives the same client where
/// the file has not changed, so that its connections live on.
#[derive(Debug, Default)]
pub struct Clients(Mutex<Vec<(CaFile, Arc<Client>)>>);

type CaFile = Option<(PathBuf, Vec<u8>)>;

impl Clients {
    /// The client that trusts `ca`, or the system's roots where it is `None`.
    ///
    /// # Errors
    /// When the CA file cannot be read or holds no certificate.
    pub fn trusting(&self, ca: Option<&Path>) -> Result<Arc<Client>, BuildError> {
        // a file that cannot be read is reported by `Client::new` with its reason
        let file = ca.map(|path| (path.to_owned(), std::fs::read(path).unwrap_or_default()));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = known.iter().find(|(other, _)| *other == file) {
            return Ok(client.clone());
        }
        let client = Arc::new(Client::new(ca)?);
        known.push((file, client.clone()));
        Ok(client)
    }
}

impl Client {
    /// A client that trusts the system's roots, or only the certificates in `ca` where that is given.
    ///
    /// # Errors
    /// When the CA file cannot be read or holds no certificate.
    pub fn new(ca: Option<&Path>) -> Result<Self, BuildError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(ca)?)
            .with_no_client_auth();
        Ok(Self { tls, pools: (0..=MAX_WORKERS).map(|_| Pools::default()).collect() })
    }

    /// Sends one request; the answer's body streams. `deadline` bounds the wait for the answer's head.
    ///
    /// # Errors
    /// When the upstream cannot be reached, breaks off or is too slow.
    pub async fn send(
        &self,
        worker: Worker,
        request: Request<Body>,
        deadline: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        self.ask(Protocol::Any, worker, request, deadline).await
    }

    async fn ask(
        &self,
        protocol: Protocol,
        worker: Worker,
        request: Request<Body>,
        deadline: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let answer = self.pool(worker, protocol).request(request);
        match tokio::time::timeout(deadline, answer).await {
            Err(_) => Err(ClientError::Deadline(deadline)),
            Ok(Err(e)) if e.is_connect() => Err(ClientError::Connect(e)),
            Ok(answer) => answer.map_err(ClientError::Send),
        }
    }

    /// Fetches `uri` and reads an answer of at most `limit` bytes, all within `deadline`.
    ///
    /// # Errors
    /// When the upstream cannot be reached, or its answer is too slow or too large.
    pub async fn fetch(
        &self,
        request: Request<Body>,
        limit: usize,
        deadline: Duration,
    ) -> Result<Response<Bytes>, ClientError> {
        let whole = async {
            let (head, body) = self.send(Worker::BACKGROUND, request, deadline).await?.into_parts();
            Ok(Response::from_parts(head, read_bounded(body, limit, deadline).await?))
        };
        tokio::time::timeout(deadline, whole).await.map_err(|_| ClientError::Deadline(deadline))?
    }

    fn pool(&self, worker: Worker, protocol: Protocol) -> &Connections {
        // a worker past the end can only come of a bug; it shares the background's pool rather than panic
        let pools = self.pools.get(worker.0).or(self.pools.first());
        static NONE: Pools = Pools { any: OnceLock::new(), http2: OnceLock::new() };
        let pools = pools.unwrap_or(&NONE);
        let slot = match protocol {
            Protocol::Any => &pools.any,
            Protocol::Http2 => &pools.http2,
        };
        slot.get_or_init(|| self.connect(protocol))
    }

    fn connect(&self, protocol: Protocol) -> Connections {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_DEADLINE));
        let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(self.tls.clone()).https_or_http();
        let mut pool = Pool::builder(TokioExecutor::new());
        pool.pool_idle_timeout(POOL_IDLE).pool_timer(TokioTimer::new()).timer(TokioTimer::new());
        match protocol {
            Protocol::Any => pool.build(https.enable_all_versions().wrap_connector(tcp)),
            Protocol::Http2 => pool
                .http2_only(true)
                .http2_initial_stream_window_size(STREAM_WINDOW)
                .http2_initial_connection_window_size(CONNECTION_WINDOW)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .http2_keep_alive_timeout(CONNECT_DEADLINE)
                .build(https.enable_http2().wrap_connector(tcp)),
        }
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, BuildError> {
    let mut roots = RootCertStore::empty();
    match ca {
        None => {
            let found = rustls_native_certs::load_native_certs();
            for problem in &found.errors {
                tracing::warn!(error = %problem, "a system root certificate was passed over");
            }
            roots.add_parsable_certificates(found.certs);
        }
        Some(path) => {
            let unreadable = |e| BuildError::CaFile(path.to_owned(), e);
            for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                roots.add(certificate.map_err(unreadable)?)?;
            }
            if roots.is_empty() {
                return Err(BuildError::NoCa(path.to_owned()));
            }
        }
    }
    Ok(roots)
}

/// One server that requests are sent to: a base URL and the client that reaches it.
#[derive(Clone, Debug)]
pub struct Upstream {
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    /// The base URL's path without a trailing slash; what is sent is put behind it.
    base_path: Box<str>,
    client: Arc<Client>,
}

impl PartialEq for Upstream {
    /// The same server, reached through the same connections.
    fn eq(&self, other: &Self) -> bool {
        (&self.scheme, &self.authority, &self.base_path) == (&other.scheme, &other.authority, &other.base_path)
            && Arc::ptr_eq(&self.client, &other.client)
    }
}

impl Upstream {
    /// An upstream at `url`, such as `http://127.0.0.1:9100` or `https://host/prefix`.
    ///
    /// # Errors
    /// When `url` has no host, another scheme, a user name, a query or a fragment.
    pub fn new(url: &str, client: Arc<Client>) -> Result<Self, BuildError> {
        let bad = || BuildError::Url(url.to_owned());
        let parts = url.parse::<Uri>().map_err(|_| bad())?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return Err(bad()) };
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS || url.contains(['?', '#']) {
            return Err(bad());
        }
        if authority.as_str().contains('@') {
            return Err(BuildError::Userinfo(authority.host().to_owned()));
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?;
        let base_path = parts.path_and_query.map_or_else(Box::default, |p| p.path().trim_end_matches('/').into());
        Ok(Self { scheme, authority, host, base_path, client })
    }

    /// Host and port, for logs and metrics.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// Sends one request to `path_and_query` below the base URL. `Host` is set here, whatever `headers` say.
    ///
    /// # Errors
    /// When the upstream cannot be reached, breaks off or is too slow.
    pub async fn send(
        &self,
        worker: Worker,
        method: Method,
        path_and_query: &str,
        mut headers: HeaderMap,
        body: Body,
        deadline: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        headers.insert(http::header::HOST, self.host.clone());
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.uri(path_and_query)?;
        *request.headers_mut() = headers;
        self.client.send(worker, request, deadline).await
    }

    /// Makes one gRPC call: HTTP/2 only, and all of `path` is the method's full name.
    ///
    /// # Errors
    /// When the upstream cannot be reached, speaks no HTTP/2, breaks off or is too slow.
    pub async fn call(
        &self,
        worker: Worker,
        path: &str,
        mut headers: HeaderMap,
        body: Body,
        deadline: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        // HTTP/2 has `:authority` in its place
        headers.remove(http::header::HOST);
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.uri(path)?;
        *request.headers_mut() = headers;
        self.client.ask(Protocol::Http2, worker, request, deadline).await
    }

    fn uri(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        let path = if self.base_path.is_empty() {
            PathAndQuery::try_from(path_and_query)?
        } else {
            PathAndQuery::try_from(format!("{}{path_and_query}", self.base_path))?
        };
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        Ok(Uri::from_parts(parts)?)
    }
}
