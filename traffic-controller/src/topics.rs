//! The apps that are tailed here: for each a topic, a small log that all its tails read.
//!
//! Tails come and go on one side; on the other each Doppler's app link is told which handles
//! to ask for, and puts envelopes into their topics. A slow tail is charged with what its
//! topic had to let go, and costs the other tails nothing.

use proto::link::{Handle, Upstream};
use std::collections::HashMap;
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

/// What an app link has to say to its Doppler, and the topics it fills.
#[derive(Default)]
pub struct Inbox {
    changes: Mutex<Vec<Change>>,
    changed: Notify,
}

/// A topic that began or ended.
pub enum Change {
    /// Ask for this app's envelopes and put them into its topic.
    Began(Handle, Arc<str>, Arc<Log>),
    /// Ask for them no more.
    Ended(Handle),
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
            link.tell(Change::Began(handle, app.clone(), log.clone()));
        }
        handle
    }

    /// Opens the inbox of an app link; it starts with every topic there is.
    pub fn link(&self) -> Arc<Inbox> {
        let mut state = self.lock();
        let inbox = Arc::new(Inbox::default());
        state.links.push(inbox.clone());
        self.refill(&state, &inbox);
        inbox
    }

    /// Fills an inbox anew, for a link that starts over.
    pub fn renew(&self, inbox: &Inbox) {
        self.refill(&self.lock(), inbox);
    }

    fn refill(&self, state: &State, inbox: &Inbox) {
        let topics = state.topics.iter();
        let all = topics
            .map(|(handle, topic)| Change::Began(*handle, topic.app.clone(), topic.log.clone()));
        *inbox.lock() = all.collect();
        inbox.changed.notify_one();
    }

    /// Lets the fattest topics lose their oldest envelopes until the cap over all holds.
    /// Called after each delivery, so that the cap is passed by one delivery at most.
    pub fn make_room(&self) {
        while self.bytes.load(Ordering::Relaxed) > self.cap {
            let state = self.lock();
            let fattest = state.topics.values().max_by_key(|topic| topic.log.bytes());
            let freed = fattest.map_or(0, |topic| topic.log.shed());
            if freed == 0 {
                return;
            }
        }
    }

    /// Every tail's app and account.
    pub fn accounts(&self) -> Vec<(Arc<str>, Account)> {
        let state = self.lock();
        let of_topic = |topic: &Topic| {
            let entries = topic.log.accounts().into_iter();
            entries
                .map(|entry| (topic.app.clone(), entry.account))
                .collect::<Vec<_>>()
        };
        state.topics.values().flat_map(of_topic).collect()
    }

    /// The sums of the tails that are gone.
    pub fn gone(&self) -> Account {
        let state = self.lock();
        let mut gone = state.gone;
        state
            .topics
            .values()
            .for_each(|topic| gone += topic.log.gone());
        gone
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
            state.gone += topic.log.gone();
        }
        for link in &state.links {
            link.tell(Change::Ended(handle));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    /// Waits for changes and takes them. Cancel-safe.
    pub async fn changes(&self) -> Vec<Change> {
        loop {
            let changes = std::mem::take(&mut *self.lock());
            if !changes.is_empty() {
                return changes;
            }
            self.changed.notified().await;
        }
    }

    fn tell(&self, change: Change) {
        self.lock().push(change);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The messages that carry changes to a Doppler, in an order that leaves it with what is
/// wanted now: a handle is never asked for again once it ended.
pub fn messages(changes: &[Change]) -> Vec<Upstream> {
    let began = changes.iter().filter_map(|change| match change {
        Change::Began(handle, app, _) => Some((*handle, app.to_string())),
        Change::Ended(_) => None,
    });
    let ended: Vec<Handle> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Ended(handle) => Some(*handle),
            Change::Began(..) => None,
        })
        .collect();
    let mut messages = Upstream::subscribe(began);
    messages.extend(
        ended
            .chunks(proto::link::MAX_HANDLES)
            .map(|some| Upstream::Unsubscribe(some.into())),
    );
    messages
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
