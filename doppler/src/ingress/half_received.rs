//! How much of unfinished gRPC messages we hold.
//!
//! In comes a request body, out comes the same body, held back or ended where a message is too
//! long, takes too long, or too much is half received. Without this a client could open a
//! hundred streams, announce 10 MiB on each and leave us holding 1 GiB.
//!
//! A connection has an allowance of its own, which the batches of agents fit in: nobody else
//! can use it up. Larger messages share one budget, a connection's streams taking turns at it,
//! and have to come in at a rate.

use bytes::Bytes;
use http_body::{Body, Frame};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;

/// The largest gRPC message taken (upstream's `MaxRecvMsgSize`).
pub(super) const MAX_MESSAGE: usize = 10 << 20;

/// What one connection may have half received without asking the shared budget: two of the
/// batches that agents send (100 envelopes with full tags).
const ALLOWANCE: usize = 256 << 10;

/// How long a message may take from its first byte to its last: this, and as much again for
/// each MiB. Waiting for budget is not counted.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(1);

/// A gRPC message is preceded by a flag byte and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// What half-received messages may take: of one connection, and of all. Counted in KiB.
#[derive(Clone)]
pub struct Budget {
    shared: Arc<Semaphore>,
    allowance: Arc<Semaphore>,
    /// A connection's turn at the shared budget.
    turn: Arc<Semaphore>,
}

impl Budget {
    /// A shared budget of `bytes`, and never less than the largest message.
    pub fn new(bytes: usize) -> Budget {
        Budget::sharing(Arc::new(Semaphore::new(
            bytes.max(MAX_MESSAGE).div_ceil(1024),
        )))
    }

    /// The budget of another connection.
    pub fn of_connection(&self) -> Budget {
        Budget::sharing(self.shared.clone())
    }

