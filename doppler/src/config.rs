//! What an operator can set, with its environment variable, unit and default. The only file
//! that reads the environment.

use clap::Parser;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use transport::clock::{interval_ms, seconds};
use transport::networks::{IpNet, network};
use transport::settings::{self, Combination, Over, Property, Settings, nothing, pem, value};
use transport::tls::Identity;

/// The port of the agent when only its host is said: BOSH property `metron_endpoint.grpc_port`.
const AGENT_PORT: &str = "3458";

/// The Doppler: takes envelopes from agents and hands them to Traffic Controllers.
#[derive(Parser, Debug, Clone)]
#[command(version = transport::process::VERSION, about)]
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
    #[arg(long, env = "ROUTER_CERT_FILE")]
    pub cert_file: Option<PathBuf>,

    /// PEM file with its private key.
    #[arg(long, env = "ROUTER_KEY_FILE")]
    pub key_file: Option<PathBuf>,

    /// PEM file with the CA that clients' certificates must be signed by.
    #[arg(long, env = "ROUTER_CA_FILE")]
    pub ca_file: Option<PathBuf>,

    /// Cipher suites of TLS 1.2, comma or colon separated, by their OpenSSL or IANA names
    /// [default: the four ECDHE AES-GCM suites].
    #[arg(long, env = "ROUTER_CIPHER_SUITES")]
    pub cipher_suites: Option<String>,

    /// Names, of which a certificate needs one as DNS SAN to read; any certificate of the CA
    /// may write, as upstream.
    #[arg(
        long,
        env = "DOPPLER_READERS",
        value_delimiter = ',',
        default_value = "trafficcontroller,reverselogproxy"
    )]
    pub readers: Vec<String>,

    /// Let readers with other names in, and only log and count them: for a migration.
    #[arg(long, env = "DOPPLER_REPORT_ONLY_ROLES")]
    pub report_only_roles: bool,

    /// Log lines kept of each app for `recentlogs`; 0 keeps none.
    #[arg(long, env = "DOPPLER_RECENT_LOGS", default_value_t = 100)]
    pub recent_logs: usize,

    /// Bytes that recent logs and container metrics of all apps may take together.
    #[arg(long, env = "DOPPLER_RECENT_BYTES", default_value_t = 32 << 20)]
    pub recent_bytes: usize,

    /// Seconds a container metric is current.
    #[arg(long, env = "DOPPLER_CONTAINER_METRIC_TTL", default_value = "120", value_parser = seconds)]
    pub container_metric_ttl: Duration,

    /// Address of the Loggregator agent that takes this process's own metrics
    /// [default: none; they go into this Doppler's own stream].
    #[arg(long, env = "AGENT_GRPC_ADDRESS")]
    pub agent_grpc_address: Option<String>,

    /// Milliseconds between two reports of this process's own metrics; 0 is every second.
    #[arg(
        long = "metric-interval-ms",
        env = "ROUTER_METRIC_BATCH_INTERVAL_MILLISECONDS",
        default_value = "5000",
        value_parser = interval_ms
    )]
    pub metric_interval: Duration,

    /// `source_id` of this process's own metrics.
    #[arg(long, env = "ROUTER_METRIC_SOURCE_ID", default_value = "doppler")]
    pub metric_source_id: String,

    /// TCP port of the admin listener; 0 takes a free one.
    ///
    /// Serves /health/live, /health/ready, /metrics, /subscriptions and /losses. Stands in for
    /// upstream's pprof port, whose variable it keeps.
    #[arg(long, env = "ROUTER_PPROF_PORT", default_value_t = 0)]
    pub admin_port: u16,

    /// Networks that may ask the admin listener, beside this machine, as CIDR, comma separated:
    /// probes, Prometheus [default: none].
    ///
    /// With any of them it listens on all addresses, else on 127.0.0.1. It speaks plain text, and
    /// tells who reads what.
    #[arg(
        long,
        env = "DOPPLER_ADMIN_FROM",
        value_delimiter = ',',
        value_parser = network
    )]
    pub admin_from: Vec<IpNet>,

    /// Bytes the chunk log may hold: what the slowest firehose may lag behind before it loses.
    #[arg(long, env = "DOPPLER_LOG_BYTES", default_value_t = 64 << 20)]
    pub log_bytes: usize,

    /// Bytes all tailed apps' queues may hold together.
    #[arg(long, env = "DOPPLER_APP_STORE_BYTES", default_value_t = 32 << 20)]
    pub app_store_bytes: usize,

    /// Bytes of half-received gRPC messages we hold, half of them for large ones; at least 20 MiB,
    /// two of the largest.
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

    /// Address of the socket on which a supervisor is told that we are ready, alive and stopping, as
    /// systemd gives it: a path, or `@` and an abstract name [default: none].
    #[arg(long, env = "NOTIFY_SOCKET")]
    pub notify_socket: Option<String>,

    /// Microseconds after which the supervisor takes us for dead, as systemd gives them (`WatchdogSec=`)
    /// [default: never].
    #[arg(long, env = "WATCHDOG_USEC")]
    pub watchdog_usec: Option<u64>,

    /// Accepted for the Go Doppler's sake, and without effect: how many envelopes wait at the
    /// door. Ours wait in one log, bounded in bytes (--log-bytes).
    #[arg(long, env = "INGRESS_BUFFER_SIZE", value_name = "ENVELOPES")]
    pub ingress_buffer_size: Option<u64>,

    /// Accepted for the Go Doppler's sake, and without effect: how many envelopes wait for one
    /// reader. Ours wait in one log and one store, bounded in bytes (--log-bytes,
    /// --app-store-bytes).
    #[arg(long, env = "EGRESS_BUFFER_SIZE", value_name = "ENVELOPES")]
    pub egress_buffer_size: Option<u64>,

    /// Accepted for the Go Doppler's sake, and without effect: our log lines always begin with
    /// an RFC 3339 time.
    #[arg(long, env = "USE_RFC339")]
    pub use_rfc339: bool,

    /// Worker threads; 1 runs everything on one [default: one per core].
    #[arg(long, env = "DOPPLER_WORKER_THREADS")]
    pub worker_threads: Option<usize>,

    /// What to log to stderr: a level, or `tracing` directives.
    #[arg(long, env = "DOPPLER_LOG", default_value = "info")]
    pub log: String,
}

