//! Every number a Traffic Controller counts, by its Prometheus name. Sums of accounts are read
//! from the accounts themselves, so that they cannot disagree with them.

use crate::own_metrics::{EVENTS, SlowConsumer};
use crate::page::Ledger;
use metrics::{
    Counter, Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use transport::ledger::{Account, Reason};
use transport::losses::Losses;
use transport::ration::Ration;
use transport::websocket::Ended;

/// Counters and gauges of one Traffic Controller.
pub struct Metrics {
    slow_consumers: AtomicU64,
    began: Instant,
    slow_lines: Mutex<Ration>,
    refused_lines: Mutex<Ration>,
    slow_consumers_shown: Counter,
    /// Where an agent is told of each; nobody may be there.
    slow: mpsc::Sender<SlowConsumer>,
    to_tell: Mutex<Option<mpsc::Receiver<SlowConsumer>>>,
    hurry: Arc<Notify>,
    firehoses: Gauge,
    app_streams: Gauge,
    ingress: Counter,
    gap: Counter,
    gap_at_most: Counter,
    egress: [Counter; 2],
    dropped: [[Counter; Reason::ALL.len()]; 3],
    imbalance: Gauge,
    losses: Losses,
}

/// Slow clients that have a line in the log: ten a second. An outage of a network is thousands of
/// them.
const SLOW_LINES: u32 = 10;

/// Connections refused that have a line in the log: one a second. Whoever scans the Internet for
/// web servers makes them.
const REFUSED_LINES: u32 = 1;

/// What clients read.
const ENDPOINTS: [&str; 2] = ["firehose", "stream"];

/// Where envelopes are lost: before clients, or between an app link and its topics.
const LOSERS: [&str; 3] = ["firehose", "stream", "app_link"];

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Registers and describes them all.
    pub fn new() -> Metrics {
        describe_counter!(
            "traffic_controller_slow_consumers_total",
            "Clients closed for being too slow"
        );
        describe_counter!(
            "traffic_controller_refused_connections_total",
            "Connections of clients that ended before a request, by reason"
        );
        describe_counter!(
            "traffic_controller_refused_requests_total",
            "Requests that did not become a stream, by reason"
        );
        describe_counter!(
            "traffic_controller_client_faults_total",
            "Streams ended because the client broke the protocol or a limit, by reason"
        );
        describe_counter!(
            "traffic_controller_link_faults_total",
            "What Dopplers said that is not of a link, by reason"
        );
        describe_counter!(
            "traffic_controller_access_checks_total",
            "Times it was asked who may read what, by authority and outcome"
        );
        describe_histogram!(
            "traffic_controller_access_check_seconds",
            "How long an authority took to answer, our turn included, by authority"
        );
        describe_counter!(
            "traffic_controller_recent_missing_dopplers_total",
            "Dopplers that did not answer a request for recent logs or container metrics in time"
        );
        describe_gauge!(
            "traffic_controller_dopplers_known",
            "Dopplers that are to be read from"
        );
        describe_gauge!(
            "traffic_controller_dopplers_connected",
            "Dopplers whose app link is open"
        );
        describe_counter!(
            "traffic_controller_doppler_dials_total",
            "Times a link to a Doppler was dialled"
        );
        describe_counter!(
            "traffic_controller_doppler_dial_failures_total",
            "Times it did not open"
        );
        describe_gauge!(
            "traffic_controller_discovery_failed",
            "1 while DNS does not tell which Dopplers there are and those known are kept, by name asked for"
        );
        describe_counter!(
            "traffic_controller_discovery_failures_total",
            "Times DNS did not tell which Dopplers there are"
        );
        describe_gauge!("traffic_controller_firehoses", "Open firehose streams");
        describe_gauge!("traffic_controller_app_streams", "Open app streams");
        describe_counter!(
            "traffic_controller_ingress_envelopes_total",
            "Envelopes received from Dopplers"
        );
        describe_counter!(
            "traffic_controller_link_gap_envelopes_total",
            "Envelopes a Doppler reported as sent that did not arrive"
        );
        describe_counter!(
            "traffic_controller_link_gap_at_most_envelopes_total",
            "The most that may be missing between Dopplers and here: the gap, and what a Doppler that was killed may have held or sent since its last report"
        );
        describe_counter!(
            "traffic_controller_egress_envelopes_total",
            "Envelopes that clients' sockets took, by endpoint"
        );
        describe_counter!(
            "traffic_controller_dropped_envelopes_total",
            "Envelopes lost here, by endpoint and reason"
        );
        describe_gauge!(
            "traffic_controller_accounting_imbalance",
            "Envelopes by which some account does not add up; anything but 0 is a bug"
        );
        describe_gauge!(
            "traffic_controller_access_control_disabled",
            "1 if anybody may read everything"
        );
        let (slow, to_tell) = mpsc::channel(EVENTS);
        Metrics {
            slow_consumers: AtomicU64::new(0),
            began: Instant::now(),
            slow_lines: Mutex::new(Ration::new(SLOW_LINES)),
            refused_lines: Mutex::new(Ration::new(REFUSED_LINES)),
            slow_consumers_shown: counter!("traffic_controller_slow_consumers_total"),
            slow,
            to_tell: Mutex::new(Some(to_tell)),
            hurry: Arc::new(Notify::new()),
            firehoses: gauge!("traffic_controller_firehoses"),
            app_streams: gauge!("traffic_controller_app_streams"),
            ingress: counter!("traffic_controller_ingress_envelopes_total"),
            gap: counter!("traffic_controller_link_gap_envelopes_total"),
            gap_at_most: counter!("traffic_controller_link_gap_at_most_envelopes_total"),
            egress: ENDPOINTS
                .map(|endpoint| counter!("traffic_controller_egress_envelopes_total", "endpoint" => endpoint)),
            dropped: LOSERS.map(|endpoint| {
                Reason::ALL.map(|reason| {
                    counter!(
                        "traffic_controller_dropped_envelopes_total",
                        "endpoint" => endpoint, "reason" => reason.name()
                    )
                })
            }),
            imbalance: gauge!("traffic_controller_accounting_imbalance"),
            losses: Losses::new("traffic-controller"),
        }
    }

    /// The page `/losses`.
    pub(crate) fn losses(&self, query: &str) -> Result<String, String> {
        self.losses.page(query)
    }

    /// A client was closed for being slow. The agent is told at once, if there is one and not
    /// too many wait already.
    pub(crate) fn slow_consumer(&self, client: SlowConsumer) {
        self.slow_consumers.fetch_add(1, Ordering::Relaxed);
        self.slow_consumers_shown.increment(1);
        if self.slow.try_send(client).is_ok() {
            self.hurry.notify_one();
        }
    }

    /// Whether there is a line in the log for one more, and how many had none since the last.
    pub(crate) fn line_for_a_slow_consumer(&self) -> Option<u64> {
        self.line(&self.slow_lines)
    }

    /// The same for a connection that was refused.
    pub(crate) fn line_for_a_refused_connection(&self) -> Option<u64> {
        self.line(&self.refused_lines)
    }

    fn line(&self, lines: &Mutex<Ration>) -> Option<u64> {
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.line(self.began.elapsed())
    }

    /// How many of them there were.
    pub(crate) fn slow_consumers(&self) -> u64 {
        self.slow_consumers.load(Ordering::Relaxed)
    }

    /// Where slow consumers are told, and what says that one waits: once, to whoever reports to
    /// the agent.
    pub(crate) fn slow_to_tell(&self) -> Option<(mpsc::Receiver<SlowConsumer>, Arc<Notify>)> {
        let mut to_tell = self.to_tell.lock().unwrap_or_else(PoisonError::into_inner);
        Some((to_tell.take()?, self.hurry.clone()))
    }

    /// A connection ended before it had asked for anything.
    pub(crate) fn refused_connection(reason: &'static str) {
        counter!("traffic_controller_refused_connections_total", "reason" => reason).increment(1);
    }

    /// A request was refused, or was not HTTP.
    pub(crate) fn refused_request(reason: &'static str) {
        counter!("traffic_controller_refused_requests_total", "reason" => reason).increment(1);
    }

    /// An authority was asked, or need not be.
    pub(crate) fn access_check(authority: &'static str, outcome: &'static str) {
        let checks = "traffic_controller_access_checks_total";
        counter!(checks, "authority" => authority, "outcome" => outcome).increment(1);
    }

    /// An authority answered, or took too long.
    pub(crate) fn access_checked(authority: &'static str, took: Duration) {
        histogram!("traffic_controller_access_check_seconds", "authority" => authority)
            .record(took);
    }

    /// A stream ended; if its client did something wrong, that is counted.
    pub(crate) fn stream_ended(ended: &Ended) {
        if let Some(reason) = ended.fault() {
            counter!("traffic_controller_client_faults_total", "reason" => reason).increment(1);
        }
    }

    /// A Doppler said so many things that are not of a link.
    pub(crate) fn link_faults(reason: &'static str, count: u64) {
        counter!("traffic_controller_link_faults_total", "reason" => reason).increment(count);
    }

    /// So many Dopplers did not answer a request for what they keep.
    pub(crate) fn missing_answers(count: u64) {
        counter!("traffic_controller_recent_missing_dopplers_total").increment(count);
    }

    /// A link ended; if its Doppler did something wrong, that is counted.
    pub(crate) fn link_ended(ended: &Ended) {
        if let Some(reason) = ended.fault() {
            Metrics::link_faults(reason, 1);
        }
    }

    /// So many Dopplers are to be read from, and so many of them are.
    pub(crate) fn dopplers(known: usize, connected: usize) {
        gauge!("traffic_controller_dopplers_known").set(known as f64);
        gauge!("traffic_controller_dopplers_connected").set(connected as f64);
    }

    /// A link is dialled.
    pub(crate) fn dialled() {
        counter!("traffic_controller_doppler_dials_total").increment(1);
    }

    /// It did not open.
    pub(crate) fn dial_failed() {
        counter!("traffic_controller_doppler_dial_failures_total").increment(1);
    }

    /// Says whether DNS told what that name stands for.
    pub(crate) fn discovery_failed(name: &str, failed: bool) {
        let gauge = gauge!("traffic_controller_discovery_failed", "name" => name.to_owned());
        gauge.set(f64::from(u8::from(failed)));
    }

    /// DNS did not tell.
    pub(crate) fn discovery_failure() {
        counter!("traffic_controller_discovery_failures_total").increment(1);
    }

    /// Says whether access is controlled.
    pub fn access_controlled(&self, controlled: bool) {
        gauge!("traffic_controller_access_control_disabled").set(f64::from(u8::from(!controlled)));
    }

    /// Shows what the ledger says, and puts it into the history of losses; returns the sums of firehoses and app streams.
    pub(crate) fn audit(&self, ledger: &Ledger) -> [Account; 2] {
        let read = self.losses.audit(|losses| ledger.audit(losses));
        self.firehoses.set(read.firehoses.open.len() as f64);
        self.app_streams.set(read.tails.open.len() as f64);
        self.imbalance.set(read.imbalance() as f64);
        let links = read.links();
        self.ingress.absolute(links.received);
        self.gap.absolute(links.gap);
        self.gap_at_most.absolute(links.gap_at_most);
        let sums = read.sums();
        for (counter, account) in self.egress.iter().zip(&sums) {
            counter.absolute(account.sent);
        }
        let dropped = [
            sums[0].dropped,
            sums[1].dropped,
            read.dropped_by_app_links(),
        ];
        for (counters, dropped) in self.dropped.iter().zip(dropped) {
            for (reason, counter) in Reason::ALL.into_iter().zip(counters) {
                counter.absolute(dropped[reason]);
            }
        }
        sums
    }
}
