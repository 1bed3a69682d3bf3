//! Readers that share one cursor: where it stands, whose turn it is, and their account.

use super::chunk::{Chunk, Filter, Run, Share, Weight};
use crate::ledger::{Account, Dropped, Reason};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

/// Four TLS records: a write that costs little per byte, and little to wait for.
const CLAIM_BYTES: usize = 64 << 10;

/// What members that share a group claim at a time, so that their shares even out.
const SHARED_FRAMES: u64 = 64;

/// What a member has claimed and not settled.
#[derive(Debug)]
pub(super) enum Hand {
    Frames(Run),
    Notice { delta: u64 },
}

pub(super) struct Group {
    pub(super) name: Arc<str>,
    pub(super) filter: Filter,
    /// The cursor: a chunk's number and a frame in it.
    pub(super) chunk: u64,
    pub(super) entry: usize,
    /// What members that left had claimed and not begun to write: first to be claimed.
    pub(super) returned: VecDeque<Run>,
    /// Frames lost that nobody was told of yet.
    pub(super) untold: u64,
    /// The member that joined last.
    pub(super) newest: u64,
    lost: u64,
    offered: u64,
    notices: u64,
    sent: u64,
    dropped: Dropped,
    members: Vec<(u64, Option<Hand>)>,
    /// The members whose readers would take more if it came sooner.
    eager: Vec<Eager>,
    waiting: VecDeque<(u64, Option<Waker>)>,
}

/// A member whose reader would take more.
struct Eager {
    member: u64,
    /// How often it was asked since it took something.
    still: u32,
}

