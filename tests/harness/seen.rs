//! The oracle: what readers saw of what producers sent.
//!
//! Messages as they came from a WebSocket go in; counts of what is ours, double, out of order
//! and foreign come out. Decoding is prost's, not the code under test.

use crate::envelopes::{MARK, Mark, guid};
use prost::Message;
use proto::v1::Envelope;
use proto::v1::envelope::EventType;
use std::collections::BTreeMap;

/// The origin of a Doppler's own metrics.
const OWN: &str = "loggregator.doppler";

/// What one reader saw, or several together ([`Seen::merge`]).
#[derive(Debug, Clone, Default)]
pub struct Seen {
    producers: BTreeMap<u32, Sequence>,
    /// Marked envelopes, duplicates included.
    pub marked: u64,
    /// Marked envelopes that were seen before.
    pub duplicates: u64,
    /// Marked envelopes that came after a later one of the same producer.
    pub disordered: u64,
    /// Marked envelopes whose app is not the one asked for, or not the one they claim.
    pub foreign: u64,
    /// Notices of loss, each with the number of marked envelopes before it.
    pub notices: Vec<Notice>,
    /// When each of the Dopplers' own metrics was stamped.
    pub own: Vec<i64>,
    /// What nobody of us sent, the first few.
    pub strange: Vec<String>,
}

/// A notice of loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// Lost since the last notice.
    pub delta: u64,
    /// Lost since the beginning.
    pub total: u64,
    /// Marked envelopes seen before it.
    pub after: u64,
}

/// What came from one producer.
#[derive(Debug, Clone, Default)]
struct Sequence {
    bits: Vec<u64>,
    count: u64,
    last: Option<u64>,
}

