//! Every number a Traffic Controller counts, by its Prometheus name. Sums of accounts are read
//! from the accounts themselves, so that they cannot disagree with them.

use crate::page::Ledger;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use transport::ledger::{Account, Reason};
use transport::websocket::Ended;

/// Counters and gauges of one Traffic Controller.
pub struct Metrics {
    /// Clients closed for being slow.
    pub slow_consumers: Counter,
    firehoses: Gauge,
    app_streams: Gauge,
    ingress: Counter,
    gap: Counter,
    egress: [Counter; 2],
    dropped: [[Counter; Reason::ALL.len()]; 3],
    imbalance: Gauge,
}

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
            "Clients closed for not reading"
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
        Metrics {
            slow_consumers: counter!("traffic_controller_slow_consumers_total"),
            firehoses: gauge!("traffic_controller_firehoses"),
            app_streams: gauge!("traffic_controller_app_streams"),
            ingress: counter!("traffic_controller_ingress_envelopes_total"),
            gap: counter!("traffic_controller_link_gap_envelopes_total"),
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
        }
    }

    /// A request was refused, or was not HTTP.
    pub(crate) fn refused_request(reason: &'static str) {
        counter!("traffic_controller_refused_requests_total", "reason" => reason).increment(1);
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

    /// A link ended; if its Doppler did something wrong, that is counted.
    pub(crate) fn link_ended(ended: &Ended) {
        if let Some(reason) = ended.fault() {
            Metrics::link_faults(reason, 1);
        }
    }

    /// Says whether access is controlled.
    pub fn access_controlled(&self, controlled: bool) {
        gauge!("traffic_controller_access_control_disabled").set(f64::from(u8::from(!controlled)));
    }

    /// Shows what the ledger says; returns the sums of firehoses and app streams.
    pub(crate) fn audit(&self, ledger: &Ledger) -> [Account; 2] {
        let read = ledger.read();
        self.firehoses.set(read.firehoses.open.len() as f64);
        self.app_streams.set(read.tails.open.len() as f64);
        self.imbalance.set(read.imbalance() as f64);
        let links = read.links();
        self.ingress.absolute(links.received);
        self.gap.absolute(links.gap);
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
