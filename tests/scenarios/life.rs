//! Processes come, go and come back; what was accepted arrives or is counted.

use crate::SOON;
use harness::cluster::{Cluster, free_port};
use harness::envelopes::Workload;
use harness::eventually;
use harness::process::{Process, Signal};
use harness::reader::Ended;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Room for a tail whose app sends a burst of some MiB; without it the tail loses, and is told.
const ROOM: u64 = 32 << 20;

/// How long a drain may take: 4 s by default, and what exiting takes.
const DRAINED: Duration = Duration::from_secs(6);

/// The sums of the last log line of a process that names them: `received=3` and so on.
fn last_words(process: &Process, endpoint: &str, name: &str) -> u64 {
    let lines = process.log();
    let line = lines
        .iter()
        .rev()
        .find(|line| line.contains("drained") && line.contains(endpoint));
    let line = line.unwrap_or_else(|| panic!("no last words:\n{}", lines.join("\n")));
    let value = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(&format!("{name}=")));
    value
        .unwrap_or_else(|| panic!("no {name} in {line}"))
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_comes_back_is_read_from_again_within_seconds() {
    let mut cluster = Cluster::builder()
        .dopplers(2)
        .controllers(1)
        .mtls()
        .controller_flag("--app-bytes", ROOM)
        .start()
        .await;
    let reader = cluster.controllers[0].firehose("a").open().await;
    let tail = cluster.controllers[0].tail(0).open().await;
    cluster.subscribed("a", 1).await;
    cluster.tailed([0], 1).await;
    let port = cluster.dopplers[0].address.port();
    for round in 0..2 {
        let mut dying = cluster.dopplers.remove(0);
        if round == 0 {
            assert_eq!(dying.process.terminate(DRAINED).await, 0);
        } else {
            dying.process.signal(Signal::Kill);
        }
        drop(dying);
        let doppler = cluster.start_doppler("doppler 0 again", port).await;
        let back = Instant::now();
        cluster.dopplers.insert(0, doppler);
        cluster.subscribed("a", 1).await;
        cluster.tailed([0], 1).await;
        // Full jitter under a cap of 2 s.
        assert!(
            back.elapsed() < Duration::from_secs(4),
            "{:?}",
            back.elapsed()
        );
    }
    let mut expected = 0;
    for (id, doppler) in cluster.dopplers.iter().enumerate() {
        let mut producer = doppler.producer(id as u32, Workload::logs(1, 50)).await;
        producer.send(5_000).await;
        expected += 5_000;
    }
    reader.receives(expected, SOON).await;
    tail.receives(expected, SOON).await;
    reader.seen().assert_complete("the firehose", expected);
    tail.seen().assert_complete("the tail", expected);
    assert_eq!((reader.is_over(), tail.is_over()), (None, None));
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_starts_after_the_traffic_controller_is_read_from() {
    let late = free_port();
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .also_reading(SocketAddr::from(([127, 0, 0, 1], late)))
        .controller_flag("--app-bytes", ROOM);
    let mut cluster = cluster.start().await;
    let reader = cluster.controllers[0].firehose("a").open().await;
    let tail = cluster.controllers[0].tail(0).open().await;
    let said = || {
        cluster.controllers[0]
            .process
            .logged("cannot read from a Doppler")
    };
    eventually(SOON, "it says which Doppler is missing", async || said()).await;

    let doppler = cluster.start_doppler("late doppler", late).await;
    cluster.dopplers.push(doppler);
    cluster.subscribed("a", 1).await;
    cluster.tailed([0], 1).await;
    let mut producer = cluster.dopplers[1].producer(0, Workload::logs(1, 50)).await;
    producer.send(5_000).await;
    reader.receives(5_000, SOON).await;
    tail.receives(5_000, SOON).await;
    reader.seen().assert_complete("the firehose", 5_000);
    tail.seen().assert_complete("the tail", 5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_drains_delivers_all_it_accepted_and_clients_stay() {
    let mut cluster = Cluster::builder()
        .dopplers(2)
        .controllers(2)
        .mtls()
        .controller_flag("--app-bytes", ROOM)
        .start()
        .await;
    let readers = [
        cluster.controllers[0].firehose("a").open().await,
        cluster.controllers[1]
            .firehose("b")
            .filter("logs")
            .open()
            .await,
        cluster.controllers[1].tail(0).open().await,
    ];
    cluster.subscribed("a", 1).await;
    cluster.subscribed("b", 1).await;
    cluster.tailed([0], 1).await;
    let mut producer = cluster.dopplers[0]
        .producer(0, Workload::logs(1, 200))
        .await;
    // More than fits into sockets: some of it is still in the Doppler when it is told to stop.
    producer.send(30_000).await;
    assert_eq!(producer.finish().await.grpc, Some(0));
    let mut doppler = cluster.dopplers.remove(0);
    assert_eq!(doppler.process.terminate(DRAINED).await, 0);
    for reader in &readers {
        reader.receives(30_000, SOON).await;
        reader.seen().assert_complete("a reader", 30_000);
        assert_eq!(reader.is_over(), None, "clients do not notice");
    }
    assert_eq!(last_words(&doppler.process, "", "dropped"), 0);
    assert_eq!(last_words(&doppler.process, "", "queued"), 0);
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_drains_while_agents_send_counts_what_it_took_to_the_envelope() {
    let mut cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let reader = cluster.controllers[0]
        .firehose("a")
        .filter("logs")
        .open()
        .await;
    cluster.subscribed("a", 1).await;
    let connection = cluster.dopplers[0].connection().await;
    let mut call = connection.call(harness::producer::BATCH_SENDER).await;
    let workload = Workload::logs(1, 200);
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        loop {
            let batch =
                harness::envelopes::batch((sent..sent + 100).map(|n| workload.envelope(0, n)));
            if call.send(batch).await.is_err() {
                return call.answered().await;
            }
            sent += 100;
        }
    });
    reader.receives(10_000, SOON).await;
    let mut doppler = cluster.dopplers.remove(0);
    assert_eq!(doppler.process.terminate(DRAINED).await, 0);
    let answer = sending.await.unwrap();
    assert_ne!(
        answer.grpc,
        Some(0),
        "a stream that was cut off is not said to be well"
    );
    // Whatever the Doppler took it had offered, and whatever it had offered was sent or lost.
    let words = |name| last_words(&doppler.process, "", name);
    assert_eq!(
        words("offered") + words("notices"),
        words("sent") + words("dropped") + words("queued")
    );
    assert_eq!(words("queued"), 0);
    let sent = words("sent");
    eventually(SOON, "what was sent arrives", async || {
        reader.look(|seen| seen.messages()) == sent
    })
    .await;
    reader.seen().assert_clean("the reader");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traffic_controller_that_drains_closes_with_1001_and_loses_nothing_of_an_idle_stream() {
    let mut cluster = Cluster::builder()
        .dopplers(1)
        .controllers(2)
        .mtls()
        .controller_flag("--app-bytes", ROOM)
        .start()
        .await;
    let firehose = cluster.controllers[0].firehose("a").open().await;
    let tail = cluster.controllers[0].tail(0).open().await;
    let elsewhere = cluster.controllers[1].firehose("b").open().await;
    cluster.subscribed("a", 1).await;
    cluster.subscribed("b", 1).await;
    cluster.tailed([0], 1).await;
    let mut producer = cluster.dopplers[0].producer(0, Workload::logs(1, 50)).await;
    producer.send(5_000).await;
    firehose.receives(5_000, SOON).await;
    tail.receives(5_000, SOON).await;

    let mut controller = cluster.controllers.remove(0);
    assert_eq!(controller.process.terminate(DRAINED).await, 0);
    let going_away = Ended::Closed(Some(1001), String::new());
    assert_eq!(firehose.ended(SOON).await, going_away);
    assert_eq!(tail.ended(SOON).await, going_away);
    firehose.seen().assert_complete("the firehose", 5_000);
    tail.seen().assert_complete("the tail", 5_000);
    assert_eq!(last_words(&controller.process, "firehose", "dropped"), 0);
    assert_eq!(last_words(&controller.process, "stream", "dropped"), 0);

    producer.send(5_000).await;
    elsewhere.receives(10_000, SOON).await;
    elsewhere
        .seen()
        .assert_complete("a client of the other one", 10_000);
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traffic_controller_that_drains_in_full_flow_accounts_for_every_envelope() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .doppler_flag("--linger", "0.2");
    let mut cluster = cluster.start().await;
    let firehose = cluster.controllers[0]
        .firehose("a")
        .filter("logs")
        .open()
        .await;
    let tail = cluster.controllers[0].tail(0).open().await;
    cluster.subscribed("a", 1).await;
    cluster.tailed([0], 1).await;
    let mut producer = cluster.dopplers[0]
        .producer(0, Workload::logs(1, 500))
        .await;
    producer.send(1_000).await;
    firehose.receives(1_000, SOON).await;
    producer.send(60_000).await;

    let mut controller = cluster.controllers.remove(0);
    assert_eq!(controller.process.terminate(DRAINED).await, 0);
    let going_away = Ended::Closed(Some(1001), String::new());
    assert_eq!(firehose.ended(SOON).await, going_away);
    assert_eq!(tail.ended(SOON).await, going_away);
    let doppler = &cluster.dopplers[0];
    eventually(SOON, "the Doppler has closed the books", async || {
        doppler.page().await.subscriptions.is_empty()
    })
    .await;

    for (reader, endpoint) in [(&firehose, "firehose"), (&tail, "stream")] {
        reader.seen().assert_clean(endpoint);
        let words = |name| last_words(&controller.process, endpoint, name);
        // What its socket took is what the client has: it read up to the Close.
        assert_eq!(
            words("sent"),
            reader.look(|seen| seen.messages()),
            "{endpoint}"
        );
        assert_eq!(
            words("offered") + words("notices"),
            words("sent") + words("dropped"),
            "{endpoint}"
        );
        assert_eq!(words("queued"), 0);
    }
    let ended = doppler.page().await.ended();
    assert_eq!(ended.imbalance(), 0);
    // Both subscriptions together: what the Doppler sent is what the Traffic Controller got.
    let words = |endpoint, name| last_words(&controller.process, endpoint, name);
    let got = words("firehose", "offered") + words("app_link", "received");
    assert_eq!(ended.sent, got, "{ended:?}");
    // What came for the tail when it had just left was for nobody.
    let came = words("stream", "offered") + words("app_link", "dropped");
    assert_eq!(came, words("app_link", "received"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_exits_at_once() {
    let mut cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    // A client that does not read keeps the drain waiting.
    let reader = cluster.controllers[0]
        .firehose("a")
        .receive_buffer(128 << 10)
        .open()
        .await;
    reader.stall();
    cluster.subscribed("a", 1).await;
    let mut producer = cluster.dopplers[0]
        .producer(0, Workload::logs(1, 1_000))
        .await;
    producer.send(30_000).await;
    let doppler = &mut cluster.dopplers[0].process;
    doppler.signal(Signal::Terminate);
    eventually(SOON, "it drains", async || doppler.logged("draining")).await;
    let began = Instant::now();
    doppler.signal(Signal::Terminate);
    assert_eq!(doppler.exit_code(SOON).await, 128 + 15);
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
}
