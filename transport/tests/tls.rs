//! TLS between real sockets, with certificates made on the spot.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::{ProtocolVersion, RootCertStore, SupportedCipherSuite};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use transport::listener::{
    AcceptError, Acceptor, DialError, Dialer, READ_BUFFER_BUSY, READ_BUFFER_IDLE, Stream,
};
use transport::tls::{self, ClientConfig, H2, HTTP_1_1, Identity, Roots, ServerConfig, TlsError};

/// A folder of PEM files that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tls-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A certificate authority; `path` is its certificate.
struct Ca<'a> {
    folder: &'a Folder,
    issuer: Issuer<'static, KeyPair>,
    path: PathBuf,
}

impl<'a> Ca<'a> {
    fn new(folder: &'a Folder, name: &str) -> Ca<'a> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let path = folder.write(name, &params.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(params, key);
        Ca {
            folder,
            issuer,
            path,
        }
    }

    fn signs(&self, name: &str, params: CertificateParams) -> Identity {
        self.signs_key(name, params, &KeyPair::generate().unwrap())
    }

    fn signs_key(&self, name: &str, params: CertificateParams, key: &KeyPair) -> Identity {
        let cert = params.signed_by(key, &self.issuer).unwrap();
        Identity {
            cert: self.folder.write(&format!("{name}.crt"), &cert.pem()),
            key: self
                .folder
                .write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }
}

/// As in cf-deployment: the name as SAN and CN, both extended key usages.
fn usual(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

/// An error and all its causes, as `main` would print them.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|e| e.to_string()).collect::<Vec<_>>().join(": ")
}

type Met = (Result<Stream, AcceptError>, Result<Stream, DialError>);

/// Lets a client call a server that it expects to be `name`.
async fn meet_as(server: Arc<ServerConfig>, client: Arc<ClientConfig>, name: &str) -> Met {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let name = tls::server_name(name).unwrap();
    let dialer = Dialer::new(Some((client.into(), name)), Duration::from_secs(20));
    let mut acceptor = Acceptor::new(Some(server.into()));
    acceptor.handshake = Duration::from_secs(20); // the machine may be busy
    let accept = async {
        let (tcp, peer) = listener.accept().await.unwrap();
        acceptor.accept(tcp, peer).await
    };
    tokio::join!(accept, dialer.dial(&address))
}

async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Met {
    meet_as(server, client, "doppler").await
}

/// Why the server refused; checks that the client was told.
async fn refusal(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> String {
    let (accepted, dialled) = meet(server, client).await;
    // Under TLS 1.3 the client is done before the server has seen its certificate.
    if let Ok(mut stream) = dialled {
        stream.read_u8().await.unwrap_err();
    }
    told(&accepted.unwrap_err())
}

/// A client with one cipher suite.
fn only(suite: SupportedCipherSuite, ca: &Ca<'_>) -> Arc<ClientConfig> {
    let provider = CryptoProvider {
        cipher_suites: vec![suite],
        ..aws_lc_rs::default_provider()
    };
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(&ca.path).unwrap();
    roots.add(certificate).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test]
async fn both_sides_of_a_mutual_handshake_see_each_other() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let doppler = ca.signs("doppler", usual("doppler"));
    let metron = ca.signs("metron", usual("metron"));
    let server = tls::server(&doppler, Some(&ca.path), &[]).unwrap();
    let client = tls::client(Roots::Ca(&ca.path), Some(&metron), &[]).unwrap();

    let (accepted, dialled) = meet(server, client).await;
    let (mut accepted, mut dialled) = (accepted.unwrap(), dialled.unwrap());
    assert_eq!(accepted.certificates().len(), 1);
    assert_eq!(dialled.certificates().len(), 1);
    assert_ne!(accepted.certificates(), dialled.certificates());
    assert!(accepted.peer().unwrap().ip().is_loopback());
    let Stream::Tls(tls) = &accepted else {
        panic!("this is not TLS");
    };
    let version = tls.get_ref().1.protocol_version();
    assert_eq!(version, Some(ProtocolVersion::TLSv1_3));

    dialled.write_all(b"hello").await.unwrap();
    dialled.shutdown().await.unwrap();
    let mut heard = String::new();
    accepted.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "hello");
}

#[tokio::test]
async fn any_client_certificate_of_the_ca_is_accepted() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let doppler = ca.signs("doppler", usual("doppler"));
    let server = tls::server(&doppler, Some(&ca.path), &[]).unwrap();
    let mut nameless = CertificateParams::default();
    nameless
        .distinguished_name
        .push(DnType::CommonName, "old metron");
    let mut client_only = usual("rlp_gateway");
    client_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let mut no_usage = usual("metron");
    no_usage.extended_key_usages = vec![];
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    for identity in [
        ca.signs("nameless", nameless),
        ca.signs("client-only", client_only),
        ca.signs("no-usage", no_usage),
        ca.signs_key("rsa", usual("metron"), &rsa),
    ] {
        let client = tls::client(Roots::Ca(&ca.path), Some(&identity), &[]).unwrap();
        let (accepted, dialled) = meet(server.clone(), client).await;
        assert!(dialled.is_ok(), "{identity:?}: {dialled:?}");
        assert!(accepted.is_ok(), "{identity:?}: {accepted:?}");
    }
}

