//! Byte streams: accepted and dialled, plain or under TLS.
//!
//! In come sockets, out come [`Stream`]s, the one byte stream type of this project. Every
//! socket gets TCP_NODELAY, keepalive and a user timeout; every step has an absolute deadline;
//! an accept loop outlives whatever `accept` says, and never holds more connections than it
//! was told to. A balancer that was named may say who is behind it ([`crate::proxy_protocol`]).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use metrics::{Counter, Gauge};
use rustls::{ClientConfig, InvalidMessage, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tracing::{debug, info, warn};

use crate::networks::Networks;
use crate::proxy_protocol::{self, Malformed, Unread};
use crate::read_ahead::ReadAhead;
use crate::reload::Reloaded;
use crate::shutdown::Shutdown;
use crate::tls;

#[cfg(feature = "simulated")]
pub mod simulated;

/// How long a TLS handshake may take, from the first byte to the last, and a PROXY header before
/// it: 2 s. Absolute, not idle, so a peer gains nothing by sending a byte now and then.
pub const HANDSHAKE: Duration = Duration::from_secs(2);

/// Read buffer under TLS for few connections that carry much: 64 KiB. rustls asks the socket
/// for 4 KiB at a time, which is sixteen system calls for one chunk.
pub const READ_BUFFER_BUSY: NonZeroUsize = NonZeroUsize::new(64 * 1024).unwrap();

/// Read buffer under TLS for many connections that carry little: in effect none, since reads
/// of more than this one byte go around it.
pub const READ_BUFFER_IDLE: NonZeroUsize = NonZeroUsize::MIN;

/// How long sent bytes may stay unacknowledged, or the peer's window closed, before the
/// kernel gives the connection up: 40 s.
///
/// Linux counts a peer that acknowledges but does not read (a closed window) like a dead one.
/// So this lies above the 30 s after which we close such a reader ourselves: ours says why.
pub const USER_TIMEOUT: Duration = Duration::from_secs(40);

/// The same for what we dialled: 20 s. Whom we dial reads what we send, if he lives, so nothing
/// speaks for patience; and until he is found dead, what he had is not read from another.
pub const DIALLED_TIMEOUT: Duration = Duration::from_secs(20);

/// Keepalive: first probe after 15 s of silence, then one every 5 s, until [`USER_TIMEOUT`].
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(15))
    .with_interval(Duration::from_secs(5));

/// Connections the kernel may hold ready for us; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long an accept loop rests after an error that will not pass by itself, such as EMFILE.
const REST: Duration = Duration::from_millis(100);

/// Trouble in an accept loop is over when none came for this long; one line each way.
const QUIET: Duration = Duration::from_secs(5);

/// TLS handshakes under way at a time when nothing else is said.
pub const HANDSHAKES: usize = 1_024;

/// The first bytes of an HTTP/2 connection, as far as they can be told from HTTP/1.1
/// (RFC 9113 §3.4).
const HTTP_2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// The first byte of a TLS connection, which is that of no text: a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// A connection's bytes, in both directions.
///
/// Under TLS up to 64 KiB that were written may wait here: flush, or they stay. Dropping it
/// sends no close_notify; shut it down first.
#[derive(Debug)]
pub enum Stream {
    /// Bytes as they are on the wire.
    Plain(TcpStream),
    /// Bytes under TLS, whichever side we are.
    Tls(Box<TlsStream<ReadAhead>>),
    /// Bytes of a network that a test simulates.
    #[cfg(feature = "simulated")]
    Simulated(Box<dyn simulated::Socket>),
}

/// Sizes of the kernel's socket buffers, in bytes; `None` leaves the kernel to adapt them.
///
/// They bound what is in flight and can no longer be taken back. Linux doubles what is asked
/// for, to have room for its bookkeeping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buffers {
    /// SO_SNDBUF.
    pub send: Option<usize>,
    /// SO_RCVBUF.
    pub receive: Option<usize>,
}

