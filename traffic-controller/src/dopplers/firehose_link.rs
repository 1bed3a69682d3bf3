//! One firehose client's link to one Doppler: frames come in as the Doppler wrote them and go
//! out the same, never decoded.
//!
//! Only one run is taken at a time: what the client does not take stays in the Doppler's log,
//! so that loss has one address.

use super::{Doppler, Hop};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use proto::link::{Downstream, Upstream};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tracing::debug;
use transport::backoff::Backoff;
use transport::listener::Stream;
use transport::websocket::{Ended, Incoming, Socket};

/// How long a link is read on after its client has gone, for the Doppler's last count.
const LEAVE: Duration = Duration::from_secs(1);

/// Whole frames, back to back, and how many.
#[derive(Debug)]
pub struct Run {
    /// The frames.
    pub frames: Bytes,
    /// How many.
    pub count: u64,
}

/// The links of one client to all Dopplers.
pub struct FirehoseLinks {
    links: Vec<FirehoseLink>,
    /// Who is asked first: whoever comes after the one that had something last.
    next: usize,
}

struct FirehoseLink {
    doppler: Arc<Doppler>,
    path: Arc<str>,
    hop: Arc<Hop>,
    backoff: Backoff,
    state: State,
}

enum State {
    Opening(BoxFuture<'static, Socket<Stream>>),
    Open(Box<Socket<Stream>>),
}

impl FirehoseLinks {
    /// Links to `dopplers`, each with the path of the client's request, opened as they are
    /// first waited for; and what each will have counted.
    pub fn new(dopplers: &[Arc<Doppler>], path: &str) -> (FirehoseLinks, Vec<Arc<Hop>>) {
        let path: Arc<str> = path.into();
        let links: Vec<_> = dopplers
            .iter()
            .map(|doppler| FirehoseLink::new(doppler.clone(), path.clone()))
            .collect();
        let hops = links.iter().map(|link| link.hop.clone()).collect();
        (FirehoseLinks { links, next: 0 }, hops)
    }

    /// The next run of frames of any Doppler. Never ends; cancel-safe.
    pub async fn next(&mut self) -> Run {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Run> {
        let count = self.links.len();
        for n in 0..count {
            let n = (self.next + n) % count;
            if let Poll::Ready(run) = self.links[n].poll_next(cx) {
                self.next = n + 1;
                return Poll::Ready(run);
            }
        }
        Poll::Pending
    }

    /// Tells the Dopplers that the client has gone and reads what they had sent already;
    /// returns how many envelopes that was, which are lost.
    pub async fn leave(self) -> u64 {
        let leaving = self.links.into_iter().map(FirehoseLink::leave);
        futures::future::join_all(leaving).await.into_iter().sum()
    }
}

impl FirehoseLink {
    fn new(doppler: Arc<Doppler>, path: Arc<str>) -> FirehoseLink {
        let opening = open(
            doppler.clone(),
            path.clone(),
            Backoff::new(fastrand::Rng::new()),
        );
        FirehoseLink {
            doppler,
            path,
            hop: Arc::default(),
            backoff: Backoff::new(fastrand::Rng::new()),
            state: State::Opening(opening),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Run> {
        loop {
            match &mut self.state {
                State::Opening(opening) => {
                    let socket = ready!(opening.poll_unpin(cx));
                    self.hop.opened();
                    self.state = State::Open(Box::new(socket));
                }
                State::Open(socket) => {
                    let said = ready!(pin!(socket.next()).poll(cx));
                    match said {
                        Ok(Incoming::Frames { run, count }) => {
                            self.backoff.reset();
                            self.hop.received(count as u64);
                            return Poll::Ready(Run {
                                frames: run,
                                count: count as u64,
                            });
                        }
                        Ok(Incoming::Text(text)) => note(&self.hop, &text),
                        Err(ended) => self.reopen(&ended),
                    }
                }
            }
        }
    }

    fn reopen(&mut self, ended: &Ended) {
        debug!(doppler = self.doppler.address, %ended, "firehose link ended; opening it again");
        self.hop.closed();
        // A Doppler that accepts and hangs up is waited for like one that does not accept.
        let (doppler, path, mut backoff) = (
            self.doppler.clone(),
            self.path.clone(),
            self.backoff.clone(),
        );
        let wait = self.backoff.next_wait();
        backoff.next_wait();
        self.state = State::Opening(
            async move {
                tokio::time::sleep(wait).await;
                open(doppler, path, backoff).await
            }
            .boxed(),
        );
    }

    async fn leave(self) -> u64 {
        let State::Open(mut socket) = self.state else {
            return 0;
        };
        let mut late = 0;
        let goodbye = async {
            socket.send_text(&Upstream::Leave {}.to_json()).await?;
            loop {
                match socket.next().await? {
                    Incoming::Frames { count, .. } => {
                        late += count as u64;
                        self.hop.received(count as u64);
                    }
                    Incoming::Text(text) => note(&self.hop, &text),
                }
            }
        };
        let ended: Result<Result<(), Ended>, _> = tokio::time::timeout(LEAVE, goodbye).await;
        self.hop.closed();
        if let Ok(Err(ended)) = ended
            && let Some(close) = ended.answer()
        {
            socket.close(close).await;
        }
        late
    }
}

fn note(hop: &Hop, text: &str) {
    match Downstream::parse(text) {
        Ok(Downstream::Report(report)) => hop.reported(report.sent),
        Ok(_) => {}
        Err(bad) => debug!(%bad, "a Doppler said something else"),
    }
}

/// Opens a link, however long it takes.
fn open(
    doppler: Arc<Doppler>,
    path: Arc<str>,
    mut backoff: Backoff,
) -> BoxFuture<'static, Socket<Stream>> {
    async move {
        loop {
            match doppler.open(&path).await {
                Ok(socket) => return socket,
                Err(error) => {
                    doppler.report(Some(&error));
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
    }
    .boxed()
}
