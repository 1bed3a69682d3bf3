//! Clients that subscribe under one id share: each envelope goes to one of them.

use crate::SOON;
use harness::cluster::Cluster;
use harness::envelopes::Workload;
use harness::reader::{Ended, Reader};
use harness::seen::Seen;
use harness::{eventually, within};

/// Envelopes that are sent at once.
const ROUND: u64 = 1_000;

fn together(readers: &[&Reader]) -> Seen {
    let mut seen = Seen::default();
    readers.iter().for_each(|reader| seen.merge(&reader.seen()));
    seen
}

fn received(readers: &[Reader]) -> u64 {
    readers.iter().map(Reader::received).sum()
}

async fn three(cluster: &Cluster) -> Vec<Reader> {
    let mut members = Vec::new();
    for n in 0..3 {
        let controller = &cluster.controllers[n % cluster.controllers.len()];
        members.push(controller.firehose("shared").open().await);
    }
    cluster.subscribed("shared", 3).await;
    members
}

#[tokio::test(flavor = "multi_thread")]
async fn three_clients_of_one_subscription_get_equal_shares() {
    let cluster = Cluster::builder()
        .dopplers(2)
        .controllers(2)
        .mtls()
        .start()
        .await;
    let members = three(&cluster).await;
    let workload = Workload::mixed(10);
    let mut producers = Vec::new();
    for (id, doppler) in cluster.dopplers.iter().enumerate() {
        producers.push(doppler.producer(id as u32, workload).await);
    }
    let mut sent = 0;
    while sent < 100_000 {
        futures::future::join_all(producers.iter_mut().map(|producer| producer.send(ROUND))).await;
        sent += 2 * ROUND;
        eventually(SOON, "the group follows", async || {
            received(&members) + 2 * ROUND >= sent
        })
        .await;
    }
    eventually(SOON, "the group is complete", async || {
        received(&members) >= sent
    })
    .await;
    together(&members.iter().collect::<Vec<_>>()).assert_complete("the group", sent);
    for member in &members {
        let share = member.received() as f64 * 3.0 / sent as f64;
        assert!((0.9..=1.1).contains(&share), "one got {share} of its share");
    }
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stalls_holds_back_what_it_holds_and_nothing_else() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(2)
        .controller_flag("--slow-consumer-patience", 30)
        .start()
        .await;
    let members = three(&cluster).await;
    let mut producer = cluster.dopplers[0]
        .producer(0, Workload::logs(10, 500))
        .await;
    members[0].stall();
    // So much that the stalled member's sockets are full many times over.
    for _ in 0..60 {
        producer.send(ROUND).await;
        let others =
            async || members[1].received() + members[2].received() + 20 * ROUND >= producer.sent();
        eventually(SOON, "the others take what comes", others).await;
    }
    let account = cluster.dopplers[0]
        .page()
        .await
        .firehose("shared", "everything")
        .0;
    assert_eq!(account.lost(), 0);

    members[0].resume();
    eventually(SOON, "the group is complete", async || {
        received(&members) >= producer.sent()
    })
    .await;
    together(&members.iter().collect::<Vec<_>>()).assert_complete("the group", producer.sent());
    cluster.assert_balanced().await;
}

