//! What the demo sends: the best real input this machine has, line by line to both Dopplers in
//! turn.

use crate::service::emitter;
use std::fmt;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// Log files that Debian and its relatives keep, the liveliest first.
const LOG_FILES: [&str; 6] = [
    "/var/log/syslog",
    "/var/log/messages",
    "/var/log/auth.log",
    "/var/log/dpkg.log",
    "/var/log/apt/history.log",
    "/var/log/bootstrap.log",
];

/// A file is shown from this many bytes before its end.
const BEFORE_END: u64 = 16 << 10;

/// How fast a file's old lines are sent: to be watched.
const STEP: Duration = Duration::from_millis(20);

/// How often a file is looked at for new lines.
const FOLLOW: Duration = Duration::from_millis(200);

/// Where lines come from.
pub(crate) enum Input {
    /// What is piped into the demo.
    Stdin,
    /// A log file that is followed.
    File(PathBuf),
    /// The system's journal.
    Journal,
    /// Nothing but the services' own words.
    Services,
}

impl Input {
    /// The best there is.
    pub(crate) fn find() -> Input {
        if !std::io::stdin().is_terminal() && !is_null(&std::io::stdin()) {
            return Input::Stdin;
        }
        let readable = |path: &&&str| std::fs::read(path).is_ok_and(|bytes| !bytes.is_empty());
        if let Some(path) = LOG_FILES.iter().find(readable) {
            return Input::File(PathBuf::from(path));
        }
        let journal = std::process::Command::new("journalctl")
            .args(["-n", "1", "-q"])
            .output();
        match journal {
            Ok(output) if output.status.success() && !output.stdout.is_empty() => Input::Journal,
            _ => Input::Services,
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Stdin => f.write_str("what you pipe in"),
            Input::File(path) => write!(
                f,
                "{} of this machine (or pipe something in)",
                path.display()
            ),
            Input::Journal => f.write_str("this machine's journal (or pipe something in)"),
            Input::Services => {
                f.write_str("the services' own metrics (pipe something in for more)")
            }
        }
    }
}

fn is_null(stdin: &std::io::Stdin) -> bool {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    let ours = stdin.as_fd().try_clone_to_owned().map(std::fs::File::from);
    let ours = ours
        .and_then(|file| file.metadata())
        .map(|metadata| metadata.rdev());
    let null = std::fs::metadata("/dev/null").map(|metadata| metadata.rdev());
    matches!((ours, null), (Ok(ours), Ok(null)) if ours == null)
}

/// Sends the input to the Dopplers until it ends.
pub(crate) async fn run(input: Input, dopplers: &[SocketAddr], app: &str) {
    let mut emitters = Emitters::start(dopplers, app);
    match input {
        Input::Stdin => emitters.send(BufReader::new(tokio::io::stdin())).await,
        Input::File(path) => emitters.follow(&path).await,
        Input::Journal => {
            let mut journal = Command::new("journalctl")
                .args(["-f", "-n", "100", "-q"])
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .expect("it was there a moment ago");
            let lines = journal.stdout.take().expect("it was asked for");
            emitters.send(BufReader::new(lines)).await;
        }
        Input::Services => std::future::pending().await,
    }
    emitters.finish().await;
}

/// One `firehose emit` for each Doppler.
struct Emitters {
    children: Vec<(Child, ChildStdin)>,
    next: usize,
}

impl Emitters {
    fn start(dopplers: &[SocketAddr], app: &str) -> Emitters {
        let start = |doppler: &SocketAddr| {
            let mut child = emitter(*doppler, app);
            let stdin = child.stdin.take().expect("it was asked for");
            (child, stdin)
        };
        Emitters {
            children: dopplers.iter().map(start).collect(),
            next: 0,
        }
    }

    async fn send(&mut self, mut lines: impl AsyncBufRead + Unpin) {
        let mut line = Vec::new();
        while let Ok(1..) = lines.read_until(b'\n', &mut line).await {
            self.line(&mut line).await;
        }
    }

    /// Sends the end of a file slowly, and then what is added to it.
    async fn follow(&mut self, path: &std::path::Path) {
        use tokio::io::AsyncSeekExt;
        let Ok(mut file) = File::open(path).await else {
            return;
        };
        let length = file.metadata().await.map_or(0, |metadata| metadata.len());
        let start = length.saturating_sub(BEFORE_END);
        if file.seek(std::io::SeekFrom::Start(start)).await.is_err() {
            return;
        }
        let mut lines = BufReader::new(file);
        let mut line = Vec::new();
        if start > 0 {
            // The rest of a line whose beginning was passed over.
            let _ = lines.read_until(b'\n', &mut line).await;
            line.clear();
        }
        loop {
            match lines.read_until(b'\n', &mut line).await {
                Ok(0) => tokio::time::sleep(FOLLOW).await,
                Ok(_) => {
                    self.line(&mut line).await;
                    tokio::time::sleep(STEP).await;
                }
                Err(_) => return,
            }
        }
    }

    async fn line(&mut self, line: &mut Vec<u8>) {
        if !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        self.next = (self.next + 1) % self.children.len();
        let _ = self.children[self.next].1.write_all(line).await;
        line.clear();
    }

    async fn finish(self) {
        for (mut child, stdin) in self.children {
            drop(stdin);
            let _ = child.wait().await;
        }
    }
}
