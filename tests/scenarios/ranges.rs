//! What a process that is killed takes along is stated as a range, and the truth lies in it.
//!
//! The oracle: what the producer sent, less what the reader has.

use crate::SOON;
use harness::cluster::Cluster;
use harness::envelopes::Workload;
use harness::eventually;
use harness::process::Signal;
use std::time::Duration;

/// Envelopes sent at a time, and how often: 20,000 a second, which both programs follow easily.
const STEP: u64 = 100;
const EVERY: Duration = Duration::from_millis(5);

/// Envelopes that may lie between a producer that is cut off and its Doppler: what its call holds,
/// and HTTP/2 windows (512 KiB) of envelopes of more than 200 bytes. The Doppler follows, so that
/// sockets are empty.
const IN_WINDOWS: u64 = 5 * STEP + (512 << 10) / 200;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_with_a_doppler_that_is_killed_lies_in_the_range_that_is_stated() {
    for round in 0..3 {
        let cluster = Cluster::builder().dopplers(2).controllers(1);
        let mut cluster = cluster.start().await;
        let reader = cluster.controllers[0]
            .firehose("a")
            .filter("logs")
            .open()
            .await;
        cluster.subscribed("a", 1).await;
        let workload = Workload::logs(4, 200);
        let connection = cluster.dopplers[0].connection().await;
        let mut call = connection.call(harness::producer::BATCH_SENDER).await;
        let sending = tokio::spawn(async move {
            let mut every = tokio::time::interval(EVERY);
            let mut sent = 0;
            loop {
                every.tick().await;
                let step = (sent..sent + STEP).map(|n| workload.envelope(0, n));
                if call.send(harness::envelopes::batch(step)).await.is_err() {
                    return sent;
                }
                sent += STEP;
            }
        });
        reader.receives(5_000 + 1_000 * round, SOON).await;
        cluster.dopplers[0].process.signal(Signal::Kill);
        let sent = sending.await.unwrap();

        let controller = &cluster.controllers[0];
        let dead = cluster.dopplers[0].address.to_string();
        eventually(SOON, "the link is over", async || {
            let page = controller.page().await;
            let mut links = page.subscriptions.iter().flat_map(|open| &open.links);
            links.any(|link| link.doppler == dead && !link.connected && link.received > 0)
        })
        .await;
        let page = controller.page().await;
        let received = page.subscriptions[0].account.offered;
        reader.receives(received, SOON).await;
        let lost = sent - reader.received();
        let (least, most) = page.gap_range();
        assert!(least <= lost, "{lost} lost, at least {least}");
        assert!(
            lost <= most + IN_WINDOWS,
            "{lost} lost, at most {most} and what lay in windows"
        );
        // 20,000 a second, of 100 ms and a little more.
        assert!((1..20_000).contains(&(most - least)), "{least} to {most}");
        let links = &page.subscriptions[0].links;
        assert!(
            links.iter().all(|link| link.gap_without_bound == 0),
            "{links:?}"
        );
        let metrics = controller.metrics().await;
        let metric = "traffic_controller_link_gap_at_most_envelopes_total";
        eventually(SOON, "the metric says so too", async || {
            controller.metrics().await.sum(metric, &[]) >= most as f64
        })
        .await;
        assert_eq!(metrics.imbalance(), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_doppler_held_for_a_reader_that_does_not_read_lies_in_the_range_too() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .controller_flag("--slow-consumer-patience", 30);
    let mut cluster = cluster.start().await;
    let canary = cluster.controllers[0].firehose("canary").filter("logs");
    let canary = canary.open().await;
    let slow = cluster.controllers[0].firehose("slow").filter("logs");
    let slow = slow.receive_buffer(128 << 10).open().await;
    cluster.subscribed("canary", 1).await;
    cluster.subscribed("slow", 1).await;
    let workload = Workload::logs(4, 500);
    let mut producer = cluster.dopplers[0].producer(0, workload).await;
    let mut every = tokio::time::interval(EVERY);
    // It reads at first, so that its link has something to say; then it does not.
    while producer.sent() < 60_000 {
        every.tick().await;
        producer.send(STEP).await;
        if producer.sent() == 10_000 {
            slow.receives(5_000, SOON).await;
            slow.stall();
        }
    }
    // All was taken in: nothing lies in a window.
    canary.receives(producer.sent(), SOON).await;
    let held = cluster.dopplers[0].page().await.firehose("slow", "logs").0;
    assert!(held.queued > 10_000, "{held:?}");
    cluster.dopplers[0].process.signal(Signal::Kill);
    slow.resume();
    let controller = &cluster.controllers[0];
    eventually(SOON, "its links are over", async || {
        let page = controller.page().await;
        let mut links = page.subscriptions.iter().flat_map(|open| &open.links);
        links.all(|link| !link.connected)
    })
    .await;
    let page = controller.page().await;
    let stream = page
        .subscriptions
        .iter()
        .find(|open| open.firehose.as_deref() == Some("slow"))
        .unwrap();
    slow.receives(stream.account.offered, SOON).await;
    let lost = producer.sent() - slow.received();
    let link = &stream.links[0];
    assert!(
        link.gap <= lost && lost <= link.gap_at_most,
        "{lost}: {link:?}"
    );
    slow.seen().assert_clean("the slow one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_with_a_traffic_controller_that_is_killed_lies_in_the_range_that_is_stated() {
    for round in 0..3 {
        let cluster = Cluster::builder()
            .dopplers(1)
            .controllers(2)
            .doppler_flag("--linger", "0.2");
        let mut cluster = cluster.start().await;
        let canary = cluster.controllers[1].firehose("canary").filter("logs");
        let canary = canary.open().await;
        let reader = cluster.controllers[0].firehose("a").filter("logs");
        let reader = reader.open().await;
        cluster.subscribed("canary", 1).await;
        cluster.subscribed("a", 1).await;
        let workload = Workload::logs(4, 200);
        let mut producer = cluster.dopplers[0].producer(0, workload).await;
        let mut every = tokio::time::interval(EVERY);
        while producer.sent() < 10_000 + 1_000 * round {
            every.tick().await;
            producer.send(STEP).await;
        }
        reader.receives(5_000, SOON).await;
        cluster.controllers[0].process.signal(Signal::Kill);
        canary.receives(producer.sent(), SOON).await;
        let doppler = &cluster.dopplers[0];
        eventually(SOON, "the Doppler has closed the book", async || {
            doppler.page().await.firehose("a", "logs").1 == 0
        })
        .await;
        eventually(SOON, "the reader has what was on its way", async || {
            reader.is_over().is_some()
        })
        .await;
        let page = doppler.page().await;
        let ended = page.ended();
        let lost = ended.offered - reader.received();
        let (least, most) = (ended.lost(), ended.lost() + page.unconfirmed);
        assert!((least..=most).contains(&lost), "{lost}: {least} to {most}");
        // 20,000 a second, of the 100 ms in which nothing was confirmed.
        assert!(page.unconfirmed < 20_000, "{}", page.unconfirmed);
        let metric = "doppler_unconfirmed_envelopes_total";
        let shown = doppler.metrics().await.sum(metric, &[]);
        assert_eq!(shown, page.unconfirmed as f64);
        assert!(canary.is_over().is_none());
    }
}
