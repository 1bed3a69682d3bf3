//! One run: start a peer, open readers, feed, wait until everything has come or been lost, and
//! say what that took.

use crate::generator::{Agents, Fed};
use crate::peer::{Peer, Used};
use crate::reader::{Reader, Readers};
use crate::report::{Cpu, Idle, Latency, Opening, Peak, Report, round};
use crate::{generator, peer, reader};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use transport::clock::unix_ns;

/// How long after the feed has ended the readers may take over what is on its way.
const DRAIN: Duration = Duration::from_secs(30);

/// When nothing has come to any reader for so long, nothing will: the rest is lost.
const QUIET: Duration = Duration::from_secs(2);

/// How often we look whether everything has come.
const LOOK: Duration = Duration::from_millis(5);

/// How long a run may take beside its feed: 20,000 streams take a while to open.
const HANGS: Duration = Duration::from_secs(180);

/// Longer than any run: readers stay until the peer ends.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

/// After the streams are open, before it is measured what they cost idle: what opening them left
/// to do is done by then.
const COOL: Duration = Duration::from_secs(1);

/// Measures one run.
#[derive(clap::Args, Debug)]
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten)]
    feed: generator::Args,
    #[command(flatten)]
    readers: reader::Args,
    #[command(flatten)]
    peer: peer::Args,
    /// Send nothing for --seconds: what do streams cost that are only open? They are pinged every
    /// 15 s.
    #[arg(long)]
    idle: bool,
    /// Fail if any reader has not exactly what it is due, or any account does not add up.
    #[arg(long)]
    lossless: bool,
    /// Fail if Doppler and Traffic Controller together use more CPU seconds per million.
    #[arg(long)]
    at_most: Option<f64>,
}

/// What was done to the peer, and what it took.
struct Fare {
    before: Used,
    after: Used,
    began_ns: i64,
    fed_ns: i64,
    fed: Vec<Fed>,
    /// What each reader is due.
    due: Vec<u64>,
    /// Everything came, or stopped coming.
    settled: bool,
    bytes_per_envelope: usize,
}

/// Measures one run; one that hangs is over after a while, and has failed.
pub(crate) async fn measure(args: &Args) -> Report {
    let limit = HANGS + Duration::from_secs(args.feed.seconds);
    let run = tokio::time::timeout(limit, pipeline(args)).await;
    run.unwrap_or_else(|_| Report {
        failures: vec![format!("was not over after {limit:?}")],
        ..Report::default()
    })
}

async fn pipeline(args: &Args) -> Report {
    let peer = Peer::start(&args.peer).await;
    let mut report = Report::default();
    let (readers, empty) = open(args, &peer, &mut report.opening).await;
    let others = args
        .readers
        .disturb(&peer.client(), &peer.public.to_string());
    peer.knows(args.readers.subscriptions(args.feed.apps)).await;
    let fare = if args.idle {
        report.idle = Some(idle(&peer, Duration::from_secs(args.feed.seconds)).await);
        None
    } else {
        Some(feed(args, &peer, &readers).await)
    };
    // A feed leaves memory behind that streams alone do not need.
    let open = fare
        .as_ref()
        .map_or_else(|| peer.used(), |fare| fare.before);
    report.opening.growth_mib = round(open.resident_mib() - empty.resident_mib());
    report.opening.doppler_files = peer.doppler_files();
    if let Some(fare) = &fare {
        fare.report(&readers.open, args.readers.firehoses, &mut report);
    }
    let says = peer.says().await;
    drop(others);
    peer.stop().await;
    report.latency_ms = Latency::of(readers.ages().await);
    if let Some(says) = says {
        report.dropped = Some(says.dropped);
        report.imbalance = Some(says.imbalance);
        report.hop_gaps = Some(says.gaps);
        if says.queued > 0 && !args.readers.disturbed() {
            let queued = says.queued;
            report.failures.push(format!(
                "nothing comes any more, and {queued} envelopes still wait"
            ));
        }
    }
    judge(args, &mut report);
    report
}

/// Opens the streams; returns what the processes had used before, too.
async fn open(args: &Args, peer: &Peer, opening: &mut Opening) -> (Readers, Used) {
    let empty = peer.used();
    let began = Instant::now();
    let (client, address) = (peer.client(), peer.public.to_string());
    let shares = args.feed.shape().shares();
    let readers = Readers::open(&client, &address, &args.readers, &shares, FOR_EVER).await;
    opening.seconds = round(began.elapsed().as_secs_f64());
    let (doppler, controller) = peer.used().cpu_since(&empty);
    opening.cpu_seconds = round(doppler + controller);
    opening.streams = readers.open.len();
    opening.refused = readers.refused;
    (readers, empty)
}

