//! How much of unfinished gRPC messages we hold.
//!
//! In comes the length of a message that has begun, out comes leave to gather it. Without this a
//! client could open a hundred streams, announce 10 MiB on each and leave us holding 1 GiB.
//!
//! Half of the budget is for messages as agents send them. A connection has an allowance of it:
//! one peer cannot use it up, and none waits before as many connections as fit in are half way
//! at once. The other half is for larger messages, a connection's streams taking turns at it.

use super::messages::MAX_MESSAGE;
use std::sync::Arc;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// What one connection may have half received without a turn at the budget for large messages,
/// in bytes: one of the batches that agents send (100 envelopes with full tags).
const ALLOWANCE: usize = 128 << 10;

/// What half-received messages may take: of one connection, and of all. Counted in KiB.
#[derive(Clone)]
pub struct Budget {
    batches: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// What this connection may take of `batches`.
    allowance: Arc<Semaphore>,
    /// This connection's turn at `large`.
    turn: Arc<Semaphore>,
}

/// What a message holds until it was taken: its budget, and its connection's allowance or turn.
pub(super) type Leave = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Budget {
    /// A budget of `bytes`, and never less than two of the largest message.
    pub fn new(bytes: usize) -> Budget {
        let half = || Arc::new(Semaphore::new(kib((bytes / 2).max(MAX_MESSAGE)) as usize));
        Budget::sharing(half(), half())
    }

    /// The budget of another connection.
    pub fn of_connection(&self) -> Budget {
        Budget::sharing(self.batches.clone(), self.large.clone())
    }

    fn sharing(batches: Arc<Semaphore>, large: Arc<Semaphore>) -> Budget {
        Budget {
            batches,
            large,
            allowance: Arc::new(Semaphore::new(kib(ALLOWANCE) as usize)),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Waits until a message of that length may be gathered. What is shared is asked for last:
    /// nobody holds it while waiting for himself.
    pub(super) async fn take(&self, bytes: usize) -> Result<Leave, AcquireError> {
        let (own, part, shared) = match bytes {
            0..=ALLOWANCE => (&self.allowance, kib(bytes), &self.batches),
            _ => (&self.turn, 1, &self.large),
        };
        let own = own.clone().acquire_many_owned(part).await?;
        let shared = shared.clone().acquire_many_owned(kib(bytes)).await?;
        Ok((shared, own))
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX) // 4 TiB
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn now(budget: &Budget, bytes: usize) -> Option<Leave> {
        budget.take(bytes).now_or_never().map(Result::unwrap)
    }

    #[test]
    fn all_allowances_together_stay_within_half_of_the_budget() {
        let budget = Budget::new(32 << 20);
        let fit = (16 << 20) / ALLOWANCE;
        let mut held: Vec<_> = (0..fit)
            .map(|_| now(&budget.of_connection(), ALLOWANCE).unwrap())
            .collect();
        assert!(now(&budget.of_connection(), 1).is_none());
        held.pop();
        assert!(now(&budget.of_connection(), ALLOWANCE).is_some());
        assert!(
            now(&budget, MAX_MESSAGE).is_some(),
            "large ones have theirs"
        );
    }

    #[test]
    fn a_connection_takes_its_allowance_and_waits_for_itself_alone() {
        let budget = Budget::new(0);
        let (greedy, honest) = (budget.of_connection(), budget.of_connection());
        let held = now(&greedy, ALLOWANCE).unwrap();
        let mut more = Box::pin(greedy.take(1));
        assert!(more.as_mut().now_or_never().is_none());
        assert!(now(&honest, ALLOWANCE).is_some());
        drop(held);
        assert!(more.now_or_never().is_some());
    }

    #[test]
    fn large_messages_of_a_connection_take_turns_and_leave_batches_alone() {
        let budget = Budget::new(64 << 20);
        let greedy = budget.of_connection();
        let held = now(&greedy, MAX_MESSAGE).unwrap();
        assert!(now(&greedy, ALLOWANCE + 1).is_none());
        assert!(now(&greedy, ALLOWANCE).is_some());
        assert!(now(&budget.of_connection(), MAX_MESSAGE).is_some());
        drop(held);
        assert!(now(&greedy, ALLOWANCE + 1).is_some());
    }

    #[test]
    fn the_largest_message_fits_into_the_smallest_budget() {
        assert!(now(&Budget::new(0), MAX_MESSAGE).is_some());
    }
}
