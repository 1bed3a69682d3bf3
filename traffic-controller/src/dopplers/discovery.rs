//! Where Dopplers are known from: settings, a file, DNS.
//!
//! In come text and DNS answers, out come addresses as they are dialled. What cannot be used
//! (an empty file or one cut off within a line, a name without addresses, a server that does not
//! answer) changes nothing: whoever was known stays known.

use crate::metrics::Metrics;
use futures::{StreamExt, stream};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// How long an answer may take, all servers and attempts included; and those about all hosts of a
/// service together.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long one host of a service may take, which the others wait for, and how many are asked for
/// at a time, each over a socket of its own.
const HOST_PATIENCE: Duration = Duration::from_secs(2);
const HOSTS_AT_A_TIME: usize = 64;

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
    #[error("DNS did not answer within {0:?}")]
    Late(Duration),
    #[error("none of the hosts its SRV records name has an address")]
    NoHost,
    #[error("DNS did not tell where {count} of its hosts are, such as {host}")]
    Hosts {
        count: usize,
        host: String,
        source: Box<DnsError>,
    },
}

/// The hosts of a service, each with the address it is dialled at: the first, since a host is one
/// Doppler, however many addresses it has.
type Hosts = BTreeMap<String, IpAddr>;

/// What DNS said, and until when it is good.
struct Answer {
    addresses: Addresses,
    until: Instant,
    hosts: Hosts,
    /// Why some of these are only as they were before.
    failed: Option<DnsError>,
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
    let mut hosts = Hosts::new();
    loop {
        let now = Instant::now();
        let mut again = now;
        let failed = match ask(&name, server, &hosts).await {
            Ok(answer) => {
                known.send_replace(answer.addresses);
                (hosts, again) = (answer.hosts, answer.until);
                answer.failed
            }
            Err(error) => Some(error),
        };
        match failed {
            None => {
                if std::mem::take(&mut is_failing) {
                    info!(%name, "DNS tells again which Dopplers there are");
                }
            }
            Some(error) => {
                again = now;
                Metrics::discovery_failure();
                if !std::mem::replace(&mut is_failing, true) {
                    let error = chain(&error);
                    warn!(%name, error, "DNS does not tell which Dopplers there are; going on with those known");
                }
            }
        }
        Metrics::discovery_failed(&name.to_string(), is_failing);
        sleep_until(again.clamp(now + SOONEST, now + LATEST)).await;
    }
}

/// `known` are the hosts as they were told last.
async fn ask(name: &Name, server: Option<SocketAddr>, known: &Hosts) -> Result<Answer, DnsError> {
    match name {
        Name::Host(host, port) => {
            let told = within(PATIENCE, host_addresses(host, server));
            let (hosts, until) = told.await?;
            let addresses = hosts.into_iter();
            Ok(Answer {
                addresses: addresses.map(|host| dialled(host, *port)).collect(),
                until,
                hosts: Hosts::new(),
                failed: None,
            })
        }
        Name::Service(service) => {
            let (records, until) = within(PATIENCE, service_records(service, server)).await?;
            let hosts: BTreeSet<String> = records.iter().map(|(host, _)| host.clone()).collect();
            // One that does not answer keeps the others waiting no longer than this.
            let told = stream::iter(hosts)
                .map(|host| async move {
                    let told = within(HOST_PATIENCE, host_address(&host, server)).await;
                    (host, told)
                })
                .buffer_unordered(HOSTS_AT_A_TIME)
                .take_until(tokio::time::sleep(PATIENCE));
            together(&records, until, told.collect().await, known)
        }
    }
}

async fn within<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, DnsError>>,
) -> Result<T, DnsError> {
    let answer = timeout(patience, answer).await;
    answer.unwrap_or(Err(DnsError::Late(patience)))
}

/// The hosts and ports of its SRV records.
async fn service_records(
    service: &str,
    server: Option<SocketAddr>,
) -> Result<(Vec<(String, u16)>, Instant), DnsError> {
    let resolver = resolver(server, LookupIpStrategy::Ipv4Only)?;
    let lookup = resolver.lookup(service, RecordType::SRV).await;
    let lookup = lookup.map_err(DnsError::Answer)?;
    let until = Instant::from_std(lookup.valid_until());
    let record = |data: &RData| match data {
        RData::SRV(srv) => Some((srv.target.to_string(), srv.port)),
        _ => None,
    };
    let records = lookup.answers().iter();
    let records = records.filter_map(|it| record(&it.data)).collect();
    Ok((records, until))
}

