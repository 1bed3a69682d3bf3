//! Clients that count: whole frames, and how old the last envelope of a run is.

use crate::generator::Progress;
use http::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use transport::clock::unix_ns;
use transport::frame;
use transport::listener::{Dialer, Stream};
use transport::websocket::{Incoming, Options, Socket, upgrade};

/// One reader's counts; readers of the same feed share what `Progress` needs.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) received: AtomicU64,
}

/// A reader at work.
pub(crate) struct Reader {
    pub(crate) counted: Arc<Counted>,
    pub(crate) latencies: tokio::task::JoinHandle<Vec<u32>>,
}

/// Opens the stream at `path` and counts what comes until it ends or is aborted.
///
/// Latency is taken of the first envelope of each run, in microseconds: its timestamp was set
/// when its batch left the generator.
pub(crate) async fn open(dialer: &Dialer, address: &str, path: &str, progress: Option<Arc<Progress>>) -> Reader {
    let mut socket = connect(dialer, address, path).await;
    let counted = Arc::new(Counted::default());
    let counts = counted.clone();
    let latencies = tokio::spawn(async move {
        let mut latencies = Vec::new();
        while let Ok(Incoming::Frames { run, count }) = socket.next().await {
            let received = counts.received.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
            if let Some(progress) = &progress {
                progress.received.store(received, Ordering::Relaxed);
                progress.moved.notify_waiters();
            }
            let first = frame::payloads(&run).next();
            if let Some(stamp) = first.and_then(|payload| timestamp(&payload)) {
                latencies.push(((unix_ns() - stamp).max(0) / 1_000) as u32);
            }
        }
        latencies
    });
    Reader { counted, latencies }
}

async fn connect(dialer: &Dialer, address: &str, path: &str) -> Socket<Stream> {
    let stream = dialer.dial(address).await.expect("the Traffic Controller takes connections");
    let request = Request::get(path)
        .header("host", address)
        .header("authorization", "bearer load")
        .body(())
        .expect("a request");
    let deadline = Instant::now() + Duration::from_secs(10);
    let (stream, read, _) = upgrade::connect(stream, request, deadline).await.expect("a stream");
    Socket::new(stream, read, Options::client())
}

/// Field 6 of a v1 envelope; what stands before it is a string and an enum.
fn timestamp(envelope: &[u8]) -> Option<i64> {
    let mut rest = envelope;
    loop {
        let key = prost::encoding::decode_varint(&mut rest).ok()?;
        match (key >> 3, key & 7) {
            (6, 0) => return prost::encoding::decode_varint(&mut rest).ok().map(|stamp| stamp as i64),
            (_, 0) => drop(prost::encoding::decode_varint(&mut rest).ok()?),
            (_, 2) => {
                let length = prost::encoding::decode_varint(&mut rest).ok()? as usize;
                rest = rest.get(length..)?;
            }
            _ => return None,
        }
    }
}
