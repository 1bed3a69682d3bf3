//! What an operator can set, with its environment variable, unit and default. The only file
//! that reads the environment.

use clap::Parser;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use transport::clock::seconds;
use transport::tls::Identity;

/// The port clients know when nothing else is said: BOSH property `logger_endpoint.port`.
const LOGGER_ENDPOINT_PORT: u16 = 4443;

/// The Traffic Controller: serves app streams and firehoses gathered from all Dopplers.
#[derive(Parser, Debug, Clone)]
#[command(version, about)]
pub struct Config {
    /// TCP port for clients; 0 takes a free one. BOSH: `loggregator.outgoing_dropsonde_port`.
    #[arg(long, env = "TRAFFIC_CONTROLLER_OUTGOING_DROPSONDE_PORT")]
    pub port: Option<u16>,

    /// TCP port for clients that the balancer forwards to unchanged
    /// [default: 4443 if --port is not given, else none].
    ///
    /// BOSH: `logger_endpoint.port`. In Cloud Foundry this is the balancer's port, and what
    /// Cloud Controller tells clients.
    #[arg(long, env = "LOGGER_ENDPOINT_PORT")]
    pub logger_endpoint_port: Option<u16>,

    /// IP address to listen on [default: all with TLS, 127.0.0.1 without].
    ///
    /// Plain text is refused on any address but loopback.
    #[arg(long, env = "TRAFFIC_CONTROLLER_ADDRESS")]
    pub address: Option<IpAddr>,

    /// PEM file with the certificate shown to clients. Without it: plain text.
    #[arg(
        long,
        env = "TRAFFIC_CONTROLLER_OUTGOING_CERT_FILE",
        requires = "outgoing_key_file"
    )]
    pub outgoing_cert_file: Option<PathBuf>,

    /// PEM file with its private key.
    #[arg(
        long,
        env = "TRAFFIC_CONTROLLER_OUTGOING_KEY_FILE",
        requires = "outgoing_cert_file"
    )]
    pub outgoing_key_file: Option<PathBuf>,

    /// The Dopplers to read from, `host:port`, comma separated.
    #[arg(long, env = "ROUTER_ADDRS", value_delimiter = ',')]
    pub router_addrs: Vec<String>,

    /// PEM file with the CA of the Dopplers' certificates. Without it: plain text.
    #[arg(long, env = "ROUTER_CA_FILE", requires_all = ["router_cert_file", "router_key_file"])]
    pub router_ca_file: Option<PathBuf>,

    /// PEM file with this Traffic Controller's certificate for Dopplers.
    #[arg(long, env = "ROUTER_CERT_FILE", requires = "router_ca_file")]
    pub router_cert_file: Option<PathBuf>,

    /// PEM file with its private key.
    #[arg(long, env = "ROUTER_KEY_FILE", requires = "router_ca_file")]
    pub router_key_file: Option<PathBuf>,

    /// File of static tokens and what each may read. Without it everybody may read
    /// everything, which is refused on any address but loopback.
    #[arg(long, env = "TRAFFIC_CONTROLLER_TOKENS_FILE")]
    pub tokens_file: Option<PathBuf>,

    /// Client streams at a time; more are answered 503.
    #[arg(long, env = "TRAFFIC_CONTROLLER_MAX_STREAMS", default_value_t = 10_000)]
    pub max_streams: usize,

    /// Bytes all apps' topics may hold together.
    #[arg(long, env = "TRAFFIC_CONTROLLER_TOPIC_BYTES", default_value_t = 64 << 20)]
    pub topic_bytes: usize,

    /// Bytes one app's topic may hold: what its slowest tail may lag behind before it loses.
    #[arg(long, env = "TRAFFIC_CONTROLLER_APP_BYTES", default_value_t = 256 << 10)]
    pub app_bytes: usize,

    /// TCP port of the admin listener on 127.0.0.1; 0 takes a free one.
    ///
    /// Serves /health/live, /health/ready, /metrics and /subscriptions. Stands in for
    /// upstream's pprof port, whose variable it keeps.
    #[arg(long, env = "TRAFFIC_CONTROLLER_PPROF_PORT", default_value_t = 0)]
    pub admin_port: u16,

    /// Seconds a stop may take: today's BOSH drain waits 5.
    #[arg(long, env = "TRAFFIC_CONTROLLER_DRAIN", default_value = "4", value_parser = seconds)]
    pub drain: Duration,

    /// Worker threads; 1 runs everything on one [default: one per core].
    #[arg(long, env = "TRAFFIC_CONTROLLER_WORKER_THREADS")]
    pub worker_threads: Option<usize>,

    /// What to log to stderr: a level, or `tracing` directives.
    #[arg(long, env = "TRAFFIC_CONTROLLER_LOG", default_value = "info")]
    pub log: String,
}

impl Config {
    /// Reads flags and environment; prints what is wrong, or the help, and exits.
    pub fn from_args_and_env() -> Config {
        Config::parse()
    }

    /// Where to listen for clients: at least one address.
    pub fn listen(&self) -> Vec<SocketAddr> {
        let everywhere = match self.outgoing_cert_file {
            Some(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let ports = match (self.port, self.logger_endpoint_port) {
            (None, None) => vec![LOGGER_ENDPOINT_PORT],
            (port, logger_endpoint) => port.into_iter().chain(logger_endpoint).collect(),
        };
        let address = self.address.unwrap_or(everywhere);
        ports
            .into_iter()
            .map(|port| SocketAddr::new(address, port))
            .collect()
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.admin_port)
    }

    /// Certificate and key for clients, if they are served over TLS.
    pub fn outgoing_tls(&self) -> Option<Identity> {
        Some(Identity {
            cert: self.outgoing_cert_file.clone()?,
            key: self.outgoing_key_file.clone()?,
        })
    }

    /// Certificate, key and CA for Dopplers, if they are reached over TLS.
    pub fn router_tls(&self) -> Option<(Identity, PathBuf)> {
        let identity = Identity {
            cert: self.router_cert_file.clone()?,
            key: self.router_key_file.clone()?,
        };
        Some((identity, self.router_ca_file.clone()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(args: &[&str]) -> Vec<u16> {
        let config = Config::try_parse_from([&["traffic-controller"], args].concat()).unwrap();
        config.listen().iter().map(SocketAddr::port).collect()
    }

    #[test]
    fn it_listens_on_the_logger_endpoint_port_unless_upstreams_variable_says_otherwise() {
        assert_eq!(ports(&[]), [4443]);
        assert_eq!(ports(&["--port", "8081"]), [8081]);
        assert_eq!(ports(&["--logger-endpoint-port", "443"]), [443]);
        assert_eq!(
            ports(&["--port", "8081", "--logger-endpoint-port", "4443"]),
            [8081, 4443]
        );
    }
}
