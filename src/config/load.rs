//! Loading of `wicketgate.toml`: each section in turn, in an order in which later ones know what earlier ones hold.
//!
//! Promises: every problem of the file and of the policies beside it is reported at once. Must never use the network.

use std::path::{Path, PathBuf};

use super::{
    binding, data, gate, grants, issuer, limits,
    policies::{self, Diagnostics},
    problem::{Problem, Problems},
    reader::{Parsed, Section, TomlFile},
    roles, sessions,
    settings::{CertificateFiles, Config},
    token_issuer, upstreams,
};
use crate::{
    client::Clients,
    clock::{self, Timestamp},
    gate::routes::RouteOptions,
};

/// Loads a configuration. `clients` outlives each loading, so that a reload keeps connections open.
///
/// # Errors
/// Every problem of the file and of the policies beside it.
pub fn load(path: &Path, clients: &Clients) -> Result<Config, Problems> {
    let read_at = clock::now();
    let file = open(path)?;
    let mut policy = Diagnostics::default();
    let Parsed { value: config, mut problems, warnings, files } =
        Section::read(file, |top| read(top, clients, read_at, &mut policy));
    problems.extend(policy.problems);
    match config {
        Some(mut config) if problems.is_empty() => {
            config.files.extend(files);
            config.files.push(path.to_owned());
            config.warnings = warnings.into_iter().chain(policy.warnings).collect();
            Ok(config)
        }
        _ => {
            // by line within a file; files keep the order in which they were read
            let files: Vec<PathBuf> = problems.iter().map(|problem| problem.file.clone()).collect();
            problems.sort_by_key(|p| (files.iter().position(|file| *file == p.file), p.line));
            Err(Problems(problems))
        }
    }
}

/// The policy directory of a configuration, whatever else is in it.
///
/// # Errors
/// The file cannot be read, is not TOML, or has problems in `[policy]`.
pub(crate) fn policy_directory(path: &Path) -> Result<PathBuf, Problems> {
    let parsed = Section::read(open(path)?, gate::policy_directory);
    // the other sections were not read, so their keys are reported as unknown
    let in_section = |p: &Problem| p.key == "policy" || p.key.starts_with("policy.");
    let is_syntax = |p: &Problem| p.key.is_empty();
    let problems: Vec<Problem> = parsed.problems.into_iter().filter(|p| in_section(p) || is_syntax(p)).collect();
    if problems.is_empty() { Ok(parsed.value) } else { Err(Problems(problems)) }
}

/// The certificate files of the listeners of a configuration, whatever else is in it.
///
/// # Errors
/// The file cannot be read, is not TOML, or has problems in `[[listen]]`.
pub(crate) fn certificate_files(path: &Path) -> Result<Vec<CertificateFiles>, Problems> {
    let parsed = Section::read(open(path)?, gate::certificate_files);
    // the other sections and keys were not read, so they are reported as unknown
    let is_ours = |p: &Problem| p.key.is_empty() || p.key.contains(".tls.certificate") || p.key.contains(".tls.key");
    let problems: Vec<Problem> = parsed.problems.into_iter().filter(is_ours).collect();
    if problems.is_empty() { Ok(parsed.value) } else { Err(Problems(problems)) }
}

fn open(path: &Path) -> Result<TomlFile, Problems> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| Problem::of_file(path, format!("cannot be read: {error}")))?;
    Ok(TomlFile::new(path, text))
}

/// Reads the main file and the policies that it names; problems of the policies go to `diagnostics`. `None` if there is
/// no valid policy.
fn read(top: &Section<'_>, clients: &Clients, read_at: Timestamp, diagnostics: &mut Diagnostics) -> Option<Config> {
    let gate = gate::gate(top);
    let listeners = gate::listeners(top);
    let default_options = RouteOptions { token_binding: gate.token_binding, ..RouteOptions::default() };
    let exporters = upstreams::exporters(top, clients, default_options);
    let vertex = upstreams::vertex(top, clients, default_options);
    let local = upstreams::local(top, default_options);
    let mut logins = Vec::new();
    let issuers = issuer::issuers(top, clients, &mut logins);
    let names: Vec<&str> = issuers.iter().map(|(settings, _)| settings.name.as_str()).collect();
    let certificates = binding::certificates(top, &names, &listeners);
    let upstream_options = exporters.iter().map(|e| e.options).chain(vertex.as_ref().map(|v| v.options));
    let all_options = [default_options, local.write].into_iter().chain(upstream_options);
    binding::check_binding_possible(top, &gate, &listeners, all_options);
    let issue = token_issuer::token_issuer(top, &gate, issuers.iter().map(|(settings, _)| settings));
    token_issuer::check_present(top, &exporters, vertex.as_ref());
    token_issuer::check_audiences(top, issue.as_ref(), vertex.as_ref());
    let dpop = binding::dpop(top);
    let sessions = sessions::sessions(top, &gate, logins);
    let admin = gate::admin(top);
    let audit = gate::audit(top);
    let data = data::data(top, &exporters, vertex.as_ref());
    let grants = grants::grants(top);
    let directory = gate::policy_directory(top);
    let claims = roles::known_claims(issuers.iter().map(|(settings, _)| settings), &certificates);
    let labels = exporters.iter().map(|exporter| (exporter.name.as_str().into(), exporter.labels.clone()));
    let policy = policies::policy(&directory, Some(&claims), diagnostics).map(|policy| policy.with_labels(labels));
    let targets = limits::LimitTargets {
        policy: policy.as_ref(),
        exporters: &exporters,
        vertex: vertex.is_some(),
        max_write: data.as_ref().map(|data| data.remote_write.max_body),
    };
    let limits = limits::limits(top, &targets);
    Some(Config {
        gate,
        listeners,
        admin,
        audit,
        policy: policy?,
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
