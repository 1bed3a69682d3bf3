//! How firehose groups stand at one Doppler: how far behind, and what they lost by it.
//!
//! In come questions of streams whose clients do not read; out, over the app link, go messages,
//! and back come answers. A firehose link cannot carry them: while its client does not read,
//! what the Doppler says there waits behind what the client does not take. The app link is
//! always read. A Doppler that is away or of an older version does not answer, and then the
//! group is not known to be behind.

use proto::link::{Handle, Question, Standing, Upstream};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// An answer that nobody has looked at for so long says nothing about now. Whoever looks, does
/// so every second.
const STALE: Duration = Duration::from_secs(2);

/// So many questions may be without their answers; then one is asked every 5 s. A Doppler that hangs
/// takes none, and they would pile up until its link is given up, after 30 s; one that does not
/// know the group yet says nothing. Two, so that a Doppler that is a second late is heard every
/// second.
const OWED: u32 = 2;
const UNANSWERED: Duration = Duration::from_secs(5);

/// How far a client is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// Envelopes lost to a full log since the last look.
    pub lost: u64,
    /// Bytes that wait for it there.
    pub behind: u64,
    /// That, in thousandths of what the log may hold; the worst of several logs.
    pub per_mille: u32,
}

impl Lag {
    /// Of one log and of another.
    pub(super) fn and(self, other: Lag) -> Lag {
        Lag {
            lost: self.lost.saturating_add(other.lost),
            behind: self.behind.saturating_add(other.behind),
            per_mille: self.per_mille.max(other.per_mille),
        }
    }
}

/// What is asked of one Doppler.
#[derive(Default)]
pub(super) struct Standings {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Whether there is an app link to ask over.
    open: bool,
    last: Handle,
    groups: HashMap<Handle, Group>,
    /// Whose question is still to be said.
    waiting: BTreeSet<Handle>,
}

struct Group {
    path: Arc<str>,
    /// When a question was last asked that has no answer, and how many there are of them.
    asked: Option<Instant>,
    owed: u32,
    /// The answer nobody has looked at yet.
    answer: Option<Standing>,
    /// What the group had lost when somebody last looked.
    overflowed: Option<u64>,
    /// When that was.
    looked: Option<Instant>,
}

/// One stream's questions. Dropping it takes them back.
pub(super) struct Asking {
    standings: Arc<Standings>,
    handle: Handle,
}

impl Standings {
    /// Will ask about the group whose links have that path.
    pub(super) fn about(self: &Arc<Standings>, path: &Arc<str>) -> Asking {
        let mut state = self.lock();
        let handle = state.next_handle();
        let group = Group {
            path: path.clone(),
            asked: None,
            owed: 0,
            answer: None,
            overflowed: None,
            looked: None,
        };
        state.groups.insert(handle, group);
        Asking {
            standings: self.clone(),
            handle,
        }
    }

    /// The app link is open: questions are asked from now on.
    pub(super) fn open(&self) {
        self.lock().open = true;
    }

