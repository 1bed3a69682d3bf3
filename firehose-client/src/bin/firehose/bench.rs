//! `firehose bench`: how much a reader on this machine can read, and what a firehose asks of it.
//!
//! First without a platform: a source on loopback sends as fast as we take, from a thread of its
//! own. What counts is our own time on a processor, so that the source and whoever else runs here
//! change little. Then, if there is a subscription id, the same reader on the real firehose.

mod report;
mod source;

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firehose_client::{Batch, CONNECT_DEADLINE, Client, EnvelopeStream, Event, Filter, v1};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use transport::clock::unix_ns;

use crate::args::Bench;
use crate::exit::Failure;
use crate::notes::Notes;
use crate::{output, platform};
use report::{Firehose, Lag, Report, Speed};
use source::{Source, Tags};

/// What part of a measurement is not counted: until buffers have grown and caches are warm.
const WARM_UP: f64 = 0.2;

/// The longest lag told apart, in milliseconds.
const LONGEST_LAG: usize = 60_000;

/// Measures for the time that `bench` gives, and prints what came out. A firehose that cannot be
/// read is a failure, told after what is known of this machine.
pub(crate) async fn bench(
    bench: Bench,
    notes: Notes,
    mut stop: oneshot::Receiver<()>,
) -> Result<(), Failure> {
    let parts = if bench.id.is_some() { 8 } else { 4 };
    let part = bench.seconds / parts;
    notes.say(format_args!(
        "measuring for {:.0} s; Ctrl-C ends it",
        bench.seconds.as_secs_f64().ceil()
    ));
    let mut speeds = Vec::new();
    for tags in [Tags::Few, Tags::All] {
        let speed = tokio::select! {
            biased;
            _ = &mut stop => return Ok(()),
            speed = local(tags, part) => speed?,
        };
        speeds.push(speed);
    }
    let firehose = match &bench.id {
        None => Ok(None),
        Some(id) => {
            let time = bench.seconds / 2;
            firehose(&bench, id, time, notes, &mut stop).await.map(Some)
        }
    };
    let (firehose, failure) = match firehose {
        Ok(firehose) => (firehose, None),
        Err(failure) => (None, Some(failure)),
    };
    let report = Report::new(speeds, firehose, bench.rate);
    let text = match bench.json {
        true => report.json(),
        false => report.words(),
    };
    output::write_all(text.as_bytes())?;
    failure.map_or(Ok(()), Err)
}

/// How fast we read from this machine itself, decoding and not.
async fn local(tags: Tags, time: Duration) -> Result<Speed, Failure> {
    let decoded = race(tags, time, |batch| {
        batch.decode().filter(Result::is_ok).count() as u64
    });
    let decoded = decoded.await?;
    let undecoded = race(tags, time, |batch| batch.iter().count() as u64).await?;
    Ok(Speed {
        tags: tags.count(),
        decoded,
        undecoded,
    })
}

/// Envelopes that `read` finds in each second of our own time on a processor.
async fn race(tags: Tags, time: Duration, read: fn(&Batch) -> u64) -> Result<f64, Failure> {
    let source = Source::start(tags)?;
    let client = Client::builder(&source.url)
        .first_connect_within(CONNECT_DEADLINE)
        .build()?;
    let mut stream = client.firehose("bench", Filter::Everything)?;
    // The first batch: from here on there is something to read.
    if let Some(batch) = stream.next_batch().await {
        batch?;
    }
    let begin = Instant::now() + time.mul_f64(WARM_UP);
    let end = Instant::now() + time;
    let mut race: Option<(Used, u64)> = None;
    while Instant::now() < end {
        let Some(batch) = stream.next_batch().await else {
            break;
        };
        let envelopes = read(&batch?);
        match &mut race {
            Some((_, all)) => *all += envelopes,
            None if Instant::now() >= begin => race = Some((Used::now(), 0)),
            None => {}
        }
    }
    Ok(race.map_or(0.0, |(used, all)| all as f64 / used.since()))
}

/// What has happened to the stream besides envelopes.
#[derive(Default)]
struct Happened {
    lost: u64,
    gaps: u64,
}

