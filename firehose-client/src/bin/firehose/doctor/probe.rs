//! Asking: sockets are opened and spoken to, and what came of it goes out as values. What it
//! means is decided in [`super::judge`].
//!
//! Every function here ends within the time it is given, whatever the other side does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use firehose_client::Trust;
use http::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use http::{HeaderMap, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use transport::listener::{DialError, Dialer, Stream};
use transport::shown::{self, Shown, Why};
use transport::tls::{self, ClientConfig, H2, HTTP_1_1, Roots, ServerName, TlsError};
use transport::websocket::upgrade::{self, ConnectError};

use super::answer::{Answer, Spoke};
use super::wire::{Frame, Missing, Wire};
use crate::exit::chain;

/// What asks a Traffic Controller to say what it sees of us.
const DOCTOR: &str = "x-loggregator-doctor";

/// What it answers, if it does.
const SEEN: &str = "x-loggregator-seen";

const AGENT: &str = concat!("firehose/", env!("CARGO_PKG_VERSION"));

/// How much of an answer is read, in bytes.
const ENOUGH: usize = 16 << 10;

/// How long the rest of an answer may take once its head is there.
const REST: Duration = Duration::from_secs(1);

/// How long the Traffic Controller's first ping is waited for: it sends it at once.
const FIRST_PING: Duration = Duration::from_secs(3);

/// Pings of ours that are timed.
const PINGS: usize = 3;

/// How often something is said in a stream that is to be kept busy.
const TALK: Duration = Duration::from_secs(1);

/// How an HTTP/2 client begins (RFC 9113 §3.4), with empty SETTINGS.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Who is asked.
pub(super) struct Target {
    pub(super) host: String,
    /// `host:port`.
    pub(super) authority: String,
    /// Under TLS, how.
    pub(super) tls: Option<Tls>,
    /// How long each step may take.
    pub(super) within: Duration,
}

/// TLS in the ways we try it.
pub(super) struct Tls {
    name: ServerName<'static>,
    /// Trusting whom other clients trust; nobody can be asked if the system has no CAs.
    strict: Option<[Arc<ClientConfig>; 2]>,
    anyone: [Arc<ClientConfig>; 2],
    /// Whether the user wants no certificate checked.
    pub(super) unchecked: bool,
}

/// Which protocols are offered: HTTP/2 and HTTP/1.1, or only that, as clients do.
#[derive(Clone, Copy)]
enum Offer {
    Both = 0,
    Http1 = 1,
}

/// By their number.
const OFFERS: [&[&[u8]]; 2] = [&[H2, HTTP_1_1], &[HTTP_1_1]];

/// Whom a connection trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trusted {
    Checked,
    Anyone,
}

/// What came of connecting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Knock {
    Open(Duration),
    Refused,
    Silent,
    /// In the system's words.
    Failed(String),
}

/// Why a connection under TLS did not come to be, and in which words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unmade {
    pub(super) why: Why,
    pub(super) said: String,
}

/// What came of TLS with one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    Made {
        /// When both protocols are offered.
        shown: Shown,
        /// What other clients hold against its certificate.
        distrust: Option<Unmade>,
        /// What is chosen if only HTTP/1.1 is offered.
        http1: Result<Option<String>, Unmade>,
    },
    /// Not even trusting anyone.
    Failed {
        unmade: Unmade,
        /// What it says to plain HTTP.
        plain: Spoke,
    },
}

/// What came of asking for a WebSocket.
pub(super) enum Upgraded {
    Open(Open),
    Answered(Answer),
    /// 101, and something is wrong with it.
    Altered(&'static str),
    Unanswered,
    /// In words.
    Broken(String),
}

/// A WebSocket.
pub(super) struct Open {
    pub(super) wire: Wire,
    /// What the Traffic Controller says it sees of us.
    pub(super) seen: Option<String>,
    /// Our address in that connection.
    pub(super) us: Option<IpAddr>,
    pub(super) took: Duration,
}

/// Pings in both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pings {
    /// When the server's first came.
    pub(super) first: Option<Duration>,
    /// How long answers to ours took, in order; fewer than asked for if one did not come.
    pub(super) ours: Vec<Duration>,
    /// How the stream ended, if it did.
    pub(super) ended: Option<Ended>,
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With a Close of this code and reason: the server wanted it.
    Closed(Option<u16>, String),
    /// Without: somebody cut it.
    Cut(String),
    /// In something that is no WebSocket.
    Garbled,
}

