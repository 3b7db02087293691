//! Offline inspection of a token, for the `policy` commands.
//!
//! Promises: the result reports what was not verified. The signature is verified only if the issuer's keys are in a file.
//! Never: a network request, or a principal that is authenticated.

use std::sync::Arc;

use super::{
    jwt::Unverified,
    keys::{Key, parse_jwks},
    rules::TokenError,
    settings::{KeySource, Settings},
};
use crate::{
    clock::{self, Timestamp},
    principal::Principal,
};

/// The result of an inspection.
#[derive(Debug)]
pub(crate) struct Inspected {
    /// The principal that the token claims.
    pub principal: Principal,
    /// Whether its signature was verified.
    pub signature_checked: bool,
    /// The reason why a gate would refuse it; `None` if no verified rule is violated.
    pub objection: Option<TokenError>,
}

/// The issuers of tokens that can be inspected.
#[derive(Clone, Copy)]
pub(crate) enum TrustedIssuers<'a> {
    /// These issuers, and the gate itself with this `iss`.
    Issuers(&'a [&'a Settings], Option<&'a str>),
    /// Any issuer; its name in principals is this one.
    Named(&'a str),
}

/// Inspects a token.
///
/// # Errors
/// If it is not a JWT of one of the issuers, or has no `sub`.
pub(crate) fn inspect(token: &str, known: TrustedIssuers<'_>, now: Timestamp) -> Result<Inspected, TokenError> {
    let token = token.trim();
    let unverified = Unverified::parse(token)?;
    let claims = unverified.payload().to_owned();
    let sub = unverified.subject().filter(|subject| !subject.is_empty()).ok_or(TokenError::Claims)?.to_owned();
    let expired = |leeway| unverified.expires_at().is_none_or(|at| clock::after(at, leeway) <= now);
    let (issuers, own) = match known {
        TrustedIssuers::Named(name) => {
            let principal = Principal::hypothetical(name, &sub, &claims, None);
            let objection = expired(std::time::Duration::ZERO).then_some(TokenError::Expired);
            return Ok(Inspected { principal, signature_checked: false, objection });
        }
        TrustedIssuers::Issuers(issuers, own) => (issuers, own),
    };
    if own == Some(unverified.issuer()) {
        let (issuer, subject) = sub.split_once(':').ok_or(TokenError::Claims)?;
        let roles = roles(&claims).ok_or(TokenError::Claims)?;
        let principal = Principal::hypothetical(issuer, subject, &claims, Some(roles));
        let objection = expired(std::time::Duration::ZERO).then_some(TokenError::Expired);
        return Ok(Inspected { principal, signature_checked: false, objection });
    }
    let issuer = issuers.iter().find(|issuer| issuer.rules.issuer == unverified.issuer()).ok_or(TokenError::Issuer)?;
    let principal = Principal::hypothetical(&issuer.name, &sub, &claims, None);
    let keys = keys(issuer);
    let key = keys.iter().find(|key| unverified.kid.is_none() || key.kid() == unverified.kid.as_deref());
    let (signature_checked, objection) = match (key, keys.is_empty()) {
        (Some(key), _) => {
            let objection = unverified.verify(key, &issuer.rules, now).err();
            (!matches!(objection, Some(TokenError::Signature | TokenError::Algorithm)), objection)
        }
        (None, false) => (false, Some(TokenError::UnknownKey)),
        (None, true) => {
            let too_late = expired(issuer.rules.leeway).then_some(TokenError::Expired);
            (false, unverified.check_offline(&issuer.rules).err().or(too_late))
        }
    };
    Ok(Inspected { principal, signature_checked, objection })
}

/// The issuer's keys, if they are in a file.
fn keys(issuer: &Settings) -> Vec<Key> {
    let KeySource::File(path) = &issuer.keys else { return Vec::new() };
    std::fs::read(path).ok().and_then(|text| parse_jwks(&text).ok()).unwrap_or_default()
}

/// The roles in a token of the gate itself.
fn roles(claims: &str) -> Option<Arc<[Arc<str>]>> {
    #[derive(serde::Deserialize)]
    struct RolesClaim {
        roles: Vec<Arc<str>>,
    }
    serde_json::from_str::<RolesClaim>(claims).ok().map(|claims| claims.roles.into())
}