/// How accepted sockets become streams.
#[derive(Debug, Clone)]
pub struct Acceptor {
    /// TLS, or plain text if `None`. Each connection takes what is good when it comes.
    pub tls: Option<Reloaded<ServerConfig>>,
    /// From where plain text is taken. Whoever comes from there may speak TLS too, if there is
    /// any. Everybody if there is none, else nobody.
    pub plain_from: Networks,
    /// Balancers: each connection from there must begin with a PROXY header, and is of the client
    /// that it names. Nobody.
    pub balancers: Networks,
    /// How long the TLS handshake may take in all, a PROXY header included; [`HANDSHAKE`].
    pub handshake: Duration,
    /// Bytes read from the socket at once under TLS: [`READ_BUFFER_BUSY`] or
    /// [`READ_BUFFER_IDLE`]. Allocated only while there is something in it.
    pub read_buffer: NonZeroUsize,
    /// The kernel's buffers.
    pub buffers: Buffers,
    /// TLS handshakes and PROXY headers under way at a time: each has memory, and nobody has shown
    /// a certificate yet. Clones share them; [`HANDSHAKES`].
    pub handshakes: Arc<Semaphore>,
}

/// How streams are opened.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// TLS and the name to expect in the server's certificate; plain text if `None`.
    /// Each connection takes what is good when it is opened.
    pub tls: Option<(Reloaded<ClientConfig>, ServerName<'static>)>,
    /// How long resolving, connecting and the TLS handshake may take together.
    pub deadline: Duration,
    /// As [`Acceptor::read_buffer`].
    pub read_buffer: NonZeroUsize,
    /// The kernel's buffers.
    pub buffers: Buffers,
    /// Our address, of those this machine has; the system chooses if `None`. One address has
    /// some 28,000 ports for connections to one server (`net.ipv4.ip_local_port_range`).
    pub from: Option<IpAddr>,
    /// Dialled instead of the kernel's network, without TLS.
    #[cfg(feature = "simulated")]
    pub simulated: Option<simulated::Network>,
}

/// Why an accepted socket did not become a stream.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The peer had left already, as far as we can tell.
    #[error("could not set up the connection from {peer}")]
    Socket {
        /// Who connected.
        peer: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Too many peers are in their handshake.
    #[error("refused {peer}: too many TLS handshakes under way")]
    Busy {
        /// Who connected.
        peer: SocketAddr,
    },
    /// The peer was silent, or slow.
    #[error("{peer} did not finish its handshake within {within:?}")]
    Slow {
        /// Who connected.
        peer: SocketAddr,
        /// How long it had.
        within: Duration,
    },
    /// A certificate we do not accept, no protocol in common, or no TLS at all.
    #[error("TLS handshake with {peer} failed")]
    Handshake {
        /// Who connected.
        peer: SocketAddr,
        /// What was wrong; a `rustls::Error` inside.
        source: io::Error,
    },
    /// It would have been plain text, from where none is taken.
    #[error("refused {peer}: plain text is not taken from its network")]
    PlainText {
        /// Who connected.
        peer: SocketAddr,
    },
    /// A balancer did not say whose connection it is.
    #[error("refused {peer}: it must begin with a PROXY header, and what it sent is none")]
    ProxyHeader {
        /// Who connected.
        peer: SocketAddr,
        /// What was wrong with it.
        source: Malformed,
    },
}

impl AcceptError {
    /// What it is in a word, for whoever counts.
    pub fn reason(&self) -> &'static str {
        match self {
            AcceptError::Socket { .. } => "left",
            AcceptError::Busy { .. } => "busy",
            AcceptError::Slow { .. } => "slow",
            AcceptError::Handshake { .. } => "tls",
            AcceptError::PlainText { .. } => "plain_text",
            AcceptError::ProxyHeader { .. } => "proxy_header",
        }
    }
}

