//! Envelopes that say who sent them, in which order, and whose they are.
//!
//! Every envelope carries its [`Mark`] in one tag, which v1 keeps, so that a reader of any
//! subscription can tell what is missing, double, out of order or somebody else's. What an
//! envelope is and whose follows from its sequence number alone ([`Kind::of`],
//! [`Workload::app`]): both ends can work out what the other should have.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use proto::v2::envelope::Message as Body;
use proto::v2::{Counter, Envelope, EnvelopeBatch, Gauge, GaugeValue, Log, Timer, log};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// The tag that carries the mark.
pub const MARK: &str = "mark";

/// Who sent an envelope, as which of theirs, for which app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The producer.
    pub producer: u32,
    /// Counted from 0 by each producer.
    pub sequence: u64,
    /// The app, see [`guid`].
    pub app: u32,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.producer, self.sequence, self.app)
    }
}

impl Mark {
    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Option<Mark> {
        let mut parts = text.split('/');
        let mark = Mark {
            producer: parts.next()?.parse().ok()?,
            sequence: parts.next()?.parse().ok()?,
            app: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(mark)
    }
}

/// The GUID of an app.
pub fn guid(app: u32) -> String {
    format!("{app:08x}-0000-4000-8000-{app:012x}")
}

/// What an envelope is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A log line of an app.
    Log,
    /// A counter; belongs to no app on v1.
    Counter,
    /// A gauge with one metric; belongs to no app on v1.
    Gauge,
    /// An HTTP request to an app.
    Timer,
    /// A container's metrics.
    Container,
}

impl Kind {
    /// The kind of the envelope with that number: of ten, six are logs and one each the rest.
    pub fn of(sequence: u64) -> Kind {
        match sequence % 10 {
            6 => Kind::Counter,
            7 => Kind::Gauge,
            8 => Kind::Timer,
            9 => Kind::Container,
            _ => Kind::Log,
        }
    }

    /// Whether streams of the app carry it.
    pub fn is_an_apps(self) -> bool {
        matches!(self, Kind::Log | Kind::Timer | Kind::Container)
    }
}

/// What producers send.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// Apps are numbered from 0 up to, without, this.
    pub apps: u32,
    /// Bytes of each log's payload.
    pub payload: usize,
    /// Send nothing but logs.
    pub only_logs: bool,
}

impl Workload {
    /// Mixed envelopes of so many apps with logs of 50 bytes.
    pub fn mixed(apps: u32) -> Workload {
        Workload {
            apps,
            payload: 50,
            only_logs: false,
        }
    }

    /// Logs of so many apps with so many bytes each.
    pub fn logs(apps: u32, payload: usize) -> Workload {
        Workload {
            apps,
            payload,
            only_logs: true,
        }
    }

    /// What the envelope with that number is.
    pub fn kind(&self, sequence: u64) -> Kind {
        match self.only_logs {
            true => Kind::Log,
            false => Kind::of(sequence),
        }
    }

    /// The app of the envelope with that number: scattered, so that each app has each kind.
    pub fn app(&self, sequence: u64) -> u32 {
        // Knuth's multiplicative hash.
        let scattered = (sequence as u32).wrapping_mul(2_654_435_761) >> 8;
        scattered % self.apps
    }

    /// The envelope with that number of that producer.
    pub fn envelope(&self, producer: u32, sequence: u64) -> Envelope {
        let mark = Mark {
            producer,
            sequence,
            app: self.app(sequence),
        };
        match self.kind(sequence) {
            Kind::Log => log(mark, self.payload),
            Kind::Counter => counter(mark),
            Kind::Gauge => gauge(mark),
            Kind::Timer => timer(mark),
            Kind::Container => container(mark),
        }
    }
}

/// Nanoseconds since 1970, as envelopes are stamped.
pub fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is later than 1970");
    since.as_nanos() as i64
}

