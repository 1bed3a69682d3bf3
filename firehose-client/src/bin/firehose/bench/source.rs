//! A firehose on loopback that sends the same logs for ever, as fast as they are taken.
//!
//! In plain text: TLS needs a certificate, and making one here would bring in what makes
//! certificates. What TLS costs is measured where it is used, on the real firehose.

use std::convert::Infallible;
use std::io;
use std::thread;

use bytes::Bytes;
use firehose_client::v1::envelope::EventType;
use firehose_client::v1::log_message::MessageType;
use firehose_client::v1::{Envelope, LogMessage};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::{Message, encoding};
use tokio::net::{TcpListener, TcpStream};
use transport::frame::Frames;
use transport::websocket::{Options, Socket, upgrade};

/// Bytes of frames that are sent at once: what a Doppler's chunk may have.
const CHUNK: usize = 64 << 10;

/// Bytes of a log's text.
pub(super) const PAYLOAD: usize = 256;

/// How much is known of each log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tags {
    /// What every agent adds.
    Few,
    /// And what a Cloud Foundry app's log has.
    All,
}

/// A running source; it ends with its one reader.
pub(super) struct Source {
    pub(super) url: String,
}

const ORIGIN: &str = "rep";
const APP: &str = "5f0d1c9e-1111-4222-8333-444444444444";

/// Tags that v1 has no field for.
const MORE: [(&str, &str); 13] = [
    ("source_type", "APP/PROC/WEB"),
    ("app_id", APP),
    ("app_name", "orders-service"),
    ("space_id", "11111111-aaaa-4bbb-8ccc-dddddddddddd"),
    ("space_name", "production"),
    ("organization_id", "22222222-aaaa-4bbb-8ccc-dddddddddddd"),
    ("organization_name", "retail"),
    ("process_id", APP),
    ("process_instance_id", "5b6e2f0c-1d55-4e2b-4d1c-0f2f"),
    ("process_type", "web"),
    ("instance_id", "0"),
    ("product", "Cloud Foundry"),
    ("system_domain", "sys.example.com"),
];

impl Tags {
    /// How many, with those that are fields of an envelope.
    pub(super) fn count(self) -> usize {
        match self {
            Tags::Few => 5,
            Tags::All => 5 + MORE.len(),
        }
    }

    fn others(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Tags::Few => &[],
            Tags::All => &MORE,
        }
    }
}

impl Source {
    pub(super) fn start(tags: Tags) -> io::Result<Source> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("ws://{}", listener.local_addr()?);
        let runtime = crate::runtime()?;
        let chunk = Bytes::from(chunk(tags));
        thread::spawn(move || {
            // Whoever reads sees that nothing comes.
            _ = runtime.block_on(serve(listener, chunk));
        });
        Ok(Source { url })
    }
}

async fn serve(listener: std::net::TcpListener, chunk: Bytes) -> io::Result<()> {
    let (tcp, _) = TcpListener::from_std(listener)?.accept().await?;
    tcp.set_nodelay(true)?;
    let (ready, mut sending) = tokio::sync::mpsc::channel(1);
    let answer = service_fn(move |mut request: Request<Incoming>| {
        let response = match upgrade::Handshake::of(&mut request) {
            Ok(handshake) => {
                let response: Response<Full<Bytes>> = handshake.response(None);
                _ = ready.try_send(tokio::spawn(send(handshake, chunk.clone())));
                response
            }
            Err(refusal) => refusal.response(),
        };
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .serve_connection(TokioIo::new(tcp), answer)
        .with_upgrades();
    connection.await.map_err(io::Error::other)?;
    if let Some(sent) = sending.recv().await {
        sent.await?;
    }
    Ok(())
}

/// Sends until the reader has gone.
async fn send(handshake: upgrade::Handshake, chunk: Bytes) {
    if let Ok((tcp, read)) = handshake.upgraded::<TcpStream>().await {
        let mut socket = Socket::new(tcp, read, Options::server());
        while socket.send(&chunk).await.is_ok() {}
    }
}

/// Framed logs. Tags are in no order: Go, which agents are written in, has none in its maps.
fn chunk(tags: Tags) -> Vec<u8> {
    let line = b"GET /v1/things 200 OK in 12 ms ".iter().copied();
    let log = LogMessage {
        message: line.cycle().take(PAYLOAD).collect(),
        message_type: MessageType::Out as i32,
        timestamp: 1_700_000_000_123_456_789,
        app_id: Some(APP.into()),
        source_type: Some("APP/PROC/WEB".into()),
        source_instance: Some("0".into()),
    };
    let envelope = Envelope {
        origin: ORIGIN.into(),
        event_type: EventType::LogMessage as i32,
        timestamp: Some(1_700_000_000_123_456_789),
        deployment: Some("cf".into()),
        job: Some("diego-cell".into()),
        index: Some("7b1c2a".into()),
        ip: Some("10.0.16.34".into()),
        log_message: Some(log),
        ..Envelope::default()
    };
    let mut others = tags.others().to_vec();
    let mut random = fastrand::Rng::with_seed(7);
    let mut frames = Frames::new();
    while frames.bytes().len() < CHUNK {
        random.shuffle(&mut others);
        let mut bytes = envelope.encode_to_vec();
        for (key, value) in &others {
            let mut entry = Vec::new();
            encoding::string::encode(1, &(*key).to_owned(), &mut entry);
            encoding::string::encode(2, &(*value).to_owned(), &mut entry);
            encoding::bytes::encode(17, &entry, &mut bytes);
        }
        frames.push(&bytes, true);
    }
    frames.bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use firehose_client::v1;

    #[test]
    fn what_is_sent_are_logs_with_as_many_tags_as_it_says() {
        for tags in [Tags::Few, Tags::All] {
            let chunk = Bytes::from(chunk(tags));
            let envelopes: Vec<_> = transport::frame::payloads(&chunk)
                .map(|envelope| v1::decode(&envelope).unwrap())
                .collect();
            assert!(envelopes.len() > 50);
            for envelope in envelopes {
                assert_eq!(5 + envelope.tags.len(), tags.count());
                assert_eq!(envelope.log_message.unwrap().message.len(), PAYLOAD);
            }
        }
    }
}
