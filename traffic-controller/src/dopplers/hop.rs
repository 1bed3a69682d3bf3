//! What both ends of a link have counted, over all its lives: `sent = received + gap`, and how
//! many more may be missing where a life ended without its last report (`range`).
//!
//! In come what arrived here and what the Doppler reports; out come sums. A life ends with
//! the connection, and only then is it known what of it did not arrive.

use super::range::Told;
use proto::link::{Report, Since};
use serde::Serialize;
use std::ops::AddAssign;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;
use transport::ledger::Dropped;

/// What a Doppler may say of one life of a link, in envelopes: half a year at a million a second.
/// What it says is added up here, in the history of losses too, and shall not overflow there.
const MOST: u64 = 1 << 44;

/// The two ends of one link.
pub struct Hop {
    doppler: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Sums of the lives that are over.
    past: Sums,
    /// This life, while the link is open.
    life: Option<Life>,
    /// As the Doppler last reported them.
    dropped_there: u64,
    queued_there: u64,
    /// Only of an app link.
    topics: Option<Delivered>,
}

struct Life {
    opened: Instant,
    told: Told,
    sums: Sums,
}

/// One link's sums, in envelopes, notices included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// What the Doppler says it sent: up to 100 ms old while the link is open.
    pub sent: u64,
    /// What arrived.
    pub received: u64,
    /// What was said to be sent and did not arrive, in the lives of the link that are over.
    pub gap: u64,
    /// The most that may be missing: more than `gap` only where a life ended without the
    /// Doppler's last report, by a kill or a cut.
    pub gap_at_most: u64,
    /// How many lives ended in which the Doppler said too little for an upper bound.
    pub gap_without_bound: u64,
    /// What the Doppler lost of the subscription while this link was there.
    pub missed_there: u64,
}

/// What became of an app link's envelopes: `received = appended + answers + dropped`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Delivered {
    /// Put into their topics.
    pub appended: u64,
    /// Of snapshots that were asked for, their markers included: handed to who asked.
    pub answers: u64,
    /// Lost on the way there: nobody tails the app any more, or nobody can tell which it is.
    pub dropped: Dropped,
    /// What the Doppler lost of apps whose streams it has ended.
    pub dropped_by_ended_there: u64,
}

/// A link as shown to operators.
#[derive(Debug, Clone, Serialize)]
pub struct Page {
    /// The Doppler's address.
    pub doppler: String,
    /// Whether the link is open.
    pub connected: bool,
    /// Both ends' sums.
    #[serde(flatten)]
    pub sums: Sums,
    /// What this stream's group, or the apps still tailed, lost at the Doppler.
    pub dropped_there: u64,
    /// What waits for this stream at the Doppler.
    pub queued_there: u64,
    /// Of an app link: what became of what arrived.
    #[serde(flatten)]
    pub topics: Option<Delivered>,
}

impl Hop {
    /// The link of a firehose client.
    pub fn new(doppler: &str) -> Hop {
        Hop {
            doppler: doppler.to_owned(),
            state: Mutex::default(),
        }
    }

    /// An app link, whose envelopes go into topics.
    pub fn to_topics(doppler: &str) -> Hop {
        let hop = Hop::new(doppler);
        hop.lock().topics = Some(Delivered::default());
        hop
    }

    /// The link is open: a life begins.
    pub fn opened(&self) {
        self.lock().life = Some(Life::begun());
    }

    /// The link's life is over, if it had one: what was sent and has not arrived never will.
    pub fn closed(&self) {
        let mut state = self.lock();
        let Some(life) = state.life.take() else {
            return;
        };
        let lost = life.told.lost(life.sums.received, life.opened.elapsed());
        state.past += Sums {
            // A Doppler that was killed did not report its last 100 ms.
            sent: life.sums.sent.max(life.sums.received),
            gap: lost.at_least,
            gap_at_most: lost.at_most.unwrap_or(lost.at_least),
            gap_without_bound: u64::from(lost.at_most.is_none()),
            ..life.sums
        };
    }

    /// So many envelopes arrived.
    pub fn received(&self, envelopes: u64) {
        self.lock().receive(envelopes);
    }

    /// So many envelopes arrived, and this became of them.
    pub fn delivered(&self, envelopes: u64, delivered: Delivered) {
        let mut state = self.lock();
        state.receive(envelopes);
        *state.topics.get_or_insert_default() += delivered;
    }

    /// The Doppler tells what it counts in this life of the link.
    pub fn reported(&self, report: Report) {
        let report = Report {
            sent: report.sent.min(MOST),
            dropped: report.dropped.min(MOST),
            queued: report.queued.min(MOST),
            since: report.since.map(|since| Since {
                offered: since.offered.min(MOST),
                missed: since.missed.min(MOST),
                ..since
            }),
            ..report
        };
        let mut state = self.lock();
        if let Some(life) = &mut state.life {
            life.told.reported(report);
            life.sums.sent = report.sent;
            life.sums.missed_there = report.since.map_or(0, |since| since.missed);
        }
        state.dropped_there = report.dropped;
        state.queued_there = report.queued;
    }

    /// The Doppler ended an app's stream, of which it had lost so many.
    pub fn ended_there(&self, dropped: u64) {
        let mut state = self.lock();
        let topics = state.topics.get_or_insert_default();
        // A Doppler's word: no number of its may stop us.
        topics.dropped_by_ended_there = topics.dropped_by_ended_there.saturating_add(dropped);
    }

    /// Both ends' sums.
    pub fn sums(&self) -> Sums {
        self.lock().sums()
    }

