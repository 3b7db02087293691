//! The demo's environment: every emulator, started together and described in one directory.
//!
//! Promises: when [`Environment::start`] returns, every emulator listens and the directory holds a `wicketgate.toml` for
//! them; while it runs, the tokens in the directory are valid for at least 45 minutes.

use std::{path::PathBuf, time::Duration};

use tokio::task::JoinSet;

use super::{
    directory::Directory,
    error::DemoError,
    exporter::{self, Exporter},
    google::{self, AUDIENCE, Class, ENDPOINT, Google, LOCATION, PROJECT},
    issuer::{self, Issuer, Token},
    pki::Pki,
    random::random_text,
};

/// The shipped roles, each with a token of its own in `tokens/`.
pub(crate) const ROLES: [&str; 6] = ["scrape", "ingest", "infer", "train", "observe", "administer"];
/// The exporter's name in the configuration: its pages are at `/exporters/shop/`.
pub(crate) const EXPORTER: &str = "shop";
/// The steps that are forecast, of a second each.
pub(crate) const HORIZON: usize = 60;
/// Tokens are renewed at a quarter of their life.
const RENEWAL: Duration = Duration::from_secs(issuer::LIFETIME.as_secs() / 4);

/// The running emulators.
pub struct Environment {
    /// Where its files are.
    pub directory: Directory,
    /// The identity provider.
    pub issuer: Issuer,
    /// STS, IAM Credentials and Vertex.
    pub google: Google,
    /// The exporter that the gate stands in front of.
    pub exporter: Exporter,
    background: JoinSet<()>,
}

/// The ports that the gate and its admin listener are to have.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// The gate's; 0 for any.
    pub gate: u16,
    /// The admin listener's; 0 for any.
    pub admin: u16,
}

impl Ports {
    /// The URL of a gate whose port is known in advance.
    fn url(self) -> Option<String> {
        (self.gate != 0).then(|| format!("https://127.0.0.1:{}", self.gate))
    }
}

impl Environment {
    /// Starts every emulator on a free loopback port and fills the directory.
    ///
    /// # Errors
    /// When a file cannot be written or no port is free.
    pub async fn start(directory: Directory, ports: Ports) -> Result<Self, DemoError> {
        let pki = Pki::new()?;
        let gate = pki.loopback()?;
        directory.write_public("certs/ca.pem", &pki.ca_pem()).await?;
        directory.write_public("certs/gate.pem", &gate.certificate).await?;
        directory.write_secret("certs/gate.key", &gate.key).await?;
        directory.write_policies().await?;

        let issuer = Issuer::builder().tls(pki.loopback()?).start().await?;
        let mut google = Google::builder(issuer.url(), issuer.keys());
        if let Some(url) = ports.url() {
            google = google.discovered_issuer(&url, &directory.join("certs/ca.pem"))?;
        }
        let google = google.start().await?;
        let password = random_text(18)?;
        directory.write_secret("exporter.password", &password).await?;
        let exporter = Exporter::start(0, Some(&password)).await?;

        let mut background = JoinSet::new();
        let files = TokenFiles { directory: directory.clone(), tokens: tokens(&issuer) };
        files.renew().await?;
        background.spawn(files.renew_periodically());
        directory.write_config(&configuration(ports, &issuer, &google, &exporter)).await?;
        Ok(Self { directory, issuer, google, exporter, background })
    }

    /// The token file of a role.
    #[must_use]
    pub fn token_file(&self, role: &str) -> PathBuf {
        self.directory.join(&format!("tokens/{role}.jwt"))
    }

    /// A fresh token with one role, as `sub` the role's name.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, role: &str) -> Result<String, DemoError> {
        self.issuer.token(role).roles(&[role]).mint()
    }

    /// Stops every emulator. The directory stays.
    pub async fn stop(mut self) {
        self.background.shutdown().await;
        tokio::join!(self.exporter.stop(), self.google.stop(), self.issuer.stop());
    }
}

/// File name → the token that is minted for it at each renewal.
type Tokens = Vec<(String, Box<dyn Fn() -> Token + Send + Sync>)>;

