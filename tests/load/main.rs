//! `cargo load`: what the pipeline costs, measured from outside.
//!
//! Starts a Doppler and a Traffic Controller as processes, mTLS and TLS on every hop, feeds
//! them and reads from them, and prints one line of JSON, a [`Report`]: rates, loss, latency,
//! and for each process its CPU seconds per million envelopes and its peak memory. The CPU
//! counted is that between the first and the last envelope: the processes' pages are asked
//! for before and after. Everything is on loopback and ends by itself.

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
use feed::{MAX_BATCH, Mix, Shape, Tags};
use generator::Pace;
use harness::certs::Certs;
use harness::process::{Process, Usage};
use harness::{admin, binaries, eventually};
use reader::{Age, Reader};
use serde::Serialize;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use transport::clock::unix_ns;
use transport::listener::Dialer;
use transport::tls::{self, Identity, Roots};

/// How long after the feed has ended the readers may take over what is on its way.
const DRAIN: Duration = Duration::from_secs(30);

/// When nothing has come to any reader for so long, nothing will: the rest is lost.
const QUIET: Duration = Duration::from_secs(2);

/// How often we look whether everything has come.
const LOOK: Duration = Duration::from_millis(5);

/// How long the processes' pages may take to add up: a Doppler reports to its links every
/// 100 ms.
const ADD_UP: Duration = Duration::from_secs(2);

/// Measures one run.
#[derive(Parser, Debug)]
struct Args {
    /// Envelopes per second; without it, as fast as the slowest reader takes them.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// With --rate: an agent loses a batch that would leave so many milliseconds late, as its
    /// buffer would; without this, all leave, however late.
    #[arg(long, value_name = "MS", requires = "rate")]
    patience: Option<u64>,
    /// Without --rate: how many envelopes may be on their way to the slowest reader.
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
    /// Envelopes in a batch, 1 to 100. A Doppler gathers small ones before it passes them on.
    #[arg(long, default_value_t = MAX_BATCH as u8, value_parser = clap::value_parser!(u8).range(1..=MAX_BATCH as i64))]
    batch: u8,
    /// Agents' connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Apps the envelopes belong to.
    #[arg(long, default_value_t = 100)]
    apps: usize,
    /// Firehose subscriptions, differently named.
    #[arg(long, default_value_t = 1)]
    firehoses: usize,
    /// App tails, going round the apps.
    #[arg(long, default_value_t = 0)]
    tails: usize,
    /// Worker threads of each server; one per core if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Fail if any reader has not exactly what it is due, or any account does not add up.
    #[arg(long)]
    lossless: bool,
    /// Fail if Doppler and Traffic Controller together use more CPU seconds per million.
    #[arg(long)]
    at_most: Option<f64>,
}

/// What a run has shown.
#[derive(Serialize, Default)]
struct Report {
    /// Envelopes that the generator sent.
    sent: u64,
    /// Envelopes that the generator lost because the Doppler did not take them in time.
    lost_at_generator: u64,
    /// From the start of the feed until the last one came to a reader; with no readers, until the
    /// Doppler had taken the last.
    seconds: f64,
    /// `sent` over `seconds`.
    envelopes_per_second: u64,
    /// Bytes of an envelope as sent, on average.
    bytes_per_envelope: usize,
    /// What each firehose received of the generator's envelopes. It is due all that were sent.
    received: Vec<u64>,
    /// What all app tails together received of them.
    received_by_tails: u64,
    /// What they were due: every tail its app's logs and HTTP timers.
    expected_by_tails: u64,
    /// How many readers, firehoses and tails, have not exactly what they are due.
    readers_off: usize,
    /// What Doppler and Traffic Controller say they lost. May include envelopes that the
    /// Doppler sends about itself; one envelope lost to two readers is lost twice.
    dropped: u64,
    /// What both ends of the links between them disagree by: sent and never received.
    hop_gaps: u64,
    /// By how much the processes' accounts do not add up.
    imbalance: u64,
    /// CPU per million envelopes sent, user and kernel.
    cpu_seconds_per_million: Cpu,
    /// The most memory that was resident, since the start, in MiB.
    peak_mib: Peak,
    /// From the time an envelope left the generator, or was due to leave with a rate, to the
    /// time its reader read it; over all envelopes of all readers.
    latency_ms: Latency,
    /// What makes this run a failure; empty in a good one.
    failures: Vec<String>,
}

/// CPU seconds per million envelopes.
#[derive(Serialize, Default)]
struct Cpu {
    /// The Doppler's.
    doppler: f64,
    /// The Traffic Controller's.
    traffic_controller: f64,
    /// Their sum.
    both: f64,
}

/// Resident memory in MiB.
#[derive(Serialize, Default)]
struct Peak {
    /// The Doppler's.
    doppler: u64,
    /// The Traffic Controller's.
    traffic_controller: u64,
}

