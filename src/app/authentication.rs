//! Authentication with its token cache and sessions: reused if every way to authenticate is equal, else made anew.
//!
//! Promises: revoked sessions stay revoked and used DPoP proofs stay used over a reload that changes settings.

use std::sync::Arc;

use crate::{
    clock,
    gate::identity::{
        Authenticators, Identity, Issuer, SelfIssued, certificate,
        dpop::{self, Dpop},
        session::{self, SessionState, Sessions},
    },
    telemetry::Telemetry,
};

const COMPONENT: &str = "sessions";

/// What authentication is made from.
pub(super) struct AuthenticationSettings<'a> {
    pub(super) issuers: Vec<Arc<Issuer>>,
    pub(super) self_issued: Option<Arc<SelfIssued>>,
    pub(super) certificates: Vec<certificate::CertificateRule>,
    pub(super) dpop: dpop::Settings,
    pub(super) url: Option<&'a str>,
    pub(super) sessions: Option<session::Settings>,
}

/// Authentication of requests, and the state of sessions, which outlives changed settings.
#[derive(Clone)]
pub(super) struct Authentication {
    pub(super) identity: Arc<Identity>,
    self_issued: Option<Arc<SelfIssued>>,
    session_state: Option<Arc<SessionState>>,
}

impl Authentication {
    pub(super) fn new(settings: AuthenticationSettings<'_>, before: Option<&Self>, telemetry: &Telemetry) -> Self {
        let known = before.map(|before| before.identity.dpop());
        let dpop = Dpop::new(settings.dpop, settings.url, known, clock::now());
        if let Some(before) = before.filter(|before| before.is_made_from(&settings, &dpop)) {
            return before.clone();
        }
        let AuthenticationSettings { issuers, self_issued, certificates, sessions, .. } = settings;
        let state = before.and_then(|before| before.session_state.clone());
        let sessions = sessions.and_then(|settings| self::sessions(settings, &issuers, state, telemetry));
        let session_state = sessions.as_ref().map(|(_, state)| state.clone());
        let sessions = sessions.map(|(sessions, _)| sessions);
        let authenticators = Authenticators { issuers, certificates, dpop, self_issued: self_issued.clone(), sessions };
        let identity = Arc::new(Identity::new(authenticators));
        Self { identity, self_issued, session_state }
    }

    fn is_made_from(&self, settings: &AuthenticationSettings<'_>, dpop: &Dpop) -> bool {
        let issuers = self.identity.issuers();
        issuers.len() == settings.issuers.len()
            && issuers.iter().zip(&settings.issuers).all(|(a, b)| Arc::ptr_eq(a, b))
            && self.self_issued.as_ref().map(Arc::as_ptr) == settings.self_issued.as_ref().map(Arc::as_ptr)
            && self.identity.certificates() == settings.certificates
            && self.identity.dpop() == dpop
            // sessions that could not be opened are tried again
            && self.identity.sessions().map(|sessions| sessions.settings()) == settings.sessions.as_ref()
    }
}

/// Opens the sessions, with the `state` from before a reload if there is one. `None` if they cannot be opened: the gate
/// serves without logins and is not ready.
fn sessions(
    settings: session::Settings,
    issuers: &[Arc<Issuer>],
    state: Option<Arc<SessionState>>,
    telemetry: &Telemetry,
) -> Option<(Arc<Sessions>, Arc<SessionState>)> {
    if settings.keys.is_empty() {
        let remedy = "write `keys` under [sessions] to keep sessions over a restart and to share them between gates";
        tracing::warn!(remedy, "sessions are sealed with a key of this process and end with it");
    }
    let revocations = settings.revocations.as_deref();
    let state = match state {
        Some(state) => {
            state.set_revocation_file(revocations, clock::now());
            Ok(state)
        }
        None => SessionState::open(revocations, clock::now()).map(Arc::new),
    };
    let sessions = state.and_then(|state| Ok((Arc::new(Sessions::new(settings, issuers, state.clone())?), state)));
    match sessions {
        Ok(sessions) => {
            telemetry.set_healthy(COMPONENT);
            Some(sessions)
        }
        Err(error) => {
            tracing::error!(%error, "logins are disabled: the sessions cannot be opened");
            telemetry.set_unhealthy(COMPONENT, true, format!("logins are disabled: {error}"));
            None
        }
    }
}
