//! What is said in the log of Dopplers that cannot be read from: at most one line a second each
//! way, however many there are.
//!
//! One that comes and goes is said to be away once: it is back when it has been reached for
//! [`BACK`] without a break.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// For how long a Doppler must be reached until it is said to be back.
const BACK: Duration = Duration::from_secs(5);

/// Between two lines of one kind.
const REST: Duration = Duration::from_secs(1);

/// How many addresses a line names.
const NAMED: usize = 10;

/// What was said, and when.
#[derive(Default)]
pub(super) struct Outages {
    dopplers: BTreeMap<Arc<str>, State>,
    last: Option<Instant>,
}

#[derive(Default)]
struct State {
    said_away: bool,
    reached_since: Option<Instant>,
}

/// What to say now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// These are not reached.
    pub away: Vec<Arc<str>>,
    /// These are reached again.
    pub back: Vec<Arc<str>>,
}

impl Outages {
    /// Whether each of the Dopplers is reached `now`; what is to be said of it.
    pub(super) fn look<'a>(
        &mut self,
        dopplers: impl Iterator<Item = (&'a Arc<str>, bool)>,
        now: Instant,
    ) -> News {
        let mut news = News::default();
        let mut before = std::mem::take(&mut self.dopplers);
        let may_speak = self.last.is_none_or(|last| now - last >= REST);
        for (address, is_reached) in dopplers {
            let mut state = before.remove(address).unwrap_or_default();
            if !is_reached {
                state.reached_since = None;
                if may_speak && !state.said_away {
                    state.said_away = true;
                    news.away.push(address.clone());
                }
            } else if state.said_away {
                let since = *state.reached_since.get_or_insert(now);
                if may_speak && now - since >= BACK {
                    state = State::default();
                    news.back.push(address.clone());
                }
            }
            self.dopplers.insert(address.clone(), state);
        }
        if news != News::default() {
            self.last = Some(now);
        }
        news
    }
}

/// Some addresses, by name if they are few.
pub(super) fn named(addresses: &[Arc<str>]) -> String {
    let first: Vec<&str> = addresses.iter().take(NAMED).map(|it| &**it).collect();
    let first = first.join(", ");
    match addresses.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(200);

    /// How many lines are written while so many Dopplers are reached or not, as `is_reached`
    /// says at each look.
    fn lines(dopplers: usize, looks: u32, is_reached: impl Fn(usize, u32) -> bool) -> usize {
        let mut outages = Outages::default();
        let addresses: Vec<Arc<str>> = (0..dopplers).map(|n| n.to_string().into()).collect();
        let begun = Instant::now();
        let mut lines = 0;
        for look in 0..looks {
            let all = addresses.iter().enumerate();
            let all = all.map(|(n, address)| (address, is_reached(n, look)));
            let news = outages.look(all, begun + LOOK * look);
            lines += usize::from(!news.away.is_empty()) + usize::from(!news.back.is_empty());
        }
        lines
    }

    #[test]
    fn thirty_two_that_vanish_are_one_line_and_one_when_they_are_back() {
        assert_eq!(lines(32, 100, |_, look| !(10..50).contains(&look)), 2);
    }

    #[test]
    fn one_that_is_reached_for_200_ms_of_every_second_is_one_line() {
        assert_eq!(lines(1, 1_000, |_, look| look % 5 == 0), 1);
    }

    #[test]
    fn whatever_they_do_there_are_two_lines_a_second_at_most() {
        let mut rng = fastrand::Rng::with_seed(1);
        let noise: Vec<bool> = (0..3_200).map(|_| rng.u8(..100) < 95).collect();
        let lines = lines(32, 100, |n, look| noise[n * 100 + look as usize]);
        assert!(lines <= 40, "{lines}");
    }

    #[test]
    fn a_line_names_ten() {
        let addresses: Vec<Arc<str>> = (0..12).map(|n| n.to_string().into()).collect();
        assert_eq!(named(&addresses[..2]), "0, 1");
        assert!(named(&addresses).ends_with(", 9 and 2 more"));
    }
}
