//! `deploy/compose`, out of the release archive: the image is built, all services are up, and a tail
//! through the balancer gets what an app logs, also when a Traffic Controller is gone.
//!
//! Run is what its README.md says, with Debian's `docker-compose` where that has `docker compose`.
//! Changed are the port, names, and where HAProxy comes from: there is no registry to pull its image from,
//! so one is made of the machine's own HAProxy and the libraries it needs. What the check makes in
//! Docker has a name of its own and is removed.

use crate::command::{command, output, text};
use crate::{Check, release};
use futures::FutureExt;
use harness::{cluster, within};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdout, Command};

/// How long until all of it is healthy, and until a line has come through.
const PATIENCE: Duration = Duration::from_secs(60);

/// An app.
const APP: &str = "5f0d1c9e-0000-4000-8000-000000000001";

pub(crate) fn checks() -> Vec<Check> {
    vec![Check {
        name: "compose up",
        what: "two Dopplers, two Traffic Controllers, a nozzle and HAProxy in containers: a tail \
               through HAProxy gets every line, also with one Traffic Controller gone",
        limit: release::BUILD + Duration::from_secs(300),
        alone: true,
        run: || up().boxed(),
    }]
}

async fn up() -> Result<String, String> {
    let archive = release::made().await?;
    let (_directory, top) = release::unpacked(&archive).await?;
    let here = top.join("deploy/compose");
    let port = cluster::free_port();
    let project = Project {
        name: format!("loggregator-check-{}", std::process::id()),
        image: format!("loggregator-check:{}", std::process::id()),
        haproxy: format!("loggregator-check-haproxy:{}", std::process::id()),
        here,
        port,
    };
    haproxy_image(&project.haproxy).await?;
    project.begin(&top).await?;
    let healthy = within(PATIENCE, async || project.healthy().await == 4).await;
    if !healthy {
        let said = project.run(&["logs", "--tail", "40"]).await?;
        return Err(format!("not all are healthy: {said}"));
    }

    let mut tail = project.tail(&top).await?;
    for n in 1..=3 {
        let line = format!("line {n}");
        // A tail is entitled to what is sent once it is open at the Doppler.
        let comes =
            async { while project.emit(&line).await.is_err() || !tail.shows(&line).await {} };
        if tokio::time::timeout(PATIENCE, comes).await.is_err() {
            let said = project.run(&["logs", "--tail", "40"]).await?;
            return Err(format!("{line:?} did not come: {said}"));
        }
        if n == 1 {
            // Whoever of the two has the tail: it goes to the other one, or stays.
            let one = project
                .containers("traffic-controller")
                .await?
                .swap_remove(0);
            output(&mut command("docker", &["stop", &one])).await?;
        }
    }
    let nozzle = project.run(&["logs", "nozzle"]).await?;
    if !nozzle.contains("line 3") {
        return Err(format!("the nozzle has not written it: {nozzle}"));
    }
    Ok(
        "a tail and a nozzle got 3 lines through HAProxy, 2 without a Traffic Controller"
            .to_owned(),
    )
}

/// What this check has in Docker.
struct Project {
    name: String,
    image: String,
    haproxy: String,
    here: PathBuf,
    port: u16,
}

impl Project {
    fn compose(&self, arguments: &[&str]) -> std::process::Command {
        let mut compose = std::process::Command::new("docker-compose");
        compose
            .args(["--project-name", &self.name])
            .args(arguments)
            .current_dir(&self.here)
            .envs(self.variables());
        compose
    }

    /// What compose.yaml may be told.
    fn variables(&self) -> [(&str, String); 4] {
        [
            ("PORT", self.port.to_string()),
            ("IMAGE", self.image.clone()),
            // What this machine allows.
            ("NOFILE", "20000".to_owned()),
            ("HAPROXY_IMAGE", self.haproxy.clone()),
        ]
    }

    async fn run(&self, arguments: &[&str]) -> Result<String, String> {
        output(&mut self.compose(arguments).into()).await
    }

