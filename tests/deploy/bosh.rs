//! `deploy/bosh`: the ops-file applied to a manifest shaped like cf-deployment's, both jobs
//! rendered, and our programs started, asked for and drained with what came of it. The director
//! is a stand-in in ruby (`bosh/director.rb`).
//!
//! Changed are the ports, and where BOSH would have put files (`/var/vcap`).

use crate::command::{command, deploy, ours, output};
use crate::{Check, settings};
use futures::FutureExt;
use harness::certs::{Certs, Pair};
use harness::envelopes::Workload;
use harness::process::Process;
use harness::producer::Producer;
use harness::reader::Opening;
use harness::{Tls, admin, binaries, cluster, eventually};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long until what was sent has arrived.
const DELIVERED: Duration = Duration::from_secs(20);

/// How many envelopes go through.
const ENVELOPES: u64 = 1_000;

/// Properties that are for other platforms.
const NOT_FOR_BOSH: [&str; 4] = [
    "doppler.notify_socket",
    "doppler.watchdog_usec",
    "traffic_controller.notify_socket",
    "traffic_controller.watchdog_usec",
];

pub(crate) fn checks() -> Vec<Check> {
    vec![Check {
        name: "bosh jobs",
        what: "the ops-file changes two jobs, and what these render starts both programs, carries \
               envelopes, answers bosh-dns and drains",
        limit: Duration::from_secs(120),
        alone: false,
        run: || jobs().boxed(),
    }]
}

async fn jobs() -> Result<String, String> {
    let certs = Certs::new();
    let directory = tempfile::tempdir().unwrap();
    let [port, admin_port, public] = [(); 3].map(|()| cluster::free_port());
    let variables = directory.path().join("variables.json");
    let with = |pair: Pair| {
        json!({
            "ca": std::fs::read_to_string(certs.ca()).unwrap(),
            "certificate": std::fs::read_to_string(pair.cert).unwrap(),
            "private_key": std::fs::read_to_string(pair.key).unwrap(),
        })
    };
    // RSA, as BOSH generates them.
    let text = json!({
        "loggregator_rust_version": "1",
        "loggregator_tls_doppler": with(certs.issue_rsa("doppler")),
        "loggregator_tls_tc": with(certs.issue_rsa("trafficcontroller")),
        "loggregator_tls_cc_tc": with(certs.pair("trafficcontroller")),
        "loggregator_trafficcontroller_tls": with(certs.issue_rsa("localhost")),
        "uaa_ssl": with(certs.pair("localhost")),
        "cc_tls": with(certs.pair("localhost")),
        "uaa_clients_doppler_secret": "a secret",
        "system_domain": "sys.example.com",
        "port": port, "admin": admin_port, "public": public,
    });
    std::fs::write(&variables, text.to_string()).unwrap();

    let jobs = directory.path().join("jobs");
    let mut director = command("ruby", &[]);
    director
        .arg(ours("bosh/director.rb"))
        .arg(deploy("bosh"))
        .arg(ours("bosh/cf-deployment.yml"))
        .args([&variables, &jobs])
        .arg(deploy("bosh/operations/use-loggregator-rust.yml"))
        .arg(ours("bosh/here.yml"));
    let said: Value = serde_json::from_str(&output(&mut director).await?).unwrap();
    manifest(&said["manifest"]);
    spec(&said["jobs"]["doppler"], "doppler");
    spec(
        &said["jobs"]["loggregator_trafficcontroller"],
        "traffic-controller",
    );

    let mut doppler = Job::start("doppler", &said, &jobs);
    let doppler_port = doppler.process.bound("grpc bound to: ").await;
    let doppler_admin = doppler.process.bound("pprof bound to: ").await;
    assert_eq!(doppler_port, SocketAddr::from(([127, 0, 0, 1], port)));
    assert_eq!(doppler_admin.port(), admin_port);
    let mut controller = Job::start("loggregator_trafficcontroller", &said, &jobs);
    let public_address = controller.process.bound("ws bound to: ").await;
    assert_eq!(public_address, SocketAddr::from(([127, 0, 0, 1], public)));
    let scraped = std::fs::read_to_string(jobs.join("doppler/config/prom_scraper_config.yml"));
    assert!(scraped.unwrap().contains(&format!("port: {admin_port}\n")));

    let tls = |identity: Option<&Pair>, alpn: &str, name| Tls {
        config: certs.client(identity, &[alpn]),
        name,
    };
    let clients = tls(None, "http/1.1", "localhost");
    let reader = Opening::new(public_address, Some(clients), "/firehose/nozzle")
        .open()
        .await;
    eventually(DELIVERED, "the Doppler has the reader", async || {
        admin::subscriptions(doppler_admin).await.members("nozzle") == 1
    })
    .await;
    let agents = tls(Some(&certs.pair("metron")), "h2", "doppler");
    let workload = Workload::logs(3, 64);
    let mut agent = Producer::open(doppler_port, Some(&agents), 1, workload)
        .await
        .unwrap();
    agent.send(ENVELOPES).await;
    reader.receives(ENVELOPES, DELIVERED).await;

    doppler.healthy("bin/dns/healthy", true).await;
    controller.healthy("bin/dns_health_check", true).await;
    let took = [controller.drain().await?, doppler.drain().await?];
    Ok(format!(
        "{ENVELOPES} envelopes; drained in {:.1?} and {:.1?}",
        took[0], took[1]
    ))
}

