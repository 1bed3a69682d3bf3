//! The Dopplers: which there are, and how a link to one is opened.
//!
//! In come addresses, which may change while we run (`members`); out come sockets that speak
//! `proto::link`. Links retry for ever, under the pace of the Doppler's [`gate`]: a Doppler that
//! comes back is read again within 2 s.

pub mod app_link;
pub mod discovery;
#[cfg(test)]
pub(crate) mod fake;
pub mod firehose_link;
pub mod gate;
pub mod hop;
pub mod hops;
pub mod members;
mod outages;
mod range;
mod roll;
mod standing;

pub use hop::Hop;
pub use hops::Hops;
pub use members::{Dopplers, Members};
pub use standing::Lag;

use crate::metrics::Metrics;
use gate::{Gate, Pace, Pass, Turn};
use http::header::{HOST, SEC_WEBSOCKET_PROTOCOL};
use http::{Request, StatusCode};
use proto::link::{APPS_PATH, PROTOCOL};
use standing::Standings;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use transport::cause::chain;
use transport::listener::{DialError, Dialer, Stream};
use transport::websocket::upgrade::{self, ConnectError};
use transport::websocket::{Options, Socket};

/// How long a link may take to open: TCP, TLS and the handshake.
pub(crate) const OPEN: Duration = Duration::from_secs(5);

/// What a socket may hold of a firehose link's bytes that its client has not taken: what a
/// leaving client costs its group is this at most, and a claim.
pub(crate) const RECEIVE_BUFFER: usize = 256 << 10;

/// One Doppler's address and how to reach it.
pub struct Doppler {
    /// `host:port`.
    pub address: Arc<str>,
    dialer: Dialer,
    gate: Gate,
    /// Why it was not reached the last time, for the log.
    trouble: Mutex<String>,
    /// How firehose groups stand there.
    standings: Arc<Standings>,
}

/// Why a link did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody there, or not whom we expect.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Somebody there who speaks something else.
    #[error("{address} does not open a link: {source}")]
    Handshake {
        /// The Doppler.
        address: String,
        /// What it answered.
        source: ConnectError,
    },
}

impl OpenError {
    /// Whether it is about this one firehose, and the others are served: the Doppler has no room
    /// for another group, or does not know what was asked for. Otherwise one client's path would
    /// keep all others out.
    fn is_of_one(&self) -> bool {
        match self {
            OpenError::Handshake {
                source: ConnectError::Refused { status, .. },
                ..
            } => !matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
            _ => false,
        }
    }
}

impl Doppler {
    /// A Doppler that is dialled like this, at its own pace.
    pub fn new(address: String, dialer: Dialer) -> Doppler {
        Doppler::paced(address.into(), dialer, Pace::new())
    }

    /// A Doppler that shares its pace with others.
    fn paced(address: Arc<str>, dialer: Dialer, pace: Arc<Pace>) -> Doppler {
        Doppler {
            address,
            dialer,
            gate: Gate::new(pace),
            trouble: Mutex::default(),
            standings: Arc::default(),
        }
    }

    /// Waits until it is time to dial. Cancel-safe.
    async fn pass(&self, turn: Turn) -> Pass {
        self.gate.pass(turn).await
    }

    /// Opens the link with that path.
    async fn open(&self, pass: Pass, path: &str) -> Result<Socket<Stream>, OpenError> {
        Metrics::dialled();
        let opened = match timeout(pass.patience(), self.connect(path)).await {
            Ok(opened) => opened,
            Err(_) => Err(OpenError::Handshake {
                address: self.address.to_string(),
                source: ConnectError::Timeout,
            }),
        };
        match &opened {
            Ok(_) => self.gate.reached(pass),
            Err(error) => {
                Metrics::dial_failed();
                // Whoever does not carry apps is no Doppler.
                if error.is_of_one() && path != APPS_PATH {
                    self.gate.reached(pass);
                } else {
                    *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = chain(error);
                    self.gate.shut(pass);
                }
            }
        }
        opened
    }

    async fn connect(&self, path: &str) -> Result<Socket<Stream>, OpenError> {
        let stream = self.dialer.dial(&self.address).await?;
        let refused = |source| OpenError::Handshake {
            address: self.address.to_string(),
            source,
        };
        let request = Request::get(path)
            .header(HOST, &*self.address)
            .header(SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
            .body(())
            .map_err(|_| refused(ConnectError::NoHost))?;
        let connected = upgrade::connect(stream, request, Instant::now() + OPEN).await;
        let (stream, read, _) = connected.map_err(refused)?;
        Ok(Socket::new(stream, read, Options::link_client()))
    }

    /// Whether it was reached the last time somebody tried.
    fn is_reached(&self) -> bool {
        self.gate.is_reached()
    }

    fn trouble(&self) -> String {
        let trouble = self.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How long a link is read on after it was told to leave, for what the Doppler had begun to send
/// and its last count.
pub(crate) const LEAVE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn who_is_refused_for_what_it_asks_keeps_nobody_out() {
        for (status, path, is_reached) in [
            ("503 Service Unavailable", "/firehose/a", true),
            ("404 Not Found", "/firehose/a", true),
            ("403 Forbidden", "/firehose/a", false),
            ("404 Not Found", APPS_PATH, false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let doppler = Doppler::new(address, Dialer::new(None, OPEN));
            let refuses = async {
                let (mut tcp, _) = listener.accept().await.unwrap();
                _ = tcp.read(&mut [0; 4 << 10]).await.unwrap();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                tcp.write_all(answer.as_bytes()).await.unwrap();
                tcp
            };
            let asks = async { doppler.open(doppler.pass(Turn::Queued).await, path).await };
            let (_tcp, opened) = tokio::join!(refuses, asks);
            assert!(opened.is_err());
            assert_eq!(doppler.is_reached(), is_reached, "{status} for {path}");
        }
    }
}
