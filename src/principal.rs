//! Who is asking: the one name that a caller has everywhere.
//!
//! A [`Principal`] exists only after its proof was verified; `identity` makes it, everything else reads it. One that is
//! only supposed is for commands that look at policy: no request is served for it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{clock::Timestamp, series::WriteRules};

/// A verified caller.
#[derive(Debug)]
pub struct Principal {
    /// `issuer-name:subject`, the same on every cloud and in every log.
    pub name: Arc<str>,
    /// The name that configuration gives the issuer.
    pub issuer: Arc<str>,
    /// The token's `sub`, exact.
    pub subject: Box<str>,
    /// The verified claims, as the JSON object that was signed.
    pub claims: Box<str>,
    /// BLAKE3 of the token that proved this. Stands for the claims in caches; never the token itself.
    pub proof: [u8; 32],
    /// The proof's own end: a token's `exp`.
    pub expires_at: Timestamp,
    /// The same with the issuer's leeway. From here on nothing is done for the principal, open streams included.
    pub until: Timestamp,
    /// Cancelled when the proof stops counting before its time: its key was withdrawn, its session has ended.
    pub ended: CancellationToken,
    /// The roles that the proof itself carries, where this gate wrote it; policy then gives these and no others.
    pub roles: Option<Arc<[Arc<str>]>>,
    /// What the caller must hold besides, and was seen to hold on this request; `None` for a proof that whoever has it
    /// may use.
    pub confirmation: Option<Confirmation>,
}

/// What a proof is bound to: `cnf` of RFC 7800. One of the two is there at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirmation {
    /// SHA-256 of the client certificate (RFC 8705 section 3.1, `x5t#S256`).
    pub certificate: Option<[u8; 32]>,
    /// RFC 7638 thumbprint of the key that signs DPoP proofs (RFC 9449 section 6.1, `jkt`).
    pub key: Option<[u8; 32]>,
}

impl Principal {
    /// A caller that nobody has verified, for commands that ask what policy would say. With `roles` it holds these and
    /// no others, else those that `claims`, a JSON object, earn.
    #[must_use]
    pub fn hypothetical(issuer: &str, subject: &str, claims: &str, roles: Option<Arc<[Arc<str>]>>) -> Self {
        let mut told = blake3::Hasher::new();
        let held = roles.iter().flat_map(|roles| roles.iter()).map(|role| &**role);
        for text in [issuer, subject, claims, if roles.is_some() { "roles" } else { "" }].into_iter().chain(held) {
            told.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        Self {
            name: format!("{issuer}:{subject}").into(),
            issuer: issuer.into(),
            subject: subject.into(),
            claims: claims.into(),
            // it stands for everything that policy can go by, as a token's does
            proof: *told.finalize().as_bytes(),
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

/// What a local service is told of whom it serves.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The principal's name.
    pub principal: Arc<str>,
    /// The roles the decision was made with.
    pub roles: Arc<[Arc<str>]>,
    /// What policy obliges the caller's series to be; `None` where it says nothing of them.
    pub write_rules: Option<Arc<WriteRules>>,
}
