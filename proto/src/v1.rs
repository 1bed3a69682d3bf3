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
