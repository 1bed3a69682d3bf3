//! Something of everything the ledger counts, in one short run of a Doppler and a Traffic
//! Controller: readers that read, that do not and are told what they lost, that begin with what was
//! kept, and that leave with frames under way; an agent that is heard by nobody, and not always
//! understood; a peer that talks nonsense; and a Doppler that stops in front of readers that do not
//! take what it has.

use harness::admin;
use harness::cluster::Cluster;
use harness::envelopes::{Workload, guid, message};
use harness::fake::{FakeDoppler, PROTOCOL};
use harness::producer::BATCH_SENDER;
use harness::raw::{Raw, masked};
use harness::{eventually, within};
use prost::Message;
use proto::v2::{Envelope, EnvelopeBatch};
use std::net::SocketAddr;
use std::time::Duration;

/// How long anything may take that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(20);

/// How long somebody who lost something has to wait until it reads so.
const TOLD: Duration = Duration::from_secs(5);

/// Processes look at their accounts every second.
const AUDITED: Duration = Duration::from_millis(1_200);

/// How long a Doppler has to stop, in seconds; and how often it says how it does meanwhile, in
/// milliseconds: to readers that take nothing, from half of that time on.
const DRAIN: u64 = 2;
const OWN_METRICS: u64 = 100;

/// How many seconds a group without members is kept.
const LINGER: u64 = 1;

/// Envelopes of about 1.2 KiB: some 24 MB, where sockets and logs of a reader that stands still
/// have room for ten.
const MANY: u64 = 20_000;

/// Bytes a stalled reader's kernel takes for it.
const SMALL: u32 = 128 << 10;

/// Plays it; returns by how much the accounts of Doppler and Traffic Controller were off.
pub(crate) async fn play() -> [f64; 2] {
    let mut fake = FakeDoppler::start().await;
    let mut cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .doppler_flag("--log-bytes", 1 << 20)
        .doppler_flag("--app-store-bytes", 512 << 10)
        .doppler_flag("--linger", LINGER)
        .doppler_flag("--drain", DRAIN)
        .doppler_flag("--metric-interval-ms", OWN_METRICS)
        .controller_flag("--app-bytes", 128 << 10)
        .also_reading(fake.address)
        .start()
        .await;
    let (doppler, controller) = (&cluster.dopplers[0], &cluster.controllers[0]);
    let admins = [doppler.admin, controller.admin];

    let mut nonsense = fake.link("/apps").await;
    nonsense.frame(0x82, b"abc").await;
    nonsense.frame(0x82, b"\0\0\x09\x09of no app").await;

    // Nobody reads yet: one that is an envelope, and one of no form in v1.
    let workload = Workload::logs(3, 1_000);
    let unheard = EnvelopeBatch {
        batch: vec![workload.envelope(1, 0), Envelope::default()],
    };
    let mut call = doppler.connection().await.call(BATCH_SENDER).await;
    let sent = call.send(message(&unheard.encode_to_vec())).await;
    assert_eq!(sent, Ok(()));
    assert_eq!(call.finish().await.grpc, Some(0));

    let at = doppler.address;
    // Nobody reads this one, ever.
    let stays = (
        link(at, "/firehose/stays").await,
        app_link(at, &[&guid(0), "system"]).await,
    );
    let (told, leaver) = (
        link(at, "/firehose/told").await,
        link(at, "/firehose/leaver").await,
    );
    let (told_app, leaver_app) = (
        app_link(at, &[&guid(0)]).await,
        app_link(at, &[&guid(0)]).await,
    );
    let reader = controller.firehose("reader").open().await;
    let stalled = controller
        .firehose("stalled")
        .receive_buffer(SMALL)
        .open()
        .await;
    let stalled_tail = controller.tail(1).receive_buffer(SMALL).open().await;
    for id in ["stays", "told", "leaver", "reader", "stalled"] {
        cluster.subscribed(id, 1).await;
    }
    cluster.tailed([0], 3).await;
    cluster.tailed([1], 1).await;
    stalled.stall();
    stalled_tail.stall();
    // It waits a second for the peer that answers nothing, and more comes than is held for it.
    let recent = format!("/apps/{}/stream?recent=5", guid(2));
    let beginner = controller.reader(&recent).open().await;
    cluster.tailed([2], 1).await;
    doppler.producer(0, workload).await.send(MANY).await;
    beginner.receives(1, SOON).await;
    let mut off = audited(admins).await;

    // Whoever lost is told, and goes on.
    let told = tokio::spawn(async move { tokio::join!(read(told), read(told_app)) });
    stalled_tail.resume();
    let recent = format!(
        "GET /apps/{}/recentlogs HTTP/1.1\r\nHost: localhost\r\n\r\n",
        guid(2)
    );
    let mut asks = Raw::connect(controller.address, None).await;
    asks.send(recent.as_bytes()).await;
    assert_eq!(asks.response().await.status, 200);
    // Without some of the increments nobody is told; then an account is off already.
    let _ = within(TOLD, async || {
        let tail = stalled_tail.look(|seen| !seen.notices.is_empty());
        tail && reader.received() > 0
    })
    .await;

    // Whoever leaves, leaves something behind.
    drop((leaver, leaver_app));
    stalled.cut().await;
    eventually(SOON, "nobody comes back", async || {
        let page = doppler.page().await;
        page.firehose("leaver", "everything").1 + page.firehose("stalled", "everything").1 == 0
    })
    .await;
    for (off, later) in off.iter_mut().zip(audited(admins).await) {
        *off = off.abs().max(later.abs());
    }
    told.abort();

    // What it loses while it stops is in no page any more, and in its last line.
    let doppler = &mut cluster.dopplers[0].process;
    assert_eq!(doppler.terminate(SOON).await, 0);
    off[0] = off[0].max(last_line(&doppler.log()).abs());
    drop(stays);
    off
}

/// By how much the sums of a process's last line are off.
fn last_line(log: &[String]) -> f64 {
    let line = log.iter().find(|line| line.contains(" drained "));
    let term = |name: &str| -> f64 {
        let words = line.into_iter().flat_map(|line| line.split(' '));
        let mut values = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let value = values.next().and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {line:?}"))
    };
    term("offered") + term("notices") - term("sent") - term("dropped") - term("queued")
}

async fn audited(admins: [SocketAddr; 2]) -> [f64; 2] {
    tokio::time::sleep(AUDITED).await;
    let [doppler, controller] = admins;
    [
        admin::metrics(doppler).await.imbalance(),
        admin::metrics(controller).await.imbalance(),
    ]
}

/// A link that is not read until it is.
async fn link(doppler: SocketAddr, path: &str) -> Raw {
    let protocol = format!("Sec-WebSocket-Protocol: {PROTOCOL}");
    Raw::websocket(doppler, None, path, &[&protocol]).await
}

async fn app_link(doppler: SocketAddr, apps: &[&str]) -> Raw {
    let mut link = link(doppler, "/apps").await;
    let apps = apps.iter().enumerate();
    let subscribe: Vec<String> = apps.map(|(n, app)| format!(r#"[{n},"{app}"]"#)).collect();
    let subscribe = format!(r#"{{"subscribe":[{}]}}"#, subscribe.join(","));
    link.send(&masked(0x81, subscribe.as_bytes())).await;
    link
}

async fn read(mut link: Raw) {
    link.drain().await;
}