/// Reads a firehose as a nozzle does, which decodes each envelope.
async fn firehose(
    bench: &Bench,
    id: &str,
    time: Duration,
    notes: Notes,
    stop: &mut oneshot::Receiver<()>,
) -> Result<Firehose, Failure> {
    let happened = Arc::new(Mutex::new(Happened::default()));
    let seen = happened.clone();
    let stream = platform::firehose(&bench.server, id, bench.filter(), &notes).await?;
    let mut stream = stream.with_events(move |event| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &event {
            Event::Lost { delta, .. } => seen.lost += delta,
            Event::Connected { gap: Some(_) } => seen.gaps += 1,
            _ => {}
        }
        drop(seen);
        notes.event(event);
    });
    let read = read(&mut stream, time, stop).await;
    stream.close().await;
    let mut firehose = read?;
    let happened = happened.lock().unwrap_or_else(PoisonError::into_inner);
    firehose.id = id.to_owned();
    firehose.lost = happened.lost;
    firehose.gaps = happened.gaps;
    Ok(firehose)
}

async fn read(
    stream: &mut EnvelopeStream,
    time: Duration,
    stop: &mut oneshot::Receiver<()>,
) -> Result<Firehose, Failure> {
    let mut firehose = Firehose::default();
    let mut lags = vec![0_u64; LONGEST_LAG + 1];
    let (began, used) = (Instant::now(), Used::now());
    let end = began + time;
    let mut second = (0, 0);
    loop {
        let batch = tokio::select! {
            biased;
            _ = &mut *stop => break,
            batch = timeout_at(end, stream.next_batch()) => batch,
        };
        let batch = match batch {
            Ok(Some(batch)) => batch?,
            Ok(None) | Err(_) => break,
        };
        let now_ns = unix_ns();
        for envelope in batch.iter() {
            let Ok(envelope) = v1::decode(&envelope) else {
                firehose.undecodable += 1;
                continue;
            };
            if let Some(stamp) = envelope.timestamp {
                let lag = (now_ns - stamp) / 1_000_000;
                lags[usize::try_from(lag).unwrap_or(0).min(LONGEST_LAG)] += 1;
            }
        }
        let envelopes = batch.len() as u64;
        firehose.envelopes += envelopes;
        let this = began.elapsed().as_secs();
        second = if this == second.0 {
            (this, second.1 + envelopes)
        } else {
            (this, envelopes)
        };
        firehose.busiest = firehose.busiest.max(second.1);
        if Instant::now() >= end {
            break;
        }
    }
    firehose.seconds = began.elapsed().as_secs_f64();
    firehose.used = used.since();
    firehose.lag = lag(&lags);
    Ok(firehose)
}

/// How old envelopes were, from how many of them were how many milliseconds old.
fn lag(lags: &[u64]) -> Option<Lag> {
    let all: u64 = lags.iter().sum();
    let of = |part: f64| {
        let mut left = (all as f64 * part).ceil() as u64;
        lags.iter().position(|envelopes| {
            left = left.saturating_sub(*envelopes);
            left == 0
        })
    };
    (all > 0).then_some(())?;
    Some(Lag {
        half: of(0.5)?,
        most: of(0.99)?,
        longest: of(1.0)?,
    })
}

/// This thread's time on a processor, where the kernel tells it; else the time that passes.
struct Used {
    since: Instant,
    ran: Option<Duration>,
}

impl Used {
    fn now() -> Used {
        Used {
            since: Instant::now(),
            ran: ran(),
        }
    }

    /// Seconds used since then; more than none.
    fn since(&self) -> f64 {
        let used = match (self.ran, ran()) {
            (Some(then), Some(now)) => now.saturating_sub(then),
            _ => self.since.elapsed(),
        };
        used.as_secs_f64().max(1e-6)
    }
}

/// Linux's sched-stats.rst: the first number is nanoseconds on a processor.
fn ran() -> Option<Duration> {
    let line = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let ran = line.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(ran))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_told_for_half_for_most_and_for_the_oldest() {
        let mut lags = vec![0; 101];
        assert!(lag(&lags).is_none());
        lags[2] = 60;
        lags[7] = 39;
        lags[100] = 1;
        let Lag {
            half,
            most,
            longest,
        } = lag(&lags).unwrap();
        assert_eq!((half, most, longest), (2, 7, 100));
    }
}
