//! Reads Loggregator: the firehose of a Cloud Foundry, or the stream of one app.
//!
//! # A tour
//!
//! A [`Client`] knows where Loggregator is and who we are. It gives out [`EnvelopeStream`]s,
//! and those are all there is to read:
//!
//! ```no_run
//! use firehose_client::{Client, Event, Filter, Token};
//! use futures::StreamExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("wss://doppler.example.com")
//!     .token(Token::File("/run/secrets/token".into()))
//!     .build()?;
//! let mut stream = client
//!     .firehose("my-nozzle", Filter::Everything)?
//!     .with_events(|event| match event {
//!         Event::Lost { delta, .. } => eprintln!("lost {delta} envelopes: too slow"),
//!         event => eprintln!("{event:?}"),
//!     });
//! while let Some(envelope) = stream.next().await {
//!     println!("{:?}", envelope?.log_message);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **It comes back by itself.** Whatever ends a connection – a balancer, a deployment, a server
//! that found us too slow – the stream connects anew, after a random wait that doubles to 2 s,
//! so that a thousand nozzles do not come back at once. A server that answers 5xx or 429 is
//! asked again after what its `Retry-After` says, or less and less often, down to once a minute.
//!
//! **It ends when trying again would not help**: with an [`Error`] that says which of a token
//! refused, an app not found, or no stream at that address it is.
//!
//! **It stays logged in.** A [`Login`] renews its token a minute before it ends and when a server
//! refuses it: as a UAA client of its own, or as the cf CLI of this user. What UAA does not grant
//! ends the stream, and is not asked for again. A [`Token::File`] is read for every connection.
//!
//! **It hides no loss.** [`Event::Lost`] is what the server says it dropped. [`Event::Connected`]
//! carries the time in which nobody was reading; what was lost in it nobody knows.
//!
//! **It survives what it reads.** Strings that are not UTF-8 are delivered, with U+FFFD. A
//! message that is no envelope is skipped and told ([`Event::Undecodable`]). A connection with
//! nothing to say may stay, as long as the server's pings come.
//!
//! # Faster
//!
//! [`EnvelopeStream::next_batch`] hands out envelopes as they came, without decoding: to pass
//! on, to count, or to decode on other threads ([`Batch::decode`]).
//!
//! To share a firehose among processes, subscribe with the same id in each. The servers hand
//! every envelope to one of them, and to none twice.
//!
//! # The other direction
//!
//! An [`Emitter`] sends envelopes to a Doppler as an agent does.
//!
//! # Examples
//!
//! `cargo run -p firehose-client --example …`
//!
//! | example | shows |
//! |---|---|
//! | `tail` | an app's logs, decoded |
//! | `nozzle` | a firehose with events, a token that is renewed, and a clean end |
//! | `login` | a UAA client of its own, and an endpoint that Cloud Controller tells |
//! | `cf_login` | an app by its name, with the login of the cf CLI |
//! | `raw_counting` | batches, undecoded |
//! | `emit` | lines into a Doppler |
//!
//! The command `firehose` in this package does what they do.

#![cfg_attr(test, allow(clippy::unwrap_used))] // a failed unwrap is a failed test

mod batch;
mod cf_cli;
mod client;
mod cloud_controller;
mod emitter;
mod endpoint;
mod error;
mod event;
mod login;
mod reader;
mod stream;
mod token;
mod trust;
mod uaa;
mod web;

pub use batch::Batch;
pub use cf_cli::{CfCli, CfCliError, Space};
pub use client::{BadSettings, Builder, CONNECT_DEADLINE, Client, SILENCE};
pub use cloud_controller::{CloudController, CloudControllerError};
pub use emitter::{BATCH, BATCH_WAIT, EmitError, Emitter, EmitterBuilder, Source};
pub use error::Error;
pub use event::{Event, Reason};
pub use login::{Login, LoginError};
pub use stream::EnvelopeStream;
pub use token::{RenewalError, Token, TokenError};
pub use trust::Trust;

/// The envelopes, and what their fields mean.
pub use proto::v1;
/// What agents send.
pub use proto::v2;
/// Why an id cannot be subscribed to; why a message is not an envelope.
pub use proto::{Malformed, request::BadRequest, request::Filter};
/// A certificate and its key, for an [`Emitter`].
pub use transport::tls::Identity;
