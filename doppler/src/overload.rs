//! Whether this machine passes on what its agents send. While it does not, the doors wait:
//! agents keep or lose, and count, what would be converted here for nobody (design 4.9).
//!
//! In come how far the readers lag who would take more and whether a processor could be had;
//! out comes whether the doors are open. A reader that is slow for reasons of its own never
//! closes them: it is not among those who would take more.

/// How much of the log readers may lag behind before it counts as too much, in thousandths: 16 MiB
/// of 64.
const CLOSE_AT: u32 = 250;

/// How far they have to come back.
const OPEN_AT: u32 = 125;

/// Decides over the doors of one Doppler.
#[derive(Debug, Default)]
pub(crate) struct Overload {
    closed: bool,
}

impl Overload {
    /// Whether the doors are closed from now on. `lag` is the part of the log, in thousandths,
    /// that the furthest of the readers who would take more has not read; `exhausted` is asked
    /// only where it may matter soon, for it takes a while to know.
    pub(crate) fn closes(&mut self, lag: u32, exhausted: impl FnOnce() -> bool) -> bool {
        let much = lag > CLOSE_AT || self.closed;
        self.closed = lag > OPEN_AT && exhausted() && much;
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_close_when_readers_lag_for_want_of_a_processor_and_open_when_they_are_back() {
        let mut overload = Overload::default();
        assert!(!overload.closes(200, || true));
        assert!(overload.closes(300, || true));
        assert!(overload.closes(200, || true), "not back yet");
        assert!(!overload.closes(100, || true));
        assert!(!overload.closes(200, || true));
    }

    #[test]
    fn doors_stay_open_while_there_is_a_processor_to_be_had() {
        let mut overload = Overload::default();
        assert!(!overload.closes(900, || false));
        assert!(overload.closes(900, || true));
        assert!(!overload.closes(900, || false));
    }
}
