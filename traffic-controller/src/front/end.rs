//! Why a client's stream is over, and what that means: for whoever counts what did not reach
//! it, and for the client.

use super::slow::{Rules, Slow};
use transport::ledger::Reason;
use transport::websocket::{Close, Ended};

/// Why a stream is over.
pub(super) enum End {
    /// The client left.
    Client(Ended),
    /// The client did not keep up.
    Slow(Slow),
    /// What let the client in is no longer good, for this reason.
    Lost(&'static str),
    /// The process drains: all is written, or the time for it is over.
    Drained,
}

impl End {
    /// The end that the client's socket found.
    pub(super) fn of(ended: Ended) -> End {
        match ended {
            Ended::Stalled => End::Slow(Slow::Stalled),
            ended => End::Client(ended),
        }
    }

    /// Why what has not reached the client is lost.
    pub(super) fn reason(&self) -> Reason {
        match self {
            End::Slow(_) => Reason::SlowConsumer,
            End::Client(_) | End::Lost(_) => Reason::CloseResidue,
            End::Drained => Reason::Drain,
        }
    }

    /// What the client is told; `None` when there is nobody to tell.
    pub(super) fn answer(&self, rules: &Rules) -> Option<Close> {
        match self {
            End::Client(ended) => ended.answer(),
            End::Slow(slow) => Some(rules.close(*slow)),
            End::Lost(reason) => Some(Close::POLICY.because(*reason)),
            End::Drained => Some(Close::GOING_AWAY),
        }
    }
}
