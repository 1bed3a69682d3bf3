//! The apps that are tailed here: for each a topic, a small log that all its tails read.
//!
//! Tails come and go on one side; on the other each Doppler's app link is told which handles
//! to ask for, and puts envelopes into their topics. A slow tail is charged with what its
//! topic had to let go, and costs the other tails nothing.

use proto::link::{Handle, MAX_HANDLES, Upstream};
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use transport::ledger::{Account, Reason};
use transport::log::{Filter, Log, Member};

/// All topics of this Traffic Controller.
pub struct Topics {
    state: Mutex<State>,
    /// Bytes all topics hold together.
    bytes: Arc<AtomicUsize>,
    cap: usize,
    app_cap: usize,
}

#[derive(Default)]
struct State {
    handles: HashMap<Arc<str>, Handle>,
    topics: HashMap<Handle, Topic>,
    last_handle: Handle,
    last_tail: u64,
    links: Vec<Arc<Inbox>>,
    gone: Account,
    closed: bool,
}

struct Topic {
    app: Arc<str>,
    log: Arc<Log>,
    tails: usize,
}

/// What an app link has still to say to its Doppler. It collects only while the link is open.
#[derive(Default)]
pub struct Inbox {
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
    pub began: BTreeMap<Handle, (Arc<str>, Arc<Log>)>,
    /// Ask for these no more.
    pub ended: Vec<Handle>,
}

/// All tails' accounts, of the same moment: a tail is in one place or the other.
pub struct Accounts {
    /// Those that are open, each with its app.
    pub open: Vec<(Arc<str>, Account)>,
    /// The sums of those that are gone.
    pub gone: Account,
}

impl Topics {
    /// No topics; they may hold `cap` bytes together and `app_cap` each.
    pub fn new(cap: usize, app_cap: usize) -> Arc<Topics> {
        Arc::new(Topics {
            state: Mutex::default(),
            bytes: Arc::new(AtomicUsize::new(0)),
            cap,
            app_cap,
        })
    }

    /// A new tail of `app`.
    pub fn tail(self: &Arc<Topics>, app: &str) -> Tail {
        let mut state = self.lock();
        state.last_tail += 1;
        let name = state.last_tail.to_string();
        let handle = match state.handles.get(app) {
            Some(handle) => *handle,
            None => self.begin(&mut state, app.into()),
        };
        let closed = state.closed;
        // Both maps are changed together, under this lock.
        let topic = state
            .topics
            .get_mut(&handle)
            .unwrap_or_else(|| unreachable!("a handle has its topic"));
        topic.tails += 1;
        let member = topic.log.join(&name, Filter::Everything);
        if closed {
            topic.log.close();
        }
        Tail {
            topics: self.clone(),
            handle,
            member: Some(member),
        }
    }

    fn begin(&self, state: &mut State, app: Arc<str>) -> Handle {
        // 2^32 topics in a process's life: an app whose handle comes round again would have to
        // be tailed since the first.
        state.last_handle = state.last_handle.wrapping_add(1);
        let handle = state.last_handle;
        let log = Log::sharing(self.app_cap, Reason::AppOverflow, self.bytes.clone());
        state.handles.insert(app.clone(), handle);
        let topic = Topic {
            app: app.clone(),
            log: log.clone(),
            tails: 0,
        };
        state.topics.insert(handle, topic);
        for link in &state.links {
            link.began(handle, &app, &log);
        }
        handle
    }

    /// The inbox of an app link, closed as yet.
    pub fn link(&self) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox::default());
        self.lock().links.push(inbox.clone());
        inbox
    }

    /// Opens an inbox for a link that starts over: it begins with every topic there is.
    pub fn renew(&self, inbox: &Inbox) {
        let state = self.lock();
        let topics = state.topics.iter();
        let all = topics.map(|(handle, topic)| (*handle, (topic.app.clone(), topic.log.clone())));
        *inbox.lock() = Waiting {
            open: true,
            changes: Changes {
                began: all.collect(),
                ended: Vec::new(),
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
        let logs: Vec<&Log> = state.topics.values().map(|topic| &*topic.log).collect();
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
        let state = self.lock();
        let mut accounts = Accounts {
            open: Vec::new(),
            gone: state.gone,
        };
        for topic in state.topics.values() {
            let of_topic = topic.log.accounts();
            let open = of_topic.open.into_iter();
            accounts
                .open
                .extend(open.map(|entry| (topic.app.clone(), entry.account)));
            accounts.gone += of_topic.gone;
        }
        accounts
    }

    /// Ends all topics: tails drain what is there and then end.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.topics.values().for_each(|topic| topic.log.close());
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
            state.gone += topic.log.accounts().gone;
        }
        for link in &state.links {
            link.ended(handle);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn began(&self, handle: Handle, app: &Arc<str>, log: &Arc<Log>) {
        let mut waiting = self.lock();
        if waiting.open {
            let topic = (app.clone(), log.clone());
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
        self.began.is_empty() && self.ended.is_empty()
    }

    /// The messages that carry these changes to a Doppler: first what ended, since an app may
    /// have begun again under another handle, and a Doppler keeps one for each.
    pub fn messages(&self) -> impl Iterator<Item = Upstream> + '_ {
        let began = self.began.iter();
        let subscribe =
            Upstream::subscribe(began.map(|(handle, (app, _))| (*handle, app.to_string())));
        let ended = self.ended.chunks(MAX_HANDLES);
        ended
            .map(|some| Upstream::Unsubscribe(some.into()))
            .chain(subscribe)
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
    pub fn end(mut self, taken: usize, reason: Reason) {
        if let Some(vacant) = self.member.take().and_then(|member| member.leave(taken)) {
            vacant.end(reason);
        }
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
        let inbox = topics.link();
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
        let inbox = topics.link();
        let old = topics.tail("a");
        topics.renew(&inbox);
        assert_eq!(taken(&inbox), Some((vec![1], vec![])));
        drop(topics.tail("b"));
        assert_eq!(taken(&inbox), None);
        drop(old);
        assert_eq!(taken(&inbox), Some((vec![], vec![1])));
    }

    #[test]
    fn a_tail_is_counted_once_wherever_it_stands() {
        let topics = topics();
        let tail = topics.tail("a");
        let other = topics.tail("a");
        let log = topics.lock().topics[&1].log.clone();
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
        let log = |handle| topics.lock().topics[&handle].log.clone();
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
}
