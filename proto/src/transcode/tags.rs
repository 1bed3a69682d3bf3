//! The tags of a v2 envelope, both maps of them: where they are, and which count.
//!
//! Two rules, both upstream's: looked up by name, `tags` come before `deprecated_tags`;
//! passed on as tags, it is the other way round.

use crate::{
    Malformed, Refused,
    convert::decimal_text,
    wire::{Reader, WRONG_TYPE, Wire, field_len, put_bytes, put_entry},
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

    /// The name of a key. Agents send tags in random order, and each guess of the
    /// processor at which one comes next costs as much as all the rest of reading it:
    /// so no branches but one, and a table without collisions.
    #[inline]
    pub(super) fn of(key: &[u8]) -> Name {
        let (name, text) = KEYS[slot(key)];
        match key == text.as_bytes() {
            true => name,
            false => Name::Other,
        }
    }
}

/// Three bytes of a key that tell the names apart.
const fn slot(key: &[u8]) -> usize {
    match key {
        [] => 0,
        [first, ..] => (key.len() + 3 * *first as usize + 3 * key[key.len() / 2] as usize) % 64,
    }
}

/// The names by slot. That no two share one is checked when this is compiled.
static KEYS: [(Name, &str); 64] = {
    let names = [
        (Name::V1Type, "__v1_type"),
        (Name::Origin, "origin"),
        (Name::Deployment, "deployment"),
        (Name::Job, "job"),
        (Name::Index, "index"),
        (Name::Ip, "ip"),
        (Name::SourceId, "source_id"),
        (Name::InstanceId, "instance_id"),
        (Name::SourceType, "source_type"),
        (Name::Source, "source"),
        (Name::Code, "code"),
        (Name::PeerType, "peer_type"),
        (Name::Method, "method"),
        (Name::RequestId, "request_id"),
        (Name::Uri, "uri"),
        (Name::RemoteAddress, "remote_address"),
        (Name::UserAgent, "user_agent"),
        (Name::StatusCode, "status_code"),
        (Name::ContentLength, "content_length"),
        (Name::RoutingInstanceId, "routing_instance_id"),
        (Name::Forwarded, "forwarded"),
    ];
    assert!(names.len() == NAMES - 1);
    let mut keys = [(Name::Other, ""); 64];
    let mut index = 0;
    while index < names.len() {
        let slot = slot(names[index].1.as_bytes());
        assert!(keys[slot].1.is_empty());
        keys[slot] = names[index];
        index += 1;
    }
    keys
};

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

/// Where a tag is: sixteen bytes.
#[derive(Clone, Copy, Debug)]
struct Tag {
    entry: u32,
    entry_len: u16,
    /// Within the entry.
    key: Span,
    /// Within the entry; of a number, within `numbers`.
    value: Span,
    name: Name,
    kind: Kind,
}

/// Tags that would need more than 16 bits are over the limit and not kept.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    at: u16,
    len: u16,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Not to be passed on: another tag of the same key counts. As in a lookup it may
    /// be this one, its value can still be read.
    Hidden,
    /// In `tags`: the entry can be passed on as it is.
    Preferred,
    /// In `deprecated_tags`, and a text.
    Text,
    /// In `deprecated_tags`, and a number: its text is in `numbers`.
    Number,
    /// In `deprecated_tags`, and nothing at all.
    Nothing,
}

