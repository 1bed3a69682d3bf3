//! What clients should not say once they have a stream, and what a link's peer should not.

use super::{Canary, counted, wrongs};
use crate::SOON;
use harness::cluster::Cluster;
use harness::fake::PROTOCOL;
use harness::raw::{End, Raw, head, masked, unmasked};
use std::net::SocketAddr;
use std::time::Duration;

/// Frames that break RFC 6455 wherever they are said, and the code they are answered with.
fn against_the_protocol() -> Vec<(&'static str, Vec<u8>, u16)> {
    vec![
        ("without a mask", unmasked(0x81, b"hello"), 1002),
        ("with a reserved bit", masked(0xC1, b"hello"), 1002),
        ("with an unknown opcode", masked(0x83, b"hello"), 1002),
        ("an unknown control", masked(0x8B, b"hello"), 1002),
        ("a ping in fragments", masked(0x09, b"hello"), 1002),
        ("a ping of 126 bytes", masked(0x89, &[0; 126]), 1002),
        ("a continuation of nothing", masked(0x80, b"hello"), 1002),
        (
            "a message inside a message",
            [masked(0x01, b"a"), masked(0x81, b"b")].concat(),
            1002,
        ),
        (
            "a length in too many bytes",
            [&[0x82, 0xFE, 0, 1, 0, 0, 0, 0][..], b"x"].concat(),
            1002,
        ),
        (
            "a close code that is not for the wire",
            masked(0x88, &1005u16.to_be_bytes()),
            1002,
        ),
        (
            "a close with a reason that is not UTF-8",
            masked(0x88, b"\x03\xe8\xff"),
            1007,
        ),
        (
            "more than there can be",
            [&[0x82, 0xFF][..], &(1u64 << 63).to_be_bytes()].concat(),
            1009,
        ),
        (
            "a terabyte, announced",
            [head(0x82, 1 << 40, 0x80), vec![0; 4]].concat(),
            1009,
        ),
        (
            "65 fragments",
            [masked(0x02, b"x"), masked(0x00, b"x").repeat(64)].concat(),
            1009,
        ),
        ("a flood of pings", masked(0x89, b"x").repeat(100), 1008),
        ("a flood of pongs", masked(0x8A, b"x").repeat(100), 1008),
    ]
}

/// Says it on a stream of its own and expects to be told so.
async fn told_off(
    address: SocketAddr,
    path: &str,
    lines: &[&str],
    (what, bytes, code): (&str, Vec<u8>, u16),
) {
    let mut raw = Raw::websocket(address, None, path, lines).await;
    raw.send(&bytes).await;
    match raw.end().await {
        End::Close(Some(told), reason) if told == code => {
            assert!(!reason.is_empty(), "{path}, {what}: no reason")
        }
        end => panic!("{path}, {what}: {end:?} instead of {code}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_the_protocol_is_closed_with_the_code_for_it() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let controller = &cluster.controllers[0];
    let canary = Canary::beside(&cluster).await;
    for path in [
        "/firehose/bad",
        "/apps/00000007-0000-4000-8000-000000000007/stream",
    ] {
        let before = wrongs(controller.admin).await;
        let mut cases = against_the_protocol();
        cases.push(("more than 4 KiB", masked(0x82, &[0; 4097]), 1009));
        cases.push((
            "more than 4 KiB in two",
            [masked(0x02, &[0; 4096]), masked(0x80, b"x")].concat(),
            1009,
        ));
        let count = cases.len();
        for case in cases {
            told_off(controller.address, path, &[], case).await;
        }
        counted(controller.admin, before, count).await;
    }
    canary.sings().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_may_say_is_ignored_and_its_stream_goes_on() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let canary = Canary::beside(&cluster).await;
    let address = cluster.controllers[0].address;
    let mut raw = Raw::websocket(address, None, "/firehose/good", &[]).await;
    for said in [
        masked(0x81, b"hello"),
        masked(0x81, b"\xff\xfe not UTF-8"),
        masked(0x82, &[0; 4096]),
        [
            masked(0x01, b"in"),
            masked(0x00, b" three "),
            masked(0x80, b"parts"),
        ]
        .concat(),
        [
            masked(0x01, b"with a ping "),
            masked(0x89, b"between"),
            masked(0x80, b"parts"),
        ]
        .concat(),
        masked(0x8A, b"unasked"),
    ] {
        raw.send(&said).await;
    }
    raw.send(&masked(0x89, b"still there?")).await;
    let mut pongs = Vec::new();
    while pongs.len() < 2 {
        let frame = raw.frame().await.expect("the stream goes on");
        if frame.first == 0x8A {
            pongs.push(frame.payload);
        }
    }
    assert_eq!(pongs, [&b"between"[..], b"still there?"]);
    raw.send(&masked(
        0x88,
        &[&3000u16.to_be_bytes()[..], b"bye"].concat(),
    ))
    .await;
    assert_eq!(
        raw.end().await,
        End::Close(Some(3000), String::new()),
        "the same code, and no reason"
    );
    canary.sings().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_never_finished_is_waited_for_ten_seconds() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let canary = Canary::beside(&cluster).await;
    let (controller, doppler) = (cluster.controllers[0].address, cluster.dopplers[0].address);
    let link = format!("Sec-WebSocket-Protocol: {PROTOCOL}");
    let mut waits = Vec::new();
    for (address, path, line) in [
        (controller, "/firehose/slow", "X-Nothing: 1"),
        (doppler, "/apps", &link),
    ] {
        for start in [masked(0x01, b"a fragment"), head(0x81, 1_000, 0x80)] {
            let mut raw = Raw::websocket(address, None, path, &[line]).await;
            waits.push(tokio::spawn(async move {
                raw.send(&start).await;
                let began = std::time::Instant::now();
                let pings = async {
                    while !matches!(
                        raw.frame().await,
                        None | Some(harness::raw::Frame { first: 0x88, .. })
                    ) {}
                };
                tokio::time::timeout(SOON, pings).await.expect("it ends");
                assert!(
                    began.elapsed() > Duration::from_secs(8),
                    "{:?}",
                    began.elapsed()
                );
            }));
        }
    }
    for wait in waits {
        wait.await.unwrap();
    }
    canary.sings().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_breaks_the_protocol_on_a_link_is_closed_with_the_code_for_it() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let line = format!("Sec-WebSocket-Protocol: {PROTOCOL}");
    for path in ["/firehose/bad", "/apps"] {
        let before = wrongs(doppler.admin).await;
        let mut cases = against_the_protocol();
        cases.push((
            "more than 64 KiB",
            masked(0x81, &[b' '; (64 << 10) + 1]),
            1009,
        ));
        cases.push(("a text that is not UTF-8", masked(0x81, b"\xff\xfe"), 1007));
        let count = cases.len();
        for case in cases {
            told_off(doppler.address, path, &[&line], case).await;
        }
        counted(doppler.admin, before, count).await;
    }
    canary.sings().await;
    cluster.assert_balanced().await;
}
