//! Configuration types: the built values of each section.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use super::problem::Problem;
use crate::{
    client::{Client, Upstream},
    clock::Timestamp,
    gate::{
        audit,
        credentials::CredentialOrigin,
        grants, identity, limits, listen,
        policy::Policy,
        routes::{DedicatedEndpoint, Group, LocalRouteOptions, RouteOptions, TokenBinding},
        signing,
    },
    pipeline::{ingest::remote_write, spool},
    series::Selector,
};

/// A complete, valid configuration.
pub struct Config {
    /// The `[gate]` section.
    pub(crate) gate: GateSettings,
    /// The sockets to listen on.
    pub(crate) listeners: Vec<listen::Settings>,
    /// The address of the admin pages.
    pub(crate) admin: SocketAddr,
    /// The audit log.
    pub(crate) audit: audit::Settings,
    /// Roles and policies, compiled.
    pub policy: Policy,
    /// The token issuers, each with the HTTP client for its CA.
    pub issuers: Vec<(identity::Settings, Arc<Client>)>,
    /// Client certificates that authenticate a principal.
    pub(crate) certificates: Vec<identity::certificate::CertificateRule>,
    /// How DPoP proofs are verified.
    pub(crate) dpop: identity::dpop::Settings,
    /// The gate as a token issuer.
    pub(crate) issue: Option<IssueSettings>,
    /// Logins and sessions of people.
    pub(crate) sessions: Option<identity::session::Settings>,
    /// The exporters.
    pub(crate) exporters: Vec<ExporterSettings>,
    /// Vertex AI.
    pub(crate) vertex: Option<VertexSettings>,
    /// The usage limits.
    pub(crate) limits: Vec<limits::Settings>,
    /// Remote write, scrapes, spool and forecasts.
    pub(crate) data: Option<DataSettings>,
    /// Time-bound elevation.
    pub(crate) grants: Option<grants::Settings>,
    /// The options of the gate's own services.
    pub(crate) local: LocalRouteOptions,
    /// The files and folders that the configuration was read from.
    pub(crate) files: Vec<PathBuf>,
    /// Warnings: accepted, but probably a mistake. The caller of `load` reports them.
    pub(crate) warnings: Vec<Problem>,
    /// The time before the first file was read.
    pub(crate) read_at: Timestamp,
}

/// The files of a listener that serves TLS.
pub(crate) struct CertificateFiles {
    /// The certificate chain, PEM.
    pub(crate) certificate: PathBuf,
    /// Its private key, PEM.
    pub(crate) key: PathBuf,
    /// The CA certificates of client certificates. `None` if the listener does not verify them.
    pub(crate) clients: Option<PathBuf>,
}

/// The `[gate]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GateSettings {
    /// The https URL of the gate for clients.
    pub(crate) url: Option<String>,
    /// The default for routes: whether they accept plain bearer tokens.
    pub(crate) token_binding: TokenBinding,
    /// Worker threads.
    pub(crate) workers: usize,
    /// Open connections over all workers, at most.
    pub(crate) max_connections: usize,
    /// How long open requests may take to end after SIGTERM.
    pub(crate) drain: Duration,
}

/// The `[token_issuer]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IssueSettings {
    /// The `iss` of its tokens: `[gate] url` without a trailing slash.
    pub(crate) url: String,
    /// The key directory and the rotation schedule.
    pub(crate) keys: signing::Settings,
    /// The lifetime of a token, at most.
    pub(crate) lifetime: Duration,
    /// The audiences that an exchange may request; the first is the gate itself.
    pub(crate) audiences: Vec<String>,
}

/// One `[[exporter]]` section.
pub(crate) struct ExporterSettings {
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) upstream: Upstream,
    /// The path of its metrics page.
    pub(crate) metrics_path: String,
    /// Further labels in `/sd`.
    pub(crate) labels: Vec<(String, String)>,
    /// The credential that the gate sends to it.
    pub(crate) credential: Option<CredentialOrigin>,
    /// How long the head of a response may take.
    pub(crate) timeout: Duration,
    /// The route's options.
    pub(crate) options: RouteOptions,
    /// Whether scripts of its pages may run in browsers.
    pub(crate) scripts: bool,
}

/// The `[vertex]` and `[google]` sections.
pub(crate) struct VertexSettings {
    /// The server of each location.
    pub(crate) upstreams: Vec<(String, Upstream)>,
    /// The allowed projects; `None` for any.
    pub(crate) projects: Option<Vec<String>>,
    /// Endpoints with hosts of their own.
    pub(crate) dedicated: Vec<DedicatedEndpoint>,
    /// How long the head of a response may take.
    pub(crate) timeout: Duration,
    /// The credential for Google, by group of methods.
    pub(crate) credentials: Vec<(Group, CredentialOrigin)>,
    /// The route's options.
    pub(crate) options: RouteOptions,
}

/// The `[ingest]`, `[spool]` and `[[forecast]]` sections.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DataSettings {
    /// Limits of remote write.
    pub(crate) remote_write: remote_write::Settings,
    /// The series that are stored.
    pub(crate) keep: Vec<Selector>,
    /// The gate's own scrapes.
    pub(crate) scrapes: Vec<ScrapeSettings>,
    /// Where batches wait until they are delivered.
    pub(crate) spool: spool::Settings,
    /// The forecasts.
    pub(crate) forecasts: Vec<ForecastSettings>,
}

/// One `[[ingest.scrape]]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScrapeSettings {
    /// The exporter's name.
    pub(crate) exporter: String,
    /// The page's path; `None` for the exporter's metrics page.
    pub(crate) path: Option<String>,
    /// How often.
    pub(crate) interval: Duration,
}

/// One `[[forecast]]` section.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ForecastSettings {
    /// Its name in metrics.
    pub(crate) name: String,
    /// The series to forecast.
    pub(crate) selector: Selector,
    /// `projects/P/locations/L/endpoints/E`.
    pub(crate) endpoint: String,
    /// The `L` of `endpoint`.
    pub(crate) location: String,
    /// Time between two points.
    pub(crate) step: Duration,
    /// Points in a request, at most.
    pub(crate) context: usize,
    /// Points in a request, at least.
    pub(crate) min_context: usize,
    /// Points to forecast.
    pub(crate) horizon: usize,
    /// How often.
    pub(crate) interval: Duration,
    /// Series, at most.
    pub(crate) max_series: usize,
}