/// Which step of dialling failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address, or no one could be asked.
    #[error("could not resolve {address}")]
    Resolve {
        /// What was dialled.
        address: String,
        /// What the resolver said; `TimedOut` at the deadline.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("could not connect to {address} at {at}")]
    Connect {
        /// What was dialled.
        address: String,
        /// The last of its addresses that was tried.
        at: SocketAddr,
        /// What the system said; `TimedOut` at the deadline.
        source: io::Error,
    },
    /// Somebody answers who does not speak TLS, is not whom we expect, or does not want us.
    #[error("TLS handshake with {address} at {at} failed")]
    Handshake {
        /// What was dialled.
        address: String,
        /// The address that answered.
        at: SocketAddr,
        /// What was wrong, a `rustls::Error` inside; `TimedOut` at the deadline.
        source: io::Error,
    },
}

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address}")]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// Plain text where others could read it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "plain text on {address} could be read by others: \
     give a certificate, its key and a CA, or bind to 127.0.0.1"
)]
pub struct PlainOutsideLoopback {
    /// The address asked for.
    pub address: SocketAddr,
}

/// The rule for every listener without TLS.
pub fn plain_only_on_loopback(address: SocketAddr) -> Result<(), PlainOutsideLoopback> {
    if address.ip().to_canonical().is_loopback() {
        Ok(())
    } else {
        Err(PlainOutsideLoopback { address })
    }
}

/// Listens on `address`, also while connections of a process before us are still closing.
/// Must run inside the runtime.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listen().map_err(|source| BindError { address, source })
}

/// Accepts connections and runs `on_connection` for each, until `shutdown` begins; then the
/// listener closes and the connections are `shutdown`'s to wait for.
///
/// At most `most` connections are open at once; the newest beyond that is closed unanswered
/// and counted. `name` tells listeners apart in metrics and logs.
pub async fn serve<F, C>(
    listener: TcpListener,
    name: &'static str,
    most: usize,
    shutdown: &Shutdown,
    on_connection: F,
) where
    F: Fn(TcpStream, SocketAddr) -> C,
    C: Future<Output = ()> + Send + 'static,
{
    let counts = Counts::of(name);
    let most = most.min(Semaphore::MAX_PERMITS);
    let seats = Arc::new(Semaphore::new(most));
    let mut full = false;
    let mut trouble: Option<Instant> = None; // when it last showed
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.begun() => return,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if ends_with_its_connection(&error) => {
                debug!(listener = name, %error, "a connection ended before we accepted it");
                continue;
            }
            Err(error) => {
                if trouble.replace(Instant::now()).is_none() {
                    warn!(listener = name, %error, "cannot accept connections; trying on");
                }
                counts.errors.increment(1);
                tokio::select! {
                    () = tokio::time::sleep(REST) => continue,
                    () = shutdown.begun() => return,
                }
            }
        };
        if trouble.is_some_and(|last| last.elapsed() >= QUIET) {
            trouble = None;
            info!(listener = name, "accepting connections again");
        }
        let Ok(permit) = seats.clone().try_acquire_owned() else {
            counts.refused.increment(1);
            if !full {
                full = true;
                warn!(listener = name, most, "full: closing new connections");
            }
            continue;
        };
        // A tenth must be free before "full" is news again, or each leaver would make a line.
        if full && seats.available_permits() >= most / 10 {
            full = false;
            info!(listener = name, "no longer full");
        }
        let seat = Seat::taken(permit, &counts);
        let connection = on_connection(tcp, peer);
        shutdown.spawn(async move {
            connection.await;
            drop(seat);
        });
    }
}

/// What an accept loop counts, each by `listener`.
struct Counts {
    /// `connections_accepted_total`: handed to their task.
    accepted: Counter,
    /// `connections_refused_total`: closed because the listener was full.
    refused: Counter,
    /// `accept_errors_total`: times the loop rested because it could not accept.
    errors: Counter,
    /// `connections_open`: accepted and not ended.
    open: Gauge,
}

impl Counts {
    fn of(listener: &'static str) -> Counts {
        metrics::describe_counter!(
            "connections_accepted_total",
            "Connections taken from the kernel, by listener"
        );
        metrics::describe_counter!(
            "connections_refused_total",
            "Connections closed at once because too many were open, by listener"
        );
        metrics::describe_counter!(
            "accept_errors_total",
            "Times the kernel gave no connection, by listener"
        );
        metrics::describe_gauge!("connections_open", "Connections open now, by listener");
        Counts {
            accepted: metrics::counter!("connections_accepted_total", "listener" => listener),
            refused: metrics::counter!("connections_refused_total", "listener" => listener),
            errors: metrics::counter!("accept_errors_total", "listener" => listener),
            open: metrics::gauge!("connections_open", "listener" => listener),
        }
    }
}

