//! An emulator of Google: STS, IAM Credentials and Vertex AI (REST, and of gRPC what predicting takes), on one clear
//! loopback port.
//!
//! Promises: it believes nobody: a subject token is verified against the trusted issuer's keys, a federated token
//! and an access token are its own, unexpired, and of an account that may do what is asked. Errors have Google's
//! shape. What it does not know is a 404.

pub(crate) mod forecast;
mod identity;
mod rpc;
pub(crate) mod value;
mod vertex;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::{
    DemoError,
    issuer::KeyRing,
    server::{Handler, ReceivedRequest, Server, json},
};
use crate::{
    client::Client,
    clock::Timestamp,
    http::{Body, BoxFuture},
};

pub(crate) use vertex::Class;

/// The workload identity pool provider that the emulator is unless told otherwise.
pub(crate) const AUDIENCE: &str =
    "//iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/demo/providers/demo";
/// The project, location and endpoint that there are.
pub const PROJECT: &str = "demo";
/// The one location.
pub const LOCATION: &str = "us-central1";
/// The endpoint with the forecast behind it.
pub const ENDPOINT: &str = "1001";

/// A running emulator.
pub struct Google {
    server: Server,
    shared: Arc<Shared>,
}

/// How the emulator is to be.
pub struct Builder {
    port: u16,
    issuer: String,
    keys: KeyRing,
    discovered_issuer: Option<DiscoveredIssuer>,
    accounts: Vec<(String, Class)>,
}

/// What all of it shares.
struct Shared {
    /// The issuer whose subject tokens are exchanged.
    issuer: String,
    keys: KeyRing,
    /// One more, whose keys are found as Google finds them.
    discovered_issuer: Option<DiscoveredIssuer>,
    /// Service account → the one class of methods it may call.
    accounts: HashMap<String, Class>,
    state: Mutex<State>,
}

struct State {
    /// Federated tokens, by their text.
    federated: HashMap<String, IssuedToken>,
    /// Access tokens of service accounts, by their text.
    access: HashMap<String, IssuedToken>,
    federated_lifetime: Duration,
    access_lifetime: Option<Duration>,
    model_version: String,
    /// Resources that callers created, by name.
    created: HashMap<String, Value>,
    last_id: u64,
}

/// An issuer whose keys are found by discovery, at each exchange.
struct DiscoveredIssuer {
    issuer: String,
    client: Client,
}

/// Who a token stands for, and how long.
#[derive(Clone)]
struct IssuedToken {
    /// The service account; for a federated token the subject.
    name: String,
    /// Whose subject token it was got with: what an audit log names.
    subject: String,
    expires_at: Timestamp,
}

impl Google {
    /// An emulator that trusts `issuer` (its `iss`) and these keys, on any free port, with the demo's five accounts.
    #[must_use]
    pub fn builder(issuer: &str, keys: &KeyRing) -> Builder {
        let accounts = [Class::Ingest, Class::Infer, Class::Train, Class::Observe, Class::Administer];
        let accounts = accounts.map(|class| (account(class), class)).to_vec();
        Builder { port: 0, issuer: issuer.to_owned(), keys: keys.clone(), discovered_issuer: None, accounts }
    }

    /// Its base URL; STS is at `{url}/v1/token`, the rest below it.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// What it was asked, and how it is to behave.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// From now on federated tokens live this long.
    pub fn federated_lifetime(&self, lifetime: Duration) {
        self.shared.lock().federated_lifetime = lifetime;
    }

    /// From now on access tokens live this long, whatever is asked.
    pub fn access_lifetime(&self, lifetime: Duration) {
        self.shared.lock().access_lifetime = Some(lifetime);
    }

    /// Forgets every token it gave: they are refused from now on.
    pub fn revoke_tokens(&self) {
        let mut state = self.shared.lock();
        state.federated.clear();
        state.access.clear();
    }

    /// From now on the endpoint serves this version of its model.
    pub fn model_version(&self, version: &str) {
        version.clone_into(&mut self.shared.lock().model_version);
    }

