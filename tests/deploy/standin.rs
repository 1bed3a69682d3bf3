//! A server behind a balancer that is no Traffic Controller: it says what it was told, and it never
//! pings.

use harness::certs::Certs;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The longest head that is read, in bytes.
const HEAD: usize = 16 << 10;

/// A running one; it ends when it is dropped, its connections with their balancer.
pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<Head>>>,
    task: JoinHandle<()>,
}

/// The head of a request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Head(String);

impl StandIn {
    /// Listens with the certificate of a Traffic Controller, and HTTP/1.1 alone.
    pub(crate) async fn start(certs: &Certs) -> StandIn {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let pair = certs.pair("localhost");
        let chain = CertificateDer::from_pem_file(pair.cert).expect("the harness wrote it");
        let key = PrivateKeyDer::from_pem_file(pair.key).expect("the harness wrote it");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("it has some")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("they belong together");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let heads: Arc<Mutex<Vec<Head>>> = Arc::default();
        let told = heads.clone();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(answer(tcp, acceptor.clone(), told.clone()));
            }
        });
        StandIn {
            address,
            heads,
            task,
        }
    }

    /// The last request it had for that path.
    pub(crate) fn told(&self, path: &str) -> Head {
        let heads = self.heads.lock().unwrap();
        let last = heads.iter().rev().find(|head| head.path() == path);
        last.cloned()
            .unwrap_or_else(|| panic!("{path} was not asked for: {heads:?}"))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request on one connection: 101 and silence, or 200. A balancer's checks ask nothing.
async fn answer(tcp: TcpStream, acceptor: TlsAcceptor, told: Arc<Mutex<Vec<Head>>>) {
    let Ok(mut stream) = acceptor.accept(tcp).await else {
        return;
    };
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) if head.len() < HEAD => head.push(byte),
            _ => return,
        }
    }
    let head = Head(String::from_utf8_lossy(&head).into_owned());
    let answer = match head.values("sec-websocket-key").first() {
        Some(key) => format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        ),
        None => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
    };
    let stays = answer.starts_with("HTTP/1.1 101");
    told.lock().unwrap().push(head);
    let sent = stream.write_all(answer.as_bytes()).await;
    if sent.is_ok() && stream.flush().await.is_ok() && stays {
        // Whatever it is told from now on, until it is told no more.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    let _ = stream.shutdown().await;
}

impl Head {
    /// `GET /path HTTP/1.1`.
    pub(crate) fn request_line(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    fn path(&self) -> &str {
        self.request_line().split(' ').nth(1).unwrap_or_default()
    }

    /// All values of a header, in order.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let headers = self.0.lines().skip(1);
        headers
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }
}
