//! The chunk log: framed messages in the order they came, one cursor per group of readers.
//! The one place where a firehose can lose an envelope.
//!
//! In go batches of whole frames ([`Log::append`], which never waits); out come claims
//! ([`Member::claim`]): slices of a sealed [`Chunk`] that a socket can take as they are. The
//! log is capped in bytes. When it is full the oldest chunk leaves, and every group whose
//! cursor it takes along is charged with the frames it had not claimed, then and there, and
//! told before its next frame.
//!
//! Groups are named: members that join under one name and filter share one cursor. Idle
//! members wait in the order they came and each claims a slice, so a member that stalls holds
//! back its own slice and nothing else. What a member had not begun to write when it left
//! returns to the group; what it had begun is `close_residue`.
//!
//! Small batches gather in an open chunk until it is big enough or somebody calls
//! [`Log::seal`]; the log itself knows no clock.

mod chunk;
mod group;

pub use chunk::{Chunk, Filter};

use crate::frame::Frames;
use crate::ledger::{Account, Dropped, Reason};
use crate::losses::EndedSums;
use chunk::{Run, Weight};
use group::{Group, Hand};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

#[cfg(not(shuttle))]
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};

#[cfg(shuttle)]
use shuttle::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};

/// A batch of at least this many bytes becomes a chunk of its own: one TLS record.
const CHUNK_FROM: usize = 16 << 10;

/// The open chunk is sealed at this many bytes or frames, whichever comes first.
const OPEN_BYTES: usize = 32 << 10;
const OPEN_FRAMES: usize = 256;

/// Groups that ended between two looks at what was lost and keep their names: as many as there
/// are in all.
const ENDED: usize = 1_000;

/// How long small batches gather before a chunk is sealed, where [`Log::keep_sealing`] runs.
/// The timer's own resolution is 1 ms, so a frame waits 1–2 ms.
pub const GATHER: Duration = Duration::from_millis(1);

/// Framed messages in order, capped in bytes, with one cursor per group.
pub struct Log {
    state: Mutex<State>,
    /// How many groups read, to be asked without the lock.
    groups: AtomicUsize,
    overflow: Reason,
}

struct State {
    cap: usize,
    /// Bytes in sealed chunks, here and in all logs that share the sum.
    bytes: usize,
    total: Arc<AtomicUsize>,
    /// Bytes of all chunks that were ever sealed, those that left included.
    sealed: u64,
    chunks: VecDeque<Held>,
    /// The number of the chunk in front; chunks are numbered from 0 as they are sealed.
    first: u64,
    open: Frames,
    open_weight: Weight,
    groups: Vec<Option<Group>>,
    /// Sums of groups that are gone.
    gone: Account,
    /// What those of them lost that ended since somebody asked.
    ended: EndedGroups,
    closed: bool,
    /// How many members ever joined; their ids.
    joined: u64,
    /// Whoever waits for the open chunk to be begun.
    sealer: Option<Waker>,
}

/// A sealed chunk and how many groups have not passed it yet.
struct Held {
    chunk: Arc<Chunk>,
    /// Bytes that were sealed before it: how far behind a cursor is, is asked for many groups at
    /// once, and must not walk what lies there.
    at: u64,
    behind: usize,
}

/// What a member is to write next. Settle it with [`Member::sent`] or [`Member::leave`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Whole frames, back to back.
    Frames(bytes::Bytes),
    /// The group lost `delta` frames since it was last told, `total` in all: tell it.
    Lost {
        /// Frames lost since the last notice.
        delta: u64,
        /// Frames lost since the group began.
        total: u64,
    },
}

/// A claim whose frames are not gathered yet: that is done without the lock.
enum Claimed {
    Run(Run, Filter),
    Loss { delta: u64, total: u64 },
}

impl From<Claimed> for Claim {
    fn from(claimed: Claimed) -> Claim {
        match claimed {
            Claimed::Run(run, filter) => Claim::Frames(run.bytes(filter)),
            Claimed::Loss { delta, total } => Claim::Lost { delta, total },
        }
    }
}

