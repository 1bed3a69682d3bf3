//! An agent that does not give up: it sends numbered envelopes at a rate to one Doppler, and
//! comes back when that hangs up on it.
//!
//! What it handed to its connection is its count; where a connection broke is remembered, since
//! what lay in the sockets then is nobody's to know.

use harness::Tls;
use harness::envelopes::{Workload, batch};
use harness::producer::{BATCH_SENDER, Connection};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// How often a feed sends a batch.
const EVERY: Duration = Duration::from_millis(20);

/// How long a batch may wait for the Doppler to take it, before the feed hangs up and dials
/// anew: less than any outage here that is to be noticed, more than a pause that is not.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long dialling may take, and how long a feed rests when nobody answers.
const DIAL: Duration = Duration::from_secs(1);
const REST: Duration = Duration::from_millis(50);

/// How long a Doppler may take to say that it has everything.
const FINISH: Duration = Duration::from_secs(20);

/// A running feed.
pub(crate) struct Feed {
    pub(crate) id: u32,
    pub(crate) workload: Workload,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    handed: AtomicU64,
    stop: AtomicBool,
    breaks: Mutex<Vec<u64>>,
}

impl Feed {
    /// Sends `rate` envelopes a second.
    pub(crate) fn start(
        address: SocketAddr,
        tls: Option<Tls>,
        id: u32,
        workload: Workload,
        rate: u64,
    ) -> Feed {
        let state = Arc::new(State::default());
        let sending = Sending {
            address,
            tls,
            id,
            workload,
            each: (rate * EVERY.as_millis() as u64 / 1000).max(1),
            state: state.clone(),
        };
        Feed {
            id,
            workload,
            state,
            task: tokio::spawn(sending.run()),
        }
    }

    /// How many envelopes it has handed to its connections.
    pub(crate) fn handed(&self) -> u64 {
        self.state.handed.load(Ordering::SeqCst)
    }

    /// At which counts connections broke.
    pub(crate) fn breaks(&self) -> Vec<u64> {
        self.state.breaks.lock().unwrap().clone()
    }

    /// Stops, and waits until the Doppler has said that it took everything since the last
    /// break.
    pub(crate) async fn finish(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        if !self.task.is_finished() {
            // A task that panicked has said so.
            let _ = (&mut self.task).await;
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Sending {
    address: SocketAddr,
    tls: Option<Tls>,
    id: u32,
    workload: Workload,
    each: u64,
    state: Arc<State>,
}

impl Sending {
    async fn run(self) {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !self.stopping() {
            let dialled = timeout(DIAL, Connection::open(self.address, self.tls.as_ref())).await;
            let Ok(Ok(connection)) = dialled else {
                sleep(REST).await;
                continue;
            };
            let mut call = connection.call(BATCH_SENDER).await;
            loop {
                if self.stopping() {
                    let answer = timeout(FINISH, call.finish()).await;
                    if !answer.is_ok_and(|answer| answer.grpc == Some(0)) {
                        self.broken();
                    }
                    return;
                }
                every.tick().await;
                let first = self.state.handed.load(Ordering::SeqCst);
                let envelopes = (first..first + self.each)
                    .map(|sequence| self.workload.envelope(self.id, sequence));
                // A batch that was not taken was not handed over: waiting is cancel-safe.
                let sent = timeout(PATIENCE, call.send(batch(envelopes))).await;
                if !matches!(sent, Ok(Ok(()))) {
                    self.broken();
                    connection.cut();
                    break;
                }
                self.state.handed.fetch_add(self.each, Ordering::SeqCst);
            }
        }
    }

    fn stopping(&self) -> bool {
        self.state.stop.load(Ordering::SeqCst)
    }

    fn broken(&self) {
        let handed = self.state.handed.load(Ordering::SeqCst);
        self.state.breaks.lock().unwrap().push(handed);
    }
}
