//! `cargo demo`: the main job on this machine, with what this machine has to say.
//!
//! Starts two Dopplers and a Traffic Controller as processes on loopback, tails an app and
//! subscribes to the firehose, and feeds both Dopplers: with what is piped in, or a log file
//! of this machine; beside it, or for want of it alone, come the Dopplers' own metrics. On
//! Ctrl-C, or when the input ends, it prints what became of every envelope.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to a person"
)]

mod feed;
mod ledger;
mod service;

use feed::Input;
use harness::binaries;
use service::{Reader, Service};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// The app that is fed and tailed.
const APP: &str = "5f0d1c9e-0000-4000-8000-00000000de30";

/// The name the firehose is subscribed under.
const SUBSCRIPTION: &str = "demo";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    eprintln!("building the programs (the first time takes some minutes)");
    binaries::built();

    let dopplers = [
        Service::doppler("doppler-1").await,
        Service::doppler("doppler-2").await,
    ];
    let ingress: Vec<SocketAddr> = dopplers.iter().map(|doppler| doppler.address).collect();
    let controller = Service::traffic_controller(&ingress).await;
    let endpoint = format!("ws://{}", controller.address);
    let input = Input::find();
    eprintln!("{}", picture(&input, &ingress, &controller));

    let tail = Reader::start("tail", &["tail", APP, "--endpoint", &endpoint]);
    let subscribe = [
        "subscribe",
        "--id",
        SUBSCRIPTION,
        "--output",
        "counts",
        "--endpoint",
        &endpoint,
    ];
    let firehose = Reader::start("firehose", &subscribe);
    let services: Vec<&Service> = dopplers.iter().chain([&controller]).collect();
    ledger::readers_are_in_place(&services, 2).await;

    let feeding = feed::run(input, &ingress, APP);
    tokio::select! {
        () = feeding => eprintln!("the input has ended"),
        _ = tokio::signal::ctrl_c() => eprintln!(),
    }

    ledger::settle(&services, Duration::from_secs(5)).await;
    let page = ledger::Ledger::read(&services).await;
    tail.stop().await;
    firehose.stop().await;
    eprintln!("\n{page}");
    let [one, two] = dopplers;
    controller.stop().await;
    one.stop().await;
    two.stop().await;
    match page.adds_up() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn picture(input: &Input, dopplers: &[SocketAddr], controller: &Service) -> String {
    let (one, two) = (dopplers[0].to_string(), dopplers[1].to_string());
    format!(
        "
  {input}
    │
    ├─▶ doppler-1  {one:<16} ─┐
    └─▶ doppler-2  {two:<16} ─┴═ links ═▶ traffic-controller {address}
                                                  │
                                                  ├─▶ firehose tail {APP}
                                                  └─▶ firehose subscribe --id {SUBSCRIPTION} --output counts

  accounts, live: curl http://{admin}/subscriptions   (Ctrl-C for the ledger)
",
        address = controller.address,
        admin = controller.admin,
    )
}
