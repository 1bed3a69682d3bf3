//! The gRPC messages of one call.
//!
//! In comes a request body in whatever pieces HTTP/2 cut it, out come whole messages as bytes. A
//! message that lies within one piece is handed out where it lies. Any other is gathered: it
//! needs leave of the [`Budget`], has memory as its bytes arrive (an announced length alone takes
//! none), and ends its call if it takes too long. Between messages a call holds nothing, however
//! long it lives and however large they were.
//!
//! The words of refusals are those of grpc-go where operators know them, else tonic's.

use super::half_received::{Budget, Leave};
use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use std::fmt::Display;
use std::time::Duration;
use tokio::time::timeout;
use tonic::Status;

/// The largest gRPC message taken, in bytes (upstream's `MaxRecvMsgSize`).
pub(super) const MAX_MESSAGE: usize = 10 << 20;

/// How long a message may take from its first byte to its last: this, and as much again for
/// each MiB. Waiting for budget is not counted.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(1);

/// A gRPC message is preceded by a flag byte and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// Memory that a gathered message gets at first, in bytes: batches of agents mostly fit. A larger
/// one gets the rest in one piece when this is full, for which there is leave, and which takes none
/// of the machine's before bytes arrive: so no byte is copied more than twice.
const ROOM: usize = 64 << 10;

/// The messages of one request.
pub(super) struct Messages<B> {
    body: B,
    budget: Budget,
    /// What arrived and was not taken.
    arrived: Bytes,
    /// Leave for the last message.
    leave: Option<Leave>,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    /// The messages in `body`; refused if `headers` say that they are compressed.
    pub(super) fn new(headers: &HeaderMap, body: B, budget: Budget) -> Result<Messages<B>, Status> {
        match headers.get("grpc-encoding") {
            None => {}
            Some(identity) if identity == "identity" => {}
            Some(other) => return Err(compressed(other.as_bytes())),
        }
        Ok(Messages {
            body,
            budget,
            arrived: Bytes::new(),
            leave: None,
        })
    }

    /// What the last message held is free again.
    pub(super) fn release(&mut self) {
        self.leave = None;
    }

    /// The next message; what the last one held is free again. `None` once there are no more.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        self.release();
        if self.arrived.is_empty() && !self.arrives().await? {
            return Ok(None);
        }
        let prefix = timeout(MESSAGE_DEADLINE, self.prefix()).await;
        let length = length(prefix.map_err(unfinished)??)?;
        if self.arrived.len() >= length {
            return Ok(Some(self.arrived.split_to(length)));
        }
        self.leave = self.budget.take(length).await.ok(); // the budget is never closed
        let mib = length.div_ceil(1 << 20) as u32; // at most MAX_MESSAGE
        let whole = timeout(MESSAGE_DEADLINE * (1 + mib), self.gather(length)).await;
        Ok(Some(whole.map_err(unfinished)??))
    }

    async fn prefix(&mut self) -> Result<[u8; PREFIX], Status> {
        let (mut prefix, mut seen) = ([0; PREFIX], 0);
        while seen < PREFIX {
            let part = self.part(PREFIX - seen).await?;
            prefix[seen..][..part.len()].copy_from_slice(&part);
            seen += part.len();
        }
        Ok(prefix)
    }

    async fn gather(&mut self, length: usize) -> Result<Bytes, Status> {
        let mut message = Vec::new();
        while message.len() < length {
            let missing = length - message.len();
            let part = self.part(missing).await?;
            if message.capacity() - message.len() < part.len() {
                let room = match message.is_empty() {
                    true => missing.min(ROOM.max(part.len())),
                    false => missing,
                };
                message.reserve_exact(room);
            }
            message.extend_from_slice(&part);
        }
        Ok(message.into())
    }

    /// What arrived or arrives next, and no more of it than `most`.
    async fn part(&mut self, most: usize) -> Result<Bytes, Status> {
        if self.arrived.is_empty() && !self.arrives().await? {
            return Err(Status::internal("unexpected EOF"));
        }
        Ok(self.arrived.split_to(most.min(self.arrived.len())))
    }

    /// Waits for data; returns whether there is any, or that was the end.
    async fn arrives(&mut self) -> Result<bool, Status> {
        while let Some(frame) = self.body.frame().await {
            // Nobody is left who could read these words.
            let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                self.arrived = data;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The length that a prefix announces.
fn length([flag, length @ ..]: [u8; PREFIX]) -> Result<usize, Status> {
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message larger than max ({length} vs. {MAX_MESSAGE})"
        )));
    }
    match flag {
        0 => Ok(length),
        1 => Err(Status::internal(
            "protocol error: received message with compressed-flag but no grpc-encoding was specified",
        )),
        _ => Err(Status::internal(format!(
            "protocol error: received message with invalid compression flag: {flag} (valid flags are 0 and 1), while sending request"
        ))),
    }
}

