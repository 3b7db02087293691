//! The sections of client certificates and sender-constrained tokens: `[[certificate]]`, `[dpop]`, the client part of a
//! listener's `tls`, and `token_binding` of every section.

use std::time::Duration;

use super::{reader::Section, settings::GateSettings, token_issuer::OWN_NAME};
use crate::gate::{
    identity::{
        certificate::{CertificateRule, SanPattern},
        dpop,
    },
    listen::{self, ClientCertificates},
    routes::{RouteOptions, TokenBinding},
};

/// A proof is made for one request, so this allows for clock differences and network delay.
const PROOF_AGE: Duration = Duration::from_secs(60);
const MOST_PROOF_AGE: Duration = Duration::from_secs(300);

/// `token_binding`, or `default` if the section has none.
pub(super) fn token_binding(section: &Section<'_>, default: TokenBinding) -> TokenBinding {
    if !section.has("token_binding") {
        return default;
    }
    match section.string("token_binding").as_deref() {
        Some("optional") => TokenBinding::Optional,
        Some("required") => TokenBinding::Required,
        Some("") | None => default,
        Some(other) => {
            section.problem("token_binding", format!("`{other}` is neither `\"optional\"` nor `\"required\"`"));
            default
        }
    }
}

/// `client_certificates`, `client_ca` and `client_crls` of a listener's `tls`.
pub(super) fn client_certificates(tls: &Section<'_>) -> Option<ClientCertificates> {
    let wanted = tls.string("client_certificates");
    let ca = tls.file("client_ca");
    let crls = tls.files("client_crls");
    if ca.is_none() && tls.has("client_crls") {
        tls.problem("client_crls", "revokes certificates of the CAs in `client_ca`, which is missing");
    }
    match (wanted.as_deref(), ca) {
        (None | Some(""), None) => None,
        (None | Some(""), Some(_)) => {
            tls.problem(
                "client_certificates",
                "missing; with `client_ca` write `client_certificates = \"optional\"` or `\"required\"`",
            );
            None
        }
        (Some("optional" | "required"), None) => {
            tls.problem(
                "client_ca",
                "missing; write the CA certificates that clients' chain to: `client_ca = \"clients.pem\"`",
            );
            None
        }
        (Some(wanted @ ("optional" | "required")), Some(ca)) => {
            Some(ClientCertificates::Verified { ca, crls, required: wanted == "required" })
        }
        (Some("any"), None) => Some(ClientCertificates::Any),
        (Some("any"), Some(_)) => {
            tls.problem(
                "client_certificates",
                "`\"any\"` verifies no chain, so `client_ca` has no effect; write `\"optional\"` or `\"required\"`",
            );
            None
        }
        (Some(other), _) => {
            tls.problem(
                "client_certificates",
                format!("`{other}` is not known; write `\"optional\"`, `\"required\"` or `\"any\"`"),
            );
            None
        }
    }
}

/// The `[[certificate]]` sections.
pub(super) fn certificates(
    top: &Section<'_>,
    issuers: &[&str],
    listeners: &[listen::Settings],
) -> Vec<CertificateRule> {
    let mut rules: Vec<CertificateRule> = Vec::new();
    for section in top.sections("certificate") {
        let name = section.required("name", "mesh");
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            section
                .problem("name", "write letters, digits, `-`, `_` and `.` only: principals are named `name:subject`");
        }
        if issuers.contains(&name.as_str()) || rules.iter().any(|rule| *rule.name == *name) {
            section.problem(
                "name",
                format!("another section is named `{name}`; write another name: principals are named `name:subject`"),
            );
        }
        if name == OWN_NAME {
            section.problem("name", format!("`{OWN_NAME}` is the gate's own name; write another one"));
        }
        let names = match (section.string("spiffe"), section.string("dns")) {
            (Some(pattern), None) => section.ok_or_problem("spiffe", SanPattern::spiffe(&pattern)),
            (None, Some(pattern)) => section.ok_or_problem("dns", SanPattern::dns(&pattern)),
            (Some(_), Some(_)) => {
                section
                    .problem("dns", "write `spiffe` or `dns`, not both; another `[[certificate]]` may have the other");
                None
            }
            (None, None) => {
                let text = "missing; write `spiffe = \"spiffe://example.org/ns/prod/*\"` or `dns = \"*.example.org\"`";
                section.problem("spiffe", text);
                None
            }
        };
        rules.extend(names.map(|names| CertificateRule { name: name.into(), names }));
        section.finish();
    }
    if !rules.is_empty() && !listeners.iter().any(|l| l.tls.as_ref().is_some_and(listen::Tls::verifies)) {
        top.problem(
            "certificate",
            "no listener verifies client certificates, so this has no effect; write `client_ca` and \
             `client_certificates = \"optional\"` into the `tls` of a `[[listen]]`",
        );
    }
    rules
}

/// The `[dpop]` section.
pub(super) fn dpop(top: &Section<'_>) -> dpop::Settings {
    let mut settings = dpop::Settings { max_age: PROOF_AGE, nonces: false };
    let Some(section) = top.section("dpop") else { return settings };
    settings.max_age = section.duration("max_age", PROOF_AGE);
    if settings.max_age > MOST_PROOF_AGE {
        section.problem("max_age", "at most five minutes: a proof is made for one request");
    }
    settings.nonces = match section.string("nonces").as_deref() {
        Some("required") => true,
        None | Some("" | "off") => false,
        Some(other) => {
            section.problem("nonces", format!("`{other}` is neither `\"required\"` nor `\"off\"`"));
            false
        }
    };
    section.finish();
    settings
}

/// Reports `token_binding = "required"` if no client could bind a token.
pub(super) fn check_binding_possible(
    top: &Section<'_>,
    gate: &GateSettings,
    listeners: &[listen::Settings],
    mut options: impl Iterator<Item = RouteOptions>,
) {
    let required = options.any(|options| options.token_binding == TokenBinding::Required);
    let certificates = listeners.iter().any(|l| l.tls.as_ref().is_some_and(listen::Tls::requests_certificates));
    if required && gate.url.is_none() && !certificates {
        top.problem(
            "gate",
            "`token_binding = \"required\"` requires clients that can bind tokens: write `url = \"https://…\"` under [gate], which \
             DPoP proofs name, or `client_certificates` into the `tls` of a `[[listen]]`",
        );
    }
}
