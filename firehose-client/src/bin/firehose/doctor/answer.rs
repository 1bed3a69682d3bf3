//! What came back, told by its first bytes: who speaks what there, and who gave the answer.
//!
//! Bytes come in, words go out. Nothing of it is believed: it is shown.

use std::borrow::Cow;

use http::HeaderMap;

/// Characters of a stranger's words that are shown.
const SHOWN: usize = 120;

/// What somebody said who was asked in HTTP/1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spoke {
    /// An answer.
    Http(Answer),
    /// A frame of HTTP/2 (RFC 9113 §4.1).
    Http2,
    /// A record of TLS (RFC 8446 §5.1).
    Tls,
    /// Something else; these are its first words.
    Other(String),
    /// Nothing, and hung up.
    HungUp,
    /// Nothing, as long as we waited.
    Silent,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Name and value, as they came.
    pub(super) headers: Vec<(String, String)>,
    /// As much of it as came.
    pub(super) body: String,
}

/// Who gave an answer, by what they have in the habit of writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    TrafficController,
    Gorouter,
    Haproxy,
    Nginx,
    Envoy,
    Aws,
    /// By its header `Server`.
    Named(String),
    Unknown,
}

impl Spoke {
    /// `ended`: whether there was nothing more to come.
    pub(super) fn of(bytes: &[u8], ended: bool) -> Spoke {
        if let Some(answer) = Answer::parse(bytes) {
            return Spoke::Http(answer);
        }
        match bytes {
            [] if ended => Spoke::HungUp,
            [] => Spoke::Silent,
            // Content types alert and handshake, version 3.x.
            [0x15 | 0x16, 0x03, ..] => Spoke::Tls,
            // SETTINGS or GOAWAY, on stream 0: what a server begins with.
            [0, _, _, 0x04 | 0x07, _, 0, 0, 0, 0, ..] => Spoke::Http2,
            _ => Spoke::Other(clean(&String::from_utf8_lossy(bytes)).into_owned()),
        }
    }
}

impl Answer {
    /// Reads an answer of HTTP/1: its head has to be whole.
    fn parse(bytes: &[u8]) -> Option<Answer> {
        let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?;
        let status = status.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(':'));
        Some(Answer {
            status,
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
            body: String::from_utf8_lossy(&bytes[end + 4..]).into_owned(),
        })
    }

    /// The same from who has read it already.
    pub(super) fn new(status: u16, headers: &HeaderMap, body: String) -> Answer {
        let value = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into();
        let headers = headers.iter();
        Answer {
            status,
            headers: headers
                .map(|(name, it)| (name.to_string(), value(it)))
                .collect(),
            body,
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        let found = all.find(|(it, _)| it.eq_ignore_ascii_case(name));
        found.map(|(_, value)| &**value)
    }

    /// A Traffic Controller's answers cannot be mistaken where it asks for a token, or for what a
    /// handshake lacks; what proxies add to them does not matter.
    pub(super) fn who(&self) -> Who {
        let server = self.header("server").unwrap_or_default();
        let begins = |name: &str| server.to_ascii_lowercase().starts_with(name);
        if self.asks_for_a_token() || self.misses_the_upgrade() {
            Who::TrafficController
        } else if self.header("x-cf-routererror").is_some() {
            Who::Gorouter
        } else if begins("nginx") || begins("openresty") {
            Who::Nginx
        } else if begins("envoy") || begins("istio-envoy") {
            Who::Envoy
        } else if begins("awselb") {
            Who::Aws
        } else if server.is_empty() && self.body.starts_with("<html><body><h1>") {
            Who::Haproxy
        } else if server.is_empty() {
            Who::Unknown
        } else {
            Who::Named(clean(server).into_owned())
        }
    }

    /// 401 in the words of a Traffic Controller, ours or the Go original.
    pub(super) fn asks_for_a_token(&self) -> bool {
        self.status == 401
            && (self.body.starts_with("You are not authorized.")
                || self.header("www-authenticate") == Some("Basic"))
    }

    /// What a Traffic Controller that would let us read answers to a request that is no handshake.
    pub(super) fn misses_the_upgrade(&self) -> bool {
        self.status == 400 && self.header("sec-websocket-version") == Some("13")
    }

    /// Status, and what else tells where it comes from, for people.
    pub(super) fn told(&self) -> String {
        let mut told = self.status.to_string();
        for name in ["server", "via", "x-cf-routererror", "location", "x-cache"] {
            if let Some(value) = self.header(name) {
                told = format!("{told}, {name}: {}", clean(value));
            }
        }
        match clean(&self.body) {
            body if body.is_empty() => told,
            body => format!("{told}, {body:?}"),
        }
    }
}

