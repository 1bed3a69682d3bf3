//! Since when a peer has taken no whole frame though one waits: for its socket's own deadline,
//! and for whoever decides by more than the time while a `send` is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How a socket's writing stands. Clones show the same socket.
///
/// Bytes do not count: who takes one now and then would keep its place for ever.
#[derive(Debug, Clone)]
pub struct Progress {
    began: Instant,
    /// Nanoseconds from `began` to when it began to wait, and one more; 0 while nothing waits.
    waits: Arc<AtomicU64>,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Progress {
        Progress {
            began: now,
            waits: Arc::default(),
        }
    }

    /// Since when something waits and no whole frame was taken; `None` while nothing waits.
    pub fn waiting_since(&self) -> Option<Instant> {
        let nanos = self.waits.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.began + Duration::from_nanos(nanos))
    }

    /// The stream accepts no more.
    pub(super) fn waits(&self) {
        if self.waits.load(Ordering::Relaxed) == 0 {
            let nanos = self.began.elapsed().as_nanos();
            let nanos = u64::try_from(nanos).unwrap_or(u64::MAX - 1);
            self.waits.store(nanos + 1, Ordering::Relaxed);
        }
    }

    /// A whole frame was taken, or everything.
    pub(super) fn took(&self) {
        self.waits.store(0, Ordering::Relaxed);
    }
}
