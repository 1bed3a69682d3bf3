//! What an operator can set, with its environment variable, unit and default. The only file
//! that reads the environment.

use crate::dopplers::discovery::Name;
use crate::front::{Origin, Rules};
use clap::Parser;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use transport::clock::{interval, seconds};
use transport::networks::{IpNet, Networks, network};
use transport::secret::Secret;
use transport::settings::{self, Combination, Over, Property, Settings, nothing, pem, value};
use transport::tls::Identity;

/// The port clients know when nothing else is said: BOSH property `logger_endpoint.port`.
const LOGGER_ENDPOINT_PORT: u16 = 4443;

/// The ports of the agent, of Dopplers and of Cloud Controller when only their hosts are said:
/// the defaults of BOSH properties `metron_endpoint.grpc_port`, `doppler.grpc_port`,
/// `cc.tls_port`.
const AGENT_PORT: &str = "3458";
const DOPPLER_PORT: &str = "8082";
const CC_PORT: &str = "9023";

/// Where BOSH has the security event log.
const SECURITY_EVENT_LOG: &str = "/var/vcap/sys/log/loggregator_trafficcontroller/loggregator_trafficcontroller_security_events.log";

/// The Traffic Controller: serves app streams and firehoses gathered from all Dopplers.
#[derive(Parser, Debug, Clone)]
#[command(version = transport::process::VERSION, about)]
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

    /// IP address to listen on [default: all with TLS or --plain-from, else 127.0.0.1].
    ///
    /// Without either any address but loopback is refused.
    #[arg(long, env = "TRAFFIC_CONTROLLER_ADDRESS")]
    pub address: Option<IpAddr>,

    /// PEM file with the certificate shown to clients. Without it: plain text.
    #[arg(long, env = "TRAFFIC_CONTROLLER_OUTGOING_CERT_FILE")]
    pub outgoing_cert_file: Option<PathBuf>,

    /// PEM file with its private key.
    #[arg(long, env = "TRAFFIC_CONTROLLER_OUTGOING_KEY_FILE")]
    pub outgoing_key_file: Option<PathBuf>,

    /// Networks of the balancers that end TLS and go on in plain text, as CIDR, comma separated
    /// [default: none with TLS, loopback without].
    ///
    /// With a certificate they may speak TLS, too. Who comes from elsewhere is refused plain text,
    /// with a line in the log. Where it passes, tokens and logs can be read along: between a
    /// balancer and here there should be nobody else.
    #[arg(
        long,
        env = "TRAFFIC_CONTROLLER_PLAIN_FROM",
        value_delimiter = ',',
        value_parser = network
    )]
    pub plain_from: Vec<IpNet>,

    /// Networks of the balancers that begin each connection with a PROXY header, version 1 or 2,
    /// as CIDR, comma separated [default: none].
    ///
    /// From there it must be, elsewhere it is not read. The client it names is the one in logs and
    /// on the admin listener. It has the 2 s of a TLS handshake to arrive.
    #[arg(
        long,
        env = "TRAFFIC_CONTROLLER_PROXY_PROTOCOL_FROM",
        value_delimiter = ',',
        value_parser = network
    )]
    pub proxy_protocol_from: Vec<IpNet>,

    /// Those of our ports on which they do so, comma separated [default: all].
    ///
    /// For a balancer that passes TCP on to one port and HTTP, without such headers, to the other.
    #[arg(
        long,
        env = "TRAFFIC_CONTROLLER_PROXY_PROTOCOL_PORTS",
        value_delimiter = ','
    )]
    pub proxy_protocol_ports: Vec<u16>,

    /// The Dopplers to read from, `host:port`, comma separated. Those of a file and of DNS are
    /// read from too; one that is named twice has to be written the same way, since names are taken
    /// literally: where one leads is known when it is dialled, and may be elsewhere the next time.
    #[arg(long, env = "ROUTER_ADDRS", value_delimiter = ',')]
    pub router_addrs: Vec<String>,

    /// File of Dopplers to read from, `host:port`, one a line; read again when it changes.
    ///
    /// What follows a `#` does not count. Replace the file as a whole: one that is empty or does
    /// not end with a newline changes nothing. A Doppler that is missing for 1 s is read to its
    /// end and left.
    #[arg(long, env = "ROUTER_ADDRS_FILE")]
    pub router_addrs_file: Option<PathBuf>,

    /// DNS names of Dopplers to read from, comma separated: `host:port` for all its addresses
    /// (IPv6 only if there are none of IPv4), or the name of SRV records, `_doppler._tcp.domain`.
    ///
    /// Asked again when the answer's TTL is over, 2 s to 60 s apart. A Doppler that is missing for
    /// 30 s, or missing and not reached, is read to its end and left; what DNS does not tell
    /// stays, and is asked for again after 2 s.
    #[arg(long, env = "ROUTER_DNS_NAMES", value_delimiter = ',')]
    pub router_dns_names: Vec<Name>,

    /// Address and port of the DNS server to ask for them [default: those of /etc/resolv.conf].
    #[arg(long, env = "ROUTER_DNS_SERVER")]
    pub router_dns_server: Option<SocketAddr>,

    /// PEM file with the CA of the Dopplers' certificates. Without it: plain text.
    #[arg(long, env = "ROUTER_CA_FILE")]
    pub router_ca_file: Option<PathBuf>,

    /// PEM file with this Traffic Controller's certificate for Dopplers.
    #[arg(long, env = "ROUTER_CERT_FILE")]
    pub router_cert_file: Option<PathBuf>,

    /// PEM file with its private key.
    #[arg(long, env = "ROUTER_KEY_FILE")]
    pub router_key_file: Option<PathBuf>,

    /// This host's IP address, as the security event log names it.
    #[arg(long, env = "TRAFFIC_CONTROLLER_IP")]
    pub ip: Option<IpAddr>,

    /// Domain of the system: cookies are for `doppler.` below it, and pages of its hosts may
    /// use them.
    #[arg(long, env = "TRAFFIC_CONTROLLER_SYSTEM_DOMAIN")]
    pub system_domain: Option<String>,

    /// URL of UAA, which says who may read firehoses.
    #[arg(long, env = "TRAFFIC_CONTROLLER_UAA_HOST")]
    pub uaa_host: Option<String>,

    /// PEM file with the CA of UAA's certificate [default: the system's CAs].
    #[arg(long, env = "TRAFFIC_CONTROLLER_UAA_CA_CERT")]
    pub uaa_ca_cert: Option<PathBuf>,

    /// This Traffic Controller's client name at UAA; it needs the authority `uaa.resource`.
    #[arg(long, env = "TRAFFIC_CONTROLLER_UAA_CLIENT", default_value = "doppler")]
    pub uaa_client: String,

    /// Its secret.
    #[arg(
        long,
        env = "TRAFFIC_CONTROLLER_UAA_CLIENT_SECRET",
        hide_env_values = true
    )]
    pub uaa_client_secret: Option<Secret>,

    /// Verify tokens here, against the keys UAA publishes at `/token_keys`, instead of asking
    /// UAA about each: the `iss` they must have, such as `https://uaa.example.com/oauth/token`.
    #[arg(long, env = "TRAFFIC_CONTROLLER_UAA_ISSUER")]
    pub uaa_issuer: Option<String>,

    /// Seconds after which the token of a running stream is checked again; without it, as
    /// upstream, a token is checked once.
    #[arg(long, env = "TRAFFIC_CONTROLLER_TOKEN_RECHECK", value_parser = seconds)]
    pub token_recheck: Option<Duration>,

    /// URL of Cloud Controller, which says who may read an app.
    #[arg(long, env = "TRAFFIC_CONTROLLER_API_HOST")]
    pub api_host: Option<String>,

    /// PEM file with this Traffic Controller's certificate for Cloud Controller.
    #[arg(long, env = "CC_CERT_FILE")]
    pub cc_cert_file: Option<PathBuf>,

    /// PEM file with its private key.
    #[arg(long, env = "CC_KEY_FILE")]
    pub cc_key_file: Option<PathBuf>,

    /// PEM file with the CA of Cloud Controller's certificate [default: the system's CAs].
    #[arg(long, env = "CC_CA_FILE")]
    pub cc_ca_file: Option<PathBuf>,

    /// Name in Cloud Controller's certificate [default: the host of its URL].
    #[arg(long, env = "CC_SERVER_NAME")]
    pub cc_server_name: Option<String>,

    /// Do not check the certificates of UAA and Cloud Controller. Whoever can place himself
    /// between us and them reads tokens, and says who may read what.
    #[arg(long, env = "TRAFFIC_CONTROLLER_SKIP_CERT_VERIFY")]
    pub skip_cert_verify: bool,

    /// Everybody may read everything, whoever can reach this listener.
    #[arg(long, env = "TRAFFIC_CONTROLLER_DISABLE_ACCESS_CONTROL")]
    pub disable_access_control: bool,

    /// Origins, beside this host and those of the system domain, whose pages may use a
    /// cookie, as `https://host`, comma separated.
    #[arg(
        long,
        env = "TRAFFIC_CONTROLLER_ALLOWED_ORIGINS",
        value_delimiter = ','
    )]
    pub allowed_origins: Vec<Origin>,

    /// Networks of the balancers and proxies whose X-Forwarded-For is believed, as CIDR, comma
    /// separated [default: none].
    ///
    /// The client is then the right-most hop that is in none of them, in logs and on the admin
    /// listener.
    #[arg(
        long,
        env = "TRAFFIC_CONTROLLER_TRUSTED_PROXIES",
        value_delimiter = ',',
        value_parser = network
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// File that gets one line of CEF for each request.
    #[arg(long, env = "TRAFFIC_CONTROLLER_SECURITY_EVENT_LOG")]
    pub security_event_log: Option<PathBuf>,

    /// Answer as the Go Traffic Controller does where we know better: see docs/deviations.md.
    #[arg(long, env = "TRAFFIC_CONTROLLER_UPSTREAM_ANSWERS")]
    pub upstream_answers: bool,

    /// Address of the Loggregator agent that takes this process's own metrics
    /// [default: none; they are on the admin listener].
    #[arg(long, env = "AGENT_GRPC_ADDRESS")]
    pub agent_grpc_address: Option<String>,

    /// How often it is told, as `60`, `1m` or `1m30s`; 0 is every second.
    #[arg(long, env = "TRAFFIC_CONTROLLER_METRIC_EMITTER_INTERVAL", default_value = "60", value_parser = interval)]
    pub metric_emitter_interval: Duration,

    /// File of static tokens and what each may read, for a platform without UAA. Without
    /// either everybody may read everything, which is refused on any address but loopback.
    #[arg(long, env = "TRAFFIC_CONTROLLER_TOKENS_FILE")]
    pub tokens_file: Option<PathBuf>,

    /// Client streams at a time; more are answered 503.
    #[arg(long, env = "TRAFFIC_CONTROLLER_MAX_STREAMS", default_value_t = 10_000)]
    pub max_streams: usize,

    /// Seconds a client may take no whole frame while that costs it envelopes, or leaves it more
    /// than 4 MiB behind; after 30 it is closed in any case.
    #[arg(long, env = "TRAFFIC_CONTROLLER_SLOW_CONSUMER_PATIENCE", default_value = "5", value_parser = seconds)]
    pub slow_consumer_patience: Duration,

    /// Close a slow consumer with 1008 and the reason in words, instead of upstream's 1000
    /// without: nozzles read 1000 as "scale out".
    #[arg(long, env = "TRAFFIC_CONTROLLER_SLOW_CONSUMER_POLICY_CLOSE")]
    pub slow_consumer_policy_close: bool,

    /// Bytes all apps' topics may hold together.
    #[arg(long, env = "TRAFFIC_CONTROLLER_TOPIC_BYTES", default_value_t = 64 << 20)]
    pub topic_bytes: usize,

    /// Bytes one app's topic may hold: what its slowest tail may lag behind before it loses.
    #[arg(long, env = "TRAFFIC_CONTROLLER_APP_BYTES", default_value_t = 256 << 10)]
    pub app_bytes: usize,

    /// TCP port of the admin listener; 0 takes a free one.
    ///
    /// Serves /health/live, /health/ready, /metrics, /subscriptions and /losses. Stands in for
    /// upstream's pprof port, whose variable it keeps.
    #[arg(long, env = "TRAFFIC_CONTROLLER_PPROF_PORT", default_value_t = 0)]
    pub admin_port: u16,

    /// Networks that may ask the admin listener, beside this machine, as CIDR, comma separated:
    /// probes, Prometheus [default: none].
    ///
    /// With any of them it listens on all addresses, else on 127.0.0.1. It speaks plain text, and
    /// tells who reads what.
    #[arg(
        long,
        env = "TRAFFIC_CONTROLLER_ADMIN_FROM",
        value_delimiter = ',',
        value_parser = network
    )]
    pub admin_from: Vec<IpNet>,

    /// Seconds between not being ready and closing the listeners, for balancers to notice; it comes
    /// before --drain.
    ///
    /// `/health/ready` says 503 from the first moment. At least as long as a balancer takes to
    /// believe it: its interval times its threshold.
    #[arg(long, env = "TRAFFIC_CONTROLLER_DRAIN_WAIT", default_value = "0", value_parser = seconds)]
    pub drain_wait: Duration,

    /// Seconds a stop may take, once no more is accepted: today's BOSH drain waits 5.
    #[arg(long, env = "TRAFFIC_CONTROLLER_DRAIN", default_value = "4", value_parser = seconds)]
    pub drain: Duration,

    /// Address of the socket on which a supervisor is told that we are ready, alive and stopping, as
    /// systemd gives it: a path, or `@` and an abstract name [default: none].
    #[arg(long, env = "NOTIFY_SOCKET")]
    pub notify_socket: Option<String>,

    /// Microseconds after which the supervisor takes us for dead, as systemd gives them (`WatchdogSec=`)
    /// [default: never].
    #[arg(long, env = "WATCHDOG_USEC")]
    pub watchdog_usec: Option<u64>,

    /// Accepted for the Go Traffic Controller's sake, and without effect: our log lines always
    /// begin with an RFC 3339 time.
    #[arg(long, env = "USE_RFC339")]
    pub use_rfc339: bool,

    /// Worker threads; 1 runs everything on one [default: one per core].
    #[arg(long, env = "TRAFFIC_CONTROLLER_WORKER_THREADS")]
    pub worker_threads: Option<usize>,

    /// What to log to stderr: a level, or `tracing` directives.
    #[arg(long, env = "TRAFFIC_CONTROLLER_LOG", default_value = "info")]
    pub log: String,
}

