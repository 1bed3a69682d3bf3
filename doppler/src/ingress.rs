//! What every door does with an envelope: check it, frame it as v1 if somebody reads it, and
//! publish. Every envelope is counted once: as accepted, or as lost for a reason.

mod gate;
pub mod grpc;
mod half_received;
mod messages;

pub use gate::Gate;
pub use half_received::Budget;

use crate::metrics::{self, Metrics};
use crate::router::batch::Batch;
use crate::router::{Interest, Router};
use proto::batch::split;
use proto::transcode::View;
use proto::{Malformed, Refused};
use std::sync::Arc;
use transport::clock::unix_ns;
use transport::ledger::Reason;

/// A batch is published when its frames reach this size, so that one message full of gauges,
/// which grow when converted, cannot hold more than this at a time.
const PUBLISH_AT: usize = 64 << 10;

/// After so many bytes of a message others get their turn on this thread: a large one takes a
/// while, and somebody's ping may be waiting.
const YIELD_AT: usize = 256 << 10;

/// One producer's way in.
pub struct Door {
    router: Arc<Router>,
    metrics: Arc<Metrics>,
}

/// What a message of envelopes amounted to.
#[derive(Default)]
struct Tally {
    envelopes: u64,
    conversions: u64,
    refused: metrics::Refused,
}

impl Door {
    /// A door to `router`.
    pub fn new(router: Arc<Router>, metrics: Arc<Metrics>) -> Door {
        Door { router, metrics }
    }

    /// Takes an `EnvelopeBatch` as it came. `Err` refuses the message as a whole; a bad
    /// envelope in a good batch is counted and skipped.
    pub async fn batch(&self, message: &[u8]) -> Result<(), Malformed> {
        // The whole message first: half a batch is not published.
        split(message).try_for_each(|envelope| envelope.map(drop))?;
        let mut tally = Tally::default();
        let mut envelopes = split(message);
        while self.work(&mut envelopes, &mut tally)? {
            tokio::task::yield_now().await;
        }
        self.finish(tally);
        Ok(())
    }

    /// Takes one v2 envelope as it came.
    pub fn envelope(&self, envelope: &[u8]) {
        let mut tally = Tally::default();
        let mut batch = self.router.spare().take();
        let interest = self.router.interest();
        take(envelope, &interest, &mut batch, unix_ns(), &mut tally);
        interest.publish(&mut batch);
        drop(interest);
        self.router.spare().give_back(batch);
        self.finish(tally);
    }

    /// Takes one v1 envelope as it came; it passes through unchanged.
    pub fn v1(&self, envelope: &[u8]) {
        let mut tally = Tally::default();
        tally.envelopes += 1;
        match proto::scan::v1(envelope) {
            Ok(facts) => {
                tally.conversions += 1;
                let mut batch = self.router.spare().take();
                batch.push_v1(envelope, facts.log, facts.app.as_bytes());
                let interest = self.router.interest();
                interest.keep_v1(&facts, envelope, unix_ns());
                interest.publish(&mut batch);
                drop(interest);
                self.router.spare().give_back(batch);
            }
            Err(refused) => tally.refused.add(reason(refused), b""),
        }
        self.finish(tally);
    }

    /// Takes and publishes envelopes until there are no more, or it is the others' turn; returns
    /// whether it is.
    fn work<'a>(
        &self,
        envelopes: impl Iterator<Item = Result<&'a [u8], Malformed>>,
        tally: &mut Tally,
    ) -> Result<bool, Malformed> {
        let mut batch = self.router.spare().take();
        let (interest, now) = (self.router.interest(), unix_ns());
        let mut worked = 0;
        for envelope in envelopes {
            let envelope = envelope?;
            take(envelope, &interest, &mut batch, now, tally);
            worked += envelope.len() + 1;
            if batch.bytes() >= PUBLISH_AT {
                worked += batch.bytes();
                interest.publish(&mut batch);
            }
            if worked >= YIELD_AT {
                break;
            }
        }
        if !batch.is_empty() {
            interest.publish(&mut batch);
        }
        drop(interest);
        self.router.spare().give_back(batch);
        Ok(worked >= YIELD_AT)
    }

    fn finish(&self, tally: Tally) {
        self.metrics
            .received(tally.envelopes, tally.conversions, tally.refused);
    }
}

