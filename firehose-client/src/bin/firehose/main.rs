//! `firehose`: arguments → connect → print until told otherwise → exit code.

#![cfg_attr(test, allow(clippy::unwrap_used))] // a failed unwrap is a failed test

use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;
use transport::shutdown::Signals;

mod args;
mod bench;
mod counts;
mod doctor;
mod emit;
mod exit;
mod human;
mod json;
mod notes;
mod output;
mod platform;
mod read;
mod why;
mod words;

use args::{Cli, Command, Format};
use exit::Failure;
use human::Human;
use notes::Notes;
use output::{Form, Output};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long we take to leave after a signal: 2 s, for a goodbye to the server and a last line
/// to whoever reads us. If he does not read, nothing can be done about it.
const LEAVE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let notes = Notes::new(cli.quiet);
    match run(cli, notes.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.reader_left() => ExitCode::SUCCESS,
        Err(failure) => {
            notes.error(&failure);
            failure.code()
        }
    }
}

fn run(cli: Cli, notes: Notes) -> Result<(), Failure> {
    match cli.command {
        Command::Tail(tail) => {
            let coloured = tail.coloured();
            let output = Output::new(match tail.json {
                true => Form::Json,
                false => Form::Human(Human {
                    coloured,
                    terminal: coloured || output::is_terminal(),
                }),
            })?;
            let max = tail.limit.max;
            until_signal(move |mut stop| async move {
                let stream = tokio::select! {
                    biased;
                    _ = &mut stop => return Ok(()),
                    stream = platform::tail(&tail, &notes) => stream?,
                };
                read::read(stream, output, max, notes, stop).await
            })
        }
        Command::Subscribe(subscribe) => {
            let output = Output::new(match subscribe.output {
                Format::Json => Form::Json,
                Format::Protobuf => Form::Protobuf,
                Format::Counts => Form::counts(),
            })?;
            let max = subscribe.limit.max;
            until_signal(move |mut stop| async move {
                let stream = tokio::select! {
                    biased;
                    _ = &mut stop => return Ok(()),
                    stream = platform::subscribe(&subscribe, &notes) => stream?,
                };
                read::read(stream, output, max, notes, stop).await
            })
        }
        Command::Emit(emit) => until_signal(move |stop| emit::emit(emit, notes, stop)),
        Command::Why(why) => until_signal(move |mut stop| async move {
            tokio::select! {
                _ = &mut stop => Ok(()),
                said = why::why(why, notes) => said,
            }
        }),
        Command::Bench(bench) => until_signal(move |stop| bench::bench(bench, notes, stop)),
        Command::Doctor(doctor) => until_signal(move |mut stop| async move {
            tokio::select! {
                _ = &mut stop => Ok(()),
                said = doctor::doctor(doctor.straightened(), notes) => said,
            }
        }),
        Command::Completions(completions) => {
            let mut script = Vec::new();
            let mut command = Cli::command();
            clap_complete::generate(completions.shell, &mut command, "firehose", &mut script);
            output::write_all(&script)?;
            Ok(())
        }
    }
}

/// Runs `work`, and tells it to stop at the first SIGINT or SIGTERM.
///
/// It has a thread of its own: a write to a pipe that nobody reads blocks it, and must not keep
/// us from leaving.
fn until_signal<W>(
    work: impl FnOnce(oneshot::Receiver<()>) -> W + Send + 'static,
) -> Result<(), Failure>
where
    W: Future<Output = Result<(), Failure>>,
{
    let ours = runtime()?;
    let theirs = runtime()?;
    ours.block_on(async {
        let mut signals = Signals::listen()?;
        let (stop, stopped) = oneshot::channel();
        let (end, mut ended) = oneshot::channel();
        std::thread::spawn(move || {
            _ = end.send(theirs.block_on(work(stopped)));
            // Not waiting for a read of stdin that may never end.
            theirs.shutdown_background();
        });
        let ended = tokio::select! {
            ended = &mut ended => ended,
            _ = signals.next() => {
                _ = stop.send(());
                match timeout(LEAVE, ended).await {
                    Ok(ended) => ended,
                    Err(_) => return Ok(()),
                }
            }
        };
        ended.unwrap_or(Err(Failure::Panicked))
    })
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
