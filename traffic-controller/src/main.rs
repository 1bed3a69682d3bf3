//! `traffic-controller`: config → bind → say what was bound → run until a signal → drain →
//! exit code.

use std::io::Write;
use std::process::ExitCode;
use traffic_controller::config::Config;
use traffic_controller::server::{self, Listeners, StartError};
use transport::process::{self, Stop};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = match Config::from_args_and_env(server::check) {
        Ok(config) => config,
        Err(over) => return over.say(),
    };
    let (log, threads) = (config.log.clone(), config.worker_threads);
    // A firehose has a connection to each Doppler, too; most streams are tails.
    process::run(&log, config.max_streams, threads, |stop| {
        traffic_controller(config, stop)
    })
}

async fn traffic_controller(config: Config, stop: Stop) -> Result<(), StartError> {
    let listeners = Listeners::bind(&config)?;
    let (public, admin) = listeners.addresses()?;
    // Upstream's tools wait for these two lines.
    for address in public {
        let _ = writeln!(std::io::stderr(), "ws bound to: {address}");
    }
    let _ = writeln!(std::io::stderr(), "pprof bound to: {admin}");
    server::run(config, listeners, stop).await
}
