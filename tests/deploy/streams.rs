//! What holds of streams through any balancer: they outlive Traffic Controllers and silence, and
//! say where they come from.

use crate::balancer::{self, Balancer, Kind};
use crate::client::{self, Http2};
use crate::shipped::Shipped;
use crate::standin::{Head, StandIn};
use crate::world::{RATE, World};
use harness::binaries;
use harness::certs::Certs;
use harness::cluster::{Builder, Cluster, free_port};
use harness::envelopes::{Workload, guid};
use harness::eventually;
use harness::process::{Process, Signal};
use harness::reader::{Ended, Opening, Reader};
use http::StatusCode;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::sleep_until;

/// How long each of them may take, with the start of all there is.
pub(crate) const TRAFFIC: Duration = Duration::from_secs(90);
pub(crate) const IDLE: Duration = Duration::from_secs(150);
pub(crate) const HEADERS: Duration = Duration::from_secs(60);

/// From a kill, or the signal to drain, until all clients read again: 4 s of drain, 5 s in which
/// nginx asks nobody who has refused, and a client's next try, on a busy machine.
const RECOVERY: Duration = Duration::from_secs(15);

/// From a hang until all clients read again: three checks at 2 s, and tries of clients that were sent
/// to who hangs meanwhile, each of 3 s. Without checks it would be for ever.
const NOTICED: Duration = Duration::from_secs(30);

/// The idle limits of the balancers in that check.
const LIMIT: Duration = Duration::from_secs(60);

/// How long there is silence: half as long again.
const SILENCE: Duration = Duration::from_secs(90);

/// Clocks of balancers are coarse, and the machine may be busy. Still less than the silence.
const COARSE: Duration = Duration::from_secs(20);

/// How much is logged, of two apps together.
const SENT: u64 = 100;

/// How the answer to an Upgrade begins.
const SWITCHED: &str = "HTTP/1.1 101";

/// How long what is logged may take to arrive, and a line of the security log to be written.
const SOON: Duration = Duration::from_secs(10);

/// HTTP mode and TCP mode, side by side.
pub(crate) async fn traffic(kind: &Kind) -> Result<String, String> {
    survive(kind, &[443, 4443], World::describe(1, 2)).await
}

/// TCP mode with TLS that ends at the balancer, and PROXY headers.
pub(crate) async fn proxied(kind: &Kind) -> Result<String, String> {
    let expects = World::describe(1, 2).controller_flag("--proxy-protocol-from", "127.0.0.0/8");
    survive(kind, &[8443], expects).await
}

/// Two Traffic Controllers behind a balancer, two firehoses through each of its ports, and load.
async fn under_load(kind: &Kind, ports: &[u16], builder: Builder) -> (World, Balancer) {
    let certs = balancer::certs();
    let mut world = World::start(builder.certs(certs.clone()), 1).await;
    let controllers = &world.cluster.controllers;
    let servers = [controllers[0].address, controllers[1].address];
    let balancer = Balancer::start(kind, &certs, servers).await;
    for port in ports {
        for n in 0..2 {
            let id = format!("port-{port}-{n}");
            world.firehose_at(&id, balancer.at(*port)).await;
        }
    }
    world.feed_all(10, RATE);
    world.flows().await;
    (world, balancer)
}

/// One Traffic Controller is killed and comes back, then the other one drains, under load.
async fn survive(kind: &Kind, ports: &[u16], builder: Builder) -> Result<String, String> {
    let (mut world, _balancer) = under_load(kind, ports, builder).await;
    let (feeds, nozzles) = world.everything();

    let began = Instant::now();
    World::kill(&mut world.controller(0).process).await;
    let killed = world.recovered(&feeds, &nozzles, began).await;
    world.revive_controller(0).await;

    let before: Vec<usize> = world.nozzles.iter().map(|it| it.ends().len()).collect();
    let began = Instant::now();
    world.restart_controller(1).await;
    let drained = world.recovered(&feeds, &nozzles, began).await;
    for (nozzle, before) in world.nozzles.iter().zip(before) {
        let ends = nozzle.ends().split_off(before);
        let in_order = |end: &Ended| matches!(end, Ended::Closed(Some(1001), _));
        if !ends.iter().all(in_order) {
            return Err(format!("a drain ended {} with {ends:?}", nozzle.name));
        }
    }
    let told = ledger(world).await?;
    let (killed, drained) = (within(killed, RECOVERY)?, within(drained, RECOVERY)?);
    Ok(format!(
        "all read again {killed} after the kill, {drained} after the signal to drain; {told}"
    ))
}

/// One Traffic Controller hangs, and its kernel goes on taking connections: the balancer finds out,
/// and sends its clients to the other one.
pub(crate) async fn hung(kind: &Kind) -> Result<String, String> {
    let (mut world, _balancer) = under_load(kind, &[443, 4443], World::describe(1, 2)).await;
    let (feeds, nozzles) = world.everything();
    let began = Instant::now();
    world.controller(0).process.signal(Signal::Stop);
    let moved = world.recovered(&feeds, &nozzles, began).await;
    world.controller(0).process.signal(Signal::Continue);
    for nozzle in &world.nozzles {
        // The connections that hung have ended here, too.
        world.cluster.subscribed(&nozzle.name, 1).await;
    }
    let told = ledger(world).await?;
    Ok(format!(
        "all read from the other one {} after it hung; {told}",
        within(moved, NOTICED)?
    ))
}