impl Settings for Config {
    const PROPERTIES: &'static [Property] = &[
        value("doppler.grpc_port", "port"),
        value("doppler.address", "address"),
        pem("loggregator.tls.doppler.cert", "cert_file"),
        pem("loggregator.tls.doppler.key", "key_file"),
        pem("loggregator.tls.ca_cert", "ca_file"),
        value("loggregator.tls.cipher_suites", "cipher_suites"),
        value("doppler.readers", "readers"),
        value("doppler.report_only_roles", "report_only_roles"),
        value("doppler.recent_logs", "recent_logs"),
        value("doppler.recent_bytes", "recent_bytes"),
        value("doppler.container_metric_ttl", "container_metric_ttl"),
        value(
            "doppler.metric_batch_interval_milliseconds",
            "metric_interval",
        ),
        value("doppler.metric_source_id", "metric_source_id"),
        value("doppler.pprof_port", "admin_port"),
        value("doppler.admin_from", "admin_from"),
        value("doppler.log_bytes", "log_bytes"),
        value("doppler.app_store_bytes", "app_store_bytes"),
        value("doppler.half_received_bytes", "half_received_bytes"),
        value("doppler.max_connections", "max_connections"),
        value("doppler.linger", "linger"),
        value("doppler.drain", "drain"),
        value("doppler.notify_socket", "notify_socket"),
        value("doppler.watchdog_usec", "watchdog_usec"),
        value("doppler.ingress_buffer_size", "ingress_buffer_size"),
        value("doppler.egress_buffer_size", "egress_buffer_size"),
        value("doppler.worker_threads", "worker_threads"),
        value("doppler.log", "log"),
        // Whether the job runs at all.
        nothing("doppler.enabled"),
    ];

    const COMBINATIONS: &'static [Combination] = &[
        Combination {
            argument: "agent_grpc_address",
            of: &["metron_endpoint.host", "metron_endpoint.grpc_port"],
            make: |of| {
                let (host, port) = (of[0].unwrap_or("127.0.0.1"), of[1].unwrap_or(AGENT_PORT));
                Some(format!("{host}:{port}"))
            },
        },
        Combination {
            argument: "use_rfc339",
            of: &["logging.format.timestamp"],
            make: |of| of[0].map(|format| (format == "rfc3339").to_string()),
        },
    ];

    fn contradictions(&self) -> Vec<String> {
        let mut all = Vec::new();
        let files = [&self.cert_file, &self.key_file, &self.ca_file];
        if files.iter().any(|file| file.is_some()) && files.iter().any(|file| file.is_none()) {
            all.push(
                "--cert-file (ROUTER_CERT_FILE), --key-file (ROUTER_KEY_FILE) and --ca-file \
                 (ROUTER_CA_FILE) belong together: give all three, or none for plain text"
                    .to_owned(),
            );
        }
        all
    }
}

