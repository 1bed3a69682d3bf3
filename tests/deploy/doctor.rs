//! `firehose doctor` in front of real balancers, each set up wrongly in one thing: it has to find
//! that, and nothing else.
//!
//! A balancer has many listeners, one for each mistake and one that is right, before one Traffic
//! Controller with a file of tokens. What arrives of forwarded headers is told by a stand-in for
//! the Traffic Controller, and what route services do by one for gorouter.

use crate::balancer::installed;
use crate::{Check, envoy};
use futures::{SinkExt, StreamExt};
use harness::certs::{Certs, Pair};
use harness::cluster::{Cluster, free_port};
use harness::process::{Process, Signal};
use harness::{binaries, within};
use rcgen::{CertificateParams, SanType};
use serde_json::Value;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// How long all mistakes of one balancer may take.
const LIMIT: Duration = Duration::from_secs(150);

/// How long a balancer may take to listen, and to end.
const START: Duration = Duration::from_secs(20);
const END: Duration = Duration::from_secs(5);

/// An app that logs nothing.
const APP: &str = "11111111-2222-3333-4444-555555555555";

const TOKEN: &str = "a-token-that-nobody-may-see";

/// From where balancers connect to what is behind them: else they would be taken for us.
const FROM: &str = "127.0.0.2";

/// What a listener does wrong, what shall be found, and how a client comes there.
struct Mistake {
    what: &'static str,
    found: &'static [&'static str],
    scheme: &'static str,
    /// In the balancer's file.
    listener: String,
    /// Arguments beside the usual.
    arguments: &'static [&'static str],
    port: u16,
}

/// Whether the stream is watched, to see what cuts it.
const IDLE: &[&str] = &["--idle", "6"];

impl Mistake {
    /// `listener` is told the address to listen on.
    fn new(
        what: &'static str,
        found: &'static [&'static str],
        scheme: &'static str,
        listener: impl FnOnce(SocketAddr) -> String,
    ) -> Mistake {
        let port = free_port();
        Mistake {
            what,
            found,
            scheme,
            listener: listener(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            arguments: &[],
            port,
        }
    }

    fn with(mut self, arguments: &'static [&'static str]) -> Mistake {
        self.arguments = arguments;
        self
    }
}

/// What stands behind a balancer, and its files.
struct Site {
    cluster: Cluster,
    certs: Certs,
    good: Pair,
    /// For another name.
    other: Pair,
    expired: Pair,
    /// Tells what headers it gets.
    mirror: SocketAddr,
    directory: TempDir,
}

impl Site {
    async fn start() -> Site {
        let certs = Certs::new();
        let ip = |params: &mut CertificateParams| {
            params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        };
        let expired = certs.issue("expired", |params| {
            ip(params);
            params.not_before = rcgen::date_time_ymd(1975, 1, 1);
            params.not_after = rcgen::date_time_ymd(1975, 12, 31);
        });
        let tokens = format!("- token: {TOKEN}\n  firehose: true\n  apps: all\n");
        let cluster = Cluster::builder().dopplers(1).controllers(1).tokens(tokens);
        let site = Site {
            good: certs.issue("good", ip),
            other: certs.pair("doppler"),
            expired,
            certs,
            cluster: cluster.start().await,
            mirror: mirror().await,
            directory: tempfile::tempdir().expect("a directory for its files"),
        };
        // HAProxy wants both in one file.
        for (name, pair) in [
            ("good.pem", &site.good),
            ("other.pem", &site.other),
            ("expired.pem", &site.expired),
        ] {
            let read = |path: &Path| std::fs::read_to_string(path).expect("the harness wrote it");
            let both = format!("{}{}", read(&pair.cert), read(&pair.key));
            std::fs::write(site.directory.path().join(name), both).expect("it is ours");
        }
        site
    }