/// In milliseconds. Every envelope of a run counts as old as the oldest, so these are upper
/// bounds.
#[derive(Serialize, Default)]
struct Latency {
    /// Half of the envelopes were no older.
    p50: f64,
    /// 99 % were no older.
    p99: f64,
    /// 99.9 % were no older.
    #[serde(rename = "p99.9")]
    p99_9: f64,
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

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let report = runtime.block_on(measure(&args));
    println!(
        "{}",
        serde_json::to_string(&report).expect("numbers and text")
    );
    match report.failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

async fn measure(args: &Args) -> Report {
    let shape = Shape {
        mix: args.mix,
        tags: args.tags,
        payload: args.payload,
        apps: args.apps,
        batch: args.batch.into(),
        connections: args.connections,
    };
    let mut bench = Bench::start(args).await;
    let (readers, ages) = bench.read(args, shape).await;

    let patience = args.patience.map(Duration::from_millis);
    let pace = match args.rate {
        Some(per_second) => Pace::Rate {
            per_second,
            patience,
        },
        None => Pace::Ahead(args.ahead),
    };
    let time = Duration::from_secs(args.seconds);
    let rounds = (0..shape.connections).map(|n| shape.round(n)).collect();
    let before = bench.usage();
    let began_ns = unix_ns();
    let fed = generator::run(
        bench.agent(),
        &bench.ingress.to_string(),
        shape,
        rounds,
        pace,
        time,
        readers.clone(),
    )
    .await;
    let fed_ns = unix_ns();
    let batches: Vec<u64> = fed.iter().map(|fed| fed.sent).collect();
    let envelopes = |batches: u64| batches * shape.batch as u64;
    let sent = envelopes(batches.iter().sum());
    let by_app = shape.due_by_app(&batches);
    let tails = (0..args.tails).map(|n| by_app[n % args.apps]);
    let due: Vec<u64> = std::iter::repeat_n(sent, args.firehoses)
        .chain(tails)
        .collect();
    let settled = settled(&readers, &due).await;
    let after = bench.usage();

    let says = bench.says().await;
    bench.doppler.terminate(Duration::from_secs(10)).await;
    bench.controller.terminate(Duration::from_secs(10)).await;
    let mut all = Vec::new();
    for ages in ages {
        all.extend(ages.await.expect("a reader does not panic"));
    }

    let received: Vec<u64> = readers.iter().map(|reader| reader.received()).collect();
    let last_ns = readers
        .iter()
        .map(|reader| reader.last_ns())
        .max()
        .unwrap_or(fed_ns);
    let seconds = (last_ns - began_ns).max(1) as f64 / 1e9;
    let million = sent as f64 / 1e6;
    let cpu = |n: usize| (after[n].cpu - before[n].cpu).as_secs_f64() / million;
    let mut report = Report {
        sent,
        lost_at_generator: envelopes(fed.iter().map(|fed| fed.lost).sum()),
        seconds: round(seconds),
        envelopes_per_second: (sent as f64 / seconds) as u64,
        bytes_per_envelope: shape.envelope_bytes(),
        received: received[..args.firehoses].to_vec(),
        received_by_tails: received[args.firehoses..].iter().sum(),
        expected_by_tails: due[args.firehoses..].iter().sum(),
        readers_off: received
            .iter()
            .zip(&due)
            .filter(|(received, due)| received != due)
            .count(),
        dropped: says.dropped,
        hop_gaps: says.gaps,
        imbalance: says.imbalance,
        cpu_seconds_per_million: Cpu {
            doppler: round(cpu(0)),
            traffic_controller: round(cpu(1)),
            both: round(cpu(0) + cpu(1)),
        },
        peak_mib: Peak {
            doppler: after[0].peak_resident >> 20,
            traffic_controller: after[1].peak_resident >> 20,
        },
        latency_ms: Latency::of(all),
        failures: Vec::new(),
    };
    if !settled {
        report.failures.push(format!(
            "envelopes were still coming {DRAIN:?} after the last was sent"
        ));
    }
    if says.queued > 0 {
        report.failures.push(format!(
            "nothing comes any more, and {} envelopes still wait",
            says.queued
        ));
    }
    if args.lossless && report.readers_off > 0 {
        report.failures.push(format!(
            "{} readers have not what they are due",
            report.readers_off
        ));
    }
    if args.lossless && says.dropped + says.gaps + says.imbalance > 0 {
        report
            .failures
            .push("something was dropped, or does not add up".to_owned());
    }
    if let Some(most) = args
        .at_most
        .filter(|most| report.cpu_seconds_per_million.both > *most)
    {
        report
            .failures
            .push(format!("more than {most} CPU seconds per million"));
    }
    report
}

/// Waits until every reader has what it is due, or nothing comes any more; `false` if that
/// takes too long.
async fn settled(readers: &[Arc<Reader>], due: &[u64]) -> bool {
    let end = Instant::now() + DRAIN;
    let (mut before, mut moved) = (0, Instant::now());
    while Instant::now() < end {
        let received = || readers.iter().map(|reader| reader.received());
        if received().zip(due).all(|(received, due)| received >= *due) {
            return true;
        }
        let now = received().sum::<u64>();
        if now != before {
            (before, moved) = (now, Instant::now());
        } else if moved.elapsed() >= QUIET {
            return true;
        }
        tokio::time::sleep(LOOK).await;
    }
    false
}

/// What the processes say of themselves, added up.
#[derive(Clone, Copy, Default)]
struct Says {
    queued: u64,
    dropped: u64,
    imbalance: u64,
    gaps: u64,
}

impl Bench {
    async fn start(args: &Args) -> Bench {
        let certs = Certs::new();
        let threads = args.threads.map(|n| format!("--worker-threads={n}"));
        let file = |flag: &str, path: std::path::PathBuf| format!("--{flag}={}", path.display());
        let (doppler, tc, public) = (
            certs.pair("doppler"),
            certs.pair("trafficcontroller"),
            certs.pair("localhost"),
        );
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
        let mut controller = Process::start(
            "traffic-controller",
            &binaries::traffic_controller(),
            &arguments,
        );
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
        let config = tls::client(Roots::Ca(&self.certs.ca()), Some(&identity), &[tls::H2])
            .expect("certificates");
        Dialer::new(
            Some((config.into(), tls::server_name("doppler").expect("a name"))),
            Duration::from_secs(10),
        )
    }

