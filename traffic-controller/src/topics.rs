//! The apps that are tailed here: for each a topic, a small log that all its tails read.
//!
//! Tails come and go on one side; on the other each Doppler's app link is told which handles
//! to ask for, and puts envelopes into their topics. A slow tail is charged with what its
//! topic had to let go, and costs the other tails nothing.
//!
//! App links are also asked what their Dopplers keep of an app (`crate::recent`), for itself or
//! for a tail to begin with.

use crate::recent::{AT_A_TIME, Asked, Gather, Gathered, OF_AN_APP};
use bytes::Bytes;
use proto::link::{Handle, MAX_HANDLES, Recent, Upstream};
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use transport::frame::Frames;
use transport::ledger::{Account, Dropped, Reason};
use transport::log::{Filter, Log, Member};
use transport::losses::EndedSums;

/// Topics that ended between two looks at what was lost and that keep their apps' names.
const ENDED: usize = 1_024;

/// All topics of this Traffic Controller.
pub struct Topics {
    state: Mutex<State>,
    /// Bytes all topics hold together.
    bytes: Arc<AtomicUsize>,
    cap: usize,
    app_cap: usize,
    /// How many requests for what is kept are under way, by app.
    requests: Mutex<HashMap<Box<str>, usize>>,
}

/// Leave to ask for what is kept of an app. Dropping it lets the next one ask.
pub struct Leave {
    topics: Arc<Topics>,
    app: Box<str>,
}

struct State {
    handles: HashMap<Arc<str>, Handle>,
    topics: HashMap<Handle, Topic>,
    last_handle: Handle,
    last_tail: u64,
    last_link: usize,
    links: Vec<Arc<Inbox>>,
    gone: Account,
    /// What tails lost whose topics ended since somebody asked, by app.
    ended: EndedSums<Arc<str>, Dropped>,
    closed: bool,
}

impl Default for State {
    fn default() -> State {
        State {
            handles: HashMap::new(),
            topics: HashMap::new(),
            last_handle: 0,
            last_tail: 0,
            links: Vec::new(),
            last_link: 0,
            gone: Account::default(),
            ended: EndedSums::new(ENDED),
            closed: false,
        }
    }
}

struct Topic {
    app: Arc<str>,
    feed: Arc<Feed>,
    tails: usize,
}

/// The way into a topic.
pub struct Feed {
    log: Arc<Log>,
    /// Requests of tails that have not begun. Whoever appends holds this, and so does a tail
    /// that begins: an envelope is before it or behind it.
    gathers: Mutex<Vec<Arc<Gather>>>,
}

/// What an app link has still to say to its Doppler. It collects only while the link is open.
pub struct Inbox {
    /// Which of the links it is of. No number comes again.
    pub number: usize,
    /// Whose link it is.
    doppler: Arc<str>,
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    open: bool,
    changes: Changes,
}

/// Topics that began or ended since the Doppler was last told. One that did both is not among
/// them.
#[derive(Default)]
pub struct Changes {
    /// Ask for these apps' envelopes and put them into their topics.
    pub began: BTreeMap<Handle, (Arc<str>, Arc<Feed>)>,
    /// Ask for these no more.
    pub ended: Vec<Handle>,
    /// Ask these questions, once.
    pub asked: Vec<(Recent, Asked)>,
}

/// All tails' accounts, of the same moment: a tail is in one place or the other.
pub struct Accounts {
    /// Those that are open, each with its app.
    pub open: Vec<(Arc<str>, Account)>,
    /// The sums of those that are gone.
    pub gone: Account,
}

/// What was lost by app, of one moment.
pub struct Lost {
    /// Of topics there are: by all tails they ever had.
    pub topics: Vec<(Arc<str>, Dropped)>,
    /// Of topics that ended since this was asked last.
    pub ended: EndedSums<Arc<str>, Dropped>,
}

impl Topics {
    /// No topics; they may hold `cap` bytes together and `app_cap` each.
    pub fn new(cap: usize, app_cap: usize) -> Arc<Topics> {
        Arc::new(Topics {
            state: Mutex::default(),
            bytes: Arc::new(AtomicUsize::new(0)),
            cap,
            app_cap,
            requests: Mutex::default(),
        })
    }

