//! The envelopes clients read: dropsonde, protobuf package `events`.
//!
//! [`decode`] is the door. It refuses what lacks a required field, which prost would
//! invent, and delivers what has a string that is not UTF-8, which prost would refuse.

mod fields;

pub(crate) use fields::{Fields, Shape, Value};
pub use generated::*;

use crate::{Malformed, scan, uuid};
use envelope::EventType;
use prost::Message;
use std::{borrow::Cow, fmt, str::FromStr};

#[allow(missing_docs)] // The comments are those of the .proto files, which say what surprises.
mod generated {
    include!("generated/events.rs");
}

/// The app id of everything that belongs to no app.
pub const SYSTEM: &str = "system";

/// Decodes one envelope, the body of one WebSocket message.
///
/// Bytes in a string that are not UTF-8 become U+FFFD: an odd user agent must not
/// cost the reader an envelope.
pub fn decode(envelope: &[u8]) -> Result<Envelope, Malformed> {
    scan::required(envelope)?;
    Envelope::decode(envelope).or_else(|_| {
        let mut repaired = Vec::with_capacity(envelope.len() + 64);
        repair(Fields::of_envelope(envelope), &mut repaired)?;
        Envelope::decode(&repaired[..]).map_err(|_| Malformed("not an envelope"))
    })
}

/// Writes the known fields of a message again, every string as UTF-8.
fn repair(mut fields: Fields<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    use crate::wire::{put_bytes, put_double, put_number};

    while let Some((number, value)) = fields.next()? {
        match value {
            Value::Number(value) => put_number(out, number, value),
            Value::Double(value) => put_double(out, number, value),
            Value::Bytes(value) => put_bytes(out, number, value),
            Value::Text(value) => put_bytes(out, number, String::from_utf8_lossy(value).as_bytes()),
            Value::Message(inner) => {
                let mut message = Vec::new();
                repair(inner, &mut message)?;
                put_bytes(out, number, &message);
            }
        }
    }
    Ok(())
}

impl Envelope {
    /// The app this envelope belongs to, as app streams know it: the app id of a log,
    /// a container metric or an HTTP event; [`SYSTEM`] for everything else.
    ///
    /// `None` where a log or container metric names no app; only firehoses carry it.
    pub fn app_id(&self) -> Option<Cow<'_, str>> {
        // Not `event_type()`, which takes a number from the future for an HttpStartStop.
        let id: Cow<'_, str> = match EventType::try_from(self.event_type) {
            Ok(EventType::LogMessage) => self.log_message.as_ref()?.app_id().into(),
            Ok(EventType::ContainerMetric) => {
                let metric = self.container_metric.as_ref()?;
                metric.application_id.as_str().into()
            }
            Ok(EventType::HttpStartStop) => {
                let http = self.http_start_stop.as_ref();
                match http.and_then(|http| http.application_id) {
                    Some(id) => id.to_string().into(),
                    None => SYSTEM.into(),
                }
            }
            _ => SYSTEM.into(),
        };
        Some(id).filter(|id| !id.is_empty())
    }
}

/// In lower case, with hyphens.
impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::text(self.low, self.high)
            .iter()
            .try_for_each(|&character| fmt::Write::write_char(f, char::from(character)))
    }
}

/// These are not the 36 characters of a UUID.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
#[error("not a UUID")]
pub struct NotAUuid;

impl FromStr for Uuid {
    type Err = NotAUuid;

    fn from_str(text: &str) -> Result<Uuid, NotAUuid> {
        let (low, high) = uuid::halves(text.as_bytes()).ok_or(NotAUuid)?;
        Ok(Uuid { low, high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{put_bytes, put_number};

    fn log(app_id: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        put_bytes(&mut body, 1, b"\xff");
        put_number(&mut body, 2, 1);
        put_number(&mut body, 3, 7);
        put_bytes(&mut body, 4, app_id);
        let mut envelope = Vec::new();
        put_bytes(&mut envelope, 1, b"origin");
        put_number(&mut envelope, 2, 5);
        put_bytes(&mut envelope, 8, &body);
        envelope
    }

    #[test]
    fn a_string_that_is_not_utf8_is_repaired_and_bytes_are_left_alone() {
        let envelope = decode(&log(b"an \xff app")).unwrap();
        let log = envelope.log_message.as_ref().unwrap();
        assert_eq!(log.app_id(), "an \u{fffd} app");
        assert_eq!(log.message, b"\xff");
        assert_eq!(envelope.app_id().unwrap(), "an \u{fffd} app");
    }

    #[test]
    fn a_log_without_an_app_belongs_to_none() {
        assert_eq!(decode(&log(b"")).unwrap().app_id(), None);
    }

    #[test]
    fn an_event_type_of_the_future_belongs_to_the_system() {
        let mut envelope = log(b"app");
        put_number(&mut envelope, 2, 99);
        assert_eq!(decode(&envelope).unwrap().app_id().unwrap(), SYSTEM);
    }

    #[test]
    fn what_has_no_origin_is_no_envelope() {
        assert_eq!(
            decode(&[0x10, 5]).unwrap_err().to_string(),
            "malformed: an envelope without origin or event type"
        );
    }

    #[test]
    fn a_uuid_is_printed_as_it_is_parsed() {
        let text = "b3015d69-09cd-476d-aace-ad2d824d5ab7";
        let uuid: Uuid = text.to_uppercase().parse().unwrap();
        assert_eq!(uuid.to_string(), text);
        assert_eq!("".parse::<Uuid>(), Err(NotAUuid));
    }
}
