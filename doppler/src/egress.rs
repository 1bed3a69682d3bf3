//! The way out: Traffic Controllers' links, and what every link does.
//!
//! In come WebSocket handshakes with the subprotocol of `proto::link`; out go runs of frames
//! from the router, and reports that say how many. A link holds one claim at a time: what
//! its Traffic Controller does not take stays in the router.

pub mod app_link;
pub mod firehose_link;
mod report;

use crate::metrics::Metrics;
use crate::readers::{Peer, Readers};
use crate::router::Router;
use bytes::Bytes;
use http::header::ORIGIN;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use proto::link::{self, BadMessage};
use proto::request::{BadRequest, Filter, Request as Asked, SubscriptionId};
use std::sync::Arc;
use std::time::Duration;
use tracing::debug;
use transport::ledger::Reason;
use transport::listener::Stream;
use transport::log::{self, Vacant};
use transport::shutdown::Shutdown;
use transport::websocket::{Ended, KeepAlive, Options, Socket, upgrade};

/// What a link needs to run.
#[derive(Clone)]
pub struct Egress {
    /// Where envelopes come from.
    pub router: Arc<Router>,
    /// Who may read.
    pub readers: Readers,
    /// Who counts.
    pub metrics: Arc<Metrics>,
    /// How long a firehose group outlives its last member.
    pub linger: Duration,
    /// Links are waited for when the process drains.
    pub shutdown: Shutdown,
}

type Answer = Response<Full<Bytes>>;

/// What a link carries.
enum Link {
    Firehose(SubscriptionId, Filter),
    Apps,
}

impl Egress {
    /// Answers one HTTP request of `peer`, who is `who`: a handshake, or a reason why not.
    pub fn answer(&self, request: Request<Incoming>, peer: &str, who: &Peer) -> Answer {
        let answer = match self.readers.admit(who) {
            Ok(()) => self.open(request, peer),
            Err(refusal) => refuse(StatusCode::FORBIDDEN, refusal.to_string()),
        };
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            Metrics::refused_request(upgrade::reason(answer.status()));
        }
        answer
    }

    fn open(&self, mut request: Request<Incoming>, peer: &str) -> Answer {
        // On a developer's machine any page that is open there could read everything.
        if request.headers().contains_key(ORIGIN) {
            let text = "pages do not read here: ask a Traffic Controller";
            return refuse(StatusCode::FORBIDDEN, text.to_owned());
        }
        let link = match self.link(&request) {
            Ok(link) => link,
            Err((status, text)) => return refuse(status, text),
        };
        if matches!(link, Link::Firehose(..)) && !self.router.has_room_for_a_group() {
            let text = "this Doppler has as many firehose subscriptions as it can serve";
            return refuse(StatusCode::SERVICE_UNAVAILABLE, text.to_owned());
        }
        if !upgrade::offers(&request, link::PROTOCOL) {
            let text = format!("offer the WebSocket subprotocol {}", link::PROTOCOL);
            return refuse(StatusCode::BAD_REQUEST, text);
        }
        let handshake = match upgrade::Handshake::of(&mut request) {
            Ok(handshake) => handshake,
            Err(refusal) => return refusal.response(),
        };
        let response = handshake.response(Some(link::PROTOCOL));
        let (egress, peer) = (self.clone(), peer.to_owned());
        self.shutdown.spawn(async move {
            match handshake.upgraded::<Stream>().await {
                Ok((stream, read)) => {
                    let socket = Socket::new(stream, read, options(&link));
                    egress.run(link, socket, &peer).await
                }
                Err(error) => debug!(%peer, %error, "the peer left during the handshake"),
            }
        });
        response
    }

    fn link(&self, request: &Request<Incoming>) -> Result<Link, (StatusCode, String)> {
        if request.uri().path() == link::APPS_PATH {
            return Ok(Link::Apps);
        }
        match Asked::parse(request.uri().path(), request.uri().query()) {
            Ok(Asked::Firehose {
                subscription,
                filter,
            }) => Ok(Link::Firehose(subscription, filter)),
            Ok(_) => Err((
                StatusCode::NOT_FOUND,
                format!("app streams are carried by {}", link::APPS_PATH),
            )),
            Err(BadRequest::UnknownPath) => Err((
                StatusCode::NOT_FOUND,
                format!("a Doppler serves /firehose/{{id}} and {}", link::APPS_PATH),
            )),
            Err(bad) => Err((StatusCode::BAD_REQUEST, bad.to_string())),
        }
    }

    async fn run(self, link: Link, socket: Socket<Stream>, peer: &str) {
        match link {
            Link::Firehose(subscription, filter) => {
                debug!(peer, ?filter, "firehose link opened");
                let filter = select(filter);
                let member = self.router.firehose(subscription.as_str(), filter);
                let vacant = firehose_link::run(member, socket, filter, peer, &self.metrics).await;
                self.linger(vacant).await;
            }
            Link::Apps => {
                debug!(peer, "app link opened");
                let link = self.router.app_link(peer);
                app_link::run(link, &self.router, socket, peer).await;
            }
        }
    }

    /// Ends a group that nobody came back to. A drain does not wait for somebody.
    async fn linger(&self, vacant: Option<Vacant>) {
        let Some(vacant) = vacant else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(self.linger) => vacant.end(Reason::NoMember),
            () = self.shutdown.begun() => vacant.end(Reason::Drain),
        };
    }
}

/// The log's word for a request's filter.
fn select(filter: Filter) -> log::Filter {
    match filter {
        Filter::Everything => log::Filter::Everything,
        Filter::Logs => log::Filter::Logs,
        Filter::Metrics => log::Filter::Metrics,
    }
}

/// A Traffic Controller always reads its app link: it has 30 s like everybody. A firehose link it
/// does not read, nor answer pings, while its client stalls: for up to 30 s, and so it gets twice
/// that.
fn options(link: &Link) -> Options {
    match link {
        Link::Apps => Options::link_server(),
        Link::Firehose(..) => {
            let patience = Duration::from_secs(60);
            Options {
                keep_alive: Some(KeepAlive {
                    interval: Duration::from_secs(15),
                    timeout: patience,
                }),
                stall: patience,
                ..Options::link_server()
            }
        }
    }
}

/// A link whose Traffic Controller said something that is no message.
fn protocol(bad: &BadMessage) -> Ended {
    Ended::Protocol {
        code: 1002,
        reason: bad.to_string().into(),
    }
}

fn refuse(status: StatusCode, text: String) -> Answer {
    let mut response = Response::new(Full::new(format!("{text}\n").into()));
    *response.status_mut() = status;
    response
}
