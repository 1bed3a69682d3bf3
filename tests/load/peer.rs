//! Who is measured: Dopplers and a Traffic Controller, ours or the Go original, mTLS and TLS on
//! every hop, access control off.

use clap::ValueEnum;
use harness::certs::{Certs, Pair};
use harness::process::{Process, Usage};
use harness::{admin, binaries, eventually};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use transport::listener::Dialer;
use transport::tls::{self, Identity, Roots};

/// How often pages are asked.
const LOOK: Duration = Duration::from_millis(5);

/// How long the processes' pages may take to add up: a Doppler reports to its links every
/// 100 ms.
const ADD_UP: Duration = Duration::from_secs(2);

/// A Go Doppler tells nobody who is subscribed, and its Traffic Controller answers a client
/// before it has subscribed: both are done after this.
const GO_SUBSCRIBES: Duration = Duration::from_secs(1);

/// Which programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Whose {
    /// Those of this repository.
    Ours,
    /// `router` and `trafficcontroller` of Cloud Foundry's loggregator-release.
    Go,
}

/// How much the Go programs' buffers hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GoBuffers {
    /// What BOSH gives them: 10,000 envelopes on the way in, 1,000 on the way out.
    Default,
    /// 50,000 both ways: no envelope is lost before the code is busy.
    #[value(name = "50000")]
    Large,
}

impl GoBuffers {
    /// Envelopes on the way in, and on the way out.
    fn envelopes(self) -> (u32, u32) {
        match self {
            GoBuffers::Default => (10_000, 1_000),
            GoBuffers::Large => (50_000, 50_000),
        }
    }
}

/// Who is measured.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Args {
    /// Whose programs.
    #[arg(long, value_enum, default_value = "ours")]
    peer: Whose,
    /// The Doppler's program (Go calls it router) [default: ours, as built].
    #[arg(long, value_name = "FILE", required_if_eq("peer", "go"))]
    doppler: Option<PathBuf>,
    /// The Traffic Controller's program [default: ours, as built].
    #[arg(long, value_name = "FILE", required_if_eq("peer", "go"))]
    traffic_controller: Option<PathBuf>,
    /// With `--peer go`: how much its buffers hold.
    #[arg(long, value_enum, default_value = "50000")]
    go_buffers: GoBuffers,
    /// How many Dopplers. Agents go to them in turns.
    #[arg(long, default_value_t = 1)]
    dopplers: usize,
    /// Worker threads of each server, if it is ours; one per core if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Log lines that our Dopplers keep of each app [default: theirs].
    #[arg(long)]
    recent_logs: Option<usize>,
}

impl Args {
    /// How many envelopes of that many bytes may be on their way without any being lost.
    pub(crate) fn room(&self, bytes: usize) -> u64 {
        // Three quarters of our chunk log; the Go programs count envelopes alone.
        let by_bytes = (48 << 20) / bytes as u64;
        let by_count = match (self.peer, self.go_buffers) {
            (Whose::Ours, _) => 50_000,
            (Whose::Go, GoBuffers::Large) => 45_000,
            // Less than 1,000 with a batch of each of four connections too many.
            (Whose::Go, GoBuffers::Default) => 500,
        };
        by_bytes.min(by_count)
    }
}

/// The running programs.
pub(crate) struct Peer {
    dopplers: Vec<Process>,
    controller: Process,
    /// Where agents connect.
    pub(crate) ingress: Vec<SocketAddr>,
    /// Where clients connect.
    pub(crate) public: SocketAddr,
    pages: Option<Pages>,
    certs: Certs,
}

/// Where ours speak of themselves.
struct Pages {
    dopplers: Vec<SocketAddr>,
    controller: SocketAddr,
}

/// What the processes have used: all Dopplers as one, the Traffic Controller, and we ourselves.
#[derive(Clone, Copy)]
pub(crate) struct Used {
    pub(crate) doppler: Usage,
    pub(crate) controller: Usage,
    pub(crate) load: Usage,
}

/// What the processes say of themselves, added up.
#[derive(Clone, Copy, Default)]
pub(crate) struct Says {
    pub(crate) queued: u64,
    pub(crate) dropped: u64,
    pub(crate) imbalance: u64,
    pub(crate) gaps: u64,
}

impl Peer {
    /// Starts the programs, and waits until they listen.
    pub(crate) async fn start(args: &Args) -> Peer {
        match args.peer {
            Whose::Ours => Peer::start_ours(args).await,
            Whose::Go => Peer::start_go(args).await,
        }
    }

