//! The conversion between v1 and v2, written to be read.
//!
//! A decoded envelope comes in, decoded envelopes go out. Nothing on a hot path runs
//! this: it is what [`transcode`](crate::transcode) is tested against.
//!
//! It does what the Go conversion does, whose recorded results are the test vectors,
//! except that a log with an empty payload is delivered, a timer without a request id
//! is delivered (its id is zero), and a timer without a peer type or method is refused:
//! Go invents a zero for those, which ends the stream of a Java client.

use crate::{
    Refused,
    v1::{self, Method, PeerType, Uuid, envelope::EventType, log_message::MessageType},
    v2::{self, envelope::Message, log, value::Data},
};
use std::{collections::BTreeMap, str::FromStr};

/// Which of v2's two tag maps to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `tags`.
    Preferred,
    /// `deprecated_tags`, as text.
    Deprecated,
}

pub(crate) const NO_MESSAGE: Refused = Refused::NotV1("no message");
pub(crate) const AN_EVENT: Refused = Refused::NotV1("an event");
pub(crate) const EMPTY_GAUGE: Refused = Refused::NotV1("a gauge without metrics");
pub(crate) const NO_PEER_TYPE: Refused = Refused::NotV1("a timer without a valid peer_type");
pub(crate) const NO_METHOD: Refused = Refused::NotV1("a timer without a valid method");

/// The v1 envelopes that say what `envelope` says: several for a gauge of several
/// metrics, in the order of their names; one for everything else.
pub fn to_v1(envelope: &v2::Envelope) -> Result<Vec<v1::Envelope>, Refused> {
    match envelope.message.as_ref().ok_or(NO_MESSAGE)? {
        Message::Log(log) if tag(envelope, "__v1_type") == "Error" => {
            Ok(vec![error(envelope, log)])
        }
        Message::Log(log) => Ok(vec![log_message(envelope, log)]),
        Message::Counter(counter) => Ok(vec![counter_event(envelope, counter)]),
        Message::Gauge(gauge) if gauge.metrics.is_empty() => Err(EMPTY_GAUGE),
        Message::Gauge(gauge) if is_container(gauge) => Ok(vec![container_metric(envelope, gauge)]),
        Message::Gauge(gauge) => Ok(value_metrics(envelope, gauge)),
        Message::Timer(timer) => Ok(vec![http_start_stop(envelope, timer)?]),
        Message::Event(_) => Err(AN_EVENT),
    }
}

/// The v2 envelope that says what `envelope` says; without a message where the event
/// type is none that v2 knows.
pub fn to_v2(envelope: &v1::Envelope, tags: Tags) -> v2::Envelope {
    let mut map = envelope.tags.clone();
    for (name, value) in [
        ("origin", Some(&envelope.origin)),
        ("deployment", envelope.deployment.as_ref()),
        ("job", envelope.job.as_ref()),
        ("index", envelope.index.as_ref()),
        ("ip", envelope.ip.as_ref()),
    ] {
        map.insert(name.into(), value.cloned().unwrap_or_default());
    }
    let event_type = EventType::try_from(envelope.event_type);
    let name = event_type.as_ref().map(EventType::as_str_name);
    map.insert(
        "__v1_type".into(),
        name_or_number(name, envelope.event_type),
    );

    let mut v2 = v2::Envelope {
        timestamp: envelope.timestamp(),
        source_id: match map.remove("source_id") {
            Some(id) => id,
            None => format!("{}/{}", envelope.deployment(), envelope.job()),
        },
        ..Default::default()
    };
    match event_type {
        Ok(EventType::LogMessage) => from_log(envelope, &mut v2, &mut map),
        Ok(EventType::HttpStartStop) => from_http(envelope, &mut v2, &mut map),
        Ok(EventType::ValueMetric) => from_value(envelope, &mut v2, &map),
        Ok(EventType::CounterEvent) => from_counter(envelope, &mut v2, &mut map),
        Ok(EventType::Error) => from_error(envelope, &mut v2, &mut map),
        Ok(EventType::ContainerMetric) => from_container(envelope, &mut v2),
        Err(_) => {}
    }

    match tags {
        Tags::Preferred => v2.tags = map,
        Tags::Deprecated => {
            let as_text = |(key, value)| {
                let data = Some(Data::Text(value));
                (key, v2::Value { data })
            };
            v2.deprecated_tags = map.into_iter().map(as_text).collect();
        }
    }
    v2
}

