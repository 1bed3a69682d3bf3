//! Whoever cannot keep up loses, is told exactly how much, and costs nobody else anything.
//!
//! The oracle: `sent by the producer + notices = received + dropped`, where what was sent is
//! the producer's count, what was received is the reader's, and what the notices tell is what
//! was dropped. No number of ours stands on both sides.

use crate::SOON;
use harness::admin::{self, Account};
use harness::cluster::{Cluster, Doppler};
use harness::envelopes::{Workload, guid, now};
use harness::eventually;
use harness::process::Signal;
use harness::producer::Producer;
use harness::reader::Reader;
use harness::seen::Seen;
use std::net::SocketAddr;

/// Bytes a stalled reader's kernel takes for it: little, so that a stall shows soon, but more
/// than a segment of loopback (64 KiB), or TCP waits for a timer between any two.
const SMALL: u32 = 128 << 10;

/// What a Doppler may hold for firehoses here.
const LOG_BYTES: u64 = 4 << 20;

/// Envelopes of about 1.2 KiB: with what four hops' kernels hold, twice what there is room for.
const MANY: u64 = 40_000;

/// Seconds a reader may take nothing though it loses: as long as there is. Who is closed for that
/// is `slow`'s to show.
const PATIENCE: u64 = 30;

/// Envelopes that may be between a producer and the reader that keeps up.
const ROUND: u64 = 500;

/// A workload whose envelopes are about 1.2 KiB.
fn fat(only_logs: bool) -> Workload {
    Workload {
        apps: 4,
        payload: 1_000,
        only_logs,
    }
}

/// Sends `count` envelopes, never more ahead of `reader` than a round; what `reader` is to
/// receive is counted by `counts`.
async fn send_at_the_pace_of(
    reader: &Reader,
    producer: &mut Producer,
    count: u64,
    counts: impl Fn(&Workload, u64) -> bool,
) {
    let workload = producer.workload();
    let (mut due, mut sent) = (reader.received(), 0);
    while sent < count {
        let first = producer.sent();
        producer.send(ROUND).await;
        sent += ROUND;
        due += (first..first + ROUND)
            .filter(|sequence| counts(&workload, *sequence))
            .count() as u64;
        reader.receives(due, SOON).await;
    }
}

/// Looks at the accounts of all processes until it is dropped: they must add up at any moment.
struct Auditor(tokio::task::JoinHandle<()>);

impl Auditor {
    fn of(cluster: &Cluster) -> Auditor {
        let dopplers = cluster.dopplers.iter().map(|doppler| doppler.admin);
        let admins: Vec<SocketAddr> = dopplers
            .chain(cluster.controllers.iter().map(|tc| tc.admin))
            .collect();
        Auditor(tokio::spawn(async move {
            let mut every = tokio::time::interval(std::time::Duration::from_millis(20));
            loop {
                every.tick().await;
                for admin in &admins {
                    admin::subscriptions(*admin)
                        .await
                        .assert_balanced("at some moment");
                }
            }
        }))
    }

    /// Panics if it found anything.
    async fn content(self) {
        self.0.abort();
        if let Err(error) = self.0.await {
            assert!(error.is_cancelled(), "an account did not add up: {error}");
        }
    }
}

/// The one place where it was lost, and that each notice stands where the loss was: the
/// envelopes missing between two that arrived are as many as the notice between them says.
/// For one producer, whose envelopes to this reader are those that `counts`.
fn assert_told_in_place(seen: &Seen, producer: &Producer, counts: impl Fn(&Workload, u64) -> bool) {
    let workload = producer.workload();
    let mut gaps = Vec::new();
    let mut gap = 0;
    let mut before = 0;
    for sequence in (0..producer.sent()).filter(|sequence| counts(&workload, *sequence)) {
        if seen.has(producer.id(), sequence) {
            if gap > 0 {
                gaps.push((before, gap));
            }
            (before, gap) = (before + 1, 0);
        } else {
            gap += 1;
        }
    }
    let told: Vec<_> = seen
        .notices
        .iter()
        .map(|notice| (notice.after, notice.delta))
        .collect();
    assert_eq!(
        told, gaps,
        "notices (after how many, how many lost), and the gaps that are there"
    );
    let mut total = 0;
    for notice in &seen.notices {
        total += notice.delta;
        assert_eq!(
            notice.total, total,
            "the total of a notice is the sum of its deltas"
        );
    }
}

