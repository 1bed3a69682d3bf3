//! v1 to v2, for emitters that still speak v1.

use super::tags::Name;
use crate::{
    Malformed, Refused, scan, uuid,
    v1::{Fields, Method, PeerType, Value, envelope::EventType, log_message::MessageType},
    v2::log,
    wire::{put_bytes, put_double, put_entry, put_message, put_number},
};
use std::borrow::Cow;

/// Appends the v2 form of a v1 envelope, its tags in `tags`.
///
/// What is not UTF-8 becomes U+FFFD: v2 knows only text, and one bad string must not
/// end the stream of everyone who reads it. An envelope of a type that v2 does not know
/// becomes one without a message.
pub fn v1_to_v2(v1: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
    scan::required(v1)?;
    let mut envelope = Message::default();
    envelope.read(Fields::of_envelope(v1))?;
    let event_type = envelope.number(2) as i32;
    let (body_field, used) = match EventType::try_from(event_type) {
        Ok(EventType::HttpStartStop) => (7, Name::HTTP),
        Ok(EventType::LogMessage) => (8, Name::LOG),
        Ok(EventType::ValueMetric) => (9, Name::NONE),
        Ok(EventType::CounterEvent) => (10, Name::InstanceId.bit()),
        Ok(EventType::Error) => (11, Name::ERROR),
        Ok(EventType::ContainerMetric) => (12, Name::NONE),
        Err(_) => (0, Name::NONE),
    };
    let used = used | Name::BASE | Name::SourceId.bit();

    // Tags go out as they come by; the pieces of the body are put together.
    let (mut body, mut http) = (Message::default(), Http::default());
    let (mut source_id, mut instance_id) = (None, None);
    let mut fields = Fields::of_envelope(v1);
    while let Some((number, value)) = fields.next()? {
        match value {
            Value::Message(piece) if number == body_field => {
                body.read(piece)?;
                if event_type == EventType::HttpStartStop as i32 {
                    http.read(piece)?;
                }
            }
            Value::Message(entry) if number == 17 => {
                let mut tag = Message::default();
                tag.read(entry)?;
                let name = Name::of(tag.bytes(1));
                match name {
                    Name::SourceId => source_id = Some(tag.text(2)),
                    Name::InstanceId => instance_id = Some(tag.text(2)),
                    _ => {}
                }
                if !name.is_in(used) {
                    put_tag(out, &tag.text(1), &tag.text(2));
                }
            }
            _ => {}
        }
    }
    let source_id =
        source_id.unwrap_or_else(|| format!("{}/{}", envelope.text(13), envelope.text(14)).into());
    let instance_id = instance_id.unwrap_or_default();

    put_number(out, 1, envelope.number(6));
    put_tag(out, "origin", &envelope.text(1));
    put_tag(out, "deployment", &envelope.text(13));
    put_tag(out, "job", &envelope.text(14));
    put_tag(out, "index", &envelope.text(15));
    put_tag(out, "ip", &envelope.text(16));
    let name = EventType::try_from(event_type).map(|event_type| event_type.as_str_name());
    put_tag(out, "__v1_type", &name_or_number(name, event_type));

    match EventType::try_from(event_type) {
        Ok(EventType::LogMessage) => put_log(out, &body, &source_id),
        Ok(EventType::HttpStartStop) => put_timer(out, &body, &http, &source_id),
        Ok(EventType::ValueMetric) => {
            put_ids(out, &source_id, &instance_id);
            put_gauge(out, &[(&body.text(1), &body.text(3), body.double(2))]);
        }
        Ok(EventType::CounterEvent) => {
            put_ids(out, &source_id, &instance_id);
            put_counter(out, &body);
        }
        Ok(EventType::Error) => {
            put_ids(out, &source_id, "");
            put_error(out, &body);
        }
        Ok(EventType::ContainerMetric) => put_container(out, &body, &source_id),
        Err(_) => put_ids(out, &source_id, ""),
    }
    Ok(())
}

fn put_log(out: &mut Vec<u8>, log: &Message<'_>, source_id: &str) {
    put_ids(out, &first_of(log.text(4), source_id), &log.text(6));
    put_tag(out, "source_type", &log.text(5));
    let is_err = log.number(2) as i32 == MessageType::Err as i32;
    let r#type = if is_err {
        log::Type::Err
    } else {
        log::Type::Out
    };
    put_message(out, 4, |out| {
        put_bytes(out, 1, log.bytes(1));
        put_number(out, 2, r#type as u64);
    });
}

