//! The security event log: one line of CEF for each request, whoever asked and whatever came
//! of it.
//!
//! In come requests, out go lines appended to a file by a thread of their own: no request waits
//! for a disk. Nothing in a request can end its line or forge a field of it, and no token is in
//! it. What the file did not take is counted.

use super::forwarded::Source;
use http::HeaderMap;
use http::request::Parts;
use metrics::{Counter, counter, describe_counter};
use proto::request::{Plus, unescape};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tracing::{error, info};
use transport::clock::unix_ns;

/// Lines that wait for the disk; a burst of as many connections as we take at once.
const WAITING: usize = 4_096;

/// How often the thread looks whether the file was moved away, as log rotation does.
const ROTATED: Duration = Duration::from_secs(1);

/// How long a stop waits for the last lines.
const FLUSH: Duration = Duration::from_secs(1);

/// The longest request id that is kept, in characters; gorouter's have 36.
const MAX_REQUEST_ID: usize = 64;

/// Parameters of a query that are shown. The value of any other may be a token.
const SHOWN: [&str; 5] = ["filter-type", "limit", "recent", "app", "CookieName"];

/// The log. Cloned, it is the same.
#[derive(Clone)]
pub struct SecurityLog {
    lines: SyncSender<Entry>,
    lost: Counter,
    ip: Option<IpAddr>,
}

enum Entry {
    Line(String),
    Flush(oneshot::Sender<()>),
}

/// Why there is no security event log.
#[derive(Debug, thiserror::Error)]
#[error("could not open the security event log {path} to append to it")]
pub struct SecurityLogError {
    path: PathBuf,
    source: io::Error,
}

impl SecurityLog {
    /// Opens the file at `path`; `ip` is this host as the lines name it.
    ///
    /// # Errors
    /// When the file cannot be opened: a log that is asked for and not there is worse than none.
    pub fn open(path: &Path, ip: Option<IpAddr>) -> Result<SecurityLog, SecurityLogError> {
        describe_counter!(
            "traffic_controller_security_events_lost_total",
            "Lines of the security event log that were not written"
        );
        let lost = counter!("traffic_controller_security_events_lost_total");
        let failed = |source| SecurityLogError {
            path: path.into(),
            source,
        };
        let file = append(path).map_err(failed)?;
        let (lines, waiting) = sync_channel(WAITING);
        let mut writer = Writer {
            path: path.into(),
            file,
            lost: lost.clone(),
            failing: false,
            torn: false,
            looked: Instant::now(),
        };
        // Ends with the last clone of `lines`.
        std::thread::Builder::new()
            .name("security-log".to_owned())
            .spawn(move || writer.run(&waiting))
            .map_err(failed)?;
        Ok(SecurityLog { lines, lost, ip })
    }

    /// Notes a request that came from there to here.
    pub(super) fn note(&self, head: &Parts, source: Source, local: SocketAddr) {
        let now = unix_ns() / 1_000_000;
        let here = self.ip.unwrap_or(local.ip()).to_canonical();
        let line = line(head, source, SocketAddr::new(here, local.port()), now);
        if self.lines.try_send(Entry::Line(line)).is_err() {
            self.lost.increment(1);
        }
    }

    /// Waits, not for long, until what was noted is written.
    pub async fn flush(&self) {
        let (written, all) = oneshot::channel();
        if self.lines.try_send(Entry::Flush(written)).is_ok() {
            // A disk that hangs must not hold up the stop.
            let _ = tokio::time::timeout(FLUSH, all).await;
        }
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    lost: Counter,
    failing: bool,
    /// The last line may have been cut off.
    torn: bool,
    looked: Instant,
}

impl Writer {
    fn run(&mut self, waiting: &Receiver<Entry>) {
        while let Ok(first) = waiting.recv() {
            let mut lines = String::new();
            let (mut count, mut flushed) = (0, Vec::new());
            for entry in std::iter::once(first).chain(waiting.try_iter().take(WAITING)) {
                match entry {
                    Entry::Line(line) => {
                        lines.push_str(&line);
                        count += 1;
                    }
                    Entry::Flush(written) => flushed.push(written),
                }
            }
            self.write(&lines, count);
            for written in flushed {
                // Whoever waited may have given up.
                let _ = written.send(());
            }
        }
    }

