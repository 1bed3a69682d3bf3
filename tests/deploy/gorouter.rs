//! `deploy/gorouter`: the route in the words of route_registrar, and its health check with a real
//! Traffic Controller. There is no Gorouter here.

use crate::shipped::{Shipped, path};
use crate::{Check, python};
use harness::binaries;
use harness::eventually;
use harness::process::{Process, Signal};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(90);

/// How long a Traffic Controller that was told to stop may take to say so.
const SOON: Duration = Duration::from_secs(5);

/// What the job `route_registrar` knows of a route, and of a health check (its `spec` in
/// routing-release).
const OF_A_ROUTE: [&str; 9] = [
    "name",
    "uris",
    "port",
    "tls_port",
    "server_cert_domain_san",
    "registration_interval",
    "tags",
    "prepend_instance_index",
    "health_check",
];
const OF_A_CHECK: [&str; 3] = ["name", "script_path", "timeout"];

/// The route says what route_registrar needs to hear, and what a Traffic Controller is.
async fn route() -> Result<String, String> {
    let file = Shipped::read("gorouter/route-registrar.yml");
    let job = as_json(file.text()).await;
    let routes = &job["properties"]["route_registrar"]["routes"];
    let [route] = routes.as_array().map_or(&[][..], Vec::as_slice) else {
        return Err(format!("one route was due: {routes}"));
    };
    let check = &route["health_check"];
    knows(route, &OF_A_ROUTE)?;
    knows(check, &OF_A_CHECK)?;

    let settings = std::fs::read_to_string(path("../docs/settings.md"));
    let settings = settings.map_err(|error| format!("docs/settings.md: {error}"))?;
    let port = route["tls_port"].as_u64().ok_or("no tls_port")?;
    if !settings.contains(&format!(
        "`loggregator.outgoing_dropsonde_port` ({port} in BOSH)"
    )) {
        return Err(format!("docs/settings.md knows of no port {port} in BOSH"));
    }
    let name = &route["server_cert_domain_san"];
    let uris = route["uris"].as_array().ok_or("no uris")?;
    if !uris.contains(name) {
        return Err(format!("the route is {uris:?}, the certificate for {name}"));
    }
    let seconds = |value: &Value| {
        let text = value.as_str().and_then(|text| text.strip_suffix('s'));
        text.and_then(|text| text.parse::<u32>().ok())
    };
    let (every, within) = (
        seconds(&route["registration_interval"]),
        seconds(&check["timeout"]),
    );
    if every.is_none() || within.is_none() || within >= every {
        return Err(format!("a check of {within:?} s every {every:?} s"));
    }
    let script = check["script_path"]
        .as_str()
        .and_then(|path| path.rsplit('/').next());
    let script = script.ok_or("no script_path")?;
    match path("gorouter").join(script).exists() {
        true => Ok(format!(
            "{} to {port} over TLS, checked by {script}",
            uris[0]
        )),
        false => Err(format!("there is no deploy/gorouter/{script}")),
    }
}

/// The health check turns while the listener is still open.
async fn health() -> Result<String, String> {
    let mut controller = Process::start(
        "traffic-controller",
        &binaries::traffic_controller(),
        ["--port", "0", "--admin-port", "0", "--drain-wait", "3"],
    );
    let address = controller.bound("ws bound to: ").await;
    let admin = controller.bound("pprof bound to: ").await;
    let asked = async || {
        let mut script = Command::new(path("gorouter/traffic-controller-is-ready"));
        let script = script.env("PPROF_PORT", admin.port().to_string());
        let status = script.stdin(Stdio::null()).kill_on_drop(true).status();
        status.await.expect("the script runs").code()
    };
    eventually(
        SOON,
        "a Traffic Controller that started is ready",
        async || asked().await == Some(0),
    )
    .await;
    controller.signal(Signal::Terminate);
    eventually(SOON, "one that stops is not", async || {
        asked().await != Some(0)
    })
    .await;
    let code = asked().await;
    if TcpStream::connect(address).await.is_err() {
        return Err("the listener was closed before the check said so".to_owned());
    }
    Ok(format!(
        "0 while it serves; {code:?} once it stops, while it still accepts"
    ))
}

/// Each name in it is one of `known`.
fn knows(map: &Value, known: &[&str]) -> Result<(), String> {
    let map = map.as_object().ok_or_else(|| format!("not a map: {map}"))?;
    let unknown = map.keys().find(|key| !known.contains(&key.as_str()));
    unknown.map_or(Ok(()), |key| Err(format!("route_registrar knows no {key}")))
}

/// YAML as PyYAML reads it, which the linter of AWS's templates brings along.
async fn as_json(yaml: &str) -> Value {
    let convert = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
    let mut python = Command::new(python::programs().await.join("python"));
    let mut python = python
        .args(["-c", convert])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it is installed");
    let mut stdin = python.stdin.take().expect("it was asked for");
    stdin.write_all(yaml.as_bytes()).await.expect("it reads");
    drop(stdin);
    let done = python.wait_with_output().await.expect("it ends");
    serde_json::from_slice(&done.stdout).expect("it is YAML")
}

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check {
            name: "gorouter route",
            what: "the route has what route_registrar requires and nothing that it does not know, \
                   and is that of a Traffic Controller's listener and certificate",
            limit: LIMIT,
            alone: false,
            run: || Box::pin(route()),
        },
        Check {
            name: "gorouter health",
            what: "its health check passes while a Traffic Controller serves, and fails before the \
                   listener closes",
            limit: LIMIT,
            alone: false,
            run: || Box::pin(health()),
        },
    ]
}
