//! Dopplers join and leave under running streams, as a file or DNS has it; many vanish at once.

use crate::SOON;
use harness::admin::{self, Hop, Page};
use harness::certs::Certs;
use harness::cluster::{Cluster, Controller, Doppler};
use harness::dns::{Answer, Dns};
use harness::envelopes::{Workload, guid};
use harness::process::{Process, Signal};
use harness::reader::Reader;
use harness::{eventually, within};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket};

/// Within this a Doppler that is known is read from by all streams that run.
const JOINED: Duration = Duration::from_secs(2);

/// A file is looked at once a second.
const LOOK: Duration = Duration::from_secs(1);

/// Room for what an app's topic gets here at once.
const ROOM: u32 = 64 << 20;

/// Replaces the file as a whole, as its writers are told to.
fn write(file: &Path, dopplers: &[&Doppler]) {
    let lines = dopplers.iter().map(|it| format!("{}\n", it.address));
    let new = file.with_extension("new");
    std::fs::write(&new, lines.collect::<String>()).unwrap();
    std::fs::rename(new, file).unwrap();
}

async fn reads(doppler: &Doppler, deadline: Duration) {
    let what = format!("all streams read from {}", doppler.process.name());
    eventually(deadline, &what, async || {
        let page = doppler.page().await;
        let tailed = |open: &admin::Subscription| open.app.as_deref() == Some(&*guid(0));
        page.members("a") == 2 && page.members("b") == 1 && page.subscriptions.iter().any(tailed)
    })
    .await;
}

