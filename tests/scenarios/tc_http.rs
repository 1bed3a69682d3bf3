//! The public door against what the Go Traffic Controller was recorded to answer, row by row of
//! `tests/conformance/tc-http.tsv`, with a UAA and a Cloud Controller that answer as then.
//!
//! Where we mean to answer otherwise, `docs/deviations.md` says so, and this reads that page: a
//! row that deviates without an entry fails, and so does an entry whose row agrees.

use harness::binaries;
use harness::certs::Certs;
use harness::cloud_controller::CloudController;
use harness::process::Process;
use harness::raw::{Frame, Raw, masked};
use harness::uaa::Uaa;
use harness::{Tls, authority};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

const ROWS: &str = include_str!("../conformance/tc-http.tsv");
const PAGE: &str = include_str!("../../docs/deviations.md");

/// The switch that restores upstream's answers.
const SWITCH: &str = "`TRAFFIC_CONTROLLER_UPSTREAM_ANSWERS`";

/// Groups of rows that a request and its answer show; the others are scenarios.
const DRIVEN: &str = "RFWACHTDUVS";

/// How long an end may take: 2 s for a head, and a busy machine.
const HUNG_UP: Duration = Duration::from_secs(8);

/// One recorded case.
#[derive(Debug, Clone)]
struct Row {
    id: &'static str,
    instance: &'static str,
    method: &'static str,
    path: &'static str,
    headers: &'static str,
    body: String,
    expected: Seen,
    calls: Vec<String>,
}

/// What came back for a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// 0 if there was no response.
    status: u16,
    /// `name: value`, names in lower case, sorted; a date is just there.
    headers: Vec<String>,
    body: String,
    /// Whether the connection went on.
    open: bool,
    /// Whether it was a WebSocket as it should be.
    stream: bool,
}

/// An entry of the page.
#[derive(Debug)]
struct Deviation {
    here: &'static str,
    switch: &'static str,
}

/// A Traffic Controller set up as a column `instance` says, and those it asks.
struct Instance {
    process: Process,
    address: SocketAddr,
    tls: Tls,
    uaa: Uaa,
    cloud_controller: CloudController,
    /// Calls whose answer it may still know.
    asked: HashSet<String>,
    /// Read after the ports are bound, and looked at again while it runs.
    _files: [Certs; 2],
}

fn rows() -> Vec<Row> {
    let rows = ROWS.lines().skip(1).map(|line| {
        let columns: Vec<&str> = line
            .split('\t')
            .chain(std::iter::repeat(""))
            .take(13)
            .collect();
        let [
            id,
            instance,
            _,
            method,
            path,
            headers,
            body,
            status,
            answered,
            exact,
            after,
            calls,
            then,
        ] = columns[..]
        else {
            unreachable!("13 were taken")
        };
        let mut expected_headers: Vec<String> = answered
            .split(" || ")
            .filter(|header| !header.is_empty())
            .map(|header| {
                let (name, value) = header.split_once(':').unwrap();
                normal(name, value)
            })
            .collect();
        expected_headers.sort();
        Row {
            id,
            instance,
            method,
            path,
            headers,
            body: whole(body),
            expected: Seen {
                status: status
                    .split(' ')
                    .nth(1)
                    .and_then(|s| s.parse().ok())
                    .unwrap_or(0),
                headers: expected_headers,
                body: exact.replace("\\n", "\n"),
                open: after == "kept open",
                stream: !then.is_empty(),
            },
            calls: calls
                .split(" | ")
                .filter(|call| !call.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    });
    rows.collect()
}

/// A body that the table shortens: `CookieName=n&CookieValue=vvv...(4096 bytes)`.
fn whole(body: &str) -> String {
    match body
        .strip_suffix(" bytes)")
        .and_then(|body| body.rsplit_once("...("))
    {
        Some((start, length)) => format!("{start:v<0$}", length.parse().unwrap()),
        None => body.to_owned(),
    }
}

fn normal(name: &str, value: &str) -> String {
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    match (&name[..], value) {
        ("date", _) => name,
        // The table shortens one long cookie, and says how long its whole line is.
        ("set-cookie", value) if value.contains("...(") || value.len() > 1_000 => {
            let length = match value
                .strip_suffix(" bytes)")
                .and_then(|v| v.rsplit_once("...("))
            {
                Some((_, length)) => length.parse().unwrap(),
                None => "Set-Cookie: ".len() + value.len(),
            };
            format!("{name}: {}… {length}", &value[..20])
        }
        _ => format!("{name}: {value}"),
    }
}

/// The entries of the page's first table, by row.
fn deviations() -> BTreeMap<&'static str, Deviation> {
    let mut deviations = BTreeMap::new();
    for [rows, here, _, switch] in table("| row | here | why | restored by |") {
        for row in rows.split(", ") {
            let entry = Deviation { here, switch };
            assert!(
                deviations.insert(row, entry).is_none(),
                "{row} is there twice"
            );
        }
    }
    deviations
}

/// The cells below a heading, up to the table's end.
fn table<const N: usize>(heading: &str) -> Vec<[&'static str; N]> {
    let mut lines = PAGE.lines().skip_while(|line| *line != heading);
    assert_eq!(
        lines.next(),
        Some(heading),
        "docs/deviations.md has lost a table"
    );
    let cells = lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            cells
                .try_into()
                .unwrap_or_else(|_| panic!("not {N} cells: {line}"))
        });
    cells.collect()
}

