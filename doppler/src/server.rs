//! Wires a Doppler: its one port to ingress and egress, its router to both, its admin listener
//! to what they count; and stops them in the order the data flows.

use crate::config::Config;
use crate::egress::Egress;
use crate::ingress::grpc::Ingress;
use crate::ingress::{Budget, Door, Gate};
use crate::metrics::Metrics;
use crate::overload::Overload;
use crate::own_metrics::{OwnMetrics, ToAgent};
use crate::readers::{Peer, Readers};
use crate::router::recent::Recents;
use crate::router::{Router, Subscription};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use proto::component::{AGENT_NAME, BATCH_SENDER};
use serde_json::json;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use transport::cause::chain;
use transport::clock::unix_ns;
use transport::grpc::{self, PlainToAnother, Reporter};
use transport::listener::{self, Acceptor, BindError, Buffers, PlainOutsideLoopback, Stream};
use transport::log::GATHER;
use transport::processors::Processors;
use transport::reload::Reload;
use transport::settings;
use transport::shutdown::{Drain, Hangup, Shutdown};
use transport::supervisor::Supervisor;
use transport::telemetry::{self, Admin, Readiness, RecorderTaken};
use transport::tls::{self, NoSuite, Roots, Suites, TlsError};

/// What agents offer (`h2`, and nothing else) and what our links prefer.
const ALPN: &[&[u8]] = &[b"http/1.1", b"h2"];

/// How long a peer has for TLS, and then for the head of its request.
const HEAD: Duration = Duration::from_secs(2);

/// The longest request head a Traffic Controller may send, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// HTTP/2 flow control windows of one stream and one connection, in bytes: what an agent may
/// send before we read it, and so what it can make us hold while its message waits for budget.
struct Windows {
    stream: u32,
    connection: u32,
}

/// The least that HTTP/2 lets a connection have (RFC 9113 §6.9.2), and what upstream's server
/// grants: several batches of 100 envelopes.
const NARROW: Windows = Windows {
    stream: 65_535,
    connection: 65_535,
};

/// For few agents that send as fast as they can: fewer stops to wait for a window.
const WIDE: Windows = Windows {
    stream: 256 << 10,
    connection: 512 << 10,
};

/// Connections with wide windows at a time: 32 MiB.
const MOST_WIDE: usize = 64;

/// Streams on one connection; today's agents open one or two.
const MAX_STREAMS: u32 = 100;

/// Streams that a peer may take back before we got to them; with the next the connection ends.
/// Rapid reset (CVE-2023-44487) makes thousands, an agent none.
const MAX_TAKEN_BACK: usize = 20;

/// Streams of one connection, over its life, that we may have to refuse (too many at once,
/// malformed, too large a head) before it ends. An agent has none; hyper's own 1,024 is a
/// proxy's.
const MAX_REFUSED_STREAMS: usize = 64;

/// The longest HTTP/2 frame, in bytes: what upstream's server announces, and the least there is.
/// With [`MAX_HEAD`] it also decides how many CONTINUATION frames a head may take: h2 ends the
/// connection at a few.
const MAX_FRAME: u32 = 16 << 10;

/// What we hold of answers that a peer does not take, in bytes: an answer is a status.
const UNTAKEN_ANSWERS: usize = 16 << 10;

/// What a socket may hold of a link's bytes: it bounds what cannot be taken back when the
/// Traffic Controller's client goes.
const SEND_BUFFER: usize = 256 << 10;

/// How often accounts are checked and their sums shown.
const AUDIT: Duration = Duration::from_secs(1);

/// How often it is asked whether readers keep up: while one does not, and while all do. 300 MB/s of
/// envelopes fill a quarter of the log in the longer of the two.
const KEEP_UP: Duration = Duration::from_millis(10);
const KEEP_UP_AT_EASE: Duration = Duration::from_millis(50);