/// What Traffic Controllers and Dopplers counted as lost of the firehoses here, and what they
/// say got lost between them.
async fn residue(cluster: &Cluster) -> (u64, u64) {
    let mut pages = Vec::new();
    for controller in &cluster.controllers {
        pages.push(controller.page().await);
    }
    for doppler in &cluster.dopplers {
        pages.push(doppler.page().await);
    }
    let (mut lost, mut gap) = (0, 0);
    for page in pages {
        let sum = page.sum();
        let known = |reason: &String| reason == "close_residue";
        assert!(sum.dropped.keys().all(known), "{sum:?}");
        (lost, gap) = (lost + sum.lost(), gap + page.gap());
    }
    (lost, gap)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_says_goodbye_mid_stream_costs_what_is_counted_and_nothing_comes_twice() {
    let cluster = Cluster::builder().dopplers(1).controllers(2).start().await;
    let members = three(&cluster).await;
    let mut producer = cluster.dopplers[0]
        .producer(0, Workload::logs(10, 500))
        .await;
    for round in 0..60 {
        producer.send(ROUND).await;
        if round == 20 {
            assert_eq!(
                members[0].close(Some(1000)).await,
                Ended::Closed(Some(1000), String::new())
            );
        }
        eventually(SOON, "the group follows", async || {
            received(&members) + 10 * ROUND >= producer.sent()
        })
        .await;
    }
    // What is not counted as lost was received, by the leaver up to its Close or by the others.
    let readers: Vec<_> = members.iter().collect();
    let all = within(SOON, async || {
        together(&readers).distinct() + residue(&cluster).await.0 == producer.sent()
    });
    let all = all.await;
    let seen = together(&readers);
    let (lost, gap) = residue(&cluster).await;
    assert!(
        all && gap == 0,
        "{} received, {lost} counted as lost and {gap} between processes, of {}",
        seen.distinct(),
        producer.sent()
    );
    assert_eq!((seen.duplicates, seen.foreign), (0, 0));
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hangs_up_mid_stream_costs_at_most_what_its_sockets_held() {
    let cluster = Cluster::builder().dopplers(1).controllers(2).start().await;
    let mut members = three(&cluster).await;
    let mut producer = cluster.dopplers[0]
        .producer(0, Workload::logs(10, 500))
        .await;
    let mut gone = None;
    for round in 0..60 {
        producer.send(ROUND).await;
        if round == 20 {
            gone = Some(members.remove(0).cut().await);
        }
        let before = gone.as_ref().map_or(0, |seen| seen.marked);
        let follows = async || received(&members) + before + 10 * ROUND >= producer.sent();
        eventually(SOON, "the group follows", follows).await;
    }
    let mut seen = gone.unwrap();
    let others: Vec<_> = members.iter().collect();
    // Everything sent after it was gone.
    let after = 30 * ROUND..producer.sent();
    eventually(SOON, "the others have the rest", async || {
        let seen = together(&others);
        after.clone().all(|sequence| seen.has(0, sequence))
    })
    .await;
    seen.merge(&together(&others));
    assert_eq!((seen.duplicates, seen.foreign), (0, 0));
    // Written to a socket is not received: what the kernel held for it is nobody's to count.
    let missing = producer.sent() - seen.distinct();
    assert!(missing < 10 * ROUND, "{missing} are missing");
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_last_member_left_collects_for_whoever_comes_back() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let first = cluster.controllers[0].firehose("shared").open().await;
    cluster.subscribed("shared", 1).await;
    let mut producer = cluster.dopplers[0].producer(0, Workload::mixed(10)).await;
    producer.send(ROUND).await;
    first.receives(ROUND, SOON).await;
    first.close(Some(1000)).await;
    cluster.subscribed("shared", 0).await;

    producer.send(ROUND).await;
    let second = cluster.controllers[0].firehose("shared").open().await;
    second.receives(ROUND, SOON).await;
    together(&[&first, &second]).assert_complete("one after the other", 2 * ROUND);
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_collected_for_nobody_is_counted_when_it_ends() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .doppler_flag("--linger", "0.5")
        .start()
        .await;
    let only = cluster.controllers[0]
        .firehose("only")
        .filter("logs")
        .open()
        .await;
    cluster.subscribed("only", 1).await;
    only.close(Some(1000)).await;
    cluster.subscribed("only", 0).await;
    let mut producer = cluster.dopplers[0]
        .producer(0, Workload::logs(10, 50))
        .await;
    producer.send(ROUND).await;
    let doppler = &cluster.dopplers[0];
    eventually(SOON, "the group has ended", async || {
        doppler.page().await.subscriptions.is_empty()
    })
    .await;
    let ended = doppler.page().await.ended();
    // What came before it ended was for it; what came after was for nobody.
    assert_eq!(ended.offered, ended.lost(), "{ended:?}");
    assert!(
        ended.dropped.keys().all(|reason| reason == "no_member"),
        "{ended:?}"
    );
    cluster.assert_balanced().await;
}
