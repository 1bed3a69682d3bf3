//! Whatever somebody sends: it is counted by reason, answered clearly, bounded in memory, and
//! the stream beside it does not notice.

mod frames;
mod grpc;
mod http;
mod http2;
mod links;

use crate::SOON;
use harness::admin;
use harness::cluster::Cluster;
use harness::envelopes::Workload;
use harness::eventually;
use harness::reader::Reader;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinHandle;

/// The canary's producer.
const CANARY: u32 = 999;

/// A stream beside: an agent that sends all the time, a firehose and a tail that read it.
struct Canary {
    sending: JoinHandle<u64>,
    enough: Arc<AtomicBool>,
    firehose: Arc<Reader>,
    tail: Arc<Reader>,
}

impl Canary {
    /// Begins to send to the first Doppler and to read at the first Traffic Controller.
    async fn beside(cluster: &Cluster) -> Canary {
        Canary::of(cluster, 50).await
    }

    /// The same with logs of so many bytes, in messages of a hundred.
    async fn of(cluster: &Cluster, payload: usize) -> Canary {
        let controller = &cluster.controllers[0];
        let firehose = Arc::new(controller.firehose("canary").open().await);
        let tail = Arc::new(controller.tail(0).open().await);
        cluster.subscribed("canary", 1).await;
        cluster.tailed([0], 1).await;
        let mut producer = cluster.dopplers[0]
            .producer(CANARY, Workload::logs(1, payload))
            .await;
        let enough = Arc::new(AtomicBool::new(false));
        let (done, follow, tailed) = (enough.clone(), firehose.clone(), tail.clone());
        let sending = tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                producer.send(100).await;
                follow.receives(producer.sent(), SOON).await;
                tailed.receives(producer.sent(), SOON).await;
                tokio::task::yield_now().await;
            }
            producer.sent()
        });
        Canary {
            sending,
            enough,
            firehose,
            tail,
        }
    }

    /// How many of its envelopes have arrived.
    fn heard(&self) -> u64 {
        self.firehose.received()
    }

    /// Panics unless both readers have everything, some of it sent after this was asked.
    async fn sings(self) {
        let before = self.firehose.received();
        eventually(SOON, "the canary is heard again", async || {
            self.sending.is_finished() || self.firehose.received() >= before + 200
        })
        .await;
        self.enough.store(true, Ordering::Relaxed);
        let sent = self.sending.await.expect("the canary sings on");
        for reader in [&self.firehose, &self.tail] {
            let seen = reader.seen();
            assert_eq!(
                (seen.of(CANARY), seen.duplicates, seen.foreign),
                (sent, 0, 0)
            );
            assert_eq!((seen.notices.len(), reader.is_over()), (0, None));
        }
    }
}

/// What a process has counted as wrong so far, whatever the reason.
async fn wrongs(admin: SocketAddr) -> u64 {
    let wrongs = admin::metrics(admin).await.wrongs().values().sum::<f64>();
    wrongs as u64
}

/// Waits until a process has counted so many wrongs more than `before`.
#[track_caller]
fn counted(admin: SocketAddr, before: u64, more: usize) -> impl Future<Output = ()> {
    let what = format!("{more} more than {before} are counted by reason");
    eventually(SOON, &what, move || async move {
        wrongs(admin).await >= before + more as u64
    })
}

/// Waits until a process has counted exactly so many, for that reason, under that name.
#[track_caller]
fn counts(admin: SocketAddr, name: &str, reason: &str, exactly: u64) -> impl Future<Output = ()> {
    let what = format!("{name}{{reason={reason:?}}} is {exactly}");
    let (name, reason) = (name.to_owned(), reason.to_owned());
    eventually(SOON, &what, move || {
        let (name, reason) = (name.clone(), reason.clone());
        async move {
            admin::metrics(admin)
                .await
                .sum(&name, &[("reason", &reason)])
                == exactly as f64
        }
    })
}
