//! A server process from its settings to its exit code: the part of `main` that all share.

use crate::cause::chain;
use crate::shutdown::Signals;
use futures::future::{BoxFuture, FutureExt};
use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

/// What `--version` says: the version and the commit, which `deploy/release` has in the
/// environment while it builds. A build by hand does not know its commit.
pub const VERSION: &str = match option_env!("LOGGREGATOR_VERSION") {
    Some(version) => version,
    None => concat!(env!("CARGO_PKG_VERSION"), " (commit not known)"),
};

/// Resolves when the process is to stop.
pub type Stop = BoxFuture<'static, ()>;

/// Logs to stderr as `log` says, makes room for `connections` open at once, runs `server` on so many worker threads (one per core if not
/// said), and turns its end into an exit code: 0, 1 if it could not start, 2 if a setting is
/// wrong. The first SIGTERM or SIGINT stops the server, a second one ends the process at once.
///
/// One thread means one: everything runs on it. On few cores that costs less than two, since
/// waking another thread is most of what a small envelope costs.
pub fn run<E, F>(
    log: &str,
    connections: usize,
    threads: Option<usize>,
    server: impl FnOnce(Stop) -> F,
) -> ExitCode
where
    E: std::error::Error,
    F: Future<Output = Result<(), E>>,
{
    if let Err(bad) = crate::telemetry::log_to_stderr(log, false) {
        let _ = writeln!(io::stderr(), "could not log as asked: {}", chain(&bad));
        return ExitCode::from(2);
    }
    raise_open_files(connections);
    use_small_pages();
    let ended = runtime(threads).and_then(|runtime| {
        let _inside = runtime.enter();
        let stop = stop()?;
        let ended = runtime.block_on(server(stop));
        // Whatever still runs was told to end and had its time.
        runtime.shutdown_background();
        Ok(ended)
    });
    let code = match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            error!("could not start: {}", chain(&error));
            ExitCode::FAILURE
        }
        Err(error) => {
            error!("could not start the runtime: {error}");
            ExitCode::FAILURE
        }
    };
    crate::telemetry::flush_log();
    code
}

/// Files a process has open beside connections: listeners, logs, certificates while they load,
/// links to a few Dopplers.
const OTHER_FILES: u64 = 256;

/// Asks the kernel for as many open files as it would give us. The soft limit is 1,024 by
/// custom, which is for programs that use `select`; we do not. Warns if `connections` would be
/// too many.
pub fn raise_open_files(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(error) => {
            warn!(%error, "could not raise the limit of open files to what is allowed");
            before.current
        }
    };
    let needed = connections as u64 + OTHER_FILES;
    // `None` is no limit.
    if let Some(files) = files.filter(|files| *files < needed) {
        warn!(
            files,
            needed,
            connections,
            "fewer files may be open than connections are allowed: raise the hard limit \
             (ulimit -Hn, LimitNOFILE=, BOSH open_files), or allow fewer"
        );
    }
}

/// Asks the kernel for memory in pages of 4 KiB, whatever the allocator would like. A connection
/// has buffers of some KiB of which it touches the beginning; in pages of 2 MiB all of them
/// are resident: 12 KiB more of each connection.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "could not do without huge pages");
    }
}

fn stop() -> io::Result<Stop> {
    let mut signals = Signals::listen()?;
    let (first, stop) = oneshot::channel();
    tokio::spawn(async move {
        let signal = signals.next().await;
        info!(signal, "stopping; the next signal exits at once");
        let _ = first.send(());
        // What a shell gives for the signal: 128 and its number.
        let code = match signals.next().await {
            "SIGINT" => 130,
            _ => 143,
        };
        crate::telemetry::flush_log();
        #[expect(clippy::disallowed_methods, reason = "this is where a process ends")]
        std::process::exit(code)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_kernel_allows() {
        use rustix::process::{Resource, getrlimit};
        raise_open_files(1);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
