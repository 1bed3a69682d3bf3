//! What is looked at all the time while a fault is under way: accounts that add up, counters
//! that only grow, memory under its cap.

use harness::admin::{self, Metrics};
use harness::process::usage;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How long a page may take; a process that is held still or cut off does not answer, which is
/// no finding.
const PATIENCE: Duration = Duration::from_millis(400);

/// One process, for as long as it lives.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) name: String,
    pub(crate) id: u32,
    pub(crate) admin: SocketAddr,
}

/// What was found, and goes on being found until it is dropped.
pub(crate) struct Watch {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    processes: Vec<Watched>,
    wrong: Vec<String>,
    peaks: BTreeMap<String, u64>,
    looks: u64,
    slowest: Duration,
}

impl Watch {
    /// Looks at everybody so often.
    pub(crate) fn start(every: Duration) -> Watch {
        let state = Arc::new(Mutex::new(State::default()));
        Watch {
            task: tokio::spawn(look(state.clone(), every)),
            state,
        }
    }

    /// Looks at this one, too.
    pub(crate) fn add(&self, process: Watched) {
        self.state.lock().unwrap().processes.push(process);
    }

    /// Looks no more at the process with that id.
    pub(crate) fn remove(&self, id: u32) {
        let mut state = self.state.lock().unwrap();
        state.processes.retain(|process| process.id != id);
    }

    /// What was wrong, and the most memory that was resident, by process.
    pub(crate) fn found(&self) -> (Vec<String>, BTreeMap<String, u64>) {
        let state = self.state.lock().unwrap();
        (state.wrong.clone(), state.peaks.clone())
    }

    /// How often everybody was looked at, and the longest that an answered page took.
    pub(crate) fn looks(&self) -> (u64, Duration) {
        let state = self.state.lock().unwrap();
        (state.looks, state.slowest)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look(state: Arc<Mutex<State>>, every: Duration) {
    let mut every = interval(every);
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut before: BTreeMap<u32, Metrics> = BTreeMap::new();
    loop {
        every.tick().await;
        let processes = state.lock().unwrap().processes.clone();
        for process in processes {
            if let Some(used) = usage(process.id) {
                let mut state = state.lock().unwrap();
                let peak = state.peaks.entry(process.name.clone()).or_default();
                *peak = used.peak_resident.max(*peak);
            }
            let asked = std::time::Instant::now();
            let pages = async {
                let accounts = admin::get(process.admin, "/subscriptions").await?;
                let metrics = admin::get(process.admin, "/metrics").await?;
                std::io::Result::Ok((accounts.1, metrics.1))
            };
            let Ok(Ok((accounts, metrics))) = timeout(PATIENCE, pages).await else {
                continue;
            };
            let took = asked.elapsed();
            let metrics = Metrics::parse(&metrics);
            let mut wrong = Vec::new();
            match serde_json::from_str::<admin::Page>(&accounts) {
                Ok(page) => wrong.extend(page.unbalanced()),
                Err(error) => wrong.push(format!("/subscriptions: {error}")),
            }
            if metrics.imbalance() != 0.0 {
                wrong.push(format!("accounting_imbalance {}", metrics.imbalance()));
            }
            if let Some(before) = before.insert(process.id, metrics.clone()) {
                wrong.extend(metrics.shrunk_since(&before));
            }
            let mut state = state.lock().unwrap();
            state.slowest = state.slowest.max(took);
            let wrong = wrong.into_iter();
            let named = wrong.map(|what| format!("{}: {what}", process.name));
            let named: Vec<String> = named.collect();
            state.wrong.extend(named);
        }
        state.lock().unwrap().looks += 1;
    }
}
