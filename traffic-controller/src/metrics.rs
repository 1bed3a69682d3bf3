//! Every number a Traffic Controller counts, by its Prometheus name. Sums of accounts are read
//! from the accounts themselves, so that they cannot disagree with them.

use crate::streams::Streams;
use crate::topics::Topics;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use transport::ledger::{Account, Reason};

/// Counters and gauges of one Traffic Controller.
pub struct Metrics {
    /// Clients closed for being slow.
    pub slow_consumers: Counter,
    firehoses: Gauge,
    app_streams: Gauge,
    ingress: Counter,
    egress: [Counter; 2],
    dropped: [[Counter; Reason::ALL.len()]; 2],
    imbalance: Gauge,
}

const ENDPOINTS: [&str; 2] = ["firehose", "stream"];

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
        describe_gauge!("traffic_controller_firehoses", "Open firehose streams");
        describe_gauge!("traffic_controller_app_streams", "Open app streams");
        describe_counter!(
            "traffic_controller_ingress_envelopes_total",
            "Envelopes received from Dopplers"
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
            egress: ENDPOINTS
                .map(|endpoint| counter!("traffic_controller_egress_envelopes_total", "endpoint" => endpoint)),
            dropped: ENDPOINTS.map(|endpoint| {
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

    /// Says whether access is controlled.
    pub fn access_controlled(&self, controlled: bool) {
        gauge!("traffic_controller_access_control_disabled").set(f64::from(u8::from(!controlled)));
    }

    /// Reads all accounts; returns the sums of firehoses and app streams. Called every second.
    pub(crate) fn audit(&self, streams: &Streams, topics: &Topics) -> [Account; 2] {
        let firehoses = streams.accounts();
        let tails: Vec<Account> = topics
            .accounts()
            .into_iter()
            .map(|(_, account)| account)
            .collect();
        self.firehoses.set(firehoses.len() as f64);
        self.app_streams.set(tails.len() as f64);
        let mut imbalance = 0;
        let mut sum = |accounts: Vec<Account>, gone: Account| {
            let mut sum = gone;
            imbalance += gone.imbalance().unsigned_abs();
            for account in accounts {
                imbalance += account.imbalance().unsigned_abs();
                sum += account;
            }
            sum
        };
        let sums = [sum(firehoses, streams.gone()), sum(tails, topics.gone())];
        self.imbalance.set(imbalance as f64);
        self.ingress
            .absolute(sums.iter().map(|account| account.offered).sum());
        for (n, account) in sums.iter().enumerate() {
            self.egress[n].absolute(account.sent);
            for (reason, counter) in Reason::ALL.into_iter().zip(&self.dropped[n]) {
                counter.absolute(account.dropped[reason]);
            }
        }
        sums
    }
}