/// The two jobs have our release, their neighbour has its own.
fn manifest(manifest: &Value) {
    let groups = manifest["instance_groups"].as_array().unwrap();
    let jobs = groups
        .iter()
        .flat_map(|group| group["jobs"].as_array().unwrap());
    let releases: Vec<(&str, &str)> = jobs
        .map(|job| {
            (
                job["name"].as_str().unwrap(),
                job["release"].as_str().unwrap(),
            )
        })
        .collect();
    let wanted = [
        ("doppler", "loggregator-rust"),
        ("loggregator_trafficcontroller", "loggregator-rust"),
        ("reverse_log_proxy", "loggregator"),
    ];
    assert_eq!(releases, wanted);
}

/// The job's spec has every property that its program knows, and no other.
fn spec(job: &Value, program: &str) {
    let has = job["properties"].as_array().unwrap().iter();
    let has: BTreeSet<String> = has.map(|name| name.as_str().unwrap().to_owned()).collect();
    let mut knows = settings::properties(program);
    knows.retain(|name| !NOT_FOR_BOSH.contains(&&**name));
    // Whether the job runs at all.
    knows.insert(format!("{}.enabled", program.replace('-', "_")));
    let differ: Vec<&String> = has.symmetric_difference(&knows).collect();
    assert!(differ.is_empty(), "deploy/bosh/jobs: {program}: {differ:?}");
    assert_eq!(job["packages"], json!(["loggregator-rust"]));
}

/// A process as bpm would run it: nothing in its environment but what bpm.yml has.
struct Job<'d> {
    name: &'static str,
    jobs: &'d Path,
    process: Process,
}

impl<'d> Job<'d> {
    fn start(name: &'static str, said: &Value, jobs: &'d Path) -> Job<'d> {
        let bpm = &said["jobs"][name]["bpm"];
        assert_eq!(bpm.as_array().map(Vec::len), Some(1), "{bpm}");
        assert_eq!(bpm[0]["name"], name, "its pid file would have another name");
        let executable = Path::new(bpm[0]["executable"].as_str().unwrap());
        let installed = "/var/vcap/packages/loggregator-rust/bin";
        assert_eq!(executable.parent(), Some(Path::new(installed)));
        let program = binaries::built().join(executable.file_name().unwrap());
        let place = |text: &str| text.replace("/var/vcap/jobs", jobs.to_str().unwrap());
        let arguments = bpm[0]["args"].as_array().unwrap().iter();
        let arguments: Vec<String> = arguments
            .map(|text| place(text.as_str().unwrap()))
            .collect();
        let process = Process::start(name, &program, arguments);
        Job {
            name,
            jobs,
            process,
        }
    }

    /// What bosh-dns asks.
    async fn healthy(&self, script: &str, healthy: bool) {
        let mut script = command(
            "bash",
            &[self.jobs.join(self.name).join(script).to_str().unwrap()],
        );
        let status = script.status().await.unwrap();
        assert_eq!(
            status.code(),
            Some(if healthy { 0 } else { 2 }),
            "{}",
            self.name
        );
    }

    /// What BOSH runs before it stops the job: the process is gone when it is over.
    async fn drain(mut self) -> Result<Duration, String> {
        let pids = self.jobs.join(self.name).join("run");
        let script = self.jobs.join(self.name).join("bin/drain");
        let shipped = std::fs::read_to_string(&script).unwrap();
        let monit = std::fs::read_to_string(self.jobs.join(self.name).join("monit")).unwrap();
        let pidfile = format!("/var/vcap/sys/run/bpm/{0}/{0}.pid", self.name);
        assert!(
            monit.contains(&format!("with pidfile {pidfile}\n")),
            "{monit}"
        );
        assert_eq!(shipped.matches(&pidfile).count(), 1, "{shipped}");
        std::fs::write(&pids, self.process.id().to_string()).unwrap();
        std::fs::write(&script, shipped.replace(&pidfile, pids.to_str().unwrap())).unwrap();
        let began = Instant::now();
        // Its parent has to take note of the end, as bpm's container does, or its id lives on.
        let mut drain = command("bash", &[script.to_str().unwrap()]);
        let run = output(&mut drain);
        let end = self.process.exit_code(Duration::from_secs(8));
        let (said, code) = tokio::join!(run, end);
        if said? != "0\n" || code != 0 {
            return Err(format!("{}: bin/drain, or exit code {code}", self.name));
        }
        let took = began.elapsed();
        let script = if self.name == "doppler" {
            "bin/dns/healthy"
        } else {
            "bin/dns_health_check"
        };
        self.healthy(script, false).await;
        Ok(took)
    }
}
