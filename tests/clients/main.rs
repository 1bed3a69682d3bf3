//! `cargo clients`: other people's clients, unmodified from PyPI, against our programs.
//!
//! Starts two Dopplers and a Traffic Controller as processes, mTLS and TLS on every hop, and a UAA
//! and a Cloud Controller that say who may read; an agent of grpcio sends, websockets reads the firehose, cloudfoundry-client tails an app, and
//! websocket-client looks at what goes on beside the envelopes. Prints what each was to get
//! and whether it did. Needs Python 3 with its `venv`; what is installed is in
//! `requirements.txt`, and lies in the target directory.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that is run by name: it talks to a person"
)]

mod python;

use harness::certs::Certs;
use harness::cloud_controller::CloudController;
use harness::cluster::{Cluster, Doppler};
use harness::envelopes::{Mark, guid};
use harness::uaa::{USER, Uaa};
use python::Python;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The app that is tailed; agents send for app 0, too.
const APP: u32 = 1;

/// Log lines an agent sends by each call.
const COUNT: usize = 500;

/// The calls a Doppler takes: `agent.py` has their names.
const CALLS: usize = 4;

/// Log lines of an app that a Doppler keeps.
const RECENT: usize = 100;

/// How long a process may take to drain: its own 4 s, and room.
const DRAIN: Duration = Duration::from_secs(10);

/// What was found so far.
#[derive(Default)]
struct Verdict {
    wrong: bool,
}

