//! Clients: those that count the generator's envelopes and how old the first of each run is, and
//! those that disturb them.

use crate::feed;
use futures::StreamExt;
use http::{Request, StatusCode};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use transport::clock::unix_ns;
use transport::frame;
use transport::listener::{Dialer, Stream};
use transport::websocket::upgrade::{self, ConnectError};
use transport::websocket::{Incoming, Options, Socket};

/// How many connect at a time.
const AT_ONCE: usize = 32;

/// On loopback, readers come from 127.0.0.1, 127.0.0.2 and so on, so many from each: the kernel looks long for a
/// free port where half of those of one address are taken, and that would be measured, too.
const FROM_ONE_ADDRESS: usize = 4_000;

/// How long a stalled reader holds on before it opens another stream: a server gives up on it
/// within that time.
const STALL: Duration = Duration::from_secs(35);

/// What a slow reader waits between two reads.
const DAWDLE: Duration = Duration::from_millis(100);

/// How long a churning reader stays.
const STAY: Duration = Duration::from_secs(1);

/// Who reads. Firehoses and tails are counted on; the further ones are there to disturb.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    /// Firehose subscriptions, differently named.
    #[arg(long, default_value_t = 1)]
    pub(crate) firehoses: usize,
    /// App tails, going round the apps.
    #[arg(long, default_value_t = 0)]
    pub(crate) tails: usize,
    /// Firehoses and tails decode every envelope, as nozzles do, instead of counting them.
    #[arg(long)]
    decode: bool,
    /// Further firehoses that read nothing.
    #[arg(long, default_value_t = 0)]
    pub(crate) stalled: usize,
    /// Further firehoses that read a buffer every 100 ms.
    #[arg(long, default_value_t = 0)]
    pub(crate) slow: usize,
    /// Further firehoses that hang up after a second and come back, again and again.
    #[arg(long, default_value_t = 0)]
    pub(crate) churning: usize,
}

/// What a reader has counted so far.
pub(crate) struct Reader {
    /// Of which app; `None` for a firehose.
    pub(crate) app: Option<usize>,
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

/// All that are counted on, and open.
pub(crate) struct Readers {
    /// Firehoses first.
    pub(crate) open: Vec<Arc<Reader>>,
    /// How many were refused.
    pub(crate) refused: usize,
    ages: Vec<JoinHandle<Vec<Age>>>,
}

impl Readers {
    /// Opens them at that Traffic Controller. Each tail is of the next app, whose share of all
    /// envelopes is known. They hang up after `time`.
    pub(crate) async fn open(
        dialer: &Dialer,
        address: &str,
        args: &Args,
        shares: &[f64],
        time: Duration,
    ) -> Readers {
        let until = Instant::now() + time;
        let firehoses = (0..args.firehoses).map(|n| (format!("/firehose/load-{n}"), None, 1.0));
        let tails = (0..args.tails).map(|n| n % shares.len());
        let tails = tails.map(|n| (format!("/apps/{}/stream", feed::app(n)), Some(n), shares[n]));
        let dialer = |n: usize| {
            let from = Ipv4Addr::new(127, 0, 0, (1 + n / FROM_ONE_ADDRESS) as u8);
            Dialer {
                from: address.starts_with("127.").then_some(from.into()),
                ..dialer.clone()
            }
        };
        let all = firehoses.chain(tails).enumerate();
        let opening = all.map(|(n, (path, app, share))| (dialer(n), path, app, share));
        let opening = opening.map(|(dialer, path, app, share)| async move {
            let reader = Arc::new(Reader {
                app,
                share,
                received: AtomicU64::new(0),
                last_ns: AtomicI64::new(0),
            });
            let socket = connect(&dialer, address, &path).await?;
            let ages = tokio::spawn(read(socket, reader.clone(), args.decode, until));
            Some((reader, ages))
        });
        let opened: Vec<_> = futures::stream::iter(opening)
            .buffered(AT_ONCE)
            .collect()
            .await;
        let asked = opened.len();
        let (open, ages): (Vec<_>, Vec<_>) = opened.into_iter().flatten().unzip();
        Readers {
            refused: asked - open.len(),
            open,
            ages,
        }
    }