impl Default for Tags {
    fn default() -> Tags {
        let nowhere = Tag {
            entry: 0,
            entry_len: 0,
            key: Span::default(),
            value: Span::default(),
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

/// A key or value as it was read: the bytes, and where in the entry they are.
#[derive(Clone, Copy, Default)]
struct Text<'a> {
    bytes: &'a [u8],
    span: Span,
}

impl<'a> Text<'a> {
    /// The next field of `reader`, which is at or in the entry that begins at `entry`.
    fn read(reader: &mut Reader<'a>, entry: usize) -> Result<Text<'a>, Malformed> {
        let bytes = reader.text()?;
        Ok(Text::at(reader.at() - bytes.len() - entry, bytes))
    }

    #[inline]
    fn at(at: usize, bytes: &'a [u8]) -> Text<'a> {
        let (at, len) = (at as u16, bytes.len() as u16);
        let span = Span { at, len };
        Text { bytes, span }
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
    fn read(mut self, mut reader: Reader<'a>, entry: usize) -> Result<Data<'a>, Malformed> {
        while let Some(field) = reader.field()? {
            match field {
                (1, Wire::Bytes) => self = Data::Text(Text::read(&mut reader, entry)?),
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
    pub(super) fn read(&mut self, entry: Reader<'_>) -> Result<(), Malformed> {
        let length = entry.rest().len();
        let (key, value) = match plain(entry.rest()) {
            Some(plain) => plain,
            None => read_pair(entry)?,
        };
        if self.has_room(length) {
            let name = Name::of(key.bytes);
            self.preferred[name as usize] = self.count as u16 + 1;
            self.add(Tag {
                entry: entry.at() as u32,
                entry_len: length as u16,
                key: key.span,
                value: value.span,
                name,
                kind: Kind::Preferred,
            });
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
                (1, Wire::Bytes) => key = Text::read(&mut entry, at)?,
                (2, Wire::Bytes) => data = data.read(entry.message()?, at)?,
                (1 | 2, _) => return Err(WRONG_TYPE),
                (number, wire) => entry.skip(number, wire, 1)?,
            }
        }
        if !self.has_room(length) {
            return Ok(());
        }
        let (kind, value) = match data {
            Data::Nothing => (Kind::Nothing, Span::default()),
            Data::Text(text) => (Kind::Text, text.span),
            Data::Integer(number) => (Kind::Number, self.keep(&number.to_string())),
            Data::Decimal(number) => (Kind::Number, self.keep(&decimal_text(number))),
        };
        let name = Name::of(key.bytes);
        self.any_deprecated = true;
        self.deprecated[name as usize] = self.count as u16 + 1;
        self.add(Tag {
            entry: at as u32,
            entry_len: length as u16,
            key: key.span,
            value,
            name,
            kind,
        });
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
    fn keep(&mut self, number: &str) -> Span {
        if !self.has_room(number.len()) {
            return Span::default();
        }
        let at = self.numbers.len() as u16;
        self.numbers.push_str(number);
        let len = number.len() as u16;
        Span { at, len }
    }

    #[inline]
    fn add(&mut self, tag: Tag) {
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
        let all = match self.spilled.is_empty() {
            true => &mut self.inline[..self.count],
            false => &mut self.spilled[..],
        };
        order.sort_unstable_by_key(|&index| {
            let tag = &all[usize::from(index)];
            (tag.key(envelope), tag.kind != Kind::Preferred, index)
        });
        let mut last: Option<(&[u8], Kind)> = None;
        for &index in order.iter().rev() {
            let tag = &mut all[usize::from(index)];
            let key = tag.key(envelope);
            match last {
                Some((same, kind)) if same == key => match kind {
                    Kind::Text | Kind::Number => tag.kind = Kind::Hidden,
                    Kind::Nothing if tag.kind != Kind::Preferred => tag.kind = Kind::Hidden,
                    Kind::Nothing | Kind::Preferred | Kind::Hidden => {}
                },
                _ => last = Some((key, tag.kind)),
            }
        }
    }
}

/// An entry as nearly everyone writes it: key, then value, all of it ASCII.
#[inline]
fn plain(entry: &[u8]) -> Option<(Text<'_>, Text<'_>)> {
    // ASCII bytes are one-byte lengths as well.
    let (&[0x0a, key_len], rest) = entry.split_first_chunk()? else {
        return None;
    };
    let (key, rest) = rest.split_at_checked(usize::from(key_len))?;
    let (&[0x12, value_len], value) = rest.split_first_chunk()? else {
        return None;
    };
    let whole = value.len() == usize::from(value_len) && is_ascii(entry);
    whole.then(|| (Text::at(2, key), Text::at(4 + key.len(), value)))
}

/// `[u8]::is_ascii` for what is so short that calling it takes longer than looking.
#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words
        .iter()
        .fold(0, |all, word| all | u64::from_ne_bytes(*word));
    let rest = rest.iter().fold(0, |all, byte| all | byte);
    (words & 0x8080_8080_8080_8080) == 0 && rest < 0x80
}

/// An entry as it may be.
fn read_pair(mut entry: Reader<'_>) -> Result<(Text<'_>, Text<'_>), Malformed> {
    let at = entry.at();
    let (mut key, mut value) = (Text::default(), Text::default());
    while let Some(field) = entry.field()? {
        match field {
            (1, Wire::Bytes) => key = Text::read(&mut entry, at)?,
            (2, Wire::Bytes) => value = Text::read(&mut entry, at)?,
            (1 | 2, _) => return Err(WRONG_TYPE),
            (number, wire) => entry.skip(number, wire, 1)?,
        }
    }
    Ok((key, value))
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
                Kind::Preferred => put_bytes(out, 17, tag.entry(envelope)),
                _ => put_entry(out, 17, tag.key(envelope), self.value(envelope, tag)),
            }
        }
    }

    /// How many bytes [`put`](Tags::put) would write.
    pub(super) fn len(&self, used: u32) -> usize {
        let entry_len = |tag: &Tag| match tag.kind {
            Kind::Preferred => tag.entry_len.into(),
            _ => field_len(1, tag.key.len.into()) + field_len(1, tag.value.len.into()),
        };
        let lengths = self.passed_on(used).map(|tag| field_len(2, entry_len(tag)));
        lengths.sum()
    }

    #[inline]
    fn passed_on(&self, used: u32) -> impl Iterator<Item = &Tag> {
        self.all().iter().filter(move |tag| {
            !matches!(tag.kind, Kind::Nothing | Kind::Hidden) && !tag.name.is_in(used)
        })
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
            Kind::Number => tag.value.of(self.numbers.as_bytes()),
            _ => tag.value.of(&envelope[tag.entry as usize..]),
        }
    }
}

impl Tag {
    fn key<'a>(&self, envelope: &'a [u8]) -> &'a [u8] {
        self.key.of(&envelope[self.entry as usize..])
    }

    fn entry<'a>(&self, envelope: &'a [u8]) -> &'a [u8] {
        &envelope[self.entry as usize..][..usize::from(self.entry_len)]
    }
}

impl Span {
    #[inline]
    fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[usize::from(self.at)..][..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_only_if_it_is_spelled_so() {
        for (name, key) in KEYS {
            assert_eq!(Name::of(key.as_bytes()), name);
            assert_eq!(Name::of(format!("{key}x").as_bytes()), Name::Other);
        }
        for key in ["", "Origin", "app_id", "organization_name"] {
            assert_eq!(Name::of(key.as_bytes()), Name::Other);
        }
    }
}
