//! What the generator sends: batches of v2 envelopes, encoded once, stamped as they leave.

use prost::Message;
use proto::v2::{Counter, Envelope, EnvelopeBatch, Gauge, GaugeValue, Log, Timer, envelope};
use std::collections::BTreeMap;

/// Envelopes in a batch, as today's agents send them.
pub(crate) const BATCH: usize = 100;

/// How many tags an envelope has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tags {
    /// The four that every agent adds.
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
}

/// An encoded `EnvelopeBatch` behind its gRPC prefix, and where its timestamps stand.
pub(crate) struct Template {
    bytes: Vec<u8>,
    stamps: Vec<usize>,
}

/// A timestamp whose varint has the nine bytes that every one from 2004 to 2262 has.
const STAMP: i64 = i64::MAX / 2;
const STAMP_BYTES: usize = 9;

/// The id of the `n`th app.
pub(crate) fn app(n: usize) -> String {
    format!("{n:08x}-1111-4222-8333-444444444444")
}

impl Template {
    /// Batch number `n` of a feed.
    pub(crate) fn new(shape: Shape, n: usize) -> Template {
        let envelopes = (0..BATCH).map(|i| one(shape, n * BATCH + i)).collect();
        let batch = EnvelopeBatch { batch: envelopes }.encode_to_vec();
        let mut bytes = vec![0];
        bytes.extend_from_slice(&(batch.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&batch);
        let mut stamp = vec![0x08]; // field 1, a varint
        prost::encoding::encode_varint(STAMP as u64, &mut stamp);
        let stamps = bytes.windows(stamp.len()).enumerate();
        let stamps = stamps.filter(|(_, window)| *window == stamp).map(|(at, _)| at + 1).collect();
        let template = Template { bytes, stamps };
        assert_eq!(template.stamps.len(), BATCH, "every envelope has one timestamp");
        template
    }

    /// The batch as a gRPC message, every envelope stamped with `now`.
    pub(crate) fn stamped(&self, now_ns: i64) -> bytes::Bytes {
        let mut bytes = self.bytes.clone();
        let mut stamp = Vec::with_capacity(STAMP_BYTES);
        prost::encoding::encode_varint(now_ns as u64, &mut stamp);
        for at in &self.stamps {
            bytes[*at..*at + STAMP_BYTES].copy_from_slice(&stamp);
        }
        bytes.into()
    }

    /// Bytes of an envelope on average.
    pub(crate) fn envelope_bytes(&self) -> usize {
        self.bytes.len() / BATCH
    }
}

fn one(shape: Shape, n: usize) -> Envelope {
    let message = match shape.mix {
        Mix::Logs => log(shape.payload),
        Mix::Mixed => match n % 20 {
            0..14 => log(shape.payload),
            14..17 => envelope::Message::Timer(Timer {
                name: "http".into(),
                start: STAMP - 7,
                stop: STAMP - 3,
            }),
            17..19 => envelope::Message::Gauge(Gauge {
                metrics: BTreeMap::from([(
                    "cpu".to_owned(),
                    GaugeValue {
                        unit: "percentage".into(),
                        value: 12.5,
                    },
                )]),
            }),
            _ => envelope::Message::Counter(Counter {
                name: "requests".into(),
                delta: 1,
                total: n as u64,
            }),
        },
    };
    let timer = matches!(message, envelope::Message::Timer(_));
    let app = app(n % shape.apps);
    Envelope {
        timestamp: STAMP,
        source_id: app.clone(),
        instance_id: "0".into(),
        tags: tags(shape.tags, &app, timer),
        message: Some(message),
        ..Envelope::default()
    }
}

fn log(payload: usize) -> envelope::Message {
    envelope::Message::Log(Log {
        payload: b"GET /v1/things 200 OK in 12 ms ".iter().copied().cycle().take(payload).collect(),
        r#type: 0,
    })
}

fn tags(tags: Tags, app: &str, timer: bool) -> BTreeMap<String, String> {
    let min = [("deployment", "cf"), ("job", "diego-cell"), ("index", "7b1c2a"), ("ip", "10.0.16.34"), ("origin", "rep")];
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
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut add = |some: &[(&str, &str)]| all.extend(some.iter().map(|(k, v)| (k.to_string(), v.to_string())));
    add(&min);
    if tags == Tags::Full {
        add(&full);
    }
    if timer {
        add(&http);
    }
    all
}