/// How far a group is behind the log, and what that has cost it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Frames it lost because the log had to make room, since it began.
    pub overflowed: u64,
    /// Bytes of the log between its cursor and the end, whether it asked for them or not.
    pub behind: usize,
    /// Bytes the log may hold.
    pub cap: usize,
    /// Whether a member waits for something to claim.
    pub idle: bool,
}

impl Standing {
    /// Which part of the log the group is behind, in thousandths.
    pub fn per_mille(self) -> u32 {
        let per_mille = self.behind as u128 * 1_000 / self.cap.max(1) as u128;
        u32::try_from(per_mille).unwrap_or(u32::MAX)
    }
}

/// One group's account, with who it is.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name the group's members joined under.
    pub name: std::sync::Arc<str>,
    /// What the group asked for.
    pub filter: Filter,
    /// How many members share it now; 0 while it lingers.
    pub members: usize,
    /// Its sums.
    pub account: Account,
}

/// All accounts of a log, of the same moment: a group is in one place or the other.
#[derive(Debug, Clone)]
pub struct Accounts {
    /// The groups there are.
    pub open: Vec<Entry>,
    /// The sums of those that are gone.
    pub gone: Account,
}

/// What groups lost that ended, by name and filter.
pub type EndedGroups = EndedSums<(std::sync::Arc<str>, Filter), Dropped>;

impl Log {
    /// An empty log that holds at most `cap` bytes of sealed chunks; what it loses to that cap
    /// is counted as `overflow`.
    ///
    /// Beyond the cap there is the open chunk (at most 32 KiB and one batch) and one claim per
    /// member.
    pub fn new(cap: usize, overflow: Reason) -> Arc<Log> {
        Log::with(cap, overflow, Arc::default(), EndedSums::new(ENDED))
    }

    /// A log like [`Log::new`] that also adds its bytes to `total`, the sum of several logs, and
    /// keeps no names of groups that ended.
    pub fn sharing(cap: usize, overflow: Reason, total: Arc<AtomicUsize>) -> Arc<Log> {
        Log::with(cap, overflow, total, EndedSums::new(0))
    }

    fn with(cap: usize, overflow: Reason, total: Arc<AtomicUsize>, ended: EndedGroups) -> Arc<Log> {
        Arc::new(Log {
            state: Mutex::new(State {
                cap,
                bytes: 0,
                total,
                sealed: 0,
                chunks: VecDeque::new(),
                first: 0,
                open: Frames::new(),
                open_weight: Weight::default(),
                groups: Vec::new(),
                gone: Account::default(),
                ended,
                closed: false,
                joined: 0,
                sealer: None,
            }),
            groups: AtomicUsize::new(0),
            overflow,
        })
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.groups.load(Ordering::Acquire)
    }

    /// Whether any group reads. A producer may skip its work while none does.
    pub fn is_read(&self) -> bool {
        self.groups() > 0
    }

    /// Offers `frames` to every group and empties it; returns whether there was one. Never
    /// waits.
    pub fn append(&self, frames: &mut Frames) -> bool {
        self.take_in(frames, frames.bytes().len() >= CHUNK_FROM)
    }

    /// The same, and they are visible to readers at once: nothing gathers.
    pub fn append_sealed(&self, frames: &mut Frames) -> bool {
        self.take_in(frames, true)
    }

    fn take_in(&self, frames: &mut Frames, sealed: bool) -> bool {
        if frames.is_empty() || !self.is_read() {
            frames.clear();
            return false;
        }
        let weight = Weight::of(frames.ends());
        let whole = sealed.then(|| Chunk::copy(frames, weight));

        let mut state = self.lock();
        let offered = state.groups.iter().any(Option::is_some);
        let wake = state.append(frames, weight, whole, self.overflow);
        drop(state);
        wake_all(wake);
        offered
    }

    /// Makes what gathers in the open chunk visible to readers.
    pub fn seal(&self) {
        let mut state = self.lock();
        state.seal(self.overflow);
        let wake = state.front_waiters();
        drop(state);
        wake_all(wake);
    }

    /// Seals the open chunk `delay` after its first frame, for ever.
    pub async fn keep_sealing(&self, delay: Duration) {
        loop {
            poll_fn(|cx| self.lock().poll_opened(cx)).await;
            tokio::time::sleep(delay).await;
            self.seal();
        }
    }

