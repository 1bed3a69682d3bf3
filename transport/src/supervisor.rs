//! What a server tells whoever started it, by systemd's `sd_notify` protocol: that it is ready,
//! that it stops, and, again and again, that it is alive.
//!
//! In goes the address that the supervisor gave, if it gave one; out go datagrams. Nothing is
//! waited for and nothing fails: a server whose supervisor does not listen serves all the same.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;
use tracing::debug;

/// Whoever started us.
#[derive(Debug)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
}

impl Supervisor {
    /// The one that listens at `address` (the variable `NOTIFY_SOCKET`): a path, or `@` and a name
    /// of the abstract namespace. Nobody without it, or if nobody is there.
    pub fn at(address: Option<&str>) -> Supervisor {
        let socket = address.and_then(|address| match connect(address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, address, "cannot tell the supervisor; going on without");
                None
            }
        });
        Supervisor { socket }
    }

    /// All is bound and served from now on.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// The server drains.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// Says that we are alive, twice in each `watchdog`, from now on and until the process ends:
    /// from a task, so that it is only said while the runtime turns.
    pub fn watch(self: &Arc<Supervisor>, watchdog: Option<Duration>) {
        let Some(watchdog) = watchdog.filter(|watchdog| !watchdog.is_zero()) else {
            return;
        };
        if self.socket.is_some() {
            let supervisor = self.clone();
            tokio::spawn(async move { supervisor.keep_alive(watchdog).await });
        }
    }

    async fn keep_alive(&self, watchdog: Duration) {
        let mut every = tokio::time::interval(watchdog / 2);
        loop {
            every.tick().await;
            self.say("WATCHDOG=1");
        }
    }

    fn say(&self, what: &str) {
        let Some(socket) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send(what.as_bytes()) {
            debug!(%error, what, "the supervisor does not listen");
        }
    }
}

fn connect(address: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A supervisor that is busy must not hold us up.
    socket.set_nonblocking(true)?;
    match address.strip_prefix('@') {
        Some(name) => connect_to_name(&socket, name)?,
        None => socket.connect(address)?,
    }
    Ok(socket)
}

#[cfg(target_os = "linux")]
fn connect_to_name(socket: &UnixDatagram, name: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    socket.connect_addr(&SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
fn connect_to_name(_: &UnixDatagram, _: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was said to `socket` until now.
    fn heard(socket: &UnixDatagram) -> Vec<String> {
        socket.set_nonblocking(true).unwrap();
        let mut heard = Vec::new();
        let mut datagram = [0; 64];
        while let Ok(length) = socket.recv(&mut datagram) {
            heard.push(String::from_utf8_lossy(&datagram[..length]).into_owned());
        }
        heard
    }

    #[test]
    fn a_supervisor_is_told_that_we_are_ready_and_that_we_stop() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor::at(path.to_str());
        supervisor.ready();
        supervisor.stopping();
        assert_eq!(heard(&socket), ["READY=1", "STOPPING=1"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_of_the_abstract_namespace_is_found() {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::SocketAddr;
        let name = format!("loggregator-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Supervisor::at(Some(&format!("@{name}"))).ready();
        assert_eq!(heard(&socket), ["READY=1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_says_that_it_is_alive_twice_in_the_time_it_may_be_silent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor::at(path.to_str());
        let alive = supervisor.keep_alive(Duration::from_secs(10));
        let _ = tokio::time::timeout(Duration::from_secs(21), alive).await;
        assert_eq!(heard(&socket), ["WATCHDOG=1"; 5]);
    }

    #[tokio::test]
    async fn a_supervisor_that_is_not_there_is_no_trouble() {
        for address in [None, Some("/nowhere/at/all"), Some("@nobody-listens-here")] {
            let supervisor = Arc::new(Supervisor::at(address));
            supervisor.watch(Some(Duration::from_secs(1)));
            supervisor.ready();
            supervisor.stopping();
        }
    }
}
