//! What the generator sends: batches of v2 envelopes, encoded once, stamped as they leave; and
//! who is due which of them.

use prost::Message;
use prost::encoding;
use proto::v2::{Counter, Envelope, Gauge, GaugeValue, Log, Timer, envelope};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most envelopes in a batch: what today's agents put into one when they are busy.
pub(crate) const MAX_BATCH: usize = 100;

/// How many envelopes a connection goes round, at least: a few MiB, as much as leaves the
/// processor's nearest caches before it comes again.
const ROUND: usize = 4_000;

/// How many bytes it goes round at most, if its envelopes are large.
const ROUND_BYTES: usize = 64 << 20;

/// How many different rounds there are: of more connections some send the same.
const ROUNDS: usize = 8;

/// The tag `origin` of every envelope. It becomes the first field of its v1 form, where
/// readers know it by.
pub(crate) const ORIGIN: &str = "rep";

/// How many tags an envelope has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tags {
    /// The origin alone, by which readers know ours.
    None,
    /// The four that every agent adds, and the origin.
    Min,
    /// What a Cloud Foundry app's envelope carries: 18 of them.
    Full,
}

/// What kinds of envelopes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mix {
    /// Logs only.
    Logs,
    /// 70 % logs, 15 % HTTP timers, 10 % gauges, 5 % counters.
    Mixed,
}

/// What to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) mix: Mix,
    pub(crate) tags: Tags,
    /// Bytes of a log's payload.
    pub(crate) payload: usize,
    /// How many apps the envelopes belong to.
    pub(crate) apps: usize,
    /// Envelopes in a batch.
    pub(crate) batch: usize,
    /// Connections, each on its own way round.
    pub(crate) connections: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Log,
    Timer,
    Gauge,
    Counter,
}

impl Shape {
    /// How many differently numbered batches a connection goes round.
    fn batches(&self) -> usize {
        // Tags and names take some hundred bytes more; to the batch this need not be exact.
        let fit = ROUND_BYTES / (self.payload + 500);
        ROUND.min(fit).max(self.apps).div_ceil(self.batch)
    }

    /// What connections send, round and round: the first the first of these, and so on in turns.
    pub(crate) fn rounds(&self) -> Vec<Arc<Vec<Template>>> {
        let rounds = 0..self.connections.min(ROUNDS);
        rounds.map(|n| Arc::new(self.round(n))).collect()
    }

    fn round(&self, n: usize) -> Vec<Template> {
        let first = n * self.batches();
        let batches = first..first + self.batches();
        batches.map(|n| Template::new(self, n)).collect()
    }

    /// How many envelopes each app's stream is due once the connections have sent that many
    /// batches.
    pub(crate) fn due_by_app(&self, sent: &[u64]) -> Vec<u64> {
        let mut due = vec![0; self.apps];
        let round = self.batches();
        for (connection, sent) in sent.iter().enumerate() {
            for batch in 0..round {
                let begun = u64::from((batch as u64) < sent % round as u64);
                let times = sent / round as u64 + begun;
                let first = (connection % ROUNDS * round + batch) * self.batch;
                for n in first..first + self.batch {
                    // Of the others, v1 does not say which app they belong to.
                    if matches!(self.kind(n), Kind::Log | Kind::Timer) {
                        due[n % self.apps] += times;
                    }
                }
            }
        }
        due
    }

    /// What part of all envelopes each app's stream is due.
    pub(crate) fn shares(&self) -> Vec<f64> {
        let round = vec![self.batches() as u64; self.connections];
        let all = (self.connections * self.batches() * self.batch) as f64;
        let due = self.due_by_app(&round).into_iter();
        due.map(|due| due as f64 / all).collect()
    }

    /// Bytes of an envelope as sent, on average.
    pub(crate) fn envelope_bytes(&self, round: &[Template]) -> usize {
        let bytes: usize = round.iter().map(|template| template.bytes.len()).sum();
        bytes / (round.len() * self.batch)
    }

    fn kind(&self, n: usize) -> Kind {
        match (self.mix, n % 20) {
            (Mix::Logs, _) | (Mix::Mixed, 0..14) => Kind::Log,
            (Mix::Mixed, 14..17) => Kind::Timer,
            (Mix::Mixed, 17..19) => Kind::Gauge,
            (Mix::Mixed, _) => Kind::Counter,
        }
    }
}

/// An encoded `EnvelopeBatch` behind its gRPC prefix, and where its timestamps stand.
pub(crate) struct Template {
    bytes: Vec<u8>,
    stamps: Vec<usize>,
}

/// A timestamp whose varint has the nine bytes that every one from 2004 to 2262 has.
const STAMP: i64 = i64::MAX / 2;
const STAMP_BYTES: usize = 9;

/// A flag and a length.
const GRPC_PREFIX: usize = 5;

/// The id of the `n`th app.
pub(crate) fn app(n: usize) -> String {
    format!("{n:08x}-1111-4222-8333-444444444444")
}

