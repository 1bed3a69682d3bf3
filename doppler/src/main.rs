//! `doppler`: config → bind → say what was bound → run until a signal → drain → exit code.

use doppler::config::Config;
use doppler::server::{self, Listeners, StartError};
use std::io::Write;
use std::process::ExitCode;
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
    process::run(&log, config.max_connections, threads, |stop| {
        doppler(config, stop)
    })
}

async fn doppler(config: Config, stop: Stop) -> Result<(), StartError> {
    let listeners = Listeners::bind(&config)?;
    let (port, admin) = listeners.addresses()?;
    // Upstream's tools wait for these two lines.
    let _ = writeln!(
        std::io::stderr(),
        "grpc bound to: {port}\npprof bound to: {admin}"
    );
    server::run(config, listeners, stop).await
}
