//! What an operator can set, with its environment variable, unit and default. The only file
//! that reads the environment.

use clap::Parser;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use transport::clock::seconds;
use transport::tls::Identity;

/// The Doppler: takes envelopes from agents and hands them to Traffic Controllers.
#[derive(Parser, Debug, Clone)]
#[command(version, about)]
pub struct Config {
    /// TCP port for agents (gRPC) and Traffic Controllers (WebSocket); 0 takes a free one.
    ///
    /// BOSH: `doppler.grpc_port`.
    #[arg(long, env = "ROUTER_PORT", default_value_t = 8082)]
    pub port: u16,

    /// IP address to listen on [default: all with TLS, 127.0.0.1 without].
    ///
    /// Plain text is refused on any address but loopback.
    #[arg(long, env = "ROUTER_ADDRESS")]
    pub address: Option<IpAddr>,

    /// PEM file with this Doppler's certificate, DNS SAN `doppler`. Without it: plain text.
    #[arg(long, env = "ROUTER_CERT_FILE", requires_all = ["key_file", "ca_file"])]
    pub cert_file: Option<PathBuf>,

    /// PEM file with its private key.
    #[arg(long, env = "ROUTER_KEY_FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,

    /// PEM file with the CA that clients' certificates must be signed by.
    #[arg(long, env = "ROUTER_CA_FILE", requires = "cert_file")]
    pub ca_file: Option<PathBuf>,

    /// TCP port of the admin listener on 127.0.0.1; 0 takes a free one.
    ///
    /// Serves /health/live, /health/ready, /metrics and /subscriptions. Stands in for
    /// upstream's pprof port, whose variable it keeps.
    #[arg(long, env = "ROUTER_PPROF_PORT", default_value_t = 0)]
    pub admin_port: u16,

    /// Bytes the chunk log may hold: what the slowest firehose may lag behind before it loses.
    #[arg(long, env = "DOPPLER_LOG_BYTES", default_value_t = 64 << 20)]
    pub log_bytes: usize,

    /// Bytes all tailed apps' queues may hold together.
    #[arg(long, env = "DOPPLER_APP_STORE_BYTES", default_value_t = 32 << 20)]
    pub app_store_bytes: usize,

    /// Bytes of half-received gRPC messages we hold; at least 10 MiB, one whole message.
    #[arg(long, env = "DOPPLER_HALF_RECEIVED_BYTES", default_value_t = 32 << 20)]
    pub half_received_bytes: usize,

    /// Connections at most, of agents and Traffic Controllers together.
    #[arg(long, env = "DOPPLER_MAX_CONNECTIONS", default_value_t = 16_384)]
    pub max_connections: usize,

    /// Seconds a firehose group outlives its last member, collecting.
    #[arg(long, env = "DOPPLER_LINGER", default_value = "5", value_parser = seconds)]
    pub linger: Duration,

    /// Seconds a stop may take: today's BOSH drain waits 5.
    #[arg(long, env = "DOPPLER_DRAIN", default_value = "4", value_parser = seconds)]
    pub drain: Duration,

    /// Worker threads; 1 runs everything on one [default: one per core].
    #[arg(long, env = "DOPPLER_WORKER_THREADS")]
    pub worker_threads: Option<usize>,

    /// What to log to stderr: a level, or `tracing` directives.
    #[arg(long, env = "DOPPLER_LOG", default_value = "info")]
    pub log: String,
}

impl Config {
    /// Reads flags and environment; prints what is wrong, or the help, and exits.
    pub fn from_args_and_env() -> Config {
        Config::parse()
    }

    /// Where to listen.
    pub fn listen(&self) -> SocketAddr {
        let everywhere = match self.cert_file {
            Some(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        SocketAddr::new(self.address.unwrap_or(everywhere), self.port)
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.admin_port)
    }

    /// Certificate, key and client CA, if this Doppler speaks TLS.
    pub fn tls(&self) -> Option<(Identity, PathBuf)> {
        let identity = Identity {
            cert: self.cert_file.clone()?,
            key: self.key_file.clone()?,
        };
        Some((identity, self.ca_file.clone()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_any_setting_it_listens_on_loopback_only() {
        let config = Config::try_parse_from(["doppler"]).unwrap();
        assert_eq!(config.listen(), "127.0.0.1:8082".parse().unwrap());
        assert!(config.tls().is_none());
    }

    #[test]
    fn a_certificate_without_its_key_is_an_error_that_names_the_flag() {
        let error = Config::try_parse_from(["doppler", "--cert-file", "x"]).unwrap_err();
        assert!(error.to_string().contains("--key-file"));
    }
}
