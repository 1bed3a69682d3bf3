//! A Loggregator agent, as far as components report to it: it keeps what it is told.

use crate::certs::Certs;
use bytes::{Buf, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::v2::{Envelope, EnvelopeBatch, envelope, value};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A running agent. Dropping it hangs up on everybody.
pub struct Agent {
    /// Where it listens.
    pub address: SocketAddr,
    told: Arc<Mutex<Vec<Envelope>>>,
    serving: JoinHandle<()>,
}

/// What tells one metric from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its `source_id`.
    pub source_id: String,
    /// Its name.
    pub name: String,
    /// Its tags, all of them text in `deprecated_tags`.
    pub tags: BTreeMap<String, String>,
    /// The unit, of a gauge.
    pub unit: Option<String>,
}

impl Agent {
    /// Listens on a port of loopback, 0 for any; with mTLS, as `metron`, if there are `certs`.
    pub async fn start(port: u16, certs: Option<&Certs>) -> Agent {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = certs.map(|certs| TlsAcceptor::from(tls(certs)));
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        let serving = tokio::spawn(async move {
            // Aborts them all when it goes.
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, heard) = (acceptor.clone(), heard.clone());
                connections.spawn(async move {
                    match acceptor {
                        None => serve(tcp, heard).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(tcp).await {
                                serve(stream, heard).await;
                            }
                        }
                    }
                });
            }
        });
        Agent {
            address,
            told,
            serving,
        }
    }

    /// Everything it was told so far.
    pub fn told(&self) -> Vec<Envelope> {
        self.told.lock().unwrap().clone()
    }

    /// The names of all metrics it was told.
    pub fn names(&self) -> Vec<Name> {
        let mut names: Vec<Name> = self.told().iter().flat_map(names).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The deltas of a counter, in the order in which they came; `tag` tells two of one name
    /// apart.
    pub fn deltas(&self, name: &str, tag: Option<&str>) -> Vec<u64> {
        let told = self.told().into_iter();
        told.filter_map(|envelope| {
            let named = names(&envelope);
            let tagged = named
                .iter()
                .any(|name| tag.is_none_or(|tag| name.tags.values().any(|value| value == tag)));
            match envelope.message {
                Some(envelope::Message::Counter(counter)) if tagged && counter.name == name => {
                    assert_eq!(counter.total, 0, "an agent is told deltas alone");
                    Some(counter.delta)
                }
                _ => None,
            }
        })
        .collect()
    }

    /// The bodies of all events with that title.
    pub fn events(&self, title: &str) -> Vec<String> {
        let told = self.told().into_iter();
        told.filter_map(|envelope| match envelope.message {
            Some(envelope::Message::Event(event)) if event.title == title => Some(event.body),
            _ => None,
        })
        .collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn names(envelope: &Envelope) -> Vec<Name> {
    let tags = envelope.deprecated_tags.iter();
    let tags: BTreeMap<String, String> = tags
        .map(|(name, value)| match &value.data {
            Some(value::Data::Text(text)) => (name.clone(), text.clone()),
            other => panic!("tag {name} is {other:?}"),
        })
        .collect();
    let name = |name: &str, unit: Option<&str>| Name {
        source_id: envelope.source_id.clone(),
        name: name.to_owned(),
        tags: tags.clone(),
        unit: unit.map(str::to_owned),
    };
    match &envelope.message {
        Some(envelope::Message::Counter(counter)) => vec![name(&counter.name, None)],
        Some(envelope::Message::Gauge(gauge)) => {
            let metrics = gauge.metrics.iter();
            metrics
                .map(|(of, value)| name(of, Some(&value.unit)))
                .collect()
        }
        _ => vec![],
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    told: Arc<Mutex<Vec<Envelope>>>,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let told = told.clone();
        async move {
            let batches = request.uri().path() == "/loggregator.v2.Ingress/BatchSender";
            let mut body = request.into_body();
            let mut read = BytesMut::new();
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                read.extend_from_slice(&data);
                while let Some(message) = message(&mut read) {
                    let mut told = told.lock().unwrap();
                    match batches {
                        true => told.extend(EnvelopeBatch::decode(message).unwrap().batch),
                        false => told.push(Envelope::decode(message).unwrap()),
                    }
                }
            }
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "0")
                .body(Empty::<Bytes>::new())
                .unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    // However it ends is the component's business, and looked at there.
    let _ = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

/// The next whole gRPC message.
fn message(read: &mut BytesMut) -> Option<Bytes> {
    let length = read.get(1..5)?;
    let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
    if read.len() < 5 + length {
        return None;
    }
    read.advance(5);
    Some(read.split_to(length).freeze())
}

fn tls(certs: &Certs) -> Arc<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(certs.ca()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .unwrap();
    let pair = certs.pair("metron");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&pair.cert).unwrap()],
            PrivateKeyDer::from_pem_file(&pair.key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}
