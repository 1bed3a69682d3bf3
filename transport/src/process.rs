//! A server process from its settings to its exit code: the part of `main` that all share.

use crate::shutdown::Signals;
use futures::future::{BoxFuture, FutureExt};
use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tracing::{error, info};

/// Resolves when the process is to stop.
pub type Stop = BoxFuture<'static, ()>;

/// Logs to stderr as `log` says, runs `server` on so many worker threads (one per core if not
/// said), and turns its end into an exit code: 0, 1 if it could not start, 2 if a setting is
/// wrong. The first SIGTERM or SIGINT stops the server, a second one ends the process at once.
///
/// One thread means one: everything runs on it. On few cores that costs less than two, since
/// waking another thread is most of what a small envelope costs.
pub fn run<E, F>(log: &str, threads: Option<usize>, server: impl FnOnce(Stop) -> F) -> ExitCode
where
    E: std::error::Error,
    F: Future<Output = Result<(), E>>,
{
    if let Err(bad) = crate::telemetry::log_to_stderr(log, false) {
        let _ = writeln!(io::stderr(), "could not log as asked: {}", chain(&bad));
        return ExitCode::from(2);
    }
    let ended = runtime(threads).and_then(|runtime| {
        let _inside = runtime.enter();
        let stop = stop()?;
        let ended = runtime.block_on(server(stop));
        // Whatever still runs was told to end and had its time.
        runtime.shutdown_background();
        Ok(ended)
    });
    match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            error!("could not start: {}", chain(&error));
            ExitCode::FAILURE
        }
        Err(error) => {
            error!("could not start the runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

fn stop() -> io::Result<Stop> {
    let mut signals = Signals::listen()?;
    let (first, stop) = oneshot::channel();
    tokio::spawn(async move {
        let signal = signals.next().await;
        info!(signal, "stopping; the next signal exits at once");
        let _ = first.send(());
        #[expect(clippy::disallowed_methods, reason = "this is where a process ends")]
        // What a shell gives for the signal: 128 and its number.
        std::process::exit(match signals.next().await {
            "SIGINT" => 130,
            _ => 143,
        })
    });
    Ok(stop.map(drop).boxed())
}

fn runtime(threads: Option<usize>) -> io::Result<Runtime> {
    let mut builder = match threads {
        Some(1) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if let Some(threads @ 2..) = threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

/// An error and all that caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_shown_with_what_caused_it() {
        #[derive(Debug, thiserror::Error)]
        #[error("could not open the file")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("no such file"));
        assert_eq!(chain(&error), "could not open the file: no such file");
    }
}
