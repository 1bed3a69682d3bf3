//! The client streams that are open: how many there may be, and each firehose client's account.

use crate::dopplers::Hop;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use transport::ledger::{Account, Reason};

/// All open streams.
pub struct Streams {
    state: Mutex<State>,
    most: usize,
}

#[derive(Default)]
struct State {
    open: usize,
    last: u64,
    firehoses: BTreeMap<u64, Firehose>,
    gone: Account,
}

struct Firehose {
    subscription: String,
    filter: &'static str,
    peer: String,
    hops: Vec<(String, Arc<Hop>)>,
    account: Account,
}

/// A stream's place among those that may be open. Dropping it gives it back.
pub struct Seat(Arc<Streams>);

/// A firehose client's account. `offered` is what was received from Dopplers, notices
/// included; `sent` is what the client's socket took.
pub struct Passage {
    streams: Arc<Streams>,
    id: u64,
}

impl Streams {
    /// None open, `most` at a time.
    pub fn new(most: usize) -> Arc<Streams> {
        Arc::new(Streams {
            state: Mutex::default(),
            most,
        })
    }

    /// A place for one more stream, if there is one.
    pub fn seat(self: &Arc<Streams>) -> Option<Seat> {
        let mut state = self.lock();
        if state.open == self.most {
            return None;
        }
        state.open += 1;
        Some(Seat(self.clone()))
    }

    /// Opens the account of a firehose client.
    pub fn firehose(
        self: &Arc<Streams>,
        subscription: &str,
        filter: &'static str,
        peer: &str,
        hops: Vec<(String, Arc<Hop>)>,
    ) -> Passage {
        let mut state = self.lock();
        state.last += 1;
        let id = state.last;
        let firehose = Firehose {
            subscription: subscription.to_owned(),
            filter,
            peer: peer.to_owned(),
            hops,
            account: Account::default(),
        };
        state.firehoses.insert(id, firehose);
        Passage {
            streams: self.clone(),
            id,
        }
    }

    /// Every firehose client's account, as JSON.
    pub fn page(&self) -> Vec<serde_json::Value> {
        let state = self.lock();
        let page = |firehose: &Firehose| {
            let hops: Vec<_> = firehose
                .hops
                .iter()
                .map(|(doppler, hop)| hop.page(doppler))
                .collect();
            serde_json::json!({
                "firehose": firehose.subscription,
                "filter": firehose.filter,
                "client": firehose.peer,
                "account": firehose.account,
                "links": hops,
            })
        };
        state.firehoses.values().map(page).collect()
    }

    /// All firehose clients' accounts.
    pub fn accounts(&self) -> Vec<Account> {
        self.lock()
            .firehoses
            .values()
            .map(|firehose| firehose.account)
            .collect()
    }

    /// The sums of firehose clients that are gone.
    pub fn gone(&self) -> Account {
        self.lock().gone
    }

    /// How many streams are open.
    pub fn open(&self) -> usize {
        self.lock().open
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.lock().open -= 1;
    }
}

impl Passage {
    /// A run came from a Doppler and is in hand.
    pub fn received(&self, envelopes: u64) {
        self.change(|account| {
            account.offered += envelopes;
            account.queued += envelopes;
        });
    }

    /// The client's socket took what was in hand.
    pub fn written(&self, envelopes: u64) {
        self.change(|account| {
            account.queued -= envelopes;
            account.sent += envelopes;
        });
    }

    /// What was in hand did not reach the client.
    pub fn dropped(&self, reason: Reason, envelopes: u64) {
        self.change(|account| {
            account.queued -= envelopes;
            account.dropped.add(reason, envelopes);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Account)) {
        if let Some(firehose) = self.streams.lock().firehoses.get_mut(&self.id) {
            change(&mut firehose.account);
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut state = self.streams.lock();
        if let Some(firehose) = state.firehoses.remove(&self.id) {
            state.gone += firehose.account;
        }
    }
}