/// One connection's place under the cap; given back however its task ends.
struct Seat {
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Seat {
    fn taken(permit: OwnedSemaphorePermit, counts: &Counts) -> Seat {
        counts.accepted.increment(1);
        counts.open.increment(1);
        Seat {
            open: counts.open.clone(),
            _permit: permit,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.open.decrement(1);
    }
}

/// Whether the error came with one connection and left with it. Everything else (EMFILE,
/// ENFILE, ENOBUFS, ENOMEM, …) is about us and would come again at once.
fn ends_with_its_connection(error: &io::Error) -> bool {
    // accept(2): Linux passes pending errors of the new socket on through accept.
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TimedOut
    )
}

impl Acceptor {
    /// TLS or plain text, with [`HANDSHAKE`], [`READ_BUFFER_BUSY`] and the kernel's buffers.
    pub fn new(tls: Option<Reloaded<ServerConfig>>) -> Acceptor {
        Acceptor {
            plain_from: match tls {
                Some(_) => Networks::default(),
                None => Networks::all(),
            },
            tls,
            balancers: Networks::default(),
            handshake: HANDSHAKE,
            read_buffer: READ_BUFFER_BUSY,
            buffers: Buffers::default(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
        }
    }

    /// Makes a stream of an accepted socket; `peer` is named in errors.
    pub async fn accept(&self, tcp: TcpStream, peer: SocketAddr) -> Result<Stream, AcceptError> {
        let accepted = self.accept_client(tcp, peer).await;
        accepted.map(|(stream, _)| stream)
    }

    /// As [`Acceptor::accept`]; says, too, whose stream it is: the peer's, or that of the client
    /// whom a balancer named.
    pub async fn accept_client(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
    ) -> Result<(Stream, SocketAddr), AcceptError> {
        self.buffers
            .apply(SockRef::from(&tcp))
            .and_then(|()| tune(&tcp))
            .map_err(|source| AcceptError::Socket { peer, source })?;
        match self.tls {
            None if !self.plain_from.contains(peer.ip()) => {
                return Err(AcceptError::PlainText { peer });
            }
            None if !self.balancers.contains(peer.ip()) => return Ok((Stream::Plain(tcp), peer)),
            _ => {}
        }
        let Ok(_one_of_them) = self.handshakes.try_acquire() else {
            return Err(AcceptError::Busy { peer });
        };
        let within = self.handshake;
        timeout(within, self.begin(tcp, peer))
            .await
            .unwrap_or(Err(AcceptError::Slow { peer, within }))
    }

    /// What comes before the first byte of the stream.
    async fn begin(
        &self,
        mut tcp: TcpStream,
        peer: SocketAddr,
    ) -> Result<(Stream, SocketAddr), AcceptError> {
        let mut client = peer;
        if self.balancers.contains(peer.ip()) {
            let named = proxy_protocol::read(&mut tcp).await;
            client = named.map_err(|unread| unread.of(peer))?.unwrap_or(peer);
        }
        let Some(config) = &self.tls else {
            return Ok((Stream::Plain(tcp), client));
        };
        if self.plain_from.contains(peer.ip()) && starts_plain(&tcp, peer).await? {
            return Ok((Stream::Plain(tcp), client));
        }
        let tcp = ReadAhead::new(self.read_buffer, tcp);
        match TlsAcceptor::from(config.now()).accept(tcp).await {
            Ok(stream) => Ok((Stream::Tls(Box::new(stream.into())), client)),
            Err(source) if is_no_tls(&source) => Err(AcceptError::PlainText { peer }),
            Err(source) => Err(AcceptError::Handshake { peer, source }),
        }
    }
}

/// Whether a connection begins otherwise than TLS does, taking nothing from it. One that ends is
/// whatever it may be.
async fn starts_plain(tcp: &TcpStream, peer: SocketAddr) -> Result<bool, AcceptError> {
    let mut first = [0];
    match tcp.peek(&mut first).await {
        Ok(_) => Ok(first != [TLS_HANDSHAKE]),
        Err(source) => Err(AcceptError::Socket { peer, source }),
    }
}

/// Whether a handshake failed at the first byte: it was none.
fn is_no_tls(error: &io::Error) -> bool {
    let error = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<rustls::Error>());
    let no_such_type = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
    error == Some(&no_such_type)
}

impl Unread {
    fn of(self, peer: SocketAddr) -> AcceptError {
        match self {
            Unread::Malformed(source) => AcceptError::ProxyHeader { peer, source },
            Unread::Socket(source) => AcceptError::Socket { peer, source },
        }
    }
}

impl Dialer {
    /// TLS or plain text, within `deadline`, with [`READ_BUFFER_BUSY`] and the kernel's
    /// buffers.
    pub fn new(
        tls: Option<(Reloaded<ClientConfig>, ServerName<'static>)>,
        deadline: Duration,
    ) -> Dialer {
        Dialer {
            tls,
            deadline,
            read_buffer: READ_BUFFER_BUSY,
            buffers: Buffers::default(),
            from: None,
            #[cfg(feature = "simulated")]
            simulated: None,
        }
    }

    /// Opens a stream to `address`, a `host:port`. All addresses of the host are tried in
    /// turn, each with an equal share of the time that is left.
    ///
    /// Under TLS 1.3 a server that refuses *our* certificate says so after this returned: the
    /// first read fails.
    pub async fn dial(&self, address: &str) -> Result<Stream, DialError> {
        #[cfg(feature = "simulated")]
        if let Some(network) = &self.simulated {
            return network.dial(address, self.deadline).await;
        }
        let end = Instant::now() + self.deadline;
        let (tcp, at) = self.connect(address, end).await?;
        let Some((config, name)) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        let tcp = ReadAhead::new(self.read_buffer, tcp);
        let handshake = TlsConnector::from(config.now()).connect(name.clone(), tcp);
        timeout_at(end, handshake)
            .await
            .unwrap_or_else(|_| Err(late()))
            .map(|stream| Stream::Tls(Box::new(stream.into())))
            .map_err(|source| DialError::Handshake {
                address: address.into(),
                at,
                source,
            })
    }

    async fn connect(
        &self,
        address: &str,
        end: Instant,
    ) -> Result<(TcpStream, SocketAddr), DialError> {
        let unresolved = |source| DialError::Resolve {
            address: address.into(),
            source,
        };
        let found: Vec<SocketAddr> = timeout_at(end, tokio::net::lookup_host(address))
            .await
            .unwrap_or_else(|_| Err(late()))
            .map_err(unresolved)?
            .collect();
        let mut failed = unresolved(io::Error::new(io::ErrorKind::NotFound, "no address"));
        for (tried, at) in found.iter().copied().enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            let share = left / (found.len() - tried) as u32; // a name has few addresses
            let opened = timeout(share, self.open(at)).await;
            match opened.unwrap_or_else(|_| Err(late())) {
                Ok(tcp) => return Ok((tcp, at)),
                Err(source) => {
                    failed = DialError::Connect {
                        address: address.into(),
                        at,
                        source,
                    }
                }
            }
        }
        Err(failed)
    }

