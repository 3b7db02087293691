//! Who is asking: from the proof on a request to one [`Principal`].
//!
//! Promises: a principal is returned only for a token whose every rule was checked, now or earlier with the same bytes;
//! a remembered token stops counting when it expires, when its key is withdrawn, or when its issuer's grace is over. One
//! signature check for each token, not for each request. Never: a token from a query string or a cookie, two identities
//! on one request, or a token's text in a log.

pub mod issuer;
pub mod jwt;
pub mod keys;

use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, header::AUTHORIZATION};
use quick_cache::sync::Cache;

pub use jsonwebtoken::Algorithm;

pub use self::issuer::{Issuer, KeySource, Settings};
use self::{
    issuer::Lookup,
    jwt::{TokenError, Unverified},
    keys::Key,
};
use crate::{
    clock::{self, Timestamp},
    peer::Peer,
    principal::Principal,
    refusal::Refusal,
};

/// Tokens remembered at once; the least used make room.
const REMEMBERED: usize = 50_000;

/// Every way in that is configured.
#[derive(Default)]
pub struct Ways {
    /// Whose tokens are taken, in the configuration's order.
    pub issuers: Vec<Arc<Issuer>>,
}

/// All ways in, and the tokens that were verified.
pub struct Identity {
    ways: Ways,
    remembered: Cache<[u8; 32], Arc<Remembered>>,
}

struct Remembered {
    principal: Arc<Principal>,
    key: Arc<Key>,
}

/// A request, as far as it can tell who is asking.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// The other end of the connection.
    pub peer: &'a Peer,
    /// The HTTP method.
    pub method: &'a Method,
    /// The canonical path.
    pub path: &'a str,
    /// The headers, as sent.
    pub headers: &'a HeaderMap,
    /// When the request's head had arrived.
    pub now: Timestamp,
}

/// A principal, and whether its token had to be verified for this request.
pub struct Authenticated {
    /// Who is asking.
    pub principal: Arc<Principal>,
    /// Whether a signature was checked just now.
    pub fresh: bool,
}

impl Identity {
    /// Lets in by these ways; the issuers' `iss` must differ.
    #[must_use]
    pub fn new(ways: Ways) -> Self {
        Self { ways, remembered: Cache::new(REMEMBERED) }
    }

    /// The issuers, in the configuration's order.
    #[must_use]
    pub fn issuers(&self) -> &[Arc<Issuer>] {
        &self.ways.issuers
    }

    /// The principal whose bearer token (RFC 6750 section 2.1) is on the request. `reply` takes headers that the answer
    /// shall carry, whatever it is.
    ///
    /// # Errors
    /// 401 where there is none or it breaks a rule, 400 where there are two, 503 where its issuer's keys cannot be had.
    pub async fn authenticate(&self, asking: Asking<'_>, _reply: &mut HeaderMap) -> Result<Authenticated, Refusal> {
        let token = bearer(asking.headers)?;
        self.of_token(token, asking.now).await
    }

    async fn of_token(&self, token: &str, now: Timestamp) -> Result<Authenticated, Refusal> {
        let proof = *blake3::hash(token.as_bytes()).as_bytes();
        if let Some(known) = self.remembered.get(&proof) {
            if known.principal.until > now && known.key.usable() {
                return Ok(Authenticated { principal: known.principal.clone(), fresh: false });
            }
            self.remembered.remove(&proof);
        }
        let unverified = Unverified::parse(token).map_err(unauthorized)?;
        let issuer = self.ways.issuers.iter().find(|i| i.settings.rules.issuer == unverified.issuer());
        let issuer = issuer.ok_or_else(|| {
            // unverified, so for the log alone; it cuts what is long
            unauthorized(TokenError::Issuer).with_detail(format!("the token says it is of `{}`", unverified.issuer()))
        })?;
        let key = match issuer.key(unverified.kid.as_deref(), unverified.algorithm, now).await {
            Lookup::Found(key) => key,
            Lookup::Unknown => return Err(unauthorized(TokenError::UnknownKey)),
            Lookup::Unavailable => return Err(unavailable(issuer)),
        };
        let verified = unverified.verify(&key, &issuer.settings.rules, now);
        let verified = verified.map_err(|e| unauthorized(e).with_detail(format!("issuer {}", issuer.name)))?;
        let principal = Arc::new(Principal {
            name: format!("{}:{}", issuer.name, verified.subject).into(),
            issuer: issuer.name.clone(),
            subject: verified.subject.into(),
            claims: verified.claims,
            proof,
            expires_at: verified.expires_at,
            until: clock::after(verified.expires_at, issuer.settings.rules.leeway),
            ended: key.withdrawn().child_token(),
            roles: None,
        });
        self.remembered.insert(proof, Arc::new(Remembered { principal: principal.clone(), key }));
        Ok(Authenticated { principal, fresh: true })
    }
}

/// The one bearer token of a request.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        let text = "this needs a bearer token in the Authorization header";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "no_token", text));
    };
    if values.next().is_some() {
        return Err(Refusal::malformed("two_identities", "send one Authorization header, not several"));
    }
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        // RFC 9110 section 11.1: the scheme's case does not matter
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => {
            let text = "the Authorization header must be `Bearer` and a token";
            Err(Refusal::new(StatusCode::UNAUTHORIZED, "unsupported_scheme", text))
        }
    }
}

fn unauthorized(error: TokenError) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, error.reason(), error.to_string())
}

fn unavailable(issuer: &Issuer) -> Refusal {
    let text = "the token's issuer cannot be reached to check it; try again later";
    Refusal::unavailable("issuer_unavailable", text).with_detail(format!("issuer {}", issuer.name))
}
