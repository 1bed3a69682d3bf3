//! A Doppler's gRPC door that does what a test says.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use firehose_client::Identity;
use firehose_client::v2::{Envelope, EnvelopeBatch};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use transport::listener::Acceptor;
use transport::tls::{self, H2};

pub(crate) struct Doppler {
    pub(crate) address: SocketAddr,
    batches: mpsc::Receiver<EnvelopeBatch>,
}

/// How it ends a call, once the client has said all: gRPC status and message.
pub(crate) type Verdict = (&'static str, &'static str);

pub(crate) const OK: Verdict = ("0", "");

/// Said at once, whatever the client has to say.
pub(crate) const REFUSED: Verdict = ("12", "unknown service");

impl Doppler {
    pub(crate) async fn start(verdict: Verdict) -> Doppler {
        Doppler::bind(None, verdict).await
    }

    /// Mutual TLS with clients of the CA in `ca`.
    pub(crate) async fn start_tls(identity: &Identity, ca: &std::path::Path) -> Doppler {
        let config = tls::server(identity, Some(ca), &[H2]).unwrap();
        Doppler::bind(Some(config), OK).await
    }

    async fn bind(tls: Option<Arc<tls::ServerConfig>>, verdict: Verdict) -> Doppler {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(tls.map(Into::into));
        let (sender, batches) = mpsc::channel(10_000);
        tokio::spawn(async move {
            loop {
                let (tcp, peer) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(tcp, peer).await else {
                    continue;
                };
                let sender = sender.clone();
                let service = service_fn(move |request| call(request, sender.clone(), verdict));
                let connection = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Doppler { address, batches }
    }

    pub(crate) async fn batch(&mut self) -> Vec<Envelope> {
        self.batches.recv().await.unwrap().batch
    }
}

type Answer = Response<
    StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, hyper::Error>>>>,
>;

async fn call(
    request: Request<Incoming>,
    batches: mpsc::Sender<EnvelopeBatch>,
    verdict: Verdict,
) -> Result<Answer, hyper::Error> {
    assert_eq!(request.uri().path(), "/loggregator.v2.Ingress/BatchSender");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(request.headers()["te"], "trailers");
    let mut body = request.into_body();
    let mut bytes = BytesMut::new();
    while verdict != REFUSED
        && let Some(frame) = body.frame().await
    {
        bytes.extend_from_slice(&frame?.into_data().unwrap_or_default());
        while let Some(message) = message(&mut bytes) {
            batches
                .send(EnvelopeBatch::decode(message).unwrap())
                .await
                .unwrap();
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", verdict.0.parse().unwrap());
    trailers.insert("grpc-message", verdict.1.parse().unwrap());
    let end = vec![Ok(Frame::trailers(trailers))];
    let answer = Response::builder().header("content-type", "application/grpc");
    Ok(answer
        .body(StreamBody::new(futures::stream::iter(end)))
        .unwrap())
}

fn message(bytes: &mut BytesMut) -> Option<Bytes> {
    let length = bytes.get(1..5)?.try_into().map(u32::from_be_bytes).unwrap() as usize;
    if bytes.len() < 5 + length {
        return None;
    }
    assert_eq!(bytes[0], 0, "not compressed");
    bytes.advance(5);
    Some(bytes.split_to(length).freeze())
}
