//! Subject tokens (RFC 8693): the gate signs a JWT for a caller, and Google exchanges it for an access token.

use std::{sync::Arc, time::Duration};

use super::obtained::CredentialError;
use crate::{clock, gate::signing::Signing, secret::Secret};

/// Lifetime of a subject token; it is used at once.
const LIFETIME: Duration = Duration::from_secs(300);
/// Google refuses a token that was issued in its future, by however little.
const ISSUED_BEFORE: Duration = Duration::from_secs(10);
/// Google's bound on `google.subject`, in bytes.
const MAX_SUBJECT: usize = 127;

/// Signs subject tokens as the issuer that the gate is.
#[derive(Clone)]
pub(crate) struct SubjectTokenSigner {
    /// `iss`.
    pub url: String,
    /// The gate's signing keys.
    pub signing: Arc<Signing>,
}

impl PartialEq for SubjectTokenSigner {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url && Arc::ptr_eq(&self.signing, &other.signing)
    }
}

impl Eq for SubjectTokenSigner {}

impl SubjectTokenSigner {
    /// A subject token of this principal for `audience`. `group` is the group of methods that the credential is for, so
    /// that conditions of the workload identity pool can tell groups apart.
    pub(super) fn sign(&self, principal: &str, audience: &str, group: &str) -> Result<Secret, CredentialError> {
        if principal.len() > MAX_SUBJECT {
            return Err(CredentialError::Subject(principal.len()));
        }
        let now = clock::now();
        let issued = now.as_second() - ISSUED_BEFORE.as_secs().cast_signed();
        let claims = serde_json::json!({
            "iss": self.url,
            "sub": principal,
            "aud": audience,
            "iat": issued,
            "nbf": issued,
            "exp": clock::after(now, LIFETIME).as_second(),
            "jti": uuid::Uuid::now_v7(),
            "group": group,
        });
        let signed = self.signing.sign("JWT", &claims.to_string()).map_err(|_| CredentialError::NoKey)?;
        signed.map(Secret::new).ok_or(CredentialError::NoKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gate::signing::{Schedule, Settings},
        pipeline::testing::Directory,
    };

    #[test]
    fn a_subject_that_google_would_refuse_is_an_error_and_never_cut() {
        let directory = Directory::new("subject-token");
        let hour = Duration::from_secs(3600);
        let schedule = Schedule { rotate: hour * 24, overlap: hour };
        let signing = Arc::new(Signing::open(Settings { directory: directory.0.clone(), schedule }));
        let signer = SubjectTokenSigner { url: "https://gate.test".into(), signing };
        let check = |bytes: usize, expected: bool| {
            let signed = signer.sign(&"x".repeat(bytes), "//iam", "infer");
            assert_eq!(signed.is_ok(), expected, "{bytes} bytes");
            assert!(expected || matches!(signed, Err(CredentialError::Subject(found)) if found == bytes));
        };
        check(127, true);
        check(128, false);
    }
}
