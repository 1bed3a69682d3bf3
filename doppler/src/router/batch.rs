//! Envelopes on their way from a door to the router: framed, with what routing needs to know.

use proto::transcode::V1Sink;
use transport::frame::Frames;

/// What is kept of each buffer from batch to batch, in elements.
const KEEP: usize = 16 << 10;

/// Framed v1 envelopes and the app each belongs to. A door keeps one and refills it.
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
