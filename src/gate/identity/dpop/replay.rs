//! Replay cache of DPoP proofs: each proof is accepted once (RFC 9449 section 11.1).
//!
//! Promises: a proof is kept for as long as it is valid. Memory is bounded; a proof that does not fit is refused, never
//! accepted. Each key has a bounded share, and a client cannot choose the shard of a proof. No clock: `now` is an argument.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::clock::{self, Timestamp};

/// So many that threads rarely contend for one.
const SHARDS: usize = 16;
/// Proofs of one window and shard. A million of a window in all shards, in at most about 110 MB.
const CAPACITY: usize = 65_536;
/// Of those, proofs by one key.
const MAX_PER_KEY: u32 = 8_192;

/// The proofs of the last window and of the one before.
pub(super) struct ReplayCache {
    capacity: usize,
    share: u32,
    /// Keyed per process, so that a client cannot choose a shard.
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    /// The begin of the current window.
    began: Option<Timestamp>,
    current: HashSet<u128>,
    /// The number of proofs in `current` by each key, by the key's hash.
    shares: HashMap<u64, u32>,
    last: HashSet<u128>,
}

/// The result of a replay check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplayCheck {
    /// New; it is in the cache now.
    New,
    /// Used before.
    Replayed,
    /// Not checked: the cache, or the share of its key, is full.
    Full,
}

impl ReplayCache {
    pub(super) fn new() -> Self {
        Self { capacity: CAPACITY, share: MAX_PER_KEY, hasher: RandomState::new(), shards: Default::default() }
    }

    /// Checks this proof by `key`, and keeps it for at least `window` and at most twice that. A longer window than before
    /// extends the time of the proofs in the cache.
    pub(super) fn check_and_insert(&self, id: u128, key: &[u8; 32], now: Timestamp, window: Duration) -> ReplayCheck {
        #[allow(clippy::cast_possible_truncation, reason = "the remainder is below 16")]
        let index = (self.hasher.hash_one(id) % SHARDS as u64) as usize;
        let Some(shard) = self.shards.get(index) else { return ReplayCheck::Full };
        // a panic under the lock cannot have left a partial change
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.rotate(now, window);
        if shard.current.contains(&id) || shard.last.contains(&id) {
            return ReplayCheck::Replayed;
        }
        if shard.current.len() >= self.capacity {
            return ReplayCheck::Full;
        }
        let used = shard.shares.entry(self.hasher.hash_one(key)).or_default();
        if *used >= self.share {
            return ReplayCheck::Full;
        }
        *used += 1;
        shard.current.insert(id);
        ReplayCheck::New
    }
}

impl Shard {
    /// Begins a new window if the current one is over. A clock that goes back drops nothing.
    fn rotate(&mut self, now: Timestamp, window: Duration) {
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

    fn check(replay: &ReplayCache, id: u128, now: Timestamp) -> ReplayCheck {
        replay.check_and_insert(id, &[0; 32], now, WINDOW)
    }

    #[test]
    fn a_proof_is_accepted_once_while_it_is_valid() {
        for first in [0, 1, 35, 69, 70, 71, 139, 140] {
            let replay = ReplayCache::new();
            assert_eq!(check(&replay, 0, at(0)), ReplayCheck::New);
            assert_eq!(check(&replay, 16, at(first)), ReplayCheck::New);
            for later in [0, 1, 35, 69, 70] {
                assert_eq!(check(&replay, 16, at(first + later)), ReplayCheck::Replayed, "{first} and {later} s later");
            }
        }
    }

    #[test]
    fn expired_proofs_are_dropped() {
        let replay = ReplayCache::new();
        assert_eq!(check(&replay, 0, at(0)), ReplayCheck::New);
        assert_eq!(check(&replay, 0, at(140)), ReplayCheck::New);
        assert_eq!(check(&replay, 1, at(150)), ReplayCheck::New);
        let cached: usize = replay.shards.iter().map(|s| s.lock().unwrap().current.len()).sum();
        assert_eq!(cached, 2);
    }

    #[test]
    fn a_proof_that_does_not_fit_is_refused() {
        let replay = ReplayCache { capacity: 2, ..ReplayCache::new() };
        let accepted: Vec<u128> = (0..1000).filter(|id| check(&replay, *id, at(0)) == ReplayCheck::New).collect();
        assert_eq!(accepted.len(), 2 * SHARDS);
        let [first, ..] = accepted[..] else { panic!() };
        let refused = (0..1000).find(|id| !accepted.contains(id)).unwrap();
        assert_eq!(check(&replay, refused, at(0)), ReplayCheck::Full);
        // the next window has room
        assert_eq!(check(&replay, refused, at(70)), ReplayCheck::New);
        assert_eq!(check(&replay, first, at(70)), ReplayCheck::Replayed);
    }

    #[test]
    fn a_key_has_a_bounded_share() {
        let replay = ReplayCache { share: 2, ..ReplayCache::new() };
        // all in one shard, if the client could choose it
        let greedy = (0..1000).map(|n| n * SHARDS as u128).filter(|id| check(&replay, *id, at(0)) == ReplayCheck::New);
        assert_eq!(greedy.count(), 2 * SHARDS);
        for id in 1..=16 {
            let other = [u8::try_from(id).unwrap(); 32];
            assert_eq!(replay.check_and_insert(id * SHARDS as u128 + 1, &other, at(0), WINDOW), ReplayCheck::New);
        }
        assert_eq!(check(&replay, 999 * SHARDS as u128, at(0)), ReplayCheck::Full);
        assert_eq!(check(&replay, 999 * SHARDS as u128, at(70)), ReplayCheck::New);
    }

    #[test]
    fn a_clock_that_goes_back_drops_nothing() {
        let replay = ReplayCache::new();
        assert_eq!(check(&replay, 0, at(100)), ReplayCheck::New);
        assert_eq!(check(&replay, 0, at(0)), ReplayCheck::Replayed);
    }
}
