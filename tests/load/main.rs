//! `cargo load`: what the pipeline costs, measured from outside.
//!
//! Starts a Doppler and a Traffic Controller as processes, ours or the Go original, mTLS and TLS
//! on every hop, feeds them and reads from them, and prints one line of JSON, a
//! [`report::Report`]: rates, loss, latency, and for each process its CPU seconds per million
//! envelopes and its peak memory. The CPU counted is that between the first and the last
//! envelope. Everything is on loopback and ends by itself.
//!
//! `cargo load table` and `cargo load curves` do that many times over, and write the pages
//! docs/performance.md and docs/scaling.md.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that goes wrong should stop, and stdout is where its result goes"
)]

mod apart;
mod curve;
mod experiment;
mod feed;
mod generator;
mod page;
mod peer;
mod plot;
mod reader;
mod report;
mod results;
mod roofline;
mod run;
mod table;

use clap::{Parser, Subcommand};
use serde::Serialize;
use std::process::ExitCode;

/// What Doppler and Traffic Controller cost: one run, or with a command all there is to know.
#[derive(Parser, Debug)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::Args,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Measures every row of docs/performance.md, and writes it.
    Table(experiment::Args),
    /// Measures how cost grows with work, and writes docs/scaling.md.
    Curves(experiment::Args),
    /// Writes a page again from what was measured.
    Render(page::Args),
    /// Measures what moving and converting the bytes costs alone.
    Roofline(roofline::Args),
    /// Agents alone, for a Doppler that runs somewhere.
    Agents(apart::Agents),
    /// Readers alone, of a Traffic Controller that runs somewhere.
    Readers(apart::Readers),
    /// One hop of the roofline.
    #[command(hide = true)]
    Relay(roofline::Relay),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    match &args.command {
        None => {
            let report = runtime.block_on(run::measure(&args.run));
            print(&report);
            if !report.failures.is_empty() {
                return ExitCode::FAILURE;
            }
        }
        Some(Command::Table(args)) => table::measure(args),
        Some(Command::Curves(args)) => curve::measure(args),
        Some(Command::Render(args)) => page::render(args),
        Some(Command::Roofline(args)) => print(&runtime.block_on(roofline::measure(args))),
        Some(Command::Agents(args)) => print(&runtime.block_on(apart::feed(args))),
        Some(Command::Readers(args)) => print(&runtime.block_on(apart::read(args))),
        Some(Command::Relay(args)) => runtime.block_on(roofline::relay(args)),
    }
    ExitCode::SUCCESS
}

fn print(report: &impl Serialize) {
    let line = serde_json::to_string(report);
    println!("{}", line.expect("numbers and text"));
}