fn put_timer(out: &mut Vec<u8>, body: &Message<'_>, http: &Http<'_>, source_id: &str) {
    let uuid = |id: &Message<'_>| (id.number(1), id.number(2));
    let uuid_text = |(low, high)| uuid::text(low, high);
    let instance_id = (body.number(13) as i32).to_string();
    match uuid(&http.application_id) {
        (0, 0) => put_ids(out, source_id, &instance_id),
        app => put_ids(out, &repaired(&uuid_text(app)), &instance_id),
    }
    put_tag(
        out,
        "request_id",
        &repaired(&uuid_text(uuid(&http.request_id))),
    );

    // Proto2: an absent enum is its first value.
    let peer_type = body.number_or(4, PeerType::Client as u64) as i32;
    let name = PeerType::try_from(peer_type).map(|peer_type| peer_type.as_str_name());
    put_tag(out, "peer_type", &name_or_number(name, peer_type));
    let method = body.number_or(5, Method::Get as u64) as i32;
    let name = Method::try_from(method).map(|method| method.as_str_name());
    put_tag(out, "method", &name_or_number(name, method));

    put_tag(out, "uri", &body.text(6));
    put_tag(out, "remote_address", &body.text(7));
    put_tag(out, "user_agent", &body.text(8));
    put_tag(out, "status_code", &(body.number(9) as i32).to_string());
    put_tag(out, "content_length", &(body.number(10) as i64).to_string());
    put_tag(out, "routing_instance_id", &body.text(14));
    put_tag(out, "forwarded", &http.forwarded.join("\n"));
    put_message(out, 7, |out| {
        put_bytes(out, 1, b"http");
        put_number(out, 2, body.number(1));
        put_number(out, 3, body.number(2));
    });
}

fn put_counter(out: &mut Vec<u8>, counter: &Message<'_>) {
    put_message(out, 5, |out| {
        put_bytes(out, 1, counter.text(1).as_bytes());
        put_number(out, 2, counter.number(2));
        put_number(out, 3, counter.number(3));
    });
}

fn put_error(out: &mut Vec<u8>, error: &Message<'_>) {
    put_tag(out, "source", &error.text(1));
    put_tag(out, "code", &(error.number(2) as i32).to_string());
    put_message(out, 4, |out| put_bytes(out, 1, error.text(3).as_bytes()));
}

fn put_container(out: &mut Vec<u8>, metric: &Message<'_>, source_id: &str) {
    let instance_id = (metric.number(2) as i32).to_string();
    put_ids(out, &first_of(metric.text(1), source_id), &instance_id);
    put_gauge(
        out,
        &[
            ("cpu", "percentage", metric.double(3)),
            ("memory", "bytes", metric.number(4) as f64),
            ("disk", "bytes", metric.number(5) as f64),
            ("memory_quota", "bytes", metric.number(6) as f64),
            ("disk_quota", "bytes", metric.number(7) as f64),
        ],
    );
}

fn put_gauge(out: &mut Vec<u8>, metrics: &[(&str, &str, f64)]) {
    put_message(out, 6, |out| {
        for (name, unit, value) in metrics {
            put_message(out, 1, |out| {
                put_bytes(out, 1, name.as_bytes());
                put_message(out, 2, |out| {
                    put_bytes(out, 1, unit.as_bytes());
                    put_double(out, 2, *value);
                });
            });
        }
    });
}

fn put_ids(out: &mut Vec<u8>, source_id: &str, instance_id: &str) {
    put_bytes(out, 2, source_id.as_bytes());
    put_bytes(out, 8, instance_id.as_bytes());
}

fn put_tag(out: &mut Vec<u8>, key: &str, value: &str) {
    put_entry(out, 9, key.as_bytes(), value.as_bytes());
}

fn first_of<'a>(id: Cow<'a, str>, or: &'a str) -> Cow<'a, str> {
    match id.is_empty() {
        true => or.into(),
        false => id,
    }
}

/// The name of an enum value, or its number where it has none.
fn name_or_number<'a, E>(name: Result<&'a str, E>, number: i32) -> Cow<'a, str> {
    match name {
        Ok(name) => name.into(),
        Err(_) => number.to_string().into(),
    }
}

fn repaired(text: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(text)
}

/// The last value of each field of a v1 message.
#[derive(Default)]
struct Message<'a> {
    values: [Option<Value<'a>>; 18],
}

impl<'a> Message<'a> {
    /// Reads the message, or one more piece of it.
    fn read(&mut self, mut fields: Fields<'a>) -> Result<(), Malformed> {
        while let Some((number, value)) = fields.next()? {
            self.values[number as usize] = Some(value);
        }
        Ok(())
    }

    fn number(&self, field: usize) -> u64 {
        self.number_or(field, 0)
    }

    fn number_or(&self, field: usize, default: u64) -> u64 {
        match self.values[field] {
            Some(Value::Number(number)) => number,
            _ => default,
        }
    }

    fn double(&self, field: usize) -> f64 {
        match self.values[field] {
            Some(Value::Double(double)) => double,
            _ => 0.0,
        }
    }

    fn bytes(&self, field: usize) -> &'a [u8] {
        match self.values[field] {
            Some(Value::Bytes(bytes) | Value::Text(bytes)) => bytes,
            _ => &[],
        }
    }

    fn text(&self, field: usize) -> Cow<'a, str> {
        repaired(self.bytes(field))
    }
}

/// What of an HttpStartStop more than the last counts.
#[derive(Default)]
struct Http<'a> {
    request_id: Message<'a>,
    application_id: Message<'a>,
    forwarded: Vec<Cow<'a, str>>,
}

impl<'a> Http<'a> {
    fn read(&mut self, mut fields: Fields<'a>) -> Result<(), Malformed> {
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (3, Value::Message(uuid)) => self.request_id.read(uuid)?,
                (12, Value::Message(uuid)) => self.application_id.read(uuid)?,
                (15, Value::Text(address)) => self.forwarded.push(repaired(address)),
                _ => {}
            }
        }
        Ok(())
    }
}
