//! `guardrails.toml` in the policy directory: the guardrails that permits name by `@oblige("NAME")`.
//!
//! Promises: a guardrail without effect is a problem: one without keys, and one that no permit names.

use std::{collections::BTreeSet, path::Path};

use super::{
    problem::Problem,
    reader::{Section, TomlFile},
};
use crate::{
    gate::policy::{
        Guardrail, MaskKey, Obligation, Pointer, Policy, PredictGuardrail, ScrapeGuardrail, Template, WriteGuardrail,
        plain_name,
    },
    series::{METRIC_NAME, NamePattern},
};

/// Labels that are part of a sample's meaning: without them, or with other values, it would be another sample.
const STRUCTURE: [&str; 3] = [METRIC_NAME, "le", "quantile"];

/// The file's name in its directory.
pub(super) const FILE: &str = "guardrails.toml";

/// Adds the guardrails of `file`, if it exists, to the policies that name them. `inherited` is the file of the enforced
/// policies for a shadow set, which need not name all of its guardrails.
pub(super) fn with_guardrails(
    policy: Policy,
    file: &Path,
    inherited: bool,
    problems: &mut Vec<Problem>,
) -> Option<Policy> {
    let before = problems.len();
    let guardrails = match std::fs::read_to_string(file) {
        Ok(text) => {
            let obliged = Some(policy.guardrail_names()).filter(|_| !inherited);
            let parsed = Section::read(TomlFile::new(file, text), |top| guardrails(top, obliged.as_ref()));
            // a file with a syntax error has no known guardrails; else a misspelt name is reported on both sides
            let unread = parsed.problems.iter().any(|problem| problem.key.is_empty());
            problems.extend(parsed.problems);
            if unread {
                return None;
            }
            parsed.value
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            problems.push(Problem::of_file(file, format!("cannot be read: {error}")));
            return None;
        }
    };
    let found = policy
        .with_guardrails(guardrails)
        .map_err(|found| {
            problems.extend(found.into_iter().map(|p| Problem::at(p.file, p.line, p.text)));
        })
        .ok();
    found.filter(|_| problems.len() == before)
}

fn guardrails(top: &Section<'_>, obliged: Option<&BTreeSet<&str>>) -> Vec<Obligation> {
    let mask = mask_key(top);
    let mut guardrails: Vec<Obligation> = Vec::new();
    for kind in ["scrape", "write", "predict"] {
        let Some(of_kind) = top.section(kind) else { continue };
        for (name, section) in of_kind.named_sections() {
            let guardrail = match kind {
                "scrape" => scrape(&section, mask.as_ref()),
                "write" => write(&section),
                _ => predict(&section),
            };
            section.finish();
            if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
                section.problem("", "a guardrail's name has letters, digits, `-`, `_` and `.` only");
            } else if guardrails.iter().any(|other| *other.name == *name) {
                section.problem("", "another guardrail has this name, and `@oblige` could mean either");
            } else if obliged.is_some_and(|obliged| !obliged.contains(&*name)) {
                let text = format!("no permit names it, so it has no effect; write `@oblige(\"{name}\")` on one");
                section.problem("", text);
            }
            guardrails.push(Obligation { name: name.into(), guardrail });
        }
    }
    guardrails
}

fn mask_key(top: &Section<'_>) -> Option<MaskKey> {
    let file = top.file("mask_key")?;
    match std::fs::read(&file).map(zeroize::Zeroizing::new) {
        Ok(bytes) => {
            let key = MaskKey::new(&bytes);
            if key.is_none() {
                let least = MaskKey::MIN_BYTES;
                let remedy = "such as by `openssl rand -base64 48`";
                top.problem(
                    "mask_key",
                    format!("`{}` is short; write {least} bytes at least, {remedy}", file.display()),
                );
            }
            key
        }
        Err(error) => {
            top.problem("mask_key", format!("cannot read `{}`: {error}", file.display()));
            None
        }
    }
}

