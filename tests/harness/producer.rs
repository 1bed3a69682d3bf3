//! An agent: sends envelopes to a Doppler over gRPC, well or badly.
//!
//! HTTP/2 is hyper's; the five bytes before each message are written here, so that a test may
//! send any bytes at all.

use crate::envelopes::{Workload, batch};
use crate::stream::{Stream, Tls, Wire};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

/// Where today's agents send to.
pub const BATCH_SENDER: &str = "/loggregator.v2.Ingress/BatchSender";

/// Envelopes in one message, unless said otherwise: what agents send when busy.
pub const BATCH: u64 = 100;

type Body = StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

/// An HTTP/2 connection to a Doppler.
pub struct Connection {
    requests: SendRequest<Body>,
    authority: String,
    wire: Wire,
}

/// One gRPC call with a stream of messages.
pub struct Call {
    messages: Option<mpsc::Sender<Result<Frame<Bytes>, Infallible>>>,
    answer: JoinHandle<Answer>,
}

/// How a call ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status; 0 if there was no response.
    pub http: u16,
    /// The gRPC status, from headers or trailers.
    pub grpc: Option<u32>,
    /// Its text, percent-decoded.
    pub message: String,
    /// The bytes of the response's body.
    pub body: Bytes,
    /// Why there was no whole response.
    pub broken: Option<String>,
}

/// The Doppler takes no more of this call; [`Call::finish`] says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

impl Connection {
    /// Connects to a Doppler.
    pub async fn open(address: SocketAddr, tls: Option<&Tls>) -> io::Result<Connection> {
        let stream = Stream::connect(address, tls, None).await?;
        let wire = stream.wire()?;
        let handshake = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream));
        let (requests, connection) = handshake.await.map_err(io::Error::other)?;
        // Every call tells what became of it.
        tokio::spawn(connection.map(drop));
        let scheme = if tls.is_some() { "https" } else { "http" };
        Ok(Connection {
            requests,
            authority: format!("{scheme}://{address}"),
            wire,
        })
    }

    /// Begins a call of the method at `path`.
    pub async fn call(&self, path: &str) -> Call {
        let (messages, body) = mpsc::channel(4);
        let request = Request::post(format!("{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(StreamBody::new(ReceiverStream::new(body)))
            .unwrap();
        let mut requests = self.requests.clone();
        let ready = requests.ready().await;
        let answer = tokio::spawn(async move {
            match ready {
                Ok(()) => answer(requests.send_request(request).await).await,
                Err(error) => Answer::broken(&error),
            }
        });
        Call {
            messages: Some(messages),
            answer,
        }
    }

    /// Hangs up without a word, whatever is under way.
    pub fn cut(self) {
        self.wire.cut();
    }
}

impl Call {
    /// Sends bytes as they are: a whole message (see [`crate::envelopes::message`]), a piece,
    /// or garbage. Waits while the Doppler grants no window.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), Refused> {
        let messages = self.messages.as_ref().ok_or(Refused)?;
        messages
            .send(Ok(Frame::data(bytes)))
            .await
            .map_err(|_| Refused)
    }

    /// Says that there is no more, and waits for the answer.
    pub async fn finish(mut self) -> Answer {
        drop(self.messages.take());
        self.answered().await
    }

    /// Waits for the answer without saying that there is no more.
    pub async fn answered(self) -> Answer {
        self.answer.await.expect("the task does not panic")
    }

    /// Whether there is an answer.
    pub fn is_answered(&self) -> bool {
        self.answer.is_finished()
    }
}

impl Answer {
    fn broken(error: &dyn std::error::Error) -> Answer {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Answer {
            broken: Some(text),
            ..Answer::default()
        }
    }

    fn read(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        if let Some(status) = text("grpc-status") {
            self.grpc = status.parse().ok();
            self.message = percent_decoded(text("grpc-message").unwrap_or_default());
        }
    }
}

async fn answer(response: hyper::Result<http::Response<hyper::body::Incoming>>) -> Answer {
    let response = match response {
        Ok(response) => response,
        Err(error) => return Answer::broken(&error),
    };
    let mut answer = Answer {
        http: response.status().as_u16(),
        ..Answer::default()
    };
    answer.read(response.headers());
    match response.into_body().collect().await {
        Ok(body) => {
            if let Some(trailers) = body.trailers() {
                answer.read(trailers);
            }
            answer.body = body.to_bytes();
        }
        Err(error) => answer.broken = Answer::broken(&error).broken,
    }
    answer
}

fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = behind.get(..2).filter(|_| byte == b'%');
        let escaped = escaped
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        decoded.push(escaped.unwrap_or(byte));
        rest = &behind[if escaped.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// An agent with one stream, whose envelopes are numbered from 0.
pub struct Producer {
    id: u32,
    workload: Workload,
    sent: u64,
    call: Call,
    connection: Connection,
}

impl Producer {
    /// An agent known as `id` that sends `workload`.
    pub async fn open(
        address: SocketAddr,
        tls: Option<&Tls>,
        id: u32,
        workload: Workload,
    ) -> io::Result<Producer> {
        let connection = Connection::open(address, tls).await?;
        Ok(Producer {
            id,
            workload,
            sent: 0,
            call: connection.call(BATCH_SENDER).await,
            connection,
        })
    }

    /// Sends the next `count` envelopes in messages of [`BATCH`].
    pub async fn send(&mut self, count: u64) {
        let end = self.sent + count;
        while self.sent < end {
            let next = end.min(self.sent + BATCH);
            let envelopes =
                (self.sent..next).map(|sequence| self.workload.envelope(self.id, sequence));
            let batch = batch(envelopes);
            let sent = self.call.send(batch).await;
            assert_eq!(sent, Ok(()), "the Doppler refused producer {}", self.id);
            self.sent = next;
        }
    }

    /// Who it is.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What it sends.
    pub fn workload(&self) -> Workload {
        self.workload
    }

    /// How many envelopes it has sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Says that there is no more, and waits for the answer: then everything was taken.
    pub async fn finish(self) -> Answer {
        self.call.finish().await
    }

    /// Hangs up without a word.
    pub fn cut(self) {
        self.connection.cut();
    }
}
