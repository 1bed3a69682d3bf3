//! What a run has shown: one line of JSON, which the tables are made of, too.

use crate::reader::Age;
use serde::{Deserialize, Serialize};

/// What a run has shown. Of a Go peer everything the processes say of themselves is absent.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Report {
    /// Envelopes that the generator sent.
    pub(crate) sent: u64,
    /// Envelopes that the generator lost because the Doppler did not take them in time.
    pub(crate) lost_at_generator: u64,
    /// From the start of the feed until the last one came to a reader; with no readers, until the
    /// Doppler had taken the last.
    pub(crate) seconds: f64,
    /// `sent` over `seconds`.
    pub(crate) envelopes_per_second: u64,
    /// Bytes of an envelope as sent, on average.
    pub(crate) bytes_per_envelope: usize,
    /// What each firehose received of the generator's envelopes. It is due all that were sent.
    pub(crate) received: Vec<u64>,
    /// What all app tails together received of them.
    pub(crate) received_by_tails: u64,
    /// What they were due: every tail its app's logs and HTTP timers.
    pub(crate) expected_by_tails: u64,
    /// How many readers, firehoses and tails, have not exactly what they are due.
    pub(crate) readers_off: usize,
    /// What Doppler and Traffic Controller say they lost. May include envelopes that the
    /// Doppler sends about itself; one envelope lost to two readers is lost twice.
    pub(crate) dropped: Option<u64>,
    /// What both ends of the links between them disagree by: sent and never received.
    pub(crate) hop_gaps: Option<u64>,
    /// By how much the processes' accounts do not add up.
    pub(crate) imbalance: Option<u64>,
    /// CPU per million envelopes sent, user and kernel.
    pub(crate) cpu_seconds_per_million: Cpu,
    /// CPU of Doppler and Traffic Controller while they were fed, in percent of a core.
    pub(crate) core_percent: f64,
    /// The most memory that was resident, since the start, in MiB.
    pub(crate) peak_mib: Peak,
    /// From the time an envelope left the generator, or was due to leave with a rate, to the
    /// time its reader read it; over all envelopes of all readers.
    pub(crate) latency_ms: Latency,
    /// What it took until every stream was open.
    pub(crate) opening: Opening,
    /// What open streams cost that carry nothing, with `--idle`.
    pub(crate) idle: Option<Idle>,
    /// What makes this run a failure; empty in a good one.
    pub(crate) failures: Vec<String>,
}

/// CPU seconds per million envelopes.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Cpu {
    /// The Doppler's, or all Dopplers'.
    pub(crate) doppler: f64,
    /// The Traffic Controller's.
    pub(crate) traffic_controller: f64,
    /// Their sum.
    pub(crate) both: f64,
    /// Our own: generator and readers.
    pub(crate) generator_and_readers: f64,
}

/// Resident memory in MiB.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Peak {
    /// The Doppler's, or all Dopplers'.
    pub(crate) doppler: u64,
    /// The Traffic Controller's.
    pub(crate) traffic_controller: u64,
}

/// In milliseconds. Every envelope of a run counts as old as the oldest, so these are upper
/// bounds.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Latency {
    /// Half of the envelopes were no older.
    pub(crate) p50: f64,
    /// 99 % were no older.
    pub(crate) p99: f64,
    /// 99.9 % were no older.
    #[serde(rename = "p99.9")]
    pub(crate) p99_9: f64,
}

/// What it took to open the streams.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Opening {
    /// Streams that are open.
    pub(crate) streams: usize,
    /// Streams that were refused.
    pub(crate) refused: usize,
    /// Until the last was open.
    pub(crate) seconds: f64,
    /// CPU seconds of Doppler and Traffic Controller.
    pub(crate) cpu_seconds: f64,
    /// By how much their resident memory has grown, in MiB: when the feed begins, or after an
    /// idle time.
    pub(crate) growth_mib: f64,
    /// Files and sockets that the Dopplers have open now.
    pub(crate) doppler_files: usize,
}

/// What open streams cost that carry nothing, in percent of a core.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Idle {
    /// How long that was looked at.
    pub(crate) seconds: f64,
    /// The Doppler's, or all Dopplers'.
    pub(crate) doppler_percent: f64,
    /// The Traffic Controller's.
    pub(crate) traffic_controller_percent: f64,
}

impl Report {
    /// What all readers together received.
    pub(crate) fn deliveries(&self) -> u64 {
        self.received.iter().sum::<u64>() + self.received_by_tails
    }

    /// What part of what they were due readers do not have, in percent.
    pub(crate) fn lost_percent(&self) -> f64 {
        let due = self.sent * self.received.len() as u64 + self.expected_by_tails;
        let lost = due.saturating_sub(self.deliveries());
        100.0 * lost as f64 / due.max(1) as f64
    }

    /// CPU seconds of Doppler and Traffic Controller during the feed.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.cpu_seconds_per_million.both * self.sent as f64 / 1e6
    }
}

impl Latency {
    pub(crate) fn of(mut ages: Vec<Age>) -> Latency {
        ages.sort_unstable_by_key(|age| age.micros);
        let all: u64 = ages.iter().map(|age| u64::from(age.envelopes)).sum();
        let oldest_of = |part: f64| {
            let mut left = (all as f64 * part).ceil() as u64;
            let last = ages.iter().find(|age| {
                left = left.saturating_sub(age.envelopes.into());
                left == 0
            });
            last.map_or(0.0, |age| round(f64::from(age.micros) / 1e3))
        };
        Latency {
            p50: oldest_of(0.5),
            p99: oldest_of(0.99),
            p99_9: oldest_of(0.999),
        }
    }
}

/// To three digits behind the point.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
