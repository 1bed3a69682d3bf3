//! One connection of a client: HTTP/1.1 until it becomes a stream, and not for long.

use super::Front;
use crate::metrics::Metrics;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tracing::{debug, warn};
use transport::cause::chain;
use transport::listener::{AcceptError, Acceptor};

/// How long a client has for the head of a request (upstream's `ReadHeaderTimeout`), its first
/// or the next on a connection that is kept alive.
const HEAD: Duration = Duration::from_secs(2);

/// How long a connection may go on asking before it is a stream: whoever asks every second
/// must not keep others out.
const KEPT: Duration = Duration::from_secs(30);

/// The longest request head, in bytes. A token is 8 KiB at most.
const MAX_HEAD: usize = 16 << 10;

/// The most headers in a request.
const MAX_HEADERS: usize = 64;

/// Both ends of a client's connection.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Who connected, or whom the balancer in front of us named.
    pub peer: SocketAddr,
    /// Where to.
    pub local: SocketAddr,
}

/// What to do about a balancer that was not named.
const NAME_BALANCERS: &str = "TRAFFIC_CONTROLLER_PLAIN_FROM names balancers that end TLS, \
    TRAFFIC_CONTROLLER_PROXY_PROTOCOL_FROM those that send PROXY headers";

/// What to do about one that was, and does not do what it was named for.
const SEND_HEADERS: &str = "TRAFFIC_CONTROLLER_PROXY_PROTOCOL_FROM names it: have it send them \
    (HAProxy: send-proxy-v2, and check-send-proxy), or take it out";

/// Serves an accepted socket until it is a stream, or over.
pub async fn serve(acceptor: Acceptor, front: Arc<Front>, tcp: TcpStream, peer: SocketAddr) {
    // Where it came in is only told to the log: a socket that no longer knows is over soon.
    let local = tcp.local_addr().unwrap_or(peer);
    // A socket for both families says ::ffff:192.0.2.1.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    match acceptor.accept_client(tcp, peer).await {
        Ok((stream, peer)) => answer(stream, front, Ends { peer, local }).await,
        Err(error) => not_accepted(&error, peer, &front.metrics),
    }
}

/// Counts a connection that did not get as far as a request. Where a setting may be wrong, there
/// is a line in the log, if there is room.
fn not_accepted(error: &AcceptError, peer: SocketAddr, metrics: &Metrics) {
    Metrics::refused_connection(error.reason());
    let what_to_do = match error {
        AcceptError::PlainText { .. } => NAME_BALANCERS,
        AcceptError::ProxyHeader { .. } => SEND_HEADERS,
        _ => return debug!(%peer, error = error as &dyn Error, "not accepted"),
    };
    if let Some(unsaid) = metrics.line_for_a_refused_connection() {
        warn!(unsaid, "{}; {what_to_do}", chain(error));
    }
}

/// Answers the requests of one connection.
pub async fn answer<S>(stream: S, front: Arc<Front>, ends: Ends)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = ends.peer;
    let answer = service_fn(move |request| {
        let front = front.clone();
        async move { Ok::<_, Infallible>(front.answer(request, ends).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // The front sets it: upstream's 101 has none.
        .auto_date_header(false)
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades();
    match tokio::time::timeout(KEPT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            if error.is_parse() {
                Metrics::refused_request("not_http");
            }
            debug!(%peer, %error, "connection ended");
        }
        Err(_) => debug!(%peer, "asked for {KEPT:?} without becoming a stream"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use crate::front::{Edge, Leaving};
    use crate::streams::Streams;
    use crate::topics::Topics;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;
    use transport::shutdown::Drain;

    /// What a client that sends `request` and then nothing is told, and how long it is kept.
    async fn told(request: &str) -> (String, Duration) {
        let shutdown = Drain::new().shutdown();
        let front = Arc::new(Front {
            access: Access::Open,
            edge: Edge::default(),
            dopplers: [].into_iter().collect(),
            topics: Topics::new(1 << 20, 1 << 20),
            streams: Streams::new(1),
            metrics: Arc::new(Metrics::new()),
            leaving: Leaving::new(shutdown.clone(), Duration::ZERO),
            shutdown,
        });
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let begun = Instant::now();
        let ends = Ends { peer, local: peer };
        tokio::spawn(answer(server, front, ends));
        client.write_all(request.as_bytes()).await.unwrap();
        let mut told = String::new();
        client.read_to_string(&mut told).await.unwrap();
        (told, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_kept_alive_and_idle_is_closed() {
        let (answer, after) = told("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        assert_eq!(after.as_secs(), HEAD.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_is_closed() {
        assert_eq!(told("").await, (String::new(), HEAD));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_request_never_ends_is_closed() {
        let (answer, after) = told("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        assert!(after <= HEAD);
    }
}
