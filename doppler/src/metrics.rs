//! Every number a Doppler counts, by its Prometheus name.
//!
//! Incremented once per message, never per envelope. What a subscription was sent and lost is
//! not counted here but read from the router's accounts, so that it cannot disagree with them.

use crate::router::Router;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use std::sync::atomic::{AtomicU64, Ordering};
use transport::ledger::{Account, Dropped, Reason};
use transport::websocket::Ended;

/// Counters and gauges of one Doppler.
pub struct Metrics {
    envelopes: Count,
    conversions: Count,
    dropped: [Count; Reason::ALL.len()],
    subscriptions: Gauge,
    recent_bytes: Gauge,
    sent: Counter,
    lost: [Counter; Reason::ALL.len()],
    imbalance: Gauge,
}

/// A counter that can be read back.
struct Count {
    value: AtomicU64,
    shown: Counter,
}

impl Count {
    fn new(shown: Counter) -> Count {
        Count {
            value: AtomicU64::new(0),
            shown,
        }
    }

    fn add(&self, n: u64) {
        self.value.fetch_add(n, Ordering::Relaxed);
        self.shown.increment(n);
    }

    fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Registers and describes them all.
    pub fn new() -> Metrics {
        describe_counter!(
            "doppler_ingress_envelopes_total",
            "Envelopes taken from agents, as they came"
        );
        describe_counter!(
            "doppler_ingress_conversions_total",
            "dropsonde v1 envelopes that the envelopes taken amount to; upstream's `ingress`"
        );
        describe_counter!(
            "doppler_ingress_dropped_envelopes_total",
            "Envelopes lost at the door, by reason"
        );
        describe_counter!(
            "doppler_ingress_refused_messages_total",
            "gRPC messages refused as a whole, by reason"
        );
        describe_counter!(
            "doppler_refused_requests_total",
            "Requests for links that were refused, by reason"
        );
        describe_counter!(
            "doppler_unlisted_readers_total",
            "Requests to read by certificates without a name of DOPPLER_READERS, by outcome"
        );
        describe_counter!(
            "doppler_link_faults_total",
            "Links ended because the Traffic Controller broke the protocol or a limit, by reason"
        );
        describe_counter!(
            "doppler_recent_requests_total",
            "Requests for recent logs and container metrics of an app, by whether they were answered"
        );
        describe_gauge!(
            "doppler_recent_bytes",
            "Bytes that recent logs and container metrics of all apps take"
        );
        describe_gauge!(
            "doppler_subscriptions",
            "Firehose groups and tailed apps with a reader at the moment"
        );
        describe_counter!(
            "doppler_egress_envelopes_total",
            "Envelopes that readers' sockets took, notices included"
        );
        describe_counter!(
            "doppler_egress_dropped_envelopes_total",
            "Envelopes lost behind the router, by reason"
        );
        describe_gauge!(
            "doppler_accounting_imbalance",
            "Envelopes by which some account does not add up; anything but 0 is a bug"
        );
        Metrics {
            envelopes: Count::new(counter!("doppler_ingress_envelopes_total")),
            conversions: Count::new(counter!("doppler_ingress_conversions_total")),
            dropped: Reason::ALL.map(|reason| {
                Count::new(counter!("doppler_ingress_dropped_envelopes_total", "reason" => reason.name()))
            }),
            subscriptions: gauge!("doppler_subscriptions"),
            recent_bytes: gauge!("doppler_recent_bytes"),
            sent: counter!("doppler_egress_envelopes_total"),
            lost: Reason::ALL
                .map(|reason| counter!("doppler_egress_dropped_envelopes_total", "reason" => reason.name())),
            imbalance: gauge!("doppler_accounting_imbalance"),
        }
    }

    /// A message was taken: what it held, and what of that was lost at the door.
    pub(crate) fn received(&self, envelopes: u64, conversions: u64, dropped: &Dropped) {
        self.envelopes.add(envelopes);
        self.conversions.add(conversions);
        for (reason, count) in dropped.iter() {
            self.dropped[reason as usize].add(count);
        }
    }

    /// A request for a link was refused, or was not HTTP.
    pub(crate) fn refused_request(reason: &'static str) {
        counter!("doppler_refused_requests_total", "reason" => reason).increment(1);
    }

    /// Somebody whose certificate has no name of the list asked to read.
    pub(crate) fn not_a_reader(let_in: bool) {
        let outcome = if let_in { "let_in" } else { "refused" };
        counter!("doppler_unlisted_readers_total", "outcome" => outcome).increment(1);
    }

    /// What is kept of an app was asked for, and was given or not.
    pub(crate) fn recent_requested(answered: bool) {
        let answer = if answered { "given" } else { "too_many" };
        counter!("doppler_recent_requests_total", "answer" => answer).increment(1);
    }

    /// A link ended; if its Traffic Controller did something wrong, that is counted.
    pub(crate) fn link_ended(ended: &Ended) {
        if let Some(reason) = ended.fault() {
            counter!("doppler_link_faults_total", "reason" => reason).increment(1);
        }
    }

    /// A gRPC message was refused as a whole.
    pub(crate) fn refused_message(&self, reason: &'static str) {
        counter!("doppler_ingress_refused_messages_total", "reason" => reason).increment(1);
    }

    /// Reads the router's accounts; returns their sum. Called every second.
    pub(crate) fn audit(&self, router: &Router) -> Totals {
        let accounts = router.accounts();
        let mut sum = accounts.gone;
        let mut imbalance = sum.imbalance().unsigned_abs();
        for (_, account) in &accounts.open {
            imbalance += account.imbalance().unsigned_abs();
            sum += *account;
        }
        self.subscriptions.set(accounts.open.len() as f64);
        self.recent_bytes.set(router.recents().bytes() as f64);
        self.sent.absolute(sum.sent);
        for (reason, counter) in Reason::ALL.into_iter().zip(&self.lost) {
            counter.absolute(sum.dropped[reason]);
        }
        self.imbalance.set(imbalance as f64);
        Totals {
            subscriptions: accounts.open.len(),
            egress: sum,
            ..self.ingress()
        }
    }

    /// What came in so far.
    pub(crate) fn ingress(&self) -> Totals {
        let mut dropped = Dropped::default();
        for (reason, count) in Reason::ALL.into_iter().zip(&self.dropped) {
            dropped.add(reason, count.get());
        }
        Totals {
            envelopes: self.envelopes.get(),
            conversions: self.conversions.get(),
            dropped,
            subscriptions: 0,
            egress: Account::default(),
        }
    }
}

/// The sums of one Doppler.
pub(crate) struct Totals {
    pub(crate) envelopes: u64,
    pub(crate) conversions: u64,
    pub(crate) dropped: Dropped,
    pub(crate) subscriptions: usize,
    pub(crate) egress: Account,
}
