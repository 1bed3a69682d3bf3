//! tungstenite as a protocol engine without I/O: one whole frame goes in, what it means comes
//! out, and the answers it calls for pile up until the socket has reached a frame boundary.
//!
//! It gets every frame that is not plain data. Its opinion on closing is not asked: it echoes
//! the peer's reason, we do not, so nothing is fed to it after a Close.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocket, WebSocketConfig};

use super::{Close, Ended, OWED, Options};
use crate::frame;

/// The engine's own read buffer, set aside for every socket (its default of 128 KiB is made for
/// few). It only sees control frames and what clients should not have sent.
const READ_BUFFER: usize = 512;

/// The longest reason a Close frame holds: 125 bytes of control payload less the code
/// (RFC 6455 §5.5).
const REASON: usize = 123;

const OPCODE: u8 = 0x0F;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: [u8; 2] = [0x89, 0];

#[derive(Debug)]
pub(super) struct Engine {
    socket: WebSocket<Pipe>,
    max_message: usize,
    /// Take texts for binary messages, which nobody checks for UTF-8.
    blind_to_text: bool,
    /// How much of what is owed is written.
    paid: usize,
    /// How much of what is owed is text.
    text: usize,
}

/// What a frame meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A fragment; more to come.
    Part,
    Text(String),
    /// A message, framed anew as one final frame.
    Binary(Bytes),
    /// Its pong is owed.
    Ping,
    Pong,
    Close(Option<u16>, String),
}

impl Engine {
    pub(super) fn new(options: &Options) -> Engine {
        let socket =
            WebSocket::from_raw_socket(Pipe::default(), options.role, Some(config(options)));
        Engine {
            socket,
            max_message: options.max_message,
            blind_to_text: options.role == Role::Server && !options.text,
            paid: 0,
            text: 0,
        }
    }

