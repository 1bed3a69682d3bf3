//! Wires a Doppler: its one port to ingress and egress, its router to both, its admin listener
//! to what they count; and stops them in the order the data flows.

use crate::config::Config;
use crate::egress::Egress;
use crate::ingress::grpc::Ingress;
use crate::ingress::{Budget, Door};
use crate::metrics::Metrics;
use crate::own_metrics::{self, OwnMetrics};
use crate::router::{Router, Subscription};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, info, warn};
use transport::clock::unix_ns;
use transport::listener::{self, Acceptor, BindError, Buffers, PlainOutsideLoopback, Stream};
use transport::log::GATHER;
use transport::shutdown::{Drain, Shutdown};
use transport::telemetry::{self, Admin, Readiness, RecorderTaken};
use transport::tls::{self, TlsError};

/// What agents offer (`h2`, and nothing else) and what our links prefer.
const ALPN: &[&[u8]] = &[b"http/1.1", b"h2"];

/// How long a peer has for TLS, and then for the head of its request.
const HEAD: Duration = Duration::from_secs(2);

/// The longest request head a Traffic Controller may send, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// HTTP/2 flow control windows of one stream and one connection, in bytes: what an agent may
/// send before we read it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;

/// Streams on one connection; today's agents open one or two.
const MAX_STREAMS: u32 = 100;

/// What a socket may hold of a link's bytes: it bounds what cannot be taken back when the
/// Traffic Controller's client goes.
const SEND_BUFFER: usize = 256 << 10;

/// How often accounts are checked and their sums shown.
const AUDIT: Duration = Duration::from_secs(1);

/// Bound sockets.
pub struct Listeners {
    /// Agents and Traffic Controllers.
    pub port: TcpListener,
    /// Operators.
    pub admin: TcpListener,
}

/// Why a Doppler did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken, or not ours.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A certificate, key or CA cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Plain text on an address that others can reach.
    #[error(transparent)]
    Plain(#[from] PlainOutsideLoopback),
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
        if config.tls().is_none() {
            listener::plain_only_on_loopback(config.listen())?;
        }
        Ok(Listeners {
            port: listener::bind(config.listen())?,
            admin: listener::bind(config.admin())?,
        })
    }

    /// Where they are bound: the port, and the admin listener.
    pub fn addresses(&self) -> Result<(SocketAddr, SocketAddr), StartError> {
        let address = |listener: &TcpListener| {
            listener.local_addr().map_err(|source| StartError::System {
                what: "read the address of a bound socket",
                source,
            })
        };
        Ok((address(&self.port)?, address(&self.admin)?))
    }
}

/// Runs a Doppler until `stop` resolves, then drains it.
pub async fn run(
    config: Config,
    listeners: Listeners,
    stop: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let telemetry = telemetry::Metrics::install()?;
    let tls = match config.tls() {
        Some((identity, ca)) => Some(tls::server(&identity, Some(&ca), ALPN)?),
        None => None,
    };
    let router = Arc::new(Router::new(config.log_bytes, config.app_store_bytes));
    let metrics = Arc::new(Metrics::new());
    let (doors, links, admin) = (Drain::new(), Drain::new(), Drain::new());
    let ready = Readiness::new();

    let port = Port {
        acceptor: Acceptor {
            buffers: Buffers {
                send: Some(SEND_BUFFER),
                receive: None,
            },
            ..Acceptor::new(tls)
        },
        ingress: Ingress {
            router: router.clone(),
            metrics: metrics.clone(),
            budget: Budget::new(config.half_received_bytes),
        },
        egress: Egress {
            router: router.clone(),
            linger: config.linger,
            shutdown: links.shutdown(),
        },
        doors: doors.shutdown(),
    };
    let accepting = doors.shutdown();
    doors.shutdown().spawn(async move {
        let serve = |tcp, peer| port.clone().connection(tcp, peer);
        listener::serve(
            listeners.port,
            "port",
            config.max_connections,
            &accepting,
            serve,
        )
        .await;
    });
    admin.shutdown().spawn({
        let subscriptions = router.clone();
        let page = Box::new(move || subscriptions_page(&subscriptions));
        let admin_page = Admin::new(telemetry, ready.clone()).page("/subscriptions", page);
        let shutdown = admin.shutdown();
        async move { admin_page.serve(listeners.admin, &shutdown).await }
    });
    let background = [
        tokio::spawn(seal(router.clone())),
        tokio::spawn(audit(router.clone(), metrics.clone())),
        tokio::spawn(emit(router.clone(), metrics.clone())),
    ];
    ready.set(true);

    stop.await;

    info!("draining");
    ready.set(false);
    doors.begin();
    let half = config.drain / 2;
    if let Err(undrained) = doors.wait(half).await {
        debug!(%undrained, "agents were cut off");
    }
    router.log().close();
    router.apps().close();
    links.begin();
    if let Err(undrained) = links.wait(half).await {
        warn!(%undrained, "links were cut off");
    }
    background.iter().for_each(|task| task.abort());
    let totals = metrics.audit(&router);
    info!(
        envelopes = totals.envelopes,
        offered = totals.egress.offered,
        notices = totals.egress.notices,
        sent = totals.egress.sent,
        dropped = totals.egress.dropped.total(),
        queued = totals.egress.queued,
        "drained"
    );
    admin.begin();
    Ok(())
}

