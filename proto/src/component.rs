//! The envelopes in which a component speaks about itself: to the agent beside it, or in its
//! own stream. Names and tags are upstream's, so that dashboards built on them keep working;
//! tags go as text into `deprecated_tags`, as upstream's do.
//!
//! In come numbers and the time, out come v2 envelopes.

use crate::v2::{Counter, Envelope, Event, Gauge, GaugeValue, Value, envelope, value};
use std::collections::BTreeMap;

/// The gRPC method that takes batches of envelopes, at an agent as at a Doppler.
pub const BATCH_SENDER: &str = "/loggregator.v2.Ingress/BatchSender";

/// The name in an agent's certificate (upstream's rule, whatever its address).
pub const AGENT_NAME: &str = "metron";

/// Who speaks.
#[derive(Debug, Clone)]
pub struct Component {
    /// The `source_id` of its envelopes.
    pub source_id: String,
    /// Their tag `origin`.
    pub origin: &'static str,
}

impl Component {
    /// What was added to a counter. A counter that says its total too is for v1 readers;
    /// agents are told the delta alone, as upstream tells them.
    pub fn counter(
        &self,
        name: &str,
        tag: Option<(&str, &str)>,
        delta: u64,
        total: u64,
        now_ns: i64,
    ) -> Envelope {
        let message = envelope::Message::Counter(Counter {
            name: name.into(),
            delta,
            total,
        });
        self.metric(message, tag, now_ns)
    }

    /// What a gauge shows.
    pub fn gauge(&self, name: &str, unit: &str, value: f64, now_ns: i64) -> Envelope {
        let value = GaugeValue {
            unit: unit.into(),
            value,
        };
        let metrics = BTreeMap::from([(name.to_owned(), value)]);
        self.metric(envelope::Message::Gauge(Gauge { metrics }), None, now_ns)
    }

    /// Something that happened. Without tags, as upstream's.
    pub fn event(&self, title: &str, body: String, now_ns: i64) -> Envelope {
        let message = envelope::Message::Event(Event {
            title: title.into(),
            body,
        });
        Envelope {
            timestamp: now_ns,
            source_id: self.source_id.clone(),
            message: Some(message),
            ..Envelope::default()
        }
    }

    fn metric(
        &self,
        message: envelope::Message,
        tag: Option<(&str, &str)>,
        now_ns: i64,
    ) -> Envelope {
        let tags = [("origin", self.origin), ("metric_version", "2.0")];
        let text = |text: &str| Value {
            data: Some(value::Data::Text(text.into())),
        };
        Envelope {
            timestamp: now_ns,
            source_id: self.source_id.clone(),
            deprecated_tags: tags
                .into_iter()
                .chain(tag)
                .map(|(name, value)| (name.to_owned(), text(value)))
                .collect(),
            message: Some(message),
            ..Envelope::default()
        }
    }
}
