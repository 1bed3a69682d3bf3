//! What we say on stderr: what happened to the stream, and at the end how it went.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use firehose_client::{Event, Malformed};

use crate::exit::chain;

/// Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Notes {
    quiet: bool,
    tally: Arc<Mutex<Tally>>,
}

#[derive(Debug)]
struct Tally {
    since: Instant,
    envelopes: u64,
    lost: u64,
    gaps: u64,
    undecodable: u64,
}

impl Notes {
    pub(crate) fn new(quiet: bool) -> Notes {
        Notes {
            quiet,
            tally: Arc::new(Mutex::new(Tally {
                since: Instant::now(),
                envelopes: 0,
                lost: 0,
                gaps: 0,
                undecodable: 0,
            })),
        }
    }

    /// Always said.
    pub(crate) fn error(&self, error: &dyn std::error::Error) {
        _ = writeln!(io::stderr(), "firehose: {}", chain(error));
    }

    pub(crate) fn say(&self, what: impl Display) {
        if !self.quiet {
            // Nobody can be told that stderr is gone.
            _ = writeln!(io::stderr(), "firehose: {what}");
        }
    }

    pub(crate) fn event(&self, event: Event) {
        match event {
            Event::Connected { gap: None } => self.say("connected"),
            Event::Connected { gap: Some(gap) } => {
                self.tally().gaps += 1;
                self.say(format_args!(
                    "connected again after {:.1} s; what was sent meanwhile may be lost",
                    gap.as_secs_f64()
                ));
            }
            Event::Disconnected { reason } => self.say(format_args!("disconnected: {reason}")),
            Event::Retrying { error, wait } => {
                let wait = wait.as_secs_f64();
                self.say(format_args!(
                    "{}; trying again in {wait:.1} s",
                    chain(&error)
                ));
            }
            Event::Lost { delta, .. } => {
                self.tally().lost += delta;
                self.say(format_args!(
                    "{delta} envelopes lost: dropped by the server, as we or the way to us were too slow"
                ));
            }
            Event::Undecodable { error, .. } => self.undecodable(error),
            Event::LoginNotSaved { error } => self.say(format_args!(
                "{}; if `cf` asks for it, log in again",
                chain(&error)
            )),
            _ => {}
        }
    }

    /// Said once; a stream of garbage must not become one of complaints.
    pub(crate) fn undecodable(&self, error: Malformed) {
        let first = {
            let mut tally = self.tally();
            tally.undecodable += 1;
            tally.undecodable == 1
        };
        if first {
            self.say(format_args!(
                "skipped what is not an envelope ({error}); counting more"
            ));
        }
    }

    pub(crate) fn read(&self, envelopes: u64) {
        self.tally().envelopes += envelopes;
    }

    /// How it went.
    pub(crate) fn summary(&self) {
        let tally = self.tally();
        let time = tally.since.elapsed().as_secs_f64();
        let mut line = format!("{} envelopes in {time:.1} s", tally.envelopes);
        match tally.lost {
            0 => line.push_str(", no loss reported"),
            lost => line.push_str(&format!(", {lost} reported lost")),
        }
        if tally.gaps > 0 {
            line.push_str(&format!(", {} gaps of unknown loss", tally.gaps));
        }
        if tally.undecodable > 0 {
            line.push_str(&format!(", {} skipped", tally.undecodable));
        }
        drop(tally);
        self.say(line);
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        // Sums of numbers are right whoever panicked.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
