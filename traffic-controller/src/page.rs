//! The page `/subscriptions`: every client's account as it stands, what both ends of each link
//! have counted, and the sums of those that ended. The metrics and the history of losses are of
//! the same reading, so that they cannot disagree with it.

use crate::dopplers::Hops;
use crate::dopplers::hop::{self, Sums};
use crate::streams::{self, Streams};
use crate::topics::{self, Topics};
use serde_json::json;
use std::sync::Arc;
use transport::ledger::{Account, Cause, Dropped};
use transport::losses::{self, Place, Whose};

/// Whoever counts.
pub struct Ledger {
    /// Firehose clients.
    pub streams: Arc<Streams>,
    /// App tails.
    pub topics: Arc<Topics>,
    /// The app links.
    pub app_links: Arc<Hops>,
}

/// What they all had counted when they were asked.
pub struct Reading {
    /// Firehose clients and their links.
    pub firehoses: streams::Accounts,
    /// App tails.
    pub tails: topics::Accounts,
    /// The app links.
    pub app_links: Vec<hop::Page>,
}

impl Ledger {
    /// Asks them all.
    pub fn read(&self) -> Reading {
        Reading {
            firehoses: self.streams.accounts(),
            tails: self.topics.accounts(),
            app_links: self.app_links.pages(),
        }
    }

    /// The same, and puts into `losses` what of it was lost. What ended is told once.
    pub fn audit(&self, losses: &mut losses::Reading) -> Reading {
        let (firehoses, ended) = self.streams.audit();
        let (tails, lost) = self.topics.audit();
        for ((subscription, filter), dropped) in &ended.clients.named {
            losses.grew(Whose::firehose(subscription, filter), dropped.causes());
        }
        losses.others(Place::Firehose, ended.clients.others.causes());
        for ((doppler, subscription), gap) in &ended.gaps.named {
            let whose = Whose::link(doppler, Some(subscription));
            losses.grew(whose, gaps(*gap));
        }
        losses.others(Place::Link, gaps(ended.gaps.others));
        for (app, dropped) in &lost.topics {
            losses.stands(Whose::app(app), dropped.causes());
        }
        for (app, dropped) in &lost.ended.named {
            losses.grew(Whose::app(app), dropped.causes());
        }
        losses.others(Place::App, lost.ended.others.causes());
        let read = Reading {
            firehoses,
            tails,
            app_links: self.app_links.pages(),
        };
        read.stands(losses);
        read
    }

    /// The page, as JSON.
    pub fn page(&self) -> String {
        let read = self.read();
        let firehoses = read.firehoses.open.iter().map(|entry| json!(entry));
        let tail =
            |(app, account): &(Arc<str>, Account)| json!({ "app": **app, "account": account });
        let tails = read.tails.open.iter().map(tail);
        json!({
            "subscriptions": firehoses.chain(tails).collect::<Vec<_>>(),
            "app_links": read.app_links,
            "ended": {
                "firehose": read.firehoses.gone,
                "firehose_links": read.firehoses.links_gone,
                "stream": read.tails.gone,
            },
        })
        .to_string()
    }
}

fn gaps(gap: u64) -> impl Iterator<Item = (Cause, u64)> {
    (gap > 0).then_some((Cause::Gap, gap)).into_iter()
}

impl Reading {
    /// What open firehoses and links have lost so far.
    fn stands(&self, losses: &mut losses::Reading) {
        for entry in &self.firehoses.open {
            if entry.account.dropped.total() > 0 {
                let whose = Whose::firehose(&entry.firehose, entry.filter);
                losses.stands(whose, entry.account.dropped.causes());
            }
            for link in entry.links.iter().filter(|link| link.sums.gap > 0) {
                let whose = Whose::link(&link.doppler, Some(&entry.firehose));
                losses.stands(whose, gaps(link.sums.gap));
            }
        }
        for link in &self.app_links {
            if link.sums.gap > 0 {
                losses.stands(Whose::link(&link.doppler, None), gaps(link.sums.gap));
            }
            let dropped = link.topics.map(|topics| topics.dropped).unwrap_or_default();
            if dropped.total() > 0 {
                losses.stands(Whose::app_link(&link.doppler), dropped.causes());
            }
        }
    }

    /// The sums of all firehoses and of all app streams, open and gone.
    pub fn sums(&self) -> [Account; 2] {
        let (mut firehoses, mut tails) = (self.firehoses.gone, self.tails.gone);
        let open = self.firehoses.open.iter();
        open.for_each(|entry| firehoses += entry.account);
        let open = self.tails.open.iter();
        open.for_each(|(_, account)| tails += *account);
        [firehoses, tails]
    }

    /// The sums of all links, open and gone.
    pub fn links(&self) -> Sums {
        let mut sums = self.firehoses.links_gone;
        let of_clients = self.firehoses.open.iter().flat_map(|entry| &entry.links);
        let all = of_clients.chain(&self.app_links);
        all.for_each(|link| sums += link.sums);
        sums
    }

    /// What arrived on app links and came into no topic.
    pub fn dropped_by_app_links(&self) -> Dropped {
        let mut dropped = Dropped::default();
        let topics = self.app_links.iter().filter_map(|link| link.topics);
        topics.for_each(|topics| dropped += topics.dropped);
        dropped
    }

    /// Envelopes by which some account does not add up; anything but 0 is a bug.
    pub fn imbalance(&self) -> u128 {
        let firehoses = self.firehoses.open.iter().map(|entry| &entry.account);
        let tails = self.tails.open.iter().map(|(_, account)| account);
        let gone = [&self.firehoses.gone, &self.tails.gone];
        let accounts = firehoses.chain(tails).chain(gone).map(Account::imbalance);
        let links = self.app_links.iter().map(hop::Page::imbalance);
        accounts.chain(links).map(i128::unsigned_abs).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dopplers::Hop;

    #[test]
    fn the_page_has_the_names_operators_read() {
        let ledger = Ledger {
            streams: Streams::new(1),
            topics: Topics::new(1 << 20, 1 << 20),
            app_links: Arc::new([Arc::new(Hop::to_topics("d"))].into_iter().collect()),
        };
        let hop = Arc::new(Hop::new("d"));
        let passage = ledger.streams.firehose(
            "n",
            "logs",
            "127.0.0.1:1",
            Arc::new([hop.clone()].into_iter().collect()),
        );
        let _tail = ledger.topics.tail("a");
        hop.opened();
        hop.received(2);
        passage.received(2);

        let page: serde_json::Value = serde_json::from_str(&ledger.page()).unwrap();
        let firehose = &page["subscriptions"][0];
        assert_eq!(firehose["firehose"], "n");
        assert_eq!(firehose["filter"], "logs");
        assert_eq!(firehose["client"], "127.0.0.1:1");
        assert_eq!(firehose["account"]["queued"], 2);
        assert_eq!(firehose["links"][0]["doppler"], "d");
        assert_eq!(firehose["links"][0]["connected"], true);
        assert_eq!(firehose["links"][0]["received"], 2);
        assert_eq!(page["subscriptions"][1]["app"], "a");
        assert_eq!(page["app_links"][0]["appended"], 0);
        assert_eq!(page["ended"]["firehose"]["offered"], 0);
        assert_eq!(page["ended"]["stream"]["offered"], 0);
        let read = ledger.read();
        assert_eq!(read.links().received, 2);
        assert_eq!(read.imbalance(), 0);
    }
}