fn take(
    envelope: &[u8],
    interest: &Interest<'_>,
    batch: &mut Batch,
    now_ns: i64,
    tally: &mut Tally,
) {
    tally.envelopes += 1;
    let view = match View::parse(envelope) {
        Ok(view) => view,
        Err(refused) => return tally.refused.add(reason(refused), b""),
    };
    match frame(&view, interest, batch) {
        Ok(conversions) => {
            interest.keep(&view, envelope, now_ns);
            tally.conversions += u64::from(conversions);
        }
        Err(refused) => tally.refused.add(reason(refused), view.source_id()),
    }
}

/// Frames the v1 forms of an envelope, if anybody reads them; returns how many it has.
fn frame(view: &View<'_>, interest: &Interest<'_>, batch: &mut Batch) -> Result<u32, Refused> {
    match interest.wants(view) {
        true => view.to_v1(batch),
        false => view.conversions(),
    }
}

fn reason(refused: Refused) -> Reason {
    match refused {
        Refused::Malformed(_) => Reason::Malformed,
        Refused::NotV1(_) => Reason::NotV1,
        Refused::TooLarge(_) => Reason::TooLarge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::app_store::Taken;
    use crate::router::recent::Recents;
    use prost::Message;
    use proto::link::{Recent, split_handle};
    use proto::v2::{self, envelope};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// A message of ten logs of one app, that say whose they are and which.
    fn message(door: u64, from: u64) -> Vec<u8> {
        let log = |n: u64| v2::Envelope {
            source_id: "a".into(),
            message: Some(envelope::Message::Log(v2::Log {
                payload: format!("{door}/{n}").into(),
                ..Default::default()
            })),
            ..Default::default()
        };
        let batch = (from..from + 10).map(log).collect();
        v2::EnvelopeBatch { batch }.encode_to_vec()
    }

    /// What a message of an app link says: its handle, and door and number of a log.
    fn said(message: &[u8]) -> (u32, Option<(u64, u64)>) {
        let (handle, envelope) = split_handle(message).unwrap();
        if envelope.is_empty() {
            return (handle, None);
        }
        let log = proto::v1::decode(envelope).unwrap().log_message.unwrap();
        let text = String::from_utf8(log.message).unwrap();
        let (door, n) = text.split_once('/').unwrap();
        (handle, Some((door.parse().unwrap(), n.parse().unwrap())))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn who_asks_while_doors_publish_misses_nothing_and_gets_nothing_twice() {
        let recents = Recents::new(100, 32 << 20, Duration::from_secs(120));
        let router = Arc::new(Router::new(1 << 20, 32 << 20, recents));
        let metrics = Arc::new(Metrics::new());
        let done = Arc::new(AtomicBool::new(false));
        let doors: Vec<_> = (0..2)
            .map(|id| {
                let door = Door::new(router.clone(), metrics.clone());
                let done = done.clone();
                tokio::spawn(async move {
                    for n in 0.. {
                        if done.load(Ordering::Relaxed) {
                            return;
                        }
                        door.batch(&message(id, 10 * n)).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for _ in 0..200 {
            let mut link = router.app_link("tc");
            link.subscribe(1, "a").unwrap();
            let asked = Recent {
                handle: 2,
                app: "a".into(),
                logs: 100,
                metrics: false,
                tail: Some(1),
            };
            assert!(link.answer(&asked, router.recents(), 0));
            let (mut shown, mut marked, mut behind) = ([Vec::new(), Vec::new()], false, 0);
            while behind < 50 {
                let Some(Taken::Frames(frames)) = link.take(|| 0).await else {
                    panic!("the store is open")
                };
                link.sent();
                for message in transport::frame::payloads(&frames.into()) {
                    match said(&message) {
                        (2, None) => marked = true,
                        (2, Some((door, n))) => shown[door as usize].push(n),
                        (1, Some((door, n))) if marked => {
                            behind += 1;
                            shown[door as usize].push(n);
                        }
                        // The snapshot has it.
                        _ => {}
                    }
                }
            }
            for numbers in &shown {
                let goes_on = numbers.windows(2).all(|pair| pair[1] == pair[0] + 1);
                assert!(goes_on, "{numbers:?}");
            }
        }
        done.store(true, Ordering::Relaxed);
        for door in doors {
            door.await.unwrap();
        }
        let accounts = router.accounts();
        assert_eq!(accounts.gone.imbalance(), 0);
    }
}
