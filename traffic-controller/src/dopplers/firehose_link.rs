//! One firehose client's links to all Dopplers: frames come in as the Dopplers wrote them and
//! go out the same, never decoded.
//!
//! Only one run is taken at a time: what the client does not take stays in the Dopplers' logs,
//! so that loss has one address. A link that ends is opened again, until the client or the
//! Doppler leaves; then it is read until its Doppler has said its last count. A Doppler that
//! joins is linked at once.

use super::gate::Turn;
use super::standing::Asking;
use super::{Doppler, Dopplers, Hop, Hops, LEAVE, Lag, OpenError};
use crate::metrics::Metrics;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use proto::link::{Downstream, Upstream, Written};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;
use transport::backoff::Backoff;
use transport::cause::chain;
use transport::listener::Stream;
use transport::websocket::{Ended, Incoming, Socket};

/// How often a Doppler is told how much of its stream reached the client, while that grows.
const TELL: Duration = Duration::from_millis(100);

/// Whole frames, back to back, of one Doppler.
#[derive(Debug)]
pub struct Run {
    /// The frames.
    pub frames: Bytes,
    /// How many.
    pub count: u64,
    /// Of which link.
    link: u64,
}

/// The links of one client to all Dopplers.
pub struct FirehoseLinks {
    dopplers: Dopplers,
    changed: BoxFuture<'static, ()>,
    path: Arc<str>,
    links: Vec<FirehoseLink>,
    hops: Arc<Hops>,
    last: u64,
    /// Who is asked first: whoever comes after the one that had something last.
    next: usize,
    tell: Interval,
    leaving: bool,
}

struct FirehoseLink {
    number: u64,
    doppler: Arc<Doppler>,
    path: Arc<str>,
    hop: Arc<Hop>,
    asking: Asking,
    backoff: Backoff,
    state: State,
    leaving: bool,
    /// How long it is read after its Doppler left.
    overdue: Option<Pin<Box<Sleep>>>,
    /// Which life of the stream the Doppler counts; it says so in its first report.
    epoch: Option<u64>,
    /// What reached the client of this life, and how much of that the Doppler was told.
    written: u64,
    told: u64,
    /// How long the client has kept it waiting.
    waited: Duration,
}

enum State {
    Opening(Opening),
    Open(Box<Socket<Stream>>),
    /// Says goodbye and waits its turn to open again.
    Resting(BoxFuture<'static, ()>),
    Left,
}

/// A link that waits until it may dial, or dials.
struct Opening {
    task: AbortOnDropHandle<Result<Socket<Stream>, OpenError>>,
    /// Set by the first of the two: the task that dials, or the link that leaves before.
    dials: Arc<AtomicBool>,
}

impl FirehoseLinks {
    /// Links to `dopplers`, each with the path of the client's request, opened as they are
    /// first waited for; and what each will have counted.
    pub fn new(dopplers: &Dopplers, path: &str) -> (FirehoseLinks, Arc<Hops>) {
        let mut tell = tokio::time::interval(TELL);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let hops = Arc::new(Hops::default());
        let mut links = FirehoseLinks {
            dopplers: dopplers.clone(),
            changed: std::future::pending().boxed(),
            path: path.into(),
            links: Vec::new(),
            hops: hops.clone(),
            last: 0,
            next: 0,
            tell,
            leaving: false,
        };
        links.follow();
        (links, hops)
    }

    /// Links to the Dopplers that are there now, and no longer to those that are not.
    fn follow(&mut self) {
        let dopplers = self.dopplers.now();
        let mut later = self.dopplers.clone();
        self.changed = async move { later.changed().await }.boxed();
        for link in &mut self.links {
            if !dopplers.iter().any(|it| Arc::ptr_eq(it, &link.doppler)) {
                link.part();
            }
        }
        for doppler in dopplers.iter() {
            let mut known = self.links.iter();
            if self.leaving || known.any(|link| Arc::ptr_eq(doppler, &link.doppler)) {
                continue;
            }
            self.last += 1;
            let link = FirehoseLink::new(self.last, doppler.clone(), self.path.clone());
            self.hops.join(link.hop.clone());
            self.links.push(link);
        }
    }