#[tokio::test]
async fn a_client_the_ca_does_not_vouch_for_is_refused() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let other = Ca::new(&folder, "other");
    let doppler = ca.signs("doppler", usual("doppler"));
    let server = tls::server(&doppler, Some(&ca.path), &[]).unwrap();
    let mut expired = usual("metron");
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2021, 1, 1);
    let mut early = usual("metron");
    early.not_before = date_time_ymd(3000, 1, 1);
    early.not_after = date_time_ymd(3001, 1, 1);
    let mut server_only = usual("metron");
    server_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for (identity, reason) in [
        (None, "no certificates"),
        (Some(other.signs("other", usual("metron"))), "UnknownIssuer"),
        (Some(ca.signs("expired", expired)), "expired"),
        (Some(ca.signs("early", early)), "not valid yet"),
        (Some(ca.signs("server-only", server_only)), "usage"),
    ] {
        let client = tls::client(Roots::Ca(&ca.path), identity.as_ref(), &[]).unwrap();
        let refusal = refusal(server.clone(), client).await;
        assert!(
            refusal.contains(reason),
            "{identity:?}: {reason:?} is not in {refusal:?}"
        );
    }
}

#[tokio::test]
async fn without_a_client_ca_nobody_is_asked_for_a_certificate() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let server = tls::server(&ca.signs("tc", usual("doppler")), None, &[]).unwrap();
    let client = tls::client(Roots::Ca(&ca.path), None, &[]).unwrap();
    let (accepted, dialled) = meet(server, client).await;
    assert!(dialled.is_ok());
    assert!(accepted.unwrap().certificates().is_empty());
}

#[tokio::test]
async fn a_server_with_another_name_or_ca_is_not_trusted() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let other = Ca::new(&folder, "other");
    let server = tls::server(&ca.signs("doppler", usual("doppler")), None, &[]).unwrap();
    let mut common_name_only = CertificateParams::default();
    common_name_only
        .distinguished_name
        .push(DnType::CommonName, "doppler");
    let common_name_only = ca.signs("cn", common_name_only);
    let common_name_only = tls::server(&common_name_only, None, &[]).unwrap();
    for (server, roots, name, reason) in [
        (&server, &ca, "metron", "not valid for name"),
        (&common_name_only, &ca, "doppler", "not valid for name"),
        (&server, &other, "doppler", "UnknownIssuer"),
    ] {
        let client = tls::client(Roots::Ca(&roots.path), None, &[]).unwrap();
        let (accepted, dialled) = meet_as(server.clone(), client, name).await;
        let error = dialled.unwrap_err();
        assert!(matches!(error, DialError::Handshake { .. }), "{error:?}");
        let text = told(&error);
        assert!(text.contains(reason), "{text}");
        assert!(accepted.is_err());
    }
}

