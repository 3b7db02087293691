//! `wicketgate certs ls`: every certificate of a directory or a configuration, and which CA signed which.
//!
//! Exit codes: 0 all is in order, 1 a certificate has expired or does not fit its key or its CA, 2 wrong usage.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::certificate::{self, Certificate};
use crate::{
    cli::output::{USAGE_ERROR, print_error, print_line},
    config,
};

/// The options of `wicketgate certs ls`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Options {
    /// The directory: every `*.pem` in it, each with the `*.key` of the same name
    #[arg(long, value_name = "DIR", default_value = "certs", conflicts_with = "config")]
    dir: PathBuf,
    /// The configuration file: the certificates of its listeners, and those beside them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn list(options: &Options) -> ExitCode {
    match inspect(options) {
        Ok(report) => {
            report.lines.iter().for_each(|line| print_line(line));
            report.problems.iter().for_each(|problem| print_error(problem));
            if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(text) => {
            print_error(&text);
            ExitCode::from(USAGE_ERROR)
        }
    }
}

/// What `ls` prints: on standard output, and on standard error.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    problems: Vec<String>,
}

/// A certificate file and the file of its key. `None` if no key is expected: a CA may keep it elsewhere.
type Pair = (PathBuf, Option<PathBuf>);

fn inspect(options: &Options) -> Result<Report, String> {
    let pairs = match &options.config {
        Some(file) => configured(file)?,
        None => in_directory(&options.dir)?,
    };
    let mut report = Report::default();
    let mut all: Vec<(Certificate, Option<PathBuf>)> = Vec::new();
    for (path, key) in pairs {
        match certificate::read(&path) {
            Ok(found) if found.is_empty() => report.problems.push(format!("`{}` holds no certificate", path.display())),
            Ok(found) => all.extend(found.into_iter().map(|certificate| (certificate, key.clone()))),
            Err(problem) => report.problems.push(problem),
        }
    }
    if all.is_empty() && report.problems.is_empty() {
        return Err(format!("no certificate in `{}`; `wicketgate certs init` makes one", options.dir.display()));
    }
    let authorities: Vec<&Certificate> = all.iter().map(|(certificate, _)| certificate).filter(|c| c.is_ca).collect();
    for (certificate, key) in &all {
        describe(certificate, key.as_deref(), &authorities, &mut report);
    }
    Ok(report)
}

fn in_directory(directory: &Path) -> Result<Vec<Pair>, String> {
    let wrong = |error: std::io::Error| format!("cannot read `{}`: {error}", directory.display());
    let mut pairs = Vec::new();
    for entry in fs::read_dir(directory).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if path.extension() == Some(OsStr::new("pem")) {
            let key = path.with_extension("key");
            pairs.push((path, key.exists().then_some(key)));
        }
    }
    pairs.sort();
    Ok(pairs)
}

/// The files that the listeners name, and other certificates of their folders, which may be their CAs.
fn configured(file: &Path) -> Result<Vec<Pair>, String> {
    let mut pairs: Vec<Pair> = Vec::new();
    for files in config::certificate_files(file).map_err(|problems| problems.to_string())? {
        let folder = files.certificate.parent().map(Path::to_owned);
        pairs.push((files.certificate, Some(files.key)));
        pairs.extend(files.clients.map(|clients| (clients, None)));
        pairs.extend(folder.and_then(|folder| in_directory(&folder).ok()).unwrap_or_default());
    }
    let mut known: Vec<PathBuf> = Vec::new();
    pairs.retain(|(path, _)| {
        let is_new = !known.contains(path);
        known.push(path.clone());
        is_new
    });
    Ok(pairs)
}

fn describe(certificate: &Certificate, key: Option<&Path>, authorities: &[&Certificate], report: &mut Report) {
    let path = certificate.path.display();
    let what = if certificate.is_ca { "CA" } else { "certificate" };
    report.lines.push(format!("{path}: {what} {}", certificate.subject));
    if !certificate.names.is_empty() {
        report.lines.push(format!("  names   {}", certificate.names.join(", ")));
    }
    let days = certificate.days_left();
    if certificate.is_expired() {
        report.lines.push(format!("  ends    {}: EXPIRED {} days ago", certificate.not_after, -days));
        report.problems.push(format!("`{path}` has expired on {}", certificate.not_after));
    } else {
        report.lines.push(format!("  ends    {}: {days} days left", certificate.not_after));
    }
    if let Some(key) = key {
        report.lines.push(match certificate.matches(key) {
            Ok(true) => format!("  key     {} matches", key.display()),
            Ok(false) => {
                report.problems.push(format!("`{}` is not the key of `{path}`", key.display()));
                format!("  key     {} DOES NOT MATCH", key.display())
            }
            Err(problem) => {
                report.problems.push(problem.clone());
                format!("  key     {problem}")
            }
        });
    }
    if certificate.issuer == certificate.subject {
        report.lines.push("  issuer  itself".to_owned());
        return;
    }
    report.lines.push(format!("  issuer  {}", certificate.issuer));
    if certificate.is_ca {
        return;
    }
    let issuers: Vec<&&Certificate> = authorities.iter().filter(|ca| certificate.names_issuer(ca)).collect();
    if issuers.is_empty() {
        report.lines.push("  trust   its CA is not among these files; clients need it".to_owned());
    }
    for ca in issuers {
        let ca_path = ca.path.display();
        report.lines.push(match certificate.verify(ca) {
            Ok(()) => format!("  trust   clients that trust {ca_path} accept it"),
            Err(why) => {
                report.problems.push(format!("clients that trust `{ca_path}` refuse `{path}`: {why}"));
                format!("  trust   clients that trust {ca_path} REFUSE it: {why}")
            }
        });
    }
}
