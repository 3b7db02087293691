//! Paths of the pages that need no authentication.

/// RFC 9728 section 3.
pub(in crate::gate::proxy) const RESOURCE_METADATA: &str = "/.well-known/oauth-protected-resource";
/// OpenID Connect Discovery 1.0 section 4.
pub(super) const OPENID_CONFIGURATION: &str = "/.well-known/openid-configuration";
/// RFC 8414 section 3.
pub(super) const OAUTH_METADATA: &str = "/.well-known/oauth-authorization-server";
/// The key set (RFC 7517).
pub(super) const JWKS: &str = "/.well-known/jwks.json";
/// Token exchange (RFC 8693).
pub(super) const TOKEN: &str = "/oauth2/token";
