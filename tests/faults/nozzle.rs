//! A client that does not give up: it reads one path, and opens it again when it ends.
//!
//! All it saw over all its connections is one [`Seen`]: what came twice is double, whichever
//! connection brought it.

use harness::reader::{Ended, Opening, Reader};
use harness::seen::Seen;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How often it looks whether its stream is over.
const LOOK: Duration = Duration::from_millis(10);

/// How long opening may take before it is tried again, and the rest between two tries.
const OPEN: Duration = Duration::from_secs(3);
const REST: Duration = Duration::from_millis(100);

/// How the `n`th connection is opened.
pub(crate) type How = Box<dyn Fn(usize) -> Opening + Send>;

/// A running client.
pub(crate) struct Nozzle {
    pub(crate) name: String,
    /// The app it tails; `None`: it reads everything.
    pub(crate) app: Option<u32>,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    past: Mutex<Seen>,
    open: Mutex<Option<Reader>>,
    opened: AtomicUsize,
    ends: Mutex<Vec<Ended>>,
}

impl Nozzle {
    /// Opens and reads until it is dropped.
    pub(crate) fn start(name: impl Into<String>, app: Option<u32>, how: How) -> Nozzle {
        let state = Arc::new(State::default());
        Nozzle {
            name: name.into(),
            app,
            task: tokio::spawn(read(state.clone(), how)),
            state,
        }
    }

    /// What it saw so far.
    pub(crate) fn seen(&self) -> Seen {
        // The open one first: it is moved to the past under both locks.
        let open = self.state.open.lock().unwrap();
        let mut seen = self.state.past.lock().unwrap().clone();
        if let Some(reader) = open.as_ref() {
            reader.look(|now| seen.merge(now));
        }
        seen
    }

    /// How many connections it has had.
    pub(crate) fn opened(&self) -> usize {
        self.state.opened.load(Ordering::SeqCst)
    }

    /// How its connections ended.
    pub(crate) fn ends(&self) -> Vec<Ended> {
        self.state.ends.lock().unwrap().clone()
    }

    /// Reads no more, or reads on.
    pub(crate) fn stall(&self, stall: bool) {
        if let Some(reader) = self.state.open.lock().unwrap().as_ref() {
            match stall {
                true => reader.stall(),
                false => reader.resume(),
            }
        }
    }
}

impl Drop for Nozzle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(state: Arc<State>, how: How) {
    loop {
        let opening = how(state.opened.load(Ordering::SeqCst));
        let Ok(Ok(reader)) = timeout(OPEN, opening.try_open()).await else {
            sleep(REST).await;
            continue;
        };
        *state.open.lock().unwrap() = Some(reader);
        state.opened.fetch_add(1, Ordering::SeqCst);
        let ended = loop {
            sleep(LOOK).await;
            let open = state.open.lock().unwrap();
            if let Some(ended) = open.as_ref().and_then(Reader::is_over) {
                break ended;
            }
        };
        state.ends.lock().unwrap().push(ended);
        let mut open = state.open.lock().unwrap();
        if let Some(reader) = open.take() {
            reader.look(|seen| state.past.lock().unwrap().merge(seen));
        }
    }
}
