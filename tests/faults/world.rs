//! A cluster with agents that send, clients that read, and somebody who looks at all of it: the
//! place where every fault happens, and where the oracle's sums are set against the processes'.

use crate::feed::Feed;
use crate::nozzle::Nozzle;
use crate::watch::{Watch, Watched};
use harness::admin::{self, Page};
use harness::cluster::{Builder, Cluster, Controller, Doppler};
use harness::envelopes::Workload;
use harness::process::{Process, Signal};
use harness::reader::Opening;
use harness::{eventually, within};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Resident memory of a process, at most (design 12): 256 MiB.
pub(crate) const RESIDENT: u64 = 256 << 20;

/// Log lines a process may write in one second (I7).
const LINES_A_SECOND: usize = 10;

/// How long what is on its way may take once a fault is over; how long files may take to close.
pub(crate) const SETTLE: Duration = Duration::from_secs(30);

/// How long a stream runs on after it recovered: it may lose nothing in it.
const AFTER: Duration = Duration::from_millis(700);

/// How long a process may take to drain: its own 4 s, and room.
const DRAINED: Duration = Duration::from_secs(8);

/// How often every process is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How often sums are compared until they agree: a report of a link comes every 100 ms.
const AGAIN: Duration = Duration::from_millis(100);

/// Lines and envelopes shown of a failure.
const SHOWN: usize = 20;

/// Envelopes a second of each feed, unless a fault says otherwise: a fifth of what one core
/// takes in the dev profile, so that faults can run beside each other.
pub(crate) const RATE: u64 = 1_000;

/// Doppler's own metrics would be in the sums: never, or nearly.
const NO_OWN_METRICS: u64 = 3_600_000;

/// What became of one fault.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// From the fault's end until everything flowed again, without loss from then on.
    pub(crate) recovery: Duration,
    /// Envelopes readers were due.
    pub(crate) due: u64,
    /// What the oracle misses.
    pub(crate) lost: u64,
    /// What the processes say they lost: at least, at most.
    pub(crate) told: (u64, u64),
    /// What else was measured.
    pub(crate) note: String,
}

/// Everything in which a fault happens.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) rng: fastrand::Rng,
    pub(crate) feeds: Vec<Feed>,
    pub(crate) nozzles: Vec<Nozzle>,
    pub(crate) watch: Watch,
    /// Files open while nobody reads or sends, by process.
    idle: BTreeMap<String, usize>,
    /// What drained processes said last: lost by them, and offered to readers by Dopplers.
    drained: u64,
    offered_by_drained: u64,
    /// Processes that write more, for a reason.
    pub(crate) talkative: bool,
}

impl World {
    /// Dopplers and Traffic Controllers with mTLS and TLS, and nothing of their own in the
    /// streams.
    pub(crate) fn describe(dopplers: usize, controllers: usize) -> Builder {
        Cluster::builder()
            .dopplers(dopplers)
            .controllers(controllers)
            .mtls()
            .doppler_flag("--metric-interval-ms", NO_OWN_METRICS)
    }

    /// Starts what was described.
    pub(crate) async fn start(builder: Builder, seed: u64) -> World {
        World::start_looking(builder, seed, LOOK).await
    }

    /// Starts what was described, and looks at it so often.
    pub(crate) async fn start_looking(builder: Builder, seed: u64, every: Duration) -> World {
        let cluster = builder.start().await;
        let mut world = World {
            cluster,
            rng: fastrand::Rng::with_seed(seed),
            feeds: Vec::new(),
            nozzles: Vec::new(),
            watch: Watch::start(every),
            idle: BTreeMap::new(),
            drained: 0,
            offered_by_drained: 0,
            talkative: false,
        };
        let processes = world.processes();
        for (process, admin) in processes {
            world.watch.add(Watched {
                name: process.name().to_owned(),
                id: process.id(),
                admin,
            });
        }
        world.idle = world.open_files();
        world
    }

    pub(crate) fn processes(&self) -> Vec<(&Process, SocketAddr)> {
        let dopplers = self.cluster.dopplers.iter();
        let dopplers = dopplers.map(|doppler| (&doppler.process, doppler.admin));
        let controllers = self.cluster.controllers.iter();
        let controllers = controllers.map(|controller| (&controller.process, controller.admin));
        dopplers.chain(controllers).collect()
    }