    /// Joins the group of that name and filter, or founds it at the end of the log.
    pub fn join(self: &Arc<Log>, name: &str, filter: Filter) -> Member {
        let mut state = self.lock();
        let found = state.find(name, filter);
        let group = found.unwrap_or_else(|| {
            // What gathers now was not offered to a group that did not exist.
            state.seal(self.overflow);
            let group = Group::new(name.into(), filter, state.next());
            self.groups.fetch_add(1, Ordering::AcqRel);
            state.place(group)
        });
        state.joined += 1;
        let id = state.joined;
        state.group(group).enter(id);
        let wake = if found.is_some() {
            Vec::new()
        } else {
            state.front_waiters()
        };
        drop(state);
        wake_all(wake);
        Member {
            log: self.clone(),
            group,
            id,
            left: false,
        }
    }

    /// Founds a group of one that is offered `first` before what the log will be given, and has
    /// lost `lost` frames. They count in its account, and not for the cap.
    pub fn join_behind(self: &Arc<Log>, name: &str, first: &mut Frames, lost: u64) -> Member {
        let weight = Weight::of(first.ends());
        let chunk = Arc::new(Chunk::take(first, weight));
        let member = self.join(name, Filter::Everything);
        let mut state = self.lock();
        let group = state.group(member.group);
        group.begin_with(&chunk);
        group.began_with_loss(self.overflow, lost);
        drop(state);
        member
    }

    /// Every account, all taken at one moment.
    pub fn accounts(&self) -> Accounts {
        self.lock().accounts()
    }

    /// The same, and of the same moment what groups lost that ended since this was asked last.
    pub fn audit(&self) -> (Accounts, EndedGroups) {
        let mut state = self.lock();
        (state.accounts(), state.ended.take())
    }

    /// How the group of that name and filter stands, if there is one.
    pub fn standing(&self, name: &str, filter: Filter) -> Option<Standing> {
        let state = self.lock();
        let group = state.groups[state.find(name, filter)?].as_ref()?;
        Some(state.standing(group, self.overflow))
    }

    /// How far the group lags that lags most of those that nothing but us keeps waiting: the
    /// part of the log it has not read, in thousandths. A reader that has taken nothing for `times`
    /// calls of this is not among them. For one caller.
    pub fn lag(&self, times: u32) -> u32 {
        let mut state = self.lock();
        let mut lag = 0;
        for index in 0..state.groups.len() {
            let group = state.groups[index].as_ref();
            let standing = group.map(|group| state.standing(group, self.overflow));
            let per_mille = standing.map_or(0, Standing::per_mille);
            if per_mille > 0 && state.group(index).is_kept_waiting(times) {
                lag = lag.max(per_mille);
            }
        }
        lag
    }

    /// Bytes held in sealed chunks.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Lets the oldest chunk go, as if the log were full; returns its bytes.
    pub fn shed(&self) -> usize {
        let mut state = self.lock();
        let before = state.bytes;
        state.evict_front(self.overflow);
        before - state.bytes
    }