#[tokio::test]
async fn names_may_have_underscores() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let identity = ca.signs("gateway", usual("rlp_gateway"));
    let server = tls::server(&identity, None, &[]).unwrap();
    let client = tls::client(Roots::Ca(&ca.path), None, &[]).unwrap();
    let (_, dialled) = meet_as(server, client, "rlp_gateway").await;
    assert!(dialled.is_ok(), "{dialled:?}");
}

#[tokio::test]
async fn who_trusts_anyone_trusts_any_ca_name_and_date() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let mut expired = usual("somebody");
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2021, 1, 1);
    let server = tls::server(&ca.signs("expired", expired), None, &[HTTP_1_1]).unwrap();
    let client = tls::client_that_trusts_anyone(None, &[HTTP_1_1]).unwrap();
    let (accepted, dialled) = meet(server, client).await;
    assert_eq!(dialled.unwrap().alpn(), Some(HTTP_1_1));
    assert!(accepted.is_ok());
}

#[tokio::test]
async fn a_bundle_named_as_the_systems_is_trusted_even_if_parts_of_it_are_of_no_use() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let odd = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let mixed = std::fs::read_to_string(&ca.path).unwrap() + odd;
    let mixed = folder.write("mixed.pem", &mixed);
    let server = tls::server(&ca.signs("doppler", usual("doppler")), None, &[]).unwrap();
    let client = tls::client(Roots::System(Some(&mixed)), None, &[]).unwrap();
    let (_, dialled) = meet(server, client).await;
    assert!(dialled.is_ok(), "{dialled:?}");

    let strict = tls::client(Roots::Ca(&mixed), None, &[]).unwrap_err();
    assert!(matches!(strict, TlsError::Certificate { .. }), "{strict}");
    let odd = folder.write("odd.pem", odd);
    let none = tls::client(Roots::System(Some(&odd)), None, &[]).unwrap_err();
    assert!(matches!(none, TlsError::NoCertificate { .. }), "{none}");
}

#[tokio::test]
async fn the_server_prefers_http_1_1_and_gives_h2_to_who_offers_only_that() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let doppler = ca.signs("doppler", usual("doppler"));
    let both: &[&[u8]] = &[HTTP_1_1, H2];
    let server = tls::server(&doppler, None, both).unwrap();
    for (offered, chosen) in [
        (&[H2] as &[&[u8]], Some(H2)),
        (&[H2, HTTP_1_1], Some(HTTP_1_1)),
        (&[HTTP_1_1, H2], Some(HTTP_1_1)),
        (&[HTTP_1_1], Some(HTTP_1_1)),
        (&[], None),
    ] {
        let client = tls::client(Roots::Ca(&ca.path), None, offered).unwrap();
        let (accepted, dialled) = meet(server.clone(), client).await;
        let accepted = accepted.unwrap();
        assert_eq!(accepted.alpn(), chosen, "{offered:?}");
        assert_eq!(dialled.unwrap().alpn(), chosen, "{offered:?}");
        let http2 = accepted.speaks_http2(Duration::ZERO).await.unwrap();
        assert_eq!(http2, chosen == Some(H2));
    }
    let client = tls::client(Roots::Ca(&ca.path), None, &[b"spdy/3"]).unwrap();
    let refusal = refusal(server, client).await;
    assert!(refusal.contains("protocol"), "{refusal}");
}