    async fn start_ours(args: &Args) -> Peer {
        let certs = Certs::new();
        let threads = args.threads.map(|n| format!("--worker-threads={n}"));
        let file = |flag: &str, path: PathBuf| format!("--{flag}={}", path.display());
        let program = args.doppler.clone().unwrap_or_else(binaries::doppler);
        let Pair { cert, key } = certs.pair("doppler");
        let mut arguments = vec![
            "--port=0".to_owned(),
            "--address=127.0.0.1".to_owned(),
            file("cert-file", cert),
            file("key-file", key),
            file("ca-file", certs.ca()),
        ];
        arguments.extend(threads.clone());
        arguments.extend(args.recent_logs.map(|n| format!("--recent-logs={n}")));
        let (mut dopplers, mut ingress, mut pages) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..args.dopplers {
            let mut doppler = Process::start("doppler", &program, &arguments);
            ingress.push(doppler.bound("grpc bound to: ").await);
            pages.push(doppler.bound("pprof bound to: ").await);
            dopplers.push(doppler);
        }

        let program = args.traffic_controller.clone();
        let program = program.unwrap_or_else(binaries::traffic_controller);
        let (inner, outer) = (certs.pair("trafficcontroller"), certs.pair("localhost"));
        let mut arguments = vec![
            "--port=0".to_owned(),
            "--address=127.0.0.1".to_owned(),
            format!("--router-addrs={}", list(&ingress)),
            file("outgoing-cert-file", outer.cert),
            file("outgoing-key-file", outer.key),
            file("router-cert-file", inner.cert),
            file("router-key-file", inner.key),
            file("router-ca-file", certs.ca()),
            "--max-streams=30000".to_owned(),
        ];
        arguments.extend(threads);
        let mut controller = Process::start("traffic-controller", &program, &arguments);
        let public = controller.bound("ws bound to: ").await;
        let page = controller.bound("pprof bound to: ").await;
        let pages = Some(Pages {
            dopplers: pages,
            controller: page,
        });
        Peer {
            dopplers,
            controller,
            ingress,
            public,
            pages,
            certs,
        }
    }

    /// Go's programs are told everything by their environment; what is here is what they do not
    /// start without.
    async fn start_go(args: &Args) -> Peer {
        let certs = Certs::new();
        let text = |path: PathBuf| path.display().to_string();
        let program = |path: &Option<PathBuf>| path.clone().expect("clap asks for it");
        let (into, out_of) = args.go_buffers.envelopes();
        let Pair { cert, key } = certs.pair("doppler");
        let environment = [
            ("ROUTER_CERT_FILE", text(cert)),
            ("ROUTER_KEY_FILE", text(key)),
            ("ROUTER_CA_FILE", text(certs.ca())),
            ("INGRESS_BUFFER_SIZE", into.to_string()),
            ("EGRESS_BUFFER_SIZE", out_of.to_string()),
        ];
        let (mut dopplers, mut ingress) = (Vec::new(), Vec::new());
        for _ in 0..args.dopplers {
            let mut doppler = start_go("router", &program(&args.doppler), &environment);
            ingress.push(on_loopback(doppler.bound("grpc bound to: ").await));
            dopplers.push(doppler);
        }

        let (inner, outer) = (certs.pair("trafficcontroller"), certs.pair("localhost"));
        let (cert, key, ca) = (text(inner.cert), text(inner.key), text(certs.ca()));
        let environment = [
            ("TRAFFIC_CONTROLLER_IP", "127.0.0.1".to_owned()),
            ("TRAFFIC_CONTROLLER_SYSTEM_DOMAIN", "localhost".to_owned()),
            ("TRAFFIC_CONTROLLER_DISABLE_ACCESS_CONTROL", "true".into()),
            ("TRAFFIC_CONTROLLER_UAA_CA_CERT", ca.clone()),
            ("TRAFFIC_CONTROLLER_UAA_CLIENT_SECRET", "unused".to_owned()),
            ("TRAFFIC_CONTROLLER_OUTGOING_CERT_FILE", text(outer.cert)),
            ("TRAFFIC_CONTROLLER_OUTGOING_KEY_FILE", text(outer.key)),
            ("ROUTER_ADDRS", list(&ingress)),
            ("ROUTER_CERT_FILE", cert.clone()),
            ("ROUTER_KEY_FILE", key.clone()),
            ("ROUTER_CA_FILE", ca.clone()),
            ("CC_CERT_FILE", cert),
            ("CC_KEY_FILE", key),
            ("CC_CA_FILE", ca),
        ];
        let program = program(&args.traffic_controller);
        let mut controller = start_go("trafficcontroller", &program, &environment);
        let public = on_loopback(controller.bound("ws bound to: ").await);
        Peer {
            dopplers,
            controller,
            ingress,
            public,
            pages: None,
            certs,
        }
    }

