//! The `RateLimit-Policy` and `RateLimit` header fields of draft-ietf-httpapi-ratelimit-headers-11, which are lists of
//! structured fields (RFC 9651).
//!
//! Promises: a policy's name is the limit's, followed by `/` and the quantity unless that is requests. A client that uses
//! no more than `r` in `t` seconds is never refused; one that reads `r=0` finds units after `t`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{Integer, ItemSerializer, KeyRef, key_ref};

use super::{
    limiter::{BucketState, TakeOutcome},
    rate::Rate,
    settings::Quantity,
};

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The shortest wait that a response contains.
pub(super) const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// Both fields of one response.
#[derive(Debug, Default)]
pub struct RateLimitHeaders {
    policies: String,
    states: String,
}

impl RateLimitHeaders {
    /// Appends the fields that are not empty. Those that the upstream sent stay.
    pub fn append_to(&self, headers: &mut HeaderMap) {
        for (name, value) in [(RATELIMIT_POLICY, &self.policies), (RATELIMIT, &self.states)] {
            if let Some(value) = HeaderValue::from_str(value).ok().filter(|value| !value.is_empty()) {
                headers.append(name, value);
            }
        }
    }

    pub(super) fn push_rate(&mut self, policy: &LimitPolicy, rate: Rate, state: BucketState) {
        let remaining = state.remaining;
        let seconds = match state.outcome {
            TakeOutcome::Wait(wait) => Some(whole_seconds(wait).as_secs()),
            TakeOutcome::Taken => Some(refill_seconds(rate, remaining)),
            TakeOutcome::Never => None,
        };
        self.push(policy, remaining, seconds);
    }

    pub(super) fn push_streams(&mut self, policy: &LimitPolicy, remaining: u32) {
        self.push(policy, remaining.into(), None);
    }

    fn push(&mut self, policy: &LimitPolicy, remaining: u64, seconds: Option<u64>) {
        for list in [&mut self.policies, &mut self.states] {
            if !list.is_empty() {
                list.push_str(", ");
            }
        }
        self.policies.push_str(&policy.item);
        let item = ItemSerializer::with_buffer(&mut self.states).bare_item(&*policy.name);
        let item = item.parameter(key_ref("r"), integer(remaining));
        match seconds {
            Some(seconds) => item.parameter(key_ref("t"), integer(seconds)).finish(),
            None => item.finish(),
        };
    }
}

/// A limit's item in `RateLimit-Policy`, serialized once.
pub(super) struct LimitPolicy {
    name: sfv::String,
    item: Box<str>,
}

impl LimitPolicy {
    /// The policy of a limit's rate.
    pub(super) fn of_rate(limit: &str, quantity: Quantity, rate: Rate) -> Self {
        // section 3.1.2 of the draft registers content-bytes; instances and tokens are units of this gate
        let unit = match quantity {
            Quantity::Requests => None,
            Quantity::Bytes => Some("content-bytes"),
            Quantity::Instances => Some("instances"),
            Quantity::Tokens => Some("tokens"),
        };
        let name = if unit.is_none() { limit.to_owned() } else { format!("{limit}/{}", quantity.name()) };
        let burst = (rate.burst != rate.amount).then_some(rate.burst);
        Self::new(
            &name,
            rate.amount,
            unit,
            &[(key_ref("w"), Some(rate.window.as_secs())), (key_ref("wicketgate-burst"), burst)],
        )
    }

    /// The policy of a limit's open requests.
    pub(super) fn of_streams(limit: &str, most: u32) -> Self {
        Self::new(&format!("{limit}/streams"), most.into(), Some("concurrent-requests"), &[])
    }

    fn new(name: &str, quota: u64, unit: Option<&str>, others: &[(&KeyRef, Option<u64>)]) -> Self {
        // the configuration allows letters, digits, `-`, `_` and `.` in names: all of them are allowed in a string
        let name = sfv::String::from_string(name.to_owned()).unwrap_or_default();
        let mut item = ItemSerializer::new().bare_item(&*name).parameter(key_ref("q"), integer(quota));
        if let Some(unit) = unit.and_then(|unit| sfv::StringRef::from_str(unit).ok()) {
            item = item.parameter(key_ref("qu"), unit);
        }
        for (key, value) in others {
            if let Some(value) = value {
                item = item.parameter(key, integer(*value));
            }
        }
        let item = item.finish().into();
        Self { name, item }
    }

    pub(super) fn name(&self) -> &str {
        self.name.as_str()
    }
}

/// Amounts are bounded by the largest integer of structured fields when they are read.
fn integer(number: u64) -> Integer {
    Integer::try_from(number).unwrap_or(Integer::MAX)
}

/// Seconds in which `remaining` units, or one if none is left, are refilled. Section 8.5: a client that divides `r` by `t`
/// must not find more than the rate.
fn refill_seconds(rate: Rate, remaining: u64) -> u64 {
    let nanos = rate.window.as_nanos() * u128::from(remaining.max(1)) / u128::from(rate.amount.max(1));
    whole_seconds(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))).as_secs()
}

/// Rounded up, so that a client that waits so long does not come too early.
pub(super) fn whole_seconds(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(SHORTEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::limits::rate::Unit;

    fn check(quantity: Quantity, rate: Rate, state: (TakeOutcome, u64), policies: &str, states: &str) {
        let mut fields = RateLimitHeaders::default();
        let policy = LimitPolicy::of_rate("infer", quantity, rate);
        fields.push_rate(&policy, rate, BucketState { outcome: state.0, remaining: state.1 });
        assert_eq!((fields.policies.as_str(), fields.states.as_str()), (policies, states));
        fields.push_streams(&LimitPolicy::of_streams("infer", 16), 3);
        let mut headers = HeaderMap::new();
        fields.append_to(&mut headers);
        assert_eq!(headers[RATELIMIT_POLICY], format!("{policies}, \"infer/streams\";q=16;qu=\"concurrent-requests\""));
        assert_eq!(headers[RATELIMIT], format!("{states}, \"infer/streams\";r=3"));
    }

    #[test]
    fn both_fields_have_the_form_of_the_draft() {
        let count = |text, burst| Rate::read(text, burst, Unit::Count).unwrap();
        let bytes = Rate::read("1MiB/s", None, Unit::Bytes).unwrap();
        let wait = TakeOutcome::Wait(Duration::from_millis(4001));
        let taken = TakeOutcome::Taken;
        let policy = "\"infer\";q=600;w=60";
        check(Quantity::Requests, count("600/m", None), (taken, 10), policy, "\"infer\";r=10;t=1");
        check(Quantity::Requests, count("600/m", None), (taken, 599), policy, "\"infer\";r=599;t=60");
        check(Quantity::Requests, count("600/m", None), (taken, 0), policy, "\"infer\";r=0;t=1");
        check(Quantity::Requests, count("600/m", None), (wait, 0), policy, "\"infer\";r=0;t=5");
        let policy = "\"infer/bytes\";q=1048576;qu=\"content-bytes\";w=1";
        check(Quantity::Bytes, bytes, (TakeOutcome::Never, 9), policy, "\"infer/bytes\";r=9");
        let policy = "\"infer/tokens\";q=1;qu=\"tokens\";w=3600;wicketgate-burst=5";
        check(Quantity::Tokens, count("1/h", Some("5")), (taken, 0), policy, "\"infer/tokens\";r=0;t=3600");
    }

    #[test]
    fn without_a_limit_there_is_no_field() {
        let mut headers = HeaderMap::new();
        RateLimitHeaders::default().append_to(&mut headers);
        assert!(headers.is_empty());
    }
}