    fn write(&mut self, lines: &str, count: u64) {
        let written = self.follow().and_then(|()| {
            if self.torn {
                self.file.write_all(b"\n")?;
                self.torn = false;
            }
            self.file.write_all(lines.as_bytes())
        });
        let path = self.path.display();
        match written {
            Ok(()) if self.failing => {
                self.failing = false;
                info!(%path, "the security event log is written again");
            }
            Ok(()) => {}
            Err(source) => {
                self.torn = true;
                self.lost.increment(count);
                if !self.failing {
                    self.failing = true;
                    error!(%path, error = %source, "the security event log cannot be written");
                }
            }
        }
    }

    /// Opens the file anew if it is no longer where it was.
    fn follow(&mut self) -> io::Result<()> {
        if !self.failing && self.looked.elapsed() < ROTATED {
            return Ok(());
        }
        self.looked = Instant::now();
        let ours = self.file.metadata()?;
        let there = std::fs::metadata(&self.path);
        if !there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            self.file = append(&self.path)?;
            self.torn = false;
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// One line, its end included (spec of upstream's `auth/accesslog.go`, escaped as ArcSight's CEF
/// asks, which upstream does not).
fn line(head: &Parts, source: Source, here: SocketAddr, now: i64) -> String {
    let path = request(head);
    let (mut name, mut value) = (String::new(), String::new());
    escape(&mut name, path.as_bytes(), b"\\|");
    // A bar needs no backslash here, but for readers that take each `CEF:0|` for a beginning.
    escape(&mut value, path.as_bytes(), b"\\=|");
    // A method is a token (RFC 9110 §9.1), and a token may hold a bar.
    let (mut method, mut method_value) = (String::new(), String::new());
    escape(&mut method, head.method.as_str().as_bytes(), b"\\|");
    escape(&mut method_value, head.method.as_str().as_bytes(), b"\\=|");
    let id = request_id(&head.headers);
    let port = source.port.map(|port| port.to_string()).unwrap_or_default();
    let (source, here, at) = (source.ip, here.ip(), here.port());
    format!(
        "CEF:0|cloud_foundry|loggregator_trafficcontroller|1.0|{method} {name}|{method} {name}|0|\
         rt={now} cs1Label=userAuthenticationMechanism cs1=oauth-access-token \
         cs2Label=vcapRequestId cs2={id} request={value} requestMethod={method_value} \
         src={source} spt={port} dst={here} dpt={at}\n"
    )
}

/// A query without what may be a token.
pub(super) fn shown(query: &str) -> String {
    let shown = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if SHOWN.contains(&name) => pair,
        None if SHOWN.contains(&pair) || pair.is_empty() => pair,
        _ => "(masked)",
    });
    shown.collect::<Vec<_>>().join("&")
}

/// The decoded path, and the query as it may be shown.
fn request(head: &Parts) -> Cow<'_, str> {
    let path = head.uri.path();
    let path = match unescape(path, Plus::IsPlus) {
        Some(Cow::Owned(bytes)) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        _ => Cow::Borrowed(path),
    };
    let Some(query) = head.uri.query() else {
        return path;
    };
    Cow::Owned(format!("{path}?{}", shown(query)))
}

/// Only what a request id is made of.
fn request_id(headers: &HeaderMap) -> String {
    let id = headers.get("x-vcap-request-id").map(|id| id.as_bytes());
    let fits = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'-';
    let id = id.unwrap_or_default().iter().filter(fits);
    id.take(MAX_REQUEST_ID).copied().map(char::from).collect()
}

