//! What is kept of each app: its newest logs, and the newest container metric of each instance.
//!
//! In come envelopes as they came to the door, v2 or v1, and the time; out come snapshots as v1.
//! They are converted when somebody asks, which is seldom: keeping one is a copy into memory
//! that the app has already.
//!
//! Bounded in logs per app and in bytes altogether. Over the cap the fattest apps let their
//! oldest logs go; where none is fat, those written to longest ago are forgotten. An app whose
//! share of its shard is no more than all others' loses nothing to them. One app may take half a
//! shard, and lets its own oldest logs go beyond that.
//!
//! Which apps send most is a by-product: [`Recents::senders`].

use hashbrown::HashTable;
use proto::transcode::{V1Sink, View};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Parts that are locked each for itself, so that doors seldom meet. A power of two.
const SHARDS: usize = 16;

/// How long an app is remembered after its last log or container metric: upstream's hour.
const MEMORY_NS: i64 = 3_600 * 1_000_000_000;

/// What an app costs beside what it has said: itself, its place in the table, allocations.
const APP: usize = size_of::<Named>() + 128;

/// Apps of a shard that are counted as senders between two times that they are asked for.
const SENDERS: usize = 4_096;

/// What a container metric costs beside its bytes.
const METRIC: usize = size_of::<(i32, Metric)>() + 32;

/// Everything that is kept.
pub struct Recents {
    shards: Vec<Mutex<Shard>>,
    /// Keyed: whoever chooses ids does not choose shards.
    hash: RandomState,
    logs: usize,
    ttl_ns: i64,
}

/// What an envelope is kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A LogMessage.
    Log,
    /// A ContainerMetric of that instance.
    Container(i32),
}

impl Kind {
    /// What an envelope is kept as, if it is: one that becomes a log, or a container metric.
    pub fn of(log: bool, container: Option<i32>) -> Option<Kind> {
        match (log, container) {
            (true, _) => Some(Kind::Log),
            (false, container) => container.map(Kind::Container),
        }
    }
}

/// How an envelope is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// dropsonde v1.
    V1,
    /// loggregator v2.
    V2,
}

/// An envelope that is to be kept: see [`Recents::to_keep`].
#[derive(Debug, Clone, Copy)]
pub struct ToKeep<'a> {
    hash: u64,
    app: &'a [u8],
    kind: Kind,
    form: Form,
    envelope: &'a [u8],
}

struct Shard {
    cap: usize,
    bytes: usize,
    /// Counts what was kept: the least recently written app is the one with the lowest number.
    kept: u64,
    apps: HashTable<Named>,
    /// Hashes of those that sent something since senders were asked for.
    senders: Vec<u64>,
}

/// An app under its name.
struct Named {
    hash: u64,
    name: Box<[u8]>,
    app: App,
}

/// What an app sent since senders were asked for last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The app id.
    pub app: Box<[u8]>,
    /// Logs and container metrics.
    pub envelopes: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Default)]
struct App {
    /// Logs back to back, oldest first, in memory that is used again and again.
    logs: VecDeque<u8>,
    /// Length and form of each.
    index: VecDeque<(u32, Form)>,
    metrics: BTreeMap<i32, Metric>,
    metric_bytes: usize,
    /// As `Shard::kept` was at its last envelope.
    written: u64,
    written_ns: i64,
    /// Envelopes and bytes since senders were asked for.
    sent: (u64, u64),
}

struct Metric {
    form: Form,
    envelope: Vec<u8>,
    written_ns: i64,
}

impl Recents {
    /// Keeps the newest `logs` of each app, and container metrics for `ttl`, in `bytes`
    /// altogether. With `logs` 0 nothing is kept.
    pub fn new(logs: usize, bytes: usize, ttl: Duration) -> Recents {
        let shard = || {
            Mutex::new(Shard {
                cap: bytes / SHARDS,
                bytes: 0,
                kept: 0,
                apps: HashTable::new(),
                senders: Vec::new(),
            })
        };
        Recents {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            hash: RandomState::new(),
            logs,
            ttl_ns: i64::try_from(ttl.as_nanos()).unwrap_or(i64::MAX),
        }
    }

    /// Whether anything is kept at all.
    pub fn keeps(&self) -> bool {
        self.logs > 0
    }

