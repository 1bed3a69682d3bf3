//! The public door: every route on one screen, and the only place where a refusal becomes a
//! status code.
//!
//! In come HTTP/1.1 requests; out go 101 and a stream, or the status, headers and body that
//! upstream gives: clients show them to people.

pub mod connection;
mod firehose;
mod tail;

use crate::access::{Access, Refusal};
use crate::dopplers::Dopplers;
use crate::metrics::Metrics;
use crate::streams::{Seat, Streams};
use crate::topics::Topics;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use proto::request::{BadRequest, Request as Asked};
use std::sync::Arc;
use tracing::debug;
use transport::listener::Stream;
use transport::shutdown::Shutdown;
use transport::websocket::upgrade::{self, Handshake};
use transport::websocket::{Options, Socket};

/// What a request needs to be served.
pub struct Front {
    /// Who may read what.
    pub access: Access,
    /// Where firehoses come from.
    pub dopplers: Dopplers,
    /// Where app streams come from.
    pub topics: Arc<Topics>,
    /// What is open.
    pub streams: Arc<Streams>,
    /// Who counts.
    pub metrics: Arc<Metrics>,
    /// Streams are told when the process drains, and waited for.
    pub shutdown: Shutdown,
}

type Answer = Response<Full<Bytes>>;

impl Front {
    /// Answers one request of `peer`.
    pub async fn answer(self: Arc<Front>, request: Request<Incoming>, peer: &str) -> Answer {
        self.serve(request, peer).await.unwrap_or_else(|refused| {
            Metrics::refused_request(upgrade::reason(refused.status()));
            refused
        })
    }

    async fn serve(
        self: Arc<Front>,
        mut request: Request<Incoming>,
        peer: &str,
    ) -> Result<Answer, Answer> {
        let asked = self.parse(&request).map_err(bad_request)?;
        let access = self.access.check(token(request.headers()), &asked).await;
        access.map_err(|refusal| refused(refusal, &asked))?;
        // Upstream's answer when it has no room, an empty body included.
        let seat = self
            .streams
            .seat()
            .ok_or_else(|| empty(StatusCode::SERVICE_UNAVAILABLE))?;
        let handshake = Handshake::of(&mut request).map_err(|refusal| refusal.response())?;
        let response = handshake.response(None);
        let (front, peer) = (self.clone(), peer.to_owned());
        self.shutdown.spawn(async move {
            match handshake.upgraded::<Stream>().await {
                Ok((stream, read)) => {
                    front
                        .stream(
                            asked,
                            Socket::new(stream, read, Options::server()),
                            seat,
                            &peer,
                        )
                        .await
                }
                Err(error) => debug!(peer, %error, "the client left during the handshake"),
            }
        });
        Ok(response)
    }

    fn parse(&self, request: &Request<Incoming>) -> Result<Asked, BadRequest> {
        let (path, query) = (request.uri().path(), request.uri().query());
        match self.access.is_controlled() {
            true => Asked::parse(path, query),
            // As upstream: with access control off nobody looks at the app id.
            false => Asked::parse_any_app(path, query),
        }
    }

    async fn stream(&self, asked: Asked, socket: Socket<Stream>, seat: Seat, peer: &str) {
        match &asked {
            Asked::Firehose {
                subscription,
                filter,
            } => {
                firehose::run(
                    self,
                    subscription.as_str(),
                    *filter,
                    &asked.path(),
                    socket,
                    peer,
                )
                .await;
            }
            Asked::AppStream { app } => tail::run(self, app.as_str(), socket, peer).await,
        }
        drop(seat);
    }
}

/// The token of a request: what stands behind `bearer`, in any capitalisation, or all of it.
fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let token = match value.split_at_checked("bearer ".len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer ") => token.trim_start(),
        _ => value,
    };
    (!token.is_empty()).then_some(token)
}

fn bad_request(bad: BadRequest) -> Answer {
    match bad {
        BadRequest::UnknownPath => text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
        BadRequest::NotAGuid => empty(StatusCode::UNAUTHORIZED),
        bad => text(StatusCode::BAD_REQUEST, format!("{bad}\n")),
    }
}

fn refused(refusal: Refusal, asked: &Asked) -> Answer {
    if refusal == Refusal::NotFound {
        return empty(StatusCode::NOT_FOUND);
    }
    let mut response = match asked {
        // noaa shows this text to people.
        Asked::Firehose { .. } => plain(
            StatusCode::UNAUTHORIZED,
            format!("You are not authorized. {refusal}"),
        ),
        Asked::AppStream { .. } => empty(StatusCode::UNAUTHORIZED),
    };
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
    response
}

fn empty(status: StatusCode) -> Answer {
    let mut response = Answer::default();
    *response.status_mut() = status;
    response
}

fn plain(status: StatusCode, text: String) -> Answer {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn text(status: StatusCode, text: String) -> Answer {
    let mut response = plain(status, text);
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_behind_bearer_in_any_capitalisation_and_bare() {
        for (header, found) in [
            ("bearer t", Some("t")),
            ("Bearer t", Some("t")),
            ("BEARER  t", Some("t")),
            ("t", Some("t")),
            ("bearer ", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(header))]);
            let got = token(&headers).filter(|token| *token != "bearer");
            assert_eq!(got, found, "{header:?}");
        }
    }
}