fn compressed(encoding: &[u8]) -> Status {
    let encoding = String::from_utf8_lossy(encoding);
    let mut status = Status::unimplemented(format!(
        "Content is compressed with `{encoding}` which isn't supported"
    ));
    let ours = tonic::metadata::MetadataValue::from_static("identity");
    status.metadata_mut().insert("grpc-accept-encoding", ours);
    status
}

fn unfinished(_: tokio::time::error::Elapsed) -> Status {
    Status::deadline_exceeded("a message was begun and not finished within 1 s and 1 s per MiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use std::convert::Infallible;
    use tokio::time::Instant;
    use tonic::Code;

    type Parts = Vec<Vec<u8>>;

    fn frames(
        parts: Parts,
    ) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Unpin {
        stream::iter(parts.into_iter().map(|part| Ok(Frame::data(part.into()))))
    }

    fn ending(
        parts: Parts,
        budget: &Budget,
    ) -> Messages<impl Body<Data = Bytes, Error = Infallible> + Unpin + use<>> {
        let body = StreamBody::new(frames(parts));
        Messages::new(&HeaderMap::new(), body, budget.clone()).unwrap()
    }

    fn endless(
        parts: Parts,
        budget: &Budget,
    ) -> Messages<impl Body<Data = Bytes, Error = Infallible> + Unpin + use<>> {
        let endless = futures::StreamExt::chain(frames(parts), stream::pending());
        let body = StreamBody::new(endless);
        Messages::new(&HeaderMap::new(), body, budget.clone()).unwrap()
    }

    fn prefix(length: u32) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes()].concat()
    }

    #[tokio::test(start_paused = true)]
    async fn messages_cut_anywhere_come_out_whole_and_give_their_budget_back() {
        let budget = Budget::new(0);
        let long: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let whole = [
            prefix(200_000),
            long.clone(),
            prefix(0),
            prefix(3),
            vec![1; 3],
        ]
        .concat();
        for size in [1, 3, 5, 7, 4_096, 200_004, 200_013] {
            let parts = whole.chunks(size).map(Vec::from).collect();
            let mut messages = ending(parts, &budget);
            assert!(messages.next().await.unwrap().unwrap() == long, "{size}");
            assert_eq!(messages.next().await.unwrap().unwrap(), "");
            assert_eq!(messages.next().await.unwrap().unwrap(), [1; 3][..]);
            assert_eq!(messages.next().await.unwrap(), None);
        }
        let all = budget.take(MAX_MESSAGE).now_or_never();
        assert!(all.is_some(), "the budget is as it was");
    }

    #[tokio::test]
    async fn a_message_within_one_frame_is_handed_out_where_it_lies() {
        let frame = Bytes::from([prefix(3), vec![7; 3], prefix(2), vec![8; 2]].concat());
        let place = frame.as_ptr();
        let body = http_body_util::Full::new(frame);
        let mut messages = Messages::new(&HeaderMap::new(), body, Budget::new(0)).unwrap();
        for (offset, length) in [(5, 3), (13, 2)] {
            let message = messages.next().await.unwrap().unwrap();
            assert_eq!(message.len(), length);
            assert_eq!(message.as_ptr(), place.wrapping_add(offset));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_announced_length_over_the_limit_is_refused_in_grpc_gos_words() {
        let mut messages = endless(vec![prefix(10_485_761)], &Budget::new(0));
        let status = messages.next().await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.message(),
            "grpc: received message larger than max (10485761 vs. 10485760)"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_message_waits_for_those_before_it_and_its_time_begins_after() {
        let budget = Budget::new(0);
        let before = budget.of_connection().take(MAX_MESSAGE).await;
        let mut second = endless(vec![prefix(10 << 20)], &budget.of_connection());
        let mut next = Box::pin(second.next());
        let waits = timeout(Duration::from_secs(60), next.as_mut()).await;
        assert!(waits.is_err());
        drop(before);
        let began = Instant::now();
        assert_eq!(next.await.unwrap_err().code(), Code::DeadlineExceeded);
        assert_eq!(began.elapsed(), 11 * MESSAGE_DEADLINE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_announces_much_holds_up_no_other_connections_batches() {
        let budget = Budget::new(0);
        let attacker = budget.of_connection();
        let mut large: Vec<_> = (0..50)
            .map(|_| endless(vec![prefix(10 << 20), vec![0]], &attacker))
            .collect();
        let mut small: Vec<_> = (0..50)
            .map(|_| endless(vec![prefix(100 << 10), vec![0]], &attacker))
            .collect();
        let mut held: Vec<_> = large.iter_mut().map(|all| Box::pin(all.next())).collect();
        held.extend(small.iter_mut().map(|all| Box::pin(all.next())));
        for half in &mut held {
            assert!(half.as_mut().now_or_never().is_none());
        }
        let batch = [prefix(100 << 10), vec![1; 50 << 10]].concat();
        let mut honest = ending(vec![batch, vec![1; 50 << 10]], &budget.of_connection());
        let message = honest.next().now_or_never().expect("it does not wait");
        assert_eq!(message.unwrap().unwrap().len(), 100 << 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_never_finished_ends_its_call_in_time() {
        for (parts, seconds) in [
            (vec![prefix(100), vec![1; 99]], 2),
            (vec![prefix(1 << 20), vec![1; 99]], 2),
            (vec![vec![0; 4]], 1),
        ] {
            let mut messages = endless(parts, &Budget::new(0));
            let began = Instant::now();
            let status = messages.next().await.unwrap_err();
            assert_eq!(status.code(), Code::DeadlineExceeded);
            assert_eq!(began.elapsed(), seconds * MESSAGE_DEADLINE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_between_messages_is_no_fault() {
        let mut messages = endless(vec![prefix(1), vec![1]], &Budget::new(0));
        assert!(messages.next().await.unwrap().is_some());
        let day = timeout(Duration::from_secs(86_400), messages.next());
        assert!(day.await.is_err());
    }

    #[tokio::test]
    async fn a_call_that_ends_inside_a_message_is_an_error_and_before_one_is_none() {
        for cut in [vec![0], prefix(3), [prefix(3), vec![1; 2]].concat()] {
            let status = ending(vec![cut], &Budget::new(0)).next().await.unwrap_err();
            assert_eq!(status.code(), Code::Internal);
            assert_eq!(status.message(), "unexpected EOF");
        }
        let mut none = ending(vec![vec![]], &Budget::new(0));
        assert_eq!(none.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn compression_was_not_agreed_on() {
        let budget = Budget::new(0);
        for flag in [1, 2] {
            let mut compressed = prefix(1);
            compressed[0] = flag;
            let status = ending(vec![compressed], &budget).next().await.unwrap_err();
            assert_eq!(status.code(), Code::Internal);
        }
        let encoded = |encoding: &'static str| {
            let headers = [("grpc-encoding", encoding)]
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let body = http_body_util::Empty::<Bytes>::new();
            Messages::new(&HeaderMap::from_iter(headers), body, Budget::new(0)).err()
        };
        assert!(encoded("identity").is_none());
        let status = encoded("gzip").unwrap();
        assert_eq!(status.code(), Code::Unimplemented);
        let response = status.into_http::<()>();
        assert_eq!(response.headers()["grpc-accept-encoding"], "identity");
    }
}