    pub(crate) fn open_files(&self) -> BTreeMap<String, usize> {
        let processes = self.processes().into_iter();
        processes
            .map(|(process, _)| (process.name().to_owned(), process.open_files()))
            .collect()
    }

    /// A payload size of this seed's.
    pub(crate) fn payload(&mut self) -> usize {
        self.rng.usize(20..600)
    }

    /// A feed into Doppler `doppler`, known as number `doppler`.
    pub(crate) fn feed(&mut self, doppler: usize, workload: Workload, rate: u64) {
        let to = &self.cluster.dopplers[doppler];
        let id = self.feeds.len() as u32;
        let feed = Feed::start(to.address, to.tls(), id, workload, rate);
        self.feeds.push(feed);
    }

    /// One feed into each Doppler.
    pub(crate) fn feed_all(&mut self, apps: u32, rate: u64) {
        let workload = Workload::logs(apps, self.payload());
        for doppler in 0..self.cluster.dopplers.len() {
            self.feed(doppler, workload, rate);
        }
    }

    /// A firehose client of Traffic Controller `controller`, subscribed at every Doppler.
    pub(crate) async fn firehose(&mut self, id: &str, controller: usize) {
        let address = self.cluster.controllers[controller].address;
        self.firehose_at(id, address).await;
    }

    /// A firehose client of whatever is at `address`, subscribed at every Doppler.
    pub(crate) async fn firehose_at(&mut self, id: &str, address: SocketAddr) {
        self.firehose_as(id, address, None).await;
    }

    /// As [`World::firehose_at`], with a token.
    pub(crate) async fn firehose_as(
        &mut self,
        id: &str,
        address: SocketAddr,
        token: Option<String>,
    ) {
        let (tls, path) = (self.cluster.controllers[0].tls(), format!("/firehose/{id}"));
        let how = Box::new(move |_| {
            let opening = Opening::new(address, tls.clone(), path.clone());
            match &token {
                Some(token) => opening.token(token),
                None => opening,
            }
        });
        self.nozzles.push(Nozzle::start(id, None, how));
        self.cluster.subscribed(id, 1).await;
    }

    /// A client that tails an app at Traffic Controller `controller`; the only one there.
    pub(crate) async fn tail(&mut self, app: u32, controller: usize, receive_buffer: Option<u32>) {
        let from = &self.cluster.controllers[controller];
        let (address, tls) = (from.address, from.tls());
        let path = format!("/apps/{}/stream", harness::envelopes::guid(app));
        let how = Box::new(move |_| {
            let opening = Opening::new(address, tls.clone(), path.clone()).only(app);
            match receive_buffer {
                Some(bytes) => opening.receive_buffer(bytes),
                None => opening,
            }
        });
        let name = format!("tail of app {app} at {}", from.process.name());
        self.nozzles.push(Nozzle::start(name, Some(app), how));
    }

    /// Waits until nozzle `nozzle` has something of each feed, so that a fault hits a stream
    /// that flows.
    pub(crate) async fn flows(&self) {
        for nozzle in 0..self.nozzles.len() {
            for feed in &self.feeds {
                let what = format!("{} reads feed {}", self.nozzles[nozzle].name, feed.id);
                eventually(SETTLE, &what, async || {
                    self.nozzles[nozzle].seen().highest_of(feed.id).is_some()
                })
                .await;
            }
        }
        // A part of a second that depends on the seed, so that it hits anywhere.
        let mut rng = self.rng.clone();
        tokio::time::sleep(Duration::from_millis(rng.u64(300..700))).await;
    }

    /// Starts Doppler `n` again on its port; the dead one's log is looked at.
    pub(crate) async fn revive_doppler(&mut self, n: usize) {
        let port = self.cluster.dopplers[n].address.port();
        let name = self.cluster.dopplers[n].process.name().to_owned();
        let doppler = self.cluster.start_doppler(&name, port).await;
        let dead = std::mem::replace(&mut self.cluster.dopplers[n], doppler);
        let new = &self.cluster.dopplers[n];
        self.exchange(&dead.process, &new.process, new.admin);
    }

    /// Starts Traffic Controller `n` again on its port; the dead one's log is looked at.
    pub(crate) async fn revive_controller(&mut self, n: usize) {
        let port = self.cluster.controllers[n].address.port();
        let name = self.cluster.controllers[n].process.name().to_owned();
        let controller = self.cluster.start_controller_on(&name, port).await;
        let dead = std::mem::replace(&mut self.cluster.controllers[n], controller);
        let new = &self.cluster.controllers[n];
        self.exchange(&dead.process, &new.process, new.admin);
    }

