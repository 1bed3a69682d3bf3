//! What became of every envelope a reader was entitled to.
//!
//! In come counts from those who caused them; out come [`Account`]s that add up:
//! `offered + notices = sent + dropped + queued`, for every reader, at every moment. Each term
//! is measured where it happens and never worked out from the others, so that a mistake shows
//! as an [`Account::imbalance`] instead of hiding in a subtraction.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use std::ops::{AddAssign, Index};

/// Why an envelope was lost. Closed: whoever loses one picks from these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The chunk log reached its cap in bytes before this reader came by.
    LogOverflow,
    /// An app's queue or topic had to make room.
    AppOverflow,
    /// It was on its way into a connection that ended, or out of one.
    CloseResidue,
    /// Nobody came back for it within the time a subscription lingers.
    NoMember,
    /// Its reader was closed for being slow.
    SlowConsumer,
    /// The process ended before it could be sent.
    Drain,
    /// It, or what it would become, is over a limit.
    TooLarge,
    /// Its bytes are not an envelope.
    Malformed,
    /// It has no form in dropsonde v1.
    NotV1,
}

impl Reason {
    /// Every reason, in the order in which they are shown.
    pub const ALL: [Reason; 9] = [
        Reason::LogOverflow,
        Reason::AppOverflow,
        Reason::CloseResidue,
        Reason::NoMember,
        Reason::SlowConsumer,
        Reason::Drain,
        Reason::TooLarge,
        Reason::Malformed,
        Reason::NotV1,
    ];

    /// The name used in metrics, pages and logs.
    pub fn name(self) -> &'static str {
        match self {
            Reason::LogOverflow => "log_overflow",
            Reason::AppOverflow => "app_overflow",
            Reason::CloseResidue => "close_residue",
            Reason::NoMember => "no_member",
            Reason::SlowConsumer => "slow_consumer",
            Reason::Drain => "drain",
            Reason::TooLarge => "too_large",
            Reason::Malformed => "malformed",
            Reason::NotV1 => "not_v1",
        }
    }

    /// What happened, for whoever is woken by it at night.
    pub fn meaning(self) -> &'static str {
        match self {
            Reason::LogOverflow => {
                "the Doppler's chunk log was full before the subscription had read this far"
            }
            Reason::AppOverflow => {
                "an app sent more than its readers took, and its own oldest envelopes made room"
            }
            Reason::CloseResidue => {
                "a connection ended while these were on their way: a client or a link left, or an \
                 agent with a large message half taken"
            }
            Reason::NoMember => "the last reader had left, and none came back in time",
            Reason::SlowConsumer => "the client took nothing for so long that it was closed",
            Reason::Drain => "the process stopped before it could send them",
            Reason::TooLarge => "the envelope, or what it would become, is over a limit",
            Reason::Malformed => "an agent sent bytes that are no envelope",
            Reason::NotV1 => "the envelope has no form in dropsonde v1, which readers speak",
        }
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Reason::LogOverflow => {
                "add instances of the nozzle under the same subscription id, or make it faster; \
                 --log-bytes only lengthens the bursts it survives"
            }
            Reason::AppOverflow => {
                "look at the app: it logs too much; if its readers are slow, at them or their \
                 network; other apps are not affected"
            }
            Reason::CloseResidue => {
                "nothing, if the client left by itself; if it goes on, find out who ends the \
                 connections (a balancer's timeout, a client that crashes)"
            }
            Reason::NoMember => "nothing, if the nozzle was stopped on purpose; else start it",
            Reason::SlowConsumer => {
                "add instances of the nozzle under the same subscription id, or look why it \
                 does not read"
            }
            Reason::Drain => "nothing: a restart; if it is much, a longer --drain",
            Reason::TooLarge => "have whoever sends it send less in one envelope",
            Reason::Malformed => "find the agent that sends it: its version, or what is in between",
            Reason::NotV1 => {
                "nothing, if nobody misses them (Events, empty gauges, Timers without peer_type \
                 or method); else have the sender fill them in"
            }
        }
    }
}

/// Everything an envelope can be lost by: a [`Reason`] of one process, or the way between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Whoever displaced it said so.
    Counted(Reason),
    /// One end of a link sent it, and it never arrived at the other.
    Gap,
}

impl Cause {
    /// Every cause, in the order in which they are shown.
    pub fn all() -> impl Iterator<Item = Cause> {
        let counted = Reason::ALL.into_iter().map(Cause::Counted);
        counted.chain([Cause::Gap])
    }

    /// The name used in pages and logs.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Counted(reason) => reason.name(),
            Cause::Gap => "gap",
        }
    }

    /// What happened.
    pub fn meaning(self) -> &'static str {
        match self {
            Cause::Counted(reason) => reason.meaning(),
            Cause::Gap => "a link to a Doppler broke with these under way",
        }
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Cause::Counted(reason) => reason.remedy(),
            Cause::Gap => {
                "look at that Doppler and the network to it: it was killed, or the connection was \
                 cut; links are dialled again by themselves"
            }
        }
    }
}

/// How many envelopes were lost, by reason. Shown as a map of the reasons that occurred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped([u64; Reason::ALL.len()]);

impl Dropped {
    /// Counts `envelopes` as lost for `reason`.
    pub fn add(&mut self, reason: Reason, envelopes: u64) {
        self.0[reason as usize] += envelopes;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL
            .into_iter()
            .map(|reason| (reason, self[reason]))
            .filter(|(_, count)| *count > 0)
    }
}

impl Index<Reason> for Dropped {
    type Output = u64;

    fn index(&self, reason: Reason) -> &u64 {
        &self.0[reason as usize]
    }
}

impl AddAssign for Dropped {
    fn add_assign(&mut self, other: Dropped) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

impl Serialize for Dropped {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (reason, count) in self.iter() {
            map.serialize_entry(reason.name(), &count)?;
        }
        map.end()
    }
}

/// One reader's sums, in envelopes, all taken at the same moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Envelopes that matched what the reader asked for, counted as they arrived.
    pub offered: u64,
    /// Notices of loss put in front of the reader, in addition to what was offered.
    pub notices: u64,
    /// What the reader's socket took.
    pub sent: u64,
    /// What was lost, counted by whoever displaced it, when it did.
    pub dropped: Dropped,
    /// What lies waiting, counted where it lies.
    pub queued: u64,
}

impl Account {
    /// How far the account is from adding up. Anything but 0 is a bug of ours.
    pub fn imbalance(&self) -> i128 {
        i128::from(self.offered) + i128::from(self.notices)
            - i128::from(self.sent)
            - i128::from(self.dropped.total())
            - i128::from(self.queued)
    }
}

impl AddAssign for Account {
    fn add_assign(&mut self, other: Account) {
        self.offered += other.offered;
        self.notices += other.notices;
        self.sent += other.sent;
        self.dropped += other.dropped;
        self.queued += other.queued;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_shown_with_the_reasons_that_occurred() {
        let mut account = Account {
            offered: 10,
            sent: 7,
            queued: 1,
            ..Account::default()
        };
        account.dropped.add(Reason::LogOverflow, 2);
        assert_eq!(account.imbalance(), 0);
        assert_eq!(
            serde_json::to_string(&account).unwrap(),
            r#"{"offered":10,"notices":0,"sent":7,"dropped":{"log_overflow":2},"queued":1}"#
        );
    }

    #[test]
    fn one_missing_increment_is_an_imbalance() {
        let account = Account {
            offered: 10,
            sent: 9,
            ..Account::default()
        };
        assert_eq!(account.imbalance(), 1);
    }
}
