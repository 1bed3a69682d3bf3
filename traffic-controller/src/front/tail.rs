//! One app tail: a reader of its app's topic, which may begin with what the Dopplers keep.

use super::{Client, Front};
use crate::metrics::Metrics;
use crate::own_metrics::SlowConsumer;
use crate::recent::newest_logs;
use crate::topics::{Leave, Tail};
use bytes::Bytes;
use std::pin::pin;
use tracing::{debug, warn};
use transport::clock::unix_ns;
use transport::frame::framed;
use transport::ledger::Reason;
use transport::listener::Stream;
use transport::log::Claim;
use transport::websocket::{Close, Ended, Socket};

/// Writes to `socket` until the client leaves, what let it in is `lost`, or the process drains
/// and the topic is read.
///
/// With `recent` it begins with that many logs at most, and there is leave to ask for them.
pub(super) async fn run(
    front: &Front,
    app: &str,
    recent: Option<(u32, Leave)>,
    mut socket: Socket<Stream>,
    lost: impl Future<Output = &'static str>,
    client: &Client,
) {
    let peer = &*client.peer;
    let mut lost = pin!(lost);
    let (mut tail, mut beginning) = match recent {
        None => (front.topics.tail(app), None),
        Some((logs, leave)) => tokio::select! {
            (tail, bytes) = begin(front, app, logs) => (tail, (bytes > 0).then_some((bytes, leave))),
            ended = socket.ended() => {
                return end(Some(ended), Close::GOING_AWAY, socket, peer).await;
            }
        },
    };
    let mut taken = 0;
    let mut close = Close::GOING_AWAY;
    let ended = loop {
        tokio::select! {
            claim = tail.member().claim() => match claim {
                Some(claim) => {
                    let frames = bytes(claim, app);
                    if let Err(ended) = socket.send(&frames).await {
                        taken = socket.taken();
                        break Some(ended);
                    }
                    tail.member().sent();
                    // The next may ask when the client has what this one asked for: it counts for
                    // no cap, and clients that do not read would add up.
                    beginning = beginning.and_then(|(bytes, leave)| {
                        let left = bytes.saturating_sub(frames.len());
                        (left > 0).then_some((left, leave))
                    });
                }
                None => break None,
            },
            ended = socket.ended() => break Some(ended),
            reason = &mut lost => {
                close = Close::POLICY.because(reason);
                break None;
            }
        }
    };
    match ended {
        Some(Ended::Stalled) => {
            warn!(peer, app, "slow consumer: closing with 1000");
            let account = tail.member().account();
            front.metrics.slow_consumer(SlowConsumer {
                remote: client.peer.clone(),
                forwarded_for: client.forwarded_for.clone(),
                path: client.path.clone(),
                // What waits is lost with it.
                lost: account.dropped.total() + account.queued,
            });
            tail.end(taken, Reason::SlowConsumer);
        }
        _ => tail.end(taken, Reason::CloseResidue),
    }
    end(ended, close, socket, peer).await
}

/// Closes as the peer's end asks for, or with `close` if it is ours.
async fn end(ended: Option<Ended>, close: Close, socket: Socket<Stream>, peer: &str) {
    ended.iter().for_each(Metrics::stream_ended);
    match ended.as_ref().map_or(Some(close), Ended::answer) {
        Some(close) => socket.close(close).await,
        None => debug!(peer, "the client is gone"),
    }
}

/// A tail that begins with the newest `logs` of all Dopplers, and a line that says so if some
/// did not answer: who reads logs to find out what happened must know that there is more.
async fn begin(front: &Front, app: &str, logs: u32) -> (Tail, usize) {
    let beginning = front.topics.tail_with_recent(app, logs);
    let gathered = beginning.gathered().await;
    super::recent::note_missing(front, &gathered);
    let mut first = Vec::new();
    if !gathered.missing.is_empty() {
        let mut notice = Vec::new();
        let (missing, asked) = (gathered.missing.len(), gathered.asked);
        proto::notice::incomplete(&mut notice, missing, asked, unix_ns(), app.as_bytes());
        first.push(notice.into());
    }
    first.extend(newest_logs(gathered.envelopes, logs as usize));
    beginning.begin(&first)
}

/// A claim as frames; a loss is told in upstream's words.
fn bytes(claim: Claim, app: &str) -> Bytes {
    match claim {
        Claim::Frames(run) => run,
        Claim::Lost { delta, total } => {
            let mut envelope = Vec::new();
            proto::notice::app(&mut envelope, delta, total, unix_ns(), app.as_bytes());
            framed(&envelope)
        }
    }
}
