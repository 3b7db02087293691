//! Memory budget for buffered request bodies.
//!
//! Promises: one body stays within its size limit and its deadline. All buffered bodies together stay within 256 MiB, and
//! those of one caller within half of that, so that no caller can keep all others waiting. A body for which the budget has
//! no room is refused with 503. Memory returns to the budget when the last reference to the bytes is dropped.

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

/// Largest body, and largest gRPC message, in bytes: the limit of Google's dedicated endpoints.
pub(super) const MAX_BODY: usize = 10 << 20;
/// Time limit for a buffered body, and for the first message of a stream.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// Granularity of the budget, in bytes.
const UNIT: usize = 1024;
/// Budget for all buffered bodies: 256 MiB, in units.
const BUDGET_UNITS: usize = (256 << 20) / UNIT;
/// Budget for the bodies of one caller, in units.
const CALLER_UNITS: usize = BUDGET_UNITS / 2;

static BUDGET: Semaphore = Semaphore::const_new(BUDGET_UNITS);
/// The budgets of callers that have buffered bodies now.
static CALLER_BUDGETS: LazyLock<Mutex<HashMap<Arc<str>, Weak<CallerBudget>>>> = LazyLock::new(Mutex::default);

/// One caller's part of the budget.
#[derive(Debug)]
pub(super) struct CallerBudget {
    caller: Arc<str>,
    permits: Arc<Semaphore>,
}

impl CallerBudget {
    /// The budget of `caller`, shared by all its concurrent requests.
    pub(super) fn of(caller: &Arc<str>) -> Arc<Self> {
        let mut budgets = budgets();
        if let Some(known) = budgets.get(caller).and_then(Weak::upgrade) {
            return known;
        }
        let created = Arc::new(Self { caller: caller.clone(), permits: Arc::new(Semaphore::new(CALLER_UNITS)) });
        budgets.insert(caller.clone(), Arc::downgrade(&created));
        created
    }
}

impl Drop for CallerBudget {
    fn drop(&mut self) {
        let mut budgets = budgets();
        // another request of the same caller may have inserted a new budget by now
        if budgets.get(&self.caller).is_some_and(|known| known.strong_count() == 0) {
            budgets.remove(&self.caller);
        }
    }
}

fn budgets() -> MutexGuard<'static, HashMap<Arc<str>, Weak<CallerBudget>>> {
    CALLER_BUDGETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that are charged to the budget while they are in memory.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: BytesMut,
    permits: Option<BudgetPermits>,
    budget: Arc<CallerBudget>,
}

/// Units taken from the global budget, and the same number from the caller's budget.
#[derive(Debug)]
struct BudgetPermits {
    global: SemaphorePermit<'static>,
    caller: OwnedSemaphorePermit,
}

impl Buffer {
    /// An empty buffer of this caller.
    pub(super) fn new(budget: Arc<CallerBudget>) -> Self {
        Self { bytes: BytesMut::new(), permits: None, budget }
    }

    /// The budget of the caller whose bytes these are.
    pub(super) fn budget(&self) -> &Arc<CallerBudget> {
        &self.budget
    }

