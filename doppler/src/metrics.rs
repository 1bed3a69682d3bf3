//! Every number a Doppler counts, by its Prometheus name.
//!
//! What the doors count is added up once per message, never per envelope. What a subscription was
//! sent and lost is not counted here but read from the router's accounts, so that it cannot disagree
//! with them. Both are shown as they are audited, all of one moment. The history of losses is fed
//! from the same readings.

use crate::ingress::{self, RefusedByApp};
use crate::router::{Accounts, EndedAccounts, Router, Subscription};
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use transport::ledger::{Account, Reason};
use transport::losses::{EndedSums, Losses, Place, Reading, Whose};
use transport::websocket::Ended;

/// Counters and gauges of one Doppler.
pub struct Metrics {
    doors: Mutex<Doors>,
    envelopes: Counter,
    accepted: Counter,
    refused: [Counter; Reason::ALL.len()],
    conversions: Counter,
    published: Counter,
    unread: Counter,
    losses: Losses,
    subscriptions: Gauge,
    recent_bytes: Gauge,
    sent: Counter,
    lost: [Counter; Reason::ALL.len()],
    unconfirmed: Count,
    imbalance: Gauge,
}

/// Apps whose envelopes were refused between two audits and that keep their names.
const REFUSED_APPS: usize = 256;

/// Apps that send, of each audit: more than are shown.
const SENDERS: usize = 16;

/// What came to the doors, and since the last audit what was lost there by app.
struct Doors {
    account: ingress::Account,
    lost: RefusedByApp,
}

/// A counter that can be read back.
struct Count {
    value: AtomicU64,
    shown: Counter,
}

impl Count {
    fn new(shown: Counter) -> Count {
        Count {
            value: AtomicU64::new(0),
            shown,
        }
    }

    fn add(&self, n: u64) {
        self.value.fetch_add(n, Ordering::Relaxed);
        self.shown.increment(n);
    }

    fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Registers and describes them all.
    pub fn new() -> Metrics {
        describe_counter!(
            "doppler_ingress_pauses_total",
            "Times the doors were closed because the machine was overloaded"
        );
        describe_gauge!(
            "doppler_ingress_paused",
            "1 while the doors are closed because the machine is overloaded"
        );
        describe_counter!(
            "doppler_ingress_envelopes_total",
            "Envelopes taken from agents, as they came: accepted or dropped"
        );
        describe_counter!(
            "doppler_ingress_accepted_envelopes_total",
            "Envelopes taken that have a form in dropsonde v1"
        );
        describe_counter!(
            "doppler_ingress_conversions_total",
            "dropsonde v1 envelopes that the envelopes accepted amount to, published or unread; upstream's `ingress`"
        );
        describe_counter!(
            "doppler_ingress_published_conversions_total",
            "Those of them that were written and given to the router: somebody read, or they came as v1"
        );
        describe_counter!(
            "doppler_ingress_unread_conversions_total",
            "Those of them that nobody would have read, and that were not written"
        );
        describe_counter!(
            "doppler_ingress_dropped_envelopes_total",
            "Envelopes lost at the door, by reason"
        );
        describe_counter!(
            "doppler_ingress_refused_messages_total",
            "gRPC messages refused as a whole, by reason"
        );
        describe_counter!(
            "doppler_refused_requests_total",
            "Requests for links that were refused, by reason"
        );
        describe_counter!(
            "doppler_unlisted_readers_total",
            "Requests to read by certificates without a name of DOPPLER_READERS, by outcome"
        );
        describe_counter!(
            "doppler_link_faults_total",
            "Links ended because the Traffic Controller broke the protocol or a limit, by reason"
        );
        describe_counter!(
            "doppler_recent_requests_total",
            "Requests for recent logs and container metrics of an app, by whether they were answered"
        );
        describe_gauge!(
            "doppler_recent_bytes",
            "Bytes that recent logs and container metrics of all apps take"
        );
        describe_gauge!(
            "doppler_subscriptions",
            "Firehose groups and tailed apps with a reader at the moment"
        );
        describe_counter!(
            "doppler_egress_envelopes_total",
            "Envelopes that readers' sockets took, notices included"
        );
        describe_counter!(
            "doppler_egress_dropped_envelopes_total",
            "Envelopes lost behind the router, by reason"
        );
        describe_counter!(
            "doppler_unconfirmed_envelopes_total",
            "Envelopes sent on firehose links that broke, of which no client's socket was said to have taken them: at most so many were lost beyond this Doppler"
        );
        describe_gauge!(
            "doppler_accounting_imbalance",
            "Envelopes by which some account does not add up; anything but 0 is a bug"
        );
        Metrics {
            doors: Mutex::new(Doors {
                account: ingress::Account::default(),
                lost: EndedSums::new(REFUSED_APPS),
            }),
            envelopes: counter!("doppler_ingress_envelopes_total"),
            accepted: counter!("doppler_ingress_accepted_envelopes_total"),
            refused: Reason::ALL
                .map(|reason| counter!("doppler_ingress_dropped_envelopes_total", "reason" => reason.name())),
            conversions: counter!("doppler_ingress_conversions_total"),
            published: counter!("doppler_ingress_published_conversions_total"),
            unread: counter!("doppler_ingress_unread_conversions_total"),
            losses: Losses::new("doppler"),
            subscriptions: gauge!("doppler_subscriptions"),
            recent_bytes: gauge!("doppler_recent_bytes"),
            sent: counter!("doppler_egress_envelopes_total"),
            lost: Reason::ALL
                .map(|reason| counter!("doppler_egress_dropped_envelopes_total", "reason" => reason.name())),
            unconfirmed: Count::new(counter!("doppler_unconfirmed_envelopes_total")),
            imbalance: gauge!("doppler_accounting_imbalance"),
        }
    }

