//! Agents: gRPC connections with one `BatchSender` stream each, paced or as fast as the readers.

use crate::feed::{MAX_BATCH, Mix, Shape, Tags, Template};
use crate::reader::Reader;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use transport::clock::unix_ns;
use transport::listener::Dialer;

/// How late a batch may leave and still be stamped with the time it left: Tokio's timers are
/// a millisecond coarse, which is not the pipeline's fault.
const ON_TIME: Duration = Duration::from_millis(2);

/// How often we look at the readers when they are too far behind.
const LOOK: Duration = Duration::from_millis(1);

/// When the slowest reader has got nothing for so long, what it has not got will not come: a
/// closed loop would wait for ever for what a peer lost.
const WRITTEN_OFF: Duration = Duration::from_secs(1);

/// How many connect at a time.
const AT_ONCE: usize = 32;

/// What agents send, and how fast.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    /// Envelopes per second; without it, as fast as the slowest reader takes them.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// With --rate: an agent loses a batch that would leave so many milliseconds late, as its
    /// buffer would; without this, all leave, however late.
    #[arg(long, value_name = "MS", requires = "rate")]
    patience: Option<u64>,
    /// Without --rate: how many envelopes may be on their way to the slowest reader [default: as
    /// many as the Doppler can hold].
    #[arg(long)]
    ahead: Option<u64>,
    /// Seconds of feeding.
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u64,
    #[arg(long, value_enum, default_value = "min")]
    tags: Tags,
    #[arg(long, value_enum, default_value = "logs")]
    mix: Mix,
    /// Bytes of a log's payload.
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Envelopes in a batch, 1 to 100. A Doppler gathers small ones before it passes them on.
    #[arg(long, default_value_t = MAX_BATCH as u8, value_parser = clap::value_parser!(u8).range(1..=MAX_BATCH as i64))]
    batch: u8,
    /// Agents' connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Apps the envelopes belong to.
    #[arg(long, default_value_t = 100)]
    pub(crate) apps: usize,
}

impl Args {
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            mix: self.mix,
            tags: self.tags,
            payload: self.payload,
            apps: self.apps,
            batch: self.batch.into(),
            connections: self.connections,
        }
    }

    /// How fast, if so many envelopes have room on their way.
    pub(crate) fn pace(&self, room: u64) -> Pace {
        match self.rate {
            Some(per_second) => Pace::Rate {
                per_second,
                patience: self.patience.map(Duration::from_millis),
            },
            None => Pace::Ahead(self.ahead.unwrap_or(room)),
        }
    }
}

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

/// An agent that is connected and sends nothing yet.
struct Agent {
    /// What it sends, round and round.
    round: Arc<Vec<Template>>,
    batches: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    /// The Doppler answers once it has read the whole stream.
    answer: JoinHandle<()>,
    connection: JoinHandle<()>,
}

/// Agents, connected.
pub(crate) struct Agents {
    agents: Vec<Agent>,
    shape: Shape,
}

/// What all agents know while they send.
struct Feeding {
    shape: Shape,
    pace: Pace,
    end: Instant,
    sent: AtomicU64,
    readers: Vec<Arc<Reader>>,
    /// How many of those sent a reader will never get.
    written_off: AtomicU64,
}

impl Agents {
    /// Connects them, each to the next Doppler and with the next of these rounds.
    pub(crate) async fn connect(
        dialer: &Dialer,
        dopplers: &[SocketAddr],
        shape: Shape,
        rounds: &[Arc<Vec<Template>>],
    ) -> Agents {
        let agents = (0..shape.connections).map(|n| {
            let doppler = dopplers[n % dopplers.len()].to_string();
            Agent::connect(dialer, doppler, rounds[n % rounds.len()].clone())
        });
        let agents = futures::stream::iter(agents).buffered(AT_ONCE);
        Agents {
            agents: agents.collect().await,
            shape,
        }
    }

