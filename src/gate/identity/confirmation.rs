//! `cnf`, what a token is bound to (RFC 7800), and whether the sender of the request holds it.
//!
//! Promises: a token with a `cnf` is refused unless every member of it was read and can be checked here; a binding that
//! is not understood is never taken for none.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::de::{Deserialize, Deserializer, MapAccess};

use super::{
    jwt::TokenError,
    strict_json::{Object, object},
};
use crate::{peer::Peer, principal::Confirmation};

/// A `cnf` claim as it stands in a token or in an introspection answer (RFC 8705 sections 3.1 and 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cnf {
    /// There is none.
    #[default]
    Absent,
    /// All of it was understood.
    Bound(Confirmation),
    /// It holds what cannot be checked here (`jwk`, `kid`, `x5c`, …), nothing, or no thumbprint.
    Unknown,
}

impl Cnf {
    /// What must be confirmed on each request; nothing for a plain bearer token.
    ///
    /// # Errors
    /// For a binding that cannot be checked.
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
        let Said { confirmation, unknown } = object(from)?;
        Ok(if unknown || confirmation == Confirmation::default() { Self::Unknown } else { Self::Bound(confirmation) })
    }
}

/// The members of a `cnf`.
#[derive(Default)]
struct Said {
    confirmation: Confirmation,
    unknown: bool,
}

impl<'de> Object<'de> for Said {
    const NAME: &'static str = "a confirmation";

    fn member<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        let place = match name {
            "x5t#S256" => &mut self.confirmation.certificate,
            "jkt" => &mut self.confirmation.key,
            _ => {
                self.unknown = true;
                return Ok(false);
            }
        };
        *place = thumbprint(&map.next_value::<String>()?);
        self.unknown |= place.is_none();
        Ok(true)
    }
}

/// The base64url text of a SHA-256.
fn thumbprint(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// RFC 8705 section 3: the connection's certificate is the one that the token names. Whether it is trusted is another
/// matter; that its key is held was proved in the handshake.
pub(super) fn holds_certificate(peer: &Peer, thumbprint: &[u8; 32]) -> bool {
    peer.certificate.as_ref().is_some_and(|certificate| certificate.thumbprint == *thumbprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<Cnf>) {
        assert_eq!(serde_json::from_str(text).ok(), expected, "{text}");
    }

    #[test]
    fn a_binding_is_understood_whole_or_not_at_all() {
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
        // no confirmation at all refuses the token as one with malformed claims
        for text in [r#"{"jkt":1}"#, r#"{"jkt":null}"#, "[]", "null", r#""jkt""#, "true"] {
            check(text, None);
        }
        check(&format!(r#"{{"jkt":"{zeros}","jkt":"{zeros}"}}"#), None);
    }
}