/// A stream that was watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watched {
    /// How long it was open.
    pub(super) lasted: Duration,
    /// The longest time in which nothing was said in either direction.
    pub(super) silence: Duration,
    /// `None` if it still was open.
    pub(super) ended: Option<Ended>,
}

impl Target {
    /// # Errors
    /// When the CAs to trust cannot be read, or the host is no name for a certificate.
    pub(super) fn new(
        tls: bool,
        host: &str,
        port: u16,
        trust: &Trust,
        within: Duration,
    ) -> Result<Target, TlsError> {
        let authority = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        Ok(Target {
            host: host.to_owned(),
            authority,
            tls: tls.then(|| Tls::new(host, trust)).transpose()?,
            within,
        })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.within
    }

    /// All addresses of its name, each once.
    pub(super) async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let looked = timeout(self.within, lookup_host(&self.authority)).await;
        let found = looked.map_err(|_| "nobody answered in time".to_owned())?;
        let mut all: Vec<_> = found.map_err(|error| error.to_string())?.collect();
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    pub(super) async fn knock(&self, at: SocketAddr) -> Knock {
        let begun = Instant::now();
        match timeout(self.within, TcpStream::connect(at)).await {
            Ok(Ok(_)) => Knock::Open(begun.elapsed()),
            Err(_) => Knock::Silent,
            Ok(Err(error)) => match error.kind() {
                std::io::ErrorKind::ConnectionRefused => Knock::Refused,
                std::io::ErrorKind::TimedOut => Knock::Silent,
                _ => Knock::Failed(error.to_string()),
            },
        }
    }

    /// Tries TLS in all ways; nothing without TLS.
    pub(super) async fn handshake(&self, at: SocketAddr) -> Option<Handshake> {
        let tls = self.tls.as_ref()?;
        let anyone = self.dial(at, Some(tls.with(Trusted::Anyone, Offer::Both)));
        let stream = match anyone.await {
            Ok(stream) => stream,
            Err(unmade) => {
                let plain = match self.dial(at, None).await {
                    Ok(stream) => self.exchange(stream, &self.request()).await.0,
                    Err(_) => Spoke::HungUp,
                };
                return Some(Handshake::Failed { unmade, plain });
            }
        };
        let shown = Shown::of(&stream)?;
        drop(stream);
        let distrust = match &tls.strict {
            None => None,
            Some(_) => {
                let checked = self.dial(at, Some(tls.with(Trusted::Checked, Offer::Both)));
                checked.await.err()
            }
        };
        let http1 = self.dial(at, Some(tls.with(Trusted::Anyone, Offer::Http1)));
        Some(Handshake::Made {
            shown,
            distrust,
            http1: http1
                .await
                .map(|stream| Shown::of(&stream).and_then(|shown| shown.alpn)),
        })
    }

    /// A connection as a client makes it.
    pub(super) async fn connect(&self, at: SocketAddr, trusted: Trusted) -> Result<Stream, Unmade> {
        let tls = self.tls.as_ref();
        let tls = tls.map(|tls| tls.with(trusted, Offer::Http1));
        self.dial(at, tls).await
    }

    /// Whether TLS can be had where none was asked for.
    pub(super) async fn takes_tls(&self, at: SocketAddr) -> bool {
        let tls = Tls::new(&self.host, &Trust::Anyone);
        match tls {
            Ok(tls) => {
                let tls = tls.with(Trusted::Anyone, Offer::Both);
                self.dial(at, Some(tls)).await.is_ok()
            }
            Err(_) => false,
        }
    }

    async fn dial(
        &self,
        at: SocketAddr,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    ) -> Result<Stream, Unmade> {
        let tls = tls.map(|(config, name)| (config.into(), name));
        let dialer = Dialer::new(tls, self.within);
        dialer.dial(&at.to_string()).await.map_err(|error| {
            let (DialError::Handshake { source, .. }
            | DialError::Connect { source, .. }
            | DialError::Resolve { source, .. }) = &error;
            Unmade {
                why: Why::of(source),
                said: source.to_string(),
            }
        })
    }