    fn controller(&self) -> SocketAddr {
        self.cluster.controllers[0].address
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Starts `program` with `config`, and shows it to the doctor through each listener.
    async fn examine(
        &self,
        program: &Path,
        config: (&str, String),
        arguments: &[&str],
        mistakes: Vec<Mistake>,
    ) -> Result<String, String> {
        let path = self.file(config.0);
        std::fs::write(&path, config.1).expect("it is ours");
        let mut all: Vec<&str> = arguments.to_vec();
        all.push(&path);
        let mut balancer = Balancer(Process::start("balancer", program, all));
        for mistake in mistakes.iter().filter(|it| !it.listener.is_empty()) {
            let listens = within(START, || {
                let over = balancer.0.exited().is_some();
                let port = mistake.port;
                async move {
                    over || TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                        .await
                        .is_ok()
                }
            });
            let listens = listens.await && balancer.0.exited().is_none();
            assert!(
                listens,
                "{}: nobody listens: {:#?}",
                mistake.what,
                balancer.0.log()
            );
        }
        let ca = self.certs.ca().display().to_string();
        let mut wrong = String::new();
        let all = mistakes.iter().map(async |it| (it, found(it, &ca).await));
        let all = futures::future::join_all(all).await;
        let count = all.len();
        for (mistake, found) in all {
            match found {
                Ok(found) if found == mistake.found => {}
                Ok(found) => {
                    let (what, expected) = (mistake.what, mistake.found);
                    _ = write!(wrong, "{what}: found {found:?}, not {expected:?}; ");
                }
                Err(error) => _ = write!(wrong, "{}: {error}; ", mistake.what),
            }
        }
        match wrong.is_empty() {
            true => Ok(format!("{count} listeners, each found out")),
            false => Err(wrong),
        }
    }
}

/// A running balancer. Dropping it ends it, with all its workers.
struct Balancer(Process);

impl Drop for Balancer {
    fn drop(&mut self) {
        self.0.signal(Signal::Terminate);
        let asked = Instant::now();
        while self.0.exited().is_none() && asked.elapsed() < END {
            std::thread::yield_now();
        }
    }
}

/// What the doctor finds, by name.
async fn found(mistake: &Mistake, ca: &str) -> Result<Vec<String>, String> {
    let url = format!("{}://127.0.0.1:{}", mistake.scheme, mistake.port);
    let output = Command::new(binaries::firehose())
        .args(["doctor", &url, "--json", "--app", APP, "--ca", ca])
        .args(["--connect-timeout", "3"])
        .args(mistake.arguments)
        .env_clear()
        .env("CF_ACCESS_TOKEN", TOKEN)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| error.to_string())?;
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    if out.contains(TOKEN) || err.contains(TOKEN) {
        return Err("the token is in its output".to_owned());
    }
    let report: Value = serde_json::from_str(&out).map_err(|_| format!("{out}{err}"))?;
    let checks = report["checks"].as_array().ok_or("no checks")?;
    let found: Vec<_> = checks
        .iter()
        .filter_map(|check| Some(check.get("finding")?.as_str()?.to_owned()))
        .collect();
    let expected = if found.is_empty() { 0 } else { 6 };
    match output.status.code() {
        Some(code) if code == expected && found == mistake.found => Ok(found),
        code => Err(format!("{code:?}, {found:?}: {out}")),
    }
}

/// A stand-in for a Traffic Controller that says in `X-Loggregator-Seen` what it sees.
async fn mirror() -> SocketAddr {
    serve(async |mut stream: TcpStream, head: String| {
        let header = |name: &str| header(&head, name);
        let Some(key) = header("sec-websocket-key") else {
            return unauthorized(&mut stream).await;
        };
        let peer = stream.peer_addr().expect("it is connected").ip();
        let mut seen = serde_json::json!({ "peer": peer, "client": peer });
        if let Some(given) = header("x-forwarded-for") {
            seen["client"] = given.rsplit(',').next().unwrap_or_default().trim().into();
            seen["x_forwarded_for"] = given.into();
        }
        if let Some(proto) = header("x-forwarded-proto") {
            seen["x_forwarded_proto"] = proto.into();
        }
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nX-Loggregator-Seen: {seen}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        _ = stream.write_all(answer.as_bytes()).await;
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        _ = socket.send(Message::Ping("".into())).await;
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await
}

/// A stand-in for gorouter with a route service on this route.
async fn gorouter() -> SocketAddr {
    serve(async |mut stream: TcpStream, head: String| {
        if header(&head, "upgrade").is_none() {
            return unauthorized(&mut stream).await;
        }
        let answer = "HTTP/1.1 503 Service Unavailable\r\n\
                      Content-Type: text/plain; charset=utf-8\r\n\
                      X-Cf-Routererror: route_service_unsupported\r\n\
                      X-Content-Type-Options: nosniff\r\nContent-Length: 62\r\n\r\n\
                      503 Service Unavailable: no websockets over a route service.\r\n";
        _ = stream.write_all(answer.as_bytes()).await;
    })
    .await
}

/// Serves each connection until the process ends.
async fn serve<F>(answer: impl Fn(TcpStream, String) -> F + Clone + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                answer(stream, String::from_utf8_lossy(&head).into_owned()).await;
            });
        }
    });
    address
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

