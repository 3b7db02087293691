//! A child process: its output is kept line by line, and it ends with the test.

use std::{
    process::{ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    task::JoinSet,
};

use super::{DEADLINE, POLL_INTERVAL, eventually};

/// A running program and everything it has printed.
pub(crate) struct Program {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    _readers: JoinSet<()>,
}

impl Program {
    /// Starts it. `hint` says what to do when it is not there.
    pub(crate) fn start(name: &str, command: &mut Command, hint: &str) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{name} cannot be started ({e}): {hint}"));
        let lines = Arc::default();
        let mut readers = JoinSet::new();
        readers.spawn(keep(child.stdout.take().unwrap(), Arc::clone(&lines)));
        readers.spawn(keep(child.stderr.take().unwrap(), Arc::clone(&lines)));
        Self { name: name.into(), child, lines, _readers: readers }
    }

    /// Everything it printed so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until `find` makes something of what it printed; fails with all of that if it ends before.
    pub(crate) async fn until<T>(&mut self, what: &str, find: impl Fn(&[String]) -> Option<T>) -> T {
        let found = tokio::time::timeout(DEADLINE, async {
            loop {
                let over = self.child.try_wait().unwrap();
                if let Some(found) = find(&self.lines()) {
                    return found;
                }
                if let Some(status) = over {
                    panic!("{} ended with {status} before it said {what}:\n{}", self.name, self.lines().join("\n"));
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        })
        .await;
        match found {
            Ok(found) => found,
            Err(_) => panic!("{} never said {what}:\n{}", self.name, self.lines().join("\n")),
        }
    }

    /// A pipe to its standard input, if the command requested one.
    pub(crate) fn stdin(&mut self) -> tokio::process::ChildStdin {
        self.child.stdin.take().expect("no standard input")
    }

    /// Sends a signal by its name, such as `HUP`.
    pub(crate) async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it has ended").to_string();
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().await.unwrap();
        assert!(sent.success(), "kill -{signal} fails");
    }

    /// Waits for it to end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        match tokio::time::timeout(DEADLINE, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("{} does not end:\n{}", self.name, self.lines().join("\n")),
        }
    }
}

async fn keep(stream: impl AsyncRead + Unpin, lines: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream).lines();
    while let Ok(Some(line)) = stream.next_line().await {
        lines.lock().unwrap().push(line);
    }
}

/// The program under test with these arguments.
pub(crate) fn wicketgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wicketgate"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the program under test to its end.
pub(crate) async fn run(arguments: &[&str]) -> Output {
    let output = wicketgate(arguments).kill_on_drop(true).output();
    tokio::time::timeout(DEADLINE, output).await.expect("it does not end").unwrap()
}

/// Waits until something listens there.
pub(crate) async fn listening(what: &str, address: std::net::SocketAddr) {
    eventually(what, || async move { tokio::net::TcpStream::connect(address).await.ok().map(drop) }).await;
}
