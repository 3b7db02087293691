//! The access token in the Authorization header (RFC 6750 section 2.1, RFC 9449 section 7.1).

use http::{HeaderMap, StatusCode, header::AUTHORIZATION};

use crate::refusal::Refusal;

/// A token in the Authorization header, and its scheme.
pub(super) struct PresentedToken<'a> {
    pub(super) scheme: Scheme,
    pub(super) token: &'a str,
}

/// The authentication scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Bearer,
    Dpop,
}

impl<'a> PresentedToken<'a> {
    /// The token of a request; `None` without an Authorization header.
    ///
    /// # Errors
    /// 400 for several Authorization headers, 401 for another scheme.
    pub(super) fn from_headers(headers: &'a HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Refusal::malformed("two_identities", "send one Authorization header, not several"));
        }
        let (scheme, token) = value.to_str().unwrap_or_default().split_once(' ').unwrap_or_default();
        // RFC 9110 section 11.1: the scheme is case-insensitive
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Scheme::Bearer,
            "dpop" => Scheme::Dpop,
            _ => {
                let text = "the Authorization header must be `Bearer` or `DPoP` and a token";
                return Err(Refusal::new(StatusCode::UNAUTHORIZED, "unsupported_scheme", text));
            }
        };
        Ok(Some(Self { scheme, token: token.trim() }))
    }
}
