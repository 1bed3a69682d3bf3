//! What came in and is not yet taken: bytes in, runs of data frames and single other frames out.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::Role;

use super::engine::{protocol, too_big};
use super::{Ended, Options};
use crate::frame::{self, Head};

/// A server reads so much at once, on the stack: clients have little to say, and ten thousand
/// of them are quiet.
const SIP: usize = 2 * 1024;

/// What a client's buffer starts with.
const FIRST: usize = 8 * 1024;

/// Fragments of one message of a client: 4 KiB need no more.
const FRAGMENTS: u32 = 64;

const FIN: u8 = 0x80;
const CONTROL: u8 = 0x08;

#[derive(Debug)]
pub(super) struct Inbox {
    role: Role,
    max_message: usize,
    read_buffer: usize,
    /// How large the next buffer is.
    grain: usize,
    buffer: BytesMut,
    /// How long the frame at the start of `buffer` will be, once that is known.
    whole: usize,
    /// Fragments so far of the message that is not finished; 0: there is none.
    fragments: u32,
}

/// What lies at the start of the inbox.
#[derive(Debug)]
pub(super) enum Step {
    /// All the data frames up to the first other one.
    Run { run: Bytes, count: usize },
    /// One whole frame for the engine.
    Frame(BytesMut),
    /// Nothing whole.
    More,
}

impl Inbox {
    pub(super) fn new(already_read: Bytes, options: &Options) -> Inbox {
        let read_buffer = options.read_buffer.max(256);
        Inbox {
            role: options.role,
            max_message: options.max_message,
            read_buffer,
            grain: read_buffer.min(FIRST),
            buffer: already_read.into(),
            whole: 0,
            fragments: 0,
        }
    }

    /// Whether a fragmented message has begun and not ended.
    pub(super) fn message_open(&self) -> bool {
        self.fragments > 0
    }

    /// Whether part of a message is here and more has to come.
    pub(super) fn is_partial(&self) -> bool {
        self.message_open() || !self.buffer.is_empty()
    }

    /// Takes what lies at the start.
    pub(super) fn step(&mut self) -> Result<Step, Ended> {
        let mut at = 0;
        let mut count = 0;
        let other = loop {
            let head = frame::head(&self.buffer[at..]);
            let whole = match head {
                Head::Binary(length) | Head::Other(length) => Some(length as u64),
                Head::Partial(whole) => whole,
            };
            // Before it is here, and before there is room for it. What came before it goes out
            // first: it arrived, however the bytes were cut.
            match self.check_length(&self.buffer[at..], whole) {
                Err(_) if count > 0 => break None,
                checked => checked?,
            }
            match head {
                // Inside a fragmented message this is a mistake, and the engine's to find.
                Head::Binary(length) if self.role == Role::Client && !self.message_open() => {
                    at += length;
                    count += 1;
                }
                Head::Binary(length) | Head::Other(length) => break Some(length),
                Head::Partial(whole) => {
                    // At most the largest message and its header now.
                    self.whole = whole.map_or(0, |whole| whole as usize);
                    break None;
                }
            }
        };
        if count > 0 {
            let run = self.buffer.split_to(at).freeze();
            return Ok(Step::Run { run, count });
        }
        let Some(length) = other else {
            return Ok(Step::More);
        };
        let frame = self.buffer.split_to(length);
        if self.buffer.is_empty() && self.role == Role::Server {
            self.buffer = BytesMut::new();
        }
        self.count_fragments(frame[0])?;
        Ok(Step::Frame(frame))
    }

    /// Refuses a frame whose start says that its length is wrong; `whole` is the length of all of
    /// it, once known. Nothing else is checked: the rest is the engine's.
    fn check_length(&self, start: &[u8], whole: Option<u64>) -> Result<(), Ended> {
        let [first, second, ..] = *start else {
            return Ok(());
        };
        let control = first & CONTROL != 0;
        if control && second & 0x7F > 125 {
            return Err(protocol(1002, "control frame of more than 125 bytes"));
        }
        let Some(whole) = whole else {
            return Ok(());
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (header, shortest) = match second & 0x7F {
            126 => (4, 126),
            127 => (10, 65_536),
            _ => (2, 0),
        };
        let payload = whole.saturating_sub(header + mask);
        if payload < shortest {
            return Err(protocol(1002, "length in more bytes than it takes"));
        }
        if payload > self.max_message as u64 && !control {
            return Err(too_big(self.max_message));
        }
        Ok(())
    }

    fn count_fragments(&mut self, first: u8) -> Result<(), Ended> {
        if first & CONTROL != 0 {
            return Ok(());
        }
        self.fragments = if first & FIN == 0 {
            self.fragments.saturating_add(1)
        } else {
            0
        };
        if self.role == Role::Server && self.fragments > FRAGMENTS {
            return Err(protocol(1009, "message in too many fragments"));
        }
        Ok(())
    }

    /// Reads once; 0 is the end of the stream.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self.role {
            Role::Server => {
                let mut sip = [const { MaybeUninit::uninit() }; SIP];
                let mut sip = ReadBuf::uninit(&mut sip);
                ready!(Pin::new(stream).poll_read(cx, &mut sip))?;
                self.buffer.extend_from_slice(sip.filled());
                Poll::Ready(Ok(sip.filled().len()))
            }
            Role::Client => {
                self.make_room();
                let room = self.buffer.capacity() - self.buffer.len();
                let read = ready!(pin!(stream.read_buf(&mut self.buffer)).poll(cx))?;
                if read == room {
                    self.grain = (self.grain * 2).min(self.read_buffer);
                }
                Poll::Ready(Ok(read))
            }
        }
    }

    /// Makes room for the frame that has begun, and for a good part of a buffer in any case: a
    /// read of a few bytes costs as much as one of many.
    fn make_room(&mut self) {
        let here = self.buffer.len();
        let missing = self.whole.saturating_sub(here);
        if self.buffer.capacity() - here >= missing.max(self.grain / 4) {
            return;
        }
        let size = self.whole.max(self.grain).max(here + self.grain / 4);
        // Nobody else may hold a part of it any more, and it is not left over from a large frame.
        if self.buffer.try_reclaim(size - here) && self.buffer.capacity() <= 2 * size {
            return;
        }
        let mut buffer = BytesMut::with_capacity(size);
        buffer.extend_from_slice(&self.buffer);
        self.buffer = buffer;
    }
}
