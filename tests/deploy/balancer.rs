//! A real balancer with the file that is shipped for it.

use crate::shipped::Shipped;
use futures::future::BoxFuture;
use harness::certs::Certs;
use harness::cluster::free_port;
use harness::process::{Process, Signal};
use harness::{Tls, within};
use rcgen::SanType;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// How long one may take to listen; Envoy has its first health checks before.
const START: Duration = Duration::from_secs(20);

/// How long one may take to end once it was told to.
const END: Duration = Duration::from_secs(5);

/// The name that the shipped files expect of a Traffic Controller.
const NAME: &str = "doppler.sys.example.com";

/// The name for WebSockets alone.
pub(crate) const OWN_NAME: &str = "ws.cf.example.com";

/// A program and its file.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Its file in `deploy/`.
    pub(crate) file: &'static str,
    /// The ports in that file.
    pub(crate) ports: &'static [u16],
    /// Its idle limits, as the file has them, and the same at 60 s.
    pub(crate) limits: &'static [(&'static str, &'static str)],
    /// Whether it takes WebSockets over HTTP/2 (RFC 8441) in front.
    pub(crate) rfc_8441: bool,
    /// What in the file is put where.
    pub(crate) places: fn(&Site) -> Vec<(String, String)>,
    /// The program, found or installed.
    pub(crate) program: fn() -> BoxFuture<'static, PathBuf>,
    /// Its arguments for that file.
    pub(crate) arguments: fn(&Path) -> Vec<String>,
}

/// What is around a balancer.
pub(crate) struct Site<'a> {
    listens: &'a [(u16, SocketAddr)],
    /// In place of 10.0.16.21 and 10.0.16.22, port 8081.
    pub(crate) servers: [SocketAddr; 2],
    /// The same, port 4443: they expect PROXY headers.
    pub(crate) proxied: [SocketAddr; 2],
    /// Certificates, logs, and whatever else it writes.
    pub(crate) directory: &'a Path,
}

impl Site<'_> {
    /// Where it listens in place of that port.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        let mut all = self.listens.iter();
        let found = all.find(|(listed, _)| *listed == port);
        found.expect("it is in Kind::ports").1
    }

    /// A file in its directory.
    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

/// A running balancer. Dropping it ends it, with all its workers.
pub(crate) struct Balancer {
    listens: Vec<(u16, SocketAddr)>,
    process: Process,
    _files: TempDir,
}

/// Certificates of a Traffic Controller, good for every name that the shipped files have and for
/// `localhost`, by which our clients call it.
pub(crate) fn certs() -> Arc<Certs> {
    let certs = Certs::new();
    certs.issue("localhost", |params| {
        for name in [NAME, OWN_NAME] {
            let name = name.try_into().expect("a DNS name");
            params.subject_alt_names.push(SanType::DnsName(name));
        }
    });
    Arc::new(certs)
}

/// How our clients speak TLS.
pub(crate) fn tls(certs: &Certs, alpn: &[&str]) -> Tls {
    Tls {
        config: certs.client(None, alpn),
        name: "localhost",
    }
}

impl Balancer {
    /// Starts one as it is shipped.
    pub(crate) async fn start(kind: &Kind, certs: &Certs, servers: [SocketAddr; 2]) -> Balancer {
        let file = Shipped::read(kind.file);
        Balancer::start_with(kind, file, certs, servers, servers).await
    }

    /// As [`Balancer::start`], with other servers for PROXY headers.
    pub(crate) async fn start_proxied(
        kind: &Kind,
        certs: &Certs,
        servers: [SocketAddr; 2],
        proxied: [SocketAddr; 2],
    ) -> Balancer {
        let file = Shipped::read(kind.file);
        Balancer::start_with(kind, file, certs, servers, proxied).await
    }

    /// As [`Balancer::start`], with all its idle limits at 60 s.
    pub(crate) async fn start_limited(
        kind: &Kind,
        certs: &Certs,
        servers: [SocketAddr; 2],
    ) -> Balancer {
        let mut file = Shipped::read(kind.file);
        for (there, here) in kind.limits {
            file = file.limit(there, here);
        }
        Balancer::start_with(kind, file, certs, servers, servers).await
    }

    async fn start_with(
        kind: &Kind,
        mut file: Shipped,
        certs: &Certs,
        servers: [SocketAddr; 2],
        proxied: [SocketAddr; 2],
    ) -> Balancer {
        let files = tempfile::tempdir().expect("a directory for its files");
        let free = |port: &u16| (*port, SocketAddr::from(([127, 0, 0, 1], free_port())));
        let listens: Vec<_> = kind.ports.iter().map(free).collect();
        certificates(certs, files.path());
        let site = Site {
            listens: &listens,
            servers,
            proxied,
            directory: files.path(),
        };
        for (there, here) in (kind.places)(&site) {
            file = file.place(&there, &here);
        }
        let (program, path) = ((kind.program)().await, file.write(files.path()));
        let mut process = Process::start(kind.name, &program, (kind.arguments)(&path));
        for (_, address) in &listens {
            let listens = within(START, || {
                let over = process.exited().is_some();
                async move { over || TcpStream::connect(address).await.is_ok() }
            });
            let listens = listens.await && process.exited().is_none();
            assert!(listens, "{} does not listen", kind.name);
        }
        Balancer {
            listens,
            process,
            _files: files,
        }
    }

    /// Where it listens in place of that port.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        let mut all = self.listens.iter();
        let found = all.find(|(listed, _)| *listed == port);
        found.expect("it is in Kind::ports").1
    }
}

impl Drop for Balancer {
    /// nginx's master takes its workers along, if it is asked to end.
    fn drop(&mut self) {
        self.process.signal(Signal::Terminate);
        let asked = Instant::now();
        while self.process.exited().is_none() && asked.elapsed() < END {
            std::thread::yield_now();
        }
    }
}

/// The files of certificates that the shipped files name.
fn certificates(certs: &Certs, directory: &Path) {
    let read = |path: PathBuf| std::fs::read_to_string(path).expect("the harness wrote it");
    let pair = certs.pair("localhost");
    let (cert, key) = (read(pair.cert), read(pair.key));
    for (name, text) in [
        ("doppler.pem", format!("{cert}{key}")),
        ("doppler.crt", cert),
        ("doppler.key", key),
        ("loggregator-ca.crt", read(certs.ca())),
    ] {
        std::fs::write(directory.join(name), text).expect("the directory is ours");
    }
}

/// The place of a program of the system.
pub(crate) fn installed(name: &str, package: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
    let mut places = places.iter().map(|place| Path::new(place).join(name));
    let found = places.find(|path| path.exists());
    found.unwrap_or_else(|| panic!("there is no {name} (Debian: {package})"))
}
