//! A stream of WebSocket frames, as either end reads it.

use bytes::Bytes;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{WebSocketConfig, WebSocketContext};
use transport::frame::{self, Head};
use transport::websocket::{Ended, Incoming, Options, Role, Socket};

/// The largest message, in bytes: small, so that a fuzzer finds both sides of it.
const LARGEST: usize = 4 << 10;

/// What we refuse and tungstenite takes: RFC 6455 §5.2 has a length in as few bytes as will do,
/// so that a control frame's is always in one.
const LONG_FORMS: [&str; 2] = [
    "length in more bytes than it takes",
    "control frame of more than 125 bytes",
];

/// The first byte says which end reads (bit 0) and how many bytes come at a time (the others);
/// behind it stands what the peer sends before it hangs up.
///
/// However the bytes come, the same is read; and tungstenite alone reads it, too.
pub(super) fn frames(bytes: &[u8]) {
    let Some((how, sent)) = bytes.split_first() else {
        return;
    };
    let role = match how & 1 {
        0 => Role::Server,
        _ => Role::Client,
    };
    if let Head::Binary(whole) | Head::Other(whole) = frame::head(sent) {
        assert!(whole <= sent.len());
    }
    let at_once = read(role, sent, usize::MAX);
    assert_eq!(read(role, sent, usize::from(how >> 1).max(1)), at_once);

    let theirs = tungstenite(role, sent);
    // A server does not hand out what is binary.
    let said = theirs.said.iter();
    let said = said.filter(|said| role == Role::Client || matches!(said, Said::Text(_)));
    let said: Vec<&Said> = said.collect();
    if LONG_FORMS.iter().any(|form| at_once.ended.contains(form)) {
        assert!(
            at_once
                .said
                .iter()
                .zip(said)
                .all(|(ours, theirs)| ours == theirs)
        );
        return;
    }
    assert!(at_once.said.iter().eq(said), "{at_once:?} but {theirs:?}");
    match (&at_once.closed, &theirs.closed) {
        (ours, theirs) if ours == theirs => {}
        // A code that may not be sent ends the socket as a mistake of the peer; tungstenite makes
        // it this Close, and 1014 too, which was registered later.
        (None, Some((Some(1002), reason))) if reason == "Protocol violation" => {}
        (Some((Some(1014), none)), Some((Some(1002), _))) if none.is_empty() => {}
        // One byte where a code takes two is no code to us.
        (Some((None, reason)), None) if reason.is_empty() => {}
        (ours, theirs) => panic!("{ours:?} but {theirs:?}"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Binary(Vec<u8>),
    Text(String),
}

#[derive(Debug, PartialEq, Eq)]
struct Heard {
    said: Vec<Said>,
    /// How the peer closed, if it did.
    closed: Option<(Option<u16>, String)>,
    /// In words, why it was over.
    ended: String,
}

/// What we read of it when it comes in pieces of so many bytes.
fn read(role: Role, sent: &[u8], piece: usize) -> Heard {
    let options = Options {
        role,
        text: true,
        max_message: LARGEST,
        read_buffer: 16 << 10,
        // What depends on the time of day has tests of its own.
        keep_alive: None,
        controls_per_second: 0,
        ..Options::server()
    };
    let stream = Pieces { sent, piece };
    let mut socket = Socket::new(stream, Bytes::new(), options);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut said = Vec::new();
        loop {
            match socket.next().await {
                Ok(Incoming::Frames { run, count }) => {
                    let payloads: Vec<_> = frame::payloads(&run).collect();
                    assert_eq!(payloads.len(), count);
                    said.extend(payloads.iter().map(|it| Said::Binary(it.to_vec())));
                }
                Ok(Incoming::Text(text)) => said.push(Said::Text(text)),
                Err(ended) => {
                    let closed = match &ended {
                        Ended::Peer { code, reason } => Some((*code, reason.clone())),
                        _ => None,
                    };
                    let ended = ended.to_string();
                    return Heard {
                        said,
                        closed,
                        ended,
                    };
                }
            }
        }
    })
}

/// What tungstenite reads.
fn tungstenite(role: Role, mut sent: &[u8]) -> Heard {
    let config = WebSocketConfig::default()
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    let mut context = WebSocketContext::new(role, Some(config));
    let mut stream = Deaf(&mut sent);
    let mut said = Vec::new();
    loop {
        match context.read(&mut stream) {
            Ok(Message::Binary(payload)) => said.push(Said::Binary(payload.to_vec())),
            Ok(Message::Text(text)) => said.push(Said::Text(text.to_string())),
            Ok(Message::Close(close)) => {
                let reason = close.as_ref().map(|close| close.reason.to_string());
                return Heard {
                    said,
                    closed: Some((close.map(|it| it.code.into()), reason.unwrap_or_default())),
                    ended: String::new(),
                };
            }
            Ok(_) => {}
            Err(error) => {
                return Heard {
                    said,
                    closed: None,
                    ended: error.to_string(),
                };
            }
        }
    }
}

/// A peer that has sent so much, and hangs up. It takes whatever is written.
struct Pieces<'a> {
    sent: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.sent.len().min(self.piece).min(buffer.remaining());
        let (now, later) = self.sent.split_at(count);
        buffer.put_slice(now);
        self.sent = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The same for tungstenite.
struct Deaf<'a, 'b>(&'a mut &'b [u8]);

impl Read for Deaf<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Deaf<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