async fn unauthorized(stream: &mut TcpStream) {
    let answer = "HTTP/1.1 401 Unauthorized\r\nWww-Authenticate: Basic\r\nContent-Length: 50\r\n\
                  \r\nYou are not authorized. authorization not provided";
    _ = stream.write_all(answer.as_bytes()).await;
    _ = stream.shutdown().await;
    _ = stream.read_u8().await;
}

/// Mistakes for which no listener is needed, or any will do.
fn closed() -> Mistake {
    Mistake::new("nobody listens", &["port_closed"], "wss", |_| String::new())
}

async fn haproxy() -> Result<String, String> {
    let site = Site::start().await;
    let (controller, mirror, nobody) = (site.controller(), site.mirror, free_port());
    let crt = |name: &str| format!("ssl crt {} alpn h2,http/1.1", site.file(name));
    let good = crt("good.pem");
    let front = |bind: String, rest: &'static str| {
        move |at: SocketAddr| {
            let port = at.port();
            format!("frontend f{port}\n bind {at} {bind}\n {rest}\n")
        }
    };
    let mistakes = vec![
        Mistake::new(
            "none",
            &[],
            "wss",
            front(good.clone(), "default_backend controller"),
        )
        .with(IDLE),
        Mistake::new(
            "none, in TCP mode",
            &[],
            "wss",
            front(good.clone(), "mode tcp\n default_backend tcp"),
        ),
        Mistake::new(
            "no Upgrade",
            &["upgrade_lost"],
            "wss",
            front(
                good.clone(),
                "http-request del-header Upgrade\n default_backend controller",
            ),
        ),
        Mistake::new(
            "Upgrade is denied",
            &["upgrade_refused"],
            "wss",
            front(
                good.clone(),
                "http-request deny if { hdr(Upgrade) -m found }\n default_backend controller",
            ),
        ),
        Mistake::new(
            "short idle timeout",
            &["idle_cut"],
            "wss",
            front(good.clone(), "default_backend short"),
        )
        .with(IDLE),
        Mistake::new(
            "short idle timeout, in TCP mode",
            &["idle_cut"],
            "wss",
            front(
                good.clone(),
                "mode tcp\n timeout client 3s\n default_backend tcp",
            ),
        )
        .with(IDLE),
        Mistake::new(
            "HTTP/2 only",
            &["http2_only"],
            "wss",
            front(
                format!("ssl crt {} alpn h2 proto h2", site.file("good.pem")),
                "default_backend controller",
            ),
        ),
        Mistake::new(
            "another name",
            &["certificate_name"],
            "wss",
            front(crt("other.pem"), "default_backend controller"),
        ),
        Mistake::new(
            "expired",
            &["certificate_expired"],
            "wss",
            front(crt("expired.pem"), "default_backend controller"),
        ),
        Mistake::new(
            "plain text on the TLS port",
            &["plain_on_tls_port"],
            "wss",
            front(String::new(), "default_backend controller"),
        ),
        Mistake::new(
            "TLS on the plain port",
            &["tls_on_plain_port"],
            "ws",
            front(good.clone(), "default_backend controller"),
        ),
        Mistake::new(
            "PROXY protocol is expected",
            &["hung_up"],
            "wss",
            front(format!("{good} accept-proxy"), "default_backend controller"),
        ),
        Mistake::new(
            "no server",
            &["no_backend"],
            "wss",
            front(good.clone(), "default_backend nobody"),
        ),
        Mistake::new(
            "no server, in TCP mode",
            &["hung_up"],
            "wss",
            front(good.clone(), "mode tcp\n default_backend nobody_tcp"),
        ),
        Mistake::new(
            "another server",
            &["not_a_traffic_controller"],
            "wss",
            front(
                good.clone(),
                "http-request return status 200 content-type text/plain string hello",
            ),
        ),
        Mistake::new(
            "a redirect",
            &["redirected"],
            "ws",
            front(String::new(), "http-request redirect scheme https"),
        ),
        Mistake::new(
            "no forwarded headers",
            &["forwarded_missing"],
            "wss",
            front(good.clone(), "default_backend mirror"),
        ),
        Mistake::new(
            "no X-Forwarded-Proto",
            &["forwarded_proto"],
            "wss",
            front(good.clone(), "option forwardfor\n default_backend mirror"),
        ),
        Mistake::new(
            "forwarded headers",
            &[],
            "wss",
            front(
                good.clone(),
                "option forwardfor\n http-request set-header X-Forwarded-Proto https\n \
                 default_backend mirror",
            ),
        ),
        closed(),
    ];
    let mut config = format!(
        "global\n maxconn 1000\n\
         defaults\n mode http\n timeout connect 2s\n timeout client 1h\n timeout server 1h\n \
         timeout tunnel 1h\n timeout http-request 10s\n retries 0\n\
         backend controller\n server s {controller}\n\
         backend tcp\n mode tcp\n server s {controller}\n\
         backend short\n timeout tunnel 3s\n server s {controller}\n\
         backend nobody\n server s 127.0.0.1:{nobody}\n\
         backend nobody_tcp\n mode tcp\n server s 127.0.0.1:{nobody}\n\
         backend mirror\n source {FROM}\n server s {mirror}\n"
    );
    config.extend(mistakes.iter().map(|it| &*it.listener));
    let program = installed("haproxy", "haproxy");
    let config = ("haproxy.cfg", config);
    site.examine(&program, config, &["-db", "-f"], mistakes)
        .await
}

