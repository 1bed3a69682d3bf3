//! One subscription over as many connections as it takes.
//!
//! Settings and a path come in; what happens comes out, one [`Happening`] at a time: envelopes,
//! events, and at last an error that trying again would not change.

use std::sync::Arc;
use std::time::Duration;

use futures::future::Either;
use http::header::{AUTHORIZATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use transport::backoff::Backoff;
use transport::listener::{Dialer, Stream};
use transport::websocket::upgrade::{self, ConnectError};
use transport::websocket::{Close, Ended, Incoming, Options, Socket};

use crate::batch::Batch;
use crate::client::Settings;
use crate::error::Error;
use crate::event::{Event, Reason};
use crate::token::Token;

/// Waits after refusals double from this, 1 s, …
const REFUSED_BASE: Duration = Duration::from_secs(1);

/// … to this, 60 s: a server that says no is asked a sixtieth as often as one that is gone.
const REFUSED_CAP: Duration = Duration::from_secs(60);

/// The longest Retry-After that is believed: 10 min. A slip in some proxy must not cost a day
/// of logs.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(600);

pub(crate) enum Happening {
    Batch(Batch),
    Event(Event),
    /// We were asked to end, and did.
    Closed,
}

pub(crate) struct Reader {
    subscription: Subscription,
    socket: Option<Box<Socket<Stream>>>,
    close: oneshot::Receiver<()>,
}

/// What outlives a connection.
struct Subscription {
    settings: Arc<Settings>,
    /// What the first connection asks for, if not `path`.
    first: Option<String>,
    path: String,
    /// When the last connection was lost.
    lost: Option<Instant>,
    /// Until when the first connection must be made.
    give_up: Option<Instant>,
    next_try: Option<Instant>,
    /// After connections that failed or ended.
    failures: Backoff,
    /// After answers that were not a stream.
    refusals: Backoff,
}

impl Reader {
    /// Nothing is connected yet. `close` ends it; dropping the sender does not.
    pub(crate) fn new(
        settings: Arc<Settings>,
        first: Option<String>,
        path: String,
        close: oneshot::Receiver<()>,
    ) -> Reader {
        Reader {
            subscription: Subscription {
                settings,
                first,
                path,
                lost: None,
                give_up: None,
                next_try: None,
                failures: Backoff::new(fastrand::Rng::new()),
                refusals: Backoff::between(REFUSED_BASE, REFUSED_CAP, fastrand::Rng::new()),
            },
            socket: None,
            close,
        }
    }

    /// What happens next. After an error nothing does.
    pub(crate) async fn next(&mut self) -> Result<Happening, Error> {
        let token = self.subscription.settings.token.as_ref();
        if let Some(error) = token.and_then(Token::take_unsaved) {
            return Ok(Happening::Event(Event::LoginNotSaved { error }));
        }
        let step = match &mut self.socket {
            Some(socket) => Either::Left(self.subscription.read(socket)),
            None => Either::Right(self.subscription.connect()),
        };
        let stepped = tokio::select! {
            biased;
            Ok(()) = &mut self.close => None,
            stepped = step => Some(stepped),
        };
        match stepped {
            Some(Ok(Step::Connected(socket, gap))) => {
                self.socket = Some(socket);
                Ok(Happening::Event(Event::Connected { gap }))
            }
            Some(Ok(Step::Ended(reason, answer))) => {
                if let (Some(socket), Some(close)) = (self.socket.take(), answer) {
                    socket.close(close).await;
                }
                Ok(Happening::Event(Event::Disconnected { reason }))
            }
            Some(Ok(Step::Batch(batch))) => Ok(Happening::Batch(batch)),
            Some(Ok(Step::Retrying(error, wait))) => {
                Ok(Happening::Event(Event::Retrying { error, wait }))
            }
            Some(Err(error)) => Err(error),
            None => {
                if let Some(socket) = self.socket.take() {
                    socket.close(Close::NORMAL).await;
                }
                Ok(Happening::Closed)
            }
        }
    }
}

enum Step {
    Connected(Box<Socket<Stream>>, Option<Duration>),
    Retrying(Error, Duration),
    Batch(Batch),
    /// And what the server is told about it, if anything.
    Ended(Reason, Option<Close>),
}

impl Subscription {
    async fn read(&mut self, socket: &mut Socket<Stream>) -> Result<Step, Error> {
        loop {
            let incoming = socket.next();
            let incoming = match self.settings.idle_timeout {
                None => incoming.await,
                Some(idle) => match timeout(idle, incoming).await {
                    Ok(incoming) => incoming,
                    Err(_) => {
                        return Ok(self.ended(Reason::Idle(idle), Some(Close::NORMAL)));
                    }
                },
            };
            match incoming {
                Ok(Incoming::Frames { run, count }) => {
                    self.failures.reset();
                    return Ok(Step::Batch(Batch::new(run, count)));
                }
                // No Loggregator sends text to a client.
                Ok(Incoming::Text(_)) => {}
                Err(ended) => {
                    let answer = match ended {
                        Ended::Peer { .. } | Ended::Protocol { .. } => ended.answer(),
                        _ => None,
                    };
                    return Ok(self.ended(Reason::from(ended), answer));
                }
            }
        }
    }

    fn ended(&mut self, reason: Reason, answer: Option<Close>) -> Step {
        let now = Instant::now();
        self.lost = Some(now);
        self.next_try = Some(now + self.failures.next_wait());
        Step::Ended(reason, answer)
    }

    async fn connect(&mut self) -> Result<Step, Error> {
        if let Some(at) = self.next_try.take() {
            sleep_until(at).await;
        }
        let now = Instant::now();
        let mut deadline = now + self.settings.connect_deadline;
        if let (None, Some(within)) = (self.lost, self.settings.first_connect_within) {
            let give_up = *self.give_up.get_or_insert(now + within);
            if !within.is_zero() {
                deadline = deadline.min(give_up);
            }
        }
        let path = self.first.as_ref().unwrap_or(&self.path);
        let error = match dial(&self.settings, path, deadline).await {
            Ok(socket) => {
                self.first = None;
                self.refusals.reset();
                return Ok(Step::Connected(
                    Box::new(socket),
                    self.lost.map(|at| at.elapsed()),
                ));
            }
            Err(error) => error,
        };
        // A token file may be missing for a moment while somebody replaces it.
        let replaced = self.lost.is_some()
            && matches!(&error, Error::Token { source } if source.is_about_a_file());
        if !error.may_pass() && !replaced {
            return Err(error);
        }
        let wait = match error {
            Error::Refused {
                retry_after: Some(after),
                ..
            } => after.min(RETRY_AFTER_CAP) + self.failures.next_wait(),
            Error::Refused { .. } => self.refusals.next_wait(),
            _ => self.failures.next_wait(),
        };
        let next_try = Instant::now() + wait;
        if self.lost.is_none() && self.give_up.is_some_and(|at| next_try > at) {
            return Err(error);
        }
        self.next_try = Some(next_try);
        Ok(Step::Retrying(error, wait))
    }
}

/// Makes one attempt; and another one at once if the token was refused and there is a newer.
async fn dial(settings: &Settings, path: &str, deadline: Instant) -> Result<Socket<Stream>, Error> {
    let Some(token) = &settings.token else {
        return ask(settings, path, None, deadline).await;
    };
    let show = || async {
        let shown = token.authorization().await;
        shown.map_err(|source| Error::Token { source })
    };
    let shown = show().await?;
    let error = match ask(settings, path, Some(shown.clone()), deadline).await {
        Ok(socket) => return Ok(socket),
        Err(error) => error,
    };
    // 403 is about a scope, and a new token has the same ones.
    let too_old =
        matches!(error, Error::Unauthorized { status, .. } if status == StatusCode::UNAUTHORIZED);
    if !too_old || !token.refused(&shown).await {
        return Err(error);
    }
    ask(settings, path, Some(show().await?), deadline).await
}

async fn ask(
    settings: &Settings,
    path: &str,
    authorization: Option<HeaderValue>,
    deadline: Instant,
) -> Result<Socket<Stream>, Error> {
    let url = format!("{}{path}", settings.endpoint);
    let mut request = Request::get(&url).header(USER_AGENT, &settings.user_agent);
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    let unreachable = |source: Box<dyn std::error::Error + Send + Sync>| Error::Unreachable {
        url: url.clone(),
        source,
    };
    let request = request
        .body(())
        .map_err(|error| unreachable(error.into()))?;
    let dialer = Dialer::new(
        (settings.tls.clone()).map(|(config, name)| (config.into(), name)),
        deadline.duration_since(Instant::now()),
    );
    let stream = dialer.dial(&settings.endpoint.authority()).await;
    let stream = stream.map_err(|error| unreachable(error.into()))?;
    match upgrade::connect(stream, request, deadline).await {
        Ok((stream, already_read, _)) => Ok(Socket::new(stream, already_read, Options::client())),
        Err(ConnectError::Refused {
            status,
            headers,
            body,
        }) => Err(Error::refused(url, status, &body, retry_after(&headers))),
        Err(error) => Err(unreachable(error.into())),
    }
}

/// In seconds; a date is as good as nothing, since the clocks may differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}
