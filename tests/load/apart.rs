//! Agents without readers and readers without agents, for servers that run already, whoever
//! started them.

use crate::report::{Latency, round};
use crate::{generator, peer, reader};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// Where to send, and as whom. Without a rate it is as fast as the Doppler takes it.
#[derive(clap::Args, Debug)]
pub(crate) struct Agents {
    /// The Doppler's address.
    #[arg(long)]
    at: Vec<SocketAddr>,
    /// PEM file with the CA of its certificate, which is for `doppler`.
    #[arg(long)]
    ca: PathBuf,
    /// PEM file with the agents' certificate.
    #[arg(long)]
    cert: PathBuf,
    /// PEM file with its key.
    #[arg(long)]
    key: PathBuf,
    #[command(flatten)]
    feed: generator::Args,
}

/// Where to read, and what.
#[derive(clap::Args, Debug)]
pub(crate) struct Readers {
    /// The Traffic Controller's address.
    #[arg(long)]
    at: SocketAddr,
    /// PEM file with the CA of its certificate.
    #[arg(long)]
    ca: PathBuf,
    /// The name in its certificate.
    #[arg(long, default_value = "localhost")]
    name: String,
    /// Seconds of reading.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Apps to go round.
    #[arg(long, default_value_t = 100)]
    apps: usize,
    #[command(flatten)]
    readers: reader::Args,
}

/// What agents did.
#[derive(Serialize)]
pub(crate) struct Fed {
    sent: u64,
    lost: u64,
    seconds: f64,
    envelopes_per_second: u64,
}

/// What readers got.
#[derive(Serialize)]
pub(crate) struct Read {
    seconds: f64,
    /// What each firehose received.
    received: Vec<u64>,
    received_by_tails: u64,
    envelopes_per_second: u64,
    refused: usize,
    latency_ms: Latency,
}

/// Feeds a Doppler, or several.
pub(crate) async fn feed(args: &Agents) -> Fed {
    assert!(!args.at.is_empty(), "--at says where to send");
    let dialer = peer::agent(&args.ca, args.cert.clone(), args.key.clone());
    let shape = args.feed.shape();
    let agents = generator::Agents::connect(&dialer, &args.at, shape, &shape.rounds()).await;
    let (time, began) = (Duration::from_secs(args.feed.seconds), Instant::now());
    let fed = agents
        .feed(args.feed.pace(u64::MAX), time, Vec::new())
        .await;
    let seconds = began.elapsed().as_secs_f64();
    let envelopes = |batches: u64| batches * shape.batch as u64;
    let sent = envelopes(fed.iter().map(|fed| fed.sent).sum());
    Fed {
        sent,
        lost: envelopes(fed.iter().map(|fed| fed.lost).sum()),
        seconds: round(seconds),
        envelopes_per_second: (sent as f64 / seconds) as u64,
    }
}

/// Reads from a Traffic Controller.
pub(crate) async fn read(args: &Readers) -> Read {
    let dialer = peer::client(&args.ca, &args.name);
    let (time, began) = (Duration::from_secs(args.seconds), Instant::now());
    let (address, shares) = (args.at.to_string(), vec![1.0; args.apps]);
    let readers = reader::Readers::open(&dialer, &address, &args.readers, &shares, time).await;
    let others = args.readers.disturb(&dialer, &address);
    let (open, refused) = (readers.open.clone(), readers.refused);
    let latency_ms = Latency::of(readers.ages().await);
    drop(others);
    let seconds = began.elapsed().as_secs_f64();
    let received = |tails: bool| {
        let of = open
            .iter()
            .filter(move |reader| reader.app.is_some() == tails);
        of.map(|reader| reader.received())
    };
    let all: u64 = open.iter().map(|reader| reader.received()).sum();
    Read {
        seconds: round(seconds),
        received: received(false).collect(),
        received_by_tails: received(true).sum(),
        envelopes_per_second: (all as f64 / seconds) as u64,
        refused,
        latency_ms,
    }
}
