//! One WebSocket (RFC 6455) and everything that can happen to it, for both ends.
//!
//! In go runs of whole frames made by [`crate::frame`]; out come runs of whole frames, texts,
//! and at last the one reason why it is over ([`Ended`]). Data frames are never taken apart
//! here: what stands in the read buffer is handed out as one slice. Every other frame (control,
//! text, fragment, mistake) goes through tungstenite, which does no I/O of its own (`engine`).
//!
//! Promises: one task owns a socket, and nothing is spawned. Control frames stand between data
//! frames, never inside one. Whatever ends first, at most one frame has been started and not
//! finished, [`Socket::taken`] says which, and [`Socket::close`] finishes it before it says
//! goodbye. What a peer can make us keep is bounded: one message, 4 KiB of answers.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::frame;

mod engine;
mod inbox;
mod progress;
mod pulse;
pub mod upgrade;

use engine::{Engine, Heard, protocol};
use inbox::{Inbox, Step};
use pulse::{Beat, Pulse, Rate};

pub use progress::Progress;
pub use tokio_tungstenite::tungstenite::protocol::Role;

/// Bytes of pongs and pings that may wait for a peer that does not read them. A pong has at
/// most 131 bytes, so this is some thirty of them.
const OWED: usize = 4 * 1024;

/// Reads in one turn, so that a peer who talks without pause cannot keep us from writing.
const READS: usize = 8;

/// How long a client may take over one message; what clients say is ignored,
/// so nobody has a reason to take long.
const UNFINISHED: Duration = Duration::from_secs(10);

/// How one socket behaves. Start from [`Options::server`], [`Options::client`] or their link
/// variants and change what differs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which end this is: a server reads masked frames and writes unmasked ones.
    pub role: Role,
    /// The largest message taken from the peer, in bytes of payload; a larger one ends the
    /// socket with 1009 before memory is set aside for it.
    pub max_message: usize,
    /// Client role: how large the inbound buffer, and so a run of frames, may become, in bytes.
    /// It starts with 8 KiB and doubles while reads fill it; only a single frame larger than
    /// this (and at most `max_message`) makes it larger.
    pub read_buffer: usize,
    /// Whether text messages are handed out by [`Socket::next`]; otherwise they are discarded,
    /// in the server role without looking at their UTF-8, as the Go Traffic Controller does.
    pub text: bool,
    /// How the peer's death is noticed; `None`: not at all.
    pub keep_alive: Option<KeepAlive>,
    /// How long the peer may take no whole frame while one waits, before it ends as
    /// [`Ended::Stalled`]: a byte now and then does not count. Over TLS the last 64 KiB count as
    /// one frame, and as waiting until they are out.
    pub stall: Duration,
    /// Server role: how many pings and pongs per second the peer may send, with bursts of twice
    /// as many; more end the socket with 1008. 0: any number.
    pub controls_per_second: u32,
    /// How long [`Socket::close`] may take in all.
    pub linger: Duration,
}

/// When a quiet peer is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Server role: the time from a pong to the next ping; the first ping goes out at once.
    /// The client role sends no pings and ignores this.
    pub interval: Duration,
    /// Server role: the longest time from a ping to a pong. Client role: the longest time in
    /// which nothing at all is received.
    pub timeout: Duration,
}

impl Options {
    /// A server whose peer is somebody's client: it is sent frames and should say nothing.
    ///
    /// 4 KiB messages, 10 control frames a second, ping at once and 15 s after each pong, 30 s
    /// to answer it (Go Traffic Controller, `websocket_server.go`), 30 s to accept a frame.
    pub fn server() -> Options {
        Options {
            role: Role::Server,
            max_message: 4 * 1024,
            read_buffer: 0,
            text: false,
            keep_alive: Some(KeepAlive {
                interval: Duration::from_secs(15),
                timeout: Duration::from_secs(30),
            }),
            stall: Duration::from_secs(30),
            controls_per_second: 10,
            linger: Duration::from_secs(1),
        }
    }

