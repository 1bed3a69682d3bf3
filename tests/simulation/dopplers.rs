//! Simulated Dopplers: their routers and their way out, with a producer at the door.

use bytes::Bytes;
use doppler::egress::Egress;
use doppler::ingress::Door;
use doppler::metrics::Metrics;
use doppler::readers::{Peer, Readers};
use doppler::router::Router;
use doppler::router::recent::Recents;
use harness::envelopes::{Workload, batch, prefix};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use transport::listener::Stream;
use transport::log::GATHER;
use transport::shutdown::Drain;
use turmoil::net::TcpListener;

/// Where a Doppler listens on its host.
pub(crate) const PORT: u16 = 8082;

/// How long a Doppler's group outlives its last member.
const LINGER: Duration = Duration::from_secs(5);

/// One run of a Doppler's process, seen from outside: also after it was killed.
pub(crate) struct Life {
    pub router: Arc<Router>,
    /// It is asked to drain, or only to take nothing more.
    pub order: watch::Sender<Order>,
    /// It has drained.
    pub is_over: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Run,
    /// Nothing comes in any more.
    Quiet,
    Drain,
}

/// All lives of one Doppler, the last of which may be running.
#[derive(Clone, Default)]
pub(crate) struct Lives(Arc<Mutex<Vec<Arc<Life>>>>);

impl Lives {
    pub(crate) fn all(&self) -> Vec<Arc<Life>> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Arc<Life> {
        self.all().pop().expect("it was started")
    }
}

/// The name of a Doppler's host.
pub(crate) fn host(doppler: usize) -> String {
    format!("doppler-{doppler}")
}

/// Runs Doppler number `doppler` once more.
pub(crate) async fn run(doppler: usize, lives: Lives) -> turmoil::Result {
    let recents = Recents::new(10, 1 << 20, Duration::from_secs(120));
    let router = Arc::new(Router::new(1 << 20, 1 << 20, recents));
    let (order, mut orders) = watch::channel(Order::Run);
    let life = Arc::new(Life {
        router: router.clone(),
        order,
        is_over: AtomicBool::new(false),
    });
    let number = {
        let mut lives = lives.0.lock().unwrap();
        lives.push(life.clone());
        lives.len()
    };
    let links = Drain::new();
    let egress = Egress {
        router: router.clone(),
        readers: Readers::new(&[], false),
        linger: LINGER,
        shutdown: links.shutdown(),
        metrics: Arc::new(Metrics::new()),
    };
    let sealed = router.clone();
    let sealing = tokio::spawn(async move { sealed.log().keep_sealing(GATHER).await });
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let producer = produce(doppler * 1_000 + number, router.clone(), orders.clone());
    let producer = tokio::spawn(producer);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (tcp, peer) = accepted?;
                tokio::spawn(serve(egress.clone(), Stream::Simulated(Box::new(tcp)), peer.to_string()));
            }
            _ = orders.wait_for(|order| *order == Order::Drain) => break,
        }
    }
    // As the server does: the doors, what is waiting, the links.
    drop(listener);
    producer.await?;
    router.log().close();
    router.apps().close();
    links.begin();
    links.wait(Duration::from_secs(2)).await?;
    sealing.abort();
    life.is_over.store(true, Ordering::Relaxed);
    Ok(())
}

async fn serve(egress: Egress, stream: Stream, peer: String) {
    let who = Peer::of(&stream);
    let answer = service_fn(move |request| {
        let response = egress.answer(request, &peer, &who);
        async { Ok::<_, Infallible>(response) }
    });
    // Whoever hangs up has its reasons.
    let _ = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades()
        .await;
}

/// Two apps' logs, some at a time, until they are wanted no more.
async fn produce(id: usize, router: Arc<Router>, mut orders: watch::Receiver<Order>) {
    let door = Door::new(router, Arc::new(Metrics::new()));
    let workload = Workload::logs(2, 50);
    let mut sequence = 0;
    loop {
        let wait = Duration::from_micros(fastrand::u64(1_000..40_000));
        tokio::select! {
            _ = orders.wait_for(|order| *order != Order::Run) => return,
            () = tokio::time::sleep(wait) => {}
        }
        let count = fastrand::u64(1..30);
        let envelopes = (sequence..sequence + count).map(|n| workload.envelope(id as u32, n));
        let message: Bytes = batch(envelopes).slice(prefix(0).len()..);
        door.batch(&message).await.expect("what we send is good");
        sequence += count;
    }
}