    /// Opens all streams, firehoses first, and waits until the Doppler knows them.
    async fn read(
        &self,
        args: &Args,
        shape: Shape,
    ) -> (Vec<Arc<Reader>>, Vec<JoinHandle<Vec<Age>>>) {
        let config =
            tls::client(Roots::Ca(&self.certs.ca()), None, &[tls::HTTP_1_1]).expect("certificates");
        let name = tls::server_name("localhost").expect("a name");
        let dialer = Dialer::new(Some((config.into(), name)), Duration::from_secs(30));
        let address = self.public.to_string();
        let shares = shape.shares();
        let firehoses = (0..args.firehoses).map(|n| (format!("/firehose/load-{n}"), 1.0));
        let tails = (0..args.tails).map(|n| n % args.apps);
        let tails = tails.map(|app| (format!("/apps/{}/stream", feed::app(app)), shares[app]));
        let (mut readers, mut ages) = (Vec::new(), Vec::new());
        for (path, share) in firehoses.chain(tails) {
            let (reader, aging) = reader::open(&dialer, &address, &path, share).await;
            readers.push(reader);
            ages.push(aging);
        }
        let wanted = args.firehoses + args.tails.min(args.apps);
        let admin = self.doppler_admin;
        eventually(
            Duration::from_secs(60),
            "the Doppler knows all streams",
            || async move { admin::subscriptions(admin).await.subscriptions.len() == wanted },
        )
        .await;
        (readers, ages)
    }

    /// What the processes say once nothing moves any more and they have told each other.
    async fn says(&self) -> Says {
        let (doppler, controller) = (self.doppler_admin, self.controller_admin);
        let end = Instant::now() + ADD_UP;
        loop {
            let pages = [
                admin::subscriptions(doppler).await,
                admin::subscriptions(controller).await,
            ];
            let says = Says::of(&pages);
            if says.queued + says.imbalance + says.gaps == 0 || Instant::now() >= end {
                return says;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn usage(&self) -> [Usage; 2] {
        [self.doppler.usage(), self.controller.usage()]
    }
}

impl Says {
    fn of(pages: &[admin::Page]) -> Says {
        let mut says = Says::default();
        for page in pages {
            let sum = page.sum();
            says.queued += sum.queued;
            says.dropped += sum.lost();
            let open = &page.subscriptions;
            let imbalances = open.iter().map(|open| open.account.imbalance());
            let imbalances = imbalances.chain([page.ended().imbalance()]);
            says.imbalance += imbalances.map(|by| by.unsigned_abs() as u64).sum::<u64>();
            let links = open
                .iter()
                .flat_map(|open| &open.links)
                .chain(&page.app_links);
            says.gaps += links
                .map(|link| link.sent.saturating_sub(link.received))
                .sum::<u64>();
        }
        says
    }
}

impl Latency {
    fn of(mut ages: Vec<Age>) -> Latency {
        ages.sort_unstable_by_key(|age| age.micros);
        let all: u64 = ages.iter().map(|age| u64::from(age.envelopes)).sum();
        let oldest_of = |part: f64| {
            let mut left = (all as f64 * part).ceil() as u64;
            let last = ages.iter().find(|age| {
                left = left.saturating_sub(age.envelopes.into());
                left == 0
            });
            last.map_or(0.0, |age| round(f64::from(age.micros) / 1e3))
        };
        Latency {
            p50: oldest_of(0.5),
            p99: oldest_of(0.99),
            p99_9: oldest_of(0.999),
        }
    }
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