    /// Asks for a firehose without showing a token, and without a handshake: a Traffic Controller's
    /// answer to that cannot be mistaken. And how long the first byte took.
    pub(super) async fn plainly(&self, stream: Stream) -> (Spoke, Duration) {
        self.exchange(stream, &self.request()).await
    }

    /// Whether it answers one who begins with HTTP/2.
    pub(super) async fn takes_http2(&self, stream: Stream) -> bool {
        self.exchange(stream, HTTP_2).await.0 == Spoke::Http2
    }

    fn request(&self) -> Vec<u8> {
        format!(
            "GET /firehose/firehose-doctor HTTP/1.1\r\nHost: {}\r\nUser-Agent: {AGENT}\r\n\
             Connection: close\r\n\r\n",
            self.authority
        )
        .into_bytes()
    }

    async fn exchange(&self, mut stream: Stream, request: &[u8]) -> (Spoke, Duration) {
        let begun = Instant::now();
        let mut deadline = self.deadline();
        let mut read = BytesMut::new();
        let mut first = None;
        let sent = timeout_at(deadline, async {
            stream.write_all(request).await?;
            stream.flush().await
        });
        // Somebody who refuses may do it before he has read everything.
        _ = sent.await;
        let ended = loop {
            match timeout_at(deadline, stream.read_buf(&mut read)).await {
                Err(_) => break false,
                Ok(Ok(0) | Err(_)) => break true,
                Ok(Ok(_)) => {}
            }
            first.get_or_insert_with(|| begun.elapsed());
            match Spoke::of(&read, false) {
                Spoke::Http(answer) => {
                    let length = answer.header("content-length");
                    let length = length.and_then(|it| it.parse().ok());
                    if length.is_some_and(|length: usize| answer.body.len() >= length) {
                        break true;
                    }
                    deadline = deadline.min(Instant::now() + REST);
                }
                Spoke::Http2 | Spoke::Tls => break true,
                _ => {}
            }
            if read.len() >= ENOUGH {
                break true;
            }
        };
        let took = first.unwrap_or_else(|| begun.elapsed());
        (Spoke::of(&read, ended), took)
    }

    /// Asks for a WebSocket as a client does.
    pub(super) async fn upgrade(
        &self,
        stream: Stream,
        path: &str,
        token: Option<&HeaderValue>,
    ) -> Upgraded {
        let us = shown::our_end(&stream).map(|us| us.ip().to_canonical());
        let begun = Instant::now();
        let mut request = Request::get(format!("http://{}{path}", self.authority))
            .header(USER_AGENT, AGENT)
            .header(DOCTOR, "1");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = match request.body(()) {
            Ok(request) => request,
            Err(error) => return Upgraded::Broken(error.to_string()),
        };
        match upgrade::connect(stream, request, self.deadline()).await {
            Ok((stream, read, headers)) => Upgraded::Open(Open {
                wire: Wire::new(stream, read),
                seen: seen(&headers),
                us,
                took: begun.elapsed(),
            }),
            Err(ConnectError::Refused {
                status,
                headers,
                body,
            }) => Upgraded::Answered(Answer::new(status.as_u16(), &headers, body)),
            Err(ConnectError::NotWebSocket(what)) => Upgraded::Altered(what),
            Err(ConnectError::Timeout) => Upgraded::Unanswered,
            Err(error) => Upgraded::Broken(chain(&error)),
        }
    }
}

