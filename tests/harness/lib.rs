//! A whole Loggregator as separate processes, with producers, readers and an oracle outside
//! of them.
//!
//! In comes a description ([`cluster::Cluster::builder`]), out comes a running system whose
//! every process is ours to stop, and which is gone when the value is. A test then reads as a
//! sentence: a [`producer`] sends envelopes that say who sent them and in which order
//! ([`envelopes`]), a [`reader`] that shares no code with ours decodes what arrives, and
//! [`seen`] knows what is missing, double, out of order or somebody else's.
//!
//! | module | holds |
//! |---|---|
//! | [`cluster`] | Dopplers and Traffic Controllers, started together |
//! | [`binaries`], [`process`], [`certs`] | what a cluster is made of |
//! | [`producer`], [`envelopes`] | what goes in |
//! | [`reader`], [`seen`] | what comes out, and whether it is what should |
//! | [`agent`] | what they report to the agent beside them |
//! | [`admin`] | what the processes say about it |
//! | [`uaa`], [`cloud_controller`], [`authority`] | who says who may read what |
//! | [`dns`] | which Dopplers there are |
//! | [`raw`], [`fake`] | peers that do not keep to the protocol |
//! | [`eventually`] | waiting for a condition, never for a time |

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "in a test a panic is the answer, and stderr is where it is read"
)]

pub mod admin;
pub mod agent;
pub mod authority;
pub mod binaries;
pub mod certs;
pub mod cloud_controller;
pub mod cluster;
pub mod dns;
pub mod envelopes;
pub mod fake;
pub mod process;
pub mod producer;
pub mod raw;
pub mod reader;
pub mod seen;
mod stream;
pub mod uaa;

pub use stream::{Stream, Tls};

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; panics, at the caller's line, if it does not within
/// `deadline`.
#[track_caller]
pub fn eventually<F, C>(
    deadline: Duration,
    what: &str,
    condition: C,
) -> impl Future<Output = ()> + use<F, C>
where
    C: FnMut() -> F,
    F: Future<Output = bool>,
{
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    let holds = within(deadline, condition);
    async move {
        assert!(
            holds.await,
            "not within {deadline:?}: {what} (asked at {caller})"
        );
    }
}

/// Whether `condition` comes to hold within `deadline`.
pub async fn within<F, C>(deadline: Duration, mut condition: C) -> bool
where
    C: FnMut() -> F,
    F: Future<Output = bool>,
{
    let end = Instant::now() + deadline;
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
}
