//! Envelopes as they came: what one read of the socket held.

use bytes::Bytes;
use proto::Malformed;
use proto::v1::{self, Envelope};
use transport::frame;

/// Some envelopes, undecoded, in the order they were sent.
///
/// They share the memory of one read. To keep one envelope of many for long, copy it: a slice
/// keeps all of the batch alive.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// WebSocket frames back to back: unmasked, whole, binary.
    run: Bytes,
    count: usize,
}

impl Batch {
    pub(crate) fn new(run: Bytes, count: usize) -> Batch {
        Batch { run, count }
    }

    /// How many envelopes there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The envelopes, each a serialized v1 `Envelope`. None is copied.
    pub fn iter(&self) -> impl Iterator<Item = Bytes> + '_ {
        frame::payloads(&self.run)
    }

    /// The envelopes, decoded. One that cannot be is an item like the others, not the end.
    pub fn decode(&self) -> impl Iterator<Item = Result<Envelope, Malformed>> + '_ {
        self.iter().map(|envelope| v1::decode(&envelope))
    }

    /// Takes the first envelope out.
    pub(crate) fn take_first(&mut self) -> Option<Bytes> {
        let first = frame::frames(&self.run).next()?.len();
        let frame = self.run.split_to(first);
        self.count = self.count.saturating_sub(1);
        frame::payloads(&frame).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(payloads: &[&[u8]]) -> Batch {
        let mut frames = frame::Frames::new();
        payloads
            .iter()
            .for_each(|payload| frames.push(payload, false));
        Batch::new(Bytes::copy_from_slice(frames.bytes()), payloads.len())
    }

    #[test]
    fn envelopes_come_out_in_order_whole_or_one_by_one() {
        let payloads: [&[u8]; 3] = [b"first", b"", &[7; 300]];
        let mut batch = batch(&payloads);
        assert_eq!(batch.iter().collect::<Vec<_>>(), payloads);
        assert_eq!(batch.take_first().unwrap(), "first");
        assert_eq!(batch.iter().collect::<Vec<_>>(), payloads[1..]);
        assert_eq!(batch.len(), 2);
        assert_eq!(batch.take_first().unwrap(), "");
        assert_eq!(batch.take_first().unwrap().len(), 300);
        assert!(batch.is_empty());
        assert_eq!(batch.take_first(), None);
    }

    #[test]
    fn one_that_cannot_be_decoded_does_not_end_the_batch() {
        let batch = batch(&[b"\x0a\x01x\x10\x05", b"nonsense", b"\x0a\x01y\x10\x05"]);
        let origins: Vec<_> = batch
            .decode()
            .map(|envelope| envelope.map(|envelope| envelope.origin).ok())
            .collect();
        assert_eq!(origins, [Some("x".into()), None, Some("y".into())]);
    }
}
