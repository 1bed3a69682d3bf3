//! Whether the peer lives, and whether it talks too much: decisions about moments, without a
//! clock.

use std::time::Duration;

use tokio::time::Instant;

use super::KeepAlive;

/// How the peer's life is watched.
#[derive(Debug)]
pub(super) enum Pulse {
    /// Not at all.
    None,
    /// By pings (server role).
    Asking {
        keep_alive: KeepAlive,
        /// When the next ping goes out, or the pong to the last one has to be here.
        at: Instant,
        /// Whether a ping waits for its pong.
        asked: bool,
        /// A pong that came unasked answers the next ping: as the Go Traffic Controller, whose
        /// channel of pongs holds one.
        remembered: bool,
    },
    /// By listening (client role): the server is the one who pings.
    Listening { timeout: Duration, heard: Instant },
}

/// What the moment asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Nothing,
    Ping,
    Silent,
}

impl Pulse {
    /// The first ping goes out now; the caller sends it.
    pub(super) fn asking(keep_alive: KeepAlive, now: Instant) -> Pulse {
        Pulse::Asking {
            keep_alive,
            at: now + keep_alive.timeout,
            asked: true,
            remembered: false,
        }
    }

    pub(super) fn listening(keep_alive: KeepAlive, now: Instant) -> Pulse {
        Pulse::Listening {
            timeout: keep_alive.timeout,
            heard: now,
        }
    }

    /// When to look again.
    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Pulse::None => None,
            Pulse::Asking { at, .. } => Some(*at),
            Pulse::Listening { timeout, heard } => Some(*heard + *timeout),
        }
    }

    pub(super) fn beat(&mut self, now: Instant) -> Beat {
        if self.due().is_none_or(|due| now < due) {
            return Beat::Nothing;
        }
        match self {
            Pulse::Asking {
                keep_alive,
                at,
                asked: asked @ false,
                remembered,
            } => {
                if std::mem::take(remembered) {
                    *at = now + keep_alive.interval;
                } else {
                    *asked = true;
                    *at = now + keep_alive.timeout;
                }
                Beat::Ping
            }
            _ => Beat::Silent,
        }
    }

    /// Bytes came in.
    pub(super) fn heard(&mut self, now: Instant) {
        if let Pulse::Listening { heard, .. } = self {
            *heard = now;
        }
    }

    /// We are the ones who do not listen: what the peer said waits to be taken.
    pub(super) fn held(&mut self, now: Instant) {
        self.heard(now);
    }

    /// A pong came in.
    pub(super) fn pong(&mut self, now: Instant) {
        if let Pulse::Asking {
            keep_alive,
            at,
            asked,
            remembered,
        } = self
        {
            if std::mem::take(asked) {
                *at = now + keep_alive.interval;
            } else {
                *remembered = true;
            }
        }
    }
}

/// How many control frames are too many: so many a second, in bursts of twice that.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: u32,
    /// When all frames so far would have come, had they kept to the rate.
    earned: Instant,
}

impl Rate {
    /// `per_second` of 0 admits any number.
    pub(super) fn new(per_second: u32, now: Instant) -> Rate {
        Rate {
            per_second,
            earned: now,
        }
    }

    pub(super) fn admits(&mut self, now: Instant) -> bool {
        let Some(each) = Duration::from_secs(1).checked_div(self.per_second) else {
            return true;
        };
        let earned = self.earned.max(now) + each;
        let burst = Duration::from_secs(2);
        if earned > now + burst {
            return false;
        }
        self.earned = earned;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP_ALIVE: KeepAlive = KeepAlive {
        interval: Duration::from_secs(15),
        timeout: Duration::from_secs(30),
    };

    fn second(n: u64, start: Instant) -> Instant {
        start + Duration::from_secs(n)
    }

    #[test]
    fn pings_follow_pongs_by_the_interval() {
        let start = Instant::now();
        let mut pulse = Pulse::asking(KEEP_ALIVE, start);
        pulse.pong(start);
        assert_eq!(pulse.beat(second(14, start)), Beat::Nothing);
        assert_eq!(pulse.beat(second(15, start)), Beat::Ping);
        pulse.pong(second(20, start));
        assert_eq!(pulse.due(), Some(second(35, start)));
    }

    #[test]
    fn a_pong_at_five_seconds_leaves_the_next_ping_at_twenty_and_silence_at_fifty() {
        let start = Instant::now();
        let mut pulse = Pulse::asking(KEEP_ALIVE, start);
        pulse.pong(second(5, start));
        assert_eq!(pulse.beat(second(20, start)), Beat::Ping);
        assert_eq!(pulse.beat(second(49, start)), Beat::Nothing);
        assert_eq!(pulse.beat(second(50, start)), Beat::Silent);
    }

    #[test]
    fn one_pong_too_many_answers_the_next_ping() {
        let start = Instant::now();
        let mut pulse = Pulse::asking(KEEP_ALIVE, start);
        for _ in 0..3 {
            pulse.pong(start);
        }
        assert_eq!(pulse.beat(second(15, start)), Beat::Ping);
        assert_eq!(pulse.beat(second(30, start)), Beat::Ping);
        assert_eq!(pulse.beat(second(60, start)), Beat::Silent);
    }

    #[test]
    fn a_listener_is_content_with_any_byte() {
        let start = Instant::now();
        let mut pulse = Pulse::listening(KEEP_ALIVE, start);
        pulse.heard(second(10, start));
        assert_eq!(pulse.beat(second(39, start)), Beat::Nothing);
        assert_eq!(pulse.beat(second(40, start)), Beat::Silent);
    }

    #[test]
    fn twenty_frames_at_once_and_ten_a_second_are_admitted() {
        let start = Instant::now();
        let mut rate = Rate::new(10, start);
        for n in 0..20 {
            assert!(rate.admits(start), "{n}");
        }
        assert!(!rate.admits(start));
        for n in 0..10 {
            assert!(rate.admits(second(1, start)), "{n}");
        }
        assert!(!rate.admits(second(1, start)));
        assert!((0..1000).all(|_| Rate::new(0, start).admits(start)));
    }
}
