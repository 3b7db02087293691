//! The sections of the gate itself: `[gate]`, `[[listen]]`, `[admin]`, `[audit]`, `[policy]`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    binding,
    reader::Section,
    settings::{CertificateFiles, GateSettings},
};
use crate::{
    client::MAX_WORKERS,
    gate::{
        audit,
        listen::{self, TlsError},
        routes::TokenBinding,
    },
};

/// The default files of a listener, relative to the configuration file.
const CERTIFICATE: &str = "certs/gate.pem";
const KEY: &str = "certs/gate.key";
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
        section.problem("url", "write the https URL of the gate for clients, such as `https://gate.example.com`");
    }
    settings.token_binding = binding::token_binding(&section, settings.token_binding);
    settings.workers = section.size("workers", cores as u64, 1, MAX_WORKERS as u64);
    settings.max_connections = section.size("max_connections", 10_000, 1, 1_000_000);
    settings.drain = section.duration("drain", settings.drain);
    section.finish();
    settings
}

pub(super) fn listeners(top: &Section<'_>) -> Vec<listen::Settings> {
    let mut listeners: Vec<listen::Settings> = Vec::new();
    for section in top.sections("listen") {
        let address = address(&section, "address").unwrap_or(DEFAULT_ADMIN);
        if address.port() != 0 && listeners.iter().any(|other| other.address == address) {
            section.problem("address", format!("two `[[listen]]` sections have the address `{address}`"));
        }
        let tls = if section.is_false("tls") { None } else { tls(&section) };
        listeners.push(listen::Settings { address, tls });
        section.finish();
    }
    if listeners.is_empty() {
        top.problem("listen", "missing; write a section `[[listen]]` with `address = \"0.0.0.0:8443\"`");
    }
    listeners
}

fn tls(section: &Section<'_>) -> Option<listen::Tls> {
    let Some(table) = section.table("tls") else {
        if section.has("tls") && !section.is_true("tls") {
            section.problem(
                "tls",
                format!(
                    "write `tls = true` for `{CERTIFICATE}` and `{KEY}`, or `tls = {{ certificate = \"{CERTIFICATE}\", \
                     key = \"{KEY}\" }}`, or `tls = false` for plain HTTP"
                ),
            );
            return None;
        }
        let certificate = section.default_file(CERTIFICATE);
        let key = section.default_file(KEY);
        let config = listen::server_config(&certificate, &key, None);
        let remedy = "`wicketgate certs init` makes a certificate and a key";
        return config.map_err(|error| section.problem("tls", format!("{error}; {remedy}"))).ok();
    };
    let pair = table.file_or("certificate", CERTIFICATE).zip(table.file_or("key", KEY));
    let clients = binding::client_certificates(&table);
    let config = pair.and_then(|(certificate, key)| {
        let config = listen::server_config(&certificate, &key, clients.as_ref());
        let key = match &config {
            Err(TlsError::Revoked(..)) => "client_crls",
            Err(TlsError::Bundle(..) | TlsError::Verifier(_)) => "client_ca",
            _ => "certificate",
        };
        table.ok_or_problem(key, config)
    });
    table.finish();
    config
}

/// The files of every listener that serves TLS, unread: certificate, key, and the CAs of client certificates.
pub(super) fn certificate_files(top: &Section<'_>) -> Vec<CertificateFiles> {
    let sections = top.sections("listen");
    let served = sections.iter().filter(|section| !section.is_false("tls"));
    let files = served.filter_map(|section| {
        let Some(table) = section.table("tls") else {
            let certificate = section.default_file(CERTIFICATE);
            return Some(CertificateFiles { certificate, key: section.default_file(KEY), clients: None });
        };
        Some(CertificateFiles {
            certificate: table.file_or("certificate", CERTIFICATE)?,
            key: table.file_or("key", KEY)?,
            clients: table.file("client_ca"),
        })
    });
    files.collect()
}

pub(super) fn address(section: &Section<'_>, key: &'static str) -> Option<SocketAddr> {
    let text = section.required(key, "127.0.0.1:8443");
    let address = text.parse().ok();
    if address.is_none() && !text.is_empty() {
        section
            .problem(key, format!("`{text}` is not an IP address and port, such as `127.0.0.1:8443` or `[::]:8443`"));
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
            top.problem("audit", "missing; write a section `[audit]` with `file = \"audit.jsonl\"`");
        }
        return audit::Settings { file: PathBuf::new() };
    };
    let file = section.required("file", "audit.jsonl");
    let file = section.resolve(&file);
    section.finish();
    audit::Settings { file }
}

pub(super) fn policy_directory(top: &Section<'_>) -> PathBuf {
    let Some(section) = top.section("policy") else { return top.resolve("policies") };
    let directory = section.path("directory").unwrap_or_else(|| section.resolve("policies"));
    section.finish();
    directory
}
