//! WebSocket data frames as bytes: writing them once, finding them again.
//!
//! In come message payloads, out come whole frames that can be written to any number of
//! clients unchanged: frames from a server are not masked (RFC 6455 §5.1), so what a Doppler
//! writes is what a Traffic Controller writes. Only final binary frames are made here; every
//! other frame belongs to the protocol engine in [`crate::websocket`].

use bytes::Bytes;

/// The longest header of an unmasked frame (RFC 6455 §5.2: 2 bytes and a 64-bit length).
pub const MAX_HEADER: usize = 10;

/// FIN and opcode 2: a final binary frame.
const FINAL_BINARY: u8 = 0x82;

/// Room left before a payload whose length is not known yet: the header of a 126 to 65,535
/// byte message, which is what envelopes are. Other sizes move their payload once.
const GUESS: usize = 4;

/// What [`Frames::clear`] keeps, in bytes: two batches of 100 envelopes.
const KEEP: usize = 128 << 10;

/// Framed messages one after another, and where each ends.
///
/// The unit that is routed, logged and written: see the crate `doppler`.
#[derive(Debug, Default, Clone)]
pub struct Frames {
    bytes: Vec<u8>,
    ends: Vec<End>,
}

/// Where a frame ends in its buffer, and whether it is a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End(u32);

impl End {
    fn new(at: usize, log: bool) -> End {
        // 31 bits are 2 GiB; a buffer is sealed after some KiB, and one message is at most the
        // 10 MiB of a gRPC message.
        debug_assert!(at <= (u32::MAX >> 1) as usize);
        End((at as u32) << 1 | u32::from(log))
    }

    /// The offset just behind the frame.
    #[inline]
    pub fn at(self) -> usize {
        (self.0 >> 1) as usize
    }

    /// Whether the frame carries a log.
    #[inline]
    pub fn log(self) -> bool {
        self.0 & 1 == 1
    }

    pub(crate) fn moved(self, by: usize) -> End {
        End::new(self.at() + by, self.log())
    }
}

impl Frames {
    /// No frames yet.
    pub fn new() -> Frames {
        Frames::default()
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The frames, back to back.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where each frame ends.
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    /// The bytes of frame `n`, header included.
    pub fn frame(&self, n: usize) -> &[u8] {
        let start = if n == 0 { 0 } else { self.ends[n - 1].at() };
        &self.bytes[start..self.ends[n].at()]
    }

    /// The payload of frame `n`.
    pub fn payload(&self, n: usize) -> &[u8] {
        payload(self.frame(n))
    }

    /// Adds a message whose payload is at hand.
    pub fn push(&mut self, payload: &[u8], log: bool) {
        write_header(payload.len(), &mut self.bytes);
        self.bytes.extend_from_slice(payload);
        self.ends.push(End::new(self.bytes.len(), log));
    }

    /// Opens a message: append its payload to the buffer, then call [`Frames::end`].
    pub fn begin(&mut self) -> &mut Vec<u8> {
        self.bytes.extend_from_slice(&[0; GUESS]);
        &mut self.bytes
    }

    /// Closes the message opened by [`Frames::begin`].
    pub fn end(&mut self, log: bool) {
        let start = self.ends.last().map_or(0, |end| end.at());
        let payload = self.bytes.len() - start - GUESS;
        let (header, length) = header(payload);
        if length == GUESS {
            self.bytes[start..start + GUESS].copy_from_slice(&header[..GUESS]);
        } else {
            self.bytes
                .splice(start..start + GUESS, header[..length].iter().copied());
        }
        self.ends.push(End::new(self.bytes.len(), log));
    }

    /// Forgets the frames and keeps the memory, but not what a rare large batch took.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.ends.clear();
        self.ends.shrink_to(KEEP / size_of::<End>());
    }

    /// Moves the frames of `other` behind these.
    pub(crate) fn append(&mut self, other: &mut Frames) {
        let base = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        self.ends
            .extend(other.ends.drain(..).map(|end| end.moved(base)));
        other.clear();
    }

    /// Takes the frames out, in memory of just their size, and keeps nothing.
    pub(crate) fn take(&mut self) -> (Bytes, Box<[End]>) {
        (
            std::mem::take(&mut self.bytes).into_boxed_slice().into(),
            std::mem::take(&mut self.ends).into(),
        )
    }
}

/// How long the header of an unmasked frame with `payload` bytes is.
pub fn header_bytes(payload: usize) -> usize {
    header(payload).1
}

/// Appends the header of an unmasked final binary frame with `payload` bytes.
pub fn write_header(payload: usize, out: &mut Vec<u8>) {
    let (header, length) = header(payload);
    out.extend_from_slice(&header[..length]);
}

/// What one of our own frames carries.
pub fn payload(frame: &[u8]) -> &[u8] {
    &frame[header_length(frame)..]
}

/// One message as a frame of its own.
pub fn framed(payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(header_bytes(payload.len()) + payload.len());
    write_header(payload.len(), &mut frame);
    frame.extend_from_slice(payload);
    frame.into()
}

