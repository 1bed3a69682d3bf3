//! The tags of a v2 envelope, both maps of them: where they are, and which count.
//!
//! Two rules, both upstream's: looked up by name, `tags` come before `deprecated_tags`;
//! passed on as tags, it is the other way round.

use crate::{
    Malformed, Refused,
    convert::decimal_text,
    wire::{Reader, WRONG_TYPE, Wire, check_utf8, field_len, put_entry, put_head},
};

/// The most tags of one envelope (entries of both maps, 256). Comparing them with each
/// other has its price; real envelopes have one or two dozen.
pub const MAX_TAGS: usize = 256;

/// The most that the tags of one envelope may take (bytes, 64 KiB less one, numbers as
/// text). A decimal of nine bytes can be three hundred digits, and a gauge repeats them
/// all for each of its metrics.
pub const MAX_TAG_BYTES: usize = u16::MAX as usize;

const TOO_MANY: Refused = Refused::TooLarge("more than 256 tags");
const TOO_BIG: Refused = Refused::TooLarge("more than 64 KiB of tags");

/// So many tags are remembered without allocating.
const INLINE: usize = 32;

/// The tags that mean something on v1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Name {
    Other,
    V1Type,
    Origin,
    Deployment,
    Job,
    Index,
    Ip,
    SourceId,
    InstanceId,
    SourceType,
    Source,
    Code,
    PeerType,
    Method,
    RequestId,
    Uri,
    RemoteAddress,
    UserAgent,
    StatusCode,
    ContentLength,
    RoutingInstanceId,
    Forwarded,
}

const NAMES: usize = Name::Forwarded as usize + 1;

impl Name {
    /// Sets of names, a bit each.
    pub(super) const NONE: u32 = 0;
    pub(super) const BASE: u32 = Name::V1Type.bit()
        | Name::Origin.bit()
        | Name::Deployment.bit()
        | Name::Job.bit()
        | Name::Index.bit()
        | Name::Ip.bit();
    pub(super) const LOG: u32 = Name::SourceType.bit();
    pub(super) const ERROR: u32 = Name::Source.bit() | Name::Code.bit();
    pub(super) const HTTP: u32 = Name::PeerType.bit()
        | Name::Method.bit()
        | Name::RequestId.bit()
        | Name::Uri.bit()
        | Name::RemoteAddress.bit()
        | Name::UserAgent.bit()
        | Name::StatusCode.bit()
        | Name::ContentLength.bit()
        | Name::RoutingInstanceId.bit()
        | Name::Forwarded.bit();

    pub(super) const fn bit(self) -> u32 {
        1 << self as u32
    }

    pub(super) fn is_in(self, names: u32) -> bool {
        names & self.bit() != 0
    }

    /// The length first: most keys are told apart by it.
    #[inline]
    pub(super) fn of(key: &[u8]) -> Name {
        match (key.len(), key) {
            (2, b"ip") => Name::Ip,
            (3, b"job") => Name::Job,
            (3, b"uri") => Name::Uri,
            (4, b"code") => Name::Code,
            (5, b"index") => Name::Index,
            (6, b"origin") => Name::Origin,
            (6, b"source") => Name::Source,
            (6, b"method") => Name::Method,
            (9, b"__v1_type") => Name::V1Type,
            (9, b"source_id") => Name::SourceId,
            (9, b"peer_type") => Name::PeerType,
            (9, b"forwarded") => Name::Forwarded,
            (10, b"deployment") => Name::Deployment,
            (10, b"request_id") => Name::RequestId,
            (10, b"user_agent") => Name::UserAgent,
            (11, b"instance_id") => Name::InstanceId,
            (11, b"source_type") => Name::SourceType,
            (11, b"status_code") => Name::StatusCode,
            (14, b"remote_address") => Name::RemoteAddress,
            (14, b"content_length") => Name::ContentLength,
            (19, b"routing_instance_id") => Name::RoutingInstanceId,
            _ => Name::Other,
        }
    }
}

/// The tags of one envelope.
///
/// They are kept as positions in it, so that this can be small: most of what reading an
/// envelope costs is touching memory.
#[derive(Clone, Debug)]
pub(super) struct Tags {
    inline: [Tag; INLINE],
    /// All of them, once there are more than that.
    spilled: Vec<Tag>,
    count: usize,
    bytes: usize,
    /// By name, one more than where the last of each map is; 0 if there is none.
    preferred: [u16; NAMES],
    deprecated: [u16; NAMES],
    any_deprecated: bool,
    /// The deprecated tags that are numbers, as text.
    numbers: String,
    over: Option<Refused>,
}

/// Where a tag is. Key and value are relative to the entry, but for a number.
#[derive(Clone, Copy, Debug)]
struct Tag {
    entry: u32,
    entry_len: u16,
    key: u16,
    key_len: u16,
    value: u16,
    value_len: u16,
    name: Name,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// In `tags`: the entry can be passed on as it is.
    Preferred,
    /// In `deprecated_tags`, and a text.
    Text,
    /// In `deprecated_tags`, and a number: its text is in `numbers`.
    Number,
    /// In `deprecated_tags`, and nothing at all.
    Nothing,
    /// Not to be passed on: another tag of the same key counts. As in a lookup it may
    /// be this one, its value can still be read.
    Hidden,
}