async fn nginx() -> Result<String, String> {
    let site = Site::start().await;
    let (controller, mirror, nobody) = (site.controller(), site.mirror, free_port());
    let tls = |pair: &Pair| {
        let (cert, key) = (pair.cert.display(), pair.key.display());
        format!("ssl_certificate {cert}; ssl_certificate_key {key};")
    };
    let good = tls(&site.good);
    let upgrade = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                   proxy_set_header Connection upgrade; proxy_set_header Host $http_host;";
    let server = |listen: &'static str, certificate: &str, location: String| {
        let certificate = certificate.to_owned();
        move |at: SocketAddr| {
            format!("server {{ listen {at}{listen}; {certificate} location / {{ {location} }} }}\n")
        }
    };
    let to = |to: SocketAddr, rest: &str| format!("proxy_pass http://{to}; {rest}");
    let right = to(controller, &format!("{upgrade} proxy_read_timeout 1h;"));
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, nobody));
    let mirrored = to(mirror, &format!("{upgrade} proxy_bind {FROM};"));
    let mistakes = vec![
        Mistake::new("none", &[], "wss", server(" ssl", &good, right.clone())).with(IDLE),
        Mistake::new(
            "buffering, which is nothing to a WebSocket",
            &[],
            "wss",
            server(
                " ssl",
                &good,
                format!("{right} proxy_buffering on; proxy_request_buffering on; gzip on;"),
            ),
        ),
        Mistake::new(
            "no Upgrade",
            &["upgrade_lost"],
            "wss",
            server(" ssl", &good, to(controller, "")),
        ),
        Mistake::new(
            "short idle timeout",
            &["idle_cut"],
            "wss",
            server(
                " ssl",
                &good,
                to(controller, &format!("{upgrade} proxy_read_timeout 3s;")),
            ),
        )
        .with(IDLE),
        Mistake::new(
            "HTTP/2 only",
            &["http2_only"],
            "ws",
            server(" http2", "", right.clone()),
        ),
        Mistake::new(
            "another name",
            &["certificate_name"],
            "wss",
            server(" ssl", &tls(&site.other), right.clone()),
        ),
        Mistake::new(
            "expired",
            &["certificate_expired"],
            "wss",
            server(" ssl", &tls(&site.expired), right.clone()),
        ),
        Mistake::new(
            "old TLS only",
            &["tls_version"],
            "wss",
            server(
                " ssl",
                &format!("{good} ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;"),
                right.clone(),
            ),
        ),
        Mistake::new(
            "plain text on the TLS port",
            &["plain_on_tls_port"],
            "wss",
            server("", "", right.clone()),
        ),
        Mistake::new(
            "TLS on the plain port",
            &["tls_on_plain_port"],
            "ws",
            server(" ssl", &good, right.clone()),
        ),
        Mistake::new(
            "no server",
            &["no_backend"],
            "wss",
            server(" ssl", &good, to(nobody, upgrade)),
        ),
        Mistake::new(
            "another server",
            &["not_a_traffic_controller"],
            "wss",
            server(" ssl", &good, "return 200 hello;".to_owned()),
        ),
        Mistake::new(
            "a redirect",
            &["redirected"],
            "ws",
            server("", "", "return 301 https://$host$request_uri;".to_owned()),
        ),
        Mistake::new(
            "no forwarded headers",
            &["forwarded_missing"],
            "wss",
            server(" ssl", &good, mirrored.clone()),
        ),
        Mistake::new(
            "forwarded headers",
            &[],
            "wss",
            server(
                " ssl",
                &good,
                format!(
                    "{mirrored} proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; \
                     proxy_set_header X-Forwarded-Proto $scheme;"
                ),
            ),
        ),
        closed(),
    ];
    let mut config = format!(
        "daemon off; worker_processes 1; pid {}; error_log /dev/stderr;\n\
         events {{ worker_connections 500; }}\nhttp {{ access_log off;\n",
        site.file("nginx.pid")
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        _ = writeln!(config, "{kind}_temp_path {};", site.file(kind));
    }
    config.extend(mistakes.iter().map(|it| &*it.listener));
    config.push_str("}\n");
    let program = installed("nginx", "nginx");
    let arguments = ["-e", "/dev/stderr", "-c"];
    site.examine(&program, ("nginx.conf", config), &arguments, mistakes)
        .await
}

