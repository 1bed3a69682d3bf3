//! An HTTPS server under test's control: what UAA and Cloud Controller have in common.
//!
//! A function turns each request into an answer; every request is kept as [`Call`], spelled as
//! the recorded table spells it.

use crate::certs::Pair;
use bytes::Bytes;
use futures::stream;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The body of an answer that means harm: 1 GiB, more than anybody may take.
const FLOOD: usize = 1 << 30;

/// A piece of it: 64 KiB.
static SPACES: [u8; 64 << 10] = [b' '; 64 << 10];

/// A request that an authority saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `uaa` or `cc`.
    pub service: &'static str,
    /// Its method.
    pub method: String,
    /// Its path and query, as they stood in the request line.
    pub path: String,
    /// Its `Authorization`; empty if there was none.
    pub authorization: String,
    /// Its body.
    pub body: String,
}

impl fmt::Display for Call {
    /// As in the column `upstream_calls` of `conformance/tc-http.tsv`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call {
            service,
            method,
            path,
            authorization,
            body,
        } = self;
        write!(
            f,
            "{service} {method} {path} auth={authorization:?} body={body:?}"
        )
    }
}

/// What an authority answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A status with a JSON, or not so JSON, body.
    Say(StatusCode, String),
    /// 302 to this path.
    Redirect(&'static str),
    /// After a while.
    After(Duration, Box<Answer>),
    /// 200 with this, and as many spaces as make it [`FLOOD`].
    Flood(String),
    /// Nothing: the connection is closed.
    HangUp,
}

/// A listener of one authority. Dropping it closes the listener and its connections.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
    /// Gone when the listener is to end.
    open: Option<oneshot::Sender<()>>,
}

/// The calls an authority saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    /// The calls so far, which are then forgotten.
    pub(crate) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Door {
    /// Listens on loopback, showing `pair` and asking clients for a certificate of `client_ca`
    /// if there is one.
    pub(crate) async fn open(
        service: &'static str,
        pair: &Pair,
        client_ca: Option<&Path>,
        calls: Calls,
        answer: impl Fn(&Call) -> Answer + Clone + Send + Sync + 'static,
    ) -> Door {
        let acceptor = TlsAcceptor::from(tls(pair, client_ca));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, mut closed) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let tcp = tokio::select! {
                    Ok((tcp, _)) = listener.accept() => tcp,
                    _ = &mut closed => break,
                };
                let (acceptor, calls, answer) = (acceptor.clone(), calls.clone(), answer.clone());
                connections.spawn(async move {
                    // Who does not speak TLS as asked is not served; the test sees the other end.
                    let Ok(stream) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let serve = service_fn(|request| {
                        let (calls, answer) = (calls.clone(), answer.clone());
                        async move {
                            let call = call(service, request).await?;
                            calls.0.lock().unwrap().push(call.clone());
                            respond(answer(&call)).await
                        }
                    });
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), serve)
                        .await;
                });
                while connections.try_join_next().is_some() {}
            }
            drop(listener);
            connections.shutdown().await;
        });
        Door {
            address,
            task,
            open: Some(open),
        }
    }

    /// Closes the listener and its connections; then nobody is answered any more.
    pub(crate) async fn close(mut self) {
        self.open.take();
        let _ = (&mut self.task).await;
    }

    /// Its URL by a name that its certificate may have.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn call(service: &'static str, request: Request<Incoming>) -> io::Result<Call> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Call {
        service,
        method: head.method.to_string(),
        path: head.uri.to_string(),
        authorization: text(&head.headers),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn text(headers: &HeaderMap) -> String {
    headers.get(AUTHORIZATION).map_or(String::new(), |value| {
        String::from_utf8_lossy(value.as_bytes()).into_owned()
    })
}

async fn respond(mut answer: Answer) -> io::Result<Response<BoxBody<Bytes, Infallible>>> {
    while let Answer::After(delay, then) = answer {
        tokio::time::sleep(delay).await;
        answer = *then;
    }
    let response = Response::builder();
    let response = match answer {
        Answer::Say(status, body) => response
            .status(status)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body).boxed()),
        Answer::Flood(start) => response
            .header(CONTENT_TYPE, "application/json")
            .body(flood(start)),
        Answer::Redirect(path) => response
            .status(StatusCode::FOUND)
            .header(LOCATION, path)
            .body(Full::default().boxed()),
        // hyper closes the connection without a word.
        Answer::HangUp | Answer::After(..) => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    Ok(response.unwrap())
}

fn flood(start: String) -> BoxBody<Bytes, Infallible> {
    let spaces = std::iter::repeat_n(Bytes::from_static(&SPACES), FLOOD / SPACES.len());
    let pieces = std::iter::once(Bytes::from(start)).chain(spaces);
    let pieces = pieces.map(|piece| Ok(Frame::data(piece)));
    StreamBody::new(stream::iter(pieces)).boxed()
}

fn tls(pair: &Pair, client_ca: Option<&Path>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_file(ca).unwrap())
                .unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_file(&pair.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
