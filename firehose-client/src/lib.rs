#![doc = include_str!("tour.md")]
#![cfg_attr(test, allow(clippy::unwrap_used))] // a failed unwrap is a failed test

mod batch;
mod client;
mod emitter;
mod endpoint;
mod error;
mod event;
mod reader;
mod stream;
mod token;

pub use batch::Batch;
pub use client::{BadSettings, Builder, CONNECT_DEADLINE, Client, SILENCE};
pub use emitter::{BATCH, BATCH_WAIT, EmitError, Emitter, EmitterBuilder, Source};
pub use error::Error;
pub use event::{Event, Reason};
pub use stream::EnvelopeStream;
pub use token::{Token, TokenError};

/// The envelopes, and what their fields mean.
pub use proto::v1;
/// What agents send.
pub use proto::v2;
/// Why an id cannot be subscribed to; why a message is not an envelope.
pub use proto::{Malformed, request::BadRequest, request::Filter};
/// A certificate and its key, for an [`Emitter`].
pub use transport::tls::Identity;
