//! Route options: token binding, the end of streams, and identity headers for the upstream.

/// What a route requires of its callers and sends to its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteOptions {
    /// Whether a response of unknown length ends when the caller's proof expires or is revoked.
    pub end_streams: bool,
    /// Whether the route accepts plain bearer tokens.
    pub token_binding: TokenBinding,
    /// Whether the upstream gets a signed assertion of the caller's identity.
    pub assertion: bool,
    /// Whether the upstream gets the caller's identity in plain headers.
    pub identity_headers: bool,
}

impl Default for RouteOptions {
    fn default() -> Self {
        Self { end_streams: true, token_binding: TokenBinding::Optional, assertion: false, identity_headers: false }
    }
}

/// Whether a route accepts plain bearer tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenBinding {
    /// It does. The binding of a bound token is verified all the same.
    #[default]
    Optional,
    /// Only tokens bound to a client certificate (RFC 8705) or a DPoP key (RFC 9449), or a client certificate alone.
    Required,
}

/// The options of local routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalRouteOptions {
    /// Service discovery.
    pub discover: RouteOptions,
    /// Remote write.
    pub write: RouteOptions,
    /// Forecasts.
    pub predictions: RouteOptions,
}
