//! The conversion between v1 and v2 on encoded envelopes: what a router runs.
//!
//! The bytes of an envelope come in, the bytes of its other form are appended to a
//! buffer. Decoded, they are what [`convert`] would have made, at a
//! tenth of its cost: nothing is decoded that is not looked at, and an envelope with
//! up to 32 tags costs no allocation (a gauge costs one).
//!
//! From v2 to v1 it goes in two steps, so that a router can decide in between:
//! [`View::parse`] accepts what prost accepts, [`View::to_v1`] refuses what v1 cannot say.

mod gauge;
mod tags;
mod to_v2;

pub use gauge::{MAX_EXPANSION_BYTES, MAX_METRICS};
pub use tags::{MAX_TAG_BYTES, MAX_TAGS};
pub use to_v2::v1_to_v2;

use crate::{
    Malformed, Refused,
    convert::{self, AN_EVENT, EMPTY_GAUGE, NO_MESSAGE, NO_METHOD, NO_PEER_TYPE},
    uuid,
    v1::{Method, PeerType, SYSTEM, envelope::EventType, log_message::MessageType},
    wire::{
        Reader, WRONG_TYPE, Wire, field_len, put_bytes, put_double, put_entry, put_head,
        put_message, put_number, varint_len,
    },
};
use gauge::{Container, Gauge, Metric};
use std::str::FromStr;
use tags::{Name, Tags};

/// Where v1 envelopes go as they are written.
pub trait V1Sink {
    /// The buffer the next envelope is appended to.
    fn begin(&mut self) -> &mut Vec<u8>;

    /// That envelope is complete.
    ///
    /// `log`: it is a LogMessage. `app`: the id of the app it belongs to; `system` for
    /// a type that belongs to none, empty for a log or container metric without an app.
    fn end(&mut self, log: bool, app: &[u8]);
}

/// The longest source id or instance id of an envelope, in bytes. Both are written twice on v1:
/// without a limit a 10 MiB envelope could become one that no client takes.
pub const MAX_ID_BYTES: usize = 4 << 10;

const ID_TOO_LONG: Refused = Refused::TooLarge("a source or instance id of more than 4 KiB");

/// A v2 envelope read in place: validated, not copied.
#[derive(Clone, Debug)]
pub struct View<'a> {
    envelope: &'a [u8],
    timestamp: i64,
    source_id: &'a [u8],
    instance_id: &'a [u8],
    message: Message<'a>,
    tags: Tags,
}

