//! The real peers: Prometheus, node_exporter, NATS and oidc-provider, as `tests/run` installs them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    process::{ChildStdin, Command},
    sync::Mutex,
};

use super::{
    Answer,
    call::{Call, Connector},
    eventually,
    harness::Directory,
    program::{Program, listening},
};

/// What to do when a peer is not there.
pub(super) const HINT: &str = "run `tests/run`, which installs the suite's peers";

/// Where the Python peer lies: `$WICKETGATE_PEERS`, or `target/peers`.
#[allow(clippy::disallowed_methods, reason = "the suite has no configuration file to name the place")]
pub(super) fn installed() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers");
    std::env::var("WICKETGATE_PEERS").map_or_else(|_| default(), PathBuf::from)
}

pub(super) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(path)
}

/// A free port, for peers that cannot choose one and report it.
pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A machine client of the provider.
pub(crate) struct Client {
    pub(crate) id: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) role: &'static str,
}

/// What npm's `oidc-provider` is started with; `tests/peers/oidc/provider.js` says what each setting does.
pub(crate) struct OidcSettings(Value);

impl OidcSettings {
    /// No client and no person yet.
    pub(crate) fn new() -> Self {
        Self(json!({
            "audience": "wicketgate", "resource": OidcProvider::RESOURCE,
            "opaque_resource": OidcProvider::OPAQUE_RESOURCE, "clients": [], "people": {},
        }))
    }

    /// A setting as `provider.js` names it: `ttl`, `algorithm`, `consent`, `dpop_nonces`, `address`, `tls` and more.
    pub(crate) fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0[name] = value.into();
        self
    }

    /// A client by its metadata (RFC 7591 section 2), and its `roles`.
    pub(crate) fn client(mut self, metadata: Value) -> Self {
        self.0["clients"].as_array_mut().unwrap().push(metadata);
        self
    }

    /// A client that logs in as itself (client credentials).
    pub(crate) fn machine(self, client: &Client) -> Self {
        self.client(json!({
            "client_id": client.id, "client_secret": client.secret, "roles": [client.role],
            "grant_types": ["client_credentials"], "redirect_uris": [], "response_types": [],
        }))
    }

    /// A confidential web client that people log in to, with refresh tokens and back-channel logout: what the gate is.
    /// `gate` is its URL, without a path; the other URLs are the gate's own.
    pub(crate) fn web(self, id: &str, secret: &str, gate: &str) -> Self {
        self.client(Self::web_client(id, secret, gate))
    }

    /// The metadata of such a client, to be changed first.
    pub(crate) fn web_client(id: &str, secret: &str, gate: &str) -> Value {
        json!({
            "client_id": id, "client_secret": secret,
            "grant_types": ["authorization_code", "refresh_token"],
            "redirect_uris": [format!("{gate}/callback")],
            "post_logout_redirect_uris": [format!("{gate}/")],
            "backchannel_logout_uri": format!("{gate}/backchannel-logout"),
            "backchannel_logout_session_required": true,
        })
    }

    /// A public client at a terminal: device grant, and PKCE to any port of 127.0.0.1 (RFC 8252 section 7.3).
    pub(crate) fn terminal(self, id: &str) -> Self {
        self.client(json!({
            "client_id": id, "token_endpoint_auth_method": "none", "application_type": "native",
            "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
            "redirect_uris": ["http://127.0.0.1/callback", "http://127.0.0.1/"],
        }))
    }

    /// A person that can log in, without a password.
    pub(crate) fn person(mut self, name: &str, roles: &[&str]) -> Self {
        let email = format!("{name}@example.com");
        self.0["people"][name] = json!({"roles": roles, "name": name, "email": email, "email_verified": true});
        self
    }

    /// Starts it; `ca` is what it trusts when it calls the gate.
    pub(crate) async fn start(self, ca: Option<&Path>) -> OidcProvider {
        let script = source("oidc/provider.js");
        assert!(script.with_file_name("node_modules").exists(), "oidc-provider is not installed: {HINT}");
        let mut command = Command::new("node");
        command.arg(script).stdin(Stdio::piped());
        if let Some(ca) = ca {
            command.env("NODE_EXTRA_CA_CERTS", ca);
        }
        let mut program = Program::start("oidc-provider", &mut command, HINT);
        let mut stdin = program.stdin();
        stdin.write_all(format!("{}\n", self.0).as_bytes()).await.unwrap();
        let issuer = program.until("its address", |lines| lines.iter().find_map(|line| issuer_of(line))).await;
        OidcProvider { issuer, program, stdin: Mutex::new(stdin) }
    }
}

