//! What `firehose bench` says. Not how fast anything is: that is nobody's promise.

use serde_json::Value;

use crate::command::{firehose, run};
use crate::traffic_controller::{Subscriber, TrafficController, log};
use firehose_client::v1::Envelope;
use prost::Message;
use transport::clock::unix_ns;

/// A log that was written `seconds` ago.
fn aged(seconds: i64) -> Vec<u8> {
    let mut envelope = Envelope::decode(&log("hello")[..]).unwrap();
    envelope.timestamp = Some(unix_ns() - seconds * 1_000_000_000);
    envelope.encode_to_vec()
}

fn json(out: &str) -> Value {
    serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// A second is told every time, and a tenth of it is enough to have something to tell.
const SECOND: [&str; 3] = ["bench", "--seconds", "1"];

#[tokio::test]
async fn bench_says_what_a_core_of_this_machine_reads_and_how_many_readers_a_rate_takes() {
    let rate = "1000000000000";
    let arguments = [&SECOND[..], &["--rate", rate]].concat();
    let (code, out, err) = run(&arguments, async {}).await;
    assert_eq!(code, Some(0), "{err}");
    for said in [
        "This machine (",
        "without TLS",
        "   5 tags    decoded ",
        "  18 tags    decoded ",
        "envelopes with all tags a second. Plan for half of that",
        "1,000,000,000,000/s: ",
        " readers with the same subscription id\n",
    ] {
        assert!(out.contains(said), "{said}: {out}");
    }

    let arguments = [&arguments[..], &["--json"]].concat();
    let (_, out, _) = run(&arguments, async {}).await;
    let report = json(&out);
    for (machine, tags) in report["machine"].as_array().unwrap().iter().zip([5, 18]) {
        assert_eq!(machine["tags"], tags);
        for speed in ["decoded_per_second", "undecoded_per_second"] {
            assert!(machine[speed].as_u64().unwrap() > 0, "{machine}");
        }
    }
    assert!(
        report["readers"][0]["readers"].as_u64().unwrap() > 1,
        "{report}"
    );
    assert!(report.get("firehose").is_none(), "{report}");
}

#[tokio::test]
async fn bench_of_a_firehose_says_how_old_its_envelopes_are_and_what_was_lost() {
    let server = TrafficController::start().await;
    let arguments = [
        &SECOND[..],
        &[
            "--json",
            "--id",
            "me",
            "--filter-type",
            "logs",
            "--endpoint",
            &server.url,
        ],
    ]
    .concat();
    let serve = async {
        let caller = server.caller().await;
        assert!(
            caller
                .head
                .starts_with("GET /firehose/me?filter-type=logs "),
            "{}",
            caller.head
        );
        let mut subscriber = caller.subscribe().await;
        let mut notice = Vec::new();
        proto::notice::firehose(&mut notice, 300, 300, unix_ns());
        let garbage = b"not an envelope".to_vec();
        for envelope in [aged(3), aged(3), aged(20), notice, garbage] {
            subscriber.send(envelope).await;
        }
        closed(subscriber).await;
    };
    let (code, out, err) = run(&arguments, serve).await;
    assert_eq!(code, Some(0), "{err}");
    let report = json(&out);
    let firehose = &report["firehose"];
    assert_eq!(firehose["id"], "me");
    assert_eq!(
        firehose["envelopes"], 5,
        "the notice is one, and what is none came too"
    );
    assert_eq!(firehose["undecodable"], 1);
    assert_eq!(firehose["lost"], 300);
    let age = |of: &str| firehose["age_ms"][of].as_u64().unwrap() / 1_000;
    assert_eq!((age("p50"), age("max")), (3, 20), "{firehose}");
    assert!(err.contains("300 envelopes lost"), "{err}");
}

async fn closed(mut subscriber: Subscriber) {
    assert_eq!(subscriber.closed().await, Some(1000));
}

#[tokio::test]
async fn bench_of_a_firehose_that_is_not_there_still_tells_about_the_machine() {
    let server = TrafficController::start().await;
    let gone = server.url.clone();
    drop(server);
    let arguments = [
        &SECOND[..],
        &["--id", "me", "--connect-timeout", "0", "--endpoint", &gone],
    ]
    .concat();
    let (code, out, err) = run(&arguments, async {}).await;
    assert!(out.contains("18 tags    decoded "), "{out}");
    assert!(err.contains("could not connect"), "{err}");
    assert_eq!(code, Some(3));
}

#[tokio::test]
async fn bench_without_time_or_of_a_filter_without_a_firehose_makes_no_sense() {
    for (arguments, why) in [
        (&["--seconds", "0"][..], "in no time"),
        (&["--filter-type", "logs"], "--id"),
    ] {
        let arguments = [&["bench"], arguments].concat();
        let output = firehose(&arguments).output().await.unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(err.contains(why), "{err}");
        assert_eq!(output.status.code(), Some(2));
    }
}
