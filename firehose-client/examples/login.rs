//! Counts a firehose as a nozzle does that is deployed: with a UAA client of its own, whose
//! tokens are renewed as long as it runs, and an endpoint that the platform tells.
//!
//! `cargo run -p firehose-client --example login -- https://api.example.com
//! https://uaa.example.com CLIENT_ID SECRET_FILE`

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;

use firehose_client::{Client, CloudController, Event, Filter, Login, Token, Trust};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next();
    let (Some(api), Some(uaa), Some(id), Some(secret)) = (next(), next(), next(), next()) else {
        return Err("usage: login API_URL UAA_URL CLIENT_ID SECRET_FILE".into());
    };
    let secret = std::fs::read_to_string(secret)?;

    let trust = Trust::System;
    let login = Login::client_credentials(&uaa, &id, secret.trim(), &trust)?;
    let endpoint = CloudController::new(&api, &trust)?
        .logging_endpoint()
        .await?;
    let client = Client::builder(&endpoint)
        .trust(trust)
        .token(Token::Login(login))
        .build()?;
    let mut stream = client
        .firehose(&id, Filter::Everything)?
        .with_events(|event| match event {
            Event::Retrying { error, wait } => eprintln!("{error}; again in {wait:?}"),
            event => eprintln!("{event:?}"),
        });
    let mut envelopes = 0;
    while let Some(batch) = stream.next_batch().await {
        envelopes += batch?.len();
        println!("{envelopes}");
    }
    Ok(())
}
