//! The `[grants]` section: time-bound elevation.

use std::time::Duration;

use super::{reader::Section, upstreams::source};
use crate::{
    client::Client,
    gate::grants::{Login, NatsSettings, Place, Settings},
};

const DEFAULT_MAX: Duration = Duration::from_secs(8 * 3600);
/// A permanent role belongs into roles.toml.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
const DEFAULT_PENDING: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
const DEFAULT_STALE: Duration = Duration::from_secs(60);
const DEFAULT_BUCKET: &str = "wicketgate_grants";

/// Reads `[grants]`; `None` if it is missing.
pub(super) fn grants(top: &Section<'_>) -> Option<Settings> {
    let section = top.section("grants")?;
    let directory = section.path("directory");
    let place = match section.section("nats") {
        Some(nats) => {
            if directory.is_some() {
                section.problem(
                    "directory",
                    "has no effect with `nats`, where the grants are stored; leave one of them out",
                );
            }
            let stale = section.duration("max_staleness", DEFAULT_STALE);
            if stale < Duration::from_secs(1) {
                section.problem("max_staleness", "at least one second, or no grant would ever be valid");
            }
            let settings = self::nats(&nats, stale);
            nats.finish();
            Place::Nats(settings)
        }
        None => {
            if section.has("max_staleness") {
                section.problem("max_staleness", "has no effect without `nats`: only this gate changes its grants");
            }
            Place::Directory(directory.unwrap_or_else(|| section.resolve("grants")))
        }
    };
    let max = section.duration("max_duration", DEFAULT_MAX);
    if max > LONGEST || max < Duration::from_secs(1) {
        section.problem(
            "max_duration",
            "from one second to thirty days, `\"720h\"`: a permanent role belongs into roles.toml",
        );
    }
    let pending = section.duration("pending_timeout", DEFAULT_PENDING);
    let keep = section.duration("retention", DEFAULT_KEEP);
    section.finish();
    Some(Settings { place, max, pending, keep })
}

fn nats(section: &Section<'_>, stale: Duration) -> NatsSettings {
    let url = section.required("url", "tls://nats.example.com:4222");
    let parsed = url::Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "nats" | "tls"));
    match &parsed {
        _ if url.is_empty() => {}
        Some(parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
            section.problem("url", "holds a user name or password; write `token`, or `user` and `password`");
        }
        Some(parsed) if parsed.scheme() == "nats" && !is_loopback(parsed) => {
            section.problem("url", "write `tls://…`: without TLS, anything on the network path could grant roles");
        }
        Some(parsed) if parsed.host_str().is_some_and(|host| !host.is_empty()) => {}
        _ => section.problem("url", "write the address of NATS, such as `tls://nats.example.com:4222`"),
    }
    let bucket = section.string("bucket").unwrap_or_else(|| DEFAULT_BUCKET.into());
    if !bucket.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
        section.problem("bucket", "write letters, digits, `-` and `_` only");
    }
    let token = section.has("token").then(|| source(section, "token")).flatten();
    let user = section.string("user");
    let password = section.has("password").then(|| source(section, "password")).flatten();
    let login = match (token, user, password) {
        (None, None, None) => None,
        (Some(token), None, None) => Some(Login::Token(token)),
        (None, Some(user), Some(password)) => Some(Login::Password(user, password)),
        _ => {
            section.problem("token", "write `token`, or `user` and `password`, or none of them");
            None
        }
    };
    let ca = section.file("ca");
    match &parsed {
        Some(url) if ca.is_some() && url.scheme() == "nats" => {
            section
                .problem("ca", "has no effect with `nats://`, which is without TLS; write `tls://`, or leave it out");
        }
        _ => {
            // read again at each connection; an invalid file is reported now
            let _ = ca.as_deref().map(|ca| section.ok_or_problem("ca", Client::new(Some(ca))));
        }
    }
    NatsSettings { url, bucket, login, ca, stale }
}

/// Whether the URL names this machine.
fn is_loopback(url: &url::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
