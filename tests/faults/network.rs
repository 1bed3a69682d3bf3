//! Networks that lose everything, in both directions or in one, and peers that vanish in them.

use crate::namespace::{Cut, Packets};
use crate::world::{Outcome, RATE, World};
use harness::eventually;
use std::time::{Duration, Instant};

/// How long a partition lasts: TCP's own retransmissions bridge it.
const PARTED: std::ops::Range<u64> = 2_000..4_000;

/// How long a dead peer may go unnoticed: 20 s (`DEAD` of transport::listener), and a probe.
const NOTICED: Duration = Duration::from_secs(25);

/// How many clients vanish.
const VANISHED: usize = 50;

/// A Doppler nothing reaches and nothing leaves; then it dies, which nobody hears either; then
/// another comes up in its place. Measured from then on.
pub(crate) async fn silent_death(seed: u64) -> Outcome {
    let mut world = World::start(World::describe(2, 1), seed).await;
    world.firehose("one", 0).await;
    world.feed_all(10, RATE);
    world.flows().await;
    let port = world.doppler(0).address.port();
    let cut = Cut::off(port);
    let parted = Instant::now();
    World::kill(&mut world.doppler(0).process).await;
    // The Traffic Controller has to find out by itself: nobody tells it.
    let address = world.doppler(0).address.to_string();
    let noticed = async || {
        let page = world.cluster.controllers[0].page().await;
        let links = page.subscriptions.iter().flat_map(|open| &open.links);
        links
            .chain(&page.app_links)
            .all(|hop| hop.doppler != address || !hop.connected)
    };
    eventually(NOTICED, "the dead Doppler's links are given up", noticed).await;
    let noticed = parted.elapsed();
    drop(cut);
    world.revive_doppler(0).await;
    let recovery = world.recovered(&[0], &[0], Instant::now()).await;
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    assert_eq!(world.lost_of(1), 0, "the other Doppler's are lost, too");
    // What it had was sent into nothing until the feed gave up: all of that was lost with it.
    let unread = world.unread(0).await;
    let into_nothing = world.feeds[0].breaks().first().copied().unwrap_or_default();
    let mut outcome = world
        .between(noticed + recovery, unread, into_nothing)
        .await;
    outcome.note = format!(
        "noticed in {:.1} s, {}",
        noticed.as_secs_f64(),
        outcome.note
    );
    outcome
}

async fn parted(seed: u64, packets: impl Fn(u16) -> Vec<Packets>) -> Outcome {
    let mut world = World::start(World::describe(2, 2), seed).await;
    world.firehose("one", 0).await;
    world.firehose("two", 1).await;
    world.feed_all(10, RATE);
    world.flows().await;
    let victim = world.rng.usize(0..2);
    let port = world.doppler(victim).address.port();
    let cut = Cut::of(&packets(port));
    tokio::time::sleep(Duration::from_millis(world.rng.u64(PARTED))).await;
    drop(cut);
    let recovery = world.recovered(&[0, 1], &[0, 1], Instant::now()).await;
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    assert_eq!(world.lost_of(1 - victim), 0, "the other Doppler's are lost");
    world.exact(recovery).await
}

pub(crate) async fn partition(seed: u64) -> Outcome {
    parted(seed, |port| vec![Packets::To(port), Packets::From(port)]).await
}

pub(crate) async fn one_way_to_the_doppler(seed: u64) -> Outcome {
    parted(seed, |port| vec![Packets::To(port)]).await
}

pub(crate) async fn one_way_from_the_doppler(seed: u64) -> Outcome {
    parted(seed, |port| vec![Packets::From(port)]).await
}

/// Clients that vanish without a word: none of their packets arrives any more, nor ours there.
/// Measured is how long until the last of them is given up, and its files are closed.
pub(crate) async fn half_open(seed: u64) -> Outcome {
    let mut world = World::start(World::describe(1, 2), seed).await;
    world.firehose("stays", 1).await;
    world.feed_all(10, RATE / 2);
    world.flows().await;
    let controller = &world.cluster.controllers[0];
    let files = controller.process.open_files();
    let port = controller.address.port();
    let mut clients = Vec::new();
    for _ in 0..VANISHED {
        // An app that nobody sends for: quiet streams are those that stay half open.
        clients.push(controller.tail(1_000).open().await);
    }
    let cut = Cut::off(port);
    let parted = Instant::now();
    let gone = async || world.cluster.controllers[0].process.open_files() <= files;
    eventually(Duration::from_secs(60), "vanished clients are closed", gone).await;
    let recovery = parted.elapsed();
    drop((cut, clients));
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    world.exact(recovery).await
}
