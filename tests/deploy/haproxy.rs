//! HAProxy, and what `deploy/haproxy/haproxy.cfg` promises.

use crate::balancer::{Kind, Site, installed};
use crate::{Check, streams};
use std::path::Path;

pub(crate) static HAPROXY: Kind = Kind {
    name: "haproxy",
    file: "haproxy/haproxy.cfg",
    ports: &[443, 4443, 8443],
    limits: &[
        ("timeout tunnel 1h", "timeout tunnel 60s"),
        ("timeout client 1h", "timeout client 60s"),
        ("timeout server 1h", "timeout server 60s"),
    ],
    rfc_8441: true,
    places,
    program: || Box::pin(async { installed("haproxy", "haproxy") }),
    arguments,
};

fn places(site: &Site) -> Vec<(String, String)> {
    let mut places: Vec<_> = [443, 4443, 8443]
        .map(|port| (format!("bind :{port}"), format!("bind {}", site.at(port))))
        .into();
    for (n, address) in ["10.0.16.21", "10.0.16.22"].iter().enumerate() {
        places.push((format!("{address}:8081"), site.servers[n].to_string()));
        places.push((format!("{address}:4443"), site.proxied[n].to_string()));
    }
    for file in ["doppler.pem", "loggregator-ca.crt"] {
        places.push((format!("/etc/haproxy/certs/{file}"), site.file(file)));
    }
    places
}

/// One process in the foreground: what systemd runs, less its master.
pub(crate) fn arguments(file: &Path) -> Vec<String> {
    ["-db", "-f", &file.display().to_string()]
        .map(str::to_owned)
        .into()
}

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check {
            name: "haproxy traffic",
            what: "HTTP mode and TCP mode under load: one Traffic Controller is killed, the other \
                   drained, and no envelope is lost that the ledger does not know of",
            limit: streams::TRAFFIC,
            alone: false,
            run: || Box::pin(streams::traffic(&HAPROXY)),
        },
        Check {
            name: "haproxy proxy",
            what: "the same in TCP mode with PROXY v2",
            limit: streams::TRAFFIC,
            alone: false,
            run: || Box::pin(streams::proxied(&HAPROXY)),
        },
        Check {
            name: "haproxy hang",
            what: "one Traffic Controller hangs while its kernel takes connections: its clients are \
                   sent to the other one",
            limit: streams::TRAFFIC,
            alone: false,
            run: || Box::pin(streams::hung(&HAPROXY)),
        },
        Check {
            name: "haproxy idle",
            what: "with limits of 60 s a quiet tail lives for 90 s, and one without pings does not",
            limit: streams::IDLE,
            alone: false,
            run: || Box::pin(streams::idle(&HAPROXY)),
        },
        Check {
            name: "haproxy headers",
            what: "Upgrade passes, X-Forwarded-* say who and how, HTTP/1.1 is behind, and the \
                   Traffic Controller knows the client by either and by PROXY v2",
            limit: streams::HEADERS,
            alone: false,
            run: || Box::pin(streams::headers(&HAPROXY)),
        },
    ]
}
