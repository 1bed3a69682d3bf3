//! What happens in one simulation, and what must be true all the while and in the end.

use crate::client::Client;
use crate::controller::{self, Outside};
use crate::dopplers::{self, Lives, Order, host};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use traffic_controller::dopplers::discovery::Addresses;
use traffic_controller::page::Ledger;
use transport::ledger::Account;
use turmoil::{Builder, Sim};

/// How many Dopplers there are, named or not.
const DOPPLERS: usize = 3;

/// How much happens in one simulation.
const EVENTS: usize = 8;

/// Once nobody is held, down or left out any more, every stream reads every Doppler within this: the 2 s
/// that are promised, and the look at what is named before.
const RECOVERED: Duration = Duration::from_millis(2_200);

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A Doppler is named no more.
    Leave,
    /// It is named again.
    Join,
    /// Its process is killed.
    Kill,
    /// Its process drains.
    Drain,
    /// Its process starts again.
    Start,
    /// The network to it is cut, and keeps what is sent for later, as TCP does.
    Cut,
    /// The network is mended.
    Mend,
}

/// What happened in some simulations.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub events: BTreeMap<Event, u64>,
    pub delivered: u64,
    pub lost: u64,
    /// The longest time until all was well again.
    pub recovered: Duration,
    pub simulated: Duration,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Summary) {
        for (event, count) in &other.events {
            *self.events.entry(*event).or_default() += count;
        }
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.recovered = self.recovered.max(other.recovered);
        self.simulated += other.simulated;
    }
}

/// One Doppler as the story has it.
struct Character {
    lives: Lives,
    is_named: bool,
    is_running: bool,
    is_killed: bool,
    is_cut_off: bool,
}

impl Character {
    /// Its process has ended.
    fn is_gone(&self) -> bool {
        self.is_killed || self.lives.last().is_over.load(Ordering::Relaxed)
    }
}

struct Story {
    sim: Sim<'static>,
    rng: fastrand::Rng,
    dopplers: Vec<Character>,
    clients: Vec<Client>,
    named: watch::Sender<Arc<Addresses>>,
    order: watch::Sender<Order>,
    is_over: watch::Receiver<bool>,
    ledger: Arc<OnceLock<Arc<Ledger>>>,
    summary: Summary,
}

/// Tells the story of that seed.
pub(crate) fn run(seed: u64) -> Summary {
    // Everything below draws from these, and runs in this thread.
    fastrand::seed(seed);
    let mut story = Story::begin(seed);
    // Each seed has some kinds of trouble only: what hides behind one shows without it.
    let kinds = story.rng.u8(1..16);
    let may_lose = kinds & 0b1010 != 0;
    for _ in 0..EVENTS {
        story.happen(kinds);
        let pause = story.rng.u64(20..900);
        story.pass(Duration::from_millis(pause));
    }
    story.mend();
    story.recover();
    story.end(may_lose);
    story.summary.simulated = story.sim.elapsed();
    story.summary
}

