//! One rate limit: the requests it applies to, its buckets, and its refusals.

use std::{sync::Arc, time::Duration};

use super::{
    buckets::{BucketKey, Buckets},
    limiter::{Limiter, TakeOutcome},
    rate::Rate,
    ratelimit_headers::{LimitPolicy, SHORTEST_WAIT, whole_seconds},
    settings::{Per, Quantity, RequestUsage, RouteFilter, Settings},
    ticks::Ticks,
};

/// A limit that a request exceeds.
#[derive(Clone, Debug)]
pub struct Exceeded {
    /// The limit's name.
    pub limit: Arc<str>,
    /// The name of the exceeded policy in `RateLimit-Policy`.
    pub policy: String,
    /// The stable word for audit and programs, such as `limit_requests`.
    pub reason: &'static str,
    /// When the client may try again, in whole seconds; `None` if the request can never pass.
    pub wait: Option<Duration>,
    /// The text for the client.
    pub text: String,
}

pub(super) struct Limit {
    pub(super) settings: Settings,
    pub(super) limiters: Vec<(Limiter, LimitPolicy)>,
    /// How many requests may be open at once.
    pub(super) streams: Option<(u32, LimitPolicy)>,
    pub(super) buckets: Buckets,
}

impl Limit {
    pub(super) fn new(settings: Settings) -> Self {
        let ticks = Ticks::new();
        let limiter = |&(quantity, rate): &(Quantity, Rate)| {
            (Limiter::new(quantity, rate, ticks), LimitPolicy::of_rate(&settings.name, quantity, rate))
        };
        let limiters = settings.rates.iter().map(limiter).collect();
        let streams = settings.streams.map(|most| (most, LimitPolicy::of_streams(&settings.name, most)));
        Self { settings, limiters, streams, buckets: Buckets::new(ticks) }
    }

    pub(super) fn applies_to(&self, usage: &RequestUsage<'_>) -> bool {
        let Settings { roles, routes, actions, .. } = &self.settings;
        let selects = |filter: &RouteFilter| {
            let exporter = filter.exporter.as_deref();
            *filter.route == *usage.route
                && exporter.is_none_or(|selected| usage.exporter.is_some_and(|name| **name == *selected))
        };
        roles.as_ref().is_none_or(|roles| usage.roles.iter().any(|role| roles.contains(role)))
            && routes.as_ref().is_none_or(|routes| routes.iter().any(selects))
            && actions.as_ref().is_none_or(|actions| actions.contains(&**usage.action))
    }

    /// The keys of the buckets that a request is charged to.
    pub(super) fn bucket_keys(&self, usage: &RequestUsage<'_>) -> impl Iterator<Item = BucketKey> {
        let count = if self.settings.per == Per::Role { usage.roles.len() } else { 1 };
        (0..count).filter_map(move |index| match self.settings.per {
            Per::Principal => Some(BucketKey::Principal(usage.principal.clone())),
            Per::Role => {
                let role = usage.roles.get(index)?;
                let counts = self.settings.roles.as_ref().is_none_or(|roles| roles.contains(role));
                counts.then(|| BucketKey::Role(role.clone()))
            }
            Per::Route => Some(
                usage.exporter.map_or(BucketKey::Route(usage.route), |exporter| BucketKey::Exporter(exporter.clone())),
            ),
            Per::Gate => Some(BucketKey::Gate),
        })
    }

    pub(super) fn rate_exceeded(
        &self,
        limiter: &Limiter,
        policy: &LimitPolicy,
        outcome: TakeOutcome,
        units: u64,
    ) -> Exceeded {
        let Settings { name, per, .. } = &self.settings;
        let Rate { amount, burst, .. } = limiter.rate;
        let quantity = limiter.quantity.name();
        let window = limiter.rate.window_name();
        let scope = per.scope();
        let wait = match outcome {
            TakeOutcome::Wait(wait) => Some(whole_seconds(wait)),
            TakeOutcome::Taken | TakeOutcome::Never => None,
        };
        let text = match wait {
            Some(wait) => {
                let seconds = wait.as_secs();
                format!("the limit `{name}` is {amount} {quantity} {window} {scope}; try again in {seconds} s")
            }
            None => format!(
                "the limit `{name}` allows {burst} {quantity} at once, and this request has {units}: it can never pass, so \
                 send less in one request"
            ),
        };
        Exceeded { limit: name.clone(), policy: policy.name().into(), reason: limiter.quantity.reason(), wait, text }
    }

    pub(super) fn streams_exceeded(&self, most: u32, policy: &LimitPolicy) -> Exceeded {
        let Settings { name, per, .. } = &self.settings;
        let scope = per.scope();
        let text =
            format!("the limit `{name}` is {most} open requests at a time {scope}; try again when one has ended");
        // when one of them ends is not known
        let wait = Some(SHORTEST_WAIT);
        Exceeded { limit: name.clone(), policy: policy.name().into(), reason: "limit_streams", wait, text }
    }
}
