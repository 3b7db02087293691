//! A stored login: its settings and tokens. Pure: no I/O, no clock.
//!
//! Promises: a token is fresh only while it has more than a minute left. [`StoredSecret`] is the only serializable form
//! of a secret, and only the cache writes it.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    clock::{self, Timestamp},
    secret::Secret,
};

/// A kind of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum LoginToken {
    /// The access token, for an API.
    Access,
    /// The ID token (OpenID Connect Core 1.0 section 2).
    Id,
}

/// A token with less left is refreshed: a request with it has yet to arrive, by a clock that may differ.
const MARGIN: Duration = Duration::from_secs(60);

/// The provider, client and scopes of a login.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// The provider's `issuer`, exactly.
    pub issuer: String,
    /// A public client of the provider.
    pub client_id: String,
    /// The scopes of the request.
    pub scopes: Vec<String>,
    /// The `resource` of the token (RFC 8707).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The `audience` of the token, for providers that have it instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The roots that the provider's certificate must chain to; `None` for the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// A login with its tokens.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredLogin {
    /// Its provider, client and scopes.
    pub settings: Settings,
    /// Its tokens.
    pub tokens: TokenSet,
}

/// The tokens of a login.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TokenSet {
    /// The access token.
    pub access: StoredSecret,
    /// When the access token expires; `None` if the provider does not say.
    pub expires_at: Option<Timestamp>,
    /// The refresh token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<StoredSecret>,
    /// The verified ID token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<StoredIdToken>,
}

/// A verified ID token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredIdToken {
    /// Its text.
    pub token: StoredSecret,
    /// `exp`.
    pub expires_at: Timestamp,
    /// `sub`.
    pub subject: String,
}

impl TokenSet {
    /// The token of this kind, if it has more than a minute left. A token without a known end is fresh only if there is
    /// no refresh token.
    #[must_use]
    pub(super) fn fresh(&self, kind: LoginToken, now: Timestamp) -> Option<Secret> {
        let (token, end) = self.kind(kind)?;
        let fresh = end.map_or(self.refresh.is_none(), |end| end > clock::after(now, MARGIN));
        fresh.then(|| token.0.clone())
    }

    /// The token of this kind, if it has not expired.
    #[must_use]
    pub(super) fn unexpired(&self, kind: LoginToken, now: Timestamp) -> Option<Secret> {
        let (token, end) = self.kind(kind)?;
        end.is_none_or(|end| end > now).then(|| token.0.clone())
    }

    fn kind(&self, kind: LoginToken) -> Option<(&StoredSecret, Option<Timestamp>)> {
        match kind {
            LoginToken::Access => Some((&self.access, self.expires_at)),
            LoginToken::Id => self.id.as_ref().map(|id| (&id.token, Some(id.expires_at))),
        }
    }
}

/// A secret of the cache's file. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct StoredSecret(pub Secret);

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for StoredSecret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.expose())
    }
}

impl<'de> Deserialize<'de> for StoredSecret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(Secret::new(String::deserialize(from)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(left: Option<i64>, refreshable: bool, fresh: bool, unexpired: bool) {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let secret = |text: &str| StoredSecret(Secret::new(text.to_owned()));
        let end = left.map(|left| Timestamp::from_second(1_800_000_000 + left).unwrap());
        let id = end.map(|expires_at| StoredIdToken { token: secret("id"), expires_at, subject: "alice".into() });
        let tokens =
            TokenSet { access: secret("access"), expires_at: end, refresh: refreshable.then(|| secret("refresh")), id };
        let case = format!("{left:?} s left, refreshable: {refreshable}");
        assert_eq!(tokens.fresh(LoginToken::Access, now).is_some(), fresh, "{case}");
        assert_eq!(tokens.unexpired(LoginToken::Access, now).is_some(), unexpired, "{case}");
        if left.is_some() {
            assert_eq!(tokens.fresh(LoginToken::Id, now).is_some(), fresh, "ID token, {case}");
        }
        let debug = format!("{tokens:?}");
        assert!(!debug.contains("access\"") && !debug.contains("refresh\""), "{debug}");
    }

    #[test]
    fn a_token_is_fresh_while_it_has_more_than_a_minute_left() {
        check(Some(3600), true, true, true);
        check(Some(61), true, true, true);
        check(Some(60), true, false, true);
        check(Some(1), true, false, true);
        check(Some(0), true, false, false);
        check(Some(-5), true, false, false);
        check(Some(60), false, false, true);
    }

    #[test]
    fn a_token_without_a_known_end_is_refreshed_if_possible() {
        check(None, true, false, true);
        check(None, false, true, true);
    }
}
