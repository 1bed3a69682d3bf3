//! A Doppler's way out, a Traffic Controller's dopplers, topics and front, and clients, all in one
//! thread under a simulated clock and network: Dopplers join, leave, drain, are killed and cut off
//! as a seed has it.
//!
//! In comes a seed, out comes a panic that names it if, at any moment, an account did not add up,
//! or if in the end an envelope came twice, out of order or to the wrong reader, or a stream was not
//! read again in time. `SIMULATION_SEED=17 cargo test --workspace --test simulation` runs one.
//!
//! A seed is a story: who does what, when, and how long the network takes. Which of two that are
//! ready goes first is drawn by tokio and by hash maps, so that a second run may differ in that.
//!
//! What is not in it: `server.rs` of both (a process has one recorder of metrics and one set of
//! signals; `tests/scenarios` runs them), TLS, gRPC. The producer stands at the Doppler's door.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "in a test a panic is the answer, and stderr is where it is read"
)]

mod client;
mod controller;
mod dopplers;
mod story;

use std::sync::atomic::{AtomicU64, Ordering};

/// How many seeds each run of the tests goes through.
const SEEDS: u64 = 200;

/// Says which seed failed.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("again: SIMULATION_SEED={seed} cargo test --workspace --test simulation");
        }
    }
}

fn run(seed: u64) -> story::Summary {
    let _told = Told(seed);
    story::run(seed)
}

#[test]
fn whatever_dopplers_do_the_accounts_add_up_and_streams_go_on() {
    if let Some(seed) = std::env::var_os("SIMULATION_SEED") {
        let seed = seed.to_str().and_then(|seed| seed.parse().ok());
        let summary = run(seed.expect("SIMULATION_SEED is a number"));
        eprintln!("{summary:?}");
        return;
    }
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let total = std::thread::scope(|scope| {
        let work = || {
            let mut sum = story::Summary::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= SEEDS {
                    return sum;
                }
                sum.add(&run(seed));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut total = story::Summary::default();
        for thread in threads {
            total.add(&thread.join().expect("a seed failed"));
        }
        total
    });
    eprintln!("{SEEDS} seeds: {total:?}");
    // A simulation in which nothing happens shows nothing.
    assert!(total.delivered > 100 * SEEDS, "{total:?}");
    for (what, count) in total.events {
        assert!(count > SEEDS / 20, "{what:?} came {count} times");
    }
}
