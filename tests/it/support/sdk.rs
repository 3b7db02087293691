//! Google's client libraries as `tests/run` installs them, with an OIDC token and the gate's address only.

use std::{path::Path, process::Stdio};

use serde_json::Value;
use tokio::process::Command;

use super::{
    DEADLINE, Gate, eventually,
    peers::{HINT, installed, source},
};

/// Runs `tests/peers/vertex/SCRIPT` with the Python that has `google-cloud-aiplatform`.
pub(crate) async fn vertex_sdk(script: &str, ca: &Path, arguments: &[&str]) -> Value {
    run("vertex", python("vertex"), script, ca, arguments).await
}

/// Runs `tests/peers/genai/SCRIPT` with the Python that has `google-genai`.
pub(crate) async fn genai(script: &str, ca: &Path, arguments: &[&str]) -> Value {
    run("genai", python("genai"), script, ca, arguments).await
}

/// Runs `tests/peers/vertex-node/SCRIPT` with the Node that has `@google-cloud/aiplatform`.
pub(crate) async fn vertex_node(script: &str, ca: &Path, arguments: &[&str]) -> Value {
    assert!(source("vertex-node/node_modules").exists(), "the Vertex client for Node is not installed: {HINT}");
    run("vertex-node", Command::new("node"), script, ca, arguments).await
}

/// The whole records of the requests that this was decided of, `allow` or `deny`, once there are so many.
pub(crate) async fn records(gate: &Gate, decision: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} records of `{decision}`"), || async {
        let of = |line: &Value| line["event"] == "request" && line["decision"] == decision;
        let records: Vec<Value> = gate.audit().into_iter().filter(of).collect();
        (records.len() >= count).then_some(records)
    })
    .await
}

fn python(home: &str) -> Command {
    let python = installed().join(home).join("bin/python");
    assert!(python.exists(), "there is no `{}`: {HINT}", python.display());
    Command::new(python)
}

/// Reads the JSON object that the script prints as its last line. `ca` is all that it trusts.
async fn run(home: &str, mut program: Command, script: &str, ca: &Path, arguments: &[&str]) -> Value {
    program.arg(source(home).join(script)).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    // each library has its own setting for a CA: gRPC's, `requests`, `httpx`, Node
    for name in ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] {
        program.env(name, ca);
    }
    program.env_remove("GOOGLE_APPLICATION_CREDENTIALS");
    let output = tokio::time::timeout(3 * DEADLINE, program.output()).await.expect("the client does not end");
    let output = output.unwrap_or_else(|e| panic!("`{home}/{script}` cannot be started ({e}): {HINT}"));
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{home}/{script}` fails: {said}{complained}");
    serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {said}{complained}"))
}
