//! Those who say who may read, when they do not.

use crate::namespace::{Cut, Packets};
use crate::world::{Outcome, RATE, SETTLE, World};
use harness::certs::Certs;
use harness::cloud_controller::CloudController;
use harness::uaa::Uaa;
use harness::within;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FIREHOSE: [&str; 2] = ["openid", "doppler.firehose"];

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
