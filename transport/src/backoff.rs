//! How long to wait before trying again.
//!
//! Full jitter: each wait is drawn evenly between zero and a ceiling that doubles from `base`
//! to `cap`. Many peers that lost the same server come back spread over the ceiling instead of
//! all at once, and none ever waits longer than `cap`. Decides only: the caller sleeps.

use std::time::Duration;

/// The first ceiling when nothing else is said: 50 ms.
pub const BASE: Duration = Duration::from_millis(50);

/// The last ceiling when nothing else is said: 2 s. A Doppler that comes back is read from
/// again within this (the Go Traffic Controller waits up to 100 s).
pub const CAP: Duration = Duration::from_secs(2);

/// The waits of one thing that is retried.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    ceiling: Duration,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Waits under [`BASE`] and [`CAP`]. `rng` is the only randomness: seeded, the waits are
    /// always the same.
    pub fn new(rng: fastrand::Rng) -> Backoff {
        Backoff::between(BASE, CAP, rng)
    }

    /// Waits whose ceiling doubles from `base` up to `cap`; `cap` wins if it is the smaller.
    pub fn between(base: Duration, cap: Duration, rng: fastrand::Rng) -> Backoff {
        let base = base.min(cap);
        Backoff {
            base,
            cap,
            ceiling: base,
            rng,
        }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.ceiling.mul_f64(self.rng.f64());
        self.ceiling = self.ceiling.saturating_mul(2).min(self.cap);
        wait
    }

    /// Starts over from `base`. Call it once something worked that a peer which accepts and
    /// at once hangs up would not have done, such as the first bytes of a stream.
    pub fn reset(&mut self) {
        self.ceiling = self.base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeded() -> Backoff {
        Backoff::new(fastrand::Rng::with_seed(7))
    }

    #[test]
    fn no_wait_is_longer_than_the_cap() {
        let mut backoff = seeded();
        assert!((0..10_000).all(|_| backoff.next_wait() <= CAP));
    }

    #[test]
    fn no_wait_is_longer_than_its_doubling_ceiling() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(fastrand::Rng::with_seed(seed));
            for doubled in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
                assert!(backoff.next_wait() <= Duration::from_millis(doubled));
            }
        }
    }

    #[test]
    fn waits_at_the_cap_are_spread_evenly_from_zero() {
        let mut backoff = seeded();
        (0..6).for_each(|_| _ = backoff.next_wait());
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            tenths[(backoff.next_wait().as_millis() / 200).min(9) as usize] += 1;
        }
        assert!(
            tenths.iter().all(|n| (800..1200).contains(n)),
            "{tenths:?} are not about 1,000 each"
        );
    }

    #[test]
    fn a_reset_starts_over() {
        let mut backoff = seeded();
        for _ in 0..100 {
            (0..10).for_each(|_| _ = backoff.next_wait());
            backoff.reset();
            assert!(backoff.next_wait() <= BASE);
        }
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        let waits = |mut backoff: Backoff| (0..20).map(|_| backoff.next_wait()).collect::<Vec<_>>();
        assert_eq!(waits(seeded()), waits(seeded()));
        assert_ne!(
            waits(seeded()),
            waits(Backoff::new(fastrand::Rng::with_seed(8)))
        );
    }

    #[test]
    fn a_cap_below_the_base_wins() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::between(ms(500), ms(10), fastrand::Rng::with_seed(1));
        assert!((0..100).all(|_| backoff.next_wait() <= ms(10)));
    }
}