/// npm's `oidc-provider`.
pub(crate) struct OidcProvider {
    pub(crate) issuer: String,
    pub(crate) program: Program,
    // it ends when this closes
    stdin: Mutex<ChildStdin>,
}

impl OidcProvider {
    /// What a client names to be given a JWT for the audience `wicketgate`.
    pub(crate) const RESOURCE: &str = "https://gate.example";
    /// What a client names to be given an opaque token for that audience.
    pub(crate) const OPAQUE_RESOURCE: &str = "https://opaque.example";

    /// Starts it with these machine clients.
    pub(crate) async fn start(clients: &[Client]) -> Self {
        clients.iter().fold(OidcSettings::new(), OidcSettings::machine).start(None).await
    }

    /// New signing keys; the old ones are still published if the provider keeps them.
    pub(crate) async fn rotate(&self, keep: bool) {
        self.command(json!({"command": "rotate", "keep": keep})).await;
    }

    /// Replaces settings while it runs, as `{"clients": …, "ttl": …}`.
    pub(crate) async fn set(&self, mut settings: Value) {
        settings["command"] = "set".into();
        self.command(settings).await;
    }

    /// Nothing answers at its address until [`OidcProvider::go_on`].
    pub(crate) async fn stop(&self) {
        self.command(json!({"command": "stop"})).await;
    }

    /// It answers again, and remembers all that it did before.
    pub(crate) async fn go_on(&self) {
        self.command(json!({"command": "start"})).await;
    }

    /// An access token of this client for this resource.
    pub(crate) async fn client_token(&self, client: &Client, resource: &str) -> String {
        let login = format!("{}:{}", client.id, client.secret);
        let form = [("grant_type", "client_credentials"), ("resource", resource)];
        let answer = super::person::post_form(&format!("{}/token", self.issuer), Some(&login), &form).await;
        answer.json()["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer:?}")).to_owned()
    }

    /// Sends a command and waits until it is done.
    async fn command(&self, command: Value) {
        let mut stdin = self.stdin.lock().await;
        let done = || self.program.lines().iter().filter(|line| line.starts_with("{\"done\"")).count();
        let before = done();
        stdin.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let what = format!("oidc-provider to obey {command}; it said:\n{}", self.program.lines().join("\n"));
        eventually(&what, || async { (done() > before).then_some(()) }).await;
    }

    /// An access token by client credentials (RFC 6749 section 4.4), as Prometheus gets it.
    pub(crate) async fn client_credentials(&self, client: &Client) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let address = self.issuer.strip_prefix("http://").unwrap().parse().unwrap();
        let basic = STANDARD.encode(format!("{}:{}", client.id, client.secret));
        let form = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("grant_type", "client_credentials"), ("resource", Self::RESOURCE)])
            .finish();
        let answer = Call::new(Connector { address, tls: None }, http::Method::POST, "/token")
            .header("authorization", &format!("Basic {basic}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
            .send()
            .await;
        answer.json()["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer:?}")).to_owned()
    }
}

/// What a token says to `jose`, a JWT library that shares nothing with the gate; a token that it does not verify
/// against this key set, for this audience and of this type, fails the test.
pub(crate) async fn jose(token: &str, jwks: &Value, issuer: &str, audience: &str, typ: &str) -> Value {
    let request = json!({"token": token, "jwks": jwks, "issuer": issuer, "audience": audience, "typ": typ});
    let mut command = Command::new("node");
    command.arg(source("oidc/verify.mjs")).stdin(Stdio::piped());
    let mut program = Program::start("jose", &mut command, HINT);
    program.stdin().write_all(format!("{request}\n").as_bytes()).await.unwrap();
    program.until("what it verified", |lines| lines.iter().find_map(|line| serde_json::from_str(line).ok())).await
}

