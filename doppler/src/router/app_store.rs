//! What waits for app tails: for each link a queue per tailed app, one byte cap over all.
//!
//! In come envelopes with their app id; out come runs of link frames (a handle and an
//! envelope, `proto::link`) that one Traffic Controller's socket can take. A changing set of
//! apps must not be charged with other apps' envelopes, hence queues and not a log.
//!
//! Apps take turns by deficit round-robin, so a loud app does not hold up a quiet one. Over
//! the cap the fattest queue loses its oldest envelope, is charged with it, and its tails are
//! told before their next envelope.
//!
//! What is kept of an app (`super::recent`) goes out by the same queues: [`Link::answer`].

use super::batch::Batch;
use super::recent::Recents;
use super::{Accounts, Subscription};
use proto::link::{HANDLE_BYTES, Recent};
use proto::transcode::View;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, Waker};
use transport::frame;
use transport::ledger::{Account, Dropped, Reason};
use transport::losses::EndedSums;

/// How many bytes an app may send when its turn comes; deficits carry over to the next turn.
const QUANTUM: usize = 4 << 10;

/// What a link takes at a time: four TLS records.
const TAKE: usize = 64 << 10;

/// Apps that one link may tail: what one Traffic Controller is built to serve.
const MAX_QUEUES: usize = 20_000;

/// Snapshots that may wait for a link beside its streams: twice what a Traffic Controller asks
/// for at a time.
const MAX_ANSWERS: usize = 64;

/// Snapshots that may wait in one app's stream.
const MAX_ANSWERS_IN_A_STREAM: usize = 4;

/// Apps whose queues ended between two looks at what was lost and that keep their names.
const ENDED: usize = 1_024;

/// What a waiting envelope costs beside its bytes: its place in the queue.
const PLACE: usize = size_of::<Box<[u8]>>();

/// Every link's queues.
pub struct AppStore {
    state: Mutex<State>,
    /// The apps that are tailed, to be asked without disturbing the queues.
    tailed: RwLock<Places>,
    any: AtomicBool,
}

struct State {
    cap: usize,
    bytes: usize,
    links: BTreeMap<u64, Queues>,
    opened: u64,
    gone: Gone,
    closed: bool,
}

/// Queues that ended.
struct Gone {
    sum: Account,
    /// What those of them lost that ended since somebody asked, by app.
    lost: EndedSums<Arc<str>, Dropped>,
}

/// Where an app's envelopes go: a link's queue with this handle.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    link: u64,
    handle: u32,
}

/// One link's queues by handle, and the order in which they send.
struct Queues {
    peer: Arc<str>,
    queues: HashMap<u32, Queue>,
    /// The apps they are for.
    apps: HashSet<Arc<str>>,
    /// Handles of queues that hold something, next to send first.
    turns: VecDeque<u32>,
    /// What the link has taken and not settled: handle and envelopes.
    hand: Vec<(u32, u64)>,
    ended: VecDeque<(u32, Account)>,
    /// How many queues hold a snapshot and nothing else, ever.
    answers: usize,
    /// Those among them that may be over.
    done: Vec<u32>,
    waker: Option<Waker>,
}

struct Queue {
    app: Arc<str>,
    frames: VecDeque<Box<[u8]>>,
    bytes: usize,
    deficit: usize,
    held: u64,
    untold: u64,
    lost: u64,
    offered: u64,
    notices: u64,
    sent: u64,
    dropped: Dropped,
    /// It holds a snapshot and is over when that has been sent.
    once: bool,
    /// Markers that wait in it: one for each snapshot.
    markers: usize,
    /// Whether it is among those whose turn will come.
    in_turns: bool,
}

impl AppStore {
    /// A store that holds at most `cap` bytes of waiting envelopes.
    pub fn new(cap: usize) -> Arc<AppStore> {
        Arc::new(AppStore {
            state: Mutex::new(State {
                cap,
                bytes: 0,
                links: BTreeMap::new(),
                opened: 0,
                gone: Gone {
                    sum: Account::default(),
                    lost: EndedSums::new(ENDED),
                },
                closed: false,
            }),
            tailed: RwLock::default(),
            any: AtomicBool::new(false),
        })
    }

