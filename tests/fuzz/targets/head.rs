//! The head of a request, at the public door of a Traffic Controller.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use traffic_controller::access::{Access, Tokens};
use traffic_controller::front::{Edge, Front, Leaving, connection};
use traffic_controller::metrics::Metrics;
use traffic_controller::streams::Streams;
use traffic_controller::topics::Topics;
use transport::listener::Acceptor;
use transport::reload::Reloaded;
use transport::shutdown::Drain;

/// What nobody who guesses will ever say: the fuzzer sees no part of it, since only its hash is
/// compared.
const TOKEN: &str = "q7Jd0Zr3-only-this-file-knows-it";

/// Every answer the door has for a stranger. A 101 or a 500 is none of them.
const ANSWERS: [u16; 9] = [200, 301, 400, 401, 403, 404, 405, 413, 431];

/// Whatever somebody without a token sends: answers from the list, nobody's logs.
pub(super) fn request(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let told = runtime.block_on(told(bytes));
    let text = String::from_utf8_lossy(&told);
    assert_eq!(text.is_empty(), !text.starts_with("HTTP/1."), "{text}");
    let status = text
        .split_once(' ')
        .and_then(|(_, rest)| rest.get(..3)?.parse().ok());
    if let Some(status) = status {
        assert!(ANSWERS.contains(&status), "{text}");
        // Of what stands behind it, the next answer may be a part.
        assert!(!text.contains("\r\nHTTP/1.1 101 "), "{text}");
        assert!(!text.contains("\r\nUpgrade: "), "{text}");
    }
}

async fn told(bytes: &[u8]) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(somewhere()).unwrap();
    let client = socket.connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let (mut client, (server, peer)) = (client.unwrap(), accepted.unwrap());
    let served = connection::serve(Acceptor::new(None), front(), server, peer);
    let asked = async {
        // It may have heard enough before the end.
        let _: std::io::Result<()> = client.write_all(bytes).await;
        let _: std::io::Result<()> = client.shutdown().await;
        let mut told = Vec::new();
        let _: std::io::Result<usize> = client.read_to_end(&mut told).await;
        told
    };
    tokio::join!(served, asked).1
}

/// An address of our own, another one each time: a port that was closed is not free for a minute.
fn somewhere() -> SocketAddr {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let [_, a, b, _] = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    (Ipv4Addr::new(127, 1 + a, b, 1), 0).into()
}

fn front() -> Arc<Front> {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(
        &file,
        format!("- {{token: {TOKEN}, firehose: true, apps: all}}"),
    )
    .unwrap();
    let tokens = Tokens::read(file.path()).unwrap();
    Arc::new(Front {
        access: Access::Tokens(Reloaded::from(Arc::new(tokens))),
        edge: Edge::default(),
        dopplers: [].into_iter().collect(),
        topics: Topics::new(1 << 20, 1 << 20),
        streams: Streams::new(1),
        metrics: Arc::new(Metrics::new()),
        shutdown: Drain::new().shutdown(),
        leaving: Leaving::new(Drain::new().shutdown(), Duration::ZERO),
    })
}
