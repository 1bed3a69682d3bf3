//! The processes of the demo. They are in process groups of their own, so that a Ctrl-C in the
//! terminal reaches the demo alone, which ends them in order.

use harness::binaries;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// A server of ours.
pub(crate) struct Service {
    /// What the ledger calls it.
    pub(crate) name: &'static str,
    /// Where it serves.
    pub(crate) address: SocketAddr,
    /// Where it tells about itself.
    pub(crate) admin: SocketAddr,
    child: Child,
}

impl Service {
    /// Starts a Doppler.
    pub(crate) async fn doppler(name: &'static str) -> Service {
        Service::start(
            name,
            &binaries::doppler(),
            &["--port=0".to_owned()],
            "grpc bound to: ",
        )
        .await
    }

    /// Starts the Traffic Controller.
    pub(crate) async fn traffic_controller(dopplers: &[SocketAddr]) -> Service {
        let addresses: Vec<String> = dopplers.iter().map(SocketAddr::to_string).collect();
        let arguments = [
            "--port=0".to_owned(),
            format!("--router-addrs={}", addresses.join(",")),
        ];
        Service::start(
            "traffic-controller",
            &binaries::traffic_controller(),
            &arguments,
            "ws bound to: ",
        )
        .await
    }

    async fn start(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        bound: &str,
    ) -> Service {
        let mut child = command(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {}: {error}", program.display()));
        let stderr = child.stderr.take().expect("it was asked for");
        let mut lines = BufReader::new(stderr).lines();
        let address = address(&mut lines, bound).await;
        let admin = address_again(&mut lines).await;
        tokio::spawn(show_warnings(name, lines));
        Service {
            name,
            address,
            admin,
            child,
        }
    }

    /// Asks it to drain, and waits.
    pub(crate) async fn stop(mut self) {
        end(&mut self.child, "TERM", Duration::from_secs(6)).await;
    }
}

async fn address(lines: &mut Lines<BufReader<ChildStderr>>, bound: &str) -> SocketAddr {
    let mut said = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(address) = line
            .strip_prefix(bound)
            .and_then(|address| address.parse().ok())
        {
            return address;
        }
        said.push_str(&line);
        said.push('\n');
    }
    panic!("a service ended before it was ready:\n{said}")
}

async fn address_again(lines: &mut Lines<BufReader<ChildStderr>>) -> SocketAddr {
    address(lines, "pprof bound to: ").await
}

/// Passes on what a person should see.
async fn show_warnings(name: &str, mut lines: Lines<BufReader<ChildStderr>>) {
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains("ERROR")
            || (line.contains("WARN") && !line.contains("access control is off"))
        {
            eprintln!("{name}: {line}");
        }
    }
}

/// A `firehose` that prints to our terminal.
pub(crate) struct Reader(Child);

impl Reader {
    /// Starts `firehose` with these arguments; `name` stands before each line if it is not the
    /// tail's.
    pub(crate) fn start(name: &'static str, arguments: &[&str]) -> Reader {
        let mut child = command(&binaries::firehose())
            .args(arguments)
            .arg("--quiet")
            .stdout(if name == "tail" {
                Stdio::inherit()
            } else {
                Stdio::piped()
            })
            .stderr(Stdio::inherit())
            .spawn()
            .expect("it was built");
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    eprintln!("{name:>12} │ {line}");
                }
            });
        }
        Reader(child)
    }

    /// Asks it to end, and waits.
    pub(crate) async fn stop(mut self) {
        end(&mut self.0, "INT", Duration::from_secs(3)).await;
    }
}

/// One `firehose emit`, fed through a pipe.
pub(crate) fn emitter(doppler: SocketAddr, app: &str) -> Child {
    command(&binaries::firehose())
        .args([
            "emit",
            "--quiet",
            "--app",
            app,
            "--doppler",
            &doppler.to_string(),
        ])
        .stdin(Stdio::piped())
        .spawn()
        .expect("it was built")
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// Signals our child by its id and waits for its end; kills it if it takes too long.
async fn end(child: &mut Child, signal: &str, patience: Duration) {
    if let Some(id) = child.id() {
        let _ = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {id}")])
            .status()
            .await;
    }
    if tokio::time::timeout(patience, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
