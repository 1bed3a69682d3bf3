//! Wires a Traffic Controller: the public listeners to the front, the front to access, topics
//! and Dopplers, the admin listener to what they count; and stops them in the order the data
//! flows.

use crate::access::{Access, Tokens, TokensError};
use crate::config::Config;
use crate::dopplers::app_link::AppLink;
use crate::dopplers::{Doppler, Dopplers, OPEN, RECEIVE_BUFFER};
use crate::front::{Front, connection};
use crate::metrics::Metrics;
use crate::page::Ledger;
use crate::streams::Streams;
use crate::topics::Topics;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tracing::{debug, info, warn};
use transport::listener::{
    self, Acceptor, BindError, Buffers, Dialer, PlainOutsideLoopback, READ_BUFFER_IDLE,
};
use transport::shutdown::Drain;
use transport::telemetry::{self, Admin, Readiness, RecorderTaken};
use transport::tls::{self, Roots, TlsError};

/// The name in a Doppler's certificate, whatever its address (upstream's rule).
const DOPPLER_NAME: &str = "doppler";

/// Connections that are not streams yet, beyond those that are.
const PENDING_CONNECTIONS: usize = 1_024;

/// How often accounts are checked and their sums shown.
const AUDIT: Duration = Duration::from_secs(1);

/// Bound sockets.
pub struct Listeners {
    /// Clients.
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
    /// Plain text on an address that others can reach.
    #[error(transparent)]
    Plain(#[from] PlainOutsideLoopback),
    /// Everybody could read everything, from anywhere.
    #[error("{address} can be reached by others: give --tokens-file, or bind to 127.0.0.1")]
    OpenOutsideLoopback {
        /// The address asked for.
        address: SocketAddr,
    },
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
        let mut public = Vec::new();
        for address in config.listen() {
            if config.outgoing_tls().is_none() {
                listener::plain_only_on_loopback(address)?;
            }
            if config.tokens_file.is_none() && listener::plain_only_on_loopback(address).is_err() {
                return Err(StartError::OpenOutsideLoopback { address });
            }
            public.push(listener::bind(address)?);
        }
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

/// Runs a Traffic Controller until `stop` resolves, then drains it.
pub async fn run(
    config: Config,
    listeners: Listeners,
    stop: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let telemetry = telemetry::Metrics::install()?;
    let outgoing = match config.outgoing_tls() {
        // WebSockets need HTTP/1.1; offering h2 would let a balancer choose a dead end.
        Some(identity) => Some(tls::server(&identity, None, &[tls::HTTP_1_1])?),
        None => None,
    };
    let dopplers = dopplers(&config)?;
    let access = match &config.tokens_file {
        Some(path) => Access::Tokens(Tokens::read(path)?),
        None => Access::Open,
    };
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

    let mut app_links = Vec::new();
    for doppler in dopplers.iter() {
        let (link, hop) = AppLink::new(doppler.clone(), topics.clone());
        app_links.push(hop);
        links.shutdown().spawn(link.run(links.shutdown()));
    }
    let ledger = Arc::new(Ledger {
        streams: streams.clone(),
        topics: topics.clone(),
        app_links,
    });
    let front = Arc::new(Front {
        access,
        dopplers,
        topics: topics.clone(),
        streams,
        metrics: metrics.clone(),
        shutdown: clients.shutdown(),
    });
    let acceptor = Acceptor {
        read_buffer: READ_BUFFER_IDLE,
        ..Acceptor::new(outgoing)
    };
    for public in listeners.public {
        let (front, acceptor, shutdown) = (front.clone(), acceptor.clone(), accepting.shutdown());
        let most = config.max_streams.saturating_add(PENDING_CONNECTIONS);
        accepting.shutdown().spawn(async move {
            let serve = |tcp, peer| connection::serve(acceptor.clone(), front.clone(), tcp, peer);
            listener::serve(public, "public", most, &shutdown, serve).await;
        });
    }
    admin.shutdown().spawn({
        let ledger = ledger.clone();
        let page = Box::new(move || ledger.page());
        let admin_page = Admin::new(telemetry, ready.clone()).page("/subscriptions", page);
        let shutdown = admin.shutdown();
        async move { admin_page.serve(listeners.admin, &shutdown).await }
    });
    let audit = tokio::spawn(audit(metrics.clone(), ledger.clone()));
    ready.set(true);

    stop.await;

    info!("draining");
    ready.set(false);
    accepting.begin();
    // As the data flows: the Dopplers are told, what they had begun to send goes to the clients,
    // and then the clients are closed. Firehoses do the same, each for itself.
    clients.begin();
    links.begin();
    if let Err(undrained) = links.wait(config.drain.mul_f32(0.4)).await {
        debug!(%undrained, "app links were cut off");
    }
    topics.close();
    if let Err(undrained) = clients.wait(config.drain.mul_f32(0.6)).await {
        warn!(%undrained, "clients were cut off");
    }
    audit.abort();
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
    admin.begin();
    Ok(())
}

fn dopplers(config: &Config) -> Result<Dopplers, StartError> {
    let tls = match config.router_tls() {
        Some((identity, ca)) => {
            let client = tls::client(Roots::Ca(&ca), Some(&identity), &[tls::HTTP_1_1])?;
            Some((client, tls::server_name(DOPPLER_NAME)?))
        }
        None => None,
    };
    let dialer = Dialer {
        buffers: Buffers {
            send: None,
            receive: Some(RECEIVE_BUFFER),
        },
        ..Dialer::new(tls, OPEN)
    };
    let doppler = |address: &String| Arc::new(Doppler::new(address.clone(), dialer.clone()));
    Ok(config.router_addrs.iter().map(doppler).collect())
}

async fn audit(metrics: Arc<Metrics>, ledger: Arc<Ledger>) {
    let mut every = tokio::time::interval(AUDIT);
    loop {
        every.tick().await;
        metrics.audit(&ledger);
    }
}
