//! A client that connects from an address of its own choice, so that it can be told from the
//! balancer: all of 127.0.0.0/8 is this machine.

use bytes::Bytes;
use harness::Tls;
use harness::raw::handshake;
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What a client says of itself that is not true.
pub(crate) const LIES: [&str; 2] = ["X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: http"];

/// Connects from `from`.
pub(crate) async fn connect(from: Ipv4Addr, to: SocketAddr, tls: &Tls) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().expect("sockets there are");
    let from = SocketAddr::from((from, 0));
    socket.bind(from).expect("an address of loopback");
    let tcp = socket.connect(to).await.expect("a balancer listens");
    let name = ServerName::try_from(tls.name).expect("a DNS name");
    let stream = TlsConnector::from(tls.config.clone()).connect(name, tcp);
    stream.await.expect("a balancer speaks TLS")
}

/// The protocol both ends have agreed on.
pub(crate) fn agreed(stream: &TlsStream<TcpStream>) -> Option<&str> {
    let protocol = stream.get_ref().1.alpn_protocol()?;
    std::str::from_utf8(protocol).ok()
}

/// Asks for a WebSocket, lying; returns the first line of the answer. The stream stays open as
/// long as the caller keeps it.
pub(crate) async fn upgrade(stream: &mut TlsStream<TcpStream>, path: &str) -> String {
    let request = handshake(path, &LIES);
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("a balancer takes a request");
    stream.flush().await.expect("a balancer takes a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    let head = String::from_utf8_lossy(&head);
    head.lines().next().unwrap_or_default().to_owned()
}

/// A client of HTTP/2.
pub(crate) struct Http2(SendRequest<Empty<Bytes>>);

impl Http2 {
    pub(crate) async fn open(stream: TlsStream<TcpStream>) -> Http2 {
        let builder = http2::Builder::new(TokioExecutor::new());
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (requests, connection) = handshake.expect("it has agreed to HTTP/2");
        tokio::spawn(connection);
        Http2(requests)
    }

    /// An ordinary request, lying.
    pub(crate) async fn get(&mut self, path: &str) -> StatusCode {
        let request = Request::get(format!("https://localhost{path}"));
        self.send(request).await
    }

    /// A WebSocket (RFC 8441 §5), lying. Only after an answer: by then the server has said whether
    /// it takes any.
    pub(crate) async fn websocket(&mut self, path: &str) -> StatusCode {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("https://localhost{path}"))
            .header("sec-websocket-version", "13")
            .extension(Protocol::from_static("websocket"));
        self.send(request).await
    }

    async fn send(&mut self, mut request: http::request::Builder) -> StatusCode {
        for (name, value) in LIES.iter().filter_map(|lie| lie.split_once(": ")) {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).expect("it is well-formed");
        let answer = self.0.send_request(request).await;
        answer.expect("a balancer answers").status()
    }
}
