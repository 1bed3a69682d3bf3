//! What every door does with an envelope: check it, frame it as v1 if somebody reads it, and
//! publish. Every envelope is counted twice: as taken, and as accepted or lost for a reason.

mod account;
mod gate;
pub mod grpc;
mod half_received;
mod messages;

pub use account::Account;
pub(crate) use account::Refused as RefusedByApp;
pub use gate::Gate;
pub use half_received::Budget;

use crate::metrics::Metrics;
use crate::router::batch::Batch;
use crate::router::recent::ToKeep;
use crate::router::{Interest, Router};
use account::Tally;
use proto::batch::{Split, split};
use proto::transcode::View;
use proto::{Malformed, Refused};
use smallvec::SmallVec;
use std::sync::Arc;
use transport::clock::unix_ns;
use transport::ledger::Reason;

/// A batch is published when its frames reach this size, so that one message full of gauges,
/// which grow when converted, cannot hold more than this at a time.
const PUBLISH_AT: usize = 64 << 10;

/// So many envelopes are kept together, if there are so many before the others' turn. Where they
/// are noted lies on the stack: 14 KiB, and no allocation for a message.
const KEEP_AT: usize = 256;

/// After so many bytes of a message others get their turn on this thread: a large one takes a
/// while, and somebody's ping may be waiting.
const YIELD_AT: usize = 256 << 10;

/// One producer's way in.
pub struct Door {
    router: Arc<Router>,
    metrics: Arc<Metrics>,
}

/// A message that is being taken. If its agent leaves while others have their turn, that is the
/// end of it: to go on would take memory that no connection answers for any more.
struct Taking<'a> {
    door: &'a Door,
    envelopes: Split<'a>,
    tally: Tally<'a>,
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
        let count = |count, envelope: Result<&[u8], Malformed>| envelope.map(|_| count + 1);
        let mut taking = Taking {
            door: self,
            tally: Tally::taken(&self.metrics, split(message).try_fold(0, count)?),
            envelopes: split(message),
        };
        while taking.work() {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Takes one v2 envelope as it came.
    pub fn envelope(&self, envelope: &[u8]) {
        let mut tally = Tally::taken(&self.metrics, 1);
        let mut batch = self.router.spare().take();
        let interest = self.router.interest();
        let kept = take(envelope, &interest, &mut batch, &mut tally);
        interest.keep(kept.as_slice(), unix_ns());
        tally.published(interest.publish(&mut batch));
        drop(interest);
        self.router.spare().give_back(batch);
    }

    /// Takes one v1 envelope as it came; it passes through unchanged.
    pub fn v1(&self, envelope: &[u8]) {
        let mut tally = Tally::taken(&self.metrics, 1);
        match proto::scan::v1(envelope) {
            Ok(facts) => {
                tally.accepted(1);
                let mut batch = self.router.spare().take();
                batch.push_v1(envelope, facts.log, facts.app.as_bytes());
                let interest = self.router.interest();
                let kept = interest.to_keep_v1(&facts, envelope);
                interest.keep(kept.as_slice(), unix_ns());
                tally.published(interest.publish(&mut batch));
                drop(interest);
                self.router.spare().give_back(batch);
            }
            Err(refused) => tally.refused(reason(refused), b""),
        }
    }
}

impl Taking<'_> {
    /// Takes and publishes envelopes until there are no more, or it is the others' turn; returns
    /// whether it is.
    fn work(&mut self) -> bool {
        let Taking {
            door,
            envelopes,
            tally,
        } = self;
        let mut batch = door.router.spare().take();
        let (interest, now) = (door.router.interest(), unix_ns());
        let (mut worked, mut kept) = (0, SmallVec::<[ToKeep<'_>; KEEP_AT]>::new());
        for envelope in whole(envelopes) {
            kept.extend(take(envelope, &interest, &mut batch, tally));
            if kept.len() >= KEEP_AT {
                interest.keep(&kept, now);
                kept.clear();
            }
            worked += envelope.len() + 1;
            if batch.bytes() >= PUBLISH_AT {
                worked += batch.bytes();
                tally.published(interest.publish(&mut batch));
            }
            if worked >= YIELD_AT {
                break;
            }
        }
        interest.keep(&kept, now);
        if !batch.is_empty() {
            tally.published(interest.publish(&mut batch));
        }
        drop(interest);
        door.router.spare().give_back(batch);
        worked >= YIELD_AT
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        let left = whole(&mut self.envelopes).count() as u64;
        self.tally.not_looked_at(Reason::CloseResidue, left);
    }
}

/// The envelopes of a message that was looked through.
fn whole<'a>(envelopes: &mut Split<'a>) -> impl Iterator<Item = &'a [u8]> {
    envelopes.map_while(Result::ok)
}

