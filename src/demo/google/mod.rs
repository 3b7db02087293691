//! An emulator of Google: STS, IAM Credentials and Vertex AI (REST, and of gRPC what predicting takes), on one clear
//! loopback port.
//!
//! Promises: it checks every token. A subject token must verify with the trusted issuer's keys. A federated token and an
//! access token must be its own and unexpired, and their account must be allowed to call the method. Errors have
//! Google's format. An unknown path is a 404.

mod class;
mod errors;
pub(crate) mod forecast;
mod identity;
mod rest;
mod rpc;
mod state;
pub(crate) mod value;
mod vertex;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Response;

use super::{
    error::DemoError,
    issuer::KeyRing,
    server::{Handler, ReceivedRequest, Server},
};
use crate::{
    client::Client,
    http::{Body, BoxFuture},
};
use state::{DiscoveredIssuer, Shared, State};

pub(crate) use class::Class;
pub(crate) use state::AUDIENCE;
pub use state::{ENDPOINT, LOCATION, PROJECT};

/// A running emulator.
pub struct Google {
    server: Server,
    shared: Arc<Shared>,
}

/// Settings of the emulator.
pub struct Builder {
    port: u16,
    issuer: String,
    keys: KeyRing,
    discovered_issuer: Option<DiscoveredIssuer>,
    accounts: Vec<(String, Class)>,
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

    /// The server, with the requests that it recorded.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// From now on federated tokens live this long.
    pub fn federated_lifetime(&self, lifetime: Duration) {
        self.shared.lock().federated_lifetime = lifetime;
    }

    /// From now on access tokens live this long, whatever lifetime the request contains.
    pub fn access_lifetime(&self, lifetime: Duration) {
        self.shared.lock().access_lifetime = Some(lifetime);
    }

    /// Revokes every token that it issued.
    pub fn revoke_tokens(&self) {
        let mut state = self.shared.lock();
        state.federated.clear();
        state.access.clear();
    }

    /// From now on the endpoint serves this version of its model.
    pub fn model_version(&self, version: &str) {
        version.clone_into(&mut self.shared.lock().model_version);
    }

    /// The service account of an access token; `None` if the emulator did not issue it.
    #[must_use]
    pub fn account_of(&self, token: &str) -> Option<String> {
        self.shared.lock().access.get(token).map(|token| token.name.clone())
    }

    /// The subject of the subject token that this access token was obtained with; Google's audit log names it.
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

impl Handler for Shared {
    fn handle(self: Arc<Self>, call: ReceivedRequest) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            if rpc::is_call(&call) { rpc::answer(&self, &call).await } else { rest::handle(&self, &call).await }
        })
    }
}
