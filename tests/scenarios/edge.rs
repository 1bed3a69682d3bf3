//! The public door: whose page may read, how many may, and what is written down about it.

use crate::SOON;
use harness::cluster::{Cluster, Controller};
use harness::envelopes::{Workload, guid};
use harness::raw::{Raw, handshake};
use std::path::Path;

const TOKEN: &str = "hush-all-of-it";

fn tokens() -> String {
    format!("- {{token: {TOKEN}, firehose: true, apps: all}}\n")
}

/// The status of a handshake with these header lines.
async fn status(controller: &Controller, path: &str, lines: &[&str]) -> u16 {
    let mut raw = Raw::connect(controller.address, controller.tls().as_ref()).await;
    raw.send(handshake(path, lines).as_bytes()).await;
    raw.response().await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_page_reads_nothing_by_its_visitors_cookie_and_a_header_needs_no_origin() {
    let cluster = Cluster::builder()
        .controllers(1)
        .tokens(tokens())
        .controller_flag("--system-domain", "sys.example.com")
        .controller_flag("--allowed-origins", "https://ops.example.org")
        .start()
        .await;
    let controller = &cluster.controllers[0];
    let cookie = format!("Cookie: authorization=bearer%20{TOKEN}");
    let header = format!("Authorization: bearer {TOKEN}");
    let app = format!("/apps/{}/stream", guid(1));
    for path in ["/firehose/n", &app] {
        for (origin, with_cookie) in [
            ("Origin: https://console.sys.example.com", 101),
            ("Origin: https://ops.example.org", 101),
            ("Origin: https://localhost", 101),
            ("Origin: https://evil.test", 403),
            ("Origin: https://doppler.sys.example.com.evil.test", 403),
            ("Origin: http://console.sys.example.com", 403),
            ("Origin: null", 403),
            ("Sec-Fetch-Site: cross-site", 403),
            ("X-Nothing: 1", 101),
        ] {
            assert_eq!(
                status(controller, path, &[&cookie, origin]).await,
                with_cookie,
                "{path} with a cookie and {origin}"
            );
            // noaa and cf send the endpoint as Origin; whoever made the header needs no cookie.
            assert_eq!(
                status(controller, path, &[&header, origin]).await,
                101,
                "{path} with a header and {origin}"
            );
        }
        let both = [&cookie[..], &header, "Origin: https://evil.test"];
        assert_eq!(
            status(controller, path, &both).await,
            101,
            "the header counts"
        );
        let nothing = ["Origin: https://evil.test"];
        assert_eq!(status(controller, path, &nothing).await, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_access_control_a_foreign_page_reads_nothing_unless_that_was_asked_for() {
    let open = Cluster::builder().controllers(1).start().await;
    let disabled = Cluster::builder()
        .controllers(1)
        .controller_flags(vec!["--disable-access-control".to_owned()])
        .start()
        .await;
    for (host, line, when_open) in [
        ("localhost", "X-Nothing: 1", 101),
        ("localhost", "Origin: https://evil.test", 403),
        ("localhost", "Origin: null", 403),
        // Anybody can make a name lead to loopback.
        ("test", "X-Nothing: 1", 403),
        ("test", "Origin: http://test", 403),
        ("test", "Origin: http://localhost", 403),
    ] {
        let status_of = async |cluster: &Cluster| {
            let request = handshake("/firehose/n", &[line]);
            let request = request.replace("Host: localhost", &format!("Host: {host}"));
            let mut raw = Raw::connect(cluster.controllers[0].address, None).await;
            raw.send(request.as_bytes()).await;
            raw.response().await.status
        };
        assert_eq!(status_of(&open).await, when_open, "{host}, {line}");
        assert_eq!(status_of(&disabled).await, 101, "{host}, {line}");
    }
    let address = open.controllers[0].address;
    let own = format!("Origin: ws://{address}");
    let request =
        handshake("/firehose/n", &[&own]).replace("Host: localhost", &format!("Host: {address}"));
    let mut raw = Raw::connect(address, None).await;
    raw.send(request.as_bytes()).await;
    assert_eq!(
        raw.response().await.status,
        101,
        "a tool that names where it connects to"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_too_many_is_answered_503_and_a_place_that_is_free_is_given_again() {
    let cluster = Cluster::builder()
        .controllers(1)
        .controller_flag("--max-streams", 2)
        .start()
        .await;
    let controller = &cluster.controllers[0];
    let first = Raw::websocket(controller.address, None, "/firehose/a", &[]).await;
    let app = format!("/apps/{}/stream", guid(1));
    let _second = Raw::websocket(controller.address, None, &app, &[]).await;
    let mut third = Raw::connect(controller.address, None).await;
    third.send(handshake("/firehose/b", &[]).as_bytes()).await;
    let refused = third.response().await;
    assert_eq!((refused.status, &refused.body[..]), (503, ""));
    assert_eq!(refused.header("content-length"), Some("0"));
    // Whoever does not speak WebSocket takes no place, and is told so first.
    third
        .send(b"GET /firehose/b HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(third.response().await.status, 400);
    drop(first);
    harness::eventually(SOON, "the place is free", async || {
        status(controller, "/firehose/b", &[]).await == 101
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_requests_in_one_write_are_answered_in_order() {
    let cluster = Cluster::builder().controllers(1).start().await;
    let mut raw = Raw::connect(cluster.controllers[0].address, None).await;
    raw.send(
        b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n\
          GET //b HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(raw.response().await.status, 404);
    assert_eq!(raw.response().await.header("location"), Some("/b"));
    raw.hung_up(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_one_line_of_the_security_log_and_none_forges_another() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("security_events.log");
    let mut cluster = Cluster::builder()
        .controllers(1)
        .tokens(tokens())
        .controller_flag("--security-event-log", path.display())
        .controller_flag("--ip", "10.0.16.4")
        .controller_flag("--trusted-proxies", "127.0.0.0/8")
        .start()
        .await;
    let controller = &cluster.controllers[0];
    let port = controller.address.port();
    let mut raw = Raw::connect(controller.address, None).await;
    let requests = [
        ("/nope", ""),
        ("//nope", ""),
        ("/firehose/x?", "X-Forwarded-For: 6.6.6.6, 192.0.2.9"),
        ("/firehose/%0aCEF:0%7Cforged%7C%20src=1.2.3.4", ""),
        ("/firehose/x", "X-Vcap-Request-ID: 1 src=1.2.3.4|CEF:0"),
        ("/set-cookie?CookieName=authorization&CookieValue=x", ""),
        (
            "/apps/my-app/stream",
            "X-Forwarded-For: nonsense dst=1.2.3.4",
        ),
    ];
    for (path, line) in requests {
        let line = if line.is_empty() {
            "X-Nothing: 1"
        } else {
            line
        };
        raw.send(handshake(path, &[line]).as_bytes()).await;
        raw.response().await;
    }
    let mut controller = cluster.controllers.remove(0);
    assert_eq!(controller.process.terminate(SOON).await, 0);
    let written = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines.len(), requests.len(), "{written}");
    for line in &lines {
        assert!(
            line.starts_with("CEF:0|cloud_foundry|loggregator_trafficcontroller|1.0|GET /"),
            "{line}"
        );
        assert_eq!(line.matches("CEF:0|").count(), 1, "{line}");
        assert_eq!(line.matches(" src=").count(), 1, "{line}");
        assert!(
            line.ends_with(&format!(" dst=10.0.16.4 dpt={port}")),
            "{line}"
        );
    }
    assert!(lines[0].contains("|GET /nope|GET /nope|0|rt="), "{written}");
    assert!(lines[0].contains(" request=/nope requestMethod=GET src=127.0.0.1 spt="));
    assert!(lines[2].contains(" src=192.0.2.9 spt= dst="), "{written}");
    assert!(lines[6].contains(" src=127.0.0.1 spt="), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_security_log_that_cannot_be_opened_is_a_reason_not_to_start() {
    let path = "/nowhere/to/be/found.log";
    let args = [
        "--security-event-log",
        path,
        "--port",
        "0",
        "--admin-port",
        "0",
    ];
    let program = harness::binaries::traffic_controller();
    let mut process = harness::process::Process::start("should not start", &program, args);
    assert_eq!(process.exit_code(SOON).await, 1);
    assert!(process.logged(path), "{:?}", process.log());
}

/// What a file holds, or nothing if there is none.
fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_at_any_level_has_a_token_or_a_payload() {
    let directory = tempfile::tempdir().unwrap();
    let security = directory.path().join("security_events.log");
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .tokens(tokens())
        .doppler_flag("--log", "trace")
        .controller_flag("--log", "trace")
        .controller_flag("--system-domain", "sys.example.com")
        .controller_flag("--security-event-log", security.display())
        .start()
        .await;
    let controller = &cluster.controllers[0];
    let (header, bare, query, cookie, planted) = (
        format!("Authorization: bearer {TOKEN}"),
        format!("Authorization: {TOKEN}-wrong"),
        format!("/firehose/n?access_token={TOKEN}"),
        format!("Cookie: authorization=bearer%20{TOKEN}"),
        format!("/set-cookie?CookieName=authorization&CookieValue=bearer%20{TOKEN}"),
    );
    for (path, line) in [
        ("/firehose/n", &header[..]),
        ("/firehose/n", &bare),
        ("/apps/my-app/stream", &header),
        (&query, "X-Nothing: 1"),
        (&query, &cookie),
        (&planted, &header),
        ("//firehose/n", &header),
    ] {
        status(controller, path, &[line]).await;
    }
    // What goes through as envelopes: a firehose and a tail of text that is easily found.
    let reader = controller.firehose("m").token(TOKEN).open().await;
    let tail = controller.tail(1).token(TOKEN).open().await;
    cluster.subscribed("m", 1).await;
    cluster.tailed([1], 1).await;
    let mut producer = cluster.dopplers[0].producer(0, Workload::logs(2, 50)).await;
    producer.send(100).await;
    reader.receives(100, SOON).await;
    let own = (0..100)
        .filter(|n| producer.workload().app(*n) == 1)
        .count();
    tail.receives(own as u64, SOON).await;
    // A log line is a mark and dots: as text, or as bytes in a list.
    let payload = [
        ".".repeat(20),
        "46, 46, 46".to_owned(),
        "2e2e2e2e".to_owned(),
    ];
    for process in [&controller.process, &cluster.dopplers[0].process] {
        let log = process.log().join("\n");
        assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
        for secret in payload.iter().map(String::as_str).chain([TOKEN]) {
            let said = log.lines().find(|line| line.contains(secret));
            assert_eq!(said, None, "{}", process.name());
        }
    }
    drop(cluster);
    let log = text(&security);
    assert!(log.contains("/firehose/n") && !log.contains(TOKEN), "{log}");
}