    /// Ends the log: readers drain what is there and then get `None`.
    pub fn close(&self) {
        let mut state = self.lock();
        state.seal(self.overflow);
        state.closed = true;
        let wake = state.all_waiters();
        drop(state);
        wake_all(wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The number the next sealed chunk will get.
    fn next(&self) -> u64 {
        self.first + self.chunks.len() as u64
    }

    fn append(
        &mut self,
        frames: &mut Frames,
        weight: Weight,
        whole: Option<Chunk>,
        overflow: Reason,
    ) -> Vec<Waker> {
        for group in self.groups.iter_mut().flatten() {
            group.offered(weight);
            if self.closed {
                group.lost(Reason::Drain, weight);
            }
        }
        if self.closed {
            frames.clear();
            return Vec::new();
        }
        match whole {
            Some(chunk) => {
                self.seal(overflow);
                self.push(chunk, overflow);
                frames.clear();
            }
            None => {
                self.open.append(frames);
                self.open_weight += weight;
                if self.open.bytes().len() < OPEN_BYTES && self.open.len() < OPEN_FRAMES {
                    return self.sealer.take().into_iter().collect();
                }
                self.seal(overflow);
            }
        }
        self.front_waiters()
    }

    fn seal(&mut self, overflow: Reason) {
        if !self.open.is_empty() {
            let weight = std::mem::take(&mut self.open_weight);
            let chunk = Chunk::take(&mut self.open, weight);
            self.push(chunk, overflow);
        }
    }

    fn push(&mut self, chunk: Chunk, overflow: Reason) {
        let behind = self.groups.iter().flatten().count();
        if behind == 0 {
            return;
        }
        self.bytes += chunk.size();
        self.total.fetch_add(chunk.size(), Ordering::Relaxed);
        let at = self.sealed;
        self.sealed += chunk.size() as u64;
        self.chunks.push_back(Held {
            chunk: Arc::new(chunk),
            at,
            behind,
        });
        while self.bytes > self.cap {
            self.evict_front(overflow);
        }
    }

    /// The oldest chunk leaves; the groups that had not passed it are charged for it.
    fn evict_front(&mut self, overflow: Reason) {
        let evicted = self.first;
        let Some(chunk) = self.pop_front() else {
            return;
        };
        for group in self.groups.iter_mut().flatten() {
            if group.chunk == evicted {
                let lost = chunk.weight_from(group.entry);
                group.lost(overflow, lost);
                group.chunk += 1;
                group.entry = 0;
            }
        }
    }

    /// Chunks that every group has passed are let go.
    fn trim(&mut self) {
        while self.chunks.front().is_some_and(|held| held.behind == 0) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) -> Option<Arc<Chunk>> {
        let chunk = self.chunks.pop_front()?.chunk;
        self.first += 1;
        self.bytes -= chunk.size();
        self.total.fetch_sub(chunk.size(), Ordering::Relaxed);
        Some(chunk)
    }

    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.open.is_empty() {
            return Poll::Ready(());
        }
        self.sealer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn find(&self, name: &str, filter: Filter) -> Option<usize> {
        let is = |group: &Group| group.filter == filter && *group.name == *name;
        let mut groups = self.groups.iter();
        groups.position(|slot| slot.as_ref().is_some_and(is))
    }

    fn place(&mut self, group: Group) -> usize {
        match self.groups.iter().position(Option::is_none) {
            Some(free) => {
                self.groups[free] = Some(group);
                free
            }
            None => {
                self.groups.push(Some(group));
                self.groups.len() - 1
            }
        }
    }

    /// The group of a member. A group outlives its members, so a member's index is good.
    fn group(&mut self, index: usize) -> &mut Group {
        self.groups[index]
            .as_mut()
            .unwrap_or_else(|| unreachable!("a member's group is there"))
    }

    /// The next claim of a member whose turn it is.
    fn claim(&mut self, index: usize, member: u64) -> Option<Claimed> {
        let group = self.group(index);
        if let Some((delta, total)) = group.tell() {
            group.hold(member, Hand::Notice { delta });
            return Some(Claimed::Loss { delta, total });
        }
        let run = match group.returned.pop_front() {
            Some(run) => run,
            None => self.advance(index)?,
        };
        let group = self.group(index);
        group.hold(member, Hand::Frames(run.clone()));
        Some(Claimed::Run(run, group.filter))
    }

    /// Moves a group's cursor over its next frames and returns them.
    fn advance(&mut self, index: usize) -> Option<Run> {
        let number = self.next_match(index)?;
        let group = self.groups[index].as_mut()?;
        let held = self.chunks.get((number - self.first) as usize)?;
        let run = Run::next(
            &held.chunk,
            number,
            group.entry,
            group.filter,
            group.share(),
        )?;
        if run.to < held.chunk.len() {
            group.entry = run.to;
        } else {
            self.pass(index);
        }
        Some(run)
    }

    /// The chunk that a group's cursor stands in, once it has passed those where nothing
    /// matches: a filtered group must not hold the log for what it does not want.
    fn next_match(&mut self, index: usize) -> Option<u64> {
        loop {
            let group = self.groups[index].as_ref()?;
            let (number, entry, filter) = (group.chunk, group.entry, group.filter);
            let held = self.chunks.get((number - self.first) as usize)?;
            if held.chunk.weight_from(entry).of_filter(filter) > 0 {
                return Some(number);
            }
            self.pass(index);
        }
    }

    /// Moves a group's cursor to the start of the next chunk.
    fn pass(&mut self, index: usize) {
        let Some(group) = self.groups[index].as_mut() else {
            return;
        };
        let passed = (group.chunk - self.first) as usize;
        group.chunk += 1;
        group.entry = 0;
        if let Some(held) = self.chunks.get_mut(passed) {
            held.behind -= 1;
        }
        self.trim();
    }

    /// Whether a group has anything to claim.
    fn has_next(&mut self, index: usize) -> bool {
        let group = self.group(index);
        group.untold > 0 || !group.returned.is_empty() || self.next_match(index).is_some()
    }

    /// What lies between a group's cursor and the end of the sealed chunks.
    fn ahead<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = Weight> + 'a {
        let from = (group.chunk - self.first) as usize;
        let chunks = self.chunks.iter().skip(from).enumerate();
        chunks.map(|(n, held)| match n {
            0 => held.chunk.weight_from(group.entry),
            _ => held.chunk.weight_from(0),
        })
    }

    fn accounts(&self) -> Accounts {
        let groups = self.groups.iter().flatten();
        Accounts {
            open: groups.map(|group| self.entry(group)).collect(),
            gone: self.gone,
        }
    }

    fn front_waiters(&mut self) -> Vec<Waker> {
        let mut wake = Vec::new();
        for index in 0..self.groups.len() {
            let awaited = self.groups[index].as_ref().is_some_and(Group::awaited);
            if awaited && self.has_next(index) {
                wake.extend(self.group(index).front_waiter());
            }
        }
        wake
    }

    fn all_waiters(&mut self) -> Vec<Waker> {
        let groups = self.groups.iter_mut().flatten();
        groups.flat_map(Group::all_waiters).collect()
    }

    fn entry(&self, group: &Group) -> Entry {
        let ahead: u64 = self
            .ahead(group)
            .map(|weight| weight.of_filter(group.filter))
            .sum();
        let open = Weight::of(self.open.ends()).of_filter(group.filter);
        Entry {
            name: group.name.clone(),
            filter: group.filter,
            members: group.members(),
            account: group.account(ahead + open),
        }
    }

    fn standing(&self, group: &Group, overflow: Reason) -> Standing {
        let next = self.chunks.get((group.chunk - self.first) as usize);
        Standing {
            overflowed: group.dropped_for(overflow),
            behind: next.map_or(0, |held| (self.sealed - held.at) as usize),
            cap: self.cap,
            idle: group.awaited(),
        }
    }

    /// Ends a group without members: what it had not read is lost for `reason`.
    fn remove(&mut self, index: usize, reason: Reason) -> Account {
        let Some(mut group) = self.groups[index].take() else {
            return Account::default();
        };
        let unread = self.entry(&group).account.queued;
        group.dropped(reason, unread);
        group.returned.clear();
        let from = (group.chunk - self.first) as usize;
        for held in self.chunks.iter_mut().skip(from) {
            held.behind -= 1;
        }
        self.trim();
        if self.groups.iter().all(Option::is_none) {
            self.open.clear();
            self.open_weight = Weight::default();
        }
        let last = group.account(0);
        self.gone += last;
        if last.dropped.total() > 0 {
            self.ended.add((group.name, group.filter), last.dropped);
        }
        while self.groups.last().is_some_and(Option::is_none) {
            self.groups.pop();
        }
        last
    }
}

/// A reader of one group. Dropping it leaves the group.
pub struct Member {
    log: Arc<Log>,
    group: usize,
    id: u64,
    left: bool,
}

impl Member {
    /// Waits for this member's turn and for something to claim. `None` once the log is closed
    /// and the group has nothing left. Cancel-safe: a claim is made only when it is returned.
    ///
    /// The previous claim must have been settled with [`Member::sent`].
    pub async fn claim(&mut self) -> Option<Claim> {
        poll_fn(|cx| self.poll_claim(cx)).await
    }

