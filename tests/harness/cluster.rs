//! Dopplers and Traffic Controllers as real processes on loopback, started together.
//!
//! `Cluster::builder().dopplers(2).controllers(2).mtls().start().await`

use crate::admin::{self, Metrics, Page};
use crate::certs::{Certs, Pair};
use crate::envelopes::{Workload, guid};
use crate::process::Process;
use crate::producer::{Connection, Producer};
use crate::reader::Opening;
use crate::stream::Tls;
use crate::{binaries, eventually};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// How long a link may take to open once both ends run.
const LINKED: Duration = Duration::from_secs(10);

/// What a cluster will be.
#[derive(Debug, Default)]
pub struct Builder {
    dopplers: usize,
    controllers: usize,
    mtls: bool,
    doppler_args: Vec<String>,
    controller_args: Vec<String>,
    elsewhere: Vec<SocketAddr>,
    tokens: Option<String>,
    certs: Option<Arc<Certs>>,
    environment: Vec<(&'static str, String)>,
    dns: Option<(SocketAddr, &'static str)>,
}

/// A running system. Dropping it kills every process of it.
pub struct Cluster {
    /// The Dopplers, in the order in which Traffic Controllers know them.
    pub dopplers: Vec<Doppler>,
    /// The Traffic Controllers.
    pub controllers: Vec<Controller>,
    certs: Option<Arc<Certs>>,
    doppler_args: Vec<String>,
    controller_args: Vec<String>,
    environment: Vec<(&'static str, String)>,
    _files: TempDir,
}

/// A running Doppler.
pub struct Doppler {
    /// Its process.
    pub process: Process,
    /// Where agents and Traffic Controllers connect to.
    pub address: SocketAddr,
    /// Its admin listener.
    pub admin: SocketAddr,
    certs: Option<Arc<Certs>>,
}

/// A running Traffic Controller.
pub struct Controller {
    /// Its process.
    pub process: Process,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// Its admin listener.
    pub admin: SocketAddr,
    certs: Option<Arc<Certs>>,
}

impl Builder {
    /// So many Dopplers.
    pub fn dopplers(mut self, count: usize) -> Builder {
        self.dopplers = count;
        self
    }

    /// So many Traffic Controllers, each reading from all Dopplers.
    pub fn controllers(mut self, count: usize) -> Builder {
        self.controllers = count;
        self
    }

    /// Mutual TLS between agents, Dopplers and Traffic Controllers, and TLS for clients.
    pub fn mtls(mut self) -> Builder {
        self.mtls = true;
        self
    }

    /// As [`Builder::mtls`], with certificates that others have too: a UAA, for example.
    pub fn certs(mut self, certs: Arc<Certs>) -> Builder {
        self.certs = Some(certs);
        self
    }

    /// Another flag for every Doppler.
    pub fn doppler_flag(mut self, flag: &str, value: impl ToString) -> Builder {
        self.doppler_args
            .extend([flag.to_owned(), value.to_string()]);
        self
    }

    /// A flag without a value for every Doppler.
    pub fn doppler_switch(mut self, flag: &str) -> Builder {
        self.doppler_args.push(flag.to_owned());
        self
    }

    /// Another flag for every Traffic Controller.
    pub fn controller_flag(mut self, flag: &str, value: impl ToString) -> Builder {
        self.controller_args
            .extend([flag.to_owned(), value.to_string()]);
        self
    }

    /// Other flags, with their values, for every Traffic Controller.
    pub fn controller_flags(mut self, flags: Vec<String>) -> Builder {
        self.controller_args.extend(flags);
        self
    }

    /// Traffic Controllers read from this address too, whoever is there.
    pub fn also_reading(mut self, doppler: SocketAddr) -> Builder {
        self.elsewhere.push(doppler);
        self
    }

    /// Access by tokens: the text of the token file.
    pub fn tokens(mut self, yaml: impl Into<String>) -> Builder {
        self.tokens = Some(yaml.into());
        self
    }

    /// Traffic Controllers know Dopplers by this name alone, which is loopback's, and ask that
    /// DNS server.
    pub fn by_name(mut self, name: &'static str, server: SocketAddr) -> Builder {
        self.dns = Some((server, name));
        self
    }

    /// A variable in the environment of every process.
    pub fn variable(mut self, name: &'static str, value: impl ToString) -> Builder {
        self.environment.push((name, value.to_string()));
        self
    }

    /// Starts everything and waits until each Traffic Controller has a link to each Doppler.
    pub async fn start(self) -> Cluster {
        let files = tempfile::tempdir().unwrap();
        let certs = self
            .certs
            .or_else(|| self.mtls.then(|| Arc::new(Certs::new())));
        let mut doppler_args = vec!["--address".to_owned(), "127.0.0.1".to_owned()];
        let mut controller_args = doppler_args.clone();
        if let Some(certs) = &certs {
            let file = |path: PathBuf| {
                path.to_str()
                    .expect("a temporary directory is text")
                    .to_owned()
            };
            let pair = |flag: &str, pair: Pair| {
                [
                    format!("--{flag}cert-file"),
                    file(pair.cert),
                    format!("--{flag}key-file"),
                    file(pair.key),
                ]
            };
            doppler_args.extend(pair("", certs.pair("doppler")));
            doppler_args.extend(["--ca-file".to_owned(), file(certs.ca())]);
            controller_args.extend(pair("outgoing-", certs.pair("localhost")));
            controller_args.extend(pair("router-", certs.pair("trafficcontroller")));
            controller_args.extend(["--router-ca-file".to_owned(), file(certs.ca())]);
        }
        if let Some(tokens) = &self.tokens {
            let path = files.path().join("tokens.yml");
            std::fs::write(&path, tokens).unwrap();
            controller_args.extend(["--tokens-file".to_owned(), path.display().to_string()]);
        }
        doppler_args.extend(self.doppler_args);
        controller_args.extend(self.controller_args);

        let mut cluster = Cluster {
            dopplers: Vec::new(),
            controllers: Vec::new(),
            certs,
            doppler_args,
            controller_args,
            environment: self.environment,
            _files: files,
        };
        for n in 0..self.dopplers {
            let doppler = cluster.start_doppler(&format!("doppler {n}"), 0).await;
            cluster.dopplers.push(doppler);
        }
        let dopplers = cluster.dopplers.iter().map(|doppler| doppler.address);
        let addresses: Vec<String> = dopplers
            .chain(self.elsewhere)
            .map(|address| address.to_string())
            .collect();
        if let Some((server, name)) = self.dns {
            let port = |doppler: &Doppler| format!("{name}:{}", doppler.address.port());
            let names: Vec<String> = cluster.dopplers.iter().map(port).collect();
            cluster.controller_args.extend([
                "--router-dns-names".to_owned(),
                names.join(","),
                "--router-dns-server".to_owned(),
                server.to_string(),
            ]);
        } else if !addresses.is_empty() {
            cluster
                .controller_args
                .extend(["--router-addrs".to_owned(), addresses.join(",")]);
        }
        for n in 0..self.controllers {
            let controller = cluster
                .start_controller(&format!("traffic-controller {n}"))
                .await;
            cluster.controllers.push(controller);
        }
        for controller in &cluster.controllers {
            controller.reads_from(&cluster.dopplers).await;
        }
        cluster
    }
}

impl Cluster {
    /// Describes a cluster.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The certificates, if it has any.
    pub fn certs(&self) -> Option<&Certs> {
        self.certs.as_deref()
    }

    /// Starts a Doppler like the others on `port`; it is the caller's.
    pub async fn start_doppler(&self, name: &str, port: u16) -> Doppler {
        let args = ["--port", &port.to_string(), "--admin-port", "0"].map(str::to_owned);
        let args = args.into_iter().chain(self.doppler_args.iter().cloned());
        let program = binaries::doppler();
        let mut process = Process::start_with(name, &program, args, &self.environment);
        Doppler {
            address: process.bound("grpc bound to: ").await,
            admin: process.bound("pprof bound to: ").await,
            process,
            certs: self.certs.clone(),
        }
    }

    /// Starts a Traffic Controller like the others; it is the caller's.
    pub async fn start_controller(&self, name: &str) -> Controller {
        self.start_controller_on(name, 0).await
    }

    /// As [`Cluster::start_controller`], on that port.
    pub async fn start_controller_on(&self, name: &str, port: u16) -> Controller {
        let args = ["--port", &port.to_string(), "--admin-port", "0"].map(str::to_owned);
        let args = args.into_iter().chain(self.controller_args.iter().cloned());
        let program = binaries::traffic_controller();
        let mut process = Process::start_with(name, &program, args, &self.environment);
        Controller {
            address: process.bound("ws bound to: ").await,
            admin: process.bound("pprof bound to: ").await,
            process,
            certs: self.certs.clone(),
        }
    }

    /// Waits until Doppler `n` has a member for each of `count` readers of a firehose: a reader
    /// is entitled to what comes after that.
    pub async fn subscribed(&self, id: &str, count: usize) {
        for doppler in &self.dopplers {
            let what = format!("{count} readers of {id} at {}", doppler.process.name());
            eventually(LINKED, &what, async || {
                doppler.page().await.members(id) == count
            })
            .await;
        }
    }

    /// Waits until each Doppler has a queue for each of these apps: `links` of them, one for
    /// each Traffic Controller where the app is tailed.
    pub async fn tailed(&self, apps: impl IntoIterator<Item = u32> + Clone, links: usize) {
        for doppler in &self.dopplers {
            let what = format!("apps are tailed at {}", doppler.process.name());
            eventually(LINKED, &what, async || {
                let page = doppler.page().await;
                let mut queues = std::collections::HashMap::new();
                for app in page
                    .subscriptions
                    .iter()
                    .filter_map(|open| open.app.as_deref())
                {
                    *queues.entry(app).or_insert(0) += 1;
                }
                apps.clone()
                    .into_iter()
                    .all(|app| queues.get(&*guid(app)) == Some(&links))
            })
            .await;
        }
    }

    /// Panics unless every account of every process adds up, and each process thinks so too.
    pub async fn assert_balanced(&self) {
        let dopplers = self
            .dopplers
            .iter()
            .map(|doppler| (&doppler.process, doppler.admin));
        let controllers = self
            .controllers
            .iter()
            .map(|controller| (&controller.process, controller.admin));
        for (process, admin) in dopplers.chain(controllers) {
            admin::subscriptions(admin)
                .await
                .assert_balanced(process.name());
            assert_eq!(
                admin::metrics(admin).await.imbalance(),
                0.0,
                "{}",
                process.name()
            );
        }
    }
}

impl Doppler {
    /// How an agent speaks TLS with it.
    pub fn tls(&self) -> Option<Tls> {
        self.tls_as("metron", "h2")
    }

    /// How the holder of that certificate speaks TLS with it.
    pub fn tls_as(&self, name: &str, alpn: &str) -> Option<Tls> {
        self.certs.as_ref().map(|certs| Tls {
            config: certs.client(Some(&certs.pair(name)), &[alpn]),
            name: "doppler",
        })
    }

    /// An agent known as `id` that sends `workload` here.
    pub async fn producer(&self, id: u32, workload: Workload) -> Producer {
        Producer::open(self.address, self.tls().as_ref(), id, workload)
            .await
            .unwrap()
    }

    /// An agent's connection, for any calls.
    pub async fn connection(&self) -> Connection {
        Connection::open(self.address, self.tls().as_ref())
            .await
            .unwrap()
    }

    /// Its page `/subscriptions`.
    pub async fn page(&self) -> Page {
        admin::subscriptions(self.admin).await
    }

    /// Its page `/metrics`.
    pub async fn metrics(&self) -> Metrics {
        admin::metrics(self.admin).await
    }
}

impl Controller {
    /// How a client speaks TLS with it.
    pub fn tls(&self) -> Option<Tls> {
        self.certs.as_ref().map(|certs| Tls {
            config: certs.client(None, &["http/1.1"]),
            name: "localhost",
        })
    }

    /// A reader of any path here.
    pub fn reader(&self, path: &str) -> Opening {
        Opening::new(self.address, self.tls(), path)
    }

    /// A reader of the firehose with that subscription id.
    pub fn firehose(&self, id: &str) -> Opening {
        self.reader(&format!("/firehose/{id}"))
    }

    /// A reader of that app's stream.
    pub fn tail(&self, app: u32) -> Opening {
        self.reader(&format!("/apps/{}/stream", guid(app)))
            .only(app)
    }

    /// Waits until its app links to these Dopplers are open.
    pub async fn reads_from(&self, dopplers: &[Doppler]) {
        let addresses: Vec<String> = dopplers
            .iter()
            .map(|doppler| doppler.address.to_string())
            .collect();
        let what = format!("{} is linked to {addresses:?}", self.process.name());
        eventually(LINKED, &what, async || {
            let page = self.page().await;
            let open = |address: &String| {
                page.app_links
                    .iter()
                    .any(|hop| hop.connected && hop.doppler == *address)
            };
            addresses.iter().all(open)
        })
        .await;
    }

    /// Its page `/subscriptions`.
    pub async fn page(&self) -> Page {
        admin::subscriptions(self.admin).await
    }

    /// Its page `/metrics`.
    pub async fn metrics(&self) -> Metrics {
        admin::metrics(self.admin).await
    }
}

/// A port of loopback where nobody listens, for a process that starts later.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