/// A reader that has taken nothing for so many times that this was asked, a quarter of a second,
/// stands still: it is not we who keep it waiting. A task that starves has its turn sooner.
const STANDS_STILL: u32 = 25;

/// Over which time it is looked whether there was a processor to be had.
const LOOK: Duration = Duration::from_millis(50);

/// How often it is said, at most, that they do not.
const WARN_AGAIN: Duration = Duration::from_secs(60);

/// How often apps that have long been silent are looked for. Nothing depends on it: what is too
/// old is not shown, and there is a cap.
const FORGET: Duration = Duration::from_secs(60);

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
    /// None of the cipher suites asked for can be had.
    #[error("cannot use ROUTER_CIPHER_SUITES")]
    Suites(#[from] NoSuite),
    /// Plain text on an address that others can reach.
    #[error(transparent)]
    Plain(#[from] PlainOutsideLoopback),
    /// Plain text to an agent elsewhere.
    #[error("cannot report to the agent at AGENT_GRPC_ADDRESS")]
    Agent(#[from] PlainToAnother),
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

/// Everything that is wrong with the files that `config` names, and with what they do together.
pub fn check(config: &Config) -> Vec<String> {
    let mut errors: Vec<StartError> = Vec::new();
    match config.tls() {
        Some((identity, ca)) => {
            let identity = settings::identity_mistakes(&identity).into_iter();
            errors.extend(identity.map(StartError::from));
            errors.extend(tls::client(Roots::Ca(&ca), None, &[]).err().map(Into::into));
        }
        None => {
            let plain = listener::plain_only_on_loopback(config.listen());
            errors.extend(plain.err().map(Into::into));
            let agent = config.agent_grpc_address.as_deref();
            let plain = agent.map(grpc::plain_only_to_loopback);
            errors.extend(plain.and_then(Result::err).map(Into::into));
        }
    }
    errors.extend(suites(config).err().map(Into::into));
    errors.iter().map(|error| chain(error)).collect()
}

/// Runs a Doppler until `stop` resolves, then drains it.
pub async fn run(
    config: Config,
    listeners: Listeners,
    stop: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let telemetry = telemetry::Metrics::install()?;
    let mut reload = Reload::new();
    let tls = match config.tls() {
        Some((identity, ca)) => {
            Some(reload.server("port", identity, Some(ca), ALPN, suites(&config)?)?)
        }
        None => None,
    };
    let hangup = Hangup::listen().map_err(|source| StartError::System {
        what: "listen for SIGHUP",
        source,
    })?;
    let agent = agent(&config, &mut reload)?;
    let recents = Recents::new(
        config.recent_logs,
        config.recent_bytes,
        config.container_metric_ttl,
    );
    let router = Arc::new(Router::new(
        config.log_bytes,
        config.app_store_bytes,
        recents,
    ));
    let metrics = Arc::new(Metrics::new());
    let (doors, links, admin) = (Drain::new(), Drain::new(), Drain::new());
    let ready = Readiness::new();
    let gate = Arc::new(Gate::default());

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
            gate: gate.clone(),
        },
        egress: Egress {
            router: router.clone(),
            metrics: metrics.clone(),
            readers: Readers::new(&config.readers, config.report_only_roles),
            linger: config.linger,
            shutdown: links.shutdown(),
        },
        doors: doors.shutdown(),
        wide: Arc::new(Semaphore::new(MOST_WIDE)),
    };
    doors.shutdown().spawn(reload.run(hangup, doors.shutdown()));
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
        let (subscriptions, counts) = (router.clone(), metrics.clone());
        let page = Box::new(move || subscriptions_page(&subscriptions, &counts));
        let counts = metrics.clone();
        let losses = Box::new(move |query: &str| counts.losses(query));
        let admin_page = Admin::new(telemetry, ready.clone())
            .page("/subscriptions", page)
            .question("/losses", losses)
            .from(config.admin_from.iter().copied().collect());
        let shutdown = admin.shutdown();
        async move { admin_page.serve(listeners.admin, &shutdown).await }
    });
    let own = OwnMetrics::new(&config.metric_source_id);
    let interval = config.metric_interval;
    let reports = Drain::new();
    let (door, counts) = (router.clone(), metrics.clone());
    match agent {
        Some(reporter) => {
            let to_agent = ToAgent {
                own,
                router: door,
                metrics: counts,
            };
            reports
                .shutdown()
                .spawn(reporter.run(to_agent, reports.shutdown()));
        }
        None => {
            let until = reports.shutdown();
            reports.shutdown().spawn(async move {
                tokio::select! {
                    () = emit(own, interval, door, counts) => {}
                    () = until.begun() => {}
                }
            });
        }
    }
    let background = [
        tokio::spawn(seal(router.clone())),
        tokio::spawn(audit(router.clone(), metrics.clone())),
        tokio::spawn(forget(router.clone())),
    ];
    let (keeping_up, over) = mpsc::sync_channel::<()>(0);
    let keep_up = {
        let (router, gate) = (router.clone(), gate.clone());
        let workers = tokio::runtime::Handle::current().metrics().num_workers();
        move || keep_up(&router, &gate, workers, &over)
    };
    let thread = std::thread::Builder::new().name("keep-up".into());
    thread.spawn(keep_up).map_err(|source| StartError::System {
        what: "start a thread",
        source,
    })?;
    let supervisor = Arc::new(Supervisor::at(config.notify_socket.as_deref()));
    supervisor.watch(config.watchdog());
    ready.set(true);
    supervisor.ready();

    stop.await;

    info!("draining");
    supervisor.stopping();
    ready.set(false);
    // What has arrived is taken, whatever the load.
    drop(keeping_up);
    gate.close(false);
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
    reports.begin();
    if let Err(unreported) = reports.wait(LAST_REPORT).await {
        debug!(%unreported, "the agent was not told the last");
    }
    let totals = metrics.audit(&router);
    info!(
        envelopes = totals.ingress.taken,
        accepted = totals.ingress.accepted,
        refused = totals.ingress.dropped.total(),
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

/// The cipher suites asked for; names we do not know are passed over, as upstream does.
fn suites(config: &Config) -> Result<Suites, NoSuite> {
    let Some(asked) = &config.cipher_suites else {
        return Ok(Suites::default());
    };
    let (suites, unknown) = Suites::named(asked)?;
    if !unknown.is_empty() {
        warn!(
            unknown = unknown.join(", "),
            "ROUTER_CIPHER_SUITES names suites that we do not have; going on with the others"
        );
    }
    Ok(suites)
}

/// The one port: gRPC from agents, links from Traffic Controllers.
#[derive(Clone)]
struct Port {
    acceptor: Acceptor,
    ingress: Ingress,
    egress: Egress,
    doors: Shutdown,
    wide: Arc<Semaphore>,
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
        let one_of_few = self.wide.try_acquire();
        let windows = if one_of_few.is_ok() { WIDE } else { NARROW };
        let ingress = self.ingress.of_connection();
        let answer = service_fn(move |request| {
            let ingress = ingress.clone();
            async { Ok::<_, Infallible>(ingress.call(request).await) }
        });
        let mut connection = std::pin::pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(windows.stream)
                .initial_connection_window_size(windows.connection)
                .max_concurrent_streams(MAX_STREAMS)
                .max_pending_accept_reset_streams(MAX_TAKEN_BACK)
                .max_local_error_reset_streams(MAX_REFUSED_STREAMS)
                .max_frame_size(MAX_FRAME)
                .max_send_buf_size(UNTAKEN_ANSWERS)
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
        let (who, peer) = (Peer::of(&stream), peer.to_string());
        let egress = self.egress;
        let answer = service_fn(move |request| {
            let response = egress.answer(request, &peer, &who);
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

/// How long the agent has to take the last report.
const LAST_REPORT: Duration = Duration::from_secs(1);

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

/// Closes the doors while readers lag for want of a processor; leaves them open in the end, which
/// is when nobody holds the other end of `over`.
///
/// On a thread of its own: behind the messages of hundreds of agents a task has its turn when the
/// log is full.
fn keep_up(router: &Router, gate: &Gate, workers: usize, over: &mpsc::Receiver<()>) {
    let mut overload = Overload::default();
    let (mut processors, mut exhausted) = (None, false);
    let mut closed = false;
    let mut warned: Option<Instant> = None;
    let mut next = KEEP_UP_AT_EASE;
    // Whatever ends this: nobody else would open them.
    let _open = Opens(gate);
    while over.recv_timeout(next) == Err(mpsc::RecvTimeoutError::Timeout) {
        let lag = router.log().lag(STANDS_STILL);
        let mut looked = false;
        let closes = overload.closes(lag, || {
            looked = true;
            match &mut processors {
                None => processors = Processors::look(),
                Some(processors) if processors.age() >= LOOK => {
                    let used = processors.since();
                    exhausted = used.is_some_and(|used| used.is_all_there_is(workers));
                }
                Some(_) => {}
            }
            exhausted
        });
        if !looked {
            // What was used long ago says nothing about now.
            (processors, exhausted) = (None, false);
        }
        next = if lag == 0 { KEEP_UP_AT_EASE } else { KEEP_UP };
        if std::mem::replace(&mut closed, closes) == closes {
            continue;
        }
        gate.close(closed);
        Metrics::paused(closed);
        if closed && warned.is_none_or(|warned| warned.elapsed() >= WARN_AGAIN) {
            warned = Some(Instant::now());
            warn!(
                lag_per_mille = lag,
                "this machine cannot pass on all that agents send: taking less; scale out"
            );
        }
    }
}

/// Opens the doors in the end.
struct Opens<'a>(&'a Gate);

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        self.0.close(false);
        Metrics::paused(false);
    }
}

/// Forgets what need not be kept any longer.
async fn forget(router: Arc<Router>) {
    let mut every = tokio::time::interval(FORGET);
    loop {
        every.tick().await;
        router.recents().forget(unix_ns());
    }
}

/// Who reports to the agent, if there is one.
fn agent(config: &Config, reload: &mut Reload) -> Result<Option<Reporter>, StartError> {
    let Some(address) = config.agent_grpc_address.clone() else {
        return Ok(None);
    };
    let tls = match config.tls() {
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
        config.metric_interval,
    )?))
}

