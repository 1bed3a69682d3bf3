//! The hops of one stream, or of the app links, while Dopplers join and leave: what was counted
//! with a Doppler that has left stays in the sums.

use super::Hop;
use super::hop::Page;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The row with the sums of Dopplers that left long ago. No address looks like it.
pub const LEFT: &str = "(left)";

/// Dopplers that have left and keep a row of their own; before those they are one row. Whoever
/// looks once a second has seen each under its name.
const NAMED: usize = 64;

/// The hops to all Dopplers, those that have left included.
#[derive(Default)]
pub struct Hops(Mutex<State>);

#[derive(Default)]
struct State {
    open: Vec<Arc<Hop>>,
    /// One row an address, the last to leave at the end.
    left: VecDeque<Page>,
    left_before: Option<Page>,
}

impl Hops {
    /// One more.
    pub fn join(&self, hop: Arc<Hop>) {
        self.lock().open.push(hop);
    }

    /// One whose Doppler has left and whose link is over: only its sums stay.
    pub fn leave(&self, hop: &Arc<Hop>) {
        let mut state = self.lock();
        let Some(found) = state.open.iter().position(|open| Arc::ptr_eq(open, hop)) else {
            return;
        };
        let hop = state.open.remove(found);
        hop.closed();
        let mut page = Page {
            dropped_there: 0,
            queued_there: 0,
            ..hop.page()
        };
        let same = state
            .left
            .iter()
            .position(|left| left.doppler == page.doppler);
        if let Some(before) = same.and_then(|same| state.left.remove(same)) {
            page.add(&before);
        }
        state.left.push_back(page);
        if state.left.len() > NAMED
            && let Some(mut oldest) = state.left.pop_front()
        {
            if let Some(before) = &state.left_before {
                oldest.add(before);
            }
            oldest.doppler = LEFT.to_owned();
            state.left_before = Some(oldest);
        }
    }

    /// As shown to operators: those that are there, and the sums of those that have left, all of
    /// the same moment.
    pub fn pages(&self) -> Vec<Page> {
        let state = self.lock();
        let open = state.open.iter().map(|hop| hop.page());
        let left = state.left.iter().chain(&state.left_before);
        open.chain(left.cloned()).collect()
    }

    /// Ends all of them; returns their last pages.
    pub fn close(&self) -> Vec<Page> {
        self.lock().open.iter().for_each(|hop| hop.closed());
        self.pages()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FromIterator<Arc<Hop>> for Hops {
    fn from_iter<I: IntoIterator<Item = Arc<Hop>>>(hops: I) -> Hops {
        let open = hops.into_iter().collect();
        Hops(Mutex::new(State {
            open,
            ..State::default()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dopplers::hop::Delivered;
    use proto::link::Report;

    #[test]
    fn what_was_counted_with_a_doppler_stays_when_it_has_left() {
        let hops = Hops::default();
        for sent in [5, 7] {
            let hop = Arc::new(Hop::to_topics("d"));
            hops.join(hop.clone());
            hop.opened();
            let delivered = Delivered {
                appended: 4,
                ..Delivered::default()
            };
            hop.delivered(4, delivered);
            hop.reported(Report {
                epoch: 1,
                sent,
                last: true,
                ..Report::default()
            });
            hops.leave(&hop);
            hops.leave(&hop);
        }
        let pages = hops.pages();
        assert_eq!(pages.len(), 1);
        assert_eq!((&*pages[0].doppler, pages[0].connected), ("d", false));
        assert_eq!(pages[0].imbalance(), 0);
        let sums = pages[0].sums;
        assert_eq!((sums.sent, sums.received, sums.gap), (12, 8, 4));
    }

    #[test]
    fn dopplers_that_left_long_ago_are_one_row() {
        let hops = Hops::default();
        for n in 0..NAMED + 2 {
            let hop = Arc::new(Hop::new(&n.to_string()));
            hops.join(hop.clone());
            hop.opened();
            hop.received(1);
            hops.leave(&hop);
        }
        let pages = hops.close();
        let oldest = pages.last().unwrap();
        assert_eq!((pages.len(), &*oldest.doppler), (NAMED + 1, LEFT));
        assert_eq!(oldest.sums.received, 2);
    }
}
