//! Prints what one app logs, until it is interrupted.
//!
//! `cargo run -p firehose-client --example tail -- wss://doppler.example.com APP_GUID TOKEN_FILE`

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;

use firehose_client::{Client, Token};
use futures::StreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(endpoint), Some(app), Some(token)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: tail ENDPOINT APP_GUID TOKEN_FILE".into());
    };

    let client = Client::builder(&endpoint)
        .token(Token::File(token.into()))
        .build()?;
    let mut stream = client
        .app_stream(&app)?
        .with_events(|event| eprintln!("{event:?}"));
    while let Some(envelope) = stream.next().await {
        // App streams carry container metrics and HTTP requests too.
        if let Some(log) = envelope?.log_message {
            let source = log.source_type.unwrap_or_default();
            println!("[{source}] {}", String::from_utf8_lossy(&log.message));
        }
    }
    Ok(())
}
