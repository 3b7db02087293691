//! The running program and what a test reads from it.

use std::{net::SocketAddr, path::PathBuf};

use http::{Method, StatusCode};
use serde_json::Value;
use tokio::process::Command;

use super::{
    Answer, Harness,
    call::{Call, Connector},
    eventually,
    google::Google,
    harness::Directory,
    issuer::{Issuer, Token},
    pki::Pki,
    program::{Program, wicketgate},
    upstream::Upstream,
};

/// A gate that listens, and its peers.
pub(crate) struct Gate {
    pub(crate) directory: Directory,
    pub(crate) pki: Pki,
    pub(crate) issuer: Issuer,
    pub(crate) app: Upstream,
    pub(crate) google: Google,
    pub(crate) program: Program,
    /// The gate's listeners in the order of the configuration: address and whether it speaks TLS.
    pub(crate) listeners: Vec<(SocketAddr, bool)>,
    pub(crate) admin: SocketAddr,
}

impl Gate {
    /// Starts `serve` with the harness's `wicketgate.toml` and waits until it listens everywhere.
    pub(crate) async fn start(harness: Harness) -> Self {
        let listening = harness.config().matches("[[listen]]").count();
        let Harness { directory, pki, issuer, app, google, file_limit, .. } = harness;
        let mut program = match file_limit {
            None => serve(&directory),
            Some(blocks) => serve_limited(&directory, blocks),
        };
        let (listeners, admin) = addresses(&mut program, listening).await;
        Self { directory, pki, issuer, app, google, program, listeners, admin }
    }

    /// Kills it as the kernel would (SIGKILL) and starts it again with the same files.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.program.signal("KILL").await;
        self.program.ended().await;
        self.restart().await;
    }

    /// Starts it again once it has ended.
    pub(crate) async fn restart(&mut self) {
        self.program = serve(&self.directory);
        let count = self.listeners.len();
        (self.listeners, self.admin) = addresses(&mut self.program, count).await;
        self.ready().await;
    }

    /// Waits until `/readyz` says yes.
    pub(crate) async fn ready(&self) {
        eventually("the gate to be ready", || async {
            let answer = self.admin("/readyz").await;
            (answer.status == StatusCode::OK).then_some(())
        })
        .await;
    }

    /// The first listener's address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listeners[0].0
    }

    /// The `index`th listener, as a client of this ALPN protocol sees it.
    pub(crate) fn door(&self, index: usize, alpn: &[u8]) -> Connector {
        let (address, tls) = self.listeners[index];
        Connector { address, tls: tls.then(|| self.pki.client(alpn)) }
    }

    pub(crate) fn call(&self, method: Method, target: &str) -> Call {
        Call::new(self.door(0, b"http/1.1"), method, target)
    }

    pub(crate) fn get(&self, target: &str) -> Call {
        self.call(Method::GET, target)
    }

    pub(crate) fn post(&self, target: &str) -> Call {
        self.call(Method::POST, target)
    }

    /// A remote write of this body by this token.
    pub(crate) fn write(&self, token: &str, body: Vec<u8>) -> Call {
        self.post("/api/v1/write")
            .bearer(token)
            .header("content-type", "application/x-protobuf")
            .header("content-encoding", "snappy")
            .header("x-prometheus-remote-write-version", "0.1.0")
            .header("user-agent", "wicketgate-suite")
            .body(body)
    }

    /// GET on the admin listener.
    pub(crate) async fn admin(&self, target: &str) -> Answer {
        Call::new(Connector { address: self.admin, tls: None }, Method::GET, target).send().await
    }

    /// The value of a metric whose line begins with `series`, labels and all as the exposition prints them; 0
    /// where there is no such line.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = self.admin("/metrics").await.text();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0.0)
    }

    /// A good token of `tester` with this one role.
    pub(crate) fn token(&self, role: &str) -> String {
        self.token_builder(role).mint()
    }

    /// The same before it is signed.
    pub(crate) fn token_builder(&self, role: &str) -> Token<'_> {
        self.issuer.token("tester", &[role])
    }

    pub(crate) fn audit_file(&self) -> PathBuf {
        self.directory.join("audit.jsonl")
    }

    /// Every line of the audit file so far.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.audit_file()).unwrap_or_default();
        // the last line may be on its way to the file
        let end = text.rfind('\n').map_or(0, |at| at + 1);
        text[..end].lines().map(|line| serde_json::from_str(line).expect("an audit line is not JSON")).collect()
    }

    /// Waits for the complete record of the request with this id.
    pub(crate) async fn record(&self, id: &str) -> Value {
        eventually(&format!("the audit record of {id}"), || async {
            self.audit().into_iter().find(|line| line["event"] == "request" && line["id"] == id)
        })
        .await
    }

    /// Whether a permit was written for the request with this id.
    pub(crate) fn permitted(&self, id: &str) -> bool {
        self.audit().iter().any(|line| line["event"] == "permit" && line["id"] == id)
    }
}

fn serve(directory: &Directory) -> Program {
    let file = directory.join("wicketgate.toml");
    let mut command = wicketgate(&["serve", "--config"]);
    command.arg(file).current_dir(directory.path());
    Program::start("wicketgate serve", &mut command, "build it first")
}

/// The same where no file may grow beyond `blocks` of 512 bytes, as on a full disk.
fn serve_limited(directory: &Directory, blocks: u32) -> Program {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" serve --config wicketgate.toml");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_wicketgate")]).current_dir(directory.path());
    Program::start("wicketgate serve", &mut command, "build it first")
}

/// Waits for `gates` gate listeners and the admin's.
async fn addresses(program: &mut Program, gates: usize) -> (Vec<(SocketAddr, bool)>, SocketAddr) {
    program
        .until("where it listens", |lines| {
            let all: Vec<_> = lines.iter().filter_map(|line| listening(line)).collect();
            let admin = all.iter().find(|(listener, ..)| listener == "admin")?.1;
            let gate: Vec<_> =
                all.iter().filter(|(listener, ..)| listener == "gate").map(|&(_, at, tls)| (at, tls)).collect();
            (gate.len() == gates).then_some((gate, admin))
        })
        .await
}

/// What a log line says of a listener: its kind, address and whether it speaks TLS.
fn listening(line: &str) -> Option<(String, SocketAddr, bool)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let field = |name: &str| line.get(name).or_else(|| line.get("fields")?.get(name)).cloned();
    if field("message")? != "listening" {
        return None;
    }
    let listener = field("listener")?;
    let address = field("address")?;
    let tls = field("tls").and_then(|tls| tls.as_bool()).unwrap_or(false);
    Some((listener.as_str()?.to_owned(), address.as_str()?.parse().ok()?, tls))
}
