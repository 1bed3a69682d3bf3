//! More than there is room for: readers that do not read, agents that send without measure,
//! and a limit of memory.

use crate::world::{Outcome, RESIDENT, SETTLE, World};
use harness::admin;
use harness::envelopes::Workload;
use harness::within;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How many tails there are, each of an app of its own.
const TAILS: u32 = 100;

/// How long readers stall: less than the 5 s after which one that accepts nothing is closed.
const STALLED: std::ops::Range<u64> = 2_500..3_500;

/// Bytes the kernel keeps for a client that does not read.
const KERNEL: u32 = 128 << 10;

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(3);

/// Agents of a flood, and the envelopes a second each would send: more than anybody takes.
const AGENTS: usize = 4;
const WITHOUT_MEASURE: u64 = 50_000;

/// What a reader that is ten times too slow does: reads for a while, and not for nine.
const READS: Duration = Duration::from_millis(20);

/// The chunk log of a Doppler that is to lose in three seconds.
const SMALL_LOG: u64 = 8 << 20;

/// How long an orchestrator waits for a health check: a second, commonly.
const HEALTH: Duration = Duration::from_secs(1);

/// So many of a hundred tails stall; the others lose nothing.
pub(crate) async fn stalled(seed: u64, percent: u32) -> Outcome {
    let mut world = World::start(World::describe(1, 1), seed).await;
    for app in 0..TAILS {
        world.tail(app, 0, Some(KERNEL)).await;
    }
    world.cluster.tailed(0..TAILS, 1).await;
    let payload = world.rng.usize(1_000..2_000);
    let workload = Workload::logs(TAILS, payload);
    world.feed(0, workload, 2_000);
    world.flows().await;
    let first = world.rng.u32(0..TAILS);
    let stalled: Vec<usize> = (0..percent)
        .map(|n| ((first + n) % TAILS) as usize)
        .collect();
    for nozzle in &stalled {
        world.nozzles[*nozzle].stall(true);
    }
    sleep(Duration::from_millis(world.rng.u64(STALLED))).await;
    for nozzle in &stalled {
        world.nozzles[*nozzle].stall(false);
    }
    let since = Instant::now();
    sleep(Duration::from_millis(200)).await;
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    let recovery = since.elapsed();
    for nozzle in 0..world.nozzles.len() {
        if !stalled.contains(&nozzle) {
            let missing = world.missing(nozzle, &[0]);
            assert_eq!(missing, [], "{} did not stall", world.nozzles[nozzle].name);
        }
    }
    world.exact(recovery).await
}

/// A flood; returns how long the slowest of a hundred health checks took.
async fn flood(world: &mut World) -> Duration {
    let admins = [
        world.cluster.dopplers[0].admin,
        world.cluster.controllers[0].admin,
    ];
    let over = Arc::new(AtomicBool::new(false));
    let ended = over.clone();
    let health = tokio::spawn(async move {
        let mut took = Vec::new();
        while !ended.load(Ordering::SeqCst) {
            for admin in admins {
                let asked = Instant::now();
                let answer = admin::get(admin, "/health/live").await;
                assert!(answer.is_ok_and(|(status, _)| status == 200), "not healthy");
                took.push(asked.elapsed());
            }
            sleep(READS).await;
        }
        took.sort();
        took[took.len() * 99 / 100]
    });
    let payload = world.rng.usize(200..400);
    for _ in 0..AGENTS {
        world.feed(0, Workload::logs(10, payload), WITHOUT_MEASURE);
    }
    let began = Instant::now();
    while began.elapsed() < FLOOD {
        world.nozzles[1].stall(true);
        sleep(9 * READS).await;
        world.nozzles[1].stall(false);
        sleep(READS).await;
    }
    for feed in &mut world.feeds {
        feed.finish().await;
    }
    over.store(true, Ordering::SeqCst);
    health.await.expect("the health checks end")
}

