//! Where Loggregator is: a URL comes in, what to dial goes out.

use std::fmt;
use std::net::IpAddr;

use http::Uri;

/// A Traffic Controller, or the balancer before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) tls: bool,
    /// As a certificate would name it: no brackets around an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// What is wrong with a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadEndpoint {
    #[error("it is not a URL: write wss://HOST or wss://HOST:PORT")]
    NotAUrl,
    #[error("it has no scheme: write wss://HOST or wss://HOST:PORT")]
    NoScheme,
    #[error("its scheme is none of wss, https, ws and http")]
    Scheme,
    #[error("its port is not a number from 1 to 65535")]
    Port,
    #[error("it has a user or password: the token is given apart from it")]
    User,
    #[error("it has a path or query: give scheme, host and port alone")]
    Path,
}

impl Endpoint {
    /// Reads a URL; `wss` and `https` are the same, and so are `ws` and `http`.
    pub(crate) fn parse(url: &str) -> Result<Endpoint, BadEndpoint> {
        let url = url.trim();
        if !url.contains("://") {
            return Err(BadEndpoint::NoScheme);
        }
        let uri: Uri = url.parse().map_err(|_| BadEndpoint::NotAUrl)?;
        let tls = match uri.scheme_str() {
            Some("wss" | "https") => true,
            Some("ws" | "http") => false,
            _ => return Err(BadEndpoint::Scheme),
        };
        let authority = uri.authority().ok_or(BadEndpoint::NotAUrl)?;
        if authority.as_str().contains('@') {
            return Err(BadEndpoint::User);
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(BadEndpoint::Path);
        }
        let bracketed = authority.host();
        let port = match authority.as_str()[bracketed.len()..].strip_prefix(':') {
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => port
                .parse()
                .ok()
                .filter(|&port| port > 0)
                .ok_or(BadEndpoint::Port)?,
        };
        let host = bracketed.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(BadEndpoint::NotAUrl);
        }
        Ok(Endpoint {
            tls,
            host: host.to_owned(),
            port,
        })
    }

    /// Whether what is sent there stays on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// `host:port`, to dial and for the `Host` header.
    pub(crate) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// By name or number; no name is looked up.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(url: &str) -> Result<String, BadEndpoint> {
        Endpoint::parse(url).map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn four_schemes_are_two_and_have_their_usual_ports() {
        for (url, expected) in [
            ("wss://doppler.example.com", "wss://doppler.example.com:443"),
            (
                "https://doppler.example.com/",
                "wss://doppler.example.com:443",
            ),
            (
                "wss://doppler.example.com:4443",
                "wss://doppler.example.com:4443",
            ),
            ("ws://localhost", "ws://localhost:80"),
            ("http://127.0.0.1:8081/\n", "ws://127.0.0.1:8081"),
            ("wss://[::1]:4443", "wss://[::1]:4443"),
        ] {
            assert_eq!(printed(url).as_deref(), Ok(expected), "{url}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_dialled_says_what_is_wrong_with_it() {
        for (url, error) in [
            ("doppler.example.com:4443", BadEndpoint::NoScheme),
            ("", BadEndpoint::NoScheme),
            ("wss://", BadEndpoint::NotAUrl),
            ("wss://a b", BadEndpoint::NotAUrl),
            ("wss://:443", BadEndpoint::NotAUrl),
            ("grpc://doppler.example.com", BadEndpoint::Scheme),
            ("wss://doppler.example.com:0", BadEndpoint::Port),
            ("wss://doppler.example.com:99999", BadEndpoint::Port),
            ("wss://me:secret@doppler.example.com", BadEndpoint::User),
            ("wss://doppler.example.com/firehose/x", BadEndpoint::Path),
            (
                "wss://doppler.example.com?filter-type=logs",
                BadEndpoint::Path,
            ),
        ] {
            assert_eq!(printed(url), Err(error), "{url}");
        }
    }

    #[test]
    fn loopback_is_told_by_name_or_number() {
        for host in [
            "ws://localhost",
            "ws://127.1.2.3",
            "ws://[::1]",
            "ws://[::ffff:127.0.0.1]",
        ] {
            assert!(Endpoint::parse(host).unwrap().is_loopback(), "{host}");
        }
        for host in [
            "ws://localhost.example.com",
            "ws://10.0.0.1",
            "ws://0.0.0.0",
            "ws://[::]",
        ] {
            assert!(!Endpoint::parse(host).unwrap().is_loopback(), "{host}");
        }
    }
}
