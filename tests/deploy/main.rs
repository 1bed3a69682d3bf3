//! `cargo deploy`: the files of `deploy/`, as they are shipped, with the real programs they are
//! for.
//!
//! Each check takes one of them, changes only what its module says (ports, paths, addresses),
//! and shows that it does what its row in `deploy/README.md` promises. `cargo deploy --list` has
//! them all; `cargo deploy haproxy` runs those with that word in their names. One line for each;
//! a part that is missing is a failure.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that is run by name: a panic is a finding, and it talks to a person"
)]

mod aws;
mod balancer;
mod bosh;
mod client;
mod command;
mod compose;
mod docs;
mod doctor;
mod envoy;
mod gorouter;
mod haproxy;
mod kubernetes;
mod nginx;
mod prometheus;
mod python;
mod release;
mod separate_hostname;
mod settings;
mod shipped;
mod standin;
mod streams;
mod systemd;

// Where faults happen, agents that send and clients that come back: `cargo faults` has them.
#[path = "../faults/feed.rs"]
#[allow(dead_code, reason = "faults use the rest")]
mod feed;
#[path = "../faults/nozzle.rs"]
#[allow(dead_code, reason = "faults use the rest")]
mod nozzle;
#[path = "../faults/watch.rs"]
mod watch;
#[path = "../faults/world.rs"]
#[allow(dead_code, reason = "faults use the rest")]
mod world;

use clap::Parser;
use futures::StreamExt;
use futures::future::BoxFuture;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Parser, Debug)]
struct Args {
    /// Only checks whose name contains one of these.
    names: Vec<String>,
    /// Say which checks there are, and run none.
    #[arg(long)]
    list: bool,
    /// How many run at a time; most of a check is waiting.
    #[arg(long, default_value_t = 3)]
    lanes: usize,
}

/// Something that holds of a file of `deploy/`.
pub(crate) struct Check {
    /// What `deploy/README.md` calls it: the platform first.
    pub(crate) name: &'static str,
    /// What it shows, in one sentence.
    pub(crate) what: &'static str,
    /// One that takes longer has failed.
    pub(crate) limit: Duration,
    /// It needs the machine for itself: nothing else runs beside it.
    pub(crate) alone: bool,
    /// Says what was seen, or what is wrong; a panic is a way of saying the latter.
    pub(crate) run: fn() -> BoxFuture<'static, Result<String, String>>,
}

/// All of them, in the order of `deploy/README.md`.
pub(crate) fn checks() -> Vec<Check> {
    let modules = [
        haproxy::checks(),
        nginx::checks(),
        envoy::checks(),
        separate_hostname::checks(),
        gorouter::checks(),
        aws::checks(),
        docs::checks(),
        doctor::checks(),
        systemd::checks(),
        release::checks(),
        compose::checks(),
        kubernetes::checks(),
        bosh::checks(),
        prometheus::checks(),
    ];
    modules.into_iter().flatten().collect()
}

fn main() -> ExitCode {
    let args = Args::parse();
    let wanted = |check: &Check| {
        let named = args.names.iter().any(|name| check.name.contains(&**name));
        args.names.is_empty() || named
    };
    let checks: Vec<Check> = checks().into_iter().filter(wanted).collect();
    if args.list {
        for check in &checks {
            println!("{:24} {}", check.name, check.what);
        }
        return ExitCode::SUCCESS;
    }
    if checks.is_empty() {
        eprintln!("no check has such a name: `cargo deploy --list` says which there are");
        return ExitCode::FAILURE;
    }
    eprintln!("building the programs (the first time takes some minutes)");
    harness::binaries::built();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(checks, args.lanes)),
        Err(error) => {
            eprintln!("no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(checks: Vec<Check>, lanes: usize) -> ExitCode {
    // Not in the time of whichever check comes first.
    python::programs().await;
    let (alone, beside): (Vec<_>, Vec<_>) = checks.into_iter().partition(|check| check.alone);
    let mut failed = Vec::new();
    for (lanes, checks) in [(lanes.max(1), beside), (1, alone)] {
        let each = checks.into_iter().map(|check| async move {
            let began = Instant::now();
            let result = one(&check).await;
            (check, result, began.elapsed().as_secs())
        });
        let mut done = futures::stream::iter(each).buffer_unordered(lanes);
        while let Some((check, result, took)) = done.next().await {
            match result {
                Ok(seen) => println!("ok      {}: {seen} ({took} s)", check.name),
                Err(why) => {
                    println!("FAILED  {}: {why} ({took} s)", check.name);
                    failed.push(check.name);
                }
            }
        }
    }
    for name in &failed {
        eprintln!("FAILED: cargo deploy '{name}'");
    }
    ExitCode::from(u8::from(!failed.is_empty()))
}

/// One check. A panic is its end, and not ours.
async fn one(check: &Check) -> Result<String, String> {
    let mut task = tokio::spawn((check.run)());
    match tokio::time::timeout(check.limit, &mut task).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(match error.try_into_panic() {
            Ok(panic) => said(panic.as_ref()),
            Err(error) => error.to_string(),
        }),
        Err(_) => {
            task.abort();
            // Gone with everything it has started, before the next one begins.
            let _ = task.await;
            Err(format!("not over after {:?}", check.limit))
        }
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without words".to_owned())
}