impl Default for Tags {
    fn default() -> Tags {
        let nowhere = Tag {
            entry: 0,
            entry_len: 0,
            key: 0,
            key_len: 0,
            value: 0,
            value_len: 0,
            name: Name::Other,
            kind: Kind::Hidden,
        };
        Tags {
            inline: [nowhere; INLINE],
            spilled: Vec::new(),
            count: 0,
            bytes: 0,
            preferred: [0; NAMES],
            deprecated: [0; NAMES],
            any_deprecated: false,
            numbers: String::new(),
            over: None,
        }
    }
}

/// A key or value as it was read: the bytes, and where they are.
#[derive(Clone, Copy, Default)]
struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Text<'a> {
    #[inline]
    fn read(reader: &mut Reader<'a>, known_ascii: bool) -> Result<Text<'a>, Malformed> {
        let bytes = reader.bytes()?;
        if !known_ascii {
            check_utf8(bytes)?;
        }
        let at = reader.at() - bytes.len();
        Ok(Text { bytes, at })
    }
}

/// The value of a deprecated tag.
#[derive(Clone, Copy)]
enum Data<'a> {
    Nothing,
    Text(Text<'a>),
    Integer(i64),
    Decimal(f64),
}

impl<'a> Data<'a> {
    fn read(mut self, mut reader: Reader<'a>) -> Result<Data<'a>, Malformed> {
        while let Some(field) = reader.field()? {
            match field {
                (1, Wire::Bytes) => self = Data::Text(Text::read(&mut reader, false)?),
                (2, Wire::Varint) => self = Data::Integer(reader.varint()? as i64),
                (3, Wire::Fixed64) => self = Data::Decimal(reader.double()?),
                (1..=3, _) => return Err(WRONG_TYPE),
                (number, wire) => reader.skip(number, wire, 2)?,
            }
        }
        Ok(self)
    }
}

/// Reading.
impl Tags {
    /// Reads an entry of `tags`.
    #[inline]
    pub(super) fn read(&mut self, mut entry: Reader<'_>) -> Result<(), Malformed> {
        let (at, length) = (entry.at(), entry.rest().len());
        // Lengths and field keys are ASCII too, so one look will do for nearly all.
        let ascii = entry.rest().is_ascii();
        let (mut key, mut value) = (Text::default(), Text::default());
        while let Some(field) = entry.field()? {
            match field {
                (1, Wire::Bytes) => key = Text::read(&mut entry, ascii)?,
                (2, Wire::Bytes) => value = Text::read(&mut entry, ascii)?,
                (1 | 2, _) => return Err(WRONG_TYPE),
                (number, wire) => entry.skip(number, wire, 1)?,
            }
        }
        if self.has_room(length) {
            self.preferred[Name::of(key.bytes) as usize] = self.count as u16 + 1;
            let value_at = value.at.saturating_sub(at);
            self.add(
                at,
                length,
                key,
                (value_at, value.bytes.len()),
                Kind::Preferred,
            );
        }
        Ok(())
    }

    /// Reads an entry of `deprecated_tags`.
    pub(super) fn read_deprecated(&mut self, mut entry: Reader<'_>) -> Result<(), Malformed> {
        let (at, length) = (entry.at(), entry.rest().len());
        let mut key = Text::default();
        let mut data = Data::Nothing;
        while let Some(field) = entry.field()? {
            match field {
                (1, Wire::Bytes) => key = Text::read(&mut entry, false)?,
                (2, Wire::Bytes) => data = data.read(entry.message()?)?,
                (1 | 2, _) => return Err(WRONG_TYPE),
                (number, wire) => entry.skip(number, wire, 1)?,
            }
        }
        if !self.has_room(length) {
            return Ok(());
        }
        let (kind, value) = match data {
            Data::Nothing => (Kind::Nothing, (0, 0)),
            Data::Text(text) => (Kind::Text, (text.at - at, text.bytes.len())),
            Data::Integer(number) => (Kind::Number, self.keep(number.to_string())),
            Data::Decimal(number) => (Kind::Number, self.keep(decimal_text(number))),
        };
        self.any_deprecated = true;
        self.deprecated[Name::of(key.bytes) as usize] = self.count as u16 + 1;
        self.add(at, length, key, value, kind);
        Ok(())
    }

    /// Counts `bytes` more, if they and one more tag are within the limits.
    #[inline]
    fn has_room(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_TAG_BYTES {
            self.over = Some(TOO_BIG);
        } else if self.count == MAX_TAGS {
            self.over = Some(TOO_MANY);
        }
        self.over.is_none()
    }

    /// Keeps the text of a number; returns where.
    fn keep(&mut self, number: String) -> (usize, usize) {
        match self.has_room(number.len()) {
            true => {
                self.numbers.push_str(&number);
                (self.numbers.len() - number.len(), number.len())
            }
            false => (0, 0),
        }
    }