    /// A new tail of `app`.
    pub fn tail(self: &Arc<Topics>, app: &str) -> Tail {
        let mut state = self.lock();
        let (handle, feed) = self.enter(&mut state, app);
        let member = feed.log.join(&state.next_tail(), Filter::Everything);
        if state.closed {
            feed.log.close();
        }
        Tail {
            topics: self.clone(),
            handle,
            member: Some(member),
        }
    }

    /// A new tail of `app` that begins with the newest `logs` of what is kept.
    pub fn tail_with_recent(self: &Arc<Topics>, app: &str, logs: u32) -> Beginning {
        let mut state = self.lock();
        let (handle, feed) = self.enter(&mut state, app);
        let gather = Gather::new(state.parts());
        feed.lock().push(gather.clone());
        state.ask(&gather, |own| Recent {
            handle: own,
            app: app.to_owned(),
            logs,
            metrics: false,
            tail: Some(handle),
        });
        Beginning {
            topics: self.clone(),
            feed,
            gather,
            handle: Some(handle),
        }
    }

    /// Asks for the newest `logs` of what is kept of `app`, and its container metrics if
    /// `metrics`.
    pub async fn recent(&self, app: &str, logs: u32, metrics: bool) -> Gathered {
        let gather = {
            let mut state = self.lock();
            let gather = Gather::new(state.parts());
            state.ask(&gather, |own| Recent {
                handle: own,
                app: app.to_owned(),
                logs,
                metrics,
                tail: None,
            });
            gather
        };
        gather.gathered().await
    }

    /// Leave to ask for what is kept of `app`, for as long as it is held; none if too many ask, in
    /// all or about this app: who may read one app must not keep all others' readers waiting.
    pub fn may_ask(self: &Arc<Topics>, app: &str) -> Option<Leave> {
        let mut requests = self.requests();
        let of_app = requests.get(app).copied().unwrap_or_default();
        if requests.values().sum::<usize>() >= AT_A_TIME || of_app >= OF_AN_APP {
            return None;
        }
        requests.insert(app.into(), of_app + 1);
        Some(Leave {
            topics: self.clone(),
            app: app.into(),
        })
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<Box<str>, usize>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more tail of `app`.
    fn enter(&self, state: &mut State, app: &str) -> (Handle, Arc<Feed>) {
        let handle = match state.handles.get(app) {
            Some(handle) => *handle,
            None => self.begin(state, app.into()),
        };
        // Both maps are changed together, under this lock.
        let topic = state
            .topics
            .get_mut(&handle)
            .unwrap_or_else(|| unreachable!("a handle has its topic"));
        topic.tails += 1;
        (handle, topic.feed.clone())
    }

    fn begin(&self, state: &mut State, app: Arc<str>) -> Handle {
        let handle = state.next_handle();
        let feed = Arc::new(Feed {
            log: Log::sharing(self.app_cap, Reason::AppOverflow, self.bytes.clone()),
            gathers: Mutex::default(),
        });
        state.handles.insert(app.clone(), handle);
        let topic = Topic {
            app: app.clone(),
            feed: feed.clone(),
            tails: 0,
        };
        state.topics.insert(handle, topic);
        for link in &state.links {
            link.began(handle, &app, &feed);
        }
        handle
    }

    /// The inbox of an app link to that Doppler, closed as yet.
    pub fn link(&self, doppler: &Arc<str>) -> Arc<Inbox> {
        let mut state = self.lock();
        state.last_link += 1;
        let inbox = Arc::new(Inbox {
            number: state.last_link,
            doppler: doppler.clone(),
            waiting: Mutex::default(),
            changed: Notify::new(),
        });
        state.links.push(inbox.clone());
        inbox
    }

    /// The link's Doppler is leaving: it is told of nothing more.
    pub fn unlink(&self, inbox: &Arc<Inbox>) {
        self.lock().links.retain(|link| !Arc::ptr_eq(link, inbox));
    }

    /// Opens an inbox for a link that starts over: it begins with every topic there is.
    pub fn renew(&self, inbox: &Inbox) {
        let state = self.lock();
        let topics = state.topics.iter();
        let all = topics.map(|(handle, topic)| (*handle, (topic.app.clone(), topic.feed.clone())));
        *inbox.lock() = Waiting {
            open: true,
            changes: Changes {
                began: all.collect(),
                ..Changes::default()
            },
        };
        inbox.changed.notify_one();
    }

    /// Over the cap, the fattest topics lose their oldest envelopes until a bit is free again.
    /// Called after each delivery, so that the cap is passed by one delivery at most.
    pub fn make_room(&self) {
        if self.bytes.load(Ordering::Relaxed) <= self.cap {
            return;
        }
        let goal = self.cap - self.cap / 64;
        let state = self.lock();
        let logs: Vec<&Log> = state
            .topics
            .values()
            .map(|topic| &*topic.feed.log)
            .collect();
        let mut fattest: BinaryHeap<(usize, usize)> = logs
            .iter()
            .enumerate()
            .map(|(n, log)| (log.bytes(), n))
            .collect();
        while self.bytes.load(Ordering::Relaxed) > goal {
            let Some((_, n)) = fattest.pop() else {
                return;
            };
            if logs[n].shed() > 0 {
                fattest.push((logs[n].bytes(), n));
            }
        }
    }

    /// Every tail's account, and the sums of those that are gone.
    pub fn accounts(&self) -> Accounts {
        self.lock().accounts().0
    }

    /// The same, and what each topic lost; what ended is told once.
    pub fn audit(&self) -> (Accounts, Lost) {
        let mut state = self.lock();
        let (accounts, topics) = state.accounts();
        let ended = state.ended.take();
        (accounts, Lost { topics, ended })
    }

    /// Ends all topics: tails drain what is there and then end.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state
            .topics
            .values()
            .for_each(|topic| topic.feed.log.close());
    }