async fn idle(peer: &Peer, time: Duration) -> Idle {
    tokio::time::sleep(COOL).await;
    let (before, began) = (peer.used(), Instant::now());
    tokio::time::sleep(time).await;
    let (doppler, controller) = peer.used().cpu_since(&before);
    let seconds = began.elapsed().as_secs_f64();
    Idle {
        seconds: round(seconds),
        doppler_percent: round(100.0 * doppler / seconds),
        traffic_controller_percent: round(100.0 * controller / seconds),
    }
}

async fn feed(args: &Args, peer: &Peer, readers: &Readers) -> Fare {
    let shape = args.feed.shape();
    let rounds = shape.rounds();
    let bytes_per_envelope = shape.envelope_bytes(&rounds[0]);
    let agents = Agents::connect(&peer.agent(), &peer.ingress, shape, &rounds).await;
    let pace = args.feed.pace(args.peer.room(bytes_per_envelope));
    let time = Duration::from_secs(args.feed.seconds);

    let (before, began_ns) = (peer.used(), unix_ns());
    let fed = agents.feed(pace, time, readers.open.clone()).await;
    let fed_ns = unix_ns();
    let batches: Vec<u64> = fed.iter().map(|fed| fed.sent).collect();
    let all = batches.iter().sum::<u64>() * shape.batch as u64;
    let by_app = shape.due_by_app(&batches);
    let due = readers.open.iter();
    let due: Vec<u64> = due
        .map(|reader| reader.app.map_or(all, |app| by_app[app]))
        .collect();
    let settled = settled(&readers.open, &due).await;
    Fare {
        before,
        after: peer.used(),
        began_ns,
        fed_ns,
        fed,
        due,
        settled,
        bytes_per_envelope,
    }
    .in_envelopes(shape.batch as u64)
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

impl Fare {
    /// What agents did, which they counted in batches.
    fn in_envelopes(mut self, batch: u64) -> Fare {
        for fed in &mut self.fed {
            fed.sent *= batch;
            fed.lost *= batch;
        }
        self
    }

    fn report(&self, readers: &[Arc<Reader>], firehoses: usize, report: &mut Report) {
        let received: Vec<u64> = readers.iter().map(|reader| reader.received()).collect();
        let off = received.iter().zip(&self.due);
        let last_ns = readers.iter().map(|reader| reader.last_ns()).max();
        let last_ns = last_ns.unwrap_or(self.fed_ns).max(self.began_ns + 1);
        let seconds = (last_ns - self.began_ns) as f64 / 1e9;
        report.sent = self.fed.iter().map(|fed| fed.sent).sum();
        report.lost_at_generator = self.fed.iter().map(|fed| fed.lost).sum();
        report.seconds = round(seconds);
        report.envelopes_per_second = (report.sent as f64 / seconds) as u64;
        report.bytes_per_envelope = self.bytes_per_envelope;
        report.readers_off = off.filter(|(received, due)| received != due).count();
        report.received = received[..firehoses.min(received.len())].to_vec();
        report.received_by_tails = received.iter().skip(firehoses).sum();
        report.expected_by_tails = self.due.iter().skip(firehoses).sum();

        let million = report.sent.max(1) as f64 / 1e6;
        let (doppler, controller) = self.after.cpu_since(&self.before);
        let load = (self.after.load.cpu - self.before.load.cpu).as_secs_f64();
        report.cpu_seconds_per_million = Cpu {
            doppler: round(doppler / million),
            traffic_controller: round(controller / million),
            both: round((doppler + controller) / million),
            generator_and_readers: round(load / million),
        };
        // The last envelope of a slow feed leaves long before its end.
        let fed = (self.fed_ns - self.began_ns) as f64 / 1e9;
        report.core_percent = round(100.0 * (doppler + controller) / seconds.max(fed));
        report.peak_mib = Peak {
            doppler: self.after.doppler.peak_resident >> 20,
            traffic_controller: self.after.controller.peak_resident >> 20,
        };
        if !self.settled {
            report.failures.push(format!(
                "envelopes were still coming {DRAIN:?} after the last was sent"
            ));
        }
    }
}

/// Whether the run is what was asked for.
fn judge(args: &Args, report: &mut Report) {
    let mut failures = Vec::new();
    if args.lossless && report.readers_off > 0 {
        let off = report.readers_off;
        failures.push(format!("{off} readers have not what they are due"));
    }
    let gone = [report.dropped, report.hop_gaps, report.imbalance];
    let gone: u64 = gone.into_iter().flatten().sum();
    if args.lossless && gone > 0 && !args.readers.disturbed() {
        failures.push("something was dropped, or does not add up".to_owned());
    }
    if report.imbalance.is_some_and(|by| by > 0) {
        failures.push("an account does not add up".to_owned());
    }
    let cpu = report.cpu_seconds_per_million.both;
    if let Some(most) = args.at_most.filter(|most| cpu > *most) {
        failures.push(format!("more than {most} CPU seconds per million"));
    }
    report.failures.append(&mut failures);
}