    /// An envelope of `app`, to be kept. One of no app is not, nor any where nothing is.
    pub fn to_keep<'a>(
        &self,
        app: &'a [u8],
        kind: Kind,
        form: Form,
        envelope: &'a [u8],
    ) -> Option<ToKeep<'a>> {
        (self.keeps() && !app.is_empty()).then(|| ToKeep {
            hash: self.hash.hash_one(app),
            app,
            kind,
            form,
            envelope,
        })
    }

    /// Keeps envelopes that came at `now_ns`, but for those longer than an app's share.
    ///
    /// A shard's are kept together: to let go of a lock is to wait until what was written before
    /// has reached its memory, and the memory of an app's last logs is seldom near.
    pub fn keep(&self, envelopes: &[ToKeep<'_>], now_ns: i64) {
        for (n, shard) in self.shards.iter().enumerate() {
            let here = |envelope: &&ToKeep<'_>| shard_of(envelope.hash) == n;
            let mut envelopes = envelopes.iter().filter(here).peekable();
            if envelopes.peek().is_some() {
                let mut shard = lock(shard);
                envelopes.for_each(|envelope| shard.keep(envelope, self.logs, now_ns));
            }
        }
    }

    /// The newest `logs` logs of `app`, oldest first, and with `metrics` its current container
    /// metrics, each as a v1 envelope.
    pub fn snapshot(&self, app: &str, logs: usize, metrics: bool, now_ns: i64) -> Vec<Vec<u8>> {
        let hash = self.hash.hash_one(app.as_bytes());
        let mut shard = self.shard(hash);
        let mut envelopes = Envelopes::default();
        let is = |named: &Named| *named.name == *app.as_bytes();
        let Some(Named { app, .. }) = shard.apps.find_mut(hash, is) else {
            return envelopes.0;
        };
        let skipped = app.index.len().saturating_sub(logs);
        let mut rest: &[u8] = app.logs.make_contiguous();
        for (n, (length, form)) in app.index.iter().enumerate() {
            let (envelope, behind) = rest.split_at(*length as usize);
            rest = behind;
            if n >= skipped {
                envelopes.add(*form, envelope);
            }
        }
        if metrics {
            let newest = app.metrics.values();
            let current = |metric: &&Metric| !is_older(metric.written_ns, self.ttl_ns, now_ns);
            newest
                .filter(current)
                .for_each(|metric| envelopes.add(metric.form, &metric.envelope));
        }
        envelopes.0
    }

    /// How many bytes all of it takes.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).bytes).sum()
    }

    /// Forgets container metrics that are no longer current, and apps that have been silent for
    /// an hour.
    pub fn forget(&self, now_ns: i64) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let mut freed = 0;
            shard.apps.retain(|Named { name, app, .. }| {
                let before = app.cost();
                let silent = is_older(app.written_ns, MEMORY_NS, now_ns);
                app.forget_metrics(self.ttl_ns, now_ns);
                let empty = app.is_empty();
                freed += match silent || empty {
                    true => before + name.len(),
                    false => before - app.cost(),
                };
                !(silent || empty)
            });
            shard.bytes -= freed;
        }
    }

    /// The apps that sent most since this was asked last: at most so many, most bytes first.
    pub fn senders(&self, most: usize) -> Vec<Sender> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            let Shard { apps, senders, .. } = &mut *shard;
            for hash in senders.drain(..) {
                let sent = |named: &Named| named.hash == hash && named.app.sent.0 > 0;
                if let Some(named) = apps.find_mut(hash, sent) {
                    let (envelopes, bytes) = std::mem::take(&mut named.app.sent);
                    let app = named.name.clone();
                    all.push(Sender {
                        app,
                        envelopes,
                        bytes,
                    });
                }
            }
            all.sort_unstable_by_key(|sender| Reverse((sender.bytes, sender.envelopes)));
            all.truncate(most);
        }
        all
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[shard_of(hash)])
    }
}

/// The shard of an app with that hash, of which the table uses the ends.
fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

