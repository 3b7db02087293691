//! Bodies that are held in memory before they are forwarded.
//!
//! Promises: one body within its limit and its deadline, all of them together within 256 MiB; what the budget has no
//! room for is refused with 503, and the room comes back when the last holder of the bytes is done with them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, SemaphorePermit};

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

/// Bytes that take room in the budget.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: BytesMut,
    room: Option<SemaphorePermit<'static>>,
}

impl Held {
    /// Takes these bytes too.
    ///
    /// # Errors
    /// 503 where the budget has no room for them.
    pub(super) fn push(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let taken = self.room.as_ref().map_or(0, SemaphorePermit::num_permits);
        let more = (self.bytes.len() + data.len()).div_ceil(UNIT).saturating_sub(taken);
        if more > 0 {
            let more = u32::try_from(more).ok().and_then(|more| BUDGET.try_acquire_many(more).ok());
            let more = more.ok_or_else(|| {
                let text = "the gate holds as many bodies as it has room for; try again later";
                Refusal::unavailable("bodies_full", text)
            })?;
            match &mut self.room {
                Some(room) => room.merge(more),
                room => *room = Some(more),
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
            let spare = room.num_permits().saturating_sub(left).min(units);
            room.split(spare)
        });
        Bytes::from_owner(Self { bytes: first, room })
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

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// 413, 408 or 400 where it is larger, slower or breaks off; 503 where the budget has no room for it.
pub(super) async fn whole(mut body: Body, limit: usize) -> Result<Bytes, Refusal> {
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadError::TooLarge(limit).into());
    }
    let reading = async {
        let mut held = Held::default();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_takes_room_until_its_last_holder_is_done() {
        let mut held = Held::default();
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
        let refusal = Held::default().push(&[1]).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.reason), (503, "bodies_full"));
        drop((all, rest));
        assert_eq!(BUDGET.available_permits(), ROOM);
    }
}
