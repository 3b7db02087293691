//! The builder of a gate between its own peers, in a directory of its own.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use http::{Response, StatusCode};
use http_body_util::Full;

use super::{
    gate::Gate,
    google::Google,
    issuer::Issuer,
    pki::Pki,
    upstream::{self, Upstream},
};

/// The page of the exporter `app`.
pub(crate) const PAGE: &str = "# TYPE app_up gauge\napp_up 1\n";
/// The Basic credential of the exporter `locked`, which only the gate has.
pub(crate) const PASSWORD: &str = "the-exporter-password";

/// A test's own directory, removed unless the test fails.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(uuid::Uuid::now_v7().to_string());
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.join(name), text).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A gate about to be started: its peers run already, and its configuration can still be changed.
///
/// The issuer is `corp`; the exporters `app` (open) and `locked` (Basic) are one recording upstream.
pub(crate) struct Harness {
    pub(crate) directory: Directory,
    pub(crate) pki: Pki,
    pub(crate) issuer: Issuer,
    pub(crate) app: Upstream,
    pub(crate) google: Google,
    /// The largest file that the program may write, in blocks of 512 bytes; no bound where there is none.
    pub(crate) file_limit: Option<u32>,
    config: Vec<(&'static str, String)>,
}

impl Harness {
    pub(crate) async fn new() -> Self {
        let directory = Directory::new();
        let pki = Pki::write(directory.path());
        let issuer = Issuer::start().await;
        let app = Upstream::start(|_| exporter_page()).await;
        let google = Google::start().await;
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"), &directory.join("policies"));
        directory.write("exporter.password", format!("{PASSWORD}\n"));
        directory.write("subject.jwt", issuer.token("the-gate", &[]).claim("aud", "google").mint());
        let config = sections(&issuer, &app, &google);
        Self { directory, pki, issuer, app, google, file_limit: None, config }
    }

    /// Replaces a section of the configuration: `gate`, `listen`, `admin`, `audit`, `policy`, `issue`, `issuer`,
    /// `exporter`, `vertex`, `google`, `limit`, `ingest`, `spool`, `forecast` or `grants`.
    pub(crate) fn section(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.replace(name, text.into());
        self
    }

    /// With the data path: what these names match (`metric`, a name or a prefix with `*`) is kept and forecast.
    pub(crate) fn keeping(self, metric: &str) -> Self {
        self.section("ingest", format!("[ingest]\n[[ingest.keep]]\nmetric = \"{metric}\""))
            .section("spool", "[spool]\ndirectory = \"spool\"")
    }

    /// Adds to a section.
    pub(crate) fn more(mut self, name: &'static str, text: impl AsRef<str>) -> Self {
        let slot = self.config.iter_mut().find(|(section, _)| *section == name).expect("no such section");
        let _ = write!(slot.1, "\n{}\n", text.as_ref());
        self
    }

    pub(crate) fn replace(&mut self, name: &'static str, text: String) {
        let slot = self.config.iter_mut().find(|(section, _)| *section == name).expect("no such section");
        slot.1 = text;
    }

    /// The configuration as it stands.
    pub(crate) fn config(&self) -> String {
        self.config.iter().map(|(_, text)| format!("{text}\n")).collect()
    }

    /// Starts the program and waits until it is ready.
    pub(crate) async fn start(self) -> Gate {
        let gate = self.start_unready().await;
        gate.ready().await;
        gate
    }

    /// Starts the program and waits until it listens.
    pub(crate) async fn start_unready(self) -> Gate {
        self.directory.write("wicketgate.toml", self.config());
        Gate::start(self).await
    }
}

fn exporter_page() -> upstream::Reply {
    Response::builder()
        .status(StatusCode::OK)
        .header("content-type", "text/plain; version=0.0.4")
        .header("x-exporter", "app")
        .body(Full::new(PAGE.into()))
        .unwrap()
}

fn sections(issuer: &Issuer, app: &Upstream, google: &Google) -> Vec<(&'static str, String)> {
    let app = app.url();
    let google = google.url();
    vec![
        ("gate", "[gate]\nworkers = 2\ndrain = \"5s\"".into()),
        (
            "listen",
            "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = { certificate = \"certs/gate.pem\", key = \"certs/gate.key\" }".into(),
        ),
        ("admin", "[admin]\naddress = \"127.0.0.1:0\"".into()),
        ("audit", "[audit]\nfile = \"audit.jsonl\"".into()),
        ("policy", "[policy]\ndirectory = \"policies\"".into()),
        ("token_issuer", String::new()),
        ("issuer", format!("[[issuer]]\nname = \"corp\"\nissuer = \"{}\"\naudiences = [\"wicketgate\"]", issuer.url())),
        (
            "exporter",
            format!(
                "[[exporter]]\nname = \"app\"\nurl = \"{app}\"\nlabels = {{ team = \"platform\" }}\n\n\
                 [[exporter]]\nname = \"locked\"\nurl = \"{app}/locked\"\n\
                 basic = {{ username = \"gate\", password = {{ file = \"exporter.password\" }} }}"
            ),
        ),
        ("vertex", format!("[vertex]\nlocations = [\"us-central1\"]\nurl = \"{google}\"")),
        (
            "google",
            format!(
                "[google]\naudience = \"//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/gate/\
                 providers/corp\"\nsubject_token = {{ file = \"subject.jwt\" }}\ntoken_url = \"{google}/v1/token\"\n\
                 iam_url = \"{google}\"\nservice_accounts = {{ ingest = \"ingest@p.iam.gserviceaccount.com\", \
                 infer = \"infer@p.iam.gserviceaccount.com\", train = \"train@p.iam.gserviceaccount.com\", \
                 observe = \"observe@p.iam.gserviceaccount.com\", \
                 administer = \"administer@p.iam.gserviceaccount.com\" }}"
            ),
        ),
        ("limit", String::new()),
        ("ingest", String::new()),
        ("spool", String::new()),
        ("forecast", String::new()),
        ("grants", String::new()),
    ]
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap_or_else(|e| panic!("no `{}`: {e}", from.display())) {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