    fn leave(&self, handle: Handle) {
        let mut state = self.lock();
        let Some(topic) = state.topics.get_mut(&handle) else {
            return;
        };
        topic.tails -= 1;
        if topic.tails > 0 {
            return;
        }
        if let Some(topic) = state.topics.remove(&handle) {
            state.handles.remove(&topic.app);
            let last = topic.feed.log.accounts().gone;
            state.gone += last;
            if last.dropped.total() > 0 {
                state.ended.add(topic.app, last.dropped);
            }
        }
        for link in &state.links {
            link.ended(handle);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut requests = self.topics.requests();
        if let Some(of_app) = requests.get_mut(&self.app) {
            *of_app -= 1;
            if *of_app == 0 {
                requests.remove(&self.app);
            }
        }
    }
}

impl State {
    /// Every tail's account, the sums of those that are gone, and what each topic lost.
    fn accounts(&self) -> (Accounts, Vec<(Arc<str>, Dropped)>) {
        let mut accounts = Accounts {
            open: Vec::new(),
            gone: self.gone,
        };
        let mut lost = Vec::new();
        for topic in self.topics.values() {
            let of_topic = topic.feed.log.accounts();
            let mut dropped = of_topic.gone.dropped;
            for entry in of_topic.open {
                dropped += entry.account.dropped;
                accounts.open.push((topic.app.clone(), entry.account));
            }
            accounts.gone += of_topic.gone;
            if dropped.total() > 0 {
                lost.push((topic.app.clone(), dropped));
            }
        }
        (accounts, lost)
    }

    /// After 2^32 topics and requests they come round again, which a client that asks often can
    /// bring about in weeks: one that is still in use would show one app's envelopes to another's
    /// reader.
    fn next_handle(&mut self) -> Handle {
        loop {
            self.last_handle = self.last_handle.wrapping_add(1);
            if !self.topics.contains_key(&self.last_handle) {
                return self.last_handle;
            }
        }
    }

    fn next_tail(&mut self) -> String {
        self.last_tail += 1;
        self.last_tail.to_string()
    }

    /// Whoever can be asked what it keeps: the link and its Doppler.
    fn parts(&self) -> impl Iterator<Item = (usize, Arc<str>)> {
        let links = self.links.iter();
        links.map(|link| (link.number, link.doppler.clone()))
    }

