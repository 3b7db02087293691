//! How limits are told to clients: the fields `RateLimit-Policy` and `RateLimit` of
//! draft-ietf-httpapi-ratelimit-headers-11, which are lists of structured fields (RFC 9651).
//!
//! Promises: a policy's name is the limit's, with `/` and the quantity behind it unless that is requests. A client that
//! uses no more than `r` in `t` seconds goes on for ever; one that finds `r=0` finds something after `t`.

use std::{fmt::Write as _, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    Quantity, Rate,
    limiter::{Outcome, Standing},
    whole_seconds,
};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STANDING: HeaderName = HeaderName::from_static("ratelimit");

/// The fields of one answer.
#[derive(Debug, Default)]
pub struct Fields {
    policies: String,
    standings: String,
}

impl Fields {
    /// Sets the fields, where there are any. An upstream's own stay beside them.
    pub fn append_to(&self, headers: &mut HeaderMap) {
        for (name, value) in [(POLICY, &self.policies), (STANDING, &self.standings)] {
            if let Some(value) = HeaderValue::from_str(value).ok().filter(|value| !value.is_empty()) {
                headers.append(name, value);
            }
        }
    }

    pub(super) fn rate(&mut self, policy: &Policy, rate: Rate, standing: Standing) {
        let left = standing.left;
        self.tell(policy, left);
        let within = match standing.outcome {
            Outcome::Wait(wait) => Some(whole_seconds(wait).as_secs()),
            Outcome::Taken => Some(steady(rate, left)),
            Outcome::Never => None,
        };
        if let Some(within) = within {
            let _ = write!(self.standings, ";t={within}");
        }
    }

    pub(super) fn streams(&mut self, policy: &Policy, left: u32) {
        self.tell(policy, left.into());
    }

    fn tell(&mut self, policy: &Policy, left: u64) {
        for list in [&mut self.policies, &mut self.standings] {
            if !list.is_empty() {
                list.push_str(", ");
            }
        }
        self.policies.push_str(&policy.text);
        let _ = write!(self.standings, "\"{}\";r={left}", policy.name);
    }
}

/// A policy as the fields have it: what never changes of it, written once.
pub(super) struct Policy {
    /// What it is called. Names hold nothing that would have to be escaped.
    pub(super) name: Box<str>,
    text: Box<str>,
}

impl Policy {
    /// Of a limit's rate of this quantity.
    pub(super) fn of_rate(limit: &str, quantity: Quantity, rate: Rate) -> Self {
        // section 3.1.2 registers these; instances and tokens are units of this gate
        let (name, unit) = match quantity {
            Quantity::Requests => (limit.to_owned(), ""),
            Quantity::Bytes => (format!("{limit}/{}", quantity.name()), ";qu=\"content-bytes\""),
            Quantity::Instances => (format!("{limit}/{}", quantity.name()), ";qu=\"instances\""),
            Quantity::Tokens => (format!("{limit}/{}", quantity.name()), ";qu=\"tokens\""),
        };
        let mut text = format!("\"{name}\";q={}{unit};w={}", rate.amount, rate.window.as_secs());
        if rate.burst != rate.amount {
            let _ = write!(text, ";wicketgate-burst={}", rate.burst);
        }
        Self { name: name.into(), text: text.into() }
    }

    /// Of a limit's open requests.
    pub(super) fn of_streams(limit: &str, most: u32) -> Self {
        let name = format!("{limit}/streams");
        let text = format!("\"{name}\";q={most};qu=\"concurrent-requests\"");
        Self { name: name.into(), text: text.into() }
    }
}

/// Seconds in which `left` units, or one where none is left, come back. Section 8.5: a client that divides `r` by `t` must
/// not find more than the rate.
fn steady(rate: Rate, left: u64) -> u64 {
    let nanos = rate.window.as_nanos() * u128::from(left.max(1)) / u128::from(rate.amount.max(1));
    whole_seconds(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::limits::Unit;

    fn check(quantity: Quantity, rate: Rate, standing: (Outcome, u64), policy: &str, told: &str) {
        let mut fields = Fields::default();
        let of_rate = Policy::of_rate("infer", quantity, rate);
        fields.rate(&of_rate, rate, Standing { outcome: standing.0, left: standing.1 });
        assert_eq!((fields.policies.as_str(), fields.standings.as_str()), (policy, told));
        fields.streams(&Policy::of_streams("infer", 16), 3);
        let mut headers = HeaderMap::new();
        fields.append_to(&mut headers);
        assert_eq!(headers[POLICY], format!("{policy}, \"infer/streams\";q=16;qu=\"concurrent-requests\""));
        assert_eq!(headers[STANDING], format!("{told}, \"infer/streams\";r=3"));
    }

    #[test]
    fn limits_are_told_as_the_draft_wants() {
        let things = |text, burst| Rate::read(text, burst, Unit::Things).unwrap();
        let bytes = Rate::read("1MiB/s", None, Unit::Bytes).unwrap();
        let wait = Outcome::Wait(Duration::from_millis(4001));
        let (policy, taken) = ("\"infer\";q=600;w=60", Outcome::Taken);
        check(Quantity::Requests, things("600/m", None), (taken, 10), policy, "\"infer\";r=10;t=1");
        check(Quantity::Requests, things("600/m", None), (taken, 599), policy, "\"infer\";r=599;t=60");
        check(Quantity::Requests, things("600/m", None), (taken, 0), policy, "\"infer\";r=0;t=1");
        check(Quantity::Requests, things("600/m", None), (wait, 0), policy, "\"infer\";r=0;t=5");
        let policy = "\"infer/bytes\";q=1048576;qu=\"content-bytes\";w=1";
        check(Quantity::Bytes, bytes, (Outcome::Never, 9), policy, "\"infer/bytes\";r=9");
        let policy = "\"infer/tokens\";q=1;qu=\"tokens\";w=3600;wicketgate-burst=5";
        check(Quantity::Tokens, things("1/h", Some("5")), (taken, 0), policy, "\"infer/tokens\";r=0;t=3600");
    }

    #[test]
    fn nothing_is_told_where_there_is_no_limit() {
        let mut headers = HeaderMap::new();
        Fields::default().append_to(&mut headers);
        assert!(headers.is_empty());
    }
}
