//! The units of `deploy/systemd`: what systemd itself says of them, and our programs started with
//! what they say, by a stand-in for systemd that knows `Environment=`, `LoadCredential=` and the
//! socket for notices.
//!
//! Changed is only where the programs are, and ports.

use crate::command::{command, deploy, output, text};
use crate::{Check, settings};
use futures::FutureExt;
use harness::certs::Certs;
use harness::process::{Process, Signal};
use harness::{binaries, cluster};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixDatagram;

/// How much a unit may be able to do, in tenths on systemd's scale to 100: "OK" ends at 5.
const EXPOSURE: &str = "20";

/// How long a notice may take.
const NOTICE: Duration = Duration::from_secs(20);

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check {
            name: "systemd units",
            what: "systemd finds nothing wrong in the three units, and an exposure of 2 at most",
            limit: Duration::from_secs(60),
            alone: false,
            run: || units().boxed(),
        },
        Check {
            name: "systemd start",
            what: "both servers, started as their units say, are ready, alive and stopping in time",
            limit: Duration::from_secs(90),
            alone: false,
            run: || start().boxed(),
        },
    ]
}

async fn units() -> Result<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let mut exposures = Vec::new();
    for (unit, program) in [
        ("doppler.service", binaries::doppler()),
        ("traffic-controller.service", binaries::traffic_controller()),
        ("firehose-nozzle@.service", binaries::firehose()),
    ] {
        let shipped = text(&deploy("systemd").join(unit));
        let name = program.file_name().unwrap().to_str().unwrap().to_owned();
        let installed = format!("ExecStart=/usr/bin/{name}");
        assert_eq!(
            shipped.matches(&installed).count(),
            1,
            "{unit}: {installed}"
        );
        let here = shipped.replace(&installed, &format!("ExecStart={}", program.display()));
        // A template is looked at as an instance of it.
        let file = directory.path().join(unit.replace('@', "@archive"));
        std::fs::write(&file, here).unwrap();
        let path = file.to_str().unwrap();
        // What is wrong does not always make it fail.
        let verify = &mut command("systemd-analyze", &["verify", "--man=no", path]);
        let said = verify.output().await.map_err(|error| error.to_string())?;
        let complaints = String::from_utf8_lossy(&said.stderr);
        let ours: Vec<&str> = complaints
            .lines()
            .filter(|line| line.contains(unit))
            .collect();
        if !said.status.success() || !ours.is_empty() {
            return Err(format!("systemd-analyze verify {unit}: {complaints}"));
        }
        let threshold = format!("--threshold={EXPOSURE}");
        let arguments = ["security", "--offline=true", "--no-pager", &threshold, path];
        let said = output(&mut command("systemd-analyze", &arguments)).await?;
        let exposure = said
            .lines()
            .find_map(|line| line.split_once("exposure level for "));
        let (_, exposure) = exposure.ok_or("systemd-analyze says no exposure")?;
        exposures.push(
            exposure
                .trim_end_matches(|c: char| !c.is_alphanumeric())
                .to_owned(),
        );
    }
    Ok(exposures.join(", "))
}

async fn start() -> Result<String, String> {
    let certs = Certs::new();
    let address = format!("127.0.0.1:{}", cluster::free_port());
    let port = address.rsplit(':').next().unwrap();
    let doppler = [("ROUTER_PORT", port), ("ROUTER_PPROF_PORT", "0")];
    let mut doppler = Unit::start("doppler", &certs, &doppler);
    doppler.said("READY=1").await;
    doppler.said("WATCHDOG=1").await;
    let controller = [
        ("ROUTER_ADDRS", address.as_str()),
        ("LOGGER_ENDPOINT_PORT", "0"),
        ("TRAFFIC_CONTROLLER_PPROF_PORT", "0"),
        ("TRAFFIC_CONTROLLER_DISABLE_ACCESS_CONTROL", "true"),
    ];
    let mut controller = Unit::start("traffic-controller", &certs, &controller);
    controller.said("READY=1").await;
    controller.said("WATCHDOG=1").await;
    controller.stop().await?;
    doppler.stop().await?;
    Ok("READY, WATCHDOG and STOPPING of both, and exit code 0".to_owned())
}