    /// Asks every Doppler there is a link to; the others are missing at once.
    fn ask(&mut self, gather: &Arc<Gather>, question: impl FnOnce(Handle) -> Recent) {
        let question = question(self.next_handle());
        for link in &self.links {
            link.ask(question.clone(), gather.asked(link.number));
        }
    }
}

impl Feed {
    /// Puts what came over link number `link` into the topic; returns whether anybody has it.
    pub fn append(&self, link: usize, frames: &mut Frames) -> bool {
        let gathers = self.lock();
        gathers.iter().for_each(|gather| gather.live(link, frames));
        self.log.append_sealed(frames) || !gathers.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Gather>>> {
        self.gathers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    /// Waits for changes and takes them. Cancel-safe.
    pub async fn changes(&self) -> Changes {
        loop {
            let changes = std::mem::take(&mut self.lock().changes);
            if !changes.is_empty() {
                return changes;
            }
            self.changed.notified().await;
        }
    }

    /// The link is over: nothing collects until [`Topics::renew`].
    pub fn close(&self) {
        *self.lock() = Waiting::default();
    }

    fn ask(&self, question: Recent, asked: Asked) {
        let mut waiting = self.lock();
        if waiting.open {
            waiting.changes.asked.retain(|(_, asked)| !asked.is_over());
            waiting.changes.asked.push((question, asked));
            self.changed.notify_one();
        }
    }

    fn began(&self, handle: Handle, app: &Arc<str>, feed: &Arc<Feed>) {
        let mut waiting = self.lock();
        if waiting.open {
            let topic = (app.clone(), feed.clone());
            waiting.changes.began.insert(handle, topic);
            self.changed.notify_one();
        }
    }

    fn ended(&self, handle: Handle) {
        let mut waiting = self.lock();
        // A topic that the Doppler was not told of need not be taken back.
        if waiting.open && waiting.changes.began.remove(&handle).is_none() {
            waiting.changes.ended.push(handle);
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.began.is_empty() && self.ended.is_empty() && self.asked.is_empty()
    }

    /// The messages that carry these changes to a Doppler: first what ended, since an app may
    /// have begun again under another handle, and a Doppler keeps one for each; last what is
    /// asked, since a stream has to be there for a snapshot to stand in it.
    pub fn messages(&self) -> impl Iterator<Item = Upstream> + '_ {
        let began = self.began.iter();
        let subscribe =
            Upstream::subscribe(began.map(|(handle, (app, _))| (*handle, app.to_string())));
        let ended = self.ended.chunks(MAX_HANDLES);
        ended
            .map(|some| Upstream::Unsubscribe(some.into()))
            .chain(subscribe)
            .chain(
                self.asked
                    .iter()
                    .map(|(question, _)| Upstream::Recent(question.clone())),
            )
    }
}

/// A tail that waits for what it begins with. Dropping it leaves; what was held for it is lost.
pub struct Beginning {
    topics: Arc<Topics>,
    feed: Arc<Feed>,
    gather: Arc<Gather>,
    /// Until the tail has begun.
    handle: Option<Handle>,
}

impl Beginning {
    /// Waits for what the Dopplers keep. What comes meanwhile is held.
    pub async fn gathered(&self) -> Gathered {
        self.gather.gathered().await
    }

    /// Begins the tail with these envelopes, then what came meanwhile, then what comes. Says too
    /// how many bytes of frames it begins with, which count for no cap.
    pub fn begin(mut self, first: &[Bytes]) -> (Tail, usize) {
        let handle = self.handle.take();
        // Taken here only, and this is not there afterwards.
        self.tail(handle.unwrap_or_default(), first)
    }

    fn tail(&self, handle: Handle, first: &[Bytes]) -> (Tail, usize) {
        let mut frames = Frames::new();
        first.iter().for_each(|it| frames.push(it, false));
        let mut state = self.topics.lock();
        let name = state.next_tail();
        let mut gathers = self.feed.lock();
        gathers.retain(|gather| !Arc::ptr_eq(gather, &self.gather));
        let live = self.gather.take_live();
        live.envelopes.iter().for_each(|it| frames.push(it, false));
        let bytes = frames.bytes().len();
        let log = &self.feed.log;
        let member = log.join_behind(&name, &mut frames, live.lost);
        if state.closed {
            log.close();
        }
        drop(gathers);
        drop(state);
        let tail = Tail {
            topics: self.topics.clone(),
            handle,
            member: Some(member),
        };
        (tail, bytes)
    }
}

impl Drop for Beginning {
    /// What is held for it was put into its topic, as its link has counted: it begins, so that it
    /// is in an account, and leaves.
    fn drop(&mut self) {
        if let Some(handle) = self.handle {
            drop(self.tail(handle, &[]));
            self.gather.give_up();
        }
    }
}

/// One client's place in a topic. Dropping it leaves.
pub struct Tail {
    topics: Arc<Topics>,
    handle: Handle,
    member: Option<Member>,
}

impl Tail {
    /// The reader of the topic.
    pub fn member(&mut self) -> &mut Member {
        // Taken in `drop` only.
        self.member
            .as_mut()
            .unwrap_or_else(|| unreachable!("a tail has its member until it ends"))
    }

    /// Ends the tail; `taken` and `reason` as in [`Member::leave`] and for what it had not read.
    /// Returns its last account.
    pub fn end(mut self, taken: usize, reason: Reason) -> Account {
        let vacant = self.member.take().and_then(|member| member.leave(taken));
        vacant
            .and_then(|vacant| vacant.end(reason))
            .unwrap_or_default()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        drop(self.member.take());
        self.topics.leave(self.handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;
    use transport::frame::Frames;

    fn topics() -> Arc<Topics> {
        Topics::new(1 << 20, 1 << 20)
    }

    fn frames(count: usize, size: usize) -> Frames {
        let mut frames = Frames::new();
        (0..count).for_each(|_| frames.push(&vec![7; size], false));
        frames
    }

    /// The handles that began and ended.
    fn taken(inbox: &Inbox) -> Option<(Vec<Handle>, Vec<Handle>)> {
        let changes = inbox.changes().now_or_never()?;
        Some((changes.began.into_keys().collect(), changes.ended))
    }

    #[test]
    fn a_closed_inbox_collects_nothing_and_a_renewed_one_begins_with_what_there_is() {
        let topics = topics();
        let inbox = topics.link(&"d".into());
        let one = topics.tail("a");
        assert_eq!(taken(&inbox), None);

        topics.renew(&inbox);
        let two = topics.tail("b");
        assert_eq!(taken(&inbox), Some((vec![1, 2], vec![])));

        drop(one);
        inbox.close();
        drop(two);
        assert_eq!(taken(&inbox), None);
    }

    #[test]
    fn a_topic_that_ends_before_the_doppler_is_told_is_never_told() {
        let topics = topics();
        let inbox = topics.link(&"d".into());
        let old = topics.tail("a");
        topics.renew(&inbox);
        assert_eq!(taken(&inbox), Some((vec![1], vec![])));
        drop(topics.tail("b"));
        assert_eq!(taken(&inbox), None);
        drop(old);
        assert_eq!(taken(&inbox), Some((vec![], vec![1])));
    }

    #[test]
    fn a_handle_that_comes_round_again_is_not_that_of_a_topic() {
        let topics = topics();
        let _long = topics.tail("long");
        topics.lock().last_handle = Handle::MAX;
        assert_eq!(topics.lock().next_handle(), 0);
        assert_eq!(topics.lock().next_handle(), 2);
    }

    #[test]
    fn one_apps_readers_leave_room_to_ask_for_the_others() {
        let topics = topics();
        let of_one: Vec<Leave> = std::iter::from_fn(|| topics.may_ask("one")).collect();
        assert_eq!(of_one.len(), OF_AN_APP);
        let name = |n: usize| format!("app-{n}");
        let others: Vec<Leave> = (0..).map_while(|n| topics.may_ask(&name(n))).collect();
        assert_eq!(of_one.len() + others.len(), AT_A_TIME);
        drop(of_one);
        assert!(topics.may_ask("one").is_some());
        drop(others);
        assert!(topics.requests().is_empty());
    }

    #[test]
    fn a_tail_is_counted_once_wherever_it_stands() {
        let topics = topics();
        let tail = topics.tail("a");
        let other = topics.tail("a");
        let log = topics.lock().topics[&1].feed.log.clone();
        assert!(log.append(&mut frames(3, 10)));
        let offered = || {
            let accounts = topics.accounts();
            let open: u64 = accounts
                .open
                .iter()
                .map(|(_, account)| account.offered)
                .sum();
            open + accounts.gone.offered
        };
        assert_eq!(offered(), 6);
        drop(tail);
        assert_eq!(offered(), 6);
        drop(other);
        assert_eq!(offered(), 6);
        assert_eq!(topics.accounts().gone.dropped[Reason::NoMember], 6);
    }

    #[test]
    fn over_the_cap_the_fattest_topic_loses_and_the_others_do_not() {
        let topics = Topics::new(64 << 10, 1 << 20);
        let (_fat, _thin) = (topics.tail("fat"), topics.tail("thin"));
        let log = |handle| topics.lock().topics[&handle].feed.log.clone();
        let append = |handle, frames: &mut Frames| {
            log(handle).append(frames);
            log(handle).seal();
        };
        append(2, &mut frames(1, 100));
        (0..8).for_each(|_| append(1, &mut frames(1, 17 << 10)));

        topics.make_room();

        assert!(topics.bytes.load(Ordering::Relaxed) <= topics.cap - topics.cap / 64);
        let lost = |handle| log(handle).accounts().open[0].account.dropped.total();
        assert!(lost(1) > 0);
        assert_eq!(lost(2), 0);
    }

    #[test]
    fn what_an_ended_topic_lost_has_its_apps_name_until_somebody_asks() {
        let topics = topics();
        let (tail, other) = (topics.tail("a"), topics.tail("b"));
        let log = topics.lock().topics[&1].feed.log.clone();
        log.append(&mut frames(3, 10));
        assert!(topics.audit().1.topics.is_empty(), "nothing is lost");
        drop(tail);
        let lost = topics.audit().1;
        assert_eq!(lost.ended.named["a"][Reason::NoMember], 3);
        assert!(topics.audit().1.ended.named.is_empty(), "it is told once");
        drop(other);
        assert!(topics.audit().1.ended.named.is_empty(), "it lost nothing");
    }

    #[test]
    fn who_leaves_before_it_begins_has_an_account_of_what_was_held_for_it() {
        let topics = topics();
        let inbox = topics.link(&"d".into());
        topics.renew(&inbox);
        let other = topics.tail("a");
        let beginning = topics.tail_with_recent("a", 10);
        let feed = topics.lock().topics[&1].feed.clone();
        // Of these the oldest has to go, as more is held than may be.
        for (count, size) in [(1, 10), (3, 100 << 10), (2, 10)] {
            assert!(feed.append(inbox.number, &mut frames(count, size)));
        }
        let gone = |topics: &Topics| {
            let accounts = topics.accounts();
            assert_eq!(accounts.gone.imbalance(), 0);
            let dropped = accounts.gone.dropped;
            let lost = (dropped[Reason::NoMember], dropped[Reason::AppOverflow]);
            (accounts.gone.offered, lost)
        };
        assert_eq!(gone(&topics), (0, (0, 0)));

        drop(beginning);
        assert_eq!(gone(&topics), (6, (4, 2)));
        assert_eq!(topics.accounts().open.len(), 1);
        drop(other);
        assert_eq!(gone(&topics), (12, (10, 2)));
        let lost = topics.audit().1.ended.named["a"];
        assert_eq!(lost.total(), 12);
    }

    #[test]
    fn who_leaves_before_it_begins_is_no_longer_there_to_be_answered() {
        let topics = topics();
        let inbox = topics.link(&"d".into());
        topics.renew(&inbox);
        let beginning = topics.tail_with_recent("a", 10);
        let changes = inbox.changes().now_or_never().unwrap();
        let feed = topics.lock().topics[&1].feed.clone();
        drop(beginning);
        assert!(changes.asked[0].1.is_over());
        assert!(!feed.append(inbox.number, &mut frames(1, 10)));
        assert_eq!(taken(&inbox), Some((vec![], vec![1])));
    }

    proptest! {
        /// Whatever floods, an app whose topic is no more than an equal share of what topics may
        /// hold loses nothing.
        #[test]
        fn a_quiet_app_loses_nothing_while_others_flood(
            noisy in 1..6u32,
            steps in prop::collection::vec((0..6u32, 1..30usize, 1..2_000usize), 1..200),
        ) {
            const CAP: usize = 256 << 10;
            let topics = Topics::new(CAP, 1 << 20);
            let share = (CAP - CAP / 64) / (noisy as usize + 1);
            let quiet = topics.tail("quiet");
            let floods: Vec<Tail> = (0..noisy)
                .map(|app| topics.tail(&format!("noisy-{app}")))
                .collect();
            let feed = |handle: Handle| topics.lock().topics[&handle].feed.clone();
            for (app, count, size) in steps {
                let mut frames = frames(count, size);
                match app {
                    // What a chunk costs beside its frames is within a half of this.
                    0 if feed(1).log.bytes() + 2 * count * (size + 64) <= share => {
                        feed(1).append(0, &mut frames);
                    }
                    0 => continue,
                    app => {
                        feed(2 + app % noisy).append(0, &mut frames);
                    }
                }
                topics.make_room();
                let lost = feed(1).log.accounts().open[0].account.dropped.total();
                prop_assert_eq!(lost, 0);
            }
            drop((quiet, floods));
        }
    }
}
