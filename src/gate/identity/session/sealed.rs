//! The plaintext of a session cookie.
//!
//! Promises: a session is read only from a plaintext that the gate's own keys opened, so its ID token was verified when
//! it was sealed. Secrets in it have no `Debug`.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::subject::SessionIdentifiers;
use crate::{
    clock::{self, Timestamp},
    secret::Secret,
};

/// A person's session.
pub(super) struct Session {
    pub(super) id: Uuid,
    /// Counts the refreshes.
    pub(super) generation: u32,
    /// The issuer's name.
    pub(super) issuer: Box<str>,
    /// The provider's identifier of its own session.
    pub(super) sid: Option<Box<str>>,
    /// As the provider signed it: its claims are the principal's, and logout sends it as a hint.
    pub(super) id_token: Secret,
    pub(super) refresh_token: Option<Secret>,
    /// When the person logged in.
    pub(super) created: Timestamp,
    /// When this generation was sealed.
    pub(super) issued: Timestamp,
    /// When this generation expires.
    pub(super) ends: Timestamp,
}

/// The sealed form. Member names are short because browsers send it with each request.
#[derive(Serialize, Deserialize)]
struct Plaintext<'a> {
    i: Uuid,
    g: u32,
    s: &'a str,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    d: Option<Box<str>>,
    t: &'a str,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    r: Option<Box<str>>,
    c: Timestamp,
    a: Timestamp,
    e: Timestamp,
}

#[derive(Deserialize)]
struct SubjectClaim {
    sub: Box<str>,
}

impl Session {
    pub(super) fn read(plain: &[u8]) -> Option<Self> {
        let Plaintext { i: id, g: generation, s, d: sid, t, r, c: created, a: issued, e: ends } =
            serde_json::from_slice(plain).ok()?;
        let id_token = Secret::new(t.to_owned());
        let refresh_token = r.map(|r| Secret::new(r.into()));
        Some(Self { id, generation, issuer: s.into(), sid, id_token, refresh_token, created, issued, ends })
    }

    pub(super) fn write(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        let plain = Plaintext {
            i: self.id,
            g: self.generation,
            s: &self.issuer,
            d: self.sid.clone(),
            t: self.id_token.expose(),
            r: self.refresh_token.as_ref().map(|r| r.expose().into()),
            c: self.created,
            a: self.issued,
            e: self.ends,
        };
        serde_json::to_vec(&plain).map(Zeroizing::new)
    }

    /// The ID token's claims: one JSON object, verified when the session was sealed.
    pub(super) fn claims(&self) -> Option<String> {
        let payload = self.id_token.expose().split('.').nth(1)?;
        String::from_utf8(URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    /// The identifiers that a revocation can refer to; `issuer` is the name that its principals share.
    pub(super) fn identifiers(&self, issuer: Arc<str>) -> Option<SessionIdentifiers> {
        let SubjectClaim { sub: subject } = serde_json::from_str(&self.claims()?).ok()?;
        Some(SessionIdentifiers { id: self.id, issuer, subject, sid: self.sid.clone(), created: self.created })
    }

    /// The end of the session, its refreshes included.
    pub(super) fn usable_until(&self, longest: Duration) -> Timestamp {
        let last = self.last(longest);
        if self.refresh_token.is_some() && self.ends < last { last } else { self.ends }
    }

    /// The end that no refresh goes beyond.
    pub(super) fn last(&self, longest: Duration) -> Timestamp {
        clock::after(self.created, longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_usable_until_its_end_or_as_long_as_it_can_be_refreshed() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let check = |refresh: Option<&str>, ends: i64, usable_until: i64| {
            let session = Session {
                id: Uuid::now_v7(),
                generation: 0,
                issuer: "corp".into(),
                sid: None,
                id_token: Secret::new("a.b.c".into()),
                refresh_token: refresh.map(|token| Secret::new(token.into())),
                created: at(1000),
                issued: at(1000),
                ends: at(ends),
            };
            assert_eq!(session.usable_until(Duration::from_secs(500)), at(usable_until), "{refresh:?}, ends at {ends}");
        };
        check(None, 1100, 1100);
        check(Some("r"), 1100, 1500);
        check(Some("r"), 1500, 1500);
        // sealed under a longer `max_lifetime`
        check(Some("r"), 1600, 1600);
    }
}
