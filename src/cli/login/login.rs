//! What is kept of a login, and how long its tokens are good for. Pure: no I/O, no clock.
//!
//! Promises: a token is called fresh only while it has more than a minute left. The only form in which a secret is
//! written down is [`Kept`], and only the cache writes it.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Kind;
use crate::{
    clock::{self, Timestamp},
    secret::Secret,
};

/// What is left of a token when it is no longer handed out without a try for a new one: a request that carries it has
/// yet to arrive, by a clock that may differ.
const MARGIN: Duration = Duration::from_secs(60);

/// With whom and for what somebody logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The provider's `issuer`, exactly.
    pub issuer: String,
    /// A public client of the provider.
    pub client_id: String,
    /// The scopes that are asked for.
    pub scopes: Vec<String>,
    /// The API that the token is for, as RFC 8707 names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The API that the token is for, as some providers name it instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The roots that the provider's certificate must chain to; `None` for the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// A login with its tokens.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Login {
    /// With whom, for what.
    pub settings: Settings,
    /// What came of it.
    pub tokens: Tokens,
}

/// The tokens of a login.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tokens {
    /// What an API is shown.
    pub access: Kept,
    /// When the access token expires; `None` where the provider does not say.
    pub expires_at: Option<Timestamp>,
    /// What new tokens are fetched with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Kept>,
    /// Who logged in, verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<IdToken>,
}

/// A verified ID token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct IdToken {
    /// Its text.
    pub token: Kept,
    /// `exp`.
    pub expires_at: Timestamp,
    /// `sub`.
    pub subject: String,
}

impl Tokens {
    /// The token of this kind, where it has more than a minute left. One whose end is not known is fresh only where no
    /// better one can be had.
    #[must_use]
    pub(crate) fn fresh(&self, kind: Kind, now: Timestamp) -> Option<Secret> {
        let (token, end) = self.kind(kind)?;
        let fresh = end.map_or(self.refresh.is_none(), |end| end > clock::after(now, MARGIN));
        fresh.then(|| token.0.clone())
    }

    /// The token of this kind, where it has not expired.
    #[must_use]
    pub(crate) fn unexpired(&self, kind: Kind, now: Timestamp) -> Option<Secret> {
        let (token, end) = self.kind(kind)?;
        end.is_none_or(|end| end > now).then(|| token.0.clone())
    }

    fn kind(&self, kind: Kind) -> Option<(&Kept, Option<Timestamp>)> {
        match kind {
            Kind::Access => Some((&self.access, self.expires_at)),
            Kind::Id => self.id.as_ref().map(|id| (&id.token, Some(id.expires_at))),
        }
    }
}

/// A secret as the cache's file holds it. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Kept(pub Secret);

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.expose())
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(Secret::new(String::deserialize(from)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(left: Option<i64>, refreshable: bool, fresh: bool, unexpired: bool) {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let kept = |text: &str| Kept(Secret::new(text.to_owned()));
        let end = left.map(|left| Timestamp::from_second(1_800_000_000 + left).unwrap());
        let id = end.map(|expires_at| IdToken { token: kept("id"), expires_at, subject: "alice".into() });
        let tokens =
            Tokens { access: kept("access"), expires_at: end, refresh: refreshable.then(|| kept("refresh")), id };
        let case = format!("{left:?} s left, refreshable: {refreshable}");
        assert_eq!(tokens.fresh(Kind::Access, now).is_some(), fresh, "{case}");
        assert_eq!(tokens.unexpired(Kind::Access, now).is_some(), unexpired, "{case}");
        if left.is_some() {
            assert_eq!(tokens.fresh(Kind::Id, now).is_some(), fresh, "ID token, {case}");
        }
        let shown = format!("{tokens:?}");
        assert!(!shown.contains("access\"") && !shown.contains("refresh\""), "{shown}");
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
    fn a_token_without_a_known_end_is_renewed_where_it_can_be() {
        check(None, true, false, true);
        check(None, false, true, true);
    }
}