    /// The service account that an access token is for; nothing for a token it did not give.
    #[must_use]
    pub fn account_of(&self, token: &str) -> Option<String> {
        self.shared.lock().access.get(token).map(|token| token.name.clone())
    }

    /// The subject whose token this access token was got with: whom Google's audit log names.
    #[must_use]
    pub fn subject_of(&self, token: &str) -> Option<String> {
        self.shared.lock().access.get(token).map(|token| token.subject.clone())
    }

    /// Closes the socket and every connection.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// The demo's service account for a class, such as `wicketgate-infer@demo.iam.gserviceaccount.com`.
#[must_use]
pub(crate) fn account(class: Class) -> String {
    format!("wicketgate-{}@{PROJECT}.iam.gserviceaccount.com", class.name())
}

impl Builder {
    /// Listens on this port of 127.0.0.1.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Trusts one more issuer, whose keys it finds by discovery below this URL; its server's certificate must chain to
    /// `ca`.
    ///
    /// # Errors
    /// When the file holds no certificate.
    pub fn discovered_issuer(mut self, issuer: &str, ca: &Path) -> Result<Self, DemoError> {
        self.discovered_issuer = Some(DiscoveredIssuer { issuer: issuer.to_owned(), client: Client::new(Some(ca))? });
        Ok(self)
    }

    /// One more service account, which may call the methods of this class.
    #[must_use]
    pub fn account(mut self, email: &str, class: Class) -> Self {
        self.accounts.push((email.to_owned(), class));
        self
    }

    /// Listens.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start(self) -> Result<Google, DemoError> {
        let shared = Arc::new(Shared {
            issuer: self.issuer,
            keys: self.keys,
            discovered_issuer: self.discovered_issuer,
            accounts: self.accounts.into_iter().collect(),
            state: Mutex::new(State {
                federated: HashMap::new(),
                access: HashMap::new(),
                federated_lifetime: Duration::from_secs(60 * 60),
                access_lifetime: None,
                model_version: "1".to_owned(),
                created: HashMap::new(),
                last_id: 9000,
            }),
        });
        let server = Server::start(self.port, None, shared.clone()).await?;
        Ok(Google { server, shared })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Answers a REST request.
    async fn rest(&self, call: &ReceivedRequest) -> Response<Body> {
        let segments: Vec<&str> = call.path.trim_start_matches('/').split('/').collect();
        match (&call.method, segments.as_slice()) {
            (&Method::POST, ["v1", "token"]) => identity::exchange(self, call).await,
            (&Method::POST, ["v1", "projects", "-", "serviceAccounts", account]) => {
                identity::impersonate(self, account, call)
            }
            (_, ["v1" | "v1beta1", "projects", project, "locations", location, rest @ ..]) => {
                vertex::answer(self, project, location, rest, call).await
            }
            _ => not_found(&call.path),
        }
    }
}

impl Handler for Shared {
    fn handle(self: Arc<Self>, call: ReceivedRequest) -> BoxFuture<'static, Response<Body>> {
        Box::pin(
            async move { if rpc::is_call(&call) { rpc::answer(&self, &call).await } else { self.rest(&call).await } },
        )
    }
}

/// Google's error shape.
fn error(code: StatusCode, status: &str, message: &str) -> Response<Body> {
    json(code, &json!({ "error": { "code": code.as_u16(), "message": message, "status": status } }))
}

fn not_found(path: &str) -> Response<Body> {
    error(StatusCode::NOT_FOUND, "NOT_FOUND", &format!("The requested URL {path} was not found on this server."))
}

fn invalid(message: &str) -> Response<Body> {
    error(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message)
}

fn denied(message: &str) -> Response<Body> {
    error(StatusCode::FORBIDDEN, "PERMISSION_DENIED", message)
}

fn unauthenticated() -> Response<Body> {
    error(
        StatusCode::UNAUTHORIZED,
        "UNAUTHENTICATED",
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid \
         authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
    )
}
