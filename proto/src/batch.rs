//! Several envelopes in one message, taken apart in place.
//!
//! Nothing is copied or allocated, so a frame of a million empty envelopes costs the
//! frame it came in and no more. What an envelope contains is not looked at.

use crate::{
    Malformed,
    wire::{Reader, WRONG_TYPE, Wire},
};

/// The envelopes of a `loggregator.v2.EnvelopeBatch`, in order.
///
/// The first error is the last item: what follows it cannot be found. A caller who
/// must not deliver half a malformed batch runs over it once before.
pub fn split(batch: &[u8]) -> Split<'_> {
    Split {
        reader: Reader::new(batch),
        broken: false,
    }
}

/// See [`split`].
#[derive(Clone)]
pub struct Split<'a> {
    reader: Reader<'a>,
    broken: bool,
}

impl<'a> Iterator for Split<'a> {
    type Item = Result<&'a [u8], Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.broken {
            return None;
        }
        let envelope = next_of_field_1(&mut self.reader).transpose()?;
        self.broken = envelope.is_err();
        Some(envelope)
    }
}

/// The payload of a `plumbing.EnvelopeData`: one v1 envelope, empty when there is none.
pub fn payload(envelope_data: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(envelope_data);
    let mut payload: &[u8] = &[];
    while let Some(later) = next_of_field_1(&mut reader)? {
        payload = later;
    }
    Ok(payload)
}

fn next_of_field_1<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    while let Some(field) = reader.field()? {
        match field {
            (1, Wire::Bytes) => return reader.bytes().map(Some),
            (1, _) => return Err(WRONG_TYPE),
            (number, wire) => reader.skip(number, wire, 0)?,
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{v2, wire::TRUNCATED};
    use proptest::prelude::*;
    use prost::Message;

    #[test]
    fn a_million_empty_envelopes_are_a_million_items() {
        let batch = [0x0a, 0x00].repeat(1_000_000);
        assert_eq!(
            split(&batch).filter(|item| *item == Ok(&[])).count(),
            1_000_000
        );
    }

    #[test]
    fn nothing_follows_an_error() {
        let items: Vec<_> = split(&[0x0a, 0x01, 0x08, 0x0a, 0x05, 0x00]).collect();
        assert_eq!(items, [Ok(&[0x08][..]), Err(TRUNCATED)]);
    }

    #[test]
    fn the_last_payload_counts_and_none_is_empty() {
        assert_eq!(payload(&[]), Ok(&[][..]));
        assert_eq!(payload(&[0x0a, 1, 7, 0x18, 9, 0x0a, 1, 8]), Ok(&[8][..]));
        assert_eq!(payload(&[0x08, 1]), Err(WRONG_TYPE));
    }

    proptest! {
        #[test]
        fn a_batch_falls_apart_as_prost_decodes_it(
            ids in prop::collection::vec("[a-z]{0,200}", 0..20),
            unknown in prop::option::of(2u32..1000),
        ) {
            let envelope = |source_id| v2::Envelope { source_id, ..Default::default() };
            let batch = v2::EnvelopeBatch { batch: ids.into_iter().map(envelope).collect() };
            let mut bytes = batch.encode_to_vec();
            if let Some(number) = unknown {
                crate::wire::put_bytes(&mut bytes, number, b"from the future");
            }
            let split: Vec<_> = split(&bytes)
                .map(|envelope| v2::Envelope::decode(envelope.unwrap()).unwrap())
                .collect();
            prop_assert_eq!(split, batch.batch);
        }
    }
}
