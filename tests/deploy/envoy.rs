//! Envoy, and what `deploy/envoy/envoy.yaml` promises.

use crate::balancer::{Kind, Site};
use crate::{Check, python, streams};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

static ENVOY: Kind = Kind {
    name: "envoy",
    file: "envoy/envoy.yaml",
    ports: &[443, 4443, 8443],
    limits: &[("idle_timeout: 3600s", "idle_timeout: 60s")],
    rfc_8441: true,
    places,
    program: || Box::pin(program()),
    arguments,
};

fn places(site: &Site) -> Vec<(String, String)> {
    let at = |address: &str, port: u16| format!("address: {address}, port_value: {port} }}");
    let to = |to: SocketAddr| at(&to.ip().to_string(), to.port());
    let mut places: Vec<_> = [443, 4443, 8443]
        .map(|port| (at("0.0.0.0", port), to(site.at(port))))
        .into();
    // Its admin listener, which nobody asks: two Envoys at a time may run here.
    places.push((at("127.0.0.1", 9901), at("127.0.0.1", 0)));
    for (n, address) in ["10.0.16.21", "10.0.16.22"].iter().enumerate() {
        places.push((at(address, 8081), to(site.servers[n])));
        places.push((at(address, 4443), to(site.proxied[n])));
    }
    for file in ["doppler.crt", "doppler.key", "loggregator-ca.crt"] {
        places.push((format!("/etc/envoy/certs/{file}"), site.file(file)));
    }
    places
}

/// The program itself, not the script before it, which would be what is ended in its place.
pub(crate) async fn program() -> PathBuf {
    let bin = python::programs().await;
    let lib = bin.parent().expect("a directory of a venv").join("lib");
    let pythons = lib.read_dir().expect("a venv has one");
    let mut pythons = pythons.map(|python| python.expect("it can be listed").path());
    let found = pythons.find_map(|python| {
        let path = python.join("site-packages/envoy/_bin/envoy");
        path.exists().then_some(path)
    });
    found.expect("it is in requirements.txt")
}

/// Several can run on one machine.
fn arguments(file: &Path) -> Vec<String> {
    let file = file.display().to_string();
    let arguments = [
        "--disable-hot-restart",
        "--concurrency",
        "2",
        "--log-level",
        "warning",
        "-c",
        &file,
    ];
    arguments.map(str::to_owned).into()
}

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check {
            name: "envoy traffic",
            what: "HTTP and `tcp_proxy` under load: one Traffic Controller is killed, the other \
                   drained, and no envelope is lost that the ledger does not know of",
            limit: streams::TRAFFIC,
            alone: false,
            run: || Box::pin(streams::traffic(&ENVOY)),
        },
        Check {
            name: "envoy proxy",
            what: "the same through `tcp_proxy` with PROXY v2",
            limit: streams::TRAFFIC,
            alone: false,
            run: || Box::pin(streams::proxied(&ENVOY)),
        },
        Check {
            name: "envoy hang",
            what: "one Traffic Controller hangs while its kernel takes connections: its clients are \
                   sent to the other one",
            limit: streams::TRAFFIC,
            alone: false,
            run: || Box::pin(streams::hung(&ENVOY)),
        },
        Check {
            name: "envoy idle",
            what: "with limits of 60 s a quiet tail lives for 90 s, and one without pings does not",
            limit: streams::IDLE,
            alone: false,
            run: || Box::pin(streams::idle(&ENVOY)),
        },
        Check {
            name: "envoy headers",
            what: "Upgrade passes, X-Forwarded-* say who and how, HTTP/1.1 is behind, and the \
                   Traffic Controller knows the client by either and by PROXY v2",
            limit: streams::HEADERS,
            alone: false,
            run: || Box::pin(streams::headers(&ENVOY)),
        },
    ]
}