/// RFC 6455 §5.2: 7 bits of length, or 126 and 16 bits, or 127 and 64 bits.
fn header(payload: usize) -> ([u8; MAX_HEADER], usize) {
    let mut header = [0; MAX_HEADER];
    header[0] = FINAL_BINARY;
    let length = match payload {
        0..126 => {
            header[1] = payload as u8;
            2
        }
        126..=0xFFFF => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    };
    (header, length)
}

/// The length of the header at the start of an unmasked `frame`.
fn header_length(frame: &[u8]) -> usize {
    match frame[1] & 0x7F {
        126 => 4,
        127 => 10,
        _ => 2,
    }
}

/// What stands at the start of a buffer that a server filled.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// Not enough bytes to tell; `Some` says how many the whole frame takes, once known.
    Partial(Option<u64>),
    /// A whole final binary frame of this many bytes, header included.
    Binary(usize),
    /// A frame for the protocol engine (control, text, fragment, or against the protocol);
    /// whole, of this many bytes.
    Other(usize),
}

/// Looks at the first frame in `buffer`.
///
/// A length that no `usize` holds, or whose top bit is set (RFC 6455 §5.2 forbids it), comes
/// back as `Partial(Some(u64::MAX))`: the caller's limit refuses it before anything is
/// allocated.
pub fn head(buffer: &[u8]) -> Head {
    let [first, second, ..] = *buffer else {
        return Head::Partial(None);
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (header, payload) = match second & 0x7F {
        126 => match buffer.get(2..4) {
            Some(length) => (4, u64::from(u16::from_be_bytes([length[0], length[1]]))),
            None => return Head::Partial(None),
        },
        127 => match buffer.get(2..10).and_then(|l| <[u8; 8]>::try_from(l).ok()) {
            Some(length) => (10, u64::from_be_bytes(length)),
            None => return Head::Partial(None),
        },
        short => (2, u64::from(short)),
    };
    if payload > u64::MAX >> 1 {
        return Head::Partial(Some(u64::MAX));
    }
    let whole = header + mask + payload;
    if whole > buffer.len() as u64 {
        return Head::Partial(Some(whole));
    }
    let whole = whole as usize; // it is no longer than `buffer`
    if first == FINAL_BINARY && mask == 0 {
        Head::Binary(whole)
    } else {
        Head::Other(whole)
    }
}

/// The payloads of a run of whole final binary frames, as [`crate::websocket::Socket::next`]
/// hands them out.
pub fn payloads(run: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    frames(run).map(|frame| run.slice_ref(&frame[header_length(frame)..]))
}

/// The frames of a run, header included.
pub fn frames(run: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = run;
    std::iter::from_fn(move || match head(rest) {
        Head::Binary(length) => {
            let (frame, behind) = rest.split_at(length);
            rest = behind;
            Some(frame)
        }
        _ => None,
    })
}

/// The first frame boundary at or behind `offset` in a run of whole frames.
pub fn boundary(run: &[u8], offset: usize) -> usize {
    let mut at = 0;
    for frame in frames(run) {
        if at >= offset {
            break;
        }
        at += frame.len();
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_of_any_size_is_found_again() {
        for size in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let payload = vec![7; size];
            let mut frames = Frames::new();
            frames.begin().extend_from_slice(&payload);
            frames.end(true);
            frames.push(&payload, false);
            assert_eq!(frames.frame(0), frames.frame(1), "{size}");
            assert_eq!(frames.payload(1), payload, "{size}");
            assert_eq!(head(frames.bytes()), Head::Binary(frames.frame(0).len()));
        }
    }

    #[test]
    fn a_rare_large_batch_gives_its_memory_back() {
        let mut frames = Frames::new();
        frames.push(&vec![7; 10 << 20], true);
        frames.clear();
        assert!(frames.bytes.capacity() <= KEEP);
    }

    #[test]
    fn a_length_with_the_top_bit_set_asks_for_more_than_any_limit() {
        let mut buffer = vec![0x82, 127];
        buffer.extend_from_slice(&(1u64 << 63).to_be_bytes());
        assert_eq!(head(&buffer), Head::Partial(Some(u64::MAX)));
    }

    #[test]
    fn control_text_masked_and_fragmented_frames_go_to_the_engine() {
        for first in [0x81, 0x88, 0x89, 0x8A, 0x02, 0x00, 0xC2] {
            assert_eq!(head(&[first, 0]), Head::Other(2));
        }
        assert_eq!(head(&[0x82, 0x80, 1, 2, 3, 4]), Head::Other(6));
    }

    proptest! {
        #[test]
        fn frames_split_at_any_byte_are_partial_and_then_whole(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut built = Frames::new();
            for payload in &payloads {
                built.push(payload, false);
            }
            let cut = cut.index(built.bytes().len());
            let whole = frames(&built.bytes()[..cut]).map(<[u8]>::len).sum::<usize>();
            prop_assert!(whole <= cut);
            prop_assert!(matches!(head(&built.bytes()[whole..cut]), Head::Partial(_)));
            let run = Bytes::copy_from_slice(built.bytes());
            prop_assert_eq!(super::payloads(&run).map(|p| p.to_vec()).collect::<Vec<_>>(), payloads);
            let at = boundary(built.bytes(), cut);
            prop_assert!(at >= cut && (at == 0 || built.ends().iter().any(|end| end.at() == at)));
        }
    }
}
