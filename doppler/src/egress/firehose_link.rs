//! The link of one firehose client: claims of its group, as they lie in the log.

use super::protocol;
use super::report::Reports;
use crate::metrics::Metrics;
use bytes::Bytes;
use proto::link::Upstream;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;
use transport::clock::unix_ns;
use transport::frame::framed;
use transport::log::{Claim, Filter, Member, Vacant};
use transport::websocket::{Close, Ended, Incoming, Socket};

/// Why a link ends.
enum End {
    /// The log was closed and this link has sent its share of it.
    Drained,
    /// The Traffic Controller said that its client is gone.
    Left,
    /// The connection ended.
    Broken(Ended),
}

/// Writes what `member` claims until one of them ends; returns the group if nobody is left
/// in it.
pub(super) async fn run<S>(
    mut member: Member,
    mut socket: Socket<S>,
    filter: Filter,
    peer: &str,
    metrics: &Metrics,
) -> Option<Vacant>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut reports = Reports::new(member.account());
    let mut taken = 0;
    let end = loop {
        tokio::select! {
            claim = member.claim() => match claim {
                Some(claim) => match socket.send(&bytes(claim, filter)).await {
                    Ok(()) => reports.sent(member.sent()),
                    Err(ended) => {
                        taken = socket.taken();
                        break End::Broken(ended);
                    }
                },
                None => break End::Drained,
            },
            said = socket.next() => match said {
                Ok(Incoming::Text(text)) => match Upstream::parse(&text) {
                    Ok(Upstream::Leave {}) => break End::Left,
                    Ok(Upstream::Written(said)) => member.would_take_more(reports.written(said)),
                    Ok(_) => {}
                    Err(bad) => break End::Broken(protocol(&bad)),
                },
                Ok(Incoming::Frames { .. }) => {}
                Err(ended) => break End::Broken(ended),
            },
            () = reports.due() => socket.say(&reports.tell(member.account())),
        }
    };
    // The group first: another member may claim while this socket says goodbye.
    let last_words = reports.tell_last(member.account());
    let vacant = member.leave(taken);
    match end {
        End::Broken(ended) => {
            Metrics::link_ended(&ended);
            let unconfirmed = reports.unconfirmed();
            metrics.unconfirmed(unconfirmed);
            debug!(peer, %ended, unconfirmed, "firehose link ended");
            if let Some(close) = ended.answer() {
                socket.close(close).await;
            }
        }
        End::Left => goodbye(socket, &last_words, Close::NORMAL).await,
        End::Drained => goodbye(socket, &last_words, Close::GOING_AWAY).await,
    }
    vacant
}

/// The final count, then Close.
async fn goodbye<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: Socket<S>,
    last_words: &str,
    close: Close,
) {
    if socket.send_text(last_words).await.is_ok() {
        socket.close(close).await;
    }
}

/// A claim as frames. A loss is told in the form that readers of that filter know.
fn bytes(claim: Claim, filter: Filter) -> Bytes {
    match claim {
        Claim::Frames(run) => run,
        Claim::Lost { delta, total } => {
            let mut envelope = Vec::new();
            match filter {
                Filter::Logs => proto::notice::app(&mut envelope, delta, total, unix_ns(), b""),
                Filter::Everything | Filter::Metrics => {
                    proto::notice::firehose(&mut envelope, delta, total, unix_ns())
                }
            }
            framed(&envelope)
        }
    }
}