    /// Stops Doppler `n` with SIGTERM, keeps its last words, and starts it again.
    pub(crate) async fn restart_doppler(&mut self, n: usize) {
        let process = &mut self.cluster.dopplers[n].process;
        assert_eq!(process.terminate(DRAINED).await, 0);
        self.offered_by_drained += last_words(process, "offered");
        self.drained += last_words(process, "dropped");
        self.revive_doppler(n).await;
    }

    /// Stops Traffic Controller `n` with SIGTERM, keeps its last words, and starts it again.
    pub(crate) async fn restart_controller(&mut self, n: usize) {
        let process = &mut self.cluster.controllers[n].process;
        assert_eq!(process.terminate(DRAINED).await, 0);
        self.drained += last_words(process, "dropped");
        self.revive_controller(n).await;
    }

    /// Kills a process with SIGKILL, and waits until it is gone.
    pub(crate) async fn kill(process: &mut Process) {
        process.signal(Signal::Kill);
        let gone = within(DRAINED, || {
            let gone = process.exited().is_some();
            async move { gone }
        });
        assert!(gone.await, "SIGKILL did not end it");
    }

    fn exchange(&self, dead: &Process, new: &Process, admin: SocketAddr) {
        self.watch.remove(dead.id());
        assert_calm(dead, self.talkative);
        self.watch.add(Watched {
            name: new.name().to_owned(),
            id: new.id(),
            admin,
        });
    }

    /// Waits until every nozzle that is due it has something that `feed` sends from now on;
    /// returns how long that took since `since`.
    pub(crate) async fn recovered(
        &self,
        feeds: &[usize],
        nozzles: &[usize],
        since: Instant,
    ) -> Duration {
        for feed in feeds {
            let feed = &self.feeds[*feed];
            let from = feed.handed();
            for nozzle in nozzles {
                let nozzle = &self.nozzles[*nozzle];
                let what = format!("{} reads feed {} from {from} on", nozzle.name, feed.id);
                eventually(SETTLE * 2, &what, async || {
                    nozzle
                        .seen()
                        .highest_of(feed.id)
                        .is_some_and(|last| last >= from)
                })
                .await;
            }
        }
        since.elapsed()
    }

    /// All feeds and nozzles.
    pub(crate) fn everything(&self) -> (Vec<usize>, Vec<usize>) {
        (
            (0..self.feeds.len()).collect(),
            (0..self.nozzles.len()).collect(),
        )
    }

    /// Where each feed stands.
    pub(crate) fn marks(&self) -> Vec<u64> {
        self.feeds.iter().map(Feed::handed).collect()
    }

    /// Runs on for a while, then stops the feeds and waits until all nozzles have everything
    /// that was sent since `marks`: a stream that recovered loses no more.
    pub(crate) async fn loses_nothing_since(&mut self, marks: &[u64]) {
        tokio::time::sleep(AFTER).await;
        for feed in &mut self.feeds {
            feed.finish().await;
        }
        let complete = within(SETTLE, async || {
            (0..self.nozzles.len()).all(|nozzle| self.missing(nozzle, marks).is_empty())
        });
        let complete = complete.await;
        for nozzle in 0..self.nozzles.len() {
            let missing = self.missing(nozzle, marks);
            assert!(
                complete || missing.is_empty(),
                "{} lost {} after it had recovered: {:?}",
                self.nozzles[nozzle].name,
                missing.len(),
                &missing[..missing.len().min(SHOWN)],
            );
        }
    }

    /// What that nozzle was due of what was sent since `marks`, and has not, as (feed, number).
    pub(crate) fn missing(&self, nozzle: usize, marks: &[u64]) -> Vec<(u32, u64)> {
        let nozzle = &self.nozzles[nozzle];
        let seen = nozzle.seen();
        let mut missing = Vec::new();
        for (feed, mark) in self.feeds.iter().zip(marks) {
            let due = (*mark..feed.handed())
                .filter(|n| nozzle.app.is_none_or(|app| feed.workload.app(*n) == app));
            let due = due.filter(|n| !seen.has(feed.id, *n));
            missing.extend(due.map(|n| (feed.id, n)));
        }
        missing
    }

