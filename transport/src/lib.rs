//! How a connection behaves, whatever it carries. Bytes only: nothing here knows what an
//! envelope says.
//!
//! A stream lives in this order: [`listener`] accepts it (TLS or plain, [`tls`]), an HTTP/1.1
//! upgrade makes it a [`websocket::Socket`], a [`log::Member`] claims framed messages from a
//! [`log::Log`], the socket takes them, and the [`ledger`] has counted each one once on every
//! side. [`shutdown`] ends it in the order the data flows; [`telemetry`] shows it.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backoff;
pub mod cause;
pub mod clock;
pub mod frame;
pub mod grpc;
pub mod http;
pub mod ledger;
pub mod listener;
pub mod log;
pub mod losses;
pub mod networks;
pub mod process;
pub mod processors;
pub mod proxy_protocol;
pub mod ration;
mod read_ahead;
pub mod reload;
pub mod secret;
pub mod settings;
pub mod shown;
pub mod shutdown;
pub mod supervisor;
pub mod telemetry;
pub mod tls;
pub mod websocket;
