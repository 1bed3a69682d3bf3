//! Whose page asks, if a page asks at all.
//!
//! A browser sends cookies, and reaches loopback, for any page; `Origin` says for which one
//! (RFC 6454). So it is looked at where the browser, and not who wrote the page, brings the
//! right to read: with a cookie, and where no right is needed. Nozzles and command-line tools
//! send an `Origin` too, with a header they made themselves: nobody looks at it then.

use http::HeaderMap;
use http::header::{HOST, ORIGIN};
use std::net::IpAddr;
use std::str::FromStr;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// No page that we can tell.
    Nobody,
    /// A page of ours.
    Ours,
    /// Any other page.
    Foreign,
}

/// Whose pages are ours.
#[derive(Debug, Default)]
pub struct Origins {
    system_domain: Option<String>,
    listed: Vec<Origin>,
    only_loopback: bool,
}

/// Where a page comes from, as its browser says: `scheme://host`, or with a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origins {
    /// Pages of this host, of the hosts of `system_domain`, and those `listed`.
    pub fn new(system_domain: Option<&str>, listed: &[Origin]) -> Origins {
        Origins {
            system_domain: system_domain.map(str::to_ascii_lowercase),
            listed: listed.to_vec(),
            only_loopback: false,
        }
    }

    /// For a listener on loopback that lets everybody in: this host counts only by a name of
    /// loopback, so that no foreign name that was made to lead here does.
    pub fn only_loopback(self) -> Origins {
        Origins {
            only_loopback: true,
            ..self
        }
    }

    /// Whose page sent these headers.
    pub(super) fn page(&self, headers: &HeaderMap) -> Page {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else {
            // A name that was made to lead to loopback after the page was loaded sends none, and
            // is its own origin to the browser.
            if self.only_loopback && !asked_by_loopback_name(headers) {
                return Page::Foreign;
            }
            // A page's image or link sends none; browsers say at least so much (Fetch Metadata).
            return match headers.get("sec-fetch-site").map(|site| site.as_bytes()) {
                Some(b"cross-site" | b"same-site") => Page::Foreign,
                _ => Page::Nobody,
            };
        };
        let origin = origin.to_str().ok().and_then(Origin::parse);
        match origin {
            Some(origin) if origins.next().is_none() && self.ours(&origin, headers) => Page::Ours,
            // `null` is a page that hides whose it is.
            _ => Page::Foreign,
        }
    }

    fn ours(&self, origin: &Origin, headers: &HeaderMap) -> bool {
        if self.listed.contains(origin) {
            return true;
        }
        let local = is_loopback(&origin.host);
        // Whoever sits between would speak for a page that came in plain text.
        if !local && !matches!(&origin.scheme[..], "https" | "wss") {
            return false;
        }
        let of_system = self.system_domain.as_ref().is_some_and(|domain| {
            let below = origin.host.strip_suffix(domain.as_str());
            below.is_some_and(|name| name.is_empty() || name.ends_with('.'))
        });
        of_system || ((local || !self.only_loopback) && origin.is_host(headers))
    }
}

impl Origin {
    /// `scheme://host` or `scheme://host:port`, and nothing else.
    fn parse(text: &str) -> Option<Origin> {
        let (scheme, authority) = text.split_once("://")?;
        if scheme.is_empty() {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = host_and_port(authority)?;
        let port = port.or(match &scheme[..] {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        });
        Some(Origin { scheme, host, port })
    }

    /// Whether it is the host that was asked.
    fn is_host(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let Some((host, port)) = host.and_then(host_and_port) else {
            return false;
        };
        let usual = match &self.scheme[..] {
            "http" | "ws" => Some(80),
            _ => Some(443),
        };
        self.host == host && self.port == port.or(usual)
    }
}

/// Why a text names no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an origin: write it as a browser does, such as https://logs.example.com:8443")]
pub struct NotAnOrigin;

impl FromStr for Origin {
    type Err = NotAnOrigin;