impl Instance {
    async fn start(name: &str, upstream_answers: bool) -> Instance {
        let (certs, others) = (Certs::new(), Certs::new());
        let (uaa, cloud_controller) = (
            Uaa::start(&certs).await,
            CloudController::start(&certs).await,
        );
        let mut args = vec!["--disable-access-control".to_owned()];
        if !name.starts_with("disable_access_control") {
            args = [uaa.flags(&certs), cloud_controller.flags(&certs)].concat();
        }
        let set = |args: &mut Vec<String>, flag: &str, value: String| {
            let at = args.iter().position(|arg| arg == flag).unwrap();
            args[at + 1] = value;
        };
        match name {
            "std" | "disable_access_control=true" => {}
            "UAA+CC at 127.0.0.1:1 (refused)" => {
                set(&mut args, "--uaa-host", "https://127.0.0.1:1".to_owned());
                set(&mut args, "--api-host", "https://127.0.0.1:1".to_owned());
            }
            "UAA/CC certs not signed by configured CA, skip_cert_verify=false"
            | "same bad CA but skip_cert_verify=true" => {
                let other = others.ca().display().to_string();
                set(&mut args, "--uaa-ca-cert", other.clone());
                set(&mut args, "--cc-ca-file", other);
                if name.ends_with("=true") {
                    args.push("--skip-cert-verify".to_owned());
                }
            }
            other => panic!("no such instance: {other}"),
        }
        if upstream_answers {
            args.push("--upstream-answers".to_owned());
        }
        let pair = certs.pair("localhost");
        let own = [
            ("--address", "127.0.0.1".to_owned()),
            ("--port", "0".to_owned()),
            ("--admin-port", "0".to_owned()),
            ("--system-domain", "sys.example.com".to_owned()),
            ("--outgoing-cert-file", pair.cert.display().to_string()),
            ("--outgoing-key-file", pair.key.display().to_string()),
        ];
        args.extend(
            own.into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value]),
        );
        let mut process = Process::start(name, &binaries::traffic_controller(), args);
        Instance {
            address: process.bound("ws bound to: ").await,
            process,
            tls: Tls {
                config: certs.client(None, &["http/1.1"]),
                name: "localhost",
            },
            uaa,
            cloud_controller,
            asked: HashSet::new(),
            _files: [certs, others],
        }
    }

    /// Asks what the row asks.
    async fn ask(&self, row: &Row) -> Seen {
        // H01 is said in plain text.
        let tls = (row.id != "H01").then_some(&self.tls);
        let mut raw = Raw::connect(self.address, tls).await;
        raw.send(&request(row)).await;
        let Some(response) = raw.answer(row.method.starts_with("HEAD")).await else {
            return Seen::default();
        };
        let headers = response.headers.iter();
        let mut headers: Vec<String> = headers.map(|(name, value)| normal(name, value)).collect();
        headers.sort();
        let mut seen = Seen {
            status: response.status,
            headers,
            body: response.body,
            ..Seen::default()
        };
        if seen.status == 101 {
            seen.stream = is_stream(&mut raw).await;
        } else if row.expected.open {
            raw.send(b"GET /nope HTTP/1.1\r\nHost: h\r\n\r\n").await;
            seen.open = raw
                .answer(false)
                .await
                .is_some_and(|next| next.status == 404);
        } else {
            // One that goes on also ends, after 2 s without a request.
            let last = seen.headers.contains(&"connection: close".to_owned());
            seen.open = !last && !row.id.starts_with('H');
            raw.hung_up(HUNG_UP).await;
        }
        if row.id.starts_with('H') || row.id == "R23" {
            // Of what the HTTP layer says itself the status counts: the words are Go's.
            seen.headers.clone_from(&row.expected.headers);
            seen.body.clone_from(&row.expected.body);
        }
        seen
    }

    /// What the authorities were asked since this was called last. A call that the table has
    /// and that was made before counts as made: its answer is kept for a few seconds.
    fn calls(&mut self, expected: &[String]) -> Vec<String> {
        let calls = [self.uaa.calls(), self.cloud_controller.calls()].concat();
        let mut calls: Vec<String> = calls.iter().map(authority::Call::to_string).collect();
        if calls.is_empty() && expected.iter().all(|call| self.asked.contains(call)) {
            calls = expected.to_vec();
        }
        self.asked.extend(calls.iter().cloned());
        calls
    }
}

