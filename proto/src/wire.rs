//! The protobuf wire format: a reader that never copies and a few writers.
//!
//! The reader accepts exactly what prost accepts, field by field; it promises never
//! to panic and never to read past the message it was given.

use crate::Malformed;

pub(crate) const TRUNCATED: Malformed = Malformed("truncated");
pub(crate) const BAD_VARINT: Malformed = Malformed("a varint of more than 64 bits");
pub(crate) const BAD_KEY: Malformed = Malformed("an impossible field number or wire type");
pub(crate) const BAD_GROUP: Malformed = Malformed("a group that does not end where it should");
pub(crate) const TOO_DEEP: Malformed = Malformed("nested too deeply");
pub(crate) const WRONG_TYPE: Malformed = Malformed("a known field with another wire type");
pub(crate) const NOT_UTF8: Malformed = Malformed("a string that is not UTF-8");

/// How deep messages and unknown groups may nest, as in prost.
pub(crate) const MAX_DEPTH: u32 = 100;

/// The type of a field on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Varint,
    Fixed64,
    Bytes,
    Group,
    GroupEnd,
    Fixed32,
}

/// Reads one message from its first byte to its last.
///
/// Positions ([`at`](Reader::at)) count from the start of the outermost message.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// What has not been read yet.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The next field's number and type; `None` at the end of the message.
    #[inline]
    pub(crate) fn field(&mut self) -> Result<Option<(u32, Wire)>, Malformed> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key).map_err(|_| BAD_KEY)? >> 3;
        let wire = match key & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Bytes,
            3 => Wire::Group,
            4 => Wire::GroupEnd,
            5 => Wire::Fixed32,
            _ => return Err(BAD_KEY),
        };
        if number == 0 {
            return Err(BAD_KEY);
        }
        Ok(Some((number, wire)))
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            Some(_) => self.long_varint(),
            None => Err(TRUNCATED),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (index, &byte) in self.rest().iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                if index == 9 && byte > 1 {
                    return Err(BAD_VARINT);
                }
                self.at += index + 1;
                return Ok(value);
            }
        }
        Err(if self.rest().len() < 10 {
            TRUNCATED
        } else {
            BAD_VARINT
        })
    }

    #[inline]
    pub(crate) fn fixed64(&mut self) -> Result<u64, Malformed> {
        let (bytes, _) = self.rest().split_first_chunk().ok_or(TRUNCATED)?;
        self.at += 8;
        Ok(u64::from_le_bytes(*bytes))
    }

    #[inline]
    pub(crate) fn double(&mut self) -> Result<f64, Malformed> {
        self.fixed64().map(f64::from_bits)
    }

    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.varint()?;
        let rest = self.rest();
        if length > rest.len() as u64 {
            return Err(TRUNCATED);
        }
        self.at += length as usize;
        Ok(&rest[..length as usize])
    }

    /// Bytes that must be UTF-8.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let bytes = self.bytes()?;
        check_utf8(bytes)?;
        Ok(bytes)
    }

    /// A reader of the message in this field; its positions still count from the start.
    #[inline]
    pub(crate) fn message(&mut self) -> Result<Reader<'a>, Malformed> {
        let length = self.bytes()?.len();
        Ok(Reader {
            bytes: &self.bytes[..self.at],
            at: self.at - length,
        })
    }

    /// Passes over a field nobody here knows. `depth`: how many messages enclose this one.
    pub(crate) fn skip(&mut self, number: u32, wire: Wire, depth: u32) -> Result<(), Malformed> {
        if depth >= MAX_DEPTH {
            return Err(TOO_DEEP);
        }
        match wire {
            Wire::Varint => self.varint().map(drop),
            Wire::Fixed64 => self.fixed64().map(drop),
            Wire::Bytes => self.bytes().map(drop),
            Wire::Fixed32 => {
                self.at += self.rest().get(..4).ok_or(TRUNCATED)?.len();
                Ok(())
            }
            Wire::Group => loop {
                match self.field()?.ok_or(TRUNCATED)? {
                    (end, Wire::GroupEnd) if end == number => return Ok(()),
                    (_, Wire::GroupEnd) => return Err(BAD_GROUP),
                    (inner, wire) => self.skip(inner, wire, depth + 1)?,
                }
            },
            Wire::GroupEnd => Err(BAD_GROUP),
        }
    }
}

