//! Plain sockets, accept loops and dialling. TLS is in `tls.rs`.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use transport::listener::{self, Acceptor, Buffers, DialError, Dialer, Stream};
use transport::shutdown::Drain;
use transport::telemetry::{Metrics, log_to_stderr};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const LONG: Duration = Duration::from_secs(20); // the machine may be busy

fn local() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// The two ends of a new connection: what dialled, and what `Acceptor` made of it.
async fn pair() -> (TcpStream, Stream) {
    let listener = listener::bind(local()).unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    let (tcp, peer) = accepted.unwrap();
    let stream = Acceptor::new(None).accept(tcp, peer).await.unwrap();
    (dialled.unwrap(), stream)
}

#[tokio::test]
async fn a_whole_preface_is_http2_and_stays_to_be_read() {
    let (mut client, mut stream) = pair().await;
    client.write_all(PREFACE).await.unwrap();
    assert!(stream.speaks_http2(LONG).await.unwrap());
    let mut start = [0; PREFACE.len()];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(start, PREFACE);
}

#[tokio::test(start_paused = true)]
async fn a_preface_byte_by_byte_is_http2() {
    let (mut client, stream) = pair().await;
    client.set_nodelay(true).unwrap();
    let write = async {
        for byte in PREFACE {
            client.write_u8(*byte).await.unwrap();
            // Paused time: this lets the other side see each byte by itself.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (http2, ()) = tokio::join!(stream.speaks_http2(Duration::from_secs(2)), write);
    assert!(http2.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preface_in_pieces_is_http2_whenever_they_come() {
    for _ in 0..200 {
        let (mut client, stream) = pair().await;
        client.set_nodelay(true).unwrap();
        let write = tokio::spawn(async move {
            for byte in PREFACE {
                client.write_u8(*byte).await.unwrap();
            }
            client
        });
        assert!(stream.speaks_http2(LONG).await.unwrap());
        write.await.unwrap();
    }
}

#[tokio::test]
async fn http1_is_told_by_the_first_byte_that_differs() {
    for start in [
        "G",
        "PU",
        "PRO",
        "\0",
        "PRI * HTTP/1",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        let (mut client, stream) = pair().await;
        client.write_all(start.as_bytes()).await.unwrap();
        let http2 = stream.speaks_http2(LONG).await.unwrap();
        assert!(!http2, "{start:?}");
    }
}

#[tokio::test]
async fn a_preface_that_ends_early_is_not_http2() {
    for start in ["", "P", "PRI * HTTP"] {
        let (mut client, stream) = pair().await;
        client.write_all(start.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let http2 = stream.speaks_http2(LONG).await.unwrap();
        assert!(!http2, "{start:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_say_what_he_speaks_has_two_seconds() {
    for start in ["", "PRI *"] {
        let (mut client, stream) = pair().await;
        client.write_all(start.as_bytes()).await.unwrap();
        let begun = Instant::now();
        let error = stream.speaks_http2(listener::HANDSHAKE).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{start:?}");
        assert_eq!(begun.elapsed().as_secs(), 2, "{start:?}");
    }
}

#[tokio::test]
async fn every_socket_is_tuned_on_both_sides() {
    let listener = listener::bind(local()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let buffers = Buffers {
        send: Some(64 * 1024),
        receive: Some(32 * 1024),
    };
    let mut acceptor = Acceptor::new(None);
    acceptor.buffers = buffers;
    let mut dialer = Dialer::new(None, LONG);
    dialer.buffers = buffers;
    let accept = async {
        let (tcp, peer) = listener.accept().await.unwrap();
        acceptor.accept(tcp, peer).await.unwrap()
    };
    let (accepted, dialled) = tokio::join!(accept, dialer.dial(&address));
    for (stream, user_timeout) in [
        (accepted, listener::USER_TIMEOUT),
        (dialled.unwrap(), listener::DIALLED_TIMEOUT),
    ] {
        let Stream::Plain(tcp) = &stream else {
            panic!("nobody asked for TLS");
        };
        let socket = SockRef::from(tcp);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(user_timeout));
        assert_eq!(socket.send_buffer_size().unwrap(), 2 * 64 * 1024);
        assert_eq!(socket.recv_buffer_size().unwrap(), 2 * 32 * 1024);
    }
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let first = listener::bind(local()).unwrap();
    let address = first.local_addr().unwrap();
    let error = listener::bind(address).unwrap_err();
    assert_eq!(error.source.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

/// The value of one line of the metrics.
fn metric(line: &str) -> Option<f64> {
    let text = Metrics::install().unwrap().render();
    let value = text.lines().find_map(|l| l.strip_prefix(line));
    value.map(|value| value.trim().parse().unwrap())
}

/// Waits for a place to be given back, which happens after the client could know of it.
async fn until(condition: impl Fn() -> bool) {
    let turns = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, turns).await.unwrap();
}

#[tokio::test]
async fn the_newest_beyond_the_cap_is_closed_and_counted() {
    Metrics::install().unwrap();
    let listener = listener::bind(local()).unwrap();
    let address = listener.local_addr().unwrap();
    let drain = Drain::new();
    let shutdown = drain.shutdown();
    let (entered, mut seen) = mpsc::channel(8);
    let loops = tokio::spawn(async move {
        listener::serve(listener, "capped", 2, &shutdown, |mut tcp, peer| {
            let entered = entered.clone();
            async move {
                entered.send(peer).await.unwrap();
                _ = tcp.read(&mut [0]).await; // until the client leaves
            }
        })
        .await;
    });
    let open = || metric("connections_open{listener=\"capped\"}").unwrap_or(0.0);

    let mut first = TcpStream::connect(address).await.unwrap();
    let second = TcpStream::connect(address).await.unwrap();
    for client in [&first, &second] {
        assert_eq!(seen.recv().await.unwrap(), client.local_addr().unwrap());
    }
    let mut third = TcpStream::connect(address).await.unwrap();
    assert_eq!(third.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(
        metric("connections_refused_total{listener=\"capped\"}"),
        Some(1.0)
    );
    assert_eq!(open(), 2.0);

    first.shutdown().await.unwrap();
    until(|| open() < 2.0).await;
    let fourth = TcpStream::connect(address).await.unwrap();
    assert_eq!(seen.recv().await.unwrap(), fourth.local_addr().unwrap());
    assert_eq!(
        metric("connections_accepted_total{listener=\"capped\"}"),
        Some(3.0)
    );

    drain.begin();
    loops.await.unwrap();
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    drop((second, fourth));
    drain.wait(LONG).await.unwrap();
    assert_eq!(open(), 0.0);
}

#[tokio::test]
async fn a_connection_that_panics_gives_its_place_back() {
    Metrics::install().unwrap();
    let listener = listener::bind(local()).unwrap();
    let address = listener.local_addr().unwrap();
    let drain = Drain::new();
    let shutdown = drain.shutdown();
    let (entered, mut seen) = mpsc::channel(1);
    tokio::spawn(async move {
        listener::serve(listener, "panics", 1, &shutdown, |mut tcp, _| {
            let entered = entered.clone();
            async move {
                entered.send(()).await.unwrap();
                tcp.read_u8().await.unwrap(); // panics when the client leaves
            }
        })
        .await;
    });
    for _ in 0..3 {
        let client = TcpStream::connect(address).await.unwrap();
        seen.recv().await.unwrap();
        drop(client);
        until(|| metric("connections_open{listener=\"panics\"}") == Some(0.0)).await;
    }
}

#[tokio::test]
async fn the_drain_waits_for_connections() {
    let listener = listener::bind(local()).unwrap();
    let address = listener.local_addr().unwrap();
    let drain = Drain::new();
    let shutdown = drain.shutdown();
    let connection = shutdown.clone();
    let (entered, mut seen) = mpsc::channel(1);
    shutdown.clone().spawn(async move {
        listener::serve(listener, "drains", 1, &shutdown, |mut tcp, _| {
            let (entered, shutdown) = (entered.clone(), connection.clone());
            async move {
                entered.send(()).await.unwrap();
                shutdown.begun().await;
                tcp.write_all(b"goodbye").await.unwrap();
            }
        })
        .await;
    });
    let mut client = TcpStream::connect(address).await.unwrap();
    seen.recv().await.unwrap();
    drain.begin();
    drain.wait(LONG).await.unwrap();
    let mut heard = String::new();
    client.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "goodbye");
}

#[tokio::test]
async fn dialling_tries_every_address_of_a_name() {
    // `localhost` is ::1 and 127.0.0.1 on most machines; only one of them listens.
    let listener = listener::bind(local()).unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let stream = Dialer::new(None, LONG).dial(&address).await.unwrap();
    assert_eq!(stream.peer().unwrap(), listener.local_addr().unwrap());
    assert_eq!(stream.alpn(), None);
    assert!(stream.certificates().is_empty());
}

#[tokio::test]
async fn a_failed_dial_names_its_step_and_address() {
    let dialer = Dialer::new(None, LONG);
    let error = dialer.dial("doppler").await.unwrap_err();
    assert!(matches!(error, DialError::Resolve { .. }), "{error:?}");
    assert!(error.to_string().contains("resolve doppler"), "{error}");

    let closed = TcpListener::bind(local()).await.unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    let error = dialer.dial(&address).await.unwrap_err();
    let DialError::Connect { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), ErrorKind::ConnectionRefused);
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn a_dial_that_is_not_answered_ends_at_its_deadline() {
    // A full backlog: the kernel drops further SYNs, so `connect` waits.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&local().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _fills_it = TcpStream::connect(address).await.unwrap();

    tokio::time::pause();
    let dialer = Dialer::new(None, Duration::from_secs(5));
    let error = dialer.dial(&address.to_string()).await.unwrap_err();
    let DialError::Connect { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), ErrorKind::TimedOut);
}

/// Run by the test below in a process of its own, with few files.
#[tokio::test]
#[ignore = "only as a child of an_accept_loop_outlives_running_out_of_files"]
async fn child() {
    if std::env::var_os("FEW_FILES").is_none() {
        return; // somebody runs all ignored tests
    }
    log_to_stderr("info", false).unwrap();
    Metrics::install().unwrap();
    let listener = listener::bind(local()).unwrap();
    let address = listener.local_addr().unwrap();
    // The kernel connects them before anybody accepts, so the server has no file left.
    let mut clients = Vec::new();
    while let Ok(client) = std::net::TcpStream::connect(address) {
        clients.push(client);
    }
    let drain = Drain::new();
    let shutdown = drain.shutdown();
    tokio::spawn(async move {
        listener::serve(listener, "poor", 1000, &shutdown, |mut tcp, _| async move {
            _ = tcp.write_all(b"hello").await;
        })
        .await;
    });
    until(|| metric("accept_errors_total{listener=\"poor\"}") >= Some(3.0)).await;
    clients.truncate(clients.len() / 2);
    let mut late = TcpStream::connect(address).await.unwrap();
    let mut heard = String::new();
    timeout(LONG, late.read_to_string(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(heard, "hello");
}

#[test]
#[cfg(target_os = "linux")]
fn an_accept_loop_outlives_running_out_of_files() {
    let output = std::process::Command::new("sh")
        .arg("-c")
        .arg("ulimit -n 60 && exec \"$0\" --exact child --ignored --nocapture")
        .arg(std::env::current_exe().unwrap())
        .env("FEW_FILES", "60")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stderr.matches("cannot accept").count(), 1, "{stderr}");
}
