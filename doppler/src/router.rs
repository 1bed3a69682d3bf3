//! Where every envelope goes: into the chunk log that firehose groups read, into the queue of
//! each link that tails its app, and to what is kept of its app.
//!
//! In come [`Batch`]es of envelopes already framed as dropsonde v1, and envelopes as they came to
//! be kept; out come claims of the log's members and of [`app_store::Link`]s. Publishing never waits. The router knows neither
//! doors, sockets, tasks nor the clock.

pub mod app_store;
pub mod batch;
pub mod recent;

use app_store::AppStore;
use batch::{Batch, Spare};
use proto::scan::Facts;
use proto::transcode::View;
use recent::{Form, Kind, Recents, ToKeep};
use std::sync::Arc;
use transport::ledger::{Account, Dropped, Reason};
use transport::log::{self, Filter, Log, Member};
use transport::losses::EndedSums;

/// Firehose groups at a time; a platform has some tens.
const MAX_GROUPS: usize = 1_000;

/// Joins the doors envelopes come in by to the readers they go to.
pub struct Router {
    log: Arc<Log>,
    apps: Arc<AppStore>,
    recents: Arc<Recents>,
    spare: Spare,
}

impl Router {
    /// A router whose chunk log and app store hold at most so many bytes each.
    pub fn new(log_bytes: usize, app_store_bytes: usize, recents: Recents) -> Router {
        Router {
            log: Log::new(log_bytes, Reason::LogOverflow),
            apps: AppStore::new(app_store_bytes),
            recents: Arc::new(recents),
            spare: Spare::default(),
        }
    }

    /// Who is listening, to be asked for each envelope before it is encoded.
    pub fn interest(&self) -> Interest<'_> {
        Interest {
            router: self,
            firehose: self.log.is_read(),
            tailed: self.apps.tailed(self.recents.keeps()),
        }
    }

    /// Empty batches, for doors.
    pub fn spare(&self) -> &Spare {
        &self.spare
    }

    /// What is kept of each app.
    pub fn recents(&self) -> &Arc<Recents> {
        &self.recents
    }

    /// Whether there may be another firehose group: each costs every batch a little.
    pub fn has_room_for_a_group(&self) -> bool {
        self.log.groups() < MAX_GROUPS
    }

    /// Joins the firehose group of that subscription id and filter.
    pub fn firehose(&self, subscription: &str, filter: Filter) -> Member {
        self.log.join(subscription, filter)
    }

    /// Opens the queues of one Traffic Controller's app tails; `peer` names it in accounts.
    pub fn app_link(&self, peer: &str) -> app_store::Link {
        self.apps.link(peer)
    }

    /// The log, for its sealing timer and for closing it.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The app store, for closing it.
    pub fn apps(&self) -> &Arc<AppStore> {
        &self.apps
    }

    /// Every account: of live subscriptions, each taken at one moment, and the sums of those
    /// that ended.
    pub fn accounts(&self) -> Accounts {
        together(self.log.accounts(), self.apps.accounts())
    }

    /// The same, and what was lost by those that ended since this was asked last.
    pub fn audit(&self) -> (Accounts, EndedAccounts) {
        let (firehoses, of_firehoses) = self.log.audit();
        let (apps, of_apps) = self.apps.audit();
        let ended = EndedAccounts {
            firehoses: of_firehoses,
            apps: of_apps,
        };
        (together(firehoses, apps), ended)
    }
}

fn together(firehoses: log::Accounts, mut all: Accounts) -> Accounts {
    all.gone += firehoses.gone;
    all.open.extend(firehoses.open.into_iter().map(|entry| {
        let subscription = Subscription::Firehose {
            id: entry.name,
            filter: entry.filter,
            members: entry.members,
        };
        (subscription, entry.account)
    }));
    all
}

/// All accounts: a subscription is in one place or the other.
#[derive(Debug, Clone)]
pub struct Accounts {
    /// The live subscriptions.
    pub open: Vec<(Subscription, Account)>,
    /// The sums of those that ended.
    pub gone: Account,
}

/// What was lost by subscriptions that ended.
pub struct EndedAccounts {
    /// Firehose groups, by id and filter.
    pub firehoses: log::EndedGroups,
    /// Queues, by app.
    pub apps: EndedSums<Arc<str>, Dropped>,
}

/// Whose account it is.
#[derive(Debug, Clone)]
pub enum Subscription {
    /// A firehose group.
    Firehose {
        /// The subscription id.
        id: Arc<str>,
        /// What it asked for.
        filter: Filter,
        /// How many clients share it.
        members: usize,
    },
    /// One app, tailed over one link.
    App {
        /// The Traffic Controller.
        peer: Arc<str>,
        /// The app id.
        app: Arc<str>,
    },
}

/// Who listens at the moment, and the way to them. Holds off new tails and snapshots while it is
/// held, so that an envelope is kept and published at one moment: do not keep it over a wait, nor
/// take a second.
pub struct Interest<'a> {
    router: &'a Router,
    firehose: bool,
    tailed: app_store::Tailed<'a>,
}

impl Interest<'_> {
    /// Whether anybody would read this envelope.
    pub fn wants(&self, envelope: &View<'_>) -> bool {
        self.firehose || self.tailed.wants(envelope)
    }

    /// A v2 envelope that is to be [kept], if it is one of those that are. It must be kept, and
    /// [`publish`]ed if somebody wants it, before this ends.
    ///
    /// [kept]: Interest::keep
    /// [`publish`]: Interest::publish
    pub fn to_keep<'e>(&self, view: &View<'e>, envelope: &'e [u8]) -> Option<ToKeep<'e>> {
        let recents = &self.router.recents;
        let kind = Kind::of(view.is_log(), view.container())?;
        recents.to_keep(view.source_id(), kind, Form::V2, envelope)
    }

    /// The same for a v1 envelope.
    pub fn to_keep_v1<'e>(&self, facts: &'e Facts<'_>, envelope: &'e [u8]) -> Option<ToKeep<'e>> {
        let recents = &self.router.recents;
        let kind = Kind::of(facts.log, facts.container)?;
        recents.to_keep(facts.app.as_bytes(), kind, Form::V1, envelope)
    }

    /// Keeps these, which came at `now_ns`.
    pub fn keep(&self, envelopes: &[ToKeep<'_>], now_ns: i64) {
        self.router.recents.keep(envelopes, now_ns);
    }

    /// Offers a batch to every reader and empties it; returns how many envelopes it was given.
    pub fn publish(&self, batch: &mut Batch) -> u64 {
        let given = batch.frames.len() as u64;
        self.router.apps.offer(batch, &self.tailed);
        batch.clear_apps();
        self.router.log.append(&mut batch.frames);
        given
    }
}
