//! Wires a Traffic Controller: the public listeners to the front, the front to access, topics
//! and Dopplers, the admin listener to what they count; and stops them in the order the data
//! flows.

mod authorities;

use self::authorities::{access, is_left_open};
use crate::access::{Tokens, TokensError};
use crate::config::Config;
use crate::dopplers::discovery::{self, FileError};
use crate::dopplers::members::Sources;
use crate::dopplers::{Members, OPEN, RECEIVE_BUFFER};
use crate::front::{Edge, Front, Leaving, Origins, SecurityLog, SecurityLogError, connection};
use crate::metrics::Metrics;
use crate::own_metrics::ToAgent;
use crate::page::Ledger;
use crate::streams::Streams;
use crate::topics::Topics;
use proto::component::{AGENT_NAME, BATCH_SENDER};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tracing::{debug, info, warn};
use transport::cause::chain;
use transport::grpc::{self, PlainToAnother, Reporter};
use transport::http::BadUrl;
use transport::listener::{
    self, Acceptor, BindError, Buffers, Dialer, PlainOutsideLoopback, READ_BUFFER_IDLE,
};
use transport::reload::Reload;
use transport::settings;
use transport::shutdown::{Drain, Hangup};
use transport::supervisor::Supervisor;
use transport::telemetry::{self, Admin, Readiness, RecorderTaken};
use transport::tls::{self, Roots, Suites, TlsError};

/// The name in a Doppler's certificate, whatever its address (upstream's rule).
const DOPPLER_NAME: &str = "doppler";

const HTTP_1_1: &[&[u8]] = &[tls::HTTP_1_1];

/// Connections that are not streams yet, beyond those that are.
const PENDING_CONNECTIONS: usize = 1_024;

/// How long the agent has to take the last report.
const LAST_REPORT: Duration = Duration::from_secs(1);

/// Which part of the drain the clients' ends are spread over: what comes after it is a second for
/// a Doppler's last count and one for a Close that is not answered.
const SPREAD: f64 = 0.4;

/// Which part of it the app links have for their last counts.
const LAST_COUNTS: f64 = 0.25;

/// How often accounts are checked and their sums shown.
const AUDIT: Duration = Duration::from_secs(1);

/// Bound sockets.
pub struct Listeners {
    /// Clients, in the order of [`Config::listen`].
    pub public: Vec<TcpListener>,
    /// Operators.
    pub admin: TcpListener,
}

