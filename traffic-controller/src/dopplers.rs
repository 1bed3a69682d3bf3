//! The Dopplers, and how a link to one is opened.
//!
//! In come addresses; out come sockets that speak `proto::link`. Links retry for ever, with
//! full jitter under a cap of 2 s: a Doppler that comes back is read again within that.

pub mod app_link;
#[cfg(test)]
pub(crate) mod fake;
pub mod firehose_link;
pub mod hop;
mod standing;

pub use hop::Hop;
pub use standing::Lag;

use http::Request;
use http::header::{HOST, SEC_WEBSOCKET_PROTOCOL};
use proto::link::PROTOCOL;
use standing::Standings;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
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
    pub address: String,
    dialer: Dialer,
    /// Whether the last attempt failed: outages are logged once, not once per link.
    down: AtomicBool,
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

impl Doppler {
    /// A Doppler that is dialled like this.
    pub fn new(address: String, dialer: Dialer) -> Doppler {
        Doppler {
            address,
            dialer,
            down: AtomicBool::new(false),
            standings: Arc::default(),
        }
    }

    /// Opens the link with that path.
    async fn open(&self, path: &str) -> Result<Socket<Stream>, OpenError> {
        let stream = self.dialer.dial(&self.address).await?;
        let refused = |source| OpenError::Handshake {
            address: self.address.clone(),
            source,
        };
        let request = Request::get(path)
            .header(HOST, &self.address)
            .header(SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
            .body(())
            .map_err(|_| refused(ConnectError::NoHost))?;
        let connected = upgrade::connect(stream, request, Instant::now() + OPEN).await;
        let (stream, read, _) = connected.map_err(refused)?;
        self.report(None);
        Ok(Socket::new(stream, read, Options::link_client()))
    }

    /// Logs that the Doppler went away or came back, once.
    fn report(&self, failed: Option<&dyn std::error::Error>) {
        let was_down = self.down.swap(failed.is_some(), Ordering::Relaxed);
        match failed {
            Some(error) if !was_down => {
                let error = chain(error);
                tracing::warn!(
                    doppler = self.address,
                    error,
                    "cannot read from a Doppler; trying on"
                );
            }
            None if was_down => {
                tracing::info!(doppler = self.address, "reading from the Doppler again")
            }
            _ => {}
        }
    }
}

/// How long a link is read on after it was told to leave, for what the Doppler had begun to send
/// and its last count.
pub(crate) const LEAVE: Duration = Duration::from_secs(1);

/// All Dopplers.
pub type Dopplers = Arc<[Arc<Doppler>]>;