    fn sharing(shared: Arc<Semaphore>) -> Budget {
        Budget {
            shared,
            allowance: Arc::new(Semaphore::new(ALLOWANCE / 1024)),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    async fn take(self, bytes: usize) -> Result<Permits, AcquireError> {
        let kib = bytes.div_ceil(1024) as u32; // at most MAX_MESSAGE
        if bytes <= ALLOWANCE {
            return Ok((self.allowance.acquire_many_owned(kib).await?, None));
        }
        let turn = self.turn.acquire_owned().await?;
        Ok((self.shared.acquire_many_owned(kib).await?, Some(turn)))
    }
}

/// What a message holds until it is whole: budget, and for a large one its turn.
type Permits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

type Waiting = Pin<Box<dyn Future<Output = Result<Permits, AcquireError>> + Send>>;

/// A request body of gRPC messages, metered.
pub(super) struct HalfReceived<B> {
    body: B,
    budget: Budget,
    message: Message,
    permits: Option<Permits>,
    /// Budget asked for, and the data that waits for it.
    waiting: Option<(Waiting, Bytes)>,
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Where in a message the body stands.
#[derive(Default)]
struct Message {
    prefix: [u8; PREFIX],
    prefix_seen: usize,
    length: usize,
    missing: usize,
}

impl<B> HalfReceived<B> {
    pub(super) fn new(body: B, budget: Budget) -> HalfReceived<B> {
        HalfReceived {
            body,
            budget,
            message: Message::default(),
            permits: None,
            waiting: None,
            deadline: None,
        }
    }

    /// Follows `data` through the messages it belongs to, and asks for budget if it ends
    /// inside a long one that none was asked for.
    fn follow(&mut self, data: &Bytes) -> Result<Option<Waiting>, Status> {
        let mut rest = data.len();
        let mut bytes = &data[..];
        let mut began = None;
        while rest > 0 {
            let took = self.message.advance(bytes)?;
            bytes = &bytes[took..];
            rest = bytes.len();
            if self.message.is_complete() {
                self.permits = None;
                self.deadline = None;
                began = None;
                self.message = Message::default();
            } else if self.message.length > 0 && self.permits.is_none() {
                began = Some(self.message.length);
            }
        }
        if self.message.prefix_seen > 0 && self.deadline.is_none() {
            self.deadline = Some(self.message.deadline());
        }
        let budget = self.budget.clone();
        Ok(began.map(|bytes| Box::pin(budget.take(bytes)) as Waiting))
    }
}

impl Message {
    /// Takes what of `bytes` belongs to this message, prefix included; returns how much.
    fn advance(&mut self, bytes: &[u8]) -> Result<usize, Status> {
        if self.prefix_seen < PREFIX {
            let took = bytes.len().min(PREFIX - self.prefix_seen);
            self.prefix[self.prefix_seen..][..took].copy_from_slice(&bytes[..took]);
            self.prefix_seen += took;
            if self.prefix_seen == PREFIX {
                let [_, length @ ..] = self.prefix;
                self.length = u32::from_be_bytes(length) as usize;
                self.missing = self.length;
                if self.length > MAX_MESSAGE {
                    return Err(too_large(self.length));
                }
            }
            return Ok(took);
        }
        let took = bytes.len().min(self.missing);
        self.missing -= took;
        Ok(took)
    }

    fn deadline(&self) -> Pin<Box<Sleep>> {
        let mib = self.length.div_ceil(1 << 20) as u32;
        Box::pin(tokio::time::sleep(MESSAGE_DEADLINE * (1 + mib)))
    }

    fn is_complete(&self) -> bool {
        self.prefix_seen == PREFIX && self.missing == 0
    }
}

/// Worded as grpc-go does: operators know the message.
fn too_large(length: usize) -> Status {
    Status::resource_exhausted(format!(
        "grpc: received message larger than max ({length} vs. {MAX_MESSAGE})"
    ))
}

impl<B> Body for HalfReceived<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some((waiting, data)) = &mut this.waiting {
            let permits = ready!(waiting.as_mut().poll(cx));
            let data = std::mem::take(data);
            this.permits = permits.ok(); // the budget is never closed
            this.waiting = None;
            this.deadline = Some(this.message.deadline());
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(Status::deadline_exceeded(
                "a message was begun and not finished within 1 s and 1 s per MiB",
            ))));
        }
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(Status::from_error(Box::new(error))))),
            // Worded as grpc-go does.
            None if this.message.prefix_seen > 0 => {
                return Poll::Ready(Some(Err(Status::internal("unexpected EOF"))));
            }
            None => return Poll::Ready(None),
        };
        let Some(data) = frame.data_ref() else {
            return Poll::Ready(Some(Ok(frame)));
        };
        match this.follow(data)? {
            None => Poll::Ready(Some(Ok(frame))),
            Some(waiting) => {
                this.waiting = Some((waiting, data.clone()));
                Pin::new(this).poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;

    fn body(
        parts: Vec<Vec<u8>>,
        budget: &Budget,
    ) -> HalfReceived<impl Body<Data = Bytes, Error = Infallible> + Unpin + use<>> {
        let frames = parts
            .into_iter()
            .map(|part| Ok(Frame::data(Bytes::from(part))));
        let endless = futures::StreamExt::chain(stream::iter(frames), stream::pending());
        HalfReceived::new(StreamBody::new(endless), budget.clone())
    }

    fn prefix(length: u32) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes()].concat()
    }

    #[tokio::test(start_paused = true)]
    async fn an_announced_length_over_the_limit_is_refused_in_grpc_gos_words() {
        let mut body = body(vec![prefix(10_485_761)], &Budget::new(0));
        let status = body.frame().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(
            status.message(),
            "grpc: received message larger than max (10485761 vs. 10485760)"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn half_messages_beyond_the_budget_wait_for_those_before_them() {
        let budget = Budget::new(MAX_MESSAGE);
        let mut first = body(vec![prefix(10 << 20)], &budget);
        let mut second = body(vec![prefix(10 << 20)], &budget);
        first.frame().await.unwrap().unwrap();
        let held_back = tokio::time::timeout(Duration::from_secs(1), second.frame()).await;
        assert!(held_back.is_err());
        drop(first);
        second.frame().await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_announces_much_holds_up_no_other_connections_batches() {
        let budget = Budget::new(MAX_MESSAGE);
        let attacker = budget.of_connection();
        let mut streams: Vec<_> = (0..100)
            .map(|_| body(vec![prefix(10 << 20), vec![0]], &attacker))
            .collect();
        let first = tokio::time::timeout(Duration::from_millis(1), streams[0].frame());
        first.await.unwrap().unwrap().unwrap();
        for stream in &mut streams[1..] {
            let _ = tokio::time::timeout(Duration::from_millis(1), stream.frame()).await;
        }
        let batch = [prefix(100 << 10), vec![1; 50 << 10]].concat();
        let mut honest = body(vec![batch, vec![1; 50 << 10]], &budget.of_connection());
        let began = tokio::time::Instant::now();
        honest.frame().await.unwrap().unwrap();
        honest.frame().await.unwrap().unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_never_finished_ends_its_stream_in_time() {
        let mut body = body(vec![prefix(100), vec![1; 99]], &Budget::new(0));
        body.frame().await.unwrap().unwrap();
        body.frame().await.unwrap().unwrap();
        let began = tokio::time::Instant::now();
        let status = body.frame().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(began.elapsed(), 2 * MESSAGE_DEADLINE);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_cut_anywhere_are_followed_and_give_their_budget_back() {
        let budget = Budget::new(MAX_MESSAGE);
        let whole = [
            prefix(20_000),
            vec![7; 20_000],
            prefix(0),
            prefix(3),
            vec![1; 3],
        ]
        .concat();
        for size in [1, 3, 5, 7, 4_096, 20_004] {
            let parts: Vec<Vec<u8>> = whole.chunks(size).map(Vec::from).collect();
            let count = parts.len();
            let mut body = body(parts, &budget);
            for _ in 0..count {
                body.frame().await.unwrap().unwrap();
            }
            assert!(
                body.message.prefix_seen == 0 && body.permits.is_none(),
                "{size}"
            );
        }
        assert_eq!(budget.shared.available_permits(), MAX_MESSAGE / 1024);
        assert_eq!(budget.allowance.available_permits(), ALLOWANCE / 1024);
    }
}