    /// Their ages, once all streams have ended.
    pub(crate) async fn ages(self) -> Vec<Age> {
        let mut all = Vec::new();
        for ages in self.ages {
            all.extend(ages.await.expect("a reader does not panic"));
        }
        all
    }
}

impl Args {
    /// How many subscriptions a Doppler knows once all are open, at least.
    pub(crate) fn subscriptions(&self, apps: usize) -> usize {
        let others = self.stalled + self.slow + self.churning;
        self.firehoses + self.tails.min(apps) + others
    }

    /// Whether there are readers that do not keep up, and so loss.
    pub(crate) fn disturbed(&self) -> bool {
        self.stalled + self.slow + self.churning > 0
    }

    /// Opens the others, which go on until the set is dropped.
    pub(crate) fn disturb(&self, dialer: &Dialer, address: &str) -> JoinSet<()> {
        let kinds = [
            (Manner::Stalled, self.stalled),
            (Manner::Slow, self.slow),
            (Manner::Churning, self.churning),
        ];
        let mut others = JoinSet::new();
        for (manner, count) in kinds {
            for n in 0..count {
                let path = format!("/firehose/{manner:?}-{n}");
                others.spawn(disturb(manner, dialer.clone(), address.to_owned(), path));
            }
        }
        others
    }
}

/// How a reader fails to keep up.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Stalled,
    Slow,
    Churning,
}

/// One firehose that does not keep up. When it is closed for that it comes back, as nozzles do.
async fn disturb(manner: Manner, dialer: Dialer, address: String, path: String) {
    while let Some(mut socket) = connect(&dialer, &address, &path).await {
        match manner {
            Manner::Stalled => tokio::time::sleep(STALL).await,
            Manner::Slow => {
                while socket.next().await.is_ok() {
                    tokio::time::sleep(DAWDLE).await;
                }
            }
            Manner::Churning => {
                let reading = async { while socket.next().await.is_ok() {} };
                let _ = tokio::time::timeout(STAY, reading).await;
            }
        }
    }
}

/// Counts what comes until the stream ends; the ages come then.
///
/// Only the generator's envelopes count, not what the Doppler says of itself and not its
/// notices of losses. The age of a run is that of its first envelope, and counts for all of
/// them: those behind it are no older, unless they came over another connection.
async fn read(
    mut socket: Socket<Stream>,
    reader: Arc<Reader>,
    decode: bool,
    until: Instant,
) -> Vec<Age> {
    let mut ages = Vec::new();
    let reading = async {
        while let Ok(Incoming::Frames { run, .. }) = socket.next().await {
            ages.extend(reader.count(&run, decode));
        }
    };
    let _ = tokio::time::timeout_at(until, reading).await;
    ages
}

impl Reader {
    /// Counts the generator's envelopes among these frames; `None` if there are none.
    fn count(&self, run: &[u8], decode: bool) -> Option<Age> {
        let now_ns = unix_ns();
        let mut ours = frame::frames(run).filter_map(ours).inspect(|envelope| {
            if decode {
                let decoded = proto::v1::decode(envelope);
                std::hint::black_box(decoded.expect("what comes is an envelope"));
            }
        });
        let stamp = timestamp(ours.next()?).expect("the generator stamps every envelope");
        let envelopes = 1 + ours.count();
        self.last_ns.store(now_ns, Ordering::Relaxed);
        self.received.fetch_add(envelopes as u64, Ordering::Release);
        Some(Age {
            micros: ((now_ns - stamp).max(0) / 1_000) as u32,
            envelopes: envelopes as u32,
        })
    }

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

/// `None` if the stream is refused: this many are too many.
async fn connect(dialer: &Dialer, address: &str, path: &str) -> Option<Socket<Stream>> {
    let stream = dialer.dial(address).await;
    let stream = stream.expect("the Traffic Controller takes connections");
    let request = Request::get(path)
        .header("host", address)
        .header("authorization", "bearer load")
        .body(())
        .expect("a request");
    let deadline = Instant::now() + Duration::from_secs(10);
    let (stream, read, _) = match upgrade::connect(stream, request, deadline).await {
        Ok(upgraded) => upgraded,
        Err(ConnectError::Refused { status, .. }) if status == StatusCode::SERVICE_UNAVAILABLE => {
            return None;
        }
        Err(error) => panic!("{path}: {error}"),
    };
    Some(Socket::new(stream, read, Options::client()))
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
