//! The real peers: Prometheus, node_exporter, oidc-provider and the Python Vertex SDK, as `tests/run` installs them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    process::{ChildStdin, Command},
};

use super::{
    Answer,
    call::{Call, Door},
    eventually,
    program::{Program, listening},
};

/// What to do when a peer is not there.
const HINT: &str = "run `tests/run`, which installs the suite's peers";

/// Where the Python peer lies: `$WICKETGATE_PEERS`, or `target/peers`.
#[allow(clippy::disallowed_methods, reason = "the suite has no configuration file to name the place")]
fn installed() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers");
    std::env::var("WICKETGATE_PEERS").map_or_else(|_| default(), PathBuf::from)
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(path)
}

/// A port that nobody listens on now: for peers that cannot be told to choose one and say which.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A machine client of the provider.
pub(crate) struct Client {
    pub(crate) id: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) role: &'static str,
}

/// npm's `oidc-provider`.
pub(crate) struct OidcProvider {
    pub(crate) issuer: String,
    _program: Program,
    // it ends when this closes
    _stdin: ChildStdin,
}

impl OidcProvider {
    /// What a client names to be given a JWT for the audience `wicketgate`.
    pub(crate) const RESOURCE: &str = "https://gate.example";

    pub(crate) async fn start(clients: &[Client]) -> Self {
        let script = source("oidc/provider.js");
        assert!(script.with_file_name("node_modules").exists(), "oidc-provider is not installed: {HINT}");
        let mut command = Command::new("node");
        command.arg(script).stdin(Stdio::piped());
        let mut program = Program::start("oidc-provider", &mut command, HINT);
        let clients: Vec<Value> = clients
            .iter()
            .map(|client| json!({"id": client.id, "secret": client.secret, "roles": [client.role]}))
            .collect();
        let settings = json!({"audience": "wicketgate", "resource": Self::RESOURCE, "clients": clients});
        let mut stdin = program.stdin();
        stdin.write_all(format!("{settings}\n").as_bytes()).await.unwrap();
        let issuer = program.until("its address", |lines| lines.iter().find_map(|line| issuer_of(line))).await;
        Self { issuer, _program: program, _stdin: stdin }
    }
}

fn issuer_of(line: &str) -> Option<String> {
    Some(serde_json::from_str::<Value>(line).ok()?.get("issuer")?.as_str()?.to_owned())
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
        let (file, data) = (directory.join("prometheus.yml"), directory.join("prometheus"));
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
        Call::new(Door { address: self.address, tls: None }, http::Method::GET, target).send().await
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

/// Runs `tests/peers/vertex/SCRIPT` with the Python that has `google-cloud-aiplatform`, and reads the JSON object it
/// prints as its last line.
pub(crate) async fn vertex_sdk(script: &str, ca: &Path, arguments: &[&str]) -> Value {
    let python = installed().join("vertex/bin/python");
    assert!(python.exists(), "the Vertex SDK is not installed at `{}`: {HINT}", python.display());
    let output = Command::new(python)
        .arg(source("vertex").join(script))
        .args(arguments)
        // the SDK's REST transport is `requests`
        .env("REQUESTS_CA_BUNDLE", ca)
        .env_remove("GOOGLE_APPLICATION_CREDENTIALS")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(3 * super::PATIENCE, output).await.expect("the SDK does not end").unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the SDK's script fails: {said}{complained}");
    serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {said}{complained}"))
}