    /// Appends `data`.
    ///
    /// # Errors
    /// 503 if the global budget or the caller's budget is used up.
    pub(super) fn push(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let taken = self.permits.as_ref().map_or(0, |permits| permits.global.num_permits());
        let more = (self.bytes.len() + data.len()).div_ceil(UNIT).saturating_sub(taken);
        if more > 0 {
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            let caller = self.budget.permits.clone().try_acquire_many_owned(more).map_err(|_| {
                let text =
                    "your requests use all the memory that one caller's request bodies may use; send fewer at a time";
                Refusal::unavailable("bodies_full", text)
            })?;
            let global = BUDGET.try_acquire_many(more).map_err(|_| {
                let text = "the gate's memory for request bodies is used up; try again later";
                Refusal::unavailable("bodies_full", text)
            })?;
            match &mut self.permits {
                Some(permits) => {
                    permits.global.merge(global);
                    permits.caller.merge(caller);
                }
                permits => *permits = Some(BudgetPermits { global, caller }),
            }
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Splits off the first `length` bytes, with the units that the rest does not need.
    pub(super) fn split_to(&mut self, length: usize) -> Bytes {
        let first = self.bytes.split_to(length.min(self.bytes.len()));
        let units = first.len().div_ceil(UNIT);
        let rest = self.bytes.len().div_ceil(UNIT);
        let permits = self.permits.as_mut().and_then(|permits| {
            let spare = permits.global.num_permits().saturating_sub(rest).min(units);
            Some(BudgetPermits { global: permits.global.split(spare)?, caller: permits.caller.split(spare)? })
        });
        Bytes::from_owner(Self { bytes: first, permits, budget: self.budget.clone() })
    }

    /// All bytes; they stay charged until the last clone is dropped.
    pub(super) fn into_bytes(self) -> Bytes {
        if self.bytes.is_empty() { Bytes::new() } else { Bytes::from_owner(self) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body of at most `limit` bytes into the budget of `caller`.
///
/// # Errors
/// 413 if it is larger, 408 if it is slower than [`DEADLINE`], 400 if the connection breaks off, 503 if the budget is used
/// up.
pub(super) async fn read_whole(mut body: Body, limit: usize, caller: &Arc<str>) -> Result<Bytes, Refusal> {
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadError::TooLarge(limit).into());
    }
    let reading = async {
        let mut buffer = Buffer::new(CallerBudget::of(caller));
        while let Some(data) = next_data(&mut body).await? {
            if buffer.bytes.len() + data.len() > limit {
                return Err(ReadError::TooLarge(limit).into());
            }
            buffer.push(&data)?;
        }
        Ok(buffer.into_bytes())
    };
    tokio::time::timeout(DEADLINE, reading).await.map_err(|_| too_slow())?
}

/// The next bytes of a body; `None` at its end.
pub(super) async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    match body.frame().await.transpose().map_err(ReadError::Broken)? {
        Some(frame) => Ok(Some(frame.into_data().unwrap_or_default())),
        None => Ok(None),
    }
}

pub(super) fn too_slow() -> Refusal {
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "the body did not arrive within 30s")
}

/// Serializes the tests that measure the budget: it is one for the whole process.
#[cfg(test)]
pub(super) static BUDGET_TEST_LOCK: Mutex<()> = Mutex::new(());

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty buffer of a caller without other requests.
    fn buffer_of(caller: &str) -> Buffer {
        Buffer::new(CallerBudget::of(&caller.into()))
    }

    #[test]
    fn buffered_bytes_are_charged_until_their_last_reference_is_dropped() {
        let _guard = BUDGET_TEST_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = buffer_of("a");
        buffer.push(&[1; 5000]).unwrap();
        assert_eq!(BUDGET.available_permits(), BUDGET_UNITS - 5);
        let first = buffer.split_to(3000);
        assert_eq!((first.len(), buffer.bytes().len(), BUDGET.available_permits()), (3000, 2000, BUDGET_UNITS - 5));
        let copy = first.clone();
        drop(first);
        buffer.push(&[1; 100]).unwrap();
        assert_eq!(BUDGET.available_permits(), BUDGET_UNITS - 6, "3 for what was split off, 3 for 2,100 bytes");
        drop(copy);
        assert_eq!(BUDGET.available_permits(), BUDGET_UNITS - 3);
        let all = buffer.into_bytes();
        let rest = BUDGET.try_acquire_many(u32::try_from(BUDGET_UNITS - 3).unwrap()).unwrap();
        let refusal = buffer_of("b").push(&[1]).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.reason), (503, "bodies_full"));
        drop((all, rest));
        assert_eq!(BUDGET.available_permits(), BUDGET_UNITS);
    }

    #[test]
    fn one_caller_gets_half_of_the_budget_however_many_bodies_it_sends() {
        let _guard = BUDGET_TEST_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let part = vec![1; 1 << 20];
        let mut greedy: Vec<Buffer> = (0..128).map(|_| buffer_of("greedy")).collect();
        for buffer in &mut greedy {
            buffer.push(&part).unwrap();
        }
        let refusal = buffer_of("greedy").push(&[1]).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.reason), (503, "bodies_full"));
        buffer_of("other").push(&part).unwrap();
        let forwarded = greedy.pop().unwrap().into_bytes();
        assert!(buffer_of("greedy").push(&[1]).is_err(), "its bytes are still in memory");
        drop(forwarded);
        buffer_of("greedy").push(&part).unwrap();
        drop(greedy);
        assert_eq!(BUDGET.available_permits(), BUDGET_UNITS);
        assert!(budgets().is_empty());
    }
}
