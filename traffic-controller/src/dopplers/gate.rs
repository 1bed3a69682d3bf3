//! Who may dial a Doppler, and when: all streams of this Traffic Controller pass one gate.
//!
//! While the Doppler is reached, they pass at a pace. As soon as one is not let in by the
//! Doppler, the gate shuts: one of them probes, with full jitter under [`PROBE_CAP`], and the
//! others wait for what it finds. So ten thousand streams dial a Doppler that is down no more
//! often than one would, and are all there soon after it comes back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as Turns, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};
use transport::backoff::{self, Backoff};

/// The longest wait between two probes: 1 s. The other second of the two in which a Doppler that
/// is back is read again is for what was under way, and for those that wait.
pub const PROBE_CAP: Duration = Duration::from_secs(1);

/// How long a probe may take: 2 s, which is a lost SYN, the one after it, and a handshake.
pub const PROBE: Duration = Duration::from_secs(2);

/// Links that open to one Doppler at a time. A Doppler has room for 1,024 handshakes, of all
/// Traffic Controllers.
const OPENING: usize = 32;

/// Dials a second, to all Dopplers together: 1,000. A handshake of mutual TLS is about 1 ms of
/// a core at either end.
pub const DIALS: u32 = 1_000;

/// Dials that may be made at once after a pause: so that a client's links need not queue when
/// nobody else's do.
const BURST: u32 = 64;

/// The way to one Doppler.
pub(super) struct Gate {
    reached: watch::Sender<bool>,
    /// Whoever holds it probes. It is handed on in the order in which they came.
    probe: Arc<Turns<Backoff>>,
    seats: Arc<Semaphore>,
    pace: Arc<Pace>,
}

/// What all gates share.
pub(super) struct Pace {
    next: Mutex<Instant>,
}

/// Leave to dial once. Dropping it lets the next one.
pub(super) enum Pass {
    /// The Doppler was reached the last time.
    Follow(#[expect(dead_code, reason = "held")] Option<OwnedSemaphorePermit>),
    /// It was not, and this finds out.
    Probe(OwnedMutexGuard<Backoff>),
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// One of many.
    Queued,
    /// The only one to its Doppler: not behind thousands of others.
    First,
}

impl Gate {
    pub(super) fn new(pace: Arc<Pace>) -> Gate {
        let backoff = Backoff::between(backoff::BASE, PROBE_CAP, fastrand::Rng::new());
        Gate {
            reached: watch::channel(true).0,
            probe: Arc::new(Turns::new(backoff)),
            seats: Arc::new(Semaphore::new(OPENING)),
            pace,
        }
    }

    /// Waits until it is time to dial. Cancel-safe.
    pub(super) async fn pass(&self, turn: Turn) -> Pass {
        let mut reached = self.reached.subscribe();
        loop {
            if *reached.borrow_and_update() {
                let seat = async {
                    if turn == Turn::First {
                        return None;
                    }
                    // It is never closed.
                    let seat = self.seats.clone().acquire_owned().await.ok();
                    self.pace.wait().await;
                    seat
                };
                tokio::select! {
                    biased;
                    _ = reached.wait_for(|reached| !reached) => {}
                    seat = seat => return Pass::Follow(seat),
                }
            } else {
                tokio::select! {
                    biased;
                    _ = reached.wait_for(|reached| *reached) => {}
                    probe = self.next_probe() => return Pass::Probe(probe),
                }
            }
        }
    }

    async fn next_probe(&self) -> OwnedMutexGuard<Backoff> {
        let mut probe = self.probe.clone().lock_owned().await;
        sleep(probe.next_wait()).await;
        probe
    }

    /// Who dialled with that leave was let in, or refused in a way that says nothing about
    /// the others.
    pub(super) fn reached(&self, pass: Pass) {
        if let Pass::Probe(mut backoff) = pass {
            backoff.reset();
        }
        self.set(true);
    }

    /// Who dialled with that leave was not let in.
    pub(super) fn shut(&self, pass: Pass) {
        // Before the leave goes: nobody shall pass by it.
        self.set(false);
        drop(pass);
    }