impl Group {
    /// A group without members whose cursor stands before chunk `next`.
    pub(super) fn new(name: Arc<str>, filter: Filter, next: u64) -> Group {
        Group {
            name,
            filter,
            chunk: next,
            entry: 0,
            returned: VecDeque::new(),
            untold: 0,
            newest: 0,
            lost: 0,
            offered: 0,
            notices: 0,
            sent: 0,
            dropped: Dropped::default(),
            members: Vec::new(),
            eager: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    // The account.

    pub(super) fn offered(&mut self, weight: Weight) {
        self.offered += weight.of_filter(self.filter);
    }

    pub(super) fn lost(&mut self, reason: Reason, weight: Weight) {
        self.dropped(reason, weight.of_filter(self.filter));
    }

    pub(super) fn dropped(&mut self, reason: Reason, frames: u64) {
        self.dropped.add(reason, frames);
        self.lost += frames;
        self.untold += frames;
    }

    pub(super) fn dropped_for(&self, reason: Reason) -> u64 {
        self.dropped[reason]
    }

    /// Offers frames that are not in the log: first to be claimed.
    pub(super) fn begin_with(&mut self, first: &super::Arc<Chunk>) {
        self.offered(first.weight_from(0));
        let (number, filter, share) = (self.chunk, self.filter, self.share());
        let mut from = 0;
        while let Some(run) = Run::next(first, number, from, filter, share) {
            from = run.to;
            self.returned.push_back(run);
        }
    }

    /// So many frames were lost before it began.
    pub(super) fn began_with_loss(&mut self, reason: Reason, frames: u64) {
        self.offered += frames;
        self.dropped(reason, frames);
    }

    /// The group's sums; `ahead` is what it has not claimed of the log.
    pub(super) fn account(&self, ahead: u64) -> Account {
        let hands = self.members.iter().filter_map(|(_, hand)| hand.as_ref());
        let held: u64 = hands.map(|hand| self.weigh(hand)).sum();
        let returned: u64 = self.returned.iter().map(|run| run.count(self.filter)).sum();
        Account {
            offered: self.offered,
            notices: self.notices,
            sent: self.sent,
            dropped: self.dropped,
            queued: ahead + held + returned,
        }
    }

    fn weigh(&self, hand: &Hand) -> u64 {
        match hand {
            Hand::Frames(run) => run.count(self.filter),
            Hand::Notice { .. } => 1,
        }
    }

    // Claims.

    /// Takes the loss that is still to be told: since the last time, and in all.
    pub(super) fn tell(&mut self) -> Option<(u64, u64)> {
        if self.untold == 0 {
            return None;
        }
        self.notices += 1;
        Some((std::mem::take(&mut self.untold), self.lost))
    }

    pub(super) fn share(&self) -> Share {
        Share {
            frames: if self.members.len() == 1 {
                u64::MAX
            } else {
                SHARED_FRAMES
            },
            bytes: CLAIM_BYTES,
        }
    }

    pub(super) fn hold(&mut self, member: u64, claimed: Hand) {
        if let Some((_, hand)) = self.members.iter_mut().find(|(id, _)| *id == member) {
            *hand = Some(claimed);
        }
    }

    /// The socket took what the member held; returns how many frames that were.
    pub(super) fn sent(&mut self, member: u64) -> u64 {
        let slot = self.members.iter_mut().find(|(id, _)| *id == member);
        let hand = slot.and_then(|(_, hand)| hand.take());
        let frames = hand.map_or(0, |hand| self.weigh(&hand));
        self.sent += frames;
        if let Some(eager) = self.eager.iter_mut().find(|eager| eager.member == member) {
            eager.still = 0;
        }
        frames
    }

    // Members.

    pub(super) fn members(&self) -> usize {
        self.members.len()
    }

    pub(super) fn enter(&mut self, member: u64) {
        self.newest = member;
        self.members.push((member, None));
    }

    /// Whether a member's reader would take more if it came sooner.
    pub(super) fn eager(&mut self, member: u64, eager: bool) {
        self.eager.retain(|eager| eager.member != member);
        if eager {
            self.eager.push(Eager { member, still: 0 });
        }
    }

    /// Whether nothing but us keeps the group, which is behind, from having more: a reader would
    /// take more, and itself did take something since this was asked `times` times.
    pub(super) fn is_kept_waiting(&mut self, times: u32) -> bool {
        for eager in &mut self.eager {
            eager.still = eager.still.saturating_add(1);
        }
        self.eager.iter().any(|eager| eager.still < times)
    }

    /// A member leaves; of what it held, `taken` bytes are with its socket.
    pub(super) fn exit(&mut self, member: u64, taken: usize) {
        self.stop_waiting(member);
        self.eager(member, false);
        let Some(at) = self.members.iter().position(|(id, _)| *id == member) else {
            return;
        };
        match self.members.swap_remove(at).1 {
            Some(Hand::Frames(run)) => {
                let (started, rest) = run.split(taken, self.filter);
                self.dropped(Reason::CloseResidue, started);
                if let Some(rest) = rest {
                    let behind = |run: &Run| run.position() < rest.position();
                    let at = self.returned.partition_point(behind);
                    self.returned.insert(at, rest);
                }
            }
            // The notice is lost; what it told of is told to the next.
            Some(Hand::Notice { delta }) => {
                self.untold += delta;
                self.dropped.add(Reason::CloseResidue, 1);
            }
            None => {}
        }
    }

    // Turns.

    /// Whether it is this member's turn: first of those who wait, or nobody does.
    pub(super) fn may_go(&self, member: u64) -> bool {
        self.waiting
            .front()
            .is_none_or(|(first, _)| *first == member)
    }

    pub(super) fn wait(&mut self, member: u64, waker: &Waker) {
        match self.waiting.iter_mut().find(|(id, _)| *id == member) {
            Some((_, slot)) => *slot = Some(waker.clone()),
            None => self.waiting.push_back((member, Some(waker.clone()))),
        }
    }

    pub(super) fn stop_waiting(&mut self, member: u64) {
        self.waiting.retain(|(id, _)| *id != member);
    }

    pub(super) fn awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn front_waiter(&mut self) -> Option<Waker> {
        self.waiting.front_mut()?.1.take()
    }

    pub(super) fn all_waiters(&mut self) -> impl Iterator<Item = Waker> + '_ {
        self.waiting
            .iter_mut()
            .filter_map(|(_, waker)| waker.take())
    }
}
