//! What a link's end leaves unknown: reports and times in, a range out.
//!
//! A Doppler that ends a link in order says its last count, and then the gap is exact. One that
//! was killed, or that we lost the way to, said its count up to 100 ms before; what it sent
//! after that, and lost with itself, nobody knows any more. Two numbers say what is known:
//!
//! - at least: what it had said it sent, and what did not arrive of that;
//! - at most: what it had said it sent or held, and what it may have taken in since then if that
//!   came no faster than in the busiest time between two of its reports, less what arrived.
//!
//! The second is a bound under that condition, and of what the Doppler had taken in: what agents
//! had written and it had not read (HTTP/2 windows, sockets) is not in it. A report says how old
//! its link was, so that how long it was under way does not matter. Clients that share a group
//! share what waits for it: then the sum over their links says too much, and never too little.

use proto::link::{Report, Since};
use std::time::Duration;

/// Reports are at least so far apart: a burst is not a rate. Also what the two ends' clocks of
/// one link may differ by, for the time it takes to open.
const REPORTS: Duration = Duration::from_millis(100);

/// What a Doppler has said of one life of a link.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    last: Option<Report>,
    /// The most envelopes a second between two reports.
    busiest: f64,
}

/// How many envelopes were lost with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) at_least: u64,
    /// `None` if nothing can be said.
    pub(super) at_most: Option<u64>,
}

impl Told {
    /// The Doppler reports.
    pub(super) fn reported(&mut self, report: Report) {
        if let Some(now) = report.since {
            let before = self.last.and_then(|last| last.since).unwrap_or_default();
            let passed = now.age_ms.saturating_sub(before.age_ms);
            let passed = Duration::from_millis(passed).max(REPORTS);
            let offered = now.offered.saturating_sub(before.offered);
            self.busiest = self.busiest.max(offered as f64 / passed.as_secs_f64());
        }
        self.last = Some(report);
    }

    /// What the Doppler said it sent, as far as it has said anything.
    pub(super) fn sent(&self) -> u64 {
        self.last.map_or(0, |last| last.sent)
    }

    /// How many envelopes were lost with a link that has ended at that age, after so many
    /// arrived.
    pub(super) fn lost(&self, received: u64, age: Duration) -> Range {
        let at_least = self.sent().saturating_sub(received);
        let at_most = match self.last {
            Some(Report { last: true, .. }) => Some(at_least),
            Some(last) => last.since.map(|since| {
                let known = last.sent.saturating_add(last.queued);
                known
                    .saturating_add(self.at_most_since(since, age))
                    .saturating_sub(received)
            }),
            // Within 100 ms of the first envelope there would have been a report.
            None => (received == 0).then_some(0),
        };
        Range { at_least, at_most }
    }

    /// What may have come in after the last report.
    fn at_most_since(&self, since: Since, age: Duration) -> u64 {
        let reported = Duration::from_millis(since.age_ms);
        let unknown = (age + REPORTS).saturating_sub(reported);
        (self.busiest * unknown.as_secs_f64()).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(age_ms: u64, offered: u64, sent: u64, queued: u64) -> Report {
        Report {
            sent,
            queued,
            since: Some(Since {
                age_ms,
                offered,
                missed: 0,
            }),
            ..Report::default()
        }
    }

    fn told(reports: impl IntoIterator<Item = Report>) -> Told {
        let mut told = Told::default();
        reports.into_iter().for_each(|report| told.reported(report));
        told
    }

    fn range(at_least: u64, at_most: u64) -> Range {
        Range {
            at_least,
            at_most: Some(at_most),
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_end_in_order_leaves_nothing_unknown() {
        let last = Report {
            last: true,
            ..report(200, 30, 20, 10)
        };
        let told = told([report(100, 20, 10, 10), last]);
        assert_eq!(told.lost(20, 200 * MS), range(0, 0));
        assert_eq!(told.lost(18, 900 * MS), range(2, 2));
    }

    #[test]
    fn after_a_kill_there_is_what_waited_and_what_came_since_the_last_report() {
        // 100 in the busiest 100 ms: 1,000 a second.
        let told = told([
            report(0, 10, 10, 0),
            report(100, 110, 100, 10),
            report(200, 150, 130, 20),
        ]);
        // 130 sent and 20 queued; then up to 50 ms, and 100 ms that nobody's clock knows.
        assert_eq!(told.lost(120, 250 * MS), range(10, 180));
        // What arrived after the report is not lost.
        assert_eq!(told.lost(170, 250 * MS), range(0, 130));
        assert_eq!(told.lost(10_000, 250 * MS), range(0, 0));
    }

    #[test]
    fn a_burst_is_not_a_rate() {
        let told = told([report(1, 100, 100, 0)]);
        assert_eq!(told.lost(100, 1 * MS), range(0, 100));
    }

    #[test]
    fn a_doppler_that_does_not_say_enough_leaves_no_upper_bound() {
        let old = Report {
            since: None,
            ..report(0, 0, 10, 5)
        };
        let told_by_old = told([old]);
        let none = |at_least| Range {
            at_least,
            at_most: None,
        };
        assert_eq!(told_by_old.lost(8, MS), none(2));
        assert_eq!(told([]).lost(3, MS), none(0));
        assert_eq!(told([]).lost(0, MS), range(0, 0));
    }

    #[test]
    fn no_number_a_doppler_reports_stops_us() {
        let most = Report {
            sent: u64::MAX,
            queued: u64::MAX,
            ..report(u64::MAX, u64::MAX, 0, 0)
        };
        let told = told([report(0, 0, 0, 0), most, report(0, 0, u64::MAX, 1), most]);
        assert_eq!(told.lost(0, MS).at_least, u64::MAX);
    }
}
