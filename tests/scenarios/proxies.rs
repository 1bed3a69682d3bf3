//! A Traffic Controller behind balancers: who may come in plain text, whom a PROXY header names,
//! and that nobody is sent to a door that closes.

use crate::SOON;
use harness::admin::{self, get};
use harness::binaries;
use harness::certs::Certs;
use harness::cluster::{Builder, Cluster, free_port};
use harness::eventually;
use harness::process::{Process, Signal};
use harness::raw::handshake;
use proxy_header::{ProxiedAddress, ProxyHeader, Tlv};
use rustls_pki_types::ServerName;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

const TOKEN: &str = "hush";

/// On loopback everybody has many addresses.
const BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// A line of HTTP that asks for nothing there is.
const NOTHING: &str = "GET /nope HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// What a Traffic Controller counts of those it did not let in.
const REFUSED: &str = "traffic_controller_refused_connections_total";

fn tokens() -> String {
    format!("- {{token: {TOKEN}, firehose: true, apps: all}}\n")
}

fn firehose(id: &str, lines: &[&str]) -> String {
    let token = format!("Authorization: bearer {TOKEN}");
    handshake(&format!("/firehose/{id}"), &[&[&*token], lines].concat())
}

/// A connection from that address of this machine.
async fn connect(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let tcp = socket.connect(to).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

/// A socket that has something to say before the first bytes that are written to it, in the same
/// write.
struct Before(Vec<u8>, TcpStream);

impl AsyncRead for Before {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().1).poll_read(cx, into)
    }
}

impl AsyncWrite for Before {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Before(first, tcp) = self.get_mut();
        let all = [first, bytes].concat();
        let written = std::task::ready!(Pin::new(tcp).poll_write(cx, &all))?;
        assert_eq!(written, all.len(), "the kernel has room for a segment");
        first.clear();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().1).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().1).poll_shutdown(cx)
    }
}

/// Sends a request and returns the answer's status, if one comes; the connection stays open.
async fn status<S>(stream: &mut S, request: &str) -> Option<u16>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(request.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

/// The same over TLS, behind `before`; `None` too if there is no TLS.
async fn status_over_tls(
    tcp: TcpStream,
    before: &[u8],
    certs: &Certs,
    request: &str,
) -> (Option<u16>, Option<tokio_rustls::client::TlsStream<Before>>) {
    let connector = TlsConnector::from(certs.client(None, &["http/1.1"]));
    let name = ServerName::try_from("localhost").unwrap();
    let connected = connector.connect(name, Before(before.to_vec(), tcp)).await;
    match connected {
        Ok(mut stream) => (status(&mut stream, request).await, Some(stream)),
        Err(_) => (None, None),
    }
}

/// A header of version 1 for a client, as a library writes it.
fn line(client: &str) -> Vec<u8> {
    let mut line = [0; 256];
    let length = named(client).encode_to_slice_v1(&mut line).unwrap();
    line[..length].to_vec()
}

/// The same of version 2, with what balancers add.
fn block(client: &str) -> Vec<u8> {
    let mut header = named(client);
    header.append_tlv(Tlv::UniqueId(b"some-id"[..].into()));
    header.append_tlv(Tlv::Authority("doppler.sys.example.com".into()));
    let mut block = [0; 1_024];
    let length = header.encode_to_slice_v2(&mut block).unwrap();
    block[..length].to_vec()
}

fn named(client: &str) -> ProxyHeader<'static> {
    let client: SocketAddr = client.parse().unwrap();
    let to = match client {
        SocketAddr::V4(_) => "192.0.2.1:443",
        SocketAddr::V6(_) => "[2001:db8::1]:443",
    };
    ProxyHeader::with_address(ProxiedAddress::stream(client, to.parse().unwrap()))
}

/// What the balancer says of itself, when it looks whether we are well.
fn local() -> Vec<u8> {
    let mut block = [0; 64];
    let header = ProxyHeader::with_local();
    let length = header.encode_to_slice_v2(&mut block).unwrap();
    block[..length].to_vec()
}

/// How many connections were refused for that reason.
async fn refused(admin: SocketAddr, reason: &str) -> usize {
    let metrics = admin::metrics(admin).await;
    metrics.sum(REFUSED, &[("reason", reason)]) as usize
}