/// Puts the Doppler's own metrics into its stream.
async fn emit(mut own: OwnMetrics, interval: Duration, router: Arc<Router>, metrics: Arc<Metrics>) {
    let door = Door::new(router.clone(), metrics.clone());
    // Not at once: there is nothing to tell yet.
    let mut every = tokio::time::interval_at(Instant::now() + interval, interval);
    loop {
        every.tick().await;
        let totals = metrics.audit(&router);
        for envelope in own.since(&totals, true, unix_ns()) {
            door.envelope(&envelope.encode_to_vec());
        }
        own.told();
    }
}

/// The page `/subscriptions`: every account as it stands, and the sums of those that ended; and what
/// came to the doors.
fn subscriptions_page(router: &Router, metrics: &Metrics) -> String {
    let (accounts, ingress) = (router.accounts(), metrics.ingress());
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
    json!({
        "subscriptions": subscriptions.collect::<Vec<_>>(),
        "ended": accounts.gone,
        "unconfirmed": metrics.all_unconfirmed(),
        "ingress": {
            "taken": ingress.taken,
            "accepted": ingress.accepted,
            "dropped": ingress.dropped,
            "conversions": ingress.conversions,
            "published": ingress.published,
            "unread": ingress.unread,
        },
    })
    .to_string()
}
