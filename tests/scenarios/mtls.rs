//! Who may speak with a Doppler, and whom a Traffic Controller believes.

use crate::SOON;
use harness::Tls;
use harness::certs::{Certs, client};
use harness::cluster::Cluster;
use harness::envelopes::{Workload, batch};
use harness::eventually;
use harness::producer::{BATCH_SENDER, Connection};
use harness::raw::Raw;
use std::time::Duration;

fn expecting_doppler(config: std::sync::Arc<rustls::ClientConfig>) -> Tls {
    Tls {
        config,
        name: "doppler",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_certificate_of_the_ca_in_date_sends_nothing() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .start()
        .await;
    let (doppler, certs) = (&cluster.dopplers[0], cluster.certs().unwrap());
    let reader = cluster.controllers[0].firehose("a").open().await;
    cluster.subscribed("a", 1).await;
    let stranger = Certs::new();
    let workload = Workload::logs(1, 50);
    for (who, config) in [
        ("nobody", client(&certs.ca(), None, &["h2"])),
        (
            "of another CA",
            client(&certs.ca(), Some(&stranger.pair("metron")), &["h2"]),
        ),
        (
            "expired",
            client(&certs.ca(), Some(&certs.expired("late")), &["h2"]),
        ),
    ] {
        // Under TLS 1.3 the server's no comes after our yes: with the first answer.
        if let Ok(connection) =
            Connection::open(doppler.address, Some(&expecting_doppler(config))).await
        {
            let mut call = connection.call(BATCH_SENDER).await;
            let _ = call.send(batch([workload.envelope(66, 0)])).await;
            let answer = call.finish().await;
            assert!(answer.broken.is_some(), "{who}: {answer:?}");
        }
    }
    let mut producer = doppler.producer(0, workload).await;
    producer.send(100).await;
    reader.receives(100, SOON).await;
    reader.seen().assert_complete("the firehose", 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_tls_handshake_is_waited_for_two_seconds() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .start()
        .await;
    for address in [cluster.dopplers[0].address, cluster.controllers[0].address] {
        let mut raw = Raw::connect(address, None).await;
        let (said, after) = raw.hung_up(Duration::from_secs(10)).await;
        assert!(said.is_empty());
        let about_two = Duration::from_millis(1_500)..Duration::from_secs(6);
        assert!(about_two.contains(&after), "{after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_is_not_whom_we_expect_is_not_read_from_and_is_named() {
    // Another cluster's Doppler: another CA.
    let other = Cluster::builder().dopplers(1).mtls().start().await;
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .also_reading(other.dopplers[0].address);
    let cluster = cluster.start().await;
    let controller = &cluster.controllers[0];
    let reader = controller.firehose("a").open().await;
    cluster.subscribed("a", 1).await;
    let address = other.dopplers[0].address.to_string();
    let named = || {
        let log = controller.process.log();
        log.iter()
            .any(|line| line.contains("cannot read from a Doppler") && line.contains(&address))
    };
    eventually(SOON, "it says with whom it will not speak", async || {
        named()
    })
    .await;
    let page = controller.page().await;
    assert!(
        page.app_links
            .iter()
            .any(|hop| hop.doppler == address && !hop.connected),
        "{page:?}"
    );

    let mut producer = cluster.dopplers[0].producer(0, Workload::logs(1, 50)).await;
    producer.send(100).await;
    reader.receives(100, SOON).await;
    reader.seen().assert_complete("the firehose", 100);
    assert_eq!(other.dopplers[0].page().await.subscriptions.len(), 0);
}
