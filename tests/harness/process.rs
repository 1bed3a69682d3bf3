//! One process under test: started with nothing but what the test gives it, listened to, and
//! ended with its test.

use crate::within;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a process may take to bind its ports.
const START: Duration = Duration::from_secs(20);

/// Lines of stderr kept: all of a test's, at any level.
const LINES: usize = 20_000;

/// Lines shown when a test fails.
const SHOWN: usize = 40;

/// What the kernel counts CPU time in: `USER_HZ`, 100 a second on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<VecDeque<String>>>,
    deaf: Arc<AtomicBool>,
    /// Reads stderr until it closes; gone once its end was waited for.
    listener: Option<JoinHandle<()>>,
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// CPU time, in user and kernel.
    pub cpu: Duration,
    /// Bytes resident now.
    pub resident: u64,
    /// The most that was ever resident, in bytes.
    pub peak_resident: u64,
}

/// A signal that this harness sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: drain and exit.
    Terminate,
    /// SIGINT: the same, from a terminal.
    Interrupt,
    /// SIGHUP: load files again.
    Hangup,
    /// SIGKILL.
    Kill,
    /// SIGSTOP: hold still.
    Stop,
    /// SIGCONT: go on.
    Continue,
}

impl Process {
    /// Starts `program` under `name` with these arguments and an empty environment.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Process {
        Process::start_with(name, program, args, &[])
    }

    /// As [`Process::start`], with these variables in its environment.
    pub fn start_with<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
        environment: &[(&str, String)],
    ) -> Process {
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .env("RUST_BACKTRACE", "1")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {}: {error}", program.display()));
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let stderr = BufReader::new(child.stderr.take().expect("it was asked for"));
        let kept = lines.clone();
        let deaf = Arc::new(AtomicBool::new(false));
        let ears = deaf.clone();
        // Ends with the process: its stderr closes then.
        let listener = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                while ears.load(Ordering::Relaxed) {
                    std::thread::park();
                }
                let mut kept = kept.lock().unwrap();
                if kept.len() == LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
        Process {
            name: name.to_owned(),
            child,
            lines,
            deaf,
            listener: Some(listener),
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The name given at start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it wrote to stderr, the last lines.
    pub fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap().iter().cloned().collect()
    }

    /// Whether a line of its log contains `text`.
    pub fn logged(&self, text: &str) -> bool {
        self.lines
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.contains(text))
    }

    /// Reads no more of its stderr, so that the pipe fills, until told to read on.
    pub fn ignore_stderr(&self, ignore: bool) {
        self.deaf.store(ignore, Ordering::Relaxed);
        self.listener
            .iter()
            .for_each(|listener| listener.thread().unpark());
    }

    /// The address behind `prefix` ("ws bound to: "), once the process has said it. Go's programs
    /// say the time before it.
    pub async fn bound(&mut self, prefix: &str) -> SocketAddr {
        let mut address = None;
        let told = within(START, || {
            address = self
                .log()
                .iter()
                .find_map(|line| line.split_once(prefix)?.1.parse().ok());
            let over = address.is_some() || self.exited().is_some();
            async move { over }
        });
        told.await;
        address.unwrap_or_else(|| {
            panic!(
                "{} did not say {prefix:?}:\n{}",
                self.name,
                self.log().join("\n")
            )
        })
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for its end and returns the exit code; panics if it takes longer than `deadline`
    /// or a signal ended it.
    pub async fn exit_code(&mut self, deadline: Duration) -> i32 {
        let mut status = None;
        let ended = within(deadline, || {
            status = self.exited();
            let over = status.is_some();
            async move { over }
        });
        ended.await;
        if status.is_some() {
            // Its last words may still be in the pipe, which closed with it.
            self.listener.take().map(JoinHandle::join);
        }
        match status {
            Some(status) => status
                .code()
                .unwrap_or_else(|| panic!("{} was ended by {status}", self.name)),
            None => panic!("{} still runs after {deadline:?}", self.name),
        }
    }

    /// Asks it to drain with SIGTERM and waits for its end; returns the exit code.
    pub async fn terminate(&mut self, deadline: Duration) -> i32 {
        self.signal(Signal::Terminate);
        self.exit_code(deadline).await
    }

    /// Sends it a signal. Nothing happens if it has ended. When it is told to stop, it has: the
    /// kernel takes a moment to reach each thread, and one of them may answer meanwhile.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_some() {
            return;
        }
        let name = match signal {
            Signal::Terminate => "TERM",
            Signal::Interrupt => "INT",
            Signal::Hangup => "HUP",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        };
        // Our child, not waited for yet: the id is still its own. `kill` is in every shell.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.id())])
            .status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "could not signal {}",
            self.name
        );
        while signal == Signal::Stop && !self.stands_still() {
            std::thread::yield_now();
        }
    }

    /// Whether each of its threads is stopped, or gone.
    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id()));
        let mut threads = threads.into_iter().flatten().flatten();
        threads.all(|thread| {
            let line = std::fs::read_to_string(thread.path().join("stat"));
            // proc_pid_stat(5): the state follows the name, which is in parentheses.
            line.map_or(true, |line| {
                line.rsplit_once(") ")
                    .is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']))
            })
        })
    }

    /// Files and sockets it has open; 0 once it has ended.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).map_or(0, Iterator::count)
    }

    /// What it has used so far; zeros once it has ended.
    pub fn usage(&self) -> Usage {
        usage(self.id()).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.ignore_stderr(false);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("---- the last lines of {} ----", self.name);
            log[log.len().saturating_sub(SHOWN)..]
                .iter()
                .for_each(|line| eprintln!("{line}"));
        }
    }
}

/// What the process with that id has used; `None` if there is none.
pub fn usage(id: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // proc(5): the command in parentheses may contain anything; utime and stime are the 12th
    // and 13th fields behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    let cpu = TICK * (ticks()? + ticks()?);
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Usage {
        cpu,
        resident: kib("VmRSS:")? * 1024,
        peak_resident: kib("VmHWM:")? * 1024,
    })
}