type TagMap = BTreeMap<String, String>;

/// What every v1 envelope made from `envelope` has. `used`: the tags that become fields
/// of its body and do not stay tags.
fn base(envelope: &v2::Envelope, event_type: EventType, used: &[&str]) -> v1::Envelope {
    let mut tags = envelope.tags.clone();
    for (key, value) in &envelope.deprecated_tags {
        // The other way round than in a lookup: here the deprecated value wins.
        if value.data.is_some() {
            tags.insert(key.clone(), text(value));
        }
    }
    if !envelope.source_id.is_empty() {
        tags.insert("source_id".into(), envelope.source_id.clone());
    }
    let base = ["__v1_type", "origin", "deployment", "job", "index", "ip"];
    for name in base.iter().chain(used) {
        tags.remove(*name);
    }
    v1::Envelope {
        origin: tag(envelope, "origin"),
        event_type: event_type as i32,
        timestamp: Some(envelope.timestamp),
        deployment: Some(tag(envelope, "deployment")),
        job: Some(tag(envelope, "job")),
        index: Some(tag(envelope, "index")),
        ip: Some(tag(envelope, "ip")),
        tags,
        ..Default::default()
    }
}

/// A tag looked up: `tags` first, empty if there is none.
fn tag(envelope: &v2::Envelope, name: &str) -> String {
    match envelope.tags.get(name) {
        Some(value) => value.clone(),
        None => envelope
            .deprecated_tags
            .get(name)
            .map(text)
            .unwrap_or_default(),
    }
}

fn text(value: &v2::Value) -> String {
    match &value.data {
        Some(Data::Text(text)) => text.clone(),
        Some(Data::Integer(integer)) => integer.to_string(),
        Some(Data::Decimal(decimal)) => decimal_text(*decimal),
        None => String::new(),
    }
}

/// A decimal as Go prints it with `%f`.
pub(crate) fn decimal_text(decimal: f64) -> String {
    match decimal {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => format!("{decimal:.6}"),
    }
}

/// What a tag's text says as a number: 0 where it says none.
pub(crate) fn number<T: FromStr + Default>(text: &str) -> T {
    text.parse().unwrap_or_default()
}

fn log_message(envelope: &v2::Envelope, log: &v2::Log) -> v1::Envelope {
    v1::Envelope {
        log_message: Some(v1::LogMessage {
            message: log.payload.clone(),
            message_type: match log.r#type {
                0 => MessageType::Out as i32,
                _ => MessageType::Err as i32,
            },
            timestamp: envelope.timestamp,
            app_id: Some(envelope.source_id.clone()),
            source_type: Some(tag(envelope, "source_type")),
            source_instance: Some(envelope.instance_id.clone()),
        }),
        ..base(envelope, EventType::LogMessage, &["source_type"])
    }
}

fn error(envelope: &v2::Envelope, log: &v2::Log) -> v1::Envelope {
    v1::Envelope {
        error: Some(v1::Error {
            source: tag(envelope, "source"),
            code: number::<i64>(&tag(envelope, "code")) as i32,
            message: String::from_utf8_lossy(&log.payload).into_owned(),
        }),
        ..base(envelope, EventType::Error, &["source", "code"])
    }
}

fn counter_event(envelope: &v2::Envelope, counter: &v2::Counter) -> v1::Envelope {
    let mut v1 = v1::Envelope {
        counter_event: Some(v1::CounterEvent {
            name: counter.name.clone(),
            delta: counter.delta,
            total: Some(counter.total),
        }),
        ..base(envelope, EventType::CounterEvent, &[])
    };
    add_instance_id(&mut v1.tags, envelope);
    v1
}

fn value_metrics(envelope: &v2::Envelope, gauge: &v2::Gauge) -> Vec<v1::Envelope> {
    let mut base = base(envelope, EventType::ValueMetric, &[]);
    add_instance_id(&mut base.tags, envelope);
    let value_metric = |(name, metric): (&String, &v2::GaugeValue)| v1::Envelope {
        value_metric: Some(v1::ValueMetric {
            name: name.clone(),
            value: metric.value,
            unit: metric.unit.clone(),
        }),
        ..base.clone()
    };
    gauge.metrics.iter().map(value_metric).collect()
}

