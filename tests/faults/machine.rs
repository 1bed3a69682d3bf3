//! What a machine runs out of, and what it gets wrong: files, readers of its log, time.

use crate::world::{Outcome, RATE, SETTLE, World};
use harness::process::{Process, Signal};
use harness::{eventually, within};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Clients that come while there are no files for them.
const CLIENTS: usize = 40;

/// How long files are short.
const SHORT: Duration = Duration::from_secs(2);

/// Files a process may open beyond those it has, while they are short.
pub(crate) const SPARE: usize = 5;

/// How long a log may take to fill its pipe, at the level `trace`.
const FILLS: Duration = Duration::from_secs(60);

/// How many files it may have open now.
pub(crate) fn files_allowed(process: &Process) -> usize {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id()));
    let limits = limits.expect("it runs");
    let files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = files.and_then(|files| files.split_whitespace().next()?.parse().ok());
    soft.expect("proc(5) has a line for it")
}

/// From now on it may have so many.
pub(crate) fn allow_files(process: &Process, files: usize) {
    let status = Command::new("prlimit")
        .args(["--pid", &process.id().to_string()])
        .arg(format!("--nofile={files}:"))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "prlimit");
}

/// A Traffic Controller may open next to no more files while clients come.
pub(crate) async fn no_files(seed: u64) -> Outcome {
    let mut world = World::start(World::describe(1, 1), seed).await;
    world.firehose("stays", 0).await;
    world.feed_all(10, RATE);
    world.flows().await;
    let controller = &world.cluster.controllers[0];
    let plenty = files_allowed(&controller.process);
    allow_files(&controller.process, controller.process.open_files() + SPARE);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(controller.tail(1).try_open()))
        .collect();
    tokio::time::sleep(SHORT).await;
    let waiting = clients
        .iter()
        .filter(|client| !client.is_finished())
        .count();
    assert!(waiting > 0, "there were files enough");
    allow_files(&controller.process, plenty);
    let restored = Instant::now();
    for client in clients {
        let client = client.await.expect("opening does not panic");
        // Some were accepted and hung up on: for them, too, a file was missing.
        drop(client);
    }
    let served = within(SETTLE, async || controller.tail(1).try_open().await.is_ok());
    assert!(served.await, "nobody is served any more");
    let recovery = restored.elapsed();
    let marks = vec![0; world.feeds.len()];
    world.loses_nothing_since(&marks).await;
    let mut outcome = world.lossless(recovery).await;
    outcome.note = format!("{waiting} of {CLIENTS} clients waited; {}", outcome.note);
    outcome
}

/// Nobody reads what the processes log, and they log all there is to say.
pub(crate) async fn log_unread(seed: u64) -> Outcome {
    let builder = World::describe(1, 1)
        .doppler_flag("--log", "trace")
        .controller_flag("--log", "trace");
    let mut world = World::start(builder, seed).await;
    world.talkative = true;
    for process in [
        &world.cluster.dopplers[0].process,
        &world.cluster.controllers[0].process,
    ] {
        process.ignore_stderr(true);
    }
    world.firehose("reads", 0).await;
    world.feed_all(10, RATE / 4);
    world.flows().await;
    let (doppler, controller) = (&world.cluster.dopplers[0], &world.cluster.controllers[0]);
    let lost = "log_lines_lost_total";
    eventually(FILLS, "both lose log lines", async || {
        // A handshake is much to say for a Traffic Controller.
        drop(controller.tail(1).try_open().await);
        let lines = controller.metrics().await.sum(lost, &[]);
        lines > 0.0 && doppler.metrics().await.sum(lost, &[]) > 0.0
    })
    .await;
    let recovery = world.recovered(&[0], &[0], Instant::now()).await;
    for process in [
        &world.cluster.dopplers[0].process,
        &world.cluster.controllers[0].process,
    ] {
        process.ignore_stderr(false);
        eventually(SETTLE, "what was lost is said", async || {
            process.logged("log lines were lost")
        })
        .await;
    }
    world.loses_nothing_since(&[0]).await;
    world.lossless(recovery).await
}

/// The wall clock jumps ahead an hour, back two, and ahead ten years; seen by the processes
/// alone, through libfaketime. The monotonic clock stays, as it does.
pub(crate) async fn clock_jumps(seed: u64) -> Outcome {
    let files = tempfile::tempdir().expect("a directory for the time");
    let clock = files.path().join("clock");
    let set = |offset: &str| {
        // In one step: the processes read it all the time.
        let next = files.path().join("next");
        std::fs::write(&next, offset).expect("the time is written");
        std::fs::rename(&next, &clock).expect("the time is set");
    };
    set("+0");
    let library = faketime().expect("it was there at the start");
    let builder = World::describe(1, 1)
        .variable("LD_PRELOAD", library.display())
        .variable("FAKETIME_TIMESTAMP_FILE", clock.display())
        .variable("FAKETIME_NO_CACHE", 1)
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", 1);
    let mut world = World::start(builder, seed).await;
    world.firehose("reads", 0).await;
    world.feed_all(10, RATE / 2);
    world.flows().await;
    let mut recovery = Duration::ZERO;
    for offset in ["+3600", "-3600", "+315360000"] {
        set(offset);
        let jumped = Instant::now();
        recovery = recovery.max(world.recovered(&[0], &[0], jumped).await);
        tokio::time::sleep(Duration::from_millis(world.rng.u64(500..1_500))).await;
    }
    // It did jump: what is logged now is dated in ten years.
    let year = 1970 + (harness::envelopes::now() / 1_000_000_000 + 315_360_000) / 31_556_952;
    let controller = &mut world.cluster.controllers[0].process;
    controller.signal(Signal::Hangup);
    eventually(SETTLE, "the clock has jumped", async || {
        controller
            .log()
            .iter()
            .any(|line| line.starts_with(&year.to_string()))
    })
    .await;
    world.loses_nothing_since(&[0]).await;
    assert_eq!(
        world.nozzles[0].opened(),
        1,
        "{:?}",
        world.nozzles[0].ends()
    );
    world.exact(recovery).await
}

/// Where libfaketime is; Debian has a directory for each kind of machine.
pub(crate) fn faketime() -> Option<PathBuf> {
    let machines = std::fs::read_dir("/usr/lib").ok()?;
    let of = |machine: &Path| machine.join("faketime/libfaketimeMT.so.1");
    let libraries = machines
        .filter_map(Result::ok)
        .map(|entry| of(&entry.path()));
    libraries
        .chain([of(Path::new("/usr/lib"))])
        .find(|path| path.exists())
}