    /// What all nozzles together were due, and what they miss.
    pub(crate) fn due_and_lost(&self) -> (u64, u64) {
        let (mut due, mut lost) = (0, 0);
        let zero = vec![0; self.feeds.len()];
        for nozzle in 0..self.nozzles.len() {
            lost += self.missing(nozzle, &zero).len() as u64;
            for feed in &self.feeds {
                let app = self.nozzles[nozzle].app;
                due += match app {
                    None => feed.handed(),
                    Some(app) => {
                        let theirs = (0..feed.handed()).filter(|n| feed.workload.app(*n) == app);
                        theirs.count() as u64
                    }
                };
            }
        }
        (due, lost)
    }

    /// Which feeds' envelopes are missing, of those sent before their last break.
    pub(crate) fn lost_of(&self, feed: usize) -> u64 {
        let zero = vec![0; self.feeds.len()];
        let all = 0..self.nozzles.len();
        let missing = all.flat_map(|nozzle| self.missing(nozzle, &zero));
        missing.filter(|(id, _)| *id == feed as u32).count() as u64
    }

    /// What all processes that live, and those that drained, say they lost: dropped by either
    /// service, or in between.
    pub(crate) async fn dropped(&self) -> u64 {
        let mut dropped = self.drained;
        for (_, admin) in self.processes() {
            let page: Page = admin::subscriptions(admin).await;
            dropped += page.sum().lost() + page.gap();
        }
        dropped
    }

    /// What may be lost beyond that: with a Doppler that sent no last report, or with a Traffic
    /// Controller that confirmed no more.
    async fn unknown(&self) -> u64 {
        let mut unknown = 0;
        for (_, admin) in self.processes() {
            let page: Page = admin::subscriptions(admin).await;
            let (least, most) = page.gap_range();
            unknown += most - least + page.unconfirmed;
        }
        unknown
    }

    /// What the Dopplers offered to their readers, open or gone.
    async fn offered(&self) -> u64 {
        let mut offered = self.offered_by_drained;
        for doppler in &self.cluster.dopplers {
            offered += doppler.page().await.sum().offered;
        }
        offered
    }

    /// What Doppler `n`, which was started again, took from its feed before anybody read it,
    /// once for each nozzle: all the feed sent since it broke, but for what was offered.
    pub(crate) async fn unread(&self, n: usize) -> u64 {
        let feed = &self.feeds[n];
        let broke = feed.breaks().last().copied().unwrap_or_default();
        let taken = (feed.handed() - broke) * self.nozzles.len() as u64;
        taken - self.cluster.dopplers[n].page().await.sum().offered
    }

    /// What holds after every fault (I1–I4, I6–I8), checked with everything still open; then
    /// everybody leaves, and every process is as it was.
    pub(crate) async fn holds(&mut self) -> String {
        for nozzle in &self.nozzles {
            nozzle.seen().assert_clean(&nozzle.name);
        }
        let (wrong, peaks) = self.watch.found();
        let (looks, slowest) = self.watch.looks();
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(looks > 0, "nobody looked");
        for (name, peak) in &peaks {
            assert!(*peak <= RESIDENT, "{name} had {} MiB resident", peak >> 20);
        }
        for (process, _) in self.processes() {
            assert_calm(process, self.talkative);
        }
        self.cluster.assert_balanced().await;
        self.nozzles.clear();
        self.feeds.clear();
        let back = within(SETTLE, async || {
            let now = self.open_files();
            now.iter().all(|(name, files)| files <= &self.idle[name])
        });
        let back = back.await;
        let now = self.open_files();
        assert!(back, "files open while idle: {:?}, now: {now:?}", self.idle);
        let most = peaks.values().max().copied().unwrap_or_default() >> 20;
        format!("{most} MiB, pages in {} ms", slowest.as_millis())
    }

    /// The end of a fault without a kill: what the processes say is what the oracle misses, to
    /// the envelope.
    pub(crate) async fn exact(mut self, recovery: Duration) -> Outcome {
        let (due, _) = self.due_and_lost();
        let end = Instant::now() + SETTLE;
        let (lost, told) = loop {
            let lost = self.due_and_lost().1;
            // What Dopplers never offered, they never had, or nobody read them yet.
            let told = due.saturating_sub(self.offered().await) + self.dropped().await;
            if lost == told || Instant::now() >= end {
                break (lost, told);
            }
            tokio::time::sleep(AGAIN).await;
        };
        let note = self.holds().await;
        Outcome {
            recovery,
            due,
            lost,
            told: (told, told),
            note,
        }
    }

