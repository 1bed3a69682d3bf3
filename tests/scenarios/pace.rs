//! Producers that wait for their readers: what the readers should have, and when to go on.

use crate::SOON;
use harness::envelopes::{Kind, Workload};
use harness::eventually;
use std::collections::VecDeque;

/// What was sent so far, by who is to receive it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    /// Everything: a firehose's.
    pub(crate) all: u64,
    /// Logs: a firehose's with `filter-type=logs`.
    pub(crate) logs: u64,
    /// What each app's tails receive.
    pub(crate) apps: Vec<u64>,
}

/// Keeps the producers of one workload at most some rounds ahead of the slowest reader.
pub(crate) struct Pace {
    workload: Workload,
    producers: u32,
    each: u64,
    now: Expected,
    earlier: VecDeque<Expected>,
    ahead: usize,
}

impl Pace {
    /// `producers` that may be `ahead` rounds ahead.
    pub(crate) fn new(workload: Workload, producers: u32, ahead: usize) -> Pace {
        Pace {
            workload,
            producers,
            each: 0,
            now: Expected {
                apps: vec![0; workload.apps as usize],
                ..Expected::default()
            },
            earlier: VecDeque::new(),
            ahead,
        }
    }

    /// Each producer has sent its next `count` envelopes: a round.
    pub(crate) fn sent_each(&mut self, count: u64) {
        let producers = u64::from(self.producers);
        for sequence in self.each..self.each + count {
            let kind = self.workload.kind(sequence);
            self.now.all += producers;
            if kind == Kind::Log {
                self.now.logs += producers;
            }
            if kind.is_an_apps() {
                self.now.apps[self.workload.app(sequence) as usize] += producers;
            }
        }
        self.each += count;
        self.earlier.push_back(self.now.clone());
    }

    /// Waits until readers have what had been sent `ahead` rounds ago.
    pub(crate) async fn wait(&mut self, mut received: impl FnMut(&Expected) -> bool) {
        if self.earlier.len() > self.ahead
            && let Some(then) = self.earlier.pop_front()
        {
            eventually(SOON, "the readers follow the producers", || {
                let received = received(&then);
                async move { received }
            })
            .await;
        }
    }

    /// Envelopes sent by all producers.
    pub(crate) fn sent(&self) -> u64 {
        self.now.all
    }

    /// What the readers are to receive in all.
    pub(crate) fn expected(&self) -> &Expected {
        &self.now
    }
}
