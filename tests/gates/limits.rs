//! What an envelope may cost.
//!
//! Instructions are those of the profile `dev` on x86-64, in which our own crates are hardly
//! optimised: they say what has grown, not what a release costs. They are counted, not timed, and
//! come out the same within half a percent, so that a tenth of head room is enough. A new compiler, C
//! library or valgrind, or a processor with other instructions for copying, may move them, and then
//! all of them at once: which valgrind it was is printed first.
//!
//! Allocations are exact, but for a report every 100 ms on the way to the client, and valgrind is
//! slow: half as much again of head room there. System calls
//! depend on what comes together, and so a little on how busy the machine is: a third of head room.

use std::fmt;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Instructions,
    Allocations,
    /// read, recv and their kin, whether there was something to read or not.
    Reads,
    /// write, send and their kin.
    Writes,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Unit::Instructions => "instructions an envelope",
            Unit::Allocations => "allocations an envelope",
            Unit::Reads => "reads a million envelopes",
            Unit::Writes => "writes a million envelopes",
        })
    }
}

/// One count.
pub(crate) struct Counted {
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    pub(crate) count: f64,
}

/// What it was when the limit was set, and what it may be at most.
pub(crate) struct Limit {
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    pub(crate) measured: f64,
    pub(crate) limit: f64,
}

const fn limit(what: &'static str, unit: Unit, measured: f64, limit: f64) -> Limit {
    Limit {
        what,
        unit,
        measured,
        limit,
    }
}

use Unit::{Allocations, Instructions, Reads, Writes};

pub(crate) const LIMITS: &[Limit] = &[
    limit("transcode a log, 5 tags", Instructions, 5_635.0, 6_200.0),
    limit("transcode a log, 5 tags", Allocations, 0.0, 0.0),
    limit("transcode a log, 18 tags", Instructions, 10_771.0, 11_900.0),
    limit("transcode a log, 18 tags", Allocations, 0.0, 0.0),
    limit("transcode a timer", Instructions, 17_578.0, 19_400.0),
    limit("transcode a timer", Allocations, 0.0, 0.0),
    limit("transcode a gauge", Instructions, 16_755.0, 18_500.0),
    limit("transcode a gauge", Allocations, 1.0, 1.0),
    limit("scan a v1 log", Instructions, 4_067.0, 4_500.0),
    limit("scan a v1 log", Allocations, 0.0, 0.0),
    limit("append to the log, claim", Instructions, 529.0, 580.0),
    limit("append to the log, claim", Allocations, 0.04, 0.05),
    limit("walk WebSocket frames", Instructions, 48.0, 53.0),
    limit("walk WebSocket frames", Allocations, 0.0, 0.0),
    limit("door to claim", Instructions, 7_874.0, 8_700.0),
    limit("door to claim", Allocations, 0.04, 0.05),
    limit("door to client", Instructions, 9_955.0, 11_000.0),
    limit("door to client", Allocations, 0.076, 0.115),
    limit("doppler", Reads, 11_900.0, 16_000.0),
    limit("doppler", Writes, 15_830.0, 20_000.0),
    limit("traffic-controller", Reads, 10_860.0, 16_000.0),
    limit("traffic-controller", Writes, 14_140.0, 20_000.0),
];