    /// A client that reads envelopes: messages up to 16 MiB, a buffer up to 64 KiB; silent
    /// after 60 s, which is two pings and an answer of the server above.
    pub fn client() -> Options {
        Options {
            role: Role::Client,
            max_message: 16 * 1024 * 1024,
            read_buffer: 64 * 1024,
            text: false,
            keep_alive: Some(KeepAlive {
                interval: Duration::from_secs(15),
                timeout: Duration::from_secs(60),
            }),
            controls_per_second: 0,
            ..Options::server()
        }
    }

    /// The Doppler's end of a link: a server that also takes texts, up to 64 KiB each.
    pub fn link_server() -> Options {
        Options {
            max_message: 64 * 1024,
            text: true,
            ..Options::server()
        }
    }

    /// The Traffic Controller's end of a link: a client that also takes texts.
    pub fn link_client() -> Options {
        Options {
            text: true,
            ..Options::client()
        }
    }
}

/// What the peer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Whole unmasked final binary frames, back to back; see [`frame::payloads`].
    Frames {
        /// The frames with their headers: a slice of the read buffer, which lives as long as it.
        run: Bytes,
        /// How many frames there are, at least one.
        count: usize,
    },
    /// A text message.
    Text(String),
}

impl Incoming {
    /// The bytes it holds on to, more or less: empty texts take room too.
    fn weight(&self) -> usize {
        match self {
            Incoming::Frames { run, .. } => run.len(),
            Incoming::Text(text) => text.len() + 64,
        }
    }
}

/// Why a socket is over. [`Ended::answer`] is what to tell the peer.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The peer sent Close.
    #[error("the peer closed the connection ({})", Code(*code, reason))]
    Peer {
        /// Its code; `None` if it gave none.
        code: Option<u16>,
        /// Its words, for people; empty if it gave none.
        reason: String,
    },
    /// The stream ended without Close.
    #[error("the peer hung up without a Close")]
    Eof,
    /// No pong, or in the client role nothing at all, within [`KeepAlive::timeout`].
    #[error("the peer fell silent")]
    Silent,
    /// The stream accepted no whole frame for [`Options::stall`].
    #[error("the peer stopped reading")]
    Stalled,
    /// The peer broke the protocol or one of our limits.
    #[error("the peer broke the protocol: {reason} ({code})")]
    Protocol {
        /// The close code for it: 1002, 1007, 1008 or 1009.
        code: u16,
        /// What it did.
        reason: Cow<'static, str>,
    },
    /// The stream failed.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
}

impl Ended {
    /// What to tell the peer; `None` when there is nobody to tell.
    pub fn answer(&self) -> Option<Close> {
        match self {
            Ended::Peer { code, .. } => Some(Close {
                code: *code,
                reason: Cow::Borrowed(""),
            }),
            Ended::Eof | Ended::Stalled => Some(Close::NORMAL),
            Ended::Silent => Some(Close::SILENT),
            Ended::Protocol { code, reason } => Some(Close {
                code: Some(*code),
                reason: reason.clone(),
            }),
            Ended::Broken(_) => None,
        }
    }

    /// What the peer did wrong, as a word for a counter; `None` if it did nothing wrong.
    pub fn fault(&self) -> Option<&'static str> {
        match self {
            Ended::Protocol { code: 1007, .. } => Some("not_utf8"),
            Ended::Protocol { code: 1008, .. } => Some("over_a_limit"),
            Ended::Protocol { code: 1009, .. } => Some("too_big"),
            Ended::Protocol { .. } => Some("protocol"),
            _ => None,
        }
    }

    /// The same end once more, for whoever asks again.
    fn again(&self) -> Ended {
        match self {
            Ended::Peer { code, reason } => Ended::Peer {
                code: *code,
                reason: reason.clone(),
            },
            Ended::Eof => Ended::Eof,
            Ended::Silent => Ended::Silent,
            Ended::Stalled => Ended::Stalled,
            Ended::Protocol { code, reason } => Ended::Protocol {
                code: *code,
                reason: reason.clone(),
            },
            Ended::Broken(error) => Ended::Broken(io::Error::new(error.kind(), error.to_string())),
        }
    }

    fn broken(error: io::Error) -> Ended {
        match error.kind() {
            // rustls' word for a peer that hung up without close_notify.
            io::ErrorKind::UnexpectedEof => Ended::Eof,
            _ => Ended::Broken(error),
        }
    }
}

