//! Those who say who may read, and where Dopplers are, when they do not.

use crate::namespace::{Cut, Packets};
use crate::processes::on_its_way;
use crate::world::{Outcome, RATE, SETTLE, World};
use harness::certs::Certs;
use harness::cloud_controller::CloudController;
use harness::dns::{Answer, Dns};
use harness::uaa::Uaa;
use harness::within;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FIREHOSE: [&str; 2] = ["openid", "doppler.firehose"];

/// The name of all Dopplers.
const DOPPLERS: &str = "doppler.service.test";

/// How long DNS is down before a Doppler dies, too: longer than an answer is good for.
const UNANSWERED: Duration = Duration::from_secs(3);

/// How long a client may wait for its 503: five seconds for UAA (design 8), and room.
const ANSWERED: Duration = Duration::from_secs(7);

/// A firehose of whoever comes while UAA is there, and while it is not.
pub(crate) async fn uaa_down(seed: u64) -> Outcome {
    let certs = Arc::new(Certs::new());
    let uaa = Uaa::start(&certs).await;
    let cloud_controller = CloudController::start(&certs).await;
    let builder = World::describe(1, 1)
        .certs(certs.clone())
        .controller_flags(uaa.flags(&certs))
        .controller_flags(cloud_controller.flags(&certs));
    let mut world = World::start(builder, seed).await;
    let address = world.cluster.controllers[0].address;
    let token = uaa.token(&FIREHOSE);
    world.firehose_as("stays", address, Some(token)).await;
    world.feed_all(10, RATE);
    world.flows().await;

    let port = uaa
        .url()
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    let port: u16 = port.expect("a URL with a port");
    // Connections that are kept are lost, too.
    let cut = match seed % 2 {
        0 => Cut::of(&[Packets::Refused(port), Packets::To(port)]),
        _ => Cut::off(port),
    };
    // A token nobody has seen: what was found out is remembered for a while.
    let stranger = uaa.token(&FIREHOSE);
    let asked = Instant::now();
    let answer = world.cluster.controllers[0]
        .firehose("new")
        .token(&stranger);
    let refused = answer.try_open().await.err().map(|refused| refused.status);
    let answered = asked.elapsed();
    assert_eq!(refused, Some(503), "what a client is told");
    assert!(answered <= ANSWERED, "answered in {answered:?}");
    drop(cut);

    let back = Instant::now();
    let served = within(SETTLE, async || {
        let opening = world.cluster.controllers[0]
            .firehose("new")
            .token(&stranger);
        opening.try_open().await.is_ok()
    });
    assert!(served.await, "nobody is served any more");
    let recovery = back.elapsed();
    world.loses_nothing_since(&[0]).await;
    let mut outcome = world.lossless(recovery).await;
    outcome.note = format!("503 in {:.1} s, {}", answered.as_secs_f64(), outcome.note);
    outcome
}

/// DNS fails, in one of three ways, and while it does a Doppler dies and comes back: what was
/// known stays known.
pub(crate) async fn dns_down(seed: u64) -> Outcome {
    let dns = Dns::start(0).await;
    let here = Answer::Addresses(vec![Ipv4Addr::LOCALHOST]);
    dns.set(DOPPLERS, here.clone());
    let builder = World::describe(2, 1).by_name(DOPPLERS, dns.address);
    let mut world = World::start(builder, seed).await;
    world.firehose("one", 0).await;
    world.feed_all(10, RATE);
    world.flows().await;
    dns.set(
        DOPPLERS,
        match seed % 3 {
            0 => Answer::Silence,
            1 => Answer::NoSuchName,
            _ => Answer::ServerFailure,
        },
    );
    tokio::time::sleep(UNANSWERED).await;
    let victim = world.rng.usize(0..2);
    World::kill(&mut world.doppler(victim).process).await;
    world.revive_doppler(victim).await;
    let recovery = world.recovered(&[0, 1], &[0], Instant::now()).await;
    dns.set(DOPPLERS, here);
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    assert_eq!(world.lost_of(1 - victim), 0, "the other Doppler's are lost");
    let unread = world.unread(victim).await;
    world.between(recovery, unread, on_its_way(1)).await
}