fn add_instance_id(tags: &mut TagMap, envelope: &v2::Envelope) {
    if !envelope.instance_id.is_empty() {
        tags.insert("instance_id".into(), envelope.instance_id.clone());
    }
}

fn is_container(gauge: &v2::Gauge) -> bool {
    let says_something = |metric: &v2::GaugeValue| !metric.unit.is_empty() || metric.value != 0.0;
    ["cpu", "memory", "disk", "memory_quota", "disk_quota"]
        .iter()
        .all(|name| gauge.metrics.get(*name).is_some_and(says_something))
}

fn container_metric(envelope: &v2::Envelope, gauge: &v2::Gauge) -> v1::Envelope {
    let value = |name: &str| gauge.metrics.get(name).map(|metric| metric.value);
    let bytes = |name| unsigned(value(name).unwrap_or_default());
    v1::Envelope {
        container_metric: Some(v1::ContainerMetric {
            application_id: envelope.source_id.clone(),
            instance_index: match value("instance_index") {
                Some(index) => signed(index),
                None => number(&envelope.instance_id),
            },
            cpu_percentage: value("cpu").unwrap_or_default(),
            memory_bytes: bytes("memory"),
            disk_bytes: bytes("disk"),
            memory_bytes_quota: Some(bytes("memory_quota")),
            disk_bytes_quota: Some(bytes("disk_quota")),
        }),
        ..base(envelope, EventType::ContainerMetric, &[])
    }
}

/// A float as an unsigned number, as Go on amd64 has it: a negative one wraps, and what
/// no 64 bits can hold becomes what that machine makes of it.
pub(crate) fn unsigned(value: f64) -> u64 {
    const HALF: f64 = (1_u64 << 63) as f64;
    let truncate = |value: f64| match (-HALF..HALF).contains(&value) {
        true => value as i64 as u64,
        false => 1 << 63,
    };
    match value < HALF {
        true => truncate(value),
        false => truncate(value - HALF) ^ 1 << 63,
    }
}

/// The same for an instance index.
pub(crate) fn signed(value: f64) -> i32 {
    match value > -2_147_483_649.0 && value < 2_147_483_648.0 {
        true => value as i32,
        false => i32::MIN,
    }
}

/// The tags that become fields of an HttpStartStop.
const HTTP_TAGS: [&str; 10] = [
    "peer_type",
    "method",
    "request_id",
    "uri",
    "remote_address",
    "user_agent",
    "status_code",
    "content_length",
    "routing_instance_id",
    "forwarded",
];

fn http_start_stop(envelope: &v2::Envelope, timer: &v2::Timer) -> Result<v1::Envelope, Refused> {
    let tag = |name| tag(envelope, name);
    let peer_type = PeerType::from_str_name(&tag("peer_type")).ok_or(NO_PEER_TYPE)?;
    let method = Method::from_str_name(&tag("method")).ok_or(NO_METHOD)?;
    Ok(v1::Envelope {
        http_start_stop: Some(v1::HttpStartStop {
            start_timestamp: timer.start,
            stop_timestamp: timer.stop,
            request_id: tag("request_id").parse().unwrap_or_default(),
            peer_type: peer_type as i32,
            method: method as i32,
            uri: tag("uri"),
            remote_address: tag("remote_address"),
            user_agent: tag("user_agent"),
            status_code: number::<i64>(&tag("status_code")) as i32,
            content_length: number(&tag("content_length")),
            application_id: envelope.source_id.parse().ok(),
            instance_index: Some(number(&envelope.instance_id)),
            instance_id: Some(tag("routing_instance_id")),
            forwarded: tag("forwarded").split('\n').map(str::to_owned).collect(),
        }),
        ..base(envelope, EventType::HttpStartStop, &HTTP_TAGS)
    })
}