    /// A message came: what became of it, and whose envelopes were refused. All of it is counted
    /// at one moment, so that who reads the sums meanwhile sees them add up.
    pub(crate) fn came(&self, message: ingress::Account, refused: RefusedByApp) {
        let mut doors = self.doors();
        doors.account += message;
        if message.dropped.total() == 0 {
            return;
        }
        doors.lost.others += refused.others;
        for (app, dropped) in refused.named {
            doors.lost.add(app, dropped);
        }
    }

    /// A request for a link was refused, or was not HTTP.
    pub(crate) fn refused_request(reason: &'static str) {
        counter!("doppler_refused_requests_total", "reason" => reason).increment(1);
    }

    /// Somebody whose certificate has no name of the list asked to read.
    pub(crate) fn not_a_reader(let_in: bool) {
        let outcome = if let_in { "let_in" } else { "refused" };
        counter!("doppler_unlisted_readers_total", "outcome" => outcome).increment(1);
    }

    /// What is kept of an app was asked for, and was given or not.
    pub(crate) fn recent_requested(answered: bool) {
        let answer = if answered { "given" } else { "too_many" };
        counter!("doppler_recent_requests_total", "answer" => answer).increment(1);
    }

    /// A link ended; if its Traffic Controller did something wrong, that is counted.
    pub(crate) fn link_ended(ended: &Ended) {
        if let Some(reason) = ended.fault() {
            counter!("doppler_link_faults_total", "reason" => reason).increment(1);
        }
    }

    /// A firehose link broke with so many envelopes sent that nobody confirmed.
    pub(crate) fn unconfirmed(&self, envelopes: u64) {
        self.unconfirmed.add(envelopes);
    }

    /// How many there were of them.
    pub(crate) fn all_unconfirmed(&self) -> u64 {
        self.unconfirmed.get()
    }

    /// The doors are closed because the machine is overloaded, or open again.
    pub(crate) fn paused(closed: bool) {
        gauge!("doppler_ingress_paused").set(f64::from(u8::from(closed)));
        counter!("doppler_ingress_pauses_total").increment(closed.into());
    }

    /// A gRPC message was refused as a whole.
    pub(crate) fn refused_message(&self, reason: &'static str) {
        counter!("doppler_ingress_refused_messages_total", "reason" => reason).increment(1);
    }

    /// Reads the doors' and the router's accounts, into the history of losses too; returns their
    /// sums. Called every second.
    pub(crate) fn audit(&self, router: &Router) -> Totals {
        self.losses.audit(|reading| {
            let (accounts, ended) = router.audit();
            self.lost(&accounts, &ended, reading);
            for sender in router.recents().senders(SENDERS) {
                let app = String::from_utf8_lossy(&sender.app);
                reading.sent(&app, sender.envelopes, sender.bytes);
            }
            self.show(&accounts, router)
        })
    }

    /// The page `/losses`.
    pub(crate) fn losses(&self, query: &str) -> Result<String, String> {
        self.losses.page(query)
    }

    fn show(&self, accounts: &Accounts, router: &Router) -> Totals {
        let ingress = self.ingress();
        let mut sum = accounts.gone;
        let mut imbalance = ingress.imbalance() + sum.imbalance().unsigned_abs();
        for (_, account) in &accounts.open {
            imbalance += account.imbalance().unsigned_abs();
            sum += *account;
        }
        self.envelopes.absolute(ingress.taken);
        self.accepted.absolute(ingress.accepted);
        self.conversions.absolute(ingress.conversions);
        self.published.absolute(ingress.published);
        self.unread.absolute(ingress.unread);
        for (reason, counter) in Reason::ALL.into_iter().zip(&self.refused) {
            counter.absolute(ingress.dropped[reason]);
        }
        self.subscriptions.set(accounts.open.len() as f64);
        self.recent_bytes.set(router.recents().bytes() as f64);
        self.sent.absolute(sum.sent);
        for (reason, counter) in Reason::ALL.into_iter().zip(&self.lost) {
            counter.absolute(sum.dropped[reason]);
        }
        self.imbalance.set(imbalance as f64);
        Totals {
            ingress,
            subscriptions: accounts.open.len(),
            egress: sum,
        }
    }

    /// What was lost at the door and behind it.
    fn lost(&self, accounts: &Accounts, ended: &EndedAccounts, reading: &mut Reading) {
        for (whose, account) in &accounts.open {
            if account.dropped.total() > 0 {
                let whose = match whose {
                    Subscription::Firehose { id, filter, .. } => Whose::firehose(id, filter.name()),
                    Subscription::App { app, .. } => Whose::app(app),
                };
                reading.stands(whose, account.dropped.causes());
            }
        }
        for ((id, filter), dropped) in &ended.firehoses.named {
            reading.grew(Whose::firehose(id, filter.name()), dropped.causes());
        }
        reading.others(Place::Firehose, ended.firehoses.others.causes());
        for (app, dropped) in &ended.apps.named {
            reading.grew(Whose::app(app), dropped.causes());
        }
        reading.others(Place::App, ended.apps.others.causes());
        let doors = self.doors().lost.take();
        for (app, dropped) in &doors.named {
            let app = String::from_utf8_lossy(app);
            reading.grew(Whose::ingress(Some(&app)), dropped.causes());
        }
        reading.others(Place::Ingress, doors.others.causes());
    }

    /// What came to the doors so far.
    pub(crate) fn ingress(&self) -> ingress::Account {
        self.doors().account
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sums of one Doppler.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) ingress: ingress::Account,
    pub(crate) subscriptions: usize,
    pub(crate) egress: Account,
}