impl Tls {
    fn new(host: &str, trust: &Trust) -> Result<Tls, TlsError> {
        let strict = |roots: Roots<'_>| -> Result<_, TlsError> {
            let [both, http1] = OFFERS.map(|alpn| tls::client(roots, None, alpn));
            Ok([both?, http1?])
        };
        let [both, http1] = OFFERS.map(|alpn| tls::client_that_trusts_anyone(None, alpn));
        Ok(Tls {
            name: tls::server_name(host)?,
            strict: match trust {
                Trust::System => Some(strict(Roots::System(None))?),
                Trust::Ca(path) => Some(strict(Roots::Ca(path))?),
                // What others would say is still worth knowing.
                Trust::Anyone => strict(Roots::System(None)).ok(),
            },
            anyone: [both?, http1?],
            unchecked: *trust == Trust::Anyone,
        })
    }

    fn with(&self, trusted: Trusted, offer: Offer) -> (Arc<ClientConfig>, ServerName<'static>) {
        let configs = match (trusted, &self.strict) {
            (Trusted::Checked, Some(strict)) => strict,
            _ => &self.anyone,
        };
        (configs[offer as usize].clone(), self.name.clone())
    }
}

fn seen(headers: &HeaderMap) -> Option<String> {
    let seen = headers.get(SEEN)?.to_str().ok()?;
    Some(seen.to_owned())
}

impl Open {
    /// Waits for the server's first ping, and times some of ours.
    pub(super) async fn pings(&mut self, within: Duration) -> Pings {
        let mut pings = Pings::default();
        let begun = Instant::now();
        let deadline = begun + FIRST_PING.min(within);
        match self
            .wire
            .until(deadline, |it| matches!(it, Frame::Ping(_)))
            .await
        {
            Ok(()) => pings.first = Some(begun.elapsed()),
            Err(Missing::Late) => {}
            Err(missing) => {
                pings.ended = Some(missing.into());
                return pings;
            }
        }
        for _ in 0..PINGS {
            let payload = fastrand::u64(..).to_be_bytes();
            let sent = Instant::now();
            let answered = match self.wire.ping(&payload).await {
                Ok(()) => {
                    let ours = |it: &Frame| matches!(it, Frame::Pong(it) if **it == payload);
                    self.wire.until(sent + within, ours).await
                }
                Err(missing) => Err(missing),
            };
            match answered {
                Ok(()) => pings.ours.push(sent.elapsed()),
                Err(Missing::Late) => break,
                Err(missing) => {
                    pings.ended = Some(missing.into());
                    break;
                }
            }
        }
        pings
    }

    /// Stays for so long. Whoever `talks` sends a ping every second and answers the server's; else
    /// nothing is said. What is still open then is closed.
    pub(super) async fn watch(mut self, stay: Duration, talks: bool) -> Watched {
        let begun = Instant::now();
        let end = begun + stay;
        let mut last = begun;
        let mut silence = Duration::ZERO;
        let mut next = if talks { begun } else { end };
        let ended = loop {
            let frame = self.wire.next(next.min(end)).await;
            silence = silence.max(last.elapsed());
            let said = match frame {
                Err(Missing::Late) if Instant::now() >= end => break None,
                Err(Missing::Late) => {
                    next += TALK;
                    self.wire.ping(b"").await
                }
                Err(missing) => break Some(missing.into()),
                Ok(Frame::Close(code, reason)) => break Some(Ended::Closed(code, reason)),
                Ok(Frame::Ping(payload)) if talks => self.wire.pong(&payload).await,
                Ok(_) => Ok(()),
            };
            last = Instant::now();
            if let Err(missing) = said {
                break Some(missing.into());
            }
        };
        let lasted = begun.elapsed();
        self.wire.close().await;
        Watched {
            lasted,
            silence,
            ended,
        }
    }
}

impl Wire {
    /// Reads until a frame is what is waited for, and answers pings.
    async fn until(
        &mut self,
        deadline: Instant,
        wanted: impl Fn(&Frame) -> bool,
    ) -> Result<(), Missing> {
        loop {
            let frame = self.next(deadline).await?;
            if let Frame::Ping(payload) = &frame {
                self.pong(payload).await?;
            }
            if wanted(&frame) {
                return Ok(());
            }
            if let Frame::Close(code, reason) = frame {
                return Err(Missing::Closed(code, reason));
            }
        }
    }
}

impl From<Missing> for Ended {
    fn from(missing: Missing) -> Ended {
        match missing {
            Missing::Late => Ended::Cut("it was silent".into()),
            Missing::Closed(code, reason) => Ended::Closed(code, reason),
            Missing::Cut(words) => Ended::Cut(words),
            Missing::Garbled => Ended::Garbled,
        }
    }
}
