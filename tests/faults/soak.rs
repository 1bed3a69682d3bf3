//! Faults at random for as long as asked, one every half minute, in one cluster under a modest
//! load: what grows only slowly shows, and what only two faults together do.
//!
//! Of three Dopplers and three Traffic Controllers two each are struck; of the third ones and
//! what flows through both of them nothing may ever be lost, and their memory and files are the
//! trend in the report.

use crate::balancer::Balancer;
use crate::machine::{SPARE, allow_files, files_allowed};
use crate::namespace::{Cut, Packets};
use crate::world::World;
use crate::{page, said};
use futures::FutureExt;
use harness::process::{Process, Signal};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// From one fault to the next.
const EVERY: Duration = Duration::from_secs(30);

/// Envelopes a second into each Doppler: little, so that the machine is never the bottleneck.
const RATE: u64 = 200;

/// How often pages are looked at, and how often memory and files are noted.
const LOOK: Duration = Duration::from_secs(1);

/// How long a fault lasts that lasts.
const LASTS: std::ops::Range<u64> = 1_000..4_000;

/// Until all flows again, at most: TCP's retransmissions and the links' backoff, and room.
const BOUND: Duration = Duration::from_secs(10);

/// The one Doppler, Traffic Controller, feed and nozzle that no fault is aimed at.
const SPARED: usize = 2;

/// What strikes. Each is drawn as often as any other.
const FAULTS: [&str; 12] = [
    "Doppler killed",
    "Doppler paused",
    "Doppler restarted",
    "Traffic Controller killed",
    "Traffic Controller paused",
    "Traffic Controller restarted",
    "partition of a Doppler",
    "one-way partition, to a Doppler",
    "one-way partition, from a Doppler",
    "readers stalled",
    "no more files",
    "log not read",
];

/// What came of all faults of one kind.
#[derive(Default)]
struct Sum {
    times: u64,
    recoveries: Vec<Duration>,
    lost: u64,
}

/// What a process had, at some time.
struct Sample {
    at: Duration,
    resident: u64,
    files: usize,
}

struct Soak {
    world: World,
    _balancer: Balancer,
    began: Instant,
    sums: BTreeMap<&'static str, Sum>,
    samples: BTreeMap<String, Vec<Sample>>,
    /// Where each feed stood when the last fault was over.
    marks: Vec<u64>,
}