/// The bytes of a row's request.
fn request(row: &Row) -> Vec<u8> {
    if row.method == "(raw)" {
        return match row.path {
            "(no bytes sent)" => Vec::new(),
            path => unescaped(path),
        };
    }
    let (method, version) = match row.method.split_once(" (") {
        Some((method, version)) => (method, version.trim_end_matches(')')),
        None => (row.method, "HTTP/1.1"),
    };
    let mut request = format!("{method} {} {version}\r\n", row.path);
    if row.id != "H02" {
        request.push_str("Host: doppler.sys.example.com\r\n");
    }
    for header in row
        .headers
        .split(" || ")
        .filter(|header| !header.is_empty())
    {
        write!(request, "{header}\r\n").unwrap();
    }
    if !row.body.is_empty() {
        write!(request, "Content-Length: {}\r\n", row.body.len()).unwrap();
    }
    [request.as_bytes(), b"\r\n", row.body.as_bytes()].concat()
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let (byte, length) = match &escape[..1] {
            "r" => (b'\r', 1),
            "n" => (b'\n', 1),
            _ => (u8::from_str_radix(&escape[1..3], 16).unwrap(), 3),
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// Whether a WebSocket begins with a ping and answers a Close with its code and the end.
async fn is_stream(raw: &mut Raw) -> bool {
    let frame = |first, payload: &[u8]| {
        Some(Frame {
            first,
            payload: payload.to_vec(),
        })
    };
    let first = raw.frame().await;
    raw.send(&masked(0x88, &1000u16.to_be_bytes())).await;
    let close = raw.frame().await;
    first == frame(0x89, b"") && close == frame(0x88, &[0x03, 0xE8]) && raw.frame().await.is_none()
}

/// Plays every row that is driven, and holds the page against it.
async fn play(upstream_answers: bool) {
    let page = deviations();
    let mut instances: BTreeMap<&str, Instance> = BTreeMap::new();
    let mut wrong = String::new();
    for row in rows() {
        if !DRIVEN.contains(&row.id[..1]) {
            continue;
        }
        if !instances.contains_key(row.instance) {
            let instance = Instance::start(row.instance, upstream_answers).await;
            instances.insert(row.instance, instance);
        }
        let instance = instances.get_mut(row.instance).unwrap();
        let seen = instance.ask(&row).await;
        let calls = instance.calls(&row.calls);
        let agrees = seen == row.expected && calls == row.calls;
        let entry = page
            .get(row.id)
            .filter(|entry| !upstream_answers || entry.switch != SWITCH);
        let fits = match entry {
            None => agrees,
            Some(entry) => !agrees && here(entry.here, upstream_answers) == seen.status,
        };
        if !fits {
            let Row { id, expected, .. } = &row;
            let entry = entry.map(|entry| entry.here);
            writeln!(
                wrong,
                "{id}, on the page {entry:?}:\n  expected {expected:?} {:?}\n  seen     {seen:?} {calls:?}",
                row.calls
            )
            .unwrap();
        }
    }
    for instance in instances.values_mut() {
        assert_eq!(instance.process.exited(), None);
    }
    assert!(
        wrong.is_empty(),
        "rows and docs/deviations.md differ:\n{wrong}"
    );
}

/// The status that an entry begins with, 0 for a connection that is closed without one; with
/// the switch on it may be another: `503; 401 with the switch`.
fn here(cell: &str, upstream_answers: bool) -> u16 {
    let switched = cell
        .split_once("; ")
        .filter(|(_, rest)| rest.ends_with(" with the switch"));
    let cell = match switched {
        Some((_, switched)) if upstream_answers => switched,
        _ => cell,
    };
    cell.split([' ', ';']).next().unwrap().parse().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_request_is_answered_as_upstream_does_or_the_page_says_how() {
    play(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_upstream_answers_the_rows_that_name_the_switch_agree() {
    play(true).await;
}

#[test]
fn every_row_that_is_a_scenario_names_the_test_that_shows_it() {
    let sources = [
        include_str!("../../transport/tests/websocket.rs"),
        include_str!("../../transport/tests/tls.rs"),
        include_str!("../../transport/tests/listener.rs"),
        include_str!("../../transport/src/websocket/pulse.rs"),
        include_str!("../../proto/tests/conformance.rs"),
        include_str!("../../traffic-controller/src/front/connection.rs"),
        include_str!("bad_input/frames.rs"),
        include_str!("edge.rs"),
        include_str!("groups.rs"),
        include_str!("life.rs"),
        include_str!("openssl.rs"),
        include_str!("overdriven.rs"),
        include_str!("pipeline.rs"),
        include_str!("recent.rs"),
        include_str!("slow.rs"),
    ];
    let mut shown = HashSet::new();
    for [rows, _, test] in table("| row | here | shown by |") {
        shown.extend(rows.split(", "));
        let name = test.trim_matches('`');
        assert!(
            name == "–"
                || sources
                    .iter()
                    .any(|source| source.contains(&format!("fn {name}("))),
            "{rows}: there is no test {name}"
        );
    }
    let rows: HashSet<&str> = rows().iter().map(|row| row.id).collect();
    let driven = |id: &&str| DRIVEN.contains(&id[..1]);
    let scenarios: HashSet<&str> = rows.iter().copied().filter(|id| !driven(id)).collect();
    assert_eq!(shown, scenarios);
    for id in deviations().keys() {
        assert!(rows.contains(id), "there is no row {id}");
    }
}