    /// Takes one whole frame.
    pub(super) fn take(&mut self, mut frame: BytesMut) -> Result<Heard, Ended> {
        let close = close_code(&frame);
        if let Some(first) = frame.first_mut()
            && self.blind_to_text
            && *first & OPCODE == TEXT
        {
            *first = *first & !OPCODE | BINARY;
        }
        self.socket.get_mut().incoming = frame;
        match self.socket.read() {
            Ok(Message::Text(text)) => Ok(Heard::Text(text.as_str().to_owned())),
            Ok(Message::Binary(payload)) => {
                let mut framed = Vec::with_capacity(frame::MAX_HEADER + payload.len());
                frame::write_header(payload.len(), &mut framed);
                framed.extend_from_slice(&payload);
                Ok(Heard::Binary(framed.into()))
            }
            Ok(Message::Ping(_)) => {
                // Into the pipe, which takes everything: this cannot fail.
                self.socket.flush().map_err(|error| self.fault(&error))?;
                Ok(Heard::Ping)
            }
            Ok(Message::Pong(_)) => Ok(Heard::Pong),
            Ok(Message::Close(frame)) => match close {
                Some(code) if !may_be_sent(code) => Err(protocol(
                    1002,
                    format!("close code {code} is not for the wire"),
                )),
                code => {
                    // tungstenite does not know 1014, and has words of its own in place of it.
                    let said = frame.filter(|frame| Some(frame.code.into()) == code);
                    let reason = said.map_or_else(String::new, |it| it.reason.as_str().to_owned());
                    Ok(Heard::Close(code, reason))
                }
            },
            // tungstenite never hands these out.
            Ok(Message::Frame(_)) => Ok(Heard::Part),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(Heard::Part),
            // One byte where a code takes two: no code, as for the Go Traffic Controller.
            Err(Error::Protocol(ProtocolError::InvalidCloseSequence)) => {
                Ok(Heard::Close(None, String::new()))
            }
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// Asks the peer whether it lives. For the server role: not masked.
    pub(super) fn owe_ping(&mut self) {
        self.socket.get_mut().outgoing.extend_from_slice(&PING);
    }

    pub(super) fn owe_text(&mut self, text: &str) {
        let before = self.owed().len();
        if let Err(error) = self.socket.send(Message::text(text)) {
            // The pipe takes everything, and no Close has gone through the engine.
            tracing::debug!(%error, "could not frame a text");
        }
        self.text += self.owed().len() - before;
    }

    /// What has to be written at the next frame boundary: whole frames, or what is left of them.
    pub(super) fn owed(&self) -> &[u8] {
        &self.socket.get_ref().outgoing[self.paid..]
    }

    /// How many bytes of it are pings and pongs; fewer while a text is being written.
    pub(super) fn controls_owed(&self) -> usize {
        self.owed().len().saturating_sub(self.text)
    }

    /// `written` bytes of what is owed have been written.
    pub(super) fn paid(&mut self, written: usize) {
        self.paid += written;
        if self.owed().is_empty() {
            self.paid = 0;
            self.text = 0;
            let outgoing = &mut self.socket.get_mut().outgoing;
            outgoing.clear();
            outgoing.shrink_to(READ_BUFFER);
        } else if self.paid > OWED {
            self.socket.get_mut().outgoing.drain(..self.paid);
            self.paid = 0;
        }
    }

    /// What the engine found, in words for the peer.
    fn fault(&self, error: &Error) -> Ended {
        let reason = match error {
            Error::Capacity(_) => return too_big(self.max_message),
            Error::Utf8(_) => return protocol(1007, "text that is not UTF-8"),
            Error::Protocol(error) => match error {
                ProtocolError::NonZeroReservedBits => "reserved bits without an extension",
                ProtocolError::UnmaskedFrameFromClient => "frame of a client without a mask",
                ProtocolError::MaskedFrameFromServer => "frame of a server with a mask",
                ProtocolError::FragmentedControlFrame => "control frame in fragments",
                ProtocolError::ControlFrameTooBig => "control frame of more than 125 bytes",
                ProtocolError::InvalidOpcode(code) => {
                    return protocol(1002, format!("unknown opcode {code}"));
                }
                ProtocolError::UnexpectedContinueFrame => "continuation of nothing",
                ProtocolError::ExpectedFragment(_) => "new message inside an unfinished one",
                _ => "protocol error",
            },
            _ => "protocol error",
        };
        protocol(1002, reason)
    }
}

/// Breaking the protocol or a limit, told with `code`.
pub(super) fn protocol(code: u16, reason: impl Into<Cow<'static, str>>) -> Ended {
    Ended::Protocol {
        code,
        reason: reason.into(),
    }
}

/// A message of more than `max_message` bytes.
pub(super) fn too_big(max_message: usize) -> Ended {
    protocol(1009, format!("message of more than {max_message} bytes"))
}

/// The bytes of a Close frame of ours, masked if we are a client. A fresh engine makes it: the
/// one in use may already have seen the peer's Close, and would send that one's reason.
pub(super) fn close_frame(role: Role, close: &Close) -> Vec<u8> {
    let config = config(&Options {
        role,
        ..Options::server()
    });
    let mut socket = WebSocket::from_raw_socket(Pipe::default(), role, Some(config));
    let frame = close.code.map(|code| CloseFrame {
        code: code.into(),
        reason: close.reason[..close.reason.floor_char_boundary(REASON)].into(),
    });
    if let Err(error) = socket.close(frame) {
        // The pipe takes everything; an empty answer is still an end.
        tracing::debug!(%error, "could not frame a Close");
    }
    socket.into_inner().outgoing
}

fn config(options: &Options) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // Everything goes straight on into the pipe, whose size the socket watches; the largest
        // single frame to pass through is a text, and our own.
        .write_buffer_size(0)
        .max_write_buffer_size(usize::MAX)
        .max_message_size(Some(options.max_message))
        .max_frame_size(Some(options.max_message.max(125)))
}

/// The code in a whole Close frame, as it came: tungstenite replaces codes it does not like.
fn close_code(frame: &[u8]) -> Option<u16> {
    let (&first, &second) = (frame.first()?, frame.get(1)?);
    if first & OPCODE != CLOSE {
        return None;
    }
    let (mask, body) = if second & 0x80 == 0 {
        ([0, 0], frame.get(2..)?)
    } else {
        ([*frame.get(2)?, *frame.get(3)?], frame.get(6..)?)
    };
    let (&high, &low) = (body.first()?, body.get(1)?);
    Some(u16::from_be_bytes([high ^ mask[0], low ^ mask[1]]))
}

/// Whether a Close may carry this code: those RFC 6455 §7.4 and its registry define for it, and
/// those it leaves to applications.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Both directions of the engine's "socket".
#[derive(Debug, Default)]
struct Pipe {
    incoming: BytesMut,
    outgoing: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = into.len().min(self.incoming.len());
        into[..length].copy_from_slice(&self.incoming[..length]);
        self.incoming.advance(length);
        if self.incoming.is_empty() {
            // Let go of the buffer the frame was cut from.
            self.incoming = BytesMut::new();
        }
        Ok(length)
    }
}