/// A process that was started as its unit says.
struct Unit {
    process: Process,
    notices: UnixDatagram,
    /// `TimeoutStopSec=`.
    stop: Duration,
    _directory: tempfile::TempDir,
}

impl Unit {
    /// Starts it; `more` is what would be in its environment file.
    fn start(name: &'static str, certs: &Certs, more: &[(&str, &str)]) -> Unit {
        let unit = text(&deploy(&format!("systemd/{name}.service")));
        let lines = |key: &'static str| unit.lines().filter_map(move |l| l.strip_prefix(key));
        let directory = tempfile::tempdir().unwrap();
        for credential in lines("LoadCredential=") {
            let (name, _) = credential.split_once(':').expect("NAME:PATH");
            let from = match name {
                "ca.crt" => certs.ca(),
                _ => from(certs, name),
            };
            std::fs::copy(from, directory.path().join(name)).unwrap();
        }
        let socket = directory.path().join("notify");
        let notices = UnixDatagram::bind(&socket).unwrap();
        let watchdog = seconds(lines("WatchdogSec=").next());
        let known = settings::variables(name);
        let mut environment: Vec<(String, String)> = lines("Environment=")
            .map(|line| line.split_once('=').expect("NAME=value"))
            .chain(more.iter().copied())
            .map(|(name, value)| {
                assert!(known.contains(name), "{name} is not in docs/settings.md");
                let value = value.replace("%d", directory.path().to_str().unwrap());
                (name.to_owned(), value)
            })
            .collect();
        environment.push(("NOTIFY_SOCKET".to_owned(), socket.display().to_string()));
        let watchdog = watchdog.as_micros().to_string();
        environment.push(("WATCHDOG_USEC".to_owned(), watchdog));
        let environment: Vec<(&str, String)> = environment
            .iter()
            .map(|(name, value)| (&**name, value.clone()))
            .collect();
        let exec = lines("ExecStart=/usr/bin/")
            .next()
            .expect("it starts something");
        let program = binaries::built().join(exec);
        Unit {
            process: Process::start_with(name, &program, [""; 0], &environment),
            notices,
            stop: seconds(lines("TimeoutStopSec=").next()),
            _directory: directory,
        }
    }

    /// Waits for a notice; others may come before it.
    async fn said(&mut self, notice: &str) {
        let mut heard = [0; 256];
        let listen = async {
            loop {
                let length = self.notices.recv(&mut heard).await.unwrap();
                if heard[..length] == *notice.as_bytes() {
                    return;
                }
            }
        };
        if tokio::time::timeout(NOTICE, listen).await.is_err() {
            panic!("no {notice}:\n{}", self.process.log().join("\n"));
        }
    }

    /// SIGTERM, and its end before systemd would lose patience.
    async fn stop(mut self) -> Result<(), String> {
        self.process.signal(Signal::Terminate);
        self.said("STOPPING=1").await;
        match self.process.exit_code(self.stop).await {
            0 => Ok(()),
            code => Err(format!("{} ended with {code}", self.process.name())),
        }
    }
}

/// The certificate that is to be a credential.
fn from(certs: &Certs, credential: &str) -> std::path::PathBuf {
    let (name, kind) = credential.rsplit_once('.').expect("NAME.crt or NAME.key");
    let name = if name == "outgoing" {
        "localhost"
    } else {
        name
    };
    let pair = certs.pair(name);
    let file = if kind == "crt" { pair.cert } else { pair.key };
    assert!(Path::new(&file).exists(), "{credential}");
    file
}

fn seconds(text: Option<&str>) -> Duration {
    let seconds = text.and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.expect("the unit says how many seconds"))
}
