//! What a Traffic Controller tells the agent beside it about itself: upstream's metrics, and an
//! event for each slow consumer it disconnected.
//!
//! In comes what the ledger says, out come v2 envelopes; counters carry what was added since
//! the last time that was told, and that may be 0.

use crate::metrics::Metrics;
use crate::page::Ledger;
use prost::Message;
use proto::component::Component;
use proto::v2::{Envelope, EnvelopeBatch};
use std::sync::Arc;
use tokio::sync::mpsc;
use transport::clock::unix_ns;
use transport::grpc::Report;

/// `source_id` of these envelopes.
const SOURCE_ID: &str = "traffic_controller";

/// Their tag `origin`.
const ORIGIN: &str = "loggregator.trafficcontroller";

/// Counters, in the order of [`Sums`]: name, and the tag that tells two of one name apart.
const COUNTERS: [(&str, Option<(&str, &str)>); 4] = [
    ("ingress", Some(("protocol", "grpc"))),
    ("egress", Some(("endpoint", "firehose"))),
    ("egress", Some(("endpoint", "stream"))),
    ("doppler_proxy.slow_consumer", None),
];

type Sums = [u64; COUNTERS.len()];

/// Events that may wait for an agent that is away. Each is small; beyond this the counter and
/// the log tell alone.
pub(crate) const EVENTS: usize = 64;

/// A client that was disconnected because it did not read.
#[derive(Debug, Clone)]
pub struct SlowConsumer {
    /// Its address.
    pub remote: String,
    /// All values of its request's `X-Forwarded-For`, joined by `, `.
    pub forwarded_for: String,
    /// The path and query it asked for.
    pub path: String,
    /// How many envelopes it lost by that.
    pub lost: u64,
}

/// Title of the event; what operators' alerts look for.
const SLOW_TITLE: &str = "Traffic Controller has disconnected slow consumer";

impl SlowConsumer {
    fn body(&self) -> String {
        // Upstream's words, and what only we know at the end.
        format!(
            "Remote Address: {}\nX-Forwarded-For: {}\nPath: {}\n\nWhen Loggregator detects a \
             slow connection, that connection is disconnected to prevent back pressure on the \
             system. This may be due to improperly scaled nozzles, or slow user connections to \
             Loggregator\n\nEnvelopes lost: {}",
            self.remote, self.forwarded_for, self.path, self.lost
        )
    }
}

/// A Traffic Controller's report to its agent.
pub(crate) struct ToAgent {
    component: Component,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    slow: mpsc::Receiver<SlowConsumer>,
    /// Events taken from `slow` and not told yet.
    events: Vec<Envelope>,
    told: Sums,
    telling: Option<Sums>,
}

impl ToAgent {
    /// Nothing told yet.
    pub(crate) fn new(
        ledger: Arc<Ledger>,
        metrics: Arc<Metrics>,
        slow: mpsc::Receiver<SlowConsumer>,
    ) -> ToAgent {
        ToAgent {
            component: Component {
                source_id: SOURCE_ID.to_owned(),
                origin: ORIGIN,
            },
            ledger,
            metrics,
            slow,
            events: Vec::new(),
            told: Sums::default(),
            telling: None,
        }
    }

    fn metrics(&mut self, now_ns: i64) -> Vec<Envelope> {
        let read = self.ledger.read();
        let [firehoses, tails] = read.sums();
        let sums = [
            read.links().received,
            firehoses.sent,
            tails.sent,
            self.metrics.slow_consumers(),
        ];
        self.telling = Some(sums);
        let counters = COUNTERS.iter().zip(sums.iter().zip(&self.told));
        let counters = counters.map(|((name, tag), (sum, told))| {
            // A sum may step back for a moment while a client's account changes hands.
            let delta = sum.saturating_sub(*told);
            self.component.counter(name, *tag, delta, 0, now_ns)
        });
        let gauge = |name, open: usize| {
            let gauge = self
                .component
                .gauge(name, "connections", open as f64, now_ns);
            [gauge]
        };
        counters
            .chain(gauge("doppler_proxy.firehoses", read.firehoses.open.len()))
            .chain(gauge("doppler_proxy.app_streams", read.tails.open.len()))
            .collect()
    }
}

