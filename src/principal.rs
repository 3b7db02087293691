//! The principal: a verified caller and its name.
//!
//! Promises: `identity` makes a [`Principal`] only after it verified the proof. [`Principal::hypothetical`] exists for
//! commands that explain or compare policies; the proxy never serves one.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{clock::Timestamp, series::WriteRules};

/// A verified caller.
#[derive(Debug)]
pub struct Principal {
    /// `issuer-name:subject`, the same on every cloud and in every log.
    pub name: Arc<str>,
    /// The issuer's name in the configuration.
    pub issuer: Arc<str>,
    /// The token's `sub`, exact.
    pub subject: Box<str>,
    /// The verified claims, as the JSON object that was signed.
    pub claims: Box<str>,
    /// BLAKE3 of the token. Caches use it as the key for the claims; the token itself is never stored.
    pub proof: [u8; 32],
    /// When the proof expires: the token's `exp`.
    pub expires_at: Timestamp,
    /// `expires_at` plus the issuer's leeway. From then on nothing is served, and open streams end.
    pub until: Timestamp,
    /// Cancelled when the proof is revoked before it expires: its key was withdrawn, or its session has ended.
    pub ended: CancellationToken,
    /// The roles in a token that this gate issued. Policy then uses these and no others. `None` for every other proof.
    pub roles: Option<Arc<[Arc<str>]>>,
    /// The certificate or key that this token is bound to (`cnf`), verified for this request. `None` for a plain bearer
    /// token.
    pub confirmation: Option<Confirmation>,
}

/// The binding of a proof (`cnf`, RFC 7800). At least one of the two is present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirmation {
    /// SHA-256 of the client certificate (RFC 8705 section 3.1, `x5t#S256`).
    pub certificate: Option<[u8; 32]>,
    /// RFC 7638 thumbprint of the key that signs DPoP proofs (RFC 9449 section 6.1, `jkt`).
    pub key: Option<[u8; 32]>,
}

impl Principal {
    /// An unverified caller, for commands that evaluate policy. It has exactly `roles`; if `None`, the roles that `claims`,
    /// a JSON object, match.
    #[must_use]
    pub fn hypothetical(issuer: &str, subject: &str, claims: &str, roles: Option<Arc<[Arc<str>]>>) -> Self {
        let mut hasher = blake3::Hasher::new();
        let role_names = roles.iter().flat_map(|roles| roles.iter()).map(|role| &**role);
        for text in [issuer, subject, claims, if roles.is_some() { "roles" } else { "" }].into_iter().chain(role_names)
        {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        Self {
            name: format!("{issuer}:{subject}").into(),
            issuer: issuer.into(),
            subject: subject.into(),
            claims: claims.into(),
            // a digest of all inputs of a decision, like a token's
            proof: *hasher.finalize().as_bytes(),
            expires_at: Timestamp::MAX,
            until: Timestamp::MAX,
            ended: CancellationToken::new(),
            roles,
            confirmation: None,
        }
    }
}

#[cfg(test)]
impl Principal {
    /// A principal for the tests of pure parts.
    pub(crate) fn test(issuer: &str, claims: &str) -> Self {
        Self {
            name: format!("{issuer}:s").into(),
            issuer: issuer.into(),
            subject: "s".into(),
            claims: claims.into(),
            proof: [0; 32],
            expires_at: Timestamp::MAX,
            until: Timestamp::MAX,
            ended: CancellationToken::new(),
            roles: None,
            confirmation: None,
        }
    }
}

/// The caller of a local service.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The principal's name.
    pub principal: Arc<str>,
    /// The roles of the decision.
    pub roles: Arc<[Arc<str>]>,
    /// The write guardrails for the caller's series. `None` if there are none.
    pub write_rules: Option<Arc<WriteRules>>,
}