    /// Opens the queues of one link.
    pub fn link(self: &Arc<AppStore>, peer: &str) -> Link {
        let mut state = self.lock();
        state.opened += 1;
        let id = state.opened;
        state.links.insert(id, Queues::new(peer.into()));
        drop(state);
        Link {
            store: self.clone(),
            id,
        }
    }

    /// Which apps anybody tails. `gate`: take the lock even if none is, so that
    /// [`Link::answer`] waits for whoever holds this.
    pub fn tailed(&self, gate: bool) -> Tailed<'_> {
        let any = gate || self.any.load(Ordering::Acquire);
        Tailed(any.then(|| self.tailed.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Puts each envelope of a tailed app into the queues of its tails.
    pub fn offer(&self, batch: &Batch, tailed: &Tailed<'_>) {
        let Some(places) = &tailed.0 else {
            return;
        };
        if places.is_empty() {
            return;
        }
        let tailed = |(app, envelope)| places.get(app).map(|places| (places, envelope));
        let mut wanted = batch.envelopes().filter_map(tailed).peekable();
        if wanted.peek().is_none() {
            return;
        }
        let mut state = self.lock();
        for (places, envelope) in wanted {
            places
                .iter()
                .for_each(|place| state.offer(*place, envelope));
        }
        let wake = state.ready_links();
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Every account, all taken at one moment.
    pub fn accounts(&self) -> Accounts {
        self.lock().accounts()
    }

    /// The same, and of the same moment what queues lost that ended since this was asked last.
    pub fn audit(&self) -> (Accounts, EndedSums<Arc<str>, Dropped>) {
        let mut state = self.lock();
        (state.accounts(), state.gone.lost.take())
    }

    /// Ends the store: links drain what is there and then get `None`.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let wake: Vec<Waker> = state
            .links
            .values_mut()
            .filter_map(|l| l.waker.take())
            .collect();
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retail(&self, change: impl FnOnce(&mut Places)) {
        let mut tailed = self.tailed.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut tailed);
        self.any.store(!tailed.is_empty(), Ordering::Release);
    }
}

/// The apps that are tailed at the moment.
pub struct Tailed<'a>(Option<RwLockReadGuard<'a, Places>>);

/// Where each tailed app's envelopes go.
type Places = HashMap<Box<[u8]>, Vec<Place>>;

impl Tailed<'_> {
    /// Whether anybody tails the app this envelope may belong to.
    pub fn wants(&self, envelope: &View<'_>) -> bool {
        let Some(places) = &self.0 else {
            return false;
        };
        let source = envelope.source_id();
        places.contains_key(source)
            || places.contains_key(b"system".as_slice())
            // An HTTP event names its app by a UUID, which is written in lower case.
            || source.iter().any(u8::is_ascii_uppercase)
                && places.contains_key(source.to_ascii_lowercase().as_slice())
    }
}

/// The reader of one link's queues. Dropping it closes them.
pub struct Link {
    store: Arc<AppStore>,
    id: u64,
}

/// Why a link may not have a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has as many as one Traffic Controller needs.
    #[error("a link may tail 20,000 apps at a time")]
    TooMany,
    /// It has one for this app, or under this handle.
    #[error("the app is tailed already, or the handle in use")]
    Twice,
}

/// What a link is to write next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// Whole link frames, back to back. Settle them with [`Link::sent`].
    Frames(Vec<u8>),
    /// An unsubscribed app's last account.
    Ended(u32, Account),
}

impl Link {
    /// Starts a queue for `app`; its frames carry `handle`.
    ///
    /// # Errors
    /// [`Refused`] where the link must not have it: one queue per handle and per app.
    pub fn subscribe(&self, handle: u32, app: &str) -> Result<(), Refused> {
        let mut state = self.store.lock();
        let Some(link) = state.links.get_mut(&self.id) else {
            return Ok(());
        };
        if link.queues.len() >= MAX_QUEUES {
            return Err(Refused::TooMany);
        }
        if link.queues.contains_key(&handle) || !link.apps.insert(app.into()) {
            return Err(Refused::Twice);
        }
        link.queues.insert(handle, Queue::new(app.into()));
        drop(state);
        let place = Place {
            link: self.id,
            handle,
        };
        self.store
            .retail(|tailed| tailed.entry(app.as_bytes().into()).or_default().push(place));
        Ok(())
    }

