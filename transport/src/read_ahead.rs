//! A socket that is read further than it was asked to.
//!
//! Under TLS come reads of a few KiB, to the socket go reads of a whole chunk: each is a system
//! call. What was read ahead has memory only from a wake-up until the socket has no more, so
//! that a connection that says nothing holds nothing, however much it once said.

use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// A socket, and what was read of it ahead.
#[derive(Debug)]
pub struct ReadAhead {
    socket: TcpStream,
    at_once: NonZeroUsize,
    /// Read from the socket; no memory at all while the socket has nothing more.
    held: Vec<u8>,
    /// How much of it was taken.
    taken: usize,
}

impl ReadAhead {
    /// Reads `at_once` bytes of `socket` at a time.
    pub(crate) fn new(at_once: NonZeroUsize, socket: TcpStream) -> ReadAhead {
        ReadAhead {
            socket,
            at_once,
            held: Vec::new(),
            taken: 0,
        }
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Reads the socket into memory that was drained.
    fn refill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.taken = 0;
        // Every write of a WebSocket looks for what the peer says, which is mostly nothing.
        let read = match self.socket.poll_read_ready(cx) {
            Poll::Ready(Ok(())) => {
                self.held.clear();
                self.held.reserve_exact(self.at_once.get());
                let mut room = (&mut self.held).limit(self.at_once.get());
                poll_read_buf(Pin::new(&mut self.socket), cx, &mut room).map_ok(drop)
            }
            nothing => nothing,
        };
        if !matches!(read, Poll::Ready(Ok(()))) {
            self.held = Vec::new();
        }
        read
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.taken == this.held.len() {
            if out.remaining() >= this.at_once.get() {
                return Pin::new(&mut this.socket).poll_read(cx, out);
            }
            std::task::ready!(this.refill(cx))?;
        }
        let rest = &this.held[this.taken..];
        let some = &rest[..rest.len().min(out.remaining())];
        out.put_slice(some);
        this.taken += some.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair(at_once: usize) -> (ReadAhead, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(listener.accept(), far);
        let at_once = NonZeroUsize::new(at_once).unwrap();
        (ReadAhead::new(at_once, near.unwrap().0), far.unwrap())
    }

    #[tokio::test]
    async fn memory_lasts_from_the_first_byte_until_the_socket_has_no_more() {
        let (mut near, mut far) = pair(64 << 10).await;
        let mut some = [0; 4 << 10];
        assert!(near.read(&mut some).now_or_never().is_none());
        assert_eq!(near.held.capacity(), 0, "nothing came yet");
        for _ in 0..3 {
            far.write_all(&[7; 10 << 10]).await.unwrap();
            near.read_exact(&mut some).await.unwrap();
            assert_eq!(near.held.capacity(), 64 << 10);
            let mut rest = [0; 6 << 10];
            near.read_exact(&mut rest).await.unwrap();
            assert!(near.read(&mut some).now_or_never().is_none());
            assert_eq!(near.held.capacity(), 0, "drained");
        }
        drop(far);
        assert_eq!(near.read(&mut some).await.unwrap(), 0, "the end is told");
    }

    #[tokio::test]
    async fn bytes_come_in_order_whatever_sizes_are_asked_for() {
        let sent: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        for (at_once, asked) in [(1, 7), (7, 1), (100, 99), (100, 100), (4_096, 70_000)] {
            let (mut near, mut far) = pair(at_once).await;
            let hears = async {
                let mut heard = Vec::new();
                let mut some = vec![0; asked];
                loop {
                    match near.read(&mut some).await.unwrap() {
                        0 => break heard,
                        n => heard.extend_from_slice(&some[..n]),
                    }
                }
            };
            let says = async {
                far.write_all(&sent).await.unwrap();
                drop(far);
            };
            let (heard, ()) = tokio::join!(hears, says);
            assert!(heard == sent, "{at_once} at once, {asked} asked for");
        }
    }
}
