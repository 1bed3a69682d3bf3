//! Sends envelopes into Loggregator, as an agent does: for tests, demos, and programs that
//! have logs and no agent.
//!
//! In come v2 envelopes, out goes one gRPC call (`loggregator.v2.Ingress/BatchSender`) in
//! batches. gRPC is spoken by hyper's HTTP/2 and a few lines here: one method, one direction.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use proto::v2::{Envelope, EnvelopeBatch, Log, envelope, log};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use transport::listener::{DialError, Dialer};
use transport::tls::{self, H2, Identity, Roots, TlsError};

use crate::endpoint;

/// The largest batch: 100 envelopes, as agents send.
pub const BATCH: usize = 100;

/// A batch is not filled beyond this: 1 MiB. A Doppler refuses messages of more than 10 MiB.
const BATCH_BYTES: usize = 1 << 20;

/// How long an envelope waits for its batch to fill: 100 ms, as in agents.
pub const BATCH_WAIT: Duration = Duration::from_millis(100);

/// Envelopes that may wait for the network before [`Emitter::emit`] does: ten batches.
const WAITING: usize = 10 * BATCH;

/// How long connecting may take: 10 s.
const CONNECT: Duration = Duration::from_secs(10);

/// A peer that does not answer a ping within this is gone: 20 s, asked every 20 s.
const PING: Duration = Duration::from_secs(20);

/// One connection to a Doppler (or an agent) that envelopes are written to.
///
/// Nothing in this protocol acknowledges an envelope. What [`Emitter::close`] returns is how
/// many were taken by a Doppler that ended the call in order.
#[derive(Debug)]
pub struct Emitter {
    envelopes: mpsc::Sender<Envelope>,
    emitted: u64,
    /// How the call ends; `None` once that has been told.
    answer: Option<JoinHandle<Result<(), EmitError>>>,
}

/// Makes an [`Emitter`].
#[derive(Clone, Debug)]
pub struct EmitterBuilder {
    address: String,
    tls: Option<(PathBuf, Identity)>,
    server_name: String,
}

/// Whose log a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The GUID of the app.
    pub app: String,
    /// What wrote it: `APP/PROC/WEB` for a web process.
    pub source_type: String,
    /// Which instance of it, from `0`.
    pub instance: String,
}

/// Why envelopes could not be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// Plain text to another machine.
    #[error(
        "{address} is not on this machine, and its connection would be plain text: \
         give a CA, a certificate and its key"
    )]
    PlainText {
        /// What was asked for.
        address: String,
    },
    /// A file that is not what it should be.
    #[error("could not prepare TLS")]
    Tls(#[from] TlsError),
    /// Nobody there, or somebody we do not trust.
    #[error("could not connect to the Doppler")]
    Unreachable(#[from] DialError),
    /// Somebody answers who speaks no HTTP/2.
    #[error("could not begin HTTP/2 with the Doppler at {address}")]
    NotHttp2 {
        /// Who answered.
        address: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// It does not want our envelopes.
    #[error("the Doppler refused the envelopes: {message} (gRPC status {status})")]
    Refused {
        /// The gRPC status, or `HTTP` and a number.
        status: String,
        /// What it said about it.
        message: String,
    },
    /// The connection ended before the envelopes did: some of the last may not have arrived.
    #[error("the connection to the Doppler broke")]
    Broken {
        /// How it ended.
        source: Option<hyper::Error>,
    },
}

impl Emitter {
    /// A connection to `address`, a `host:port`: plain text, which only loopback may be, unless
    /// [`EmitterBuilder::mtls`] follows.
    pub fn builder(address: &str) -> EmitterBuilder {
        EmitterBuilder {
            address: address.to_owned(),
            tls: None,
            server_name: "doppler".into(),
        }
    }

    /// Sends an envelope with the next batch. Waits while the Doppler takes no more.
    pub async fn emit(&mut self, envelope: Envelope) -> Result<(), EmitError> {
        if self.envelopes.send(envelope).await.is_err() {
            self.end().await?;
            // It said that all is well in the middle of our sentence.
            return Err(EmitError::Broken { source: None });
        }
        self.emitted += 1;
        Ok(())
    }

    /// Sends one line of a log, stamped with the time it is now.
    pub async fn log(
        &mut self,
        source: &Source,
        stream: log::Type,
        line: impl Into<Vec<u8>>,
    ) -> Result<(), EmitError> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanos = since.unwrap_or_default().as_nanos();
        self.emit(Envelope {
            timestamp: i64::try_from(nanos).unwrap_or(i64::MAX),
            source_id: source.app.clone(),
            instance_id: source.instance.clone(),
            tags: [
                ("origin".to_owned(), "firehose-client".to_owned()),
                ("source_type".to_owned(), source.source_type.clone()),
            ]
            .into(),
            message: Some(envelope::Message::Log(Log {
                payload: line.into(),
                r#type: stream.into(),
            })),
            ..Envelope::default()
        })
        .await
    }

    /// Sends what is left, and waits until the Doppler has read it all. Returns how many
    /// envelopes that were in all.
    pub async fn close(mut self) -> Result<u64, EmitError> {
        let (nowhere, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.envelopes, nowhere));
        self.end().await?;
        Ok(self.emitted)
    }

    /// Waits for the end of the call.
    async fn end(&mut self) -> Result<(), EmitError> {
        let told = match self.answer.take() {
            Some(answer) => answer.await.ok(),
            None => None,
        };
        told.unwrap_or(Err(EmitError::Broken { source: None }))
    }
}

