//! The client streams that are open: how many there may be, and each firehose client's account.

use crate::dopplers::Hops;
use crate::dopplers::hop::{self, Sums};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use transport::ledger::{Account, Dropped, Reason};
use transport::losses::EndedSums;

/// Clients, and links of clients, that ended between two looks at what was lost and that keep
/// their names.
const ENDED: usize = 1_024;

/// All open streams.
pub struct Streams {
    state: Mutex<State>,
    most: usize,
}

struct State {
    open: usize,
    last: u64,
    firehoses: BTreeMap<u64, Arc<Firehose>>,
    gone: Account,
    links_gone: Sums,
    ended: EndedFirehoses,
}

impl Default for State {
    fn default() -> State {
        State {
            open: 0,
            last: 0,
            firehoses: BTreeMap::new(),
            gone: Account::default(),
            links_gone: Sums::default(),
            ended: EndedFirehoses {
                clients: EndedSums::new(ENDED),
                gaps: EndedSums::new(ENDED),
            },
        }
    }
}

/// What was lost by firehose clients that ended since this was asked last.
pub struct EndedFirehoses {
    /// By subscription id and filter.
    pub clients: EndedSums<(String, &'static str), Dropped>,
    /// On the way to them, by Doppler and subscription id.
    pub gaps: EndedSums<(String, String), u64>,
}

struct Firehose {
    subscription: String,
    filter: &'static str,
    peer: String,
    hops: Arc<Hops>,
    account: Mutex<Account>,
}

/// A stream's place among those that may be open. Dropping it gives it back.
pub struct Seat(Arc<Streams>);

/// A firehose client's account. `offered` is what was received from Dopplers, notices
/// included; `sent` is what the client's socket took; `queued` is the run in hand.
pub struct Passage {
    streams: Arc<Streams>,
    id: u64,
    firehose: Arc<Firehose>,
}

/// A firehose client as shown to operators.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// Its subscription id.
    pub firehose: String,
    /// Its `filter-type`.
    pub filter: &'static str,
    /// Its address.
    pub client: String,
    /// Its sums.
    pub account: Account,
    /// Its links, one to each Doppler, and the sums of those to Dopplers that have left.
    pub links: Vec<hop::Page>,
}

/// All firehose clients' accounts, of the same moment: a client is in one place or the other.
pub struct Accounts {
    /// Those that are open.
    pub open: Vec<Entry>,
    /// The sums of those that are gone.
    pub gone: Account,
    /// The sums of their links.
    pub links_gone: Sums,
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
        hops: Arc<Hops>,
    ) -> Passage {
        let firehose = Arc::new(Firehose {
            subscription: subscription.to_owned(),
            filter,
            peer: peer.to_owned(),
            hops,
            account: Mutex::default(),
        });
        let mut state = self.lock();
        state.last += 1;
        let id = state.last;
        state.firehoses.insert(id, firehose.clone());
        drop(state);
        Passage {
            streams: self.clone(),
            id,
            firehose,
        }
    }

    /// Every firehose client's account, and the sums of those that are gone.
    pub fn accounts(&self) -> Accounts {
        self.lock().accounts()
    }

    /// The same, and of the same moment what those lost that ended since this was asked last.
    pub fn audit(&self) -> (Accounts, EndedFirehoses) {
        let mut state = self.lock();
        let ended = EndedFirehoses {
            clients: state.ended.clients.take(),
            gaps: state.ended.gaps.take(),
        };
        (state.accounts(), ended)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn accounts(&self) -> Accounts {
        let open = self.firehoses.values();
        Accounts {
            open: open.map(|firehose| firehose.entry()).collect(),
            gone: self.gone,
            links_gone: self.links_gone,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.lock().open -= 1;
    }
}

impl Firehose {
    fn entry(&self) -> Entry {
        Entry {
            firehose: self.subscription.clone(),
            filter: self.filter,
            client: self.peer.clone(),
            account: *self.account(),
            links: self.hops.pages(),
        }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passage {
    /// A run came from a Doppler and is in hand.
    pub fn received(&self, envelopes: u64) {
        let mut account = self.firehose.account();
        account.offered += envelopes;
        account.queued = envelopes;
    }

    /// The client's socket took what was in hand.
    pub fn written(&self, envelopes: u64) {
        let mut account = self.firehose.account();
        account.sent += envelopes;
        account.queued = 0;
    }

    /// Of what was in hand the client's socket took so many, and the others are lost.
    pub fn cut_off(&self, written: u64, lost: u64, reason: Reason) {
        let mut account = self.firehose.account();
        account.sent += written;
        account.dropped.add(reason, lost);
        account.queued = 0;
    }

    /// How many were lost so far, for any reason, here and at the Dopplers.
    pub fn lost(&self) -> u64 {
        let links = self.firehose.hops.pages().into_iter();
        let there = links.map(|link| link.sums.missed_there);
        there.fold(self.firehose.account().dropped.total(), u64::saturating_add)
    }
}

impl Drop for Passage {
    /// What is still in hand may have left in part: it is lost with the connection.
    fn drop(&mut self) {
        let mut state = self.streams.lock();
        state.firehoses.remove(&self.id);
        let mut account = self.firehose.account();
        let in_hand = std::mem::take(&mut account.queued);
        account.dropped.add(Reason::CloseResidue, in_hand);
        state.gone += *account;
        let subscription = || self.firehose.subscription.clone();
        if account.dropped.total() > 0 {
            let client = (subscription(), self.firehose.filter);
            state.ended.clients.add(client, account.dropped);
        }
        for page in self.firehose.hops.close() {
            state.links_gone += page.sums;
            if page.sums.gap > 0 {
                let link = (page.doppler, subscription());
                state.ended.gaps.add(link, page.sums.gap);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dopplers::Hop;
    use proto::link::Report;

    fn passage(streams: &Arc<Streams>, hop: &Arc<Hop>) -> Passage {
        streams.firehose(
            "n",
            "everything",
            "peer",
            Arc::new([hop.clone()].into_iter().collect()),
        )
    }

    #[test]
    fn a_passage_that_forgets_to_settle_is_an_imbalance() {
        let streams = Streams::new(1);
        let passage = passage(&streams, &Arc::new(Hop::new("d")));
        let imbalance = || streams.accounts().open[0].account.imbalance();
        passage.received(3);
        assert_eq!(imbalance(), 0);
        passage.cut_off(2, 1, Reason::SlowConsumer);
        assert_eq!(imbalance(), 0);
        passage.received(3);
        passage.received(2);
        assert_eq!(imbalance(), 3);
    }

    #[test]
    fn what_is_in_hand_when_a_passage_ends_and_what_its_links_missed_is_counted() {
        let streams = Streams::new(1);
        let hop = Arc::new(Hop::new("d"));
        let passage = passage(&streams, &hop);
        hop.opened();
        hop.received(3);
        passage.received(3);
        hop.reported(Report {
            epoch: 1,
            sent: 5,
            dropped: 0,
            queued: 0,
            ..Report::default()
        });
        drop(passage);

        let accounts = streams.accounts();
        assert!(accounts.open.is_empty());
        assert_eq!(accounts.gone.dropped[Reason::CloseResidue], 3);
        assert_eq!(accounts.gone.imbalance(), 0);
        assert_eq!(accounts.links_gone.gap, 2);
    }

    #[test]
    fn there_are_so_many_seats_and_no_more() {
        let streams = Streams::new(1);
        let seat = streams.seat();
        assert!(seat.is_some() && streams.seat().is_none());
        drop(seat);
        assert!(streams.seat().is_some());
    }
}
