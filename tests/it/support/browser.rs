//! A real browser: Debian's Chromium, driven by `tests/peers/browser/driver.js`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::{DEADLINE, Gate};

const CHROMIUM: &str = "/usr/bin/chromium";
const HINT: &str = "run `tests/run`, which installs the suite's peers";

/// A running Chromium with a profile of its own; it ends when dropped.
pub(crate) struct Browser {
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    /// Starts one that trusts this gate's certificate.
    pub(crate) async fn start(gate: &Gate) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/browser/driver.js");
        assert!(script.with_file_name("node_modules").exists(), "puppeteer-core is not installed: {HINT}");
        assert!(Path::new(CHROMIUM).exists(), "there is no `{CHROMIUM}` (Debian package chromium): {HINT}");
        let key = KeyPair::from_pem(&std::fs::read_to_string(gate.directory.join("certs/gate.key")).unwrap()).unwrap();
        let trusted = STANDARD.encode(digest::digest(&digest::SHA256, &key.subject_public_key_info()));
        let mut child = Command::new("node")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("node cannot be started ({e}): {HINT}"));
        let stdin = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut browser = Self { _child: child, stdin, lines };
        let profile = gate.directory.join("chromium");
        browser.say(json!({"chromium": CHROMIUM, "profile": profile, "trusted": trusted})).await;
        let version = browser.hear().await;
        assert!(version.as_str().is_some_and(|version| version.starts_with("Chrome/")), "{version}");
        browser
    }

    /// Goes to a URL in a tab.
    pub(crate) async fn visit(&mut self, tab: &str, url: &str) -> Value {
        self.step(json!({"step": "visit", "tab": tab, "url": url})).await
    }

    /// Presses the button or link of this text, which leads elsewhere.
    pub(crate) async fn press(&mut self, tab: &str, text: &str) -> Value {
        self.step(json!({"step": "press", "tab": tab, "text": text})).await
    }

    /// Fills in the provider's login form.
    pub(crate) async fn log_in(&mut self, tab: &str, name: &str) -> Value {
        self.step(json!({"step": "enter", "tab": tab, "field": "login", "text": name})).await
    }

    /// Saves what a tab shows, light and dark and on a telephone, below `target/`.
    pub(crate) async fn screenshot(&mut self, tab: &str, name: &str) {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        for (kind, width, height, dark) in
            [("dark", 900, 640, true), ("narrow", 360, 640, false), ("light", 900, 640, false)]
        {
            let screen = json!({"step": "screen", "tab": tab, "width": width, "height": height, "dark": dark});
            self.step(screen).await;
            let file = folder.join(format!("{name}-{kind}.png"));
            self.step(json!({"step": "screenshot", "tab": tab, "file": file})).await;
            assert!(file.metadata().unwrap().len() > 1000, "an empty picture");
        }
    }

    /// One step as `driver.js` knows it.
    pub(crate) async fn step(&mut self, step: Value) -> Value {
        self.say(step).await;
        self.hear().await
    }

    async fn say(&mut self, line: Value) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let line = tokio::time::timeout(DEADLINE, self.lines.next_line()).await.expect("the browser does not answer");
        let line = line.unwrap().expect("the browser has ended");
        let mut answer: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(answer.get("failed").is_none(), "the browser cannot: {answer}");
        answer["done"].take()
    }
}