impl Write for Pipe {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(from);
        Ok(from.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Engine {
        Engine::new(&Options::server())
    }

    /// A frame of a client whose mask is zero.
    fn masked(first: u8, payload: &[u8]) -> BytesMut {
        let mut frame = BytesMut::from(&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0][..]);
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn a_ping_is_owed_its_pong() {
        let mut engine = server();
        assert_eq!(engine.take(masked(0x89, b"hey")).unwrap(), Heard::Ping);
        assert_eq!(engine.owed(), b"\x8A\x03hey");
        engine.paid(2);
        assert_eq!(engine.owed(), b"hey");
        engine.paid(3);
        assert!(engine.owed().is_empty());
    }

    #[test]
    fn a_text_nobody_wants_need_not_be_utf_8() {
        assert_eq!(
            server().take(masked(0x81, b"\xFF")).unwrap(),
            Heard::Binary(Bytes::from_static(b"\x82\x01\xFF"))
        );
        let mut link = Engine::new(&Options::link_server());
        assert!(matches!(
            link.take(masked(0x81, b"\xFF")),
            Err(Ended::Protocol { code: 1007, .. })
        ));
    }

    #[test]
    fn a_close_is_heard_with_the_code_it_came_with_and_draws_no_answer() {
        for code in [1000u16, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4999] {
            let mut engine = server();
            let mut body = code.to_be_bytes().to_vec();
            body.extend_from_slice(b"Protocol violation");
            // tungstenite keeps the words of 1014 to itself.
            let words = if code == 1014 {
                ""
            } else {
                "Protocol violation"
            };
            assert_eq!(
                engine.take(masked(0x88, &body)).unwrap(),
                Heard::Close(Some(code), words.to_owned())
            );
            assert!(engine.owed().is_empty());
        }
        assert_eq!(
            server().take(masked(0x88, b"")).unwrap(),
            Heard::Close(None, String::new())
        );
        assert_eq!(
            server().take(masked(0x88, b"\x03")).unwrap(),
            Heard::Close(None, String::new())
        );
    }

    #[test]
    fn a_close_code_that_is_not_for_the_wire_breaks_the_protocol() {
        for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
            assert!(
                matches!(
                    server().take(masked(0x88, &code.to_be_bytes())),
                    Err(Ended::Protocol { code: 1002, .. })
                ),
                "{code}"
            );
        }
    }

    #[test]
    fn a_close_reason_has_to_be_utf_8() {
        assert!(matches!(
            server().take(masked(0x88, b"\x03\xE8\xC3\x28")),
            Err(Ended::Protocol { code: 1007, .. })
        ));
    }

    #[test]
    fn a_reason_too_long_is_cut_between_characters() {
        let close = Close::POLICY.because("ä".repeat(100));
        let frame = close_frame(Role::Server, &close);
        assert_eq!(frame[..4], [0x88, 2 + 122, 0x03, 0xF0]);
        assert_eq!(std::str::from_utf8(&frame[4..]).unwrap(), "ä".repeat(61));
    }

    #[test]
    fn a_close_without_code_is_an_empty_frame() {
        let close = Close {
            code: None,
            reason: "unsaid".into(),
        };
        assert_eq!(close_frame(Role::Server, &close), [0x88, 0]);
        let masked = close_frame(Role::Client, &close);
        assert_eq!((masked.len(), masked[1]), (6, 0x80));
    }
}
