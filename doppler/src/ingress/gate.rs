//! What every door passes before it takes the next message: open, but while the machine is
//! overloaded. HTTP/2's windows tell the agents.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// One gate for all doors.
#[derive(Debug, Default)]
pub struct Gate {
    closed: AtomicBool,
    opened: Notify,
}

impl Gate {
    /// Closes it, or opens it and lets those through who wait.
    pub fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::Release);
        if !closed {
            self.opened.notify_waiters();
        }
    }

    /// Waits until it is open.
    pub async fn pass(&self) {
        while self.closed.load(Ordering::Acquire) {
            let opened = self.opened.notified();
            // It may have opened before we began to wait.
            if self.closed.load(Ordering::Acquire) {
                opened.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn who_comes_while_it_is_closed_waits_until_it_opens() {
        let gate = Gate::default();
        assert!(gate.pass().now_or_never().is_some());
        gate.close(true);
        let waits = gate.pass();
        let mut waits = std::pin::pin!(waits);
        assert!(waits.as_mut().now_or_never().is_none());
        gate.close(false);
        assert!(waits.now_or_never().is_some());
    }
}
