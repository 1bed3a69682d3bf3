//! The loop of `tail` and `subscribe`: a stream to stdout.

use std::time::Duration;

use firehose_client::{Batch, EnvelopeStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, interval_at};

use crate::exit::Failure;
use crate::notes::Notes;
use crate::output::Output;

const SECOND: Duration = Duration::from_secs(1);

/// Writes what `stream` brings, until `max` envelopes are written or `stop` says so.
pub(crate) async fn read(
    stream: EnvelopeStream,
    mut output: Output,
    max: Option<u64>,
    notes: Notes,
    stop: oneshot::Receiver<()>,
) -> Result<(), Failure> {
    let teller = notes.clone();
    let mut stream = stream.with_events(move |event| teller.event(event));
    let ended = copy(&mut stream, &mut output, max, &notes, stop).await;
    let finished = output.finish().map_err(Failure::Output);
    stream.close().await;
    notes.summary();
    ended.and(finished)
}

async fn copy(
    stream: &mut EnvelopeStream,
    output: &mut Output,
    max: Option<u64>,
    notes: &Notes,
    mut stop: oneshot::Receiver<()>,
) -> Result<(), Failure> {
    let mut left = max.unwrap_or(u64::MAX);
    let mut seconds = interval_at(Instant::now() + SECOND, SECOND);
    while left > 0 {
        tokio::select! {
            biased;
            _ = &mut stop => return Ok(()),
            _ = seconds.tick(), if output.counts() => output.second().map_err(Failure::Output)?,
            batch = stream.next_batch() => match batch {
                Some(batch) => write(&batch?, output, &mut left, notes)?,
                None => return Ok(()),
            },
            // Reached only when none of the above has anything to do.
            () = std::future::ready(()), if output.waiting() => {
                output.flush().map_err(Failure::Output)?;
            }
        }
    }
    Ok(())
}

fn write(batch: &Batch, output: &mut Output, left: &mut u64, notes: &Notes) -> Result<(), Failure> {
    let before = *left;
    for envelope in batch.iter() {
        if *left == 0 {
            break;
        }
        match output.envelope(&envelope).map_err(Failure::Output)? {
            Ok(()) => *left -= 1,
            Err(error) => notes.undecodable(error),
        }
    }
    notes.read(before - *left);
    Ok(())
}
