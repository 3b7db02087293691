//! The sections about the gate itself: `[gate]`, `[[listen]]`, `[admin]`, `[audit]`, `[policy]`, and the files
//! in the policy directory.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    GateSettings, Problem, binding,
    reader::{Section, Source},
};
use crate::{
    audit,
    client::MAX_WORKERS,
    listen::{self, TlsError},
    policy::{Claim, Policy, PolicyFile, Roles, Rule},
    proxy,
    routes::{self, TokenBinding},
};

const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);

pub(super) fn gate(top: &Section<'_>) -> GateSettings {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_WORKERS);
    let mut settings = GateSettings {
        url: None,
        token_binding: TokenBinding::Optional,
        workers: cores,
        max_connections: 10_000,
        drain: Duration::from_secs(30),
    };
    let Some(section) = top.section("gate") else { return settings };
    settings.url = section.string("url");
    if settings.url.as_deref().is_some_and(|url| !url.starts_with("https://") || url.contains(['"', '\\', '?', '#'])) {
        section.refuse("url", "write the https URL that clients use, such as `https://gate.example.com`");
    }
    settings.token_binding = binding::token_binding(&section, settings.token_binding);
    settings.workers = size(section.number("workers", cores as u64, 1, MAX_WORKERS as u64));
    settings.max_connections = size(section.number("max_connections", 10_000, 1, 1_000_000));
    settings.drain = section.duration("drain", settings.drain);
    section.finish();
    settings
}

/// A number that was checked against a bound far below `usize::MAX`.
pub(super) fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(super) fn listeners(top: &Section<'_>) -> Vec<listen::Settings> {
    let mut listeners: Vec<listen::Settings> = Vec::new();
    for section in top.sections("listen") {
        let address = address(&section, "address").unwrap_or(DEFAULT_ADMIN);
        if address.port() != 0 && listeners.iter().any(|other| other.address == address) {
            section.refuse("address", format!("two sections listen on `{address}`"));
        }
        let tls = if section.is_false("tls") { None } else { tls(&section) };
        listeners.push(listen::Settings { address, tls });
        section.finish();
    }
    if listeners.is_empty() {
        top.refuse("listen", "missing; write a section `[[listen]]` with `address = \"0.0.0.0:8443\"` and `tls = …`");
    }
    listeners
}

fn tls(section: &Section<'_>) -> Option<listen::Tls> {
    let Some(tls) = section.section("tls") else {
        section.refuse(
            "tls",
            "write `tls = { certificate = \"gate.pem\", key = \"gate.key\" }`, or `tls = false` for clear text",
        );
        return None;
    };
    for (key, example) in [("certificate", "gate.pem"), ("key", "gate.key")] {
        tls.required(key, example);
    }
    let pair = tls.file("certificate").zip(tls.file("key"));
    let clients = binding::client_certificates(&tls);
    let config = pair.and_then(|(certificate, key)| {
        let config = listen::server_config(&certificate, &key, clients.as_ref());
        let key = match &config {
            Err(TlsError::Revoked(..)) => "client_crls",
            Err(TlsError::Bundle(..) | TlsError::Verifier(_)) => "client_ca",
            _ => "certificate",
        };
        tls.keep(key, config)
    });
    tls.finish();
    config
}

pub(super) fn address(section: &Section<'_>, key: &'static str) -> Option<SocketAddr> {
    let text = section.required(key, "127.0.0.1:8443");
    let address = text.parse().ok();
    if address.is_none() && !text.is_empty() {
        section.refuse(key, format!("`{text}` is not an IP address and port, such as `127.0.0.1:8443` or `[::]:8443`"));
    }
    address
}

pub(super) fn admin(top: &Section<'_>) -> SocketAddr {
    let Some(section) = top.section("admin") else { return DEFAULT_ADMIN };
    let admin = if section.has("address") { address(&section, "address") } else { None };
    section.finish();
    admin.unwrap_or(DEFAULT_ADMIN)
}

