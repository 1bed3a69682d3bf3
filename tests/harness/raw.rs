//! A peer that writes the bytes a test gives it and reports the bytes that come back.

use crate::stream::{Stream, Tls};
use bytes::{Buf, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// The most that is waited for an answer: more than any patience of the processes.
const ANSWER: Duration = Duration::from_secs(20);

/// A key for handshakes, and what answers it (RFC 6455 §1.3).
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A connection.
#[derive(Debug)]
pub struct Raw {
    stream: Stream,
    buffer: BytesMut,
}

/// An HTTP response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Name in lower case and value, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

/// A WebSocket frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// FIN, reserved bits and opcode.
    pub first: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

/// How a WebSocket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With a Close frame, which had this code.
    Close(Option<u16>, String),
    /// Without one.
    Eof,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| &value[..])
    }
}

impl Raw {
    /// Connects.
    pub async fn connect(address: SocketAddr, tls: Option<&Tls>) -> Raw {
        Raw {
            stream: Stream::connect(address, tls, None).await.unwrap(),
            buffer: BytesMut::new(),
        }
    }

    /// A client that has sent a WebSocket handshake for `path` and got 101.
    pub async fn websocket(
        address: SocketAddr,
        tls: Option<&Tls>,
        path: &str,
        headers: &[&str],
    ) -> Raw {
        let mut raw = Raw::connect(address, tls).await;
        raw.send(handshake(path, headers).as_bytes()).await;
        let response = raw.response().await;
        assert_eq!(response.status, 101, "{response:?}");
        raw
    }

    /// Writes bytes. A peer that has hung up is no error: what it said before is what counts.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        matches!(timeout(ANSWER, write).await, Ok(Ok(())))
    }

    /// Reads a response; panics if none comes.
    pub async fn response(&mut self) -> Response {
        loop {
            if let Some(response) = self.take_response() {
                return response;
            }
            let read = self.read().await;
            assert!(
                matches!(read, Ok(1..)),
                "no whole response: {read:?} after {:?}",
                self.text()
            );
        }
    }

    /// Reads a response, or `None` if the peer hangs up or says something else; one to HEAD has
    /// a length and no body.
    pub async fn answer(&mut self, to_head: bool) -> Option<Response> {
        loop {
            if let Some(response) = self.take_answer(to_head) {
                return Some(response);
            }
            if !matches!(self.read().await, Ok(1..)) {
                return None;
            }
        }
    }

    /// Reads a frame; `None` at the end of the stream.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            match self.read().await {
                Ok(1..) => {}
                Ok(0) => return None,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    panic!("neither a frame nor an end")
                }
                Err(_) => return None,
            }
        }
    }

    /// Reads up to the next text frame.
    pub async fn text_frame(&mut self) -> Option<String> {
        loop {
            let frame = self.frame().await?;
            if frame.first == 0x81 {
                return Some(String::from_utf8(frame.payload).unwrap());
            }
        }
    }

    /// Reads frames until the WebSocket is over, and answers its Close.
    pub async fn end(&mut self) -> End {
        while let Some(frame) = self.frame().await {
            if frame.first != 0x88 {
                continue;
            }
            self.send(&masked(0x88, &frame.payload)).await;
            return match frame.payload.split_first_chunk::<2>() {
                Some((code, reason)) => {
                    let reason = String::from_utf8_lossy(reason).into_owned();
                    End::Close(Some(u16::from_be_bytes(*code)), reason)
                }
                None => End::Close(None, String::new()),
            };
        }
        End::Eof
    }

    /// Reads until the peer hangs up; returns what came and how long it took. Panics after
    /// `deadline`.
    pub async fn hung_up(&mut self, deadline: Duration) -> (String, Duration) {
        let began = Instant::now();
        let read = timeout(deadline, async {
            while matches!(self.read().await, Ok(1..)) {}
        });
        assert!(
            read.await.is_ok(),
            "not hung up after {deadline:?}: {:?}",
            self.text()
        );
        (self.text(), began.elapsed())
    }

    /// Reads and forgets what has come already.
    pub async fn drain(&mut self) {
        while let Ok(Ok(1..)) = timeout(Duration::ZERO, self.read()).await {
            self.buffer.clear();
        }
    }

    /// Reads until these bytes have come; panics if they do not.
    pub async fn until(&mut self, bytes: &[u8]) {
        while !self.buffer.windows(bytes.len()).any(|some| some == bytes) {
            let read = self.read().await;
            assert!(matches!(read, Ok(1..)), "{read:?} before {bytes:?}");
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    async fn read(&mut self) -> io::Result<usize> {
        match timeout(ANSWER, self.stream.read_buf(&mut self.buffer)).await {
            Ok(read) => read,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn take_response(&mut self) -> Option<Response> {
        self.take_answer(false)
    }

    fn take_answer(&mut self, to_head: bool) -> Option<Response> {
        let end = self
            .buffer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response = Response {
            status,
            headers,
            body: String::new(),
        };
        let length = match response.header("content-length") {
            Some(length) if !to_head => length.parse().unwrap(),
            _ => 0,
        };
        if self.buffer.len() < end + 4 + length {
            return None;
        }
        self.buffer.advance(end + 4);
        response.body = String::from_utf8_lossy(&self.buffer.split_to(length)).into_owned();
        Some(response)
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let [first, second, ..] = self.buffer[..] else {
            return None;
        };
        let (header, length) = match second & 0x7F {
            126 => (
                4,
                usize::from(u16::from_be_bytes(
                    self.buffer.get(2..4)?.try_into().unwrap(),
                )),
            ),
            127 => (
                10,
                u64::from_be_bytes(self.buffer.get(2..10)?.try_into().unwrap()) as usize,
            ),
            length => (2, usize::from(length)),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        if self.buffer.len() < header + mask + length {
            return None;
        }
        let mut frame = self.buffer.split_to(header + mask + length);
        let key: Vec<u8> = frame[header..header + mask].to_vec();
        let mut payload = frame.split_off(header + mask).to_vec();
        if mask > 0 {
            payload
                .iter_mut()
                .zip(key.iter().cycle())
                .for_each(|(byte, key)| *byte ^= key);
        }
        Some(Frame { first, payload })
    }
}

/// A WebSocket handshake for `path`, with more header lines.
pub fn handshake(path: &str, headers: &[&str]) -> String {
    let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n"
    )
}

/// A client's frame: masked, with a key of our choice.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x37, 0xFA, 0x21, 0x3D];
    let mut frame = head(first, payload.len(), 0x80);
    frame.extend(key);
    frame.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

/// A server's frame: as it is.
pub fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len(), 0);
    frame.extend(payload);
    frame
}

/// The beginning of a frame that announces so many bytes of payload.
pub fn head(first: u8, length: usize, mask: u8) -> Vec<u8> {
    match length {
        0..126 => vec![first, mask | length as u8],
        126..=0xFFFF => [&[first, mask | 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[first, mask | 127][..], &(length as u64).to_be_bytes()].concat(),
    }
}