    async fn open(&self, at: SocketAddr) -> io::Result<TcpStream> {
        let socket = if at.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // Before connecting: the window's scale is agreed on in the first packets.
        self.buffers.apply(SockRef::from(&socket))?;
        if let Some(from) = self.from {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        let tcp = socket.connect(at).await?;
        tune(&tcp)?;
        #[cfg(target_os = "linux")]
        SockRef::from(&tcp).set_tcp_user_timeout(Some(DIALLED_TIMEOUT))?;
        Ok(tcp)
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer before the deadline")
}

impl Buffers {
    fn apply(self, socket: SockRef<'_>) -> io::Result<()> {
        if let Some(bytes) = self.send {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.receive {
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(())
    }
}

/// What every connection gets.
pub(crate) fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

impl Stream {
    /// The address at the other end of the socket; an error once it has gone.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        match self {
            Stream::Plain(tcp) => tcp.peer_addr(),
            Stream::Tls(tls) => tls.get_ref().0.socket().peer_addr(),
            #[cfg(feature = "simulated")]
            Stream::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether others could read along.
    pub fn is_plain(&self) -> bool {
        !matches!(self, Stream::Tls(_))
    }

    /// The protocol agreed on in the TLS handshake.
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Stream::Tls(tls) => tls.get_ref().1.alpn_protocol(),
            _ => None,
        }
    }

    /// The certificates the peer presented, its own first; empty if none.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        match self {
            Stream::Tls(tls) => tls.get_ref().1.peer_certificates().unwrap_or(&[]),
            _ => &[],
        }
    }

