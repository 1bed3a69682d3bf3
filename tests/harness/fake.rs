//! A Doppler that is none: it opens links as it should, and then says whatever a test wants.

use crate::raw::{Frame, unmasked};
use futures::StreamExt;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// The subprotocol of a link.
pub const PROTOCOL: &str = "loggregator.link.v1";

/// Listens where a Traffic Controller expects a Doppler.
pub struct FakeDoppler {
    /// Where it listens.
    pub address: SocketAddr,
    links: mpsc::Receiver<Link>,
}

/// A link that a Traffic Controller has opened.
pub struct Link {
    /// What was asked for: `/apps`, or a firehose.
    pub path: String,
    socket: WebSocketStream<TcpStream>,
}

impl FakeDoppler {
    /// Listens on plain text.
    pub async fn start() -> FakeDoppler {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, links) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                if let Some(link) = accept(tcp).await
                    && opened.send(link).await.is_err()
                {
                    return;
                }
            }
        });
        FakeDoppler { address, links }
    }

    /// Waits for the next link whose path begins so; others are dropped.
    pub async fn link(&mut self, path: &str) -> Link {
        loop {
            let link = self
                .links
                .recv()
                .await
                .expect("the listener lives as long as this");
            if link.path.starts_with(path) {
                return link;
            }
        }
    }
}

#[allow(clippy::result_large_err, reason = "tungstenite's signature")]
async fn accept(tcp: TcpStream) -> Option<Link> {
    let mut path = String::new();
    let answer = |request: &Request, mut response: Response| {
        path = request.uri().to_string();
        response
            .headers_mut()
            .insert("sec-websocket-protocol", PROTOCOL.parse().unwrap());
        Ok(response)
    };
    let socket = accept_hdr_async(tcp, answer).await.ok()?;
    Some(Link { path, socket })
}

impl Link {
    /// Writes bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        // A Traffic Controller that has hung up has its reasons; the test looks at them.
        let _ = self.socket.get_mut().write_all(bytes).await;
    }

    /// Writes one whole unmasked frame.
    pub async fn frame(&mut self, first: u8, payload: &[u8]) {
        self.send(&unmasked(first, payload)).await;
    }

    /// The next text that the Traffic Controller says.
    pub async fn text(&mut self) -> Option<String> {
        while let Some(message) = self.socket.next().await {
            if let Message::Text(text) = message.ok()? {
                return Some(text.to_string());
            }
        }
        None
    }

    /// Reads until the Traffic Controller ends the link; returns its Close, if there was one.
    pub async fn ended(mut self) -> Option<Frame> {
        while let Some(Ok(message)) = self.socket.next().await {
            if let Message::Close(close) = message {
                let payload = close.map_or(Vec::new(), |close| {
                    let code = u16::from(close.code).to_be_bytes();
                    [&code[..], close.reason.as_bytes()].concat()
                });
                return Some(Frame {
                    first: 0x88,
                    payload,
                });
            }
        }
        None
    }
}
