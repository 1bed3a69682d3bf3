//! A Doppler as far as its links go, for tests: it accepts, and the test says what it says.

use super::Doppler;
use bytes::Bytes;
use http::Response;
use http_body_util::Empty;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proto::link::{Downstream, PROTOCOL, Report, Upstream};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use transport::frame::Frames;
use transport::listener::{Dialer, Stream};
use transport::websocket::upgrade::Handshake;
use transport::websocket::{Incoming, Options, Socket};

pub(crate) struct Fake {
    listener: TcpListener,
}

impl Fake {
    /// A Doppler, and what dials it.
    pub(crate) async fn new() -> (Fake, Arc<Doppler>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let dialer = Dialer::new(None, super::OPEN);
        (Fake { listener }, Arc::new(Doppler::new(address, dialer)))
    }

    /// The Doppler's end of the next link.
    pub(crate) async fn link(&self) -> Socket<Stream> {
        let (tcp, _) = self.listener.accept().await.unwrap();
        let (give, mut take) = mpsc::channel(1);
        let answer = service_fn(move |mut request| {
            let give = give.clone();
            async move {
                let handshake = Handshake::of(&mut request).unwrap();
                let response: Response<Empty<Bytes>> = handshake.response(Some(PROTOCOL));
                tokio::spawn(async move { give.send(handshake.upgraded().await.unwrap()).await });
                Ok::<_, Infallible>(response)
            }
        });
        let stream = TokioIo::new(Stream::Plain(tcp));
        let served = http1::Builder::new()
            .serve_connection(stream, answer)
            .with_upgrades();
        served.await.unwrap();
        let (stream, read) = take.recv().await.unwrap();
        Socket::new(stream, read, Options::link_server())
    }
}

/// So many frames with that payload.
pub(crate) fn frames(count: usize, payload: &[u8]) -> Bytes {
    let mut frames = Frames::new();
    (0..count).for_each(|_| frames.push(payload, false));
    Bytes::copy_from_slice(frames.bytes())
}

/// A report of epoch 7.
pub(crate) fn report(sent: u64) -> String {
    let report = Report {
        epoch: 7,
        sent,
        dropped: 0,
        queued: 0,
        ..Report::default()
    };
    Downstream::Report(report).to_json()
}

/// What the Traffic Controller says next on a link.
pub(crate) async fn heard(link: &mut Socket<Stream>) -> Upstream {
    match link.next().await.unwrap() {
        Incoming::Text(text) => Upstream::parse(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}
