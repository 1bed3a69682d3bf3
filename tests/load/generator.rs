//! Agents: gRPC connections with one `BatchSender` stream each, paced or as fast as the readers.

use crate::feed::{Shape, Template};
use crate::reader::Reader;
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use transport::clock::unix_ns;
use transport::listener::Dialer;

/// How late a batch may leave and still be stamped with the time it left: Tokio's timers are
/// a millisecond coarse, which is not the pipeline's fault.
const ON_TIME: Duration = Duration::from_millis(2);

/// How often we look at the readers when they are too far behind.
const LOOK: Duration = Duration::from_millis(1);

/// How fast.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Envelopes per second over all connections, whatever becomes of those before.
    Rate {
        /// How many.
        per_second: u64,
        /// A batch that would leave later than this is lost here, as an agent's buffer loses it.
        patience: Option<Duration>,
    },
    /// As fast as every reader takes them: never more than this many envelopes ahead of the
    /// slowest.
    Ahead(u64),
}

/// What one agent did, in batches.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fed {
    /// Went out.
    pub(crate) sent: u64,
    /// Were lost before that: the Doppler did not take them in time.
    pub(crate) lost: u64,
}

/// What becomes of a batch.
enum Turn {
    /// It goes out, stamped with this time.
    Send(i64),
    /// It is too late for it.
    Lose,
    /// There are no more.
    Over,
}

/// What all agents know.
struct Feeding {
    dialer: Dialer,
    shape: Shape,
    pace: Pace,
    end: Instant,
    sent: AtomicU64,
    readers: Vec<Arc<Reader>>,
}

/// Sends for `time`, each connection its own round of batches; returns what each has done.
///
/// With a rate and no limit to patience everything due within `time` is sent, however late.
pub(crate) async fn run(
    dialer: Dialer,
    doppler: &str,
    shape: Shape,
    rounds: Vec<Vec<Template>>,
    pace: Pace,
    time: Duration,
    readers: Vec<Arc<Reader>>,
) -> Vec<Fed> {
    let feeding = Arc::new(Feeding {
        dialer,
        shape,
        pace,
        end: Instant::now() + time,
        sent: AtomicU64::new(0),
        readers,
    });
    let agents = rounds.into_iter();
    let agents =
        agents.map(|round| tokio::spawn(agent(feeding.clone(), doppler.to_owned(), round)));
    let agents: Vec<_> = agents.collect();
    let mut fed = Vec::new();
    for agent in agents {
        fed.push(agent.await.expect("an agent does not panic"));
    }
    fed
}

async fn agent(feeding: Arc<Feeding>, doppler: String, round: Vec<Template>) -> Fed {
    let stream = feeding.dialer.dial(&doppler).await;
    let stream = stream.expect("the Doppler takes connections");
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
    let mut fed = Fed::default();
    // Only what goes out takes a template, so that what each app is due can be worked out.
    let mut templates = round.iter().cycle();
    loop {
        let turn = match feeding.pace {
            Pace::Rate {
                per_second,
                patience,
            } => {
                let n = fed.sent + fed.lost;
                feeding.due(began, n, per_second, patience).await
            }
            Pace::Ahead(ahead) => feeding.within(ahead).await,
        };
        let stamp = match turn {
            Turn::Send(stamp) => stamp,
            Turn::Lose => {
                fed.lost += 1;
                continue;
            }
            Turn::Over => break,
        };
        let Some(template) = templates.next() else {
            break;
        };
        let message = template.stamped(stamp);
        if batches.send(Ok(Frame::data(message))).await.is_err() {
            break;
        }
        fed.sent += 1;
        let envelopes = feeding.shape.batch as u64;
        feeding.sent.fetch_add(envelopes, Ordering::Relaxed);
    }
    drop(batches);
    // The Doppler answers once it has read the whole stream.
    let _ = answer.await;
    connection.abort();
    fed
}

impl Feeding {
    /// Waits until this connection's batch number `n` is due, which is over if that is behind the
    /// end.
    ///
    /// A batch that leaves late has waited for the one before it, and so would its envelopes
    /// have: they are stamped with the time they were due, or a stall would be measured once
    /// instead of by everything it held up.
    async fn due(&self, began: Instant, n: u64, rate: u64, patience: Option<Duration>) -> Turn {
        let batches = rate as f64 / (self.shape.connections * self.shape.batch) as f64;
        let due = began + Duration::from_secs_f64(n as f64 / batches);
        if due >= self.end {
            return Turn::Over;
        }
        tokio::time::sleep_until(due).await;
        let late = due.elapsed();
        if patience.is_some_and(|patience| late > patience) {
            return Turn::Lose;
        }
        let held_up = if late > ON_TIME { late } else { Duration::ZERO };
        Turn::Send(unix_ns() - held_up.as_nanos() as i64)
    }

    /// Waits until the slowest reader is less than so many envelopes behind, or for the end.
    async fn within(&self, ahead: u64) -> Turn {
        loop {
            if Instant::now() >= self.end {
                return Turn::Over;
            }
            let slowest = self.readers.iter().map(|reader| reader.progress()).min();
            let most = slowest.unwrap_or(u64::MAX).saturating_add(ahead);
            if self.sent.load(Ordering::Relaxed) < most {
                return Turn::Send(unix_ns());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
