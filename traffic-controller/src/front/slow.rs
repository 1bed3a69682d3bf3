//! When a client is too slow to be kept (design 7): times and numbers in, a verdict out.
//!
//! A client that takes no whole frame is closed after 5 s if that costs it envelopes or leaves
//! it 4 MiB behind, and after 30 s in any case. One that takes some, but stays behind more than
//! half of the log for a minute, is closed as well: it will never catch up. Nobody is closed
//! while nothing waits for it.

use crate::dopplers::Lag;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use transport::websocket::{Close, Progress};

/// How long a client may take nothing while that costs envelopes. The Go Traffic Controller's
/// `slowConsumerTimeout` has the same default.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take nothing, whatever that costs.
const STALLED: Duration = Duration::from_secs(30);

/// So many bytes behind, losing is a question of time.
const FAR_BEHIND: u64 = 4 << 20;

/// Half of the log, in thousandths.
const HALF: u32 = 500;

/// How long it may be behind more than half of the log, and how often that is looked at.
const LAGGING: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(1);

/// The longest between two looks that are one after the other. Nobody looks while the socket
/// takes all there is.
const IN_A_ROW: Duration = Duration::from_secs(2);

/// What an operator has said about slow consumers.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How long a client may take nothing while that costs envelopes.
    pub patience: Duration,
    /// Whether it is closed with 1008 and the reason, instead of 1000 without one.
    pub policy_close: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            patience: PATIENCE,
            policy_close: false,
        }
    }
}

impl Rules {
    /// How a client is closed that was too slow, and why.
    pub(super) fn close(&self, why: Slow) -> Close {
        match self.policy_close {
            true => Close::POLICY.because(why.words()),
            false => Close::NORMAL,
        }
    }
}

/// Why a client is too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slow {
    /// It takes nothing, and loses.
    Loses,
    /// It takes nothing, and is far behind.
    FarBehind,
    /// It takes nothing.
    Stalled,
    /// It takes too little.
    Lags,
}

impl Slow {
    /// Why, for its client and for the log.
    pub(super) fn words(self) -> &'static str {
        match self {
            Slow::Loses => "slow consumer: it took nothing while envelopes were lost",
            Slow::FarBehind => "slow consumer: it took nothing and is more than 4 MiB behind",
            Slow::Stalled => "slow consumer: it took nothing for 30 s",
            Slow::Lags => "slow consumer: for 60 s it was behind more than half of the log",
        }
    }
}

/// Looks at one client every second while its socket takes no more.
#[derive(Debug)]
pub(super) struct Watch {
    rules: Rules,
    every: Interval,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    /// Since when it takes nothing, and what it has lost meanwhile.
    stalled: Option<Instant>,
    lost: u64,
    /// Since when it was behind more than half of the log at every look.
    lagging: Option<Instant>,
    looked: Option<Instant>,
}

impl Watch {
    /// Nothing looked at yet.
    pub(super) fn new(rules: Rules) -> Watch {
        let mut every = interval(LOOK);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watch {
            rules,
            every,
            state: State::default(),
        }
    }

    /// Resolves when the client that `progress` is of is too slow. To be waited for beside
    /// what is written to it; cancel-safe.
    pub(super) async fn slow(&mut self, progress: &Progress, mut lag: impl FnMut() -> Lag) -> Slow {
        loop {
            self.every.tick().await;
            let (now, since) = (Instant::now(), progress.waiting_since());
            if let Some(slow) = self.state.look(&self.rules, now, since, lag()) {
                return slow;
            }
        }
    }
}