    /// Sends for `time`; returns what each has done.
    ///
    /// With a rate and no limit to patience everything due within `time` is sent, however late.
    pub(crate) async fn feed(
        self,
        pace: Pace,
        time: Duration,
        readers: Vec<Arc<Reader>>,
    ) -> Vec<Fed> {
        let feeding = Arc::new(Feeding {
            shape: self.shape,
            pace,
            end: Instant::now() + time,
            sent: AtomicU64::new(0),
            readers,
            written_off: AtomicU64::new(0),
        });
        let agents = self.agents.into_iter().enumerate();
        let agents = agents.map(|(n, agent)| tokio::spawn(agent.feed(n, feeding.clone())));
        let agents: Vec<_> = agents.collect();
        let mut fed = Vec::new();
        for agent in agents {
            fed.push(agent.await.expect("an agent does not panic"));
        }
        fed
    }
}

impl Agent {
    async fn connect(dialer: &Dialer, doppler: String, round: Arc<Vec<Template>>) -> Agent {
        let stream = dialer.dial(&doppler).await;
        let stream = stream.expect("the Doppler takes connections");
        let (mut sender, connection) =
            hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .max_send_buf_size(1 << 20)
                .handshake(TokioIo::new(stream))
                .await
                .expect("the Doppler speaks HTTP/2");
        let connection = tokio::spawn(async move { drop(connection.await) });
        // Two batches: what is stamped is soon on the wire.
        let (batches, body) = mpsc::channel(2);
        let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
        let request = http::Request::post("http://doppler/loggregator.v2.Ingress/BatchSender")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .expect("a request");
        let answer = tokio::spawn(async move { drop(sender.send_request(request).await) });
        Agent {
            round,
            batches,
            answer,
            connection,
        }
    }

    /// Sends as number `n` of all agents.
    async fn feed(self, n: usize, feeding: Arc<Feeding>) -> Fed {
        let began = Instant::now();
        let mut fed = Fed::default();
        // Only what goes out takes a template, so that what each app is due can be worked out.
        let mut templates = self.round.iter().cycle();
        loop {
            let turn = match feeding.pace {
                Pace::Rate {
                    per_second,
                    patience,
                } => {
                    // One after the other, not all at once.
                    let offset = n as f64 / feeding.shape.connections as f64;
                    let batch = (fed.sent + fed.lost) as f64 + offset;
                    feeding.due(began, batch, per_second, patience).await
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
            if self.batches.send(Ok(Frame::data(message))).await.is_err() {
                break;
            }
            fed.sent += 1;
            let envelopes = feeding.shape.batch as u64;
            feeding.sent.fetch_add(envelopes, Ordering::Relaxed);
        }
        drop(self.batches);
        let _ = self.answer.await;
        self.connection.abort();
        fed
    }
}

impl Feeding {
    /// Waits until a connection's batch number `n` is due, which is over if that is behind the
    /// end.
    ///
    /// A batch that leaves late has waited for the one before it, and so would its envelopes
    /// have: they are stamped with the time they were due, or a stall would be measured once
    /// instead of by everything it held up.
    async fn due(&self, began: Instant, n: f64, rate: u64, patience: Option<Duration>) -> Turn {
        let batches = rate as f64 / (self.shape.connections * self.shape.batch) as f64;
        let due = began + Duration::from_secs_f64(n / batches);
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
        let (mut before, mut moved) = (0, Instant::now());
        loop {
            if Instant::now() >= self.end {
                return Turn::Over;
            }
            let slowest = self.readers.iter().map(|reader| reader.progress()).min();
            let slowest = slowest.unwrap_or(u64::MAX);
            let sent = self.sent.load(Ordering::Relaxed);
            let settled = slowest.saturating_add(self.written_off.load(Ordering::Relaxed));
            if sent < settled.saturating_add(ahead) {
                return Turn::Send(unix_ns());
            }
            if slowest != before {
                (before, moved) = (slowest, Instant::now());
            } else if moved.elapsed() >= WRITTEN_OFF {
                let lost = sent - slowest.min(sent);
                self.written_off.fetch_max(lost, Ordering::Relaxed);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
