//! What happens to a stream besides envelopes.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use proto::Malformed;
use proto::v1::envelope::EventType;
use proto::v1::log_message::MessageType;
use proto::v1::{self, Envelope};
use transport::websocket::Ended;

use crate::Error;
use crate::cf_cli::CfCliError;
use crate::client::SILENCE;

/// Something a reader may want to count or show. None of them ends the stream.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Envelopes flow from now on.
    Connected {
        /// For how long nobody was reading; `None` the first time. What was sent to this
        /// subscription meanwhile is lost unless another member of its firehose group took
        /// it, and nobody can say how much it was.
        gap: Option<Duration>,
    },
    /// The connection is gone. The next one is on its way.
    Disconnected {
        /// Who ended it, as far as we can tell.
        reason: Reason,
    },
    /// A connection could not be made. The next try comes after `wait`.
    Retrying {
        /// What we tried and why it failed.
        error: Error,
        /// How long we wait.
        wait: Duration,
    },
    /// The server says it dropped envelopes of this subscription: we, or the way to us, were
    /// too slow.
    /// The notice itself is also delivered, as the envelope it is.
    Lost {
        /// How many since its last notice.
        delta: u64,
        /// How many since that server began to count, if it says so. Each Doppler counts for
        /// itself: add up the deltas, not the totals.
        total: Option<u64>,
    },
    /// A message was not an envelope, and was skipped. Only where we decode: not by
    /// [`EnvelopeStream::next_batch`](crate::EnvelopeStream::next_batch).
    Undecodable {
        /// What is wrong with it.
        error: Malformed,
        /// The message.
        bytes: Bytes,
    },
    /// The login was renewed and is used, but could not be written where the cf CLI finds it.
    LoginNotSaved {
        /// Why not.
        error: CfCliError,
    },
}

/// Why a connection ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reason {
    /// The server closed it (RFC 6455 §7.4).
    Closed {
        /// Its code, if it gave one.
        code: Option<u16>,
        /// Its words; empty if it gave none.
        words: String,
    },
    /// It ended without a word: a process that died, or a balancer that gave up on it.
    Cut,
    /// Nothing came for [`SILENCE`], not even a ping.
    Silent,
    /// The server does not take our answers to its pings.
    Stalled,
    /// No envelope came for this long, which is
    /// [`Builder::idle_timeout`](crate::Builder::idle_timeout).
    Idle(Duration),
    /// The server broke the WebSocket protocol, or sent more than we take.
    Protocol(String),
    /// The socket failed.
    Broken(io::Error),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // What a server says is shown escaped: it may be meant for a terminal.
            Reason::Closed {
                code: Some(code),
                words,
            } if !words.is_empty() => {
                write!(f, "the server closed it with {code}: {words:?}")
            }
            // RFC 6455 calls 1000 normal. No Traffic Controller ends a stream normally: it
            // means the slow consumer rule.
            Reason::Closed {
                code: Some(1000), ..
            } => f.write_str(
                "the server closed it with 1000: by custom that says this reader is too slow; \
                 let more instances share the subscription id",
            ),
            Reason::Closed {
                code: Some(1001), ..
            } => f.write_str("the server is going away (1001)"),
            Reason::Closed {
                code: Some(1008), ..
            } => f.write_str(
                "the server closed it with 1008: no answer to its pings, or against its rules",
            ),
            Reason::Closed {
                code: Some(code), ..
            } => write!(f, "the server closed it with {code}"),
            Reason::Closed { code: None, .. } => f.write_str("the server closed it without a code"),
            Reason::Cut => f.write_str("it ended without a close frame"),
            Reason::Silent => write!(f, "nothing came for {SILENCE:?}, not even a ping"),
            Reason::Stalled => f.write_str("the server reads nothing any more"),
            Reason::Idle(time) => write!(f, "no envelope came for {time:?}"),
            Reason::Protocol(what) => write!(f, "the server broke the protocol: {what}"),
            Reason::Broken(error) => write!(f, "the connection broke: {error}"),
        }
    }
}

