//! The set of Dopplers while we run: follows its sources, keeps the one app link to each, and
//! shows the set to all streams.
//!
//! In come the sources of [`super::discovery`], out comes [`Dopplers`], a set that may change.
//! A Doppler that leaves is read to its last count before it is forgotten, and one of the same
//! address joins only then: nothing is read twice.

use super::app_link::AppLink;
use super::discovery::{self, Addresses, Name, Source};
use super::gate::Pace;
use super::outages::{self, Outages};
use super::roll::{MOST, Roll};
use super::{Doppler, Hop, Hops};
use crate::metrics::Metrics;
use crate::topics::Topics;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};
use transport::listener::Dialer;
use transport::reload::Reloaded;
use transport::shutdown::{Drain, Shutdown};

/// How often it is looked what the sources say, and which Dopplers are reached: 200 ms.
const LOOK: Duration = Duration::from_millis(200);

/// How long app links are waited for when the process stops. They end by themselves.
const ENDED: Duration = Duration::from_secs(2);

/// Who says which Dopplers there are. All of them count together.
#[derive(Default)]
pub struct Sources {
    /// Addresses that do not change.
    pub settings: Addresses,
    /// Addresses in a file.
    pub file: Option<Reloaded<Addresses>>,
    /// Names whose addresses they are.
    pub dns: Vec<Name>,
    /// Who is asked about names; whoever /etc/resolv.conf names if nobody.
    pub dns_server: Option<SocketAddr>,
}

/// The Dopplers at this moment. Clones show the same.
#[derive(Clone)]
pub struct Dopplers(watch::Receiver<Arc<[Arc<Doppler>]>>);

impl Dopplers {
    /// Those that are there now; [`Dopplers::changed`] then waits for others.
    pub fn now(&mut self) -> Arc<[Arc<Doppler>]> {
        self.0.borrow_and_update().clone()
    }

    /// Waits until there are others than those last asked for. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody follows the sources any more.
            std::future::pending::<()>().await;
        }
    }
}

/// A set that stays as it is.
impl FromIterator<Arc<Doppler>> for Dopplers {
    fn from_iter<I: IntoIterator<Item = Arc<Doppler>>>(dopplers: I) -> Dopplers {
        Dopplers(watch::channel(dopplers.into_iter().collect()).1)
    }
}

/// Keeps the set.
pub struct Members {
    sources: Sources,
    dialer: Dialer,
    topics: Arc<Topics>,
    pace: Arc<Pace>,
    shown: watch::Sender<Arc<[Arc<Doppler>]>>,
    hops: Arc<Hops>,
    roll: Roll,
    outages: Outages,
    is_full: bool,
    here: BTreeMap<Arc<str>, Member>,
    leaving: BTreeMap<Arc<str>, Member>,
}

/// A Doppler and its app link.
struct Member {
    doppler: Arc<Doppler>,
    hop: Arc<Hop>,
    drain: Drain,
    link: JoinHandle<()>,
}

impl Members {
    /// Nobody yet. They are dialled with `dialer`, and their app links fill `topics`.
    pub fn new(sources: Sources, dialer: Dialer, topics: Arc<Topics>) -> Members {
        Members {
            sources,
            dialer,
            topics,
            pace: Pace::new(),
            shown: watch::channel([].into()).0,
            hops: Arc::default(),
            roll: Roll::default(),
            outages: Outages::default(),
            is_full: false,
            here: BTreeMap::new(),
            leaving: BTreeMap::new(),
        }
    }

    /// The set.
    pub fn dopplers(&self) -> Dopplers {
        Dopplers(self.shown.subscribe())
    }

    /// What the app links count.
    pub fn app_links(&self) -> Arc<Hops> {
        self.hops.clone()
    }

