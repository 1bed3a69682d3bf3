//! The public door: every route on one screen, in the order in which a request is looked at.
//!
//! In come HTTP/1.1 requests; out go 101 and a stream, or the status, headers and body that
//! upstream gives: clients show them to people.

mod answer;
pub mod connection;
mod credential;
mod end;
mod firehose;
mod forwarded;
mod leaving;
mod origin;
mod recent;
mod security_log;
mod set_cookie;
mod slow;
mod tail;

pub use connection::Ends;
pub use leaving::Leaving;
pub use origin::{Origin, Origins};
pub use security_log::{SecurityLog, SecurityLogError};
pub use slow::Rules;

use self::answer::{bad_request, empty, last, moved, no_handshake, plain, refused, text};
use self::credential::Credential;
use self::origin::Page;
use self::slow::Slow;
use crate::access::{Access, Held};
use crate::dopplers::Dopplers;
use crate::metrics::Metrics;
use crate::own_metrics::SlowConsumer;
use crate::streams::{Seat, Streams};
use crate::topics::{Leave, Topics};
use bytes::Bytes;
use http::header::{DATE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use proto::request::{self, BadRequest, Request as Asked};
use std::sync::Arc;
use std::time::SystemTime;
use tracing::{debug, warn};
use transport::listener::Stream;
use transport::networks::Networks;
use transport::shutdown::Shutdown;
use transport::websocket::upgrade::{self, Handshake};
use transport::websocket::{Options, Socket};

/// What a request needs to be served.
pub struct Front {
    /// Who may read what.
    pub access: Access,
    /// What it looks like from outside.
    pub edge: Edge,
    /// Where firehoses come from.
    pub dopplers: Dopplers,
    /// Where app streams come from.
    pub topics: Arc<Topics>,
    /// What is open.
    pub streams: Arc<Streams>,
    /// Who counts.
    pub metrics: Arc<Metrics>,
    /// Streams are waited for when the process drains.
    pub shutdown: Shutdown,
    /// When each of them ends then.
    pub leaving: Leaving,
}

/// What an operator has said about the public door.
#[derive(Default)]
pub struct Edge {
    /// Whose pages may use a cookie.
    pub origins: Origins,
    /// With access control off: whether any page may read too, as upstream has it.
    pub any_page: bool,
    /// The domain whose `doppler.` cookies are for.
    pub system_domain: Option<String>,
    /// Whether to answer as upstream where we know better.
    pub upstream_answers: bool,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Networks,
    /// Who writes down each request.
    pub security_log: Option<SecurityLog>,
    /// When a client is too slow, and what it is told.
    pub slow: Rules,
}

type Answer = Response<Full<Bytes>>;

impl Front {
    /// Answers one request that came over this connection.
    pub async fn answer(self: Arc<Front>, request: Request<Incoming>, ends: Ends) -> Answer {
        let origin = match self.edge.upstream_answers {
            true => None,
            false => recent::origin(request.uri().path(), request.headers()),
        };
        let mut answer = self.serve(request, ends).await.unwrap_or_else(|refused| {
            Metrics::refused_request(upgrade::reason(refused.status()));
            refused
        });
        if let Some(origin) = origin {
            recent::share(origin, &mut answer);
        }
        // Upstream's 101 has none.
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let now = httpdate::fmt_http_date(SystemTime::now());
            answer
                .headers_mut()
                .extend(HeaderValue::try_from(now).map(|now| (DATE, now)));
        }
        answer
    }

    /// Upstream's order, but that a handshake is one before it takes a place.
    async fn serve(
        self: Arc<Front>,
        request: Request<Incoming>,
        ends: Ends,
    ) -> Result<Answer, Answer> {
        // As Go's server answers, before any route.
        if request.method() == Method::OPTIONS && *request.uri() == Uri::from_static("*") {
            return Ok(empty(StatusCode::OK));
        }
        self.one_host(&request)?;
        let straightened = request::straightened(request.uri().path());
        let straightened =
            straightened.map_err(|bad| bad_request(bad, self.edge.upstream_answers))?;
        let (head, body) = request.into_parts();
        let source = forwarded::source(ends.peer, &head.headers, &self.edge.trusted_proxies);
        if let Some(log) = &self.edge.security_log {
            log.note(&head, source, ends.local);
        }
        if let Some(path) = straightened {
            return Err(moved(&head.uri, &path));
        }
        if request::unescape(head.uri.path(), request::Plus::IsPlus)
            .is_some_and(|path| *path == *set_cookie::PATH.as_bytes())
        {
            let page = self.edge.origins.page(&head.headers);
            let domain = self.edge.system_domain.as_deref();
            return set_cookie::answer(&head, body, page, domain).await;
        }
        let asked = self
            .parse(&head.uri)
            .map_err(|bad| bad_request(bad, self.edge.upstream_answers))?;
        let credential = Credential::of(&head.headers);
        self.page_may_read(credential.as_ref(), &head.headers)?;
        let credential = credential.as_ref().map(|credential| &*credential.value);
        let access = self.access.check(credential, &asked).await;
        access.map_err(|refusal| refused(refusal, &asked))?;
        let held = self.access.hold(credential);
        match &asked {
            Asked::RecentLogs { app, limit } => {
                return Ok(recent::logs(&self, app.as_str(), *limit).await);
            }
            Asked::ContainerMetrics { app } => {
                return Ok(recent::metrics(&self, app.as_str()).await);
            }
            Asked::AppStream { .. } | Asked::Firehose { .. } => {}
        }
        let client = Client {
            peer: source.to_string(),
            path: shown(&head.uri),
            forwarded_for: forwarded_for(&head.headers),
        };
        let mut request = Request::from_parts(head, body);
        let handshake = Handshake::of(&mut request)
            .map_err(|refusal| no_handshake(refusal, self.edge.upstream_answers))?;
        // Upstream's answer when it has no room, an empty body included.
        let seat = self
            .streams
            .seat()
            .ok_or_else(|| empty(StatusCode::SERVICE_UNAVAILABLE))?;
        let recent = match &asked {
            Asked::AppStream {
                app,
                recent: Some(logs),
            } => {
                let leave = self.topics.may_ask(app.as_str());
                let leave = leave.ok_or_else(|| empty(StatusCode::SERVICE_UNAVAILABLE))?;
                Some((*logs, leave))
            }
            _ => None,
        };
        let response = handshake.response(None);
        let front = self.clone();
        self.shutdown.spawn(async move {
            match handshake.upgraded::<Stream>().await {
                Ok((stream, read)) => {
                    let socket = Socket::new(stream, read, Options::server());
                    front
                        .stream(asked, socket, seat, held, recent, client)
                        .await;
                }
                Err(error) => {
                    debug!(client.peer, %error, "the client left during the handshake");
                }
            }
        });
        Ok(response)
    }

    /// HTTP/1.1 names the host, once (RFC 9112 §3.2); hyper leaves it to us.
    #[expect(
        clippy::result_large_err,
        reason = "an answer is made once, and then sent"
    )]
    fn one_host<B>(&self, request: &Request<B>) -> Result<(), Answer> {
        let hosts = request.headers().get_all(HOST).iter().count();
        let what = match hosts {
            1 => return Ok(()),
            0 if request.version() < Version::HTTP_11 => return Ok(()),
            0 => "400 Bad Request: missing required Host header",
            _ => "400 Bad Request: too many Host headers",
        };
        Err(last(plain(StatusCode::BAD_REQUEST, what.to_owned())))
    }

    fn parse(&self, uri: &Uri) -> Result<Asked, BadRequest> {
        let (path, query) = (uri.path(), uri.query());
        let asked = match self.access.is_controlled() {
            true => Asked::parse(path, query),
            // As upstream: with access control off nobody looks at the app id.
            false => Asked::parse_any_app(path, query),
        }?;
        match asked {
            asked if !self.edge.upstream_answers => Ok(asked),
            // As upstream since 2022.
            Asked::RecentLogs { .. } | Asked::ContainerMetrics { .. } => {
                Err(BadRequest::UnknownPath)
            }
            Asked::AppStream { app, .. } => Ok(Asked::AppStream { app, recent: None }),
            asked => Ok(asked),
        }
    }

    /// A page may not borrow its visitor's cookie, or his place on this host.
    #[expect(
        clippy::result_large_err,
        reason = "an answer is made once, and then sent"
    )]
    fn page_may_read(
        &self,
        credential: Option<&Credential>,
        headers: &HeaderMap,
    ) -> Result<(), Answer> {
        let borrowed = match self.access.is_controlled() {
            true => credential.is_some_and(|credential| credential.from_cookie),
            false => !self.edge.any_page,
        };
        match borrowed && self.edge.origins.page(headers) == Page::Foreign {
            true => Err(text(
                StatusCode::FORBIDDEN,
                "A page of another origin may not read here. Serve the page from a host of the \
                 system domain, list its origin in TRAFFIC_CONTROLLER_ALLOWED_ORIGINS, or send \
                 the token in the header 'Authorization'.\n"
                    .to_owned(),
            )),
            false => Ok(()),
        }
    }

    async fn stream(
        &self,
        asked: Asked,
        socket: Socket<Stream>,
        seat: Seat,
        held: Option<Held>,
        recent: Option<(u32, Leave)>,
        client: Client,
    ) {
        let lost = self.access.lost(held.as_ref(), &asked);
        match &asked {
            Asked::Firehose {
                subscription,
                filter,
            } => {
                let (id, path) = (subscription.as_str(), asked.path());
                firehose::run(self, id, *filter, &path, socket, lost, &client).await;
            }
            Asked::AppStream { app, .. } => {
                tail::run(self, app.as_str(), recent, socket, lost, &client).await;
            }
            Asked::RecentLogs { .. } | Asked::ContainerMetrics { .. } => {}
        }
        drop(seat);
    }
}

