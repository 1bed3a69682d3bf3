//! What became of everything that came to the doors.
//!
//! In come counts from those who caused them; out comes an [`Account`] that adds up, twice:
//! `taken = accepted + dropped`, in envelopes as they came, and `conversions = published + unread`,
//! in what they are as v1. The left sides are counted where a message is split and where an
//! envelope says what it becomes, the right ones where it is decided on and where the router gets
//! it: none is worked out from another.

use crate::metrics::Metrics;
use std::mem;
use std::ops::AddAssign;
use transport::ledger::{Dropped, Reason};
use transport::losses::{EndedSums, NAME_BYTES};

/// Apps of one message whose envelopes were refused and that keep their names.
const REFUSED_APPS: usize = 16;

/// All counts of the doors, of one moment: a message is in all of them or in none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Envelopes in messages that were taken.
    pub taken: u64,
    /// Those that have a form in v1, and were published if somebody read.
    pub accepted: u64,
    /// Those that were lost at the door.
    pub dropped: Dropped,
    /// The v1 envelopes that accepted ones amount to.
    pub conversions: u64,
    /// Those that the router was given.
    pub published: u64,
    /// Those that nobody would have read at that moment, and that were not written.
    pub unread: u64,
}

impl Account {
    /// How far both equations are from adding up. Anything but 0 is a bug of ours.
    pub fn imbalance(&self) -> u128 {
        let off = |one: u64, others: [u64; 2]| {
            (i128::from(one) - others.map(i128::from).iter().sum::<i128>()).unsigned_abs()
        };
        off(self.taken, [self.accepted, self.dropped.total()])
            + off(self.conversions, [self.published, self.unread])
    }
}

impl AddAssign for Account {
    fn add_assign(&mut self, other: Account) {
        self.taken += other.taken;
        self.accepted += other.accepted;
        self.dropped += other.dropped;
        self.conversions += other.conversions;
        self.published += other.published;
        self.unread += other.unread;
    }
}

/// What was refused, by app.
pub(crate) type Refused = EndedSums<Box<[u8]>, Dropped>;

/// What one message amounts to. It is counted when this is dropped: also if whoever takes the
/// message is not let to its end.
pub(super) struct Tally<'a> {
    metrics: &'a Metrics,
    account: Account,
    refused: Refused,
}

impl Tally<'_> {
    /// Of a message with so many envelopes.
    pub(super) fn taken(metrics: &Metrics, envelopes: u64) -> Tally<'_> {
        let mut account = Account::default();
        account.taken += envelopes;
        Tally {
            metrics,
            account,
            refused: EndedSums::new(REFUSED_APPS),
        }
    }

    /// An envelope was accepted, and has so many v1 forms.
    pub(super) fn accepted(&mut self, conversions: u32) {
        self.account.accepted += 1;
        self.account.conversions += u64::from(conversions);
    }

    /// An envelope was refused; `app` is empty where nobody can tell. Of its name, which is the
    /// sender's choice, no more is kept than it takes to see that it is too long.
    pub(super) fn refused(&mut self, reason: Reason, app: &[u8]) {
        self.account.dropped.add(reason, 1);
        let mut one = Dropped::default();
        one.add(reason, 1);
        match app.is_empty() {
            true => self.refused.others += one,
            false => {
                let name = &app[..app.len().min(NAME_BYTES + 1)];
                self.refused.add(name.into(), one);
            }
        }
    }

    /// So many envelopes that nobody looked at were lost.
    pub(super) fn not_looked_at(&mut self, reason: Reason, envelopes: u64) {
        self.account.dropped.add(reason, envelopes);
        self.refused.others.add(reason, envelopes);
    }

    /// The router was given so many v1 envelopes.
    pub(super) fn published(&mut self, envelopes: u64) {
        self.account.published += envelopes;
    }

    /// So many v1 envelopes would have been read by nobody.
    pub(super) fn unread(&mut self, envelopes: u32) {
        self.account.unread += u64::from(envelopes);
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let refused = mem::replace(&mut self.refused, EndedSums::new(0));
        self.metrics.came(self.account, refused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five came: two were refused, three became seven, of which nobody would have read one.
    fn balanced() -> Account {
        let mut account = Account {
            taken: 5,
            accepted: 3,
            dropped: Dropped::default(),
            conversions: 7,
            published: 6,
            unread: 1,
        };
        account.dropped.add(Reason::NotV1, 1);
        account.dropped.add(Reason::TooLarge, 1);
        account
    }

    #[test]
    fn one_increment_left_out_of_either_equation_is_an_imbalance() {
        assert_eq!(balanced().imbalance(), 0);
        let left_out: [fn(&mut Account); 6] = [
            |account| account.taken -= 1,
            |account| account.accepted -= 1,
            |account| account.dropped = Dropped::default(),
            |account| account.conversions -= 1,
            |account| account.published -= 1,
            |account| account.unread -= 1,
        ];
        for (n, leave_out) in left_out.iter().enumerate() {
            let mut account = balanced();
            leave_out(&mut account);
            assert_ne!(account.imbalance(), 0, "the {n}th");
        }
    }

    #[test]
    fn what_is_missing_in_one_equation_is_not_made_good_by_the_other() {
        let account = Account {
            taken: 1,
            published: 1,
            ..Account::default()
        };
        assert_eq!(account.imbalance(), 2);
    }

    #[test]
    fn sums_of_accounts_that_add_up_do_too() {
        let mut sum = balanced();
        sum += balanced();
        assert_eq!((sum.taken, sum.imbalance()), (10, 0));
    }
}
