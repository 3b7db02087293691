//! Options of a route: token binding, the end of streams, and what its upstream learns about the caller.

/// What a route asks of its callers and does for its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteOptions {
    /// Whether an answer without a known end is ended when its caller's proof ends.
    pub end_streams: bool,
    /// Whether it takes tokens that are bound to nothing.
    pub token_binding: TokenBinding,
    /// Whether its upstream is shown a signed statement of who is asking.
    pub assertion: bool,
    /// Whether its upstream is told in plain headers who is asking.
    pub identity_headers: bool,
}

impl Default for RouteOptions {
    fn default() -> Self {
        Self { end_streams: true, token_binding: TokenBinding::Optional, assertion: false, identity_headers: false }
    }
}

/// Whether a route takes a token that anybody who has it may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenBinding {
    /// It does. A token that is bound must still be confirmed.
    #[default]
    Optional,
    /// Only tokens bound to a client certificate (RFC 8705) or a DPoP key (RFC 9449), or a client certificate alone.
    Required,
}

/// The options of what the gate itself answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalRouteOptions {
    /// Of the list of exporters.
    pub discover: RouteOptions,
    /// Of remote write.
    pub write: RouteOptions,
    /// Of the forecasts.
    pub predictions: RouteOptions,
}