fn scrape(section: &Section<'_>, mask: Option<&MaskKey>) -> Guardrail {
    let plain = |pattern: NamePattern| match pattern {
        NamePattern::Exact(name) => NamePattern::Exact(plain_name(&name).into()),
        NamePattern::Prefix(prefix) => NamePattern::Prefix(plain_name(&prefix).into()),
    };
    let hide = patterns(section, "hide_families").unwrap_or_default().into_iter().map(plain).collect();
    let plain = |name: &str| Box::from(&*plain_name(name));
    let labels = |key| labels(section, key).iter().map(|name| plain(name)).collect::<Vec<Box<str>>>();
    let mut hide_series = Vec::new();
    for series in section.sections("hide_series") {
        let label = series.required("label", "tenant");
        let value = series.required("value", "x");
        hide_series.push((plain(&label), value.into()));
        series.finish();
    }
    let duty = ScrapeGuardrail {
        show: patterns(section, "show_families"),
        hide,
        drop_labels: labels("drop_labels"),
        mask_labels: labels("mask_labels"),
        hide_series,
        mask: mask.cloned(),
    };
    if !duty.mask_labels.is_empty() && mask.is_none() {
        let text = "needs a key: write `mask_key = \"mask.key\"` at the top of this file, and at least 32 random bytes into that \
                    file, such as by `openssl rand -base64 48`";
        section.problem("mask_labels", text);
    }
    check_not_empty(section, "`hide_families = [\"go_*\"]`");
    Guardrail::Scrape(duty)
}

fn write(section: &Section<'_>) -> Guardrail {
    let mut force = Vec::new();
    for (label, text) in section.string_map("force") {
        if label == METRIC_NAME || label.is_empty() {
            section.problem("force", "a label's name is not empty, and the metric's name cannot be set");
        }
        force.extend(section.ok_or_problem("force", Template::parse(&text)).map(|template| (label.into(), template)));
    }
    let duty = WriteGuardrail {
        force,
        refuse_labels: labels(section, "refuse_labels"),
        allow_metrics: patterns(section, "allow_metrics"),
        refuse_metrics: patterns(section, "refuse_metrics").unwrap_or_default(),
    };
    check_not_empty(section, "`force = { tenant = \"{principal}\" }`");
    Guardrail::Write(duty)
}

fn predict(section: &Section<'_>) -> Guardrail {
    let count = |key: &'static str| section.has(key).then(|| section.number(key, 0, 0, u64::from(u32::MAX)));
    let pointer = |key: &'static str, text: &str| {
        let pointer = Pointer::parse(text);
        if pointer.is_none() {
            section.problem(key, format!("`{text}` is not a JSON pointer into a body, such as `/parameters/seed`"));
        }
        pointer
    };
    let pointers = |key: &'static str| -> Vec<Pointer> {
        let texts = section.strings(key).unwrap_or_default();
        texts.iter().filter_map(|text| pointer(key, text)).collect()
    };
    let max = section.number_map("max").into_iter().filter_map(|(text, most)| Some((pointer("max", &text)?, most)));
    let duty = PredictGuardrail {
        max: max.collect(),
        max_instances: count("max_instances"),
        max_bytes: count("max_bytes"),
        require: pointers("require"),
        forbid: pointers("forbid"),
    };
    if duty.require.iter().any(|pointer| pointer.segments.contains(&None)) {
        section.problem("require", "`*` has no meaning here: name the field that must be there");
    }
    if duty.max.iter().any(|(_, most)| most.as_f64().is_none_or(|most| most < 0.0)) {
        section.problem("max", "write numbers that are not negative");
    }
    check_not_empty(section, "`max_instances = 100`");
    Guardrail::Predict(duty)
}

/// Reports a guardrail without keys.
fn check_not_empty(section: &Section<'_>, example: &str) {
    if section.is_empty() {
        section.problem("", format!("has no keys, so it has no effect; write for example {example}"));
    }
}

fn patterns(section: &Section<'_>, key: &'static str) -> Option<Vec<NamePattern>> {
    let texts = section.strings(key)?;
    Some(texts.iter().filter_map(|text| section.ok_or_problem(key, NamePattern::parse(text))).collect())
}

fn labels(section: &Section<'_>, key: &'static str) -> Vec<Box<str>> {
    let names = section.strings(key).unwrap_or_default();
    if let Some(name) = names.iter().find(|name| STRUCTURE.contains(&name.as_str()) || name.is_empty()) {
        section.problem(key, format!("`{name}` cannot be listed: without it a sample would be another one"));
    }
    names.into_iter().map(Into::into).collect()
}
