//! From `wicketgate.toml` and the files beside it to a [`Config`] that holds built values, or to every problem at once.
//!
//! Promises: what loading returns can be served as it is: certificates are loaded, policies compiled, URLs parsed. No
//! network is used. A file that is not right gives no configuration.

mod binding;
mod cases;
mod data;
mod gate;
mod grants;
mod guardrails;
mod issue;
mod issuer;
mod limits;
mod policies;
mod proofs;
mod reader;
mod roles;
mod sessions;
mod upstreams;

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use self::reader::{Reading, Section, Source};
pub use self::{
    cases::{Cases, cases},
    data::{DataSettings, ForecastSettings, ScrapeSettings},
    proofs::{Proofs, proofs},
    reader::Problem,
};
use crate::{
    client::{Client, Clients, Upstream},
    clock::{self, Timestamp},
    gate::{
        audit,
        credentials::CredentialOrigin,
        grants as granting, identity, listen,
        policy::Policy,
        routes::{DedicatedEndpoint, Group, LocalRouteOptions, RouteOptions, TokenBinding},
        signing,
    },
};

/// A whole configuration, ready to be served.
pub struct Config {
    /// The `[gate]` section.
    pub(crate) gate: GateSettings,
    /// The sockets to listen on.
    pub(crate) listeners: Vec<listen::Settings>,
    /// Where the admin pages are.
    pub(crate) admin: SocketAddr,
    /// Where requests are written down.
    pub(crate) audit: audit::Settings,
    /// Roles and policies, compiled.
    pub policy: Policy,
    /// The issuers and the clients that ask them.
    pub issuers: Vec<(identity::Settings, Arc<Client>)>,
    /// Whose client certificates are principals.
    pub(crate) certificates: Vec<identity::certificate::Rule>,
    /// How DPoP proofs are taken.
    pub(crate) dpop: identity::dpop::Settings,
    /// The gate as an issuer, where it is one.
    pub(crate) issue: Option<IssueSettings>,
    /// How people come in, where they do.
    pub(crate) sessions: Option<identity::session::Settings>,
    /// The exporters.
    pub(crate) exporters: Vec<ExporterSettings>,
    /// Vertex, where it is fronted.
    pub(crate) vertex: Option<VertexSettings>,
    /// How much may be used.
    pub(crate) limits: Vec<crate::gate::limits::Settings>,
    /// The data path, where there is one.
    pub(crate) data: Option<DataSettings>,
    /// How roles are granted for a time, where they are.
    pub(crate) grants: Option<granting::Settings>,
    /// The options of what the gate itself answers.
    pub(crate) local: LocalRouteOptions,
    /// The files and folders that all this was read from.
    pub(crate) files: Vec<PathBuf>,
    /// What is served all the same, and hardly meant so: whoever loads says it.
    pub(crate) warnings: Vec<Problem>,
    /// When reading began.
    pub(crate) read_at: Timestamp,
}

/// The `[gate]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateSettings {
    /// The https URL that clients know the gate by.
    pub url: Option<String>,
    /// Whether routes that do not say take tokens that are bound to nothing.
    pub token_binding: TokenBinding,
    /// Serving threads.
    pub workers: usize,
    /// Connections served at once, over all workers.
    pub max_connections: usize,
    /// How long open requests may take to end at a stop.
    pub drain: Duration,
}

/// The `[token_issuer]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssueSettings {
    /// `iss` of what the gate signs: `[gate] url` without a slash at its end.
    pub url: String,
    /// Where its keys are and when they change.
    pub keys: signing::Settings,
    /// How long its tokens live at most.
    pub lifetime: Duration,
    /// Whom tokens may be asked for; the first is the gate itself.
    pub audiences: Vec<String>,
}

/// One `[[exporter]]` section.
pub struct ExporterSettings {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub upstream: Upstream,
    /// Its metrics page.
    pub metrics_path: String,
    /// Labels for discovery.
    pub labels: Vec<(String, String)>,
    /// What it is shown.
    pub credential: Option<CredentialOrigin>,
    /// How long the head of its answer may take.
    pub timeout: Duration,
    /// Its options.
    pub options: RouteOptions,
    /// Whether scripts of its pages may run.
    pub scripts: bool,
}