struct TokenFiles {
    directory: Directory,
    tokens: Tokens,
}

fn tokens(issuer: &Issuer) -> Tokens {
    let mut tokens: Tokens = Vec::new();
    for role in ROLES {
        let minter = issuer.minter(role);
        tokens.push((format!("tokens/{role}.jwt"), Box::new(move || minter.token().roles(&[role]))));
    }
    // the subject token that the gate sends to Google's STS
    let gate = issuer.minter("wicketgate");
    tokens.push(("subject.jwt".to_owned(), Box::new(move || gate.token().audience(AUDIENCE))));
    tokens
}

impl TokenFiles {
    async fn renew(&self) -> Result<(), DemoError> {
        for (file, token) in &self.tokens {
            self.directory.write_secret(file, &token().mint()?).await?;
        }
        Ok(())
    }

    async fn renew_periodically(self) {
        loop {
            tokio::time::sleep(RENEWAL).await;
            if let Err(error) = self.renew().await {
                tracing::warn!(%error, "the demo's tokens could not be renewed");
            }
        }
    }
}

const ISSUE_SECTION: &str = "
# The gate signs too: it exchanges tokens at /oauth2/token, and shows Google one for each caller.
[token_issuer]
keys = \"keys\"
";

fn configuration(ports: Ports, issuer: &Issuer, google: &Google, exporter: &Exporter) -> String {
    let accounts = [Class::Ingest, Class::Infer, Class::Train, Class::Observe, Class::Administer];
    let accounts = accounts.map(|class| format!("{} = \"{}\"", class.name(), google::account(class))).join(", ");
    // a gate that knows its URL signs for its callers, and the emulator's log names them
    let (url, subject) = match ports.url() {
        Some(url) => (format!("url = \"{url}\"\n"), "subject = \"caller\""),
        None => (String::new(), "subject_token = { file = \"subject.jwt\" }"),
    };
    let issue = if ports.gate == 0 { "" } else { ISSUE_SECTION };
    format!(
        r#"# It fits the emulators of that one run; while they run, `wicketgate serve` can use a copy of it with other ports.
# Every key is explained in wicketgate.example.toml.

[gate]
{url}drain = "2s"

[[listen]]
address = "127.0.0.1:{gate}"
tls = true

[admin]
address = "127.0.0.1:{admin}"

[audit]
file = "audit.jsonl"

[policy]
directory = "policies"

# The demo's identity provider. The files in tokens/ hold its tokens, one for each role.
[[issuer]]
name = "demo"
issuer = "{issuer}"
audiences = ["wicketgate"]
ca = "certs/ca.pem"
{issue}
# It asks for a password, which the gate knows and no caller does.
[[exporter]]
name = "{EXPORTER}"
url = "{exporter}"
basic = {{ username = "{user}", password = {{ file = "exporter.password" }} }}

# The emulator of Google: STS, IAM Credentials and Vertex on one port.
[vertex]
locations = ["{LOCATION}"]
url = "{google}"

[google]
audience = "{AUDIENCE}"
{subject}
token_url = "{google}/v1/token"
iam_url = "{google}"
service_accounts = {{ {accounts} }}

# The gate scrapes the exporter itself, once a second, and keeps the metric that rises and falls each minute.
[[ingest.keep]]
metric = "{metric}"

[[ingest.scrape]]
exporter = "{EXPORTER}"
interval = "1s"

[spool]
directory = "spool"

# The forecast of the next minute, every five seconds, at /metrics/predictions.
[[forecast]]
name = "demo"
metric = "{metric}"
endpoint = "projects/{PROJECT}/locations/{LOCATION}/endpoints/{ENDPOINT}"
step = "1s"
context = 600
min_context = 180
horizon = {HORIZON}
interval = "5s"
"#,
        gate = ports.gate,
        admin = ports.admin,
        issuer = issuer.url(),
        exporter = exporter.url(),
        user = exporter::USERNAME,
        google = google.url(),
        metric = exporter::METRIC,
    )
}