/// The address of a host and until when that is good; none if DNS knows that it has none.
async fn host_address(host: &str, server: Option<SocketAddr>) -> Result<Told, DnsError> {
    match host_addresses(host, server).await {
        Ok((addresses, until)) => Ok(addresses.first().map(|first| (*first, until))),
        Err(DnsError::Answer(none)) if none.is_no_records_found() => Ok(None),
        Err(error) => Err(error),
    }
}

type Told = Option<(IpAddr, Instant)>;

/// What the records of a service and what was told of their hosts amount to. One that is gone must
/// not hide those that are there; one of which nothing was told is where it was `known` to be.
fn together(
    records: &[(String, u16)],
    until: Instant,
    mut told: HashMap<String, Result<Told, DnsError>>,
    known: &Hosts,
) -> Result<Answer, DnsError> {
    let mut answer = Answer {
        addresses: Addresses::new(),
        until,
        hosts: Hosts::new(),
        failed: None,
    };
    let mut count = 0;
    // A host may be there with several ports.
    let hosts: BTreeSet<&String> = records.iter().map(|(host, _)| host).collect();
    for host in hosts {
        match told.remove(host).unwrap_or(Err(DnsError::Late(PATIENCE))) {
            Ok(Some((address, good))) => {
                answer.until = answer.until.min(good);
                answer.hosts.insert(host.clone(), address);
            }
            Ok(None) => {}
            Err(source) => {
                let known = known.get_key_value(host);
                answer
                    .hosts
                    .extend(known.map(|(host, at)| (host.clone(), *at)));
                count += 1;
                answer.failed = Some(DnsError::Hosts {
                    count,
                    host: host.clone(),
                    source: Box::new(source),
                });
            }
        }
    }
    let addresses = records.iter().filter_map(|(host, port)| {
        let at = answer.hosts.get(host)?;
        Some(dialled(*at, *port))
    });
    answer.addresses = addresses.collect();
    if answer.addresses.is_empty() {
        return Err(answer.failed.unwrap_or(DnsError::NoHost));
    }
    Ok(answer)
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

    /// What is told of hosts `a` to `c` of a service, by the last byte of their addresses.
    fn answer(told: [Result<Option<u8>, DnsError>; 3], known: &Hosts) -> Result<Answer, DnsError> {
        let hosts = ["a", "b", "c"].map(str::to_owned);
        let until = Instant::now() + LATEST;
        let records: Vec<(String, u16)> = hosts.clone().map(|host| (host, 8082)).into();
        let told = told.map(|told| told.map(|at| at.map(|at| ([10, 0, 0, at].into(), until))));
        let told = hosts.into_iter().zip(told).collect();
        together(&records, until, told, known)
    }

    fn late<T>() -> Result<T, DnsError> {
        Err(DnsError::Late(HOST_PATIENCE))
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_of_which_nothing_is_told_is_where_it_was_and_one_that_is_gone_is_not() {
        let at = |answer: &Answer| -> Vec<String> {
            let addresses = answer.addresses.iter();
            addresses.map(|it| it.to_string()).collect()
        };
        let nothing = answer([late(), late(), Ok(None)], &Hosts::new());
        let error = chain(&nothing.err().unwrap());
        assert!(error.contains("2 of its hosts are, such as b"), "{error}");
        assert!(matches!(
            answer([Ok(None), Ok(None), Ok(None)], &Hosts::new()),
            Err(DnsError::NoHost)
        ));

        let first = answer([Ok(Some(1)), Ok(Some(2)), late()], &Hosts::new()).unwrap();
        assert_eq!(at(&first), ["10.0.0.1:8082", "10.0.0.2:8082"]);
        assert!(first.failed.is_some());

        // One has moved, of one nothing is told, and one is there at last.
        let second = answer([Ok(Some(9)), late(), Ok(Some(3))], &first.hosts).unwrap();
        let expected = ["10.0.0.2:8082", "10.0.0.3:8082", "10.0.0.9:8082"];
        assert_eq!(at(&second), expected);

        let third = answer([late(), Ok(None), Ok(Some(3))], &second.hosts).unwrap();
        assert_eq!(at(&third), ["10.0.0.3:8082", "10.0.0.9:8082"]);
        let fourth = answer([Ok(Some(9)), Ok(Some(2)), Ok(Some(3))], &third.hosts).unwrap();
        assert_eq!(at(&fourth), expected);
        assert!(fourth.failed.is_none());
        assert_eq!(fourth.until, Instant::now() + LATEST);
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