pub(crate) async fn run(minutes: f64, seed: u64, inside: bool, report: Option<&Path>) -> ExitCode {
    if !inside {
        eprintln!("a soak drops packets, which takes a network namespace (see above)");
        return ExitCode::FAILURE;
    }
    println!("soaking for {minutes} minutes, seed {seed}");
    let mut soak = Soak::start(seed).await;
    let end = soak.began + Duration::from_secs_f64(minutes * 60.0);
    let going = AssertUnwindSafe(soak.until(end)).catch_unwind().await;
    let wrong = going.as_ref().err().map(|panic| said(panic.as_ref()));
    let text = soak.report(minutes, seed, wrong.as_deref());
    println!("\n{text}");
    if let Some(path) = report
        && let Err(error) = std::fs::write(path, text)
    {
        eprintln!("could not write {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    match going {
        Ok(()) => ExitCode::SUCCESS,
        // The world says what a person needs as it goes.
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Soak {
    async fn start(seed: u64) -> Soak {
        let mut world = World::start_looking(World::describe(3, 3), seed, LOOK).await;
        let struck = world.cluster.controllers[..SPARED].iter();
        let servers: Vec<_> = struck.map(|controller| controller.address).collect();
        let balancer = Balancer::start(&servers).await;
        world.firehose("one", 0).await;
        world.firehose("two", 1).await;
        world.firehose("spared", SPARED).await;
        world.firehose_at("balanced", balancer.address).await;
        for app in 0..6 {
            world.tail(app, app as usize % 3, None).await;
        }
        world.cluster.tailed(0..6, 1).await;
        world.feed_all(10, RATE);
        world.flows().await;
        Soak {
            marks: world.marks(),
            world,
            _balancer: balancer,
            began: Instant::now(),
            sums: BTreeMap::new(),
            samples: BTreeMap::new(),
        }
    }

    async fn until(&mut self, end: Instant) {
        while Instant::now() < end {
            let next = Instant::now() + EVERY;
            let fault = FAULTS[self.world.rng.usize(0..FAULTS.len())];
            self.round(fault).await;
            while Instant::now() < next.min(end) {
                self.sample();
                sleep(LOOK * 5).await;
            }
        }
        let marks = self.world.marks();
        self.world.loses_nothing_since(&marks).await;
        self.marks = self.world.marks();
        self.world.holds().await;
    }

    /// One fault, and what it cost whom.
    async fn round(&mut self, fault: &'static str) {
        let before = self.world.dropped().await;
        let recovery = self.strike(fault).await;
        assert!(recovery <= BOUND, "{fault}: took {recovery:?}");
        // What is on its way arrives.
        sleep(Duration::from_secs(2)).await;
        let world = &self.world;
        let lost: Vec<usize> = (0..world.nozzles.len())
            .map(|nozzle| self.missing(nozzle).len())
            .collect();
        let of_spared = self.missing(SPARED);
        let of_spared: Vec<_> = of_spared
            .iter()
            .filter(|(feed, _)| *feed as usize == SPARED)
            .collect();
        assert!(
            of_spared.is_empty(),
            "{fault}: the spared lost {of_spared:?}"
        );
        let all = lost.iter().sum::<usize>() as u64;
        let kept_its_processes = !fault.contains("killed") && !fault.contains("restarted");
        if kept_its_processes {
            let told = world.dropped().await - before;
            assert_eq!(
                all, told,
                "{fault}: what the oracle misses, and what was told"
            );
        }
        for nozzle in &world.nozzles {
            nozzle.seen().assert_clean(&nozzle.name);
        }
        let (wrong, _) = world.watch.found();
        assert!(wrong.is_empty(), "{fault}: {wrong:?}");
        let sum = self.sums.entry(fault).or_default();
        sum.times += 1;
        sum.recoveries.push(recovery);
        sum.lost += all;
        let at = self.began.elapsed().as_secs();
        println!(
            "{at:>5} s  {fault}: {}, lost {all}",
            page::seconds(recovery)
        );
        self.marks = self.world.marks();
    }

    /// What that nozzle lost since the last round, but for what may still be on its way.
    fn missing(&self, nozzle: usize) -> Vec<(u32, u64)> {
        let on_its_way = RATE;
        let marks = &self.marks;
        let missing = self.world.missing(nozzle, marks).into_iter();
        let settled =
            |(feed, n): &(u32, u64)| *n + on_its_way < self.world.feeds[*feed as usize].handed();
        missing.filter(settled).collect()
    }

    /// Does it, heals it, and measures until everything flows again.
    async fn strike(&mut self, fault: &'static str) -> Duration {
        let world = &mut self.world;
        let victim = world.rng.usize(0..SPARED);
        let lasts = Duration::from_millis(world.rng.u64(LASTS));
        let port = world.cluster.dopplers[victim].address.port();
        match fault {
            "Doppler killed" => {
                World::kill(&mut world.doppler(victim).process).await;
                sleep(lasts).await;
                world.revive_doppler(victim).await;
            }
            "Doppler paused" => pause(&mut world.doppler(victim).process, lasts).await,
            "Doppler restarted" => world.restart_doppler(victim).await,
            "Traffic Controller killed" => {
                World::kill(&mut world.controller(victim).process).await;
                sleep(lasts).await;
                world.revive_controller(victim).await;
            }
            "Traffic Controller paused" => {
                pause(&mut world.controller(victim).process, lasts).await
            }
            "Traffic Controller restarted" => world.restart_controller(victim).await,
            "partition of a Doppler" => {
                let _cut = Cut::off(port);
                sleep(lasts).await;
            }
            "one-way partition, to a Doppler" => {
                let _cut = Cut::of(&[Packets::To(port)]);
                sleep(lasts).await;
            }
            "one-way partition, from a Doppler" => {
                let _cut = Cut::of(&[Packets::From(port)]);
                sleep(lasts).await;
            }
            "readers stalled" => {
                world.nozzles[victim].stall(true);
                sleep(lasts).await;
                world.nozzles[victim].stall(false);
            }
            "no more files" => {
                let process = &world.cluster.controllers[victim].process;
                let plenty = files_allowed(process);
                allow_files(process, process.open_files() + SPARE);
                sleep(lasts).await;
                allow_files(process, plenty);
            }
            _ => {
                let process = &world.cluster.controllers[victim].process;
                process.ignore_stderr(true);
                sleep(lasts).await;
                process.ignore_stderr(false);
            }
        }
        let (feeds, nozzles) = world.everything();
        world.recovered(&feeds, &nozzles, Instant::now()).await
    }

    fn sample(&mut self) {
        let at = self.began.elapsed();
        for (process, _) in self.world.processes() {
            let samples = self.samples.entry(process.name().to_owned()).or_default();
            samples.push(Sample {
                at,
                resident: process.usage().resident,
                files: process.open_files(),
            });
        }
    }

    fn report(&self, minutes: f64, seed: u64, wrong: Option<&str>) -> String {
        let mut text = String::new();
        let ran = self.began.elapsed().as_secs_f64() / 60.0;
        let faults: u64 = self.sums.values().map(|sum| sum.times).sum();
        let sent: u64 = self.marks.iter().sum();
        let verdict = match wrong {
            None => "Every check held.".to_owned(),
            Some(wrong) => format!("**It ended with: {wrong}**"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{}\n\n    cargo faults --soak {minutes} --seed {seed} --report FILE\n\n\
             {ran:.1} minutes, {faults} faults, {sent} envelopes sent to three Dopplers and read \
             by ten clients. {verdict} {}\n",
            include_str!("soak_head.md").trim_end(),
            page::measured(),
        );
        text.push_str(
            "| fault | times | recovery: median, worst | oracle: lost, all clients |\n\
             |---|---|---|---|\n",
        );
        for (fault, sum) in &self.sums {
            let mut times = sum.recoveries.clone();
            times.sort();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            let worst = times.last().copied().unwrap_or_default();
            let (median, worst) = (page::seconds(median), page::seconds(worst));
            let (times, lost) = (sum.times, sum.lost);
            let _ = writeln!(text, "| {fault} | {times} | {median}, {worst} | {lost} |");
        }
        text.push_str(
            "\n| process | resident at 10 %, end, most | trend after 20 % | files at 10 %, end, \
             most |\n|---|---|---|---|\n",
        );
        for (name, samples) in &self.samples {
            let Some(last) = samples.last() else {
                continue;
            };
            let first = &samples[samples.len() / 10];
            let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
            let most = samples.iter().map(|sample| sample.resident).max();
            let most_files = samples.iter().map(|sample| sample.files).max();
            let _ = writeln!(
                text,
                "| {name} | {}, {}, {} | {:+.2} MiB/h | {}, {}, {} |",
                mib(first.resident),
                mib(last.resident),
                mib(most.unwrap_or_default()),
                slope(&samples[samples.len() / 5..]),
                first.files,
                last.files,
                most_files.unwrap_or_default(),
            );
        }
        text.push_str(
            "\nProcesses 2 of either kind were never struck; the others' lines go on over their \
             restarts.\n",
        );
        text
    }
}

async fn pause(process: &mut Process, lasts: Duration) {
    process.signal(Signal::Stop);
    sleep(lasts).await;
    process.signal(Signal::Continue);
}

/// By how many MiB an hour memory grew: least squares.
fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let x = |sample: &Sample| sample.at.as_secs_f64() / 3600.0;
    let y = |sample: &Sample| sample.resident as f64 / f64::from(1 << 20);
    let (mx, my) = (
        samples.iter().map(x).sum::<f64>() / count,
        samples.iter().map(y).sum::<f64>() / count,
    );
    let over: f64 = samples.iter().map(|s| (x(s) - mx) * (y(s) - my)).sum();
    let under: f64 = samples.iter().map(|s| (x(s) - mx).powi(2)).sum();
    if under == 0.0 { 0.0 } else { over / under }
}