#[tokio::test]
async fn tls_1_2_works_with_aes_gcm_and_chacha_is_refused() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rsa = ca.signs_key("rsa", usual("doppler"), &rsa);
    let rsa = tls::server(&rsa, None, &[]).unwrap();
    let ecdsa = tls::server(&ca.signs("ecdsa", usual("doppler")), None, &[]).unwrap();
    for (server, suite) in [
        (&rsa, cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
        (&rsa, cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
        (
            &ecdsa,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ),
        (
            &ecdsa,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        ),
        (&ecdsa, cipher_suite::TLS13_AES_128_GCM_SHA256),
        (&ecdsa, cipher_suite::TLS13_AES_256_GCM_SHA384),
    ] {
        let (accepted, dialled) = meet(server.clone(), only(suite, &ca)).await;
        assert!(dialled.is_ok(), "{suite:?}: {dialled:?}");
        assert!(accepted.is_ok(), "{suite:?}: {accepted:?}");
    }
    for (server, suite) in [
        (
            &rsa,
            cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
        (&ecdsa, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
    ] {
        refusal(server.clone(), only(suite, &ca)).await;
    }
}

#[tokio::test]
async fn bytes_arrive_whole_through_either_read_buffer() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let server = tls::server(&ca.signs("doppler", usual("doppler")), None, &[]).unwrap();
    let client = tls::client(Roots::Ca(&ca.path), None, &[]).unwrap();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    for read_buffer in [READ_BUFFER_IDLE, READ_BUFFER_BUSY] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut acceptor = Acceptor::new(Some(server.clone().into()));
        acceptor.read_buffer = read_buffer;
        let name = tls::server_name("doppler").unwrap();
        let mut dialer = Dialer::new(Some((client.clone().into(), name)), Duration::from_secs(20));
        dialer.read_buffer = read_buffer;
        let echo = async {
            let (tcp, peer) = listener.accept().await.unwrap();
            let stream = acceptor.accept(tcp, peer).await.unwrap();
            let (mut read, mut write) = tokio::io::split(stream);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let call = async {
            let stream = dialer.dial(&address).await.unwrap();
            let (mut read, mut write) = tokio::io::split(stream);
            let mut heard = Vec::new();
            let say = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let (_, all) = tokio::join!(say, read.read_to_end(&mut heard));
            all.unwrap();
            heard
        };
        let ((), heard) = tokio::join!(echo, call);
        assert!(heard == sent, "{} bytes through {read_buffer}", heard.len());
    }
}

#[tokio::test]
async fn several_slices_written_at_once_arrive_in_order() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let server = tls::server(&ca.signs("doppler", usual("doppler")), None, &[]).unwrap();
    let client = tls::client(Roots::Ca(&ca.path), None, &[]).unwrap();
    let (accepted, dialled) = meet(server, client).await;
    let (mut accepted, mut dialled) = (accepted.unwrap(), dialled.unwrap());
    assert!(dialled.is_write_vectored());
    let slices = [&b"one "[..], b"two ", b"three"].map(std::io::IoSlice::new);
    assert_eq!(dialled.write_vectored(&slices).await.unwrap(), 13);
    dialled.shutdown().await.unwrap();
    let mut heard = String::new();
    accepted.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "one two three");
}

#[tokio::test]
async fn calling_again_takes_the_certificate_that_lies_there_now() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let path = ca.signs("doppler", usual("doppler"));
    let client = tls::client(Roots::Ca(&ca.path), None, &[]).unwrap();
    let shown = async |server| {
        let (_, dialled) = meet(server, client.clone()).await;
        dialled.unwrap().certificates().to_vec()
    };
    let old = tls::server(&path, None, &[]).unwrap();
    let first = shown(old.clone()).await;
    assert_eq!(ca.signs("doppler", usual("doppler")), path);
    assert_eq!(shown(old).await, first);
    assert_ne!(shown(tls::server(&path, None, &[]).unwrap()).await, first);
}

