//! `cargo faults`: what Doppler and Traffic Controller do when processes, networks, clients,
//! disks and clocks fail.
//!
//! Each fault happens to real processes under load, mTLS and TLS on every hop, several times
//! with different seeds. Agents and clients outside count what was sent and what came; after
//! the fault the processes' own accounts must say the same, to the envelope, or within the
//! range that a kill leaves. Prints a row for each, or writes the page (`--write`). With
//! `--soak` faults strike at random for as long as asked.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that is run by name: a panic is a finding, and it talks to a person"
)]

mod authorities;
mod balancer;
mod feed;
mod machine;
mod namespace;
mod network;
mod nozzle;
mod overload;
mod page;
mod processes;
mod soak;
mod watch;
mod world;

use clap::Parser;
use futures::StreamExt;
use futures::future::BoxFuture;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use world::Outcome;

/// How long one fault may take, with everything before and after.
const HANGS: Duration = Duration::from_secs(150);

#[derive(Parser, Debug)]
struct Args {
    /// Only faults whose name contains one of these.
    names: Vec<String>,
    /// How often each happens, each time with another seed.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many happen at a time, each in a cluster of its own; most of a fault is waiting.
    #[arg(long, default_value_t = 4)]
    lanes: usize,
    /// Write the page to this file.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Instead: faults at random for so many minutes, in one cluster that never rests.
    #[arg(long, value_name = "MINUTES")]
    soak: Option<f64>,
    /// Write the report of a soak to this file.
    #[arg(long)]
    report: Option<PathBuf>,
    /// We are in a network of our own already.
    #[arg(long, hide = true)]
    inside: bool,
}

/// What a fault needs beside a Linux with /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// A network of our own, to drop packets in.
    Namespace,
    /// `haproxy`.
    Haproxy,
    /// A control group that limits memory.
    Memory,
    /// libfaketime.
    Faketime,
}

/// Something that goes wrong.
struct Fault {
    name: &'static str,
    /// What is done, and to whom.
    what: &'static str,
    needs: &'static [Need],
    /// From the end of the fault until all is as before.
    bound: Duration,
    /// It takes all the CPU there is: nothing else runs beside it.
    alone: bool,
    run: fn(u64) -> BoxFuture<'static, Outcome>,
}