impl EmitterBuilder {
    /// Trusts Dopplers that the CAs in `ca` vouch for, and shows them `identity`.
    pub fn mtls(mut self, ca: impl Into<PathBuf>, identity: Identity) -> EmitterBuilder {
        self.tls = Some((ca.into(), identity));
        self
    }

    /// The name in the Doppler's certificate: `doppler`, and in an agent's `metron`.
    pub fn server_name(mut self, name: &str) -> EmitterBuilder {
        self.server_name = name.to_owned();
        self
    }

    /// Connects and begins the call.
    pub async fn connect(self) -> Result<Emitter, EmitError> {
        let tls = match &self.tls {
            Some((ca, identity)) => {
                let config = tls::client(Roots::Ca(ca), Some(identity), &[H2])?;
                Some((config.into(), tls::server_name(&self.server_name)?))
            }
            None if endpoint::is_loopback(host(&self.address)) => None,
            None => {
                let address = self.address;
                return Err(EmitError::PlainText { address });
            }
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let connection = Dialer::new(tls, CONNECT).dial(&self.address).await?;
        let not_http2 = |source| EmitError::NotHttp2 {
            address: self.address.clone(),
            source,
        };
        let (mut call, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .handshake(TokioIo::new(connection))
            .await
            .map_err(not_http2)?;
        tokio::spawn(connection);

        let (envelopes, waiting) = mpsc::channel(WAITING);
        let batches = stream::unfold(waiting, |mut waiting| async move {
            let batch = next_batch(&mut waiting).await?;
            Some((
                Ok::<_, std::convert::Infallible>(Frame::data(message(batch))),
                waiting,
            ))
        });
        let uri = format!(
            "{scheme}://{}/loggregator.v2.Ingress/BatchSender",
            self.server_name
        );
        let request = Request::post(uri)
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(
                USER_AGENT,
                concat!("firehose-client/", env!("CARGO_PKG_VERSION")),
            )
            .body(StreamBody::new(Box::pin(batches)))
            .map_err(|error| EmitError::Refused {
                status: "none".into(),
                message: error.to_string(),
            })?;
        let answer = tokio::spawn(async move {
            let broken = |source| EmitError::Broken {
                source: Some(source),
            };
            let (head, body) = call
                .send_request(request)
                .await
                .map_err(broken)?
                .into_parts();
            let end = body.collect().await.map_err(broken)?;
            if !head.status.is_success() {
                return Err(EmitError::Refused {
                    status: format!("HTTP {}", head.status),
                    message: "it does not speak gRPC".into(),
                });
            }
            verdict(end.trailers().unwrap_or(&head.headers))
        });
        Ok(Emitter {
            envelopes,
            emitted: 0,
            answer: Some(answer),
        })
    }
}

/// What fits into one batch; `None` once no more will come.
async fn next_batch(waiting: &mut mpsc::Receiver<Envelope>) -> Option<Vec<Envelope>> {
    let mut batch = Vec::with_capacity(BATCH);
    let first = waiting.recv().await?;
    let mut bytes = first.encoded_len();
    batch.push(first);
    let end = Instant::now() + BATCH_WAIT;
    while batch.len() < BATCH && bytes < BATCH_BYTES {
        let Ok(Some(envelope)) = timeout_at(end, waiting.recv()).await else {
            break;
        };
        bytes += envelope.encoded_len();
        batch.push(envelope);
    }
    Some(batch)
}

/// A gRPC message: not compressed, its length in four bytes, itself.
fn message(batch: Vec<Envelope>) -> Bytes {
    let batch = EnvelopeBatch { batch };
    let length = batch.encoded_len();
    let mut message = BytesMut::with_capacity(5 + length);
    message.put_u8(0);
    message.put_u32(length as u32); // 100 envelopes of a few MiB at most
    message.put_slice(&batch.encode_to_vec());
    message.freeze()
}

fn verdict(trailers: &HeaderMap) -> Result<(), EmitError> {
    let text = |name| {
        trailers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    };
    match (text("grpc-status"), text("grpc-message")) {
        ("0", _) => Ok(()),
        // So ends a call that the client ended, in a Go Doppler: its handler returns io.EOF.
        ("2", "EOF") => Ok(()),
        (status, message) => Err(EmitError::Refused {
            status: status.to_owned(),
            message: message.to_owned(),
        }),
    }
}

/// `host:port` without the port.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}
