//! The gRPC door: `loggregator.v2.Ingress` (also under its old name `DopplerIngress`) and
//! `plumbing.DopplerIngestor`.
//!
//! In come HTTP/2 requests, out go their messages as raw bytes to a [`Door`]: nothing is
//! decoded into structs on the way. Status codes and texts are upstream's where a client may
//! look at them.

use super::half_received::Budget;
use super::messages::Messages;
use super::{Door, Gate};
use crate::metrics::Metrics;
use crate::router::Router;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::sync::Arc;
use tonic::{Code, Status};

/// A message of no bytes behind its prefix: what all methods answer.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// The services behind this door, shared by all connections.
#[derive(Clone)]
pub struct Ingress {
    /// Where envelopes go.
    pub router: Arc<Router>,
    /// Who counts them.
    pub metrics: Arc<Metrics>,
    /// What half-received messages may take.
    pub budget: Budget,
    /// Closed while the machine cannot pass on what it takes.
    pub gate: Arc<Gate>,
}

/// What a message of a method holds.
#[derive(Clone, Copy)]
enum Holds {
    Batch,
    Envelope,
    V1,
}

impl Ingress {
    /// The same services for another connection.
    pub fn of_connection(&self) -> Ingress {
        Ingress {
            budget: self.budget.of_connection(),
            ..self.clone()
        }
    }

    /// Answers one request.
    pub async fn call(self, request: Request<Incoming>) -> Response<tonic::body::Body> {
        let path = request.uri().path().to_owned();
        let Some((service, method)) = path.trim_start_matches('/').split_once('/') else {
            return unknown(format!("malformed method name: {path:?}"));
        };
        let answer = match (service, method) {
            ("loggregator.v2.Ingress" | "loggregator.v2.DopplerIngress", "BatchSender") => {
                self.stream(Holds::Batch, request).await
            }
            ("loggregator.v2.Ingress" | "loggregator.v2.DopplerIngress", "Sender") => {
                self.stream(Holds::Envelope, request).await
            }
            ("loggregator.v2.Ingress" | "loggregator.v2.DopplerIngress", "Send") => {
                self.once(Holds::Batch, request).await
            }
            ("plumbing.DopplerIngestor", "Pusher") => self.stream(Holds::V1, request).await,
            (
                "loggregator.v2.Ingress"
                | "loggregator.v2.DopplerIngress"
                | "plumbing.DopplerIngestor",
                method,
            ) => return unknown(format!("unknown method {method} for service {service}")),
            _ => return unknown(format!("unknown service {service}")),
        };
        answer.unwrap_or_else(Status::into_http)
    }

    /// Takes messages for as long as the peer sends any; then all were taken.
    async fn stream(
        self,
        holds: Holds,
        request: Request<Incoming>,
    ) -> Result<Response<tonic::body::Body>, Status> {
        let mut messages = self.messages(request)?;
        let door = self.door();
        while let Some(message) = self.next(&mut messages).await? {
            self.take(holds, &door, &message).await?;
        }
        Ok(taken())
    }

    /// Takes the one message there may be.
    async fn once(
        self,
        holds: Holds,
        request: Request<Incoming>,
    ) -> Result<Response<tonic::body::Body>, Status> {
        let mut messages = self.messages(request)?;
        let Some(message) = self.next(&mut messages).await? else {
            return Err(Status::internal("Missing request message."));
        };
        // It is answered once the call has ended: that is what unary means.
        while self.next(&mut messages).await?.is_some() {}
        self.take(holds, &self.door(), &message).await?;
        Ok(taken())
    }

    fn messages(&self, request: Request<Incoming>) -> Result<Messages<Incoming>, Status> {
        let (head, body) = request.into_parts();
        Messages::new(&head.headers, body, self.budget.clone())
    }

    fn door(&self) -> Door {
        Door::new(self.router.clone(), self.metrics.clone())
    }

    /// The next message. Counts one that did not arrive whole, unless its sender just went away.
    async fn next(&self, messages: &mut Messages<Incoming>) -> Result<Option<Bytes>, Status> {
        messages.release();
        self.gate.pass().await;
        messages
            .next()
            .await
            .inspect_err(|status| match status.code() {
                Code::ResourceExhausted => self.metrics.refused_message("too_large"),
                Code::DeadlineExceeded => self.metrics.refused_message("unfinished"),
                Code::Internal | Code::Unimplemented => self.metrics.refused_message("malformed"),
                _ => {}
            })
    }

    async fn take(&self, holds: Holds, door: &Door, message: &[u8]) -> Result<(), Status> {
        match holds {
            Holds::Batch => door.batch(message).await.map_err(|_| self.malformed()),
            Holds::Envelope => {
                door.envelope(message);
                Ok(())
            }
            Holds::V1 => {
                let payload = proto::batch::payload(message).map_err(|_| self.malformed())?;
                door.v1(payload);
                Ok(())
            }
        }
    }

    fn malformed(&self) -> Status {
        self.metrics.refused_message("malformed");
        Status::new(
            Code::Internal,
            "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data",
        )
    }
}

fn unknown(message: String) -> Response<tonic::body::Body> {
    Status::unimplemented(message).into_http()
}

/// Everything was taken: an empty message, and the status behind it.
fn taken() -> Response<tonic::body::Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from_static(EMPTY_MESSAGE))
        .with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(tonic::body::Body::new(body));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}