    fn from_str(text: &str) -> Result<Origin, NotAnOrigin> {
        Origin::parse(text).ok_or(NotAnOrigin)
    }
}

fn asked_by_loopback_name(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(host_and_port);
    // HTTP/1.0 may leave it out, and no browser speaks that.
    !headers.contains_key(HOST) || host.is_some_and(|(host, _)| is_loopback(&host))
}

fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        // A colon inside of brackets belongs to an IPv6 address.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok()?)),
        _ => (authority, None),
    };
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let fits = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')),
    };
    (fits && !host.is_empty()).then(|| (host.to_ascii_lowercase(), port))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|at: IpAddr| at.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(origins: &Origins, host: &str, origin: &str) -> Page {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        headers.insert(ORIGIN, origin.parse().unwrap());
        origins.page(&headers)
    }

    #[test]
    fn a_name_made_to_lead_to_loopback_is_foreign_though_it_names_no_origin() {
        let open = Origins::default().only_loopback();
        for (host, expected) in [
            ("rebound.example.com:4443", Page::Foreign),
            ("localhost:4443", Page::Nobody),
            ("127.0.0.1", Page::Nobody),
            ("[::1]:4443", Page::Nobody),
        ] {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            assert_eq!(open.page(&headers), expected, "{host}");
            assert_eq!(Origins::default().page(&headers), Page::Nobody, "{host}");
        }
    }

    #[test]
    fn ours_are_this_host_the_system_domain_and_the_list() {
        let listed = ["https://Ops.example.org".parse().unwrap()];
        let origins = Origins::new(Some("Sys.example.com"), &listed);
        for (origin, expected) in [
            ("https://console.sys.example.com", Page::Ours),
            ("https://console.sys.example.com:8443", Page::Ours),
            ("https://sys.example.com", Page::Ours),
            ("https://doppler.SYS.example.com", Page::Ours),
            ("https://host.test:4443", Page::Ours),
            ("wss://host.test:4443", Page::Ours),
            ("https://ops.example.org", Page::Ours),
            ("https://ops.example.org:443", Page::Ours),
            ("https://host.test", Page::Foreign),
            ("http://console.sys.example.com", Page::Foreign),
            ("http://host.test:4443", Page::Foreign),
            ("https://evilsys.example.com", Page::Foreign),
            ("https://doppler.sys.example.com.evil", Page::Foreign),
            ("https://sys.example.com@evil", Page::Foreign),
            ("https://evil/.sys.example.com", Page::Foreign),
            ("https://evil#.sys.example.com", Page::Foreign),
            ("https://evil?.sys.example.com", Page::Foreign),
            ("https://evil\\.sys.example.com", Page::Foreign),
            ("https://ops.example.org:444", Page::Foreign),
            ("https://", Page::Foreign),
            ("://sys.example.com", Page::Foreign),
            ("sys.example.com", Page::Foreign),
            ("null", Page::Foreign),
            ("", Page::Foreign),
        ] {
            assert_eq!(
                page(&origins, "host.test:4443", origin),
                expected,
                "{origin}"
            );
        }
        assert_eq!(
            page(&origins, "host.test", "https://host.test:443"),
            Page::Ours
        );
    }

    #[test]
    fn two_origins_are_foreign_and_none_is_nobodys_unless_the_browser_says_so() {
        let origins = Origins::new(Some("sys.example.com"), &[]);
        let mut headers = HeaderMap::new();
        assert_eq!(origins.page(&headers), Page::Nobody);
        for (site, expected) in [
            ("cross-site", Page::Foreign),
            // A tenant's app may well be on the same site.
            ("same-site", Page::Foreign),
            ("same-origin", Page::Nobody),
            ("none", Page::Nobody),
        ] {
            headers.insert("sec-fetch-site", site.parse().unwrap());
            assert_eq!(origins.page(&headers), expected, "{site}");
        }
        for _ in 0..2 {
            headers.append(ORIGIN, "https://a.sys.example.com".parse().unwrap());
        }
        assert_eq!(origins.page(&headers), Page::Foreign);
    }

    #[test]
    fn without_access_control_a_name_that_was_made_to_lead_here_is_foreign() {
        let origins = Origins::new(None, &[]).only_loopback();
        for (host, origin, expected) in [
            ("localhost:8081", "http://localhost:8081", Page::Ours),
            ("127.0.0.1:8081", "ws://127.0.0.1:8081", Page::Ours),
            ("[::1]:8081", "http://[::1]:8081", Page::Ours),
            ("localhost:8081", "http://localhost:3000", Page::Foreign),
            ("evil.test:8081", "http://evil.test:8081", Page::Foreign),
            ("evil.test:8081", "https://evil.test:8081", Page::Foreign),
            (
                "127.0.0.1.evil.test",
                "http://127.0.0.1.evil.test",
                Page::Foreign,
            ),
        ] {
            assert_eq!(page(&origins, host, origin), expected, "{origin}");
        }
    }
}
