//! A Doppler's door, router and way out, a Traffic Controller's Dopplers and front, and a client,
//! in one thread: what is counted there is all of theirs. Between them are pipes in memory, not
//! TLS and sockets, and before the door there is no gRPC.

use doppler::egress::Egress;
use doppler::ingress::Door;
use doppler::readers::{Peer, Readers};
use doppler::router::Router;
use doppler::router::recent::Recents;
use harness::eventually;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use traffic_controller::access::Access;
use traffic_controller::dopplers::Members;
use traffic_controller::dopplers::members::Sources;
use traffic_controller::front::{Edge, Ends, Front, Leaving, connection};
use traffic_controller::streams::Streams;
use traffic_controller::topics::Topics;
use transport::frame::{Head, head};
use transport::listener::simulated::Network;
use transport::listener::{Dialer, Stream};
use transport::shutdown::Drain;

/// What a pipe holds, as much as a socket does.
const PIPE: usize = 256 << 10;

/// How long a link may take to open, under valgrind.
const LINKED: Duration = Duration::from_secs(30);

const DOPPLER: &str = "doppler:8082";

/// A router with the limits that a Doppler has by default.
pub(crate) fn router() -> Router {
    let recents = Recents::new(100, 32 << 20, Duration::from_secs(120));
    Router::new(64 << 20, 32 << 20, recents)
}

pub(crate) struct Pipeline {
    runtime: Runtime,
    door: Door,
    client: DuplexStream,
    /// What the client has read and not looked at.
    buffer: Vec<u8>,
    _drains: [Drain; 3],
}

impl Pipeline {
    /// Starts all of them, and opens a firehose.
    pub(crate) fn open(linger: Duration) -> Pipeline {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let router = Arc::new(router());
        let drains = [Drain::new(), Drain::new(), Drain::new()];
        let [egress, links, clients] = &drains;
        let egress = Egress {
            router: router.clone(),
            readers: Readers::new(&[], false),
            linger,
            shutdown: egress.shutdown(),
            metrics: Arc::new(doppler::metrics::Metrics::new()),
        };
        let network = Network::new(move |_| {
            let (theirs, ours) = duplex(PIPE);
            let stream = Stream::Simulated(Box::new(ours));
            tokio::spawn(serve(egress.clone(), stream));
            async { Ok(theirs) }
        });
        let dialer = Dialer {
            simulated: Some(network),
            ..Dialer::new(None, Duration::from_secs(60))
        };
        let topics = Topics::new(64 << 20, 256 << 10);
        let (_, named) = watch::channel(Arc::new(BTreeSet::from([Arc::from(DOPPLER)])));
        let sources = Sources {
            file: Some(named.into()),
            ..Sources::default()
        };
        let (mut client, served) = duplex(PIPE);
        let buffer = runtime.block_on(async {
            let members = Members::new(sources, dialer, topics.clone());
            let dopplers = members.dopplers();
            links.shutdown().spawn(members.run(links.shutdown()));
            let front = Arc::new(Front {
                access: Access::Open,
                edge: Edge::default(),
                dopplers,
                topics,
                streams: Streams::new(100),
                metrics: Arc::new(traffic_controller::metrics::Metrics::new()),
                shutdown: clients.shutdown(),
                leaving: Leaving::new(clients.shutdown(), Duration::ZERO),
            });
            let peer = ([127, 0, 0, 1], 1).into();
            let ends = Ends { peer, local: peer };
            let served = Stream::Simulated(Box::new(served));
            tokio::spawn(connection::answer(served, front, ends));
            let ask = "GET /firehose/nozzle HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n\
                       connection: upgrade\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            client.write_all(ask.as_bytes()).await.expect("a pipe");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.expect("an answer"));
            }
            assert!(head.starts_with(b"HTTP/1.1 101 "), "{head:?}");
            eventually(LINKED, "the Doppler is read", || {
                std::future::ready(router.log().is_read())
            })
            .await;
            Vec::with_capacity(2 * PIPE)
        });
        Pipeline {
            door: Door::new(router, Arc::new(doppler::metrics::Metrics::new())),
            runtime,
            client,
            buffer,
            _drains: drains,
        }
    }

    /// Hands a message to the door, and waits until the client has that many envelopes.
    pub(crate) fn carry(&mut self, message: &[u8], envelopes: usize) {
        let (door, client, buffer) = (&self.door, &mut self.client, &mut self.buffer);
        self.runtime.block_on(async {
            assert_eq!(door.batch(message).await, Ok(()));
            let mut left = envelopes;
            while left > 0 {
                let read = client.read_buf(buffer).await.expect("a pipe");
                assert!(read > 0, "the stream has ended");
                let mut whole = 0;
                loop {
                    match head(&buffer[whole..]) {
                        Head::Binary(length) => {
                            whole += length;
                            left -= 1;
                        }
                        Head::Other(length) => whole += length,
                        Head::Partial(_) => break,
                    }
                }
                buffer.drain(..whole);
            }
        });
    }
}

async fn serve(egress: Egress, stream: Stream) {
    let who = Peer::of(&stream);
    let answer = service_fn(move |request| {
        let response = egress.answer(request, "traffic-controller", &who);
        async { Ok::<_, Infallible>(response) }
    });
    // It ends when the process does.
    let _ = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades()
        .await;
}
