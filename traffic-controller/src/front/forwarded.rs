//! Who asks, behind the proxies that are ours: the one answer for the log, the security event
//! log, operators and agents.
//!
//! In come the peer of a connection (whom a balancer's PROXY header named, if it had to send one)
//! and the headers of a request; out comes an address. `X-Forwarded-For` is a list to whose right
//! each hop adds whom it heard, so it is believed from the right, and only as far as a proxy of
//! ours wrote it: what a client itself wrote stands on the left.

use http::HeaderMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use transport::networks::Networks;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    /// The address.
    pub(super) ip: IpAddr,
    /// The port; a proxy does not tell.
    pub(super) port: Option<u16>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// The peer, or, if that is a proxy of ours, the last hop that is none.
pub(super) fn source(peer: SocketAddr, headers: &HeaderMap, trusted: &Networks) -> Source {
    let mut source = Source {
        ip: peer.ip().to_canonical(),
        port: Some(peer.port()),
    };
    if !trusted.contains(source.ip) {
        return source;
    }
    let lines = headers.get_all("x-forwarded-for").iter();
    let hops: Vec<&str> = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .collect();
    for hop in hops.iter().rev() {
        // Behind what is no address nothing can be believed.
        let Some(ip) = address(hop.trim()) else {
            break;
        };
        source = Source { ip, port: None };
        if !trusted.contains(ip) {
            break;
        }
    }
    source
}

/// An address of a hop, which may have a port.
fn address(hop: &str) -> Option<IpAddr> {
    let address = hop
        .parse()
        .or_else(|_| hop.parse().map(|at: SocketAddr| at.ip()));
    Some(address.ok()?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::networks::network;

    #[test]
    fn the_source_is_the_last_hop_that_is_not_ours() {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|text| network(text).unwrap());
        let trusted = trusted.into_iter().collect();
        for (peer, hops, expected) in [
            ("192.0.2.1:5", "1.2.3.4", "192.0.2.1:5"),
            ("10.0.0.1:5", "", "10.0.0.1:5"),
            ("10.0.0.1:5", "1.2.3.4", "1.2.3.4"),
            // A socket for both families.
            ("[::ffff:10.0.0.1]:5", "", "10.0.0.1:5"),
            ("[::ffff:10.0.0.1]:5", "1.2.3.4", "1.2.3.4"),
            ("[fd00::1]:5", "2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]:5", "1.2.3.4", "[2001:db8::1]:5"),
            // What the client itself wrote stands on the left.
            ("10.0.0.1:5", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
            ("10.0.0.1:5", "1.2.3.4, 10.0.0.2, fd00::1", "1.2.3.4"),
            ("10.0.0.1:5", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("10.0.0.1:5", "1.2.3.4, dst=5", "10.0.0.1:5"),
            (
                "10.0.0.1:5",
                "1.2.3.4, 10.0.0.2, fe80::1%eth0",
                "10.0.0.1:5",
            ),
            ("10.0.0.1:5", "1.2.3.4, nobody, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1:5", "1.2.3.4:80, [fd00::2]:443", "1.2.3.4"),
            ("10.0.0.1:5", "::ffff:1.2.3.4", "1.2.3.4"),
        ] {
            let mut headers = HeaderMap::new();
            if !hops.is_empty() {
                headers.insert("x-forwarded-for", hops.parse().unwrap());
            }
            let source = source(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(source.to_string(), expected, "{peer} {hops}");
        }
    }

    #[test]
    fn several_headers_are_one_list() {
        let trusted = [network("10.0.0.0/8").unwrap()].into_iter().collect();
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "6.6.6.6, 1.2.3.4".parse().unwrap());
        headers.append("x-forwarded-for", "10.0.0.2".parse().unwrap());
        let source = source("10.0.0.1:5".parse().unwrap(), &headers, &trusted);
        assert_eq!(source.to_string(), "1.2.3.4");
    }
}