/// Appends `bytes` so that a line and its fields hold: a backslash before each of `special`, and
/// what is not printable ASCII as `%XX`. So is a space: what looks for ` src=` and knows nothing
/// of backslashes finds only ours.
fn escape(line: &mut String, bytes: &[u8], special: &[u8]) {
    for byte in bytes {
        match byte {
            byte if special.contains(byte) => {
                line.push('\\');
                line.push(char::from(*byte));
            }
            b'!'..=b'~' => line.push(char::from(*byte)),
            byte => {
                // Writing to a String does not fail.
                let _ = write!(line, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn source() -> Source {
        Source {
            ip: [192, 0, 2, 7].into(),
            port: Some(5555),
        }
    }

    fn logged_from(source: Source, request: Request<()>) -> String {
        let here = "10.1.2.3:8081".parse().unwrap();
        line(&request.into_parts().0, source, here, 1_700_000_000_123)
    }

    fn logged(request: Request<()>) -> String {
        logged_from(source(), request)
    }

    /// The value behind the first ` name=`, as the simplest reader finds it.
    fn field<'a>(line: &'a str, name: &str) -> &'a str {
        let (_, rest) = line.split_once(&format!(" {name}=")).unwrap();
        rest.split(' ').next().unwrap()
    }

    #[test]
    fn a_line_is_upstreams() {
        let request = Request::get("/firehose/a%20b?filter-type=logs")
            .header("x-vcap-request-id", "5b2a-77")
            .body(())
            .unwrap();
        assert_eq!(
            logged(request),
            "CEF:0|cloud_foundry|loggregator_trafficcontroller|1.0|\
             GET /firehose/a%20b?filter-type=logs|GET /firehose/a%20b?filter-type=logs|0|\
             rt=1700000000123 cs1Label=userAuthenticationMechanism cs1=oauth-access-token \
             cs2Label=vcapRequestId cs2=5b2a-77 request=/firehose/a%20b?filter-type\\=logs \
             requestMethod=GET src=192.0.2.7 spt=5555 dst=10.1.2.3 dpt=8081\n"
        );
        let forwarded = Source {
            port: None,
            ..source()
        };
        let line = logged_from(forwarded, Request::get("/x").body(()).unwrap());
        assert!(line.contains(" src=192.0.2.7 spt= dst="), "{line}");
    }

    #[test]
    fn no_path_header_or_method_forges_a_line_or_a_field() {
        for path in [
            "/firehose/%0aCEF:0%7Cforged%7C",
            "/firehose/%0d%0aCEF:0|x",
            "/x%20src=1.2.3.4%20dst=5.6.7.8",
            "/%5C%7C%5C=",
            "/%00%1b%7f%c2%85%e2%80%a8%ff",
            "/x?limit=1%0asrc=1.2.3.4|",
        ] {
            let request = Request::builder()
                .method("A|B")
                .uri(path)
                .header("x-vcap-request-id", "a src=9.9.9.9|=\\")
                .header("x-forwarded-for", "1.2.3.4 dst=7")
                .body(())
                .unwrap();
            let line = logged(request);
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(line.trim_end().bytes().all(|b| matches!(b, b' '..=b'~')));
            // The bars of the header that are not escaped: seven, as in every line.
            let (head, _) = line.split_once(" cs1Label").unwrap();
            let bars = head.replace("\\\\", "").replace("\\|", "");
            assert_eq!(bars.matches('|').count(), 7, "{line}");
            assert_eq!(field(&line, "src"), "192.0.2.7", "{line}");
            assert_eq!(field(&line, "dst"), "10.1.2.3", "{line}");
            assert_eq!(field(&line, "cs2"), "asrc9999", "{line}");
        }
    }

    #[test]
    fn no_token_of_a_query_is_in_a_line() {
        for (uri, shown) in [
            ("/x?access_token=hush", "/x?(masked)"),
            ("/x?hush", "/x?(masked)"),
            (
                "/x?a=hush&filter-type=logs",
                "/x?(masked)&filter-type\\=logs",
            ),
            ("/x?limit=5&%61ccess_token=hush", "/x?limit\\=5&(masked)"),
            (
                "/set-cookie?CookieName=n&CookieValue=hush",
                "/set-cookie?CookieName\\=n&(masked)",
            ),
            ("/firehose/x?", "/firehose/x?"),
        ] {
            let line = logged(Request::get(uri).body(()).unwrap());
            assert!(!line.contains("hush"), "{line}");
            assert_eq!(field(&line, "request"), shown);
        }
    }

    #[tokio::test]
    async fn lines_are_appended_and_follow_the_name_when_the_file_is_moved_away() {
        let directory = std::env::temp_dir().join(format!("security-log-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (path, moved) = (directory.join("events"), directory.join("events.1"));
        std::fs::write(&path, "before\n").unwrap();
        let (head, ()) = Request::get("/x").body(()).unwrap().into_parts();
        let here = "10.0.0.1:8081".parse().unwrap();
        let log = SecurityLog::open(&path, None).unwrap();
        log.note(&head, source(), here);
        log.flush().await;
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(written.starts_with("before\nCEF:0|") && written.lines().count() == 2);

        std::fs::rename(&path, &moved).unwrap();
        let looked = Instant::now();
        while !path.exists() {
            assert!(looked.elapsed() < Duration::from_secs(20), "not followed");
            log.note(&head, source(), here);
            log.flush().await;
        }
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(SecurityLog::open(&path, None).is_err());
    }
}
