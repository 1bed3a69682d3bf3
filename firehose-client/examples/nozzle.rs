//! A nozzle as it runs in production: it counts what it lost, subscribes again when its token
//! was renewed, and says goodbye when it is stopped.
//!
//! `cargo run -p firehose-client --example nozzle -- wss://doppler.example.com my-id TOKEN_FILE`

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use firehose_client::v1::Envelope;
use firehose_client::{Client, Error, Event, Filter, Token};
use futures::StreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(endpoint), Some(id), Some(token)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: nozzle ENDPOINT SUBSCRIPTION_ID TOKEN_FILE".into());
    };
    let client = Client::builder(&endpoint)
        .token(Token::File(token.into()))
        .user_agent("example-nozzle")
        .build()?;
    let lost = Arc::new(AtomicU64::new(0));

    // Start as many instances with this id as it takes; they share the envelopes.
    loop {
        let counting = lost.clone();
        let mut stream = client
            .firehose(&id, Filter::Everything)?
            .with_events(move |event| match event {
                Event::Lost { delta, .. } => {
                    counting.fetch_add(delta, Ordering::Relaxed);
                }
                Event::Connected { gap: Some(gap) } => {
                    eprintln!("back after {gap:?}, of which we have nothing");
                }
                Event::Disconnected { reason } => eprintln!("disconnected: {reason}"),
                other => eprintln!("{other:?}"),
            });
        let error = loop {
            tokio::select! {
                envelope = stream.next() => match envelope {
                    Some(Ok(envelope)) => handle(&envelope),
                    Some(Err(error)) => break error,
                    None => return Ok(()),
                },
                _ = tokio::signal::ctrl_c() => {
                    stream.close().await;
                    println!("{} envelopes lost", lost.load(Ordering::Relaxed));
                    return Ok(());
                }
            }
        };
        match error {
            // Whoever renews the token writes the file. Ask once a minute, not in a loop.
            Error::Unauthorized { .. } => {
                eprintln!("{error}");
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            other => return Err(other.into()),
        }
    }
}

/// What a nozzle is for.
fn handle(envelope: &Envelope) {
    println!("{} {:?}", envelope.origin, envelope.event_type());
}
