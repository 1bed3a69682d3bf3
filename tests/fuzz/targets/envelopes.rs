//! Envelopes as agents and emitters send them. Prost is the oracle: what it reads we read, and
//! make the same of it.

use prost::Message;
use proto::convert::{self, Tags};
use proto::transcode::{MAX_EXPANSION_BYTES, V1Sink, View, v1_to_v2};
use proto::{Malformed, Refused, batch, scan, v1, v2};

/// Splits a batch, and makes v1 of each of its envelopes.
pub(super) fn v2_batch(bytes: &[u8]) {
    let ours: Result<Vec<&[u8]>, Malformed> = batch::split(bytes).collect();
    match (&ours, v2::EnvelopeBatch::decode(bytes)) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.len(), theirs.batch.len());
            for (ours, theirs) in ours.iter().zip(&theirs.batch) {
                let ours = v2::Envelope::decode(*ours).map(|envelope| envelope.encode_to_vec());
                // Encoded, so that a NaN is equal to itself.
                assert_eq!(ours, Ok(theirs.encode_to_vec()));
            }
        }
        // The split does not look into envelopes; prost does.
        (Ok(ours), Err(_)) => assert!(ours.iter().any(|envelope| {
            v2::Envelope::decode(*envelope).is_err() || nests_deeply(envelope)
        })),
        (Err(ours), Ok(_)) => assert!(nests_deeply(bytes), "{ours}"),
        (Err(_), Err(_)) => {}
    }
    ours.into_iter().flatten().for_each(v2);
    // The other message an emitter sends: one envelope, the last of its kind.
    if let Ok(payload) = batch::payload(bytes) {
        assert!(payload.len() <= bytes.len());
    }
}

/// Makes v1 of an envelope.
pub(super) fn v2(bytes: &[u8]) {
    let view = View::parse(bytes);
    let decoded = v2::Envelope::decode(bytes);
    match (view, decoded) {
        (Ok(view), Ok(decoded)) => {
            assert_eq!(view.source_id(), decoded.source_id.as_bytes());
            let mut sink = Sink::default();
            let written = view.to_v1(&mut sink);
            assert_eq!(view.conversions(), written);
            let ours = written.map(|count| {
                assert_eq!(count as usize, sink.envelopes.len());
                sink.envelopes
            });
            // One envelope repeats its ids and is otherwise shorter than before; several share
            // one limit.
            let made: usize = ours.iter().flatten().map(Vec::len).sum();
            assert!(
                made <= MAX_EXPANSION_BYTES.max(4 * bytes.len() + 1024),
                "{made}"
            );
            match ours {
                Err(Refused::TooLarge(_)) => {}
                ours => {
                    let theirs = convert::to_v1(&decoded).map(|envelopes| {
                        let encoded = envelopes.iter().map(|envelope| envelope.encode_to_vec());
                        encoded.collect::<Vec<_>>()
                    });
                    let ours = ours.map(|envelopes| {
                        let again =
                            |bytes: &Vec<u8>| v1::decode(bytes).map(|it| it.encode_to_vec());
                        envelopes.iter().map(again).collect::<Result<Vec<_>, _>>()
                    });
                    assert_eq!(ours, theirs.map(Ok), "{decoded:?}");
                }
            }
        }
        (Err(Refused::Malformed(why)), Ok(_)) => {
            // Prost does not look at the wire type of a map's entry.
            assert!(why.contains("wire type") || nests_deeply(bytes), "{why}");
        }
        (Err(Refused::Malformed(_)), Err(_)) => {}
        (Ok(_), Err(_)) if nests_deeply(bytes) => {}
        (ours, theirs) => panic!("{ours:?} but {theirs:?}"),
    }
}

/// Reads an envelope of v1, and makes v2 of it.
pub(super) fn v1(bytes: &[u8]) {
    let mut out = b"before".to_vec();
    let ours = v1_to_v2(bytes, &mut out);
    let decoded = v1::decode(bytes);
    assert_eq!(ours, decoded.clone().map(drop).map_err(Refused::from));
    let decoded = match (decoded, v1::Envelope::decode(bytes)) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
            ours
        }
        // A string that is not UTF-8.
        (Ok(repaired), Err(_)) => repaired,
        (Err(Malformed(why)), Ok(_)) => {
            // What prost does not look at: a map's wire type, and that nothing is missing.
            let known = ["wire type", "without"]
                .iter()
                .any(|known| why.contains(known));
            assert!(known || nests_deeply(bytes), "{why}");
            return assert_eq!(out, b"before");
        }
        (Err(_), Err(_)) => return assert_eq!(out, b"before"),
    };
    let ours = v2::Envelope::decode(&out[6..]).map(|envelope| envelope.encode_to_vec());
    let theirs = convert::to_v2(&decoded, Tags::Preferred).encode_to_vec();
    assert_eq!(ours, Ok(theirs), "{decoded:?}");

    let facts = scan::v1(bytes).unwrap();
    let log = v1::envelope::EventType::LogMessage as i32;
    assert_eq!(facts.log, decoded.event_type == log);
    let app = String::from_utf8_lossy(facts.app.as_bytes());
    assert_eq!(app, decoded.app_id().unwrap_or_default());
}

/// Whether there may be as many groups in each other as one of the two readers refuses: they
/// count from different depths.
fn nests_deeply(bytes: &[u8]) -> bool {
    bytes.iter().filter(|byte| **byte & 7 == 3).count() >= 90
}

/// Checks what is said of each envelope, and keeps it.
#[derive(Default)]
struct Sink {
    buffer: Vec<u8>,
    envelopes: Vec<Vec<u8>>,
}

impl V1Sink for Sink {
    fn begin(&mut self) -> &mut Vec<u8> {
        self.buffer.clear();
        &mut self.buffer
    }

    fn end(&mut self, log: bool, app: &[u8]) {
        let facts = scan::v1(&self.buffer).unwrap();
        assert_eq!((facts.log, facts.app.as_bytes()), (log, app));
        self.envelopes.push(self.buffer.clone());
    }
}