    pub(super) fn is_reached(&self) -> bool {
        *self.reached.borrow()
    }

    fn set(&self, now: bool) {
        self.reached
            .send_if_modified(|reached| std::mem::replace(reached, now) != now);
    }
}

impl Pass {
    /// How long the one who has it may take to open its link.
    pub(super) fn patience(&self) -> Duration {
        match self {
            Pass::Follow(_) => super::OPEN,
            Pass::Probe(_) => PROBE,
        }
    }
}

impl Pace {
    pub(super) fn new() -> Arc<Pace> {
        Arc::new(Pace {
            next: Mutex::new(Instant::now()),
        })
    }

    async fn wait(&self) {
        let spacing = Duration::from_secs(1) / DIALS;
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let saved = Instant::now().checked_sub(spacing * BURST);
            let turn = saved.map_or(*next, |saved| saved.max(*next));
            *next = turn + spacing;
            turn
        };
        if turn > Instant::now() {
            sleep_until(turn).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    /// A gate before a Doppler that is up or not, and how often it was dialled.
    struct Dialled {
        gate: Gate,
        up: AtomicBool,
        dials: AtomicU32,
    }

    impl Dialled {
        fn new() -> Arc<Dialled> {
            Arc::new(Dialled {
                gate: Gate::new(Pace::new()),
                up: AtomicBool::new(false),
                dials: AtomicU32::new(0),
            })
        }

        /// Dials until it is let in; says when that was.
        async fn open(self: Arc<Dialled>) -> Instant {
            loop {
                let pass = self.gate.pass(Turn::Queued).await;
                self.dials.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(1)).await;
                if self.up.load(Ordering::Relaxed) {
                    self.gate.reached(pass);
                    return Instant::now();
                }
                self.gate.shut(pass);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_streams_dial_a_doppler_that_is_down_as_often_as_one() {
        let dialled = Dialled::new();
        for _ in 0..10_000 {
            tokio::spawn(dialled.clone().open());
        }
        sleep(Duration::from_secs(1)).await;
        let at_first = dialled.dials.load(Ordering::Relaxed);
        assert!(at_first < 2 * OPENING as u32 + 16, "{at_first}");
        sleep(Duration::from_secs(60)).await;
        let later = dialled.dials.load(Ordering::Relaxed) - at_first;
        // Half a second apart on average.
        assert!((60..240).contains(&later), "{later}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_streams_are_back_within_two_seconds_and_at_a_pace() {
        for _ in 0..20 {
            let dialled = Dialled::new();
            let streams: Vec<_> = (0..1_000)
                .map(|_| tokio::spawn(dialled.clone().open()))
                .collect();
            sleep(Duration::from_secs(30)).await;
            let (back, before) = (Instant::now(), dialled.dials.load(Ordering::Relaxed));
            dialled.up.store(true, Ordering::Relaxed);
            let mut last = back;
            for stream in streams {
                last = last.max(stream.await.unwrap());
            }
            let took = last - back;
            assert!(took <= Duration::from_secs(2), "{took:?}");
            assert!(took >= Duration::from_millis(900), "{took:?}: a storm");
            let dials = dialled.dials.load(Ordering::Relaxed) - before;
            assert!(dials <= 1_001, "{dials}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_probes_and_leaves_is_followed_by_another() {
        let dialled = Dialled::new();
        let first = tokio::spawn(dialled.clone().open());
        sleep(Duration::from_secs(5)).await;
        let second = tokio::spawn(dialled.clone().open());
        sleep(Duration::from_secs(1)).await;
        first.abort();
        dialled.up.store(true, Ordering::Relaxed);
        let back = Instant::now();
        assert!(second.await.unwrap() - back <= PROBE_CAP + Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_a_doppler_does_not_queue_behind_the_others() {
        let gate = Gate::new(Pace::new());
        let mut held = Vec::new();
        for _ in 0..OPENING {
            held.push(gate.pass(Turn::Queued).await);
        }
        let begun = Instant::now();
        gate.pass(Turn::First).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
