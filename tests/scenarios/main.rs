//! Promises of the whole, each shown on real processes: one file per promise, one sentence
//! per test. The oracle is outside of the system (`harness::seen`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "in a test a panic is the answer"
)]

mod access;
mod agents;
mod authorities;
mod bad_input;
mod client_login;
mod drain;
mod edge;
mod fairness;
mod groups;
mod life;
mod losses;
mod membership;
mod mtls;
mod openssl;
mod overdriven;
mod pace;
mod pipeline;
mod proxies;
mod ranges;
mod recent;
mod reload;
mod reports;
mod settings;
mod slow;
mod tc_http;

use std::time::Duration;

/// How long anything may take that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(20);
