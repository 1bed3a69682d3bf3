//! Floods of HTTP/2 frames that no agent sends. Each ends its connection, or is taken for what
//! it is; the stream beside it goes on, and the Doppler holds no more than before.

use super::Canary;
use harness::cluster::{Cluster, Doppler};
use harness::producer::BATCH_SENDER;
use harness::raw::Raw;
use std::time::Duration;

/// Frame types (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 4;

/// How long a flood may take to be noticed.
const NOTICED: Duration = Duration::from_secs(15);

/// What a Doppler may hold more after a flood than before, in bytes: the allocator's leftovers,
/// and the canary's.
const GROWTH: u64 = 24 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A literal header that stays out of the table (RFC 7541 §6.2.2); both shorter than 127.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, name.len() as u8];
    field.extend(name.as_bytes());
    field.push(value.len() as u8);
    field.extend(value.as_bytes());
    field
}

/// The head of a call, without trailing.
fn head() -> Vec<u8> {
    let mut head = vec![0x83, 0x86]; // :method POST, :scheme http (RFC 7541, appendix A)
    for (name, value) in [
        (":path", BATCH_SENDER),
        (":authority", "doppler"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        head.extend(literal(name, value));
    }
    head
}

/// A connection that has said what HTTP/2 begins with.
async fn begun(doppler: &Doppler) -> Raw {
    let mut raw = Raw::connect(doppler.address, None).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    raw.send(&[&preface[..], &frame(SETTINGS, 0, 0, &[])].concat())
        .await;
    raw
}

/// Sends a flood to a Doppler and sees its connection end, and nothing else.
async fn ends_its_connection(flood: &[u8]) {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let before = doppler.process.usage().resident;
    for _ in 0..3 {
        let mut raw = begun(doppler).await;
        raw.send(flood).await;
        raw.hung_up(NOTICED).await;
    }
    let grown = doppler.process.usage().resident.saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes more");
    canary.sings().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_and_resetting_streams_in_a_hurry_ends_the_connection() {
    let head = head();
    let pairs = (0..20_000u32).flat_map(|n| {
        let id = 2 * n + 1;
        let cancel = 8u32.to_be_bytes();
        let opened = frame(HEADERS, END_HEADERS, id, &head);
        [opened, frame(RST_STREAM, 0, id, &cancel)]
    });
    ends_its_connection(&pairs.collect::<Vec<_>>().concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_more_streams_than_allowed_again_and_again_ends_the_connection() {
    let head = head();
    let heads = (0..1_000u32).map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &head));
    ends_its_connection(&heads.collect::<Vec<_>>().concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_empty_data_ends_the_connection() {
    let opened = frame(HEADERS, END_HEADERS, 1, &head());
    let nothing = frame(DATA, 0, 1, &[]).repeat(10_000);
    ends_its_connection(&[opened, nothing].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_ends_the_connection() {
    let opened = frame(HEADERS, 0, 1, &head());
    for more in [
        frame(CONTINUATION, 0, 1, &[]),
        frame(CONTINUATION, 0, 1, &literal("x", "y").repeat(1_000)),
    ] {
        let flood = [opened.clone(), more.repeat(10_000)].concat();
        ends_its_connection(&flood).await;
    }
}

/// One entry of the table, and then its number: a byte for four thousand.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_grows_when_unpacked_is_refused_and_holds_no_memory() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let before = doppler.process.usage().resident;
    let mut raw = begun(doppler).await;
    let mut bomb = head();
    bomb.extend([0x40, 1, b'x', 127, 0xA1, 0x1E]); // x: of 4,000 bytes, to be kept
    bomb.extend([b'y'; 4_000]);
    bomb.extend([0x80 | 62; 10_000]); // the newest entry, ten thousand times
    for n in 0..200u32 {
        raw.send(&frame(HEADERS, END_HEADERS, 2 * n + 1, &bomb))
            .await;
    }
    raw.hung_up(NOTICED).await;
    let grown = doppler.process.usage().resident.saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes more");
    canary.sings().await;
}

/// They are answered one by one, and what a peer does not read is not answered: that bounds
/// them. The connection is still there.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_pings_and_settings_are_answered_and_hold_no_memory() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let before = doppler.process.usage().resident;
    let mut raw = begun(doppler).await;
    for flood in [
        frame(PING, 0, 0, b"11111111").repeat(20),
        frame(SETTINGS, 0, 0, &[]).repeat(20),
    ] {
        for _ in 0..1_000 {
            assert!(raw.send(&flood).await);
            raw.drain().await;
        }
    }
    raw.send(&frame(PING, 0, 0, b"farewell")).await;
    raw.until(b"farewell").await;
    let grown = doppler.process.usage().resident.saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes more");
    canary.sings().await;
}
