//! Whether this process gets the processors it wants.
//!
//! In comes what the kernel counts for each of our threads (`/proc/self/task/*/schedstat`,
//! Linux's sched-stats.rst: nanoseconds on a processor, and nanoseconds runnable and waiting for
//! one); out comes [`Use`]: the sums between two looks.

use std::fs;
use std::time::{Duration, Instant};

/// What our threads have used, and waited for, since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Between the two looks.
    pub elapsed: Duration,
    /// All threads' time on a processor.
    pub ran: Duration,
    /// All threads' time ready to run and without one: somebody else ran.
    pub waited: Duration,
}

/// Looks from time to time.
#[derive(Debug)]
pub struct Processors {
    at: Instant,
    ran: u64,
    waited: u64,
}

impl Use {
    /// Whether more work would not be done sooner: our threads wait for others a fifth of the
    /// time they want to run, or run nine tenths of what `threads` of them could.
    pub fn is_all_there_is(&self, threads: usize) -> bool {
        let wanted = self.ran + self.waited;
        let most = self.elapsed * u32::try_from(threads).unwrap_or(u32::MAX);
        let busy = wanted * 2 > self.elapsed;
        busy && self.waited * 5 > wanted || self.ran * 10 > most * 9
    }
}

impl Processors {
    /// The first look. `None` where the kernel does not say.
    pub fn look() -> Option<Processors> {
        let (ran, waited) = threads()?;
        Some(Processors {
            at: Instant::now(),
            ran,
            waited,
        })
    }

    /// How long ago the last look was.
    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// What was used since the last look.
    pub fn since(&mut self) -> Option<Use> {
        let now = Processors::look()?;
        // A thread that ended takes its sums along.
        let spent = |now: u64, then| Duration::from_nanos(now.saturating_sub(then));
        let used = Use {
            elapsed: now.at - self.at,
            ran: spent(now.ran, self.ran),
            waited: spent(now.waited, self.waited),
        };
        *self = now;
        Some(used)
    }
}

fn threads() -> Option<(u64, u64)> {
    let mut sums = (0, 0);
    for thread in fs::read_dir("/proc/self/task").ok()? {
        // It may have ended just now.
        let Ok(line) = fs::read_to_string(thread.ok()?.path().join("schedstat")) else {
            continue;
        };
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(ran)), Some(Ok(waited))) = (numbers.next(), numbers.next()) else {
            return None;
        };
        sums.0 += ran;
        sums.1 += waited;
    }
    Some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(ran: u64, waited: u64) -> Use {
        Use {
            elapsed: Duration::from_millis(100),
            ran: Duration::from_millis(ran),
            waited: Duration::from_millis(waited),
        }
    }

    #[test]
    fn a_process_that_others_keep_from_running_or_that_runs_all_it_can_has_no_more() {
        assert!(!used(0, 0).is_all_there_is(2));
        assert!(!used(100, 5).is_all_there_is(2), "half of two processors");
        assert!(!used(2, 2).is_all_there_is(2), "waiting, but hardly ever");
        assert!(used(100, 50).is_all_there_is(2), "others run as well");
        assert!(used(195, 2).is_all_there_is(2), "both processors, alone");
    }

    #[test]
    fn work_shows_as_time_on_a_processor() {
        let mut processors = Processors::look().expect("Linux says");
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let used = processors.since().expect("Linux says");
        assert!(
            used.ran + used.waited >= Duration::from_millis(10),
            "{used:?}"
        );
    }
}
