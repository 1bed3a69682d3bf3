//! Envelopes on their way from a door to the router: framed, with what routing needs to know.

use proto::transcode::V1Sink;
use std::sync::{Mutex, PoisonError};
use transport::frame::Frames;

/// What is kept of each buffer from batch to batch, in elements.
const KEEP: usize = 16 << 10;

/// Batches kept for the next message: about as many as there are threads to fill one.
const SPARE: usize = 8;

/// Empty batches that wait for the next message, of whichever door. There are thousands of doors
/// and few messages at a time: a batch of its own for each would hold some 100 KiB for ever.
#[derive(Default)]
pub struct Spare(Mutex<Vec<Batch>>);

impl Spare {
    /// An empty batch, if possible one that has its memory.
    pub fn take(&self) -> Batch {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spare.pop().unwrap_or_default()
    }

    /// Keeps an empty batch for the next to come, if few are kept.
    pub fn give_back(&self, batch: Batch) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if batch.is_empty() && spare.len() < SPARE {
            spare.push(batch);
        }
    }
}

/// Framed v1 envelopes and the app each belongs to.
#[derive(Default)]
pub struct Batch {
    pub(super) frames: Frames,
    app_bytes: Vec<u8>,
    app_ends: Vec<u32>,
}

impl Batch {
    /// Adds a v1 envelope as it came.
    pub fn push_v1(&mut self, envelope: &[u8], log: bool, app: &[u8]) {
        self.frames.push(envelope, log);
        self.belongs_to(app);
    }

    /// How many bytes of frames have gathered.
    pub fn bytes(&self) -> usize {
        self.frames.bytes().len()
    }

    /// Whether it holds no envelope.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Each envelope's app id (empty for none) and bytes.
    pub(super) fn envelopes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.app_ends.iter().enumerate().map(move |(n, end)| {
            let app = &self.app_bytes[start..*end as usize];
            start = *end as usize;
            (app, self.frames.payload(n))
        })
    }

    /// Forgets whose the envelopes are. What a rare large batch took is given back.
    pub(super) fn clear_apps(&mut self) {
        self.app_bytes.clear();
        self.app_bytes.shrink_to(KEEP);
        self.app_ends.clear();
        self.app_ends.shrink_to(KEEP);
    }

    fn belongs_to(&mut self, app: &[u8]) {
        self.app_bytes.extend_from_slice(app);
        // A batch is published after some KiB; app ids are shorter than their envelopes.
        self.app_ends.push(self.app_bytes.len() as u32);
    }
}

impl V1Sink for Batch {
    fn begin(&mut self) -> &mut Vec<u8> {
        self.frames.begin()
    }

    fn end(&mut self, log: bool, app: &[u8]) {
        self.frames.end(log);
        self.belongs_to(app);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_batches_are_kept_and_only_empty_ones() {
        let spare = Spare::default();
        let mut full = Batch::default();
        full.push_v1(b"envelope", true, b"app");
        spare.give_back(full);
        assert!(spare.take().is_empty());
        for _ in 0..2 * SPARE {
            spare.give_back(Batch::default());
        }
        assert_eq!(spare.0.lock().unwrap().len(), SPARE);
    }
}
