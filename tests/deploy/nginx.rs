//! nginx, and what `deploy/nginx/nginx.conf` promises.

use crate::balancer::{Kind, Site, installed};
use crate::{Check, streams};
use std::path::Path;

static NGINX: Kind = Kind {
    name: "nginx",
    file: "nginx/nginx.conf",
    ports: &[443, 4443, 8443],
    limits: &[
        ("proxy_timeout 1h;", "proxy_timeout 60s;"),
        ("proxy_read_timeout 1h;", "proxy_read_timeout 60s;"),
        ("proxy_send_timeout 1h;", "proxy_send_timeout 60s;"),
    ],
    rfc_8441: false,
    places,
    program: || Box::pin(async { installed("nginx", "nginx libnginx-mod-stream") }),
    arguments,
};

fn places(site: &Site) -> Vec<(String, String)> {
    let listen = |port: u16| format!("listen {}", site.at(port));
    let mut places = vec![
        ("listen 4443".to_owned(), listen(4443)),
        ("listen 8443".to_owned(), listen(8443)),
        ("listen 443 ".to_owned(), listen(443) + " "),
        ("/run/nginx.pid".to_owned(), site.file("nginx.pid")),
        (
            "/var/log/nginx/access.log".to_owned(),
            site.file("access.log"),
        ),
        (
            "/var/log/nginx/error.log".to_owned(),
            "/dev/stderr".to_owned(),
        ),
    ];
    for (n, address) in ["10.0.16.21", "10.0.16.22"].iter().enumerate() {
        places.push((format!("{address}:8081"), site.servers[n].to_string()));
        places.push((format!("{address}:4443"), site.proxied[n].to_string()));
    }
    for file in ["doppler.crt", "doppler.key", "loggregator-ca.crt"] {
        places.push((format!("/etc/nginx/certs/{file}"), site.file(file)));
    }
    places
}

/// In the foreground, with its master and workers.
fn arguments(file: &Path) -> Vec<String> {
    let file = file.display().to_string();
    ["-e", "stderr", "-g", "daemon off;", "-c", &file]
        .map(str::to_owned)
        .into()
}

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check {
            name: "nginx traffic",
            what: "`http` and `stream` under load: one Traffic Controller is killed, the other \
                   drained, and no envelope is lost that the ledger does not know of",
            limit: streams::TRAFFIC,
            alone: false,
            run: || Box::pin(streams::traffic(&NGINX)),
        },
        Check {
            name: "nginx proxy",
            what: "the same in `stream` with PROXY v1",
            limit: streams::TRAFFIC,
            alone: false,
            run: || Box::pin(streams::proxied(&NGINX)),
        },
        Check {
            name: "nginx idle",
            what: "with limits of 60 s a quiet tail lives for 90 s, and one without pings does not",
            limit: streams::IDLE,
            alone: false,
            run: || Box::pin(streams::idle(&NGINX)),
        },
        Check {
            name: "nginx headers",
            what: "Upgrade passes, X-Forwarded-* say who and how, HTTP/1.1 is behind, and the \
                   Traffic Controller knows the client by either and by PROXY v1",
            limit: streams::HEADERS,
            alone: false,
            run: || Box::pin(streams::headers(&NGINX)),
        },
    ]
}
