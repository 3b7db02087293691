//! Who is asking: from the proof on a request to one [`Principal`].
//!
//! Promises: a principal is returned only for a token whose every rule was checked, now or earlier with the same bytes;
//! a remembered token stops counting when it expires, when its key is withdrawn, or when its issuer's grace is over.
//! One signature check for each token, not for each request. Never: a token from a query string, two identities on one
//! request, or a token's text in a log.

pub(crate) mod certificate;
mod claims;
pub(crate) mod confirmation;
pub(crate) mod dpop;
mod fetch;
pub(crate) mod inspect;
pub(crate) mod issuer;
pub(crate) mod jwt;
pub(crate) mod keys;
pub(crate) mod openid;
pub(crate) mod remote;
pub(crate) mod self_issued;
pub(crate) mod session;
mod strict_json;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, StatusCode, header::AUTHORIZATION};
use quick_cache::sync::Cache;

pub use jsonwebtoken::Algorithm;

pub use self::issuer::Issuer;
use self::{
    dpop::Dpop,
    issuer::Lookup,
    jwt::{TokenError, Unverified},
    keys::Key,
    remote::RemoteVerdict,
    session::{
        Sessions,
        cookie::{self, SessionCookie},
    },
};
pub(crate) use self::{
    issuer::{KeySource, Settings},
    self_issued::SelfIssued,
};
use crate::{
    clock::{self, Timestamp},
    peer::Peer,
    principal::{Confirmation, Principal},
    refusal::Refusal,
};

/// Tokens remembered at once; the least used make room.
const REMEMBERED: usize = 50_000;

/// Every way in that is configured.
#[derive(Default)]
pub struct Authenticators {
    /// Whose tokens are taken, in the configuration's order.
    pub issuers: Vec<Arc<Issuer>>,
    /// Whose client certificates are principals, in the configuration's order.
    pub certificates: Vec<certificate::CertificateRule>,
    /// How DPoP proofs are checked.
    pub dpop: Dpop,
    /// The tokens that this gate issues itself, where it does.
    pub self_issued: Option<Arc<SelfIssued>>,
    /// People's sessions, where people can log in.
    pub sessions: Option<Arc<Sessions>>,
}

/// All ways in, and who was found by them.
pub struct Identity {
    authenticators: Authenticators,
    remembered: Cache<[u8; 32], Arc<Remembered>>,
    holders: certificate::PrincipalCache,
}

struct Remembered {
    principal: Arc<Principal>,
    key: Arc<Key>,
}

