//! What the work costs that nobody can leave out: the bytes through TLS over two hops, and each
//! envelope from v2 to v1.
//!
//! The hops are two processes of this program that read 64 KiB and write them, nothing else; the
//! conversion is `proto`'s, in a loop on one thread. There is no HTTP/2, no routing, no
//! scheduling of many readers and no accounting in it.

use crate::feed::Template;
use crate::report::round;
use crate::{generator, peer};
use harness::certs::Certs;
use harness::process::{self, Process};
use proto::transcode::{V1Sink, View};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use transport::frame::Frames;
use transport::listener::{Acceptor, Stream};
use transport::tls::{self, Identity};

/// Read and written at once.
const AT_ONCE: usize = 64 << 10;

/// How long the conversion is measured.
const CONVERTING: Duration = Duration::from_secs(1);

/// What to move and convert: as for a run. Nothing is paced.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    feed: generator::Args,
}

/// One hop.
#[derive(clap::Args, Debug)]
pub(crate) struct Relay {
    /// Where everything goes.
    #[arg(long)]
    to: SocketAddr,
    /// The CA that signed everybody.
    #[arg(long)]
    ca: PathBuf,
    /// Our certificate.
    #[arg(long)]
    cert: PathBuf,
    /// Its key.
    #[arg(long)]
    key: PathBuf,
}

/// What it costs.
#[derive(Serialize, Deserialize)]
pub(crate) struct Roofline {
    pub(crate) bytes_per_envelope: usize,
    /// How many envelopes' bytes come through, source and sink on the same cores.
    pub(crate) envelopes_per_second: u64,
    pub(crate) megabytes_per_second: u64,
    pub(crate) cpu_seconds_per_million: Cpu,
}

/// CPU seconds per million envelopes.
#[derive(Serialize, Deserialize)]
pub(crate) struct Cpu {
    pub(crate) two_hops: f64,
    pub(crate) conversion: f64,
    pub(crate) both: f64,
}

/// Measures both, one after the other.
pub(crate) async fn measure(args: &Args) -> Roofline {
    let shape = args.feed.shape();
    let round_of = &shape.rounds()[0];
    let bytes_per_envelope = shape.envelope_bytes(round_of);
    let conversion = tokio::task::block_in_place(|| convert(round_of, shape.batch));
    let (bytes, cpu, took) = two_hops(round_of, Duration::from_secs(args.feed.seconds)).await;
    let envelopes = bytes as f64 / bytes_per_envelope as f64;
    let two_hops = cpu.as_secs_f64() / envelopes * 1e6;
    Roofline {
        bytes_per_envelope,
        envelopes_per_second: (envelopes / took.as_secs_f64()) as u64,
        megabytes_per_second: (bytes as f64 / took.as_secs_f64() / 1e6) as u64,
        cpu_seconds_per_million: Cpu {
            two_hops: round(two_hops),
            conversion: round(conversion),
            both: round(two_hops + conversion),
        },
    }
}

/// CPU seconds per million envelopes, from v2 to a framed v1.
fn convert(round: &[Template], batch: usize) -> f64 {
    let used = || process::usage(std::process::id()).unwrap_or_default().cpu;
    let (before, began) = (used(), Instant::now());
    let mut sink = Sink(Frames::new());
    let mut envelopes = 0;
    while began.elapsed() < CONVERTING {
        for template in round {
            for envelope in proto::batch::split(template.batch()) {
                let envelope = envelope.expect("a batch that we made");
                let view = View::parse(envelope).expect("an envelope that we made");
                view.to_v1(&mut sink).expect("an envelope that v1 can say");
            }
            std::hint::black_box(sink.0.bytes());
            sink.0.clear();
            envelopes += batch;
        }
    }
    (used() - before).as_secs_f64() / envelopes as f64 * 1e6
}

struct Sink(Frames);

impl V1Sink for Sink {
    fn begin(&mut self) -> &mut Vec<u8> {
        self.0.begin()
    }

    fn end(&mut self, log: bool, _: &[u8]) {
        self.0.end(log);
    }
}

/// Sends for `time` through two relays; returns how many bytes came, what CPU time the relays
/// used, and how long it took.
async fn two_hops(round: &[Template], time: Duration) -> (u64, Duration, Duration) {
    let certs = Certs::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("it is bound");
    let acceptor = acceptor(certs.pair("localhost").cert, certs.pair("localhost").key);
    let sink = tokio::spawn(async move { swallow(accept(&listener, &acceptor).await).await });
    let mut second = start_relay(&certs, at);
    let at = second.bound("relay bound to: ").await;
    let mut first = start_relay(&certs, at);
    let at = first.bound("relay bound to: ").await;

    let bytes: Vec<u8> = round.iter().flat_map(|it| it.batch()).copied().collect();
    let dialer = peer::client(&certs.ca(), "localhost");
    let mut source = dialer.dial(&at.to_string()).await.expect("a relay");
    let used = || first.usage().cpu + second.usage().cpu;
    let (before, began) = (used(), Instant::now());
    'sending: loop {
        for part in bytes.chunks(AT_ONCE) {
            if began.elapsed() >= time {
                break 'sending;
            }
            source.write_all(part).await.expect("the relays go on");
        }
    }
    let cpu = used() - before;
    source.shutdown().await.expect("the relays go on");
    let came = sink.await.expect("the sink does not panic");
    // What is under way when the clock stops is a few hundred KiB of gigabytes.
    (came, cpu, began.elapsed())
}

fn start_relay(certs: &Certs, to: SocketAddr) -> Process {
    let pair = certs.pair("localhost");
    let us = std::env::current_exe().expect("a process knows its file");
    let path = |path: PathBuf| path.display().to_string();
    let arguments = [
        "relay".to_owned(),
        format!("--to={to}"),
        format!("--ca={}", path(certs.ca())),
        format!("--cert={}", path(pair.cert)),
        format!("--key={}", path(pair.key)),
    ];
    Process::start("relay", &us, arguments)
}

/// Runs one hop: takes one connection, and passes on what comes, until it ends.
pub(crate) async fn relay(args: &Relay) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("it is bound");
    eprintln!("relay bound to: {at}");
    let acceptor = acceptor(args.cert.clone(), args.key.clone());
    let mut from = accept(&listener, &acceptor).await;
    let dialer = peer::client(&args.ca, "localhost");
    let mut to = dialer.dial(&args.to.to_string()).await.expect("a hop");
    let mut bytes = vec![0; AT_ONCE];
    loop {
        match from.read(&mut bytes).await {
            Ok(0) | Err(_) => break,
            Ok(n) => to.write_all(&bytes[..n]).await.expect("the next hop"),
        }
    }
    let _ = to.shutdown().await;
    // The process stays: what it has used is read from outside.
    std::future::pending().await
}

fn acceptor(cert: PathBuf, key: PathBuf) -> Acceptor {
    let config = tls::server(&Identity { cert, key }, None, &[tls::HTTP_1_1]);
    Acceptor::new(Some(config.expect("certificates").into()))
}

async fn accept(listener: &TcpListener, acceptor: &Acceptor) -> Stream {
    let (tcp, peer) = listener.accept().await.expect("a connection");
    acceptor.accept(tcp, peer).await.expect("TLS")
}

/// Reads to the end; returns how many bytes came.
async fn swallow(mut stream: Stream) -> u64 {
    let mut bytes = vec![0; AT_ONCE];
    let mut came = 0;
    while let Ok(n @ 1..) = stream.read(&mut bytes).await {
        came += n as u64;
    }
    came
}
