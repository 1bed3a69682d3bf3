//! The admin listener over real sockets, and log lines of a real process.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use transport::listener;
use transport::shutdown::Drain;
use transport::telemetry::{
    ADMIN_CONNECTIONS, Admin, LogError, Metrics, Readiness, flush_log, log_to_stderr,
};

struct Running {
    address: SocketAddr,
    ready: Readiness,
    drain: Drain,
}

fn start() -> Running {
    let listener = listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let ready = Readiness::new();
    let drain = Drain::new();
    let admin = Admin::new(Metrics::install().unwrap(), ready.clone())
        .page("/subscriptions", Box::new(|| r#"{"firehoses":[]}"#.into()));
    let shutdown = drain.shutdown();
    drain
        .shutdown()
        .spawn(async move { admin.serve(listener, &shutdown).await });
    Running {
        address,
        ready,
        drain,
    }
}

/// The whole response to one request.
async fn ask(address: SocketAddr, method: &str, path: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    tcp.read_to_string(&mut response).await.unwrap();
    response
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, "GET", path).await
}

#[tokio::test]
async fn a_process_is_live_at_once_and_ready_when_it_says_so() {
    let admin = start();
    let live = get(admin.address, "/health/live").await;
    assert!(live.starts_with("HTTP/1.1 200 OK\r\n"), "{live}");
    assert!(live.ends_with("\r\n\r\nok\n"), "{live}");
    let status = async || get(admin.address, "/health/ready").await[9..12].to_owned();
    assert_eq!(status().await, "503");
    admin.ready.set(true);
    assert_eq!(status().await, "200");
    admin.ready.set(false);
    assert_eq!(status().await, "503");
}

#[tokio::test]
async fn metrics_are_prometheus_text_and_shared_by_all_servers_of_a_process() {
    let (one, other) = (start(), start());
    metrics::counter!("seen_by_both_total").increment(3);
    metrics::histogram!("wait_seconds").record(0.02);
    for address in [one.address, other.address] {
        let text = get(address, "/metrics").await;
        assert!(
            text.contains("content-type: text/plain; version=0.0.4"),
            "{text}"
        );
        assert!(text.contains("\nseen_by_both_total 3\n"), "{text}");
        assert!(
            text.contains("wait_seconds_bucket{le=\"0.025\"} 1"),
            "{text}"
        );
    }
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn metrics_show_the_process() {
    let text = get(start().address, "/metrics").await;
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value: f64 = value
            .unwrap_or_else(|| panic!("no {name}"))
            .parse()
            .unwrap();
        assert!(value >= 0.0);
        assert!(text.contains(&format!("\n# TYPE {name} ")), "{text}");
    }
}

#[tokio::test]
async fn a_page_of_the_server_is_json() {
    let page = get(start().address, "/subscriptions?pretty").await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(
        page.contains("content-type: application/json\r\n"),
        "{page}"
    );
    assert!(page.ends_with("\r\n\r\n{\"firehoses\":[]}"), "{page}");
}

#[tokio::test]
async fn another_path_is_told_which_there_are() {
    let lost = get(start().address, "/").await;
    assert!(lost.starts_with("HTTP/1.1 404 "), "{lost}");
    for path in [
        "/health/live",
        "/health/ready",
        "/metrics",
        "/subscriptions",
    ] {
        assert!(lost.contains(&format!("\n{path}\n")), "{lost}");
    }
}

#[tokio::test]
async fn nothing_can_be_changed() {
    let admin = start();
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = ask(admin.address, method, "/metrics").await;
        assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
        assert!(refused.contains("allow: GET, HEAD\r\n"), "{refused}");
    }
    let head = ask(admin.address, "HEAD", "/subscriptions").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn the_seventeenth_connection_is_closed() {
    let admin = start();
    let mut open = Vec::new();
    for _ in 0..ADMIN_CONNECTIONS {
        open.push(TcpStream::connect(admin.address).await.unwrap());
    }
    let mut next = TcpStream::connect(admin.address).await.unwrap();
    assert_eq!(next.read(&mut [0]).await.unwrap(), 0);
    // The others are still served.
    let first = &mut open[0];
    first
        .write_all(b"GET /health/live HTTP/1.1\r\nhost: admin\r\n\r\n")
        .await
        .unwrap();
    let mut status = [0; 15];
    first.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200 OK");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_in_five_seconds_ends_the_connection() {
    let admin = start();
    for start in ["", "GET /metr"] {
        let mut slow = TcpStream::connect(admin.address).await.unwrap();
        slow.write_all(start.as_bytes()).await.unwrap();
        let begun = Instant::now();
        let mut response = String::new();
        slow.read_to_string(&mut response).await.unwrap();
        let seconds = begun.elapsed().as_secs_f64();
        assert!((4.9..5.5).contains(&seconds), "{start:?}: {seconds} s");
    }
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let admin = start();
    let mut idle = TcpStream::connect(admin.address).await.unwrap();
    idle.write_all(b"GET /health/live HTTP/1.1\r\nhost: admin\r\n\r\n")
        .await
        .unwrap();
    idle.read_exact(&mut [0; 15]).await.unwrap();
    let begun = std::time::Instant::now();
    admin.drain.begin();
    admin.drain.wait(Duration::from_secs(20)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_filter_that_is_none_is_named() {
    let error = log_to_stderr("info,doppler=loud", false).unwrap_err();
    assert!(matches!(error, LogError::Filter { .. }));
    assert!(error.to_string().contains("doppler=loud"), "{error}");
}

/// Run by the test below in a process of its own, because a log is for a whole process.
#[test]
#[ignore = "only as a child of log_lines_go_to_stderr"]
fn child() {
    let json = std::env::var_os("CHILD_LOGS_JSON").is_some();
    log_to_stderr("warn,telemetry=info", json).unwrap();
    assert!(matches!(log_to_stderr("info", json), Err(LogError::Taken)));
    tracing::info!(listener = "grpc", "bound");
    tracing::debug!("not this");
    tracing::info!(target: "somebody", "nor this");
    flush_log();
}

#[test]
fn log_lines_go_to_stderr() {
    let child = |json: bool| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--ignored", "--nocapture"]);
        if json {
            command.env("CHILD_LOGS_JSON", "1");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<_> = stderr
            .lines()
            .filter(|line| line.contains("bound"))
            .collect();
        assert_eq!(lines.len(), 1, "{stderr}");
        assert!(!stderr.contains("this"), "{stderr}");
        lines[0].to_owned()
    };
    let text = child(false);
    assert!(
        text.contains("INFO telemetry: bound listener=\"grpc\""),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&child(true)).unwrap();
    assert_eq!(json["level"], "INFO");
    assert_eq!(json["fields"]["listener"], "grpc");
}