    /// The DNS names in the peer's own certificate: who it is. None on plain text, and none if
    /// it showed no certificate or one without names.
    pub fn dns_names(&self) -> Vec<String> {
        self.certificates()
            .first()
            .map(tls::dns_names)
            .unwrap_or_default()
    }

    /// Whether an accepted stream starts with HTTP/2, taking nothing from it.
    ///
    /// Under TLS the handshake has decided. On plain text the first bytes do; a peer that has
    /// not sent enough of them `within` this time is an error of kind `TimedOut`, and one that
    /// sent too few and ended does not speak HTTP/2.
    pub async fn speaks_http2(&self, within: Duration) -> io::Result<bool> {
        match self {
            Stream::Tls(_) => Ok(self.alpn() == Some(tls::H2)),
            Stream::Plain(tcp) => timeout(within, starts_with_preface(tcp))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            #[cfg(feature = "simulated")]
            Stream::Simulated(_) => Ok(false),
        }
    }
}

/// Peeking leaves the bytes where they are, so the socket stays readable and says nothing
/// when more arrive. `WouldBlock` from inside `try_io` makes tokio forget that it is
/// readable – unless more arrived meanwhile – so the next turn waits for new bytes.
async fn starts_with_preface(tcp: &TcpStream) -> io::Result<bool> {
    // A second handle for the length of this call: std's `peek` fits into `try_io`.
    let handle = std::net::TcpStream::from(SockRef::from(tcp).try_clone()?);
    let mut start = [0; HTTP_2_PREFACE.len()];
    loop {
        let ready = tcp.ready(Interest::READABLE).await?;
        let told = tcp.try_io(Interest::READABLE, || {
            let start = match handle.peek(&mut start)? {
                0 => return Ok(false), // ended
                n => &start[..n],
            };
            if !HTTP_2_PREFACE.starts_with(start) {
                Ok(false)
            } else if start.len() == HTTP_2_PREFACE.len() {
                Ok(true)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        });
        match told {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if ready.is_read_closed() {
                    return Ok(false); // no more will come
                }
            }
            told => return told,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
            #[cfg(feature = "simulated")]
            Stream::Simulated(socket) => Pin::new(socket).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            #[cfg(feature = "simulated")]
            Stream::Simulated(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bytes),
            #[cfg(feature = "simulated")]
            Stream::Simulated(socket) => Pin::new(socket).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(tcp) => tcp.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
            #[cfg(feature = "simulated")]
            Stream::Simulated(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
            #[cfg(feature = "simulated")]
            Stream::Simulated(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            #[cfg(feature = "simulated")]
            Stream::Simulated(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn running_out_of_files_is_our_trouble_and_an_aborted_connection_is_not() {
        const EMFILE: i32 = 24;
        const ENFILE: i32 = 23;
        const ENOBUFS: i32 = 105;
        const ECONNABORTED: i32 = 103;
        for ours in [EMFILE, ENFILE, ENOBUFS] {
            let error = io::Error::from_raw_os_error(ours);
            assert!(!ends_with_its_connection(&error), "{error}");
        }
        let error = io::Error::from_raw_os_error(ECONNABORTED);
        assert!(ends_with_its_connection(&error), "{error}");
    }

    #[test]
    fn plain_text_may_listen_on_loopback_only() {
        for loopback in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(plain_only_on_loopback(loopback.parse().unwrap()), Ok(()));
        }
        for open in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "[fe80::1]:1"] {
            let error = plain_only_on_loopback(open.parse().unwrap()).unwrap_err();
            assert!(error.to_string().contains(open), "{error}");
        }
    }
}