    fn poll_claim(&mut self, cx: &mut Context<'_>) -> Poll<Option<Claim>> {
        let mut state = self.log.lock();
        if !state.group(self.group).may_go(self.id) {
            state.group(self.group).wait(self.id, cx.waker());
            return Poll::Pending;
        }
        if let Some(claimed) = state.claim(self.group, self.id) {
            state.group(self.group).stop_waiting(self.id);
            let wake = state.wake_next(self.group);
            drop(state);
            wake_all(wake);
            return Poll::Ready(Some(claimed.into()));
        }
        if state.closed {
            state.group(self.group).stop_waiting(self.id);
            let wake = state.group(self.group).front_waiter();
            drop(state);
            wake_all(wake);
            return Poll::Ready(None);
        }
        state.group(self.group).wait(self.id, cx.waker());
        Poll::Pending
    }

    /// The socket has taken the last claim; returns how many frames that were.
    pub fn sent(&mut self) -> u64 {
        self.log.lock().group(self.group).sent(self.id)
    }

    /// Says whether this member's reader would take more if it came sooner; see [`Log::lag`].
    pub fn would_take_more(&mut self, more: bool) {
        self.log.lock().group(self.group).eager(self.id, more);
    }

    /// The sums of this member's group.
    pub fn account(&self) -> Account {
        let state = self.log.lock();
        let group = state.groups[self.group].as_ref();
        group
            .map(|group| state.entry(group).account)
            .unwrap_or_default()
    }

