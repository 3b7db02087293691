//! The sections about what stands behind the gate: `[[exporter]]`, `[vertex]` and `[google]`.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use http::HeaderValue;

use super::{
    binding::token_binding,
    reader::Section,
    settings::{ExporterSettings, VertexSettings},
};
use crate::{
    client::{BuildError, Clients, Upstream},
    gate::{
        credentials::{CredentialOrigin, Google, GoogleSettings, GoogleSubject},
        identity::issuer::is_https_or_loopback,
        routes::{DedicatedEndpoint, Group, LocalRouteOptions, RouteOptions},
    },
    secret::SecretSource,
};

const EXPORTER_TIMEOUT: Duration = Duration::from_secs(30);
/// What Google gives shared endpoints.
const VERTEX_TIMEOUT: Duration = Duration::from_secs(60);
const STS: &str = "https://sts.googleapis.com/v1/token";
const IAM: &str = "https://iamcredentials.googleapis.com";

pub(super) fn exporters(top: &Section<'_>, clients: &Clients, usual: RouteOptions) -> Vec<ExporterSettings> {
    let mut exporters: Vec<ExporterSettings> = Vec::new();
    for section in top.sections("exporter") {
        let name = section.required("name", "node");
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) || name.starts_with('.') {
            section.problem("name", "write letters, digits, `-`, `_` and `.` only, a letter or digit first");
        }
        if exporters.iter().any(|other| other.name == name) {
            section.problem("name", format!("two exporters are called `{name}`"));
        }
        let metrics_path = section.string("metrics_path").unwrap_or_else(|| "/metrics".into());
        if !metrics_path.starts_with('/') {
            section.problem("metrics_path", "write a path that begins with a slash, such as `/metrics`");
        }
        let url = section.required("url", "http://127.0.0.1:9100");
        if url.trim_end_matches('/').ends_with(&*metrics_path) {
            section.problem(
                "url",
                format!("leave `{metrics_path}` out: it is the path that `metrics_path` names below this URL"),
            );
        }
        let ca = section.file("ca");
        let upstream = upstream(&section, "url", &url, ca, clients);
        let labels = section.string_map("labels");
        let credential = credential(&section);
        let timeout = section.duration("timeout", EXPORTER_TIMEOUT);
        let options = route_options(&section, usual);
        let scripts = section.boolean("allow_scripts", false);
        exporters.extend(upstream.map(|upstream| ExporterSettings {
            name,
            upstream,
            metrics_path,
            labels,
            credential,
            timeout,
            options,
            scripts,
        }));
        section.finish();
    }
    exporters
}

/// What a section says of its route; the rest is as `usual`.
fn route_options(section: &Section<'_>, usual: RouteOptions) -> RouteOptions {
    RouteOptions {
        end_streams: section.boolean("end_streams", usual.end_streams),
        token_binding: token_binding(section, usual.token_binding),
        assertion: section.boolean("assertion", usual.assertion),
        identity_headers: section.boolean("identity_headers", usual.identity_headers),
    }
}

/// The options of what the gate itself answers: remote write may have its own.
pub(super) fn local(top: &Section<'_>, usual: RouteOptions) -> LocalRouteOptions {
    let write = top
        .table("ingest")
        .map_or(usual, |section| RouteOptions { token_binding: token_binding(&section, usual.token_binding), ..usual });
    LocalRouteOptions { discover: usual, write, predictions: usual }
}

fn upstream(
    section: &Section<'_>,
    key: &'static str,
    url: &str,
    ca: Option<PathBuf>,
    clients: &Clients,
) -> Option<Upstream> {
    let client = section.ok_or_problem("ca", clients.trusting(ca.as_deref()))?;
    if url.is_empty() {
        return None;
    }
    section.ok_or_problem(key, Upstream::new(url, client))
}

fn credential(section: &Section<'_>) -> Option<CredentialOrigin> {
    let basic = section.section("basic").and_then(|basic| {
        let username = basic.required("username", "gate");
        if username.contains(':') {
            basic.problem("username", "a user name cannot hold `:` (RFC 7617 section 2)");
        }
        let password = source(&basic, "password");
        basic.finish();
        Some(CredentialOrigin::Basic { username, password: password? })
    });
    let bearer = section.has("bearer").then(|| source(section, "bearer")).flatten().map(CredentialOrigin::Bearer);
    if basic.is_some() && bearer.is_some() {
        section.problem("bearer", "write `basic` or `bearer`, not both");
    }
    basic.or(bearer)
}