impl Sequence {
    /// Whether it was new.
    fn add(&mut self, sequence: u64) -> bool {
        let (word, bit) = ((sequence / 64) as usize, 1 << (sequence % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        self.count += u64::from(new);
        new
    }

    fn has(&self, sequence: u64) -> bool {
        let word = self.bits.get((sequence / 64) as usize);
        word.is_some_and(|word| word & 1 << (sequence % 64) != 0)
    }
}

impl Seen {
    /// Takes in one message; `only` is the app that was asked for.
    pub fn take(&mut self, message: &[u8], only: Option<u32>) -> Option<Envelope> {
        let envelope = match Envelope::decode(message) {
            Ok(envelope) => envelope,
            Err(error) => {
                self.note_strange(format!("{error}: {message:02x?}"));
                return None;
            }
        };
        if let Some(mark) = envelope.tags.get(MARK).and_then(|text| Mark::parse(text)) {
            self.take_marked(&envelope, mark, only);
        } else if let Some((delta, total)) = notice(&envelope) {
            let after = self.marked;
            self.notices.push(Notice {
                delta,
                total,
                after,
            });
        } else if envelope.origin == OWN {
            self.own.push(envelope.timestamp());
        } else {
            self.note_strange(format!("{envelope:?}"));
        }
        Some(envelope)
    }

    fn take_marked(&mut self, envelope: &Envelope, mark: Mark, only: Option<u32>) {
        self.marked += 1;
        let theirs = only.is_some_and(|app| app != mark.app);
        if theirs || !claims(envelope, mark.app) {
            self.foreign += 1;
        }
        let sequence = self.producers.entry(mark.producer).or_default();
        if sequence.last.is_some_and(|last| last > mark.sequence) {
            self.disordered += 1;
        }
        sequence.last = Some(mark.sequence);
        if !sequence.add(mark.sequence) {
            self.duplicates += 1;
        }
    }

    fn note_strange(&mut self, what: String) {
        if self.strange.len() < 5 {
            self.strange.push(what);
        }
    }

    /// Adds what another reader of the same subscription saw: what both saw is double.
    pub fn merge(&mut self, other: &Seen) {
        self.marked += other.marked;
        self.duplicates += other.duplicates;
        self.disordered += other.disordered;
        self.foreign += other.foreign;
        self.notices.extend(&other.notices);
        self.own.extend(&other.own);
        self.strange.extend(other.strange.iter().cloned());
        for (producer, theirs) in &other.producers {
            let ours = self.producers.entry(*producer).or_default();
            if ours.bits.len() < theirs.bits.len() {
                ours.bits.resize(theirs.bits.len(), 0);
            }
            for (mine, their) in ours.bits.iter_mut().zip(&theirs.bits) {
                self.duplicates += u64::from((*mine & their).count_ones());
                *mine |= their;
            }
            ours.count = ours
                .bits
                .iter()
                .map(|word| u64::from(word.count_ones()))
                .sum();
        }
    }

    /// Different envelopes of that producer.
    pub fn of(&self, producer: u32) -> u64 {
        self.producers
            .get(&producer)
            .map_or(0, |sequence| sequence.count)
    }

    /// Different envelopes of all producers.
    pub fn distinct(&self) -> u64 {
        self.producers.values().map(|sequence| sequence.count).sum()
    }

    /// Whether that envelope was seen.
    pub fn has(&self, producer: u32, sequence: u64) -> bool {
        self.producers
            .get(&producer)
            .is_some_and(|seen| seen.has(sequence))
    }

    /// The last envelope of that producer to arrive.
    pub fn last_of(&self, producer: u32) -> Option<u64> {
        self.producers.get(&producer)?.last
    }

    /// The highest number of that producer that arrived, whenever it did.
    pub fn highest_of(&self, producer: u32) -> Option<u64> {
        let bits = &self.producers.get(&producer)?.bits;
        let word = bits.iter().rposition(|word| *word != 0)?;
        Some(word as u64 * 64 + u64::from(63 - bits[word].leading_zeros()))
    }

    /// The sum of what notices told was lost.
    pub fn told(&self) -> u64 {
        self.notices.iter().map(|notice| notice.delta).sum()
    }

    /// All messages: marked envelopes, the Dopplers' own, and notices.
    pub fn messages(&self) -> u64 {
        self.marked + self.own.len() as u64 + self.notices.len() as u64
    }

    /// Panics if anything was double, out of order, foreign or strange.
    #[track_caller]
    pub fn assert_clean(&self, who: &str) {
        let wrong = (
            self.duplicates,
            self.disordered,
            self.foreign,
            &self.strange[..],
        );
        assert_eq!(
            wrong,
            (0, 0, 0, &[][..]),
            "{who}: duplicates, disordered, foreign, strange"
        );
    }

    /// Panics unless this is exactly `expected` envelopes, each once and in order, without loss.
    #[track_caller]
    pub fn assert_complete(&self, who: &str, expected: u64) {
        self.assert_clean(who);
        assert_eq!(self.notices, [], "{who} was told of losses");
        assert_eq!(self.distinct(), expected, "{who} is not complete");
    }
}

/// Whether an envelope says that it belongs to `app`, in all the places where it says so.
fn claims(envelope: &Envelope, app: u32) -> bool {
    let app = guid(app);
    let claimed = match envelope.event_type() {
        EventType::LogMessage => envelope
            .log_message
            .as_ref()
            .map(|log| log.app_id().to_owned()),
        EventType::ContainerMetric => envelope
            .container_metric
            .as_ref()
            .map(|metric| metric.application_id.clone()),
        EventType::HttpStartStop => {
            let http = envelope.http_start_stop.as_ref();
            http.and_then(|http| http.application_id.as_ref()).map(uuid)
        }
        EventType::ValueMetric | EventType::CounterEvent | EventType::Error => Some(app.clone()),
    };
    claimed.as_ref() == Some(&app) && envelope.tags.get("source_id") == Some(&app)
}

/// A UUID's text: both halves are little-endian numbers of the bytes.
fn uuid(uuid: &proto::v1::Uuid) -> String {
    let bytes = [uuid.low.to_le_bytes(), uuid.high.to_le_bytes()].concat();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

/// The delta and total of a notice of loss, in either form.
fn notice(envelope: &Envelope) -> Option<(u64, u64)> {
    if envelope.origin != "doppler" {
        return None;
    }
    if let Some(counter) = &envelope.counter_event {
        let known = counter.name == "TruncatingBuffer.DroppedMessages";
        return known.then_some((counter.delta, counter.total()));
    }
    let log = envelope.log_message.as_ref()?;
    if log.source_type() != "LGR" {
        return None;
    }
    let text = std::str::from_utf8(&log.message).ok()?;
    let (delta, rest) = text
        .strip_prefix("Log message output is too high. ")?
        .split_once(" messages dropped (Total ")?;
    let (total, _) = rest.split_once(" messages dropped) from DopplerServer to app stream.")?;
    Some((delta.parse().ok()?, total.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelopes::Workload;
    use proto::convert::to_v1;

    fn messages(producer: u32, sequences: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
        let workload = Workload::mixed(3);
        let envelopes = sequences
            .into_iter()
            .map(|sequence| workload.envelope(producer, sequence));
        envelopes
            .flat_map(|envelope| to_v1(&envelope).unwrap())
            .map(|v1| v1.encode_to_vec())
            .collect()
    }

    fn seen(sequences: impl IntoIterator<Item = u64>) -> Seen {
        let mut seen = Seen::default();
        messages(1, sequences)
            .iter()
            .for_each(|message| drop(seen.take(message, None)));
        seen
    }

    #[test]
    fn every_kind_is_recognised_whole_and_in_order() {
        seen(0..100).assert_complete("a reader", 100);
    }

    #[test]
    fn what_is_double_disordered_or_missing_shows() {
        let seen = seen([0, 1, 3, 2, 3, 5]);
        assert_eq!(
            (seen.duplicates, seen.disordered, seen.distinct()),
            (1, 1, 5)
        );
        assert!(!seen.has(1, 4));
        assert_eq!((seen.highest_of(1), seen.highest_of(2)), (Some(5), None));
    }

    #[test]
    fn what_two_members_both_saw_is_double() {
        let mut both = seen([0, 2, 4]);
        both.merge(&seen([1, 3, 4]));
        assert_eq!((both.duplicates, both.distinct()), (1, 5));
    }

    #[test]
    fn another_apps_envelope_is_foreign() {
        let mut seen = Seen::default();
        let workload = Workload::mixed(3);
        let messages = messages(1, 0..30);
        messages
            .iter()
            .for_each(|message| drop(seen.take(message, Some(1))));
        let theirs = (0..30)
            .filter(|sequence| workload.app(*sequence) != 1)
            .count();
        assert_eq!(seen.foreign, theirs as u64);
    }

    #[test]
    fn both_kinds_of_notice_are_read() {
        let mut seen = Seen::default();
        let mut message = Vec::new();
        proto::notice::firehose(&mut message, 7, 9, 1);
        seen.take(&message, None);
        message.clear();
        proto::notice::app(&mut message, 2, 3, 1, b"some-app");
        seen.take(&message, None);
        assert_eq!((seen.notices.len(), seen.told()), (2, 9));
        assert!(seen.strange.is_empty());
    }
}
