//! ID tokens and logout tokens of a login provider.
//!
//! Promises: the provider's key is selected as for every token of its issuer (see `issuer`), so that a withdrawn key
//! verifies nothing. A session never begins with an expired ID token.

use std::sync::Arc;

use super::provider::LoginProvider;
use crate::{
    clock::Timestamp,
    gate::identity::{
        jwt::{Rules, TokenError, TokenKind, Unverified, Verified},
        keys::Key,
        openid::id_token::{self, ExpectedIdToken, IdTokenError, VerifiedIdToken},
    },
    refusal::Refusal,
};

impl LoginProvider {
    /// Verifies an ID token.
    pub(super) async fn id_token(
        &self,
        token: &str,
        expected: ExpectedIdToken<'_>,
        now: Timestamp,
    ) -> Result<VerifiedIdToken, Refusal> {
        let invalid = |error: IdTokenError| self.invalid(error);
        let unverified = Unverified::parse_as(TokenKind::Id, token).map_err(|error| invalid(error.into()))?;
        let key = self.key(&unverified, now).await?;
        let client_id = &self.settings.client_id;
        let verified = id_token::verify(token, unverified, &key, &self.rules, client_id, expected, now);
        let verified = verified.map_err(invalid)?;
        if verified.expires_at <= now {
            // a bearer token has leeway, but a session cannot begin at its end
            return Err(invalid(TokenError::Expired.into()));
        }
        Ok(verified)
    }

    /// Whether today's rules would accept the ID token of a session, apart from its end. The ID token was verified when
    /// the session began; it is the cookie's record of the session's provider and client.
    pub(super) fn still_accepts(&self, token: &str) -> bool {
        Unverified::parse_as(TokenKind::Id, token)
            .is_ok_and(|token| id_token::is_still_accepted(&token, &self.rules, &self.settings.client_id))
    }

    /// Verifies a logout token. Its `sub` is optional, since it may name a session instead.
    pub(super) async fn logout_token(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<(Option<String>, Verified), Refusal> {
        let invalid = |error: TokenError| self.invalid(error.into());
        let unverified = Unverified::parse_as(TokenKind::Logout, token).map_err(invalid)?;
        let key = self.key(&unverified, now).await?;
        // a logout token lacks the claims that the issuer's section requires of other tokens
        let rules = Rules { required: Vec::new(), ..self.rules.clone() };
        unverified.verify_without_subject(&key, &rules, now).map_err(invalid)
    }

    /// The issuer's key for a token.
    async fn key(&self, unverified: &Unverified<'_>, now: Timestamp) -> Result<Arc<Key>, Refusal> {
        let invalid = |error: TokenError| self.invalid(error.into());
        unverified.check_header(&self.rules).map_err(invalid)?;
        let kid = unverified.kid.as_deref();
        let lookup = self.issuer.key(kid, unverified.algorithm, unverified.issued_at(), now).await;
        lookup.key_or(&self.issuer.name, invalid)
    }

    /// The person at the browser cannot mend their provider's token.
    fn invalid(&self, error: IdTokenError) -> Refusal {
        let text = "the identity provider's ID token is not valid; sign in again, and tell the operator of this gate";
        let refusal = Refusal::new(http::StatusCode::FORBIDDEN, error.reason(), text);
        refusal.with_detail(format!("issuer {}: {error}", self.issuer.name))
    }
}
