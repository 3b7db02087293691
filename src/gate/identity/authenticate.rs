//! Authentication of a request: from its token, session or client certificate to one [`Principal`].
//!
//! Promises: a principal is returned only for a token whose every rule was checked, now or before with the same bytes. A
//! cached token is no longer accepted when it expires, when its key is withdrawn, or when its issuer's grace period is
//! over. The signature is verified once for each token, not for each request. Never: a token from a query string, two
//! identities on one request, or a token's text in a log.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use quick_cache::sync::Cache;

use super::{
    auth_context::{AuthContext, Authenticated},
    certificate, confirmation,
    dpop::Dpop,
    issuer::{Issuer, unavailable},
    jwt::Unverified,
    keys::Key,
    presented_token::{PresentedToken, Scheme},
    remote::{MAX_OPAQUE, RemoteVerdict},
    rules::TokenError,
    self_issued::SelfIssued,
    session::{
        Sessions,
        cookie::{self, SessionCookie},
    },
    settings::KeySource,
};
use crate::{
    clock::{self, Timestamp},
    peer::Peer,
    principal::{Confirmation, Principal},
    refusal::Refusal,
};

/// Cached tokens; the least recently used are evicted.
const MAX_CACHED_TOKENS: usize = 50_000;

/// The configured authenticators.
#[derive(Default)]
pub struct Authenticators {
    /// The issuers of accepted tokens, in the configuration's order.
    pub issuers: Vec<Arc<Issuer>>,
    /// The rules for client certificates, in the configuration's order.
    pub certificates: Vec<certificate::CertificateRule>,
    /// The verifier of DPoP proofs.
    pub dpop: Dpop,
    /// The verifier of the tokens that this gate issues; `None` if it issues none.
    pub self_issued: Option<Arc<SelfIssued>>,
    /// Browser sessions; `None` if login is not configured.
    pub sessions: Option<Arc<Sessions>>,
}

/// The configured authenticators, with a cache of verified tokens.
pub struct Identity {
    authenticators: Authenticators,
    tokens: Cache<[u8; 32], Arc<CachedToken>>,
    certificate_principals: certificate::PrincipalCache,
}

/// A verified token.
struct CachedToken {
    principal: Arc<Principal>,
    key: Arc<Key>,
}

impl Identity {
    /// Authenticates by these authenticators. The issuers' `iss` must differ.
    #[must_use]
    pub fn new(authenticators: Authenticators) -> Self {
        Self {
            authenticators,
            tokens: Cache::new(MAX_CACHED_TOKENS),
            certificate_principals: certificate::PrincipalCache::new(),
        }
    }

    /// The issuers, in the configuration's order.
    #[must_use]
    pub fn issuers(&self) -> &[Arc<Issuer>] {
        &self.authenticators.issuers
    }

    /// The rules for client certificates.
    #[must_use]
    pub fn certificates(&self) -> &[certificate::CertificateRule] {
        &self.authenticators.certificates
    }

    /// The verifier of DPoP proofs.
    #[must_use]
    pub fn dpop(&self) -> &Dpop {
        &self.authenticators.dpop
    }

    /// Browser sessions; `None` if login is not configured.
    #[must_use]
    pub fn sessions(&self) -> Option<&Arc<Sessions>> {
        self.authenticators.sessions.as_ref()
    }

    /// The principal of the request's token (RFC 6750 section 2.1, RFC 9449 section 7.1) or session, else of the
    /// connection's client certificate. `reply` collects headers that every response to this request carries.
    ///
    /// # Errors
    /// 401 if there is no proof of identity or it is invalid, 400 if there are two, 503 if its issuer is unreachable.
    pub async fn authenticate(
        &self,
        context: AuthContext<'_>,
        reply: &mut HeaderMap,
    ) -> Result<Authenticated, Refusal> {
        certificate::check_connection(context.peer)?;
        let presented = PresentedToken::from_headers(context.headers)?;
        let session = self.sessions().map(|sessions| (sessions, cookie::session(context.headers)));
        let session = session.filter(|(_, found)| *found != SessionCookie::Absent);
        match (presented, session) {
            (Some(_), Some(_)) => {
                Err(Refusal::malformed("two_identities", "send a token or a session cookie, not both"))
            }
            (Some(presented), None) => {
                let authenticated = self.authenticate_token(presented.token, context.now).await?;
                self.check_confirmation(&authenticated.principal, &presented, context, reply)?;
                Ok(authenticated)
            }
            (None, Some((sessions, found))) => sessions.principal(found, context, reply).await,
            (None, None) => {
                let principal =
                    self.certificate_principals.principal(&self.authenticators.certificates, context.peer)?;
                Ok(Authenticated { principal, fresh: false })
            }
        }
    }

    /// The principal of a `subject_token` of a token exchange (RFC 8693 section 2.1). The binding of a bound token is
    /// checked as on any request, so that a stolen one cannot be exchanged. Its DPoP proof is that of a token request
    /// (RFC 9449 section 5).
    ///
    /// # Errors
    /// As [`Identity::authenticate`].
    pub async fn authenticate_subject_token(
        &self,
        token: &str,
        context: AuthContext<'_>,
        reply: &mut HeaderMap,
    ) -> Result<Authenticated, Refusal> {
        certificate::check_connection(context.peer)?;
        let authenticated = self.authenticate_token(token, context.now).await?;
        let Confirmation { certificate, key } = authenticated.principal.confirmation.unwrap_or_default();
        check_certificate_binding(certificate, context.peer)?;
        key.map_or(Ok(()), |key| self.authenticators.dpop.check(None, key, context, reply))?;
        Ok(authenticated)
    }

