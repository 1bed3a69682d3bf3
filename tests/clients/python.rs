//! The scripts: a Python with nothing but what `requirements.txt` says, and each as a process
//! whose lines are awaited.

use harness::binaries;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Where the scripts are.
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");

/// Where the envelopes' .proto files are.
const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/proto");

/// How long a client may take over its next line: a start of Python, and the 30 s after which
/// a silent client is closed, with room for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An interpreter with other people's clients and the code generated for them.
pub(crate) struct Python {
    interpreter: PathBuf,
    generated: PathBuf,
}

impl Python {
    /// Makes it beside the build; what is there already and still right is kept.
    pub(crate) async fn ready() -> Python {
        let program = binaries::doppler();
        let target = program.ancestors().nth(2).expect("TARGET/PROFILE/doppler");
        let directory = target.join("clients");
        let generated = directory.join("generated");
        std::fs::create_dir_all(&generated).expect("the target directory is ours");
        let python = Python {
            interpreter: directory.join("venv/bin/python"),
            generated,
        };

        let wanted = include_str!("requirements.txt");
        let installed = directory.join("installed.txt");
        if std::fs::read_to_string(&installed).ok().as_deref() != Some(wanted) {
            eprintln!("installing the clients");
            let venv = directory.join("venv");
            run(Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(venv))
            .await;
            // All there is to install is in the list: with its version, and built.
            run(python
                .command()
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                ])
                .args(["--no-deps", "--only-binary=:all:", "--requirement"])
                .arg(Path::new(HERE).join("requirements.txt")))
            .await;
            std::fs::write(&installed, wanted).expect("the target directory is ours");
        }
        python.generate().await;
        python
    }

    /// What protoc makes of our .proto files.
    async fn generate(&self) {
        let mut protoc = self.command();
        protoc.args(["-m", "grpc_tools.protoc", "-I", PROTO, "-I", HERE]);
        for kind in ["python", "grpc_python"] {
            protoc.arg(format!("--{kind}_out={}", self.generated.display()));
        }
        for package in ["dropsonde", "loggregator/v2"] {
            let directory = Path::new(PROTO).join(package);
            let files = directory.read_dir().expect("it is in the repository");
            protoc.args(files.map(|file| file.expect("it can be listed").path()));
        }
        run(protoc.arg(Path::new(HERE).join("plumbing.proto"))).await;
    }

    /// Starts a script; it trusts that CA and no other.
    pub(crate) fn start(&self, script: &'static str, ca: &str, arguments: &[&str]) -> Script {
        let mut child = self
            .command()
            .arg(Path::new(HERE).join(script))
            .args(arguments)
            // For streams, cloudfoundry-client leaves no other way to say it.
            .env("WEBSOCKET_CLIENT_CA_BUNDLE", ca)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it is installed");
        let stdout = child.stdout.take().expect("it was asked for");
        Script {
            name: script,
            lines: BufReader::new(stdout).lines(),
            child,
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.interpreter);
        command
            .env("PYTHONPATH", &self.generated)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

async fn run(command: &mut Command) {
    let status = command.status().await;
    assert!(
        status.as_ref().is_ok_and(ExitStatus::success),
        "{:?}: {status:?}",
        command.as_std()
    );
}

/// A script that runs. Dropping it kills it.
pub(crate) struct Script {
    name: &'static str,
    lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Script {
    /// Its next lines that begin with `word`, without it: `count` of them, or fewer if it ends
    /// or falls silent.
    pub(crate) async fn lines(&mut self, word: &str, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        while found.len() < count {
            let Ok(Ok(Some(line))) = tokio::time::timeout(PATIENCE, self.lines.next_line()).await
            else {
                break;
            };
            match line.split_once(' ') {
                Some((first, rest)) if first == word => found.push(rest.to_owned()),
                _ => eprintln!("{}: {line}", self.name),
            }
        }
        found
    }

    /// Closes its stdin: the sign to end.
    pub(crate) fn hang_up(&mut self) {
        self.child.stdin.take();
    }

    /// Everything it still says, when it has ended; `None` if it ended badly, or not at all.
    pub(crate) async fn rest(mut self) -> Option<Vec<String>> {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                rest.push(line);
            }
            self.child.wait().await
        });
        let well = matches!(ended.await, Ok(Ok(status)) if status.success());
        well.then_some(rest)
    }
}
