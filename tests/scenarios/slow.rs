//! Who is too slow is closed, is told so, and costs nobody else anything; who only looks slow is
//! not.
//!
//! The oracle of how much it lost: what the event says is what `/subscriptions` says.

use crate::SOON;
use harness::admin::Page;
use harness::agent::Agent;
use harness::cluster::{Cluster, Controller};
use harness::envelopes::Workload;
use harness::eventually;
use harness::producer::Producer;
use harness::reader::{Ended, Reader};
use std::time::{Duration, Instant};

/// Bytes a stalled reader's kernel takes for it: see `overdriven`.
const SMALL: u32 = 128 << 10;

/// What a Doppler may hold for firehoses here: less than being 4 MiB behind takes.
const LOG_BYTES: u64 = 3 << 20;

/// Envelopes that may be between a producer and the reader that keeps up.
const ROUND: u64 = 500;

/// How long after the 5 s a client is closed: looked at every second, and what a busy machine
/// adds.
const AFTER: Duration = Duration::from_secs(15);

const TITLE: &str = "Traffic Controller has disconnected slow consumer";

/// Sends at the pace of `reader` until `done`; panics if that takes longer than `AFTER`.
async fn send_until(
    reader: &Reader,
    producer: &mut Producer,
    mut done: impl AsyncFnMut() -> bool,
    what: &str,
) -> Duration {
    let began = Instant::now();
    while !done().await {
        assert!(began.elapsed() < AFTER, "not within {AFTER:?}: {what}");
        producer.send(ROUND).await;
        reader.receives(producer.sent(), SOON).await;
    }
    began.elapsed()
}

/// Whether a client of that firehose was closed for being slow, or is about to be.
fn is_closed(page: &Page, id: &str) -> bool {
    let (account, open) = page.firehose(id, "everything");
    open == 0 || account.dropped.contains_key("slow_consumer")
}

async fn slow_consumers(controller: &Controller) -> f64 {
    let metrics = controller.metrics().await;
    metrics.sum("traffic_controller_slow_consumers_total", &[])
}