impl Who {
    pub(super) fn words(&self) -> &str {
        match self {
            Who::TrafficController => "a Traffic Controller",
            Who::Gorouter => "gorouter",
            Who::Haproxy => "HAProxy (by the look of it)",
            Who::Nginx => "nginx",
            Who::Envoy => "Envoy",
            Who::Aws => "a load balancer of AWS",
            Who::Named(name) => name,
            Who::Unknown => "somebody",
        }
    }
}

/// A stranger's words on one line, without anything that a terminal would obey, and not too many.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if !word.is_empty() && !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if let Some((end, _)) = line.char_indices().nth(SHOWN) {
        line.truncate(end);
        line.push('…');
    }
    match line == text {
        true => text.into(),
        false => line.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        match Spoke::of(text.as_bytes(), true) {
            Spoke::Http(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_spoken_is_told_by_the_first_bytes() {
        let settings = b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80";
        for (bytes, ended, spoke) in [
            (&b""[..], true, Spoke::HungUp),
            (b"", false, Spoke::Silent),
            (b"\x15\x03\x01\0\x02\x02\x46", true, Spoke::Tls),
            (settings, false, Spoke::Http2),
            (
                b"220 mail.example.com",
                false,
                Spoke::Other("220 mail.example.com".into()),
            ),
            (b"\x1b[2Jhi\r\n", false, Spoke::Other("[2Jhi".into())),
            (
                b"HTTP/1.1 200 OK\r\nA: b",
                true,
                Spoke::Other("HTTP/1.1 200 OK A: b".into()),
            ),
        ] {
            assert_eq!(Spoke::of(bytes, ended), spoke);
        }
    }

    #[test]
    fn a_traffic_controller_is_known_behind_whoever_adds_to_its_answer() {
        let asks = "HTTP/1.1 401 Unauthorized\r\nServer: nginx/1.22.1\r\nWww-Authenticate: Basic\r\n\
                    \r\nYou are not authorized. authorization not provided";
        assert_eq!(answer(asks).who(), Who::TrafficController);
        let misses =
            "HTTP/1.1 400 Bad Request\r\nserver: envoy\r\nsec-websocket-version: 13\r\n\r\n";
        assert_eq!(answer(misses).who(), Who::TrafficController);
        assert!(answer(misses).misses_the_upgrade());
    }

    #[test]
    fn others_are_known_by_their_habits() {
        for (head, who) in [
            (
                "404 Not Found\r\nX-Cf-Routererror: unknown_route",
                Who::Gorouter,
            ),
            ("502 Bad Gateway\r\nServer: nginx/1.22.1", Who::Nginx),
            ("403 Forbidden\r\nserver: envoy", Who::Envoy),
            ("503 Service Unavailable\r\nServer: awselb/2.0", Who::Aws),
            ("200 OK\r\nServer: Apache", Who::Named("Apache".into())),
            ("401 Unauthorized", Who::Unknown),
        ] {
            assert_eq!(answer(&format!("HTTP/1.1 {head}\r\n\r\n")).who(), who);
        }
        let haproxy = "HTTP/1.0 503 Service Unavailable\r\ncache-control: no-cache\r\n\r\n\
                       <html><body><h1>503 Service Unavailable</h1>";
        assert_eq!(answer(haproxy).who(), Who::Haproxy);
    }

    #[test]
    fn strangers_words_are_shown_on_one_line_and_not_obeyed() {
        let told = answer(&format!(
            "HTTP/1.1 503 No\r\nX-Cf-RouterError: no_endpoints\r\n\r\n\x1b[31m\n{}",
            "x".repeat(500)
        ));
        let told = told.told();
        assert!(
            told.starts_with("503, x-cf-routererror: no_endpoints, \"[31m xxx"),
            "{told}"
        );
        assert!(told.ends_with("…\"") && told.len() < 250, "{told}");
    }
}
