//! A process's history of losses, with the clock and the log: what a server wires.

use super::{Asked, At, History, Reading, tell};
use crate::clock::unix_ns;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One process's losses.
#[derive(Debug)]
pub struct Losses {
    began: Instant,
    history: Mutex<History>,
}

impl Losses {
    /// None so far, and the process begins now.
    pub fn new(process: &'static str) -> Losses {
        Losses {
            began: Instant::now(),
            history: Mutex::new(History::new(process, unix_ns())),
        }
    }

    /// Has `read` read all accounts, and logs what begins and ends; returns what it says. One reading at a time: what
    /// ended is told to one of them only.
    pub fn audit<T>(&self, read: impl FnOnce(&mut Reading) -> T) -> T {
        let mut history = self.lock();
        let mut reading = Reading::default();
        let read = read(&mut reading);
        let lines = history.observe(self.now(), reading);
        drop(history);
        tell(&lines);
        read
    }

    /// The page `/losses` for that query.
    ///
    /// # Errors
    /// What is wrong with the query.
    pub fn page(&self, query: &str) -> Result<String, String> {
        let asked = Asked::parse(query).map_err(|wrong| wrong.to_string())?;
        let page = self.lock().page(self.now(), &asked);
        serde_json::to_string(&page).map_err(|error| error.to_string())
    }

    fn now(&self) -> At {
        At {
            up: self.began.elapsed(),
            unix_ns: unix_ns(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
