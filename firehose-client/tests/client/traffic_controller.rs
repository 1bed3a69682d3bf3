//! A Traffic Controller that does what a test says. Its WebSocket is tungstenite's, so that
//! the client is not checked against itself.

use firehose_client::v1::envelope::EventType;
use firehose_client::v1::log_message::MessageType;
use firehose_client::v1::{CounterEvent, Envelope, LogMessage};
use futures::{SinkExt, StreamExt};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};
use transport::listener::{Acceptor, Stream};
use transport::tls::{self, HTTP_1_1, Identity};

pub(crate) struct TrafficController {
    listener: TcpListener,
    acceptor: Acceptor,
    pub(crate) url: String,
}

/// Somebody who asks.
pub(crate) struct Caller {
    stream: Stream,
    /// The head of the request.
    pub(crate) head: String,
}

/// A subscriber.
pub(crate) struct Subscriber(WebSocketStream<Stream>);

impl TrafficController {
    pub(crate) async fn start() -> TrafficController {
        TrafficController::bind(None).await
    }

    pub(crate) async fn start_tls(identity: &Identity) -> TrafficController {
        TrafficController::bind(Some(identity)).await
    }

    async fn bind(identity: Option<&Identity>) -> TrafficController {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if identity.is_some() { "wss" } else { "ws" };
        let url = format!(
            "{scheme}://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        let tls = identity.map(|identity| tls::server(identity, None, &[HTTP_1_1]).unwrap());
        TrafficController {
            listener,
            acceptor: Acceptor::new(tls.map(Into::into)),
            url,
        }
    }

    /// The next request; connections that bring none are passed over.
    pub(crate) async fn caller(&self) -> Caller {
        loop {
            let (tcp, peer) = self.listener.accept().await.unwrap();
            let Ok(mut stream) = self.acceptor.accept(tcp, peer).await else {
                continue;
            };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            return Caller { stream, head };
        }
    }

    pub(crate) async fn subscriber(&self) -> Subscriber {
        self.caller().await.subscribe().await
    }
}

impl Caller {
    /// The value of a header of the request.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub(crate) async fn answer(mut self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        self.stream.write_all(answer.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
        // Hanging up first could take the answer back.
        _ = self.stream.read_u8().await;
    }

    pub(crate) async fn subscribe(mut self) -> Subscriber {
        let accept = derive_accept_key(self.header("Sec-WebSocket-Key").unwrap().as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.stream.write_all(answer.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
        Subscriber(WebSocketStream::from_raw_socket(self.stream, Role::Server, None).await)
    }
}

impl Subscriber {
    pub(crate) async fn send(&mut self, envelope: impl Into<Vec<u8>>) {
        self.try_send(envelope).await.unwrap();
    }

    pub(crate) async fn try_send(&mut self, envelope: impl Into<Vec<u8>>) -> Result<(), Error> {
        self.0.send(Message::Binary(envelope.into().into())).await
    }

    /// Closes, and waits for the answer.
    pub(crate) async fn close(mut self, code: u16) -> Option<u16> {
        let frame = CloseFrame {
            code: CloseCode::from(code),
            reason: "".into(),
        };
        self.0.close(Some(frame)).await.unwrap();
        self.closed().await
    }

    /// Waits for the other end's Close, and tells its code; `None` if it came without.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        while let Some(Ok(message)) = self.0.next().await {
            if let Message::Close(frame) = message {
                return frame.map(|frame| frame.code.into());
            }
        }
        None
    }
}

pub(crate) fn log(text: impl Into<Vec<u8>>) -> Vec<u8> {
    Envelope {
        origin: "rep".into(),
        event_type: EventType::LogMessage as i32,
        timestamp: Some(1_500_000_000_000_000_000),
        log_message: Some(LogMessage {
            message: text.into(),
            message_type: MessageType::Out as i32,
            timestamp: 1_500_000_000_000_000_000,
            app_id: Some("some-app".into()),
            source_type: Some("APP/PROC/WEB".into()),
            source_instance: Some("0".into()),
        }),
        ..Envelope::default()
    }
    .encode_to_vec()
}

pub(crate) fn counter(name: &str) -> Vec<u8> {
    Envelope {
        origin: "gorouter".into(),
        event_type: EventType::CounterEvent as i32,
        counter_event: Some(CounterEvent {
            name: name.into(),
            delta: 1,
            total: None,
        }),
        ..Envelope::default()
    }
    .encode_to_vec()
}
