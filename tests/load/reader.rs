//! Clients that count: the generator's envelopes, and how old the first of each run is.

use crate::feed;
use http::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use transport::clock::unix_ns;
use transport::frame;
use transport::listener::{Dialer, Stream};
use transport::websocket::{Incoming, Options, Socket, upgrade};

/// What a reader has counted so far.
pub(crate) struct Reader {
    /// What part of all envelopes it is due.
    share: f64,
    received: AtomicU64,
    last_ns: AtomicI64,
}

/// So many envelopes came together, and the oldest was that old.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Age {
    pub(crate) micros: u32,
    pub(crate) envelopes: u32,
}

/// Opens the stream at `path`, which is due that share of all envelopes, and counts what comes
/// until it ends; the ages come then.
///
/// Only the generator's envelopes count, not what the Doppler says of itself and not its
/// notices of losses. The age of a run is that of its first envelope, and counts for all of
/// them: those behind it are no older, unless they came over another connection.
pub(crate) async fn open(
    dialer: &Dialer,
    address: &str,
    path: &str,
    share: f64,
) -> (Arc<Reader>, JoinHandle<Vec<Age>>) {
    let socket = connect(dialer, address, path).await;
    let reader = Arc::new(Reader {
        share,
        received: AtomicU64::new(0),
        last_ns: AtomicI64::new(0),
    });
    let ages = tokio::spawn(read(socket, reader.clone()));
    (reader, ages)
}

async fn read(mut socket: Socket<Stream>, reader: Arc<Reader>) -> Vec<Age> {
    let mut ages = Vec::new();
    while let Ok(Incoming::Frames { run, .. }) = socket.next().await {
        let now_ns = unix_ns();
        let mut ours = frame::frames(&run).filter_map(ours);
        let Some(first) = ours.next() else { continue };
        let stamp = timestamp(first).expect("the generator stamps every envelope");
        let envelopes = 1 + ours.count();
        reader.last_ns.store(now_ns, Ordering::Relaxed);
        reader
            .received
            .fetch_add(envelopes as u64, Ordering::Release);
        ages.push(Age {
            micros: ((now_ns - stamp).max(0) / 1_000) as u32,
            envelopes: envelopes as u32,
        });
    }
    ages
}

impl Reader {
    /// How many of the generator's envelopes have come.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// When the last of them came, in nanoseconds since 1970; 0 if none has.
    pub(crate) fn last_ns(&self) -> i64 {
        self.last_ns.load(Ordering::Relaxed)
    }

    /// How many envelopes of the whole feed it has kept up with: those before the next one
    /// that it is due.
    pub(crate) fn progress(&self) -> u64 {
        // Due nothing, it is never behind: the quotient is infinite, and `as` saturates.
        ((self.received() + 1) as f64 / self.share) as u64 - 1
    }
}

async fn connect(dialer: &Dialer, address: &str, path: &str) -> Socket<Stream> {
    let stream = dialer.dial(address).await;
    let stream = stream.expect("the Traffic Controller takes connections");
    let request = Request::get(path)
        .header("host", address)
        .header("authorization", "bearer load")
        .body(())
        .expect("a request");
    let deadline = Instant::now() + Duration::from_secs(10);
    let upgraded = upgrade::connect(stream, request, deadline).await;
    let (stream, read, _) = upgraded.expect("a stream");
    Socket::new(stream, read, Options::client())
}

/// The envelope in a frame, if the generator sent it: field 1 of a v1 envelope is its origin,
/// and a Doppler writes it first.
fn ours(frame: &[u8]) -> Option<&[u8]> {
    // RFC 6455 §5.2: 7 bits of length, or 126 and 16 bits, or 127 and 64 bits.
    let header = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let envelope = &frame[header..];
    let origin = envelope.strip_prefix(&[0x0A, feed::ORIGIN.len() as u8])?;
    origin
        .starts_with(feed::ORIGIN.as_bytes())
        .then_some(envelope)
}

/// Field 6 of a v1 envelope; what stands before it is a string and an enum.
fn timestamp(envelope: &[u8]) -> Option<i64> {
    let mut rest = envelope;
    loop {
        let key = prost::encoding::decode_varint(&mut rest).ok()?;
        match (key >> 3, key & 7) {
            (6, 0) => {
                let stamp = prost::encoding::decode_varint(&mut rest).ok()?;
                return Some(stamp as i64);
            }
            (_, 0) => drop(prost::encoding::decode_varint(&mut rest).ok()?),
            (_, 2) => {
                let length = prost::encoding::decode_varint(&mut rest).ok()? as usize;
                rest = rest.get(length..)?;
            }
            _ => return None,
        }
    }
}