/// A request, as far as it can tell who is asking.
#[derive(Clone, Copy)]
pub struct AuthContext<'a> {
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
    pub fn new(authenticators: Authenticators) -> Self {
        Self { authenticators, remembered: Cache::new(REMEMBERED), holders: certificate::PrincipalCache::new() }
    }

    /// The issuers, in the configuration's order.
    #[must_use]
    pub fn issuers(&self) -> &[Arc<Issuer>] {
        &self.authenticators.issuers
    }

    /// Whose client certificates are principals.
    #[must_use]
    pub fn certificates(&self) -> &[certificate::CertificateRule] {
        &self.authenticators.certificates
    }

    /// How DPoP proofs are checked.
    #[must_use]
    pub fn dpop(&self) -> &Dpop {
        &self.authenticators.dpop
    }

    /// People's sessions, where people can log in.
    #[must_use]
    pub fn sessions(&self) -> Option<&Arc<Sessions>> {
        self.authenticators.sessions.as_ref()
    }

    /// The principal whose token (RFC 6750 section 2.1, RFC 9449 section 7.1) or session is on the request, or else
    /// whose certificate is on the connection. `reply` takes headers that the answer shall carry, whatever it is.
    ///
    /// # Errors
    /// 401 where there is none or it breaks a rule, 400 where there are two, 503 where its issuer's keys cannot be had.
    pub async fn authenticate(
        &self,
        context: AuthContext<'_>,
        reply: &mut HeaderMap,
    ) -> Result<Authenticated, Refusal> {
        certificate::stands(context.peer)?;
        let shown = Shown::find(context.headers)?;
        let session = self.sessions().map(|sessions| (sessions, cookie::session(context.headers)));
        let session = session.filter(|(_, found)| *found != SessionCookie::Absent);
        match (shown, session) {
            (Some(_), Some(_)) => {
                Err(Refusal::malformed("two_identities", "send a token or a session cookie, not both"))
            }
            (Some(shown), None) => {
                let authenticated = self.authenticate_token(shown.token, context.now).await?;
                self.confirm(&authenticated.principal, &shown, context, reply)?;
                Ok(authenticated)
            }
            (None, Some((sessions, found))) => sessions.principal(found, context, reply).await,
            (None, None) => {
                let principal = self.holders.principal(&self.authenticators.certificates, context.peer)?;
                Ok(Authenticated { principal, fresh: false })
            }
        }
    }

    /// The principal of a token that came to be exchanged (RFC 8693 section 2.1, `subject_token`). One that is bound is
    /// confirmed here as it would be on a request: whoever stole it must not get another for it. The proof by its key
    /// is that of a request for a token (RFC 9449 section 5).
    ///
    /// # Errors
    /// As [`Identity::authenticate`].
    pub async fn authenticate_subject_token(
        &self,
        token: &str,
        context: AuthContext<'_>,
        reply: &mut HeaderMap,
    ) -> Result<Authenticated, Refusal> {
        certificate::stands(context.peer)?;
        let authenticated = self.authenticate_token(token, context.now).await?;
        let Confirmation { certificate, key } = authenticated.principal.confirmation.unwrap_or_default();
        held(certificate, context.peer)?;
        key.map_or(Ok(()), |key| self.authenticators.dpop.check(None, key, context, reply))?;
        Ok(authenticated)
    }

    /// Checks on each request that whoever sends a bound token holds what it is bound to. A signature that was checked
    /// before says nothing about that.
    fn confirm(
        &self,
        principal: &Principal,
        shown: &Shown<'_>,
        context: AuthContext<'_>,
        reply: &mut HeaderMap,
    ) -> Result<(), Refusal> {
        let Confirmation { certificate, key } = principal.confirmation.unwrap_or_default();
        held(certificate, context.peer)?;
        match (key, shown.scheme) {
            (None, Scheme::Bearer) => Ok(()),
            (Some(key), Scheme::Dpop) => self.authenticators.dpop.check(Some(shown.token), key, context, reply),
            // RFC 9449 section 7.2: a DPoP-bound token as a bearer token would need no proof
            (Some(_), Scheme::Bearer) => Err(bound(
                "the token is bound to a key; send it as `Authorization: DPoP` with a proof in the DPoP header",
            )),
            // RFC 9449 section 7.1: the resource MUST check that the token is bound to the proof's key
            (None, Scheme::Dpop) => {
                Err(bound("the token is not bound to a DPoP key; send it as `Authorization: Bearer`"))
            }
        }
    }

    /// The principal of a token, however it came: the one verifier for bearer tokens and for those that are exchanged.
    /// What it is bound to is the caller's to confirm.
    async fn authenticate_token(&self, token: &str, now: Timestamp) -> Result<Authenticated, Refusal> {
        let proof = *blake3::hash(token.as_bytes()).as_bytes();
        if let Some(known) = self.remembered.get(&proof) {
            if known.principal.until > now && known.key.usable() {
                return Ok(Authenticated { principal: known.principal.clone(), fresh: false });
            }
            self.remembered.remove(&proof);
        }
        let unverified = match Unverified::parse(token) {
            Err(TokenError::Opaque) => return self.authenticate_opaque_token(token, proof, now).await,
            parsed => parsed.map_err(unauthorized)?,
        };
        if let Some(own) =
            self.authenticators.self_issued.as_ref().filter(|own| own.rules().issuer == unverified.issuer())
        {
            let (principal, key) = own.verify(unverified, proof, now).map_err(unauthorized)?;
            return Ok(self.remember(principal, key));
        }
        let issuer = self.authenticators.issuers.iter().find(|i| i.settings.rules.issuer == unverified.issuer());
        let issuer = issuer.ok_or_else(|| {
            // unverified, so for the log alone; it cuts what is long
            unauthorized(TokenError::Issuer).with_detail(format!("the token says it is of `{}`", unverified.issuer()))
        })?;
        let refused = |error| unauthorized(error).with_detail(format!("issuer {}", issuer.name));
        if let (Some(remote), KeySource::None) = (&issuer.remote, &issuer.settings.keys) {
            return match remote.ask(token, proof, now).await {
                RemoteVerdict::Active(principal, fresh) => Ok(Authenticated { principal, fresh }),
                RemoteVerdict::Refused(error) => Err(refused(error)),
                RemoteVerdict::Unavailable => Err(unavailable(issuer, None)),
            };
        }
        unverified.check_header(&issuer.settings.rules).map_err(refused)?;
        let (kid, issued_at) = (unverified.kid.as_deref(), unverified.issued_at());
        let key = found(issuer.key(kid, unverified.algorithm, issued_at, now).await, issuer, refused)?;
        let verified = unverified.verify(&key, &issuer.settings.rules, now).map_err(refused)?;
        let principal = Principal {
            name: format!("{}:{}", issuer.name, verified.subject).into(),
            issuer: issuer.name.clone(),
            subject: verified.subject.into(),
            claims: verified.claims,
            proof,
            expires_at: verified.expires_at,
            until: clock::after(verified.expires_at, issuer.settings.rules.leeway),
            ended: key.withdrawn().child_token(),
            roles: None,
            confirmation: verified.confirmation,
        };
        Ok(self.remember(principal, key))
    }

    /// Asks the issuers that can be asked about tokens that are no JWTs, in the configuration's order.
    async fn authenticate_opaque_token(
        &self,
        token: &str,
        digest: [u8; 32],
        now: Timestamp,
    ) -> Result<Authenticated, Refusal> {
        if token.len() > remote::MAX_OPAQUE {
            return Err(unauthorized(TokenError::TooLong));
        }
        let mut silent = None;
        let mut refusal = unauthorized(TokenError::Opaque);
        for issuer in &self.authenticators.issuers {
            let Some(remote) = issuer.remote.as_ref().filter(|remote| remote.takes_opaque_tokens()) else { continue };
            match remote.ask(token, digest, now).await {
                RemoteVerdict::Active(principal, fresh) => return Ok(Authenticated { principal, fresh }),
                RemoteVerdict::Unavailable => silent = silent.or(Some(issuer)),
                // what an issuer says of a token that is not its own tells less than what its own issuer says
                RemoteVerdict::Refused(TokenError::Inactive) if refusal.reason != TokenError::Opaque.reason() => {}
                RemoteVerdict::Refused(error) => {
                    refusal = unauthorized(error).with_detail(format!("issuer {}", issuer.name));
                }
            }
        }
        Err(silent.map_or(refusal, |issuer| unavailable(issuer, None)))
    }

    fn remember(&self, principal: Principal, key: Arc<Key>) -> Authenticated {
        let principal = Arc::new(principal);
        self.remembered.insert(principal.proof, Arc::new(Remembered { principal: principal.clone(), key }));
        Authenticated { principal, fresh: true }
    }
}

