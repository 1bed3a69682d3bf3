//! One app tail: a reader of its app's topic, which may begin with what the Dopplers keep.

use super::end::End;
use super::slow::Watch;
use super::{Client, Front};
use crate::dopplers::Lag;
use crate::metrics::Metrics;
use crate::own_metrics::SlowConsumer;
use crate::recent::newest_logs;
use crate::topics::{Leave, Tail};
use bytes::Bytes;
use std::pin::pin;
use tracing::{debug, warn};
use transport::clock::unix_ns;
use transport::frame::framed;
use transport::listener::Stream;
use transport::log::{Claim, Member};
use transport::websocket::Socket;

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
                return close(&End::of(ended), front, socket, peer).await;
            }
        },
    };
    let mut taken = 0;
    let mut watch = Watch::new(front.edge.slow);
    let (progress, mut overflowed) = (socket.progress(), 0);
    let end = loop {
        tokio::select! {
            claim = tail.member().claim() => match claim {
                Some(claim) => {
                    let frames = bytes(claim, app);
                    let member = &*tail.member();
                    let slow = watch.slow(&progress, || lag(member, &mut overflowed));
                    let sent = tokio::select! {
                        // Most sends end at once: then nobody looks at the clock.
                        biased;
                        sent = socket.send(&frames) => sent.map_err(End::of),
                        slow = slow => Err(End::Slow(slow)),
                    };
                    if let Err(end) = sent {
                        taken = socket.taken();
                        break end;
                    }
                    tail.member().sent();
                    // The next may ask when the client has what this one asked for: it counts for
                    // no cap, and clients that do not read would add up.
                    beginning = beginning.and_then(|(bytes, leave)| {
                        let left = bytes.saturating_sub(frames.len());
                        (left > 0).then_some((left, leave))
                    });
                }
                None => break End::Drained,
            },
            ended = socket.ended() => break End::of(ended),
            reason = &mut lost => break End::Lost(reason),
        }
    };
    let lost = tail.end(taken, end.reason()).dropped.total();
    if let End::Slow(slow) = end {
        warn!(peer, app, lost, "{}", slow.words());
        front.metrics.slow_consumer(SlowConsumer {
            remote: client.peer.clone(),
            forwarded_for: client.forwarded_for.clone(),
            path: client.path.clone(),
            lost,
        });
    }
    close(&end, front, socket, peer).await
}

/// Closes as the end asks for.
async fn close(end: &End, front: &Front, socket: Socket<Stream>, peer: &str) {
    if let End::Client(ended) = end {
        Metrics::stream_ended(ended);
    }
    match end.answer(&front.edge.slow) {
        Some(close) => socket.close(close).await,
        None => debug!(peer, "the client is gone"),
    }
}

/// How far the tail is behind its topic; `overflowed` is what it had lost at the last look.
fn lag(member: &Member, overflowed: &mut u64) -> Lag {
    let standing = member.standing();
    let before = std::mem::replace(overflowed, standing.overflowed);
    Lag {
        lost: standing.overflowed - before,
        behind: standing.behind as u64,
        per_mille: standing.per_mille(),
    }
}

/// A tail that begins with the newest `logs` of all Dopplers, and a line that says so if some
/// did not answer: who reads logs to find out what happened must know that there is more.
async fn begin(front: &Front, app: &str, logs: u32) -> (Tail, usize) {
    let beginning = front.topics.tail_with_recent(app, logs);
    let gathered = beginning.gathered().await;
    super::recent::note_missing(&gathered);
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
