//! The Traffic Controller: who may see what.
//!
//! A request comes in at the [`front`], which asks [`access`] whether its token may read what
//! it wants. A firehose client then gets links of its own to all [`dopplers`], whose frames
//! pass through unread; an app tail gets a place in its app's topic ([`topics`]), which one
//! link per Doppler fills for all tails. What Dopplers keep is gathered over the same links
//! ([`recent`]). Data flows from Dopplers to clients only; upstream go
//! subscriptions, their end, and counts. [`server`] alone knows all of them.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access;
pub mod config;
pub mod dopplers;
pub mod front;
pub mod metrics;
pub mod own_metrics;
pub mod page;
pub mod recent;
pub mod server;
pub mod streams;
pub mod topics;