fn from_log(v1: &v1::Envelope, v2: &mut v2::Envelope, tags: &mut TagMap) {
    let log = v1.log_message.clone().unwrap_or_default();
    let r#type = match log.message_type() {
        MessageType::Out => log::Type::Out,
        MessageType::Err => log::Type::Err,
    };
    if !log.app_id().is_empty() {
        v2.source_id = log.app_id().to_owned();
    }
    v2.instance_id = log.source_instance().to_owned();
    tags.insert("source_type".into(), log.source_type().to_owned());
    v2.message = Some(Message::Log(v2::Log {
        payload: log.message,
        r#type: r#type as i32,
    }));
}

fn from_http(v1: &v1::Envelope, v2: &mut v2::Envelope, tags: &mut TagMap) {
    let http = v1.http_start_stop.clone().unwrap_or_default();
    match http.application_id {
        Some(id) if id != Uuid::default() => v2.source_id = id.to_string(),
        _ => {}
    }
    v2.instance_id = http.instance_index().to_string();
    let peer_type = PeerType::try_from(http.peer_type);
    let peer_type = peer_type.as_ref().map(PeerType::as_str_name);
    let method = Method::try_from(http.method);
    let method = method.as_ref().map(Method::as_str_name);
    for (name, value) in [
        ("request_id", http.request_id.to_string()),
        ("peer_type", name_or_number(peer_type, http.peer_type)),
        ("method", name_or_number(method, http.method)),
        ("uri", http.uri.clone()),
        ("remote_address", http.remote_address.clone()),
        ("user_agent", http.user_agent.clone()),
        ("status_code", http.status_code.to_string()),
        ("content_length", http.content_length.to_string()),
        ("routing_instance_id", http.instance_id().to_owned()),
        ("forwarded", http.forwarded.join("\n")),
    ] {
        tags.insert(name.into(), value);
    }
    v2.message = Some(Message::Timer(v2::Timer {
        name: "http".into(),
        start: http.start_timestamp,
        stop: http.stop_timestamp,
    }));
}

fn from_value(v1: &v1::Envelope, v2: &mut v2::Envelope, tags: &TagMap) {
    let metric = v1.value_metric.clone().unwrap_or_default();
    v2.instance_id = tags.get("instance_id").cloned().unwrap_or_default();
    v2.message = Some(gauge([(&*metric.name, &*metric.unit, metric.value)]));
}

fn from_counter(v1: &v1::Envelope, v2: &mut v2::Envelope, tags: &mut TagMap) {
    let counter = v1.counter_event.clone().unwrap_or_default();
    v2.instance_id = tags.remove("instance_id").unwrap_or_default();
    v2.message = Some(Message::Counter(v2::Counter {
        total: counter.total(),
        name: counter.name,
        delta: counter.delta,
    }));
}

fn from_error(v1: &v1::Envelope, v2: &mut v2::Envelope, tags: &mut TagMap) {
    let error = v1.error.clone().unwrap_or_default();
    tags.insert("source".into(), error.source);
    tags.insert("code".into(), error.code.to_string());
    v2.message = Some(Message::Log(v2::Log {
        payload: error.message.into_bytes(),
        r#type: log::Type::Out as i32,
    }));
}

fn from_container(v1: &v1::Envelope, v2: &mut v2::Envelope) {
    let metric = v1.container_metric.clone().unwrap_or_default();
    if !metric.application_id.is_empty() {
        v2.source_id = metric.application_id.clone();
    }
    v2.instance_id = metric.instance_index.to_string();
    v2.message = Some(gauge([
        ("cpu", "percentage", metric.cpu_percentage),
        ("memory", "bytes", metric.memory_bytes as f64),
        ("disk", "bytes", metric.disk_bytes as f64),
        ("memory_quota", "bytes", metric.memory_bytes_quota() as f64),
        ("disk_quota", "bytes", metric.disk_bytes_quota() as f64),
    ]));
}

fn gauge<const N: usize>(metrics: [(&str, &str, f64); N]) -> Message {
    let metric = |(name, unit, value): (&str, &str, f64)| {
        let unit = unit.to_owned();
        (name.to_owned(), v2::GaugeValue { unit, value })
    };
    let metrics = metrics.into_iter().map(metric).collect();
    Message::Gauge(v2::Gauge { metrics })
}

/// The name of an enum value, or its number where it has none.
fn name_or_number<E>(name: Result<&str, E>, number: i32) -> String {
    match name {
        Ok(name) => name.to_owned(),
        Err(_) => number.to_string(),
    }
}
