//! Which proofs came before: each counts once (RFC 9449 section 11.1).
//!
//! Promises: a proof is remembered for as long as it could be taken again; memory is bounded, and what does not fit is
//! refused, never let through. No key has more than its share of it, and nobody can choose which part a proof fills.
//! Pure of clocks: `now` is an argument.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::clock::{self, Timestamp};

/// Requests on several threads seldom meet in one.
const SHARDS: usize = 16;
/// Proofs of one window and shard: a million of a window in all, in some 110 MB at the very most.
const CAPACITY: usize = 65_536;
/// Of those, proofs by one key.
const SHARE: u32 = 8_192;

/// The proofs of the last window and of the one before.
pub(super) struct Replay {
    capacity: usize,
    share: u32,
    /// Its key is the process's own, so that no client can tell where its proofs go.
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    /// When `current` began to fill.
    began: Option<Timestamp>,
    current: HashSet<u128>,
    /// How many of `current` are by each key, by the key's hash.
    shares: HashMap<u64, u32>,
    last: HashSet<u128>,
}

/// What is known of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It came for the first time, and is remembered now.
    Never,
    /// It came before.
    Before,
    /// Nobody can say: there is no room to remember it, or none for its key.
    Full,
}

impl Replay {
    pub(super) fn new() -> Self {
        Self { capacity: CAPACITY, share: SHARE, hasher: RandomState::new(), shards: Default::default() }
    }

    /// Whether this proof by `key` came before; from here on it did, for `window` at least and for twice that at most.
    /// A longer window than before keeps what is there for longer.
    pub(super) fn seen(&self, id: u128, key: &[u8; 32], now: Timestamp, window: Duration) -> Seen {
        #[allow(clippy::cast_possible_truncation, reason = "the remainder is below 16")]
        let index = (self.hasher.hash_one(id) % SHARDS as u64) as usize;
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
        let used = shard.shares.entry(self.hasher.hash_one(key)).or_default();
        if *used >= self.share {
            return Seen::Full;
        }
        *used += 1;
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
        self.shares = HashMap::new();
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

    fn seen(replay: &Replay, id: u128, now: Timestamp) -> Seen {
        replay.seen(id, &[0; 32], now, WINDOW)
    }

    #[test]
    fn a_proof_counts_once_for_as_long_as_it_could_be_taken() {
        for first in [0, 1, 35, 69, 70, 71, 139, 140] {
            let replay = Replay::new();
            assert_eq!(seen(&replay, 0, at(0)), Seen::Never);
            assert_eq!(seen(&replay, 16, at(first)), Seen::Never);
            for later in [0, 1, 35, 69, 70] {
                assert_eq!(seen(&replay, 16, at(first + later)), Seen::Before, "{first} and {later} s later");
            }
        }
    }

    #[test]
    fn what_can_no_longer_be_taken_is_forgotten() {
        let replay = Replay::new();
        assert_eq!(seen(&replay, 0, at(0)), Seen::Never);
        assert_eq!(seen(&replay, 0, at(140)), Seen::Never);
        assert_eq!(seen(&replay, 1, at(150)), Seen::Never);
        let held: usize = replay.shards.iter().map(|s| s.lock().unwrap().current.len()).sum();
        assert_eq!(held, 2);
    }

    #[test]
    fn what_does_not_fit_is_not_let_through() {
        let replay = Replay { capacity: 2, ..Replay::new() };
        let taken: Vec<u128> = (0..1000).filter(|id| seen(&replay, *id, at(0)) == Seen::Never).collect();
        assert_eq!(taken.len(), 2 * SHARDS);
        let [first, ..] = taken[..] else { panic!() };
        let refused = (0..1000).find(|id| !taken.contains(id)).unwrap();
        assert_eq!(seen(&replay, refused, at(0)), Seen::Full);
        // the next window has room
        assert_eq!(seen(&replay, refused, at(70)), Seen::Never);
        assert_eq!(seen(&replay, first, at(70)), Seen::Before);
    }

    #[test]
    fn a_key_fills_no_more_than_its_share() {
        let replay = Replay { share: 2, ..Replay::new() };
        // all of one shard, had the client had its way
        let greedy = (0..1000).map(|n| n * SHARDS as u128).filter(|id| seen(&replay, *id, at(0)) == Seen::Never);
        assert_eq!(greedy.count(), 2 * SHARDS);
        for id in 1..=16 {
            let other = [u8::try_from(id).unwrap(); 32];
            assert_eq!(replay.seen(id * SHARDS as u128 + 1, &other, at(0), WINDOW), Seen::Never);
        }
        assert_eq!(seen(&replay, 999 * SHARDS as u128, at(0)), Seen::Full);
        assert_eq!(seen(&replay, 999 * SHARDS as u128, at(70)), Seen::Never);
    }

    #[test]
    fn a_clock_that_goes_back_forgets_nothing() {
        let replay = Replay::new();
        assert_eq!(seen(&replay, 0, at(100)), Seen::Never);
        assert_eq!(seen(&replay, 0, at(0)), Seen::Before);
    }
}
