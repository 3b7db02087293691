//! The `[[issuer]]` sections: token issuers and the rules for their tokens.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    reader::Section,
    sessions::{self, Login},
    upstreams::source,
};
use crate::{
    client::{Client, Clients},
    gate::identity::{
        self, Algorithm, KeySource,
        issuer::is_https_or_loopback,
        jwt::{ASYMMETRIC, Rules},
        keys::parse_jwks,
        remote::{self, introspection, token_review},
    },
};

/// Prometheus' OAuth client renews about 10 s before `exp`: with less leeway, a clock that differs more loses samples.
const DEFAULT_LEEWAY: Duration = Duration::from_secs(60);
const MOST_LEEWAY: Duration = Duration::from_secs(300);
/// How long the result of a remote validation is valid.
const DEFAULT_CACHE: Duration = Duration::from_secs(60);
/// A revoked token is accepted for as long.
const MOST_CACHE: Duration = Duration::from_secs(600);
const DEFAULT_ALGORITHMS: [Algorithm; 4] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];

/// The issuers. Each `[issuer.login]` is added to `logins`.
pub(super) fn issuers<'a>(
    top: &Section<'a>,
    clients: &Clients,
    logins: &mut Vec<Login<'a>>,
) -> Vec<(identity::Settings, Arc<Client>)> {
    let mut issuers: Vec<(identity::Settings, Arc<Client>)> = Vec::new();
    for section in top.sections("issuer") {
        let settings = issuer(&section);
        for (other, _) in &issuers {
            if other.name == settings.name {
                section.problem(
                    "name",
                    format!("two issuers have the name `{}`; give one of them another name", settings.name),
                );
            }
            if other.rules.issuer == settings.rules.issuer {
                section.problem(
                    "issuer",
                    format!("two `[[issuer]]` sections have the `iss` `{}`; leave one out", settings.rules.issuer),
                );
            }
        }
        let client = section.ok_or_problem("ca", clients.trusting(settings.ca.as_deref()));
        let login = sessions::login(&section, &settings);
        issuers.extend(client.map(|client| (settings, client)));
        section.finish();
        logins.extend(login.map(|settings| Login { settings, section }));
    }
    if issuers.is_empty() && !top.has("issuer") && !top.has("certificate") {
        top.problem("issuer", "missing; without an `[[issuer]]` or a `[[certificate]]` every request would be refused");
    }
    issuers
}

fn issuer(section: &Section<'_>) -> identity::Settings {
    let name = section.required("name", "corp");
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        section.problem("name", "write letters, digits, `-`, `_` and `.` only: principals are named `name:subject`");
    }
    let issuer = section.required("issuer", "https://idp.example.com");
    let audiences = section.strings("audiences").unwrap_or_default();
    if audiences.is_empty() && !section.has("audiences") {
        section.problem("audiences", "missing; write for example `audiences = [\"wicketgate\"]`");
    }
    let leeway = section.duration("leeway", DEFAULT_LEEWAY);
    if leeway > MOST_LEEWAY {
        section.problem("leeway", "at most five minutes: a longer one accepts expired tokens");
    }
    let remote = remote(section);
    let keys = keys(section, remote.as_ref(), &issuer);
    let grace = section.duration("grace", Duration::from_secs(24 * 3600));
    let algorithms = algorithms(section);
    let rules = Rules {
        issuer,
        audiences,
        algorithms,
        leeway,
        access_tokens_only: access_tokens_only(section),
        required: required_claims(section),
    };
    let credential = section.has("credential").then(|| source(section, "credential")).flatten();
    if credential.is_some() && matches!(keys, KeySource::File(_) | KeySource::None) {
        section.problem("credential", "it authenticates key fetches, and this issuer fetches no keys; leave it out");
    }
    identity::Settings { name, rules, keys, grace, ca: section.file("ca"), credential, remote }
}

