//! What agents should not send.

use super::{Canary, counted, counts, wrongs};
use crate::SOON;
use bytes::Bytes;
use harness::cluster::Cluster;
use harness::envelopes::{Mark, Workload, counter, gauge, log, message, prefix, timer};
use harness::eventually;
use harness::producer::BATCH_SENDER;
use harness::raw::Raw;
use prost::Message;
use proto::v2::{Envelope, EnvelopeBatch};
use std::time::Duration;

const SENDER: &str = "/loggregator.v2.Ingress/Sender";
const PUSHER: &str = "/plumbing.DopplerIngestor/Pusher";

/// The largest message (upstream's `MaxRecvMsgSize`).
const MAX: usize = 10 << 20;

const REFUSED: &str = "doppler_ingress_refused_messages_total";
const DROPPED: &str = "doppler_ingress_dropped_envelopes_total";

const INTERNAL: Option<u32> = Some(13);
const RESOURCE_EXHAUSTED: Option<u32> = Some(8);
const UNIMPLEMENTED: Option<u32> = Some(12);

async fn one_of_each() -> Cluster {
    Cluster::builder().dopplers(1).controllers(1).start().await
}

fn mark(sequence: u64) -> Mark {
    Mark {
        producer: 1,
        sequence,
        app: 7,
    }
}

/// A field of protobuf: a length and bytes.
fn bytes(number: u32, value: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::bytes::encode(number, &value.to_vec(), &mut field);
    field
}