    /// Follows the sources until the shutdown begins; then says so to the Dopplers and reads
    /// what they had begun to send.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut questions = JoinSet::new();
        let mut asked = vec![];
        for name in std::mem::take(&mut self.sources.dns) {
            let (known, answers) = watch::channel(Addresses::new());
            questions.spawn(discovery::follow(name, self.sources.dns_server, known));
            asked.push(answers);
        }
        let mut every = tokio::time::interval(LOOK);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => self.look(&asked),
                () = shutdown.begun() => break,
            }
        }
        drop(questions);
        let all = self.here.into_values().chain(self.leaving.into_values());
        let links: Vec<_> = all
            .map(|member| {
                member.drain.begin();
                member.link
            })
            .collect();
        // The hops stay as they are: they are read once more when the process ends.
        let _ = tokio::time::timeout(ENDED, futures::future::join_all(links)).await;
    }

    fn look(&mut self, asked: &[watch::Receiver<Addresses>]) {
        let now = Instant::now();
        let over: Vec<_> = self
            .leaving
            .extract_if(.., |_, member| member.link.is_finished())
            .collect();
        for (_, member) in over {
            self.hops.leave(&member.hop);
        }
        self.follow(&self.named(asked), now);
        self.tell(now);
    }

    /// Whom the sources name. Of two that name the same, the more lasting counts.
    fn named(&self, asked: &[watch::Receiver<Addresses>]) -> BTreeMap<Arc<str>, Source> {
        let mut named = BTreeMap::new();
        for answer in asked {
            let answer = answer.borrow();
            named.extend(answer.iter().map(|it| (it.clone(), Source::Dns)));
        }
        if let Some(file) = &self.sources.file {
            named.extend(file.now().iter().map(|it| (it.clone(), Source::File)));
        }
        let settings = self.sources.settings.iter();
        named.extend(settings.map(|it| (it.clone(), Source::Settings)));
        named
    }

    fn follow(&mut self, named: &BTreeMap<Arc<str>, Source>, now: Instant) {
        let (here, leaving) = (&self.here, &self.leaving);
        let is_reached = |address: &str| {
            here.get(address)
                .is_some_and(|member| member.doppler.is_reached())
        };
        let is_free = |address: &str| !leaving.contains_key(address);
        let change = self.roll.follow(named, is_reached, is_free, now);
        let is_full = change.refused > 0;
        if is_full && !self.is_full {
            error!(
                refused = change.refused,
                most = MOST,
                "more Dopplers are named than we read from: name fewer to each Traffic Controller"
            );
        }
        self.is_full = is_full;
        if change.joined.is_empty() && change.left.is_empty() {
            return;
        }
        info!(
            joined = outages::named(&change.joined),
            left = outages::named(&change.left),
            "the Dopplers have changed"
        );
        for address in change.left {
            if let Some(member) = self.here.remove(&address) {
                member.drain.begin();
                self.leaving.insert(address, member);
            }
        }
        for address in change.joined {
            let member = self.join(&address);
            self.here.insert(address, member);
        }
        let dopplers = self.here.values().map(|member| member.doppler.clone());
        self.shown.send_replace(dopplers.collect());
    }

    fn join(&self, address: &Arc<str>) -> Member {
        let doppler = Doppler::paced(address.clone(), self.dialer.clone(), self.pace.clone());
        let doppler = Arc::new(doppler);
        let drain = Drain::new();
        let (link, hop) = AppLink::new(doppler.clone(), self.topics.clone());
        self.hops.join(hop.clone());
        Member {
            doppler,
            hop,
            link: tokio::spawn(link.run(drain.shutdown())),
            drain,
        }
    }

    fn tell(&mut self, now: Instant) {
        let here = self.here.iter();
        let reached = here.map(|(address, member)| (address, member.doppler.is_reached()));
        let news = self.outages.look(reached, now);
        if let Some(first) = news.away.first() {
            let trouble = self.here.get(first).map(|member| member.doppler.trouble());
            warn!(
                doppler = outages::named(&news.away),
                count = news.away.len(),
                error = trouble.unwrap_or_default(),
                "cannot read from a Doppler; trying on"
            );
        }
        if !news.back.is_empty() {
            info!(
                doppler = outages::named(&news.back),
                count = news.back.len(),
                "reading from the Doppler again"
            );
        }
        let connected = self.here.values().filter(|it| it.hop.page().connected);
        Metrics::dopplers(self.here.len(), connected.count());
    }
}
