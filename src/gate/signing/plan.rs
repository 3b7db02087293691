//! Which key signs, which are published, when the next is made and when the old one goes. Pure: names and times in, a
//! plan out, so that every gate that shares a directory comes to the same one.
//!
//! Promises: a key that signs has been published for a whole overlap before, unless it is the first of all; a key stays
//! published until the last token that it can have signed has ended.

use std::time::Duration;

use crate::clock::{self, Timestamp};

/// The longest that anything signed here may live. Old keys stay published for it, whatever is configured now, because
/// what is alive was signed under the settings of then.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// Added before a key is removed: the clock difference that verifiers allow, and another gate that looks at the
/// directory a little later.
const SLACK: Duration = Duration::from_secs(10 * 60);

/// When keys change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The age of the newest key at which the next is made.
    pub rotate: Duration,
    /// How long a key is published before it signs: at least as long as verifiers keep the key set.
    pub overlap: Duration,
}

/// A key as its file's name tells of it. The order is that of time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyName {
    /// When it was made, to the second.
    pub created: Timestamp,
    /// Its thumbprint (RFC 7638).
    pub kid: String,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan<'a> {
    /// The key that signs.
    pub signing: Option<&'a KeyName>,
    /// The keys that verifiers are told of, the oldest first.
    pub published: Vec<&'a KeyName>,
    /// Whether a new key is due.
    pub make: bool,
    /// Keys whose last token has ended.
    pub remove: Vec<&'a KeyName>,
}

/// The plan for these keys at `now`. Their order does not matter.
#[must_use]
pub(crate) fn plan<'a>(keys: &'a [KeyName], now: Timestamp, schedule: Schedule) -> Plan<'a> {
    let mut keys: Vec<&KeyName> = keys.iter().collect();
    keys.sort_unstable();
    // a key of a far future is of a clock that was wrong; it must not put off the next one
    let make = !keys.iter().any(|key| {
        let from_now = clock::after(now, schedule.overlap);
        key.created <= from_now && now < clock::after(key.created, schedule.rotate)
    });
    let ripe = |key: &KeyName| clock::after(key.created, schedule.overlap) <= now;
    // the first key of all signs at once: nobody can have kept a key set without it
    let turn = keys.iter().rposition(|key| ripe(key)).unwrap_or(0);
    let signing = keys.get(turn).copied();
    let over = |successor: &KeyName| {
        let retired = clock::after(successor.created, schedule.overlap);
        clock::after(clock::after(retired, MAX_LIFETIME), SLACK) <= now
    };
    // a key is retired when its successor's turn comes; those before the one that signs have had theirs
    let gone = (0..turn).take_while(|at| keys.get(at + 1).is_some_and(|next| over(next))).count();
    let published = keys.split_off(gone);
    Plan { signing, published, make, remove: keys }
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

    /// `keys` and times in hours; the plan as (signs, published, made, removed).
    fn check(keys: &[f64], now: f64, expected: (Option<f64>, &[f64], bool, &[f64])) {
        let names: Vec<KeyName> = keys.iter().map(|hours| key(*hours)).collect();
        let found = plan(&names, at(now), SCHEDULE);
        let kids = |keys: &[f64]| keys.iter().map(|hours| key(*hours)).collect::<Vec<_>>();
        let of = |names: &[&KeyName]| names.iter().map(|name| (*name).clone()).collect::<Vec<_>>();
        let (signs, published, made, removed) = expected;
        assert_eq!(found.signing.cloned(), signs.map(key), "who signs of {keys:?} at {now}");
        assert_eq!(of(&found.published), kids(published), "who is published of {keys:?} at {now}");
        assert_eq!((found.make, of(&found.remove)), (made, kids(removed)), "made, removed of {keys:?} at {now}");
    }

    #[test]
    fn keys_take_turns_with_overlap() {
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
    fn what_other_gates_and_wrong_clocks_leave_behind_is_borne() {
        // two gates that started at once: the older signs until the other is ripe
        check(&[0.0, 0.001], 0.5, (Some(0.0), &[0.0, 0.001], false, &[]));
        check(&[0.0, 0.001], 1.5, (Some(0.001), &[0.0, 0.001], false, &[]));
        // a gate that stood still for long does not jump over the overlap
        check(&[0.0], 5000.0, (Some(0.0), &[0.0], true, &[]));
        check(&[0.0, 5000.0], 5000.5, (Some(0.0), &[0.0, 5000.0], false, &[]));
        // a key of next year neither signs nor puts off the next one
        check(&[0.0, 9000.0], 50.0, (Some(0.0), &[0.0, 9000.0], false, &[]));
        check(&[0.0, 9000.0], 100.0, (Some(0.0), &[0.0, 9000.0], true, &[]));
        // where it is the only one it signs: better than nothing
        check(&[9000.0], 50.0, (Some(9000.0), &[9000.0], true, &[]));
    }

    proptest::proptest! {
        #[test]
        fn no_token_outlives_its_key(seed in proptest::collection::vec(0_u32..2000, 1..8), now in 0_u32..4000) {
            let names: Vec<KeyName> = seed.iter().map(|hours| key(f64::from(*hours))).collect();
            let now = at(f64::from(now));
            let found = plan(&names, now, SCHEDULE);
            let signing = found.signing.unwrap();
            assert!(found.published.contains(&signing), "who signs is published");
            assert_eq!(found.published.len() + found.remove.len(), names.len(), "every key is in one list");
            // whoever could have signed within the longest life of a token is published still
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
