//! Prints what an app logs, found by its name, with no more than `cf login` and `cf target`.
//!
//! `cargo run -p firehose-client --example cf_login -- MY_APP`

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::path::PathBuf;

use firehose_client::{CfCli, Client, CloudController, Login, Token, Trust};
use futures::StreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("usage: cf_login APP")?;
    let home = std::env::var_os("CF_HOME").or_else(|| std::env::var_os("HOME"));
    let home = PathBuf::from(home.ok_or("set HOME")?);
    let cli = CfCli::read(CfCli::path_in(&home))?;
    let trust = match cli.skips_cert_verify() {
        true => Trust::Anyone,
        false => Trust::System,
    };
    let token = Token::Login(Login::cf_cli(&cli, &trust)?);
    let space = cli
        .space()
        .ok_or("no space is targeted: cf target -s SPACE")?;

    let cloud_controller = CloudController::new(cli.api()?, &trust)?;
    let endpoint = cloud_controller.logging_endpoint().await?;
    let app = cloud_controller.app_guid(&name, space.guid, &token).await?;
    let client = Client::builder(&endpoint)
        .trust(trust)
        .token(token)
        .build()?;
    // The last hundred, and then what happens.
    let mut stream = client.app_stream_with_recent(&app, 100)?;
    while let Some(envelope) = stream.next().await {
        if let Some(log) = envelope?.log_message {
            println!("{}", String::from_utf8_lossy(&log.message));
        }
    }
    Ok(())
}
