//! A quiet app loses nothing while a noisy one floods, and who floods is named within seconds.

use crate::SOON;
use harness::admin;
use harness::binaries;
use harness::cluster::{Cluster, Doppler};
use harness::envelopes::{Mark, Workload, batch, guid, log};
use harness::producer::{BATCH_SENDER, Call};
use harness::raw::Raw;
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// The quiet app; noisy ones are numbered from 0.
const QUIET: u32 = 1_000;

/// How soon an offender has to be named.
const NAMED: Duration = Duration::from_secs(5);

/// Bytes a stalled reader's kernel takes for it.
const SMALL: u32 = 128 << 10;

/// A quiet app's agent: a log at a time.
struct Quiet {
    call: Call,
    sent: u64,
}

impl Quiet {
    async fn of(doppler: &Doppler) -> Quiet {
        let call = doppler.connection().await.call(BATCH_SENDER).await;
        Quiet { call, sent: 0 }
    }

    async fn says_something(&mut self) {
        let mark = Mark {
            producer: 99,
            sequence: self.sent,
            app: QUIET,
        };
        let said = self.call.send(batch([log(mark, 100)])).await;
        assert_eq!(said, Ok(()));
        self.sent += 1;
    }
}

async fn losses(doppler: &Doppler) -> Value {
    let (status, body) = admin::get(doppler.admin, "/losses").await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_app_loses_nothing_and_the_noisy_one_is_named_within_five_seconds() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .controller_flag("--topic-bytes", 1 << 20)
        .start()
        .await;
    let (doppler, controller) = (&cluster.dopplers[0], &cluster.controllers[0]);
    let quiet = controller.tail(QUIET).open().await;
    let noisy = controller.tail(0).receive_buffer(SMALL).open().await;
    cluster.tailed([QUIET, 0], 1).await;
    let mut agent = Quiet::of(doppler).await;
    let mut flood = doppler.producer(0, Workload::logs(1, 1_000)).await;

    noisy.stall();
    let begun = Instant::now();
    let mut named = None;
    while named.is_none() && begun.elapsed() < SOON {
        for _ in 0..10 {
            flood.send(500).await;
            agent.says_something().await;
        }
        let (status, body) = admin::get(controller.admin, "/losses").await.unwrap();
        assert_eq!(status, 200, "{body}");
        let at_controller: Value = serde_json::from_str(&body).unwrap();
        let at_doppler = losses(doppler).await;
        let is_named = at_controller["losers_now"][0]["app"] == guid(0)
            && at_doppler["senders_now"][0]["app"] == guid(0);
        named = is_named.then(|| begun.elapsed());
    }
    let named = named.expect("the noisy app is named");
    assert!(named <= NAMED, "named after {named:?}");

    quiet.receives(agent.sent, SOON).await;
    let seen = quiet.seen();
    seen.assert_complete("the quiet app's tail", agent.sent);
    assert_eq!(seen.told(), 0);
    assert_eq!(controller.page().await.app(&guid(QUIET)).0.lost(), 0);
    assert_eq!(doppler.page().await.app(&guid(QUIET)).0.lost(), 0);

    let admins = format!("{},{}", doppler.admin, controller.admin);
    let why = |app: u32| {
        let run = Command::new(binaries::firehose())
            .args(["why", "--app", &guid(app), "--admin", &admins])
            .env_clear()
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(0));
        String::from_utf8(run.stdout).unwrap()
    };
    let said = why(QUIET);
    let nothing = format!("Nothing of app {} was lost since 2", guid(QUIET));
    assert!(said.starts_with(&nothing), "{said}");
    let said = why(0);
    for part in [
        &format!("in front of those who tail app {}: app_overflow", guid(0)),
        "to do  look at the app: it logs too much",
        &format!("In the last 10 s app {} sent ", guid(0)),
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_apps_recent_logs_stay_while_fat_apps_flood() {
    // A shard of 16 holds 64 KiB.
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .doppler_flag("--recent-bytes", 1 << 20)
        .start()
        .await;
    let (doppler, controller) = (&cluster.dopplers[0], &cluster.controllers[0]);
    let mut agent = Quiet::of(doppler).await;
    for _ in 0..10 {
        agent.says_something().await;
    }
    // Three fat apps to a shard: each has more than a shard of logs.
    let mut flood = doppler.producer(0, Workload::logs(48, 8_000)).await;
    flood.send(10_000).await;
    assert_eq!(flood.finish().await.grpc, Some(0));
    let mut raw = Raw::connect(controller.address, None).await;
    let head = format!(
        "GET /apps/{}/recentlogs HTTP/1.1\r\nHost: localhost\r\n\r\n",
        guid(QUIET)
    );
    raw.send(head.as_bytes()).await;
    let body = raw.response().await.body;
    for sequence in 0..agent.sent {
        let line = format!("99/{sequence}/{QUIET}.");
        assert!(body.contains(&line), "{line} is gone:\n{body}");
    }
}