    /// How this member's group stands.
    pub fn standing(&self) -> Standing {
        let state = self.log.lock();
        let group = state.groups[self.group].as_ref();
        let standing = group.map(|group| state.standing(group, self.log.overflow));
        standing.unwrap_or_default()
    }

    /// Leaves the group. `taken` is how many bytes of the unsettled claim the socket took:
    /// frames begun within them are `close_residue`, the others return to the group.
    ///
    /// The last member to leave gets the group in hand, to end it when nobody came back.
    pub fn leave(mut self, taken: usize) -> Option<Vacant> {
        self.go(taken)
    }

    fn go(&mut self, taken: usize) -> Option<Vacant> {
        if std::mem::replace(&mut self.left, true) {
            return None;
        }
        let mut state = self.log.lock();
        let group = state.group(self.group);
        group.exit(self.id, taken);
        let vacant = (group.members() == 0).then_some(group.newest);
        let wake = state.wake_next(self.group);
        drop(state);
        wake_all(wake);
        vacant.map(|newest| Vacant {
            log: self.log.clone(),
            group: self.group,
            newest,
        })
    }
}

impl State {
    /// Whose turn it is now in a group, if there is something to claim.
    fn wake_next(&mut self, index: usize) -> Option<Waker> {
        let group = self.groups[index].as_ref()?;
        if group.awaited() && (self.closed || self.has_next(index)) {
            return self.group(index).front_waiter();
        }
        None
    }
}

impl Drop for Member {
    /// Nobody said what the socket took: all of the claim may have left, so none of it is
    /// given to another member.
    fn drop(&mut self) {
        if let Some(vacant) = self.go(usize::MAX) {
            vacant.end(Reason::NoMember);
        }
    }
}

/// A group that nobody reads at the moment; it goes on collecting.
pub struct Vacant {
    log: Arc<Log>,
    group: usize,
    /// The last member that had joined: a newer one, and somebody came back.
    newest: u64,
}

impl Vacant {
    /// Ends the group if nobody came back; what it had not read is lost for `reason`. Returns its
    /// last account, or nothing if it goes on.
    pub fn end(self, reason: Reason) -> Option<Account> {
        let mut state = self.log.lock();
        let same = state
            .groups
            .get(self.group)
            .and_then(Option::as_ref)
            .is_some_and(|group| group.newest == self.newest && group.members() == 0);
        same.then(|| {
            self.log.groups.fetch_sub(1, Ordering::AcqRel);
            state.remove(self.group, reason)
        })
    }
}

fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

#[cfg(all(test, not(shuttle)))]
mod tests;

#[cfg(all(test, shuttle))]
mod model;
