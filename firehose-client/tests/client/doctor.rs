//! What `firehose doctor` says of ways that are wrong, each in one thing.

use std::future::pending;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use transport::listener::{Acceptor, Stream};
use transport::tls::{self, H2, HTTP_1_1, Identity};

use crate::certificates::Ca;
use crate::command::firehose;

/// Stands in no output.
const TOKEN: &str = "a-token-that-nobody-may-see";

const GUID: &str = "11111111-2222-3333-4444-555555555555";

/// Somebody on the way, or at its end.
struct Way {
    url: String,
    /// Requests that showed a token.
    tokens: Arc<AtomicUsize>,
}

/// A connection of which the head of a request has been read.
struct Talk {
    stream: Stream,
    head: String,
}

impl Way {
    async fn plain<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(Talk) -> F + Clone + Send + 'static,
    ) -> Way {
        Way::start(None, serve).await
    }

    async fn tls<F: Future<Output = ()> + Send + 'static>(
        identity: &Identity,
        alpn: &[&[u8]],
        serve: impl Fn(Talk) -> F + Clone + Send + 'static,
    ) -> Way {
        Way::start(Some((identity, alpn)), serve).await
    }

    async fn start<F: Future<Output = ()> + Send + 'static>(
        tls: Option<(&Identity, &[&[u8]])>,
        serve: impl Fn(Talk) -> F + Clone + Send + 'static,
    ) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "wss" } else { "ws" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let tls = tls.map(|(identity, alpn)| tls::server(identity, None, alpn).unwrap());
        let acceptor = Acceptor::new(tls.map(Into::into));
        let tokens = Arc::new(AtomicUsize::new(0));
        let seen = tokens.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, peer) = listener.accept().await.unwrap();
                let (acceptor, serve, seen) = (acceptor.clone(), serve.clone(), seen.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(tcp, peer).await else {
                        return;
                    };
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    seen.fetch_add(head.matches(TOKEN).count(), Ordering::Relaxed);
                    serve(Talk { stream, head }).await;
                });
            }
        });
        Way { url, tokens }
    }

    fn tokens(&self) -> usize {
        self.tokens.load(Ordering::Relaxed)
    }
}

impl Talk {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    fn upgrades(&self) -> bool {
        self.header("upgrade") == Some("websocket")
    }

    async fn say(mut self, bytes: impl AsRef<[u8]>) {
        _ = self.stream.write_all(bytes.as_ref()).await;
        _ = self.stream.shutdown().await;
        // Hanging up first could take the answer back.
        _ = self.stream.read_u8().await;
    }

    async fn answer(self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        self.say(answer).await;
    }

    /// What a Traffic Controller says to somebody without a token.
    async fn unauthorized(self) {
        let headers = "Www-Authenticate: Basic\r\nContent-Type: text/plain; charset=utf-8\r\n";
        let body = "You are not authorized. authorization not provided";
        self.answer("401 Unauthorized", headers, body).await;
    }

    /// What it says if somebody has taken out `Upgrade`.
    async fn no_handshake(self) {
        let headers = "Sec-Websocket-Version: 13\r\n";
        let body =
            "This is a WebSocket endpoint, and the header 'Upgrade: websocket' is missing.\n";
        self.answer("400 Bad Request", headers, body).await;
    }

