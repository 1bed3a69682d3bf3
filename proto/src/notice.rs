//! What a reader is told about its losses, before the envelope that comes after them.
//!
//! Counts and a time come in, an encoded v1 envelope goes out, appended. Only the one
//! who lost is told, so none of these passes through a router.

use crate::{
    v1::{envelope::EventType, log_message::MessageType},
    wire::{field_len, put_bytes, put_head, put_number, varint_len},
};

/// Nozzles recognise a notice by this origin.
const ORIGIN: &[u8] = b"doppler";
const COUNTER: &[u8] = b"TruncatingBuffer.DroppedMessages";

/// Tells a firehose that it lost `delta` envelopes, `total` since it began.
pub fn firehose(out: &mut Vec<u8>, delta: u64, total: u64, timestamp_ns: i64) {
    put_base(out, EventType::CounterEvent, timestamp_ns);
    let length = field_len(1, COUNTER.len()) + 2 + varint_len(delta) + varint_len(total);
    put_head(out, 10, length);
    put_bytes(out, 1, COUNTER);
    put_number(out, 2, delta);
    put_number(out, 3, total);
}

/// Tells an app stream (or a firehose of logs) the same in a log line of that app;
/// `app_id` may be empty.
pub fn app(out: &mut Vec<u8>, delta: u64, total: u64, timestamp_ns: i64, app_id: &[u8]) {
    let message = format!(
        "Log message output is too high. {delta} messages dropped \
         (Total {total} messages dropped) from DopplerServer to app stream."
    );
    put_log(out, &message, timestamp_ns, app_id);
}

/// Tells a stream that begins with recent logs that those of some Dopplers are not among them.
pub fn incomplete(out: &mut Vec<u8>, missing: usize, of: usize, timestamp_ns: i64, app_id: &[u8]) {
    let message =
        format!("Recent logs are incomplete: {missing} of {of} Dopplers did not answer in time.");
    put_log(out, &message, timestamp_ns, app_id);
}

fn put_log(out: &mut Vec<u8>, message: &str, timestamp_ns: i64, app_id: &[u8]) {
    let mut log = Vec::with_capacity(256);
    put_bytes(&mut log, 1, message.as_bytes());
    put_number(&mut log, 2, MessageType::Err as u64);
    put_number(&mut log, 3, timestamp_ns as u64);
    if !app_id.is_empty() {
        put_bytes(&mut log, 4, app_id);
    }
    put_bytes(&mut log, 5, b"LGR");

    put_base(out, EventType::LogMessage, timestamp_ns);
    put_bytes(out, 8, &log);
}

fn put_base(out: &mut Vec<u8>, event_type: EventType, timestamp_ns: i64) {
    put_bytes(out, 1, ORIGIN);
    put_number(out, 2, event_type as u64);
    put_number(out, 6, timestamp_ns as u64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn a_firehose_is_told_by_a_counter() {
        let mut out = b"before".to_vec();
        firehose(&mut out, 300, 70_000, -1);
        assert_eq!(
            v1::decode(&out[6..]).unwrap(),
            v1::Envelope {
                origin: "doppler".into(),
                event_type: EventType::CounterEvent as i32,
                timestamp: Some(-1),
                counter_event: Some(v1::CounterEvent {
                    name: "TruncatingBuffer.DroppedMessages".into(),
                    delta: 300,
                    total: Some(70_000),
                }),
                ..Default::default()
            }
        );
    }

    #[test]
    fn an_app_stream_is_told_by_a_log_line() {
        for (app_id, expected) in [("some-app", Some("some-app".to_owned())), ("", None)] {
            let mut out = Vec::new();
            app(&mut out, 3, 6, 1_500_000_000_000_000_000, app_id.as_bytes());
            let message = "Log message output is too high. 3 messages dropped \
                (Total 6 messages dropped) from DopplerServer to app stream.";
            assert_eq!(
                v1::decode(&out).unwrap(),
                v1::Envelope {
                    origin: "doppler".into(),
                    event_type: EventType::LogMessage as i32,
                    timestamp: Some(1_500_000_000_000_000_000),
                    log_message: Some(v1::LogMessage {
                        message: message.into(),
                        message_type: MessageType::Err as i32,
                        timestamp: 1_500_000_000_000_000_000,
                        app_id: expected,
                        source_type: Some("LGR".into()),
                        source_instance: None,
                    }),
                    ..Default::default()
                }
            );
        }
    }
}