pub(super) fn audit(top: &Section<'_>) -> audit::Settings {
    let Some(section) = top.section("audit") else {
        if !top.has("audit") {
            top.refuse("audit", "missing; write a section `[audit]` with `file = \"audit.jsonl\"`");
        }
        return audit::Settings { file: PathBuf::new() };
    };
    let file = section.required("file", "audit.jsonl");
    let file = section.beside(&file);
    section.finish();
    audit::Settings { file }
}

pub(super) fn policy_directory(top: &Section<'_>) -> PathBuf {
    let Some(section) = top.section("policy") else { return top.beside("policies") };
    let directory = section.path("directory").unwrap_or_else(|| section.beside("policies"));
    section.finish();
    directory
}

/// Loads roles, schema and policies from their directory. `issuers` are those that role rules may name, where they are
/// known.
pub(super) fn policy(directory: &Path, issuers: Option<&[&str]>, problems: &mut Vec<Problem>) -> Option<Policy> {
    let roles = read_file(&directory.join("roles.toml"), problems).map(|file| {
        let reading = Source::new(&file.path, file.text).read(|top| roles(top, issuers));
        problems.extend(reading.problems);
        reading.value
    });
    let schema = read_file(&directory.join("wicketgate.cedarschema"), problems);
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "cedar"))
        .collect();
    files.sort();
    if files.is_empty() {
        let text = "holds no *.cedar file, so everything would be denied; start from the shipped policies".into();
        problems.push(Problem { file: directory.to_owned(), line: 0, key: String::new(), text });
    }
    let policies: Vec<PolicyFile> = files.iter().filter_map(|path| read_file(path, problems)).collect();
    let compiled = Policy::new(roles?, &schema?, &policies, routes::actions().chain([proxy::EXCHANGE]));
    compiled
        .map_err(|found| {
            problems.extend(found.into_iter().map(|p| Problem {
                file: p.file,
                line: p.line,
                key: String::new(),
                text: p.text,
            }));
        })
        .ok()
}

fn read_file(path: &Path, problems: &mut Vec<Problem>) -> Option<PolicyFile> {
    let read = std::fs::read_to_string(path);
    read.map(|text| PolicyFile { path: path.to_owned(), text })
        .map_err(|e| {
            let text = format!("cannot be read: {e}");
            problems.push(Problem { file: path.to_owned(), line: 0, key: String::new(), text });
        })
        .ok()
}

fn roles(top: &Section<'_>, issuers: Option<&[&str]>) -> Roles {
    let mut rules = Vec::new();
    for section in top.sections("rule") {
        let role = section.required("role", "scrape").into();
        let listed = section.strings("issuers").unwrap_or_default();
        if !section.has("issuers") {
            section.refuse("issuers", "missing; write the issuers' names, or `issuers = [\"*\"]` for every one");
        }
        let every = listed.iter().any(|name| name == "*");
        if let Some(issuers) = issuers {
            for unknown in listed.iter().filter(|name| !every && !issuers.contains(&name.as_str())) {
                let text = format!(
                    "no issuer is called `{unknown}`, so this rule can have no effect; there are: {}",
                    issuers.join(", ")
                );
                section.refuse("issuers", text);
            }
        }
        let claim = section.required("claim", "roles");
        let claim = if claim.starts_with('/') { Claim::Pointer(claim) } else { Claim::Name(claim) };
        let value = section.required("value", "scrape");
        rules.push(Rule { role, issuers: (!every).then_some(listed), claim, value });
        section.finish();
    }
    let separate = top.section("separate").map(|section| separate(section, &rules)).unwrap_or_default();
    Roles { rules, separate }
}

fn separate(section: Section<'_>, rules: &[Rule]) -> Vec<Vec<Arc<str>>> {
    let lists = section.lists("static");
    for list in &lists {
        if list.len() < 2 {
            section.refuse("static", "a list of roles that are kept apart needs two roles at least");
        }
        for role in list.iter().filter(|role| !rules.iter().any(|rule| *rule.role == ***role)) {
            section.refuse("static", format!("no rule gives the role `{role}`, so keeping it apart has no effect"));
        }
    }
    section.finish();
    lists.into_iter().map(|list| list.into_iter().map(Into::into).collect()).collect()
}
