//! What was lost is explained: by `/losses`, by one line in the log when it begins, and by
//! `firehose why`. The oracle is the reader that lost it, and counters that are not the history's.

use crate::SOON;
use harness::admin;
use harness::binaries;
use harness::cluster::{Cluster, free_port};
use harness::envelopes::{Workload, guid};
use harness::eventually;
use harness::producer::BATCH_SENDER;
use proto::v2::{Envelope, EnvelopeBatch};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::process::Command;
use tokio::time::timeout;

/// Bytes a stalled reader's kernel takes for it.
const SMALL: u32 = 128 << 10;

/// What a Doppler may hold for firehoses here.
const LOG_BYTES: u64 = 1 << 20;

/// Envelopes of about 1.2 KiB: several times what there is room for.
const MANY: u64 = 20_000;

/// What a run of `firehose` came to.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn why(arguments: &[&str], admins: &[SocketAddr]) -> Ran {
    let admins: Vec<String> = admins.iter().map(|admin| admin.to_string()).collect();
    let run = Command::new(binaries::firehose())
        .arg("why")
        .args(arguments)
        .env_clear()
        .env("FIREHOSE_ADMIN", admins.join(","))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(SOON, run).await.expect("firehose ends").unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn losses(admin: SocketAddr, query: &str) -> Value {
    let (status, body) = admin::get(admin, &format!("/losses?{query}"))
        .await
        .unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The sum of all rows of all minutes.
fn sum(page: &Value) -> u64 {
    let minutes = page["minutes"].as_array().unwrap().iter();
    let rows = minutes.flat_map(|minute| minute["losses"].as_array().unwrap());
    rows.map(|row| row["envelopes"].as_u64().unwrap()).sum()
}

fn digits(text: &str) -> String {
    text.replace(',', "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nozzle_that_cannot_keep_up_is_named_on_the_page_in_the_log_and_by_the_command() {
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .doppler_flag("--log-bytes", LOG_BYTES);
    let cluster = cluster.start().await;
    let (doppler, controller) = (&cluster.dopplers[0], &cluster.controllers[0]);
    let slow = controller
        .firehose("splunk")
        .receive_buffer(SMALL)
        .open()
        .await;
    cluster.subscribed("splunk", 1).await;

    let nothing = why(&[], &[doppler.admin, controller.admin]).await;
    assert_eq!(nothing.code, Some(0), "{}", nothing.err);
    assert!(
        nothing.out.starts_with("Nothing was lost since 2"),
        "{}",
        nothing.out
    );
    assert!(
        nothing.out.contains("doppler at 127.0.0.1:"),
        "{}",
        nothing.out
    );

    slow.stall();
    let mut producer = doppler.producer(0, Workload::logs(4, 1_000)).await;
    producer.send(MANY).await;
    assert_eq!(producer.finish().await.grpc, Some(0));
    slow.resume();
    eventually(
        SOON,
        "sent = received + told, to the envelope",
        async || slow.look(|seen| seen.marked + seen.told()) >= MANY,
    )
    .await;
    let told = slow.seen().told();
    assert!(told > 0);

    // Not more than a second later the history has what the reader was told.
    eventually(
        SOON,
        "the history is what the reader was told",
        async || sum(&losses(doppler.admin, "subscription=splunk&since=1h").await) == told,
    )
    .await;
    let page = losses(doppler.admin, "").await;
    let row = &page["minutes"][0]["losses"][0];
    assert_eq!(row["where"], "firehose");
    assert_eq!(
        (&row["subscription"], &row["filter"]),
        (&"splunk".into(), &"everything".into())
    );
    assert_eq!(row["reason"], "log_overflow");
    let remedy = page["reasons"]["log_overflow"]["remedy"].as_str().unwrap();
    assert_eq!(sum(&losses(doppler.admin, "subscription=other").await), 0);

    let said = why(
        &["--subscription", "splunk"],
        &[doppler.admin, controller.admin],
    )
    .await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    for part in [
        &format!("{told} envelopes of subscription splunk were lost since 2"),
        &format!("{told} in front of firehose splunk: log_overflow"),
        "to do  add instances of the nozzle under the same subscription id",
        "Now: firehose splunk with 1 clients: ",
        "traffic-controller at 127.0.0.1:",
        "Nothing was lost here since 2",
    ] {
        assert!(digits(&said.out).contains(part), "{part}\n{}", said.out);
    }
    assert!(said.out.contains(remedy), "{}", said.out);

    let begins = |line: &&String| line.contains("begins to lose") && line.contains("splunk");
    let log = doppler.process.log();
    assert_eq!(log.iter().filter(begins).count(), 1, "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_readers_lose_that_leave_between_two_looks_has_their_name() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    let (doppler, controller) = (&cluster.dopplers[0], &cluster.controllers[0]);
    let mut producer = doppler.producer(0, Workload::logs(1, 1_000)).await;
    for _ in 0..3 {
        let tail = controller.tail(0).receive_buffer(SMALL).open().await;
        cluster.tailed([0], 1).await;
        tail.stall();
        producer.send(8_000).await;
        tail.cut().await;
    }
    for admin in [doppler.admin, controller.admin] {
        eventually(SOON, "the history is what the counters say", async || {
            let page = losses(admin, &format!("app={}", guid(0))).await;
            let counted = admin::subscriptions(admin).await;
            let streams = counted.sum();
            let open = counted.subscriptions.iter().any(|open| open.app.is_some());
            !open && sum(&page) == streams.lost()
        })
        .await;
    }
    let page = losses(controller.admin, &format!("app={}", guid(0))).await;
    assert!(sum(&page) > 0, "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_door_refuses_is_in_the_history_by_app_and_reason() {
    let cluster = Cluster::builder().dopplers(1).start().await;
    let doppler = &cluster.dopplers[0];
    let connection = doppler.connection().await;
    let mut call = connection.call(BATCH_SENDER).await;
    // An envelope without a message has no form in v1; one of no app, too.
    let envelope = |app: &str| Envelope {
        source_id: app.to_owned(),
        ..Envelope::default()
    };
    let apps = ["mine", "mine", "\u{1b}[2J", ""];
    let batch = EnvelopeBatch {
        batch: apps.map(envelope).into(),
    };
    let message = harness::envelopes::message(&prost::Message::encode_to_vec(&batch));
    assert_eq!(call.send(message).await, Ok(()));
    assert_eq!(call.finish().await.grpc, Some(0));

    eventually(SOON, "the door's losses are known", async || {
        sum(&losses(doppler.admin, "").await) == 4
    })
    .await;
    let page = losses(doppler.admin, "app=mine").await;
    assert_eq!(sum(&page), 2);
    assert_eq!(page["minutes"][0]["losses"][0]["reason"], "not_v1");
    assert_eq!(page["perhaps"][0]["envelopes"], 1, "{page}");
    assert!(!page.to_string().contains("u001b"));
    let counted = doppler.metrics().await;
    let counted = counted.sum("doppler_ingress_dropped_envelopes_total", &[]);
    assert_eq!(counted, 4.0);
    assert!(doppler.process.logged("begins to lose envelopes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_question_is_told_what_is_wrong_and_a_silent_listener_is_named() {
    let cluster = Cluster::builder().dopplers(1).controllers(1).start().await;
    for admin in [cluster.dopplers[0].admin, cluster.controllers[0].admin] {
        for (query, says) in [
            ("since=yesterday", "since=yesterday: not a time"),
            ("since=2h", "kept for an hour"),
            ("app=", "app has no value"),
            ("guid=1", "there is since"),
        ] {
            let answer = admin::get(admin, &format!("/losses?{query}")).await;
            let (status, body) = answer.unwrap();
            assert_eq!(status, 400, "{query}: {body}");
            assert!(body.contains(says), "{query}: {body}");
        }
    }
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let admins = [cluster.dopplers[0].admin, nobody];
    let said = why(&[], &admins).await;
    assert_eq!(said.code, Some(3), "{}", said.out);
    assert!(said.out.contains("doppler at"), "{}", said.out);
    let named = format!("could not ask {nobody}: could not reach {nobody}");
    assert!(said.err.contains(&named), "{}", said.err);
    assert!(
        said.err
            .contains("1 of 2 admin listeners could not be asked")
    );
    let json = why(&["--json"], &admins).await;
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["answers"][0]["losses"]["process"], "doppler");
    assert_eq!(json["not_asked"][0]["admin"], nobody.to_string());
    assert_eq!(why(&["--since", "2h"], &admins).await.code, Some(2));
}
