//! One firehose client: what its links to all Dopplers bring, one run at a time.

use super::Front;
use crate::dopplers::firehose_link::{FirehoseLinks, Run};
use proto::request::Filter;
use tracing::{debug, warn};
use transport::ledger::Reason;
use transport::listener::Stream;
use transport::websocket::{Close, Ended, Socket};

/// Writes to `socket` until the client leaves or the process drains.
pub(super) async fn run(
    front: &Front,
    subscription: &str,
    filter: Filter,
    path: &str,
    mut socket: Socket<Stream>,
    peer: &str,
) {
    let (mut links, hops) = FirehoseLinks::new(&front.dopplers, path);
    let names = front.dopplers.iter().map(|doppler| doppler.address.clone());
    let hops = names.zip(hops).collect();
    let passage = front
        .streams
        .firehose(subscription, filter.name(), peer, hops);
    let ended = loop {
        tokio::select! {
            Run { frames, count } = links.next() => {
                passage.received(count);
                if let Err(ended) = socket.send(&frames).await {
                    let reason = match ended {
                        Ended::Stalled => Reason::SlowConsumer,
                        _ => Reason::CloseResidue,
                    };
                    passage.dropped(reason, count);
                    break Some(ended);
                }
                passage.written(count);
            }
            ended = socket.ended() => break Some(ended),
            () = front.shutdown.begun() => break None,
        }
    };
    if let Some(Ended::Stalled) = ended {
        front.metrics.slow_consumers.increment(1);
        warn!(peer, subscription, "slow consumer: closing with 1000");
    }
    // Both at once: the client need not wait for the Dopplers' last counts, nor they for it.
    let close = async {
        match ended
            .as_ref()
            .map_or(Some(Close::GOING_AWAY), Ended::answer)
        {
            Some(close) => socket.close(close).await,
            None => debug!(peer, "the client is gone"),
        }
    };
    let (late, ()) = tokio::join!(links.leave(), close);
    passage.received(late);
    passage.dropped(Reason::CloseResidue, late);
}