    /// Checks on each request that the sender of a bound token holds its certificate or key. The cached verification of
    /// the token does not cover this.
    fn check_confirmation(
        &self,
        principal: &Principal,
        presented: &PresentedToken<'_>,
        context: AuthContext<'_>,
        reply: &mut HeaderMap,
    ) -> Result<(), Refusal> {
        let Confirmation { certificate, key } = principal.confirmation.unwrap_or_default();
        check_certificate_binding(certificate, context.peer)?;
        match (key, presented.scheme) {
            (None, Scheme::Bearer) => Ok(()),
            (Some(key), Scheme::Dpop) => self.authenticators.dpop.check(Some(presented.token), key, context, reply),
            // RFC 9449 section 7.2: a DPoP-bound token as a bearer token would need no proof
            (Some(_), Scheme::Bearer) => Err(token_binding(
                "the token is bound to a key; send it as `Authorization: DPoP` with a proof in the DPoP header",
            )),
            // RFC 9449 section 7.1: the resource MUST check that the token is bound to the proof's key
            (None, Scheme::Dpop) => {
                Err(token_binding("the token is not bound to a DPoP key; send it as `Authorization: Bearer`"))
            }
        }
    }

    /// The principal of a bearer token or `subject_token`. The caller checks the token's binding.
    async fn authenticate_token(&self, token: &str, now: Timestamp) -> Result<Authenticated, Refusal> {
        let proof = *blake3::hash(token.as_bytes()).as_bytes();
        if let Some(cached) = self.tokens.get(&proof) {
            if cached.principal.until > now && cached.key.usable() {
                return Ok(Authenticated { principal: cached.principal.clone(), fresh: false });
            }
            self.tokens.remove(&proof);
        }
        let unverified = match Unverified::parse(token) {
            Err(TokenError::Opaque) => return self.authenticate_opaque_token(token, proof, now).await,
            parsed => parsed.map_err(unauthorized)?,
        };
        if let Some(self_issued) =
            self.authenticators.self_issued.as_ref().filter(|issued| issued.rules().issuer == unverified.issuer())
        {
            let (principal, key) = self_issued.verify(unverified, proof, now).map_err(unauthorized)?;
            return Ok(self.cache(principal, key));
        }
        let issuer = self.authenticators.issuers.iter().find(|i| i.settings.rules.issuer == unverified.issuer());
        let issuer = issuer.ok_or_else(|| {
            // unverified, so only for the log, which truncates it
            unauthorized(TokenError::Issuer).with_detail(format!("the token's `iss` is `{}`", unverified.issuer()))
        })?;
        let refused = |error| unauthorized(error).with_detail(format!("issuer {}", issuer.name));
        if let (Some(remote), KeySource::None) = (&issuer.remote, &issuer.settings.keys) {
            return match remote.validate(token, proof, now).await {
                RemoteVerdict::Active(principal, fresh) => Ok(Authenticated { principal, fresh }),
                RemoteVerdict::Refused(error) => Err(refused(error)),
                RemoteVerdict::Unavailable => Err(unavailable(&issuer.name, None)),
            };
        }
        unverified.check_header(&issuer.settings.rules).map_err(refused)?;
        let kid = unverified.kid.as_deref();
        let lookup = issuer.key(kid, unverified.algorithm, unverified.issued_at(), now).await;
        let key = lookup.key_or(&issuer.name, refused)?;
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
        Ok(self.cache(principal, key))
    }

    /// The principal of an opaque token, by introspection at each issuer that offers it, in the configuration's order.
    async fn authenticate_opaque_token(
        &self,
        token: &str,
        digest: [u8; 32],
        now: Timestamp,
    ) -> Result<Authenticated, Refusal> {
        if token.len() > MAX_OPAQUE {
            return Err(unauthorized(TokenError::TooLong));
        }
        let mut unreachable = None;
        let mut refusal = unauthorized(TokenError::Opaque);
        for issuer in &self.authenticators.issuers {
            let Some(remote) = issuer.remote.as_ref().filter(|remote| remote.accepts_opaque_tokens()) else { continue };
            match remote.validate(token, digest, now).await {
                RemoteVerdict::Active(principal, fresh) => return Ok(Authenticated { principal, fresh }),
                RemoteVerdict::Unavailable => unreachable = unreachable.or(Some(issuer)),
                // the refusal of the token's own issuer is more specific than `inactive` from another issuer
                RemoteVerdict::Refused(TokenError::Inactive) if refusal.reason != TokenError::Opaque.reason() => {}
                RemoteVerdict::Refused(error) => {
                    refusal = unauthorized(error).with_detail(format!("issuer {}", issuer.name));
                }
            }
        }
        Err(unreachable.map_or(refusal, |issuer| unavailable(&issuer.name, None)))
    }

    fn cache(&self, principal: Principal, key: Arc<Key>) -> Authenticated {
        let principal = Arc::new(principal);
        self.tokens.insert(principal.proof, Arc::new(CachedToken { principal: principal.clone(), key }));
        Authenticated { principal, fresh: true }
    }
}

/// RFC 8705 section 3: the protected resource MUST obtain the client's certificate and verify that it matches.
fn check_certificate_binding(certificate: Option<[u8; 32]>, peer: &Peer) -> Result<(), Refusal> {
    if certificate.is_none_or(|thumbprint| confirmation::matches_certificate(peer, &thumbprint)) {
        return Ok(());
    }
    Err(token_binding("the token is bound to a client certificate; connect with that certificate"))
}

fn token_binding(text: &'static str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "token_binding", text)
}

fn unauthorized(error: TokenError) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, error.reason(), error.to_string())
}
