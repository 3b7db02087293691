//! A token looked at without a gate, for commands that explain: what it says, and how far that can be believed offline.
//!
//! Promises: nobody is let in by this. What was not checked is said; the signature is checked only where the issuer's
//! keys lie in a file. Never: a network.

use std::sync::Arc;

use super::{
    Settings,
    issuer::KeySource,
    jwt::{TokenError, Unverified},
    keys::{Key, parse_jwks},
};
use crate::{
    clock::{self, Timestamp},
    principal::Principal,
};

/// A token and what is known of it.
#[derive(Debug)]
pub(crate) struct Inspected {
    /// Whom it says that it is of.
    pub principal: Principal,
    /// Whether its signature was checked, and is right.
    pub signature_checked: bool,
    /// Why a gate would refuse it whatever its signature is.
    pub objection: Option<TokenError>,
}

/// Whose tokens are known.
#[derive(Clone, Copy)]
pub(crate) enum TrustedIssuers<'a> {
    /// Those of these issuers, and of the gate itself, whose `iss` this is.
    Issuers(&'a [&'a Settings], Option<&'a str>),
    /// Any, taken to be of the issuer of this name.
    Named(&'a str),
}

/// Reads a token.
///
/// # Errors
/// When it is no JWT of a known issuer, or says nobody's name.
pub(crate) fn inspect(token: &str, known: TrustedIssuers<'_>, now: Timestamp) -> Result<Inspected, TokenError> {
    let token = token.trim();
    let unverified = Unverified::parse(token)?;
    let claims = unverified.payload().to_owned();
    let said = unverified.subject().filter(|subject| !subject.is_empty()).ok_or(TokenError::Claims)?.to_owned();
    let expired = |leeway| unverified.expires_at().is_none_or(|at| clock::after(at, leeway) <= now);
    let (issuers, own) = match known {
        TrustedIssuers::Named(name) => {
            let principal = Principal::hypothetical(name, &said, &claims, None);
            let objection = expired(std::time::Duration::ZERO).then_some(TokenError::Expired);
            return Ok(Inspected { principal, signature_checked: false, objection });
        }
        TrustedIssuers::Issuers(issuers, own) => (issuers, own),
    };
    if own == Some(unverified.issuer()) {
        let (issuer, subject) = said.split_once(':').ok_or(TokenError::Claims)?;
        let roles = roles(&claims).ok_or(TokenError::Claims)?;
        let principal = Principal::hypothetical(issuer, subject, &claims, Some(roles));
        let objection = expired(std::time::Duration::ZERO).then_some(TokenError::Expired);
        return Ok(Inspected { principal, signature_checked: false, objection });
    }
    let issuer = issuers.iter().find(|issuer| issuer.rules.issuer == unverified.issuer()).ok_or(TokenError::Issuer)?;
    let principal = Principal::hypothetical(&issuer.name, &said, &claims, None);
    let keys = keys(issuer);
    let key = keys.iter().find(|key| unverified.kid.is_none() || key.kid() == unverified.kid.as_deref());
    let (signature_checked, objection) = match (key, keys.is_empty()) {
        (Some(key), _) => {
            let objection = unverified.verify(key, &issuer.rules, now).err();
            (!matches!(objection, Some(TokenError::Signature | TokenError::Algorithm)), objection)
        }
        (None, false) => (false, Some(TokenError::UnknownKey)),
        (None, true) => {
            let late = expired(issuer.rules.leeway).then_some(TokenError::Expired);
            (false, unverified.check_offline(&issuer.rules).err().or(late))
        }
    };
    Ok(Inspected { principal, signature_checked, objection })
}

/// The issuer's keys, where they are at hand.
fn keys(issuer: &Settings) -> Vec<Key> {
    let KeySource::File(path) = &issuer.keys else { return Vec::new() };
    std::fs::read(path).ok().and_then(|text| parse_jwks(&text).ok()).unwrap_or_default()
}

/// The roles that a token of the gate itself carries.
fn roles(claims: &str) -> Option<Arc<[Arc<str>]>> {
    #[derive(serde::Deserialize)]
    struct Given {
        roles: Vec<Arc<str>>,
    }
    serde_json::from_str::<Given>(claims).ok().map(|given| given.roles.into())
}
