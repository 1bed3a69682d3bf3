//! Which Dopplers there are, decided: in come what the sources say and the time, out come who
//! joins and who leaves. No socket, no clock.
//!
//! Who is named joins at once. Who is no longer named leaves when its source has had the time to
//! think again: an answer may have been cut short, a file half written.

use super::discovery::Source;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Dopplers that are read from: 256 at most. Each firehose client has a link to every one.
pub(super) const MOST: usize = 256;

/// For how long a Doppler may be missing from a file: 1 s, until the next look at it.
pub(super) const FILE_GRACE: Duration = Duration::from_secs(1);

/// For how long a Doppler that is reached may be missing from DNS: 30 s. A server that knows
/// only some of the names answers no worse than one that knows all.
pub(super) const DNS_GRACE: Duration = Duration::from_secs(30);

/// The Dopplers, each with its source and since when it is missing there.
#[derive(Default)]
pub(super) struct Roll {
    known: BTreeMap<Arc<str>, Known>,
}

struct Known {
    source: Source,
    missing: Option<Instant>,
}

/// What has to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Begin to read from these.
    pub joined: Vec<Arc<str>>,
    /// Read these to their end.
    pub left: Vec<Arc<str>>,
    /// So many have no place.
    pub refused: usize,
}

impl Roll {
    /// What follows from what is `named` now. `is_reached` says whether a Doppler can be dialled,
    /// `is_free` whether an address may be read: who has just left may be still there.
    pub(super) fn follow(
        &mut self,
        named: &BTreeMap<Arc<str>, Source>,
        is_reached: impl Fn(&str) -> bool,
        is_free: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Change {
        let mut change = Change::default();
        self.known.retain(|address, known| {
            if let Some(source) = named.get(address) {
                known.source = *source;
                known.missing = None;
                return true;
            }
            let missing = now - *known.missing.get_or_insert(now);
            let stays = match known.source {
                Source::Settings => true,
                Source::File => missing < FILE_GRACE,
                Source::Dns => missing < DNS_GRACE && is_reached(address),
            };
            if !stays {
                change.left.push(address.clone());
            }
            stays
        });
        for (address, source) in named {
            if self.known.contains_key(address) || !is_free(address) {
                continue;
            }
            if self.known.len() == MOST {
                change.refused += 1;
                continue;
            }
            let known = Known {
                source: *source,
                missing: None,
            };
            self.known.insert(address.clone(), known);
            change.joined.push(address.clone());
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(source: Source, addresses: &[&str]) -> BTreeMap<Arc<str>, Source> {
        let addresses = addresses.iter();
        addresses.map(|it| (Arc::from(*it), source)).collect()
    }

    fn change(joined: &[&str], left: &[&str]) -> Change {
        let all = |addresses: &[&str]| addresses.iter().map(|it| Arc::from(*it)).collect();
        Change {
            joined: all(joined),
            left: all(left),
            refused: 0,
        }
    }

    const YES: fn(&str) -> bool = |_| true;
    const NO: fn(&str) -> bool = |_| false;

    #[test]
    fn who_is_missing_from_one_answer_does_not_leave_while_it_is_reached() {
        let (mut roll, now) = (Roll::default(), Instant::now());
        let dns = |addresses| named(Source::Dns, addresses);
        let both = dns(&["a", "b"]);
        assert_eq!(roll.follow(&both, YES, YES, now), change(&["a", "b"], &[]));
        assert_eq!(roll.follow(&dns(&["a"]), YES, YES, now), change(&[], &[]));
        let nearly = now + DNS_GRACE - Duration::from_millis(1);
        assert_eq!(
            roll.follow(&dns(&["a"]), YES, YES, nearly),
            change(&[], &[])
        );
        assert_eq!(roll.follow(&both, YES, YES, nearly), change(&[], &[]));
        let later = now + 2 * DNS_GRACE;
        assert_eq!(roll.follow(&dns(&["a"]), YES, YES, later), change(&[], &[]));
        let at_last = later + DNS_GRACE;
        assert_eq!(
            roll.follow(&dns(&["a"]), YES, YES, at_last),
            change(&[], &["b"])
        );
    }

    #[test]
    fn who_is_missing_from_dns_and_not_reached_leaves_at_once() {
        let (mut roll, now) = (Roll::default(), Instant::now());
        roll.follow(&named(Source::Dns, &["a", "b"]), YES, YES, now);
        let left = roll.follow(&named(Source::Dns, &["a"]), NO, YES, now);
        assert_eq!(left, change(&[], &["b"]));
    }

    #[test]
    fn who_is_missing_from_a_file_at_two_looks_leaves() {
        let (mut roll, now) = (Roll::default(), Instant::now());
        roll.follow(&named(Source::File, &["a", "b"]), YES, YES, now);
        let one = named(Source::File, &["a"]);
        assert_eq!(roll.follow(&one, NO, YES, now), change(&[], &[]));
        let next = now + FILE_GRACE;
        assert_eq!(roll.follow(&one, NO, YES, next), change(&[], &["b"]));
    }

    #[test]
    fn who_comes_back_while_it_leaves_waits() {
        let (mut roll, now) = (Roll::default(), Instant::now());
        let one = named(Source::File, &["a"]);
        assert_eq!(roll.follow(&one, YES, NO, now), change(&[], &[]));
        assert_eq!(roll.follow(&one, YES, YES, now), change(&["a"], &[]));
    }

    #[test]
    fn there_are_so_many_and_no_more_and_those_that_are_there_stay() {
        let (mut roll, now) = (Roll::default(), Instant::now());
        let name = |n: usize| -> Arc<str> { format!("{n:04}").into() };
        let some = (100..100 + MOST).map(|n| (name(n), Source::Dns)).collect();
        assert_eq!(roll.follow(&some, YES, YES, now).joined.len(), MOST);
        let more = (0..100 + MOST).map(|n| (name(n), Source::Dns)).collect();
        let refused = roll.follow(&more, YES, YES, now);
        assert_eq!(refused.refused, 100);
        assert_eq!((refused.joined.len(), refused.left.len()), (0, 0));
    }
}