/// The one port: gRPC from agents, links from Traffic Controllers.
#[derive(Clone)]
struct Port {
    acceptor: Acceptor,
    ingress: Ingress,
    egress: Egress,
    doors: Shutdown,
}

impl Port {
    async fn connection(self, tcp: TcpStream, peer: SocketAddr) {
        let stream = match self.acceptor.accept(tcp, peer).await {
            Ok(stream) => stream,
            Err(error) => return debug!(%peer, %error, "not accepted"),
        };
        let served = match stream.speaks_http2(HEAD).await {
            Ok(true) => self.agent(stream).await,
            Ok(false) => self.traffic_controller(stream, peer).await,
            Err(error) => return debug!(%peer, %error, "left before it spoke"),
        };
        if let Err(error) = served {
            if error.is_parse() {
                Metrics::refused_request("not_http");
            }
            debug!(%peer, %error, "connection ended");
        }
    }

    async fn agent(self, stream: Stream) -> hyper::Result<()> {
        let ingress = self.ingress.of_connection();
        let answer = service_fn(move |request| {
            let ingress = ingress.clone();
            async { Ok::<_, Infallible>(ingress.call(request).await) }
        });
        let mut connection = std::pin::pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_streams(MAX_STREAMS)
                .max_header_list_size(MAX_HEAD as u32)
                .serve_connection(TokioIo::new(stream), answer)
        );
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.doors.begun() => {
                // GOAWAY; agents hold their streams open for ever, so we do not wait for them.
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
            }
        }
    }

    async fn traffic_controller(self, stream: Stream, peer: SocketAddr) -> hyper::Result<()> {
        let peer = peer.to_string();
        let egress = self.egress;
        let answer = service_fn(move |request| {
            let response = egress.answer(request, &peer);
            async { Ok::<_, Infallible>(response) }
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(MAX_HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), answer)
            .with_upgrades()
            .await
    }
}

/// How long an agent has to finish after GOAWAY.
const GOODBYE: Duration = Duration::from_millis(500);

async fn seal(router: Arc<Router>) {
    router.log().keep_sealing(GATHER).await
}

async fn audit(router: Arc<Router>, metrics: Arc<Metrics>) {
    let mut every = tokio::time::interval(AUDIT);
    loop {
        every.tick().await;
        metrics.audit(&router);
    }
}

/// Puts the Doppler's own metrics into its stream.
async fn emit(router: Arc<Router>, metrics: Arc<Metrics>) {
    let mut own = OwnMetrics::default();
    let mut door = Door::new(router.clone(), metrics.clone());
    let mut every = tokio::time::interval(own_metrics::INTERVAL);
    loop {
        every.tick().await;
        let totals = metrics.audit(&router);
        for envelope in own.since(&totals, unix_ns()) {
            door.envelope(&envelope);
        }
    }
}

/// The page `/subscriptions`: every account as it stands, and the sums of those that ended.
fn subscriptions_page(router: &Router) -> String {
    let accounts = router.accounts();
    let subscriptions = accounts
        .open
        .into_iter()
        .map(|(whose, account)| match whose {
            Subscription::Firehose {
                id,
                filter,
                members,
            } => json!({
                "firehose": &*id,
                "filter": filter.name(),
                "members": members,
                "account": account,
            }),
            Subscription::App { peer, app } => json!({
                "app": &*app,
                "traffic_controller": &*peer,
                "account": account,
            }),
        });
    json!({ "subscriptions": subscriptions.collect::<Vec<_>>(), "ended": accounts.gone })
        .to_string()
}
