//! How a process stops: one token down, one tracker up, one deadline.
//!
//! `main` owns a [`Drain`] and hands its [`Shutdown`] to everything it starts. [`Drain::begin`]
//! tells them all at once; [`Drain::wait`] returns when every tracked task has ended, or when
//! the deadline has come. Nothing is aborted here: what is still running at the deadline ends
//! with the process.
//!
//! What must outlive the others – the admin listener, which says "not ready" while they
//! drain – gets a drain of its own, begun last.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a task holds: it hears of the shutdown, and is waited for. Clones are the same.
#[derive(Debug, Clone)]
pub struct Shutdown {
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Shutdown {
    /// Resolves when the shutdown begins; at once if it has. Safe to drop and call again.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// Whether the shutdown has begun.
    pub fn is_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Runs `task` on the runtime; the drain waits for it.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn(task)
    }

    /// `task`, and the drain waits for it wherever it is run: for a future that another
    /// library spawns. Counts from now on, until it has ended or is dropped.
    pub fn track<F: Future>(&self, task: F) -> impl Future<Output = F::Output> + use<F> {
        self.tracker.track_future(task)
    }
}

/// The owner's end.
#[derive(Debug)]
pub struct Drain {
    shutdown: Shutdown,
}

/// The deadline came first.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tasks} tasks had not ended at the drain deadline")]
pub struct Undrained {
    /// How many tracked tasks were still running.
    pub tasks: usize,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain::new()
    }
}

impl Drain {
    /// Nothing to wait for yet.
    pub fn new() -> Drain {
        Drain {
            shutdown: Shutdown {
                token: CancellationToken::new(),
                tracker: TaskTracker::new(),
            },
        }
    }

    /// The end to hand out.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Tells every holder of a [`Shutdown`]. Again is the same as once.
    pub fn begin(&self) {
        self.shutdown.token.cancel();
    }

    /// Waits until every tracked task has ended, `deadline` at most. Tasks may still start
    /// others meanwhile, and those are waited for too.
    pub async fn wait(&self, deadline: Duration) -> Result<(), Undrained> {
        self.shutdown.tracker.close();
        tokio::time::timeout(deadline, self.shutdown.tracker.wait())
            .await
            .map_err(|_| Undrained {
                tasks: self.shutdown.tracker.len(),
            })
    }
}

/// SIGTERM and SIGINT, which no longer end the process by themselves once this exists.
///
/// `main` awaits the first to drain and the second to exit at once.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts listening. Must run inside the runtime.
    pub fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next signal. One that comes between two calls is not missed; the same
    /// signal several times between two calls is one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// SIGHUP, which no longer ends the process once this exists: a request to load files again.
#[derive(Debug)]
pub struct Hangup(Signal);

impl Hangup {
    /// Starts listening. Must run inside the runtime.
    pub fn listen() -> io::Result<Hangup> {
        Ok(Hangup(signal(SignalKind::hangup())?))
    }

    /// The next one. Several between two calls are one.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await; // the runtime is ending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn beginning_tells_every_holder_and_waiting_sees_them_end() {
        let drain = Drain::new();
        let holder = drain.shutdown();
        assert!(!holder.is_begun());
        for _ in 0..3 {
            let shutdown = holder.clone();
            holder.spawn(async move { shutdown.begun().await });
        }
        drain.begin();
        drain.begin();
        assert!(holder.is_begun());
        holder.begun().await;
        assert_eq!(drain.wait(Duration::from_secs(4)).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_left_at_the_deadline() {
        let drain = Drain::new();
        drain.shutdown().spawn(std::future::pending::<()>());
        let begun = tokio::time::Instant::now();
        drain.begin();
        assert_eq!(
            drain.wait(Duration::from_secs(4)).await,
            Err(Undrained { tasks: 1 })
        );
        assert_eq!(begun.elapsed().as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_started_while_draining_is_waited_for() {
        let drain = Drain::new();
        let shutdown = drain.shutdown();
        let nested = shutdown.clone();
        shutdown.spawn(async move {
            nested.begun().await;
            nested.spawn(tokio::time::sleep(Duration::from_secs(3)));
        });
        let begun = tokio::time::Instant::now();
        drain.begin();
        assert_eq!(drain.wait(Duration::from_secs(4)).await, Ok(()));
        assert_eq!(begun.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_run_elsewhere_is_waited_for_until_it_is_dropped() {
        let drain = Drain::new();
        let elsewhere = drain.shutdown().track(std::future::pending::<()>());
        drain.begin();
        let wait = Duration::from_secs(1);
        assert_eq!(drain.wait(wait).await, Err(Undrained { tasks: 1 }));
        drop(elsewhere);
        assert_eq!(drain.wait(wait).await, Ok(()));
    }

    #[tokio::test]
    async fn signals_come_one_after_the_other_and_do_not_end_the_process() -> io::Result<()> {
        let mut signals = Signals::listen()?;
        for (option, name) in [
            ("-TERM", "SIGTERM"),
            ("-INT", "SIGINT"),
            ("-TERM", "SIGTERM"),
        ] {
            let us = std::process::id().to_string();
            std::process::Command::new("kill")
                .args([option, &us])
                .status()?;
            assert_eq!(signals.next().await, name);
        }
        Ok(())
    }
}