impl Settings for Config {
    const PROPERTIES: &'static [Property] = &[
        value("loggregator.outgoing_dropsonde_port", "port"),
        value("logger_endpoint.port", "logger_endpoint_port"),
        value("traffic_controller.address", "address"),
        pem("loggregator.outgoing_cert", "outgoing_cert_file"),
        pem("loggregator.outgoing_key", "outgoing_key_file"),
        value("traffic_controller.plain_from", "plain_from"),
        value(
            "traffic_controller.proxy_protocol_from",
            "proxy_protocol_from",
        ),
        value(
            "traffic_controller.proxy_protocol_ports",
            "proxy_protocol_ports",
        ),
        value("traffic_controller.doppler_addrs_file", "router_addrs_file"),
        value("traffic_controller.doppler_dns_names", "router_dns_names"),
        value("traffic_controller.doppler_dns_server", "router_dns_server"),
        pem("loggregator.tls.ca_cert", "router_ca_file"),
        pem("loggregator.tls.trafficcontroller.cert", "router_cert_file"),
        pem("loggregator.tls.trafficcontroller.key", "router_key_file"),
        value("traffic_controller.ip", "ip"),
        value("system_domain", "system_domain"),
        value("uaa.internal_url", "uaa_host"),
        pem("uaa.ca_cert", "uaa_ca_cert"),
        value("loggregator.uaa.client", "uaa_client"),
        // The old name; upstream lets it win, too.
        value("loggregator.uaa_client_id", "uaa_client"),
        value("loggregator.uaa.client_secret", "uaa_client_secret"),
        value("traffic_controller.uaa_issuer", "uaa_issuer"),
        value("traffic_controller.token_recheck", "token_recheck"),
        value("traffic_controller.api_host", "api_host"),
        pem("loggregator.tls.cc_trafficcontroller.cert", "cc_cert_file"),
        pem("loggregator.tls.cc_trafficcontroller.key", "cc_key_file"),
        pem("cc.mutual_tls.ca_cert", "cc_ca_file"),
        value("cc.internal_service_hostname", "cc_server_name"),
        value("ssl.skip_cert_verify", "skip_cert_verify"),
        value(
            "traffic_controller.disable_access_control",
            "disable_access_control",
        ),
        value("traffic_controller.allowed_origins", "allowed_origins"),
        value("traffic_controller.trusted_proxies", "trusted_proxies"),
        value(
            "traffic_controller.security_event_log",
            "security_event_log",
        ),
        value("traffic_controller.upstream_answers", "upstream_answers"),
        value("metric_emitter.interval", "metric_emitter_interval"),
        value("traffic_controller.tokens_file", "tokens_file"),
        value("traffic_controller.max_streams", "max_streams"),
        value(
            "traffic_controller.slow_consumer_patience",
            "slow_consumer_patience",
        ),
        value(
            "traffic_controller.slow_consumer_policy_close",
            "slow_consumer_policy_close",
        ),
        value("traffic_controller.topic_bytes", "topic_bytes"),
        value("traffic_controller.app_bytes", "app_bytes"),
        value("traffic_controller.pprof_port", "admin_port"),
        value("traffic_controller.admin_from", "admin_from"),
        value("traffic_controller.drain_wait", "drain_wait"),
        value("traffic_controller.drain", "drain"),
        value("traffic_controller.notify_socket", "notify_socket"),
        value("traffic_controller.watchdog_usec", "watchdog_usec"),
        value("traffic_controller.worker_threads", "worker_threads"),
        value("traffic_controller.log", "log"),
        // Whether the job runs at all.
        nothing("traffic_controller.enabled"),
    ];

    const COMBINATIONS: &'static [Combination] = &[
        Combination {
            argument: "router_addrs",
            of: &["loggregator.doppler.addrs", "doppler.grpc_port"],
            make: |of| {
                let port = of[1].unwrap_or(DOPPLER_PORT);
                let hosts = of[0]?.split(',');
                let addresses: Vec<String> = hosts.map(|host| format!("{host}:{port}")).collect();
                Some(addresses.join(","))
            },
        },
        Combination {
            argument: "api_host",
            of: &["cc.internal_service_hostname", "cc.tls_port"],
            make: |of| Some(format!("https://{}:{}", of[0]?, of[1].unwrap_or(CC_PORT))),
        },
        Combination {
            argument: "agent_grpc_address",
            of: &["metron_endpoint.host", "metron_endpoint.grpc_port"],
            make: |of| {
                let (host, port) = (of[0].unwrap_or("127.0.0.1"), of[1].unwrap_or(AGENT_PORT));
                Some(format!("{host}:{port}"))
            },
        },
        Combination {
            argument: "security_event_log",
            of: &["traffic_controller.security_event_logging.enabled"],
            make: |of| (of[0] == Some("true")).then(|| SECURITY_EVENT_LOG.to_owned()),
        },
        Combination {
            argument: "use_rfc339",
            of: &["logging.format.timestamp"],
            make: |of| of[0].map(|format| (format == "rfc3339").to_string()),
        },
    ];

    fn contradictions(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.outgoing_cert_file.is_some() != self.outgoing_key_file.is_some() {
            all.push(
                "--outgoing-cert-file (TRAFFIC_CONTROLLER_OUTGOING_CERT_FILE) and \
                 --outgoing-key-file (TRAFFIC_CONTROLLER_OUTGOING_KEY_FILE) belong together: \
                 give both, or none for plain text",
            );
        }
        let router = [
            &self.router_ca_file,
            &self.router_cert_file,
            &self.router_key_file,
        ];
        if router.iter().any(|file| file.is_some()) && router.iter().any(|file| file.is_none()) {
            all.push(
                "--router-ca-file (ROUTER_CA_FILE), --router-cert-file (ROUTER_CERT_FILE) and \
                 --router-key-file (ROUTER_KEY_FILE) belong together: give all three, or none \
                 for plain text",
            );
        }
        if self.cc_cert_file.is_some() != self.cc_key_file.is_some() {
            all.push(
                "--cc-cert-file (CC_CERT_FILE) and --cc-key-file (CC_KEY_FILE) belong together",
            );
        }
        let asks = self.uaa_host.is_some() && self.uaa_issuer.is_none();
        if asks && self.uaa_client_secret.is_none() {
            all.push(
                "--uaa-host (TRAFFIC_CONTROLLER_UAA_HOST) needs --uaa-client-secret \
                 (TRAFFIC_CONTROLLER_UAA_CLIENT_SECRET): UAA tells about tokens only to clients \
                 it knows; or --uaa-issuer (TRAFFIC_CONTROLLER_UAA_ISSUER), to verify them here",
            );
        }
        if self.uaa_host.is_some() && self.uaa_client.is_empty() {
            all.push("--uaa-client is empty: UAA must know us by a name, by custom `doppler`");
        }
        if self.uaa_issuer.is_some() && self.uaa_host.is_none() {
            all.push(
                "--uaa-issuer (TRAFFIC_CONTROLLER_UAA_ISSUER) needs --uaa-host \
                 (TRAFFIC_CONTROLLER_UAA_HOST), whose keys verify tokens",
            );
        }
        let listening: Vec<u16> = self.listen().iter().map(SocketAddr::port).collect();
        let elsewhere = self.proxy_protocol_ports.iter();
        let elsewhere = elsewhere
            .filter(|port| !listening.contains(port))
            .map(|port| {
                format!(
                    "--proxy-protocol-ports (TRAFFIC_CONTROLLER_PROXY_PROTOCOL_PORTS): nobody \
                     listens on {port}; the ports here are {listening:?}"
                )
            });
        let needless = !self.proxy_protocol_ports.is_empty() && self.proxy_protocol_from.is_empty();
        all.extend(needless.then_some(
            "--proxy-protocol-ports (TRAFFIC_CONTROLLER_PROXY_PROTOCOL_PORTS) needs \
             --proxy-protocol-from (TRAFFIC_CONTROLLER_PROXY_PROTOCOL_FROM): who sends the headers",
        ));
        let all = all.into_iter().map(str::to_owned);
        all.chain(elsewhere).collect()
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

    /// Where to listen for clients: at least one address.
    pub fn listen(&self) -> Vec<SocketAddr> {
        let everywhere = match self.outgoing_cert_file.is_none() && self.plain_from.is_empty() {
            true => IpAddr::V4(Ipv4Addr::LOCALHOST),
            false => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let ports = match (self.port, self.logger_endpoint_port) {
            (None, None) => vec![LOGGER_ENDPOINT_PORT],
            // Two free ones are two; the same one can be bound once.
            (Some(port), Some(same)) if port == same && port != 0 => vec![port],
            (port, logger_endpoint) => port.into_iter().chain(logger_endpoint).collect(),
        };
        let address = self.address.unwrap_or(everywhere);
        ports
            .into_iter()
            .map(|port| SocketAddr::new(address, port))
            .collect()
    }

    /// From where plain text is taken.
    pub fn plain_from(&self) -> Networks {
        match self.outgoing_cert_file {
            None if self.plain_from.is_empty() => Networks::loopback(),
            _ => self.plain_from.iter().copied().collect(),
        }
    }

    /// The balancers that send PROXY headers to that port.
    pub fn balancers(&self, port: u16) -> Networks {
        let ports = &self.proxy_protocol_ports;
        match ports.is_empty() || ports.contains(&port) {
            true => self.proxy_protocol_from.iter().copied().collect(),
            false => Networks::default(),
        }
    }

    /// When a client is too slow, and how it is closed.
    pub fn slow(&self) -> Rules {
        Rules {
            patience: self.slow_consumer_patience,
            policy_close: self.slow_consumer_policy_close,
        }
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
    use std::ffi::OsString;

    fn read(args: &[&str], environment: &[(&str, &str)]) -> Result<Config, Over> {
        let args = ["traffic-controller"].iter().chain(args);
        let environment = |name: &str| {
            let mut all = environment.iter();
            Some(all.find(|(known, _)| *known == name)?.1.into())
        };
        settings::read(args.map(OsString::from), environment, |_| vec![])
    }

    fn ports(args: &[&str]) -> Vec<u16> {
        let config = read(args, &[]).unwrap();
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
        let same = ["--port", "4443", "--logger-endpoint-port", "4443"];
        assert_eq!(ports(&same), [4443], "bound once");
        let free = ["--port", "0", "--logger-endpoint-port", "0"];
        assert_eq!(ports(&free), [0, 0]);
    }

    #[test]
    fn without_a_certificate_it_listens_on_loopback_unless_balancers_are_named() {
        let cert = [
            "--outgoing-cert-file",
            "outgoing.crt",
            "--outgoing-key-file",
            "outgoing.key",
        ];
        let from = ["--plain-from", "10.0.0.0/8,192.0.2.7"];
        let (balancer, other) = ("10.9.9.9", "192.0.2.8");
        for (args, listening, taken) in [
            (vec![], "127.0.0.1:4443", ["127.0.0.1"].as_slice()),
            (from.to_vec(), "[::]:4443", &[balancer]),
            (cert.to_vec(), "[::]:4443", &[]),
            ([&cert[..], &from].concat(), "[::]:4443", &[balancer]),
        ] {
            let config = read(&args, &[]).unwrap();
            assert_eq!(config.listen(), [listening.parse().unwrap()], "{args:?}");
            let plain = config.plain_from();
            let may = ["127.0.0.1", balancer, other].into_iter();
            let may = may.filter(|address| plain.contains(address.parse().unwrap()));
            assert_eq!(may.collect::<Vec<_>>(), taken, "{args:?}");
        }
    }

    #[test]
    fn proxy_headers_are_for_all_ports_or_for_those_that_are_named() {
        let from = ["--proxy-protocol-from", "10.0.0.5"];
        let both = ["--port", "8081", "--logger-endpoint-port", "4443"];
        let all = [&from[..], &both].concat();
        let balancer = "10.0.0.5".parse().unwrap();
        let on = |config: &Config, port| config.balancers(port).contains(balancer);
        let config = read(&all, &[]).unwrap();
        assert!(on(&config, 8081) && on(&config, 4443));
        let one = [&all[..], &["--proxy-protocol-ports", "4443"]].concat();
        let config = read(&one, &[]).unwrap();
        assert!(!on(&config, 8081) && on(&config, 4443));
        let wrong = [&both[..], &["--proxy-protocol-ports", "443"]].concat();
        let error = read(&wrong, &[]).unwrap_err().to_string();
        assert!(error.contains("nobody listens on 443"), "{error}");
        assert!(error.contains("needs --proxy-protocol-from"), "{error}");
        let error = read(&["--plain-from", "balancer"], &[]).unwrap_err();
        assert!(
            error.to_string().contains("such as 10.0.16.0/20"),
            "{error}"
        );
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
        if let Err(current) = settings::is_current::<Config>(&page, "traffic-controller") {
            assert!(
                std::env::var_os("REGENERATE").is_some(),
                "docs/settings.md is not current: run this test with REGENERATE=1"
            );
            std::fs::write(path, current).unwrap();
        }
    }

    #[test]
    fn bosh_starts_it_with_what_it_gives_the_go_traffic_controller() {
        let environment = [
            ("TRAFFIC_CONTROLLER_IP", "10.0.0.1"),
            ("TRAFFIC_CONTROLLER_API_HOST", "https://cc.internal:9023"),
            ("TRAFFIC_CONTROLLER_OUTGOING_DROPSONDE_PORT", "8081"),
            ("TRAFFIC_CONTROLLER_OUTGOING_CERT_FILE", "outgoing.crt"),
            ("TRAFFIC_CONTROLLER_OUTGOING_KEY_FILE", "outgoing.key"),
            ("TRAFFIC_CONTROLLER_SYSTEM_DOMAIN", "sys.example.com"),
            ("TRAFFIC_CONTROLLER_SKIP_CERT_VERIFY", "true"),
            ("TRAFFIC_CONTROLLER_UAA_HOST", "https://uaa.internal:8443"),
            ("TRAFFIC_CONTROLLER_UAA_CA_CERT", "uaa.crt"),
            ("TRAFFIC_CONTROLLER_UAA_CLIENT", "doppler"),
            ("TRAFFIC_CONTROLLER_UAA_CLIENT_SECRET", "s3cr3t"),
            ("TRAFFIC_CONTROLLER_SECURITY_EVENT_LOG", ""),
            ("TRAFFIC_CONTROLLER_PPROF_PORT", "0"),
            ("TRAFFIC_CONTROLLER_METRIC_EMITTER_INTERVAL", "1m"),
            ("TRAFFIC_CONTROLLER_DISABLE_ACCESS_CONTROL", "false"),
            ("ROUTER_ADDRS", "10.0.0.2:8082,10.0.0.3:8082"),
            ("ROUTER_CA_FILE", "ca.crt"),
            ("ROUTER_CERT_FILE", "tc.crt"),
            ("ROUTER_KEY_FILE", "tc.key"),
            ("CC_CERT_FILE", "cc.crt"),
            ("CC_KEY_FILE", "cc.key"),
            ("CC_CA_FILE", "cc-ca.crt"),
            ("CC_SERVER_NAME", "cc.internal"),
            ("AGENT_GRPC_ADDRESS", "127.0.0.1:3458"),
            ("USE_RFC339", "false"),
        ];
        let config = read(&[], &environment).unwrap();
        assert_eq!(config.listen(), ["[::]:8081".parse().unwrap()]);
        assert_eq!(config.metric_emitter_interval, Duration::from_secs(60));
        assert_eq!(config.router_addrs.len(), 2);
        assert!(config.skip_cert_verify && !config.disable_access_control);
        assert!(config.security_event_log.is_none());
        assert!(!format!("{config:?}").contains("s3cr3t"));
        let known = settings::environment::<Config>();
        for (name, _) in environment {
            assert!(known.iter().any(|known| known == name), "{name}");
        }
    }

    #[test]
    fn a_bosh_manifest_is_a_file_of_settings() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manifest.yml");
        let manifest = "
properties:
  logger_endpoint: {port: 4443}
  loggregator:
    outgoing_dropsonde_port: 8081
    doppler: {addrs: [10.0.0.2, 10.0.0.3]}
    uaa: {client: doppler, client_secret: s3cr3t}
    uaa_client_id: old
  uaa: {internal_url: 'https://uaa.internal:8443'}
  cc: {internal_service_hostname: cc.internal, tls_port: 9024}
  metron_endpoint: {host: 127.0.0.1}
  metric_emitter: {interval: 1m}
  traffic_controller: {security_event_logging: {enabled: true}}
  logging: {format: {timestamp: deprecated}}
";
        std::fs::write(&path, manifest).unwrap();
        let config = read(&["--config", path.to_str().unwrap()], &[]).unwrap();
        assert_eq!(
            (config.port, config.logger_endpoint_port),
            (Some(8081), Some(4443))
        );
        assert_eq!(config.router_addrs, ["10.0.0.2:8082", "10.0.0.3:8082"]);
        assert_eq!(config.uaa_client, "old");
        assert_eq!(config.api_host.as_deref(), Some("https://cc.internal:9024"));
        assert_eq!(config.cc_server_name.as_deref(), Some("cc.internal"));
        assert_eq!(config.agent_grpc_address.as_deref(), Some("127.0.0.1:3458"));
        assert!(config.security_event_log.is_some() && !config.use_rfc339);
    }

    #[test]
    fn half_a_uaa_is_an_error_that_says_what_is_missing() {
        let error = read(&["--uaa-host", "https://uaa", "--uaa-client", ""], &[]).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("needs --uaa-client-secret"), "{error}");
        assert!(error.contains("--uaa-client is empty"), "{error}");
        let verified = ["--uaa-host", "https://uaa", "--uaa-issuer", "x"];
        assert!(read(&verified, &[]).is_ok(), "the keys are public");
        let error = read(&["--uaa-issuer", "x", "--cc-key-file", "y"], &[]).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("needs --uaa-host") && error.contains("CC_CERT_FILE"),
            "{error}"
        );
    }
}
