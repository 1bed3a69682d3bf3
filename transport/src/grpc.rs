//! A gRPC call that only speaks: messages of bytes one way, for as long as both ends live, and
//! a reporter that keeps such a call to a peer that comes and goes.
//!
//! In come encoded messages, out goes one HTTP/2 stream. Nothing acknowledges a message: it
//! counts as told once HTTP/2 has taken it, on a connection that was alive. What a peer that
//! dies at that moment had not read yet is lost; until then everything is kept.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::cause::chain;
use crate::listener::{DialError, Dialer};
use crate::reload::Reloaded;
use crate::shutdown::Shutdown;

/// How long connecting to a peer may take, TLS included: 5 s.
const OPEN: Duration = Duration::from_secs(5);

/// How long a peer may take to take one message: 5 s. One that takes longer is gone, or as good
/// as gone.
///
/// We do not ping: a Go server that was not told otherwise hangs up on a client that pings more
/// often than every five minutes. A peer whose machine is gone is noticed by TCP.
const TAKE: Duration = Duration::from_secs(5);

/// How long the last message may take when the process stops: 500 ms.
const LAST: Duration = Duration::from_millis(500);

/// One call. Dropping it hangs up.
pub struct Call {
    messages: mpsc::Sender<Message>,
    answer: AbortOnDropHandle<String>,
    _connection: AbortOnDropHandle<()>,
}

struct Message {
    frame: Bytes,
    taken: oneshot::Sender<()>,
}

/// Why a message was not told.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody there, or somebody we do not trust.
    #[error("could not connect")]
    Dial(#[from] DialError),
    /// Somebody answers who speaks no HTTP/2.
    #[error("could not begin HTTP/2 with {address}")]
    NotHttp2 {
        /// Who answered.
        address: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// The address is not one.
    #[error("could not ask {address} for a call")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        source: http::Error,
    },
    /// The peer ended the call, or went.
    #[error("the call ended: {0}")]
    Over(String),
    /// The peer does not take what we say.
    #[error("no message was taken within {within:?}")]
    Slow {
        /// How long it had.
        within: Duration,
    },
}

impl Call {
    /// Opens a connection to `address` (`host:port`) and calls the method at `path`.
    pub async fn open(dialer: &Dialer, address: &str, path: &str) -> Result<Call, CallError> {
        let connection = dialer.dial(address).await?;
        let not_http2 = |source| CallError::NotHttp2 {
            address: address.to_owned(),
            source,
        };
        let (mut call, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .handshake(TokioIo::new(connection))
            .await
            .map_err(not_http2)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a gRPC connection ended");
            }
        }));
        let scheme = match dialer.tls {
            Some(_) => "https",
            None => "http",
        };
        let (messages, waiting) = mpsc::channel::<Message>(1);
        let body = stream::unfold((waiting, None), |(mut waiting, last)| async move {
            // HTTP/2 asks for the next when it has taken the last.
            if let Some(taken) = last {
                let _: Result<(), ()> = oneshot::Sender::send(taken, ());
            }
            let Message { frame, taken } = waiting.recv().await?;
            Some((
                Ok::<_, Infallible>(Frame::data(frame)),
                (waiting, Some(taken)),
            ))
        });
        let request = Request::post(format!("{scheme}://{address}{path}"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(
                USER_AGENT,
                concat!("loggregator/", env!("CARGO_PKG_VERSION")),
            )
            .body(StreamBody::new(Box::pin(body)))
            .map_err(|source| CallError::Address {
                address: address.to_owned(),
                source,
            })?;
        let answer = AbortOnDropHandle::new(tokio::spawn(async move {
            let answer = match call.send_request(request).await {
                Ok(answer) => answer,
                Err(error) => return chain(&error),
            };
            let (head, body) = answer.into_parts();
            match body.collect().await {
                Ok(end) => verdict(end.trailers().unwrap_or(&head.headers)),
                Err(error) => chain(&error),
            }
        }));
        Ok(Call {
            messages,
            answer,
            _connection: connection,
        })
    }

    /// Says `message`; returns once HTTP/2 has taken it. An error is the end of the call.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), CallError> {
        let (taken, told) = oneshot::channel();
        let frame = framed(message);
        let said = async {
            match self.messages.send(Message { frame, taken }).await {
                Ok(()) => told.await.is_ok(),
                Err(_) => false,
            }
        };
        tokio::select! {
            // A call that has ended takes nothing, whatever a buffer says.
            biased;
            ended = &mut self.answer => Err(over(ended)),
            said = timeout(TAKE, said) => match said {
                Ok(true) => Ok(()),
                // The answer says why, and is on its way.
                Ok(false) => match timeout(TAKE, &mut self.answer).await {
                    Ok(ended) => Err(over(ended)),
                    Err(_) => Err(CallError::Slow { within: TAKE }),
                },
                Err(_) => Err(CallError::Slow { within: TAKE }),
            },
        }
    }

    /// Says that no more will come, and gives the peer `within` to have read it all.
    pub async fn finish(self, within: Duration) {
        let Call {
            messages, answer, ..
        } = self;
        drop(messages);
        // Whatever it says: there is nothing left to say to it.
        let _ = timeout(within, answer).await;
    }
}