/// What a Traffic Controller and a Doppler that left it have counted, over all links.
fn with(doppler: &Doppler, page: &Page) -> Hop {
    let address = doppler.address.to_string();
    let of_clients = page.subscriptions.iter().flat_map(|open| &open.links);
    let mut sum = Hop::default();
    for hop in of_clients.chain(&page.app_links) {
        if hop.doppler == address {
            assert!(!hop.connected, "it left");
            sum.sent += hop.sent;
            sum.received += hop.received;
            sum.gap += hop.gap;
        }
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn dopplers_join_and_leave_running_streams_and_every_envelope_is_accounted_for() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dopplers");
    let certs = Arc::new(Certs::new());
    let mut dopplers = Cluster::builder()
        .dopplers(3)
        .certs(certs.clone())
        .doppler_flag("--linger", "0.2")
        .start()
        .await;
    write(&file, &[&dopplers.dopplers[0], &dopplers.dopplers[1]]);
    let controllers = Cluster::builder()
        .controllers(1)
        .certs(certs)
        .controller_flag("--app-bytes", ROOM)
        .controller_flag("--router-addrs-file", file.display())
        .start()
        .await;
    let controller = &controllers.controllers[0];
    let group = [
        controller.firehose("a").open().await,
        controller.firehose("a").open().await,
    ];
    let logs = controller.firehose("b").filter("logs").open().await;
    let tail = controller.tail(0).open().await;
    for doppler in &dopplers.dopplers[..2] {
        reads(doppler, SOON).await;
    }

    // One leaves in full flow.
    let mut leaver = dopplers.dopplers[1]
        .producer(1, Workload::logs(1, 50))
        .await;
    let flowing = Arc::new(AtomicBool::new(true));
    let flow = flowing.clone();
    let flowing_on = tokio::spawn(async move {
        while flow.load(Ordering::Relaxed) {
            leaver.send(100).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        leaver.sent()
    });
    tail.receives(2_000, SOON).await;
    write(&file, &[&dopplers.dopplers[0]]);
    let is_alone = async || {
        let page = controller.page().await;
        let linked = page.app_links.iter().filter(|hop| hop.connected);
        linked.count() == 1 && dopplers.dopplers[1].page().await.subscriptions.is_empty()
    };
    eventually(SOON, "it is read from no more", is_alone).await;
    flowing.store(false, Ordering::Relaxed);
    flowing_on.await.unwrap();
    let ended = dopplers.dopplers[1].page().await.ended();
    assert_eq!(ended.imbalance(), 0);
    let left = with(&dopplers.dopplers[1], &controller.page().await);
    assert!(ended.sent > 2_000, "{ended:?}");
    assert_eq!(
        (left.received, left.sent, left.gap),
        (ended.sent, ended.sent, 0),
        "what it sent arrived: {ended:?}"
    );

    // One joins.
    write(&file, &[&dopplers.dopplers[0], &dopplers.dopplers[2]]);
    reads(&dopplers.dopplers[2], LOOK + JOINED).await;
    let before = tail.received();
    for (n, id) in [(0, 10), (2, 12)] {
        let workload = Workload::logs(1, 50);
        let mut producer = dopplers.dopplers[n].producer(id, workload).await;
        producer.send(5_000).await;
    }
    tail.receives(before + 10_000, SOON).await;
    let of = |reader: &Reader, id| reader.look(|seen| seen.of(id));
    for id in [10, 12] {
        let of_group = async || of(&group[0], id) + of(&group[1], id) == 5_000;
        eventually(SOON, "the group has all of it", of_group).await;
        eventually(SOON, "so has the other", async || of(&logs, id) == 5_000).await;
        assert_eq!(of(&tail, id), 5_000);
    }
    for (reader, who) in [(&logs, "a firehose"), (&tail, "a tail")] {
        reader.seen().assert_clean(who);
    }
    let mut together = group[0].seen();
    together.merge(&group[1].seen());
    assert_eq!(together.duplicates, 0);

    // What is not a whole file changes nothing, and alarms.
    std::fs::write(
        &file,
        format!("{}\n127.0.0.1:80", dopplers.dopplers[0].address),
    )
    .unwrap();
    eventually(SOON, "the alarm is on", async || {
        let failed = controller.metrics().await;
        failed.sum("reload_failed", &[("files", "dopplers")]) == 1.0
    })
    .await;
    let metrics = controller.metrics().await;
    assert_eq!(metrics.sum("traffic_controller_dopplers_known", &[]), 2.0);
    assert_eq!(
        metrics.sum("traffic_controller_dopplers_connected", &[]),
        2.0
    );

    // The one that left comes back.
    write(&file, &dopplers.dopplers.iter().collect::<Vec<_>>());
    reads(&dopplers.dopplers[1], LOOK + LOOK + JOINED).await;
    dopplers.assert_balanced().await;
    controllers.assert_balanced().await;
    for doppler in &mut dopplers.dopplers {
        assert_eq!(doppler.process.terminate(SOON).await, 0);
    }
}

const SERVICE: &str = "_doppler._tcp.logs.example";
const HOST: &str = "doppler.logs.example";

async fn is_known(controller: &Controller, count: f64, deadline: Duration) {
    let what = format!("{count} Dopplers are read from");
    eventually(deadline, &what, async || {
        let metrics = controller.metrics().await;
        let is = |name| metrics.sum(name, &[]) == count;
        is("traffic_controller_dopplers_known") && is("traffic_controller_dopplers_connected")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_says_which_dopplers_there_are_and_when_it_does_not_those_known_stay() {
    let mut dopplers = Cluster::builder().dopplers(2).start().await;
    let service = |dopplers: &[Doppler]| {
        let port = |doppler: &Doppler| (doppler.address.port(), HOST.to_owned());
        Answer::Service(dopplers.iter().map(port).collect())
    };
    let dns = Dns::start(0).await;
    dns.set(HOST, Answer::Addresses(vec![Ipv4Addr::LOCALHOST]));
    let controllers = Cluster::builder()
        .controllers(1)
        .controller_flag("--router-dns-names", SERVICE)
        .controller_flag("--router-dns-server", dns.address)
        .start()
        .await;
    let controller = &controllers.controllers[0];
    let failed = async |value: f64| {
        let metrics = controller.metrics().await;
        metrics.sum("traffic_controller_discovery_failed", &[("name", SERVICE)]) == value
    };
    eventually(SOON, "it says that DNS knows nothing", async || {
        failed(1.0).await
    })
    .await;
    let asked_again = Duration::from_secs(2);
    dns.set(SERVICE, service(&dopplers.dopplers[..1]));
    is_known(controller, 1.0, asked_again + JOINED).await;
    let reader = controller.firehose("a").open().await;
    dns.set(SERVICE, service(&dopplers.dopplers));
    is_known(controller, 2.0, asked_again + JOINED).await;
    let subscribed = async || dopplers.dopplers[1].page().await.members("a") == 1;
    eventually(JOINED, "the stream has joined", subscribed).await;

    let began = (Instant::now(), dns.asked(SERVICE));
    for trouble in [Answer::ServerFailure, Answer::NoSuchName, Answer::Silence] {
        dns.set(SERVICE, trouble.clone());
        let what = format!("{trouble:?} alarms");
        eventually(SOON, &what, async || failed(1.0).await).await;
        is_known(controller, 2.0, Duration::ZERO).await;
        dns.set(SERVICE, service(&dopplers.dopplers));
        eventually(SOON, "DNS is back", async || failed(0.0).await).await;
    }
    // Twice in 2 s with the retries of a client that is not answered, and what is under way.
    let asked = (dns.asked(SERVICE) - began.1) as f64;
    let most = began.0.elapsed().as_secs_f64() * 1.5 + 4.0;
    assert!(asked <= most, "asked {asked} times, not {most}");
    let lines = log_lines(&controller.process, "DNS does not tell");
    assert_eq!(lines, 4, "one line for each trouble, one at the start");

    // One is missing from an answer while it is there: it stays. Once it is gone it leaves.
    dns.set(SERVICE, service(&dopplers.dopplers[..1]));
    let asked = dns.asked(SERVICE);
    eventually(SOON, "it has asked", async || {
        dns.asked(SERVICE) > asked + 1
    })
    .await;
    is_known(controller, 2.0, Duration::ZERO).await;
    let mut producer = dopplers.dopplers[1]
        .producer(0, Workload::logs(1, 50))
        .await;
    producer.send(1_000).await;
    reader.receives(1_000, SOON).await;
    dopplers.dopplers[1].process.signal(Signal::Kill);
    is_known(controller, 1.0, SOON).await;
    reader.seen().assert_complete("the firehose", 1_000);
    controllers.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_which_dns_tells_nothing_hides_no_other_and_does_not_leave() {
    let dopplers = Cluster::builder().dopplers(2).start().await;
    // Nobody listens there, so that whoever is missing leaves at once.
    let away = Hole::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let away_port = away.address.port();
    away.close().await;
    let host = |name: &str| format!("{name}.{HOST}");
    let dns = Dns::start(0).await;
    let here = || Answer::Addresses(vec![Ipv4Addr::LOCALHOST]);
    let ports = [
        ("a", away_port),
        ("b", dopplers.dopplers[0].address.port()),
        ("c", dopplers.dopplers[1].address.port()),
    ];
    for (name, _) in ports {
        dns.set(&host(name), here());
    }
    let service = |ports: &[(&str, u16)]| {
        let record = |(name, port): &(&str, u16)| (*port, host(name));
        Answer::Service(ports.iter().map(record).collect())
    };
    dns.set(SERVICE, service(&ports[..2]));
    let controllers = Cluster::builder()
        .controllers(1)
        .controller_flag("--router-dns-names", SERVICE)
        .controller_flag("--router-dns-server", dns.address)
        .start()
        .await;
    let controller = &controllers.controllers[0];
    let stands = async |known: f64, connected: f64, failed: f64| {
        let what = format!("{connected} of {known} are read, and {failed} names fail");
        eventually(SOON, &what, async || {
            let metrics = controller.metrics().await;
            let is = |name, value| metrics.sum(name, &[]) == value;
            is("traffic_controller_dopplers_known", known)
                && is("traffic_controller_dopplers_connected", connected)
                && is("traffic_controller_discovery_failed", failed)
        })
        .await;
    };
    stands(2.0, 1.0, 0.0).await;

    // The server tells nothing of one, and has others that nobody answers for.
    let mut more = ports.to_vec();
    more.extend([("d", 1), ("e", 1), ("f", 1)]);
    for (name, _) in &more[3..] {
        dns.set(&host(name), Answer::Silence);
    }
    for trouble in [Answer::ServerFailure, Answer::Silence] {
        dns.set(&host("a"), trouble);
        dns.set(SERVICE, service(&more));
        stands(3.0, 2.0, 1.0).await;
        dns.set(&host("a"), here());
        dns.set(SERVICE, service(&ports));
        stands(3.0, 2.0, 0.0).await;
    }
    assert_eq!(log_lines(&controller.process, "DNS does not tell"), 2);
    // There is no such host any more, says the server.
    dns.set(&host("a"), Answer::NoSuchName);
    stands(2.0, 2.0, 0.0).await;
}

fn log_lines(process: &Process, text: &str) -> usize {
    let log = process.log();
    log.iter().filter(|line| line.contains(text)).count()
}

/// Takes connections and hangs up, as a Doppler that is not there any more does, and counts.
struct Hole {
    address: SocketAddr,
    dials: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Hole {
    /// Where a Doppler was.
    fn at(address: SocketAddr) -> Hole {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener: TcpListener = socket.listen(1_024).unwrap();
        let address = listener.local_addr().unwrap();
        let dials = Arc::new(AtomicUsize::new(0));
        let counted = dials.clone();
        let task = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Hole {
            address,
            dials,
            task,
        }
    }

    /// Nobody listens any more.
    async fn close(self) -> usize {
        self.task.abort();
        let _ = self.task.await;
        self.dials.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_dopplers_that_vanish_bring_no_storm_and_are_all_read_again_when_they_are_back()
{
    const DOPPLERS: usize = 32;
    const STREAMS: usize = 20;
    let mut cluster = Cluster::builder()
        .dopplers(DOPPLERS)
        .controllers(1)
        .doppler_flag("--worker-threads", 1)
        .start()
        .await;
    let mut readers = Vec::new();
    for n in 0..STREAMS {
        readers.push(cluster.controllers[0].firehose(&n.to_string()).open().await);
    }
    let is_read = async |doppler: &Doppler| {
        let page = doppler.page().await;
        (0..STREAMS).all(|n| page.members(&n.to_string()) == 1)
    };
    for doppler in &cluster.dopplers {
        eventually(SOON, "everybody reads it", async || is_read(doppler).await).await;
    }
    let dials = async |controller: &Controller| {
        let metrics = controller.metrics().await;
        metrics.sum("traffic_controller_doppler_dials_total", &[])
    };
    let lines = |controller: &Controller| controller.process.log().len();
    let (dials_before, lines_before) = (
        dials(&cluster.controllers[0]).await,
        lines(&cluster.controllers[0]),
    );

    let addresses: Vec<SocketAddr> = cluster.dopplers.iter().map(|it| it.address).collect();
    for doppler in &mut cluster.dopplers {
        doppler.process.signal(Signal::Kill);
    }
    // Waits for each.
    cluster.dopplers.clear();
    let holes: Vec<Hole> = addresses.iter().copied().map(Hole::at).collect();
    const WATCHED: Duration = Duration::from_secs(10);
    let began = Instant::now();
    tokio::time::sleep(WATCHED).await;
    let watched = began.elapsed().as_secs_f64();
    let mut at_most = 0;
    for hole in holes {
        assert!(addresses.contains(&hole.address));
        at_most = at_most.max(hole.close().await);
    }
    let controller = &cluster.controllers[0];
    let dialled = dials(controller).await - dials_before;
    let written = lines(controller) - lines_before;
    // Two probes a second and Doppler on average, and what was let through at the first moment.
    let most = DOPPLERS as f64 * (4.0 * watched + STREAMS as f64);
    assert!(
        dialled <= most,
        "{STREAMS} streams made {dialled} dials in {watched} s"
    );
    assert!(
        at_most as f64 <= 4.0 * watched + STREAMS as f64,
        "{at_most} dials to one Doppler"
    );
    assert!(written <= 10, "{written} lines");

    let mut back = Vec::new();
    for (n, address) in addresses.iter().enumerate() {
        let name = format!("doppler {n} again");
        let doppler = cluster.start_doppler(&name, address.port()).await;
        back.push((doppler, Instant::now()));
    }
    for (doppler, since) in &back {
        let what = format!("{} is read again by all", doppler.process.name());
        // Those that came first have had their time already. A machine that starts so many
        // processes has a second more.
        let deadline = (JOINED + LOOK).saturating_sub(since.elapsed());
        let found = within(deadline, async || is_read(doppler).await).await;
        assert!(found, "{what}");
    }
    cluster.assert_balanced().await;
}
