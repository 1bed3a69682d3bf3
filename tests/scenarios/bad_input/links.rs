//! A link with somebody else at the other end.

use super::{Canary, counted, wrongs};
use crate::SOON;
use harness::cluster::Cluster;
use harness::envelopes::{Workload, guid};
use harness::eventually;
use harness::fake::{FakeDoppler, PROTOCOL};
use harness::raw::{End, Raw, head, masked, unmasked};
use prost::Message;
use proto::convert::to_v1;
use std::time::Duration;

/// A link to a Doppler as a Traffic Controller would open it.
async fn link(cluster: &Cluster, path: &str) -> Raw {
    let line = format!("Sec-WebSocket-Protocol: {PROTOCOL}");
    Raw::websocket(cluster.dopplers[0].address, None, path, &[&line]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traffic_controller_that_talks_garbage_is_told_so_by_the_doppler() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let many: Vec<String> = (0..501).map(|n| format!("[{n},\"app\"]")).collect();
    let many = format!(r#"{{"subscribe":[{}]}}"#, many.join(","));
    let long = format!(r#"{{"subscribe":[[1,"{}"]]}}"#, "x".repeat(257));
    let garbage = [
        "",
        "garbage",
        "{",
        "[]",
        r#"{"subscribe":"all"}"#,
        r#"{"subscribe":[[1]]}"#,
        r#"{"subscribe":[[-1,"app"]]}"#,
        r#"{"subscribe":[[4294967296,"app"]]}"#,
        r#"{"subscribe":[[1,""]]}"#,
        &long,
        &many,
        r#"{"unsubscribe":[1.5]}"#,
        r#"{"subscribe":[],"unsubscribe":[]}"#,
        r#"{"written":{"epoch":-1,"written":0}}"#,
        // Deep enough to overflow a stack that follows it.
        &"[".repeat(60_000),
    ];
    let before = wrongs(doppler.admin).await;
    for path in ["/apps", "/firehose/garbage"] {
        for garbage in garbage {
            let mut raw = link(&cluster, path).await;
            raw.send(&masked(0x81, garbage.as_bytes())).await;
            let what = &garbage[..garbage.len().min(50)];
            match raw.end().await {
                End::Close(Some(1002), reason) => assert!(!reason.is_empty(), "{path} {what}"),
                end => panic!("{path} {what}: {end:?}"),
            }
        }
    }
    counted(doppler.admin, before, 2 * garbage.len()).await;
    canary.sings().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_traffic_controller_may_say_is_ignored_by_the_doppler() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let canary = Canary::beside(&cluster).await;
    let mut raw = link(&cluster, "/apps").await;
    for text in [
        "{}",
        r#"{"pause":[1]}"#,
        r#"{"written":{"epoch":1,"written":2,"seen":3},"since":"v9"}"#,
        r#"{"unsubscribe":[12345]}"#,
        &format!(r#"{{"subscribe":[[8,"{}"]]}}"#, guid(7)),
    ] {
        raw.send(&masked(0x81, text.as_bytes())).await;
    }
    raw.send(&masked(0x82, b"a binary")).await;
    let page = async || cluster.dopplers[0].page().await;
    eventually(SOON, "the Doppler knows the tail", async || {
        page().await.app(&guid(7)).1 == 1
    })
    .await;
    let mut producer = cluster.dopplers[0].producer(1, Workload::logs(8, 50)).await;
    producer.send(100).await;
    let sent = (0..100)
        .filter(|n| producer.workload().app(*n) == 7)
        .count();
    let mut seen = harness::seen::Seen::default();
    while seen.marked < sent as u64 {
        let frame = raw.frame().await.expect("the link lives");
        if frame.first == 0x82 {
            let (handle, envelope) = frame.payload.split_first_chunk::<4>().expect("a handle");
            assert_eq!(u32::from_be_bytes(*handle), 8);
            seen.take(envelope, Some(7));
        }
    }
    seen.assert_complete("the link", sent as u64);
    // The counts come in the end, and then the Close.
    raw.send(&masked(0x81, br#"{"unsubscribe":[8]}"#)).await;
    loop {
        let text = raw.text_frame().await.expect("an account");
        if text.contains("ended") {
            let ended: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(ended["ended"]["handle"], 8, "{text}");
            assert_eq!(ended["ended"]["sent"], sent, "{text}");
            break;
        }
    }
    raw.send(&masked(0x81, br#"{"leave":{}}"#)).await;
    assert!(matches!(raw.end().await, End::Close(Some(1000 | 1001), _)));
    canary.sings().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traffic_controller_that_asks_twice_for_an_app_or_under_a_handle_is_told_so() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let doppler = &cluster.dopplers[0];
    let canary = Canary::beside(&cluster).await;
    let before = wrongs(doppler.admin).await;
    for twice in ["[[1,\"a\"],[1,\"b\"]]", "[[1,\"a\"],[2,\"a\"]]"] {
        let mut raw = link(&cluster, "/apps").await;
        raw.send(&masked(
            0x81,
            format!("{{\"subscribe\":{twice}}}").as_bytes(),
        ))
        .await;
        match raw.end().await {
            End::Close(Some(1008), reason) => assert!(!reason.is_empty()),
            end => panic!("{twice}: {end:?}"),
        }
    }
    // What it had asked for before is forgotten.
    let only_the_canarys = async || doppler.page().await.subscriptions.len() == 2;
    eventually(SOON, "its queues are gone", only_the_canarys).await;
    counted(doppler.admin, before, 2).await;
    canary.sings().await;
    cluster.assert_balanced().await;
}

/// One real Doppler and one fake, whose app link is handed out.
async fn with_a_fake() -> (Cluster, FakeDoppler) {
    let fake = FakeDoppler::start().await;
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .also_reading(fake.address)
        .start()
        .await;
    (cluster, fake)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_breaks_the_protocol_is_hung_up_on_and_dialled_again() {
    let (cluster, mut fake) = with_a_fake().await;
    let controller = &cluster.controllers[0];
    let canary = Canary::beside(&cluster).await;
    let before = wrongs(controller.admin).await;
    let breaches = [
        ("with a mask", masked(0x82, b"hello")),
        ("with a reserved bit", unmasked(0xC2, b"hello")),
        ("with an unknown opcode", unmasked(0x83, b"hello")),
        ("a continuation of nothing", unmasked(0x80, b"hello")),
        ("17 MiB, announced", head(0x82, 17 << 20, 0)),
        ("a text that is not UTF-8", unmasked(0x81, b"\xff\xfe")),
        ("no WebSocket", b"HTTP/1.1 500 Oh no\r\n\r\n".repeat(10)),
    ];
    for path in ["/apps", "/firehose/canary"] {
        for (what, breach) in &breaches {
            let mut link = tokio::time::timeout(Duration::from_secs(10), fake.link(path))
                .await
                .expect(what);
            link.send(breach).await;
            let close = tokio::time::timeout(SOON, link.ended()).await.expect(what);
            let code = close
                .and_then(|close| close.payload.first_chunk::<2>().copied())
                .map(u16::from_be_bytes);
            assert!(
                matches!(code, Some(1002 | 1007 | 1009)),
                "{path}, {what}: {code:?}"
            );
        }
    }
    counted(controller.admin, before, 2 * breaches.len()).await;
    canary.sings().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_talks_garbage_spoils_nothing() {
    let (cluster, mut fake) = with_a_fake().await;
    let controller = &cluster.controllers[0];
    let canary = Canary::beside(&cluster).await;
    let tail = controller.tail(7).open().await;
    let mut link = fake.link("/apps").await;
    // The Traffic Controller asks for all apps that are tailed, each under a handle.
    let handle = loop {
        let text = link.text().await.expect("a subscription");
        let asked: serde_json::Value = serde_json::from_str(&text).unwrap();
        let apps = asked["subscribe"].as_array().cloned().unwrap_or_default();
        if let Some(app) = apps.iter().find(|app| app[1] == guid(7)) {
            break app[0].as_u64().unwrap() as u32;
        }
    };
    let before = wrongs(controller.admin).await;
    let envelope = |sequence| {
        let mut envelope = Workload::logs(1, 50).envelope(5, sequence);
        let mark = harness::envelopes::Mark {
            producer: 5,
            sequence,
            app: 7,
        };
        envelope.clone_from(&harness::envelopes::log(mark, 50));
        to_v1(&envelope).unwrap()[0].encode_to_vec()
    };
    let behind = |handle: u32, envelope: &[u8]| [&handle.to_be_bytes()[..], envelope].concat();
    link.frame(0x82, &behind(handle, &envelope(0))).await;
    let garbage: [(u8, Vec<u8>); 10] = [
        (0x81, b"garbage".to_vec()),
        (0x81, b"{".to_vec()),
        (0x81, b"[]".to_vec()),
        (0x81, br#"{"report":{"epoch":1}}"#.to_vec()),
        (0x81, br#"{"report":{"epoch":1,"sent":1,"dropped":0,"queued":0},"ended":{"handle":1,"sent":0,"dropped":0}}"#.to_vec()),
        (0x81, br#"{"ended":{"handle":-1,"sent":0,"dropped":0}}"#.to_vec()),
        // No handle, half of one, somebody else's, and a text where an envelope is due.
        (0x82, b"".to_vec()),
        (0x82, b"\x00\x00".to_vec()),
        (0x82, behind(0xFFFF_FFFF, &envelope(1))),
        (0x81, envelope_as_text()),
    ];
    for (first, payload) in &garbage {
        link.frame(*first, payload).await;
    }
    // A link that was ended for it is opened again; one that was not goes on.
    let again = tokio::time::timeout(Duration::from_secs(5), fake.link("/apps")).await;
    let mut link = again.unwrap_or(link);
    link.frame(0x82, &behind(handle, &envelope(2))).await;
    tail.receives(2, SOON).await;
    let seen = tail.seen();
    seen.assert_clean("the tail");
    assert!(seen.has(5, 0) && seen.has(5, 2) && !seen.has(5, 1));
    // An unknown handle is no wrong: it may have ended a moment ago. Its envelope is counted.
    counted(controller.admin, before, garbage.len() - 1).await;
    canary.sings().await;
    cluster.assert_balanced().await;
}

/// What an envelope looks like to somebody who takes it for a text.
fn envelope_as_text() -> Vec<u8> {
    let envelope = &to_v1(&Workload::logs(1, 50).envelope(5, 9)).unwrap()[0];
    String::from_utf8_lossy(&envelope.encode_to_vec())
        .into_owned()
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_accepts_and_says_nothing_holds_nobody_up() {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .also_reading(silent.local_addr().unwrap());
    let cluster = cluster.start().await;
    let canary = Canary::beside(&cluster).await;
    let said = || {
        cluster.controllers[0]
            .process
            .logged("cannot read from a Doppler")
    };
    eventually(SOON, "it is said that it does not answer", async || said()).await;
    canary.sings().await;
}
