//! An envelope as one line of JSON. The fields are those of `firehose subscribe --help`, and
//! scripts rely on them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use firehose_client::v1::envelope::EventType;
use firehose_client::v1::log_message::MessageType;
use firehose_client::v1::{Envelope, Method, PeerType};
use serde::Serialize;

use transport::clock::Utc;

/// Writes `envelope` and a newline.
pub(crate) fn write(envelope: &Envelope, out: &mut impl Write) -> io::Result<()> {
    let line = serde_json::to_string(&Line::of(envelope))?;
    writeln!(out, "{}", escaped(line))
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    origin: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Body<'a> {
    Log(Log<'a>),
    Http(Http<'a>),
    Container(Container<'a>),
    Counter(Counter<'a>),
    Value(Value<'a>),
    Error(Error<'a>),
    /// A type we do not know, or one without its body.
    #[serde(untagged)]
    None {},
}

#[derive(Serialize)]
struct Log<'a> {
    stream: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_base64: Option<String>,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_instance: Option<&'a str>,
}

#[derive(Serialize)]
struct Http<'a> {
    method: &'a str,
    uri: &'a str,
    status: i32,
    start: String,
    stop: String,
    peer_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_index: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<&'a str>,
    content_length: i64,
    remote_address: &'a str,
    forwarded: &'a [String],
    user_agent: &'a str,
    request_id: String,
}

#[derive(Serialize)]
struct Container<'a> {
    app_id: &'a str,
    instance_index: i32,
    cpu_percent: f64,
    memory_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes_quota: Option<u64>,
    disk_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_bytes_quota: Option<u64>,
}

#[derive(Serialize)]
struct Counter<'a> {
    name: &'a str,
    delta: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
}

#[derive(Serialize)]
struct Value<'a> {
    name: &'a str,
    value: f64,
    unit: &'a str,
}

#[derive(Serialize)]
struct Error<'a> {
    source: &'a str,
    code: i32,
    message: &'a str,
}

impl<'a> Line<'a> {
    fn of(envelope: &'a Envelope) -> Line<'a> {
        Line {
            r#type: type_name(envelope),
            timestamp: envelope.timestamp.map(|at| Utc(at).to_string()),
            origin: &envelope.origin,
            deployment: known(&envelope.deployment),
            job: known(&envelope.job),
            index: known(&envelope.index),
            ip: known(&envelope.ip),
            tags: &envelope.tags,
            body: Body::of(envelope),
        }
    }
}

/// What an envelope is, in the words of dropsonde.
pub(crate) fn type_name(envelope: &Envelope) -> &'static str {
    EventType::try_from(envelope.event_type).map_or("Unknown", |kind| kind.as_str_name())
}

/// Dopplers write "" for what they do not know.
fn known(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|value| !value.is_empty())
}