impl From<Ended> for Reason {
    fn from(ended: Ended) -> Reason {
        match ended {
            Ended::Peer { code, reason } => Reason::Closed {
                code,
                words: reason,
            },
            Ended::Eof => Reason::Cut,
            Ended::Silent => Reason::Silent,
            Ended::Stalled => Reason::Stalled,
            Ended::Protocol { reason, .. } => Reason::Protocol(reason.into_owned()),
            Ended::Broken(error) => Reason::Broken(error),
        }
    }
}

/// The notices' origin, as the first field of an envelope. Every Doppler writes it first, so
/// that looking for notices costs a comparison and not a decode.
const FROM_DOPPLER: &[u8] = b"\x0a\x07doppler";

/// What a notice of loss says; `None` for any other envelope.
pub(crate) fn loss(envelope: &[u8]) -> Option<Event> {
    if !envelope.starts_with(FROM_DOPPLER) {
        return None;
    }
    let envelope = v1::decode(envelope).ok()?;
    match EventType::try_from(envelope.event_type) {
        Ok(EventType::CounterEvent) => counter(&envelope),
        Ok(EventType::LogMessage) => log(&envelope),
        _ => None,
    }
}

fn counter(envelope: &Envelope) -> Option<Event> {
    let counter = envelope.counter_event.as_ref()?;
    (counter.name == "TruncatingBuffer.DroppedMessages").then_some(Event::Lost {
        delta: counter.delta,
        total: counter.total,
    })
}

fn log(envelope: &Envelope) -> Option<Event> {
    let log = envelope.log_message.as_ref()?;
    if log.source_type.as_deref() != Some("LGR") || log.message_type() != MessageType::Err {
        return None;
    }
    let text = str::from_utf8(&log.message).ok()?;
    let text = text.strip_prefix("Log message output is too high. ")?;
    let (delta, text) = text.split_once(" messages dropped (Total ")?;
    let (total, _) = text.split_once(" messages dropped)")?;
    Some(Event::Lost {
        delta: delta.parse().ok()?,
        total: Some(total.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::notice;

    fn told(envelope: &[u8]) -> Option<(u64, Option<u64>)> {
        match loss(envelope)? {
            Event::Lost { delta, total } => Some((delta, total)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_kinds_of_notice_are_understood() {
        let mut counter = Vec::new();
        notice::firehose(&mut counter, 300, 70_000, 1);
        assert_eq!(told(&counter), Some((300, Some(70_000))));

        let mut log = Vec::new();
        notice::app(&mut log, 3, 6, 1, b"some-app");
        assert_eq!(told(&log), Some((3, Some(6))));
    }

    #[test]
    fn an_app_cannot_make_us_believe_in_a_loss() {
        let mut log = Vec::new();
        notice::app(&mut log, 3, 6, 1, b"some-app");
        let mut envelope = v1::decode(&log).unwrap();
        let encoded = |envelope: &Envelope| prost::Message::encode_to_vec(envelope);
        assert!(told(&encoded(&envelope)).is_some());

        let mut from_a_cell = envelope.clone();
        from_a_cell.origin = "rep".into();
        assert_eq!(told(&encoded(&from_a_cell)), None);

        let log = envelope.log_message.as_mut().unwrap();
        log.source_type = Some("APP".into());
        assert_eq!(told(&encoded(&envelope)), None);
    }

    #[test]
    fn other_counters_of_a_doppler_are_no_loss() {
        let mut counter = Vec::new();
        notice::firehose(&mut counter, 300, 70_000, 1);
        let mut envelope = v1::decode(&counter).unwrap();
        envelope.counter_event.as_mut().unwrap().name = "ingress".into();
        assert_eq!(told(&prost::Message::encode_to_vec(&envelope)), None);
    }

    #[test]
    fn a_close_with_1000_is_explained() {
        let closed = |code, words: &str| {
            let words = words.to_owned();
            Reason::Closed { code, words }.to_string()
        };
        assert!(closed(Some(1000), "").contains("too slow"));
        assert_eq!(closed(Some(1011), ""), "the server closed it with 1011");
        assert_eq!(closed(None, ""), "the server closed it without a code");
        assert_eq!(
            closed(Some(1008), "slow: 12 lost"),
            "the server closed it with 1008: \"slow: 12 lost\""
        );
    }
}
