//! All limits of a configuration, and the reservation of one request.

use std::{sync::Arc, time::Duration};

use super::{
    buckets::{Bucket, BucketKey},
    limit::{Exceeded, Limit},
    limiter::{BucketState, TakeOutcome},
    ratelimit_headers::{RateLimitHeaders, SHORTEST_WAIT},
    settings::{Per, Quantity, RequestUsage, Settings},
};

/// All limits of a configuration.
#[derive(Clone, Default)]
pub struct Limits(Vec<Arc<Limit>>);

/// What a request was charged. Usage that is known later is charged to the same buckets; dropping it closes the request
/// in them.
#[derive(Default)]
pub struct Reservation {
    buckets: Vec<ReservedBucket>,
    /// Bytes that were charged in advance.
    bytes: u64,
    /// Whether this is a prediction request.
    is_inference: bool,
}

/// A request's share of one bucket.
struct ReservedBucket {
    limit: Arc<Limit>,
    bucket: Arc<Bucket>,
    /// The quantities that were taken, by their bits.
    taken: u8,
    /// Whether the request counts as open.
    open: bool,
}

impl Drop for ReservedBucket {
    fn drop(&mut self) {
        if self.open {
            self.bucket.close();
        }
    }
}

impl Limits {
    /// Limits with these settings. Those that `before` has with equal settings keep their buckets.
    #[must_use]
    pub fn new(settings: Vec<Settings>, before: Option<&Self>) -> Self {
        let known = |settings: &Settings| before?.0.iter().find(|limit| limit.settings == *settings).cloned();
        Self(settings.into_iter().map(|s| known(&s).unwrap_or_else(|| Arc::new(Limit::new(s)))).collect())
    }

    /// Charges a permitted request to all matching limits, or to none. `headers` gets the state of each in both cases.
    ///
    /// # Errors
    /// The exceeded limit; of several, the one with the longest wait.
    pub fn reserve(&self, usage: &RequestUsage<'_>, headers: &mut RateLimitHeaders) -> Result<Reservation, Exceeded> {
        let mut reservation = Reservation {
            bytes: usage.bytes.unwrap_or_default(),
            is_inference: usage.instances.is_some(),
            ..Reservation::default()
        };
        let mut strictest: Option<(TakeOutcome, Exceeded)> = None;
        let mut refuse = |outcome: TakeOutcome, exceeded: Exceeded| {
            if strictest.as_ref().is_none_or(|(other, _)| outcome > *other) {
                strictest = Some((outcome, exceeded));
            }
        };
        for limit in self.0.iter().filter(|limit| limit.applies_to(usage)) {
            let first = reservation.buckets.len();
            reservation.buckets.extend(limit.bucket_keys(usage).map(|key| ReservedBucket::new(limit, &key)));
            for (limiter, policy) in &limit.limiters {
                let Some(units) = usage.units(limiter.quantity) else { continue };
                let mut least: Option<BucketState> = None;
                for reserved in reservation.buckets.iter_mut().skip(first) {
                    let state = limiter.take(&reserved.bucket, units);
                    least = least.filter(|least| is_stricter(least, &state)).or(Some(state));
                    if state.outcome == TakeOutcome::Taken {
                        reserved.taken |= limiter.quantity.bit();
                    }
                }
                let Some(state) = least else { continue };
                headers.push_rate(policy, limiter.rate, state);
                if state.outcome != TakeOutcome::Taken {
                    refuse(state.outcome, limit.rate_exceeded(limiter, policy, state.outcome, units));
                }
            }
            if let Some((most, policy)) = &limit.streams {
                let mut least = *most;
                for reserved in reservation.buckets.iter_mut().skip(first) {
                    let free = reserved.bucket.open(*most);
                    reserved.open = free.is_some();
                    least = least.min(free.unwrap_or_default());
                    if free.is_none() {
                        refuse(TakeOutcome::Wait(SHORTEST_WAIT), limit.streams_exceeded(*most, policy));
                    }
                }
                headers.push_streams(policy, least);
            }
        }
        let Some((_, exceeded)) = strictest else { return Ok(reservation) };
        reservation.buckets.iter().for_each(|reserved| reserved.give_back(usage));
        Err(exceeded)
    }