fn over<E: std::fmt::Display>(ended: Result<String, E>) -> CallError {
    CallError::Over(ended.unwrap_or_else(|error| error.to_string()))
}

/// A message behind its five bytes: not compressed, and its length.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32); // a few hundred bytes
    frame.put_slice(message);
    frame.freeze()
}

fn verdict(trailers: &HeaderMap) -> String {
    let text = |name| {
        let value = trailers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or("none").to_owned()
    };
    let (status, message) = (text("grpc-status"), text("grpc-message"));
    format!("gRPC status {status}, {message:?}")
}

/// What a reporter says.
pub trait Report: Send + 'static {
    /// All there is to say, encoded: the same things again, and what came since, until
    /// [`Report::told`]. With `urgent` only what cannot wait for its turn. `None` is nothing.
    fn message(&mut self, urgent: bool) -> Option<Vec<u8>>;

    /// The last message was told.
    fn told(&mut self);
}

/// Says a report again and again to a peer that comes and goes.
pub struct Reporter {
    /// Who the peer is, for the log.
    pub peer: &'static str,
    /// Where it is.
    pub address: String,
    /// How it is reached.
    pub dialer: Dialer,
    /// The method that takes reports.
    pub path: &'static str,
    /// How often it is told.
    pub interval: Duration,
    /// Notified when something cannot wait.
    pub urgent: Arc<Notify>,
}

impl Reporter {
    /// A reporter that has nothing urgent to say to `peer` at `address` (`host:port`). Without
    /// `tls` the peer has to be on this machine.
    pub fn new(
        peer: &'static str,
        address: String,
        tls: Option<(Reloaded<ClientConfig>, ServerName<'static>)>,
        path: &'static str,
        interval: Duration,
    ) -> Result<Reporter, PlainToAnother> {
        if tls.is_none() {
            plain_only_to_loopback(&address)?;
        }
        Ok(Reporter {
            peer,
            address,
            dialer: Dialer::new(tls, OPEN),
            path,
            interval,
            urgent: Arc::new(Notify::new()),
        })
    }

    /// Reports at each interval, and once more when `shutdown` begins. While the peer is away
    /// the connection is tried with backoff, and nothing waits for it but this.
    pub async fn run(self, mut report: impl Report, shutdown: Shutdown) {
        let mut every = tokio::time::interval(self.interval);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::new(fastrand::Rng::new());
        let (mut call, mut away) = (None, false);
        while !shutdown.is_begun() {
            let urgent = tokio::select! {
                _ = every.tick() => false,
                () = self.urgent.notified() => true,
                () = shutdown.begun() => break,
            };
            while let Err(error) = self.say(&mut call, &mut report, urgent).await {
                call = None;
                if !away {
                    let (peer, address) = (self.peer, &self.address);
                    warn!(
                        peer,
                        address,
                        "cannot report, keeping it and trying again: {}",
                        chain(&error)
                    );
                }
                away = true;
                tokio::select! {
                    () = sleep(backoff.next_wait()) => {}
                    () = shutdown.begun() => break,
                }
            }
            if call.is_some() {
                backoff.reset();
                if std::mem::take(&mut away) {
                    info!(peer = self.peer, address = self.address, "reporting again");
                }
            }
        }
        let last = async {
            self.say(&mut call, &mut report, false).await?;
            if let Some(call) = call.take() {
                call.finish(LAST).await;
            }
            Ok::<_, CallError>(())
        };
        match timeout(LAST, last).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!("the last report was not told: {}", chain(&error)),
            Err(_) => debug!("the last report was not told within {LAST:?}"),
        }
    }

    async fn say(
        &self,
        call: &mut Option<Call>,
        report: &mut impl Report,
        urgent: bool,
    ) -> Result<(), CallError> {
        let open = match call.as_mut() {
            Some(open) => open,
            None => call.insert(Call::open(&self.dialer, &self.address, self.path).await?),
        };
        if let Some(message) = report.message(urgent) {
            open.send(&message).await?;
            report.told();
        }
        Ok(())
    }
}

/// Plain text to another machine.
#[derive(Debug, thiserror::Error)]
#[error(
    "{address} is not on this machine, and its connection would be plain text: give certificates"
)]
pub struct PlainToAnother {
    /// What was asked for.
    pub address: String,
}

/// Refuses to speak plain text with `address` (`host:port`) unless that is loopback.
pub fn plain_only_to_loopback(address: &str) -> Result<(), PlainToAnother> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse();
    match host == "localhost" || ip.is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()) {
        true => Ok(()),
        false => Err(PlainToAnother {
            address: address.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_on_this_machine() {
        for address in ["127.0.0.1:3458", "[::1]:3458", "localhost:3458"] {
            assert!(plain_only_to_loopback(address).is_ok(), "{address}");
        }
        for address in ["10.0.0.1:3458", "agent:3458", "[::]:3458", ""] {
            assert!(plain_only_to_loopback(address).is_err(), "{address}");
        }
    }
}
