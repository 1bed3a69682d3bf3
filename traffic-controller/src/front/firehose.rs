//! One firehose client: what its links to all Dopplers bring, one run at a time.

use super::end::End;
use super::slow::{Slow, Watch};
use super::{Client, Front};
use crate::dopplers::firehose_link::{FirehoseLinks, Run};
use crate::metrics::Metrics;
use crate::streams::Passage;
use proto::request::Filter;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::time::Instant;
use tracing::debug;
use transport::frame;
use transport::listener::Stream;
use transport::websocket::Socket;

/// Writes to `socket` until the client leaves, what let it in is `lost`, or the process drains
/// and the Dopplers have sent what they had begun to.
pub(super) async fn run(
    front: &Front,
    subscription: &str,
    filter: Filter,
    path: &str,
    mut socket: Socket<Stream>,
    lost: impl Future<Output = &'static str>,
    client: &Client,
) {
    let peer = &*client.peer;
    let (mut links, hops) = FirehoseLinks::new(&front.dopplers, path);
    let passage = front
        .streams
        .firehose(subscription, filter.name(), peer, hops);
    let mut draining = pin!(front.leaving.begun());
    let mut watch = Watch::new(front.edge.slow);
    let progress = socket.progress();
    let mut leaving = false;
    let mut lost = pin!(lost);
    let mut overdue = pin!(front.leaving.overdue());
    let end = loop {
        tokio::select! {
            run = links.next() => match run {
                Some(run) => {
                    passage.received(run.count);
                    let slow = watch.slow(&progress, || links.lag());
                    match pass_on(&run, &mut socket, &passage, overdue.as_mut(), slow).await {
                        Ok(waited) => links.written(&run, run.count, waited),
                        Err(end) => break end,
                    }
                }
                None => break End::Drained,
            },
            ended = socket.ended() => break End::of(ended),
            reason = &mut lost => break End::Lost(reason),
            () = &mut draining, if !leaving => {
                leaving = true;
                links.leave();
            }
            () = &mut overdue => break End::Drained,
        }
    };
    if let End::Client(ended) = &end {
        Metrics::stream_ended(ended);
    }
    // Both at once: the client need not wait for the Dopplers' last counts, nor they for it.
    let close = async {
        match end.answer(&front.edge.slow) {
            // Boxed: it takes 2 KiB, at the end of a stream that may have been idle for days.
            Some(close) => Box::pin(socket.close(close)).await,
            None => debug!(peer, "the client is gone"),
        }
    };
    let (late, ()) = tokio::join!(links.run_out(), close);
    passage.received(late);
    passage.cut_off(0, late, end.reason());
    if let End::Slow(slow) = end {
        client.was_slow(slow, passage.lost(), &front.metrics);
    }
}

/// Writes the run in hand and settles it, whole or in part; returns how long its client kept it
/// waiting.
async fn pass_on(
    run: &Run,
    socket: &mut Socket<Stream>,
    passage: &Passage,
    overdue: Pin<&mut impl Future<Output = ()>>,
    slow: impl Future<Output = Slow>,
) -> Result<Duration, End> {
    let mut waiting = None;
    let end = {
        let mut sending = pin!(socket.send(&run.frames));
        let sent = poll_fn(|cx| {
            let sent = sending.as_mut().poll(cx);
            if sent.is_pending() {
                waiting.get_or_insert_with(Instant::now);
            }
            sent
        });
        tokio::select! {
            // Most sends end at once: then nobody looks at the clock.
            biased;
            sent = sent => match sent {
                Ok(()) => {
                    passage.written(run.count);
                    return Ok(waiting.map_or(Duration::ZERO, |since| since.elapsed()));
                }
                Err(ended) => End::of(ended),
            },
            () = overdue => End::Drained,
            slow = slow => End::Slow(slow),
        }
    };
    let (written, lost) = split(&run.frames, socket.taken());
    passage.cut_off(written, lost, end.reason());
    Err(end)
}