/// Agents send as fast as they can, and one of two readers takes a tenth of it.
pub(crate) async fn ten_times(seed: u64) -> Outcome {
    let builder = World::describe(1, 1).doppler_flag("--log-bytes", SMALL_LOG);
    let mut world = World::start(builder, seed).await;
    world.firehose("keeps-up", 0).await;
    world.firehose("slow", 0).await;
    let health = flood(&mut world).await;
    assert!(health <= HEALTH, "a health check took {health:?}");
    let (sent, since) = (world.marks().iter().sum::<u64>(), Instant::now());
    world.feed(0, Workload::logs(10, 100), 500);
    let last = world.feeds.len() - 1;
    world.recovered(&[last], &[0, 1], since).await;
    let recovery = since.elapsed();
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    let mut outcome = world.exact(recovery).await;
    outcome.note = format!(
        "{} envelopes/s offered, health checks p99 {} ms, {}",
        sent / FLOOD.as_secs(),
        health.as_millis(),
        outcome.note
    );
    outcome
}

/// A flood with no reader fast enough, each process in a group that may have 256 MiB.
pub(crate) async fn memory_limit(seed: u64) -> Outcome {
    let mut world = World::start(World::describe(1, 1), seed).await;
    let groups = [
        Group::of(world.cluster.dopplers[0].process.id()),
        Group::of(world.cluster.controllers[0].process.id()),
    ];
    world.firehose("stalled", 0).await;
    world.firehose("slow", 0).await;
    world.nozzles[0].stall(true);
    flood(&mut world).await;
    world.nozzles[0].stall(false);
    let since = Instant::now();
    world.feed(0, Workload::logs(10, 100), 500);
    let last = world.feeds.len() - 1;
    let recovery = world.recovered(&[last], &[0, 1], since).await;
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    for process in [
        &mut world.cluster.dopplers[0].process,
        &mut world.cluster.controllers[0].process,
    ] {
        assert!(process.exited().is_none(), "{} was killed", process.name());
    }
    let most = groups
        .iter()
        .filter_map(Group::most)
        .max()
        .unwrap_or_default();
    let mut outcome = world.exact(recovery).await;
    for group in groups {
        group.remove().await;
    }
    outcome.note = format!("group at most {} MiB, {}", most >> 20, outcome.note);
    outcome
}

/// A control group for one process that limits its memory, of either version.
struct Group {
    path: PathBuf,
    parent: PathBuf,
    most: &'static str,
}

/// Where control groups are: version 1's for memory, and version 2's.
const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// Whether a group that limits memory can be had here.
pub(crate) fn can_limit_memory() -> bool {
    let parent = if PathBuf::from(V1).is_dir() { V1 } else { V2 };
    let path = PathBuf::from(parent).join(format!("faults-probe-{}", std::process::id()));
    if std::fs::create_dir(&path).is_err() {
        return false;
    }
    let can = ["memory.limit_in_bytes", "memory.max"]
        .iter()
        .any(|file| path.join(file).exists());
    std::fs::remove_dir(&path).is_ok() && can
}

impl Group {
    fn of(process: u32) -> Group {
        let v1 = PathBuf::from(V1).is_dir();
        let parent = PathBuf::from(if v1 { V1 } else { V2 });
        let path = parent.join(format!("faults-{process}"));
        std::fs::create_dir(&path).expect("a control group can be made");
        let (limit, most) = match v1 {
            true => ("memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            false => ("memory.max", "memory.peak"),
        };
        std::fs::write(path.join(limit), RESIDENT.to_string()).expect("its limit is set");
        std::fs::write(path.join("cgroup.procs"), process.to_string()).expect("it is joined");
        Group { path, parent, most }
    }

    fn most(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.path.join(self.most)).ok()?;
        text.trim().parse().ok()
    }
}

impl Group {
    /// Lets whoever still lives there go back, and removes it: only empty groups can be.
    async fn remove(self) {
        self.empty();
        let removed = within(SETTLE, async || std::fs::remove_dir(&self.path).is_ok());
        assert!(removed.await, "{} stays", self.path.display());
    }

    fn empty(&self) {
        let processes = std::fs::read_to_string(self.path.join("cgroup.procs"));
        for process in processes.unwrap_or_default().lines() {
            // One that has ended meanwhile has left by itself.
            let _ = std::fs::write(self.parent.join("cgroup.procs"), process);
        }
    }
}

impl Drop for Group {
    /// A panic is no reason to leave it; by then it may be gone.
    fn drop(&mut self) {
        self.empty();
        let _ = std::fs::remove_dir(&self.path);
    }
}
