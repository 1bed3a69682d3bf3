//! `cargo gates`: what an envelope costs, in units that a busy machine does not change:
//! instructions and allocations, counted by valgrind's callgrind within one process, and system
//! calls of the real programs, counted by strace.
//!
//! Prints a table, and exits with 1 if anything is over its limit ([`limits`]). Time is not
//! measured: `cargo load` does that.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "a measurement that goes wrong should stop, and stdout is where its result goes"
)]

mod callgrind;
mod cases;
mod feed;
mod limits;
mod pipeline;
mod syscalls;

use clap::Parser;
use limits::{Counted, LIMITS};
use std::process::ExitCode;

/// Counts what envelopes cost, and fails if they cost more than they may.
#[derive(Parser, Debug)]
struct Args {
    /// Only do what is counted, which case and after how many rounds: we are the process under
    /// valgrind.
    #[arg(long, hide = true)]
    under_valgrind: Vec<usize>,
}

fn main() -> ExitCode {
    if let [case, rounds] = Args::parse().under_valgrind[..] {
        cases::run(case, rounds);
        return ExitCode::SUCCESS;
    }
    let mut counted = callgrind::count();
    counted.extend(syscalls::count());
    judge(&counted)
}

/// Prints what was counted beside what it may be.
fn judge(counted: &[Counted]) -> ExitCode {
    println!("{:58} {:>10} {:>10} {:>10}", "", "now", "measured", "limit");
    let mut over = Vec::new();
    for Counted { what, unit, count } in counted {
        let limit = LIMITS
            .iter()
            .find(|limit| limit.what == *what && limit.unit == *unit)
            .unwrap_or_else(|| panic!("{what}: {unit} have no limit in tests/gates/limits.rs"));
        let name = format!("{what}: {unit}");
        let (measured, most) = (shown(limit.measured), shown(limit.limit));
        println!("{name:58} {:>10} {measured:>10} {most:>10}", shown(*count));
        if *count > limit.limit {
            over.push(format!(
                "{what}: {} {unit}, limit {most} ({measured} when it was set)",
                shown(*count)
            ));
        }
    }
    assert_eq!(
        counted.len(),
        LIMITS.len(),
        "a limit in tests/gates/limits.rs is for nothing that is counted"
    );
    if !cfg!(all(debug_assertions, target_arch = "x86_64")) {
        println!("gates: the limits are for the profile dev on x86-64");
        return ExitCode::FAILURE;
    }
    for line in &over {
        println!("gates: {line}");
    }
    if !over.is_empty() {
        println!(
            "gates: {} over. `callgrind_annotate {}/callgrind.out.N` shows where instructions went, \
             N being the case. If it is worth its cost, or a new compiler made it so, set the limit \
             in tests/gates/limits.rs anew and say why.",
            over.len(),
            callgrind::directory().display()
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// `12,345`, or with decimals if it is small.
fn shown(count: f64) -> String {
    if count < 10.0 {
        return format!("{count:.3}");
    }
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