/// From here on nothing is lost, and what was lost is what the processes say.
async fn ledger(mut world: World) -> Result<String, String> {
    let marks = world.marks();
    world.loses_nothing_since(&marks).await;
    let outcome = world.between(Duration::ZERO, 0, 0).await;
    let ((least, most), lost) = (outcome.told, outcome.lost);
    let told = format!("lost {lost} of {}, told of {least} to {most}", outcome.due);
    match (least..=most).contains(&lost) {
        true => Ok(told),
        false => Err(told),
    }
}

fn within(time: Duration, bound: Duration) -> Result<String, String> {
    let seconds = format!("{:.1} s", time.as_secs_f64());
    match time <= bound {
        true => Ok(seconds),
        false => Err(format!("took {seconds}, at most {bound:?} was due")),
    }
}

/// A tail of an app that logs nothing, at a Traffic Controller and at a server that never pings.
pub(crate) async fn idle(kind: &Kind) -> Result<String, String> {
    let certs = balancer::certs();
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .certs(certs.clone())
        .start()
        .await;
    let stand_in = StandIn::start(&certs).await;
    let server = cluster.controllers[0].address;
    let pinged = Balancer::start_limited(kind, &certs, [server; 2]).await;
    let unpinged = Balancer::start_limited(kind, &certs, [stand_in.address; 2]).await;
    let path = format!("/apps/{}/stream", guid(1));
    let tail = |address| Opening::new(address, Some(balancer::tls(&certs, &["http/1.1"])), &*path);
    let began = Instant::now();
    let (mut kept, mut cut) = (Vec::new(), Vec::new());
    for port in [443, 4443] {
        kept.push((port, tail(pinged.at(port)).only(1).open().await));
        cut.push((port, tail(unpinged.at(port)).open().await));
    }
    cluster.tailed([1], 1).await;

    let mut lived = Vec::new();
    for (port, reader) in &cut {
        reader.ended(LIMIT + COARSE).await;
        let life = began.elapsed();
        if life + COARSE < LIMIT {
            return Err(format!(
                "without pings {port} was cut after {life:?} already"
            ));
        }
        lived.push(format!("{port} after {} s", life.as_secs()));
    }
    sleep_until((began + SILENCE).into()).await;
    for (port, reader) in &kept {
        if let Some(end) = reader.is_over() {
            return Err(format!("with pings {port} was cut all the same: {end:?}"));
        }
    }
    let mut agent = cluster.dopplers[0]
        .producer(1, Workload::logs(2, 100))
        .await;
    agent.send(100).await;
    for (_, reader) in &kept {
        // Every other one is app 1's.
        reader.receives(50, SOON).await;
    }
    Ok(format!(
        "two tails lived through {} s of silence; without pings {}",
        SILENCE.as_secs(),
        lived.join(" and ")
    ))
}

/// What app 1 logs now comes to all of its tails.
pub(crate) async fn arrives(cluster: &Cluster, tails: &[&Reader]) {
    let workload = Workload::logs(2, 100);
    let mut agent = cluster.dopplers[0].producer(1, workload).await;
    agent.send(SENT).await;
    let due = (0..SENT).filter(|n| workload.app(*n) == 1).count() as u64;
    for tail in tails {
        tail.receives(due, SOON).await;
    }
}

/// Who the server behind thinks is there, and how he has come.
pub(crate) async fn headers(kind: &Kind) -> Result<String, String> {
    let certs = balancer::certs();
    let stand_in = StandIn::start(&certs).await;
    let balancer = Balancer::start(kind, &certs, [stand_in.address; 2]).await;
    let from = Ipv4Addr::new(127, 0, 0, 5);
    let http1 = balancer::tls(&certs, &["http/1.1"]);
    let both = balancer::tls(&certs, &["h2", "http/1.1"]);

    let mut stream = client::connect(from, balancer.at(443), &http1).await;
    let answer = client::upgrade(&mut stream, "/upgrade").await;
    expect(
        "the answer to Upgrade",
        &answer,
        answer.starts_with(SWITCHED),
    )?;
    upgraded(&stand_in.told("/upgrade"), from)?;

    let stream = client::connect(from, balancer.at(443), &both).await;
    let agreed = client::agreed(&stream);
    expect("443's protocol", agreed, agreed == Some("h2"))?;
    let mut http2 = Http2::open(stream).await;
    let status = http2.get("/request").await;
    expect("the answer over HTTP/2", status, status == StatusCode::OK)?;
    forwarded(&stand_in.told("/request"), from)?;
    if kind.rfc_8441 {
        let status = http2.websocket("/extended").await;
        expect("the answer to RFC 8441", status, status == StatusCode::OK)?;
        upgraded(&stand_in.told("/extended"), from)?;
    }
    for port in [4443, 8443] {
        let stream = client::connect(from, balancer.at(port), &both).await;
        let agreed = client::agreed(&stream);
        expect("a protocol in TCP mode", agreed, agreed == Some("http/1.1"))?;
    }

    let known = known_clients(kind, &certs).await?;
    Ok(format!(
        "HTTP/1.1 with Upgrade behind HTTP/1.1 and HTTP/2; the client was {known}"
    ))
}

