//! What is kept of each app: its newest logs, and the newest container metric of each instance.
//!
//! In come envelopes as they came to the door, v2 or v1, and the time; out come snapshots as v1.
//! They are converted when somebody asks, which is seldom: keeping one is a copy into memory
//! that the app has already.
//!
//! Bounded in logs per app and in bytes altogether. Over the cap the app that was written to
//! longest ago is forgotten; one app may take half a shard, and lets its own oldest logs go
//! beyond that, so that a fat app costs the others little.

use proto::transcode::{V1Sink, View};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Parts that are locked each for itself, so that doors seldom meet. A power of two.
const SHARDS: usize = 16;

/// How long an app is remembered after its last log or container metric: upstream's hour.
const MEMORY_NS: i64 = 3_600 * 1_000_000_000;

/// What an app costs beside what it has said: itself, its place in the table, allocations.
const APP: usize = size_of::<App>() + 128;

/// What a container metric costs beside its bytes.
const METRIC: usize = size_of::<(i32, Metric)>() + 32;

/// Everything that is kept.
pub struct Recents {
    shards: Vec<Mutex<Shard>>,
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

struct Shard {
    cap: usize,
    bytes: usize,
    /// Counts what was kept: the least recently written app is the one with the lowest number.
    kept: u64,
    apps: HashMap<Box<[u8]>, App>,
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
                apps: HashMap::new(),
            })
        };
        Recents {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            logs,
            ttl_ns: i64::try_from(ttl.as_nanos()).unwrap_or(i64::MAX),
        }
    }

    /// Whether anything is kept at all.
    pub fn keeps(&self) -> bool {
        self.logs > 0
    }

    /// Keeps an envelope of `app` that came at `now_ns`. One of no app is not kept, nor one that
    /// is longer than an app's share.
    pub fn keep(&self, app: &[u8], kind: Kind, form: Form, envelope: &[u8], now_ns: i64) {
        if app.is_empty() || !self.keeps() {
            return;
        }
        let mut shard = self.shard(app);
        let share = shard.cap / 2;
        if APP + METRIC + app.len() + envelope.len() > share {
            return;
        }
        shard.kept += 1;
        let kept = shard.kept;
        let (entry, before) = match shard.apps.get_mut(app) {
            Some(entry) => {
                let before = entry.cost();
                (entry, before)
            }
            None => {
                shard.bytes += app.len();
                (shard.apps.entry(app.into()).or_default(), 0)
            }
        };
        entry.written = kept;
        entry.written_ns = now_ns;
        match kind {
            Kind::Log => entry.keep_log(form, envelope, self.logs, share),
            Kind::Container(instance) => entry.keep_metric(instance, form, envelope, now_ns),
        }
        entry.shed(share);
        let after = entry.cost();
        shard.bytes = shard.bytes + after - before;
        shard.make_room();
    }

    /// The newest `logs` logs of `app`, oldest first, and with `metrics` its current container
    /// metrics, each as a v1 envelope.
    pub fn snapshot(&self, app: &str, logs: usize, metrics: bool, now_ns: i64) -> Vec<Vec<u8>> {
        let mut shard = self.shard(app.as_bytes());
        let mut envelopes = Envelopes::default();
        let Some(app) = shard.apps.get_mut(app.as_bytes()) else {
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
            shard.apps.retain(|name, app| {
                let before = app.cost();
                let silent = is_older(app.written_ns, MEMORY_NS, now_ns);
                app.forget_metrics(self.ttl_ns, now_ns);
                let empty = app.index.is_empty() && app.metrics.is_empty();
                freed += match silent || empty {
                    true => before + name.len(),
                    false => before - app.cost(),
                };
                !(silent || empty)
            });
            shard.bytes -= freed;
        }
    }

    /// The shard of an app: ids differ at their ends, whether GUIDs or names.
    fn shard(&self, app: &[u8]) -> MutexGuard<'_, Shard> {
        let end = app.iter().rev().take(8);
        let mixed = end.fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
        // Fibonacci hashing: the top bits of the product depend on all of the factor.
        let spread = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        lock(&self.shards[(spread >> (64 - SHARDS.ilog2())) as usize])
    }
}

/// Whether something of that time is older than `age`. Clocks step back: then it is not.
fn is_older(time_ns: i64, age_ns: i64, now_ns: i64) -> bool {
    now_ns.saturating_sub(time_ns) > age_ns
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// Forgets the apps that were written to longest ago until the cap holds.
    ///
    /// Finding them walks all apps, so this frees a sixteenth of the cap at a time.
    fn make_room(&mut self) {
        if self.bytes <= self.cap {
            return;
        }
        let goal = self.cap - self.cap / 16;
        let apps = self.apps.iter();
        let mut oldest: Vec<(u64, usize)> = apps
            .map(|(name, app)| (app.written, app.cost() + name.len()))
            .collect();
        oldest.sort_unstable();
        let mut last = 0;
        for (written, cost) in oldest {
            if self.bytes <= goal {
                break;
            }
            self.bytes -= cost;
            last = written;
        }
        self.apps.retain(|_, app| app.written > last);
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