/// What the only event says was lost.
async fn told(agent: &Agent) -> u64 {
    eventually(SOON, "the agent is told", async || {
        agent.events(TITLE).len() == 1
    })
    .await;
    let body = agent.events(TITLE).remove(0);
    let lost = body
        .lines()
        .find_map(|line| line.strip_prefix("Envelopes lost: "));
    lost.unwrap_or_else(|| panic!("{body}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firehose_that_takes_nothing_and_loses_is_closed_and_the_event_says_how_much_it_lost() {
    let agent = Agent::start(0, None).await;
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .doppler_flag("--log-bytes", LOG_BYTES)
        .controller_flag("--agent-grpc-address", agent.address);
    let cluster = cluster.start().await;
    let controller = &cluster.controllers[0];
    let canary = controller.firehose("canary").open().await;
    let slow = controller
        .firehose("slow")
        .receive_buffer(SMALL)
        .open()
        .await;
    cluster.subscribed("canary", 1).await;
    cluster.subscribed("slow", 1).await;
    let mut producer = cluster.dopplers[0]
        .producer(0, Workload::logs(4, 1_000))
        .await;

    slow.stall();
    let closed = async || is_closed(&controller.page().await, "slow");
    let after = send_until(&canary, &mut producer, closed, "the slow one is closed").await;
    assert!(after >= Duration::from_secs(5), "after {after:?}");
    // It reads again within the second it gets to hear so.
    slow.resume();
    let told_so = slow.ended(SOON).await;
    assert_eq!(told_so, Ended::Closed(Some(1000), String::new()));
    slow.seen().assert_clean("the slow one");

    let lost = told(&agent).await;
    let page = controller.page().await;
    assert!(page.missed_by_those_gone() > 0, "{page:?}");
    assert_eq!(lost, page.ended().lost() + page.missed_by_those_gone());
    // The group went on losing until nobody came back.
    let there = cluster.dopplers[0].page().await.sum().lost();
    assert!(there >= page.missed_by_those_gone(), "{there}: {page:?}");
    assert_eq!(slow_consumers(controller).await, 1.0);
    let lines = controller.process.log();
    let lines: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("slow consumer"))
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(&format!("lost={lost}")), "{lines:?}");

    // I8: nobody else has noticed.
    canary.seen().assert_complete("the canary", producer.sent());
    assert_eq!(canary.is_over(), None);
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_keeps_up_keeps_its_stalled_member_and_one_that_loses_does_not() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .doppler_flag("--log-bytes", LOG_BYTES)
        .controller_flag("--slow-consumer-patience", 2);
    let cluster = cluster.start().await;
    let controller = &cluster.controllers[0];
    let canary = controller.firehose("canary").open().await;
    let member = async || {
        let opening = controller.firehose("shared").receive_buffer(SMALL);
        opening.open().await
    };
    let (stalled, other) = (member().await, member().await);
    cluster.subscribed("canary", 1).await;
    cluster.subscribed("shared", 2).await;
    let mut producer = cluster.dopplers[0]
        .producer(0, Workload::logs(4, 1_000))
        .await;

    // Three times its patience: until its sockets are full, and then twice over.
    stalled.stall();
    let began = Instant::now();
    let enough = async || began.elapsed() > Duration::from_secs(8);
    send_until(&canary, &mut producer, enough, "time passes").await;
    assert_eq!((stalled.is_over(), other.is_over()), (None, None));
    assert_eq!(slow_consumers(controller).await, 0.0);
    assert_eq!(
        controller.page().await.firehose("shared", "everything").1,
        2
    );

    // Now nobody is idle, and the group loses.
    other.stall();
    let both = async || slow_consumers(controller).await == 2.0;
    send_until(&canary, &mut producer, both, "both are closed").await;
    assert_eq!(
        controller.page().await.firehose("shared", "everything").1,
        0
    );
    canary.seen().assert_complete("the canary", producer.sent());
    assert_eq!(canary.is_over(), None);
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_takes_nothing_and_loses_is_closed_as_its_operator_wishes() {
    for policy in [false, true] {
        let agent = Agent::start(0, None).await;
        let cluster = Cluster::builder()
            .dopplers(1)
            .controllers(1)
            .controller_flag("--agent-grpc-address", agent.address)
            .controller_flag("--slow-consumer-patience", 2)
            // Room for what the canary has not read yet.
            .controller_flag("--app-bytes", 1 << 20);
        let switch = ["--slow-consumer-policy-close".to_owned()];
        let switch = switch.into_iter().filter(|_| policy).collect();
        let cluster = cluster.controller_flags(switch).start().await;
        let controller = &cluster.controllers[0];
        let canary = controller.tail(0).open().await;
        let slow = controller.tail(0).receive_buffer(SMALL).open().await;
        let guid = harness::envelopes::guid(0);
        eventually(SOON, "both tails are readers", async || {
            controller.page().await.app(&guid).1 == 2
        })
        .await;
        cluster.tailed([0], 1).await;
        let mut producer = cluster.dopplers[0]
            .producer(0, Workload::logs(1, 1_000))
            .await;

        slow.stall();
        let closed = async || controller.page().await.app(&guid).1 == 1;
        send_until(&canary, &mut producer, closed, "the slow one is closed").await;
        slow.resume();
        let expected = match policy {
            true => (
                1008,
                "slow consumer: it took nothing while envelopes were lost",
            ),
            false => (1000, ""),
        };
        let expected = Ended::Closed(Some(expected.0), expected.1.to_owned());
        assert_eq!(slow.ended(SOON).await, expected);
        slow.seen().assert_clean("the slow one");
        let lost = told(&agent).await;
        assert!(lost > 0);
        assert_eq!(lost, controller.page().await.ended().lost());
        canary.seen().assert_complete("the canary", producer.sent());
        cluster.assert_balanced().await;
    }
}
