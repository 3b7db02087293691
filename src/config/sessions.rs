//! `[sessions]` and the `[issuer.login]` sections: logins and sessions of people.

use std::time::Duration;

use super::{reader::Section, settings::GateSettings, upstreams::source};
use crate::gate::identity::{
    self, KeySource,
    issuer::is_https_or_loopback,
    session::{
        LoginSettings, MAX_LIFETIME, Settings,
        keys::{MAX_KEYS, SealingKey},
    },
};

/// A working day and a margin.
const DEFAULT_MAX_LIFETIME: Duration = Duration::from_secs(12 * 3600);
const DEFAULT_SCOPES: [&str; 3] = ["openid", "profile", "email"];

/// An `[issuer.login]`, with the section of its issuer for problems.
pub(super) struct Login<'a> {
    pub(super) settings: LoginSettings,
    pub(super) section: Section<'a>,
}

/// Reads `[issuer.login]`; `None` if the issuer has none.
pub(super) fn login(issuer: &Section<'_>, of: &identity::Settings) -> Option<LoginSettings> {
    let section = issuer.section("login")?;
    let name = of.name.as_str();
    let iss = of.rules.issuer.as_str();
    if of.keys == KeySource::None {
        issuer.problem("login", "needs the issuer's keys to verify ID tokens, and this issuer has none; leave it out");
    }
    let client_id = section.required("client_id", "wicketgate");
    let client_secret = section.has("client_secret").then(|| source(&section, "client_secret")).flatten();
    let scopes = section.strings("scopes").unwrap_or_else(|| DEFAULT_SCOPES.map(String::from).to_vec());
    if !scopes.iter().any(|scope| scope == "openid") {
        section.problem("scopes", "write `openid` among them: without it there is no ID token");
    }
    if scopes.iter().any(|scope| scope.contains(char::is_whitespace)) {
        section.problem("scopes", "write one scope in each string, such as `[\"openid\", \"profile\"]`");
    }
    let title = section.string("title").unwrap_or_else(|| name.to_owned());
    let end_session = section.string("end_session");
    if end_session.as_deref().is_some_and(|url| !is_https_or_loopback(url)) {
        section.problem("end_session", "write an https URL (http is allowed to loopback addresses only)");
    }
    if !iss.is_empty() && !is_https_or_loopback(iss) {
        issuer.problem("issuer", "a login needs discovery, which needs an https URL");
    }
    section.finish();
    Some(LoginSettings { issuer: name.to_owned(), title, client_id, client_secret, scopes, end_session })
}

/// Reads `[sessions]`; `None` if no issuer has a login.
pub(super) fn sessions(top: &Section<'_>, gate: &GateSettings, logins: Vec<Login<'_>>) -> Option<Settings> {
    let section = top.section("sessions");
    if logins.is_empty() {
        if section.is_some() {
            top.problem("sessions", "has no effect: no `[[issuer]]` has a `[issuer.login]`");
        }
        return None;
    }
    let url = gate.url.as_deref().map(origin);
    for login in &logins {
        match &url {
            None => login.section.problem("login", "needs `url` in [gate]: the provider redirects browsers to it"),
            Some(None) => {
                login.section.problem("login", "needs a `url` in [gate] without a path: cookies apply to a whole host")
            }
            Some(Some(_)) => {}
        }
    }
    let mut settings = Settings {
        url: url.flatten().unwrap_or_default(),
        logins: logins.into_iter().map(|login| login.settings).collect(),
        keys: Vec::new(),
        max_lifetime: DEFAULT_MAX_LIFETIME,
        revocations: None,
    };
    let Some(section) = section else { return Some(settings) };
    settings.keys = keys(&section);
    settings.max_lifetime = section.duration("max_lifetime", DEFAULT_MAX_LIFETIME);
    if settings.max_lifetime > MAX_LIFETIME {
        section.problem("max_lifetime", "at most thirty days, `\"720h\"`: people must log in again from time to time");
    }
    let ended = section.path("revocations");
    if ended.is_some() && settings.keys.is_empty() {
        section.problem("revocations", "has no effect without `keys`: sessions end with the process");
    }
    // with `keys`, sessions outlive the process, so revocations must too
    let ended = ended.unwrap_or_else(|| section.resolve("sessions.revocations"));
    if ended.parent().is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        section.problem(
            "revocations",
            format!("`{}` is in no folder that exists; make the folder, or write another path", ended.display()),
        );
    }
    settings.revocations = (!settings.keys.is_empty()).then_some(ended);
    section.finish();
    Some(settings)
}

/// The URL without a trailing slash; `None` if it has a path or a user name.
fn origin(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    (url.path() == "/" && url.username().is_empty()).then(|| url.origin().ascii_serialization())
}

fn keys(section: &Section<'_>) -> Vec<SealingKey> {
    let files = section.files("keys");
    if files.len() > MAX_KEYS {
        section.problem("keys", format!("at most {MAX_KEYS} files: the first seals, the others only open"));
    }
    let key = |file: std::path::PathBuf| match std::fs::read(&file) {
        Ok(bytes) => {
            let invalid = |error| section.problem("keys", format!("`{}` {error}", file.display()));
            SealingKey::new(&zeroize::Zeroizing::new(bytes)).map_err(invalid).ok()
        }
        Err(error) => {
            section.problem("keys", format!("cannot read `{}`: {error}", file.display()));
            None
        }
    };
    files.into_iter().filter_map(key).collect()
}
