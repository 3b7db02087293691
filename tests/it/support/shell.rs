//! A user at a shell: `login`, `token` and `logout` with a state directory of their own.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use super::{
    DEADLINE,
    harness::Directory,
    person::{Page, Person},
    program::{Program, wicketgate},
};

/// A shell without a screen.
pub(crate) struct Shell {
    pub(crate) directory: Directory,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) code: i32,
    /// Standard output without the last newline.
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Shell {
    pub(crate) fn new() -> Self {
        Self { directory: Directory::new() }
    }

    /// The program with these arguments, separated by spaces.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = wicketgate(&arguments.split_whitespace().collect::<Vec<_>>());
        command.env("XDG_STATE_HOME", self.directory.path()).current_dir(self.directory.path()).kill_on_drop(true);
        for screen in ["DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"] {
            command.env_remove(screen);
        }
        command
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, arguments: &str) -> CommandOutput {
        said(self.command(arguments).output()).await
    }

    /// Runs a line of `sh`, with `$WICKETGATE` and these variables, and `input`.
    pub(crate) async fn sh(&self, script: &str, variables: &[(&str, &str)]) -> CommandOutput {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("WICKETGATE", env!("CARGO_BIN_EXE_wicketgate"));
        command.env("XDG_STATE_HOME", self.directory.path()).envs(variables.iter().copied());
        said(command.stdin(Stdio::null()).kill_on_drop(true).output()).await
    }

    /// Begins a login; it waits for its person.
    pub(crate) fn begin(&self, arguments: &str) -> Program {
        Program::start("wicketgate login", &mut self.command(&format!("login {arguments}")), "build it first")
    }

    /// Logs `alice` in with a browser on this machine; gives the last page that the browser shows.
    pub(crate) async fn log_in(&self, arguments: &str) -> Page {
        self.log_in_by(Person::new(None), arguments).await
    }

    /// Like `log_in`, with this person's browser.
    pub(crate) async fn log_in_by(&self, mut person: Person, arguments: &str) -> Page {
        let mut login = self.begin(&format!("--browser {arguments}"));
        let url = url_to_open(&mut login).await;
        let consent = person.log_in(&url, "alice").await;
        let page = person.submit(&consent, &[]).await;
        let status = login.ended().await;
        assert!(status.success(), "{page:?}\n{}", login.lines().join("\n"));
        page
    }

    /// The file of the login `name`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join("wicketgate").join(format!("{name}.json"))
    }

    /// What that file holds of the login.
    pub(crate) fn stored_login(&self, name: &str) -> Value {
        let text = std::fs::read(self.file(name)).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["login"].take()
    }

    /// Changes what that file holds of the login's tokens.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut content: Value = serde_json::from_slice(&std::fs::read(self.file(name)).unwrap()).unwrap();
        change(&mut content["login"]["tokens"]);
        std::fs::write(self.file(name), content.to_string()).unwrap();
    }

    /// The refresh token in that file.
    pub(crate) fn refresh_token(&self, name: &str) -> String {
        self.stored_login(name)["tokens"]["refresh"].as_str().expect("no refresh token").to_owned()
    }

    /// Every secret in that file: none may be seen anywhere else.
    pub(crate) fn secrets(&self, name: &str) -> Vec<String> {
        let tokens = &self.stored_login(name)["tokens"];
        let all = [&tokens["access"], &tokens["refresh"], &tokens["id"]["token"]];
        all.iter().filter_map(|token| token.as_str()).map(str::to_owned).collect()
    }
}

/// The URL that a login in a browser prints.
pub(crate) async fn url_to_open(login: &mut Program) -> String {
    let find = |lines: &[String]| lines.iter().find_map(|line| line.strip_prefix("  http").map(|r| format!("http{r}")));
    login.until("what to open", find).await
}

/// The URL and the code that a device login prints.
pub(crate) async fn device_to_open(login: &mut Program) -> (String, String) {
    let rest =
        |lines: &[String], words: &str| lines.iter().find_map(|line| Some(line.split_once(words)?.1.trim().to_owned()));
    let find = |lines: &[String]| Some((rest(lines, "Open  ")?, rest(lines, "this code:  ")?));
    login.until("where to enter which code", find).await
}

/// Sends `input` to a program's standard input, and waits for its end.
pub(crate) async fn feed(command: &mut Command, input: &str) -> CommandOutput {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    said(child.wait_with_output()).await
}

async fn said(output: impl Future<Output = std::io::Result<Output>>) -> CommandOutput {
    let output = tokio::time::timeout(DEADLINE, output).await.expect("it does not end").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end_matches('\n').to_owned();
    CommandOutput { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// The file's permission bits.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}