    /// The next run of frames of any Doppler. `None` once all links are over, which they only
    /// are after [`FirehoseLinks::leave`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<Run> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Run>> {
        let news = self.links.iter().any(FirehoseLink::has_news);
        if news && self.tell.poll_tick(cx).is_ready() {
            self.links.iter_mut().for_each(FirehoseLink::tell_written);
        }
        while self.changed.poll_unpin(cx).is_ready() {
            self.follow();
        }
        let count = self.links.len();
        for n in 0..count {
            let link = (self.next + n) % count;
            if let Poll::Ready(Some((frames, count))) = self.links[link].poll_next(cx) {
                self.next = link + 1;
                return Poll::Ready(Some(Run {
                    frames,
                    count,
                    link: self.links[link].number,
                }));
            }
        }
        let hops = &self.hops;
        self.links.retain(|link| {
            let has_left = matches!(link.state, State::Left);
            if has_left {
                hops.leave(&link.hop);
            }
            !has_left
        });
        match self.leaving && self.links.is_empty() {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }

    /// The client has taken so many envelopes of that run, after we had `waited` for it.
    pub fn written(&mut self, run: &Run, envelopes: u64, waited: Duration) {
        for link in &mut self.links {
            // Meanwhile nothing was read of the others, either.
            link.waited += waited;
            if link.number == run.link {
                link.written += envelopes;
            }
        }
    }

    /// How far the client is behind, as the Dopplers answered since this was last asked; asks
    /// them again.
    pub fn lag(&mut self) -> Lag {
        let lags = self.links.iter().map(|link| link.asking.lag());
        lags.fold(Lag::default(), Lag::and)
    }

    /// Tells the Dopplers that the client goes. What they had begun to send still comes.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.links.iter_mut().for_each(FirehoseLink::leave);
    }

    /// Leaves, and reads what the Dopplers had sent already, `LEAVE` at most; returns how many
    /// envelopes that was, which are lost.
    pub async fn run_out(mut self) -> u64 {
        self.leave();
        let mut late = 0;
        let deadline = Instant::now() + LEAVE;
        while let Ok(Some(run)) = tokio::time::timeout_at(deadline, self.next()).await {
            late += run.count;
        }
        late
    }
}