impl State {
    /// The verdict on a client that takes nothing `since` then, if there is one.
    fn look(
        &mut self,
        rules: &Rules,
        now: Instant,
        since: Option<Instant>,
        lag: Lag,
    ) -> Option<Slow> {
        if self.stalled != since {
            (self.stalled, self.lost) = (since, 0);
        }
        let in_a_row = self.looked.is_some_and(|looked| now <= looked + IN_A_ROW);
        self.looked = Some(now);
        if in_a_row {
            self.lost = self.lost.saturating_add(lag.lost);
        }
        self.lagging = match self.lagging {
            _ if lag.per_mille <= HALF => None,
            Some(lagging) if in_a_row => Some(lagging),
            _ => Some(now),
        };

        let over = |since: Option<Instant>, limit| since.is_some_and(|since| now >= since + limit);
        if over(since, STALLED) {
            return Some(Slow::Stalled);
        }
        if over(since, rules.patience) {
            if self.lost > 0 {
                return Some(Slow::Loses);
            }
            if lag.behind > FAR_BEHIND {
                return Some(Slow::FarBehind);
            }
        }
        over(self.lagging, LAGGING).then_some(Slow::Lags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::io::AsyncReadExt;
    use transport::frame::Frames;
    use transport::websocket::{Options, Socket};

    const NOT_BEHIND: Lag = Lag {
        lost: 0,
        behind: 0,
        per_mille: 0,
    };

    const LOSING: Lag = Lag {
        lost: 1,
        behind: 1 << 20,
        per_mille: 250,
    };

    const FAR: Lag = Lag {
        lost: 0,
        behind: FAR_BEHIND + 1,
        per_mille: 100,
    };

    const OVER_HALF: Lag = Lag {
        lost: 0,
        behind: 1 << 20,
        per_mille: 501,
    };

    /// Looks at each second at a client that takes nothing from second 0 on; returns when it is
    /// too slow, and why.
    fn stalled(lag: impl Fn(u64) -> Lag) -> (u64, Slow) {
        verdict(|_| Some(0), lag)
    }

    /// The same of one that takes nothing since the second that `since` gives.
    fn verdict(since: impl Fn(u64) -> Option<u64>, lag: impl Fn(u64) -> Lag) -> (u64, Slow) {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut state = State::default();
        let rules = Rules::default();
        for second in 0..1_000 {
            let since = since(second).map(at);
            if let Some(slow) = state.look(&rules, at(second), since, lag(second)) {
                return (second, slow);
            }
        }
        (1_000, Slow::Stalled)
    }

    #[test]
    fn who_takes_nothing_is_closed_after_five_seconds_if_that_costs_and_after_thirty_anyway() {
        assert_eq!(stalled(|_| NOT_BEHIND), (30, Slow::Stalled));
        assert_eq!(stalled(|_| LOSING), (5, Slow::Loses));
        assert_eq!(stalled(|_| FAR), (5, Slow::FarBehind));
        assert_eq!(stalled(|_| OVER_HALF), (30, Slow::Stalled));
        let exactly = Lag {
            behind: FAR_BEHIND,
            ..NOT_BEHIND
        };
        assert_eq!(stalled(|_| exactly), (30, Slow::Stalled));
    }

    #[test]
    fn a_loss_counts_for_as_long_as_nothing_is_taken_and_being_behind_while_it_lasts() {
        let once = |lag: Lag, when| {
            move |second| match second == when {
                true => lag,
                false => NOT_BEHIND,
            }
        };
        assert_eq!(stalled(once(LOSING, 1)), (5, Slow::Loses));
        assert_eq!(stalled(once(LOSING, 17)), (17, Slow::Loses));
        assert_eq!(stalled(once(FAR, 1)), (30, Slow::Stalled));
        assert_eq!(stalled(once(FAR, 17)), (17, Slow::FarBehind));
    }

    #[test]
    fn who_takes_a_frame_now_and_then_begins_anew_with_what_it_lost_too() {
        let every_four = |second: u64| Some(second / 4 * 4);
        assert_eq!(verdict(every_four, |_| LOSING), (1_000, Slow::Stalled));
        // It loses in the fourth second, takes a frame in the fifth, and then no more.
        let once = |second: u64| Some(if second < 5 { 0 } else { 5 });
        let lag = |second| if second == 4 { LOSING } else { NOT_BEHIND };
        assert_eq!(verdict(once, lag), (35, Slow::Stalled));
        assert_eq!(verdict(|_| None, |_| LOSING), (1_000, Slow::Stalled));
    }

    #[test]
    fn who_is_behind_more_than_half_of_the_log_for_a_minute_is_closed_whatever_it_takes() {
        let taking = |second| Some(second);
        assert_eq!(verdict(taking, |_| OVER_HALF), (60, Slow::Lags));
        let half = Lag {
            per_mille: HALF,
            ..OVER_HALF
        };
        assert_eq!(verdict(taking, |_| half), (1_000, Slow::Stalled));
        // Once it was not.
        let once = |second| if second == 59 { NOT_BEHIND } else { OVER_HALF };
        assert_eq!(verdict(taking, once), (120, Slow::Lags));
    }

    #[test]
    fn seconds_in_which_the_socket_took_everything_are_seconds_not_behind() {
        let start = Instant::now();
        let mut state = State::default();
        for minute in 0..5 {
            // Nobody looks for 3 s.
            for second in 0..57 {
                let now = start + Duration::from_secs(minute * 60 + second);
                let verdict = state.look(&Rules::default(), now, Some(now), OVER_HALF);
                assert_eq!(verdict, None, "{minute}:{second}");
            }
        }
    }

    /// Sends to a client that takes so many bytes every `every` of them; returns after how many
    /// seconds it is too slow.
    async fn sent_to(bytes: usize, every: Duration, lag: Lag) -> (u64, Slow) {
        let (ours, mut theirs) = tokio::io::duplex(100);
        let options = Options {
            keep_alive: None,
            stall: Duration::from_secs(3_600),
            ..Options::server()
        };
        let mut socket = Socket::new(ours, Bytes::new(), options);
        let mut watch = Watch::new(Rules::default());
        let progress = socket.progress();
        let mut frames = Frames::new();
        (0..1_000).for_each(|_| frames.push(&[7; 98], false));
        let began = Instant::now();
        let reading = async {
            let mut taken = vec![0; bytes];
            loop {
                tokio::time::sleep(every).await;
                theirs.read_exact(&mut taken).await.unwrap();
            }
        };
        let slow = tokio::select! {
            slow = watch.slow(&progress, || lag) => slow,
            sent = socket.send(frames.bytes()) => panic!("{sent:?}"),
            () = reading => unreachable!(),
        };
        (began.elapsed().as_secs(), slow)
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_keep_a_place() {
        let now_and_then = Duration::from_secs(1);
        assert_eq!(sent_to(1, now_and_then, LOSING).await, (5, Slow::Loses));
        assert_eq!(sent_to(1, now_and_then, FAR).await, (5, Slow::FarBehind));
        let (after, slow) = sent_to(1, now_and_then, NOT_BEHIND).await;
        assert_eq!((after, slow), (30, Slow::Stalled));
        // A frame every four seconds does, for as long as the log is not half full.
        let frame = Duration::from_secs(4);
        assert_eq!(sent_to(100, frame, OVER_HALF).await, (60, Slow::Lags));
    }

    #[test]
    fn a_client_that_was_too_slow_is_told_nothing_unless_that_is_asked_for() {
        let mut rules = Rules::default();
        assert_eq!(rules.close(Slow::Loses), Close::NORMAL);
        rules.policy_close = true;
        let close = rules.close(Slow::Loses);
        assert_eq!(close.code, Some(1008));
        for slow in [Slow::Loses, Slow::FarBehind, Slow::Stalled, Slow::Lags] {
            let close = rules.close(slow);
            // RFC 6455 §5.5: a control frame has 125 bytes, two of them the code.
            assert!(close.reason.starts_with("slow consumer") && close.reason.len() <= 123);
        }
    }
}