/// A place that a secret is read from.
pub(super) fn source(section: &Section<'_>, key: &'static str) -> Option<SecretSource> {
    let how = "write `{ file = \"PATH\" }`, `{ env = \"NAME\" }` or `{ command = [\"PROGRAM\", \"ARGUMENT\"] }`; \
               a secret is never written here itself";
    let Some(inner) = section.table(key) else {
        section.problem(key, how);
        return None;
    };
    let file = inner.path("file").map(SecretSource::File);
    let env = inner.string("env").map(SecretSource::Env);
    let command = inner.strings("command").map(SecretSource::Command);
    inner.finish();
    let mut given = [file, env, command].into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(source), None) => Some(source),
        _ => {
            section.problem(key, how);
            None
        }
    }
}

pub(super) fn vertex(top: &Section<'_>, clients: &Clients, usual: RouteOptions) -> Option<VertexSettings> {
    let credentials = top.section("google").map(|section| google(&section, clients));
    let Some(section) = top.section("vertex") else {
        if top.has("google") {
            top.problem("google", "is for Vertex; write a section `[vertex]` with `locations = [\"us-central1\"]`");
        }
        return None;
    };
    if credentials.is_none() && !top.has("google") {
        top.problem("vertex", "needs a section `[google]` too: as whom the gate is known to Google");
    }
    let locations = section.strings("locations").unwrap_or_default();
    if !section.has("locations") {
        section.problem("locations", "missing; write for example `locations = [\"us-central1\"]`");
    }
    let url = section.string("url");
    if url.as_ref().is_some_and(|url| locations.len() > 1 && !url.contains("{location}")) {
        section.problem("url", "with several locations write `{location}` where the location goes");
    }
    let ca = section.file("ca");
    let mut upstreams = Vec::new();
    for location in locations {
        if location.is_empty() || !location.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
            section.problem(
                "locations",
                format!("`{location}` is no location; write for example `us-central1` or `global`"),
            );
            continue;
        }
        let url = url.as_ref().map_or_else(|| public_host(&location), |url| url.replace("{location}", &location));
        let found = upstream(&section, "url", &url, ca.clone(), clients);
        upstreams.extend(found.map(|upstream| (location, upstream)));
    }
    let timeout = section.duration("timeout", VERTEX_TIMEOUT);
    let options = route_options(&section, usual);
    let projects = section.strings("projects");
    if projects
        .as_ref()
        .is_some_and(|projects| projects.is_empty() || projects.iter().any(|p| p.is_empty() || p.contains('/')))
    {
        section.problem("projects", "write ids of projects, such as `projects = [\"my-project\"]`, or leave it out");
    }
    let dedicated = dedicated(&section, ca.as_ref(), clients);
    for DedicatedEndpoint { endpoint, .. } in &dedicated {
        let location = endpoint.split('/').nth(3).unwrap_or_default();
        if !upstreams.iter().any(|(known, _)| known == location) {
            let text =
                format!("`{endpoint}` is in `{location}`; add that to `locations`: all but its predictions go there");
            section.problem("dedicated", text);
        }
    }
    section.finish();
    Some(VertexSettings {
        projects,
        dedicated,
        upstreams,
        timeout,
        credentials: credentials.unwrap_or_default(),
        options,
    })
}

