//! What a process says about itself: log lines on stderr, metrics, and the admin listener.
//!
//! The admin listener shows metrics and health to this machine, and to whoever else was named: who
//! reads what, and from where, is nobody else's business. It changes nothing: GET and HEAD only.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};
use tracing_subscriber::EnvFilter;

use crate::listener;
use crate::networks::Networks;
use crate::ration::Ration;
use crate::shutdown::Shutdown;

mod lines;
mod process;

use lines::Lines;

/// Admin connections open at once; the next is closed. A scraper needs one.
pub const ADMIN_CONNECTIONS: usize = 16;

/// How long an admin client has to send a request head, and may idle between two: 5 s.
pub const ADMIN_HEAD: Duration = Duration::from_secs(5);

/// How often histograms are folded: until then each sample costs 16 bytes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Histogram buckets for metrics whose name ends in `_seconds`.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Histogram buckets for metrics whose name ends in `_bytes`: 256 B to 16 MiB, by fours.
const BYTES: &[f64] = &[
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// How long a process that ends waits for whoever reads its log: half a second.
const LAST_LINES: Duration = Duration::from_millis(500);

/// The log of this process, once it has one.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error(
        "{filter:?} is not a log filter: write a level (error, warn, info, debug, trace), or target=level, separated by commas"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// Where it is wrong.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody logs already.
    #[error("this process has a log already")]
    Taken,
}

/// Another library counts in this process.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process has another metrics recorder already")]
pub struct RecorderTaken;

/// Sends log lines to stderr: text, coloured on a terminal, or one JSON object a line. Whoever
/// logs never waits for whoever reads: lines that nobody takes are lost, and counted. Call
/// [`flush_log`] before the process ends.
///
/// `filter` is a level (`info`) or `target=level` pairs (`info,doppler=debug`), the syntax of
/// `tracing_subscriber::EnvFilter`; the environment is not read. Once per process.
pub fn log_to_stderr(filter: &str, json: bool) -> Result<(), LogError> {
    // rustls warns of each alert a peer sends: a line that any stranger can have us write.
    let quiet = match filter.contains("rustls") {
        true => filter.to_owned(),
        false => format!("{filter},rustls=error"),
    };
    let filter = EnvFilter::try_new(quiet).map_err(|source| LogError::Filter {
        filter: filter.into(),
        source,
    })?;
    let lines = Lines::to(std::io::stderr());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines.clone())
        .with_ansi(!json && std::io::stderr().is_terminal());
    let begun = if json {
        log.json().try_init()
    } else {
        log.try_init()
    };
    begun.map_err(|_| LogError::Taken)?;
    let _ = LINES.set(lines);
    Ok(())
}

/// Waits until every log line is written, or nobody reads them for half a second.
pub fn flush_log() {
    if let Some(lines) = LINES.get() {
        lines.flush(LAST_LINES);
    }
}

/// The metrics of this process.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Starts counting; counters taken from the `metrics` crate before this count nothing.
    /// All calls give the same metrics: several servers in one process (tests) share them.
    pub fn install() -> Result<Metrics, RecorderTaken> {
        static INSTALLED: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
        let installed = INSTALLED.get_or_init(|| {
            let recorder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
                .and_then(|builder| {
                    builder.set_buckets_for_metric(Matcher::Suffix("_bytes".into()), BYTES)
                })
                .expect("fails for an empty list of buckets only")
                .build_recorder();
            let handle = recorder.handle();
            let installed = metrics::set_global_recorder(recorder).ok().map(|()| handle);
            lines::describe();
            installed
        });
        installed.clone().map(Metrics).ok_or(RecorderTaken)
    }

    /// Everything counted, and the process itself, in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = self.0.render();
        process::render(&mut text);
        text
    }

    /// Folds histograms every 5 s, for ever. [`Admin::serve`] does it; a process without an
    /// admin listener must, or they grow with every sample.
    pub async fn upkeep(&self) -> Infallible {
        let mut every = tokio::time::interval(UPKEEP);
        loop {
            every.tick().await;
            self.0.run_upkeep();
        }
    }
}

/// Whether this process wants work: what `/health/ready` says. Not ready at first. Clones are
/// the same.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Not ready yet.
    pub fn new() -> Readiness {
        Readiness::default()
    }

    /// Says so from now on.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// What was said last.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Writes the JSON of an admin page when it is asked for.