    /// As [`World::exact`], where others came and went whose sums are in the pages: our
    /// readers lost nothing, and nothing is what they were told.
    pub(crate) async fn lossless(mut self, recovery: Duration) -> Outcome {
        let (due, lost) = self.due_and_lost();
        let told = self.nozzles.iter().map(|nozzle| nozzle.seen().told()).sum();
        let note = self.holds().await;
        Outcome {
            recovery,
            due,
            lost,
            told: (told, told),
            note,
        }
    }

    /// The end of a fault with a kill: beside what the living say they lost, `known` is, and
    /// `on_its_way` can have been lost before the dead had it.
    pub(crate) async fn between(
        mut self,
        recovery: Duration,
        known: u64,
        on_its_way: u64,
    ) -> Outcome {
        let (due, lost) = self.due_and_lost();
        let dropped = self.dropped().await;
        let told = dropped + known;
        let unknown = self.unknown().await + on_its_way;
        let note = self.holds().await;
        let note = format!("{dropped} in gaps or dropped, {known} unread; {note}");
        Outcome {
            recovery,
            due,
            lost,
            told: (told, told + unknown),
            note,
        }
    }

    /// Doppler `n`.
    pub(crate) fn doppler(&mut self, n: usize) -> &mut Doppler {
        &mut self.cluster.dopplers[n]
    }

    /// Traffic Controller `n`.
    pub(crate) fn controller(&mut self, n: usize) -> &mut Controller {
        &mut self.cluster.controllers[n]
    }
}

/// A sum in the last lines of a process: of each endpoint, if there are several.
fn last_words(process: &Process, name: &str) -> u64 {
    let lines = process.log();
    let words = lines.iter().filter(|line| line.contains("drained"));
    let values: Vec<u64> = words
        .flat_map(|line| line.split_whitespace())
        .filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        .collect();
    assert!(!values.is_empty(), "{} said no {name}", process.name());
    values.iter().sum()
}

/// No panic, and few lines.
fn assert_calm(process: &Process, talkative: bool) {
    let log = process.log();
    let panicked = log.iter().find(|line| line.contains("panicked at"));
    assert_eq!(panicked, None, "{} panicked", process.name());
    let mut seconds: BTreeMap<&str, usize> = BTreeMap::new();
    for line in &log {
        // `2026-11-21T18:00:00`, the second of a line.
        let second = line.trim_start_matches("\u{1b}[2m").get(..19);
        if let Some(second) = second.filter(|second| second.contains('T')) {
            *seconds.entry(second).or_default() += 1;
        }
    }
    let most = seconds.values().max().copied().unwrap_or_default();
    assert!(
        talkative || most <= LINES_A_SECOND,
        "{} wrote {most} lines in one second",
        process.name()
    );
}

impl Drop for World {
    /// What a person needs who is to find out why.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let zero = vec![0; self.feeds.len()];
        for nozzle in 0..self.nozzles.len() {
            let missing = self.missing(nozzle, &zero);
            let of = &self.nozzles[nozzle];
            eprintln!(
                "---- {} ({} connections, {:?}) misses {}, the first: {:?}; told of {}",
                of.name,
                of.opened(),
                of.ends(),
                missing.len(),
                &missing[..missing.len().min(SHOWN)],
                of.seen().told(),
            );
        }
        for feed in &self.feeds {
            let (handed, breaks) = (feed.handed(), feed.breaks());
            eprintln!("---- feed {} sent {handed}, broke at {breaks:?}", feed.id);
        }
        for (process, admin) in self.processes() {
            for path in ["/subscriptions", "/metrics"] {
                let page = page(admin, path).unwrap_or_else(|error| error.to_string());
                let lines = page.lines().filter(|line| !line.starts_with('#'));
                let lines: Vec<&str> = lines.collect();
                eprintln!("---- {} {path}\n{}", process.name(), lines.join("\n"));
            }
        }
    }
}

/// A page, for whoever cannot wait in the runtime.
fn page(admin: SocketAddr, path: &str) -> std::io::Result<String> {
    let patience = Duration::from_secs(1);
    let mut tcp = TcpStream::connect_timeout(&admin, patience)?;
    tcp.set_read_timeout(Some(patience))?;
    write!(tcp, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned());
    Ok(body.unwrap_or(answer))
}