async fn firehose_account(doppler: &Doppler, id: &str, filter: &str) -> Account {
    let (account, groups) = doppler.page().await.firehose(id, filter);
    assert_eq!(groups, 1);
    account
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firehose_that_stalled_is_told_its_exact_loss_and_the_one_beside_it_loses_nothing() {
    let cluster = Cluster::builder()
        .dopplers(2)
        .controllers(1)
        .mtls()
        .doppler_flag("--log-bytes", LOG_BYTES)
        .controller_flag("--slow-consumer-patience", PATIENCE);
    let cluster = cluster.start().await;
    let canary = cluster.controllers[0].firehose("canary").open().await;
    let stalled = cluster.controllers[0]
        .firehose("stalled")
        .receive_buffer(SMALL)
        .open()
        .await;
    cluster.subscribed("canary", 1).await;
    cluster.subscribed("stalled", 1).await;
    // The Dopplers' own metrics come in between. Stamped later than now they were offered to
    // both, and the canary's count of them is the other's due.
    let both_there = now();
    let auditor = Auditor::of(&cluster);

    stalled.stall();
    let mut producers = Vec::new();
    for (id, doppler) in cluster.dopplers.iter().enumerate() {
        let mut producer = doppler.producer(id as u32, fat(false)).await;
        send_at_the_pace_of(&canary, &mut producer, MANY, |_, _| true).await;
        producers.push(producer);
    }
    let sent: u64 = producers.iter().map(Producer::sent).sum();
    canary.seen().assert_complete("the canary", sent);
    for doppler in &cluster.dopplers {
        let account = firehose_account(doppler, "stalled", "everything").await;
        assert!(
            account.queued > 0,
            "a stalled reader leaves a queue: {account:?}"
        );
        assert!(
            account.dropped["log_overflow"] > 0,
            "and loses: {account:?}"
        );
    }

    stalled.resume();
    let own = |seen: &Seen| {
        seen.own
            .iter()
            .filter(|stamp| **stamp >= both_there)
            .count() as u64
    };
    eventually(
        SOON,
        "offered = received + told, to the envelope",
        async || {
            let (stalled, canary) = (stalled.seen(), canary.look(own));
            stalled.marked + own(&stalled) + stalled.told() == sent + canary
        },
    )
    .await;
    let seen = stalled.seen();
    seen.assert_clean("the stalled one");
    assert!(seen.told() > MANY, "most of it is lost: {}", seen.told());
    canary.seen().assert_complete("the canary", sent);

    let (mut dropped, mut notices) = (0, 0);
    for doppler in &cluster.dopplers {
        let account = firehose_account(doppler, "stalled", "everything").await;
        assert_eq!(account.dropped.keys().collect::<Vec<_>>(), ["log_overflow"]);
        (dropped, notices) = (dropped + account.lost(), notices + account.notices);
    }
    assert_eq!((seen.told(), seen.notices.len() as u64), (dropped, notices));
    auditor.content().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firehose_of_logs_is_told_of_lost_logs_only_and_where_they_are_missing() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .doppler_flag("--log-bytes", LOG_BYTES)
        .controller_flag("--slow-consumer-patience", PATIENCE);
    let cluster = cluster.start().await;
    let canary = cluster.controllers[0]
        .firehose("canary")
        .filter("logs")
        .open()
        .await;
    let stalled = cluster.controllers[0]
        .firehose("logs")
        .filter("logs")
        .receive_buffer(SMALL)
        .open()
        .await;
    cluster.subscribed("canary", 1).await;
    cluster.subscribed("logs", 1).await;
    let auditor = Auditor::of(&cluster);

    let mut producer = cluster.dopplers[0].producer(0, fat(false)).await;
    let is_log =
        |workload: &Workload, sequence| workload.kind(sequence) == harness::envelopes::Kind::Log;
    // Twice, so that there are two losses to be told of.
    for _ in 0..2 {
        stalled.stall();
        send_at_the_pace_of(&canary, &mut producer, MANY, is_log).await;
        stalled.resume();
        let logs = canary.received();
        eventually(SOON, "sent = received + told, to the log", async || {
            stalled.look(|seen| seen.marked + seen.told()) == logs
        })
        .await;
    }
    let seen = stalled.seen();
    seen.assert_clean("the stalled one");
    assert!(seen.notices.len() > 1, "{:?}", seen.notices);
    assert_told_in_place(&seen, &producer, is_log);
    canary
        .seen()
        .assert_complete("the canary", producer.sent() * 6 / 10);
    let account = firehose_account(&cluster.dopplers[0], "logs", "logs").await;
    assert_eq!(account.offered, producer.sent() * 6 / 10);
    assert_eq!((account.lost(), account.queued), (seen.told(), 0));
    auditor.content().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_tail_that_stalled_is_told_its_exact_loss_and_the_one_beside_it_loses_nothing() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .controller_flag("--slow-consumer-patience", PATIENCE)
        .start()
        .await;
    let controller = &cluster.controllers[0];
    let canary = controller.tail(1).open().await;
    let stalled = controller.tail(1).receive_buffer(SMALL).open().await;
    cluster.tailed([1], 1).await;
    let auditor = Auditor::of(&cluster);

    let mut producer = cluster.dopplers[0].producer(0, fat(true)).await;
    let apps = |workload: &Workload, sequence| workload.app(sequence) == 1;
    stalled.stall();
    send_at_the_pace_of(&canary, &mut producer, MANY, apps).await;
    stalled.resume();
    let due = canary.received();
    eventually(
        SOON,
        "sent = received + told, to the envelope",
        async || stalled.look(|seen| seen.marked + seen.told()) == due,
    )
    .await;
    let seen = stalled.seen();
    seen.assert_clean("the stalled one");
    assert!(seen.told() > 0);
    assert_told_in_place(&seen, &producer, apps);
    canary.seen().assert_complete("the canary", due);

    // The Doppler lost nothing: the link was read all the time.
    let queue = cluster.dopplers[0].page().await.app(&guid(1)).0;
    assert_eq!((queue.offered, queue.sent, queue.lost()), (due, due, 0));
    let (both, tails) = controller.page().await.app(&guid(1));
    assert_eq!(
        (tails, both.offered, both.lost()),
        (2, 2 * due, seen.told())
    );
    assert_eq!(both.dropped.keys().collect::<Vec<_>>(), ["app_overflow"]);
    auditor.content().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_traffic_controller_holds_still_the_loudest_app_loses_and_is_told() {
    // The Traffic Controller has room for whatever comes: what is lost, the Doppler lost.
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .doppler_flag("--app-store-bytes", 2 << 20)
        .controller_flag("--app-bytes", 64 << 20);
    let mut cluster = cluster.start().await;
    let (loud, quiet) = (1, 2);
    let of_loud = cluster.controllers[0].tail(loud).open().await;
    let of_quiet = cluster.controllers[0].tail(quiet).open().await;
    cluster.tailed([loud, quiet], 1).await;

    let mut producer = cluster.dopplers[0]
        .producer(0, Workload::logs(100, 1_000))
        .await;
    producer.send(1_000).await;
    let mut noise = Noise::from(&cluster.dopplers[0], 1, loud).await;

    cluster.controllers[0].process.signal(Signal::Stop);
    for _ in 0..50 {
        noise.send(400).await;
        producer.send(100).await;
    }
    cluster.controllers[0].process.signal(Signal::Continue);

    let sent = |app| {
        (0..producer.sent())
            .filter(|sequence| producer.workload().app(*sequence) == app)
            .count() as u64
    };
    of_quiet.receives(sent(quiet), SOON).await;
    of_quiet
        .seen()
        .assert_complete("the quiet app", sent(quiet));
    let due = sent(loud) + noise.sent;
    eventually(
        SOON,
        "sent = received + told, to the envelope",
        async || of_loud.look(|seen| seen.marked + seen.told()) == due,
    )
    .await;
    let seen = of_loud.seen();
    seen.assert_clean("the loud app");
    assert!(seen.told() > 0);

    let (queue, _) = cluster.dopplers[0].page().await.app(&guid(loud));
    assert_eq!(
        (queue.offered, queue.lost(), queue.queued),
        (due, seen.told(), 0)
    );
    assert_eq!(queue.notices, seen.notices.len() as u64);
    assert_eq!(queue.dropped.keys().collect::<Vec<_>>(), ["app_overflow"]);
    let (topic, _) = cluster.controllers[0].page().await.app(&guid(loud));
    assert_eq!(topic.lost(), 0);
    cluster.assert_balanced().await;
}

/// A producer of one app's logs of 1,000 bytes.
struct Noise {
    id: u32,
    app: u32,
    sent: u64,
    call: harness::producer::Call,
    _connection: harness::producer::Connection,
}

impl Noise {
    async fn from(doppler: &Doppler, id: u32, app: u32) -> Noise {
        let connection = doppler.connection().await;
        Noise {
            id,
            app,
            sent: 0,
            call: connection.call(harness::producer::BATCH_SENDER).await,
            _connection: connection,
        }
    }

    async fn send(&mut self, count: u64) {
        use harness::envelopes::{Mark, batch, log};
        let (producer, app) = (self.id, self.app);
        let next = self.sent..self.sent + count;
        let envelopes = next.map(|sequence| {
            log(
                Mark {
                    producer,
                    sequence,
                    app,
                },
                1_000,
            )
        });
        assert_eq!(self.call.send(batch(envelopes)).await, Ok(()));
        self.sent += count;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_never_read_cost_a_bounded_amount_of_memory() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .controller_flag("--slow-consumer-patience", PATIENCE)
        .start()
        .await;
    let canary = cluster.controllers[0].firehose("canary").open().await;
    let mut stalled = Vec::new();
    for n in 0..20 {
        let reader = cluster.controllers[0]
            .firehose(&format!("stalled-{n}"))
            .receive_buffer(SMALL)
            .open()
            .await;
        reader.stall();
        stalled.push(reader);
        let tail = cluster.controllers[0]
            .tail(n % 4)
            .receive_buffer(SMALL)
            .open()
            .await;
        tail.stall();
        stalled.push(tail);
    }
    cluster.subscribed("canary", 1).await;
    let mut producer = cluster.dopplers[0].producer(0, fat(true)).await;
    send_at_the_pace_of(&canary, &mut producer, 3 * MANY, |_, _| true).await;
    canary.seen().assert_complete("the canary", producer.sent());
    for process in [
        &cluster.dopplers[0].process,
        &cluster.controllers[0].process,
    ] {
        let peak = process.usage().peak_resident >> 20;
        // Design 12: 256 MiB under ten times overload.
        assert!(peak <= 256, "{} took {peak} MiB", process.name());
    }
    cluster.assert_balanced().await;
}