impl FirehoseLink {
    fn new(number: u64, doppler: Arc<Doppler>, path: Arc<str>) -> FirehoseLink {
        let hop = Arc::new(Hop::new(&doppler.address));
        FirehoseLink {
            number,
            asking: doppler.standings.about(&path),
            state: opening(&doppler, &path),
            doppler,
            path,
            hop,
            backoff: Backoff::new(fastrand::Rng::new()),
            leaving: false,
            overdue: None,
            epoch: None,
            written: 0,
            told: 0,
            waited: Duration::ZERO,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Bytes, u64)>> {
        loop {
            match &mut self.state {
                State::Opening(opening) => match opening.task.poll_unpin(cx) {
                    Poll::Ready(Ok(Ok(socket))) => self.opened(socket),
                    Poll::Ready(Ok(Err(error))) if error.is_of_one() => {
                        debug!(doppler = &*self.doppler.address, error = %chain(&error), "refused");
                        self.state = self.resting(None);
                    }
                    // How long to wait is for all links to decide together.
                    Poll::Ready(_) => self.state = self.again(),
                    Poll::Pending => return self.pending(cx),
                },
                State::Open(socket) => {
                    let Poll::Ready(said) = pin!(socket.next()).poll(cx) else {
                        return self.pending(cx);
                    };
                    match said {
                        Ok(Incoming::Frames { run, count }) => {
                            self.backoff.reset();
                            self.hop.received(count as u64);
                            return Poll::Ready(Some((run, count as u64)));
                        }
                        Ok(Incoming::Text(text)) => self.note(&text),
                        Err(ended) => self.ended(ended),
                    }
                }
                State::Resting(resting) => {
                    ready!(resting.poll_unpin(cx));
                    self.state = self.again();
                }
                State::Left => return Poll::Ready(None),
            }
        }
    }

    fn again(&self) -> State {
        match self.leaving {
            true => State::Left,
            false => opening(&self.doppler, &self.path),
        }
    }

    fn opened(&mut self, mut socket: Socket<Stream>) {
        self.hop.opened();
        (self.epoch, self.written, self.told) = (None, 0, 0);
        self.waited = Duration::ZERO;
        if self.leaving {
            // It may have begun to send already: what is on its way is counted.
            socket.say(&Upstream::Leave {}.to_json());
        }
        self.state = State::Open(Box::new(socket));
    }

    fn ended(&mut self, ended: Ended) {
        Metrics::link_ended(&ended);
        debug!(doppler = &*self.doppler.address, %ended, "firehose link ended");
        self.hop.closed();
        self.epoch = None;
        if let State::Open(socket) = std::mem::replace(&mut self.state, State::Left) {
            self.state = self.resting(Some((*socket, ended)));
        }
    }

    /// A Doppler that accepts and hangs up is waited for like one that does not accept.
    fn resting(&mut self, goodbye: Option<(Socket<Stream>, Ended)>) -> State {
        let wait = match self.leaving {
            true => Duration::ZERO,
            false => self.backoff.next_wait(),
        };
        let goodbye = async {
            if let Some((socket, ended)) = goodbye {
                socket.answer(&ended).await;
            }
        };
        let resting = async move { tokio::join!(goodbye, tokio::time::sleep(wait)) };
        State::Resting(resting.map(drop).boxed())
    }

    fn leave(&mut self) {
        if std::mem::replace(&mut self.leaving, true) {
            return;
        }
        self.tell_written();
        match &mut self.state {
            State::Open(socket) => socket.say(&Upstream::Leave {}.to_json()),
            // Once it dials, the Doppler may begin to send: that is to be counted.
            State::Opening(opening) if opening.dials.swap(true, Ordering::AcqRel) => {}
            State::Opening(_) | State::Resting(_) => self.state = State::Left,
            State::Left => {}
        }
    }

    /// The Doppler has left the set.
    fn part(&mut self) {
        self.leave();
        if self.overdue.is_none() {
            self.overdue = Some(Box::pin(tokio::time::sleep(LEAVE)));
        }
    }

    /// Nothing comes: that is the end if there was time enough since the Doppler left. What had
    /// come is read first, however slow the client is.
    fn pending(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Bytes, u64)>> {
        if let Some(overdue) = &mut self.overdue {
            ready!(overdue.poll_unpin(cx));
            self.hop.closed();
            self.state = State::Left;
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    fn has_news(&self) -> bool {
        self.epoch.is_some() && self.told < self.written
    }

    fn tell_written(&mut self) {
        if let (State::Open(socket), Some(epoch)) = (&mut self.state, self.epoch)
            && self.told < self.written
        {
            self.told = self.written;
            let written = Written {
                epoch,
                written: self.written,
                waited_ms: u64::try_from(self.waited.as_millis()).ok(),
            };
            socket.say(&Upstream::Written(written).to_json());
        }
    }

    fn note(&mut self, text: &str) {
        match Downstream::parse(text) {
            Ok(Downstream::Report(report)) => {
                self.epoch = Some(report.epoch);
                self.hop.reported(report);
            }
            // A firehose link has no handles.
            Ok(Downstream::Ended(_) | Downstream::Standing(_) | Downstream::Unknown) => {}
            Err(bad) => {
                Metrics::link_faults("malformed", 1);
                debug!(doppler = &*self.doppler.address, %bad, "a Doppler said something else")
            }
        }
    }
}

/// Waits for leave to dial, and dials: in a task of its own, since others wait for their leave
/// behind it, whatever this link's client does meanwhile.
fn opening(doppler: &Arc<Doppler>, path: &Arc<str>) -> State {
    let (doppler, path) = (doppler.clone(), path.clone());
    let dials = Arc::new(AtomicBool::new(false));
    let begun = dials.clone();
    let task = tokio::spawn(async move {
        let pass = doppler.pass(Turn::Queued).await;
        if begun.swap(true, Ordering::AcqRel) {
            // The client left, and this task is about to end: nobody shall wait for it.
            drop(pass);
            return std::future::pending().await;
        }
        doppler.open(pass, &path).await
    });
    let task = AbortOnDropHandle::new(task);
    State::Opening(Opening { task, dials })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dopplers::fake::{Fake, frames, heard, report};
    use transport::websocket::Close;

    fn of(doppler: Arc<Doppler>) -> Dopplers {
        [doppler].into_iter().collect()
    }

    #[tokio::test]
    async fn a_doppler_is_told_how_much_of_its_stream_reached_the_client() {
        let (fake, doppler) = Fake::new().await;
        let (mut links, _) = FirehoseLinks::new(&of(doppler), "/firehose/n");
        let theirs = async {
            let mut link = fake.link().await;
            link.send(&frames(3, b"x")).await.unwrap();
            link.send_text(&report(3)).await.unwrap();
            heard(&mut link).await
        };
        let ours = async {
            while let Some(run) = links.next().await {
                links.written(&run, run.count, Duration::from_millis(5));
            }
        };
        let told = tokio::select! {
            told = theirs => told,
            () = ours => panic!("a link is opened again for as long as its client is there"),
        };
        let written = Written {
            epoch: 7,
            written: 3,
            waited_ms: Some(5),
        };
        assert_eq!(told, Upstream::Written(written));
    }

    #[tokio::test]
    async fn what_was_sent_on_a_link_that_opens_while_its_client_leaves_is_counted() {
        let (fake, doppler) = Fake::new().await;
        let (mut links, hops) = FirehoseLinks::new(&of(doppler), "/firehose/n");
        // The client leaves with the request on its way.
        assert!(links.next().now_or_never().is_none());
        let dials = || match &links.links[0].state {
            State::Opening(opening) => opening.dials.load(Ordering::Acquire),
            _ => panic!("it is not asked what became of it"),
        };
        while !dials() {
            tokio::task::yield_now().await;
        }
        let theirs = async {
            let mut link = fake.link().await;
            link.send(&frames(3, b"x")).await.unwrap();
            assert_eq!(heard(&mut link).await, Upstream::Leave {});
            link.send(&frames(2, b"x")).await.unwrap();
            link.send_text(&report(5)).await.unwrap();
            link.close(Close::NORMAL).await;
        };
        let (late, ()) = tokio::join!(links.run_out(), theirs);
        assert_eq!(late, 5);
        let sums = hops.close()[0].sums;
        assert_eq!((sums.sent, sums.received, sums.gap), (5, 5, 0));
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_keeps_nobody_from_a_doppler_that_comes_back() {
        let (fake, doppler) = Fake::new().await;
        let dopplers = of(doppler.clone());
        // It waits for its turn, and then its client is written to and takes nothing.
        let (mut stalled, _) = FirehoseLinks::new(&dopplers, "/firehose/stalled");
        assert!(stalled.next().now_or_never().is_none());
        let (mut links, _) = FirehoseLinks::new(&dopplers, "/firehose/n");
        doppler.gate.shut(doppler.pass(Turn::Queued).await);
        let theirs = async {
            let mut linked = Vec::new();
            for _ in 0..2 {
                let mut link = fake.link().await;
                link.send(&frames(1, b"x")).await.unwrap();
                linked.push(link);
            }
            linked
        };
        let (_linked, run) = tokio::join!(theirs, links.next());
        assert_eq!(run.unwrap().count, 1);
    }

    #[tokio::test]
    async fn a_link_that_ends_is_opened_again_and_the_gap_remembered() {
        let (fake, doppler) = Fake::new().await;
        let (mut links, hops) = FirehoseLinks::new(&of(doppler), "/firehose/n");
        let theirs = async {
            let mut link = fake.link().await;
            link.send(&frames(3, b"x")).await.unwrap();
            link.send_text(&report(4)).await.unwrap();
            link.close(Close::GOING_AWAY).await;
            let mut link = fake.link().await;
            link.send(&frames(2, b"x")).await.unwrap();
            link
        };
        let ours = async {
            let mut count = 0;
            while count < 5 {
                count += links.next().await.unwrap().count;
            }
        };
        let (_link, ()) = tokio::join!(theirs, ours);
        let sums = hops.close()[0].sums;
        assert_eq!((sums.received, sums.gap), (5, 1));
    }
}