pub type Page = Box<dyn Fn() -> String + Send + Sync>;

/// Writes the JSON of an admin page for a query, or says what is wrong with the query.
pub type Answer = Box<dyn Fn(&str) -> Result<String, String> + Send + Sync>;

/// The admin listener: `/health/live`, `/health/ready`, `/metrics`, and pages.
pub struct Admin {
    metrics: Metrics,
    ready: Readiness,
    pages: BTreeMap<&'static str, Answer>,
    /// Who may ask, beside this machine.
    from: Networks,
    strangers: Mutex<Ration>,
    began: Instant,
}

impl Admin {
    /// Without pages.
    pub fn new(metrics: Metrics, ready: Readiness) -> Admin {
        Admin {
            metrics,
            ready,
            pages: BTreeMap::new(),
            from: Networks::default(),
            strangers: Mutex::new(Ration::new(1)),
            began: Instant::now(),
        }
    }

    /// Answers who comes from there, too.
    pub fn from(self, networks: Networks) -> Admin {
        Admin {
            from: networks,
            ..self
        }
    }

    /// Adds a JSON page at `path`, which starts with a slash. It runs on the runtime: it must
    /// not block, and what it says is everybody's who may connect.
    pub fn page(self, path: &'static str, page: Page) -> Admin {
        self.question(path, Box::new(move |_| Ok(page())))
    }

    /// As [`Admin::page`], of a page that looks at the query.
    pub fn question(mut self, path: &'static str, answer: Answer) -> Admin {
        self.pages.insert(path, answer);
        self
    }

    /// Answers until `shutdown` begins. Give it a drain of its own, begun last, so that it
    /// still says "not ready" while the others drain.
    pub async fn serve(self, listener: TcpListener, shutdown: &Shutdown) {
        let metrics = self.metrics.clone();
        let admin = Arc::new(self);
        let serve = listener::serve(
            listener,
            "admin",
            ADMIN_CONNECTIONS,
            shutdown,
            |tcp, peer| admin.clone().connection(tcp, peer, shutdown.clone()),
        );
        tokio::select! {
            () = serve => (),
            never = metrics.upkeep() => match never {},
        }
    }

    async fn connection(self: Arc<Self>, tcp: TcpStream, peer: SocketAddr, shutdown: Shutdown) {
        if !Networks::loopback().contains(peer.ip()) && !self.from.contains(peer.ip()) {
            let mut strangers = self
                .strangers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(unsaid) = strangers.line(self.began.elapsed()) {
                warn!(%peer, unsaid, "refused: only named networks may ask the admin listener");
            }
            return;
        }
        if let Err(error) = listener::tune(&tcp) {
            return debug!(%peer, %error, "admin connection left");
        }
        let answer = service_fn(|request: Request<Incoming>| {
            let response = self.answer(request.method(), request.uri());
            async { Ok::<_, Infallible>(response) }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(ADMIN_HEAD)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(tcp), answer)
        );
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.begun() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%peer, %error, "admin connection failed");
        }
    }

    fn answer(&self, method: &Method, uri: &Uri) -> Response<Full<Bytes>> {
        const TEXT: &str = "text/plain; charset=utf-8";
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n");
            let allow = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allow);
            return response;
        }
        match uri.path() {
            "/health/live" => respond(StatusCode::OK, TEXT, "ok\n"),
            "/health/ready" if self.ready.is_ready() => respond(StatusCode::OK, TEXT, "ok\n"),
            "/health/ready" => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n"),
            "/metrics" => respond(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.metrics.render(),
            ),
            path => match self.pages.get(path) {
                Some(page) => match page(uri.query().unwrap_or_default()) {
                    Ok(json) => respond(StatusCode::OK, "application/json", json),
                    Err(wrong) => respond(StatusCode::BAD_REQUEST, TEXT, wrong + "\n"),
                },
                None => respond(StatusCode::NOT_FOUND, TEXT, self.paths()),
            },
        }
    }

    fn paths(&self) -> String {
        let mut text = String::from("here are:\n");
        for path in ["/health/live", "/health/ready", "/metrics"]
            .iter()
            .chain(self.pages.keys())
        {
            text.push_str(path);
            text.push('\n');
        }
        text
    }
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
