//! `wicketgate policy diff`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use serde_json::json;

use crate::{
    app::{ReplaySummary, replay},
    cli::output::{USAGE_ERROR, print_error, print_line},
    client::Clients,
    config,
    gate::policy::{
        Change, ChangeCount, DecisionSummary, Difference, DifferenceKind, DifferenceStatus, Policy, differences,
    },
    telemetry::chain,
};

/// What `wicketgate policy diff` is told.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Options {
    /// The policy directory that is served
    old: PathBuf,
    /// The one that may replace it; `policies/shadow` is one
    new: PathBuf,
    /// An audit log, whose requests are put to both
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// The configuration, for the labels of its exporters, where policies look at them
    #[arg(long, value_name = "FILE", requires = "against")]
    config: Option<PathBuf>,
    /// Replay the log even where its chain is broken
    #[arg(long, requires = "against")]
    unverified: bool,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn diff(options: &Options) -> ExitCode {
    match compared(options) {
        Ok(true) => ExitCode::FAILURE,
        Ok(false) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::from(USAGE_ERROR)
        }
    }
}

/// Whether anything changes: decisions of the log where there is one, else the policies themselves.
fn compared(options: &Options) -> Result<bool, String> {
    let old = load(&options.old)?;
    let new = load(&options.new)?;
    let found = differences(&old, &new);
    let Some(log) = &options.against else {
        if options.json {
            print_line(&json!({ "differences": found }).to_string());
        } else {
            print_differences(&found);
        }
        return Ok(!found.is_empty());
    };
    let labels = labels(options.config.as_deref())?;
    let old = old.with_labels(labels.iter().cloned());
    let new = new.with_labels(labels.iter().cloned());
    let (replayed, changes) = replay(log, &old, &new, options.unverified)
        .map_err(|error| format!("{}: not replayed: {}", log.display(), chain(&error)))?;
    if options.json {
        let changes: Vec<_> = changes.iter().map(|(change, seen)| json!({ "change": change, "seen": seen })).collect();
        print_line(&json!({ "differences": found, "changes": changes, "replay": replayed }).to_string());
    } else {
        print_differences(&found);
        warn_of_rules(&found);
        print_changes(&changes, &replayed, log);
    }
    Ok(!changes.is_empty())
}

/// An exporter's name and its labels.
type ExporterLabels = (Arc<str>, Vec<(String, String)>);

/// What policies can be told of exporters besides their names.
fn labels(config: Option<&Path>) -> Result<Vec<ExporterLabels>, String> {
    let Some(file) = config else { return Ok(Vec::new()) };
    let config = config::load(file, &Clients::default()).map_err(|problems| problems.to_string())?;
    Ok(config.exporters.into_iter().map(|exporter| (exporter.name.into(), exporter.labels)).collect())
}

fn load(directory: &Path) -> Result<Policy, String> {
    if !directory.is_dir() {
        return Err(format!(
            "`{}` is no directory; name the one that holds roles.toml and *.cedar",
            directory.display()
        ));
    }
    config::load_policies(directory).map_err(|problems| problems.to_string())
}

fn print_differences(found: &[Difference]) {
    if found.is_empty() {
        print_line("the policies, rules and separations are the same");
    }
    for difference in found {
        let sign = match difference.status {
            DifferenceStatus::Added => "+",
            DifferenceStatus::Removed => "-",
            DifferenceStatus::Changed => "~",
        };
        let what = match difference.kind {
            DifferenceKind::Policy => "policy",
            DifferenceKind::Rule => "rule",
            DifferenceKind::Static => "static separation of",
            DifferenceKind::Dynamic => "dynamic separation of",
            DifferenceKind::Guardrail => "guardrail",
            DifferenceKind::Action => "groups of the action",
        };
        let place = difference.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
        print_line(&format!("{sign} {what} {}{place}", difference.name));
    }
}

/// Says what a log cannot tell.
fn warn_of_rules(found: &[Difference]) {
    if found.iter().any(|difference| difference.kind == DifferenceKind::Rule) {
        print_line(
            "the rules of roles.toml differ, and a log holds no claims: both sides are asked with the roles that were \
             recorded, so what the changed rules do to roles is not replayed",
        );
    }
}

fn print_changes(changes: &[(Change, ChangeCount)], replayed: &ReplaySummary, log: &Path) {
    print_line("");
    for (change, seen) in changes {
        print_line(&format!("{}  {} on {}", change.principal, change.action, change.resource));
        let times = if seen.count == 1 {
            format!("once, {}", seen.first)
        } else {
            format!("{} times, {} to {}", seen.count, seen.first, seen.last)
        };
        print_line(&format!("    {} -> {}; {times}", decided(&change.old), decided(&change.new)));
    }
    let requests: u64 = changes.iter().map(|(_, seen)| seen.count).sum();
    print_line(&format!(
        "{}: {} requests replayed, {requests} of them decided otherwise",
        log.display(),
        replayed.replayed
    ));
    for (count, text) in [
        (replayed.refused_before, "refused before policy was asked, so there is nothing to replay"),
        (replayed.incomplete, "not replayed: their records lack something that policy was told"),
        (replayed.unreadable, "lines not replayed: they are not of this version's audit log"),
        (replayed.lost, "lines missing: the gate could not write them"),
        (
            replayed.unlike_record,
            "decided otherwise by the old policies than the record says: they are not what was served",
        ),
    ] {
        if count > 0 {
            print_line(&format!("{count} {text}"));
        }
    }
}

fn decided(side: &DecisionSummary) -> String {
    let word = if side.allowed { "allow" } else { "deny" };
    match (&*side.policies, side.reason) {
        ([], None) => word.to_owned(),
        ([], Some(reason)) => format!("{word} ({reason})"),
        (policies, _) => format!("{word} (by {})", policies.join(", ")),
    }
}