/// Who a stream is for, as an operator would ask.
struct Client {
    /// Its address, behind proxies of ours.
    peer: String,
    /// What it asked for, in its own words but for what may be a token: whoever reads a firehose
    /// is told.
    path: String,
    /// Every `X-Forwarded-For` of its request as they stand there: to be read, not believed.
    forwarded_for: String,
}

impl Client {
    /// It was closed for being slow, which cost it so many envelopes: says so in the log, if there
    /// is room, and to the agent.
    fn was_slow(&self, slow: Slow, lost: u64, metrics: &Metrics) {
        if let Some(unsaid) = metrics.line_for_a_slow_consumer() {
            let (peer, path) = (&*self.peer, &*self.path);
            warn!(peer, path, lost, unsaid, "{}", slow.words());
        }
        metrics.slow_consumer(SlowConsumer {
            remote: self.peer.clone(),
            forwarded_for: self.forwarded_for.clone(),
            path: self.path.clone(),
            lost,
        });
    }
}

fn shown(uri: &Uri) -> String {
    match uri.query() {
        Some(query) => format!("{}?{}", uri.path(), security_log::shown(query)),
        None => uri.path().to_owned(),
    }
}

fn forwarded_for(headers: &HeaderMap) -> String {
    let values = headers.get_all("x-forwarded-for").iter();
    let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    values.join(", ")
}