#[test]
fn mistakes_are_told_with_the_file_and_what_is_wrong_with_it() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let good = ca.signs("good", usual("doppler"));
    let other = ca.signs("other", usual("doppler"));
    let missing = folder.0.join("missing.pem");
    let garbage = folder.write("garbage.pem", "hello");
    let broken = folder.write(
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
    );
    let cut = folder.write("cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let hollow = folder.write(
        "hollow.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let hollow_key = folder.write(
        "hollow.key",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    );
    let encrypted = folder.write(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let with_cert = |cert: &PathBuf| Identity {
        cert: cert.clone(),
        key: good.key.clone(),
    };
    let with_key = |key: &PathBuf| Identity {
        cert: good.cert.clone(),
        key: key.clone(),
    };
    for (identity, file, wrong) in [
        (with_cert(&missing), &missing, "could not read"),
        (with_cert(&garbage), &garbage, "no certificate in"),
        (with_cert(&good.key), &good.key, "no certificate in"),
        (with_cert(&broken), &broken, "not valid PEM"),
        (with_cert(&cut), &cut, "not valid PEM"),
        (with_cert(&hollow), &hollow, "cannot be used"),
        (with_cert(&other.cert), &other.cert, "does not belong"),
        (with_key(&missing), &missing, "could not read"),
        (with_key(&garbage), &garbage, "no private key in"),
        (with_key(&good.cert), &good.cert, "no private key in"),
        (with_key(&encrypted), &encrypted, "no private key in"),
        (with_key(&hollow_key), &hollow_key, "cannot be used"),
        (with_key(&other.key), &other.key, "does not belong"),
    ] {
        for error in [
            tls::server(&identity, None, &[]).unwrap_err(),
            tls::client(Roots::Ca(&ca.path), Some(&identity), &[]).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains(&*file.to_string_lossy()), "{text}");
            assert!(text.contains(wrong), "{wrong:?} is not in {text:?}");
        }
    }
    for (file, wrong) in [
        (&missing, "could not read"),
        (&garbage, "no certificate in"),
        (&broken, "not valid PEM"),
        (&hollow, "cannot be used"),
    ] {
        for error in [
            tls::server(&good, Some(file), &[]).unwrap_err(),
            tls::client(Roots::Ca(file), None, &[]).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains(&*file.to_string_lossy()), "{text}");
            assert!(text.contains(wrong), "{wrong:?} is not in {text:?}");
        }
    }
    let error = tls::server_name("not a name").unwrap_err();
    assert!(error.to_string().contains("not a name"), "{error}");
}

async fn connection(listener: &TcpListener) -> (TcpStream, TcpStream, SocketAddr) {
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    let (accepted, peer) = accepted.unwrap();
    (dialled.unwrap(), accepted, peer)
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_loses_its_connection_after_two_seconds() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let server = tls::server(&ca.signs("doppler", usual("doppler")), None, &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut silent, accepted, peer) = connection(&listener).await;
    let begun = Instant::now();
    let error = Acceptor::new(Some(server.into()))
        .accept(accepted, peer)
        .await
        .unwrap_err();
    assert!(matches!(error, AcceptError::Slow { .. }), "{error:?}");
    assert!(error.to_string().contains(&peer.to_string()), "{error}");
    assert_eq!(begun.elapsed().as_secs(), 2);
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_does_not_extend_the_handshake() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let server = tls::server(&ca.signs("doppler", usual("doppler")), None, &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut slow, accepted, peer) = connection(&listener).await;
    tokio::spawn(async move {
        // A hello of 512 bytes that never gets there.
        let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC][..], &[3; 200]].concat();
        for byte in hello {
            if slow.write_u8(byte).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let begun = Instant::now();
    let error = Acceptor::new(Some(server.into()))
        .accept(accepted, peer)
        .await
        .unwrap_err();
    assert!(matches!(error, AcceptError::Slow { .. }), "{error:?}");
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn dialling_a_server_that_never_answers_the_hello_ends_at_the_deadline() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let client = tls::client(Roots::Ca(&ca.path), None, &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let name = tls::server_name("doppler").unwrap();
    let dialer = Dialer::new(Some((client.into(), name)), Duration::from_secs(5));
    let begun = Instant::now();
    let error = dialer.dial(&address).await.unwrap_err();
    assert!(begun.elapsed().as_secs() <= 5);
    let DialError::Handshake { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::TimedOut);
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn dialling_a_server_without_tls_fails_in_the_handshake() {
    let folder = Folder::new();
    let ca = Ca::new(&folder, "ca");
    let client = tls::client(Roots::Ca(&ca.path), None, &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let name = tls::server_name("doppler").unwrap();
    let dialer = Dialer::new(Some((client.into(), name)), Duration::from_secs(20));
    let plain = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        tcp
    };
    let (_tcp, dialled) = tokio::join!(plain, dialer.dial(&address));
    let error = dialled.unwrap_err();
    assert!(matches!(error, DialError::Handshake { .. }), "{error:?}");
    assert!(error.to_string().contains(&address), "{error}");
}
