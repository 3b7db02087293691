//! Key rotation plan: which key signs, which are published, and which are generated or removed. Pure, so that all gates
//! that share a directory compute the same plan.
//!
//! Promises: a key has been published for a whole overlap before it signs, unless it is the first key. A key stays
//! published until the last token that it can have signed has expired.

use std::time::Duration;

use crate::clock::{self, Timestamp};

/// The longest lifetime of anything signed. Old keys stay published for it whatever is configured now, because valid
/// tokens may have been signed under earlier settings.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// The margin before a key is removed: the clock difference that verifiers allow, and the delay until another gate reads
/// the directory.
const SLACK: Duration = Duration::from_secs(10 * 60);

/// The rotation schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The age of the newest key at which the next is generated.
    pub rotate: Duration,
    /// How long a key is published before it signs: at least as long as verifiers cache the key set.
    pub overlap: Duration,
}

/// Creation time and thumbprint of a key, from its file's name. Ordered by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyName {
    /// Its creation time, to the second.
    pub created: Timestamp,
    /// Its thumbprint (RFC 7638).
    pub kid: String,
}

/// The actions that are due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan<'a> {
    /// The key that signs.
    pub signing: Option<&'a KeyName>,
    /// The keys in the JWKS, the oldest first.
    pub published: Vec<&'a KeyName>,
    /// Whether a new key is due.
    pub generate: bool,
    /// Keys whose last token has expired.
    pub remove: Vec<&'a KeyName>,
}

/// The plan for these keys at `now`. Their order does not matter.
#[must_use]
pub(crate) fn plan<'a>(keys: &'a [KeyName], now: Timestamp, schedule: Schedule) -> Plan<'a> {
    let mut keys: Vec<&KeyName> = keys.iter().collect();
    keys.sort_unstable();
    // a key of the far future comes from a wrong clock; it must not delay the next one
    let generate = !keys.iter().any(|key| {
        let from_now = clock::after(now, schedule.overlap);
        key.created <= from_now && now < clock::after(key.created, schedule.rotate)
    });
    let may_sign = |key: &KeyName| clock::after(key.created, schedule.overlap) <= now;
    // the very first key signs at once: no verifier can have cached a key set without it
    let current = keys.iter().rposition(|key| may_sign(key)).unwrap_or(0);
    let signing = keys.get(current).copied();
    let expired = |successor: &KeyName| {
        let retired = clock::after(successor.created, schedule.overlap);
        clock::after(clock::after(retired, MAX_LIFETIME), SLACK) <= now
    };
    // a key is retired when its successor begins to sign; the keys before the current one are retired
    let removed = (0..current).take_while(|at| keys.get(at + 1).is_some_and(|next| expired(next))).count();
    let published = keys.split_off(removed);
    Plan { signing, published, generate, remove: keys }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const SCHEDULE: Schedule = Schedule { rotate: Duration::from_secs(100 * 3600), overlap: HOUR };

    fn at(hours: f64) -> Timestamp {
        Timestamp::from_second((hours * 3600.0) as i64).unwrap()
    }

    fn key(hours: f64) -> KeyName {
        KeyName { created: at(hours), kid: format!("key-{hours}") }
    }

    /// `keys` and times in hours; the plan as (signing, published, generated, removed).
    fn check(keys: &[f64], now: f64, expected: (Option<f64>, &[f64], bool, &[f64])) {
        let names: Vec<KeyName> = keys.iter().map(|hours| key(*hours)).collect();
        let found = plan(&names, at(now), SCHEDULE);
        let kids = |keys: &[f64]| keys.iter().map(|hours| key(*hours)).collect::<Vec<_>>();
        let of = |names: &[&KeyName]| names.iter().map(|name| (*name).clone()).collect::<Vec<_>>();
        let (signs, published, generated, removed) = expected;
        assert_eq!(found.signing.cloned(), signs.map(key), "signing of {keys:?} at {now}");
        assert_eq!(of(&found.published), kids(published), "published of {keys:?} at {now}");
        assert_eq!(
            (found.generate, of(&found.remove)),
            (generated, kids(removed)),
            "generated, removed of {keys:?} at {now}"
        );
    }

    #[test]
    fn keys_rotate_with_overlap() {
        check(&[], 0.0, (None, &[], true, &[]));
        // the first signs at once
        check(&[0.0], 0.0, (Some(0.0), &[0.0], false, &[]));
        check(&[0.0], 99.9, (Some(0.0), &[0.0], false, &[]));
        check(&[0.0], 100.0, (Some(0.0), &[0.0], true, &[]));
        // the next is published for an hour before it signs
        check(&[0.0, 100.0], 100.9, (Some(0.0), &[0.0, 100.0], false, &[]));
        check(&[100.0, 0.0], 101.0, (Some(100.0), &[0.0, 100.0], false, &[]));
        // and the old one for as long as its last token lives
        check(&[0.0, 100.0], 102.1, (Some(100.0), &[0.0, 100.0], false, &[]));
        check(&[0.0, 100.0], 102.2, (Some(100.0), &[100.0], false, &[0.0]));
    }

    #[test]
    fn keys_of_other_gates_and_of_wrong_clocks_are_tolerated() {
        // two gates that started at once: the older key signs until the other one may
        check(&[0.0, 0.001], 0.5, (Some(0.0), &[0.0, 0.001], false, &[]));
        check(&[0.0, 0.001], 1.5, (Some(0.001), &[0.0, 0.001], false, &[]));
        // a gate that was suspended does not skip the overlap
        check(&[0.0], 5000.0, (Some(0.0), &[0.0], true, &[]));
        check(&[0.0, 5000.0], 5000.5, (Some(0.0), &[0.0, 5000.0], false, &[]));
        // a key of next year neither signs nor delays the next one
        check(&[0.0, 9000.0], 50.0, (Some(0.0), &[0.0, 9000.0], false, &[]));
        check(&[0.0, 9000.0], 100.0, (Some(0.0), &[0.0, 9000.0], true, &[]));
        // it signs if it is the only key
        check(&[9000.0], 50.0, (Some(9000.0), &[9000.0], true, &[]));
    }

    proptest::proptest! {
        #[test]
        fn no_token_outlives_its_key(seed in proptest::collection::vec(0_u32..2000, 1..8), now in 0_u32..4000) {
            let names: Vec<KeyName> = seed.iter().map(|hours| key(f64::from(*hours))).collect();
            let now = at(f64::from(now));
            let found = plan(&names, now, SCHEDULE);
            let signing = found.signing.unwrap();
            assert!(found.published.contains(&signing), "the signing key is published");
            assert_eq!(found.published.len() + found.remove.len(), names.len(), "every key is in one list");
            // every key that could have signed within the longest lifetime is still published
            for ago in 0..=12 {
                let then = now - Duration::from_secs(ago * 300);
                let had: Vec<KeyName> = names.iter().filter(|name| name.created <= then).cloned().collect();
                if let Some(signed) = plan(&had, then, SCHEDULE).signing {
                    assert!(found.published.contains(&signed), "{signed:?} signed {ago} times 5 min ago");
                }
            }
        }
    }
}