/// Whether something of that time is older than `age`. Clocks step back: then it is not.
fn is_older(time_ns: i64, age_ns: i64, now_ns: i64) -> bool {
    now_ns.saturating_sub(time_ns) > age_ns
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// Keeps an envelope, and of its app the newest `logs` logs.
    fn keep(&mut self, envelope: &ToKeep<'_>, logs: usize, now_ns: i64) {
        let &ToKeep {
            hash,
            app,
            kind,
            form,
            envelope,
        } = envelope;
        let share = self.cap / 2;
        if APP + METRIC + app.len() + envelope.len() > share {
            return;
        }
        self.kept += 1;
        let Shard {
            apps,
            senders,
            bytes,
            ..
        } = self;
        let is = |named: &Named| *named.name == *app;
        let entry = apps.entry(hash, is, |named| named.hash).or_insert_with(|| {
            *bytes += app.len();
            Named {
                hash,
                name: app.into(),
                app: App::default(),
            }
        });
        let entry = &mut entry.into_mut().app;
        let before = match entry.written {
            0 => 0,
            _ => entry.cost(),
        };
        if entry.sent.0 == 0 && senders.len() < SENDERS {
            senders.push(hash);
            entry.sent = (1, envelope.len() as u64);
        } else if entry.sent.0 > 0 {
            entry.sent = (entry.sent.0 + 1, entry.sent.1 + envelope.len() as u64);
        }
        entry.written = self.kept;
        entry.written_ns = now_ns;
        match kind {
            Kind::Log => entry.keep_log(form, envelope, logs, share),
            Kind::Container(instance) => entry.keep_metric(instance, form, envelope, now_ns),
        }
        entry.shed(share);
        let after = entry.cost();
        self.bytes = self.bytes + after - before;
        self.make_room();
    }

    /// Over the cap the fattest apps let half of what they have go, while one has twice an equal
    /// share. Where none has, those that have more than an equal share are forgotten, whoever was
    /// written to longest ago first. Who has less loses nothing.
    ///
    /// Finding them walks all apps, so this frees a sixteenth of the cap at a time.
    fn make_room(&mut self) {
        if self.bytes <= self.cap {
            return;
        }
        let goal = self.cap - self.cap / 16;
        let mut left = self.apps.len();
        let mut apps: Vec<&mut Named> = self.apps.iter_mut().collect();
        // Only those that may be halved: there are few, or none where all have the same.
        let costs = apps.iter().map(|named| named.cost()).enumerate();
        let fat = costs.filter(|(_, cost)| *cost >= 2 * (goal / left));
        let mut fattest: BinaryHeap<(usize, usize)> = fat.map(|(n, cost)| (cost, n)).collect();
        while self.bytes > goal
            && let Some((cost, n)) = fattest.pop()
            && cost >= 2 * (goal / left)
        {
            apps[n].app.halve();
            let now = apps[n].cost();
            self.bytes -= cost - now;
            if now < cost {
                fattest.push((now, n));
            }
        }
        if self.bytes > goal {
            // A heap, since a few of many go: they need not all be in order.
            let order = apps.iter().enumerate();
            let mut silent: BinaryHeap<Reverse<(u64, usize)>> = order
                .map(|(n, named)| Reverse((named.app.written, n)))
                .collect();
            while self.bytes > goal
                && let Some(Reverse((_, n))) = silent.pop()
            {
                let cost = apps[n].cost();
                if cost > goal / left {
                    self.bytes -= cost;
                    left -= 1;
                    apps[n].app = App::default();
                }
            }
            self.apps.retain(|named| named.app.written > 0);
        }
    }
}

impl Named {
    fn cost(&self) -> usize {
        self.app.cost() + self.name.len()
    }
}

impl App {
    fn keep_log(&mut self, form: Form, envelope: &[u8], most: usize, share: usize) {
        while self.index.len() >= most {
            self.drop_oldest();
        }
        // It is shorter than an app's share.
        self.index.push_back((envelope.len() as u32, form));
        while self.index.len() > 1 && self.beside() + self.logs.len() + envelope.len() > share {
            self.drop_oldest();
        }
        self.grow(envelope.len(), share);
        self.logs.extend(envelope);
    }

    /// Makes room for so many bytes of logs: twice of what there was, but never so much that
    /// [`App::shed`] would give it back. At its share an app's logs stay where they are; to move
    /// a megabyte for each log would let one loud app stop the doors.
    fn grow(&mut self, bytes: usize, share: usize) {
        let needed = self.logs.len() + bytes;
        if needed > self.logs.capacity() {
            let most = share.saturating_sub(self.beside());
            let wanted = (2 * self.logs.capacity()).min(most).max(needed);
            self.logs.reserve_exact(wanted - self.logs.len());
        }
    }

