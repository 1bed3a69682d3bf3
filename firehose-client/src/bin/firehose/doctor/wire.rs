//! A WebSocket by hand (RFC 6455 §5), as little of it as we need.
//!
//! The one of `transport` answers pings by itself, and sends none. Here it is the question what
//! happens when nobody answers, and how long an answer takes.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use transport::listener::Stream;

const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// The longest payload of a control frame (RFC 6455 §5.5).
const CONTROL: u64 = 125;

/// Bytes read at once.
const READ: usize = 16 << 10;

pub(super) struct Wire {
    stream: Stream,
    read: BytesMut,
    /// Bytes of a data frame that are still to come; nobody looks at them.
    skip: u64,
}

/// What the server sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Ping(Bytes),
    Pong(Bytes),
    /// Its code, if it gave one, and reason.
    Close(Option<u16>, String),
    /// The head of one that carries something.
    Data,
}

/// Why there is no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// It was not there in time.
    Late,
    /// The server said goodbye.
    Closed(Option<u16>, String),
    /// The connection ended without a Close; in the system's words.
    Cut(String),
    /// What came is no WebSocket.
    Garbled,
}

struct Head {
    opcode: u8,
    payload: u64,
    /// Bytes of the head itself.
    length: usize,
}

impl Wire {
    /// `read` are the bytes that came with the handshake.
    pub(super) fn new(stream: Stream, read: Bytes) -> Wire {
        Wire {
            stream,
            read: BytesMut::from(&read[..]),
            skip: 0,
        }
    }

    pub(super) async fn ping(&mut self, payload: &[u8]) -> Result<(), Missing> {
        self.send(PING, payload).await
    }

    pub(super) async fn pong(&mut self, payload: &[u8]) -> Result<(), Missing> {
        self.send(PONG, payload).await
    }

    /// Says goodbye, and does not wait for the answer.
    pub(super) async fn close(mut self) {
        // Whoever is gone needs no goodbye.
        _ = self.send(CLOSE, &1000_u16.to_be_bytes()).await;
        _ = self.stream.shutdown().await;
    }

    async fn send(&mut self, opcode: u8, payload: &[u8]) -> Result<(), Missing> {
        let frame = masked(opcode, payload, fastrand::u32(..).to_be_bytes());
        let sent = async {
            self.stream.write_all(&frame).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| Missing::Cut(error.to_string()))
    }

    /// The next frame.
    pub(super) async fn next(&mut self, deadline: Instant) -> Result<Frame, Missing> {
        loop {
            let skipped = self.skip.min(self.read.len() as u64);
            self.read.advance(skipped as usize); // not more than there is in memory
            self.skip -= skipped;
            if self.skip == 0
                && let Some(frame) = self.take()?
            {
                return Ok(frame);
            }
            self.read.reserve(READ);
            let read = timeout_at(deadline, self.stream.read_buf(&mut self.read));
            match read.await {
                Err(_) => return Err(Missing::Late),
                Ok(Ok(0)) => return Err(Missing::Cut("it was hung up".into())),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(Missing::Cut(error.to_string())),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Frame>, Missing> {
        let Some(head) = head(&self.read)? else {
            return Ok(None);
        };
        if head.opcode < CLOSE {
            self.read.advance(head.length);
            self.skip = head.payload;
            return Ok(Some(Frame::Data));
        }
        let whole = head.length + head.payload as usize; // at most CONTROL
        if self.read.len() < whole {
            return Ok(None);
        }
        let payload = self.read.split_to(whole).freeze().slice(head.length..);
        Ok(Some(match head.opcode {
            PING => Frame::Ping(payload),
            PONG => Frame::Pong(payload),
            _ => {
                let (code, reason) = payload.split_at_checked(2).unwrap_or_default();
                let code = <[u8; 2]>::try_from(code).ok().map(u16::from_be_bytes);
                Frame::Close(code, String::from_utf8_lossy(reason).into_owned())
            }
        }))
    }
}

/// The head of the frame at the beginning of `bytes`, if it is there.
fn head(bytes: &[u8]) -> Result<Option<Head>, Missing> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    let opcode = first & 0x0f;
    let control = opcode >= CLOSE;
    // Extension bits without an extension, a mask from a server, opcodes that nobody has, and
    // control frames in pieces.
    let strange = first & 0x70 != 0
        || second & 0x80 != 0
        || matches!(opcode, 0x3..=0x7 | 0xb..)
        || (control && first & 0x80 == 0);
    if strange {
        return Err(Missing::Garbled);
    }
    let (payload, length) = match second {
        126 => match rest {
            [a, b, ..] => (u64::from(u16::from_be_bytes([*a, *b])), 4),
            _ => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 10),
            None => return Ok(None),
        },
        short => (u64::from(*short), 2),
    };
    if control && payload > CONTROL {
        return Err(Missing::Garbled);
    }
    Ok(Some(Head {
        opcode,
        payload,
        length,
    }))
}

/// A client's control frame; `payload` has at most 125 bytes.
fn masked(opcode: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(CONTROL as usize)];
    let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8];
    frame.extend_from_slice(&mask);
    let mask = mask.iter().cycle();
    frame.extend(payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_ping_is_masked() {
        // RFC 6455 §5.7 has this pong.
        let frame = masked(PONG, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
        let expected = [
            0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_head_is_read_in_its_three_lengths_once_it_is_there() {
        let of = |bytes: &[u8]| {
            head(bytes)
                .unwrap()
                .map(|it| (it.opcode, it.payload, it.length))
        };
        assert_eq!(of(b"\x89"), None);
        assert_eq!(of(b"\x89\x05"), Some((PING, 5, 2)));
        assert_eq!(of(b"\x82\x7e\x01"), None);
        assert_eq!(of(b"\x82\x7e\x01\x00"), Some((2, 256, 4)));
        assert_eq!(of(b"\x82\x7f\0\0\0\0\0\x01\0"), None);
        assert_eq!(of(b"\x82\x7f\0\0\0\0\0\x01\0\0"), Some((2, 65_536, 10)));
    }

    #[test]
    fn what_is_no_websocket_is_told() {
        for bytes in [
            b"HT",
            b"\xc9\0",
            b"\x89\x80",
            b"\x83\0",
            b"\x8b\0",
            b"\x09\0",
            b"\x89\x7e",
        ] {
            let bytes = [&bytes[..], &[0xff; 8]].concat();
            assert!(matches!(head(&bytes), Err(Missing::Garbled)), "{bytes:x?}");
        }
    }
}
