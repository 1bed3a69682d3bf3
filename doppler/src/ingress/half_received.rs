//! How much of unfinished gRPC messages we hold.
//!
//! In comes a request body, out comes the same body, held back or ended where a message is too
//! long, takes too long, or all half-received messages together are too many. Without this a
//! client could open a hundred streams, announce 10 MiB on each and leave us holding 1 GiB.

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

/// Messages up to this size need no budget: as much lies in HTTP/2 windows anyway.
const FREE: usize = 16 << 10;

/// How long a message may take from its first byte to its last.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(10);

/// A gRPC message is preceded by a flag byte and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// What all half-received messages of the process may take together, in KiB.
#[derive(Clone)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    /// A budget of `bytes`, and never less than the largest message.
    pub fn new(bytes: usize) -> Budget {
        Budget(Arc::new(Semaphore::new(
            bytes.max(MAX_MESSAGE).div_ceil(1024),
        )))
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// A request body of gRPC messages, metered.
pub(super) struct HalfReceived<B> {
    body: B,
    budget: Budget,
    message: Message,
    permit: Option<OwnedSemaphorePermit>,
    /// Budget asked for, and the data that waits for it.
    waiting: Option<(Waiting, Bytes)>,
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Where in a message the body stands.
#[derive(Default)]
struct Message {
    prefix: [u8; PREFIX],
    prefix_seen: usize,
    missing: usize,
}

impl<B> HalfReceived<B> {
    pub(super) fn new(body: B, budget: Budget) -> HalfReceived<B> {
        HalfReceived {
            body,
            budget,
            message: Message::default(),
            permit: None,
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
                self.permit = None;
                self.deadline = None;
                began = None;
                self.message = Message::default();
            } else if self.message.missing > FREE && self.permit.is_none() {
                began = Some(self.message.missing);
            }
        }
        if self.message.prefix_seen > 0 && self.deadline.is_none() {
            self.deadline = Some(Box::pin(tokio::time::sleep(MESSAGE_DEADLINE)));
        }
        Ok(began.map(|missing| self.ask(missing)))
    }

    fn ask(&self, bytes: usize) -> Waiting {
        let kib = bytes.div_ceil(1024) as u32; // at most MAX_MESSAGE
        Box::pin(self.budget.0.clone().acquire_many_owned(kib))
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
                self.missing = u32::from_be_bytes(length) as usize;
                if self.missing > MAX_MESSAGE {
                    return Err(too_large(self.missing));
                }
            }
            return Ok(took);
        }
        let took = bytes.len().min(self.missing);
        self.missing -= took;
        Ok(took)
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
            let permit = ready!(waiting.as_mut().poll(cx));
            let data = std::mem::take(data);
            this.permit = permit.ok(); // the budget is never closed
            this.waiting = None;
            // Waiting for us is not the sender's time.
            this.deadline = Some(Box::pin(tokio::time::sleep(MESSAGE_DEADLINE)));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(Status::deadline_exceeded(
                "a message was begun and not finished within 10 s",
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
        let held_back = tokio::time::timeout(Duration::from_secs(5), second.frame()).await;
        assert!(held_back.is_err());
        drop(first);
        second.frame().await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_never_finished_ends_its_stream_after_ten_seconds() {
        let mut body = body(vec![prefix(100), vec![1; 99]], &Budget::new(0));
        body.frame().await.unwrap().unwrap();
        body.frame().await.unwrap().unwrap();
        let began = tokio::time::Instant::now();
        let status = body.frame().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(began.elapsed(), MESSAGE_DEADLINE);
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
                body.message.prefix_seen == 0 && body.permit.is_none(),
                "{size}"
            );
        }
        assert_eq!(budget.0.available_permits(), MAX_MESSAGE / 1024);
    }
}
