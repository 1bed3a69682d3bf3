//! The metrics a Doppler emits about itself, as v2 envelopes in its own stream: names and tags
//! as upstream's, so that dashboards built on them keep working.
//!
//! In come totals, out come envelopes; counters carry what was added since the last time.

use crate::metrics::Totals;
use prost::Message;
use proto::v2::{Counter, Envelope, Gauge, GaugeValue, Value, envelope, value};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often (upstream's `ROUTER_METRIC_BATCH_INTERVAL_MILLISECONDS`).
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

/// `source_id` of these envelopes (upstream's `ROUTER_METRIC_SOURCE_ID`).
const SOURCE_ID: &str = "doppler";

/// Remembers what it has told.
#[derive(Default)]
pub(crate) struct OwnMetrics {
    ingress: u64,
    egress: u64,
    dropped_ingress: u64,
    dropped_egress: u64,
}

impl OwnMetrics {
    /// Encoded envelopes that say what happened since the last call.
    pub(crate) fn since(&mut self, totals: &Totals, now_ns: i64) -> Vec<Vec<u8>> {
        let counter = |told: &mut u64, name: &str, total: u64, direction: Option<&str>| {
            let delta = total.saturating_sub(*told);
            *told = total;
            let message = Counter {
                name: name.into(),
                delta,
                total,
            };
            envelope(envelope::Message::Counter(message), direction, now_ns).encode_to_vec()
        };
        vec![
            counter(&mut self.ingress, "ingress", totals.conversions, None),
            counter(&mut self.egress, "egress", totals.egress.sent, None),
            counter(
                &mut self.dropped_ingress,
                "dropped",
                totals.dropped.total(),
                Some("ingress"),
            ),
            counter(
                &mut self.dropped_egress,
                "dropped",
                totals.egress.dropped.total(),
                Some("egress"),
            ),
            subscriptions(totals.subscriptions, now_ns).encode_to_vec(),
        ]
    }
}

fn subscriptions(count: usize, now_ns: i64) -> Envelope {
    let value = GaugeValue {
        unit: "subscriptions".into(),
        value: count as f64,
    };
    let metrics = BTreeMap::from([("subscriptions".to_owned(), value)]);
    envelope(envelope::Message::Gauge(Gauge { metrics }), None, now_ns)
}

fn envelope(message: envelope::Message, direction: Option<&str>, now_ns: i64) -> Envelope {
    let text = |text: &str| Value {
        data: Some(value::Data::Text(text.into())),
    };
    let mut deprecated_tags = BTreeMap::from([
        ("origin".to_owned(), text("loggregator.doppler")),
        ("metric_version".to_owned(), text("2.0")),
    ]);
    if let Some(direction) = direction {
        deprecated_tags.insert("direction".to_owned(), text(direction));
    }
    Envelope {
        timestamp: now_ns,
        source_id: SOURCE_ID.into(),
        deprecated_tags,
        message: Some(message),
        ..Envelope::default()
    }
}