    /// Checks whether the principal's own buckets are used up, whatever the request turns out to be. Charges nothing, so
    /// it may run before the body is read and policy has decided. Limits that apply only to some roles are left to
    /// [`Limits::reserve`]. `headers` gets the state of each bucket that is used up.
    ///
    /// # Errors
    /// The limit with the longest wait.
    pub fn check_principal(&self, usage: &RequestUsage<'_>, headers: &mut RateLimitHeaders) -> Result<(), Exceeded> {
        let of_principal = |limit: &&Arc<Limit>| {
            limit.settings.per == Per::Principal && limit.settings.roles.is_none() && limit.applies_to(usage)
        };
        let key = BucketKey::Principal(usage.principal.clone());
        let mut strictest: Option<(Duration, Exceeded)> = None;
        let mut refuse = |wait: Duration, exceeded: Exceeded| {
            if strictest.as_ref().is_none_or(|(other, _)| wait > *other) {
                strictest = Some((wait, exceeded));
            }
        };
        for limit in self.0.iter().filter(of_principal) {
            let Some(bucket) = limit.buckets.get(&key) else { continue };
            let limiters = limit.limiters.iter();
            for (limiter, policy) in limiters.filter(|(limiter, _)| usage.units(limiter.quantity).is_some()) {
                let Some(wait) = limiter.wait(&bucket) else { continue };
                let outcome = TakeOutcome::Wait(wait);
                headers.push_rate(policy, limiter.rate, BucketState { outcome, remaining: 0 });
                refuse(wait, limit.rate_exceeded(limiter, policy, outcome, 1));
            }
            if let Some((most, policy)) = limit.streams.as_ref().filter(|(most, _)| !bucket.can_open(*most)) {
                headers.push_streams(policy, 0);
                refuse(SHORTEST_WAIT, limit.streams_exceeded(*most, policy));
            }
        }
        strictest.map_or(Ok(()), |(_, exceeded)| Err(exceeded))
    }
}

impl ReservedBucket {
    fn new(limit: &Arc<Limit>, key: &BucketKey) -> Self {
        Self { limit: limit.clone(), bucket: limit.buckets.of(key), taken: 0, open: false }
    }

    fn give_back(&self, usage: &RequestUsage<'_>) {
        for (limiter, _) in self.limit.limiters.iter().filter(|(limiter, _)| self.taken & limiter.quantity.bit() != 0) {
            limiter.give_back(&self.bucket, usage.units(limiter.quantity).unwrap_or_default());
        }
    }
}

impl Reservation {
    /// Charges bytes of the response as they pass.
    pub fn charge_response_bytes(&self, bytes: u64) {
        self.charge_later(Quantity::Bytes, bytes);
    }

    /// Charges the request's body at its end, less what was charged in advance.
    pub fn charge_request_bytes(&self, bytes: u64) {
        self.charge_later(Quantity::Bytes, bytes.saturating_sub(self.bytes));
    }

    /// Charges the tokens that a model counted, less the one that was charged in advance.
    pub fn charge_tokens(&self, tokens: u64) {
        if self.is_inference {
            self.charge_later(Quantity::Tokens, tokens.saturating_sub(1));
        }
    }

    fn charge_later(&self, quantity: Quantity, units: u64) {
        for reserved in &self.buckets {
            let limiters = &reserved.limit.limiters;
            if let Some((limiter, _)) = limiters.iter().find(|(limiter, _)| limiter.quantity == quantity) {
                limiter.charge_later(&reserved.bucket, units);
            }
        }
    }
}

fn is_stricter(one: &BucketState, other: &BucketState) -> bool {
    (one.outcome, other.remaining) >= (other.outcome, one.remaining)
}
