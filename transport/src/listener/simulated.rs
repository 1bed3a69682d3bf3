//! A network that is none: for tests that run whole systems in one thread, under a clock and with
//! faults of their own (`tests/simulation`). Only with the feature `simulated`.

use super::{DialError, Stream};
use futures::future::{BoxFuture, FutureExt};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// One end of a simulated connection.
pub trait Socket: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin> Socket for S {}

type Connect = dyn Fn(String) -> BoxFuture<'static, io::Result<Box<dyn Socket>>> + Send + Sync;

/// A network whose addresses can be dialled.
#[derive(Clone)]
pub struct Network(Arc<Connect>);

impl Network {
    /// Whoever is dialled is connected to like this.
    pub fn new<S, C>(connect: impl Fn(String) -> C + Send + Sync + 'static) -> Network
    where
        S: Socket + 'static,
        C: Future<Output = io::Result<S>> + Send + 'static,
    {
        Network(Arc::new(move |address| {
            let connected = connect(address);
            async { Ok(Box::new(connected.await?) as Box<dyn Socket>) }.boxed()
        }))
    }

    pub(super) async fn dial(&self, address: &str, within: Duration) -> Result<Stream, DialError> {
        let connected = timeout(within, (self.0)(address.to_owned())).await;
        let connected = connected.unwrap_or_else(|_| Err(super::late()));
        let socket = connected.map_err(|source| DialError::Resolve {
            address: address.to_owned(),
            source,
        })?;
        Ok(Stream::Simulated(socket))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}