/// A token on a request and how it was sent.
struct Shown<'a> {
    scheme: Scheme,
    token: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Bearer,
    Dpop,
}

impl<'a> Shown<'a> {
    /// The one token of a request.
    fn find(headers: &'a HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Refusal::malformed("two_identities", "send one Authorization header, not several"));
        }
        let (scheme, token) = value.to_str().unwrap_or_default().split_once(' ').unwrap_or_default();
        // RFC 9110 section 11.1: the scheme's case does not matter
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Scheme::Bearer,
            "dpop" => Scheme::Dpop,
            _ => {
                let text = "the Authorization header must be `Bearer` or `DPoP` and a token";
                return Err(Refusal::new(StatusCode::UNAUTHORIZED, "unsupported_scheme", text));
            }
        };
        Ok(Some(Self { scheme, token: token.trim() }))
    }
}

/// RFC 8705 section 3: the protected resource MUST obtain the client's certificate and verify that it matches.
fn held(certificate: Option<[u8; 32]>, peer: &Peer) -> Result<(), Refusal> {
    if certificate.is_none_or(|thumbprint| confirmation::holds_certificate(peer, &thumbprint)) {
        return Ok(());
    }
    Err(bound("the token is bound to a client certificate; connect with that certificate"))
}

fn bound(text: &'static str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "token_binding", text)
}

fn unauthorized(error: TokenError) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, error.reason(), error.to_string())
}

/// The key of a token, or what it means that there is none; `refused` says no in the words of who asked.
fn found(lookup: Lookup, issuer: &Issuer, refused: impl Fn(TokenError) -> Refusal) -> Result<Arc<Key>, Refusal> {
    match lookup {
        Lookup::Found(key) => Ok(key),
        Lookup::Unfit => Err(refused(TokenError::Algorithm)),
        Lookup::Ambiguous => Err(refused(TokenError::AmbiguousKey)),
        Lookup::Unknown => Err(refused(TokenError::UnknownKey)),
        Lookup::Unavailable(wait) => Err(unavailable(issuer, wait)),
    }
}

/// Nobody can say for now; `wait` is when somebody can, where that is known.
fn unavailable(issuer: &Issuer, wait: Option<Duration>) -> Refusal {
    let text = "the token's issuer cannot be reached to check it; try again later";
    let refusal = Refusal::unavailable("issuer_unavailable", text).with_detail(format!("issuer {}", issuer.name));
    Refusal { retry_after: wait.map(|wait| wait + Duration::from_secs(1)).or(refusal.retry_after), ..refusal }
}
