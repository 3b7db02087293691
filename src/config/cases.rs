//! Policy tests: the `[[case]]` tables in a policy directory's `tests/*.toml`.
//!
//! Promises: a case is a decision that the gate could request, with an expectation that could be met: unknown keys,
//! actions and policies are problems with file and line, and so is a directory without any case.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use http::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    policies::{self, Diagnostics, load_policies},
    problem::{Problem, Problems},
    reader::{Section, TomlFile},
};
use crate::{
    clock::Timestamp,
    gate::policy::{
        BodyNames, Denial, GrantResource, Policy, Resource, VertexResource,
        cases::{ActionResources, Case, Expected},
    },
    peer::{Certificate, Chain},
    principal::Principal,
};

/// The default time of a case, in ms since 1970: 2026-01-01T00:00:00Z.
const DEFAULT_TIME: i64 = 1_767_225_600_000;
/// The largest size in a case, 1 TiB: more than any body.
const MAX_SIZE: u64 = 1 << 40;

/// The policies of a directory and their test cases.
pub(crate) struct Cases {
    /// The policies.
    pub(crate) policy: Policy,
    /// The cases, in the order of their files' names.
    pub(crate) cases: Vec<Case>,
}

/// Reads a policy directory with its tests.
///
/// # Errors
/// Every problem of its files.
pub(crate) fn cases(directory: &Path) -> Result<Cases, Problems> {
    let policy = load_policies(directory)?;
    let mut diagnostics = Diagnostics::default();
    let (schema, _) = policies::sources(directory, &mut diagnostics);
    let Some(schema) = schema else { return Err(Problems(diagnostics.problems)) };
    let applies = ActionResources::new(&schema).map_err(|text| Problem::of_file(&schema.path, text))?;
    let tests = directory.join("tests");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&tests)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    let mut cases = Vec::new();
    let mut problems: Vec<Problem> = Vec::new();
    let known = policy.names();
    for file in files {
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let parsed = Section::read(TomlFile::new(&file, text), |top| {
                    let sections = top.sections("case");
                    sections.iter().filter_map(|section| case(section, &file, &applies, &known)).collect::<Vec<_>>()
                });
                problems.extend(parsed.problems);
                cases.extend(parsed.value);
            }
            Err(error) => problems.push(Problem::of_file(&file, format!("cannot be read: {error}"))),
        }
    }
    if cases.is_empty() && problems.is_empty() {
        let text = "has no `[[case]]` in any *.toml file, so nothing would be tested";
        problems.push(Problem::of_file(&tests, text));
    }
    if problems.is_empty() { Ok(Cases { policy, cases }) } else { Err(Problems(problems)) }
}

fn case(section: &Section<'_>, file: &Path, applies: &ActionResources, known: &BTreeSet<Arc<str>>) -> Option<Case> {
    let name = section.required("name", "a scraper reads an exporter");
    let principal = principal(section);
    let granted_roles =
        section.has("granted_roles").then(|| section.strings("granted_roles")).flatten().unwrap_or_default();
    let active_role = section.string("active_role");
    let action = section.required("action", "Exporter.Scrape");
    let resource = resource(section);
    if let (Some(resource), false) = (&resource, action.is_empty()) {
        applies.check(&action, resource).unwrap_or_else(|text| section.problem("action", text));
    }
    let context = context(section);
    let expected = expected(section, known);
    section.finish();
    let context = context?;
    Some(Case {
        name,
        file: file.to_owned(),
        line: section.line(),
        principal: principal?,
        granted_roles: granted_roles.into_iter().map(Into::into).collect(),
        active_role,
        action: action.into(),
        resource: resource?,
        time: context.time,
        peer: context.peer,
        tls: context.tls,
        certificate: context.certificate,
        method: context.method,
        size: context.size,
        names: context.names,
        expected: expected?,
    })
}

fn principal(section: &Section<'_>) -> Option<Principal> {
    if !section.has("principal") {
        section.problem("principal", "missing; write `principal = { roles = [\"scrape\"] }`, or its `claims`");
    }
    let principal = section.section("principal")?;
    let issuer = principal.string("issuer").unwrap_or_else(|| "test".into());
    let subject = principal.string("subject").unwrap_or_else(|| "test".into());
    let claims = principal.json_object("claims");
    // `roles = []` is a principal without roles
    let none = principal.is_empty_list("roles");
    let roles = if none { Some(Vec::new()) } else { principal.strings("roles") };
    if roles.is_some() == claims.is_some() {
        principal.problem("claims", "write either the `claims` that roles.toml reads, or the `roles` themselves");
    }
    principal.finish();
    let mut claims = claims.unwrap_or_else(|| json!({}));
    if let Some(claims) = claims.as_object_mut() {
        claims.entry("sub").or_insert_with(|| Value::String(subject.clone()));
    }
    Some(Principal {
        name: format!("{issuer}:{subject}").into(),
        issuer: issuer.into(),
        subject: subject.into(),
        claims: claims.to_string().into(),
        proof: [0; 32],
        expires_at: Timestamp::MAX,
        until: Timestamp::MAX,
        ended: CancellationToken::new(),
        roles: roles.map(|roles| roles.into_iter().map(Into::into).collect()),
        confirmation: None,
    })
}

