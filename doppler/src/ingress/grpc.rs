//! The gRPC door: `loggregator.v2.Ingress` (also under its old name `DopplerIngress`) and
//! `plumbing.DopplerIngestor`.
//!
//! In come HTTP/2 requests, out go their messages as raw bytes to a [`Door`]: nothing is
//! decoded into structs on the way. Status codes and texts are upstream's where a client may
//! look at them.

use super::half_received::{Budget, HalfReceived};
use super::{Door, half_received};
use crate::metrics::Metrics;
use crate::router::Router;
use bytes::{Buf, BufMut, Bytes};
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use std::sync::Arc;
use tokio_stream::StreamExt;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{ClientStreamingService, Grpc, UnaryService};
use tonic::{Code, Status, Streaming};

/// The services behind this door, shared by all connections.
#[derive(Clone)]
pub struct Ingress {
    /// Where envelopes go.
    pub router: Arc<Router>,
    /// Who counts them.
    pub metrics: Arc<Metrics>,
    /// What half-received messages may take.
    pub budget: Budget,
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
        match (service, method) {
            ("loggregator.v2.Ingress" | "loggregator.v2.DopplerIngress", "BatchSender") => {
                self.stream(Holds::Batch, request).await
            }
            ("loggregator.v2.Ingress" | "loggregator.v2.DopplerIngress", "Sender") => {
                self.stream(Holds::Envelope, request).await
            }
            ("loggregator.v2.Ingress" | "loggregator.v2.DopplerIngress", "Send") => {
                let request = self.metered(request);
                grpc().unary(Taker(self, Holds::Batch), request).await
            }
            ("plumbing.DopplerIngestor", "Pusher") => self.stream(Holds::V1, request).await,
            (
                "loggregator.v2.Ingress"
                | "loggregator.v2.DopplerIngress"
                | "plumbing.DopplerIngestor",
                method,
            ) => unknown(format!("unknown method {method} for service {service}")),
            _ => unknown(format!("unknown service {service}")),
        }
    }

    async fn stream(self, holds: Holds, request: Request<Incoming>) -> Response<tonic::body::Body> {
        let request = self.metered(request);
        grpc().client_streaming(Taker(self, holds), request).await
    }

    fn metered(&self, request: Request<Incoming>) -> Request<HalfReceived<Incoming>> {
        let budget = self.budget.clone();
        request.map(|body| HalfReceived::new(body, budget))
    }
}

fn unknown(message: String) -> Response<tonic::body::Body> {
    Status::unimplemented(message).into_http()
}

fn grpc() -> Grpc<Raw> {
    // The limit is kept by `HalfReceived`, which words it as upstream does.
    Grpc::new(Raw).max_decoding_message_size(half_received::MAX_MESSAGE)
}

/// Takes the messages of one call.
#[derive(Clone)]
struct Taker(Ingress, Holds);

impl Taker {
    fn door(&self) -> Door {
        Door::new(self.0.router.clone(), self.0.metrics.clone())
    }

    async fn take(&self, door: &mut Door, message: &[u8]) -> Result<(), Status> {
        match self.1 {
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
        self.0.metrics.refused_message("malformed");
        Status::new(
            Code::Internal,
            "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data",
        )
    }
}

impl ClientStreamingService<Bytes> for Taker {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Bytes>>) -> Self::Future {
        let taker = self.clone();
        Box::pin(async move {
            let mut door = taker.door();
            let mut messages = request.into_inner();
            while let Some(message) = messages.next().await {
                taker.take(&mut door, &taker.0.whole(message)?).await?;
            }
            Ok(tonic::Response::new(Bytes::new()))
        })
    }
}

impl UnaryService<Bytes> for Taker {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let taker = self.clone();
        Box::pin(async move {
            taker.take(&mut taker.door(), request.get_ref()).await?;
            Ok(tonic::Response::new(Bytes::new()))
        })
    }
}

impl Ingress {
    /// Counts a message that did not arrive whole, unless its sender just went away.
    fn whole(&self, message: Result<Bytes, Status>) -> Result<Bytes, Status> {
        message.inspect_err(|status| match status.code() {
            Code::ResourceExhausted => self.metrics.refused_message("too_large"),
            Code::DeadlineExceeded => self.metrics.refused_message("unfinished"),
            Code::Internal | Code::Unimplemented => self.metrics.refused_message("malformed"),
            _ => {}
        })
    }
}

/// Messages as the bytes they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}