/// Refuses bytes that are not UTF-8.
#[inline]
pub(crate) fn check_utf8(bytes: &[u8]) -> Result<(), Malformed> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(NOT_UTF8),
    }
}

/// How many bytes `value` takes as a varint.
#[inline]
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// How many bytes a field of `length` bytes takes, with its length and a key of `key` bytes.
#[inline]
pub(crate) fn field_len(key: usize, length: usize) -> usize {
    key + varint_len(length as u64) + length
}

#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A varint field.
#[inline]
pub(crate) fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number << 3));
    put_varint(out, value);
}

/// A double field.
#[inline]
pub(crate) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_varint(out, u64::from(number << 3 | 1));
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

/// The key and length of a field of `length` bytes, which the caller appends.
#[inline(always)] // The number is known where it is called.
pub(crate) fn put_head(out: &mut Vec<u8>, number: u32, length: usize) {
    let key = number << 3 | 2;
    match (key, length) {
        (..0x80, ..0x80) => out.extend_from_slice(&[key as u8, length as u8]),
        (0x80..0x4000, ..0x80) => {
            out.extend_from_slice(&[key as u8 | 0x80, (key >> 7) as u8, length as u8]);
        }
        _ => {
            put_varint(out, u64::from(key));
            put_varint(out, length as u64);
        }
    }
}

/// A string, bytes or message field.
#[inline(always)]
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_head(out, number, value.len());
    out.extend_from_slice(value);
}

/// A message field whose length is known only when `body` has been written.
#[inline]
pub(crate) fn put_message(out: &mut Vec<u8>, number: u32, body: impl FnOnce(&mut Vec<u8>)) {
    put_head(out, number, 0);
    let start = out.len();
    body(out);
    let length = out.len() - start;
    match varint_len(length as u64) {
        1 => out[start - 1] = length as u8,
        bytes => {
            // Room for one byte of length is there already: move the body by the rest.
            out.resize(out.len() + bytes - 1, 0);
            out.copy_within(start..start + length, start + bytes - 1);
            let mut rest = length;
            for byte in &mut out[start - 1..start + bytes - 1] {
                *byte = rest as u8 | 0x80;
                rest >>= 7;
            }
            out[start + bytes - 2] &= 0x7f;
        }
    }
}

/// A `map<string, string>` entry.
#[inline]
pub(crate) fn put_entry(out: &mut Vec<u8>, number: u32, key: &[u8], value: &[u8]) {
    put_head(
        out,
        number,
        field_len(1, key.len()) + field_len(1, value.len()),
    );
    put_bytes(out, 1, key);
    put_bytes(out, 2, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_is_as_long_as_promised() {
        for bits in 0..64 {
            for value in [1 << bits, (1_u64 << bits) - 1] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value));
                assert_eq!(Reader::new(&out).varint(), Ok(value));
            }
        }
    }

    #[test]
    fn a_varint_of_sixty_five_bits_is_refused() {
        let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Reader::new(&largest).varint(), Ok(u64::MAX));
        let larger = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(Reader::new(&larger).varint(), Err(BAD_VARINT));
        assert_eq!(Reader::new(&[0xff; 11]).varint(), Err(BAD_VARINT));
        assert_eq!(Reader::new(&[0xff; 3]).varint(), Err(TRUNCATED));
    }

    #[test]
    fn a_message_may_be_written_before_its_length_is_known() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 3_000_000] {
            let body = vec![7; length];
            let (mut out, mut expected) = (b"before".to_vec(), b"before".to_vec());
            put_message(&mut out, 17, |out| out.extend_from_slice(&body));
            put_bytes(&mut expected, 17, &body);
            assert!(out == expected, "{length}");
        }
    }

    #[test]
    fn unknown_groups_are_skipped_to_their_end_and_no_deeper_than_prost_goes() {
        let nested = |depth: usize| [vec![0x0b; depth], vec![0x0c; depth]].concat();
        let skip = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            let (number, wire) = reader.field()?.ok_or(TRUNCATED)?;
            reader.skip(number, wire, 0)
        };
        assert_eq!(skip(&nested(100)), Ok(()));
        assert_eq!(skip(&nested(101)), Err(TOO_DEEP));
        assert_eq!(skip(&[0x0b, 0x14]), Err(BAD_GROUP));
        assert_eq!(skip(&[0x0b]), Err(TRUNCATED));
    }
}
