//! The Doppler: where envelopes are routed.
//!
//! An envelope comes in by a door ([`ingress`]), which checks it and frames it as dropsonde v1
//! if anybody reads it. The [`router`] appends it to the chunk log that firehose groups read,
//! and copies it into the queue of each link that tails its app. A link of a Traffic
//! Controller ([`egress`]) writes what it claims. Data flows in this direction only; ingress
//! and egress meet in the router and nowhere else, and [`server`] alone knows them all.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod egress;
pub mod ingress;
pub mod metrics;
mod overload;
mod own_metrics;
pub mod readers;
pub mod router;
pub mod server;