impl Config {
    /// Reads flags, environment and file. `check` says what is wrong with the files that the
    /// settings name, when that is asked for.
    ///
    /// # Errors
    /// What to say instead of running.
    pub fn from_args_and_env(check: impl Fn(&Config) -> Vec<String>) -> Result<Config, Over> {
        settings::read(std::env::args_os(), |name| std::env::var_os(name), check)
    }

    /// Where to listen.
    pub fn listen(&self) -> SocketAddr {
        let everywhere = match self.cert_file {
            Some(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        SocketAddr::new(self.address.unwrap_or(everywhere), self.port)
    }

    /// How long the supervisor may hear nothing of us, if that matters to it.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog_usec.map(Duration::from_micros)
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> SocketAddr {
        let address = match self.admin_from.is_empty() {
            true => IpAddr::V4(Ipv4Addr::LOCALHOST),
            false => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        SocketAddr::new(address, self.admin_port)
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
    use std::ffi::OsString;

    fn read(args: &[&str], environment: &[(&str, &str)]) -> Result<Config, Over> {
        let args = ["doppler"].iter().chain(args).map(OsString::from);
        let environment = |name: &str| {
            let mut all = environment.iter();
            Some(all.find(|(known, _)| *known == name)?.1.into())
        };
        settings::read(args, environment, |_| vec![])
    }

    #[test]
    fn without_any_setting_it_listens_on_loopback_only() {
        let config = read(&[], &[]).unwrap();
        assert_eq!(config.listen(), "127.0.0.1:8082".parse().unwrap());
        assert!(config.tls().is_none());
    }

    #[test]
    fn a_certificate_without_its_key_is_an_error_that_names_the_flag() {
        let error = read(&["--cert-file", "x"], &[]).unwrap_err();
        assert!(error.to_string().contains("--key-file"));
    }

    #[test]
    fn every_setting_has_a_name_in_a_file_and_one_in_the_environment() {
        assert_eq!(settings::unnamed::<Config>(), Vec::<String>::new());
    }

    /// With REGENERATE=1 the page is written anew.
    #[test]
    fn the_page_of_settings_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
        let page = std::fs::read_to_string(path).unwrap();
        if let Err(current) = settings::is_current::<Config>(&page, "doppler") {
            assert!(
                std::env::var_os("REGENERATE").is_some(),
                "docs/settings.md is not current: run this test with REGENERATE=1"
            );
            std::fs::write(path, current).unwrap();
        }
    }

    #[test]
    fn bosh_starts_it_with_what_it_gives_the_go_doppler() {
        let environment = [
            ("ROUTER_PORT", "8082"),
            ("ROUTER_CERT_FILE", "doppler.crt"),
            ("ROUTER_KEY_FILE", "doppler.key"),
            ("ROUTER_CA_FILE", "ca.crt"),
            (
                "ROUTER_CIPHER_SUITES",
                "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
            ),
            ("INGRESS_BUFFER_SIZE", "10000"),
            ("EGRESS_BUFFER_SIZE", "1000"),
            ("AGENT_GRPC_ADDRESS", "127.0.0.1:3458"),
            ("ROUTER_METRIC_BATCH_INTERVAL_MILLISECONDS", "5000"),
            ("ROUTER_METRIC_SOURCE_ID", "doppler"),
            ("ROUTER_PPROF_PORT", "0"),
            ("USE_RFC339", "true"),
        ];
        let config = read(&[], &environment).unwrap();
        assert_eq!(config.listen(), "[::]:8082".parse().unwrap());
        assert_eq!(config.agent_grpc_address.as_deref(), Some("127.0.0.1:3458"));
        assert!(config.tls().is_some() && config.use_rfc339);
        let known: Vec<_> = settings::environment::<Config>();
        for (name, _) in environment {
            assert!(known.iter().any(|known| known == name), "{name}");
        }
    }

    #[test]
    fn a_port_that_is_none_is_an_error_that_names_the_variable() {
        let error = read(&[], &[("ROUTER_PORT", "70000")]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("ROUTER_PORT (--port): \"70000\"")
        );
    }
}