/// For messages: a code, or that there is none, and the words that came with it.
struct Code<'a>(Option<u16>, &'a str);

impl std::fmt::Display for Code<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(code) if self.1.is_empty() => code.fmt(f),
            // Escaped: what the peer says may be meant for a terminal.
            Some(code) => write!(f, "{code}, {:?}", self.1),
            None => f.write_str("no code"),
        }
    }
}

/// What a Close frame says (RFC 6455 §5.5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// The code (RFC 6455 §7.4); `None` sends an empty Close, which has no reason either.
    pub code: Option<u16>,
    /// Words for whoever reads the other end's log; at most 123 bytes are sent.
    pub reason: Cow<'static, str>,
}

impl Close {
    /// 1000: all is said. Nozzles read it as "too slow, scale out".
    pub const NORMAL: Close = Close::code(1000);
    /// 1001: this process goes away; come back elsewhere.
    pub const GOING_AWAY: Close = Close::code(1001);
    /// 1008: against our rules; better with a reason, see [`Close::because`].
    pub const POLICY: Close = Close::code(1008);
    /// 1011: something failed on our side.
    pub const ERROR: Close = Close::code(1011);
    /// 1008 in the words of the Go Traffic Controller (`keepalive.go`), which clients match.
    pub const SILENT: Close = Close {
        code: Some(1008),
        reason: Cow::Borrowed("Client did not respond to ping before keep-alive timeout expired."),
    };

    /// A code without words.
    pub const fn code(code: u16) -> Close {
        Close {
            code: Some(code),
            reason: Cow::Borrowed(""),
        }
    }

    /// The same code with these words.
    pub fn because(self, reason: impl Into<Cow<'static, str>>) -> Close {
        Close {
            reason: reason.into(),
            ..self
        }
    }
}

/// One end of a WebSocket after the handshake ([`upgrade`]).
///
/// Its methods are driven by one task; every one of them also reads, answers pings and watches
/// the clock, so some method should always be waiting. Once one has returned [`Ended`], all do
/// (after [`Socket::next`] has handed out what came before), and [`Socket::answer`] or
/// [`Socket::close`] is left to do.
#[derive(Debug)]
pub struct Socket<S> {
    stream: S,
    options: Options,
    inbox: Inbox,
    engine: Engine,
    /// Heard and not yet handed out.
    heard: VecDeque<Incoming>,
    /// What `heard` weighs in all.
    heard_weight: usize,
    /// The unwritten rest of a frame whose `send` was given up.
    rest: Bytes,
    taken: usize,
    /// Written but not flushed.
    unflushed: bool,
    progress: Progress,
    /// Since when a message of the peer is incomplete; only kept in the server role.
    unfinished: Option<Instant>,
    pulse: Pulse,
    controls: Rate,
    alarm: Option<Pin<Box<Sleep>>>,
    ended: Option<Ended>,
}