    /// The first commands of its README.md, in the directory of the archive.
    async fn begin(&self, top: &Path) -> Result<(), String> {
        let page = text(&self.here.join("README.md"));
        let block = page
            .split("```sh\n")
            .nth(1)
            .and_then(|rest| rest.split("```").next());
        let compose = format!("docker-compose --project-name {}", self.name);
        let script = block
            .expect("it has commands")
            .replace("docker compose", &compose);
        let mut shell = command("bash", &["-euo", "pipefail", "-c", &script]);
        output(shell.current_dir(top).envs(self.variables()))
            .await
            .map(drop)
    }

    async fn containers(&self, service: &str) -> Result<Vec<String>, String> {
        let said = self.run(&["ps", "--quiet", service]).await?;
        Ok(said.lines().map(str::to_owned).collect())
    }

    /// How many containers are healthy by their own check.
    async fn healthy(&self) -> usize {
        let label = format!("label=com.docker.compose.project={}", self.name);
        let arguments = [
            "ps",
            "--quiet",
            "--filter",
            "health=healthy",
            "--filter",
            &label,
        ];
        let said = output(&mut command("docker", &arguments)).await;
        said.map_or(0, |said| said.lines().count())
    }

    /// An app's container logs a line.
    async fn emit(&self, line: &str) -> Result<(), String> {
        let mut run = Command::from(self.compose(&["run", "--rm", "--no-deps", "-T", "nozzle"]));
        run.args([
            "/firehose",
            "emit",
            "--doppler",
            "doppler:8082",
            "--app",
            APP,
        ])
        .args(["--ca", "/tls/ca.crt", "--cert", "/tls/metron.crt"])
        .args(["--key", "/tls/metron.key"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
        let mut child = run.spawn().map_err(|error| error.to_string())?;
        let mut stdin = child.stdin.take().expect("it was asked for");
        let written = stdin.write_all(format!("{line}\n").as_bytes()).await;
        drop(stdin);
        let ended = child
            .wait_with_output()
            .await
            .map_err(|error| error.to_string())?;
        match (written, ended.status.success()) {
            (Ok(()), true) => Ok(()),
            _ => Err(String::from_utf8_lossy(&ended.stderr).into_owned()),
        }
    }

    /// A developer's tail, through the published port of HAProxy.
    async fn tail(&self, top: &Path) -> Result<Tail, String> {
        let endpoint = format!("wss://localhost:{}", self.port);
        let mut firehose = command(top.join("bin/firehose"), &["tail", "--endpoint", &endpoint]);
        let mut child = firehose
            .args(["--ca", "tls/ca.crt", "--token-file", "tls/token", APP])
            .current_dir(&self.here)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| error.to_string())?;
        let stdout = child.stdout.take().expect("it was asked for");
        Ok(Tail {
            lines: BufReader::new(stdout).lines(),
            _child: child,
        })
    }
}

/// Nothing of it stays, however the check ends.
impl Drop for Project {
    fn drop(&mut self) {
        let arguments = ["down", "--volumes", "--remove-orphans", "--timeout", "5"];
        let mut image = std::process::Command::new("docker");
        image.args(["image", "rm", "--force", &self.haproxy, &self.image]);
        for mut command in [self.compose(&arguments), image] {
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
            if !quiet.status().is_ok_and(|status| status.success()) {
                eprintln!("left behind in Docker: {}", self.name);
            }
        }
    }
}

/// What a tail shows.
struct Tail {
    lines: tokio::io::Lines<BufReader<ChildStdout>>,
    _child: tokio::process::Child,
}

impl Tail {
    /// Whether a line with that text comes soon.
    async fn shows(&mut self, text: &str) -> bool {
        let find = async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                if line.contains(text) {
                    return true;
                }
            }
            false
        };
        let found = tokio::time::timeout(Duration::from_secs(3), find).await;
        found.unwrap_or(false)
    }
}

/// An image of the machine's HAProxy and what it is linked with, under that name.
async fn haproxy_image(name: &str) -> Result<(), String> {
    // ldd: `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, and the loader by itself.
    let script = "set -eu
        libraries=$(ldd /usr/sbin/haproxy | grep -o '/[^ ]*')
        tar --create --dereference --absolute-names /usr/sbin/haproxy $libraries |
            docker import --change 'ENV PATH=/usr/sbin' - \"$1\"";
    output(&mut command("sh", &["-c", script, "sh", name])).await?;
    Ok(())
}