    /// How agents connect.
    pub(crate) fn agent(&self) -> Dialer {
        let Pair { cert, key } = self.certs.pair("metron");
        agent(&self.certs.ca(), cert, key)
    }

    /// How clients connect.
    pub(crate) fn client(&self) -> Dialer {
        client(&self.certs.ca(), "localhost")
    }

    /// Waits until every Doppler knows so many subscriptions.
    pub(crate) async fn knows(&self, wanted: usize) {
        let Some(pages) = &self.pages else {
            return tokio::time::sleep(GO_SUBSCRIBES).await;
        };
        for page in pages.dopplers.iter().copied() {
            eventually(
                Duration::from_secs(60),
                "the Doppler knows all streams",
                || async move { admin::subscriptions(page).await.subscriptions.len() >= wanted },
            )
            .await;
        }
    }

    /// What ours say once nothing moves any more and they have told each other.
    pub(crate) async fn says(&self) -> Option<Says> {
        let pages = self.pages.as_ref()?;
        let end = Instant::now() + ADD_UP;
        loop {
            let mut says = Says::default();
            for page in pages.dopplers.iter().chain([&pages.controller]) {
                says.add(&admin::subscriptions(*page).await);
            }
            if says.queued + says.imbalance + says.gaps == 0 || Instant::now() >= end {
                return Some(says);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) fn used(&self) -> Used {
        let mut doppler = Usage::default();
        for one in self.dopplers.iter().map(Process::usage) {
            doppler.cpu += one.cpu;
            doppler.resident += one.resident;
            doppler.peak_resident += one.peak_resident;
        }
        Used {
            doppler,
            controller: self.controller.usage(),
            load: harness::process::usage(std::process::id()).unwrap_or_default(),
        }
    }

    /// Files and sockets that the Dopplers have open.
    pub(crate) fn doppler_files(&self) -> usize {
        self.dopplers.iter().map(Process::open_files).sum()
    }

    /// Ends it: ours by a drain, Go's, which have none, at once.
    pub(crate) async fn stop(mut self) {
        if self.pages.is_some() {
            for process in self.dopplers.iter_mut().chain([&mut self.controller]) {
                process.terminate(Duration::from_secs(10)).await;
            }
        }
    }
}

impl Used {
    /// CPU time of Doppler and Traffic Controller since `before`, in seconds.
    pub(crate) fn cpu_since(&self, before: &Used) -> (f64, f64) {
        let since = |after: Usage, before: Usage| (after.cpu - before.cpu).as_secs_f64();
        (
            since(self.doppler, before.doppler),
            since(self.controller, before.controller),
        )
    }

    /// What is resident in both, in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        (self.doppler.resident + self.controller.resident) as f64 / f64::from(1 << 20)
    }
}

impl Says {
    fn add(&mut self, page: &admin::Page) {
        let sum = page.sum();
        self.queued += sum.queued;
        self.dropped += sum.lost();
        let open = &page.subscriptions;
        let imbalances = open.iter().map(|open| open.account.imbalance());
        let imbalances = imbalances.chain([page.ended().imbalance()]);
        self.imbalance += imbalances.map(|by| by.unsigned_abs() as u64).sum::<u64>();
        let links = open
            .iter()
            .flat_map(|open| &open.links)
            .chain(&page.app_links);
        self.gaps += links
            .map(|link| link.sent.saturating_sub(link.received))
            .sum::<u64>();
    }
}

/// Connects as an agent with that certificate.
pub(crate) fn agent(ca: &Path, cert: PathBuf, key: PathBuf) -> Dialer {
    let identity = Identity { cert, key };
    let config = tls::client(Roots::Ca(ca), Some(&identity), &[tls::H2]).expect("certificates");
    let name = tls::server_name("doppler").expect("a name");
    Dialer::new(Some((config.into(), name)), Duration::from_secs(10))
}

/// Connects as a client that expects that name.
pub(crate) fn client(ca: &Path, name: &str) -> Dialer {
    let config = tls::client(Roots::Ca(ca), None, &[tls::HTTP_1_1]).expect("certificates");
    let name = tls::server_name(name).expect("a name");
    Dialer::new(Some((config.into(), name)), Duration::from_secs(30))
}

fn start_go(name: &str, program: &Path, environment: &[(&str, String)]) -> Process {
    Process::start_with(name, program, std::iter::empty::<&str>(), environment)
}

/// Go's programs listen everywhere, and say so.
fn on_loopback(address: SocketAddr) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))
}

fn list(addresses: &[SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    texts.join(",")
}
