//! The `[token_issuer]` section: the gate as an issuer of tokens.

use std::time::Duration;

use super::{
    reader::Section,
    settings::{ExporterSettings, GateSettings, IssueSettings, VertexSettings},
};
use crate::gate::{
    credentials::CredentialOrigin,
    identity,
    proxy::JWKS_MAX_AGE,
    signing::{self, MAX_LIFETIME, Schedule},
};

const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
const LEAST_LIFETIME: Duration = Duration::from_secs(60);
const DEFAULT_ROTATE: Duration = Duration::from_secs(30 * 24 * 3600);
const DEFAULT_OVERLAP: Duration = Duration::from_secs(3600);

/// The issuer's name in the gate's own principals, such as `wicketgate:forecast`.
pub(super) const OWN_NAME: &str = "wicketgate";

/// Reads `[token_issuer]`, which needs the gate's own URL. None of `issuers` may have that URL.
pub(super) fn token_issuer<'a>(
    top: &Section<'_>,
    gate: &GateSettings,
    issuers: impl Iterator<Item = &'a identity::Settings>,
) -> Option<IssueSettings> {
    let section = top.section("token_issuer")?;
    let url = gate.url.as_deref().map(|url| url.trim_end_matches('/').to_owned());
    let Some(url) = url else {
        let text = "needs `url` in [gate]: it is the `iss` of every token that the gate signs";
        top.problem("token_issuer", text);
        return None;
    };
    if url::Url::parse(&url).is_ok_and(|url| url.path() != "/") {
        top.problem(
            "token_issuer",
            format!(
                "`{url}` of [gate] has a path, and clients look for discovery at the host only; leave the path out"
            ),
        );
    }
    for issuer in issuers {
        if issuer.rules.issuer.trim_end_matches('/') == url {
            let text = format!("the issuer `{}` has the gate's own URL as its `iss`; take it out", issuer.name);
            top.problem("issuer", text);
        }
        if issuer.name == OWN_NAME {
            top.problem("issuer", format!("`{OWN_NAME}` is the gate's own name; give this issuer another one"));
        }
    }
    let directory = section.path("keys").unwrap_or_else(|| section.resolve("keys"));
    let rotate = section.duration("rotate", DEFAULT_ROTATE);
    let overlap = section.duration("overlap", DEFAULT_OVERLAP);
    if overlap < JWKS_MAX_AGE {
        section
            .problem("overlap", format!("at least {} s, for which verifiers cache the keys", JWKS_MAX_AGE.as_secs()));
    }
    if rotate < overlap * 2 {
        section.problem("rotate", "at least twice `overlap`, or keys would be replaced before they sign");
    }
    let lifetime = section.duration("lifetime", DEFAULT_LIFETIME);
    if !(LEAST_LIFETIME..=MAX_LIFETIME).contains(&lifetime) {
        section.problem("lifetime", "from one minute to one hour: these tokens cannot be revoked");
    }
    let own = section.string("audience").unwrap_or_else(|| url.clone());
    let mut audiences = vec![own];
    for audience in section.strings("audiences").unwrap_or_default() {
        if audiences.contains(&audience) {
            section.problem("audiences", format!("`{audience}` is listed twice, or is the gate's own audience"));
        }
        audiences.push(audience);
    }
    section.finish();
    let keys = signing::Settings { directory, schedule: Schedule { rotate, overlap } };
    Some(IssueSettings { url, keys, lifetime, audiences })
}

/// Reports audiences for which the gate signs other tokens: a caller could obtain such a token by an exchange.
pub(super) fn check_audiences(top: &Section<'_>, issue: Option<&IssueSettings>, vertex: Option<&VertexSettings>) {
    let origins = vertex.into_iter().flat_map(|vertex| &vertex.credentials).map(|(_, origin)| origin);
    let google: Vec<&str> = origins
        .filter_map(
            |origin| if let CredentialOrigin::Google { google, .. } = origin { Some(google.audience()) } else { None },
        )
        .collect();
    for audience in issue.into_iter().flat_map(|issue| &issue.audiences) {
        if google.contains(&audience.as_str()) {
            let text = format!(
                "the audience `{audience}` is that of [google], for which the gate signs its callers' tokens itself; \
                 take it out of `audiences`"
            );
            top.problem("token_issuer", text);
        }
        if audience == "vertex" || audience.starts_with("exporter/") {
            top.problem(
                "token_issuer",
                format!(
                    "the audience `{audience}` is that of the gate's own assertions; give the receiver another name"
                ),
            );
        }
    }
}

/// Reports a missing `[token_issuer]` if another section needs the gate's signature.
pub(super) fn check_present(top: &Section<'_>, exporters: &[ExporterSettings], vertex: Option<&VertexSettings>) {
    if top.has("token_issuer") {
        return;
    }
    let refuse = |what: &str| {
        top.problem(
            "token_issuer",
            format!("missing, and {what} needs it; write `[token_issuer]` with `keys = \"keys\"`"),
        );
    };
    let mut options = exporters.iter().map(|exporter| exporter.options).chain(vertex.map(|vertex| vertex.options));
    if options.any(|options| options.assertion) {
        refuse("`assertion = true`");
    }
    let for_callers =
        |origin: &CredentialOrigin| matches!(origin, CredentialOrigin::Google { google, .. } if google.is_per_caller());
    if vertex.is_some_and(|vertex| vertex.credentials.iter().any(|(_, origin)| for_callers(origin))) {
        refuse("`subject = \"caller\"` of [google]");
    }
}
