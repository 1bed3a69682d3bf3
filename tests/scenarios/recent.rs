//! What Dopplers keep of an app is shown once, whole where it can be, and says so where it cannot.

use crate::SOON;
use harness::cluster::{Cluster, Controller};
use harness::envelopes::{Kind, MARK, Mark, Workload, guid};
use harness::eventually;
use harness::fake::FakeDoppler;
use harness::process::Signal;
use harness::raw::{Raw, Response};
use harness::reader::{Opening, Reader};
use harness::seen::Seen;
use proto::link::{Upstream, split_handle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a Doppler keeps of an app by default.
const KEPT: u64 = 100;

/// How long all Dopplers together have to answer.
const PATIENCE: Duration = Duration::from_secs(1);

const MISSING: &str = "x-loggregator-missing-dopplers";

async fn get(controller: &Controller, what: &str) -> Response {
    get_with(controller, 0, what, "X-Nothing: 1").await
}

/// Asks for `what` of an app, with one header line more.
async fn get_with(controller: &Controller, app: u32, what: &str, line: &str) -> Response {
    let mut raw = Raw::connect(controller.address, controller.tls().as_ref()).await;
    let head = format!(
        "GET /apps/{}/{what} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n{line}\r\n\r\n",
        guid(app)
    );
    raw.send(head.as_bytes()).await;
    raw.response().await
}

/// The marks of the parts of a multipart body, in order, as text shows them.
fn marks(response: &Response) -> Vec<Mark> {
    let content_type = response.header("content-type").unwrap();
    let boundary = content_type
        .strip_prefix("multipart/x-protobuf; boundary=")
        .unwrap();
    assert_eq!(boundary.len(), 60);
    let end = format!("\r\n--{boundary}--\r\n");
    let body = response.body.strip_suffix(&end).unwrap();
    let delimiter = format!("--{boundary}\r\n\r\n");
    let mark = |part: &str| {
        // A map entry: its key, then field 2 with a length, then the mark.
        let (_, behind) = part.split_once(MARK)?;
        let text: String = behind
            .chars()
            .skip(2)
            .take_while(|c| c.is_ascii_digit() || *c == '/')
            .collect();
        Mark::parse(&text)
    };
    body.split(&delimiter).skip(1).filter_map(mark).collect()
}

fn tail_with_recent(controller: &Controller, logs: u64) -> Opening {
    let path = format!("/apps/{}/stream?recent={logs}", guid(0));
    controller.reader(&path).only(0)
}

/// Such a tail, and whether it was told that one of two Dopplers is missing.
fn tail_that_may_be_told(controller: &Controller) -> (Opening, Arc<AtomicBool>) {
    let told = Arc::new(AtomicBool::new(false));
    let heard = told.clone();
    let opening = tail_with_recent(controller, KEPT).observe(move |envelope| {
        let line = envelope.log_message.as_ref().map(|log| &log.message[..]);
        if line == Some(b"Recent logs are incomplete: 1 of 2 Dopplers did not answer in time.") {
            heard.store(true, Ordering::Relaxed);
        }
    });
    (opening, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_dopplers_keep_comes_in_one_answer() {
    let cluster = Cluster::builder().dopplers(2).controllers(1).start().await;
    let controller = &cluster.controllers[0];
    controller.reads_from(&cluster.dopplers).await;
    for (n, doppler) in cluster.dopplers.iter().enumerate() {
        let mut producer = doppler.producer(n as u32, Workload::mixed(1)).await;
        producer.send(40).await;
        assert_eq!(producer.finish().await.grpc, Some(0));
    }

    let logs = get(controller, "recentlogs").await;
    assert_eq!(logs.status, 200);
    assert_eq!(logs.header(MISSING), Some("0"));
    assert_eq!(
        logs.header("access-control-allow-origin"),
        Some("http://localhost")
    );
    assert_eq!(
        logs.header("access-control-allow-credentials"),
        Some("true")
    );
    let marks_of = |response: &Response, producer| -> Vec<u64> {
        let marks = marks(response).into_iter();
        let theirs = marks.filter(|mark| mark.producer == producer);
        theirs.map(|mark| mark.sequence).collect()
    };
    let mut expected: Vec<u64> = (0..40)
        .filter(|sequence| Kind::of(*sequence) == Kind::Log)
        .collect();
    // Newest first.
    expected.reverse();
    assert_eq!(marks_of(&logs, 0), expected);
    assert_eq!(marks_of(&logs, 1), expected);

    let few = get(controller, "recentlogs?limit=3").await;
    assert_eq!(marks_of(&few, 1), expected[..3], "the second was later");
    assert_eq!(marks(&few).len(), 3);

    let tail = tail_with_recent(controller, 3).open().await;
    tail.receives(3, SOON).await;
    let mut later = cluster.dopplers[0].producer(2, Workload::logs(1, 50)).await;
    later.send(1).await;
    tail.receives(4, SOON).await;
    let (seen, before) = (tail.seen(), expected[..3].iter());
    assert!(before.clone().all(|sequence| seen.has(1, *sequence)));
    assert_eq!((seen.of(0), seen.of(1), seen.of(2)), (0, 3, 1));
    drop((seen, tail));

    let metrics = get(controller, "containermetrics").await;
    assert_eq!(metrics.status, 200);
    let newest = marks(&metrics);
    assert!(!newest.is_empty());
    assert!(
        newest
            .iter()
            .all(|mark| Kind::of(mark.sequence) == Kind::Container)
    );
    assert_eq!(get(controller, "recentlogs/").await.status, 404);
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_an_app_is_for_whoever_may_read_the_app() {
    let token = "hush-all-of-it";
    let tokens = format!(
        "- {{token: {token}, firehose: true, apps: [{}]}}\n",
        guid(0)
    );
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .tokens(tokens)
        .start()
        .await;
    let mut producer = cluster.dopplers[0].producer(0, Workload::mixed(2)).await;
    producer.send(80).await;
    assert_eq!(producer.finish().await.grpc, Some(0));
    let controller = &cluster.controllers[0];
    controller.reads_from(&cluster.dopplers).await;
    let bearer = format!("Authorization: bearer {token}");
    let wrong = format!("{bearer}-not");
    for what in ["recentlogs", "recentlogs?limit=1", "containermetrics"] {
        let own = get_with(controller, 0, what, &bearer).await;
        assert_eq!(own.status, 200, "{what}");
        assert!(marks(&own).iter().all(|mark| mark.app == 0), "{what}");
        assert!(!marks(&own).is_empty(), "{what}");
        for (app, line) in [(0, "X-Nothing: 1"), (0, &wrong[..]), (1, &bearer)] {
            let refused = get_with(controller, app, what, line).await;
            let status = if app == 0 { 401 } else { 404 };
            assert_eq!((refused.status, &refused.body[..]), (status, ""), "{what}");
            // A page has to be able to read why.
            let shared = refused.header("access-control-allow-origin");
            assert_eq!(shared, Some("http://localhost"), "{what}");
        }
    }
}

/// Panics unless a reader has each producer's envelopes without a gap, from its first one on.
fn assert_joined(seen: &Seen, who: &str, producers: u32) {
    seen.assert_clean(who);
    for producer in 0..producers {
        let last = seen.last_of(producer).unwrap();
        let first = (0..=last).find(|n| seen.has(producer, *n)).unwrap();
        let expected = last + 1 - first;
        assert_eq!(seen.of(producer), expected, "{who}: a gap in {producer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_goes_on_where_its_recent_logs_end_without_a_gap_or_anything_twice() {
    const TAILS: u64 = 20;
    // What comes while one of twenty readers gets no processor has room.
    let cluster = Cluster::builder()
        .dopplers(2)
        .controllers(1)
        .controller_flag("--app-bytes", 8 << 20)
        .start()
        .await;
    let controller = &cluster.controllers[0];
    controller.reads_from(&cluster.dopplers).await;
    let workload = Workload::logs(1, 50);
    let mut producers = Vec::new();
    for id in 0..4 {
        let doppler = &cluster.dopplers[id as usize % 2];
        producers.push(doppler.producer(id, workload).await);
    }
    for producer in &mut producers {
        producer.send(2 * KEPT).await;
    }
    let plain = controller.tail(0).open().await;
    cluster.tailed([0], 1).await;

    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let sending = tokio::spawn(async move {
        while !*stopped.borrow_and_update() {
            for producer in &mut producers {
                producer.send(50).await;
            }
            // At a rate that one tail holds.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let sent: Vec<u64> = producers.iter().map(|producer| producer.sent()).collect();
        for producer in producers {
            assert_eq!(producer.finish().await.grpc, Some(0));
        }
        sent
    });
    let mut tails: Vec<Reader> = Vec::new();
    for n in 0..TAILS {
        let tail = tail_with_recent(controller, 1 + 10 * n).open().await;
        // It has what was recent, and then goes on.
        tail.receives(10 * n + 500, SOON).await;
        tails.push(tail);
    }
    stop.send(true).unwrap();
    let sent = sending.await.unwrap();

    let complete = |reader: &Reader| {
        let last = |producer: u32| reader.look(|seen| seen.last_of(producer));
        (0..4).all(|producer| last(producer) == Some(sent[producer as usize] - 1))
    };
    eventually(SOON, "every tail has the last envelopes", async || {
        tails.iter().chain([&plain]).all(complete)
    })
    .await;
    for (n, tail) in tails.iter().enumerate() {
        assert_joined(&tail.seen(), &format!("tail {n}"), 4);
    }
    // What others were shown it has seen already: again would be twice.
    assert_joined(&plain.seen(), "the plain tail", 4);
    drop((tails, plain));
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_stands_still_is_waited_for_a_second_and_named_as_missing() {
    let mut cluster = Cluster::builder().dopplers(2).controllers(1).start().await;
    for (n, doppler) in cluster.dopplers.iter().enumerate() {
        let mut producer = doppler.producer(n as u32, Workload::logs(1, 50)).await;
        producer.send(10).await;
        assert_eq!(producer.finish().await.grpc, Some(0));
    }
    // Whom there is no link to is missing at once.
    cluster.controllers[0].reads_from(&cluster.dopplers).await;
    cluster.dopplers[1].process.signal(Signal::Stop);

    let controller = &cluster.controllers[0];
    let begun = Instant::now();
    let logs = get(controller, "recentlogs").await;
    assert!(begun.elapsed() >= PATIENCE);
    assert_eq!((logs.status, logs.header(MISSING)), (200, Some("1")));
    assert_eq!(marks(&logs).len(), 10);

    let (tail, told) = tail_that_may_be_told(controller);
    let tail = tail.open().await;
    tail.receives(10, SOON).await;
    assert!(told.load(Ordering::Relaxed));
    let named = format!("missing=\"{}\" asked=2", cluster.dopplers[1].address);
    let logged = || controller.process.logged(&named);
    eventually(SOON, "it is named in the log", async || logged()).await;

    cluster.dopplers[1].process.signal(Signal::Continue);
    let controller = &cluster.controllers[0];
    controller.reads_from(&cluster.dopplers).await;
    eventually(SOON, "it answers again", async || {
        get(controller, "recentlogs").await.header(MISSING) == Some("0")
    })
    .await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_does_not_know_the_question_is_missing_and_still_tailed() {
    let mut older = FakeDoppler::start().await;
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .also_reading(older.address)
        .start()
        .await;
    let mut link = older.link("/apps").await;
    let mut producer = cluster.dopplers[0].producer(0, Workload::logs(1, 50)).await;
    producer.send(10).await;
    assert_eq!(producer.finish().await.grpc, Some(0));
    let controller = &cluster.controllers[0];
    controller.reads_from(&cluster.dopplers).await;

    let (tail, told) = tail_that_may_be_told(controller);
    let tail = tail.open().await;
    let handle = loop {
        let text = link.text().await.unwrap();
        if let Upstream::Subscribe(apps) = Upstream::parse(&text).unwrap() {
            break apps[0].0;
        }
    };
    let mut envelope = Vec::new();
    proto::notice::app(&mut envelope, 3, 5, 0, guid(0).as_bytes());
    let message = [&handle.to_be_bytes()[..], &envelope].concat();
    assert!(split_handle(&message).is_some());
    // While the tail waits for the answer that does not come.
    link.frame(0x82, &message).await;
    tail.receives(10, SOON).await;
    eventually(SOON, "what the older one sent is there", async || {
        tail.look(|seen| seen.told()) == 3
    })
    .await;
    assert!(told.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_keeps_nothing_says_so_at_once() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .doppler_flag("--recent-logs", 0)
        .start()
        .await;
    let controller = &cluster.controllers[0];
    controller.reads_from(&cluster.dopplers).await;
    let none = get(controller, "recentlogs").await;
    assert_eq!((none.status, none.header(MISSING)), (200, Some("0")));
    assert!(marks(&none).is_empty());
}
