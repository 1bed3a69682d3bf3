//! What a program reads: envelopes, for as long as it likes.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use proto::v1::{self, Envelope};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::batch::Batch;
use crate::client::Settings;
use crate::error::Error;
use crate::event::{self, Event};
use crate::reader::{Happening, Reader};

/// How long [`EnvelopeStream::close`] waits for the server to answer: 1 s.
const GOODBYE: Duration = Duration::from_secs(1);

/// Envelopes of one subscription, over as many connections as it takes.
///
/// Read it as a [`Stream`] of decoded envelopes, or with [`EnvelopeStream::next_batch`]; both
/// connect when first asked, come back by themselves when the connection is lost, and may be
/// dropped between two polls (in a `select!`) without losing anything. The stream ends only
/// after an error.
pub struct EnvelopeStream {
    /// `None` once there is nothing more to come.
    reading: Option<Reading>,
    /// Received, and not yet handed out.
    batch: Batch,
    on_event: Option<Box<dyn FnMut(Event) + Send>>,
    close: Option<oneshot::Sender<()>>,
}

/// The reader goes into the future and comes back with what it found, so that the future
/// borrows nothing and can be kept between polls.
type Reading = BoxFuture<'static, (Box<Reader>, Result<Happening, Error>)>;

fn read(mut reader: Box<Reader>) -> Reading {
    Box::pin(async move {
        let found = reader.next().await;
        (reader, found)
    })
}

impl EnvelopeStream {
    /// Of `path`, and of `first` until a connection has been made.
    pub(crate) fn new(
        settings: Arc<Settings>,
        first: Option<String>,
        path: String,
    ) -> EnvelopeStream {
        let (close, closing) = oneshot::channel();
        EnvelopeStream {
            reading: Some(read(Box::new(Reader::new(settings, first, path, closing)))),
            batch: Batch::default(),
            on_event: None,
            close: Some(close),
        }
    }

    /// Calls `on_event` with what happens besides envelopes, in order with them, from within
    /// the polls of this stream: it should not block.
    pub fn with_events(mut self, on_event: impl FnMut(Event) + Send + 'static) -> EnvelopeStream {
        self.on_event = Some(Box::new(on_event));
        self
    }

    /// The next envelopes as they came, undecoded: for programs that pass them on, or need
    /// every core. `None` after an error.
    pub async fn next_batch(&mut self) -> Option<Result<Batch, Error>> {
        let batch = match self.batch.is_empty() {
            true => match poll_fn(|cx| self.poll_batch(cx)).await? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(error)),
            },
            false => mem::take(&mut self.batch),
        };
        if let Some(on_event) = &mut self.on_event {
            batch
                .iter()
                .filter_map(|envelope| event::loss(&envelope))
                .for_each(on_event);
        }
        Some(Ok(batch))
    }

    /// Says goodbye, so that the server knows at once that the place is free. What was not
    /// handed out yet is dropped. Dropping the stream instead just cuts the connection.
    pub async fn close(mut self) {
        if let Some(close) = self.close.take() {
            // Fails if the reader has ended, and then there is nobody to say goodbye to.
            _ = close.send(());
        }
        let closed = poll_fn(|cx| {
            loop {
                match ready!(self.poll_happening(cx)) {
                    None | Some(Err(_) | Ok(Happening::Closed)) => return Poll::Ready(()),
                    Some(Ok(Happening::Batch(_) | Happening::Event(_))) => {}
                }
            }
        });
        // A server that does not answer keeps us no longer.
        _ = timeout(GOODBYE, closed).await;
    }

    fn poll_happening(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Happening, Error>>> {
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(None);
        };
        let (reader, found) = ready!(reading.as_mut().poll(cx));
        self.reading = match found {
            Ok(Happening::Batch(_) | Happening::Event(_)) => Some(read(reader)),
            Ok(Happening::Closed) | Err(_) => None,
        };
        Poll::Ready(Some(found))
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Batch, Error>>> {
        loop {
            match ready!(self.poll_happening(cx)) {
                Some(Ok(Happening::Batch(batch))) => return Poll::Ready(Some(Ok(batch))),
                Some(Ok(Happening::Event(event))) => self.tell(event),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(Happening::Closed)) | None => return Poll::Ready(None),
            }
        }
    }

    fn tell(&mut self, event: Event) {
        if let Some(on_event) = &mut self.on_event {
            on_event(event);
        }
    }
}

impl Stream for EnvelopeStream {
    type Item = Result<Envelope, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            while let Some(bytes) = self.batch.take_first() {
                if let Some(loss) = event::loss(&bytes) {
                    self.tell(loss);
                }
                match v1::decode(&bytes) {
                    Ok(envelope) => return Poll::Ready(Some(Ok(envelope))),
                    Err(error) => self.tell(Event::Undecodable { error, bytes }),
                }
            }
            match ready!(self.poll_batch(cx)) {
                Some(Ok(batch)) => self.batch = batch,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl fmt::Debug for EnvelopeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvelopeStream")
            .field("received", &self.batch.len())
            .field("ended", &self.reading.is_none())
            .finish_non_exhaustive()
    }
}