    /// As shown to operators.
    pub fn page(&self) -> Page {
        let state = self.lock();
        Page {
            doppler: self.doppler.clone(),
            connected: state.life.is_some(),
            sums: state.sums(),
            dropped_there: state.dropped_there,
            queued_there: state.queued_there,
            topics: state.topics,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn receive(&mut self, envelopes: u64) {
        let life = self.life.get_or_insert_with(Life::begun);
        life.sums.received += envelopes;
    }

    fn sums(&self) -> Sums {
        let mut sums = self.past;
        if let Some(life) = &self.life {
            sums += life.sums;
        }
        sums
    }
}

impl Life {
    fn begun() -> Life {
        Life {
            opened: Instant::now(),
            told: Told::default(),
            sums: Sums::default(),
        }
    }
}

impl Page {
    /// Adds what an earlier link had counted.
    pub(super) fn add(&mut self, earlier: &Page) {
        self.sums += earlier.sums;
        if let Some(topics) = earlier.topics {
            *self.topics.get_or_insert_default() += topics;
        }
    }

    /// How far an app link is from `received = appended + answers + dropped`: anything but 0 is a bug.
    pub fn imbalance(&self) -> i128 {
        self.topics.map_or(0, |topics| {
            i128::from(self.sums.received)
                - i128::from(topics.appended)
                - i128::from(topics.answers)
                - i128::from(topics.dropped.total())
        })
    }
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Sums) {
        // What a Doppler reported may be anything.
        self.sent = self.sent.saturating_add(other.sent);
        self.received += other.received;
        self.gap = self.gap.saturating_add(other.gap);
        self.gap_at_most = self.gap_at_most.saturating_add(other.gap_at_most);
        self.gap_without_bound += other.gap_without_bound;
        self.missed_there = self.missed_there.saturating_add(other.missed_there);
    }
}

impl AddAssign for Delivered {
    fn add_assign(&mut self, other: Delivered) {
        self.appended += other.appended;
        self.answers += other.answers;
        self.dropped += other.dropped;
        self.dropped_by_ended_there = self
            .dropped_by_ended_there
            .saturating_add(other.dropped_by_ended_there);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::link::Since;
    use std::time::Duration;
    use transport::ledger::Reason;

    fn report(sent: u64) -> Report {
        Report {
            epoch: 1,
            sent,
            dropped: 3,
            queued: 4,
            last: true,
            ..Report::default()
        }
    }

    fn sums(sent: u64, received: u64, gap: u64) -> Sums {
        Sums {
            sent,
            received,
            gap,
            gap_at_most: gap,
            ..Sums::default()
        }
    }

    #[test]
    fn what_was_sent_and_has_not_arrived_is_a_gap_once_the_link_is_over() {
        let hop = Hop::new("d");
        hop.opened();
        hop.received(7);
        hop.reported(report(10));
        assert_eq!(hop.sums(), sums(10, 7, 0), "it may be on its way");
        hop.closed();
        hop.closed();
        assert_eq!(hop.sums(), sums(10, 7, 3));
    }

    #[test]
    fn a_gap_is_not_hidden_by_a_later_life_without_a_last_report() {
        let hop = Hop::new("d");
        hop.opened();
        hop.received(7);
        hop.reported(report(10));
        hop.closed();
        hop.opened();
        hop.received(5);
        hop.closed();
        let expected = Sums {
            gap_without_bound: 1,
            ..sums(15, 12, 3)
        };
        assert_eq!(hop.sums(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_life_without_a_last_report_leaves_a_range_and_one_with_it_does_not() {
        let hop = Hop::new("d");
        hop.opened();
        let since = Since {
            age_ms: 100,
            offered: 12,
            missed: 0,
        };
        hop.reported(Report {
            last: false,
            since: Some(since),
            ..report(10)
        });
        hop.received(9);
        tokio::time::advance(Duration::from_millis(150)).await;
        hop.closed();
        // One that was sent did not come; 4 waited; and 120 a second for 150 ms may have come in.
        let sums = hop.sums();
        assert_eq!((sums.gap, sums.gap_at_most), (1, 1 + 4 + 18));

        hop.opened();
        hop.received(10);
        hop.reported(report(10));
        hop.closed();
        assert_eq!(hop.sums().gap_at_most, sums.gap_at_most);
    }

    #[test]
    fn no_number_a_doppler_reports_stops_us() {
        let hop = Hop::to_topics("d");
        for _ in 0..2 {
            hop.opened();
            hop.reported(report(u64::MAX));
            hop.ended_there(u64::MAX);
            hop.closed();
        }
        assert_eq!(hop.sums(), sums(2 * MOST, 0, 2 * MOST));
    }

    #[test]
    fn a_page_shows_what_the_doppler_reports() {
        let hop = Hop::new("d");
        hop.opened();
        hop.received(2);
        hop.reported(report(2));
        assert_eq!(
            serde_json::to_string(&hop.page()).unwrap(),
            r#"{"doppler":"d","connected":true,"sent":2,"received":2,"gap":0,"gap_at_most":0,"gap_without_bound":0,"missed_there":0,"dropped_there":3,"queued_there":4}"#
        );
    }

    #[test]
    fn an_envelope_that_reached_no_topic_and_was_not_counted_is_an_imbalance() {
        let hop = Hop::to_topics("d");
        let mut delivered = Delivered {
            appended: 1,
            answers: 1,
            ..Delivered::default()
        };
        delivered.dropped.add(Reason::NoMember, 1);
        hop.delivered(3, delivered);
        hop.ended_there(9);
        assert_eq!(hop.page().imbalance(), 0);
        hop.received(1);
        assert_eq!(hop.page().imbalance(), 1);
    }
}
