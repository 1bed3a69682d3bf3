//! One app tail: a reader of its app's topic.

use super::Front;
use crate::metrics::Metrics;
use bytes::Bytes;
use tracing::{debug, warn};
use transport::clock::unix_ns;
use transport::frame::framed;
use transport::ledger::Reason;
use transport::listener::Stream;
use transport::log::Claim;
use transport::websocket::{Close, Ended, Socket};

/// Writes to `socket` until the client leaves, or the process drains and the topic is read.
pub(super) async fn run(front: &Front, app: &str, mut socket: Socket<Stream>, peer: &str) {
    let mut tail = front.topics.tail(app);
    let mut taken = 0;
    let ended = loop {
        tokio::select! {
            claim = tail.member().claim() => match claim {
                Some(claim) => match socket.send(&bytes(claim, app)).await {
                    Ok(()) => drop(tail.member().sent()),
                    Err(ended) => {
                        taken = socket.taken();
                        break Some(ended);
                    }
                },
                None => break None,
            },
            ended = socket.ended() => break Some(ended),
        }
    };
    ended.iter().for_each(Metrics::stream_ended);
    match ended {
        Some(Ended::Stalled) => {
            front.metrics.slow_consumers.increment(1);
            warn!(peer, app, "slow consumer: closing with 1000");
            tail.end(taken, Reason::SlowConsumer);
        }
        _ => tail.end(taken, Reason::CloseResidue),
    }
    match ended
        .as_ref()
        .map_or(Some(Close::GOING_AWAY), Ended::answer)
    {
        Some(close) => socket.close(close).await,
        None => debug!(peer, "the client is gone"),
    }
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
