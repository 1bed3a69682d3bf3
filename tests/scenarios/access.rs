//! Who may read what, and what a refusal looks like: byte for byte as upstream's.

use crate::SOON;
use harness::binaries;
use harness::certs::Certs;
use harness::cluster::Cluster;
use harness::envelopes::{Workload, guid};
use harness::process::Process;
use harness::raw::{Raw, Response, handshake};

fn tokens() -> String {
    format!(
        "- {{token: all-the-firehose, firehose: true}}\n\
         - {{token: one-app, apps: [{}]}}\n\
         - {{token: everything, firehose: true, apps: all}}\n",
        guid(1)
    )
}

async fn ask(raw: &mut Raw, path: &str, line: Option<&str>) -> Response {
    raw.send(handshake(path, line.as_slice()).as_bytes()).await;
    raw.response().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_upstreams_to_the_byte_and_leaves_the_connection_open() {
    let cluster = Cluster::builder()
        .controllers(1)
        .tokens(tokens())
        .start()
        .await;
    let address = cluster.controllers[0].address;
    let (mine, other) = (
        format!("/apps/{}/stream", guid(1)),
        format!("/apps/{}/stream", guid(2)),
    );
    let (none, bad) = (
        "You are not authorized. authorization not provided",
        "You are not authorized. invalid authorization",
    );
    // One connection for all: a 401 does not end it.
    let mut raw = Raw::connect(address, None).await;
    for (path, line, status, authenticate, body) in [
        ("/firehose/n", None, 401, Some("Basic"), none),
        (
            "/firehose/n",
            Some("Authorization:"),
            401,
            Some("Basic"),
            none,
        ),
        (
            "/firehose/n",
            Some("Authorization: bearer nonsense"),
            401,
            Some("Basic"),
            bad,
        ),
        (
            "/firehose/n",
            Some("Authorization: bearer one-app"),
            401,
            Some("Basic"),
            bad,
        ),
        (
            "/firehose/n",
            Some("Authorization: bearer all-the-firehose2"),
            401,
            Some("Basic"),
            bad,
        ),
        (&mine, None, 401, Some("Basic"), ""),
        (
            &mine,
            Some("Authorization: bearer nonsense"),
            401,
            Some("Basic"),
            "",
        ),
        // Somebody else's app, and one that does not exist, look alike.
        (&other, Some("Authorization: bearer one-app"), 404, None, ""),
        (
            &mine,
            Some("Authorization: bearer all-the-firehose"),
            404,
            None,
            "",
        ),
        // Before the token is looked at.
        ("/apps/not-a-guid/stream", None, 401, None, ""),
        (
            "/apps/not-a-guid/stream",
            Some("Authorization: bearer everything"),
            401,
            None,
            "",
        ),
    ] {
        let response = ask(&mut raw, path, line).await;
        assert_eq!(response.status, status, "{path} {line:?}");
        assert_eq!(
            response.header("www-authenticate"),
            authenticate,
            "{path} {line:?}"
        );
        assert_eq!(response.body, body, "{path} {line:?}");
        let length = body.len().to_string();
        assert_eq!(
            response.header("content-length"),
            Some(&length[..]),
            "{path} {line:?}"
        );
        if !body.is_empty() {
            assert_eq!(
                response.header("content-type"),
                Some("text/plain; charset=utf-8")
            );
        }
    }
    // A stream that is refused is refused before it is looked at as a handshake.
    raw.send(b"GET /firehose/n HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(raw.response().await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_token_reads_what_it_may_however_it_is_spelled() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .tokens(tokens())
        .start()
        .await;
    let controller = &cluster.controllers[0];
    let firehose = controller
        .firehose("n")
        .token("all-the-firehose")
        .open()
        .await;
    let shouted = controller
        .firehose("m")
        .header("authorization", "BEARER everything")
        .open()
        .await;
    let bare = controller
        .firehose("o")
        .header("authorization", "everything")
        .open()
        .await;
    let tail = controller.tail(1).token("one-app").open().await;
    for id in ["n", "m", "o"] {
        cluster.subscribed(id, 1).await;
    }
    cluster.tailed([1], 1).await;
    assert_eq!(
        controller
            .tail(2)
            .token("one-app")
            .try_open()
            .await
            .err()
            .map(|refused| refused.status),
        Some(404)
    );
    let mut producer = cluster.dopplers[0].producer(0, Workload::logs(2, 50)).await;
    producer.send(1_000).await;
    for reader in [&firehose, &shouted, &bare] {
        reader.receives(1_000, SOON).await;
        reader.seen().assert_complete("a firehose", 1_000);
    }
    let sent = (0..1_000)
        .filter(|n| producer.workload().app(*n) == 1)
        .count() as u64;
    tail.receives(sent, SOON).await;
    tail.seen().assert_complete("the tail", sent);
    assert_eq!(
        controller
            .metrics()
            .await
            .sum("traffic_controller_access_control_disabled", &[]),
        0.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_access_control_it_says_so() {
    let cluster = Cluster::builder().controllers(1).start().await;
    let controller = &cluster.controllers[0];
    assert!(controller.process.logged("access control is off"));
    assert_eq!(
        controller
            .metrics()
            .await
            .sum("traffic_controller_access_control_disabled", &[]),
        1.0
    );
}

/// Starts a program that should not start; returns what it says.
async fn refuses(program: &std::path::Path, args: &[&str]) -> String {
    let mut process = Process::start("should not start", program, args);
    let code = process.exit_code(SOON).await;
    let log = process.log().join("\n");
    assert!(code == 1 || code == 2, "{args:?}: {code} {log}");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_outside_of_loopback_refuses_to_start() {
    let (doppler, controller) = (binaries::doppler(), binaries::traffic_controller());
    for program in [&doppler, &controller] {
        let said = refuses(
            program,
            &["--address", "0.0.0.0", "--port", "0", "--admin-port", "0"],
        )
        .await;
        assert!(
            said.contains("plain text on 0.0.0.0") && said.contains("127.0.0.1"),
            "{said}"
        );
        let said = refuses(
            program,
            &["--address", "::", "--port", "0", "--admin-port", "0"],
        )
        .await;
        assert!(said.contains("plain text on"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_access_control_outside_of_loopback_refuses_to_start() {
    let certs = Certs::new();
    let pair = certs.pair("localhost");
    let (cert, key) = (pair.cert.to_str().unwrap(), pair.key.to_str().unwrap());
    let args = [
        "--outgoing-cert-file",
        cert,
        "--outgoing-key-file",
        key,
        "--port",
        "0",
        "--admin-port",
        "0",
    ];
    let said = refuses(&binaries::traffic_controller(), &args).await;
    assert!(
        said.contains("--tokens-file") && said.contains("127.0.0.1"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_or_certificate_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens.yml");
    let path = tokens.to_str().unwrap();
    let args = ["--tokens-file", path, "--port", "0", "--admin-port", "0"];
    let program = binaries::traffic_controller();
    let said = refuses(&program, &args).await;
    assert!(said.contains(path) && said.contains("read"), "{said}");
    for (text, says) in [
        ("- {token: hush, firehos: true}", "line 1"),
        ("- {token: hush, apps: [x]}", "entry 1"),
        ("- {token: hush}", "entry 1"),
        (
            "- {token: hush, firehose: true}\n- {token: hush, apps: all}",
            "entry 2",
        ),
    ] {
        std::fs::write(&tokens, text).unwrap();
        let said = refuses(&program, &args).await;
        assert!(said.contains(path) && said.contains(says), "{said}");
        assert!(!said.contains("hush"), "a token in the log: {said}");
    }
    let args = [
        "--cert-file",
        path,
        "--key-file",
        path,
        "--ca-file",
        path,
        "--port",
        "0",
        "--admin-port",
        "0",
    ];
    let said = refuses(&binaries::doppler(), &args).await;
    assert!(said.contains(path), "{said}");
}