impl Template {
    /// Batch number `n` of a feed.
    fn new(shape: &Shape, n: usize) -> Template {
        let mut batch = Vec::new();
        for i in 0..shape.batch {
            encoding::bytes::encode(1, &encoded(shape, n * shape.batch + i), &mut batch);
        }
        let mut bytes = vec![0];
        bytes.extend_from_slice(&(batch.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&batch);
        let mut stamp = vec![0x08]; // field 1, a varint
        encoding::encode_varint(STAMP as u64, &mut stamp);
        let windows = bytes.windows(stamp.len()).enumerate();
        let stamps = windows.filter(|(_, window)| *window == stamp);
        let stamps: Vec<usize> = stamps.map(|(at, _)| at + 1).collect();
        assert_eq!(
            stamps.len(),
            shape.batch,
            "every envelope has one timestamp"
        );
        Template { bytes, stamps }
    }

    /// The `EnvelopeBatch` alone.
    pub(crate) fn batch(&self) -> &[u8] {
        &self.bytes[GRPC_PREFIX..]
    }

    /// The batch as a gRPC message, every envelope stamped with that time.
    pub(crate) fn stamped(&self, unix_ns: i64) -> bytes::Bytes {
        let mut bytes = self.bytes.clone();
        let mut stamp = Vec::with_capacity(STAMP_BYTES);
        encoding::encode_varint(unix_ns as u64, &mut stamp);
        for at in &self.stamps {
            bytes[*at..*at + STAMP_BYTES].copy_from_slice(&stamp);
        }
        bytes.into()
    }
}

/// Envelope number `n`, its tags in an order of its own: agents are written in Go, whose maps
/// have none, and a reader of tags must not profit from one.
fn encoded(shape: &Shape, n: usize) -> Vec<u8> {
    let kind = shape.kind(n);
    let app = app(n % shape.apps);
    let envelope = Envelope {
        timestamp: STAMP,
        source_id: app.clone(),
        instance_id: "0".into(),
        message: Some(message(kind, shape.payload, n)),
        ..Envelope::default()
    };
    let mut bytes = envelope.encode_to_vec();
    let mut tags = tags(shape.tags, &app, kind);
    shuffle(&mut tags, n as u64);
    for (key, value) in &tags {
        let mut entry = Vec::new();
        encoding::string::encode(1, key, &mut entry);
        encoding::string::encode(2, value, &mut entry);
        encoding::bytes::encode(9, &entry, &mut bytes);
    }
    bytes
}

fn message(kind: Kind, payload: usize, n: usize) -> envelope::Message {
    match kind {
        Kind::Log => {
            let line = b"GET /v1/things 200 OK in 12 ms ".iter().copied();
            envelope::Message::Log(Log {
                payload: line.cycle().take(payload).collect(),
                r#type: 0,
            })
        }
        Kind::Timer => envelope::Message::Timer(Timer {
            name: "http".into(),
            start: STAMP - 7,
            stop: STAMP - 3,
        }),
        Kind::Gauge => {
            let cpu = GaugeValue {
                unit: "percentage".into(),
                value: 12.5,
            };
            envelope::Message::Gauge(Gauge {
                metrics: BTreeMap::from([("cpu".to_owned(), cpu)]),
            })
        }
        Kind::Counter => envelope::Message::Counter(Counter {
            name: "requests".into(),
            delta: 1,
            total: n as u64,
        }),
    }
}

fn tags(tags: Tags, app: &str, kind: Kind) -> Vec<(String, String)> {
    let min = [
        ("deployment", "cf"),
        ("job", "diego-cell"),
        ("index", "7b1c2a"),
        ("ip", "10.0.16.34"),
    ];
    let full = [
        ("source_type", "APP/PROC/WEB"),
        ("app_id", app),
        ("app_name", "orders-service"),
        ("space_id", "11111111-aaaa-4bbb-8ccc-dddddddddddd"),
        ("space_name", "production"),
        ("organization_id", "22222222-aaaa-4bbb-8ccc-dddddddddddd"),
        ("organization_name", "retail"),
        ("process_id", app),
        ("process_instance_id", "5b6e2f0c-1d55-4e2b-4d1c-0f2f"),
        ("process_type", "web"),
        ("instance_id", "0"),
        ("product", "Cloud Foundry"),
        ("system_domain", "sys.example.com"),
    ];
    let http = [
        ("peer_type", "Server"),
        ("method", "GET"),
        ("request_id", "f47ac10b-58cc-4372-a567-0e02b2c3d479"),
        ("uri", "https://orders.example.com/v1/things"),
        ("status_code", "200"),
        ("content_length", "1234"),
    ];
    let mut all = vec![("origin", ORIGIN)];
    if tags != Tags::None {
        all.extend(min);
    }
    if tags == Tags::Full {
        all.extend(full);
    }
    if kind == Kind::Timer {
        all.extend(http);
    }
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    all.into_iter().map(owned).collect()
}

/// Fisher and Yates' shuffle by SplitMix64: the same order for the same seed.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed;
    for last in (1..items.len()).rev() {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut random = state;
        random = (random ^ (random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        random = (random ^ (random >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        random ^= random >> 31;
        items.swap(last, (random % (last as u64 + 1)) as usize);
    }
}