/// The source of the keys; none if each token is validated remotely.
fn keys(section: &Section<'_>, remote: Option<&remote::Settings>, issuer: &str) -> KeySource {
    let reviewed = matches!(remote, Some(remote::Settings { validator: remote::Validator::TokenReview(_), .. }));
    let none = section.is_false("jwks");
    if section.has("jwks") && !none {
        section.problem("jwks", "write `jwks = false`, or leave it out: discovery finds the keys");
    }
    if none && remote.is_none() {
        section.problem("jwks", "without keys, tokens must be validated remotely: write `introspection = …` too");
    }
    let keys = match (section.string("jwks_url"), section.file("jwks_file")) {
        (None, None) if none || reviewed => KeySource::None,
        (Some(_), Some(_)) => {
            section.problem("jwks_file", "write `jwks_url` or `jwks_file`, not both");
            KeySource::Discovery
        }
        (Some(url), None) => KeySource::Url(url),
        (None, Some(path)) => {
            match std::fs::read(&path) {
                Ok(text) => drop(section.ok_or_problem("jwks_file", parse_jwks(&text))),
                Err(error) => section.problem("jwks_file", format!("cannot read `{}`: {error}", path.display())),
            }
            KeySource::File(path)
        }
        (None, None) => KeySource::Discovery,
    };
    match &keys {
        KeySource::Url(url) if !is_https_or_loopback(url) => {
            section.problem("jwks_url", "write an https URL (http is allowed to loopback addresses only)");
        }
        KeySource::Url(_) | KeySource::File(_) if none || reviewed => {
            let key = if matches!(keys, KeySource::Url(_)) { "jwks_url" } else { "jwks_file" };
            section.problem(
                key,
                "every token of this issuer is validated remotely, so its keys have no effect; leave it out",
            );
        }
        KeySource::Discovery if !issuer.is_empty() && !is_https_or_loopback(issuer) => {
            section
                .problem("issuer", "discovery needs an https URL; with another `iss` write `jwks_url` or `jwks_file`");
        }
        _ => {}
    }
    if let Some(remote::Settings { validator: remote::Validator::Introspection(introspection), .. }) = remote
        && introspection.url.is_none()
        && keys != KeySource::Discovery
    {
        section
            .problem("introspection", "`url` is missing; discovery finds it only if the keys come from discovery too");
    }
    keys
}

fn access_tokens_only(section: &Section<'_>) -> bool {
    let kind = section.string("token_type");
    if kind.as_ref().is_some_and(|kind| kind != "at+jwt") {
        section.problem("token_type", "write `at+jwt` (RFC 9068), or leave it out to accept ID tokens and others too");
    }
    kind.is_some()
}

/// Claims and their values; `"*"` is any value.
fn required_claims(section: &Section<'_>) -> Vec<(String, Option<Value>)> {
    let wanted = |(name, value): (String, Value)| {
        // always verified, by rules of their own
        if matches!(name.as_str(), "iss" | "aud" | "exp" | "nbf") {
            section.problem("required_claims", format!("`{name}` has a rule of its own; leave it out here"));
        }
        let any = value == "*";
        (name, (!any).then_some(value))
    };
    section.scalar_map("required_claims").into_iter().map(wanted).collect()
}

/// Remote token validation; `None` if the issuer's keys validate its tokens.
fn remote(section: &Section<'_>) -> Option<remote::Settings> {
    let introspection = section.section("introspection");
    let review = section.section("token_review");
    if introspection.is_some() && review.is_some() {
        section.problem(
            "token_review",
            "write `introspection` or `token_review`, not both; two issuers may have one each",
        );
    }
    if let Some(table) = introspection {
        let url = table.string("url");
        if url.as_deref().is_some_and(|url| !is_https_or_loopback(url)) {
            table.problem("url", "write an https URL (http is allowed to loopback addresses only)");
        }
        let client_id = table.required("client_id", "wicketgate");
        let client_secret = source(&table, "client_secret");
        let audience_optional = table.boolean("audience_optional", false);
        let subject_claim = table.string("subject_claim").unwrap_or_else(|| "sub".into());
        let cache = cache(&table);
        table.finish();
        let client_secret = client_secret?;
        let asked = introspection::Settings { url, client_id, client_secret, audience_optional, subject_claim };
        return Some(remote::Settings { validator: remote::Validator::Introspection(asked), cache });
    }
    let table = review?;
    let url = table.required("url", "https://kubernetes.default.svc");
    if !url.is_empty() && !is_https_or_loopback(&url) {
        table.problem("url", "write an https URL (http is allowed to loopback addresses only)");
    }
    let credential = source(&table, "credential");
    let cache = cache(&table);
    table.finish();
    let asked = token_review::Settings { url, credential: credential? };
    Some(remote::Settings { validator: remote::Validator::TokenReview(asked), cache })
}

fn cache(table: &Section<'_>) -> Duration {
    let cache = table.duration("cache", DEFAULT_CACHE);
    if cache > MOST_CACHE || cache < Duration::from_secs(1) {
        table.problem("cache", "from one second to ten minutes: a revoked token is accepted for as long");
    }
    cache
}

fn algorithms(section: &Section<'_>) -> Vec<Algorithm> {
    let Some(names) = section.strings("algorithms") else { return DEFAULT_ALGORITHMS.to_vec() };
    let find = |name: &String| {
        let found = name.parse().ok().filter(|algorithm| ASYMMETRIC.contains(algorithm));
        if found.is_none() {
            let known = ASYMMETRIC.map(|algorithm| format!("{algorithm:?}"));
            section
                .problem("algorithms", format!("`{name}` is not accepted; write asymmetric ones: {}", known.join(" ")));
        }
        found
    };
    names.iter().filter_map(find).collect()
}
