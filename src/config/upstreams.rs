//! The sections of upstreams: `[[exporter]]`, `[vertex]` and `[google]`.

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
/// Google's own timeout for shared endpoints.
const VERTEX_TIMEOUT: Duration = Duration::from_secs(60);
const STS: &str = "https://sts.googleapis.com/v1/token";
const IAM: &str = "https://iamcredentials.googleapis.com";

pub(super) fn exporters(top: &Section<'_>, clients: &Clients, default: RouteOptions) -> Vec<ExporterSettings> {
    let mut exporters: Vec<ExporterSettings> = Vec::new();
    for section in top.sections("exporter") {
        let name = section.required("name", "node");
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) || name.starts_with('.') {
            section.problem("name", "write letters, digits, `-`, `_` and `.` only, a letter or digit first");
        }
        if exporters.iter().any(|other| other.name == name) {
            section.problem("name", format!("two exporters have the name `{name}`; give one of them another name"));
        }
        let metrics_path = section.string("metrics_path").unwrap_or_else(|| "/metrics".into());
        if !metrics_path.starts_with('/') {
            section.problem("metrics_path", "write a path that begins with a slash, such as `/metrics`");
        }
        let url = section.required("url", "http://127.0.0.1:9100");
        if url.trim_end_matches('/').ends_with(&*metrics_path) {
            section.problem("url", format!("leave `{metrics_path}` out: `metrics_path` is below this URL"));
        }
        let ca = section.file("ca");
        let upstream = upstream(&section, "url", &url, ca, clients);
        let labels = section.string_map("labels");
        let credential = credential(&section);
        let timeout = section.duration("timeout", EXPORTER_TIMEOUT);
        let options = route_options(&section, default);
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

/// The route options of a section; `default` for each that it does not have.
fn route_options(section: &Section<'_>, default: RouteOptions) -> RouteOptions {
    RouteOptions {
        end_streams: section.boolean("end_streams", default.end_streams),
        token_binding: token_binding(section, default.token_binding),
        assertion: section.boolean("assertion", default.assertion),
        identity_headers: section.boolean("identity_headers", default.identity_headers),
    }
}

/// The options of the gate's own services; `[ingest]` can override those of remote write.
pub(super) fn local(top: &Section<'_>, default: RouteOptions) -> LocalRouteOptions {
    let write = top.table("ingest").map_or(default, |section| RouteOptions {
        token_binding: token_binding(&section, default.token_binding),
        ..default
    });
    LocalRouteOptions { discover: default, write, predictions: default }
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

/// The source of a secret.
pub(super) fn source(section: &Section<'_>, key: &'static str) -> Option<SecretSource> {
    let how = "write `{ file = \"PATH\" }`, `{ env = \"NAME\" }` or `{ command = [\"PROGRAM\", \"ARGUMENT\"] }`; \
               a secret is never written into this file";
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

pub(super) fn vertex(top: &Section<'_>, clients: &Clients, default: RouteOptions) -> Option<VertexSettings> {
    let credentials = top.section("google").map(|section| google(&section, clients));
    let Some(section) = top.section("vertex") else {
        if top.has("google") {
            top.problem(
                "google",
                "has no effect without [vertex]; write a section `[vertex]` with `locations = [\"us-central1\"]`",
            );
        }
        return None;
    };
    if credentials.is_none() && !top.has("google") {
        top.problem("vertex", "needs a section `[google]` too, with the gate's credential for Google");
    }
    let locations = section.strings("locations").unwrap_or_default();
    if !section.has("locations") {
        section.problem("locations", "missing; write for example `locations = [\"us-central1\"]`");
    }
    let url = section.string("url");
    if url.as_ref().is_some_and(|url| locations.len() > 1 && !url.contains("{location}")) {
        section.problem("url", "with several locations the URL must contain `{location}`");
    }
    let ca = section.file("ca");
    let mut upstreams = Vec::new();
    for location in locations {
        if location.is_empty() || !location.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
            section.problem(
                "locations",
                format!("`{location}` is not a location; write for example `us-central1` or `global`"),
            );
            continue;
        }
        let url = url.as_ref().map_or_else(|| public_host(&location), |url| url.replace("{location}", &location));
        let found = upstream(&section, "url", &url, ca.clone(), clients);
        upstreams.extend(found.map(|upstream| (location, upstream)));
    }
    let timeout = section.duration("timeout", VERTEX_TIMEOUT);
    let options = route_options(&section, default);
    let projects = section.strings("projects");
    if projects
        .as_ref()
        .is_some_and(|projects| projects.is_empty() || projects.iter().any(|p| p.is_empty() || p.contains('/')))
    {
        section.problem("projects", "write project IDs, such as `projects = [\"my-project\"]`, or leave it out");
    }
    let dedicated = dedicated(&section, ca.as_ref(), clients);
    for DedicatedEndpoint { endpoint, .. } in &dedicated {
        let location = endpoint.split('/').nth(3).unwrap_or_default();
        if !upstreams.iter().any(|(known, _)| known == location) {
            let text = format!("`{endpoint}` is in `{location}`; add that to `locations`: its other methods go there");
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
            section
                .problem("endpoint", format!("`{endpoint}` is in two `[[vertex.dedicated]]` sections; leave one out"));
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

/// The subject of the credential for Google.
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
        let separate = matches!(group, Group::Ingest | Group::Infer | Group::Train);
        if let Some(other) = holders.get(&account).filter(|_| separate && !shared) {
            let text = format!(
                "`{other}` has the same account, so the two would not be separated at Google; write another account, \
                 or `allow_shared_accounts = true` in [google]"
            );
            table.problem(group.name(), text);
        }
        if separate {
            holders.insert(account.clone(), group.name());
        }
        accounts.push((group, account));
    }
    table.finish();
    accounts
}