    /// Ends the queue with that handle; what waits in it is lost as `no_member`.
    pub fn unsubscribe(&self, handle: u32) {
        let mut state = self.store.lock();
        let Some(app) = state.end(self.id, handle) else {
            return;
        };
        let wake = state
            .links
            .get_mut(&self.id)
            .and_then(|link| link.waker.take());
        drop(state);
        self.store.retail(|tailed| {
            forget(tailed, &app, |place| {
                place.link == self.id && place.handle == handle
            })
        });
        wake.into_iter().for_each(Waker::wake);
    }

    /// Puts what is kept of an app, and a marker behind it, into the queue it asks for; returns
    /// whether it did. Where it does not, the Traffic Controller hears nothing, and says so to
    /// its client.
    ///
    /// Into a stream of the app it goes between two envelopes of the router: what has been kept
    /// has been offered too, and the other way round.
    pub fn answer(&self, asked: &Recent, recents: &Recents, now_ns: i64) -> bool {
        let tailed = &self.store.tailed;
        let gate = asked.tail.is_some();
        let gate = gate.then(|| tailed.write().unwrap_or_else(PoisonError::into_inner));
        let place = self.store.lock().place_of_answer(self.id, asked);
        // Before anything is converted: doors wait for this.
        let Some(place) = place else {
            return false;
        };
        let kept = recents.snapshot(&asked.app, asked.logs as usize, asked.metrics, now_ns);
        let mut state = self.store.lock();
        for envelope in &kept {
            state.put(place, asked.handle, envelope);
        }
        state.put(place, asked.handle, &[]);
        state.make_room();
        let wake = state.ready_links();
        drop(state);
        drop(gate);
        wake.into_iter().for_each(Waker::wake);
        true
    }