/// A log line of `payload` bytes, which begins with its mark if there is room.
pub fn log(mark: Mark, payload: usize) -> Envelope {
    let mut line = mark.to_string().into_bytes();
    line.resize(payload, b'.');
    let message = Log {
        payload: line,
        r#type: log::Type::Out as i32,
    };
    envelope(mark, Body::Log(message))
}

/// A counter.
pub fn counter(mark: Mark) -> Envelope {
    let message = Counter {
        name: "requests".into(),
        delta: 1,
        total: mark.sequence,
    };
    envelope(mark, Body::Counter(message))
}

/// A gauge of one metric.
pub fn gauge(mark: Mark) -> Envelope {
    envelope(mark, gauges([("depth", mark.sequence as f64, "items")]))
}

/// A container's metrics.
pub fn container(mark: Mark) -> Envelope {
    let metrics = [
        ("cpu", 12.5, "percentage"),
        ("memory", 1e8, "bytes"),
        ("disk", 2e8, "bytes"),
        ("memory_quota", 3e8, "bytes"),
        ("disk_quota", 4e8, "bytes"),
    ];
    envelope(mark, gauges(metrics))
}

/// An HTTP request as gorouter tells it.
pub fn timer(mark: Mark) -> Envelope {
    let message = Timer {
        name: "http".into(),
        start: now() - 1_000_000,
        stop: now(),
    };
    let mut envelope = envelope(mark, Body::Timer(message));
    for (key, value) in [
        ("peer_type", "Server"),
        ("method", "GET"),
        ("request_id", "6f2c7a0e-1e0a-4bb5-8f5c-0c1d2e3f4a5b"),
        ("uri", "http://app.example/"),
        ("status_code", "200"),
    ] {
        envelope.tags.insert(key.into(), value.into());
    }
    envelope
}

fn gauges<const N: usize>(metrics: [(&str, f64, &str); N]) -> Body {
    let metrics = metrics.into_iter().map(|(name, value, unit)| {
        let value = GaugeValue {
            unit: unit.into(),
            value,
        };
        (name.to_owned(), value)
    });
    Body::Gauge(Gauge {
        metrics: metrics.collect(),
    })
}

fn envelope(mark: Mark, message: Body) -> Envelope {
    Envelope {
        timestamp: now(),
        source_id: guid(mark.app),
        instance_id: "0".into(),
        tags: [
            (MARK.to_owned(), mark.to_string()),
            ("origin".to_owned(), "test".to_owned()),
        ]
        .into(),
        message: Some(message),
        ..Envelope::default()
    }
}

/// Envelopes as one gRPC message of `BatchSender`.
pub fn batch(envelopes: impl IntoIterator<Item = Envelope>) -> Bytes {
    let batch = EnvelopeBatch {
        batch: envelopes.into_iter().collect(),
    };
    message(&batch.encode_to_vec())
}

/// Bytes as one gRPC message: a flag, the length, the bytes.
pub fn message(bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(bytes.len() + 5);
    message.extend_from_slice(&prefix(bytes.len()));
    message.extend_from_slice(bytes);
    message.freeze()
}

/// What precedes a gRPC message of so many bytes.
pub fn prefix(length: usize) -> Bytes {
    let mut prefix = BytesMut::with_capacity(5);
    prefix.put_u8(0);
    prefix.put_u32(u32::try_from(length).expect("gRPC has 32 bits for a length"));
    prefix.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mark = Mark {
            producer: 3,
            sequence: 1 << 40,
            app: 219,
        };
        assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
        assert_eq!(Mark::parse("1/2"), None);
        assert_eq!(Mark::parse("1/2/3/4"), None);
    }

    #[test]
    fn every_app_has_every_kind() {
        let workload = Workload::mixed(200);
        let mut seen = std::collections::HashSet::new();
        for sequence in 0..50_000 {
            seen.insert((workload.app(sequence), workload.kind(sequence) as u8));
        }
        assert_eq!(seen.len(), 200 * 5);
    }
}
