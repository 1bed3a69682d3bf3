//! Where Dopplers are known from: settings, a file, DNS.
//!
//! In come text and DNS answers, out come addresses as they are dialled. What cannot be used
//! (an empty file or one cut off within a line, a name without addresses, a server that does not
//! answer) changes nothing: whoever was known stays known.

use crate::metrics::Metrics;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};
use transport::cause::chain;

/// DNS is asked again when its answer is no longer good, but no sooner than this: 2 s.
pub const SOONEST: Duration = Duration::from_secs(2);

/// And no later than this: 60 s. Who says that an answer is good for a day has not reckoned with
/// a new Doppler.
pub const LATEST: Duration = Duration::from_secs(60);

/// How long an answer may take, all servers and attempts included.
const PATIENCE: Duration = Duration::from_secs(5);

/// Some addresses, as they are dialled.
pub type Addresses = BTreeSet<Arc<str>>;

/// Who named a Doppler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An operator, for as long as we run.
    Settings,
    /// The file as it lies there now.
    File,
    /// An answer.
    Dns,
}

/// Why a file of addresses cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is missing, or not ours to read.
    #[error("could not read the file of Dopplers {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is no address.
    #[error("line {line} of the file of Dopplers {path} is not `host:port`")]
    Line {
        /// The file.
        path: PathBuf,
        /// Which, from 1.
        line: usize,
    },
    /// It has none.
    #[error("the file of Dopplers {path} names none")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// `10.0.0.1:80` may have been going to be `10.0.0.1:8082`.
    #[error("the last line of the file of Dopplers {path} does not end: is it half written?")]
    Unfinished {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a file of addresses: `host:port`, one a line. Empty lines and what follows a `#` do not
/// count.
pub fn read(path: &Path) -> Result<Arc<Addresses>, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.into(),
        source,
    })?;
    parse(&text, path).map(Arc::new)
}

fn parse(text: &str, path: &Path) -> Result<Addresses, FileError> {
    let path = || path.to_owned();
    let mut addresses = Addresses::new();
    for (n, line) in text.lines().enumerate() {
        let address = line.split('#').next().unwrap_or_default().trim();
        if address.is_empty() {
            continue;
        }
        if !is_address(address) {
            let (path, line) = (path(), n + 1);
            return Err(FileError::Line { path, line });
        }
        addresses.insert(address.into());
    }
    if addresses.is_empty() {
        return Err(FileError::Empty { path: path() });
    }
    if !text.ends_with('\n') {
        return Err(FileError::Unfinished { path: path() });
    }
    Ok(addresses)
}

/// Whether it is `host:port`, an IPv6 address in brackets.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_host = match host.contains([':', '[', ']']) {
        true => text.parse::<SocketAddr>().is_ok(),
        false => !host.is_empty() && !host.contains(char::is_whitespace),
    };
    is_port && is_host
}

/// A name whose addresses are Dopplers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// `host:port`: each of the host's addresses, with that port.
    Host(String, u16),
    /// `_service._tcp.domain`: each of its SRV records.
    Service(String),
}

