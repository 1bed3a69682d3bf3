//! How often the programs ask the kernel to read and write, counted by strace while a paced feed
//! goes through them: mTLS and TLS on every hop, one agent, one firehose.
//!
//! strace makes each call slower, not another one; and at this rate nobody waits for anybody, so
//! that a busy machine changes little. It needs to be allowed to trace what it has not started:
//! root may.

use crate::limits::{Counted, Unit};
use harness::cluster::Cluster;
use harness::envelopes::Workload;
use harness::eventually;
use harness::process::{Process, Signal};
use std::path::Path;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// 20,000 envelopes a second in batches of 100, …
const BATCH: u64 = 100;
const EVERY: Duration = Duration::from_millis(5);

/// … for five seconds.
const ENVELOPES: u64 = 100_000;

/// How long strace may take to begin or end, and the last envelope to come.
const PATIENCE: Duration = Duration::from_secs(30);

const READS: [&str; 4] = ["read", "readv", "recvfrom", "recvmsg"];
const WRITES: [&str; 4] = ["write", "writev", "sendto", "sendmsg"];

/// Reads and writes of a Doppler and a Traffic Controller per million envelopes.
pub(crate) fn count() -> Vec<Counted> {
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(carry())
}

async fn carry() -> Vec<Counted> {
    // How many threads there are decides how often one finds nothing to read.
    let cluster = Cluster::builder().dopplers(1).controllers(1).mtls();
    let cluster = cluster
        .doppler_flag("--worker-threads", 2)
        .controller_flag("--worker-threads", 2);
    let cluster = cluster.start().await;
    let firehose = cluster.controllers[0].firehose("gates").open().await;
    cluster.subscribed("gates", 1).await;
    let workload = Workload::logs(100, 256);
    let mut producer = cluster.dopplers[0].producer(0, workload).await;
    producer.send(BATCH).await;
    firehose.receives(BATCH, PATIENCE).await;

    let directory = tempfile::tempdir().expect("a directory");
    let (doppler, controller) = (&cluster.dopplers[0], &cluster.controllers[0]);
    let mut traces = [
        Trace::of("doppler", &doppler.process, directory.path()).await,
        Trace::of("traffic-controller", &controller.process, directory.path()).await,
    ];
    let mut due = interval(EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..ENVELOPES / BATCH {
        due.tick().await;
        producer.send(BATCH).await;
    }
    firehose.receives(BATCH + ENVELOPES, PATIENCE).await;

    let mut counted = Vec::new();
    for trace in &mut traces {
        counted.extend(trace.end().await);
    }
    counted
}

/// strace, attached to a process.
struct Trace {
    what: &'static str,
    strace: Process,
    summary: std::path::PathBuf,
}

impl Trace {
    async fn of(what: &'static str, process: &Process, directory: &Path) -> Trace {
        let summary = directory.join(what);
        let arguments = [
            "-f".to_owned(),
            "-c".to_owned(),
            "--summary-columns=calls,name".to_owned(),
            format!("--output={}", summary.display()),
            format!("--attach={}", process.id()),
        ];
        let mut strace = Process::start("strace", Path::new("strace"), arguments);
        let mut ended = false;
        eventually(PATIENCE, "strace has attached", || {
            ended = strace.exited().is_some();
            let attached = strace.logged(" attached");
            async move { attached || ended }
        })
        .await;
        assert!(!ended, "strace: {}", strace.log().join("\n"));
        Trace {
            what,
            strace,
            summary,
        }
    }

    async fn end(&mut self) -> [Counted; 2] {
        self.strace.signal(Signal::Interrupt);
        let mut ended = false;
        eventually(PATIENCE, "strace has ended", || {
            ended = self.strace.exited().is_some();
            async move { ended }
        })
        .await;
        let summary = std::fs::read_to_string(&self.summary).expect("strace's summary");
        let count = |names: &[&str]| {
            let lines = summary.lines().filter_map(|line| {
                let mut words = line.split_whitespace();
                let calls: f64 = words.next()?.parse().ok()?;
                names.contains(&words.next()?).then_some(calls)
            });
            let calls: f64 = lines.sum();
            assert!(calls > 0.0, "strace has counted nothing:\n{summary}");
            calls * 1e6 / ENVELOPES as f64
        };
        [(Unit::Reads, READS), (Unit::Writes, WRITES)].map(|(unit, names)| Counted {
            what: self.what,
            unit,
            count: count(&names),
        })
    }
}
