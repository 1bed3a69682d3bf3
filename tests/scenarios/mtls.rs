//! Who may speak with a Doppler, and whom a Traffic Controller believes.

use crate::SOON;
use harness::Tls;
use harness::certs::{Certs, Pair, client};
use harness::cluster::{Cluster, Doppler};
use harness::envelopes::{Workload, batch};
use harness::eventually;
use harness::producer::{BATCH_SENDER, Connection, Producer};
use harness::raw::{Raw, Response, handshake};
use rcgen::ExtendedKeyUsagePurpose;
use std::time::Duration;

fn expecting_doppler(config: std::sync::Arc<rustls::ClientConfig>) -> Tls {
    Tls {
        config,
        name: "doppler",
    }
}

/// A certificate whose extended key usage does not name clients.
fn servers_only(certs: &Certs) -> Pair {
    certs.issue("servers-only", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    })
}

/// A certificate with a CN and no SAN, as old agents have.
fn nameless(certs: &Certs) -> Pair {
    certs.issue("nameless", |params| params.subject_alt_names.clear())
}

/// What a Doppler answers to whoever shows `pair` and asks to read.
async fn asks_to_read(doppler: &Doppler, certs: &Certs, pair: &Pair, path: &str) -> Response {
    let tls = expecting_doppler(certs.client(Some(pair), &["http/1.1"]));
    let mut raw = Raw::connect(doppler.address, Some(&tls)).await;
    let protocol = format!("Sec-WebSocket-Protocol: {}", proto::link::PROTOCOL);
    raw.send(handshake(path, &[&protocol]).as_bytes()).await;
    raw.response().await
}

/// The two ways to read from a Doppler.
const LINKS: [&str; 2] = ["/firehose/spy", proto::link::APPS_PATH];

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_certificate_may_write_and_not_read() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .start()
        .await;
    let (doppler, certs) = (&cluster.dopplers[0], cluster.certs().unwrap());
    let reader = cluster.controllers[0].firehose("a").open().await;
    cluster.subscribed("a", 1).await;
    let agents = [
        (certs.pair("metron"), "metron"),
        (nameless(certs), "no DNS SAN"),
    ];
    for (n, (pair, named)) in agents.iter().enumerate() {
        for path in LINKS {
            let answer = asks_to_read(doppler, certs, pair, path).await;
            assert_eq!(answer.status, 403, "{answer:?}");
            for says in [*named, "trafficcontroller", "DOPPLER_READERS"] {
                assert!(answer.body.contains(says), "{answer:?}");
            }
        }
        let tls = expecting_doppler(certs.client(Some(pair), &["h2"]));
        let workload = Workload::logs(1, 50);
        let mut producer = Producer::open(doppler.address, Some(&tls), n as u32, workload)
            .await
            .unwrap();
        producer.send(100).await;
    }
    reader.receives(200, SOON).await;
    let metrics = doppler.metrics().await;
    let refused = [("outcome", "refused")];
    assert_eq!(metrics.sum("doppler_unlisted_readers_total", &refused), 4.0);
    let answer = asks_to_read(doppler, certs, &certs.pair("trafficcontroller"), LINKS[0]).await;
    assert_eq!(answer.status, 101, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_roles_are_only_reported_others_read_and_are_logged_once() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .mtls()
        .doppler_switch("--report-only-roles")
        .start()
        .await;
    let (doppler, certs) = (&cluster.dopplers[0], cluster.certs().unwrap());
    for path in [LINKS[0], LINKS[1], LINKS[0]] {
        let answer = asks_to_read(doppler, certs, &certs.pair("metron"), path).await;
        assert_eq!(answer.status, 101, "{answer:?}");
    }
    let metrics = doppler.metrics().await;
    let let_in = [("outcome", "let_in")];
    assert_eq!(metrics.sum("doppler_unlisted_readers_total", &let_in), 3.0);
    let log = doppler.process.log();
    let told = log.iter().filter(|line| line.contains("metron"));
    assert_eq!(told.count(), 1, "{log:?}");
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
        (
            "for servers only",
            client(&certs.ca(), Some(&servers_only(certs)), &["h2"]),
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