/// What is not the name of Dopplers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("give `host:port`, or the name of SRV records, which begins with `_`")]
pub struct BadName;

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Name, BadName> {
        if text.starts_with('_') && !text.contains(':') {
            return Ok(Name::Service(text.to_owned()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if is_address(text) => {
                let port = port.parse().map_err(|_| BadName)?;
                Ok(Name::Host(host.to_owned(), port))
            }
            _ => Err(BadName),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Host(host, port) => write!(f, "{host}:{port}"),
            Name::Service(service) => f.write_str(service),
        }
    }
}

/// Why DNS did not say who is there.
#[derive(Debug, thiserror::Error)]
enum DnsError {
    #[error("could not set up a DNS client from /etc/resolv.conf")]
    Client(#[source] NetError),
    #[error("DNS did not tell")]
    Answer(#[source] NetError),
    #[error("DNS did not answer within {PATIENCE:?}")]
    Late,
    #[error("none of the hosts its SRV records name has an address")]
    NoHost,
}

/// What DNS said, and until when it is good.
struct Answer {
    addresses: Addresses,
    until: Instant,
}

/// Asks for one name again and again, and puts what it learns into `known`: never less than
/// nothing, and what it last learned when there is no answer.
///
/// `server` is asked, or whoever /etc/resolv.conf names at that time.
pub(super) async fn follow(
    name: Name,
    server: Option<SocketAddr>,
    known: watch::Sender<Addresses>,
) {
    let mut is_failing = false;
    loop {
        let now = Instant::now();
        let answer = timeout(PATIENCE, ask(&name, server)).await;
        let again = match answer.unwrap_or(Err(DnsError::Late)) {
            Ok(answer) => {
                if std::mem::take(&mut is_failing) {
                    info!(%name, "DNS tells again which Dopplers there are");
                }
                known.send_replace(answer.addresses);
                answer.until
            }
            Err(error) => {
                Metrics::discovery_failure();
                if !std::mem::replace(&mut is_failing, true) {
                    let error = chain(&error);
                    warn!(%name, error, "DNS does not tell which Dopplers there are; going on with those known");
                }
                now
            }
        };
        Metrics::discovery_failed(&name.to_string(), is_failing);
        sleep_until(again.clamp(now + SOONEST, now + LATEST)).await;
    }
}

async fn ask(name: &Name, server: Option<SocketAddr>) -> Result<Answer, DnsError> {
    match name {
        Name::Host(host, port) => {
            let (hosts, until) = host_addresses(host, server).await?;
            let addresses = hosts.into_iter();
            Ok(Answer {
                addresses: addresses.map(|host| dialled(host, *port)).collect(),
                until,
            })
        }
        Name::Service(service) => service_addresses(service, server).await,
    }
}

async fn service_addresses(service: &str, server: Option<SocketAddr>) -> Result<Answer, DnsError> {
    let resolver = resolver(server, LookupIpStrategy::Ipv4Only)?;
    let lookup = resolver.lookup(service, RecordType::SRV).await;
    let lookup = lookup.map_err(DnsError::Answer)?;
    let mut until = Instant::from_std(lookup.valid_until());
    let mut addresses = Addresses::new();
    for record in lookup.answers() {
        let RData::SRV(srv) = &record.data else {
            continue;
        };
        // One that is gone must not hide those that are there.
        let Ok((hosts, good)) = host_addresses(&srv.target.to_string(), server).await else {
            continue;
        };
        until = until.min(good);
        // A host is one Doppler, however many addresses it has.
        addresses.extend(hosts.into_iter().next().map(|host| dialled(host, srv.port)));
    }
    match addresses.is_empty() {
        true => Err(DnsError::NoHost),
        false => Ok(Answer { addresses, until }),
    }
}

/// Its IPv4 addresses; its IPv6 addresses if it has no others. With both, a Doppler would be two
/// and every app stream would have everything twice.
async fn host_addresses(
    host: &str,
    server: Option<SocketAddr>,
) -> Result<(BTreeSet<IpAddr>, Instant), DnsError> {
    let four = resolver(server, LookupIpStrategy::Ipv4Only)?;
    let lookup = match four.lookup_ip(host).await {
        Err(none) if none.is_no_records_found() => {
            let six = resolver(server, LookupIpStrategy::Ipv6Only)?;
            six.lookup_ip(host).await
        }
        lookup => lookup,
    };
    let lookup = lookup.map_err(DnsError::Answer)?;
    let until = Instant::from_std(lookup.valid_until());
    Ok((lookup.iter().collect(), until))
}

fn dialled(host: IpAddr, port: u16) -> Arc<str> {
    SocketAddr::new(host, port).to_string().into()
}

/// A new client for each question: /etc/resolv.conf may have changed, and nothing is kept from
/// one to the next.
fn resolver(
    server: Option<SocketAddr>,
    strategy: LookupIpStrategy,
) -> Result<TokioResolver, DnsError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio().map_err(DnsError::Client)?,
        Some(server) => {
            let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut name_server.connections {
                connection.port = server.port();
            }
            TokioResolver::builder_with_config(
                ResolverConfig::from_name_servers(vec![name_server]),
                TokioRuntimeProvider::default(),
            )
        }
    };
    let options = builder.options_mut();
    options.ip_strategy = strategy;
    options.cache_size = 0;
    builder.build().map_err(DnsError::Client)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<String>, String> {
        let parsed = parse(text, Path::new("f"));
        let addresses = parsed.map(|all| all.iter().map(|it| it.to_string()).collect());
        addresses.map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_addresses_one_a_line() {
        let text = "# ours\n10.0.0.2:8082\n\n  doppler.internal:8082 # the new one\n[::1]:8082\n";
        assert_eq!(
            parsed(text).unwrap(),
            ["10.0.0.2:8082", "[::1]:8082", "doppler.internal:8082"]
        );
    }

    #[test]
    fn a_file_that_is_empty_half_written_or_something_else_is_not_used() {
        for (text, wrong) in [
            ("", "names none"),
            ("# none yet\n", "names none"),
            ("10.0.0.2:8082\n10.0.0.3:80", "half written"),
            ("10.0.0.2:8082\n10.0.0.3\n", "line 2"),
            ("[\"10.0.0.2:8082\"]\n", "line 1"),
            ("10.0.0.2:70000\n", "line 1"),
            ("::1:8082\n", "line 1"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(wrong), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_name_is_of_a_host_or_of_a_service() {
        let host = |name: &str, port| Ok(Name::Host(name.to_owned(), port));
        assert_eq!("doppler.cf:8082".parse(), host("doppler.cf", 8082));
        let service = "_doppler._tcp.cf";
        assert_eq!(service.parse(), Ok(Name::Service(service.to_owned())));
        for bad in ["doppler.cf", "", ":1", "_doppler._tcp.cf:8082 ", "a b:1"] {
            assert_eq!(bad.parse::<Name>(), Err(BadName), "{bad:?}");
        }
    }
}
