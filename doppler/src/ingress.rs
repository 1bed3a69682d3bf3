//! What every door does with an envelope: check it, frame it as v1 if somebody reads it, and
//! publish. Every envelope is counted once: as accepted, or as lost for a reason.

pub mod grpc;
mod half_received;

pub use half_received::Budget;

use crate::metrics::Metrics;
use crate::router::Router;
use crate::router::batch::Batch;
use proto::batch::split;
use proto::transcode::View;
use proto::{Malformed, Refused};
use std::sync::Arc;
use transport::ledger::{Dropped, Reason};

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
    batch: Batch,
}

/// What a message of envelopes amounted to.
#[derive(Default)]
struct Tally {
    envelopes: u64,
    conversions: u64,
    dropped: Dropped,
}

impl Door {
    /// A door to `router`.
    pub fn new(router: Arc<Router>, metrics: Arc<Metrics>) -> Door {
        Door {
            router,
            metrics,
            batch: Batch::default(),
        }
    }

    /// Takes an `EnvelopeBatch` as it came. `Err` refuses the message as a whole; a bad
    /// envelope in a good batch is counted and skipped.
    pub async fn batch(&mut self, message: &[u8]) -> Result<(), Malformed> {
        // The whole message first: half a batch is not published.
        split(message).try_for_each(|envelope| envelope.map(drop))?;
        let mut tally = Tally::default();
        let mut worked = 0;
        for envelope in split(message) {
            let envelope = envelope?;
            self.take(envelope, &mut tally);
            worked += envelope.len() + 1;
            if self.batch.bytes() >= PUBLISH_AT {
                worked += self.batch.bytes();
                self.router.publish(&mut self.batch);
            }
            if worked >= YIELD_AT {
                worked = 0;
                tokio::task::yield_now().await;
            }
        }
        self.finish(tally);
        Ok(())
    }

    /// Takes one v2 envelope as it came.
    pub fn envelope(&mut self, envelope: &[u8]) {
        let mut tally = Tally::default();
        self.take(envelope, &mut tally);
        self.finish(tally);
    }

    /// Takes one v1 envelope as it came; it passes through unchanged.
    pub fn v1(&mut self, envelope: &[u8]) {
        let mut tally = Tally::default();
        tally.envelopes += 1;
        match proto::scan::v1(envelope) {
            Ok(facts) => {
                tally.conversions += 1;
                self.batch
                    .push_v1(envelope, facts.log, facts.app.as_bytes());
            }
            Err(refused) => tally.dropped.add(reason(refused), 1),
        }
        self.finish(tally);
    }

    fn take(&mut self, envelope: &[u8], tally: &mut Tally) {
        tally.envelopes += 1;
        match self.frame(envelope) {
            Ok(conversions) => tally.conversions += u64::from(conversions),
            Err(refused) => tally.dropped.add(reason(refused), 1),
        }
    }

    /// Frames the v1 forms of an envelope, if anybody reads them; returns how many it has.
    fn frame(&mut self, envelope: &[u8]) -> Result<u32, Refused> {
        let view = View::parse(envelope)?;
        if self.router.interest().wants(&view) {
            view.to_v1(&mut self.batch)
        } else {
            view.conversions()
        }
    }

    fn finish(&mut self, tally: Tally) {
        if !self.batch.is_empty() {
            self.router.publish(&mut self.batch);
        }
        self.metrics
            .received(tally.envelopes, tally.conversions, &tally.dropped);
    }
}

fn reason(refused: Refused) -> Reason {
    match refused {
        Refused::Malformed(_) => Reason::Malformed,
        Refused::NotV1(_) => Reason::NotV1,
        Refused::TooLarge(_) => Reason::TooLarge,
    }
}
