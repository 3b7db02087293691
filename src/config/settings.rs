//! Built values of the configuration that the start, a reload and the commands take.

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
    pub(crate) certificates: Vec<identity::certificate::CertificateRule>,
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
    pub(crate) limits: Vec<limits::Settings>,
    /// The data path, where there is one.
    pub(crate) data: Option<DataSettings>,
    /// How roles are granted for a time, where they are.
    pub(crate) grants: Option<grants::Settings>,
    /// The options of what the gate itself answers.
    pub(crate) local: LocalRouteOptions,
    /// The files and folders that all this was read from.
    pub(crate) files: Vec<PathBuf>,
    /// What is served all the same, and hardly meant so: whoever loads says it.
    pub(crate) warnings: Vec<Problem>,
    /// When reading began.
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
    /// The https URL that clients know the gate by.
    pub(crate) url: Option<String>,
    /// Whether routes that do not say take tokens that are bound to nothing.
    pub(crate) token_binding: TokenBinding,
    /// Serving threads.
    pub(crate) workers: usize,
    /// Connections served at once, over all workers.
    pub(crate) max_connections: usize,
    /// How long open requests may take to end at a stop.
    pub(crate) drain: Duration,
}

/// The `[token_issuer]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IssueSettings {
    /// `iss` of what the gate signs: `[gate] url` without a slash at its end.
    pub(crate) url: String,
    /// Where its keys are and when they change.
    pub(crate) keys: signing::Settings,
    /// How long its tokens live at most.
    pub(crate) lifetime: Duration,
    /// Whom tokens may be asked for; the first is the gate itself.
    pub(crate) audiences: Vec<String>,
}

/// One `[[exporter]]` section.
pub(crate) struct ExporterSettings {
    /// Its name.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) upstream: Upstream,
    /// Its metrics page.
    pub(crate) metrics_path: String,
    /// Labels for discovery.
    pub(crate) labels: Vec<(String, String)>,
    /// What it is shown.
    pub(crate) credential: Option<CredentialOrigin>,
    /// How long the head of its answer may take.
    pub(crate) timeout: Duration,
    /// Its options.
    pub(crate) options: RouteOptions,
    /// Whether scripts of its pages may run.
    pub(crate) scripts: bool,
}

/// The `[vertex]` and `[google]` sections.
pub(crate) struct VertexSettings {
    /// The server of each location.
    pub(crate) upstreams: Vec<(String, Upstream)>,
    /// The projects that may be asked, where that is bounded.
    pub(crate) projects: Option<Vec<String>>,
    /// Endpoints with hosts of their own.
    pub(crate) dedicated: Vec<DedicatedEndpoint>,
    /// How long the head of an answer may take.
    pub(crate) timeout: Duration,
    /// What Google is shown, by group.
    pub(crate) credentials: Vec<(Group, CredentialOrigin)>,
    /// Its options.
    pub(crate) options: RouteOptions,
}

/// The data path, where it is configured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DataSettings {
    /// Bounds on remote write.
    pub(crate) remote_write: remote_write::Settings,
    /// What is kept.
    pub(crate) keep: Vec<Selector>,
    /// The gate's own scrapes.
    pub(crate) scrapes: Vec<ScrapeSettings>,
    /// Where batches wait.
    pub(crate) spool: spool::Settings,
    /// What is forecast.
    pub(crate) forecasts: Vec<ForecastSettings>,
}

/// One `[[ingest.scrape]]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScrapeSettings {
    /// The exporter's name.
    pub(crate) exporter: String,
    /// The page's path.
    pub(crate) path: Option<String>,
    /// How often.
    pub(crate) interval: Duration,
}

/// One `[[forecast]]` section.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ForecastSettings {
    /// Its name in metrics.
    pub(crate) name: String,
    /// The series it is about.
    pub(crate) selector: Selector,
    /// `projects/P/locations/L/endpoints/E`.
    pub(crate) endpoint: String,
    /// The `L` of it.
    pub(crate) location: String,
    /// Time between two points.
    pub(crate) step: Duration,
    /// Points sent at most.
    pub(crate) context: usize,
    /// Points sent at least.
    pub(crate) min_context: usize,
    /// Points asked for.
    pub(crate) horizon: usize,
    /// How often.
    pub(crate) interval: Duration,
    /// Series at most.
    pub(crate) max_series: usize,
}