/// Endpoints with hosts of their own.
fn dedicated(vertex: &Section<'_>, ca: Option<&PathBuf>, clients: &Clients) -> Vec<DedicatedEndpoint> {
    let mut all: Vec<DedicatedEndpoint> = Vec::new();
    for section in vertex.sections("dedicated") {
        let endpoint = section.required("endpoint", "projects/p/locations/us-central1/endpoints/1");
        let url = section.required("url", "https://1.us-central1-2.prediction.vertexai.goog");
        let ca = section.file("ca").or_else(|| ca.cloned());
        let upstream = upstream(&section, "url", &url, ca, clients);
        let segments: Vec<&str> = endpoint.split('/').collect();
        let id = match &*segments {
            ["projects", project, "locations", location, "endpoints", id]
                if [project, location, id].iter().all(|s| !s.is_empty()) =>
            {
                HeaderValue::from_str(id).ok()
            }
            _ => None,
        };
        if id.is_none() && !endpoint.is_empty() {
            section.problem("endpoint", "write `projects/PROJECT/locations/LOCATION/endpoints/ID`");
        }
        if all.iter().any(|other| *other.endpoint == *endpoint) {
            section.problem("endpoint", format!("`{endpoint}` has two hosts"));
        }
        let both = upstream.zip(id);
        all.extend(both.map(|(upstream, id)| DedicatedEndpoint { endpoint: endpoint.into(), upstream, id }));
        section.finish();
    }
    all
}

/// Google's public host for a location: regional, multi-regional or global.
fn public_host(location: &str) -> String {
    match location {
        "global" => "https://aiplatform.googleapis.com".into(),
        "us" | "eu" => format!("https://aiplatform.{location}.rep.googleapis.com"),
        _ => format!("https://{location}-aiplatform.googleapis.com"),
    }
}

fn google(section: &Section<'_>, clients: &Clients) -> Vec<(Group, CredentialOrigin)> {
    let audience = section.required("audience", "//iam.googleapis.com/projects/…/providers/…");
    let subject = subject(section);
    let token_url = section.string("token_url").unwrap_or_else(|| STS.into());
    let iam_url = section.string("iam_url").unwrap_or_else(|| IAM.into());
    for (key, url) in [("token_url", &token_url), ("iam_url", &iam_url)] {
        if !is_https_or_loopback(url) {
            section.problem(key, "write an https URL (http is allowed to loopback addresses only)");
        }
    }
    let shared = section.boolean("allow_shared_accounts", false);
    let accounts = accounts(section, shared);
    let client = section.ok_or_problem::<_, BuildError>("audience", clients.trusting(None));
    let (Some(subject), Some(client)) = (subject, client) else { return Vec::new() };
    let settings = GoogleSettings { audience, subject, token_url, iam_url };
    let google = Arc::new(Google::new(settings, client));
    accounts
        .into_iter()
        .map(|(group, account)| (group, CredentialOrigin::Google { google: google.clone(), account }))
        .collect()
}

/// As whom Google is asked.
fn subject(section: &Section<'_>) -> Option<GoogleSubject> {
    let word = section.string("subject");
    match word.as_deref() {
        None | Some("token") => source(section, "subject_token").map(GoogleSubject::Gate),
        Some("caller") => {
            if section.has("subject_token") {
                section.problem("subject_token", "leave it out: with `subject = \"caller\"` the gate signs its own");
            }
            Some(GoogleSubject::Callers)
        }
        Some(_) => {
            section.problem("subject", "write `subject = \"caller\"`, or `subject = \"token\"` with a `subject_token`");
            None
        }
    }
}

fn accounts(section: &Section<'_>, shared: bool) -> Vec<(Group, String)> {
    let mut accounts = Vec::new();
    let Some(table) = section.section("service_accounts") else {
        if !section.has("service_accounts") {
            section
                .problem("service_accounts", "missing; write `service_accounts = { ingest = \"…\", infer = \"…\" }`");
        }
        return accounts;
    };
    let mut holders: HashMap<String, &'static str> = HashMap::new();
    for group in Group::ALL {
        let Some(account) = table.string(group.name()) else { continue };
        if !account.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@:".contains(c)) || !account.contains('@') {
            table.problem(group.name(), "write a service account's e-mail address");
        }
        let apart = matches!(group, Group::Ingest | Group::Infer | Group::Train);
        if let Some(other) = holders.get(&account).filter(|_| apart && !shared) {
            let text = format!(
                "`{other}` has the same account, so the two would not be separate at Google; give it one of its own, \
                 or write `allow_shared_accounts = true` under [google]"
            );
            table.problem(group.name(), text);
        }
        if apart {
            holders.insert(account.clone(), group.name());
        }
        accounts.push((group, account));
    }
    table.finish();
    accounts
}