fn issuer_of(line: &str) -> Option<String> {
    Some(serde_json::from_str::<Value>(line).ok()?.get("issuer")?.as_str()?.to_owned())
}

/// `nats-server` with JetStream, for one user.
pub(crate) struct Nats {
    pub(crate) address: SocketAddr,
    directory: Directory,
    /// Its certificate and key, where it speaks TLS.
    pair: Option<(PathBuf, PathBuf)>,
    program: Option<Program>,
}

impl Nats {
    /// The user name that NATS accepts.
    pub(crate) const USER: &str = "gate";
    pub(crate) const PASSWORD: &str = "the-password-of-nats";

    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With TLS where there are a certificate and a key.
    pub(crate) async fn start_with(pair: Option<(PathBuf, PathBuf)>) -> Self {
        let mut nats = Self { address: free_address(), directory: Directory::new(), pair, program: None };
        nats.go_on().await;
        nats
    }

    /// Ends it; what it holds stays on disk.
    pub(crate) async fn stop(&mut self) {
        let mut program = self.program.take().expect("it does not run");
        program.signal("TERM").await;
        program.ended().await;
    }

    /// Forgets all that it holds. It must not run.
    pub(crate) fn forget(&self) {
        assert!(self.program.is_none(), "it runs");
        std::fs::remove_dir_all(self.directory.join("jetstream")).unwrap();
    }

    /// Starts it again at the same address.
    pub(crate) async fn go_on(&mut self) {
        let server = installed().join("nats/bin/nats-server");
        let mut command = Command::new(&server);
        command.args(["--addr", "127.0.0.1", "--port", &self.address.port().to_string(), "--jetstream"]);
        command.arg("--store_dir").arg(self.directory.path()).args(["--user", Self::USER, "--pass", Self::PASSWORD]);
        if let Some((certificate, key)) = &self.pair {
            command.arg("--tls").arg("--tlscert").arg(certificate).arg("--tlskey").arg(key);
        }
        self.program = Some(Program::start("nats-server", &mut command, HINT));
        listening("nats-server", self.address).await;
    }
}

/// Debian's `prometheus-node-exporter`.
pub(crate) struct NodeExporter {
    pub(crate) address: SocketAddr,
    _program: Program,
}

impl NodeExporter {
    pub(crate) async fn start() -> Self {
        let address = free_address();
        let mut command = Command::new("prometheus-node-exporter");
        command.args([
            &format!("--web.listen-address={address}"),
            "--collector.disable-defaults",
            "--collector.loadavg",
            "--collector.meminfo",
        ]);
        let program = Program::start("prometheus-node-exporter", &mut command, HINT);
        listening("node_exporter", address).await;
        Self { address, _program: program }
    }
}

/// Debian's `prometheus`.
pub(crate) struct Prometheus {
    address: SocketAddr,
    pub(crate) program: Program,
}

impl Prometheus {
    /// Starts it in `directory` with this configuration.
    pub(crate) async fn start(directory: &Path, config: &str) -> Self {
        let file = directory.join("prometheus.yml");
        let data = directory.join("prometheus");
        std::fs::write(&file, config).unwrap();
        let address = free_address();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", data.display()));
        command.arg(format!("--web.listen-address={address}"));
        let program = Program::start("prometheus", &mut command, HINT);
        listening("prometheus", address).await;
        Self { address, program }
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        Call::new(Connector { address: self.address, tls: None }, http::Method::GET, target).send().await
    }

    /// The instant vector that `query` gives now, once it is not empty.
    pub(crate) async fn vector(&self, query: &str) -> Vec<Value> {
        let escaped: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        eventually(
            &format!("Prometheus to answer `{query}`; it said:\n{}", self.program.lines().join("\n")),
            || async {
                let answer = self.get(&format!("/api/v1/query?query={escaped}")).await;
                if answer.status != http::StatusCode::OK {
                    // it says 503 until it has read its storage
                    return None;
                }
                let rows = answer.json()["data"]["result"].as_array().cloned().unwrap_or_default();
                (!rows.is_empty()).then_some(rows)
            },
        )
        .await
    }
}
