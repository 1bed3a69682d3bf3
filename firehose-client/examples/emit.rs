//! Sends three lines to a Doppler on this machine, as logs of an app.
//!
//! `cargo run -p firehose-client --example emit -- 127.0.0.1:8082 APP_GUID`

#![allow(clippy::print_stdout)]

use std::error::Error;

use firehose_client::v2::log::Type;
use firehose_client::{Emitter, Source};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(doppler), Some(app)) = (arguments.next(), arguments.next()) else {
        return Err("usage: emit HOST:PORT APP_GUID".into());
    };
    let source = Source {
        app,
        source_type: "APP/PROC/WEB".into(),
        instance: "0".into(),
    };
    // To another machine: `.mtls(ca, Identity { cert, key })` before `.connect()`.
    let mut emitter = Emitter::builder(&doppler).connect().await?;
    emitter.log(&source, Type::Out, "Listening on 8080").await?;
    emitter.log(&source, Type::Out, "GET / 200").await?;
    emitter
        .log(&source, Type::Err, "something went wrong")
        .await?;
    println!("sent {} envelopes", emitter.close().await?);
    Ok(())
}
