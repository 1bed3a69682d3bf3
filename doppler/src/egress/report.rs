//! What a link tells its Traffic Controller about itself: how much it was sent, so that both
//! ends can tell what was lost between them, even when one of them is killed.

use proto::link::{Downstream, Report, Since, Written};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use transport::clock::unix_ns;
use transport::ledger::Account;

/// How often, while there is something new. It bounds what a killed process leaves unknown.
const INTERVAL: Duration = Duration::from_millis(100);

/// The reports of one link.
pub(super) struct Reports {
    epoch: u64,
    sent: u64,
    written: u64,
    told: u64,
    opened: Instant,
    /// What the subscription was offered, and had lost, before this link.
    offered: u64,
    dropped: u64,
    ticks: Interval,
    /// When the Traffic Controller last said what reached its client, and how long that had kept
    /// it waiting until then.
    heard: Option<(Instant, Duration)>,
}

impl Reports {
    /// A new epoch, with nothing sent, of a subscription with that account.
    pub(super) fn new(account: Account) -> Reports {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Reports {
            epoch: unix_ns() as u64,
            sent: 0,
            written: 0,
            told: 0,
            opened: Instant::now(),
            offered: account.offered,
            dropped: account.dropped.total(),
            ticks,
            heard: None,
        }
    }

    /// The link's socket took so many envelopes more.
    pub(super) fn sent(&mut self, envelopes: u64) {
        self.sent += envelopes;
    }

    /// The Traffic Controller says how much of it reached clients. Returns whether the client
    /// would take more: it kept us waiting for less than an eighth of the time since this was last said.
    pub(super) fn written(&mut self, said: Written) -> bool {
        if said.epoch != self.epoch {
            return false;
        }
        self.written = said.written;
        let waited = said.waited_ms.map(Duration::from_millis);
        let now = waited.map(|waited| (Instant::now(), waited));
        let Some(((now, waited), (then, before))) =
            now.zip(std::mem::replace(&mut self.heard, now))
        else {
            return false;
        };
        waited.saturating_sub(before) * 8 < now - then
    }

    /// What was sent and, as far as we were told, not written to a client: at the end of a
    /// link whose Traffic Controller was killed, the most that its clients can have lost there.
    pub(super) fn unconfirmed(&self) -> u64 {
        self.sent.saturating_sub(self.written)
    }

    /// Waits until there is something new to tell and it is time to. Cancel-safe.
    pub(super) async fn due(&mut self) {
        if self.told == self.sent {
            std::future::pending().await
        }
        self.ticks.tick().await;
    }

    /// The report: this link's `sent`, its subscription's losses and what waits.
    pub(super) fn tell(&mut self, account: Account) -> String {
        Downstream::Report(self.report(account)).to_json()
    }

    /// The last report, of a link that ends in order.
    pub(super) fn tell_last(&mut self, account: Account) -> String {
        let report = Report {
            last: true,
            ..self.report(account)
        };
        Downstream::Report(report).to_json()
    }

    fn report(&mut self, account: Account) -> Report {
        self.told = self.sent;
        let dropped = account.dropped.total();
        Report {
            epoch: self.epoch,
            sent: self.sent,
            dropped,
            queued: account.queued,
            // An app link's account is of the apps still tailed: it may have become less.
            since: Some(Since {
                age_ms: self.opened.elapsed().as_millis() as u64,
                offered: account.offered.saturating_sub(self.offered),
                missed: dropped.saturating_sub(self.dropped),
            }),
            last: false,
        }
    }
}