/// What became of a fault with one seed.
struct Run {
    seed: u64,
    result: Result<Outcome, String>,
    took: Duration,
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// All of them, in the order of the page.
fn faults() -> Vec<Fault> {
    use Need::{Faketime, Haproxy, Memory, Namespace};
    vec![
        Fault {
            name: "Doppler killed",
            what: "SIGKILL to one of two Dopplers, which is started again",
            needs: &[],
            bound: seconds(5),
            alone: false,
            run: |seed| Box::pin(processes::doppler_killed(seed)),
        },
        Fault {
            name: "Doppler paused",
            what: "SIGSTOP to one of two Dopplers for 2 to 3.5 s, then SIGCONT",
            needs: &[],
            bound: seconds(5),
            alone: false,
            run: |seed| Box::pin(processes::doppler_paused(seed)),
        },
        Fault {
            name: "Traffic Controller killed",
            what: "SIGKILL to one of two, which is started again; its client reconnects",
            needs: &[],
            bound: seconds(5),
            alone: false,
            run: |seed| Box::pin(processes::controller_killed(seed)),
        },
        Fault {
            name: "Traffic Controller paused",
            what: "SIGSTOP to one of two for 2 to 3.5 s, then SIGCONT",
            needs: &[],
            bound: seconds(5),
            alone: false,
            run: |seed| Box::pin(processes::controller_paused(seed)),
        },
        Fault {
            name: "rolling restart of Traffic Controllers",
            what: "SIGTERM to each in turn behind HAProxy under load; four firehoses reconnect \
                   through it. Measured from the signal",
            needs: &[Haproxy],
            bound: seconds(10),
            alone: false,
            run: |seed| Box::pin(processes::controllers_restarted(seed)),
        },
        Fault {
            name: "rolling restart of Dopplers",
            what: "SIGTERM to each in turn under load; no client behind HAProxy is closed. \
                   Measured from the signal",
            needs: &[Haproxy],
            bound: seconds(10),
            alone: false,
            run: |seed| Box::pin(processes::dopplers_restarted(seed)),
        },
        Fault {
            name: "silent death",
            what: "packets of one Doppler dropped both ways, then SIGKILL: no FIN, no RST. \
                   Measured: until its links are given up, and until another one in its place \
                   is read",
            needs: &[Namespace],
            bound: seconds(25),
            alone: false,
            run: |seed| Box::pin(network::silent_death(seed)),
        },
        Fault {
            name: "partition",
            what: "packets to and from one Doppler dropped for 2 to 4 s",
            needs: &[Namespace],
            bound: seconds(5),
            alone: false,
            run: |seed| Box::pin(network::partition(seed)),
        },
        Fault {
            name: "one-way partition, to the Doppler",
            what: "packets to one Doppler dropped for 2 to 4 s: it hears no acknowledgements",
            needs: &[Namespace],
            bound: seconds(5),
            alone: false,
            run: |seed| Box::pin(network::one_way_to_the_doppler(seed)),
        },
        Fault {
            name: "one-way partition, from the Doppler",
            what: "packets from one Doppler dropped for 2 to 4 s",
            needs: &[Namespace],
            bound: seconds(5),
            alone: false,
            run: |seed| Box::pin(network::one_way_from_the_doppler(seed)),
        },
        Fault {
            name: "half-open clients",
            what: "50 quiet clients vanish without FIN. Measured: until the last of their files \
                   is closed (a ping 15 s after each pong, 30 s to answer it)",
            needs: &[Namespace],
            bound: seconds(47),
            alone: false,
            run: |seed| Box::pin(network::half_open(seed)),
        },
        Fault {
            name: "1 % of readers stalled",
            what: "one of 100 app tails does not read for 2.5 to 3.5 s; the others lose nothing",
            needs: &[],
            bound: seconds(10),
            alone: false,
            run: |seed| Box::pin(overload::stalled(seed, 1)),
        },
        Fault {
            name: "50 % of readers stalled",
            what: "50 of them; the others lose nothing",
            needs: &[],
            bound: seconds(10),
            alone: false,
            run: |seed| Box::pin(overload::stalled(seed, 50)),
        },
        Fault {
            name: "100 % of readers stalled",
            what: "all of them",
            needs: &[],
            bound: seconds(10),
            alone: false,
            run: |seed| Box::pin(overload::stalled(seed, 100)),
        },
        Fault {
            name: "overload",
            what: "four agents send as fast as they can for 3 s, of two firehoses one reads a \
                   tenth of the time, and the log has 8 MiB. Measured: until both read what is \
                   sent after",
            needs: &[],
            bound: seconds(10),
            alone: true,
            run: |seed| Box::pin(overload::ten_times(seed)),
        },
        Fault {
            name: "memory limit",
            what: "the same flood with one firehose that does not read at all, each process in \
                   a control group of 256 MiB, all buffers as large as by default",
            needs: &[Memory],
            bound: seconds(20),
            alone: true,
            run: |seed| Box::pin(overload::memory_limit(seed)),
        },
        Fault {
            name: "no more files",
            what: "a Traffic Controller may open 5 more files, and 40 clients come (prlimit); \
                   its streams go on. Measured: from more files to the next client served",
            needs: &[],
            bound: seconds(2),
            alone: false,
            run: |seed| Box::pin(machine::no_files(seed)),
        },
        Fault {
            name: "log not read",
            what: "nobody reads the stderr of either process, which log at level `trace`",
            needs: &[],
            bound: seconds(2),
            alone: false,
            run: |seed| Box::pin(machine::log_unread(seed)),
        },
        Fault {
            name: "UAA down",
            what: "connections to UAA are refused, or (by the seed) lost: streams go on, who \
                   comes is answered 503, never 401. Measured: from its return to the next \
                   client served",
            needs: &[Namespace],
            bound: seconds(5),
            alone: false,
            run: |seed| Box::pin(authorities::uaa_down(seed)),
        },
        Fault {
            name: "DNS down",
            what: "the name of the Dopplers is answered with nothing, NXDOMAIN or SERVFAIL (by \
                   the seed), and one of the two dies and comes back meanwhile. Measured: until it \
                   is read again, without DNS",
            needs: &[],
            bound: seconds(5),
            alone: false,
            run: |seed| Box::pin(authorities::dns_down(seed)),
        },
        Fault {
            name: "clock jumps",
            what: "the wall clock of both processes jumps ahead an hour, back two, and ahead ten \
                   years (libfaketime); no stream is closed",
            needs: &[Faketime],
            bound: seconds(2),
            alone: false,
            run: |seed| Box::pin(machine::clock_jumps(seed)),
        },
    ]
}

/// Whether `need` is there, and if not, how to get it.
fn missing(need: Need, inside: bool) -> Option<String> {
    let runs = |program: &str| {
        let mut command = Command::new(program);
        let command = command
            .arg("-v")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    match need {
        Need::Namespace => (!inside).then(|| "a network namespace (see above)".to_owned()),
        Need::Memory => (!overload::can_limit_memory())
            .then(|| "control group that may limit memory (root)".to_owned()),
        Need::Faketime => {
            let none = machine::faketime().is_none();
            none.then(|| "libfaketime (Debian: libfaketime)".to_owned())
        }
        Need::Haproxy => (!runs("haproxy")).then(|| "haproxy (Debian: haproxy)".to_owned()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    eprintln!("building the programs (the first time takes some minutes)");
    harness::binaries::built();
    if !args.inside {
        eprintln!("{}", namespace::enter("--inside"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(error) => {
            eprintln!("no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> ExitCode {
    if let Some(minutes) = args.soak {
        return soak::run(minutes, args.seed, args.inside, args.report.as_deref()).await;
    }
    let wanted = |fault: &Fault| {
        args.names.is_empty()
            || args
                .names
                .iter()
                .any(|name| fault.name.contains(name.as_str()))
    };
    let faults: Vec<Fault> = faults().into_iter().filter(wanted).collect();
    // Whoever may do everything has no excuse, and neither has CI.
    let must = std::env::var_os("CI").is_some() || is_root();
    let (mut runs, mut failed) = (Vec::new(), faults.is_empty());
    let mut waiting = Vec::new();
    for (n, fault) in faults.iter().enumerate() {
        runs.push(Vec::new());
        let lacks = fault
            .needs
            .iter()
            .find_map(|need| missing(*need, args.inside));
        match lacks {
            Some(lacks) if must => {
                eprintln!("FAILED   {}: there is no {lacks}", fault.name);
                failed = true;
            }
            Some(lacks) => eprintln!("SKIPPED  {}: needs {lacks}", fault.name),
            None => waiting.extend((args.seed..args.seed + args.seeds).map(|seed| (n, seed))),
        }
    }
    let (alone, beside): (Vec<_>, Vec<_>) =
        waiting.into_iter().partition(|(n, _)| faults[*n].alone);
    for (lanes, waiting) in [(args.lanes, beside), (1, alone)] {
        let each = waiting.into_iter().map(|(n, seed)| {
            let fault = &faults[n];
            async move { (n, one(fault, seed).await) }
        });
        let mut done = futures::stream::iter(each).buffer_unordered(lanes);
        while let Some((n, run)) = done.next().await {
            let line = page::line(&faults[n], &run);
            println!("{line}");
            failed |= page::verdict(&faults[n], &run).is_err();
            runs[n].push(run);
        }
    }
    let rows: Vec<_> = faults.iter().zip(&runs).collect();
    let table = page::table(&rows);
    println!("\n{table}");
    if let Some(path) = &args.write
        && let Err(error) = std::fs::write(path, page::page(&table, args.seeds))
    {
        eprintln!("could not write {}: {error}", path.display());
        failed = true;
    }
    ExitCode::from(u8::from(failed))
}

/// One fault with one seed. A panic is its end, and not ours.
async fn one(fault: &Fault, seed: u64) -> Run {
    let began = Instant::now();
    let task = tokio::spawn(tokio::time::timeout(HANGS, (fault.run)(seed)));
    let result = match task.await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(_)) => Err(format!("not over after {HANGS:?}")),
        Err(error) => Err(match error.try_into_panic() {
            Ok(panic) => said(panic.as_ref()),
            Err(error) => error.to_string(),
        }),
    };
    if result.is_err() {
        eprintln!(
            "FAILED: cargo faults '{}' --seeds 1 --seed {seed}",
            fault.name
        );
    }
    Run {
        seed,
        result,
        took: began.elapsed(),
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without words".to_owned())
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uid.is_some_and(|uid| uid.split_whitespace().nth(1) == Some("0"))
}