impl Report for ToAgent {
    fn message(&mut self, urgent: bool) -> Option<Vec<u8>> {
        let now_ns = unix_ns();
        while self.events.len() < EVENTS
            && let Ok(slow) = self.slow.try_recv()
        {
            let event = self.component.event(SLOW_TITLE, slow.body(), now_ns);
            self.events.push(event);
        }
        self.telling = None;
        let mut batch = self.events.clone();
        if !urgent {
            batch.extend(self.metrics(now_ns));
        }
        (!batch.is_empty()).then(|| EnvelopeBatch { batch }.encode_to_vec())
    }

    fn told(&mut self) {
        self.events.clear();
        if let Some(sums) = self.telling.take() {
            self.told = sums;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::Streams;
    use crate::topics::Topics;
    use proto::v2::envelope;

    fn to_agent() -> (ToAgent, mpsc::Sender<SlowConsumer>) {
        let ledger = Arc::new(Ledger {
            streams: Streams::new(1),
            topics: Topics::new(1 << 20, 1 << 20),
            app_links: Arc::default(),
        });
        let (tell, slow) = mpsc::channel(EVENTS);
        (ToAgent::new(ledger, Arc::new(Metrics::new()), slow), tell)
    }

    fn batch(to_agent: &mut ToAgent, urgent: bool) -> Vec<Envelope> {
        let message = to_agent.message(urgent).unwrap_or_default();
        EnvelopeBatch::decode(&*message).unwrap().batch
    }

    #[test]
    fn a_slow_consumer_is_told_at_once_and_until_it_was_told() {
        let (mut to_agent, tell) = to_agent();
        assert!(to_agent.message(true).is_none(), "there is no hurry");
        let slow = SlowConsumer {
            remote: "10.0.0.1:5".into(),
            forwarded_for: "1.2.3.4, 5.6.7.8".into(),
            path: "/firehose/n".into(),
            lost: 7,
        };
        tell.try_send(slow).unwrap();
        for _ in 0..2 {
            let batch = batch(&mut to_agent, true);
            assert_eq!(batch.len(), 1);
            assert!(batch[0].tags.is_empty() && batch[0].deprecated_tags.is_empty());
            let Some(envelope::Message::Event(event)) = &batch[0].message else {
                panic!("{batch:?}");
            };
            assert_eq!(
                event.title,
                "Traffic Controller has disconnected slow consumer"
            );
            let start = "Remote Address: 10.0.0.1:5\nX-Forwarded-For: 1.2.3.4, 5.6.7.8\nPath: /firehose/n\n\nWhen Loggregator detects a slow connection, ";
            assert!(event.body.starts_with(start), "{}", event.body);
            assert!(event.body.ends_with("Envelopes lost: 7"), "{}", event.body);
        }
        to_agent.told();
        assert!(to_agent.message(true).is_none());
        assert_eq!(batch(&mut to_agent, false).len(), COUNTERS.len() + 2);
    }

    #[test]
    fn what_was_not_told_is_told_the_next_time() {
        let (mut to_agent, _tell) = to_agent();
        let slow = |to_agent: &mut ToAgent| {
            let all = batch(to_agent, false).into_iter();
            let mut counters = all.filter_map(|envelope| match envelope.message {
                Some(envelope::Message::Counter(counter)) => Some((counter.name, counter.delta)),
                _ => None,
            });
            counters
                .find(|(name, _)| name == "doppler_proxy.slow_consumer")
                .unwrap()
                .1
        };
        let before = slow(&mut to_agent);
        to_agent.told();
        let consumer = SlowConsumer {
            remote: String::new(),
            forwarded_for: String::new(),
            path: String::new(),
            lost: 0,
        };
        to_agent.metrics.slow_consumer(consumer.clone());
        assert_eq!((before, slow(&mut to_agent)), (0, 1));
        to_agent.metrics.slow_consumer(consumer);
        assert_eq!(slow(&mut to_agent), 2, "the first was lost");
        to_agent.told();
        assert_eq!(slow(&mut to_agent), 0);
    }
}