/// Whom a Traffic Controller that has `behind-a-balancer.yml` takes for the client.
async fn known_clients(kind: &Kind, certs: &Arc<Certs>) -> Result<String, String> {
    let behind = Behind::start(certs).await;
    let [plain, proxied] = behind.addresses;
    let balancer = Balancer::start_proxied(kind, certs, [plain; 2], [proxied; 2]).await;
    let tls = balancer::tls(certs, &["http/1.1"]);
    let itself = Ipv4Addr::LOCALHOST;
    let mut known = Vec::new();
    for (port, last, source) in [(443, 5, None), (8443, 6, None), (4443, 7, Some(itself))] {
        let from = Ipv4Addr::new(127, 0, 0, last);
        let mut stream = client::connect(from, balancer.at(port), &tls).await;
        let app = guid(port.into());
        let answer = client::upgrade(&mut stream, &format!("/apps/{app}/stream")).await;
        expect(
            "the answer to Upgrade",
            &answer,
            answer.starts_with(SWITCHED),
        )?;
        let logged = behind.source_of(&app).await;
        let due = source.unwrap_or(from).to_string();
        expect("src in the security log", (&logged, &due), logged == due)?;
        known.push(format!("{logged} on {port}"));
    }
    Ok(known.join(", "))
}

/// A request that became a WebSocket.
fn upgraded(head: &Head, from: Ipv4Addr) -> Result<(), String> {
    forwarded(head, from)?;
    let method = head.request_line().starts_with("GET ");
    let upgrade = head.values("upgrade");
    let connection = head.values("connection").join(", ").to_ascii_lowercase();
    let passed = upgrade.len() == 1 && upgrade[0].eq_ignore_ascii_case("websocket");
    match method && passed && connection.contains("upgrade") {
        true => Ok(()),
        false => Err(format!("Upgrade did not pass: {head:?}")),
    }
}

/// A request of a client that lies about where it comes from.
fn forwarded(head: &Head, from: Ipv4Addr) -> Result<(), String> {
    let right = head.request_line().ends_with(" HTTP/1.1")
        && head.values("x-forwarded-proto") == ["https"]
        && head
            .values("x-forwarded-for")
            .last()
            .and_then(|line| line.rsplit(',').next())
            .is_some_and(|last| last.trim() == from.to_string());
    match right {
        true => Ok(()),
        false => Err(format!("HTTP/1.1 with {from} and https was due: {head:?}")),
    }
}

fn expect(what: &str, found: impl std::fmt::Debug, right: bool) -> Result<(), String> {
    match right {
        true => Ok(()),
        false => Err(format!("{what}: {found:?}")),
    }
}

/// A Traffic Controller with `behind-a-balancer.yml`, whose balancers are this machine.
struct Behind {
    /// For `X-Forwarded-For`, and for PROXY headers.
    addresses: [SocketAddr; 2],
    _process: Process,
    files: TempDir,
}

impl Behind {
    async fn start(certs: &Certs) -> Behind {
        let files = tempfile::tempdir().expect("a directory for its files");
        let ports = [free_port(), free_port()];
        let addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let [plain, proxied] = ports;
        let config = Shipped::read("behind-a-balancer.yml")
            .place("10.0.16.10/32", "127.0.0.1/32")
            .place("_port: 8081", &format!("_port: {plain}"))
            .place(" port: 4443", &format!(" port: {proxied}"))
            .place("[4443]", &format!("[{proxied}]"))
            .write(files.path());
        let pair = certs.pair("localhost");
        let text = |path: &Path| path.display().to_string();
        let mut process = Process::start(
            "behind a balancer",
            &binaries::traffic_controller(),
            [
                "--config",
                &text(&config),
                "--address",
                "127.0.0.1",
                "--outgoing-cert-file",
                &text(&pair.cert),
                "--outgoing-key-file",
                &text(&pair.key),
                "--security-event-log",
                &text(&files.path().join("events.log")),
            ],
        );
        process.bound("pprof bound to: ").await;
        Behind {
            addresses,
            _process: process,
            files,
        }
    }

    /// Whose request about that app was, by the security event log.
    async fn source_of(&self, app: &str) -> String {
        let mut source = None;
        let path = self.files.path().join("events.log");
        eventually(SOON, "the request is in the security log", || {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            let line = log.lines().rev().find(|line| line.contains(app));
            let words = line.map(|line| line.split(' ').collect::<Vec<_>>());
            let words = words.unwrap_or_default();
            source = words
                .iter()
                .find_map(|word| word.strip_prefix("src="))
                .map(str::to_owned);
            let found = source.is_some();
            async move { found }
        })
        .await;
        source.expect("just waited for")
    }
}
