//! A simulated Traffic Controller: its Dopplers, topics and front.

use crate::dopplers::Order;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use traffic_controller::access::Access;
use traffic_controller::dopplers::Members;
use traffic_controller::dopplers::discovery::Addresses;
use traffic_controller::dopplers::members::Sources;
use traffic_controller::front::{Edge, Ends, Front, Leaving, connection};
use traffic_controller::metrics::Metrics;
use traffic_controller::page::Ledger;
use traffic_controller::streams::Streams;
use traffic_controller::topics::Topics;
use transport::listener::simulated::Network;
use transport::listener::{Dialer, Stream};
use transport::shutdown::Drain;
use turmoil::net::{TcpListener, TcpStream};

/// Its host.
pub(crate) const HOST: &str = "traffic-controller";

/// Where it listens for clients.
pub(crate) const PORT: u16 = 8081;

/// What is seen of it from outside, and said to it.
#[derive(Clone)]
pub(crate) struct Outside {
    pub named: watch::Receiver<Arc<Addresses>>,
    pub order: watch::Receiver<Order>,
    pub ledger: Arc<OnceLock<Arc<Ledger>>>,
    pub is_over: watch::Sender<bool>,
}

pub(crate) async fn run(mut outside: Outside) -> turmoil::Result {
    let network = Network::new(|address: String| async move {
        let (host, port) = address.split_once(':').expect("we named it");
        TcpStream::connect((host, port.parse().expect("we named it"))).await
    });
    let dialer = Dialer {
        simulated: Some(network),
        ..Dialer::new(None, Duration::from_secs(5))
    };
    let topics = Topics::new(64 << 20, 256 << 10);
    let streams = Streams::new(100);
    let sources = Sources {
        file: Some(outside.named.clone().into()),
        ..Sources::default()
    };
    let (links, clients) = (Drain::new(), Drain::new());
    let members = Members::new(sources, dialer, topics.clone());
    let dopplers = members.dopplers();
    let ledger = Arc::new(Ledger {
        streams: streams.clone(),
        topics: topics.clone(),
        app_links: members.app_links(),
    });
    assert!(outside.ledger.set(ledger).is_ok(), "it is started once");
    links.shutdown().spawn(members.run(links.shutdown()));
    let front = Arc::new(Front {
        access: Access::Open,
        edge: Edge::default(),
        dopplers,
        topics: topics.clone(),
        streams,
        metrics: Arc::new(Metrics::new()),
        shutdown: clients.shutdown(),
        leaving: Leaving::new(clients.shutdown(), Duration::ZERO),
    });
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (tcp, peer) = accepted?;
                let stream = Stream::Simulated(Box::new(tcp));
                let ends = Ends { peer, local: peer };
                tokio::spawn(connection::answer(stream, front.clone(), ends));
            }
            _ = outside.order.wait_for(|order| *order == Order::Drain) => break,
        }
    }
    // As the server does.
    clients.begin();
    links.begin();
    links.wait(Duration::from_millis(1_600)).await?;
    topics.close();
    clients.wait(Duration::from_millis(2_400)).await?;
    outside.is_over.send_replace(true);
    Ok(())
}