    /// What has room has positions of 16 bits.
    #[inline]
    fn add(&mut self, at: usize, length: usize, key: Text<'_>, value: (usize, usize), kind: Kind) {
        let tag = Tag {
            entry: at as u32,
            entry_len: length as u16,
            key: key.at.saturating_sub(at) as u16,
            key_len: key.bytes.len() as u16,
            value: value.0 as u16,
            value_len: value.1 as u16,
            name: Name::of(key.bytes),
            kind,
        };
        match self.inline.get_mut(self.count) {
            Some(place) => *place = tag,
            None => {
                if self.spilled.is_empty() {
                    self.spilled.extend_from_slice(&self.inline);
                }
                self.spilled.push(tag);
            }
        }
        self.count += 1;
    }

    /// Decides, when all are known, which tags count where a key occurs more than once.
    pub(super) fn settle(&mut self, envelope: &[u8]) {
        if !self.any_deprecated {
            return; // Of `tags` alone all can be passed on: whoever reads them takes the last.
        }
        let mut order: [u16; MAX_TAGS] = std::array::from_fn(|index| index as u16);
        let order = &mut order[..self.count];
        let all = self.all();
        order.sort_unstable_by_key(|&index| {
            let tag = &all[usize::from(index)];
            (tag.key(envelope), tag.kind != Kind::Preferred, index)
        });
        let mut hidden = [false; MAX_TAGS];
        for same in order.chunk_by(|&a, &b| {
            all[usize::from(a)].key(envelope) == all[usize::from(b)].key(envelope)
        }) {
            let Some((&last, others)) = same.split_last() else {
                continue;
            };
            let last_kind = all[usize::from(last)].kind;
            hidden[usize::from(last)] = last_kind == Kind::Nothing;
            for &other in others {
                hidden[usize::from(other)] = match last_kind {
                    Kind::Preferred => false,
                    Kind::Nothing => all[usize::from(other)].kind != Kind::Preferred,
                    Kind::Text | Kind::Number => true,
                };
            }
        }
        let all = match self.spilled.is_empty() {
            true => &mut self.inline[..self.count],
            false => &mut self.spilled[..],
        };
        for (tag, hidden) in all.iter_mut().zip(hidden) {
            tag.hidden = hidden;
        }
    }
}

/// Asking and writing.
impl Tags {
    /// Refuses what had to be left out.
    pub(super) fn within_limits(&self) -> Result<(), Refused> {
        self.over.map_or(Ok(()), Err)
    }

    /// A tag by its name, `tags` first; empty if there is none.
    #[inline]
    pub(super) fn get<'t>(&'t self, envelope: &'t [u8], name: Name) -> &'t [u8] {
        let place = match self.preferred[name as usize] {
            0 => self.deprecated[name as usize],
            place => place,
        };
        match place {
            0 => &[],
            place => self.value(envelope, &self.all()[usize::from(place) - 1]),
        }
    }

    /// Writes what counts as v1 tags, but for those whose names are `used`.
    pub(super) fn put(&self, out: &mut Vec<u8>, envelope: &[u8], used: u32) {
        for tag in self.passed_on(used) {
            match tag.kind {
                Kind::Preferred => {
                    put_head(out, 17, usize::from(tag.entry_len));
                    out.extend_from_slice(slice(envelope, tag.entry, 0, tag.entry_len));
                }
                _ => put_entry(out, 17, tag.key(envelope), self.value(envelope, tag)),
            }
        }
    }

    /// How many bytes [`put`](Tags::put) would write.
    pub(super) fn len(&self, used: u32) -> usize {
        let entry_len = |tag: &Tag| match tag.kind {
            Kind::Preferred => usize::from(tag.entry_len),
            _ => field_len(1, tag.key_len.into()) + field_len(1, tag.value_len.into()),
        };
        let lengths = self.passed_on(used).map(|tag| field_len(2, entry_len(tag)));
        lengths.sum()
    }

    #[inline]
    fn passed_on(&self, used: u32) -> impl Iterator<Item = &Tag> {
        let passed_on = move |tag: &&Tag| !tag.hidden && !tag.name.is_in(used);
        self.all().iter().filter(passed_on)
    }

    #[inline]
    fn all(&self) -> &[Tag] {
        match self.spilled.is_empty() {
            true => &self.inline[..self.count],
            false => &self.spilled,
        }
    }

    fn value<'t>(&'t self, envelope: &'t [u8], tag: &Tag) -> &'t [u8] {
        match tag.kind {
            Kind::Number => slice(self.numbers.as_bytes(), 0, tag.value, tag.value_len),
            _ => slice(envelope, tag.entry, tag.value, tag.value_len),
        }
    }
}

impl Tag {
    fn key<'a>(&self, envelope: &'a [u8]) -> &'a [u8] {
        slice(envelope, self.entry, self.key, self.key_len)
    }
}

#[inline]
fn slice(bytes: &[u8], base: u32, offset: u16, length: u16) -> &[u8] {
    let start = base as usize + usize::from(offset);
    &bytes[start..start + usize::from(length)]
}
