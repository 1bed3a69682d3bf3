//! What is counted: the hot path in pieces, and from the Doppler's door to the client.

use crate::feed::{self, BATCH};
use crate::pipeline::Pipeline;
use doppler::ingress::Door;
use futures::FutureExt;
use proto::transcode::{V1Sink, View};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use transport::frame::{self, Frames};
use transport::ledger::Reason;
use transport::log::{Claim, Filter, Log, Member};

/// Batches in a round.
const BATCHES: usize = 100;

/// What the name of [`counted`] contains, whatever the compiler makes of it.
pub(crate) const COUNTED: &str = "counted_by_callgrind";

/// One thing to count.
pub(crate) struct Case {
    pub(crate) what: &'static str,
    /// How many envelopes a round takes.
    pub(crate) operations: usize,
    /// Makes what runs a round, each time it is called.
    prepare: fn() -> Box<dyn FnMut()>,
}

const fn case(what: &'static str, operations: usize, prepare: fn() -> Box<dyn FnMut()>) -> Case {
    Case {
        what,
        operations,
        prepare,
    }
}

pub(crate) const CASES: [Case; 9] = [
    case("transcode a log, 5 tags", BATCH, || transcode(feed::logs())),
    case("transcode a log, 18 tags", BATCH, || {
        transcode(feed::full_logs())
    }),
    case("transcode a timer", BATCH, || transcode(feed::timers())),
    case("transcode a gauge", BATCH, || transcode(feed::gauges())),
    case("scan a v1 log", BATCH, scan),
    case("append to the log, claim", BATCHES * BATCH, append),
    case("walk WebSocket frames", BATCH, walk),
    case("door to claim", BATCHES * BATCH, door),
    case("door to client", BATCHES * BATCH, client),
];

/// Runs a case: some rounds for what is allocated once, and one that is counted.
pub(crate) fn run(case: usize, rounds: usize) {
    let mut round = (CASES[case].prepare)();
    (0..rounds).for_each(|_| round());
    counted_by_callgrind(&mut *round);
}

/// Callgrind counts what is called here, and nothing else.
#[inline(never)]
fn counted_by_callgrind(round: &mut dyn FnMut()) {
    round();
    // Or the call above would be a jump, and this function over before it.
    black_box(());
}

/// Frames, as the router has them.
#[derive(Default)]
struct Sink(Frames);

impl V1Sink for Sink {
    fn begin(&mut self) -> &mut Vec<u8> {
        self.0.begin()
    }

    fn end(&mut self, log: bool, _app: &[u8]) {
        self.0.end(log);
    }
}

fn frames(envelopes: &[Vec<u8>]) -> Frames {
    let mut sink = Sink::default();
    for envelope in envelopes {
        let view = View::parse(envelope).expect("it is an envelope");
        view.to_v1(&mut sink).expect("it has a v1 form");
    }
    sink.0
}

fn transcode(envelopes: Vec<Vec<u8>>) -> Box<dyn FnMut()> {
    let mut sink = Sink::default();
    Box::new(move || {
        for envelope in &envelopes {
            let view = View::parse(envelope).expect("it is an envelope");
            black_box(view.to_v1(&mut sink).expect("it has a v1 form"));
        }
        sink.0.clear();
    })
}

fn scan() -> Box<dyn FnMut()> {
    let frames = frames(&feed::logs());
    Box::new(move || {
        for n in 0..frames.len() {
            let facts = proto::scan::v1(frames.payload(n));
            assert!(black_box(facts).is_ok_and(|facts| facts.log));
        }
    })
}

/// A batch goes into the chunk log, and the one reader takes it.
fn append() -> Box<dyn FnMut()> {
    let log = Log::new(64 << 20, Reason::LogOverflow);
    let mut member = log.join("nozzle", Filter::Everything);
    let batch = frames(&feed::logs());
    let mut batches = vec![batch; 3 * BATCHES];
    Box::new(move || {
        for mut batch in batches.drain(batches.len() - BATCHES..) {
            assert!(log.append(&mut batch));
            claim(&mut member);
        }
    })
}

fn claim(member: &mut Member) {
    let claimed = member.claim().now_or_never().flatten();
    assert!(matches!(black_box(claimed), Some(Claim::Frames(_))));
    assert_eq!(member.sent(), BATCH as u64);
}

/// What a Traffic Controller and a client do with every read.
fn walk() -> Box<dyn FnMut()> {
    let frames = frames(&feed::logs());
    Box::new(move || {
        let found = frame::frames(black_box(frames.bytes())).count();
        assert_eq!(black_box(found), BATCH);
    })
}

/// A message through the door, into the log, what is kept of its app, and to the one reader.
fn door() -> Box<dyn FnMut()> {
    let router = Arc::new(crate::pipeline::router());
    let door = Door::new(router.clone(), Arc::new(doppler::metrics::Metrics::new()));
    let mut member = router.firehose("nozzle", Filter::Everything);
    let message = feed::message();
    Box::new(move || {
        for _ in 0..BATCHES {
            let taken = door.batch(&message).now_or_never();
            assert_eq!(taken, Some(Ok(())));
            claim(&mut member);
        }
    })
}

/// The same, over a link to a Traffic Controller, and from there to the client.
fn client() -> Box<dyn FnMut()> {
    let mut pipeline = Pipeline::open(Duration::from_secs(60));
    let message = feed::message();
    Box::new(move || {
        for _ in 0..BATCHES {
            pipeline.carry(&message, BATCH);
        }
    })
}
