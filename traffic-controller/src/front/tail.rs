//! One app tail: a reader of its app's topic, which may begin with what the Dopplers keep.

use super::end::End;
use super::slow::Watch;
use super::{Client, Front};
use crate::dopplers::Lag;
use crate::metrics::Metrics;
use crate::recent::newest_logs;
use crate::topics::{Leave, Tail};
use bytes::Bytes;
use futures::FutureExt;
use std::pin::{Pin, pin};
use tracing::debug;
use transport::clock::unix_ns;
use transport::frame::framed;
use transport::listener::Stream;
use transport::log::{Claim, Member};
use transport::websocket::{Progress, Socket};

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
    let mut draining = pin!(front.leaving.begun());
    let mut writing = Writing {
        overdue: Box::pin(front.leaving.overdue()),
        watch: Watch::new(front.edge.slow),
        progress: socket.progress(),
        overflowed: 0,
        taken: 0,
    };
    let end = loop {
        tokio::select! {
            claim = tail.member().claim() => match claim {
                Some(claim) => {
                    let frames = bytes(claim, app);
                    if let Err(end) = writing.pass_on(&frames, &mut tail, &mut socket).await {
                        break end;
                    }
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
            () = &mut draining => break writing.run_dry(app, &mut tail, &mut socket).await,
        }
    };
    let taken = writing.taken;
    let lost = tail.end(taken, end.reason()).dropped.total();
    if let End::Slow(slow) = end {
        client.was_slow(slow, lost, &front.metrics);
    }
    close(&end, front, socket, peer).await
}

/// What is written to a client, and whether it takes it.
struct Writing<F> {
    /// Resolves when the drain waits no longer.
    overdue: Pin<Box<F>>,
    watch: Watch,
    progress: Progress,
    /// What the topic had cost it when that was last looked at.
    overflowed: u64,
    /// Of the claim that was not settled.
    taken: usize,
}

impl<F: Future<Output = ()>> Writing<F> {
    /// Writes a claim and settles it, unless the stream ends over it.
    async fn pass_on(
        &mut self,
        frames: &[u8],
        tail: &mut Tail,
        socket: &mut Socket<Stream>,
    ) -> Result<(), End> {
        let (member, overflowed) = (&*tail.member(), &mut self.overflowed);
        let sent = tokio::select! {
            // Most sends end at once: then nobody looks at the clock.
            biased;
            sent = socket.send(frames) => sent.map_err(End::of),
            () = &mut self.overdue => Err(End::Drained),
            slow = self.watch.slow(&self.progress, || lag(member, overflowed)) => {
                Err(End::Slow(slow))
            }
        };
        match sent {
            Ok(()) => {
                tail.member().sent();
            }
            Err(_) => self.taken = socket.taken(),
        }
        sent
    }

    /// Writes what the topic has, and waits for no more.
    async fn run_dry(&mut self, app: &str, tail: &mut Tail, socket: &mut Socket<Stream>) -> End {
        while let Some(Some(claim)) = tail.member().claim().now_or_never() {
            if let Err(end) = self.pass_on(&bytes(claim, app), tail, socket).await {
                return end;
            }
        }
        End::Drained
    }
}

/// Closes as the end asks for.
async fn close(end: &End, front: &Front, socket: Socket<Stream>, peer: &str) {
    if let End::Client(ended) = end {
        Metrics::stream_ended(ended);
    }
    match end.answer(&front.edge.slow) {
        // Boxed: it takes 2 KiB, at the end of a stream that may have been idle for days.
        Some(close) => Box::pin(socket.close(close)).await,
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