/// How many frames of a run lie whole within its first `taken` bytes, and how many do not.
fn split(run: &[u8], taken: usize) -> (u64, u64) {
    let mut end = 0;
    let (mut whole, mut rest) = (0, 0);
    for frame in frame::frames(run) {
        end += frame.len();
        match end <= taken {
            true => whole += 1,
            false => rest += 1,
        }
    }
    (whole, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use crate::dopplers::Doppler;
    use crate::dopplers::fake::{Fake, frames, heard, report};
    use crate::front::{Edge, Leaving};
    use crate::metrics::Metrics;
    use crate::streams::Streams;
    use crate::topics::Topics;
    use bytes::Bytes;
    use proto::link::Upstream;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::net::{TcpListener, TcpStream};
    use transport::ledger::{Account, Reason};
    use transport::shutdown::Drain;
    use transport::websocket::{Close, Ended, Incoming, Options};

    #[test]
    fn of_a_run_that_was_cut_off_the_whole_frames_were_written() {
        let mut frames = frame::Frames::new();
        (0..3).for_each(|_| frames.push(b"1234567", false));
        let run = frames.bytes();
        let length = frames.frame(0).len();
        for (taken, expected) in [
            (0, (0, 3)),
            (length - 1, (0, 3)),
            (length, (1, 2)),
            (length + 1, (1, 2)),
            (run.len(), (3, 0)),
        ] {
            assert_eq!(split(run, taken), expected, "{taken}");
        }
    }

    /// Both ends of a connection.
    async fn pair(options: Options) -> (Socket<Stream>, Socket<Stream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        let socket = |tcp, options| Socket::new(Stream::Plain(tcp), Bytes::new(), options);
        (
            socket(client.unwrap(), Options::client()),
            socket(server.unwrap().0, options),
        )
    }

    fn whoever() -> Client {
        Client {
            peer: "peer".to_owned(),
            path: "/firehose/n".to_owned(),
            forwarded_for: String::new(),
        }
    }

    fn front(doppler: Arc<Doppler>, drain: &Drain) -> Front {
        Front {
            access: Access::Open,
            edge: Edge::default(),
            dopplers: [doppler].into_iter().collect(),
            topics: Topics::new(1 << 20, 1 << 20),
            streams: Streams::new(1),
            metrics: Arc::new(Metrics::new()),
            shutdown: drain.shutdown(),
            leaving: Leaving::new(drain.shutdown(), Duration::ZERO),
        }
    }

    /// The account of the only client, which is gone.
    fn gone(front: &Front) -> Account {
        let accounts = front.streams.accounts();
        assert!(accounts.open.is_empty());
        assert_eq!(accounts.gone.imbalance(), 0, "{:?}", accounts.gone);
        assert_eq!(accounts.links_gone.gap, 0);
        accounts.gone
    }

    #[tokio::test]
    async fn a_drain_loses_nothing_of_a_client_that_reads() {
        let drain = Drain::new();
        let (fake, doppler) = Fake::new().await;
        let front = front(doppler, &drain);
        let (mut client, server) = pair(Options::server()).await;
        let doppler = async {
            let mut link = fake.link().await;
            link.send(&frames(3, b"x")).await.unwrap();
            drain.begin();
            assert_eq!(heard(&mut link).await, Upstream::Leave {});
            link.send(&frames(2, b"y")).await.unwrap();
            link.send_text(&report(5)).await.unwrap();
            link.close(Close::NORMAL).await;
        };
        let client = async {
            let mut received = 0;
            loop {
                match client.next().await {
                    Ok(Incoming::Frames { count, .. }) => received += count,
                    Ok(other) => panic!("{other:?}"),
                    Err(ended) => {
                        client.answer(&ended).await;
                        return (received, ended);
                    }
                }
            }
        };
        let whoever = whoever();
        let stream = run(
            &front,
            "n",
            Filter::Everything,
            "/firehose/n",
            server,
            std::future::pending(),
            &whoever,
        );
        let ((), (), (received, ended)) = tokio::join!(stream, doppler, client);
        assert_eq!(received, 5);
        assert!(
            matches!(
                ended,
                Ended::Peer {
                    code: Some(1001),
                    ..
                }
            ),
            "{ended}"
        );
        let account = gone(&front);
        assert_eq!((account.sent, account.dropped.total()), (5, 0));
    }

    #[tokio::test]
    async fn what_a_client_does_not_take_before_the_drain_is_over_is_counted() {
        let drain = Drain::new();
        let (fake, doppler) = Fake::new().await;
        let front = front(doppler, &drain);
        // It never reads.
        let (_client, server) = pair(Options::server()).await;
        let doppler = async {
            let mut link = fake.link().await;
            drain.begin();
            assert_eq!(heard(&mut link).await, Upstream::Leave {});
            // More than two kernels keep for a client.
            link.send(&frames(512, &[0; 64 << 10])).await.unwrap();
            link.send_text(&report(512)).await.unwrap();
            link.close(Close::NORMAL).await;
        };
        let whoever = whoever();
        let stream = run(
            &front,
            "n",
            Filter::Everything,
            "/firehose/n",
            server,
            std::future::pending(),
            &whoever,
        );
        tokio::join!(stream, doppler);
        let account = gone(&front);
        assert!(
            account.sent > 0 && account.dropped[Reason::Drain] > 0,
            "{account:?}"
        );
    }

    #[tokio::test]
    async fn a_client_whose_token_is_no_longer_good_is_told_why() {
        let drain = Drain::new();
        let (fake, doppler) = Fake::new().await;
        let front = front(doppler, &drain);
        let (mut client, server) = pair(Options::server()).await;
        let (end, ended) = tokio::sync::oneshot::channel();
        let doppler = async {
            let mut link = fake.link().await;
            link.send(&frames(1, b"x")).await.unwrap();
            link
        };
        let client = async {
            let first = client.next().await;
            assert!(matches!(first, Ok(Incoming::Frames { count: 1, .. })));
            end.send("the token has expired").unwrap();
            let ended = client.next().await.unwrap_err();
            client.answer(&ended).await;
            ended
        };
        let whoever = whoever();
        let stream = run(
            &front,
            "n",
            Filter::Everything,
            "/firehose/n",
            server,
            async { ended.await.unwrap() },
            &whoever,
        );
        let (ended, _link, ()) = tokio::join!(client, doppler, stream);
        let Ended::Peer { code, reason } = ended else {
            panic!("{ended}")
        };
        assert_eq!((code, &*reason), (Some(1008), "the token has expired"));
        assert_eq!(gone(&front).sent, 1);
    }
}
