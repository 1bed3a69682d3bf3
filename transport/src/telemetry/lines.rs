//! Log lines on their way to stderr, which somebody reads, or does not.
//!
//! In come whole lines from any task, out they go from one thread of their own. Whoever logs
//! never waits: a pipe that is full stops that thread and nobody else. [`KEPT`] bytes wait for
//! it; what does not fit is lost, counted, and said once the reader is back.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that wait for a reader: 256 KiB, some thousand lines.
const KEPT: usize = 256 * 1024;

/// `log_lines_lost_total`: lines nobody took in time.
const LOST: &str = "log_lines_lost_total";

/// Says what is counted here, and that it begins at 0.
pub(super) fn describe() {
    metrics::describe_counter!(
        LOST,
        "Lines of the log lost because nobody read stderr in time"
    );
    metrics::counter!(LOST).absolute(0);
}

/// The waiting lines. Clones are the same.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// A line came, or one was written.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines lost since that was last said.
    lost: u64,
    /// A line is being written.
    writing: bool,
}

impl Lines {
    /// Lines to `writer`, from a thread that lives as long as the process.
    pub(super) fn to(writer: impl Write + Send + 'static) -> Lines {
        let lines = Lines(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        }));
        let theirs = lines.clone();
        let spawned = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || theirs.write_all(writer));
        if let Err(error) = spawned {
            // Without a thread there is no log; this is all we can say about it.
            let _ = writeln!(
                io::stderr(),
                "could not start the thread that logs: {error}"
            );
        }
        lines
    }

    /// Keeps a line, or counts it as lost.
    fn push(&self, line: &[u8]) {
        let mut state = self.0.lock();
        if state.bytes + line.len() > KEPT {
            state.lost += 1;
            metrics::counter!(LOST).increment(1);
            return;
        }
        state.bytes += line.len();
        state.waiting.push_back(line.to_vec());
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until nothing waits, `patience` at most.
    pub(super) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.0.lock();
        while !state.waiting.is_empty() || state.writing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = match self.0.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    fn write_all(&self, mut writer: impl Write) {
        loop {
            let mut state = self.0.lock();
            let line = loop {
                if let Some(line) = state.waiting.pop_front() {
                    break line;
                }
                state = match self.0.changed.wait(state) {
                    Ok(state) => state,
                    Err(poisoned) => poisoned.into_inner(),
                };
            };
            state.bytes -= line.len();
            state.writing = true;
            drop(state);
            // A closed stderr is no reason to stop.
            let _ = writer.write_all(&line);
            let mut state = self.0.lock();
            // Said where the lost lines would stand: behind those that waited before them.
            let lost = match state.waiting.is_empty() {
                true => std::mem::take(&mut state.lost),
                false => 0,
            };
            drop(state);
            if lost > 0 {
                let _ = writeln!(writer, "{lost} log lines were lost: nobody read them");
            }
            self.0.lock().writing = false;
            self.0.changed.notify_all();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One event's line.
pub(super) struct Line {
    lines: Lines,
}

impl Write for Line {
    /// The subscriber writes an event in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            lines: self.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Takes a line for each permit.
    struct Slow {
        permits: mpsc::Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.permits.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Lines, mpsc::SyncSender<()>, Arc<Mutex<Vec<u8>>>) {
        let (allow, permits) = mpsc::sync_channel(1);
        let written = Arc::default();
        let lines = Lines::to(Slow {
            permits,
            written: Arc::clone(&written),
        });
        (lines, allow, written)
    }

    fn text(written: &Mutex<Vec<u8>>) -> String {
        String::from_utf8(written.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn whoever_logs_does_not_wait_and_what_is_lost_is_said() {
        let (lines, allow, written) = slow();
        let line = [b'x'; 1024];
        let more_than_fit = 2 * KEPT / line.len();
        for _ in 0..more_than_fit {
            lines.push(&line);
        }
        lines.flush(Duration::ZERO);
        drop(allow); // nobody is slow any more
        lines.flush(Duration::from_secs(10));
        let written = text(&written);
        let kept = written.matches('x').count() / line.len();
        let said = written.rsplit('x').next().unwrap();
        let lost: usize = said.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(kept + lost, more_than_fit, "{said}");
        assert!(said.ends_with(" log lines were lost: nobody read them\n"));
    }

    #[test]
    fn a_flush_waits_for_the_last_line_and_no_longer_than_its_patience() {
        let (lines, allow, written) = slow();
        lines.push(b"one\n");
        lines.push(b"two\n");
        lines.flush(Duration::from_millis(1));
        assert_eq!(text(&written), "");
        drop(allow);
        lines.flush(Duration::from_secs(10));
        assert_eq!(text(&written), "one\ntwo\n");
    }
}