    /// The app link is over: what was asked is not answered, and a Doppler that comes back
    /// counts anew.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        state.waiting.clear();
        for group in state.groups.values_mut() {
            (group.asked, group.owed) = (None, 0);
            (group.answer, group.overflowed) = (None, None);
        }
    }

    /// Waits for questions and takes them. Cancel-safe.
    pub(super) async fn questions(&self) -> Vec<Upstream> {
        loop {
            let questions = self.lock().take_questions();
            if !questions.is_empty() {
                return questions;
            }
            self.changed.notified().await;
        }
    }

    /// The Doppler has answered.
    pub(super) fn answered(&self, standing: Standing) {
        if let Some(group) = self.lock().groups.get_mut(&standing.handle) {
            (group.asked, group.owed) = (None, 0);
            group.answer = Some(standing);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_handle(&mut self) -> Handle {
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.groups.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// Whether there is a question more to be said.
    fn ask(&mut self, handle: Handle, now: Instant) -> bool {
        let Some(group) = self.groups.get_mut(&handle).filter(|_| self.open) else {
            return false;
        };
        let waits = |asked: Instant| now < asked + UNANSWERED;
        if group.owed >= OWED && group.asked.is_some_and(waits) {
            return false;
        }
        (group.asked, group.owed) = (Some(now), group.owed.saturating_add(1));
        self.waiting.insert(handle)
    }

    fn take_questions(&mut self) -> Vec<Upstream> {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let question = |handle| {
            let path = self.groups.get(&handle)?.path.to_string();
            Some(Upstream::Standing(Question { handle, path }))
        };
        waiting.filter_map(question).collect()
    }
}

impl Asking {
    /// What the Doppler answered since this was last asked, and asks again if it owes few answers.
    ///
    /// A group with an idle member is not behind: whoever stalls holds nobody up.
    pub(super) fn lag(&self) -> Lag {
        let mut state = self.standings.lock();
        let now = Instant::now();
        if state.ask(self.handle, now) {
            self.standings.changed.notify_one();
        }
        let group = state.groups.get_mut(&self.handle);
        let Some((group, answer)) = group.and_then(|group| {
            // What was lost while nobody looked was not lost by who stalls now.
            let looked = group.looked.replace(now);
            if looked.is_none_or(|looked| now > looked + STALE) {
                (group.answer, group.overflowed) = (None, None);
            }
            let answer = group.answer.take()?;
            Some((group, answer))
        }) else {
            return Lag::default();
        };
        let before = group.overflowed.replace(answer.overflowed);
        match answer.idle {
            true => Lag::default(),
            false => Lag {
                lost: answer
                    .overflowed
                    .saturating_sub(before.unwrap_or(answer.overflowed)),
                behind: answer.behind,
                per_mille: answer.per_mille,
            },
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut state = self.standings.lock();
        state.groups.remove(&self.handle);
        state.waiting.remove(&self.handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn answer(handle: Handle, overflowed: u64, idle: bool) -> Standing {
        Standing {
            handle,
            overflowed,
            behind: 10,
            per_mille: 20,
            idle,
        }
    }

    fn lag(lost: u64) -> Lag {
        Lag {
            lost,
            behind: 10,
            per_mille: 20,
        }
    }

    #[test]
    fn a_question_waits_for_an_app_link_and_is_said_once() {
        let standings = Arc::new(Standings::default());
        let asking = standings.about(&"/firehose/n".into());
        assert_eq!(asking.lag(), Lag::default());
        assert_eq!(standings.questions().now_or_never(), None);
        standings.open();
        asking.lag();
        asking.lag();
        let question = Question {
            handle: asking.handle,
            path: "/firehose/n".to_owned(),
        };
        let said = standings.questions().now_or_never();
        assert_eq!(said, Some(vec![Upstream::Standing(question)]));
        assert_eq!(standings.questions().now_or_never(), None);

        standings.answered(answer(asking.handle, 0, false));
        asking.lag();
        drop(asking);
        assert_eq!(standings.questions().now_or_never(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_doppler_that_hangs_is_asked_twice_and_then_every_five_seconds_about_each_group() {
        let standings = Arc::new(Standings::default());
        let some = [0; 3].map(|_| standings.about(&"/firehose/n".into()));
        standings.open();
        let mut said = 0;
        for second in 0..30 {
            some.iter().for_each(|asking| _ = asking.lag());
            let questions = standings.questions().now_or_never();
            said += questions.map_or(0, |questions| questions.len());
            let each = if second == 0 { 1 } else { 2 + (second - 1) / 5 };
            assert_eq!(said, 3 * each, "after {second} s");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // Over a link that is new nothing was asked yet; and who answers is asked every time.
        standings.close();
        standings.open();
        for _ in 0..3 {
            some[0].lag();
            let questions = standings.questions().now_or_never();
            assert_eq!(questions.map(|questions| questions.len()), Some(1));
            standings.answered(answer(some[0].handle, 0, false));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_doppler_whose_answers_are_a_second_late_is_heard_every_second() {
        let standings = Arc::new(Standings::default());
        let asking = standings.about(&"/firehose/n".into());
        standings.open();
        asking.lag();
        for second in 0..10 {
            tokio::time::advance(Duration::from_millis(1_000)).await;
            let heard = asking.lag();
            assert_eq!(heard, if second == 0 { Lag::default() } else { lag(0) });
            tokio::time::advance(Duration::from_millis(200)).await;
            // To the question before the last.
            standings.answered(answer(asking.handle, 0, false));
        }
    }

    #[test]
    fn what_a_group_lost_is_what_it_lost_since_the_answer_before() {
        let standings = Arc::new(Standings::default());
        let asking = standings.about(&"/firehose/n".into());
        standings.open();
        asking.lag();
        for (overflowed, lost) in [(5, 0), (5, 0), (7, 2), (7, 0)] {
            standings.answered(answer(asking.handle, overflowed, false));
            assert_eq!(asking.lag(), lag(lost));
            assert_eq!(asking.lag(), Lag::default(), "an answer is good once");
        }
        // Another Doppler at the same address counts from 0.
        standings.close();
        standings.answered(answer(asking.handle, 1, false));
        assert_eq!(asking.lag(), lag(0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_lost_while_nobody_looked_was_not_lost_by_who_stalls_now() {
        let standings = Arc::new(Standings::default());
        let asking = standings.about(&"/firehose/n".into());
        standings.open();
        asking.lag();
        standings.answered(answer(asking.handle, 1, false));
        assert_eq!(asking.lag(), lag(0));
        standings.answered(answer(asking.handle, 2, false));
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(asking.lag(), Lag::default(), "that answer is old");
        standings.answered(answer(asking.handle, 9, false));
        assert_eq!(asking.lag(), lag(0));
    }

    #[test]
    fn a_group_with_an_idle_member_is_not_behind() {
        let standings = Arc::new(Standings::default());
        let asking = standings.about(&"/firehose/n".into());
        asking.lag();
        for (overflowed, idle, expected) in [
            (1, false, lag(0)),
            (2, true, Lag::default()),
            (3, false, lag(1)),
        ] {
            standings.answered(answer(asking.handle, overflowed, idle));
            assert_eq!(asking.lag(), expected);
        }
    }
}