    fn keep_metric(&mut self, instance: i32, form: Form, envelope: &[u8], now_ns: i64) {
        let metric = self.metrics.entry(instance).or_insert_with(|| {
            self.metric_bytes += METRIC;
            Metric {
                form,
                envelope: Vec::new(),
                written_ns: now_ns,
            }
        });
        self.metric_bytes -= metric.envelope.capacity();
        metric.envelope.clear();
        metric.envelope.extend_from_slice(envelope);
        metric.form = form;
        metric.written_ns = now_ns;
        self.metric_bytes += metric.envelope.capacity();
    }

    /// Lets go what is more than `share` bytes: the oldest logs first, then metrics.
    fn shed(&mut self, share: usize) {
        if self.cost() <= share {
            return;
        }
        while self.used() > share && !self.index.is_empty() {
            self.drop_oldest();
        }
        // The memory may have grown to twice of what is in it.
        self.logs.shrink_to_fit();
        self.index.shrink_to_fit();
        while self.cost() > share {
            let oldest = self.metrics.iter().min_by_key(|(_, it)| it.written_ns);
            let Some(instance) = oldest.map(|(instance, _)| *instance) else {
                break;
            };
            self.drop_metric(instance);
        }
    }

    /// Lets go half of what it has: the oldest logs first, then the oldest metrics. What is left
    /// moves to memory of its size.
    fn halve(&mut self) {
        let goal = APP + (self.used() - APP) / 2;
        while self.used() > goal && !self.index.is_empty() {
            self.drop_oldest();
        }
        self.logs.shrink_to_fit();
        self.index.shrink_to_fit();
        if self.used() > goal {
            let metrics = self.metrics.iter();
            let mut oldest: Vec<(i64, i32)> = metrics.map(|(n, it)| (it.written_ns, *n)).collect();
            oldest.sort_unstable();
            for (_, instance) in oldest {
                if self.used() <= goal {
                    break;
                }
                self.drop_metric(instance);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.index.is_empty() && self.metrics.is_empty()
    }

    fn drop_oldest(&mut self) {
        if let Some((length, _)) = self.index.pop_front() {
            self.logs.drain(..length as usize);
        }
    }

    fn drop_metric(&mut self, instance: i32) {
        if let Some(metric) = self.metrics.remove(&instance) {
            self.metric_bytes -= METRIC + metric.envelope.capacity();
        }
    }

    fn forget_metrics(&mut self, ttl_ns: i64, now_ns: i64) {
        let stale = |(instance, metric): (&i32, &Metric)| {
            is_older(metric.written_ns, ttl_ns, now_ns).then_some(*instance)
        };
        let stale: Vec<i32> = self.metrics.iter().filter_map(stale).collect();
        stale
            .iter()
            .for_each(|instance| self.drop_metric(*instance));
    }

    /// What it takes of the cap.
    fn cost(&self) -> usize {
        self.beside() + self.logs.capacity()
    }

    /// The same without the logs themselves.
    fn beside(&self) -> usize {
        let index = self.index.capacity() * size_of::<(u32, Form)>();
        APP + index + self.metric_bytes
    }

    /// What it would take if its memory were filled.
    fn used(&self) -> usize {
        let index = self.index.len() * size_of::<(u32, Form)>();
        APP + self.logs.len() + index + self.metric_bytes
    }
}

/// v1 envelopes, each by itself.
#[derive(Default)]
struct Envelopes(Vec<Vec<u8>>);

impl Envelopes {
    fn add(&mut self, form: Form, envelope: &[u8]) {
        match form {
            Form::V1 => self.0.push(envelope.to_vec()),
            // It was parsed before it was kept.
            Form::V2 => drop(View::parse(envelope).and_then(|view| view.to_v1(self))),
        }
    }
}

impl V1Sink for Envelopes {
    fn begin(&mut self) -> &mut Vec<u8> {
        self.0.push(Vec::new());
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    fn end(&mut self, _: bool, _: &[u8]) {}
}

#[cfg(test)]
mod tests;