impl<S> Socket<S> {
    /// The bytes of the last [`Socket::send`] that the stream accepted, also after that `send`
    /// failed or was dropped. [`frame::boundary`] of it splits the run: the frames before are
    /// this peer's (the last of them perhaps in part), those behind never left.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Since when the peer takes nothing, to be asked while a `send` is under way.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Remembers the rest of the frame that was being written when a `send` ended.
    fn keep_rest(&mut self, run: &[u8]) {
        if self.taken < run.len() {
            let end = frame::boundary(run, self.taken);
            match run.get(self.taken..end) {
                // Not begun; an earlier rest, if there is one, still goes first.
                None | Some([]) => {}
                Some(rest) => self.rest = Bytes::copy_from_slice(rest),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// A socket on `stream`, of which the handshake has `already_read` some bytes too many.
    ///
    /// In the server role with keep-alive the clock starts now, and a ping is the first thing
    /// that is written.
    pub fn new(stream: S, already_read: Bytes, options: Options) -> Socket<S> {
        let now = Instant::now();
        let mut engine = Engine::new(&options);
        let pulse = match (options.role, options.keep_alive) {
            (_, None) => Pulse::None,
            (Role::Client, Some(keep_alive)) => Pulse::listening(keep_alive, now),
            (Role::Server, Some(keep_alive)) => {
                engine.owe_ping();
                Pulse::asking(keep_alive, now)
            }
        };
        Socket {
            inbox: Inbox::new(already_read, &options),
            engine,
            heard: VecDeque::new(),
            heard_weight: 0,
            rest: Bytes::new(),
            taken: 0,
            unflushed: false,
            progress: Progress::new(now),
            unfinished: None,
            pulse,
            controls: Rate::new(options.controls_per_second, now),
            alarm: None,
            ended: None,
            stream,
            options,
        }
    }

    /// Writes a run of whole unmasked frames and flushes it. For the server role: a client's
    /// frames have to be masked (RFC 6455 §5.1).
    ///
    /// Waits for as long as the peer accepts a frame every [`Options::stall`]. Ends early,
    /// perhaps inside a frame, when the peer leaves, falls silent or breaks the protocol.
    ///
    /// May be dropped: the frame that was started is finished before anything else is written,
    /// and [`Socket::taken`] tells how far it came. It does not resume by itself.
    pub async fn send(&mut self, run: &[u8]) -> Result<(), Ended> {
        debug_assert_eq!(
            self.options.role,
            Role::Server,
            "frames of a client are masked"
        );
        self.taken = 0;
        let sending = Sending { socket: self, run };
        poll_fn(|cx| sending.socket.poll_written(cx, run)).await
    }

    /// Puts a text message on its way: it goes out with whatever this socket does next, and
    /// nobody waits for it. What is said while the peer reads nothing is kept, so say no more
    /// than a `send` or `next` has made room for.
    pub fn say(&mut self, text: &str) {
        if self.ended.is_none() {
            self.engine.owe_text(text);
        }
    }

    /// Sends a text message and flushes it. If this is dropped, the text follows with whatever
    /// is written next.
    pub async fn send_text(&mut self, text: &str) -> Result<(), Ended> {
        self.say(text);
        poll_fn(|cx| self.poll_written(cx, &[])).await
    }

    /// The next thing the peer says. Cancel-safe.
    ///
    /// In the server role this is only ever a text, and only with [`Options::text`].
    pub async fn next(&mut self) -> Result<Incoming, Ended> {
        poll_fn(|cx| {
            loop {
                let turned = self.turn(cx, &[], Hear::Keep);
                if let Some(incoming) = self.heard.pop_front() {
                    self.heard_weight -= incoming.weight();
                    return Poll::Ready(Ok(incoming));
                }
                turned?;
                if self.sleeps(cx) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Waits until the peer leaves, falls silent or breaks the protocol, and discards whatever
    /// it says meanwhile, texts and frames too. Cancel-safe.
    pub async fn ended(&mut self) -> Ended {
        self.forget();
        poll_fn(|cx| {
            loop {
                if let Err(ended) = self.turn(cx, &[], Hear::Discard) {
                    return Poll::Ready(ended);
                }
                if self.sleeps(cx) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Closes as `ended` asks for: [`Ended::answer`], or without a word.
    pub async fn answer(self, ended: &Ended) {
        if let Some(close) = ended.answer() {
            self.close(close).await;
        }
    }

    /// Finishes the frame that was started, sends Close, waits for the peer's Close or end,
    /// shuts the stream down. Takes at most [`Options::linger`], whatever the peer does.
    pub async fn close(mut self, close: Close) {
        let deadline = Instant::now() + self.options.linger;
        self.forget();
        let goodbye = engine::close_frame(self.options.role, &close);
        let parting = async {
            poll_fn(|cx| self.write(cx, &[])).await?;
            self.stream.write_all(&goodbye).await?;
            self.stream.flush().await?;
            match self.ended {
                Some(Ended::Peer { .. } | Ended::Eof | Ended::Broken(_)) => Ok(()),
                // Where its frames begin is anybody's guess now.
                Some(Ended::Protocol { .. }) => self.read_out().await,
                Some(Ended::Silent | Ended::Stalled) | None => {
                    self.hear_out().await;
                    Ok(())
                }
            }
        };
        // Whether the peer got it is no longer ours to know.
        let _: Result<io::Result<()>, _> = timeout_at(deadline, parting).await;
        let _: Result<io::Result<()>, _> = timeout_at(deadline, self.stream.shutdown()).await;
    }

    /// Reads until the peer's Close or anything else that ends it.
    async fn hear_out(&mut self) {
        poll_fn(|cx| match self.hear(cx, Hear::Discard) {
            Ok(()) => Poll::Pending,
            Err(_) => Poll::Ready(()),
        })
        .await;
    }

    /// Reads until the stream ends.
    async fn read_out(&mut self) -> io::Result<()> {
        // Not in the future, which whoever might close carries with it.
        let mut nowhere = vec![0; 1024];
        while self.stream.read(&mut nowhere).await? > 0 {}
        Ok(())
    }

    /// Until `run` and everything owed is written and flushed.
    fn poll_written(&mut self, cx: &mut Context<'_>, run: &[u8]) -> Poll<Result<(), Ended>> {
        loop {
            if self.turn(cx, run, Hear::Keep)? {
                return Poll::Ready(Ok(()));
            }
            if self.sleeps(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Everything that can happen to a socket, once: the peer has said something, a moment has
    /// come, the stream accepts bytes. Tells whether all is written.
    fn turn(&mut self, cx: &mut Context<'_>, run: &[u8], hear: Hear) -> Result<bool, Ended> {
        if let Some(ended) = &self.ended {
            return Err(ended.again());
        }
        let turned = self
            .hear(cx, hear)
            .and_then(|()| self.tick(Instant::now()))
            .and_then(|()| match self.write(cx, run) {
                Poll::Pending => Ok(false),
                Poll::Ready(Ok(())) => Ok(true),
                Poll::Ready(Err(error)) => Err(match self.hear(cx, hear) {
                    // A peer that closes and hangs up resets us: it is the Close that matters.
                    Err(ended @ Ended::Peer { .. }) => ended,
                    _ => Ended::Broken(error),
                }),
            });
        if let Err(ended) = &turned {
            tracing::debug!(%ended, "WebSocket ended");
            self.ended = Some(ended.again());
        }
        turned
    }

    /// Takes in what the peer said, until there is no more or enough waits for `next`.
    fn hear(&mut self, cx: &mut Context<'_>, hear: Hear) -> Result<(), Ended> {
        for _ in 0..READS {
            self.digest(hear)?;
            if self.is_full() {
                self.pulse.held(Instant::now());
                return Ok(());
            }
            match self.inbox.poll_read(&mut self.stream, cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(Ended::Eof),
                Poll::Ready(Ok(_)) => self.pulse.heard(Instant::now()),
                Poll::Ready(Err(error)) => return Err(Ended::broken(error)),
            }
        }
        self.digest(hear)?;
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Drops what nobody will take.
    fn forget(&mut self) {
        self.heard.clear();
        self.heard_weight = 0;
    }

    /// Whether so much is heard that the peer has to wait until `next` takes it. A client hands
    /// out one run at a time, as it lies in the buffer; a server keeps texts of one message's
    /// size, so that it can go on and read the pongs and the Close behind them.
    fn is_full(&self) -> bool {
        match self.options.role {
            Role::Client => !self.heard.is_empty(),
            Role::Server => self.heard_weight >= self.options.max_message,
        }
    }

    /// Takes apart what lies in the inbox.
    fn digest(&mut self, hear: Hear) -> Result<(), Ended> {
        while !self.is_full() {
            match self.inbox.step()? {
                Step::More => break,
                Step::Run { run, count } => self.keep(Incoming::Frames { run, count }, hear),
                Step::Frame(frame) => match self.engine.take(frame)? {
                    Heard::Part => {}
                    Heard::Text(text) if self.options.text => {
                        self.keep(Incoming::Text(text), hear);
                    }
                    Heard::Text(_) => {}
                    Heard::Binary(run) if self.options.role == Role::Client => {
                        self.keep(Incoming::Frames { run, count: 1 }, hear);
                    }
                    Heard::Binary(_) => {}
                    Heard::Ping => self.count_control()?,
                    Heard::Pong => {
                        self.pulse.pong(Instant::now());
                        self.count_control()?;
                    }
                    Heard::Close(code, reason) => return Err(Ended::Peer { code, reason }),
                },
            }
            if !self.inbox.message_open() {
                self.unfinished = None;
            }
        }
        if self.options.role == Role::Server && self.inbox.is_partial() {
            self.unfinished.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    fn keep(&mut self, incoming: Incoming, hear: Hear) {
        if hear == Hear::Keep {
            self.heard_weight += incoming.weight();
            self.heard.push_back(incoming);
        }
    }

    /// Counts a ping or pong against what the peer may send.
    fn count_control(&mut self) -> Result<(), Ended> {
        if !self.controls.admits(Instant::now()) {
            return Err(protocol(1008, "too many control frames"));
        }
        if self.engine.controls_owed() > OWED {
            return Err(protocol(1008, "pings without reading the pongs"));
        }
        Ok(())
    }

    /// Does what is due.
    fn tick(&mut self, now: Instant) -> Result<(), Ended> {
        let over = |since: Option<Instant>, limit| since.is_some_and(|since| now >= since + limit);
        if over(self.progress.waiting_since(), self.options.stall) {
            return Err(Ended::Stalled);
        }
        if over(self.unfinished, UNFINISHED) {
            return Err(protocol(1008, "message not finished within 10 seconds"));
        }
        match self.pulse.beat(now) {
            Beat::Nothing => {}
            Beat::Ping => self.engine.owe_ping(),
            Beat::Silent => return Err(Ended::Silent),
        }
        Ok(())
    }

    /// The next moment at which `tick` has something to do.
    fn due(&self) -> Option<Instant> {
        [
            self.progress
                .waiting_since()
                .map(|since| since + self.options.stall),
            self.unfinished.map(|since| since + UNFINISHED),
            self.pulse.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Sets the alarm; `false` if it has gone off already.
    fn sleeps(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(due) = self.due() else {
            return true;
        };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
        // An alarm that goes off too early is cheaper than one set for every send.
        if alarm.deadline() > due {
            alarm.as_mut().reset(due);
        }
        while alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return false;
            }
            alarm.as_mut().reset(due);
        }
        true
    }

    /// Writes the rest of a frame given up, then `run`, what is owed at the first frame
    /// boundary, and flushes.
    fn write(&mut self, cx: &mut Context<'_>, run: &[u8]) -> Poll<io::Result<()>> {
        let done = self.write_all(cx, run);
        match done.is_pending() {
            true => self.progress.waits(),
            false => self.progress.took(),
        }
        done
    }

    fn write_all(&mut self, cx: &mut Context<'_>, run: &[u8]) -> Poll<io::Result<()>> {
        loop {
            let stream = Pin::new(&mut self.stream);
            let owed = self.engine.owed();
            let (kind, piece) = if !self.rest.is_empty() {
                (Piece::Rest, &self.rest[..])
            } else if owed.is_empty() {
                (Piece::Run, &run[self.taken.min(run.len())..])
            } else {
                let boundary = frame::boundary(run, self.taken);
                match run.get(self.taken..boundary) {
                    Some(frame) if !frame.is_empty() => (Piece::Run, frame),
                    _ => (Piece::Owed, owed),
                }
            };
            if piece.is_empty() {
                break;
            }
            let written = match stream.poll_write(cx, piece) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => written,
            };
            self.unflushed = true;
            let whole = match kind {
                Piece::Rest => {
                    self.rest = self.rest.slice(written..);
                    self.rest.is_empty()
                }
                Piece::Run => {
                    let begun = self.taken;
                    self.taken += written;
                    // Frames are counted from the start of the run: only when it matters.
                    self.progress.waiting_since().is_some()
                        && frame::boundary(run, begun + 1) <= self.taken
                }
                Piece::Owed => {
                    self.engine.paid(written);
                    self.engine.owed().is_empty()
                }
            };
            if whole {
                self.progress.took();
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What to do with messages heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hear {
    Keep,
    Discard,
}

/// Where a piece to be written comes from.
enum Piece {
    Rest,
    Run,
    Owed,
}

/// A `send` under way: however it ends, the socket knows the rest of the frame it was in.
struct Sending<'a, S> {
    socket: &'a mut Socket<S>,
    run: &'a [u8],
}

impl<S> Drop for Sending<'_, S> {
    fn drop(&mut self) {
        self.socket.keep_rest(self.run);
    }
}