impl Verdict {
    fn check(&mut self, what: &str, right: bool, found: impl std::fmt::Debug) {
        match right {
            true => println!("ok     {what}"),
            false => println!("WRONG  {what}: {found:?}"),
        }
        self.wrong |= !right;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    eprintln!("building the programs (the first time takes some minutes)");
    let python = Python::ready().await;
    let certs = Arc::new(Certs::new());
    let uaa = Uaa::start(&certs).await;
    let cloud_controller = CloudController::start(&certs).await;
    let mut cluster = Cluster::builder()
        .dopplers(2)
        .controllers(1)
        .certs(certs.clone())
        .controller_flags(uaa.flags(&certs))
        .controller_flags(cloud_controller.flags(&certs))
        .start()
        .await;
    let ca = text(&certs.ca());
    let metron = certs.pair("metron");
    // By name, since that is what the certificate is for.
    let endpoint = format!("wss://localhost:{}", cluster.controllers[0].address.port());
    let (app, due) = (guid(APP), (2 * CALLS * COUNT / 2).to_string());
    cloud_controller.links(&uaa.url(), &endpoint);
    cloud_controller.allow(&app, 200);
    let (api, token) = (cloud_controller.url(), uaa.token(&["doppler.firehose"]));
    let (user, password) = USER;
    let mut verdict = Verdict::default();

    let mut firehose = python.start("firehose.py", &ca, &[&endpoint, &ca, &token, "nozzle"]);
    let mut tail = python.start("tail.py", &ca, &[&api, &ca, user, password, &app, &due]);
    let pings = python.start("pings.py", &ca, &[&endpoint, &ca, &token, "pings"]);
    cluster.subscribed("nozzle", 1).await;
    cluster.tailed([APP], 1).await;

    let agent = |doppler: &Doppler, first: usize| {
        let address = doppler.address.to_string();
        let (cert, key) = (text(&metron.cert), text(&metron.key));
        let (first, count) = (first.to_string(), COUNT.to_string());
        python.start(
            "agent.py",
            &ca,
            &[&address, &ca, &cert, &key, &first, &count],
        )
    };
    let mut one = agent(&cluster.dopplers[0], 0);
    let mut two = agent(&cluster.dopplers[1], CALLS);
    let sent = [
        one.lines("sent", CALLS * COUNT).await,
        two.lines("sent", CALLS * COUNT).await,
    ];
    let all: usize = sent.iter().map(Vec::len).sum();
    verdict.check(
        "two agents of grpcio sent by each call",
        all == 2 * CALLS * COUNT,
        all,
    );

    let extensions = firehose.lines("extensions", 1).await;
    verdict.check(
        "websockets offers compression and is not given it",
        extensions == ["[]"],
        extensions,
    );
    let got = firehose.lines("got", all).await;
    verdict.check(
        "the firehose of websockets has every line, each agent's calls in order",
        is_all_of(&sent, &got, |_| true),
        got.len(),
    );
    let got = tail.lines("got", all / 2).await;
    verdict.check(
        "the tail of cloudfoundry-client has every line of its app and no other",
        is_all_of(&sent, &got, |mark| mark.app == APP),
        got.len(),
    );
    let rest = tail.rest().await;
    verdict.check(
        "and leaves without a complaint",
        rest.as_deref() == Some(&[]),
        rest,
    );

    let mut recent = python.start("recent.py", &ca, &[&api, &ca, user, password, &app]);
    let got = recent.lines("got", 2 * RECENT).await;
    let rest = recent.rest().await;
    verdict.check(
        "the recent logs of cloudfoundry-client are the app's newest, the newest first",
        are_the_newest_of(&sent, &got) && rest.as_deref() == Some(&[]),
        (got, rest),
    );

    for mut agent in [one, two] {
        agent.hang_up();
        let rest = agent.rest().await;
        let well = |lines: &Vec<String>| {
            lines.len() == CALLS && lines.iter().all(|line| line.starts_with("ended OK "))
        };
        verdict.check(
            "an agent's half-closed calls end with OK",
            rest.as_ref().is_some_and(well),
            rest,
        );
    }

    let said = pings.rest().await;
    let due = [
        "ping",
        "pong are you there?",
        "closed 4321",
        "ping",
        "closed 1008 Client did not respond to ping before keep-alive timeout expired.",
    ];
    verdict.check(
        "websocket-client is pinged at once, answered, echoed, and closed when silent for 30 s",
        said.as_ref().is_some_and(|said| *said == due),
        said,
    );

    let code = cluster.controllers[0].process.terminate(DRAIN).await;
    let rest = firehose.rest().await;
    verdict.check(
        "a Traffic Controller that drains closes the firehose with 1001",
        rest.as_deref() == Some(&["closed 1001".to_owned()]) && code == 0,
        (rest, code),
    );
    match verdict.wrong {
        false => ExitCode::SUCCESS,
        true => ExitCode::FAILURE,
    }
}

/// Whether `got` is what was `sent` as far as it is `due`: by each call in order, nothing twice.
fn is_all_of(sent: &[Vec<String>], got: &[String], due: impl Fn(&Mark) -> bool) -> bool {
    by_call(&sent.concat(), due) == by_call(got, |_| true)
}

/// Whether `got` are an app's last lines by each call, the newest first, as many as two
/// Dopplers keep.
fn are_the_newest_of(sent: &[Vec<String>], got: &[String]) -> bool {
    let all = by_call(&sent.concat(), |mark| mark.app == APP);
    let oldest_first: Vec<String> = got.iter().rev().cloned().collect();
    let kept = by_call(&oldest_first, |_| true);
    let mut calls = kept.iter();
    got.len() == 2 * RECENT
        && calls.all(|(call, kept)| all.get(call).is_some_and(|all| all.ends_with(kept)))
}

/// The marks of these lines, as far as they are `due`, by the call that sent them.
fn by_call(lines: &[String], due: impl Fn(&Mark) -> bool) -> BTreeMap<u32, Vec<Mark>> {
    let mut calls: BTreeMap<u32, Vec<Mark>> = BTreeMap::new();
    let marks = lines.iter().filter_map(|line| Mark::parse(line));
    for mark in marks.filter(due) {
        calls.entry(mark.producer).or_default().push(mark);
    }
    calls
}

fn text(path: &Path) -> String {
    path.to_str()
        .expect("a temporary directory is text")
        .to_owned()
}
