//! `cargo load`: what the pipeline costs, measured from outside.
//!
//! Starts a Doppler and a Traffic Controller as processes, mTLS and TLS on every hop, feeds
//! them and reads from them, and prints one line of JSON: rates, loss, latency, and for each
//! process its CPU seconds per million envelopes and its peak memory. The CPU counted is that
//! between the first and the last envelope. Everything is on loopback and ends by itself.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that goes wrong should stop, and stdout is where its result goes"
)]

mod feed;
mod generator;
mod reader;

use clap::Parser;
use feed::{Mix, Shape, Tags, Template};
use generator::{Pace, Progress};
use harness::certs::Certs;
use harness::process::{Process, Usage};
use harness::{admin, binaries, eventually};
use reader::Reader;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use transport::listener::Dialer;
use transport::tls::{self, Identity, Roots};

/// Measures one run.
#[derive(Parser, Debug)]
struct Args {
    /// Envelopes per second; without it, as fast as the reader takes them.
    #[arg(long)]
    rate: Option<u64>,
    /// Without --rate: how many envelopes may be on their way.
    #[arg(long, default_value_t = 50_000)]
    ahead: u64,
    /// Seconds of feeding.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, value_enum, default_value = "min")]
    tags: Tags,
    #[arg(long, value_enum, default_value = "logs")]
    mix: Mix,
    /// Bytes of a log's payload.
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Agents' connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Apps the envelopes belong to.
    #[arg(long, default_value_t = 100)]
    apps: usize,
    /// Firehose subscriptions, differently named.
    #[arg(long, default_value_t = 1)]
    firehoses: usize,
    /// App tails, one per app.
    #[arg(long, default_value_t = 0)]
    tails: usize,
    /// Worker threads of each server; one per core if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Fail if any envelope was lost, or any account does not add up.
    #[arg(long)]
    lossless: bool,
    /// Fail if Doppler and Traffic Controller together use more CPU seconds per million.
    #[arg(long)]
    at_most: Option<f64>,
}

/// Everything that runs.
struct Bench {
    doppler: Process,
    controller: Process,
    ingress: SocketAddr,
    public: SocketAddr,
    doppler_admin: SocketAddr,
    controller_admin: SocketAddr,
    certs: Certs,
}

fn main() {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let ok = runtime.block_on(measure(&args));
    if !ok {
        std::process::exit(1);
    }
}

async fn measure(args: &Args) -> bool {
    let mut bench = Bench::start(args).await;
    let progress = Arc::new(Progress::default());
    let (firehoses, tails) = bench.read(args, &progress).await;

    let shape = Shape {
        mix: args.mix,
        tags: args.tags,
        payload: args.payload,
        apps: args.apps,
    };
    let pace = args.rate.map_or(Pace::Ahead(args.ahead), Pace::Rate);
    let before = bench.usage();
    let began = Instant::now();
    let end = began + Duration::from_secs(args.seconds);
    let dialer = bench.agent();
    let dopplers = [bench.ingress.to_string()];
    let sent = generator::run(dialer, &dopplers, args.connections, shape, pace, end, progress.clone()).await;
    let elapsed = began.elapsed();
    let (doppler, controller) = bench.settled(sent, &firehoses).await;
    let after = bench.usage();

    let received: Vec<u64> = counts(&firehoses);
    let tailed: u64 = counts(&tails).iter().sum();
    let mut latencies = Vec::new();
    for reader in firehoses.into_iter().chain(tails) {
        latencies.push(reader.latencies);
    }
    bench.doppler.terminate(Duration::from_secs(10)).await;
    bench.controller.terminate(Duration::from_secs(10)).await;
    let mut all = Vec::new();
    for samples in latencies {
        all.extend(samples.await.expect("a reader does not panic"));
    }
    all.sort_unstable();

    let million = sent as f64 / 1e6;
    let cpu = |n: usize| (after[n].cpu - before[n].cpu).as_secs_f64() / million;
    let both = cpu(0) + cpu(1);
    let imbalance = doppler.imbalance + controller.imbalance;
    let report = json!({
        "sent": sent,
        "seconds": round(elapsed.as_secs_f64()),
        "envelopes_per_second": (sent as f64 / elapsed.as_secs_f64()) as u64,
        "bytes_per_envelope": Template::new(shape, 0).envelope_bytes(),
        "received": received,
        "received_by_tails": tailed,
        "dropped": doppler.dropped + controller.dropped,
        "imbalance": imbalance,
        "cpu_seconds_per_million": {
            "doppler": round(cpu(0)),
            "traffic_controller": round(cpu(1)),
            "both": round(both),
        },
        "peak_mib": {
            "doppler": after[0].peak_resident >> 20,
            "traffic_controller": after[1].peak_resident >> 20,
        },
        "latency_ms": {
            "p50": percentile(&all, 0.5),
            "p99": percentile(&all, 0.99),
            "p99.9": percentile(&all, 0.999),
        },
    });
    println!("{report}");
    let lossless = received.iter().all(|count| *count >= sent) && doppler.dropped + controller.dropped == 0;
    (lossless || !args.lossless) && (imbalance == 0 || !args.lossless) && args.at_most.is_none_or(|most| both <= most)
}

