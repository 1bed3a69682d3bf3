//! Processes that die, hold still, or are restarted one after the other.

use crate::balancer::Balancer;
use crate::world::{Outcome, RATE, World};
use harness::process::Signal;
use std::time::{Duration, Instant};

/// How long a process is held still: less than the 5 s after which a client that accepts
/// nothing may be closed as slow.
const STILL: std::ops::Range<u64> = 2_000..3_500;

/// Batches a feed may have handed to a connection whose Doppler dies: those that wait, and those
/// in HTTP/2's windows. Nobody but the agent knows of them.
const BATCHES: u64 = 6 * RATE / 50;

/// What was on its way into a Doppler, once for each reader.
pub(crate) fn on_its_way(readers: u64) -> u64 {
    BATCHES * readers
}

async fn two_by_two(seed: u64) -> World {
    let mut world = World::start(World::describe(2, 2), seed).await;
    world.firehose("one", 0).await;
    world.firehose("two", 1).await;
    world.feed_all(10, RATE);
    world.flows().await;
    world
}

pub(crate) async fn doppler_killed(seed: u64) -> Outcome {
    let mut world = two_by_two(seed).await;
    let victim = world.rng.usize(0..2);
    World::kill(&mut world.doppler(victim).process).await;
    world.revive_doppler(victim).await;
    let recovery = world.recovered(&[victim], &[0, 1], Instant::now()).await;
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    assert_eq!(
        world.lost_of(1 - victim),
        0,
        "the other Doppler's are lost, too"
    );
    let unread = world.unread(victim).await;
    world.between(recovery, unread, on_its_way(2)).await
}

pub(crate) async fn doppler_paused(seed: u64) -> Outcome {
    let mut world = two_by_two(seed).await;
    let victim = world.rng.usize(0..2);
    let still = Duration::from_millis(world.rng.u64(STILL));
    let before = world.marks();
    world.doppler(victim).process.signal(Signal::Stop);
    tokio::time::sleep(still).await;
    let other = world.feeds[1 - victim].handed();
    assert!(other > before[1 - victim], "the other feed went on");
    world.doppler(victim).process.signal(Signal::Continue);
    let recovery = world.recovered(&[0, 1], &[0, 1], Instant::now()).await;
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    assert_eq!(world.lost_of(1 - victim), 0, "the other Doppler's are lost");
    world.exact(recovery).await
}

pub(crate) async fn controller_killed(seed: u64) -> Outcome {
    let mut world = two_by_two(seed).await;
    let victim = world.rng.usize(0..2);
    World::kill(&mut world.controller(victim).process).await;
    world.revive_controller(victim).await;
    let recovery = world.recovered(&[0, 1], &[victim], Instant::now()).await;
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    let spared = world.missing(1 - victim, &[0, 0]);
    assert_eq!(spared, [], "the other one's client lost");
    world.between(recovery, 0, 0).await
}

pub(crate) async fn controller_paused(seed: u64) -> Outcome {
    let mut world = two_by_two(seed).await;
    let victim = world.rng.usize(0..2);
    let still = Duration::from_millis(world.rng.u64(STILL));
    world.controller(victim).process.signal(Signal::Stop);
    tokio::time::sleep(still).await;
    world.controller(victim).process.signal(Signal::Continue);
    let recovery = world.recovered(&[0, 1], &[0, 1], Instant::now()).await;
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    let spared = world.missing(1 - victim, &[0, 0]);
    assert_eq!(spared, [], "the other one's client lost");
    world.exact(recovery).await
}

async fn balanced(seed: u64) -> (World, Balancer) {
    let mut world = World::start(World::describe(2, 2), seed).await;
    let controllers = world.cluster.controllers.iter();
    let servers: Vec<_> = controllers.map(|controller| controller.address).collect();
    let balancer = Balancer::start(&servers).await;
    for id in ["one", "two", "three", "four"] {
        world.firehose_at(id, balancer.address).await;
    }
    world.feed_all(10, RATE / 2);
    world.flows().await;
    (world, balancer)
}

pub(crate) async fn controllers_restarted(seed: u64) -> Outcome {
    let (mut world, _balancer) = balanced(seed).await;
    let mut recovery = Duration::ZERO;
    for victim in 0..2 {
        let began = Instant::now();
        world.restart_controller(victim).await;
        let (feeds, nozzles) = world.everything();
        recovery = recovery.max(world.recovered(&feeds, &nozzles, began).await);
    }
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    world.exact(recovery).await
}

pub(crate) async fn dopplers_restarted(seed: u64) -> Outcome {
    let (mut world, _balancer) = balanced(seed).await;
    let mut recovery = Duration::ZERO;
    for victim in 0..2 {
        let began = Instant::now();
        world.restart_doppler(victim).await;
        let (feeds, nozzles) = world.everything();
        recovery = recovery.max(world.recovered(&feeds, &nozzles, began).await);
    }
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    for nozzle in &world.nozzles {
        assert_eq!(
            nozzle.opened(),
            1,
            "{} was closed: {:?}",
            nozzle.name,
            nozzle.ends()
        );
    }
    world.exact(recovery).await
}
