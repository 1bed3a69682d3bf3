//! A whole foundation's agents on one Doppler: what that takes.

use harness::cluster::Cluster;
use harness::envelopes::{Mark, Workload, batch, log, prefix};
use harness::eventually;
use harness::producer::{BATCH_SENDER, Call, Connection};
use std::time::Duration;

/// VMs that send to one Doppler (design 12).
const AGENTS: usize = 500;

/// Connections of one agent, each with one `BatchSender`: it sends each batch on another one
/// (spec Doppler 3.7).
const CONNECTIONS: usize = 5;

/// Of so many connections one is half way through a batch.
const ONE_IS_HALF_WAY: usize = 4;

/// What a process may take, in bytes (design 12).
const RESIDENT: u64 = 256 << 20;

/// How long all of them may take to connect on a busy machine.
const CONNECTED: Duration = Duration::from_secs(120);

/// Handshakes under way at a time.
const AT_ONCE: usize = 32;

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stderr, reason = "the figure is what this test is for")]
async fn five_hundred_agents_some_of_them_half_way_through_a_message_fit_into_the_bound() {
    transport::process::raise_open_files(AGENTS * CONNECTIONS);
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .controller_flag("--slow-consumer-patience", 30)
        .start()
        .await;
    let doppler = &cluster.dopplers[0];
    // A reader that does not read: the log is full too.
    let stalled = cluster.controllers[0].firehose("a").open().await;
    cluster.subscribed("a", 1).await;
    stalled.stall();
    let alone = doppler.process.usage().resident;
    // One configuration for all: a client parses its certificate once.
    let tls = doppler.tls();
    let open = async |agent: usize| {
        let connection = Connection::open(doppler.address, tls.as_ref()).await;
        let connection = connection.unwrap();
        let mut call = connection.call(BATCH_SENDER).await;
        let mark = |sequence| Mark {
            producer: agent as u32,
            sequence,
            app: 1,
        };
        // A whole message of more than any buffer on the way, so that each is used.
        let whole = batch((0..100).map(|sequence| log(mark(sequence), 1_000)));
        call.send(whole).await.unwrap();
        (connection, call)
    };
    let mut agents: Vec<(Connection, Call)> = Vec::new();
    let all: Vec<usize> = (0..AGENTS * CONNECTIONS).collect();
    let connecting = async {
        for some in all.chunks(AT_ONCE) {
            agents.extend(futures::future::join_all(some.iter().map(|&n| open(n))).await);
        }
    };
    let connected = tokio::time::timeout(CONNECTED, connecting).await;
    assert!(connected.is_ok(), "they are not all connected");
    let sent = (AGENTS * CONNECTIONS * 100) as f64;
    eventually(CONNECTED, "everything sent was taken", async || {
        let metrics = doppler.metrics().await;
        metrics.sum("doppler_ingress_envelopes_total", &[]) >= sent
    })
    .await;
    let idle = doppler.process.usage().resident;
    // And at one moment the beginnings of batches that never end.
    let (mut half_way, mut others) = (0, Vec::new());
    for (n, (_, call)) in agents.iter_mut().enumerate() {
        if n.is_multiple_of(ONE_IS_HALF_WAY) {
            call.send(prefix(110 << 10)).await.unwrap();
            call.send(vec![0; 60 << 10].into()).await.unwrap();
            half_way += 1;
        } else {
            others.push(&*call);
        }
    }
    eventually(CONNECTED, "each of them had its time", async || {
        let metrics = doppler.metrics().await;
        let refused = "doppler_ingress_refused_messages_total";
        metrics.sum(refused, &[("reason", "unfinished")]) >= f64::from(half_way)
    })
    .await;
    let usage = doppler.process.usage();
    eprintln!(
        "{} connections of {AGENTS} agents: {} MiB alone, {} MiB connected, {} MiB at most, with {half_way} half way",
        AGENTS * CONNECTIONS,
        alone >> 20,
        idle >> 20,
        usage.peak_resident >> 20,
    );
    assert!(usage.peak_resident < RESIDENT, "{usage:?}");
    // The others were cut off by nobody, and one that comes now is served.
    assert!(!others.iter().any(|call| call.is_answered()));
    let reader = cluster.controllers[0].firehose("b").open().await;
    cluster.subscribed("b", 1).await;
    let mut late = doppler.producer(9_999, Workload::logs(1, 50)).await;
    late.send(100).await;
    reader.receives(100, CONNECTED).await;
    cluster.assert_balanced().await;
}