/// An HTTP listener of Envoy.
#[derive(Clone, Default)]
struct Front<'a> {
    /// Certificate, and ALPN.
    tls: Option<(&'a Pair, &'a str)>,
    /// Of the connection manager.
    manager: &'a str,
    /// HTTP filters before the router.
    filters: &'a str,
    /// Of the route.
    route: &'a str,
    cluster: &'a str,
}

impl Front<'_> {
    fn yaml(&self, at: SocketAddr) -> String {
        let port = at.port();
        let types = "type.googleapis.com/envoy.extensions";
        let tls = self.tls.map(|(pair, alpn)| {
            let (cert, key) = (pair.cert.display(), pair.key.display());
            format!(
                "transport_socket: {{ name: tls, typed_config: {{ '@type': \
                 {types}.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{ \
                 alpn_protocols: [{alpn}], tls_certificates: [ {{ certificate_chain: {{ filename: \
                 '{cert}' }}, private_key: {{ filename: '{key}' }} }} ] }} }} }}, "
            )
        });
        let (tls, manager, filters) = (tls.unwrap_or_default(), self.manager, self.filters);
        let (route, cluster) = (self.route, self.cluster);
        format!(
            "  - {{ name: l{port}, address: {{ socket_address: {{ address: 127.0.0.1, port_value: \
             {port} }} }}, filter_chains: [ {{ {tls}filters: [ {{ name: http, typed_config: {{ \
             '@type': {types}.filters.network.http_connection_manager.v3.HttpConnectionManager, \
             stat_prefix: p{port}, {manager} route_config: {{ virtual_hosts: [ {{ name: h, domains: \
             ['*'], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: {cluster}, timeout: 0s \
             {route} }} }} ] }} ] }}, http_filters: [ {filters} {{ name: router, typed_config: {{ \
             '@type': {types}.filters.http.router.v3.Router }} }} ] }} }} ] }} ] }}\n"
        )
    }
}