#[derive(Clone, Debug)]
enum Message<'a> {
    None,
    Log(Log<'a>),
    Counter(Counter<'a>),
    Gauge(Gauge<'a>),
    Timer(Timer),
    Event,
}

#[derive(Clone, Copy, Debug, Default)]
struct Log<'a> {
    payload: &'a [u8],
    r#type: i32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter<'a> {
    name: &'a [u8],
    delta: u64,
    total: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Timer {
    start: i64,
    stop: i64,
}

impl<'a> View<'a> {
    /// Reads an envelope to its end.
    ///
    /// Accepts what prost decodes, and refuses what it does not as malformed; but a map
    /// entry must be length-delimited, which prost does not check. As there, of a field
    /// that occurs twice the last counts, two messages of one kind are one, and a
    /// message of another kind replaces it.
    pub fn parse(envelope: &'a [u8]) -> Result<View<'a>, Refused> {
        if u32::try_from(envelope.len()).is_err() {
            return Err(Refused::TooLarge("an envelope of more than 4 GiB"));
        }
        let mut view = View {
            envelope,
            timestamp: 0,
            source_id: &[],
            instance_id: &[],
            message: Message::None,
            tags: Tags::default(),
        };
        view.read()?;
        Ok(view)
    }

    /// Who sent it; the app's GUID, if it was an app.
    pub fn source_id(&self) -> &'a [u8] {
        self.source_id
    }

    /// Whether it becomes a LogMessage.
    pub fn is_log(&self) -> bool {
        matches!(self.message, Message::Log(_)) && self.tag(Name::V1Type) != b"Error"
    }

    /// Of which instance it becomes a ContainerMetric, if it does.
    pub fn container(&self) -> Option<i32> {
        match &self.message {
            Message::Gauge(gauge) => gauge.container().map(|it| self.instance(it)),
            _ => None,
        }
    }

    /// How many v1 envelopes it becomes: the unit in which `ingress` is counted.
    ///
    /// Where this is `Ok`, [`to_v1`](View::to_v1) is.
    pub fn conversions(&self) -> Result<u32, Refused> {
        self.tags.within_limits()?;
        if self.source_id.len().max(self.instance_id.len()) > MAX_ID_BYTES {
            return Err(ID_TOO_LONG);
        }
        match &self.message {
            Message::None => Err(NO_MESSAGE),
            Message::Log(_) | Message::Counter(_) => Ok(1),
            Message::Gauge(gauge) => match gauge.metrics()? {
                [] => Err(EMPTY_GAUGE),
                [_] => Ok(1),
                _ if gauge.container().is_some() => Ok(1),
                metrics => {
                    gauge::check_expansion(metrics, self.base_len(self.used(Name::NONE, true)))?;
                    Ok(metrics.len() as u32)
                }
            },
            Message::Timer(_) => self.http_enums().map(|_| 1),
            Message::Event => Err(AN_EVENT),
        }
    }

    /// Writes the v1 envelopes it becomes, and says how many. What is refused is refused
    /// before the sink is touched.
    pub fn to_v1(&self, sink: &mut impl V1Sink) -> Result<u32, Refused> {
        let count = self.conversions()?;
        match &self.message {
            Message::Log(log) if self.is_log() => self.write_log(log, sink),
            Message::Log(log) => self.write_error(log, sink),
            Message::Counter(counter) => self.write_counter(counter, sink),
            Message::Gauge(gauge) => match gauge.container() {
                Some(container) => self.write_container(container, sink),
                None => {
                    for metric in gauge.metrics()? {
                        self.write_value(metric, sink);
                    }
                }
            },
            Message::Timer(timer) => self.write_http(timer, self.http_enums()?, sink),
            Message::None | Message::Event => {}
        }
        Ok(count)
    }
}

/// Reading.
impl<'a> View<'a> {
    fn read(&mut self) -> Result<(), Malformed> {
        let mut reader = Reader::new(self.envelope);
        while let Some(field) = reader.field()? {
            match field {
                (1, Wire::Varint) => self.timestamp = reader.varint()? as i64,
                (2, Wire::Bytes) => self.source_id = reader.text()?,
                (3, Wire::Bytes) => self.tags.read_deprecated(reader.message()?)?,
                (4..=7 | 10, Wire::Bytes) => self.read_message(field.0, reader.message()?)?,
                (8, Wire::Bytes) => self.instance_id = reader.text()?,
                (9, Wire::Bytes) => self.tags.read(reader.message()?)?,
                (1..=10, _) => return Err(WRONG_TYPE),
                (number, wire) => reader.skip(number, wire, 0)?,
            }
        }
        self.tags.settle(self.envelope);
        if let Message::Gauge(gauge) = &mut self.message {
            gauge.settle();
        }
        Ok(())
    }

    fn read_message(&mut self, number: u32, message: Reader<'a>) -> Result<(), Malformed> {
        let before = std::mem::replace(&mut self.message, Message::None);
        self.message = match (number, before) {
            (4, Message::Log(log)) => Message::Log(log.read(message)?),
            (4, _) => Message::Log(Log::default().read(message)?),
            (5, Message::Counter(counter)) => Message::Counter(counter.read(message)?),
            (5, _) => Message::Counter(Counter::default().read(message)?),
            (6, Message::Gauge(gauge)) => Message::Gauge(gauge.read(message)?),
            (6, _) => Message::Gauge(Gauge::default().read(message)?),
            (7, Message::Timer(timer)) => Message::Timer(timer.read(message)?),
            (7, _) => Message::Timer(Timer::default().read(message)?),
            _ => {
                read_event(message)?;
                Message::Event
            }
        };
        Ok(())
    }
}

impl<'a> Log<'a> {
    fn read(mut self, mut reader: Reader<'a>) -> Result<Log<'a>, Malformed> {
        while let Some(field) = reader.field()? {
            match field {
                (1, Wire::Bytes) => self.payload = reader.bytes()?,
                (2, Wire::Varint) => self.r#type = reader.varint()? as i32,
                (1 | 2, _) => return Err(WRONG_TYPE),
                (number, wire) => reader.skip(number, wire, 1)?,
            }
        }
        Ok(self)
    }
}

impl<'a> Counter<'a> {
    fn read(mut self, mut reader: Reader<'a>) -> Result<Counter<'a>, Malformed> {
        while let Some(field) = reader.field()? {
            match field {
                (1, Wire::Bytes) => self.name = reader.text()?,
                (2, Wire::Varint) => self.delta = reader.varint()?,
                (3, Wire::Varint) => self.total = reader.varint()?,
                (1..=3, _) => return Err(WRONG_TYPE),
                (number, wire) => reader.skip(number, wire, 1)?,
            }
        }
        Ok(self)
    }
}

impl Timer {
    fn read(mut self, mut reader: Reader<'_>) -> Result<Timer, Malformed> {
        while let Some(field) = reader.field()? {
            match field {
                (1, Wire::Bytes) => drop(reader.text()?),
                (2, Wire::Varint) => self.start = reader.varint()? as i64,
                (3, Wire::Varint) => self.stop = reader.varint()? as i64,
                (1..=3, _) => return Err(WRONG_TYPE),
                (number, wire) => reader.skip(number, wire, 1)?,
            }
        }
        Ok(self)
    }
}

fn read_event(mut reader: Reader<'_>) -> Result<(), Malformed> {
    while let Some(field) = reader.field()? {
        match field {
            (1 | 2, Wire::Bytes) => drop(reader.text()?),
            (1 | 2, _) => return Err(WRONG_TYPE),
            (number, wire) => reader.skip(number, wire, 1)?,
        }
    }
    Ok(())
}

/// Writing.
impl View<'_> {
    fn write_log(&self, log: &Log<'_>, sink: &mut impl V1Sink) {
        let source_type = self.tag(Name::SourceType);
        let timestamp = self.timestamp as u64;
        let length = field_len(1, log.payload.len())
            + 2
            + 1
            + varint_len(timestamp)
            + field_len(1, self.source_id.len())
            + field_len(1, source_type.len())
            + field_len(1, self.instance_id.len());
        let message_type = match log.r#type {
            0 => MessageType::Out,
            _ => MessageType::Err,
        };

        let out = sink.begin();
        // Tags may come to be a few bytes longer; the rest fits.
        out.reserve(self.envelope.len() + self.source_id.len() + 128);
        self.put_head(out, EventType::LogMessage);
        put_head(out, 8, length);
        put_bytes(out, 1, log.payload);
        put_number(out, 2, message_type as u64);
        put_number(out, 3, timestamp);
        put_bytes(out, 4, self.source_id);
        put_bytes(out, 5, source_type);
        put_bytes(out, 6, self.instance_id);
        self.put_tail(out, self.used(Name::LOG, false));
        sink.end(true, self.source_id);
    }

    fn write_error(&self, log: &Log<'_>, sink: &mut impl V1Sink) {
        let code = number::<i64>(self.tag(Name::Code)) as i32;
        let out = sink.begin();
        self.put_head(out, EventType::Error);
        put_message(out, 11, |out| {
            put_bytes(out, 1, self.tag(Name::Source));
            put_number(out, 2, code as u64);
            put_bytes(out, 3, log.payload);
        });
        self.put_tail(out, self.used(Name::ERROR, false));
        sink.end(false, SYSTEM.as_bytes());
    }

    fn write_counter(&self, counter: &Counter<'_>, sink: &mut impl V1Sink) {
        let out = sink.begin();
        self.put_head(out, EventType::CounterEvent);
        put_message(out, 10, |out| {
            put_bytes(out, 1, counter.name);
            put_number(out, 2, counter.delta);
            put_number(out, 3, counter.total);
        });
        self.put_tail(out, self.used(Name::NONE, true));
        sink.end(false, SYSTEM.as_bytes());
    }

    fn write_value(&self, metric: &Metric<'_>, sink: &mut impl V1Sink) {
        let out = sink.begin();
        self.put_head(out, EventType::ValueMetric);
        put_head(out, 9, metric.body_len());
        put_bytes(out, 1, metric.name);
        put_double(out, 2, metric.value);
        put_bytes(out, 3, metric.unit);
        self.put_tail(out, self.used(Name::NONE, true));
        sink.end(false, SYSTEM.as_bytes());
    }

    fn write_container(&self, container: &Container, sink: &mut impl V1Sink) {
        let instance_index = self.instance(container);
        let out = sink.begin();
        self.put_head(out, EventType::ContainerMetric);
        put_message(out, 12, |out| {
            put_bytes(out, 1, self.source_id);
            put_number(out, 2, instance_index as u64);
            put_double(out, 3, container.cpu);
            put_number(out, 4, container.memory);
            put_number(out, 5, container.disk);
            put_number(out, 6, container.memory_quota);
            put_number(out, 7, container.disk_quota);
        });
        self.put_tail(out, self.used(Name::NONE, false));
        sink.end(false, self.source_id);
    }

    fn write_http(&self, timer: &Timer, enums: (PeerType, Method), sink: &mut impl V1Sink) {
        let put_uuid = |out: &mut Vec<u8>, number, (low, high)| {
            put_message(out, number, |out| {
                put_number(out, 1, low);
                put_number(out, 2, high);
            });
        };
        let (peer_type, method) = enums;
        let request_id = uuid::halves(self.tag(Name::RequestId)).unwrap_or_default();
        let app = uuid::halves(self.source_id);

        let out = sink.begin();
        self.put_head(out, EventType::HttpStartStop);
        put_message(out, 7, |out| {
            put_number(out, 1, timer.start as u64);
            put_number(out, 2, timer.stop as u64);
            put_uuid(out, 3, request_id);
            put_number(out, 4, peer_type as u64);
            put_number(out, 5, method as u64);
            put_bytes(out, 6, self.tag(Name::Uri));
            put_bytes(out, 7, self.tag(Name::RemoteAddress));
            put_bytes(out, 8, self.tag(Name::UserAgent));
            put_number(
                out,
                9,
                number::<i64>(self.tag(Name::StatusCode)) as i32 as u64,
            );
            put_number(out, 10, number::<i64>(self.tag(Name::ContentLength)) as u64);
            if let Some(app) = app {
                put_uuid(out, 12, app);
            }
            put_number(out, 13, number::<i32>(self.instance_id) as u64);
            put_bytes(out, 14, self.tag(Name::RoutingInstanceId));
            for address in self.tag(Name::Forwarded).split(|&byte| byte == b'\n') {
                put_bytes(out, 15, address);
            }
        });
        self.put_tail(out, self.used(Name::HTTP, false));
        match app {
            Some((low, high)) => sink.end(false, &uuid::text(low, high)),
            None => sink.end(false, SYSTEM.as_bytes()),
        }
    }

    fn instance(&self, container: &Container) -> i32 {
        match container.instance_index {
            Some(index) => index,
            None => number(self.instance_id),
        }
    }

    /// The peer type and method of an HTTP event; without them it is none.
    fn http_enums(&self) -> Result<(PeerType, Method), Refused> {
        let peer_type = text(self.tag(Name::PeerType)).and_then(PeerType::from_str_name);
        let method = text(self.tag(Name::Method)).and_then(Method::from_str_name);
        Ok((peer_type.ok_or(NO_PEER_TYPE)?, method.ok_or(NO_METHOD)?))
    }

    /// What stands before the body of a v1 envelope.
    fn put_head(&self, out: &mut Vec<u8>, event_type: EventType) {
        put_bytes(out, 1, self.tag(Name::Origin));
        put_number(out, 2, event_type as u64);
        put_number(out, 6, self.timestamp as u64);
    }

    /// What stands behind it. `used`: the tags not to write; where `instance_id` is one
    /// of them, the envelope's own takes its place.
    fn put_tail(&self, out: &mut Vec<u8>, used: u32) {
        put_bytes(out, 13, self.tag(Name::Deployment));
        put_bytes(out, 14, self.tag(Name::Job));
        put_bytes(out, 15, self.tag(Name::Index));
        put_bytes(out, 16, self.tag(Name::Ip));
        self.tags.put(out, self.envelope, used);
        if !self.source_id.is_empty() {
            put_entry(out, 17, b"source_id", self.source_id);
        }
        if Name::InstanceId.is_in(used) {
            put_entry(out, 17, b"instance_id", self.instance_id);
        }
    }

    /// How many bytes head and tail take together.
    fn base_len(&self, used: u32) -> usize {
        let entry_len =
            |key: usize, value: usize| field_len(2, field_len(1, key) + field_len(1, value));
        let mut length = 2 + 1 + varint_len(self.timestamp as u64);
        for name in [Name::Origin, Name::Deployment, Name::Job, Name::Index] {
            length += field_len(1, self.tag(name).len());
        }
        length += field_len(2, self.tag(Name::Ip).len());
        length += self.tags.len(used);
        if !self.source_id.is_empty() {
            length += entry_len("source_id".len(), self.source_id.len());
        }
        if Name::InstanceId.is_in(used) {
            length += entry_len("instance_id".len(), self.instance_id.len());
        }
        length
    }

    /// The tags that do not stay tags: those of the envelope, those of its body, and
    /// those the envelope's own ids take the place of.
    fn used(&self, body: u32, with_instance_id: bool) -> u32 {
        let mut used = Name::BASE | body;
        if !self.source_id.is_empty() {
            used |= Name::SourceId.bit();
        }
        if with_instance_id && !self.instance_id.is_empty() {
            used |= Name::InstanceId.bit();
        }
        used
    }

    /// A tag looked up, as [`Tags::get`].
    fn tag(&self, name: Name) -> &[u8] {
        self.tags.get(self.envelope, name)
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes).ok()
}

fn number<T: FromStr + Default>(bytes: &[u8]) -> T {
    text(bytes).map(convert::number).unwrap_or_default()
}

#[cfg(test)]
mod tests;
