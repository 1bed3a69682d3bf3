//! The shape of a v1 envelope, and a reader that walks it.
//!
//! Known fields come out typed, unknown ones are passed over, a known one with the
//! wrong wire type is an error. Strings are not checked: in v1 they may be anything.

use crate::{
    Malformed,
    wire::{Reader, WRONG_TYPE, Wire},
};

/// Walks one message, field by field.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    reader: Reader<'a>,
    shape: &'static Shape,
    depth: u32,
}

/// What a known field holds.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Number(u64),
    Double(f64),
    Bytes(&'a [u8]),
    Text(&'a [u8]),
    Message(Fields<'a>),
}

/// What a message must and may contain.
pub(crate) struct Shape {
    /// The kind of each field, by number.
    kinds: &'static [Kind],
    /// The numbers of the required fields, a bit each.
    pub(crate) required: u32,
    /// What to say when one of them is missing.
    pub(crate) missing: Malformed,
}

#[derive(Clone, Copy)]
enum Kind {
    Unknown,
    Number,
    Double,
    Bytes,
    Text,
    Message(&'static Shape),
}

impl<'a> Fields<'a> {
    pub(crate) fn of_envelope(envelope: &'a [u8]) -> Fields<'a> {
        Fields {
            reader: Reader::new(envelope),
            shape: &ENVELOPE,
            depth: 0,
        }
    }

    pub(crate) fn shape(&self) -> &'static Shape {
        self.shape
    }

    /// The number and value of the next known field; `None` at the end.
    ///
    /// Inlined, it is twice as fast: handed over in memory, the value costs more than
    /// the reading.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        while let Some((number, wire)) = self.reader.field()? {
            let kind = self.shape.kinds.get(number as usize);
            let value = match (kind.unwrap_or(&Kind::Unknown), wire) {
                (Kind::Number, Wire::Varint) => Value::Number(self.reader.varint()?),
                (Kind::Double, Wire::Fixed64) => Value::Double(self.reader.double()?),
                (Kind::Bytes, Wire::Bytes) => Value::Bytes(self.reader.bytes()?),
                (Kind::Text, Wire::Bytes) => Value::Text(self.reader.bytes()?),
                (Kind::Message(shape), Wire::Bytes) => Value::Message(Fields {
                    reader: self.reader.message()?,
                    shape,
                    depth: self.depth + 1,
                }),
                (Kind::Unknown, _) => {
                    self.reader.skip(number, wire, self.depth)?;
                    continue;
                }
                _ => return Err(WRONG_TYPE),
            };
            return Ok(Some((number, value)));
        }
        Ok(None)
    }
}

use Kind::{Bytes, Double, Message, Number, Text, Unknown};

#[rustfmt::skip]
static ENVELOPE: Shape = Shape {
    kinds: &[
        Unknown, Text, Number, Unknown, Unknown, Unknown, Number,
        Message(&HTTP), Message(&LOG), Message(&VALUE), Message(&COUNTER), Message(&ERROR), Message(&CONTAINER),
        Text, Text, Text, Text, Message(&TAG),
    ],
    required: 0b110,
    missing: Malformed("an envelope without origin or event type"),
};

#[rustfmt::skip]
static HTTP: Shape = Shape {
    kinds: &[
        Unknown, Number, Number, Message(&UUID), Number, Number, Text, Text, Text, Number, Number,
        Unknown, Message(&UUID), Number, Text, Text,
    ],
    required: 0b111_1111_1110,
    missing: Malformed("an HttpStartStop without one of its required fields"),
};

static UUID: Shape = Shape {
    kinds: &[Unknown, Number, Number],
    required: 0b110,
    missing: Malformed("a UUID without one of its halves"),
};

static LOG: Shape = Shape {
    kinds: &[Unknown, Bytes, Number, Number, Text, Text, Text],
    required: 0b1110,
    missing: Malformed("a LogMessage without message, type or timestamp"),
};

static VALUE: Shape = Shape {
    kinds: &[Unknown, Text, Double, Text],
    required: 0b1110,
    missing: Malformed("a ValueMetric without name, value or unit"),
};

static COUNTER: Shape = Shape {
    kinds: &[Unknown, Text, Number, Number],
    required: 0b110,
    missing: Malformed("a CounterEvent without name or delta"),
};

static ERROR: Shape = Shape {
    kinds: &[Unknown, Text, Number, Text],
    required: 0b1110,
    missing: Malformed("an Error without source, code or message"),
};

static CONTAINER: Shape = Shape {
    kinds: &[
        Unknown, Text, Number, Double, Number, Number, Number, Number,
    ],
    required: 0b11_1110,
    missing: Malformed("a ContainerMetric without one of its required fields"),
};

static TAG: Shape = Shape {
    kinds: &[Unknown, Text, Text],
    required: 0,
    missing: Malformed("a tag"),
};
