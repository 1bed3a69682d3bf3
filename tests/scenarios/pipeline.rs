//! At a rate that its readers can hold, the pipeline loses, doubles, swaps and leaks nothing.

use crate::SOON;
use crate::pace::Pace;
use harness::cluster::Cluster;
use harness::envelopes::{Workload, guid};
use harness::eventually;
use harness::reader::Reader;
use harness::seen::Seen;
use std::time::Duration;

/// Envelopes in all.
const MILLION: u64 = 1_000_000;

/// Agents' connections, half of them to each Doppler.
const PRODUCERS: u32 = 4;

/// Apps that send, and how many of them are tailed.
const APPS: u32 = 220;
const TAILED: u32 = 200;

/// Envelopes that each producer sends at once.
const ROUND: u64 = 1_000;

/// How many rounds the producers may be ahead of the slowest reader.
const AHEAD: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_million_mixed_envelopes_reach_every_subscription_whole_once_in_order_and_nobody_elses() {
    let cluster = Cluster::builder()
        .dopplers(2)
        .controllers(2)
        .mtls()
        .start()
        .await;
    let [east, west] = &cluster.controllers[..] else {
        unreachable!()
    };

    let alone = east.firehose("alone").open().await;
    let other = west.firehose("other").open().await;
    let members = [
        east.firehose("shared").open().await,
        west.firehose("shared").open().await,
        west.firehose("shared").open().await,
    ];
    // The same id with another filter is another subscription.
    let logs = west.firehose("alone").filter("logs").open().await;
    let mut tails = Vec::new();
    for app in 0..TAILED {
        tails.push(cluster.controllers[app as usize % 2].tail(app).open().await);
    }
    cluster.subscribed("alone", 2).await;
    cluster.subscribed("other", 1).await;
    cluster.subscribed("shared", 3).await;
    cluster.tailed(0..TAILED, 1).await;

    let workload = Workload::mixed(APPS);
    let mut producers = Vec::new();
    for id in 0..PRODUCERS {
        producers.push(
            cluster.dopplers[id as usize % 2]
                .producer(id, workload)
                .await,
        );
    }
    let mut pace = Pace::new(workload, PRODUCERS, AHEAD);
    while pace.sent() < MILLION {
        futures::future::join_all(producers.iter_mut().map(|producer| producer.send(ROUND))).await;
        pace.sent_each(ROUND);
        let shared = || members.iter().map(Reader::received).sum::<u64>();
        pace.wait(|then| {
            alone.received() >= then.all
                && other.received() >= then.all
                && shared() >= then.all
                && logs.received() >= then.logs
                && tails
                    .iter()
                    .zip(&then.apps)
                    .all(|(tail, app)| tail.received() >= *app)
        })
        .await;
    }
    for producer in producers {
        assert_eq!(producer.finish().await.grpc, Some(0));
    }

    let expected = pace.expected();
    alone.receives(expected.all, SOON).await;
    other.receives(expected.all, SOON).await;
    logs.receives(expected.logs, SOON).await;
    for (tail, expected) in tails.iter().zip(&expected.apps) {
        tail.receives(*expected, SOON).await;
    }
    let shared = || members.iter().map(Reader::received).sum::<u64>();
    eventually(SOON, "the shared subscription is complete", async || {
        shared() >= expected.all
    })
    .await;

    alone.seen().assert_complete("alone", expected.all);
    other.seen().assert_complete("other", expected.all);
    logs.seen().assert_complete("the logs", expected.logs);
    let mut together = Seen::default();
    members
        .iter()
        .for_each(|member| together.merge(&member.seen()));
    together.assert_complete("the three together", expected.all);
    for (app, (tail, expected)) in tails.iter().zip(&expected.apps).enumerate() {
        tail.seen()
            .assert_complete(&format!("the tail of app {app}"), *expected);
    }

    // What every process says is what came out.
    accounts_agree(&cluster, &logs, "alone", "logs").await;
    accounts_agree(&cluster, &alone, "alone", "everything").await;
    accounts_agree(&cluster, &other, "other", "everything").await;
    let (mut dopplers, mut controllers) = (Vec::new(), Vec::new());
    for doppler in &cluster.dopplers {
        dopplers.push(doppler.page().await);
    }
    for controller in &cluster.controllers {
        controllers.push(controller.page().await);
    }
    for (app, expected) in (0..TAILED).zip(&expected.apps) {
        let queues = dopplers.iter().map(|page| page.app(&guid(app)).0);
        let (offered, sent) = queues.fold((0, 0), |sum, queue| {
            (sum.0 + queue.offered, sum.1 + queue.sent)
        });
        let (tail, _) = controllers[app as usize % 2].app(&guid(app));
        assert_eq!(
            (offered, sent, tail.offered, tail.sent),
            (*expected, *expected, *expected, *expected)
        );
    }
    for page in &controllers {
        assert_eq!(page.gap(), 0, "something got lost between processes");
    }
    let mut taken = 0;
    for doppler in &cluster.dopplers {
        let page = doppler.page().await;
        taken += page.ingress.taken;
        assert_eq!((page.sum().lost(), page.ingress.dropped.len()), (0, 0));
    }
    assert!(taken >= MILLION, "{taken} envelopes were taken");
    cluster.assert_balanced().await;
}

/// Waits until Dopplers, Traffic Controllers and reader agree on a firehose to the envelope.
/// The Dopplers' own metrics come in between, so it is a question of the moment.
async fn accounts_agree(cluster: &Cluster, reader: &Reader, id: &str, filter: &str) {
    eventually(SOON, "all agree on what was sent", async || {
        let (mut sent, mut received, mut written) = (0, 0, 0);
        for doppler in &cluster.dopplers {
            sent += doppler.page().await.firehose(id, filter).0.sent;
        }
        for controller in &cluster.controllers {
            let account = controller.page().await.firehose(id, filter).0;
            received += account.offered;
            written += account.sent;
        }
        let seen = reader.look(Seen::messages);
        sent == received && received == written && written == seen
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_clients_of_an_app_get_all_of_it() {
    let cluster = Cluster::builder().dopplers(2).controllers(2).start().await;
    // Two at one Traffic Controller share a topic, the third has its own.
    let tails = [
        cluster.controllers[0].tail(1).open().await,
        cluster.controllers[0].tail(1).open().await,
        cluster.controllers[1].tail(1).open().await,
    ];
    cluster.tailed([1], 2).await;
    let workload = Workload::mixed(3);
    let mut pace = Pace::new(workload, 2, 1);
    let mut producers = Vec::new();
    for id in 0..2 {
        producers.push(cluster.dopplers[id as usize].producer(id, workload).await);
    }
    for _ in 0..20 {
        futures::future::join_all(producers.iter_mut().map(|producer| producer.send(500))).await;
        pace.sent_each(500);
        pace.wait(|then| tails.iter().all(|tail| tail.received() >= then.apps[1]))
            .await;
    }
    let expected = pace.expected().apps[1];
    for tail in &tails {
        tail.receives(expected, SOON).await;
        tail.seen().assert_complete("a tail", expected);
    }
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_is_on_its_way_for_milliseconds() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .start()
        .await;
    let reader = cluster.controllers[0].firehose("a").open().await;
    cluster.subscribed("a", 1).await;
    let mut producer = cluster.dopplers[0].producer(0, Workload::mixed(1)).await;
    // Chunks are sealed by a timer when few envelopes come: none may wait for the next.
    for n in 1..=100 {
        producer.send(1).await;
        reader.receives(n, Duration::from_secs(2)).await;
    }
    reader.seen().assert_complete("a", 100);
}
