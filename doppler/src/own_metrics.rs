//! The metrics a Doppler emits about itself: to the agent beside it, or without one as
//! envelopes in its own stream.
//!
//! In come totals, out come envelopes; counters carry what was added since the last time that
//! was told, and that may be 0.

use crate::metrics::{Metrics, Totals};
use crate::router::Router;
use prost::Message;
use proto::component::Component;
use proto::v2::{Envelope, EnvelopeBatch};
use std::sync::Arc;
use transport::clock::unix_ns;
use transport::grpc::Report;

/// Tag `origin` of these envelopes.
const ORIGIN: &str = "loggregator.doppler";

/// Counters, in the order of [`Sums`]: name, and the tag that tells two of one name apart.
const COUNTERS: [(&str, Option<(&str, &str)>); 4] = [
    ("ingress", None),
    ("egress", None),
    ("dropped", Some(("direction", "ingress"))),
    ("dropped", Some(("direction", "egress"))),
];

type Sums = [u64; COUNTERS.len()];

/// Remembers what it has told.
pub(crate) struct OwnMetrics {
    component: Component,
    told: Sums,
    telling: Sums,
}

impl OwnMetrics {
    /// Nothing told yet.
    pub(crate) fn new(source_id: &str) -> OwnMetrics {
        OwnMetrics {
            component: Component {
                source_id: source_id.to_owned(),
                origin: ORIGIN,
            },
            told: Sums::default(),
            telling: Sums::default(),
        }
    }

    /// What happened since the last time that was [told](OwnMetrics::told). Counters say their
    /// totals too if that is wanted.
    pub(crate) fn since(
        &mut self,
        totals: &Totals,
        with_totals: bool,
        now_ns: i64,
    ) -> Vec<Envelope> {
        self.telling = [
            totals.ingress.conversions,
            totals.egress.sent,
            totals.ingress.dropped.total(),
            totals.egress.dropped.total(),
        ];
        let counters = COUNTERS.iter().zip(self.telling.iter().zip(&self.told));
        let counters = counters.map(|((name, tag), (total, told))| {
            let shown = if with_totals { *total } else { 0 };
            let delta = total.saturating_sub(*told);
            self.component.counter(name, *tag, delta, shown, now_ns)
        });
        let subscriptions = self.component.gauge(
            "subscriptions",
            "subscriptions",
            totals.subscriptions as f64,
            now_ns,
        );
        counters.chain([subscriptions]).collect()
    }

    /// The last was told.
    pub(crate) fn told(&mut self) {
        self.told = self.telling;
    }
}

/// A Doppler's report to its agent.
pub(crate) struct ToAgent {
    /// What to say.
    pub(crate) own: OwnMetrics,
    /// Whose accounts are read.
    pub(crate) router: Arc<Router>,
    /// Who counts.
    pub(crate) metrics: Arc<Metrics>,
}

impl Report for ToAgent {
    fn message(&mut self, urgent: bool) -> Option<Vec<u8>> {
        if urgent {
            return None;
        }
        let totals = self.metrics.audit(&self.router);
        let batch = self.own.since(&totals, false, unix_ns());
        Some(EnvelopeBatch { batch }.encode_to_vec())
    }

    fn told(&mut self) {
        self.own.told();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v2::envelope;

    fn deltas(own: &mut OwnMetrics, conversions: u64) -> Vec<u64> {
        let mut totals = Totals::default();
        totals.ingress.conversions = conversions;
        let envelopes = own.since(&totals, false, 1).into_iter();
        let delta = |envelope: Envelope| match envelope.message {
            Some(envelope::Message::Counter(counter)) => Some(counter.delta),
            _ => None,
        };
        envelopes.filter_map(delta).collect()
    }

    #[test]
    fn what_was_not_told_is_told_the_next_time() {
        let mut own = OwnMetrics::new("doppler");
        assert_eq!(deltas(&mut own, 3), [3, 0, 0, 0]);
        assert_eq!(deltas(&mut own, 5), [5, 0, 0, 0], "the first was lost");
        own.told();
        assert_eq!(deltas(&mut own, 5), [0, 0, 0, 0], "0 is told too");
    }
}
