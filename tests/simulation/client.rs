//! A simulated client: reads one stream to its end, and knows what it should not have seen.

use crate::controller;
use futures::StreamExt;
use harness::seen::Seen;
use std::sync::{Arc, Mutex};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use turmoil::net::TcpStream;

/// What one client has seen, from outside.
#[derive(Clone)]
pub(crate) struct Client {
    pub path: String,
    /// The app it asked for.
    pub only: Option<u32>,
    pub state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub seen: Seen,
    pub messages: u64,
    /// The code it was closed with.
    pub closed: Option<u16>,
}

impl Client {
    pub(crate) fn new(path: &str, only: Option<u32>) -> Client {
        Client {
            path: path.to_owned(),
            only,
            state: Arc::default(),
        }
    }

    pub(crate) async fn run(self) -> turmoil::Result {
        let tcp = TcpStream::connect((controller::HOST, controller::PORT)).await?;
        let url = format!("ws://{}{}", controller::HOST, self.path);
        let (mut socket, _) = client_async(url, tcp).await?;
        while let Some(message) = socket.next().await {
            let mut state = self.state.lock().unwrap();
            match message? {
                Message::Binary(bytes) => {
                    state.messages += 1;
                    state.seen.take(&bytes, self.only);
                }
                Message::Close(close) => {
                    state.closed = close.map(|close| close.code.into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}