/// Why a Traffic Controller did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken, or not ours.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A certificate, key or CA cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token file cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The file of Dopplers cannot be used.
    #[error(transparent)]
    Dopplers(#[from] FileError),
    /// The security event log cannot be written.
    #[error(transparent)]
    SecurityLog(#[from] SecurityLogError),
    /// Plain text on an address that others can reach.
    #[error("{0}, or name balancers that end TLS in TRAFFIC_CONTROLLER_PLAIN_FROM")]
    Plain(PlainOutsideLoopback),
    /// Plain text to an agent elsewhere.
    #[error("cannot report to the agent at AGENT_GRPC_ADDRESS")]
    Agent(#[from] PlainToAnother),
    /// Everybody could read everything, from anywhere.
    #[error(
        "{address} can be reached by others: give --uaa-host and --api-host, or --tokens-file, \
         or bind to 127.0.0.1"
    )]
    OpenOutsideLoopback {
        /// The address asked for.
        address: SocketAddr,
    },
    /// UAA or Cloud Controller is not where its setting says.
    #[error("{setting} cannot be used")]
    Url {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        source: BadUrl,
    },
    /// A UAA that we cannot tell who we are.
    #[error(
        "UAA checks tokens only for those it knows: give TRAFFIC_CONTROLLER_UAA_CLIENT_SECRET, \
         or TRAFFIC_CONTROLLER_UAA_ISSUER to verify tokens here"
    )]
    NoSecret,
    /// It would not be clear who says who may read what.
    #[error("both a token file and UAA or Cloud Controller are given: give one or the other")]
    TwoAuthorities,
    /// The process counts into somebody else's recorder.
    #[error(transparent)]
    Metrics(#[from] RecorderTaken),
    /// The system would not tell us something it always tells.
    #[error("could not {what}")]
    System {
        /// What we tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl Listeners {
    /// Binds what `config` asks for.
    pub fn bind(config: &Config) -> Result<Listeners, StartError> {
        if let Some(exposed) = exposed(config).into_iter().next() {
            return Err(exposed);
        }
        let public = config.listen().into_iter().map(listener::bind);
        let public = public.collect::<Result<_, _>>()?;
        Ok(Listeners {
            public,
            admin: listener::bind(config.admin())?,
        })
    }

    /// Where they are bound: for clients, and the admin listener.
    pub fn addresses(&self) -> Result<(Vec<SocketAddr>, SocketAddr), StartError> {
        let address = |listener: &TcpListener| {
            listener.local_addr().map_err(|source| StartError::System {
                what: "read the address of a bound socket",
                source,
            })
        };
        let public = self.public.iter().map(address).collect::<Result<_, _>>()?;
        Ok((public, address(&self.admin)?))
    }
}

/// What others could reach at the addresses asked for and should not: plain text, or everything.
fn exposed(config: &Config) -> Vec<StartError> {
    let mut errors = Vec::new();
    for address in config.listen() {
        let Err(plain) = listener::plain_only_on_loopback(address) else {
            continue;
        };
        if is_left_open(config) {
            errors.push(StartError::OpenOutsideLoopback { address });
        }
        // Those of whom plain text is taken have been named; nobody else gets any.
        if config.outgoing_tls().is_none() && config.plain_from.is_empty() {
            errors.push(StartError::Plain(plain));
        }
    }
    errors
}

/// Everything that is wrong with the files that `config` names, and with what they do together.
pub fn check(config: &Config) -> Vec<String> {
    let mut errors: Vec<StartError> = Vec::new();
    let identities = [
        config.outgoing_tls(),
        config.router_tls().map(|(identity, _)| identity),
    ];
    // Access looks at the others when it is wired; --check-config looks at them now.
    let cc = config.cc_cert_file.clone().zip(config.cc_key_file.clone());
    let cc = cc.map(|(cert, key)| tls::Identity { cert, key });
    for identity in identities.into_iter().chain([cc]).flatten() {
        let mistakes = settings::identity_mistakes(&identity).into_iter();
        errors.extend(mistakes.map(StartError::from));
    }
    for ca in [
        &config.router_ca_file,
        &config.uaa_ca_cert,
        &config.cc_ca_file,
    ] {
        let ca = ca.as_ref().map(|ca| tls::client(Roots::Ca(ca), None, &[]));
        errors.extend(ca.and_then(Result::err).map(Into::into));
    }
    if let Some(path) = &config.tokens_file {
        errors.extend(Tokens::read(path).err().map(Into::into));
    }
    if let Some(path) = &config.router_addrs_file {
        errors.extend(discovery::read(path).err().map(Into::into));
    }
    errors.extend(authorities::mistakes(config));
    errors.extend(exposed(config));
    if config.router_tls().is_none() {
        let plain = config
            .agent_grpc_address
            .as_deref()
            .map(grpc::plain_only_to_loopback);
        errors.extend(plain.and_then(Result::err).map(Into::into));
    }
    errors.iter().map(|error| chain(error)).collect()
}

/// Runs a Traffic Controller until `stop` resolves, then drains it.
pub async fn run(
    config: Config,
    listeners: Listeners,
    stop: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let telemetry = telemetry::Metrics::install()?;
    let mut reload = Reload::new();
    let outgoing = match config.outgoing_tls() {
        // WebSockets need HTTP/1.1; offering h2 would let a balancer choose a dead end.
        Some(identity) => {
            Some(reload.server("outgoing", identity, None, HTTP_1_1, Suites::default())?)
        }
        None => None,
    };
    let sources = sources(&config, &mut reload)?;
    let to_dopplers = to_dopplers(&config, &mut reload)?;
    let agent = agent(&config, &mut reload)?;
    let access = access(&config, &mut reload)?;
    let hangup = Hangup::listen().map_err(|source| StartError::System {
        what: "listen for SIGHUP",
        source,
    })?;
    let metrics = Arc::new(Metrics::new());
    metrics.access_controlled(access.is_controlled());
    if !access.is_controlled() {
        warn!("access control is off: whoever reaches this listener reads everything");
    }
    let topics = Topics::new(config.topic_bytes, config.app_bytes);
    let streams = Streams::new(config.max_streams);
    let (accepting, clients, links, admin) =
        (Drain::new(), Drain::new(), Drain::new(), Drain::new());
    let ready = Readiness::new();
    let until = accepting.shutdown();
    accepting.shutdown().spawn(reload.run(hangup, until));

    let members = Members::new(sources, to_dopplers, topics.clone());
    let dopplers = members.dopplers();
    let ledger = Arc::new(Ledger {
        streams: streams.clone(),
        topics: topics.clone(),
        app_links: members.app_links(),
    });
    links.shutdown().spawn(members.run(links.shutdown()));
    let edge = edge(&config)?;
    let security_log = edge.security_log.clone();
    let front = Arc::new(Front {
        access,
        edge,
        dopplers,
        topics: topics.clone(),
        streams,
        metrics: metrics.clone(),
        shutdown: clients.shutdown(),
        leaving: Leaving::new(clients.shutdown(), config.drain.mul_f64(SPREAD)),
    });
    let acceptor = Acceptor {
        plain_from: config.plain_from(),
        read_buffer: READ_BUFFER_IDLE,
        ..Acceptor::new(outgoing)
    };
    for (public, asked) in listeners.public.into_iter().zip(config.listen()) {
        let acceptor = Acceptor {
            balancers: config.balancers(asked.port()),
            ..acceptor.clone()
        };
        let (front, shutdown) = (front.clone(), accepting.shutdown());
        let most = config.max_streams.saturating_add(PENDING_CONNECTIONS);
        accepting.shutdown().spawn(async move {
            let serve = |tcp, peer| connection::serve(acceptor.clone(), front.clone(), tcp, peer);
            listener::serve(public, "public", most, &shutdown, serve).await;
        });
    }
    admin.shutdown().spawn({
        let ledger = ledger.clone();
        let page = Box::new(move || ledger.page());
        let counts = metrics.clone();
        let losses = Box::new(move |query: &str| counts.losses(query));
        let admin_page = Admin::new(telemetry, ready.clone())
            .page("/subscriptions", page)
            .question("/losses", losses)
            .from(config.admin_from.iter().copied().collect());
        let shutdown = admin.shutdown();
        async move { admin_page.serve(listeners.admin, &shutdown).await }
    });
    let reports = Drain::new();
    if let (Some(agent), Some((slow, urgent))) = (agent, metrics.slow_to_tell()) {
        let to_agent = ToAgent::new(ledger.clone(), metrics.clone(), slow);
        let reporter = Reporter { urgent, ..agent };
        let until = reports.shutdown();
        reports.shutdown().spawn(reporter.run(to_agent, until));
    }
    let audit = tokio::spawn(audit(metrics.clone(), ledger.clone()));
    let supervisor = Arc::new(Supervisor::at(config.notify_socket.as_deref()));
    supervisor.watch(config.watchdog());
    ready.set(true);
    supervisor.ready();

    stop.await;

    supervisor.stopping();
    ready.set(false);
    if !config.drain_wait.is_zero() {
        info!(wait = ?config.drain_wait, "not ready; clients may still come");
        tokio::time::sleep(config.drain_wait).await;
    }
    info!("draining");
    accepting.begin();
    // Each client leaves at a moment of its own, with what is there for it; a firehose's Dopplers
    // are told then, and say their last counts. Whoever is still there when that is over gets
    // what the app links had begun to send.
    clients.begin();
    let left = clients.wait(config.drain.mul_f64(SPREAD)).await;
    links.begin();
    if let Err(undrained) = links.wait(config.drain.mul_f64(LAST_COUNTS)).await {
        debug!(%undrained, "app links were cut off");
    }
    topics.close();
    if left.is_err()
        && let Err(undrained) = clients
            .wait(config.drain.mul_f64(1.0 - SPREAD - LAST_COUNTS))
            .await
    {
        warn!(%undrained, "clients were cut off");
    }
    if let Some(log) = security_log {
        log.flush().await;
    }
    audit.abort();
    reports.begin();
    if let Err(unreported) = reports.wait(LAST_REPORT).await {
        debug!(%unreported, "the agent was not told the last");
    }
    for (endpoint, account) in ["firehose", "stream"]
        .into_iter()
        .zip(metrics.audit(&ledger))
    {
        info!(
            endpoint,
            offered = account.offered,
            notices = account.notices,
            sent = account.sent,
            dropped = account.dropped.total(),
            queued = account.queued,
            "drained"
        );
    }
    // What came for apps whose tails had just left is in no tail's account.
    let read = ledger.read();
    info!(
        endpoint = "app_link",
        received = read
            .app_links
            .iter()
            .map(|link| link.sums.received)
            .sum::<u64>(),
        dropped = read.dropped_by_app_links().total(),
        "drained"
    );
    admin.begin();
    Ok(())
}

fn edge(config: &Config) -> Result<Edge, StartError> {
    let origins = Origins::new(config.system_domain.as_deref(), &config.allowed_origins);
    let security_log = match &config.security_event_log {
        Some(path) => Some(SecurityLog::open(path, config.ip)?),
        None => None,
    };
    Ok(Edge {
        // Who opened the door on purpose is on any address, and by any name.
        origins: match is_left_open(config) {
            true => origins.only_loopback(),
            false => origins,
        },
        any_page: config.disable_access_control,
        system_domain: config.system_domain.clone(),
        upstream_answers: config.upstream_answers,
        trusted_proxies: config.trusted_proxies.iter().copied().collect(),
        security_log,
        slow: config.slow(),
    })
}

/// Who says which Dopplers there are.
fn sources(config: &Config, reload: &mut Reload) -> Result<Sources, StartError> {
    let file = match config.router_addrs_file.clone() {
        Some(path) => {
            let files = vec![path.clone()];
            Some(reload.load("dopplers", files, move || discovery::read(&path))?)
        }
        None => None,
    };
    Ok(Sources {
        settings: config
            .router_addrs
            .iter()
            .map(|it| it.as_str().into())
            .collect(),
        file,
        dns: config.router_dns_names.clone(),
        dns_server: config.router_dns_server,
    })
}

fn to_dopplers(config: &Config, reload: &mut Reload) -> Result<Dialer, StartError> {
    let tls = match config.router_tls() {
        Some((identity, ca)) => {
            let client = reload.client("router", identity, ca, HTTP_1_1)?;
            Some((client, tls::server_name(DOPPLER_NAME)?))
        }
        None => None,
    };
    Ok(Dialer {
        buffers: Buffers {
            send: None,
            receive: Some(RECEIVE_BUFFER),
        },
        ..Dialer::new(tls, OPEN)
    })
}

/// Who reports to the agent, if there is one.
fn agent(config: &Config, reload: &mut Reload) -> Result<Option<Reporter>, StartError> {
    let Some(address) = config.agent_grpc_address.clone() else {
        return Ok(None);
    };
    let tls = match config.router_tls() {
        Some((identity, ca)) => {
            let client = reload.client("agent", identity, ca, &[tls::H2])?;
            Some((client, tls::server_name(AGENT_NAME)?))
        }
        None => None,
    };
    Ok(Some(Reporter::new(
        "agent",
        address,
        tls,
        BATCH_SENDER,
        config.metric_emitter_interval,
    )?))
}

async fn audit(metrics: Arc<Metrics>, ledger: Arc<Ledger>) {
    let mut every = tokio::time::interval(AUDIT);
    loop {
        every.tick().await;
        metrics.audit(&ledger);
    }
}
