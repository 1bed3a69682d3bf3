//! The envelopes whose cost is counted, encoded as agents encode them.

use prost::Message;
use prost::encoding;
use proto::v2::envelope::Message as Body;
use proto::v2::{Envelope, Gauge, GaugeValue, Log, Timer};
use std::collections::BTreeMap;

/// How many there are of each kind: a batch.
pub(crate) const BATCH: usize = 100;

const TIMESTAMP: i64 = 1_700_000_000_123_456_789;
const APP: &str = "5f0d1c9e-1111-4222-8333-444444444444";

/// What every agent adds, and the origin.
const FEW: [(&str, &str); 5] = [
    ("deployment", "cf"),
    ("job", "diego-cell"),
    ("index", "7b1c2a"),
    ("ip", "10.0.16.34"),
    ("origin", "rep"),
];

/// What a Cloud Foundry app's envelope has besides.
const MORE: [(&str, &str); 13] = [
    ("source_type", "APP/PROC/WEB"),
    ("app_id", APP),
    ("app_name", "orders-service"),
    ("space_id", "11111111-aaaa-4bbb-8ccc-dddddddddddd"),
    ("space_name", "production"),
    ("organization_id", "22222222-aaaa-4bbb-8ccc-dddddddddddd"),
    ("organization_name", "retail"),
    ("process_id", APP),
    ("process_instance_id", "5b6e2f0c-1d55-4e2b-4d1c-0f2f"),
    ("process_type", "web"),
    ("instance_id", "0"),
    ("product", "Cloud Foundry"),
    ("system_domain", "sys.example.com"),
];

const HTTP: [(&str, &str); 6] = [
    ("peer_type", "Server"),
    ("method", "GET"),
    ("request_id", "f47ac10b-58cc-4372-a567-0e02b2c3d479"),
    ("uri", "https://orders.example.com/v1/things"),
    ("status_code", "200"),
    ("content_length", "1234"),
];

/// Logs of 256 bytes with few tags.
pub(crate) fn logs() -> Vec<Vec<u8>> {
    envelopes(log(), &FEW)
}

/// The same with all tags.
pub(crate) fn full_logs() -> Vec<Vec<u8>> {
    envelopes(log(), &[&FEW[..], &MORE[..]].concat())
}

/// Requests with all tags.
pub(crate) fn timers() -> Vec<Vec<u8>> {
    let timer = Timer {
        name: "http".into(),
        start: TIMESTAMP - 7_000_000,
        stop: TIMESTAMP,
    };
    let tags = [&FEW[..], &MORE[..], &HTTP[..]].concat();
    envelopes(Body::Timer(timer), &tags)
}

/// A container's metrics with all tags.
pub(crate) fn gauges() -> Vec<Vec<u8>> {
    let names = ["cpu", "memory", "disk", "memory_quota", "disk_quota"];
    let value = || GaugeValue {
        unit: "bytes".into(),
        value: 12.5,
    };
    let metrics: BTreeMap<String, GaugeValue> =
        names.iter().map(|name| ((*name).into(), value())).collect();
    envelopes(
        Body::Gauge(Gauge { metrics }),
        &[&FEW[..], &MORE[..]].concat(),
    )
}

/// Logs with few tags as one `EnvelopeBatch`.
pub(crate) fn message() -> Vec<u8> {
    let mut message = Vec::new();
    for envelope in logs() {
        encoding::bytes::encode(1, &envelope, &mut message);
    }
    message
}

fn log() -> Body {
    let line = b"GET /v1/things 200 OK in 12 ms ".iter().copied();
    Body::Log(Log {
        payload: line.cycle().take(256).collect(),
        r#type: 0,
    })
}

/// Each with its tags in an order of its own: agents are written in Go, whose maps have none.
fn envelopes(message: Body, tags: &[(&str, &str)]) -> Vec<Vec<u8>> {
    let envelope = Envelope {
        timestamp: TIMESTAMP,
        source_id: APP.into(),
        instance_id: "0".into(),
        message: Some(message),
        ..Envelope::default()
    };
    let mut random = fastrand::Rng::with_seed(7);
    let mut tags = tags.to_vec();
    let encoded = |_| {
        random.shuffle(&mut tags);
        let mut bytes = envelope.encode_to_vec();
        for (key, value) in &tags {
            let mut entry = Vec::new();
            encoding::string::encode(1, &(*key).to_owned(), &mut entry);
            encoding::string::encode(2, &(*value).to_owned(), &mut entry);
            encoding::bytes::encode(9, &entry, &mut bytes);
        }
        bytes
    };
    (0..BATCH).map(encoded).collect()
}