/// What a process says of itself.
struct Sums {
    sent: u64,
    queued: u64,
    dropped: u64,
    imbalance: u128,
}

impl Bench {
    async fn start(args: &Args) -> Bench {
        let certs = Certs::new();
        let threads = args.threads.map(|n| format!("--worker-threads={n}"));
        let file = |flag: &str, path: std::path::PathBuf| format!("--{flag}={}", path.display());
        let (doppler, tc, public) = (certs.pair("doppler"), certs.pair("trafficcontroller"), certs.pair("localhost"));
        let mut arguments = vec![
            "--port=0".to_owned(),
            "--address=127.0.0.1".to_owned(),
            file("cert-file", doppler.cert),
            file("key-file", doppler.key),
            file("ca-file", certs.ca()),
        ];
        arguments.extend(threads.clone());
        let mut doppler = Process::start("doppler", &binaries::doppler(), &arguments);
        let ingress = doppler.bound("grpc bound to: ").await;
        let doppler_admin = doppler.bound("pprof bound to: ").await;

        let mut arguments = vec![
            "--port=0".to_owned(),
            "--address=127.0.0.1".to_owned(),
            format!("--router-addrs={ingress}"),
            file("outgoing-cert-file", public.cert),
            file("outgoing-key-file", public.key),
            file("router-cert-file", tc.cert),
            file("router-key-file", tc.key),
            file("router-ca-file", certs.ca()),
            "--max-streams=30000".to_owned(),
        ];
        arguments.extend(threads);
        let mut controller = Process::start("traffic-controller", &binaries::traffic_controller(), &arguments);
        let public = controller.bound("ws bound to: ").await;
        let controller_admin = controller.bound("pprof bound to: ").await;
        Bench {
            doppler,
            controller,
            ingress,
            public,
            doppler_admin,
            controller_admin,
            certs,
        }
    }

    /// How agents connect.
    fn agent(&self) -> Dialer {
        let pair = self.certs.pair("metron");
        let identity = Identity {
            cert: pair.cert,
            key: pair.key,
        };
        let config = tls::client(Roots::Ca(&self.certs.ca()), Some(&identity), &[tls::H2]).expect("certificates");
        Dialer::new(Some((config, tls::server_name("doppler").expect("a name"))), Duration::from_secs(10))
    }

    /// Opens all streams and waits until the Doppler knows them.
    async fn read(&self, args: &Args, progress: &Arc<Progress>) -> (Vec<Reader>, Vec<Reader>) {
        let config = tls::client(Roots::Ca(&self.certs.ca()), None, &[tls::HTTP_1_1]).expect("certificates");
        let name = tls::server_name("localhost").expect("a name");
        let dialer = Dialer::new(Some((config, name)), Duration::from_secs(30));
        let address = self.public.to_string();
        let (mut firehoses, mut tails) = (Vec::new(), Vec::new());
        for n in 0..args.firehoses {
            let progress = (n == 0).then(|| progress.clone());
            firehoses.push(reader::open(&dialer, &address, &format!("/firehose/load-{n}"), progress).await);
        }
        for n in 0..args.tails {
            let path = format!("/apps/{}/stream", feed::app(n % args.apps));
            tails.push(reader::open(&dialer, &address, &path, None).await);
        }
        let wanted = args.firehoses + args.tails.min(args.apps);
        let admin = self.doppler_admin;
        eventually(Duration::from_secs(60), "the Doppler knows all streams", || async move {
            admin::subscriptions(admin).await.subscriptions.len() == wanted
        })
        .await;
        (firehoses, tails)
    }

    /// Waits until everything that was sent is received or lost; returns the processes' sums.
    async fn settled(&mut self, sent: u64, firehoses: &[Reader]) -> (Sums, Sums) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let doppler = sums(self.doppler_admin).await;
            let controller = sums(self.controller_admin).await;
            let received: u64 = counts(firehoses).iter().sum();
            let all = sent * firehoses.len() as u64;
            let quiet = doppler.queued + controller.queued == 0 && controller.sent >= received;
            if quiet && received + doppler.dropped + controller.dropped >= all || Instant::now() > end {
                return (doppler, controller);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn usage(&self) -> [Usage; 2] {
        [self.doppler.usage(), self.controller.usage()]
    }
}

fn counts(readers: &[Reader]) -> Vec<u64> {
    readers.iter().map(|reader| reader.counted.received.load(Ordering::Relaxed)).collect()
}

/// Adds up the page `/subscriptions`.
async fn sums(admin: SocketAddr) -> Sums {
    let page = admin::subscriptions(admin).await;
    let sum = page.sum();
    let imbalances = page.subscriptions.iter().map(|open| open.account.imbalance().unsigned_abs());
    Sums {
        sent: sum.sent,
        queued: sum.queued,
        dropped: sum.lost(),
        imbalance: imbalances.sum::<u128>(),
    }
}

/// In milliseconds, of sorted microseconds.
fn percentile(sorted: &[u32], of: f64) -> f64 {
    let at = ((sorted.len().saturating_sub(1)) as f64 * of) as usize;
    round(f64::from(sorted.get(at).copied().unwrap_or(0)) / 1e3)
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
