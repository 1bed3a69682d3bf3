//! What is said on the wire: envelopes in both versions, their conversion, what a
//! client may request, and what Doppler and Traffic Controller tell each other.
//!
//! Bytes and values come in, bytes and values go out. No socket, no task, no clock:
//! where time matters it is an argument.
//!
//! | module | says |
//! |---|---|
//! | [`v1`], [`v2`] | the envelopes as Rust types; what a client library decodes into |
//! | [`convert`] | the conversion between them, written to be read: the reference |
//! | [`transcode`] | the same conversion, bytes to bytes: what a router runs |
//! | [`scan`], [`batch`] | just enough of an envelope to route it; a batch, split in place |
//! | [`component`] | how a component speaks about itself |
//! | [`request`], [`link`], [`notice`] | what can be asked, what the two programs tell each other, what a reader hears about its losses |
//! | [`multipart`] | several envelopes in one HTTP answer |

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod batch;
pub mod component;
pub mod convert;
pub mod link;
pub mod multipart;
pub mod notice;
mod refused;
pub mod request;
pub mod scan;
pub mod transcode;
mod uuid;
pub mod v1;
pub mod v2;
mod wire;

pub use refused::{Malformed, Refused};