fn resource(section: &Section<'_>) -> Option<Resource> {
    let exporter = section.string("exporter");
    let service = section.string("service");
    let vertex = section.string("vertex");
    let grant = if section.has("grant") { section.section("grant") } else { None };
    match (exporter, service, vertex, grant) {
        (Some(name), None, None, None) => Some(Resource::Exporter(name.into())),
        (None, Some(name), None, None) => Some(Resource::Service(name.into())),
        (None, None, Some(name), None) => Some(Resource::Vertex(VertexResource::parse(&name))),
        (None, None, None, Some(grant)) => Some(Resource::Grant(Box::new(grant_resource(&grant)))),
        _ => {
            let text = "write one of `exporter = \"node\"`, `service = \"write\"`, \
                        `vertex = \"projects/p/locations/l/endpoints/1\"` and \
                        `grant = { role = \"infer\", resource = \"exporter/node\", asker = \"corp:alice\" }`";
            section.problem("exporter", text);
            None
        }
    }
}

/// A requested grant.
fn grant_resource(grant: &Section<'_>) -> GrantResource {
    let role = grant.required("role", "infer");
    let resource = grant.required("resource", "exporter/node");
    let asker = grant.required("asker", "corp:alice");
    let seconds = grant.number("seconds", 3600, 1, 10 * 365 * 86_400);
    grant.finish();
    let (issuer, subject) = asker.split_once(':').unwrap_or_default();
    if issuer.is_empty() || subject.is_empty() {
        grant.problem("asker", "write the principal's name, `ISSUER:SUBJECT`");
    }
    GrantResource {
        id: "grant".into(),
        role: role.into(),
        resource: resource.into(),
        issuer: issuer.into(),
        subject: subject.into(),
        asker: asker.as_str().into(),
        seconds,
    }
}

struct Context {
    time: Timestamp,
    peer: IpAddr,
    tls: bool,
    certificate: Option<Certificate>,
    method: Method,
    size: Option<u64>,
    names: Option<BodyNames>,
}

/// The context, with defaults for what the case does not have.
fn context(section: &Section<'_>) -> Option<Context> {
    let mut context = Context {
        time: Timestamp::from_millisecond(DEFAULT_TIME).unwrap_or(Timestamp::UNIX_EPOCH),
        peer: IpAddr::from([127, 0, 0, 1]),
        tls: true,
        certificate: None,
        method: Method::GET,
        size: None,
        names: None,
    };
    if !section.has("context") {
        return Some(context);
    }
    let section = section.section("context")?;
    if let Some(text) = section.string("time") {
        context.time = section.ok_or_problem("time", text.parse::<Timestamp>()).unwrap_or(context.time);
    }
    if let Some(text) = section.string("peer") {
        context.peer = section.ok_or_problem("peer", text.parse::<IpAddr>()).unwrap_or(context.peer);
    }
    if let Some(text) = section.string("method") {
        context.method = section.ok_or_problem("method", text.parse::<Method>()).unwrap_or(context.method);
    }
    context.tls = section.boolean("tls", true);
    context.size = section.has("size").then(|| section.number("size", 0, 0, MAX_SIZE));
    if let Some(certificate) = section.has("certificate").then(|| section.section("certificate")).flatten() {
        let names = |key: &'static str| -> Vec<Box<str>> {
            let listed = certificate.has(key).then(|| certificate.strings(key)).flatten();
            listed.unwrap_or_default().into_iter().map(Into::into).collect()
        };
        context.certificate = Some(Certificate {
            thumbprint: [0; 32],
            trusted: true,
            uris: names("uris"),
            dns_names: names("dns_names"),
            malformed: false,
            not_after: Timestamp::MAX,
            chain: Chain { certificates: Vec::new(), digest: [0; 32] },
        });
        certificate.finish();
    }
    if let Some(names) = section.has("names").then(|| section.section("names")).flatten() {
        let listed = |key: &'static str| names.has(key).then(|| names.strings(key)).flatten().unwrap_or_default();
        context.names = Some(BodyNames {
            resources: listed("resources").iter().map(|name| VertexResource::parse(name)).collect(),
            buckets: listed("buckets").into_iter().map(Into::into).collect(),
            service_accounts: listed("service_accounts").into_iter().map(Into::into).collect(),
        });
        names.finish();
    }
    section.finish();
    Some(context)
}

fn expected(section: &Section<'_>, known: &BTreeSet<Arc<str>>) -> Option<Expected> {
    let allowed = match section.string("decision").as_deref() {
        Some("allow") => Some(true),
        Some("deny") => Some(false),
        _ => {
            section.problem("decision", "write `decision = \"allow\"` or `decision = \"deny\"`");
            None
        }
    };
    let none = section.is_empty_list("policies");
    let policies = if none { Some(Vec::new()) } else { section.strings("policies") };
    let mut seen = HashSet::new();
    for name in policies.iter().flatten() {
        if !known.contains(name.as_str()) {
            section.problem("policies", format!("no policy has the name `{name}`"));
        } else if !seen.insert(name) {
            section.problem("policies", format!("the policy `{name}` is listed twice"));
        }
    }
    let reason = section.string("denial").and_then(|text| {
        let reason = Denial::REASONS.into_iter().find(|reason| *reason == text);
        if reason.is_none() {
            let known = Denial::REASONS.join("`, `");
            section.problem("denial", format!("write one of `{known}`"));
        }
        reason
    });
    if allowed == Some(true) && section.has("denial") {
        section.problem("denial", "an allowed case has no reason for a denial; leave it out");
    }
    Some(Expected { allowed: allowed?, policies: policies.map(|list| list.into_iter().collect()), reason })
}