/// The `[vertex]` and `[google]` sections.
pub struct VertexSettings {
    /// The server of each location.
    pub upstreams: Vec<(String, Upstream)>,
    /// The projects that may be asked, where that is bounded.
    pub projects: Option<Vec<String>>,
    /// Endpoints with hosts of their own.
    pub dedicated: Vec<DedicatedEndpoint>,
    /// How long the head of an answer may take.
    pub timeout: Duration,
    /// What Google is shown, by group.
    pub credentials: Vec<(Group, CredentialOrigin)>,
    /// Its options.
    pub options: RouteOptions,
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Loads a configuration. `clients` is kept from one loading to the next, so that connections live on.
///
/// # Errors
/// Every problem of the file and of the policies beside it.
pub fn load(path: &Path, clients: &Clients) -> Result<Config, Problems> {
    let read_at = clock::now();
    let text = std::fs::read_to_string(path).map_err(|e| {
        let text = format!("cannot be read: {e}");
        Problems(vec![Problem { file: path.to_owned(), line: 0, key: String::new(), text }])
    })?;
    let mut of_policies = policies::Told::default();
    let source = Source::new(path, text);
    let Reading { value: config, mut problems, warnings, files } =
        source.read(|top| read(top, clients, read_at, &mut of_policies));
    problems.extend(of_policies.problems);
    match config {
        Some(mut config) if problems.is_empty() => {
            config.files.extend(files);
            config.files.push(path.to_owned());
            config.warnings = warnings.into_iter().chain(of_policies.warnings).collect();
            Ok(config)
        }
        _ => {
            // in the order in which a reader meets them; files keep the order in which they were read
            let files: Vec<PathBuf> = problems.iter().map(|problem| problem.file.clone()).collect();
            problems.sort_by_key(|p| (files.iter().position(|file| *file == p.file), p.line));
            Err(Problems(problems))
        }
    }
}

/// Loads roles and policies from their directory alone, for those who look at policy without a gate. Role rules may name
/// any issuer: there is no configuration to know them by. A directory `shadow` without a schema of its own is read as the
/// shadow set of the directory above it.
///
/// # Errors
/// Every problem of the files in it.
pub fn policies(directory: &Path) -> Result<Policy, Problems> {
    let mut told = policies::Told::default();
    let is_shadow = directory.file_name().is_some_and(|name| name == policies::SHADOW);
    let policy = match is_shadow && !directory.join("wicketgate.cedarschema").exists() {
        true => policies::shadow(directory, &mut told),
        false => policies::policy(directory, None, &mut told),
    };
    match policy {
        Some(policy) if told.problems.is_empty() => Ok(policy),
        _ => Err(Problems(told.problems)),
    }
}

/// Where the policies of a configuration are, whatever else is in it.
///
/// # Errors
/// The file cannot be read, or is no TOML.
pub fn policy_directory(path: &Path) -> Result<PathBuf, Problems> {
    let problem = |text| Problems(vec![Problem { file: path.to_owned(), line: 0, key: String::new(), text }]);
    let text = std::fs::read_to_string(path).map_err(|e| problem(format!("cannot be read: {e}")))?;
    let reading = Source::new(path, text).read(gate::policy_directory);
    // what a policy directory alone does not know is for `check` to say
    let (known, broken) =
        (|p: &Problem| p.key == "policy" || p.key.starts_with("policy."), |p: &Problem| p.key.is_empty());
    let problems: Vec<Problem> = reading.problems.into_iter().filter(|p| known(p) || broken(p)).collect();
    if problems.is_empty() { Ok(reading.value) } else { Err(Problems(problems)) }
}

/// Every action that policy can be asked about; the schema may have more, which nobody ever asks about.
pub fn actions() -> impl Iterator<Item = &'static str> {
    policies::actions()
}

/// Reads the main file and the policies that it names; what is wrong with those is put into `of_policies`. Nothing where
/// there is no policy to serve by.
fn read(top: &Section<'_>, clients: &Clients, read_at: Timestamp, of_policies: &mut policies::Told) -> Option<Config> {
    let gate = gate::gate(top);
    let listeners = gate::listeners(top);
    let usual = RouteOptions { token_binding: gate.token_binding, ..RouteOptions::default() };
    let exporters = upstreams::exporters(top, clients, usual);
    let vertex = upstreams::vertex(top, clients, usual);
    let local = upstreams::local(top, usual);
    let mut logins = Vec::new();
    let issuers = issuer::issuers(top, clients, &mut logins);
    let names: Vec<&str> = issuers.iter().map(|(settings, _)| settings.name.as_str()).collect();
    let certificates = binding::certificates(top, &names, &listeners);
    let upstreams = exporters.iter().map(|e| e.options).chain(vertex.as_ref().map(|v| v.options));
    binding::can_be_bound(top, &gate, &listeners, [usual, local.write].into_iter().chain(upstreams));
    let issue = issue::issue(top, &gate, issuers.iter().map(|(settings, _)| settings));
    issue::needed(top, &exporters, vertex.as_ref());
    issue::apart(top, issue.as_ref(), vertex.as_ref());
    let (dpop, sessions) = (binding::dpop(top), sessions::sessions(top, &gate, logins));
    let (admin, audit) = (gate::admin(top), gate::audit(top));
    let data = data::data(top, &exporters, vertex.as_ref());
    let grants = grants::grants(top);
    let directory = gate::policy_directory(top);
    let sayings = roles::sayings(issuers.iter().map(|(settings, _)| settings), &certificates);
    let labels = exporters.iter().map(|exporter| (exporter.name.as_str().into(), exporter.labels.clone()));
    let policy = policies::policy(&directory, Some(&sayings), of_policies).map(|policy| policy.with_labels(labels));
    let there = limits::There {
        policy: policy.as_ref(),
        exporters: &exporters,
        vertex: vertex.is_some(),
        max_write: data.as_ref().map(|data| data.remote_write.max_body),
    };
    let limits = limits::limits(top, &there);
    let policy = policy?;
    Some(Config {
        gate,
        listeners,
        admin,
        audit,
        policy,
        issuers,
        certificates,
        dpop,
        issue,
        sessions,
        exporters,
        vertex,
        limits,
        data,
        grants,
        local,
        files: vec![directory.join(policies::SHADOW), directory],
        warnings: Vec::new(),
        read_at,
    })
}
