//! A real HAProxy in front of the Traffic Controllers, passing TCP through, as platforms have
//! it; it looks five times a second who listens.

use harness::cluster::free_port;
use harness::within;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How long it may take to listen.
const START: Duration = Duration::from_secs(10);

/// A running balancer. Dropping it ends it.
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    child: Child,
    _files: TempDir,
}

impl Balancer {
    /// Passes connections on to `servers`, each in its turn.
    pub(crate) async fn start(servers: &[SocketAddr]) -> Balancer {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut config = format!(
            "global\n maxconn 2000\n\
             defaults\n mode tcp\n timeout connect 1s\n timeout client 1h\n timeout server 1h\n \
             retries 3\n option redispatch 1\n\
             listen traffic_controllers\n bind {address}\n balance roundrobin\n \
             default-server check inter 200ms fall 1 rise 1\n"
        );
        for (n, server) in servers.iter().enumerate() {
            config.push_str(&format!(" server tc{n} {server}\n"));
        }
        let files = tempfile::tempdir().expect("a directory for its configuration");
        let path = files.path().join("haproxy.cfg");
        std::fs::write(&path, config).expect("its configuration is written");
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-q")
            .arg("-f")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy was there at the start");
        let listens = within(START, async || {
            tokio::net::TcpStream::connect(address).await.is_ok()
        });
        assert!(listens.await, "haproxy does not listen");
        Balancer {
            address,
            child,
            _files: files,
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
