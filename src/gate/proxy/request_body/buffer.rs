//! Bodies that are held in memory before they are forwarded.
//!
//! Promises: one body within its limit and its deadline, all of them together within 256 MiB; what the budget has no
//! room for is refused with 503, and the room comes back when the last holder of the bytes is done with them. No caller
//! takes more than half of it, so that none can keep all others waiting.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::{
    http::{Body, ReadError},
    refusal::Refusal,
};

/// How long a body, or a stream's first message, may take to arrive.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// Room for the bodies that are held at once, in units of [`UNIT`]: 256 MiB.
const ROOM: usize = (256 << 20) / UNIT;
const UNIT: usize = 1024;

static BUDGET: Semaphore = Semaphore::const_new(ROOM);

/// What one caller's bodies may take of it.
const SHARE: usize = ROOM / 2;
/// The shares that are in use, by caller.
static SHARES: LazyLock<Mutex<HashMap<Arc<str>, Weak<Share>>>> = LazyLock::new(Mutex::default);

/// One caller's part of the budget.
#[derive(Debug)]
pub(super) struct Share {
    caller: Arc<str>,
    room: Arc<Semaphore>,
}

impl Share {
    /// This caller's, the same for all of its requests at a time.
    pub(super) fn of(caller: &Arc<str>) -> Arc<Self> {
        let mut shares = shares();
        if let Some(known) = shares.get(caller).and_then(Weak::upgrade) {
            return known;
        }
        let made = Arc::new(Self { caller: caller.clone(), room: Arc::new(Semaphore::new(SHARE)) });
        shares.insert(caller.clone(), Arc::downgrade(&made));
        made
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = shares();
        // another request of the caller's may have made a new one by now
        if shares.get(&self.caller).is_some_and(|known| known.strong_count() == 0) {
            shares.remove(&self.caller);
        }
    }
}

fn shares() -> MutexGuard<'static, HashMap<Arc<str>, Weak<Share>>> {
    SHARES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that take room in the budget.
#[derive(Debug)]
pub(super) struct Held {
    bytes: BytesMut,
    room: Option<Room>,
    share: Arc<Share>,
}

/// Room in the budget, and as much of the caller's share.
#[derive(Debug)]
struct Room {
    all: SemaphorePermit<'static>,
    own: OwnedSemaphorePermit,
}

impl Held {
    /// Nothing yet, of this share.
    pub(super) fn of(share: Arc<Share>) -> Self {
        Self { bytes: BytesMut::new(), room: None, share }
    }

    /// Whose bytes they are.
    pub(super) fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Takes these bytes too.
    ///
    /// # Errors
    /// 503 where the budget, or the caller's share, has no room for them.
    pub(super) fn push(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let taken = self.room.as_ref().map_or(0, |room| room.all.num_permits());
        let more = (self.bytes.len() + data.len()).div_ceil(UNIT).saturating_sub(taken);
        if more > 0 {
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            let own = self.share.room.clone().try_acquire_many_owned(more).map_err(|_| {
                let text = "your requests hold as much as one caller's bodies may take; send fewer at a time";
                Refusal::unavailable("bodies_full", text)
            })?;
            let all = BUDGET.try_acquire_many(more).map_err(|_| {
                let text = "the gate holds as many bodies as it has room for; try again later";
                Refusal::unavailable("bodies_full", text)
            })?;
            match &mut self.room {
                Some(room) => {
                    room.all.merge(all);
                    room.own.merge(own);
                }
                room => *room = Some(Room { all, own }),
            }
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The first `length` bytes, with as much room as is left for the rest.
    pub(super) fn take(&mut self, length: usize) -> Bytes {
        let first = self.bytes.split_to(length.min(self.bytes.len()));
        let units = first.len().div_ceil(UNIT);
        let left = self.bytes.len().div_ceil(UNIT);
        let room = self.room.as_mut().and_then(|room| {
            let spare = room.all.num_permits().saturating_sub(left).min(units);
            Some(Room { all: room.all.split(spare)?, own: room.own.split(spare)? })
        });
        Bytes::from_owner(Self { bytes: first, room, share: self.share.clone() })
    }

    /// All of them.
    pub(super) fn all(self) -> Bytes {
        if self.bytes.is_empty() { Bytes::new() } else { Bytes::from_owner(self) }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body of at most `limit` bytes into its caller's share.
///
/// # Errors
/// 413, 408 or 400 where it is larger, slower or breaks off; 503 where the budget has no room for it.
pub(super) async fn whole(mut body: Body, limit: usize, caller: &Arc<str>) -> Result<Bytes, Refusal> {
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadError::TooLarge(limit).into());
    }
    let reading = async {
        let mut held = Held::of(Share::of(caller));
        while let Some(data) = next(&mut body).await? {
            if held.bytes.len() + data.len() > limit {
                return Err(ReadError::TooLarge(limit).into());
            }
            held.push(&data)?;
        }
        Ok(held.all())
    };
    tokio::time::timeout(DEADLINE, reading).await.map_err(|_| too_slow())?
}

/// The body's next bytes.
pub(super) async fn next(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    match body.frame().await.transpose().map_err(ReadError::Broken)? {
        Some(frame) => Ok(Some(frame.into_data().unwrap_or_default())),
        None => Ok(None),
    }
}

pub(super) fn too_slow() -> Refusal {
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "the body did not arrive within 30s")
}

/// For tests that take room: the budget is one for all of the process.
#[cfg(test)]
pub(super) static ALONE: Mutex<()> = Mutex::new(());

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing yet, of somebody who has nothing else.
    fn of(caller: &str) -> Held {
        Held::of(Share::of(&caller.into()))
    }

    #[test]
    fn what_is_held_takes_room_until_its_last_holder_is_done() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = of("a");
        held.push(&[1; 5000]).unwrap();
        assert_eq!(BUDGET.available_permits(), ROOM - 5);
        let first = held.take(3000);
        assert_eq!((first.len(), held.bytes().len(), BUDGET.available_permits()), (3000, 2000, ROOM - 5));
        let copy = first.clone();
        drop(first);
        held.push(&[1; 100]).unwrap();
        assert_eq!(BUDGET.available_permits(), ROOM - 6, "3 for what was taken, 3 for 2,100 bytes");
        drop(copy);
        assert_eq!(BUDGET.available_permits(), ROOM - 3);
        let all = held.all();
        let rest = BUDGET.try_acquire_many(u32::try_from(ROOM - 3).unwrap()).unwrap();
        let refusal = of("b").push(&[1]).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.reason), (503, "bodies_full"));
        drop((all, rest));
        assert_eq!(BUDGET.available_permits(), ROOM);

        // however many bodies it sends at once, nobody takes more than half
        let part = vec![1; 1 << 20];
        let mut greedy: Vec<Held> = (0..128).map(|_| of("greedy")).collect();
        for held in &mut greedy {
            held.push(&part).unwrap();
        }
        let refusal = of("greedy").push(&[1]).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.reason), (503, "bodies_full"));
        of("other").push(&part).unwrap();
        let kept = greedy.pop().unwrap().all();
        assert!(of("greedy").push(&[1]).is_err(), "its bytes are still held");
        drop(kept);
        of("greedy").push(&part).unwrap();
        drop(greedy);
        assert_eq!(BUDGET.available_permits(), ROOM);
        assert!(shares().is_empty());
    }
}
