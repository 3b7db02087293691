//! The confirmation claim `cnf` (RFC 7800): the certificate or key that a token is bound to.
//!
//! Promises: a token with a `cnf` is refused unless every member of the `cnf` is supported. An unsupported binding is
//! never treated as no binding.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::de::{Deserialize, Deserializer, MapAccess};

use super::{
    rules::TokenError,
    strict_json::{Object, object},
};
use crate::{peer::Peer, principal::Confirmation};

/// The `cnf` claim of a token or of an introspection response (RFC 8705 sections 3.1 and 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cnf {
    /// No `cnf`.
    #[default]
    Absent,
    /// Every member is supported.
    Bound(Confirmation),
    /// It has an unsupported member (`jwk`, `kid`, `x5c`, …), no member, or an invalid thumbprint.
    Unknown,
}

impl Cnf {
    /// The binding that each request must prove; `None` for a plain bearer token.
    ///
    /// # Errors
    /// For an unsupported binding.
    pub(crate) fn confirmation(self) -> Result<Option<Confirmation>, TokenError> {
        match self {
            Self::Absent => Ok(None),
            Self::Bound(confirmation) => Ok(Some(confirmation)),
            Self::Unknown => Err(TokenError::Binding),
        }
    }
}

impl<'de> Deserialize<'de> for Cnf {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Members { confirmation, unknown } = object(from)?;
        Ok(if unknown || confirmation == Confirmation::default() { Self::Unknown } else { Self::Bound(confirmation) })
    }
}

/// The members of a `cnf`.
#[derive(Default)]
struct Members {
    confirmation: Confirmation,
    unknown: bool,
}

impl<'de> Object<'de> for Members {
    const NAME: &'static str = "a confirmation";

    fn member<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        let thumbprint_of = match name {
            "x5t#S256" => &mut self.confirmation.certificate,
            "jkt" => &mut self.confirmation.key,
            _ => {
                self.unknown = true;
                return Ok(false);
            }
        };
        *thumbprint_of = thumbprint(&map.next_value::<String>()?);
        self.unknown |= thumbprint_of.is_none();
        Ok(true)
    }
}

/// The base64url text of a SHA-256.
fn thumbprint(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// RFC 8705 section 3: whether the connection's client certificate has this thumbprint. The TLS handshake proved
/// possession of its key. Whether its chain is trusted does not matter here.
pub(super) fn matches_certificate(peer: &Peer, thumbprint: &[u8; 32]) -> bool {
    peer.certificate.as_ref().is_some_and(|certificate| certificate.thumbprint == *thumbprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Cnf>) {
        assert_eq!(serde_json::from_str(text).ok(), expected, "{text}");
    }

    #[test]
    fn a_cnf_with_an_unsupported_member_is_unknown() {
        let zeros = URL_SAFE_NO_PAD.encode([0; 32]);
        let certificate = Confirmation { certificate: Some([0; 32]), key: None };
        let key = Confirmation { certificate: None, key: Some([0; 32]) };
        let both = Confirmation { certificate: Some([0; 32]), key: Some([0; 32]) };
        check(&format!(r#"{{"x5t#S256":"{zeros}"}}"#), Some(Cnf::Bound(certificate)));
        check(&format!(r#"{{"jkt":"{zeros}"}}"#), Some(Cnf::Bound(key)));
        check(&format!(r#"{{"jkt":"{zeros}","x5t#S256":"{zeros}"}}"#), Some(Cnf::Bound(both)));
        for member in [r#""jwk":{}"#, r#""kid":"a""#, r#""x5c":[]"#, r#""x5t#s256":"a""#, r#""jku":"https://a""#] {
            check(&format!("{{{member}}}"), Some(Cnf::Unknown));
            check(&format!(r#"{{"jkt":"{zeros}",{member}}}"#), Some(Cnf::Unknown));
        }
        check("{}", Some(Cnf::Unknown));
        check(r#"{"jkt":""}"#, Some(Cnf::Unknown));
        check(&format!(r#"{{"jkt":"{zeros}="}}"#), Some(Cnf::Unknown));
        check(&format!(r#"{{"jkt":"{}"}}"#, URL_SAFE_NO_PAD.encode([0; 31])), Some(Cnf::Unknown));
        // a `cnf` of the wrong type refuses the claims set
        for text in [r#"{"jkt":1}"#, r#"{"jkt":null}"#, "[]", "null", r#""jkt""#, "true"] {
            check(text, None);
        }
        check(&format!(r#"{{"jkt":"{zeros}","jkt":"{zeros}"}}"#), None);
    }
}