    /// Waits for something to write; `now` (nanoseconds) stamps notices of loss. `None` once
    /// the store is closed and this link has nothing left. Cancel-safe.
    pub async fn take(&mut self, now: impl Fn() -> i64) -> Option<Taken> {
        poll_fn(|cx| self.poll_take(cx, &now)).await
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, now: impl Fn() -> i64) -> Poll<Option<Taken>> {
        let mut state = self.store.lock();
        let closed = state.closed;
        let Some(link) = state.links.get_mut(&self.id) else {
            return Poll::Ready(None);
        };
        if let Some((handle, account)) = link.ended.pop_front() {
            return Poll::Ready(Some(Taken::Ended(handle, account)));
        }
        let (frames, freed) = link.take(now);
        state.bytes -= freed;
        state.bury(self.id);
        if !frames.is_empty() {
            return Poll::Ready(Some(Taken::Frames(frames)));
        }
        if closed {
            return Poll::Ready(None);
        }
        if let Some(link) = state.links.get_mut(&self.id) {
            match link.ended.pop_front() {
                Some((handle, account)) => {
                    return Poll::Ready(Some(Taken::Ended(handle, account)));
                }
                None => link.waker = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }

    /// The socket has taken the last frames.
    pub fn sent(&mut self) {
        let mut state = self.store.lock();
        state.settle(self.id, None);
        state.bury(self.id);
    }

    /// Whether last accounts of unsubscribed apps wait to be told. Until they are, a link
    /// should not take further subscriptions: they would pile up.
    pub fn has_ended(&self) -> bool {
        let state = self.store.lock();
        let link = state.links.get(&self.id);
        link.is_some_and(|link| !link.ended.is_empty())
    }

    /// The sums of all this link's queues.
    pub fn account(&self) -> Account {
        let state = self.store.lock();
        let mut sum = Account::default();
        if let Some(link) = state.links.get(&self.id) {
            link.queues
                .values()
                .for_each(|queue| sum += queue.account());
        }
        sum
    }
}

impl Drop for Link {
    /// What was in hand may have left in part, so it is residue; what waited has no reader.
    fn drop(&mut self) {
        let mut state = self.store.lock();
        state.settle(self.id, Some(Reason::CloseResidue));
        let handles: Vec<u32> = match state.links.get(&self.id) {
            Some(link) => link.queues.keys().copied().collect(),
            None => Vec::new(),
        };
        let apps: Vec<_> = handles
            .iter()
            .filter_map(|handle| state.end(self.id, *handle))
            .collect();
        state.links.remove(&self.id);
        drop(state);
        self.store.retail(|tailed| {
            for app in apps {
                forget(tailed, &app, |place| place.link == self.id);
            }
        });
    }
}

fn forget(tailed: &mut Places, app: &str, gone: impl Fn(&Place) -> bool) {
    if let Some(places) = tailed.get_mut(app.as_bytes()) {
        places.retain(|place| !gone(place));
        if places.is_empty() {
            tailed.remove(app.as_bytes());
        }
    }
}

impl State {
    fn accounts(&self) -> Accounts {
        let of_link = |queues: &Queues| {
            let peer = queues.peer.clone();
            let entry = move |queue: &Queue| {
                let (peer, app) = (peer.clone(), queue.app.clone());
                (Subscription::App { peer, app }, queue.account())
            };
            queues.queues.values().map(entry).collect::<Vec<_>>()
        };
        Accounts {
            open: self.links.values().flat_map(of_link).collect(),
            gone: self.gone.sum,
        }
    }

    fn offer(&mut self, place: Place, envelope: &[u8]) {
        self.put(place, place.handle, envelope);
        self.make_room();
    }

    /// Puts an envelope behind `handle` into the queue of `place`.
    fn put(&mut self, place: Place, handle: u32, envelope: &[u8]) {
        let Some(link) = self.links.get_mut(&place.link) else {
            return;
        };
        let Some(queue) = link.queues.get_mut(&place.handle) else {
            return;
        };
        queue.offered += 1;
        if self.closed {
            return queue.lost(Reason::Drain, 1);
        }
        if !std::mem::replace(&mut queue.in_turns, true) {
            link.turns.push_back(place.handle);
        }
        self.bytes += queue.push(handle, envelope);
    }

    /// Where a snapshot goes: into the stream it belongs to, or a queue of its own. `None` where
    /// there is none, or there are too many.
    fn place_of_answer(&mut self, link: u64, asked: &Recent) -> Option<Place> {
        let queues = self.links.get_mut(&link)?;
        let handle = match asked.tail {
            Some(tail) => {
                let queue = queues.queues.get(&tail)?;
                let fits = *queue.app == *asked.app && queue.markers < MAX_ANSWERS_IN_A_STREAM;
                fits.then_some(tail)?
            }
            None if queues.answers == MAX_ANSWERS => return None,
            None => match queues.queues.entry(asked.handle) {
                Entry::Occupied(_) => return None,
                Entry::Vacant(free) => {
                    let mut queue = Queue::new(asked.app.as_str().into());
                    queue.once = true;
                    free.insert(queue);
                    queues.answers += 1;
                    asked.handle
                }
            },
        };
        Some(Place { link, handle })
    }

    /// Ends a link's queues that were for one snapshot, and have nothing left of it.
    fn bury(&mut self, link: u64) {
        let Some(queues) = self.links.get_mut(&link) else {
            return;
        };
        for handle in std::mem::take(&mut queues.done) {
            let is_over = |queue: &Queue| queue.once && queue.is_empty() && queue.held == 0;
            if queues.queues.get(&handle).is_some_and(is_over) {
                self.gone.add(queues.remove(handle));
            }
        }
    }

    /// Lets the fattest queue lose its oldest envelope until the cap holds.
    ///
    /// Finding the fattest walks all queues once, so this frees a 64th of the cap at a time.
    fn make_room(&mut self) {
        if self.bytes <= self.cap {
            return;
        }
        let goal = self.cap - self.cap / 64;
        let queues = self
            .links
            .values_mut()
            .flat_map(|link| link.queues.iter_mut());
        let mut queues: Vec<(u32, &mut Queue)> = queues
            .filter(|(_, queue)| queue.bytes > 0)
            .map(|(handle, queue)| (*handle, queue))
            .collect();
        let mut fattest: BinaryHeap<(usize, usize)> = queues
            .iter()
            .enumerate()
            .map(|(n, (_, queue))| (queue.bytes, n))
            .collect();
        while self.bytes > goal {
            let Some((_, n)) = fattest.pop() else {
                return;
            };
            let (handle, queue) = &mut queues[n];
            self.bytes -= queue.evict(*handle);
            if queue.bytes > 0 {
                fattest.push((queue.bytes, n));
            }
        }
    }

    fn ready_links(&mut self) -> Vec<Waker> {
        let ready = self
            .links
            .values_mut()
            .filter(|link| !link.turns.is_empty());
        ready.filter_map(|link| link.waker.take()).collect()
    }

    /// What a link held is with its socket, or lost.
    fn settle(&mut self, link: u64, lost: Option<Reason>) {
        let Some(queues) = self.links.get_mut(&link) else {
            return;
        };
        for (handle, envelopes) in std::mem::take(&mut queues.hand) {
            let Some(queue) = queues.queues.get_mut(&handle) else {
                continue;
            };
            queue.held -= envelopes;
            if queue.once {
                queues.done.push(handle);
            }
            match lost {
                None => queue.sent += envelopes,
                Some(reason) => queue.lost(reason, envelopes),
            }
        }
    }

    /// Ends a queue: what waits in it has no reader, and what the link holds of it may have
    /// left in part. Returns its app.
    fn end(&mut self, link: u64, handle: u32) -> Option<Arc<str>> {
        let queues = self.links.get_mut(&link)?;
        let queue = queues.queues.get_mut(&handle)?;
        let app = queue.app.clone();
        let held = std::mem::take(&mut queue.held);
        queue.lost(Reason::CloseResidue, held);
        self.bytes -= queue.empty(Reason::NoMember);
        queues.turns.retain(|turn| *turn != handle);
        self.gone.add(queues.remove(handle));
        Some(app)
    }
}

impl Queues {
    fn new(peer: Arc<str>) -> Queues {
        Queues {
            peer,
            queues: HashMap::new(),
            apps: HashSet::new(),
            turns: VecDeque::new(),
            hand: Vec::new(),
            ended: VecDeque::new(),
            answers: 0,
            done: Vec::new(),
            waker: None,
        }
    }

    /// Takes frames in turns; returns them and how many bytes of the store they free.
    fn take(&mut self, now: impl Fn() -> i64) -> (Vec<u8>, usize) {
        if self.turns.is_empty() {
            return (Vec::new(), 0);
        }
        let (mut out, mut freed) = (Vec::with_capacity(TAKE), 0);
        while out.len() < TAKE {
            let Some(handle) = self.turns.pop_front() else {
                break;
            };
            let Some(queue) = self.queues.get_mut(&handle) else {
                continue;
            };
            let before = queue.held;
            freed += queue.take_turn(handle, &mut out, &now);
            if queue.held > before {
                self.hand.push((handle, queue.held - before));
            }
            queue.in_turns = !queue.is_empty();
            if queue.in_turns {
                self.turns.push_back(handle);
            } else if queue.once {
                self.done.push(handle);
            }
        }
        (out, freed)
    }

    fn remove(&mut self, handle: u32) -> Option<(Arc<str>, Account)> {
        let queue = self.queues.remove(&handle)?;
        match queue.once {
            true => self.answers -= 1,
            false => drop(self.apps.remove(&queue.app)),
        }
        let account = queue.account();
        self.ended.push_back((handle, account));
        Some((queue.app, account))
    }
}

impl Gone {
    fn add(&mut self, ended: Option<(Arc<str>, Account)>) {
        let Some((app, account)) = ended else {
            return;
        };
        self.sum += account;
        if account.dropped.total() > 0 {
            self.lost.add(app, account.dropped);
        }
    }
}

impl Queue {
    fn new(app: Arc<str>) -> Queue {
        Queue {
            app,
            frames: VecDeque::new(),
            bytes: 0,
            deficit: 0,
            held: 0,
            untold: 0,
            lost: 0,
            offered: 0,
            notices: 0,
            sent: 0,
            dropped: Dropped::default(),
            once: false,
            markers: 0,
            in_turns: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Adds an envelope; returns what it costs the store.
    fn push(&mut self, handle: u32, envelope: &[u8]) -> usize {
        let payload = HANDLE_BYTES + envelope.len();
        let mut frame = Vec::with_capacity(frame::header_bytes(payload) + payload);
        frame::write_header(payload, &mut frame);
        frame.extend_from_slice(&handle.to_be_bytes());
        frame.extend_from_slice(envelope);
        // Filled to the byte: this copies nothing.
        let frame = frame.into_boxed_slice();
        let cost = cost(&frame);
        self.bytes += cost;
        self.markers += usize::from(is_marker(&frame));
        self.frames.push_back(frame);
        cost
    }

    /// Loses the oldest envelope of the queue with that handle; returns what that frees. One that
    /// stands here under another handle is of a snapshot: those who tail the app are not told of
    /// it, since they have not lost it.
    fn evict(&mut self, handle: u32) -> usize {
        let Some(frame) = self.frames.pop_front() else {
            return 0;
        };
        self.bytes -= cost(&frame);
        self.markers -= usize::from(is_marker(&frame));
        match frame::payload(&frame).starts_with(&handle.to_be_bytes()) {
            true => self.lost(Reason::AppOverflow, 1),
            false => self.dropped.add(Reason::AppOverflow, 1),
        }
        cost(&frame)
    }

    /// Loses everything; returns what that frees.
    fn empty(&mut self, reason: Reason) -> usize {
        self.lost(reason, self.frames.len() as u64);
        self.frames = VecDeque::new();
        self.markers = 0;
        std::mem::take(&mut self.bytes)
    }

    /// Sends what its turn allows, a notice of loss first; returns what that frees.
    fn take_turn(&mut self, handle: u32, out: &mut Vec<u8>, now: impl Fn() -> i64) -> usize {
        let mut freed = 0;
        self.deficit += QUANTUM;
        while let Some(frame) = self
            .frames
            .pop_front_if(|frame| frame.len() <= self.deficit)
        {
            if self.untold > 0 {
                self.tell(handle, out, now());
            }
            self.deficit -= frame.len();
            self.held += 1;
            freed += cost(&frame);
            self.markers -= usize::from(is_marker(&frame));
            out.extend_from_slice(&frame);
        }
        self.bytes -= freed;
        if self.frames.is_empty() {
            self.deficit = 0;
        }
        freed
    }

    fn tell(&mut self, handle: u32, out: &mut Vec<u8>, now: i64) {
        let mut payload = handle.to_be_bytes().to_vec();
        let delta = std::mem::take(&mut self.untold);
        proto::notice::app(&mut payload, delta, self.lost, now, self.app.as_bytes());
        frame::write_header(payload.len(), out);
        out.extend_from_slice(&payload);
        self.notices += 1;
        self.held += 1;
    }

    fn lost(&mut self, reason: Reason, envelopes: u64) {
        self.dropped.add(reason, envelopes);
        self.lost += envelopes;
        self.untold += envelopes;
    }

    fn account(&self) -> Account {
        Account {
            offered: self.offered,
            notices: self.notices,
            sent: self.sent,
            dropped: self.dropped,
            queued: self.frames.len() as u64 + self.held,
        }
    }
}

/// Whether a frame ends a snapshot: a handle, and nothing behind it.
fn is_marker(frame: &[u8]) -> bool {
    frame.len() == frame::header_bytes(HANDLE_BYTES) + HANDLE_BYTES
}

fn cost(frame: &[u8]) -> usize {
    frame.len() + PLACE
}

#[cfg(test)]
mod tests;
