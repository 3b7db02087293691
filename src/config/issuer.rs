//! The `[[issuer]]` sections: whose tokens are taken, and by which rules.

use std::{sync::Arc, time::Duration};

use super::reader::Section;
use crate::{
    client::{Client, Clients},
    identity::{self, Algorithm, KeySource, issuer::may_be_asked, jwt::Rules, keys::parse_jwks},
};

/// Prometheus' OAuth client renews about 10 s before `exp`; a clock that is off by more would lose its samples.
const DEFAULT_LEEWAY: Duration = Duration::from_secs(60);
const MOST_LEEWAY: Duration = Duration::from_secs(300);
const DEFAULT_ALGORITHMS: [Algorithm; 4] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

pub(super) fn issuers(top: &Section<'_>, clients: &Clients) -> Vec<(identity::Settings, Arc<Client>)> {
    let mut issuers: Vec<(identity::Settings, Arc<Client>)> = Vec::new();
    for section in top.sections("issuer") {
        let settings = issuer(&section);
        for (other, _) in &issuers {
            if other.name == settings.name {
                section.refuse("name", format!("two issuers are called `{}`", settings.name));
            }
            if other.rules.issuer == settings.rules.issuer {
                section.refuse("issuer", format!("two sections are for `{}`", settings.rules.issuer));
            }
        }
        let client = section.keep("ca", clients.trusting(settings.ca.as_deref()));
        issuers.extend(client.map(|client| (settings, client)));
        section.finish();
    }
    if issuers.is_empty() && !top.has("issuer") && !top.has("certificate") {
        top.refuse("issuer", "missing; without an `[[issuer]]` or a `[[certificate]]` nobody could be let in");
    }
    issuers
}

fn issuer(section: &Section<'_>) -> identity::Settings {
    let name = section.required("name", "corp");
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        section.refuse("name", "write letters, digits, `-`, `_` and `.` only: principals are named `name:subject`");
    }
    let issuer = section.required("issuer", "https://idp.example.com");
    let audiences = section.strings("audiences").unwrap_or_default();
    if audiences.is_empty() && !section.has("audiences") {
        section.refuse("audiences", "missing; write for example `audiences = [\"wicketgate\"]`");
    }
    let leeway = section.duration("leeway", DEFAULT_LEEWAY);
    if leeway > MOST_LEEWAY {
        section.refuse("leeway", "at most five minutes: a longer one keeps expired tokens alive");
    }
    let keys = match (section.string("jwks_url"), section.file("jwks_file")) {
        (Some(_), Some(_)) => {
            section.refuse("jwks_file", "write `jwks_url` or `jwks_file`, not both");
            KeySource::Discovery
        }
        (Some(url), None) => KeySource::Url(url),
        (None, Some(path)) => {
            match std::fs::read(&path) {
                Ok(text) => drop(section.keep("jwks_file", parse_jwks(&text))),
                Err(error) => section.refuse("jwks_file", format!("cannot read `{}`: {error}", path.display())),
            }
            KeySource::File(path)
        }
        (None, None) => KeySource::Discovery,
    };
    match &keys {
        KeySource::Url(url) if !may_be_asked(url) => {
            section.refuse("jwks_url", "write an https URL (http is allowed to loopback addresses only)");
        }
        KeySource::Discovery if !issuer.is_empty() && !may_be_asked(&issuer) => {
            section
                .refuse("issuer", "discovery needs an https URL; with another `iss` write `jwks_url` or `jwks_file`");
        }
        _ => {}
    }
    let grace = section.duration("grace", Duration::from_secs(24 * 3600));
    let algorithms = algorithms(section);
    let rules = Rules { issuer, audiences, algorithms, leeway };
    identity::Settings { name, rules, keys, grace, ca: section.file("ca") }
}

fn algorithms(section: &Section<'_>) -> Vec<Algorithm> {
    let Some(names) = section.strings("algorithms") else { return DEFAULT_ALGORITHMS.to_vec() };
    let find = |name: &String| {
        let found = ALGORITHMS.iter().find(|(known, _)| known == name).map(|(_, algorithm)| *algorithm);
        if found.is_none() {
            let known: Vec<&str> = ALGORITHMS.iter().map(|(name, _)| *name).collect();
            section.refuse("algorithms", format!("`{name}` is not accepted; asymmetric ones are: {}", known.join(" ")));
        }
        found
    };
    names.iter().filter_map(find).collect()
}