/// Takes an envelope; returns it if it is to be kept.
fn take<'a>(
    envelope: &'a [u8],
    interest: &Interest<'_>,
    batch: &mut Batch,
    tally: &mut Tally<'_>,
) -> Option<ToKeep<'a>> {
    let view = match View::parse(envelope) {
        Ok(view) => view,
        Err(refused) => {
            tally.refused(reason(refused), b"");
            return None;
        }
    };
    match frame(&view, interest, batch, tally) {
        Ok(conversions) => {
            tally.accepted(conversions);
            interest.to_keep(&view, envelope)
        }
        Err(refused) => {
            tally.refused(reason(refused), view.source_id());
            None
        }
    }
}

/// Frames the v1 forms of an envelope, if anybody reads them; returns how many it has.
fn frame(
    view: &View<'_>,
    interest: &Interest<'_>,
    batch: &mut Batch,
    tally: &mut Tally<'_>,
) -> Result<u32, Refused> {
    match interest.wants(view) {
        true => view.to_v1(batch),
        false => view
            .conversions()
            .inspect(|conversions| tally.unread(*conversions)),
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
    use std::task::{Context, Waker};
    use std::time::Duration;

    fn router() -> Arc<Router> {
        let recents = Recents::new(100, 32 << 20, Duration::from_secs(120));
        Arc::new(Router::new(1 << 20, 32 << 20, recents))
    }

    fn of_one_app(message: Option<envelope::Message>) -> v2::Envelope {
        v2::Envelope {
            source_id: "a".into(),
            message,
            ..Default::default()
        }
    }

    fn log(payload: Vec<u8>) -> v2::Envelope {
        of_one_app(Some(envelope::Message::Log(v2::Log {
            payload,
            ..Default::default()
        })))
    }

    /// A gauge with so many metrics: one that says nothing, or becomes as many envelopes.
    fn gauge(metrics: usize) -> v2::Envelope {
        let value = v2::GaugeValue {
            unit: "u".into(),
            value: 1.0,
        };
        let named = (0..metrics).map(|n| (n.to_string(), value.clone()));
        let metrics = named.collect();
        of_one_app(Some(envelope::Message::Gauge(v2::Gauge { metrics })))
    }

    fn encoded(batch: Vec<v2::Envelope>) -> Vec<u8> {
        v2::EnvelopeBatch { batch }.encode_to_vec()
    }

    #[tokio::test]
    async fn every_envelope_is_taken_and_accepted_or_lost_and_what_it_becomes_published_or_unread()
    {
        let (router, metrics) = (router(), Arc::new(Metrics::new()));
        let door = Door::new(router.clone(), metrics.clone());
        let mut message = encoded(vec![
            log(b"said".into()),
            gauge(3),
            gauge(0),
            gauge(2_000),
            of_one_app(None),
        ]);
        // And what is no envelope.
        message.extend([0x0a, 2, 0x0a, 5]);
        let v1 = proto::v1::Envelope {
            origin: "a".into(),
            event_type: proto::v1::envelope::EventType::LogMessage as i32,
            ..Default::default()
        };
        let came = async || {
            door.batch(&message).await.unwrap();
            door.envelope(&log(b"alone".into()).encode_to_vec());
            door.v1(&v1.encode_to_vec());
            door.v1(b"");
            // A message that is none is refused as a whole: nobody knows of how many.
            door.batch(b"\x0a").await.unwrap_err();
            metrics.ingress()
        };
        let mut due = Account {
            taken: 9,
            accepted: 4,
            conversions: 6,
            // What comes as v1 is written already.
            published: 1,
            unread: 5,
            ..Account::default()
        };
        due.dropped.add(Reason::Malformed, 2);
        due.dropped.add(Reason::NotV1, 2);
        due.dropped.add(Reason::TooLarge, 1);
        assert_eq!(came().await, due);

        let mut all = due;
        all += due;
        (all.published, all.unread) = (7, 5);
        let member = router.firehose("n", transport::log::Filter::Everything);
        assert_eq!(came().await, all);
        assert_eq!(member.account().offered, 6);
        assert_eq!(all.imbalance(), 0);
    }

    #[tokio::test]
    async fn of_a_message_whose_agent_leaves_midway_each_envelope_is_accepted_or_lost() {
        let (router, metrics) = (router(), Arc::new(Metrics::new()));
        let door = Door::new(router.clone(), metrics.clone());
        let member = router.firehose("n", transport::log::Filter::Everything);
        let message = encoded(vec![log(vec![b'x'; 1 << 10]); 1_000]);
        let mut taking = Box::pin(door.batch(&message));
        let turn = taking
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(turn.is_pending(), "it is the others'");
        drop(taking);
        let came = metrics.ingress();
        let published = member.account().offered;
        assert!(published > 0 && published < 1_000);
        assert_eq!((came.taken, came.accepted), (1_000, published));
        assert_eq!(came.dropped[Reason::CloseResidue], 1_000 - published);
        assert_eq!(came.imbalance(), 0);
    }

    /// A message of ten logs of one app, that say whose they are and which.
    fn message(door: u64, from: u64) -> Vec<u8> {
        let said = |n: u64| log(format!("{door}/{n}").into());
        encoded((from..from + 10).map(said).collect())
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
        let router = router();
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
            assert_eq!(metrics.ingress().imbalance(), 0, "at any moment");
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
