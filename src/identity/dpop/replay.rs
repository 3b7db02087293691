//! Which proofs came before: each counts once (RFC 9449 section 11.1).
//!
//! Promises: a proof is remembered for as long as it could be taken again; memory is bounded, and what does not fit is
//! refused, never let through. Pure of clocks: `now` is an argument.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::clock::{self, Timestamp};

/// Requests on several threads seldom meet in one.
const SHARDS: usize = 16;
/// Proofs of one window and shard: a million of a window in all, in some 40 MB at the very most.
const CAPACITY: usize = 65_536;

/// The proofs of the last window and of the one before.
pub(super) struct Replay {
    capacity: usize,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    /// When `current` began to fill.
    began: Option<Timestamp>,
    current: HashSet<u128>,
    last: HashSet<u128>,
}

/// What is known of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It came for the first time, and is remembered now.
    Never,
    /// It came before.
    Before,
    /// Nobody can say: there is no room to remember it.
    Full,
}

impl Replay {
    pub(super) fn new() -> Self {
        Self { capacity: CAPACITY, shards: Default::default() }
    }

    /// Whether this proof came before; from here on it did, for `window` at least and for twice that at most. A longer
    /// window than before keeps what is there for longer.
    pub(super) fn seen(&self, id: u128, now: Timestamp, window: Duration) -> Seen {
        #[allow(clippy::cast_possible_truncation, reason = "the remainder is below 16")]
        let index = (id % SHARDS as u128) as usize;
        let Some(shard) = self.shards.get(index) else { return Seen::Full };
        // whoever panicked with the lock had not begun to change anything
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.turn(now, window);
        if shard.current.contains(&id) || shard.last.contains(&id) {
            return Seen::Before;
        }
        if shard.current.len() >= self.capacity {
            return Seen::Full;
        }
        shard.current.insert(id);
        Seen::Never
    }
}

impl Shard {
    /// Begins a new window where the last is over. A clock that goes back forgets nothing.
    fn turn(&mut self, now: Timestamp, window: Duration) {
        let began = *self.began.get_or_insert(now);
        if now < clock::after(began, window) {
            return;
        }
        self.last = std::mem::take(&mut self.current);
        if now >= clock::after(began, window * 2) {
            self.last = HashSet::new();
        }
        self.began = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(70);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_proof_counts_once_for_as_long_as_it_could_be_taken() {
        for first in [0, 1, 35, 69, 70, 71, 139, 140] {
            let replay = Replay::new();
            assert_eq!(replay.seen(0, at(0), WINDOW), Seen::Never);
            assert_eq!(replay.seen(16, at(first), WINDOW), Seen::Never);
            for later in [0, 1, 35, 69, 70] {
                assert_eq!(replay.seen(16, at(first + later), WINDOW), Seen::Before, "{first} and {later} s later");
            }
        }
    }

    #[test]
    fn what_can_no_longer_be_taken_is_forgotten() {
        let replay = Replay::new();
        assert_eq!(replay.seen(0, at(0), WINDOW), Seen::Never);
        assert_eq!(replay.seen(0, at(140), WINDOW), Seen::Never);
        assert_eq!(replay.seen(1, at(150), WINDOW), Seen::Never);
        let held: usize = replay.shards.iter().map(|s| s.lock().unwrap().current.len()).sum();
        assert_eq!(held, 2);
    }

    #[test]
    fn what_does_not_fit_is_not_let_through() {
        let replay = Replay { capacity: 2, ..Replay::new() };
        assert_eq!([0, 16, 32].map(|id| replay.seen(id, at(0), WINDOW)), [Seen::Never, Seen::Never, Seen::Full]);
        // another shard has room, and the next window too
        assert_eq!(replay.seen(1, at(0), WINDOW), Seen::Never);
        assert_eq!(replay.seen(32, at(70), WINDOW), Seen::Never);
        assert_eq!(replay.seen(0, at(70), WINDOW), Seen::Before);
    }

    #[test]
    fn a_clock_that_goes_back_forgets_nothing() {
        let replay = Replay::new();
        assert_eq!(replay.seen(0, at(100), WINDOW), Seen::Never);
        assert_eq!(replay.seen(0, at(0), WINDOW), Seen::Before);
    }
}
