//! Counts envelopes and bytes without decoding any.
//!
//! `cargo run --release -p firehose-client --example raw_counting -- ws://127.0.0.1:4443 my-id`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Duration;

use firehose_client::{Client, Filter};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(endpoint), Some(id)) = (arguments.next(), arguments.next()) else {
        return Err("usage: raw_counting ENDPOINT SUBSCRIPTION_ID".into());
    };
    let client = Client::builder(&endpoint).build()?;
    let mut stream = client.firehose(&id, Filter::Everything)?;
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let (mut envelopes, mut bytes) = (0, 0);
    loop {
        tokio::select! {
            _ = seconds.tick() => {
                println!("{envelopes} envelopes, {bytes} bytes");
                (envelopes, bytes) = (0, 0);
            }
            batch = stream.next_batch() => match batch {
                Some(batch) => {
                    let batch = batch?;
                    envelopes += batch.len();
                    bytes += batch.iter().map(|envelope| envelope.len()).sum::<usize>();
                }
                None => return Ok(()),
            },
        }
    }
}
