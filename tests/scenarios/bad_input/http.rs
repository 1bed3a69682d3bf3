//! What should not knock at the two doors that speak HTTP/1.1.

use super::{Canary, counted, wrongs};
use harness::cluster::Cluster;
use harness::fake::PROTOCOL;
use harness::raw::{KEY, Raw, Response, handshake};
use std::net::SocketAddr;
use std::time::Duration;

/// How long a head may take is 2 s; a machine may be busy.
const SLOW: std::ops::Range<Duration> = Duration::from_millis(1_500)..Duration::from_secs(6);

async fn ask(address: SocketAddr, request: &str) -> Response {
    let mut raw = Raw::connect(address, None).await;
    raw.send(request.as_bytes()).await;
    raw.response().await
}

/// The two doors: the Traffic Controller's and the Doppler's, each with a path that is good, the
/// header lines it asks for, and its admin listener.
fn doors(cluster: &Cluster) -> [(&'static str, SocketAddr, SocketAddr, String); 2] {
    let (controller, doppler) = (&cluster.controllers[0], &cluster.dopplers[0]);
    [
        (
            "traffic controller",
            controller.address,
            controller.admin,
            "X-Nothing: 1".to_owned(),
        ),
        (
            "doppler",
            doppler.address,
            doppler.admin,
            format!("Sec-WebSocket-Protocol: {PROTOCOL}"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_no_handshake_is_told_what_is_missing() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let canary = Canary::beside(&cluster).await;
    for (door, address, admin, line) in doors(&cluster) {
        let good = handshake("/firehose/x", &[&line]);
        let before = wrongs(admin).await;
        let cases = [
            (
                good.replace("Connection: Upgrade\r\n", ""),
                400,
                "Connection",
            ),
            (good.replace("Upgrade: websocket\r\n", ""), 400, "Upgrade"),
            (good.replace("Version: 13", "Version: 8"), 400, "13"),
            (
                good.replace("Sec-WebSocket-Version: 13\r\n", ""),
                400,
                "Sec-WebSocket-Version",
            ),
            (good.replace(KEY, "c2hvcnQ="), 400, "Sec-WebSocket-Key"),
            (
                good.replace(KEY, "not base64 at all!!!!!=="),
                400,
                "Sec-WebSocket-Key",
            ),
            (
                good.replace(
                    &format!("Key: {KEY}"),
                    &format!("Key: {KEY}\r\nSec-WebSocket-Key: {KEY}"),
                ),
                400,
                "once",
            ),
            (good.replace("GET", "POST"), 405, "GET"),
            (good.replace("GET", "BREW"), 405, "GET"),
            (good.replace("HTTP/1.1", "HTTP/1.0"), 400, "HTTP/1.1"),
            (good.replace("/firehose/x", "/firehose/%zz"), 400, "%"),
            (
                good.replace("/firehose/x", &format!("/firehose/{}", "x".repeat(257))),
                400,
                "256",
            ),
            (good.replace("/firehose/x", "/firehose/x/"), 404, ""),
            (good.replace("/firehose/x", "/nonsense"), 404, ""),
            (good.replace("/firehose/x", "/"), 404, ""),
        ];
        let count = cases.len();
        for (request, status, says) in cases {
            let response = ask(address, &request).await;
            assert_eq!(response.status, status, "{door}: {request}{response:?}");
            assert!(
                response.body.contains(says),
                "{door}: {says:?} should be in {response:?}"
            );
        }
        let version = ask(address, &good.replace("Version: 13", "Version: 8")).await;
        assert_eq!(
            version.header("sec-websocket-version"),
            Some("13"),
            "{door}"
        );
        let method = ask(address, &good.replace("GET", "POST")).await;
        assert_eq!(method.header("allow"), Some("GET"), "{door}");
        counted(admin, before, count).await;
        assert_eq!(ask(address, &good).await.status, 101, "{door}: {good}");
    }
    canary.sings().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_at_the_traffic_controller_is_answered_as_upstream_does() {
    let cluster = Cluster::builder().controllers(1).start().await;
    for path in [
        "/nonsense",
        "/firehose",
        "/firehose/",
        "/Firehose/x",
        "/apps/x",
        "/recent?app=x",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let response = ask(cluster.controllers[0].address, &request).await;
            assert_eq!(
                (response.status, &response.body[..]),
                (404, "404 page not found\n"),
                "{path}"
            );
            assert_eq!(
                response.header("content-type"),
                Some("text/plain; charset=utf-8")
            );
            assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_asks_a_doppler_on_its_readers_machine_is_refused() {
    let cluster = Cluster::builder().dopplers(1).start().await;
    let address = cluster.dopplers[0].address;
    let protocol = format!("Sec-WebSocket-Protocol: {PROTOCOL}");
    for path in ["/apps", "/firehose/evil"] {
        for origin in ["https://evil.example", "null"] {
            let origin = format!("Origin: {origin}");
            let response = ask(address, &handshake(path, &[&protocol, &origin])).await;
            assert_eq!(response.status, 403, "{path} {origin}");
        }
        let link = ask(address, &handshake(path, &[&protocol])).await;
        assert_eq!(link.status, 101, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_without_its_subprotocol_is_refused_by_the_doppler() {
    let cluster = Cluster::builder().dopplers(1).start().await;
    let doppler = &cluster.dopplers[0];
    let before = wrongs(doppler.admin).await;
    for line in [
        "X-Nothing: 1",
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Protocol: loggregator.link.v0",
    ] {
        let response = ask(doppler.address, &handshake("/apps", &[line])).await;
        assert_eq!(response.status, 400);
        assert!(response.body.contains(PROTOCOL), "{response:?}");
    }
    counted(doppler.admin, before, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_giant_head_is_refused() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let canary = Canary::beside(&cluster).await;
    for (door, address, _, line) in doors(&cluster) {
        let long = format!("X-Long: {}", "x".repeat(20 << 10));
        let many: Vec<String> = (0..200).map(|n| format!("X-Many-{n}: {n}")).collect();
        let many: Vec<&str> = many.iter().map(|line| &line[..]).collect();
        let path = format!("/firehose/{}", "x".repeat(100 << 10));
        for request in [
            handshake("/firehose/x", &[&line, &long]),
            handshake("/firehose/x", &[&[&line[..]], &many[..]].concat()),
            handshake(&path, &[&line]),
        ] {
            let response = ask(address, &request).await;
            assert!(
                [431, 414].contains(&response.status),
                "{door}: {response:?}"
            );
        }
        // One that never ends is cut off, and does not fill memory meanwhile.
        let mut raw = Raw::connect(address, None).await;
        raw.send(b"GET /firehose/x HTTP/1.1\r\nX-Long: ").await;
        let filler = [b'x'; 64 << 10];
        let mut sent = 0;
        while sent < 64 << 20 && raw.send(&filler).await {
            sent += filler.len();
        }
        assert!(sent < 64 << 20, "{door} took {sent} bytes of a head");
    }
    for process in [
        &cluster.dopplers[0].process,
        &cluster.controllers[0].process,
    ] {
        let peak = process.usage().peak_resident >> 20;
        assert!(peak < 64, "{} took {peak} MiB", process.name());
    }
    canary.sings().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_is_waited_for_two_seconds() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let canary = Canary::beside(&cluster).await;
    let mut waits = Vec::new();
    for (door, address, _, _) in doors(&cluster) {
        for start in [
            "",
            "G",
            "GET /firehose/x HTTP/1.1\r\nHost: localhost\r\n",
            "PRI * HT",
        ] {
            waits.push(tokio::spawn(async move {
                let mut raw = Raw::connect(address, None).await;
                raw.send(start.as_bytes()).await;
                let (said, after) = raw.hung_up(Duration::from_secs(10)).await;
                assert!(SLOW.contains(&after), "{door}, after {start:?}: {after:?}");
                assert!(
                    said.is_empty() || said.contains("408"),
                    "{door}, after {start:?}: {said:?}"
                );
            }));
        }
        // A byte now and then gains nothing: the limit is absolute.
        waits.push(tokio::spawn(async move {
            let mut raw = Raw::connect(address, None).await;
            let began = std::time::Instant::now();
            let request = handshake("/firehose/x", &[]);
            for byte in request.bytes().cycle().take(100) {
                if !raw.send(&[byte]).await {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert!(
                SLOW.contains(&began.elapsed()),
                "{door}: {:?}",
                began.elapsed()
            );
        }));
    }
    for wait in waits {
        wait.await.unwrap();
    }
    canary.sings().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_hung_up_on() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let canary = Canary::beside(&cluster).await;
    for (door, address, _, _) in doors(&cluster) {
        // A TLS ClientHello, noise, a line without sense, HTTP/2 without agreement.
        for start in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            &[0; 512],
            b"HELO there\r\n\r\n",
        ] {
            let mut raw = Raw::connect(address, None).await;
            raw.send(start).await;
            let (said, _) = raw.hung_up(Duration::from_secs(10)).await;
            assert!(
                said.is_empty() || said.contains(" 400 "),
                "{door}: {said:?}"
            );
        }
    }
    canary.sings().await;
}
