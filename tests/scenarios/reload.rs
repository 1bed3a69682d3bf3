//! Certificates, CAs and tokens are replaced under running streams.

use crate::SOON;
use harness::certs::{Certs, Pair, client, in_file, shown};
use harness::cluster::{Cluster, Controller, Doppler};
use harness::envelopes::Workload;
use harness::process::{Process, Signal};
use harness::producer::Producer;
use harness::raw::{Raw, handshake};
use harness::reader::Reader;
use harness::{Tls, admin, eventually};
use std::net::SocketAddr;

/// A process that shows a certificate.
struct Shows<'a> {
    process: &'a Process,
    address: SocketAddr,
    admin: SocketAddr,
    tls: Tls,
    /// What its files are for, in metrics.
    files: &'static str,
    pair: Pair,
}

impl<'a> Shows<'a> {
    fn doppler(doppler: &'a Doppler, certs: &Certs) -> Shows<'a> {
        Shows {
            process: &doppler.process,
            address: doppler.address,
            admin: doppler.admin,
            tls: doppler.tls().unwrap(),
            files: "port",
            pair: certs.pair("doppler"),
        }
    }

    fn controller(controller: &'a Controller, certs: &Certs) -> Shows<'a> {
        Shows {
            process: &controller.process,
            address: controller.address,
            admin: controller.admin,
            tls: controller.tls().unwrap(),
            files: "outgoing",
            pair: certs.pair("localhost"),
        }
    }

    /// Waits until it shows what lies in its file.
    #[track_caller]
    fn shows_its_file(&self) -> impl Future<Output = ()> {
        let (address, tls) = (self.address, self.tls.clone());
        let wanted = in_file(&self.pair.cert);
        eventually(SOON, "the new certificate is shown", move || {
            let (tls, wanted) = (tls.clone(), wanted.clone());
            async move { shown(address, &tls).await == Some(wanted) }
        })
    }

    #[track_caller]
    fn alarm_is(&self, value: f64) -> impl Future<Output = ()> {
        alarm_is(self.admin, self.files, value)
    }
}

/// Waits until a process says that files cannot be loaded (1), or can (0).
#[track_caller]
fn alarm_is(admin: SocketAddr, files: &'static str, value: f64) -> impl Future<Output = ()> {
    let what = format!("reload_failed{{files={files:?}}} is {value}");
    eventually(SOON, &what, move || async move {
        let metrics = admin::metrics(admin).await;
        metrics.sum("reload_failed", &[("files", files)]) == value
    })
}

/// How often a process complained of its files.
fn complaints(process: &Process) -> usize {
    let log = process.log();
    let lines = log
        .iter()
        .filter(|line| line.contains("cannot load changed files"));
    lines.count()
}

/// A stream that must not notice.
struct Stream {
    producer: Producer,
    reader: Reader,
}

impl Stream {
    async fn of(cluster: &Cluster) -> Stream {
        let reader = cluster.controllers[0].firehose("a").open().await;
        cluster.subscribed("a", 1).await;
        let workload = Workload::logs(1, 50);
        let producer = cluster.dopplers[0].producer(0, workload).await;
        Stream { producer, reader }
    }

    async fn goes_on(&mut self) {
        self.producer.send(100).await;
        self.reader.receives(self.producer.sent(), SOON).await;
        self.reader
            .seen()
            .assert_complete("the firehose", self.producer.sent());
    }
}

async fn one_of_each() -> Cluster {
    Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .mtls()
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pair_is_shown_to_new_connections_and_a_bad_one_keeps_the_old_and_alarms() {
    let cluster = one_of_each().await;
    let certs = cluster.certs().unwrap();
    let mut stream = Stream::of(&cluster).await;
    for side in [
        Shows::doppler(&cluster.dopplers[0], certs),
        Shows::controller(&cluster.controllers[0], certs),
    ] {
        let before = shown(side.address, &side.tls).await;
        assert_eq!(before, Some(in_file(&side.pair.cert)));
        let ends = admin::metrics(side.admin).await.sum(
            "tls_certificate_not_after_seconds",
            &[("certificate", side.files)],
        );
        assert!(ends > 1.7e9, "{ends}");

        // A key that belongs to another certificate, then half of a certificate.
        let whole = std::fs::read(&side.pair.cert).unwrap();
        std::fs::copy(certs.pair("metron").key, &side.pair.key).unwrap();
        side.alarm_is(1.0).await;
        std::fs::write(&side.pair.cert, &whole[..whole.len() / 2]).unwrap();
        stream.goes_on().await;
        assert_eq!(shown(side.address, &side.tls).await, before);
        assert_eq!(complaints(side.process), 1);

        certs.issue(side.tls.name, |_| {});
        side.shows_its_file().await;
        side.alarm_is(0.0).await;
        stream.goes_on().await;
        assert_eq!(complaints(side.process), 1);
    }
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_loads_at_once_and_complains_at_once() {
    let mut cluster = one_of_each().await;
    let mut stream = Stream::of(&cluster).await;
    let hang_up = |cluster: &mut Cluster| {
        cluster.dopplers[0].process.signal(Signal::Hangup);
        cluster.controllers[0].process.signal(Signal::Hangup);
    };
    hang_up(&mut cluster);
    let (doppler, controller) = (&cluster.dopplers[0], &cluster.controllers[0]);
    for (process, admin) in [
        (&doppler.process, doppler.admin),
        (&controller.process, controller.admin),
    ] {
        eventually(SOON, "files were loaded again", async || {
            admin::metrics(admin).await.sum("reloads_total", &[]) >= 1.0
        })
        .await;
        assert!(process.logged("SIGHUP"));
    }
    let certs = cluster.certs().unwrap();
    std::fs::write(certs.pair("doppler").key, "nothing").unwrap();
    hang_up(&mut cluster);
    let doppler = &cluster.dopplers[0];
    alarm_is(doppler.admin, "port", 1.0).await;
    stream.goes_on().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ca_decides_over_new_connections_and_not_over_those_that_are() {
    let cluster = one_of_each().await;
    let (doppler, certs) = (&cluster.dopplers[0], cluster.certs().unwrap());
    let mut stream = Stream::of(&cluster).await;
    let kept = tempfile::tempdir().unwrap();
    let old = kept.path().join("ca.crt");
    std::fs::copy(certs.ca(), &old).unwrap();
    let successor = Certs::new();
    let agent = |pair: Pair| Tls {
        config: client(&old, Some(&pair), &["http/1.1"]),
        name: "doppler",
    };
    let (theirs, ours) = (
        agent(successor.pair("trafficcontroller")),
        agent(certs.pair("trafficcontroller")),
    );
    // Under TLS 1.3 a refusal comes with the first answer.
    let served = async |tls: &Tls| {
        let mut raw = Raw::connect(doppler.address, Some(tls)).await;
        raw.send(handshake("/nothing", &[]).as_bytes()).await;
        let (said, _) = raw.hung_up(SOON).await;
        said.starts_with("HTTP/1.1 404")
    };
    assert!(served(&ours).await && !served(&theirs).await);
    std::fs::copy(successor.ca(), certs.ca()).unwrap();
    eventually(SOON, "the new CA's clients are served", async || {
        served(&theirs).await
    })
    .await;
    assert!(!served(&ours).await);
    stream.goes_on().await;
    cluster.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_struck_out_opens_no_new_stream_and_a_broken_file_strikes_out_none() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokens.yml");
    std::fs::write(&file, "- {token: first-pass, firehose: true}").unwrap();
    let cluster = Cluster::builder()
        .dopplers(1)
        .controllers(1)
        .controller_flag("--tokens-file", file.display())
        .start()
        .await;
    let controller = &cluster.controllers[0];
    let opening = controller.firehose("a").token("first-pass");
    let reader = opening.open().await;
    cluster.subscribed("a", 1).await;
    let answer = async |token: &str| {
        let mut raw = Raw::connect(controller.address, None).await;
        let line = format!("Authorization: bearer {token}");
        raw.send(handshake("/firehose/b", &[&line]).as_bytes())
            .await;
        raw.response().await.status
    };
    std::fs::write(&file, "- {token: second-pass, firehose: tr").unwrap();
    alarm_is(controller.admin, "tokens", 1.0).await;
    assert_eq!(answer("first-pass").await, 101);
    assert_eq!(complaints(&controller.process), 1);

    std::fs::write(&file, "- {token: second-pass, firehose: true}").unwrap();
    alarm_is(controller.admin, "tokens", 0.0).await;
    assert_eq!(answer("first-pass").await, 401);
    assert_eq!(answer("second-pass").await, 101);
    let workload = Workload::logs(1, 50);
    let mut producer = cluster.dopplers[0].producer(0, workload).await;
    producer.send(100).await;
    reader.receives(100, SOON).await;
    let log = controller.process.log();
    assert!(!log.iter().any(|line| line.contains("-pass")), "{log:?}");
}