impl<'a> Body<'a> {
    fn of(envelope: &'a Envelope) -> Body<'a> {
        if let Some(log) = &envelope.log_message {
            let text = String::from_utf8_lossy(&log.message);
            let lossy = text.as_bytes() != log.message;
            Body::Log(Log {
                stream: MessageType::try_from(log.message_type)
                    .map_or("", |kind| kind.as_str_name()),
                message_base64: lossy.then(|| base64(&log.message)),
                message: text.into_owned(),
                timestamp: Utc(log.timestamp).to_string(),
                app_id: known(&log.app_id),
                source_type: known(&log.source_type),
                source_instance: known(&log.source_instance),
            })
        } else if let Some(http) = &envelope.http_start_stop {
            Body::Http(Http {
                method: Method::try_from(http.method).map_or("", |method| method.as_str_name()),
                uri: &http.uri,
                status: http.status_code,
                start: Utc(http.start_timestamp).to_string(),
                stop: Utc(http.stop_timestamp).to_string(),
                peer_type: PeerType::try_from(http.peer_type).map_or("", |side| side.as_str_name()),
                app_id: http.application_id.map(|id| id.to_string()),
                instance_index: http.instance_index,
                instance_id: known(&http.instance_id),
                content_length: http.content_length,
                remote_address: &http.remote_address,
                forwarded: &http.forwarded,
                user_agent: &http.user_agent,
                request_id: http.request_id.to_string(),
            })
        } else if let Some(container) = &envelope.container_metric {
            Body::Container(Container {
                app_id: &container.application_id,
                instance_index: container.instance_index,
                cpu_percent: container.cpu_percentage,
                memory_bytes: container.memory_bytes,
                memory_bytes_quota: container.memory_bytes_quota,
                disk_bytes: container.disk_bytes,
                disk_bytes_quota: container.disk_bytes_quota,
            })
        } else if let Some(counter) = &envelope.counter_event {
            Body::Counter(Counter {
                name: &counter.name,
                delta: counter.delta,
                total: counter.total,
            })
        } else if let Some(metric) = &envelope.value_metric {
            Body::Value(Value {
                name: &metric.name,
                value: metric.value,
                unit: &metric.unit,
            })
        } else if let Some(error) = &envelope.error {
            Body::Error(Error {
                source: &error.source,
                code: error.code,
                message: &error.message,
            })
        } else {
            Body::None {}
        }
    }
}

/// Escapes DEL and U+0080 to U+009F, which JSON allows as they are and a terminal may obey
/// (U+009B begins an escape sequence like ESC [). They only ever stand inside strings.
fn escaped(line: String) -> String {
    let rare = |c: char| matches!(c, '\u{7f}'..='\u{9f}');
    if !line.contains(rare) {
        return line;
    }
    let mut escaped = String::with_capacity(line.len() + 64);
    for c in line.chars() {
        match rare(c) {
            true => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => escaped.push(c),
        }
    }
    escaped
}

/// RFC 4648 §4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0, |bits, &byte| bits << 8 | u32::from(byte));
        let bits = bits << (8 * (3 - group.len()));
        for digit in 0..4 {
            text.push(match digit <= group.len() {
                true => char::from(ALPHABET[(bits >> (18 - 6 * digit) & 63) as usize]),
                false => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use firehose_client::v1;

    fn printed(envelope: &Envelope) -> String {
        let mut out = Vec::new();
        write(envelope, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn log(message: &[u8]) -> Envelope {
        Envelope {
            origin: "rep".into(),
            event_type: EventType::LogMessage as i32,
            timestamp: Some(1_500_000_000_000_000_001),
            log_message: Some(v1::LogMessage {
                message: message.into(),
                message_type: MessageType::Err as i32,
                timestamp: 1_500_000_000_000_000_000,
                app_id: Some("some-app".into()),
                source_type: Some("APP/PROC/WEB".into()),
                source_instance: Some("0".into()),
            }),
            ..Envelope::default()
        }
    }

    #[test]
    fn a_log_has_these_fields() {
        let mut envelope = log(b"hello \"world\"");
        envelope.deployment = Some("cf".into());
        envelope.job = Some(String::new());
        envelope.tags = [("source_id".to_owned(), "some-app".to_owned())].into();
        assert_eq!(
            printed(&envelope),
            r#"{"type":"LogMessage","timestamp":"2017-07-14T02:40:00.000000001Z","origin":"rep","deployment":"cf","tags":{"source_id":"some-app"},"log":{"stream":"ERR","message":"hello \"world\"","timestamp":"2017-07-14T02:40:00.000000000Z","app_id":"some-app","source_type":"APP/PROC/WEB","source_instance":"0"}}
"#
        );
    }

    #[test]
    fn bytes_that_are_not_text_are_there_twice() {
        let line = printed(&log(b"caf\xE9"));
        assert!(
            line.contains(r#""message":"caf�","message_base64":"Y2Fm6Q==""#),
            "{line}"
        );
    }

    #[test]
    fn an_http_event_has_these_fields() {
        let envelope = Envelope {
            origin: "gorouter".into(),
            event_type: EventType::HttpStartStop as i32,
            http_start_stop: Some(v1::HttpStartStop {
                start_timestamp: 1,
                stop_timestamp: 2,
                request_id: "01020304-0506-0708-090a-0b0c0d0e0f10".parse().unwrap(),
                peer_type: PeerType::Server as i32,
                method: Method::Get as i32,
                uri: "http://a/b".into(),
                remote_address: "10.0.0.1:5".into(),
                user_agent: "curl".into(),
                status_code: 200,
                content_length: 7,
                application_id: Some("11111111-2222-3333-4444-555555555555".parse().unwrap()),
                instance_index: Some(1),
                instance_id: None,
                forwarded: vec!["1.2.3.4".into()],
            }),
            ..Envelope::default()
        };
        assert_eq!(
            printed(&envelope),
            r#"{"type":"HttpStartStop","origin":"gorouter","http":{"method":"GET","uri":"http://a/b","status":200,"start":"1970-01-01T00:00:00.000000001Z","stop":"1970-01-01T00:00:00.000000002Z","peer_type":"Server","app_id":"11111111-2222-3333-4444-555555555555","instance_index":1,"content_length":7,"remote_address":"10.0.0.1:5","forwarded":["1.2.3.4"],"user_agent":"curl","request_id":"01020304-0506-0708-090a-0b0c0d0e0f10"}}
"#
        );
    }

    #[test]
    fn metrics_have_these_fields() {
        let body = |envelope: Envelope| {
            let line = printed(&envelope);
            line[line.find("\"origin\":\"\",").unwrap() + 12..]
                .trim_end()
                .to_owned()
        };
        let counter = v1::CounterEvent {
            name: "ingress".into(),
            delta: 5,
            total: Some(u64::MAX),
        };
        assert_eq!(
            body(Envelope {
                counter_event: Some(counter),
                ..Envelope::default()
            }),
            r#""counter":{"name":"ingress","delta":5,"total":18446744073709551615}}"#
        );
        let metric = |value| v1::ValueMetric {
            name: "load".into(),
            value,
            unit: "1".into(),
        };
        for (value, shown) in [(0.5, "0.5"), (f64::NAN, "null")] {
            assert_eq!(
                body(Envelope {
                    value_metric: Some(metric(value)),
                    ..Envelope::default()
                }),
                format!(r#""value":{{"name":"load","value":{shown},"unit":"1"}}}}"#)
            );
        }
        let container = v1::ContainerMetric {
            application_id: "a".into(),
            instance_index: 2,
            cpu_percentage: 1.5,
            memory_bytes: 3,
            disk_bytes: 4,
            memory_bytes_quota: Some(5),
            disk_bytes_quota: None,
        };
        assert_eq!(
            body(Envelope {
                container_metric: Some(container),
                ..Envelope::default()
            }),
            r#""container":{"app_id":"a","instance_index":2,"cpu_percent":1.5,"memory_bytes":3,"memory_bytes_quota":5,"disk_bytes":4}}"#
        );
        let error = v1::Error {
            source: "s".into(),
            code: 7,
            message: "m".into(),
        };
        assert_eq!(
            body(Envelope {
                error: Some(error),
                ..Envelope::default()
            }),
            r#""error":{"source":"s","code":7,"message":"m"}}"#
        );
    }

    #[test]
    fn an_unknown_type_is_a_line_without_a_body() {
        let envelope = Envelope {
            origin: "x".into(),
            event_type: 99,
            ..Envelope::default()
        };
        assert_eq!(
            printed(&envelope),
            "{\"type\":\"Unknown\",\"origin\":\"x\"}\n"
        );
    }

    #[test]
    fn no_control_character_reaches_a_terminal() {
        let line = printed(&log("\u{1b}[31m \u{9b}31m \u{7f} ä".as_bytes()));
        assert!(line.contains(r"\u001b[31m \u009b31m \u007f ä"), "{line}");
        assert!(!line.trim_end().chars().any(char::is_control));
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