impl Story {
    fn begin(seed: u64) -> Story {
        let mut sim = Builder::new()
            .rng_seed(seed)
            .enable_random_order()
            .simulation_duration(Duration::from_secs(120))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(5))
            .tcp_capacity(4_096)
            .build();
        let mut dopplers = Vec::new();
        for doppler in 0..DOPPLERS {
            let lives = Lives::default();
            let of_host = lives.clone();
            sim.host(host(doppler), move || {
                dopplers::run(doppler, of_host.clone())
            });
            dopplers.push(Character {
                lives,
                is_named: true,
                is_running: true,
                is_killed: false,
                is_cut_off: false,
            });
        }
        let (named, now_named) = watch::channel(Arc::default());
        let (order, orders) = watch::channel(Order::Run);
        let (says_over, is_over) = watch::channel(false);
        let ledger = Arc::new(OnceLock::new());
        let outside = Outside {
            named: now_named,
            order: orders,
            ledger: ledger.clone(),
            is_over: says_over,
        };
        sim.host(controller::HOST, move || controller::run(outside.clone()));
        let app = harness::envelopes::guid(0);
        let clients = vec![
            Client::new("/firehose/a", None),
            Client::new("/firehose/a", None),
            Client::new("/firehose/b?filter-type=logs", None),
            Client::new(&format!("/apps/{app}/stream"), Some(0)),
        ];
        let mut story = Story {
            sim,
            rng: fastrand::Rng::with_seed(seed),
            dopplers,
            clients,
            named,
            order,
            is_over,
            ledger,
            summary: Summary::default(),
        };
        story.name();
        story.pass(Duration::from_millis(10));
        for (n, client) in story.clients.iter().enumerate() {
            let client = client.clone();
            let host = format!("client-{n}");
            story.sim.host(host, move || client.clone().run());
        }
        story.pass(Duration::from_millis(500));
        story
    }

    /// Lets time pass, and looks at the accounts at every step.
    fn pass(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    fn step(&mut self) {
        self.sim.step().unwrap();
        for doppler in &self.dopplers {
            for life in doppler.lives.all() {
                let accounts = life.router.accounts();
                for (whose, account) in &accounts.open {
                    assert_eq!(account.imbalance(), 0, "{whose:?}: {account:?}");
                }
                assert_eq!(accounts.gone.imbalance(), 0, "{:?}", accounts.gone);
            }
        }
        if let Some(ledger) = self.ledger.get() {
            assert_eq!(ledger.read().imbalance(), 0, "{}", ledger.page());
        }
    }

    /// Something that can happen and may happen, happens.
    fn happen(&mut self, kinds: u8) {
        let events = [
            (0b0001, Event::Leave),
            (0b0001, Event::Join),
            (0b0010, Event::Kill),
            (0b0100, Event::Drain),
            (0b0110, Event::Start),
            (0b1000, Event::Cut),
            (0b1000, Event::Mend),
        ];
        let mut possible = Vec::new();
        for (kind, event) in events {
            for n in 0..DOPPLERS {
                if kind & kinds != 0 && self.can(event, n) {
                    possible.push((event, n));
                }
            }
        }
        let chosen = self.rng.usize(..possible.len());
        let (event, n) = possible[chosen];
        self.bring_about(event, n);
    }

    fn can(&self, event: Event, n: usize) -> bool {
        let doppler = &self.dopplers[n];
        match event {
            Event::Leave => doppler.is_named,
            Event::Join => !doppler.is_named,
            Event::Kill | Event::Drain => doppler.is_running,
            Event::Start => !doppler.is_running && doppler.is_gone(),
            Event::Cut => !doppler.is_cut_off,
            Event::Mend => doppler.is_cut_off,
        }
    }

    fn bring_about(&mut self, event: Event, n: usize) {
        *self.summary.events.entry(event).or_default() += 1;
        let doppler = &mut self.dopplers[n];
        match event {
            Event::Leave | Event::Join => {
                doppler.is_named = event == Event::Join;
                self.name();
            }
            Event::Kill => {
                doppler.is_running = false;
                doppler.is_killed = true;
                self.sim.crash(host(n));
            }
            Event::Drain => {
                doppler.is_running = false;
                doppler.lives.last().order.send_replace(Order::Drain);
            }
            Event::Start => {
                doppler.is_running = true;
                doppler.is_killed = false;
                self.sim.bounce(host(n));
            }
            Event::Cut => {
                doppler.is_cut_off = true;
                self.sim.hold(host(n), controller::HOST);
            }
            Event::Mend => {
                doppler.is_cut_off = false;
                self.sim.release(host(n), controller::HOST);
            }
        }
    }

    /// The file names who is named.
    fn name(&mut self) {
        let dopplers = self.dopplers.iter().enumerate();
        let named = dopplers.filter(|(_, doppler)| doppler.is_named);
        let addresses: Addresses = named
            .map(|(n, _)| format!("{}:{}", host(n), dopplers::PORT).into())
            .collect();
        self.named.send_replace(Arc::new(addresses));
    }

    /// All trouble is over.
    fn mend(&mut self) {
        for event in [Event::Mend, Event::Join, Event::Start] {
            for n in 0..DOPPLERS {
                // One that drains has to end first.
                while event == Event::Start && !(self.dopplers[n].is_running || self.can(event, n))
                {
                    self.step();
                }
                if self.can(event, n) {
                    self.bring_about(event, n);
                }
            }
        }
    }

    /// Every stream reads from every Doppler soon after.
    fn recover(&mut self) {
        let began = self.sim.elapsed();
        while !self.is_well() {
            self.step();
            let after = self.sim.elapsed() - began;
            assert!(
                after <= RECOVERED,
                "not well after {after:?}: {}",
                self.page()
            );
        }
        self.summary.recovered = self.sim.elapsed() - began;
    }

    fn is_well(&self) -> bool {
        use doppler::router::Subscription;
        self.dopplers.iter().all(|doppler| {
            let (mut members, mut tails) = (0, 0);
            for (subscription, _) in doppler.lives.last().router.accounts().open {
                match subscription {
                    Subscription::Firehose { members: some, .. } => members += some,
                    Subscription::App { .. } => tails += 1,
                }
            }
            (members, tails) == (3, 1)
        })
    }

    fn page(&self) -> String {
        self.ledger.get().map(|it| it.page()).unwrap_or_default()
    }

    /// Nothing more comes in, the Traffic Controller drains, and all is added up.
    fn end(&mut self, may_lose: bool) {
        self.pass(Duration::from_millis(200));
        for doppler in &self.dopplers {
            doppler.lives.last().order.send_replace(Order::Quiet);
        }
        self.pass(Duration::from_millis(500));
        self.order.send_replace(Order::Drain);
        let latest = self.sim.elapsed() + Duration::from_secs(5);
        while !*self.is_over.borrow() {
            self.step();
            assert!(
                self.sim.elapsed() < latest,
                "it does not drain: {}",
                self.page()
            );
        }
        self.pass(Duration::from_millis(100));

        let mut sent = 0;
        for life in self.dopplers.iter().flat_map(|doppler| doppler.lives.all()) {
            let accounts = life.router.accounts();
            let mut sum = accounts.gone;
            accounts
                .open
                .iter()
                .for_each(|(_, account)| sum += *account);
            sent += sum.sent;
            self.summary.lost += sum.dropped.total();
        }
        let read = self.ledger.get().expect("it was started").read();
        let links = read.links();
        if may_lose {
            assert!(links.received <= sent, "{links:?}, {sent}");
        } else {
            assert_eq!((links.received, links.gap), (sent, 0), "{links:?}");
        }
        let sums: Vec<Account> = read.sums().to_vec();
        assert!(read.firehoses.open.is_empty() && read.tails.open.is_empty());
        assert_eq!(sums[0].offered, read.firehoses.links_gone.received);
        let messages = |clients: &[Client]| -> u64 {
            let state = clients.iter().map(|it| it.state.lock().unwrap().messages);
            state.sum()
        };
        assert_eq!(sums[0].sent, messages(&self.clients[..3]), "{:?}", sums[0]);
        assert_eq!(sums[1].sent, messages(&self.clients[3..]), "{:?}", sums[1]);
        self.summary.delivered = messages(&self.clients);

        for client in &self.clients {
            let state = client.state.lock().unwrap();
            assert_eq!(state.closed, Some(1001), "{}", client.path);
            state.seen.assert_clean(&client.path);
        }
        let mut group = self.clients[0].state.lock().unwrap().seen.clone();
        group.merge(&self.clients[1].state.lock().unwrap().seen);
        assert_eq!(group.duplicates, 0, "two members of a group share");
    }
}
