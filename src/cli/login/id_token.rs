//! ID tokens of a login at a shell: the selection of the provider's key. Pure: no I/O, no clock.
//!
//! Promises: a [`StoredIdToken`] is made only of an ID token that the gate's own verifier accepted.

use std::{sync::Arc, time::Duration};

use super::stored::{StoredIdToken, StoredSecret};
use crate::{
    clock::Timestamp,
    gate::identity::{
        jwt::{ASYMMETRIC, Rules, TokenError, TokenKind, Unverified},
        keys::parse_jwks,
        openid::id_token::{self, ExpectedIdToken, IdTokenError},
    },
    secret::Secret,
};

/// Clock difference allowed on an ID token.
const LEEWAY: Duration = Duration::from_secs(60);

/// Verifies `token`; the error does not repeat anything of it.
pub(super) fn verify(
    token: &Secret,
    jwks: &[u8],
    issuer: &str,
    client_id: &str,
    expected: ExpectedIdToken<'_>,
    now: Timestamp,
) -> Result<StoredIdToken, String> {
    let rules = Rules {
        issuer: issuer.to_owned(),
        audiences: vec![client_id.to_owned()],
        // the provider's keys decide which of them it uses
        algorithms: ASYMMETRIC.to_vec(),
        leeway: LEEWAY,
        ..Rules::default()
    };
    let keys = parse_jwks(jwks).map_err(|e| e.to_string())?;
    let mut error = IdTokenError::from(TokenError::UnknownKey);
    // any key of the issuer that fits: its JWKS need not have a `kid`
    for key in keys.into_iter().map(Arc::new) {
        let unverified = Unverified::parse_as(TokenKind::Id, token.expose()).map_err(|e| e.to_string())?;
        if !key.supports(unverified.algorithm) {
            if error == TokenError::UnknownKey.into() {
                error = TokenError::Algorithm.into();
            }
            continue;
        }
        match id_token::verify(token.expose(), unverified, &key, &rules, client_id, expected, now) {
            Ok(verified) => {
                let token = StoredSecret(token.clone());
                return Ok(StoredIdToken { token, expires_at: verified.expires_at, subject: verified.subject });
            }
            Err(wrong @ IdTokenError::Token(TokenError::Signature)) => error = wrong,
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(error.to_string())
}