/// Waits until so many were: a client hears of it a little earlier.
async fn refuses(admin: SocketAddr, count: usize, reason: &str) {
    let what = format!("{count} are refused for {reason}");
    eventually(SOON, &what, async || refused(admin, reason).await == count).await;
}

/// Waits until a process has logged that.
async fn logs(process: &Process, text: &str) {
    eventually(SOON, text, async || process.logged(text)).await;
}

/// Whose stream that firehose is, as operators see it.
async fn client_of(admin: SocketAddr, id: &str) -> Option<String> {
    let page = admin::subscriptions(admin).await;
    let mut all = page.subscriptions.into_iter();
    all.find(|open| open.firehose.as_deref() == Some(id))?
        .client
}

/// `src` and `spt` of the security event log's lines that have that path.
fn sources(log: &Path, path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let of = text.lines().filter(|line| line.contains(path));
    let field = |line: &str| {
        Some(
            line.split_once(" src=")?
                .1
                .split_once(" dst=")?
                .0
                .to_owned(),
        )
    };
    of.filter_map(field).collect()
}

/// A Traffic Controller with these settings: where clients come in, and its admin listener.
async fn start(args: &[&str]) -> (Process, Vec<SocketAddr>, SocketAddr) {
    let program = binaries::traffic_controller();
    let args = [&["--admin-port=0"], args].concat();
    let mut process = Process::start("traffic-controller", &program, args);
    // The last thing it says.
    let admin = process.bound("pprof bound to: ").await;
    let lines = process.log();
    let bound = lines
        .iter()
        .filter_map(|line| line.strip_prefix("ws bound to: "));
    let bound = bound.map(|address| address.parse().unwrap()).collect();
    (process, bound, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ports_lead_to_the_same_traffic_controller() {
    let (_process, bound, admin) = start(&["--port=0", "--logger-endpoint-port=0"]).await;
    assert_eq!(bound.len(), 2);
    let mut streams = Vec::new();
    for (address, id) in bound.into_iter().zip(["first", "second"]) {
        let mut tcp = connect(STRANGER, address).await;
        let request = handshake(&format!("/firehose/{id}"), &[]);
        assert_eq!(status(&mut tcp, &request).await, Some(101));
        streams.push(tcp);
    }
    for id in ["first", "second"] {
        eventually(SOON, id, async || {
            let page = admin::subscriptions(admin).await;
            page.firehose(id, "everything").1 == 1
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_tls_plain_text_is_taken_from_named_balancers_and_nobody_else() {
    let cluster = Cluster::builder()
        .controllers(1)
        .mtls()
        .tokens(tokens())
        .controller_flag("--plain-from", BALANCER)
        .start()
        .await;
    let (controller, certs) = (&cluster.controllers[0], cluster.certs().unwrap());
    let request = firehose("n", &[]);
    let mut plain = connect(BALANCER, controller.address).await;
    assert_eq!(status(&mut plain, &request).await, Some(101));
    for from in [BALANCER, STRANGER] {
        let tcp = connect(from, controller.address).await;
        let (over_tls, _) = status_over_tls(tcp, &[], certs, &request).await;
        assert_eq!(over_tls, Some(101), "from {from}");
    }
    const KNOCKS: usize = 50;
    let begun = Instant::now();
    for _ in 0..KNOCKS {
        let mut tcp = connect(STRANGER, controller.address).await;
        assert_eq!(status(&mut tcp, &request).await, None);
    }
    refuses(controller.admin, KNOCKS, "plain_text").await;
    // One line a second, and it says what to do.
    logs(&controller.process, "plain text is not").await;
    let seconds = begun.elapsed().as_secs() as usize + 1;
    let log = controller.process.log();
    let lines = log.iter().filter(|line| line.contains("plain text is not"));
    let lines: Vec<_> = lines.collect();
    assert!((1..=seconds).contains(&lines.len()), "{lines:?}");
    let line = lines[0];
    assert!(line.contains(&STRANGER.to_string()), "{line}");
    assert!(line.contains("WARN"), "{line}");
    assert!(line.contains("TRAFFIC_CONTROLLER_PLAIN_FROM"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_a_listener_for_named_balancers_serves_them_alone() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("tokens.yml");
    std::fs::write(&path, tokens()).unwrap();
    let tokens = format!("--tokens-file={}", path.display());
    let from = format!("--plain-from={BALANCER}");
    let (_process, bound, admin) = start(&["--port=0", &tokens, &from]).await;
    // They come from elsewhere, so it listens everywhere.
    assert!(bound[0].ip().is_unspecified(), "{bound:?}");
    let address = SocketAddr::from(([127, 0, 0, 1], bound[0].port()));
    let request = firehose("n", &[]);
    let mut tcp = connect(BALANCER, address).await;
    assert_eq!(status(&mut tcp, &request).await, Some(101));
    // As Go has it, although the socket is one for both families.
    let client = client_of(admin, "n").await;
    assert_eq!(client, Some(tcp.local_addr().unwrap().to_string()));
    let mut tcp = connect(STRANGER, address).await;
    assert_eq!(status(&mut tcp, &request).await, None);
    refuses(admin, 1, "plain_text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_beyond_loopback_without_a_named_balancer_is_a_reason_not_to_start() {
    let program = binaries::traffic_controller();
    let args = ["--address=::", "--port=0", "--admin-port=0"];
    let mut process = Process::start("should not start", &program, args);
    assert_eq!(process.exit_code(SOON).await, 2);
    for told in ["plain text on [::]:0", "TRAFFIC_CONTROLLER_PLAIN_FROM"] {
        assert!(process.logged(told), "{told}: {:?}", process.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_whom_a_balancers_header_names_however_it_arrives() {
    let files = tempfile::tempdir().unwrap();
    let log = files.path().join("security_events.log");
    let cluster = Cluster::builder()
        .controllers(1)
        .mtls()
        .tokens(tokens())
        .controller_flag("--plain-from", BALANCER)
        .controller_flag("--proxy-protocol-from", BALANCER)
        .controller_flag("--security-event-log", log.display())
        .start()
        .await;
    let (controller, certs) = (&cluster.controllers[0], cluster.certs().unwrap());
    let mut ids = 0;
    let mut open = Vec::new();
    for client in ["192.0.2.7:56324", "[2001:db8::7]:443"] {
        for (header, name) in [(line(client), "v1"), (block(client), "v2")] {
            for tls in [false, true] {
                for bytewise in [false, true] {
                    ids += 1;
                    let what = format!("{name} of {client}, tls: {tls}, bytewise: {bytewise}");
                    let (id, mut tcp) = (
                        format!("id-{ids}-"),
                        connect(BALANCER, controller.address).await,
                    );
                    let mut before = header.clone();
                    if bytewise {
                        for byte in before.drain(..) {
                            tcp.write_u8(byte).await.unwrap();
                            tokio::task::yield_now().await;
                        }
                    }
                    let request = firehose(&id, &[]);
                    let told = match tls {
                        false => {
                            let mut stream = Before(before, tcp);
                            let told = status(&mut stream, &request).await;
                            open.push((Some(stream), None));
                            told
                        }
                        true => {
                            let (told, stream) =
                                status_over_tls(tcp, &before, certs, &request).await;
                            open.push((None, stream));
                            told
                        }
                    };
                    assert_eq!(told, Some(101), "{what}");
                    let shown = client_of(controller.admin, &id).await;
                    assert_eq!(shown.as_deref(), Some(client), "{what}");
                    let (ip, port) = client.rsplit_once(':').unwrap();
                    let src = format!("{} spt={port}", ip.trim_matches(['[', ']']));
                    eventually(SOON, &what, async || sources(&log, &id) == [&*src]).await;
                }
            }
        }
    }
    // Who speaks for itself, or does not know, is the client.
    for header in [local(), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut stream = Before(header, connect(BALANCER, controller.address).await);
        assert_eq!(status(&mut stream, &firehose("own", &[])).await, Some(101));
        let shown = client_of(controller.admin, "own").await;
        assert_eq!(shown, Some(stream.1.local_addr().unwrap().to_string()));
        drop(stream);
        let gone = async || client_of(controller.admin, "own").await.is_none();
        eventually(SOON, "it is gone", gone).await;
    }
    assert_eq!(refused(controller.admin, "proxy_header").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_without_a_good_header_is_closed_and_said_once_a_second() {
    let cluster = Cluster::builder()
        .controllers(1)
        .controller_flag("--proxy-protocol-from", BALANCER)
        .start()
        .await;
    let controller = &cluster.controllers[0];
    let too_long = [&local()[..14], &[0xFF, 0xFF]].concat();
    let mut cut = block("192.0.2.7:56324");
    cut.truncate(20);
    let begun = Instant::now();
    let bad: [&[u8]; 8] = [
        NOTHING.as_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n\r\n",
        b"PROXY TCP4 secret-of-somebody 10.0.0.1 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
        &too_long,
        &cut,
        &[b'P'; 200],
    ];
    for (n, bytes) in bad.iter().enumerate() {
        let mut tcp = connect(BALANCER, controller.address).await;
        tcp.write_all(bytes).await.unwrap();
        if *bytes == cut {
            tcp.shutdown().await.unwrap();
        }
        let mut told = Vec::new();
        // What was not read makes a reset of the end.
        let _: io::Result<usize> = tcp.read_to_end(&mut told).await;
        assert_eq!(told, b"", "{n}");
    }
    // At once: nobody waited for the time to pass.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    refuses(controller.admin, bad.len(), "proxy_header").await;
    logs(&controller.process, "PROXY header").await;
    let log = controller.process.log();
    let lines = log.iter().filter(|line| line.contains("PROXY header"));
    let lines: Vec<_> = lines.collect();
    assert!((1..=3).contains(&lines.len()), "{lines:?}");
    assert!(lines[0].contains("have it send them"), "{lines:?}");
    assert!(!log.join("\n").contains("secret-of-somebody"));
    // Who only looks whether somebody listens, as balancers do, is nothing to speak of.
    drop(connect(BALANCER, controller.address).await);
    refuses(controller.admin, 1, "left").await;
    // One that says nothing, or a byte now and then, has 2 s.
    for slowly in [false, true] {
        let mut tcp = connect(BALANCER, controller.address).await;
        let begun = Instant::now();
        let header = line("192.0.2.7:56324");
        let mut bytes = header.iter();
        let mut interval = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                read = tcp.read_u8() => {
                    assert!(read.is_err());
                    break;
                }
                _ = interval.tick(), if slowly => {
                    // It may be closed already.
                    let _ = tcp.write_u8(*bytes.next().unwrap()).await;
                }
            }
        }
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(1_500), "{took:?}");
        assert!(took < Duration::from_secs(6), "{took:?}");
    }
    refuses(controller.admin, 2, "slow").await;
    // And a good one is served.
    let good = connect(BALANCER, controller.address).await;
    let mut stream = Before(block("192.0.2.7:56324"), good);
    assert_eq!(status(&mut stream, NOTHING).await, Some(404));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_from_elsewhere_is_not_read() {
    let files = tempfile::tempdir().unwrap();
    let log = files.path().join("security_events.log");
    let start = |builder: Builder| {
        let builder = builder
            .controllers(1)
            .tokens(tokens())
            .controller_flag("--proxy-protocol-from", BALANCER)
            .controller_flag("--security-event-log", log.display());
        builder.start()
    };
    let plain = start(Cluster::builder()).await;
    let over_tls = start(Cluster::builder().mtls()).await;
    for header in [line("192.0.2.7:56324"), block("192.0.2.7:56324")] {
        let request = firehose("forged", &[]);
        let to = plain.controllers[0].address;
        let mut stream = Before(header.clone(), connect(STRANGER, to).await);
        let told = status(&mut stream, &request).await;
        assert!(matches!(told, None | Some(400)), "{told:?}");
        let controller = &over_tls.controllers[0];
        let tcp = connect(STRANGER, controller.address).await;
        let certs = over_tls.certs().unwrap();
        let (told, _) = status_over_tls(tcp, &header, certs, &request).await;
        assert_eq!(told, None);
    }
    let controller = &over_tls.controllers[0];
    refuses(controller.admin, 2, "plain_text").await;
    let setting = "TRAFFIC_CONTROLLER_PROXY_PROTOCOL_FROM";
    logs(&controller.process, setting).await;
    // Without one it is served, under its own address.
    let mut tcp = connect(STRANGER, plain.controllers[0].address).await;
    assert_eq!(status(&mut tcp, &firehose("own-", &[])).await, Some(101));
    let own = format!("{STRANGER} spt={}", tcp.local_addr().unwrap().port());
    eventually(SOON, "it is noted", async || {
        sources(&log, "own-") == [&*own]
    })
    .await;
    assert_eq!(sources(&log, "forged"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_may_send_headers_to_one_port_and_http_to_the_other() {
    let port = free_port();
    let (endpoint, ports) = (
        format!("--logger-endpoint-port={port}"),
        format!("--proxy-protocol-ports={port}"),
    );
    let from = format!("--proxy-protocol-from={BALANCER}");
    let (_process, bound, _) = start(&["--port=0", &endpoint, &from, &ports]).await;
    let [http, tcp] = bound[..] else {
        panic!("{bound:?}");
    };
    assert_eq!(tcp.port(), port);
    let mut stream = connect(BALANCER, http).await;
    assert_eq!(status(&mut stream, NOTHING).await, Some(404));
    let mut stream = connect(BALANCER, tcp).await;
    assert_eq!(status(&mut stream, NOTHING).await, None);
    let mut stream = Before(line("192.0.2.7:56324"), connect(BALANCER, tcp).await);
    assert_eq!(status(&mut stream, NOTHING).await, Some(404));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_most_hop_that_is_no_proxy_of_ours_is_the_client_everywhere() {
    let files = tempfile::tempdir().unwrap();
    let log = files.path().join("security_events.log");
    let cluster = Cluster::builder()
        .controllers(1)
        .tokens(tokens())
        .controller_flag("--proxy-protocol-from", BALANCER)
        .controller_flag("--trusted-proxies", "10.0.0.0/8,127.0.0.4")
        .controller_flag("--security-event-log", log.display())
        .start()
        .await;
    let controller = &cluster.controllers[0];
    let proxy = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4));
    let forwarded = "X-Forwarded-For: 6.6.6.6, 192.0.2.9, 10.0.0.9";
    // A proxy of ours, one behind a balancer in TCP mode, a client that would like to be another,
    // and one that reaches us by a balancer.
    for (id, header, from, believed) in [
        ("http-", vec![], proxy, true),
        ("both-", block("10.0.0.8:80"), BALANCER, true),
        ("client-", vec![], STRANGER, false),
        ("tcp-", line("192.0.2.7:56324"), BALANCER, false),
    ] {
        let tcp = connect(from, controller.address).await;
        let own = match header.is_empty() {
            true => tcp.local_addr().unwrap(),
            false => "192.0.2.7:56324".parse().unwrap(),
        };
        let mut stream = Before(header, tcp);
        let request = firehose(id, &[forwarded]);
        assert_eq!(status(&mut stream, &request).await, Some(101), "{id}");
        let (shown, noted) = match believed {
            true => ("192.0.2.9".to_owned(), "192.0.2.9 spt=".to_owned()),
            false => (own.to_string(), format!("{} spt={}", own.ip(), own.port())),
        };
        assert_eq!(client_of(controller.admin, id).await, Some(shown), "{id}");
        eventually(SOON, id, async || sources(&log, id) == [&*noted]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traffic_controller_that_stops_is_not_ready_before_its_door_closes() {
    const WAIT: Duration = Duration::from_millis(1_500);
    let mut cluster = Cluster::builder()
        .controllers(1)
        .tokens(tokens())
        .controller_flag("--drain-wait", "1.5")
        .start()
        .await;
    let mut controller = cluster.controllers.remove(0);
    let ready = async || get(controller.admin, "/health/ready").await.unwrap().0;
    eventually(SOON, "it is ready", async || ready().await == 200).await;
    let mut before = connect(STRANGER, controller.address).await;
    assert_eq!(status(&mut before, &firehose("a", &[])).await, Some(101));

    controller.process.signal(Signal::Terminate);
    let began = Instant::now();
    eventually(SOON, "it is not ready", async || ready().await == 503).await;
    let noticed = began.elapsed();
    assert!(noticed < WAIT, "the machine is too busy: {noticed:?}");
    // Who comes now, since no balancer has noticed yet, is served.
    let mut late = connect(STRANGER, controller.address).await;
    assert_eq!(status(&mut late, &firehose("b", &[])).await, Some(101));
    assert!(!controller.process.logged("draining"));
    eventually(SOON, "its door is closed", async || {
        TcpStream::connect(controller.address).await.is_err()
    })
    .await;
    assert!(began.elapsed() >= WAIT, "{:?}", began.elapsed());
    assert!(controller.process.logged("draining"));
    assert_eq!(controller.process.exit_code(SOON).await, 0);
    // Both were told to come back elsewhere.
    for mut stream in [before, late] {
        let mut told = Vec::new();
        stream.read_to_end(&mut told).await.unwrap();
        assert!(told.ends_with(&[0x88, 2, 0x03, 0xE9]), "1001: {told:?}");
    }
}
