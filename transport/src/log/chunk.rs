//! A sealed piece of the log, and the runs of frames that are claimed from it.

use super::Arc;
use crate::frame::{End, Frames};
use bytes::Bytes;
use std::ops::AddAssign;

/// What a group asks for. A frame is a log or it is not; that is all the log can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Every frame.
    Everything,
    /// The logs.
    Logs,
    /// All but the logs.
    Metrics,
}

impl Filter {
    /// The name used in pages.
    pub fn name(self) -> &'static str {
        match self {
            Filter::Everything => "everything",
            Filter::Logs => "logs",
            Filter::Metrics => "metrics",
        }
    }

    /// Whether a frame that is a log, or is none, is asked for.
    #[inline]
    pub fn matches(self, log: bool) -> bool {
        match self {
            Filter::Everything => true,
            Filter::Logs => log,
            Filter::Metrics => !log,
        }
    }
}

/// How much one claim may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) frames: u64,
    pub(super) bytes: usize,
}

/// Whole frames that never change again.
#[derive(Debug)]
pub struct Chunk {
    bytes: Bytes,
    ends: Box<[End]>,
    weight: Weight,
}

/// How many frames, and how many of them are logs: enough to know the loss of every filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Weight {
    frames: u64,
    logs: u64,
}

impl Weight {
    pub(super) fn of(ends: &[End]) -> Weight {
        Weight {
            frames: ends.len() as u64,
            logs: ends.iter().filter(|end| end.log()).count() as u64,
        }
    }

    /// How many of these frames a reader with that filter asked for.
    pub(super) fn of_filter(self, filter: Filter) -> u64 {
        match filter {
            Filter::Everything => self.frames,
            Filter::Logs => self.logs,
            Filter::Metrics => self.frames - self.logs,
        }
    }
}

impl AddAssign for Weight {
    fn add_assign(&mut self, other: Weight) {
        self.frames += other.frames;
        self.logs += other.logs;
    }
}

impl Chunk {
    /// A chunk with the frames of a batch whose memory is kept for the next one.
    pub(super) fn copy(frames: &Frames, weight: Weight) -> Chunk {
        Chunk {
            bytes: Bytes::copy_from_slice(frames.bytes()),
            ends: frames.ends().into(),
            weight,
        }
    }

    /// A chunk made of the frames themselves.
    pub(super) fn take(frames: &mut Frames, weight: Weight) -> Chunk {
        let (bytes, ends) = frames.take();
        Chunk {
            bytes,
            ends,
            weight,
        }
    }

    /// How many frames it holds.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// What it counts for against a cap: its frames, its index, and itself.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.ends) + OVERHEAD
    }

    pub(super) fn weight_from(&self, entry: usize) -> Weight {
        match entry {
            0 => self.weight,
            _ => Weight::of(&self.ends[entry..]),
        }
    }

    fn start(&self, entry: usize) -> usize {
        match entry {
            0 => 0,
            _ => self.ends[entry - 1].at(),
        }
    }

    fn length(&self, entry: usize) -> usize {
        self.ends[entry].at() - self.start(entry)
    }
}

/// What a chunk costs beside its frames and index: itself, its place in the log, the counts of
/// its `Arc`, and what the allocator rounds up.
pub(super) const OVERHEAD: usize = size_of::<Chunk>() + 64;

/// Consecutive frames of a chunk, of which a reader takes those its filter matches.
#[derive(Debug, Clone)]
pub(super) struct Run {
    chunk: Arc<Chunk>,
    /// The chunk's number.
    number: u64,
    from: usize,
    /// The first frame behind the run.
    pub(super) to: usize,
}

impl Run {
    /// The next frames from `entry` on, at most a share of them: at least one that matches,
    /// or `None` where none does.
    pub(super) fn next(
        chunk: &Arc<Chunk>,
        number: u64,
        entry: usize,
        filter: Filter,
        share: Share,
    ) -> Option<Run> {
        let mut to = entry;
        let (mut frames, mut bytes) = (0, 0);
        for (n, end) in chunk.ends.iter().enumerate().skip(entry) {
            if filter.matches(end.log()) {
                bytes += chunk.length(n);
                if frames > 0 && (frames == share.frames || bytes > share.bytes) {
                    break;
                }
                frames += 1;
            }
            to = n + 1;
        }
        (frames > 0).then(|| Run {
            chunk: chunk.clone(),
            number,
            from: entry,
            to,
        })
    }

    /// Where in the log it stands, to put runs in order.
    pub(super) fn position(&self) -> (u64, usize) {
        (self.number, self.from)
    }

    /// How many frames a reader with `filter` takes from it.
    pub(super) fn count(&self, filter: Filter) -> u64 {
        Weight::of(&self.chunk.ends[self.from..self.to]).of_filter(filter)
    }

    /// The matching frames back to back: a slice of the chunk where all match.
    pub(super) fn bytes(&self, filter: Filter) -> Bytes {
        let whole = self.chunk.start(self.from)..self.chunk.start(self.to);
        if self.count(filter) == (self.to - self.from) as u64 {
            return self.chunk.bytes.slice(whole);
        }
        let mut gathered = Vec::with_capacity(whole.len());
        for n in self.matching(filter) {
            gathered
                .extend_from_slice(&self.chunk.bytes[self.chunk.start(n)..self.chunk.start(n + 1)]);
        }
        gathered.into()
    }

    /// Splits off the frames that begin within the first `taken` bytes of [`Run::bytes`];
    /// returns how many they were, and the rest if there is one.
    pub(super) fn split(mut self, taken: usize, filter: Filter) -> (u64, Option<Run>) {
        let (mut started, mut offset) = (0, 0);
        let mut from = self.to;
        for n in self.matching(filter) {
            if offset >= taken {
                from = n;
                break;
            }
            started += 1;
            offset += self.chunk.length(n);
        }
        self.from = from;
        (started, (self.from < self.to).then_some(self))
    }

    fn matching(&self, filter: Filter) -> impl Iterator<Item = usize> + '_ {
        (self.from..self.to).filter(move |n| filter.matches(self.chunk.ends[*n].log()))
    }
}