    /// As a Traffic Controller: the stream of somebody with a token, or a refusal.
    async fn stream(mut self, headers: &str) -> Option<Stream> {
        if self.header("authorization").is_none() {
            self.unauthorized().await;
            return None;
        }
        if !self.upgrades() {
            self.no_handshake().await;
            return None;
        }
        let accept = derive_accept_key(self.header("Sec-WebSocket-Key").unwrap().as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{headers}\r\n"
        );
        self.stream.write_all(answer.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
        Some(self.stream)
    }
}

/// A Traffic Controller that tells `seen` of whoever asks: pings at once, answers pings.
async fn traffic_controller(talk: Talk, seen: &str) {
    let headers = match seen {
        "" => String::new(),
        seen => {
            assert_eq!(
                talk.header("x-loggregator-doctor").is_some(),
                talk.upgrades()
            );
            format!("X-Loggregator-Seen: {seen}\r\n")
        }
    };
    if let Some(stream) = talk.stream(&headers).await {
        serve(stream).await;
    }
}

async fn serve(stream: Stream) {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    socket.send(Message::Ping("".into())).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
}

/// What it says: exit code, stdout, stderr. It may not take long.
async fn said(arguments: &[&str]) -> (Option<i32>, String, String) {
    let arguments = [&["doctor"], arguments].concat();
    let run = timeout(Duration::from_secs(60), firehose(&arguments).output());
    let output = run.await.expect("it ends").unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    for text in [&out, &err] {
        assert!(!text.contains(TOKEN), "{text}");
    }
    (output.status.code(), out, err)
}

/// What it finds, by name, with a token and these other arguments.
async fn found(url: &str, arguments: &[&str]) -> Vec<String> {
    let usual = [url, "--token", TOKEN, "--json"];
    let patience: &[&str] = match arguments.contains(&"--connect-timeout") {
        true => &[],
        false => &["--connect-timeout", "2"],
    };
    let with = [&usual, patience, arguments].concat();
    let (code, out, err) = said(&with).await;
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    let checks = report["checks"].as_array().unwrap();
    let found: Vec<_> = checks
        .iter()
        .filter_map(|check| {
            let finding = check.get("finding")?.as_str()?;
            assert!(check["remedy"].as_str().unwrap().len() > 80, "{check}");
            Some(finding.to_owned())
        })
        .collect();
    assert_eq!(code, Some(if found.is_empty() { 0 } else { 6 }), "{report}");
    found
}

#[tokio::test]
async fn a_way_with_nothing_wrong_is_told_step_by_step() {
    let seen = r#"{"peer":"127.0.0.1","client":"127.0.0.1"}"#;
    let way = Way::plain(move |talk| traffic_controller(talk, seen)).await;
    let (code, out, err) = said(&[&way.url, "--token", TOKEN, "--idle", "3"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let begins = [
        &*way.url,
        "ok       DNS       127.0.0.1 is an address",
        "ok       TCP       127.0.0.1:",
        "ok       HTTP      a Traffic Controller answers in ",
        "ok       Upgrade   101 in ",
        "ok       forwarded the Traffic Controller sees us as 127.0.0.1: nobody stands between",
        "ok       pings     the server pings, and answers ours in ",
        "ok       idle      no stream was cut within 3.0 s, nor in 3.0 s of silence",
        "Nothing wrong from here.",
    ];
    assert_eq!(out.lines().count(), begins.len(), "{out}");
    for (line, begin) in out.lines().zip(begins) {
        assert!(line.starts_with(begin), "{begin}: {out}");
    }
}

#[tokio::test]
async fn under_tls_certificate_and_protocol_are_told_too() {
    let ca = Ca::new();
    let identity = ca.signs("127.0.0.1");
    let way = Way::tls(&identity, &[H2, HTTP_1_1], |talk| {
        traffic_controller(talk, "")
    })
    .await;
    let ca = ca.path.to_str().unwrap();
    let (code, out, err) = said(&[&way.url, "--token", TOKEN, "--ca", ca]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    for part in [
        ": TLS 1.3, certificate for 127.0.0.1, signed by CN=a CA, good for ",
        " takes http/1.1 from those who offer that alone, as clients do; else h2\n",
        "unknown  forwarded this Traffic Controller does not tell",
        "unknown  idle      not looked at: --idle 30",
        "Nothing wrong from here; 2 things were not looked at.\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

#[tokio::test]
async fn without_a_token_it_comes_as_far_as_401_and_says_so() {
    let way = Way::plain(|talk| traffic_controller(talk, "")).await;
    let (code, out, _) = said(&[&way.url]).await;
    assert_eq!(code, Some(0), "{out}");
    assert!(
        out.contains("ok       HTTP      a Traffic Controller answers"),
        "{out}"
    );
    assert!(
        out.contains("unknown  Upgrade   401, as without Upgrade: only with a token"),
        "{out}"
    );
}

#[tokio::test]
async fn the_endpoint_is_where_the_other_commands_have_it() {
    let way = Way::plain(|talk| traffic_controller(talk, "")).await;
    let output = firehose(&["doctor", "--app", GUID])
        .env("DOPPLER_ADDR", &way.url)
        .env("CF_ACCESS_TOKEN", TOKEN)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.starts_with(way.url.as_bytes()));
    assert_eq!(way.tokens(), 1);

    let (code, _, err) = said(&["127.0.0.1:4443"]).await;
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("it has no scheme: write wss://HOST"), "{err}");
}

#[tokio::test]
async fn a_lost_upgrade_is_found_by_what_the_traffic_controller_says() {
    let way = Way::plain(async |talk: Talk| match talk.header("authorization") {
        None => talk.unauthorized().await,
        Some(_) => talk.no_handshake().await,
    });
    let way = way.await;
    assert_eq!(found(&way.url, &[]).await, ["upgrade_lost"]);
    let (code, out, err) = said(&[&way.url, "--token", TOKEN]).await;
    assert_eq!(code, Some(6));
    let words = out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("`proxy_set_header Upgrade $http_upgrade`"),
        "{words}"
    );
    assert!(out.ends_with("\n1 fault.\n"), "{out}");
    assert!(
        err.contains("1 to mend on the way to ws://127.0.0.1:"),
        "{err}"
    );
}

#[tokio::test]
async fn who_answers_an_upgrade_before_the_traffic_controller_is_named() {
    for (status, headers, finding, named) in [
        (
            "403 Forbidden",
            "server: envoy\r\n",
            "upgrade_refused",
            "Envoy answers",
        ),
        (
            "200 OK",
            "Server: Apache\r\n",
            "upgrade_refused",
            "Apache answers",
        ),
        (
            "426 Upgrade Required",
            "",
            "upgrade_refused",
            "somebody answers",
        ),
        (
            "503 Service Unavailable",
            "X-Cf-Routererror: route_service_unsupported\r\n",
            "route_service",
            "x-cf-routererror: route_service_unsupported",
        ),
        (
            "101 Switching Protocols",
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n",
            "upgrade_altered",
            "'Sec-WebSocket-Accept' does not answer our key",
        ),
    ] {
        let way = Way::plain(move |talk: Talk| async move {
            match talk.upgrades() {
                true => talk.answer(status, headers, "no").await,
                false => talk.unauthorized().await,
            }
        });
        let way = way.await;
        assert_eq!(found(&way.url, &[]).await, [finding], "{status}");
        // Also where there is no token: the answer would have been 401.
        let (_, out, _) = said(&[&way.url]).await;
        assert!(out.contains(named), "{named}: {out}");
    }
}

#[tokio::test]
async fn an_upgrade_that_somebody_keeps_waiting_is_found() {
    let way = Way::plain(async |talk: Talk| match talk.upgrades() {
        true => pending().await,
        false => talk.unauthorized().await,
    });
    let found = found(&way.await.url, &["--connect-timeout", "1"]).await;
    assert_eq!(found, ["upgrade_unanswered"]);
}

#[tokio::test]
async fn a_refused_token_and_an_unknown_app_are_no_fault_of_a_balancer() {
    let way = Way::plain(|talk| talk.unauthorized()).await;
    assert_eq!(found(&way.url, &[]).await, ["token_refused"]);
    let way = Way::plain(async |talk: Talk| match talk.upgrades() {
        true => talk.answer("404 Not Found", "", "").await,
        false => talk.unauthorized().await,
    });
    assert_eq!(
        found(&way.await.url, &["--app", GUID]).await,
        ["app_not_found"]
    );
    let way = Way::plain(async |talk: Talk| match talk.upgrades() {
        true => {
            talk.answer("503 Service Unavailable", "Retry-After: 5\r\n", "")
                .await
        }
        false => talk.unauthorized().await,
    });
    assert_eq!(found(&way.await.url, &[]).await, ["authority_down"]);
}

#[tokio::test]
async fn who_takes_http2_alone_is_found_with_tls_and_without() {
    let ca = Ca::new();
    let identity = ca.signs("127.0.0.1");
    let way = Way::tls(&identity, &[H2], |talk| traffic_controller(talk, "")).await;
    let ca = ca.path.to_str().unwrap();
    assert_eq!(found(&way.url, &["--ca", ca]).await, ["http2_only"]);
    assert_eq!(way.tokens(), 0);

    // Takes whatever protocol is offered, and hangs up on HTTP/1.1.
    let http2 = async |talk: Talk| {
        if talk.head.starts_with("PRI * HTTP/2.0") {
            talk.say(b"\0\0\0\x04\0\0\0\0\0").await;
        }
    };
    let way = Way::tls(&identity, &[], http2).await;
    assert_eq!(found(&way.url, &["--ca", ca]).await, ["http2_only"]);
    let way = Way::plain(http2).await;
    assert_eq!(found(&way.url, &[]).await, ["http2_only"]);
}

/// Where nobody listens.
fn closed() -> String {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_port_that_is_not_the_one_is_found_by_what_is_there() {
    let ca = Ca::new();
    let identity = ca.signs("127.0.0.1");
    let with_ca = ["--ca", ca.path.to_str().unwrap()];

    let closed = format!("wss://{}", closed());
    assert_eq!(found(&closed, &with_ca).await, ["port_closed"]);

    let plain = Way::plain(|talk| traffic_controller(talk, "")).await;
    let https = plain.url.replace("ws://", "wss://");
    assert_eq!(found(&https, &with_ca).await, ["plain_on_tls_port"]);

    let tls = Way::tls(&identity, &[HTTP_1_1], |talk| traffic_controller(talk, "")).await;
    let http = tls.url.replace("wss://", "ws://");
    assert_eq!(found(&http, &[]).await, ["tls_on_plain_port"]);

    let nginx = |talk: Talk| talk.answer("200 OK", "Server: nginx/1.22.1\r\n", "Welcome");
    let way = Way::plain(nginx).await;
    assert_eq!(found(&way.url, &[]).await, ["not_a_traffic_controller"]);

    let hangs_up = Way::plain(async |_: Talk| {}).await;
    assert_eq!(found(&hangs_up.url, &[]).await, ["hung_up"]);
    let silent = Way::plain(async |_talk: Talk| pending().await).await;
    assert_eq!(
        found(&silent.url, &["--connect-timeout", "1"]).await,
        ["unanswered"]
    );

    let ssh = Way::plain(|talk| talk.say("SSH-2.0-OpenSSH_9.2p1\r\n")).await;
    assert_eq!(found(&ssh.url, &[]).await, ["not_http"]);

    for way in [plain, tls, way, hangs_up, silent, ssh] {
        assert_eq!(way.tokens(), 0, "{}", way.url);
    }
}

#[tokio::test]
async fn somebody_who_speaks_first_and_no_tls_is_told_from_one_who_hangs_up() {
    let ca = Ca::new();
    let with_ca = ["--ca", ca.path.to_str().unwrap()];
    for (words, finding) in [("SSH-2.0-OpenSSH_9.2p1\r\n", "not_tls"), ("", "hung_up")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("wss://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                _ = tcp.write_all(words.as_bytes()).await;
                _ = tcp.shutdown().await;
                _ = tcp.read_to_end(&mut Vec::new()).await;
            }
        });
        assert_eq!(found(&url, &with_ca).await, [finding]);
    }
}

#[tokio::test]
async fn who_answers_in_place_of_a_traffic_controller_is_named() {
    for (status, headers, body, finding, named) in [
        (
            "404 Not Found",
            "X-Cf-Routererror: unknown_route\r\n",
            "404 Not Found: Requested route ('x') does not exist.",
            "unknown_route",
            "gorouter has no route",
        ),
        (
            "503 Service Unavailable",
            "",
            "<html><body><h1>503 Service Unavailable</h1>\nNo server is available",
            "no_backend",
            "HAProxy (by the look of it) answers",
        ),
        (
            "502 Bad Gateway",
            "Server: awselb/2.0\r\n",
            "",
            "no_backend",
            "AWS",
        ),
        (
            "301 Moved Permanently",
            "Location: https://login.example.com/\r\n",
            "",
            "redirected",
            "location: https://login.example.com/",
        ),
    ] {
        let way = Way::plain(move |talk: Talk| talk.answer(status, headers, body)).await;
        assert_eq!(found(&way.url, &[]).await, [finding]);
        let (_, out, _) = said(&[&way.url]).await;
        assert!(out.contains(named), "{named}: {out}");
        assert!(out.contains("unknown  Upgrade   not asked"), "{out}");
    }
}

#[tokio::test]
async fn all_that_is_wrong_with_a_certificate_is_found_and_the_token_is_shown_to_nobody() {
    let (ca, other) = (Ca::new(), Ca::new());
    type Change = fn(&mut rcgen::CertificateParams);
    let now: Change = |_| {};
    let past: Change = |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let future: Change = |params| {
        params.not_before = rcgen::date_time_ymd(3020, 1, 1);
        params.not_after = rcgen::date_time_ymd(3021, 1, 1);
    };
    for (name, when, trusts, findings) in [
        ("doppler.example.com", now, &ca, &["certificate_name"][..]),
        ("127.0.0.1", past, &ca, &["certificate_expired"]),
        ("127.0.0.1", future, &ca, &["certificate_not_yet_valid"]),
        ("127.0.0.1", now, &other, &["certificate_issuer"]),
        (
            "doppler.example.com",
            past,
            &other,
            // Whose it is, is looked at last.
            &["certificate_expired", "certificate_name"],
        ),
    ] {
        let identity = ca.signs_as(name, when);
        let way = Way::tls(&identity, &[HTTP_1_1], |talk| traffic_controller(talk, "")).await;
        let trusts = trusts.path.to_str().unwrap();
        assert_eq!(found(&way.url, &["--ca", trusts]).await, findings);
        assert_eq!(way.tokens(), 0);
        // The rest of the way is looked at all the same.
        let (_, out, _) = said(&[&way.url, "--token", TOKEN, "--ca", trusts]).await;
        assert!(
            out.contains("ok       HTTP      a Traffic Controller answers"),
            "{out}"
        );
        assert!(
            out.contains("the token was not shown, as the certificate is not good"),
            "{out}"
        );
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_is_to_check_is_a_warning() {
    let ca = Ca::new();
    let identity = ca.signs("doppler.example.com");
    let way = Way::tls(&identity, &[HTTP_1_1], |talk| traffic_controller(talk, "")).await;
    let (code, out, _) = said(&[&way.url, "--token", TOKEN, "--skip-cert-verify"]).await;
    assert_eq!(code, Some(6));
    assert!(out.contains("warning  TLS "), "{out}");
    assert!(out.contains("ok       Upgrade   101"), "{out}");
    assert_eq!(way.tokens(), 1, "as the other commands do");
}

#[tokio::test]
async fn a_certificate_that_soon_expires_is_a_warning() {
    let ca = Ca::new();
    let identity = ca.signs_as("127.0.0.1", |params| {
        let day = std::time::SystemTime::now() + Duration::from_secs(10 * 86_400 + 3_600);
        params.not_after = day.into();
    });
    let way = Way::tls(&identity, &[HTTP_1_1], |talk| traffic_controller(talk, "")).await;
    let found = found(&way.url, &["--ca", ca.path.to_str().unwrap()]).await;
    assert_eq!(found, ["certificate_expires_soon"]);
}

#[tokio::test]
async fn a_stream_that_somebody_gathers_is_found_by_late_answers() {
    let way = Way::plain(async |talk: Talk| {
        let Some(stream) = talk.stream("").await else {
            return;
        };
        let (mut near, mut far) = tokio::io::split(stream);
        let (mut ours, theirs) = tokio::io::duplex(64 << 10);
        tokio::spawn(async move {
            let mut socket = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
            socket.send(Message::Ping("".into())).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        });
        // Passes on at once what the client says, and once in a while what the server says.
        let mut said = [0; 1024];
        let mut gathered = [0; 1024];
        loop {
            tokio::select! {
                read = near.read(&mut said) => match read {
                    Ok(n @ 1..) => ours.write_all(&said[..n]).await.unwrap(),
                    _ => return,
                },
                read = ours.read(&mut gathered) => {
                    let n = read.unwrap_or(0);
                    sleep(Duration::from_millis(700)).await;
                    if n == 0 || far.write_all(&gathered[..n]).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    assert_eq!(found(&way.await.url, &[]).await, ["buffered"]);
}

#[tokio::test]
async fn a_stream_in_which_nothing_is_answered_or_pinged_or_that_ends_is_found() {
    let deaf = Way::plain(async |talk: Talk| {
        let _open = talk.stream("").await;
        pending::<()>().await;
    });
    let found_ = found(&deaf.await.url, &["--connect-timeout", "1"]).await;
    assert_eq!(found_, ["no_pong"]);

    let pings_nobody = Way::plain(async |talk: Talk| {
        if let Some(stream) = talk.stream("").await {
            let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            while let Some(Ok(_)) = socket.next().await {}
        }
    });
    assert_eq!(found(&pings_nobody.await.url, &[]).await, ["no_ping"]);

    let ends = Way::plain(async |talk: Talk| {
        if let Some(stream) = talk.stream("").await {
            let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            _ = socket.close(None).await;
        }
    });
    assert_eq!(found(&ends.await.url, &[]).await, ["stream_ended"]);
}

#[tokio::test]
async fn what_the_traffic_controller_sees_of_us_tells_which_headers_come() {
    let ca = Ca::new();
    let identity = ca.signs("127.0.0.1");
    let with_ca = ["--ca", ca.path.to_str().unwrap()];
    for (seen, findings) in [
        (
            r#"{"peer":"10.0.0.1","client":"10.0.0.1"}"#,
            &["forwarded_missing"][..],
        ),
        (
            r#"{"peer":"10.0.0.1","client":"192.0.2.1","x_forwarded_for":"192.0.2.1","x_forwarded_proto":"https"}"#,
            &[],
        ),
        (
            r#"{"peer":"10.0.0.1","client":"192.0.2.1","x_forwarded_for":"192.0.2.1"}"#,
            &["forwarded_proto"],
        ),
        (
            r#"{"peer":"10.0.0.1","client":"10.0.0.1","x_forwarded_for":"192.0.2.1","x_forwarded_proto":"http"}"#,
            &["forwarded_untrusted", "forwarded_proto"],
        ),
        (
            r#"{"peer":"10.0.0.1","client":"192.0.2.1","proxy_protocol":true}"#,
            &[],
        ),
        ("words of a later version", &[]),
    ] {
        let serve = move |talk| traffic_controller(talk, seen);
        let way = Way::tls(&identity, &[HTTP_1_1], serve).await;
        assert_eq!(found(&way.url, &with_ca).await, findings, "{seen}");
    }
}

/// A Traffic Controller behind somebody who cuts a stream in which nothing is said for so long, or
/// that is so old.
async fn cut(talk: Talk, idle: Duration, old: Duration) {
    let Some(stream) = talk.stream("").await else {
        return;
    };
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    socket.send(Message::Ping("".into())).await.unwrap();
    let talk = async { while let Ok(Some(Ok(_))) = timeout(idle, socket.next()).await {} };
    _ = timeout(old, talk).await;
}

#[tokio::test]
async fn a_balancer_that_cuts_quiet_streams_is_told_from_one_that_cuts_old_ones() {
    const NEVER: Duration = Duration::from_secs(60);
    let limit = Duration::from_millis(1_700);
    let way = Way::plain(move |talk| cut(talk, limit, NEVER)).await;
    assert_eq!(found(&way.url, &["--idle", "4"]).await, ["idle_cut"]);
    let (_, out, _) = said(&[&way.url, "--token", TOKEN, "--idle", "4"]).await;
    assert!(
        out.contains("a stream is cut after 1.7 s of silence"),
        "{out}"
    );

    let way = Way::plain(move |talk| cut(talk, NEVER, limit)).await;
    assert_eq!(found(&way.url, &["--idle", "4"]).await, ["life_limit"]);
}
