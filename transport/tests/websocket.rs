//! Both ends of `transport::websocket` against stock tokio-tungstenite, against raw bytes, and
//! against each other.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt, poll};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, advance, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use transport::frame::{self, Frames};
use transport::websocket::{Close, Ended, Incoming, KeepAlive, Options, Role, Socket};

const SILENT: &str = "Client did not respond to ping before keep-alive timeout expired.";

/// A frame as a client sends it.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&KEY);
    bytes.extend(
        payload
            .iter()
            .zip(KEY.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

/// `count` frames of `size` bytes of payload, each beginning with its number from `first` on.
fn numbered(first: u32, count: u32, size: usize) -> Frames {
    let mut frames = Frames::new();
    for n in first..first + count {
        let mut payload = n.to_be_bytes().to_vec();
        payload.resize(size.max(4), 0);
        frames.push(&payload, false);
    }
    frames
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// A server that asks for no signs of life, so that every byte is one the test knows.
fn quiet() -> Options {
    Options {
        keep_alive: None,
        ..Options::server()
    }
}

fn raw(capacity: usize, options: Options) -> (Socket<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(capacity);
    (Socket::new(ours, Bytes::new(), options), theirs)
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(listener.accept(), TcpStream::connect(address));
    (ours.unwrap().0, theirs.unwrap())
}

/// Everything the other end still sends.
async fn rest(mut stream: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

fn close_bytes(code: u16, reason: &str) -> Vec<u8> {
    let mut bytes = vec![0x88, 2 + reason.len() as u8];
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(reason.as_bytes());
    bytes
}

async fn next_frames(socket: &mut Socket<DuplexStream>) -> (Bytes, usize) {
    match socket.next().await.unwrap() {
        Incoming::Frames { run, count } => (run, count),
        other => panic!("{other:?}"),
    }
}

// Stock peers

#[tokio::test]
async fn a_stock_client_gets_every_frame_its_pings_answered_and_its_close_code_back() {
    const FRAMES: u32 = 100_000;
    let (ours, theirs) = tcp().await;
    let server = tokio::spawn(async move {
        let mut socket = Socket::new(ours, Bytes::new(), Options::server());
        for run in 0..FRAMES / 100 {
            let frames = numbered(run * 100, 100, 300);
            socket.send(frames.bytes()).await.unwrap();
            assert_eq!(socket.taken(), frames.bytes().len());
        }
        let ended = socket.ended().await;
        socket.answer(&ended).await;
        ended
    });
    let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    let (mut expected, mut pings, mut pongs) = (0, 0, 0);
    while expected < FRAMES {
        match client.next().await.unwrap().unwrap() {
            Message::Binary(payload) => {
                assert_eq!(number(&payload), expected);
                expected += 1;
                if expected % 10_000 == 0 {
                    let payload = Bytes::from(expected.to_string());
                    client.send(Message::Ping(payload)).await.unwrap();
                }
            }
            Message::Ping(payload) => {
                assert!(payload.is_empty());
                pings += 1;
            }
            Message::Pong(_) => pongs += 1,
            other => panic!("{other:?}"),
        }
    }
    let close = CloseFrame {
        code: CloseCode::Library(4000),
        reason: "done".into(),
    };
    client.close(Some(close)).await.unwrap();
    let echoed = loop {
        match client.next().await.unwrap().unwrap() {
            Message::Pong(_) => pongs += 1,
            Message::Close(close) => break close.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((pings, pongs), (1, 10));
    assert_eq!(u16::from(echoed.code), 4000);
    assert_eq!(echoed.reason.as_str(), "");
    assert!(matches!(
        server.await.unwrap(),
        Ended::Peer {
            code: Some(4000),
            ..
        }
    ));
}

#[tokio::test]
async fn our_client_understands_all_a_stock_server_says() {
    let (ours, theirs) = tcp().await;
    let server = tokio::spawn(async move {
        let mut server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        for n in 0..1000u32 {
            let payload = Bytes::copy_from_slice(&n.to_be_bytes());
            server.feed(Message::Binary(payload)).await.unwrap();
        }
        server
            .feed(Message::Text("how are you?".into()))
            .await
            .unwrap();
        for (part, opcode, last) in [
            ("one ", Data::Binary, false),
            ("message ", Data::Continue, false),
            ("in three", Data::Continue, true),
        ] {
            let frame = Frame::message(part, OpCode::Data(opcode), last);
            server.feed(Message::Frame(frame)).await.unwrap();
        }
        server.send(Message::Ping("well?".into())).await.unwrap();
        assert_eq!(
            server.next().await.unwrap().unwrap(),
            Message::Text("fine".into())
        );
        assert_eq!(
            server.next().await.unwrap().unwrap(),
            Message::Pong("well?".into())
        );
        server.close(None).await.unwrap();
        assert_eq!(server.next().await.unwrap().unwrap(), Message::Close(None));
        assert!(server.next().await.is_none());
    });
    let mut socket = Socket::new(ours, Bytes::new(), Options::link_client());
    let mut expected = 0;
    while expected < 1000 {
        match socket.next().await.unwrap() {
            Incoming::Frames { run, count } => {
                let payloads: Vec<_> = frame::payloads(&run).collect();
                assert_eq!(payloads.len(), count);
                for payload in payloads {
                    assert_eq!(number(&payload), expected);
                    expected += 1;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        socket.next().await.unwrap(),
        Incoming::Text("how are you?".into())
    );
    socket.send_text("fine").await.unwrap();
    let whole = Incoming::Frames {
        run: Bytes::from_static(b"\x82\x14one message in three"),
        count: 1,
    };
    assert_eq!(socket.next().await.unwrap(), whole);
    let ended = socket.next().await.unwrap_err();
    assert!(matches!(ended, Ended::Peer { code: None, .. }), "{ended}");
    socket.answer(&ended).await;
    server.await.unwrap();
}

#[tokio::test]
async fn both_ends_of_a_link_talk_to_each_other_while_envelopes_flow() {
    let (ours, theirs) = duplex(4096);
    let doppler = tokio::spawn(async move {
        let mut socket = Socket::new(ours, Bytes::new(), Options::link_server());
        for run in 0..100 {
            socket
                .send(numbered(run * 10, 10, 500).bytes())
                .await
                .unwrap();
        }
        // They came while we were sending.
        for n in 0..10 {
            assert_eq!(socket.next().await.unwrap(), Incoming::Text(n.to_string()));
        }
        socket.send_text("bye").await.unwrap();
        socket.close(Close::GOING_AWAY).await;
    });
    let mut socket = Socket::new(theirs, Bytes::new(), Options::link_client());
    for n in 0..10 {
        socket.send_text(&n.to_string()).await.unwrap();
    }
    let mut expected = 0;
    loop {
        match socket.next().await.unwrap() {
            Incoming::Frames { run, .. } => {
                for payload in frame::payloads(&run) {
                    assert_eq!(number(&payload), expected);
                    expected += 1;
                }
            }
            Incoming::Text(text) => {
                assert_eq!((text.as_str(), expected), ("bye", 1000));
                break;
            }
        }
    }
    let ended = socket.ended().await;
    assert!(matches!(
        ended,
        Ended::Peer {
            code: Some(1001),
            ..
        }
    ));
    assert_eq!(ended.to_string(), "the peer closed the connection (1001)");
    socket.answer(&ended).await;
    doppler.await.unwrap();
}

#[tokio::test]
async fn a_large_stream_arrives_through_tls() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let der = key.cert.der().clone();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der.clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls_pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der], private.unwrap())
        .unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (ours, theirs) = tcp().await;
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(server));
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client));
    let (ours, theirs) = tokio::join!(
        acceptor.accept(ours),
        connector.connect("localhost".try_into().unwrap(), theirs)
    );
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());

    let server = tokio::spawn(async move {
        let mut socket = Socket::new(ours, Bytes::new(), Options::server());
        for run in 0..200 {
            socket
                .send(numbered(run * 100, 100, 500).bytes())
                .await
                .unwrap();
        }
        socket.close(Close::NORMAL).await;
    });
    let mut socket = Socket::new(theirs, Bytes::new(), Options::client());
    let mut seen = 0;
    let ended = loop {
        match socket.next().await {
            Ok(Incoming::Frames { count, .. }) => seen += count,
            Ok(other) => panic!("{other:?}"),
            Err(ended) => break ended,
        }
    };
    assert_eq!(seen, 20_000);
    assert!(
        matches!(
            ended,
            Ended::Peer {
                code: Some(1000),
                ..
            }
        ),
        "{ended}"
    );
    socket.answer(&ended).await;
    server.await.unwrap();
}

// Frames and buffers

#[tokio::test]
async fn frames_split_at_every_byte_come_out_whole() {
    let mut frames = numbered(0, 3, 4);
    frames.push(&[9; 200], false);
    frames.push(&[], false);
    let bytes = frames.bytes();
    for cut in 0..=bytes.len() {
        let (mut socket, mut peer) = raw(4096, Options::client());
        let mut seen = Vec::new();
        for part in [&bytes[..cut], &bytes[cut..]] {
            peer.write_all(part).await.unwrap();
            while let Some(incoming) = socket.next().now_or_never() {
                match incoming.unwrap() {
                    Incoming::Frames { run, count } => {
                        assert_eq!(frame::frames(&run).count(), count);
                        seen.extend_from_slice(&run);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(seen, bytes, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_whole_conversation_one_byte_at_a_time_is_understood_by_a_server() {
    let (mut socket, mut peer) = raw(
        4096,
        Options {
            text: true,
            ..quiet()
        },
    );
    let mut said = masked(0x89, b"ping");
    said.extend(masked(0x82, &[7; 300]));
    said.extend(masked(0x01, "hällo ".as_bytes()));
    said.extend(masked(0x8A, b""));
    said.extend(masked(0x80, b"world"));
    said.extend(masked(0x88, &4001u16.to_be_bytes()));
    let mut heard = Vec::new();
    for byte in said {
        peer.write_all(&[byte]).await.unwrap();
        if let Some(next) = socket.next().now_or_never() {
            heard.push(next);
        }
    }
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert_eq!(
        *heard[0].as_ref().unwrap(),
        Incoming::Text("hällo world".into())
    );
    assert!(matches!(
        heard[1],
        Err(Ended::Peer {
            code: Some(4001),
            ..
        })
    ));
    drop(socket);
    assert_eq!(rest(peer).await, b"\x8A\x04ping");
}

#[tokio::test]
async fn what_came_before_a_frame_that_is_too_large_is_handed_out_first() {
    let mut sent = numbered(0, 2, 10).bytes().to_vec();
    // 16 MiB and a byte.
    sent.extend_from_slice(&[0x82, 127, 0, 0, 0, 0, 1, 0, 0, 1]);
    let (ours, _peer) = duplex(100);
    let mut socket = Socket::new(ours, sent.into(), Options::client());
    match socket.next().await {
        Ok(Incoming::Frames { count, .. }) => assert_eq!(count, 2),
        other => panic!("{other:?}"),
    }
    let ended = socket.next().await.unwrap_err();
    assert_eq!(ended.fault(), Some("too_big"));
}

#[tokio::test]
async fn bytes_the_handshake_read_too_many_come_first() {
    let frames = numbered(0, 2, 10);
    let (early, late) = frames.bytes().split_at(15);
    let (ours, mut peer) = duplex(100);
    let early = Bytes::copy_from_slice(early);
    let mut socket = Socket::new(ours, early, Options::client());
    assert_eq!(
        next_frames(&mut socket).await,
        (frames.frame(0).to_vec().into(), 1)
    );
    peer.write_all(late).await.unwrap();
    assert_eq!(
        next_frames(&mut socket).await,
        (frames.frame(1).to_vec().into(), 1)
    );
}

#[tokio::test]
async fn a_frame_larger_than_the_buffer_comes_out_whole_among_small_ones() {
    let (mut socket, mut peer) = raw(1 << 20, Options::client());
    let mut frames = numbered(0, 100, 300);
    frames.push(&vec![1; 300_000], false);
    frames.push(&[2; 10], false);
    let bytes = frames.bytes().to_vec();
    peer.write_all(&bytes).await.unwrap();
    let (mut seen, mut count) = (Vec::new(), 0);
    while count < 102 {
        let (run, frames) = next_frames(&mut socket).await;
        seen.extend_from_slice(&run);
        count += frames;
    }
    assert!(seen == bytes);
}

#[tokio::test]
async fn next_and_ended_lose_nothing_when_they_are_dropped() {
    let (mut socket, mut peer) = raw(4096, Options::client());
    let frames = numbered(0, 50, 20);
    let mut seen = 0;
    for piece in frames.bytes().chunks(7) {
        // Dropped while it waits.
        assert!(socket.next().now_or_never().is_none());
        peer.write_all(piece).await.unwrap();
        while let Some(next) = socket.next().now_or_never() {
            let Incoming::Frames { run, .. } = next.unwrap() else {
                panic!("not frames")
            };
            for payload in frame::payloads(&run) {
                assert_eq!(number(&payload), seen);
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 50);
    peer.write_all(&close_bytes(1000, "bye")[..3])
        .await
        .unwrap();
    assert!(socket.ended().now_or_never().is_none());
    peer.write_all(&close_bytes(1000, "bye")[3..])
        .await
        .unwrap();
    assert!(matches!(
        socket.ended().await,
        Ended::Peer {
            code: Some(1000),
            ..
        }
    ));
}

// Mistakes

/// Sends `said` to a fresh socket; returns how it ended and what it answered.
async fn mistaken(said: &[u8], options: Options) -> (Ended, Vec<u8>) {
    let (mut socket, mut peer) = raw(1 << 17, options);
    peer.write_all(said).await.unwrap();
    let ended = timeout(Duration::from_secs(1), socket.ended())
        .await
        .unwrap();
    tokio::join!(socket.answer(&ended), async {
        peer.shutdown().await.unwrap();
        let answer = rest(peer).await;
        (ended_copy(&ended), answer)
    })
    .1
}

fn ended_copy(ended: &Ended) -> Ended {
    match ended {
        Ended::Peer { code, reason } => Ended::Peer {
            code: *code,
            reason: reason.clone(),
        },
        Ended::Protocol { code, reason } => Ended::Protocol {
            code: *code,
            reason: reason.clone(),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_tells_each_mistake_by_its_code() {
    let fragments = |n: usize| {
        let mut said = masked(0x01, b"");
        for _ in 1..n {
            said.extend(masked(0x00, b""));
        }
        said
    };
    let inside = [masked(0x01, b"a"), masked(0x82, b"b")].concat();
    let lengthy = |payload: u64| {
        let mut said = vec![0x82, 0xFF];
        said.extend_from_slice(&payload.to_be_bytes());
        said
    };
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("not masked", vec![0x82, 1, 0], 1002),
        ("RSV1, as if deflate were on", masked(0xC2, b"x"), 1002),
        ("RSV2", masked(0xA2, b"x"), 1002),
        ("RSV3", masked(0x91, b"x"), 1002),
        ("opcode 3", masked(0x83, b"x"), 1002),
        ("opcode 7", masked(0x87, b"x"), 1002),
        ("opcode B", masked(0x8B, b"x"), 1002),
        ("opcode F", masked(0x8F, b"x"), 1002),
        ("ping in fragments", masked(0x09, b"x"), 1002),
        ("ping of 126 bytes", masked(0x89, &[0; 126]), 1002),
        ("close of 126 bytes, only the start", vec![0x88, 0xFE], 1002),
        ("continuation of nothing", masked(0x80, b"x"), 1002),
        ("a message inside another", inside, 1002),
        (
            "5 bytes with a 16-bit length",
            vec![0x82, 0xFE, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5],
            1002,
        ),
        ("4 KiB and a byte", masked(0x82, &[0; 4097]), 1009),
        (
            "4 KiB and a byte, cut short",
            masked(0x81, &[0; 5000])[..9].to_vec(),
            1009,
        ),
        ("4 GiB", lengthy(1 << 32), 1009),
        ("2^63 - 1", lengthy(u64::MAX >> 1), 1009),
        ("2^63", lengthy(1 << 63), 1009),
        ("2^64 - 1", lengthy(u64::MAX), 1009),
        ("65 fragments", fragments(65), 1009),
        (
            "5 KiB in fragments",
            [masked(0x02, &[0; 2500]), masked(0x00, &[0; 2500])].concat(),
            1009,
        ),
        (
            "close code 1005",
            masked(0x88, &1005u16.to_be_bytes()),
            1002,
        ),
        (
            "close code 1006",
            masked(0x88, &1006u16.to_be_bytes()),
            1002,
        ),
        (
            "close code 1015",
            masked(0x88, &1015u16.to_be_bytes()),
            1002,
        ),
        ("close code 0", masked(0x88, &[0, 0]), 1002),
        (
            "close code 5000",
            masked(0x88, &5000u16.to_be_bytes()),
            1002,
        ),
        (
            "close reason not UTF-8",
            masked(0x88, b"\x03\xE8\xFF"),
            1007,
        ),
    ];
    for (what, said, code) in cases {
        let (ended, answer) = mistaken(&said, quiet()).await;
        let Ended::Protocol {
            code: found,
            reason,
        } = &ended
        else {
            panic!("{what}: {ended:?}")
        };
        assert_eq!(*found, code, "{what}: {ended}");
        assert_eq!(answer, close_bytes(code, reason), "{what}");
        assert!(reason.len() <= 123, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_tells_each_mistake_by_its_code() {
    let small = Options {
        max_message: 1000,
        text: true,
        ..Options::client()
    };
    let lengthy = |payload: u64| {
        let mut said = vec![0x82, 0x7F];
        said.extend_from_slice(&payload.to_be_bytes());
        said
    };
    let mut long = Vec::new();
    frame::write_header(1001, &mut long);
    let mut long_and_whole = long.clone();
    long_and_whole.extend_from_slice(&[0; 1001]);
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("masked", masked(0x82, b"x"), 1002),
        ("RSV1", vec![0xC2, 0], 1002),
        ("opcode 5", vec![0x85, 0], 1002),
        (
            "data inside a fragmented message",
            vec![0x02, 0, 0x82, 0],
            1002,
        ),
        (
            "a length in too many bytes",
            vec![0x82, 0x7E, 0, 1, 0],
            1002,
        ),
        ("one byte too many, cut short", long, 1009),
        ("one byte too many", long_and_whole, 1009),
        ("4 GiB", lengthy(1 << 32), 1009),
        ("2^63", lengthy(1 << 63), 1009),
        ("text not UTF-8", vec![0x81, 2, 0xC3, 0x28], 1007),
        (
            "surrogate in two fragments",
            vec![0x01, 1, 0xED, 0x80, 2, 0xA0, 0x80],
            1007,
        ),
        ("ping of 126 bytes", vec![0x89, 0x7E, 0, 126], 1002),
    ];
    for (what, said, code) in cases {
        let (ended, answer) = mistaken(&said, small.clone()).await;
        let Ended::Protocol { code: found, .. } = &ended else {
            panic!("{what}: {ended:?}")
        };
        assert_eq!(*found, code, "{what}: {ended}");
        // What a client says is masked.
        assert_eq!(answer[0], 0x88, "{what}");
        assert_eq!(answer[1] & 0x80, 0x80, "{what}");
        let unmasked = [answer[6] ^ answer[2], answer[7] ^ answer[3]];
        assert_eq!(u16::from_be_bytes(unmasked), code, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_is_answered_with_its_code_and_no_reason() {
    for (said, answer) in [
        (masked(0x88, b"\x03\xE8all done"), close_bytes(1000, "")),
        (masked(0x88, b"\x0F\xA0"), close_bytes(4000, "")),
        (masked(0x88, b""), vec![0x88, 0]),
        (masked(0x88, b"\x03"), vec![0x88, 0]),
    ] {
        assert_eq!(mistaken(&said, quiet()).await.1, answer, "{said:?}");
    }
}

#[tokio::test]
async fn what_a_client_says_is_ignored_even_if_it_is_not_utf_8() {
    let (mut socket, mut peer) = raw(1 << 16, quiet());
    let said = [
        masked(0x81, b"hello"),
        masked(0x81, b"\xFF\xFE"),
        masked(0x01, b"\xC3"),
        masked(0x80, b"\x28"),
        masked(0x82, &[0; 4096]),
        masked(0x89, b"?"),
    ];
    peer.write_all(&said.concat()).await.unwrap();
    assert!(socket.ended().now_or_never().is_none());
    drop(socket);
    assert_eq!(rest(peer).await, b"\x8A\x01?");
}

#[tokio::test]
async fn a_client_that_floods_us_with_data_still_gets_its_frames() {
    let (ours, theirs) = tcp().await;
    let mut socket = Socket::new(ours, Bytes::new(), quiet());
    let (mut reader, mut writer) = theirs.into_split();
    let flood = tokio::spawn(async move {
        let said = masked(0x82, &[0; 4000]).repeat(16);
        while writer.write_all(&said).await.is_ok() {}
    });
    let run = numbered(0, 1000, 1000);
    let length = run.bytes().len();
    let reading = tokio::spawn(async move {
        let mut bytes = vec![0; 10 * length];
        reader.read_exact(&mut bytes).await.unwrap();
        (bytes, reader)
    });
    for _ in 0..10 {
        socket.send(run.bytes()).await.unwrap();
    }
    let (bytes, reader) = reading.await.unwrap();
    assert!(bytes == run.bytes().repeat(10));
    drop((socket, reader));
    flood.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_never_finished_ends_after_ten_seconds_even_if_pings_are_answered() {
    for beginning in [
        masked(0x01, b"and then"),
        masked(0x82, b"1234")[..8].to_vec(),
    ] {
        let (mut socket, mut peer) = raw(4096, quiet());
        let start = Instant::now();
        // This one is finished after nine seconds.
        let slow = masked(0x81, b"slow");
        peer.write_all(&slow[..5]).await.unwrap();
        let nine = Duration::from_secs(9);
        assert!(timeout(nine, socket.ended()).await.is_err());
        peer.write_all(&slow[5..]).await.unwrap();
        peer.write_all(&beginning).await.unwrap();
        let ended = socket.ended().await;
        assert!(
            matches!(ended, Ended::Protocol { code: 1008, .. }),
            "{ended}"
        );
        assert_eq!(start.elapsed().as_secs(), 19);
    }
}

// Pings and pongs

#[tokio::test(start_paused = true)]
async fn pings_go_out_at_once_and_fifteen_seconds_after_each_pong() {
    let (mut socket, mut peer) = raw(4096, Options::server());
    let start = Instant::now();
    let server = tokio::spawn(async move { socket.ended().await });
    for n in 0..5 {
        let mut ping = [0; 2];
        peer.read_exact(&mut ping).await.unwrap();
        assert_eq!(ping, [0x89, 0]);
        assert_eq!(start.elapsed().as_millis() / 10, n * 1500);
        peer.write_all(&masked(0x8A, b"")).await.unwrap();
    }
    peer.write_all(&masked(0x88, b"")).await.unwrap();
    assert!(matches!(
        server.await.unwrap(),
        Ended::Peer { code: None, .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_half_open_peer_is_told_so_after_thirty_seconds() {
    let (mut socket, peer) = raw(4096, Options::server());
    let start = Instant::now();
    let ended = socket.ended().await;
    assert!(matches!(ended, Ended::Silent), "{ended}");
    assert_eq!(start.elapsed().as_millis() / 10, 3000);
    tokio::join!(socket.answer(&ended), async {
        let mut expected = vec![0x89, 0];
        expected.extend(close_bytes(1008, SILENT));
        assert_eq!(rest(peer).await, expected);
    });
    assert_eq!(
        start.elapsed().as_millis() / 10,
        3100,
        "it lingers a second"
    );
}

#[tokio::test(start_paused = true)]
async fn a_late_pong_moves_the_next_ping_and_data_does_not_count() {
    let (mut socket, mut peer) = raw(1 << 16, Options::server());
    let start = Instant::now();
    let server = tokio::spawn(async move {
        let data = numbered(0, 1, 10);
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = clock.tick() => if let Err(ended) = socket.send(data.bytes()).await {
                    break ended;
                },
                ended = socket.ended() => break ended,
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    peer.write_all(&masked(0x8A, b"unasked for")).await.unwrap();
    assert!(matches!(server.await.unwrap(), Ended::Silent));
    assert_eq!(start.elapsed().as_millis() / 10, 5000);
    let said = rest(peer).await;
    assert_eq!(said.windows(2).filter(|pair| *pair == [0x89, 0]).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_busy_sending_still_pings() {
    let (mut socket, mut peer) = raw(1 << 16, Options::server());
    let data = numbered(0, 1, 10);
    let mut pings = 0;
    for _ in 0..60 {
        // `send` never has to wait here.
        socket.send(data.bytes()).await.unwrap();
        let mut bytes = [0; 100];
        let read = peer.read(&mut bytes).await.unwrap();
        if bytes[..read].windows(2).any(|pair| pair == [0x89, 0]) {
            pings += 1;
            peer.write_all(&masked(0x8A, b"")).await.unwrap();
        }
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!(pings, 4);
}

#[tokio::test(start_paused = true)]
async fn a_client_takes_a_minute_without_a_byte_for_silence_but_not_its_own_slowness() {
    let (mut socket, mut peer) = raw(4096, Options::client());
    peer.write_all(numbered(0, 1, 10).bytes()).await.unwrap();
    advance(Duration::from_secs(100)).await;
    // We were the ones who did not listen.
    socket.send_text("a moment, please").await.unwrap();
    advance(Duration::from_secs(100)).await;
    socket.send_text("one more").await.unwrap();
    next_frames(&mut socket).await;
    advance(Duration::from_secs(59)).await;
    peer.write_all(&[0x89, 0]).await.unwrap();
    let start = Instant::now();
    assert!(matches!(socket.next().await.unwrap_err(), Ended::Silent));
    assert_eq!(start.elapsed().as_millis() / 10, 6000);
}

#[tokio::test(start_paused = true)]
async fn more_than_twenty_control_frames_at_once_end_with_1008() {
    for opcode in [0x89, 0x8A] {
        let said = masked(opcode, b"").repeat(20);
        let (mut socket, mut peer) = raw(4096, quiet());
        peer.write_all(&said).await.unwrap();
        assert!(socket.ended().now_or_never().is_none());
        peer.write_all(&masked(opcode, b"")).await.unwrap();
        let ended = socket.ended().now_or_never().unwrap();
        assert!(
            matches!(ended, Ended::Protocol { code: 1008, .. }),
            "{ended}"
        );
    }
}

#[tokio::test]
async fn pings_whose_pongs_are_not_read_end_with_1008_and_keep_little() {
    // So small that the pongs pile up at our end.
    for options in [
        Options {
            controls_per_second: 0,
            ..quiet()
        },
        Options::client(),
    ] {
        let (mut socket, mut peer) = raw(64, options.clone());
        let ping = match options.role {
            Role::Server => masked(0x89, &[0; 125]),
            Role::Client => [&[0x89, 125][..], &[0; 125]].concat(),
        };
        let flood = async {
            let mut sent = 0;
            while peer.write_all(&ping).await.is_ok() {
                sent += 1;
                assert!(sent < 50);
            }
        };
        let ended = tokio::select! {
            ended = socket.ended() => ended,
            () = flood => panic!("the socket is still there"),
        };
        assert!(
            matches!(ended, Ended::Protocol { code: 1008, .. }),
            "{ended}"
        );
    }
}

// Sending

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_stalls_at_the_configured_time_though_it_sends_pongs() {
    let (mut socket, mut peer) = raw(
        1000,
        Options {
            stall: Duration::from_secs(20),
            ..Options::server()
        },
    );
    let start = Instant::now();
    let pongs = async {
        loop {
            tokio::time::sleep(Duration::from_secs(3)).await;
            peer.write_all(&masked(0x8A, b"")).await.unwrap();
        }
    };
    let run = numbered(0, 100, 96); // 98 bytes each
    let ended = tokio::select! {
        ended = socket.send(run.bytes()) => ended.unwrap_err(),
        () = pongs => unreachable!(),
    };
    assert!(matches!(ended, Ended::Stalled), "{ended}");
    assert_eq!(ended.answer(), Some(Close::NORMAL));
    assert_eq!(start.elapsed().as_millis() / 10, 2000);
    // The first ping took two bytes.
    assert_eq!(socket.taken(), 998);
    assert_eq!(frame::boundary(run.bytes(), socket.taken()), 11 * 98);

    // It comes back within the second it gets: a whole frame, a Close, and no more.
    let (_, said) = tokio::join!(socket.answer(&ended), async {
        peer.shutdown().await.unwrap();
        rest(&mut peer).await
    });
    let mut expected = vec![0x89, 0];
    expected.extend_from_slice(&run.bytes()[..11 * 98]);
    // A ping became due in between.
    expected.extend_from_slice(&[0x89, 0]);
    expected.extend(close_bytes(1000, ""));
    assert_eq!(said, expected);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_a_frame_now_and_then_does_not_stall() {
    let (mut socket, mut peer) = raw(100, quiet());
    let progress = socket.progress();
    let run = numbered(0, 5, 96);
    let sending = tokio::spawn(async move {
        socket.send(numbered(0, 5, 96).bytes()).await.unwrap();
        socket
    });
    let mut said = vec![0; run.bytes().len()];
    for frame in said.chunks_mut(98) {
        tokio::time::sleep(Duration::from_secs(29)).await;
        peer.read_exact(frame).await.unwrap();
    }
    assert_eq!(said, run.bytes());
    sending.await.unwrap();
    assert_eq!(progress.waiting_since(), None);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_a_byte_now_and_then_stalls_all_the_same() {
    let (mut socket, mut peer) = raw(100, quiet());
    let progress = socket.progress();
    let start = Instant::now();
    let drip = async {
        loop {
            tokio::time::sleep(Duration::from_secs(4)).await;
            // Two bytes of the second frame went at once.
            assert_eq!(progress.waiting_since(), Some(start));
            peer.read_u8().await.unwrap();
        }
    };
    let run = numbered(0, 2, 96);
    let ended = tokio::select! {
        ended = socket.send(run.bytes()) => ended.unwrap_err(),
        () = drip => unreachable!(),
    };
    assert!(matches!(ended, Ended::Stalled), "{ended}");
    assert_eq!(start.elapsed().as_secs(), 30);
    assert_eq!(socket.taken(), 107);
}

#[tokio::test]
async fn taken_is_exact_when_the_peer_vanishes_mid_run() {
    for gulp in [0usize, 1, 2, 97, 98, 99, 500] {
        let (mut socket, mut peer) = raw(64, quiet());
        let run = numbered(0, 20, 96);
        let (ended, read) = tokio::join!(socket.send(run.bytes()), async move {
            let mut bytes = vec![0; gulp];
            peer.read_exact(&mut bytes).await.unwrap();
            bytes
        });
        assert_eq!(read, run.bytes()[..gulp]);
        let ended = ended.unwrap_err();
        assert!(matches!(ended, Ended::Eof | Ended::Broken(_)), "{ended}");
        // What was read, and the pipe full again before the peer went.
        let taken = socket.taken();
        assert!((gulp..=gulp + 64).contains(&taken), "{gulp}: {taken}");
        let again = socket.send(run.bytes()).await.unwrap_err();
        assert_eq!(ended.to_string(), again.to_string());
        assert_eq!(socket.taken(), 0);
    }
}

#[tokio::test]
async fn a_send_that_is_dropped_finishes_its_frame_and_no_other() {
    let (mut socket, mut peer) = raw(150, quiet());
    let first = numbered(0, 10, 96);
    assert!(socket.send(first.bytes()).now_or_never().is_none());
    assert_eq!(socket.taken(), 150);
    // Another one that gets nowhere.
    assert!(socket.send(first.bytes()).now_or_never().is_none());
    assert_eq!(socket.taken(), 0);

    let second = numbered(100, 2, 50);
    let expected = [&first.bytes()[..2 * 98], second.bytes()].concat();
    let mut read = vec![0; expected.len()];
    let (sent, _) = tokio::join!(socket.send(second.bytes()), peer.read_exact(&mut read));
    sent.unwrap();
    assert_eq!(read, expected);
    assert_eq!(socket.taken(), second.bytes().len());
}

#[tokio::test]
async fn the_rest_of_a_dropped_frame_also_leaves_while_we_wait() {
    let (mut socket, mut peer) = raw(64, quiet());
    let run = numbered(0, 10, 98); // 100 bytes each
    assert!(socket.send(run.bytes()).now_or_never().is_none());
    peer.write_all(&masked(0x89, b"?")).await.unwrap();
    let mut read = vec![0; 103];
    tokio::select! {
        _ = peer.read_exact(&mut read) => {}
        ended = socket.ended() => panic!("{ended}"),
    }
    assert_eq!(read[..100], run.bytes()[..100]);
    assert_eq!(read[100..], *b"\x8A\x01?");
}

#[tokio::test]
async fn control_frames_stand_between_frames_never_inside_one() {
    // Whatever fits into the pipe, a ping that comes mid-frame is answered at the boundary.
    for capacity in 1..120 {
        let (mut socket, mut peer) = raw(capacity, quiet());
        let run = numbered(0, 3, 40); // 42 bytes each
        let mut sending = pin!(socket.send(run.bytes()));
        assert!(poll!(&mut sending).is_pending());
        let ping = masked(0x89, b"?");
        let (sent, said) = tokio::join!(sending, async {
            peer.write_all(&ping).await.unwrap();
            let mut said = vec![0; run.bytes().len() + 3];
            peer.read_exact(&mut said).await.unwrap();
            said
        });
        sent.unwrap();
        let pong = said
            .windows(3)
            .position(|bytes| bytes == b"\x8A\x01?")
            .unwrap();
        assert_eq!(pong % 42, 0, "capacity {capacity}");
        let others = [&said[..pong], &said[pong + 3..]].concat();
        assert_eq!(others, run.bytes(), "capacity {capacity}");
    }
}

#[tokio::test]
async fn a_peer_that_closes_while_we_send_gets_whole_frames_and_then_our_close() {
    for capacity in [1, 50, 97, 98, 99, 500] {
        let (mut socket, mut peer) = raw(capacity, quiet());
        let run = numbered(0, 100, 96);
        let mut sending = Box::pin(socket.send(run.bytes()));
        assert!(poll!(&mut sending).is_pending());
        let close = masked(0x88, b"\x03\xE9enough");
        let (ended, ()) = tokio::join!(sending, async {
            peer.write_all(&close).await.unwrap();
        });
        let ended = ended.unwrap_err();
        assert!(
            matches!(
                ended,
                Ended::Peer {
                    code: Some(1001),
                    ..
                }
            ),
            "{ended}"
        );
        let taken = socket.taken();
        let ((), said) = tokio::join!(socket.answer(&ended), rest(&mut peer));
        let (frames, close) = said.split_at(said.len() - 4);
        assert_eq!(close, close_bytes(1001, ""), "capacity {capacity}");
        assert_eq!(frames, &run.bytes()[..frame::boundary(run.bytes(), taken)]);
    }
}

#[tokio::test]
async fn a_close_before_the_reset_is_what_is_reported() {
    let (ours, theirs) = tcp().await;
    let mut socket = Socket::new(ours, Bytes::new(), quiet());
    let mut theirs = theirs;
    theirs.write_all(&masked(0x88, b"\x03\xE8")).await.unwrap();
    drop(theirs);
    let run = numbered(0, 1000, 1000);
    let ended = loop {
        if let Err(ended) = socket.send(run.bytes()).await {
            break ended;
        }
    };
    assert!(
        matches!(
            ended,
            Ended::Peer {
                code: Some(1000),
                ..
            }
        ),
        "{ended}"
    );
    assert_eq!(ended.answer(), Some(Close::NORMAL));
    socket.answer(&ended).await;
}

#[tokio::test]
async fn a_large_text_is_sent_whole_by_both_roles_though_the_peer_pings() {
    let text = "long ".repeat(12_000);
    for options in [
        Options {
            keep_alive: None,
            ..Options::link_server()
        },
        Options::link_client(),
    ] {
        let theirs_role = match options.role {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        };
        let (mut socket, theirs) = raw(1000, options);
        let mut peer = WebSocketStream::from_raw_socket(theirs, theirs_role, None).await;
        let (sent, ()) = tokio::join!(socket.send_text(&text), async {
            for _ in 0..15 {
                peer.feed(Message::Ping(Bytes::from_static(&[1; 60])))
                    .await
                    .unwrap();
            }
            peer.flush().await.unwrap();
            let mut pongs = 0;
            loop {
                match peer.next().await.unwrap().unwrap() {
                    Message::Text(heard) => break assert_eq!(heard.as_str(), text),
                    Message::Pong(_) => pongs += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert!(pongs <= 15);
        });
        sent.unwrap();
    }
}

// Closing

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_up_is_told_1000_if_it_still_listens() {
    let (mut socket, mut peer) = raw(4096, quiet());
    peer.shutdown().await.unwrap();
    let ended = socket.ended().await;
    assert!(matches!(ended, Ended::Eof), "{ended}");
    let start = Instant::now();
    socket.answer(&ended).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(rest(peer).await, close_bytes(1000, ""));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_answers_our_close_costs_a_second() {
    let (socket, peer) = raw(4096, quiet());
    let start = Instant::now();
    socket.close(Close::GOING_AWAY).await;
    assert_eq!(start.elapsed().as_millis() / 10, 100);
    assert_eq!(rest(peer).await, close_bytes(1001, ""));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_keeps_sending_after_our_close_costs_a_second() {
    let (socket, mut peer) = raw(4096, quiet());
    let start = Instant::now();
    let talking = tokio::spawn(async move {
        let said = masked(0x82, &[0; 1000]);
        while peer.write_all(&said).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        peer
    });
    socket.close(Close::POLICY.because("time is up")).await;
    assert_eq!(start.elapsed().as_millis() / 10, 100);
    assert_eq!(
        rest(talking.await.unwrap()).await,
        close_bytes(1008, "time is up")
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_even_read_our_close_costs_a_second() {
    let (mut socket, peer) = raw(10, quiet());
    assert!(
        socket
            .send(numbered(0, 10, 10).bytes())
            .now_or_never()
            .is_none()
    );
    let start = Instant::now();
    socket.close(Close::NORMAL).await;
    assert_eq!(start.elapsed().as_millis() / 10, 100);
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_our_close_costs_no_time_and_may_finish_its_sentence() {
    let (socket, mut peer) = raw(4096, quiet());
    let said = [
        masked(0x82, &[0; 1000]),
        masked(0x89, b"too late for a pong"),
        masked(0x88, b"\x03\xE9"),
    ];
    peer.write_all(&said.concat()).await.unwrap();
    let start = Instant::now();
    socket.close(Close::GOING_AWAY).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(rest(peer).await, close_bytes(1001, ""));
}

#[tokio::test(start_paused = true)]
async fn after_a_protocol_error_nothing_the_peer_says_is_read_as_frames() {
    let (mut socket, mut peer) = raw(4096, quiet());
    peer.write_all(&[0x82, 1, 0]).await.unwrap();
    let ended = socket.ended().await;
    let again = socket.next().await.unwrap_err();
    assert_eq!(ended.to_string(), again.to_string());
    let ((), said) = tokio::join!(socket.answer(&ended), async {
        // More than the pipe holds: somebody reads it.
        peer.write_all(&[0xFF; 20_000]).await.unwrap();
        peer.shutdown().await.unwrap();
        rest(peer).await
    });
    assert_eq!(said, close_bytes(1002, "frame of a client without a mask"));
}

#[tokio::test]
async fn what_came_before_a_close_is_still_handed_out() {
    let (mut socket, mut peer) = raw(4096, Options::link_client());
    let frames = numbered(0, 3, 10);
    let said = [frames.bytes(), b"\x81\x02hi", &close_bytes(1000, "")].concat();
    peer.write_all(&said).await.unwrap();
    socket.send_text("are you there?").await.unwrap();
    drop(peer);
    assert_eq!(next_frames(&mut socket).await.1, 3);
    assert_eq!(socket.next().await.unwrap(), Incoming::Text("hi".into()));
    assert!(matches!(
        socket.next().await.unwrap_err(),
        Ended::Peer {
            code: Some(1000),
            ..
        }
    ));
}

// Anything at all

/// What a peer might say: mostly frames, some of them wrong, perhaps cut short.
fn said(server: bool) -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => proptest::sample::select(vec![0x82u8, 0x81, 0x89, 0x8A, 0x02, 0x00, 0x80]),
        1 => proptest::sample::select(vec![0x01u8, 0x88]),
        1 => any::<u8>(),
    ];
    let payload = proptest::collection::vec(any::<u8>(), 0..200);
    let frame = (first, payload, 0..20).prop_map(move |(first, payload, luck)| match luck {
        0 => payload,
        _ if server => masked(first, &payload),
        _ => {
            let mut frame = Vec::new();
            frame::write_header(payload.len(), &mut frame);
            frame[0] = first;
            frame.extend_from_slice(&payload);
            frame
        }
    });
    (proptest::collection::vec(frame, 0..30), 0usize..50).prop_map(|(frames, cut)| {
        let mut said = frames.concat();
        said.truncate(said.len().saturating_sub(cut));
        said
    })
}

proptest! {
    #[test]
    fn whatever_the_peer_says_nothing_panics_and_nothing_hangs(
        (server, said) in any::<bool>().prop_flat_map(|server| (Just(server), said(server))),
        chunk in 1usize..300,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let options = if server { Options::link_server() } else { Options::link_client() };
            let start = Instant::now();
            let (mut socket, mut peer) = raw(1 << 16, options);
            let (ended, ()) = tokio::join!(
                async {
                    loop {
                        if let Err(ended) = socket.next().await {
                            break ended;
                        }
                    }
                },
                async {
                    for piece in said.chunks(chunk) {
                        if peer.write_all(piece).await.is_err() {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    peer.shutdown().await.unwrap();
                }
            );
            socket.answer(&ended).await;
            rest(peer).await;
            prop_assert_eq!(start.elapsed(), Duration::ZERO);
            Ok(())
        })?;
    }

    #[test]
    fn any_run_through_any_pipe_arrives_as_it_was(
        sizes in proptest::collection::vec(0usize..3000, 1..40),
        capacity in 1usize..5000,
        per_send in 1usize..10,
        yields in 0usize..20,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (ours, theirs) = duplex(capacity);
            let mut server = Socket::new(ours, Bytes::new(), Options::server());
            let mut client = Socket::new(theirs, Bytes::new(), Options {
                read_buffer: 700,
                keep_alive: None::<KeepAlive>,
                ..Options::client()
            });
            let mut expected = Vec::new();
            let sending = async {
                for sizes in sizes.chunks(per_send) {
                    let mut frames = Frames::new();
                    for size in sizes {
                        frames.push(&vec![*size as u8; *size], false);
                    }
                    expected.extend_from_slice(frames.bytes());
                    server.send(frames.bytes()).await.unwrap();
                    for _ in 0..yields {
                        tokio::task::yield_now().await;
                    }
                }
                server.close(Close::NORMAL).await;
            };
            let mut seen = Vec::new();
            let reading = async {
                let ended = loop {
                    match client.next().await {
                        Ok(Incoming::Frames { run, .. }) => seen.extend_from_slice(&run),
                        Ok(Incoming::Text(text)) => panic!("{text}"),
                        Err(ended) => break ended,
                    }
                };
                client.answer(&ended).await;
                ended
            };
            let ((), ended) = tokio::join!(sending, reading);
            assert!(matches!(ended, Ended::Peer { code: Some(1000), .. }));
            assert!(seen == expected);
        });
    }
}

// The handshake

mod upgrade {
    use super::*;
    use http::{Request, Response, StatusCode};
    use http_body_util::Full;
    use hyper::body::Incoming as Body;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use std::convert::Infallible;
    use transport::websocket::upgrade::{ConnectError, Handshake, connect, offers};

    const LINK: &str = "loggregator.link.v1";

    /// Serves one connection: upgrades, sends three frames, and waits for the end.
    async fn serve(stream: DuplexStream) -> Option<Ended> {
        let (ended, mut result) = tokio::sync::mpsc::channel(1);
        let service = service_fn(move |mut request: Request<Body>| {
            let ended = ended.clone();
            async move {
                let protocol = offers(&request, LINK).then_some(LINK);
                let handshake = match Handshake::of(&mut request) {
                    Ok(handshake) => handshake,
                    Err(refusal) => return Ok::<_, Infallible>(refusal.response()),
                };
                let response: Response<Full<Bytes>> = handshake.response(protocol);
                tokio::spawn(async move {
                    let (stream, early) = handshake.upgraded::<DuplexStream>().await.unwrap();
                    let mut socket = Socket::new(stream, early, Options::server());
                    socket.send(numbered(0, 3, 10).bytes()).await.unwrap();
                    let end = socket.ended().await;
                    socket.answer(&end).await;
                    ended.send(end).await.unwrap();
                });
                Ok(response)
            }
        });
        // An error here is the client's doing, and the client's to report.
        let _ = hyper::server::conn::http1::Builder::new()
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        result.recv().await
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn our_client_and_our_server_shake_hands() {
        let (ours, theirs) = duplex(4096);
        let server = tokio::spawn(serve(ours));
        let request = Request::get("wss://doppler.example:8081/firehose/a?filter-type=logs")
            .header("Sec-WebSocket-Protocol", LINK)
            .body(())
            .unwrap();
        let (stream, early, headers) = connect(theirs, request, soon()).await.unwrap();
        assert_eq!(headers.len(), 4, "{headers:?}");
        assert_eq!(headers["sec-websocket-protocol"], LINK);
        let mut socket = Socket::new(stream, early, Options::client());
        let (mut count, mut seen) = (0, Vec::new());
        while count < 3 {
            let (run, frames) = next_frames(&mut socket).await;
            seen.extend_from_slice(&run);
            count += frames;
        }
        assert_eq!(seen, numbered(0, 3, 10).bytes());
        socket.close(Close::code(4000)).await;
        assert!(matches!(
            server.await.unwrap(),
            Some(Ended::Peer {
                code: Some(4000),
                ..
            })
        ));
    }

    #[tokio::test]
    async fn a_stock_client_shakes_hands_with_our_server() {
        let (ours, theirs) = duplex(4096);
        let server = tokio::spawn(serve(ours));
        let (mut client, response) = tokio_tungstenite::client_async("ws://tc/firehose/a", theirs)
            .await
            .unwrap();
        assert_eq!(response.headers().len(), 3);
        let mut frames = 0;
        while frames < 3 {
            if let Message::Binary(payload) = client.next().await.unwrap().unwrap() {
                assert_eq!(number(&payload), frames);
                frames += 1;
            }
        }
        client.close(None).await.unwrap();
        while client.next().await.is_some() {}
        assert!(matches!(
            server.await.unwrap(),
            Some(Ended::Peer { code: None, .. })
        ));
    }

    #[tokio::test]
    async fn a_request_without_upgrade_is_told_why() {
        let (ours, mut theirs) = duplex(4096);
        let server = tokio::spawn(serve(ours));
        theirs
            .write_all(b"GET /firehose/a HTTP/1.1\r\nHost: tc\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let said = String::from_utf8(rest(theirs).await).unwrap();
        assert!(said.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{said}");
        assert!(said.contains("'Connection: Upgrade' is missing"), "{said}");
        assert!(said.contains("load balancer"), "{said}");
        assert!(server.await.unwrap().is_none());
    }

    /// A server that says `response` to whatever is asked, and what it was asked.
    async fn answered(response: Vec<u8>) -> (Result<Bytes, ConnectError>, String) {
        let (mut ours, theirs) = duplex(1 << 16);
        let server = tokio::spawn(async move {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(ours.read_u8().await.unwrap());
            }
            ours.write_all(&response).await.unwrap();
            // Held open: what ends the client is what was said.
            rest(ours).await;
            String::from_utf8(asked).unwrap()
        });
        let request = Request::get("/apps/1/stream")
            .header("Host", "tc.example")
            .header("Authorization", "bearer x")
            .body(())
            .unwrap();
        let connected = connect(theirs, request, soon()).await;
        (connected.map(|(_, early, _)| early), server.await.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_handed_over_with_its_headers_and_the_start_of_its_body() {
        let body = "no ".repeat(3000);
        let response = format!(
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (refused, asked) = answered(response.into_bytes()).await;
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
        let ConnectError::Refused {
            status,
            headers,
            body: kept,
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(headers["retry-after"], "7");
        assert_eq!(kept, body[..4096]);
        let asked = asked.to_lowercase();
        assert!(
            asked.starts_with("get /apps/1/stream http/1.1\r\n"),
            "{asked}"
        );
        for header in [
            "host: tc.example",
            "authorization: bearer x",
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-key: ",
        ] {
            assert_eq!(
                asked.matches(&format!("\r\n{header}")).count(),
                1,
                "{asked}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_told_as_far_as_it_came() {
        let start = Instant::now();
        let response = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\nwho are you?";
        let (refused, _) = answered(response.into()).await;
        assert!(
            matches!(&refused, Err(ConnectError::Refused { body, .. }) if body == "who are you?"),
            "{refused:?}"
        );
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_101_that_does_not_answer_our_key_is_no_websocket() {
        let response = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let (refused, _) = answered(response.into()).await;
        assert!(
            matches!(refused, Err(ConnectError::NotWebSocket(_))),
            "{refused:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_speak_http_breaks_off() {
        let (refused, _) = answered(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()).await;
        assert!(
            matches!(refused, Err(ConnectError::Broken(_))),
            "{refused:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_costs_no_more_than_the_deadline() {
        let start = Instant::now();
        let (refused, _) = answered(Vec::new()).await;
        assert!(matches!(refused, Err(ConnectError::Timeout)), "{refused:?}");
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test]
    async fn a_request_without_host_is_not_sent() {
        let (_ours, theirs) = duplex(10);
        let request = Request::get("/").body(()).unwrap();
        let refused = connect(theirs, request, soon()).await;
        assert!(matches!(refused, Err(ConnectError::NoHost)));
    }
}

#[test]
fn an_idle_socket_is_small() {
    // Besides this: 512 bytes of the engine, a timer, and nothing for reading.
    assert!(
        size_of::<Socket<()>>() <= 1024,
        "{}",
        size_of::<Socket<()>>()
    );
}

/// A stream that counts what is asked of it.
struct Counted {
    stream: TcpStream,
    reads: usize,
    writes: usize,
    flushes: usize,
}

impl tokio::io::AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.reads += 1;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.writes += 1;
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_run_costs_one_write_and_one_flush() {
    let (stream, mut peer) = tcp().await;
    let (reads, writes, flushes) = (0, 0, 0);
    let mut counted = Counted {
        stream,
        reads,
        writes,
        flushes,
    };
    let mut socket = Socket::new(&mut counted, Bytes::new(), Options::server());
    let run = numbered(0, 100, 300);
    let mut read = vec![0; 2 + 10 * run.bytes().len()];
    for _ in 0..10 {
        socket.send(run.bytes()).await.unwrap();
    }
    peer.read_exact(&mut read).await.unwrap();
    drop(socket);
    // And one write for the first ping.
    assert_eq!(
        (counted.reads, counted.writes, counted.flushes),
        (10, 11, 10)
    );
}

/// A stream of someone who talks without pause, and may hang up in the middle of our sentence.
struct Chatter {
    /// What is said over and over.
    said: Vec<u8>,
    /// Whether it only talks once it has hung up.
    hangs_up: bool,
    hung_up: bool,
    reads: usize,
}

impl tokio::io::AsyncRead for Chatter {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.hangs_up && !self.hung_up {
            return Poll::Pending;
        }
        self.reads += 1;
        buffer.put_slice(&self.said);
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Chatter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.hangs_up {
            self.hung_up = true;
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(buffer.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn chatter(said: Vec<u8>, hangs_up: bool) -> Chatter {
    Chatter {
        said,
        hangs_up,
        hung_up: false,
        reads: 0,
    }
}

#[tokio::test]
async fn between_two_runs_a_talkative_peer_is_heard_a_few_times_only() {
    let mut peer = chatter(masked(0x82, &[0; 1000]), false);
    let mut socket = Socket::new(&mut peer, Bytes::new(), quiet());
    for _ in 0..10 {
        socket.send(numbered(0, 1, 10).bytes()).await.unwrap();
    }
    drop(socket);
    assert!((10..=100).contains(&peer.reads), "{}", peer.reads);
}

#[tokio::test]
async fn a_close_is_found_behind_the_reset() {
    let mut peer = chatter(masked(0x88, b"\x03\xE9"), true);
    let mut socket = Socket::new(&mut peer, Bytes::new(), quiet());
    let ended = socket.send(numbered(0, 1, 10).bytes()).await.unwrap_err();
    assert!(
        matches!(
            ended,
            Ended::Peer {
                code: Some(1001),
                ..
            }
        ),
        "{ended}"
    );
    let mut peer = chatter(masked(0x82, b"nothing of interest"), true);
    let mut socket = Socket::new(&mut peer, Bytes::new(), quiet());
    let ended = socket.send(numbered(0, 1, 10).bytes()).await.unwrap_err();
    assert!(matches!(ended, Ended::Broken(_)), "{ended}");
    assert!(ended.answer().is_none());
}

#[tokio::test]
async fn runs_grow_with_what_there_is_to_read_and_not_beyond_the_buffer() {
    let (mut socket, mut peer) = raw(1 << 20, Options::client());
    let frames = numbered(0, 3000, 300);
    peer.write_all(frames.bytes()).await.unwrap();
    let (mut seen, mut runs) = (0, Vec::new());
    while seen < 3000 {
        let (run, count) = next_frames(&mut socket).await;
        seen += count;
        runs.push(run.len());
    }
    assert!(runs[0] <= 8 * 1024, "{runs:?}");
    let longest = runs.iter().max().unwrap();
    assert!((60 * 1024..=64 * 1024).contains(longest), "{runs:?}");
    assert!(runs.len() < 25, "{runs:?}");
}

#[tokio::test]
async fn nothing_is_written_after_the_end() {
    let (mut socket, mut peer) = raw(4096, quiet());
    peer.write_all(&masked(0x88, b"\x03\xE8")).await.unwrap();
    socket.ended().await;
    assert!(socket.send(numbered(0, 1, 10).bytes()).await.is_err());
    assert!(socket.send_text("hello?").await.is_err());
    let next = socket.next().now_or_never();
    assert!(matches!(next, Some(Err(Ended::Peer { .. }))));
    drop(socket);
    assert_eq!(rest(peer).await, b"");
}
