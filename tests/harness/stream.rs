//! A client's connection, plain or under TLS.

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How a client speaks TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Whom it trusts, who it is, what it offers.
    pub config: Arc<ClientConfig>,
    /// The name it expects.
    pub name: &'static str,
}

/// Bytes in both directions.
#[derive(Debug)]
pub enum Stream {
    /// As they are.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Box<TlsStream<BufReader<TcpStream>>>),
}

impl Stream {
    /// Connects to `address`; with `receive_buffer` the kernel holds about so many bytes that
    /// were not read.
    pub async fn connect(
        address: SocketAddr,
        tls: Option<&Tls>,
        receive_buffer: Option<u32>,
    ) -> io::Result<Stream> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let tcp = socket.connect(address).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = tls else {
            return Ok(Stream::Plain(tcp));
        };
        let name = ServerName::try_from(tls.name).expect("a DNS name");
        let tcp = BufReader::with_capacity(64 << 10, tcp);
        let stream = TlsConnector::from(tls.config.clone())
            .connect(name, tcp)
            .await?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// The socket under a stream, for whoever no longer holds the stream.
#[derive(Debug)]
pub(crate) struct Wire(socket2::Socket);

impl Wire {
    /// Ends the connection in both directions, whatever is under way.
    pub(crate) fn cut(&self) {
        // It may have ended already.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

impl Stream {
    /// Another handle of the socket.
    pub(crate) fn wire(&self) -> io::Result<Wire> {
        let tcp = match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref().0.get_ref(),
        };
        SockRef::from(tcp).try_clone().map(Wire)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, from),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
