//! Settings of rate limits, and the usage that a request is charged for.

use std::{collections::BTreeSet, sync::Arc};

use super::rate::Rate;

/// What a rate limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    /// Requests that policy permits.
    Requests,
    /// Bytes of request and response bodies together.
    Bytes,
    /// Instances of prediction requests.
    Instances,
    /// Tokens that models count, of prompts and answers together.
    Tokens,
}

impl Quantity {
    /// Every quantity.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Bytes, Self::Instances, Self::Tokens];

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::Instances => "instances",
            Self::Tokens => "tokens",
        }
    }

    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }

    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Requests => "limit_requests",
            Self::Bytes => "limit_bytes",
            Self::Instances => "limit_instances",
            Self::Tokens => "limit_tokens",
        }
    }
}

/// Which requests share a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Those of one principal.
    Principal,
    /// Those of all callers that hold a role; a request counts for every role that its caller holds.
    Role,
    /// Those of one route.
    Route,
    /// All of this gate.
    Gate,
}

impl Per {
    pub(super) const fn scope(self) -> &'static str {
        match self {
            Self::Principal => "for each principal",
            Self::Role => "for each role",
            Self::Route => "for each route",
            Self::Gate => "for all callers together",
        }
    }
}

/// Selects a route, or with `exporter` one exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFilter {
    /// The route's kind.
    pub route: Box<str>,
    /// The one exporter's name.
    pub exporter: Option<Box<str>>,
}

/// One `[[limit]]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name, unique.
    pub name: Arc<str>,
    /// Which requests share a bucket.
    pub per: Per,
    /// Only callers that hold one of these roles; `None` for all callers.
    pub roles: Option<Vec<Arc<str>>>,
    /// Only these routes; `None` for all routes.
    pub routes: Option<Vec<RouteFilter>>,
    /// Only these actions; `None` for all actions.
    pub actions: Option<BTreeSet<Box<str>>>,
    /// Its rates, at most one for each quantity.
    pub rates: Vec<(Quantity, Rate)>,
    /// Requests that may be open at once.
    pub streams: Option<u32>,
}

/// A request as limits see it: its caller, its route, and what it uses.
#[derive(Clone, Copy, Debug)]
pub struct RequestUsage<'a> {
    /// The caller.
    pub principal: &'a Arc<str>,
    /// The roles that it was permitted with.
    pub roles: &'a [Arc<str>],
    /// The route's kind.
    pub route: &'static str,
    /// The exporter; `None` on other routes.
    pub exporter: Option<&'a Arc<str>>,
    /// The Cedar action.
    pub action: &'a Arc<str>,
    /// Bytes of the request's body; `None` if its length is not known in advance.
    pub bytes: Option<u64>,
    /// Instances of a prediction request; `None` for other requests.
    pub instances: Option<u64>,
}

impl RequestUsage<'_> {
    /// Units of a quantity that are charged before the request is forwarded; `None` if the quantity does not count it.
    pub(super) fn units(&self, quantity: Quantity) -> Option<u64> {
        match quantity {
            Quantity::Requests => Some(1),
            // a bucket in debt refuses requests without a body too
            Quantity::Bytes => Some(self.bytes.unwrap_or_default()),
            Quantity::Instances => self.instances,
            Quantity::Tokens => self.instances.map(|_| 1),
        }
    }
}