async fn envoy_() -> Result<String, String> {
    let site = Site::start().await;
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let websocket = "upgrade_configs: [ { upgrade_type: websocket } ],";
    let direct = "upgrade_configs: [ { upgrade_type: websocket } ], use_remote_address: true,";
    let http2 = "upgrade_configs: [ { upgrade_type: websocket } ], codec_type: HTTP2,";
    let buffer = "{ name: buffer, typed_config: { '@type': \
                  type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, \
                  max_request_bytes: 65536 } },";
    let both = "h2, http/1.1";
    let right = Front {
        tls: Some((&site.good, both)),
        manager: websocket,
        cluster: "controller",
        ..Front::default()
    };
    let front = |front: Front<'_>| {
        let yaml = front.yaml(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        move |at: SocketAddr| {
            let port = at.port();
            yaml.replace("name: l1,", &format!("name: l{port},"))
                .replace("port_value: 1 ", &format!("port_value: {port} "))
                .replace("stat_prefix: p1,", &format!("stat_prefix: p{port},"))
        }
    };
    let mistakes = vec![
        Mistake::new("none", &[], "wss", front(right.clone())).with(IDLE),
        Mistake::new(
            "no Upgrade",
            &["upgrade_refused"],
            "wss",
            front(Front {
                manager: "",
                ..right.clone()
            }),
        ),
        Mistake::new(
            "buffering",
            &["upgrade_unanswered"],
            "wss",
            front(Front {
                filters: buffer,
                ..right.clone()
            }),
        ),
        Mistake::new(
            "short idle timeout",
            &["idle_cut"],
            "wss",
            front(Front {
                route: ", idle_timeout: 3s",
                ..right.clone()
            }),
        )
        .with(IDLE),
        Mistake::new(
            "short life",
            &["life_limit"],
            "wss",
            front(Front {
                route: ", max_stream_duration: { max_stream_duration: 3s }",
                ..right.clone()
            }),
        )
        .with(IDLE),
        Mistake::new(
            "HTTP/2 only",
            &["http2_only"],
            "wss",
            front(Front {
                tls: Some((&site.good, "h2")),
                manager: http2,
                ..right.clone()
            }),
        ),
        Mistake::new(
            "HTTP/2 only, without TLS",
            &["http2_only"],
            "ws",
            front(Front {
                tls: None,
                manager: http2,
                ..right.clone()
            }),
        ),
        Mistake::new(
            "another name",
            &["certificate_name"],
            "wss",
            front(Front {
                tls: Some((&site.other, both)),
                ..right.clone()
            }),
        ),
        Mistake::new(
            "expired",
            &["certificate_expired"],
            "wss",
            front(Front {
                tls: Some((&site.expired, both)),
                ..right.clone()
            }),
        ),
        Mistake::new(
            "plain text on the TLS port",
            &["plain_on_tls_port"],
            "wss",
            front(Front {
                tls: None,
                ..right.clone()
            }),
        ),
        Mistake::new(
            "TLS on the plain port",
            &["tls_on_plain_port"],
            "ws",
            front(right.clone()),
        ),
        Mistake::new(
            "no server",
            &["no_backend"],
            "wss",
            front(Front {
                cluster: "nobody",
                ..right.clone()
            }),
        ),
        // Envoy adds X-Forwarded-Proto by itself.
        Mistake::new(
            "no forwarded headers",
            &["forwarded_missing"],
            "wss",
            front(Front {
                cluster: "mirror",
                ..right.clone()
            }),
        ),
        Mistake::new(
            "forwarded headers",
            &[],
            "wss",
            front(Front {
                cluster: "mirror",
                manager: direct,
                ..right.clone()
            }),
        ),
        closed(),
    ];
    let mut config = "static_resources:\n  listeners:\n".to_owned();
    config.extend(mistakes.iter().map(|it| &*it.listener));
    config.push_str("  clusters:\n");
    let clusters = [
        ("controller", site.controller()),
        ("mirror", site.mirror),
        ("nobody", nobody),
    ];
    for (name, to) in clusters {
        _ = writeln!(
            config,
            "  - {{ name: {name}, type: STATIC, connect_timeout: 2s, upstream_bind_config: {{ \
             source_address: {{ address: {FROM}, port_value: 0 }} }}, load_assignment: {{ \
             cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ \
             socket_address: {{ address: {}, port_value: {} }} }} }} }} ] }} ] }} }}",
            to.ip(),
            to.port()
        );
    }
    let program: PathBuf = envoy::program().await;
    let arguments = [
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "--log-level",
        "warning",
        "-c",
    ];
    site.examine(&program, ("envoy.yaml", config), &arguments, mistakes)
        .await
}

async fn route_service() -> Result<String, String> {
    let port = gorouter().await.port();
    let mistake = Mistake {
        what: "a route service",
        found: &["route_service"],
        scheme: "ws",
        listener: String::new(),
        arguments: &[],
        port,
    };
    // No certificate is looked at.
    let ca = Certs::new();
    let found = found(&mistake, &ca.ca().display().to_string()).await?;
    Ok(format!("{found:?}"))
}

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check {
            name: "haproxy doctor",
            what: "`firehose doctor` finds each of the mistakes in HAProxy, and none where there is \
                   none",
            limit: LIMIT,
            alone: false,
            run: || Box::pin(haproxy()),
        },
        Check {
            name: "nginx doctor",
            what: "the same of nginx",
            limit: LIMIT,
            alone: false,
            run: || Box::pin(nginx()),
        },
        Check {
            name: "envoy doctor",
            what: "the same of Envoy",
            limit: LIMIT,
            alone: false,
            run: || Box::pin(envoy_()),
        },
        Check {
            name: "gorouter doctor",
            what: "and of one who answers as gorouter does for route services",
            limit: LIMIT,
            alone: false,
            run: || Box::pin(route_service()),
        },
    ]
}