/// A field of protobuf: a number.
fn number(number: u32, value: u64) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::uint64::encode(number, &value, &mut field);
    field
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused_in_upstreams_words_and_the_connection_lives() {
    let cluster = one_of_each().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let connection = doppler.connection().await;
    let garbage: [&[u8]; 4] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x0a\x05abc",
        b"\x0a",
        b"\x08\x01\x0a\x02a",
    ];
    for (n, garbage) in garbage.iter().enumerate() {
        for method in [BATCH_SENDER, PUSHER] {
            let mut call = connection.call(method).await;
            call.send(message(garbage)).await.unwrap();
            let answer = call.answered().await;
            assert_eq!(answer.http, 200);
            assert_eq!(answer.grpc, INTERNAL, "{method} {garbage:02x?}: {answer:?}");
            assert_eq!(
                answer.message,
                "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data"
            );
        }
        counts(doppler.admin, REFUSED, "malformed", 2 * (n as u64 + 1)).await;
    }
    // A message of Sender is an envelope: a bad one is skipped like one in a batch.
    let mut call = connection.call(SENDER).await;
    for garbage in garbage {
        call.send(message(garbage)).await.unwrap();
    }
    assert_eq!(call.finish().await.grpc, Some(0));
    counts(doppler.admin, DROPPED, "malformed", garbage.len() as u64).await;
    canary.sings().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_too_soon_is_refused_and_nothing_of_it_is_taken() {
    let cluster = one_of_each().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let connection = doppler.connection().await;
    let reader = cluster.controllers[0].tail(7).open().await;
    cluster.tailed([7], 1).await;
    let whole = harness::envelopes::batch((0..10).map(|n| log(mark(n), 50)));
    for cut in [3, 5, 6, whole.len() / 2, whole.len() - 1] {
        let before = wrongs(doppler.admin).await;
        let mut call = connection.call(BATCH_SENDER).await;
        call.send(whole.slice(..cut)).await.unwrap();
        let answer = call.finish().await;
        assert_ne!(answer.grpc, Some(0), "cut at {cut}: {answer:?}");
        counted(doppler.admin, before, 1).await;
    }
    // The last envelope of a message that is whole is not.
    let before = wrongs(doppler.admin).await;
    let mut call = connection.call(BATCH_SENDER).await;
    call.send(message(&whole[5..whole.len() - 10]))
        .await
        .unwrap();
    assert_eq!(call.answered().await.grpc, INTERNAL);
    counted(doppler.admin, before, 1).await;

    let mut call = connection.call(BATCH_SENDER).await;
    call.send(whole).await.unwrap();
    assert_eq!(call.finish().await.grpc, Some(0));
    reader.receives(10, SOON).await;
    reader.seen().assert_complete("the tail", 10);
    canary.sings().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_ten_mebibytes_is_taken_and_one_byte_more_is_refused() {
    let cluster = one_of_each().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let connection = doppler.connection().await;
    let filler = |length: usize| {
        // Key and length of a field this long take 5 bytes.
        let message = bytes(15, &vec![b'x'; length - 5]);
        assert_eq!(message.len(), length);
        message
    };
    let mut call = connection.call(BATCH_SENDER).await;
    call.send(message(&filler(MAX))).await.unwrap();
    assert_eq!(call.finish().await.grpc, Some(0));

    let mut call = connection.call(BATCH_SENDER).await;
    let _ = call.send(message(&filler(MAX + 1))).await;
    let answer = call.answered().await;
    assert_eq!(answer.grpc, RESOURCE_EXHAUSTED, "{answer:?}");
    assert_eq!(
        answer.message,
        "grpc: received message larger than max (10485761 vs. 10485760)"
    );
    counts(doppler.admin, REFUSED, "too_large", 1).await;
    // It is refused for its prefix: before anything of it is here.
    let mut call = connection.call(BATCH_SENDER).await;
    call.send(prefix(u32::MAX as usize)).await.unwrap();
    assert_eq!(call.answered().await.grpc, RESOURCE_EXHAUSTED);
    counts(doppler.admin, REFUSED, "too_large", 2).await;
    canary.sings().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_grpc_or_not_ours_is_answered() {
    let cluster = one_of_each().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let connection = doppler.connection().await;
    for path in [
        "/loggregator.v2.Ingress/Nonsense",
        "/grpc.health.v1.Health/Check",
        "/",
        "/x",
    ] {
        let answer = connection.call(path).await.finish().await;
        assert_eq!(answer.grpc, UNIMPLEMENTED, "{path}: {answer:?}");
        assert!(!answer.message.is_empty(), "{path}");
    }
    // A compressed message: no compression was agreed on.
    let before = wrongs(doppler.admin).await;
    let mut call = connection.call(BATCH_SENDER).await;
    let mut compressed = message(b"").to_vec();
    compressed[0] = 1;
    call.send(compressed.into()).await.unwrap();
    let answer = call.answered().await;
    assert!(
        [INTERNAL, UNIMPLEMENTED].contains(&answer.grpc),
        "{answer:?}"
    );
    counted(doppler.admin, before, 1).await;
    canary.sings().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn millions_of_empty_envelopes_cost_less_than_ten_times_their_size() {
    // No firehose: it would only show how fast its reader is. A small log shows the rest.
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .doppler_flag("--log-bytes", 4 << 20);
    let cluster = cluster.start().await;
    let doppler = &cluster.dopplers[0];
    let greedy = cluster.controllers[0].firehose("greedy").open().await;
    let tail = cluster.controllers[0].tail(7).open().await;
    cluster.subscribed("greedy", 1).await;
    cluster.tailed([7], 1).await;

    let connection = doppler.connection().await;
    let before = doppler.process.usage();
    let no_message = bytes(1, b"");
    // A log without a word: 4 bytes that v1 needs 20 for.
    let empty_log = bytes(1, &bytes(4, b""));
    for empty in [&no_message, &empty_log] {
        let mut call = connection.call(BATCH_SENDER).await;
        call.send(message(&empty.repeat(MAX / empty.len())))
            .await
            .unwrap();
        assert_eq!(call.finish().await.grpc, Some(0));
    }
    let after = doppler.process.usage();
    let grown = after.peak_resident - before.resident;
    assert!(
        grown < 10 * MAX as u64,
        "{} MiB for a message of 10",
        grown >> 20
    );
    counts(
        doppler.admin,
        DROPPED,
        "not_v1",
        (MAX / no_message.len()) as u64,
    )
    .await;

    let mut producer = doppler.producer(1, Workload::logs(8, 50)).await;
    producer.send(1_000).await;
    let sent = (0..1_000)
        .filter(|n| producer.workload().app(*n) == 7)
        .count() as u64;
    tail.receives(sent, SOON).await;
    tail.seen().assert_complete("a tail beside it", sent);
    drop(greedy);
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_messages_on_many_streams_take_a_bounded_amount_of_memory() {
    let cluster = one_of_each().await;
    let doppler = &cluster.dopplers[0];
    // Its messages are 60 KiB: as those of agents that are busy.
    let canary = Canary::of(&cluster, 500).await;
    let before = doppler.process.usage();

    // 400 times 10 MiB announced, all but the last byte ready to be sent.
    let mut connections = Vec::new();
    let mut halves = Vec::new();
    for _ in 0..4 {
        let connection = doppler.connection().await;
        for _ in 0..100 {
            let mut call = connection.call(BATCH_SENDER).await;
            halves.push(tokio::spawn(async move {
                let chunk = Bytes::from(vec![b'x'; 64 << 10]);
                let mut sent = call.send(prefix(MAX)).await;
                let mut missing = MAX - 1;
                while sent.is_ok() && missing > 0 {
                    let part = chunk.slice(..missing.min(chunk.len()));
                    missing -= part.len();
                    sent = call.send(part).await;
                }
                sent.is_ok().then_some(call)
            }));
        }
        connections.push(connection);
    }
    let heard = canary.heard();
    // Each is given up after some seconds; nobody waits for one that is never finished.
    counted_unfinished(doppler.admin).await;
    let peak = doppler.process.usage().peak_resident;
    let grown = (peak - before.resident) >> 20;
    // 32 MiB of budget, which a growing buffer may hold twice, and what HTTP/2 lets peers send.
    assert!(grown < 96, "{grown} MiB for half-sent messages");
    let meanwhile = canary.heard() - heard;
    assert!(
        meanwhile > 1_000,
        "meanwhile the agent beside them got {meanwhile} envelopes through"
    );

    // The peers go; then there is room for a whole message again.
    halves.iter().for_each(tokio::task::JoinHandle::abort);
    connections
        .into_iter()
        .for_each(harness::producer::Connection::cut);
    let connection = doppler.connection().await;
    let mut call = connection.call(BATCH_SENDER).await;
    call.send(message(&bytes(15, &vec![b'x'; MAX - 5])))
        .await
        .unwrap();
    assert_eq!(call.finish().await.grpc, Some(0));
    canary.sings().await;
    cluster.assert_balanced().await;
}

async fn counted_unfinished(admin: std::net::SocketAddr) {
    eventually(
        Duration::from_secs(30),
        "a message that is never finished is given up",
        async || {
            harness::admin::metrics(admin)
                .await
                .sum(REFUSED, &[("reason", "unfinished")])
                >= 1.0
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_envelope_that_lacks_what_it_must_have_is_counted_and_skipped() {
    let cluster = one_of_each().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let mut reader = Raw::websocket(
        cluster.controllers[0].address,
        None,
        "/firehose/raw?filter-type=logs",
        &[],
    )
    .await;
    cluster.subscribed("raw", 1).await;

    let (origin, log_type) = (bytes(1, b"test"), number(2, 5));
    let (text, out, stamp) = (bytes(1, b"hello"), number(2, 1), number(3, 9));
    let envelope = |parts: &[&[u8]]| parts.concat();
    let log = |parts: &[&[u8]]| envelope(&[&origin, &log_type, &bytes(8, &parts.concat())]);
    let value = |parts: &[&[u8]]| envelope(&[&origin, &number(2, 6), &bytes(9, &parts.concat())]);
    let bad = [
        Vec::new(),
        b"garbage".to_vec(),
        envelope(&[&log_type]),
        envelope(&[&origin]),
        log(&[&out, &stamp]),
        log(&[&text, &stamp]),
        log(&[&text, &out]),
        value(&[&bytes(1, b"depth"), &bytes(3, b"items")]),
        envelope(&[&origin, &number(2, 7), &bytes(10, &bytes(1, b"requests"))]),
        envelope(&[&origin, &number(2, 9), &bytes(12, &bytes(1, b"app"))]),
    ];
    // Strings that are not UTF-8 and fields from the future pass, byte for byte.
    let latin1 = bytes(5, b"source type \xff\xfe");
    let good = envelope(&[
        &log(&[&text, &out, &stamp, &latin1, &bytes(99, b"new")]),
        &number(100, 1),
    ]);

    let connection = doppler.connection().await;
    let mut call = connection.call(PUSHER).await;
    for bad in &bad {
        call.send(message(&bytes(1, bad))).await.unwrap();
    }
    call.send(message(&bytes(1, &good))).await.unwrap();
    assert_eq!(call.finish().await.grpc, Some(0), "the stream lives");
    counts(doppler.admin, DROPPED, "malformed", bad.len() as u64).await;
    let frame = loop {
        let frame = reader.frame().await.expect("the stream goes on");
        let canarys = String::from_utf8_lossy(&frame.payload).contains("999/");
        if frame.first == 0x82 && !canarys {
            break frame;
        }
    };
    assert_eq!(frame.payload, good);
    canary.sings().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_with_text_that_is_not_utf_8_is_skipped_and_those_beside_it_are_not() {
    let cluster = one_of_each().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let reader = cluster.controllers[0].tail(7).open().await;
    cluster.tailed([7], 1).await;

    const PLACE: &str = "PLACE";
    let place = || PLACE.to_owned();
    let base = || log(mark(0), 50);
    let text = proto::v2::Value {
        data: Some(proto::v2::value::Data::Text(place())),
    };
    let with = |change: &dyn Fn(&mut Envelope), mut envelope: Envelope| {
        change(&mut envelope);
        envelope
    };
    let spoilt = [
        with(&|e| e.source_id = place(), base()),
        with(&|e| e.instance_id = place(), base()),
        with(&|e| drop(e.tags.insert("key".into(), place())), base()),
        with(&|e| drop(e.tags.insert(place(), "value".into())), base()),
        with(
            &|e| drop(e.deprecated_tags.insert("key".into(), text.clone())),
            base(),
        ),
        with(&|e| rename(e, PLACE), counter(mark(0))),
        with(&|e| rename(e, PLACE), gauge(mark(0))),
        with(&|e| rename(e, PLACE), timer(mark(0))),
    ];
    let mut sequence = 0;
    let mut good = || {
        sequence += 1;
        log(mark(sequence), 50).encode_to_vec()
    };
    let connection = doppler.connection().await;
    let mut call = connection.call(BATCH_SENDER).await;
    for spoilt in &spoilt {
        let mut spoilt = spoilt.encode_to_vec();
        let at = spoilt
            .windows(PLACE.len())
            .position(|window| window == PLACE.as_bytes())
            .unwrap();
        spoilt[at..at + 2].copy_from_slice(b"\xff\xfe");
        let batch = [bytes(1, &good()), bytes(1, &spoilt), bytes(1, &good())].concat();
        call.send(message(&batch)).await.unwrap();
    }
    // A payload is bytes.
    let mut payload = log(mark(1_000), 50);
    let Some(proto::v2::envelope::Message::Log(line)) = &mut payload.message else {
        unreachable!()
    };
    line.payload = b"\xff\xfe".to_vec();
    call.send(message(
        &EnvelopeBatch {
            batch: vec![payload],
        }
        .encode_to_vec(),
    ))
    .await
    .unwrap();
    assert_eq!(call.finish().await.grpc, Some(0), "the stream lives");

    counts(doppler.admin, DROPPED, "malformed", spoilt.len() as u64).await;
    let delivered = 2 * spoilt.len() as u64 + 1;
    reader.receives(delivered, SOON).await;
    reader.seen().assert_complete("the tail", delivered);
    canary.sings().await;
    cluster.assert_balanced().await;
}

/// Gives the counter, the gauge's metric or the timer another name.
fn rename(envelope: &mut Envelope, name: &str) {
    use proto::v2::envelope::Message as Body;
    match envelope.message.as_mut().unwrap() {
        Body::Counter(counter) => counter.name = name.into(),
        Body::Timer(timer) => timer.name = name.into(),
        Body::Gauge(gauge) => {
            let metrics = std::mem::take(&mut gauge.metrics);
            gauge.metrics = metrics
                .into_values()
                .map(|value| (name.to_owned(), value))
                .collect();
        }
        Body::Log(_) | Body::Event(_) => unreachable!("they have no name"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_from_the_future_are_passed_over() {
    let cluster = one_of_each().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let reader = cluster.controllers[0].tail(7).open().await;
    cluster.tailed([7], 1).await;
    let connection = doppler.connection().await;
    let mut call = connection.call(BATCH_SENDER).await;
    for sequence in 0..10 {
        let future = [bytes(500, b"later"), number(501, sequence)].concat();
        let envelope = [log(mark(sequence), 50).encode_to_vec(), future.clone()].concat();
        let batch = [future.clone(), bytes(1, &envelope), future].concat();
        call.send(message(&batch)).await.unwrap();
    }
    assert_eq!(call.finish().await.grpc, Some(0));
    reader.receives(10, SOON).await;
    reader.seen().assert_complete("the tail", 10);
    canary.sings().await;
    cluster.assert_balanced().await;
}
