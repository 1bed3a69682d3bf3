//! Agents: gRPC connections with one `BatchSender` stream each, paced or as fast as the readers.

use crate::feed::{BATCH, Shape, Template};
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use transport::clock::unix_ns;
use transport::listener::Dialer;

/// How many differently numbered batches a connection goes round.
const TEMPLATES: usize = 40;

/// How fast.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Envelopes per second over all connections.
    Rate(u64),
    /// As fast as every reader takes them: never more than this many envelopes ahead.
    Ahead(u64),
}

/// Counts shared by generator and readers.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) sent: AtomicU64,
    /// What the slowest reader has received.
    pub(crate) received: AtomicU64,
    pub(crate) moved: Notify,
}

/// Sends until `end`; returns how many envelopes.
pub(crate) async fn run(
    dialer: Dialer,
    dopplers: &[String],
    connections: usize,
    shape: Shape,
    pace: Pace,
    end: Instant,
    progress: Arc<Progress>,
) -> u64 {
    let agents = (0..connections).map(|n| {
        let pace = match pace {
            Pace::Rate(rate) => Pace::Rate(rate / connections as u64),
            ahead => ahead,
        };
        tokio::spawn(agent(dialer.clone(), dopplers[n % dopplers.len()].clone(), n, shape, pace, end, progress.clone()))
    });
    let mut sent = 0;
    for agent in agents.collect::<Vec<_>>() {
        sent += agent.await.expect("an agent does not panic");
    }
    sent
}

async fn agent(
    dialer: Dialer,
    doppler: String,
    n: usize,
    shape: Shape,
    pace: Pace,
    end: Instant,
    progress: Arc<Progress>,
) -> u64 {
    let templates: Vec<Template> = (0..TEMPLATES).map(|t| Template::new(shape, n * TEMPLATES + t)).collect();
    let stream = dialer.dial(&doppler).await.expect("the Doppler takes connections");
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .max_send_buf_size(1 << 20)
        .handshake(TokioIo::new(stream))
        .await
        .expect("the Doppler speaks HTTP/2");
    let connection = tokio::spawn(connection);
    // Two batches: what is stamped is soon on the wire.
    let (batches, body) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(2);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
    let request = http::Request::post("http://doppler/loggregator.v2.Ingress/BatchSender")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .expect("a request");
    let answer = tokio::spawn(async move { sender.send_request(request).await });

    let began = Instant::now();
    let mut sent = 0;
    for template in templates.iter().cycle() {
        match pace {
            Pace::Rate(rate) => {
                tokio::time::sleep_until(began + Duration::from_secs_f64(sent as f64 / rate as f64)).await;
            }
            Pace::Ahead(ahead) => wait_for_readers(&progress, ahead, end).await,
        }
        if Instant::now() >= end {
            break;
        }
        let message = template.stamped(unix_ns());
        if batches.send(Ok(Frame::data(message))).await.is_err() {
            break;
        }
        sent += BATCH as u64;
        progress.sent.fetch_add(BATCH as u64, Ordering::Relaxed);
    }
    drop(batches);
    let _ = answer.await;
    connection.abort();
    sent
}

async fn wait_for_readers(progress: &Progress, ahead: u64, end: Instant) {
    loop {
        let moved = progress.moved.notified();
        let sent = progress.sent.load(Ordering::Relaxed);
        if sent < progress.received.load(Ordering::Relaxed) + ahead || Instant::now() >= end {
            return;
        }
        let _ = tokio::time::timeout_at(end, moved).await;
    }
}
