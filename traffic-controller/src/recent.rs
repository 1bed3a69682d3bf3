//! What the Dopplers keep of an app, gathered: each is asked once, and there is one second for
//! all of them to answer.
//!
//! In come the envelopes that Dopplers' links carry for a request, each link's marker when its
//! snapshot is whole, and for a tail what came of its app meanwhile; out comes what one client is
//! shown, and how many Dopplers are not in it. Of a Doppler without a marker nothing is shown: a
//! part of a snapshot cannot be joined to a stream without showing something twice.

use bytes::Bytes;
use proto::v1::{self, Envelope};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use transport::frame::Frames;

/// How long all Dopplers together have to answer. A client waits for it, so it is short; a
/// Doppler that has not answered by then is down, stopped, or older than the question.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How many requests may be gathered or on their way to their clients at a time.
pub const AT_A_TIME: usize = 32;

/// How many of these may be about one app: more than people look at it at a time, and a quarter of
/// all, since a client may take as long as it likes to read an answer, until it is closed.
pub const OF_AN_APP: usize = AT_A_TIME / 4;

/// The most bytes a request holds of all snapshots: 100 logs of 10 KiB from each of four
/// Dopplers. Beyond its part a Doppler's oldest logs are left out.
const SNAPSHOT_BYTES: usize = 4 << 20;

/// The most bytes of an app's envelopes that wait for its tail to begin: what an app's topic
/// holds by default. Beyond it the oldest are lost, and the client is told.
const LIVE_BYTES: usize = 256 << 10;

/// One request to all Dopplers, and what they have answered so far.
pub struct Gather {
    state: Mutex<State>,
    answered: Notify,
}

struct State {
    /// By number of link.
    parts: BTreeMap<usize, Part>,
    /// What came of the app meanwhile, with the number of its link.
    live: VecDeque<(usize, Bytes)>,
    live_bytes: usize,
    /// What of it had to go, by link. A Doppler that joined later is among them.
    lost: BTreeMap<usize, u64>,
    /// Nobody waits any more.
    over: bool,
}

/// One Doppler's answer.
struct Part {
    doppler: Arc<str>,
    envelopes: VecDeque<Bytes>,
    bytes: usize,
    answer: Answer,
}

#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Awaited,
    Whole,
    Missing,
}

/// A request as one link holds it. Dropping it without an answer says that there will be none.
pub struct Asked {
    gather: Arc<Gather>,
    link: usize,
}

/// What was gathered.
#[derive(Debug, Default, PartialEq)]
pub struct Gathered {
    /// Every envelope of every snapshot.
    pub envelopes: Vec<Bytes>,
    /// The Dopplers that did not answer, or not in time.
    pub missing: Vec<Arc<str>>,
    /// How many were asked.
    pub asked: usize,
}

/// What came of an app while its tail was not there yet.
#[derive(Debug, Default, PartialEq)]
pub struct Live {
    /// In the order it came.
    pub envelopes: Vec<Bytes>,
    /// How many had to go.
    pub lost: u64,
}

impl Gather {
    /// A request over these links, each with the address of its Doppler.
    pub fn new(links: impl Iterator<Item = (usize, Arc<str>)>) -> Arc<Gather> {
        let part = |doppler| Part {
            doppler,
            envelopes: VecDeque::new(),
            bytes: 0,
            answer: Answer::Awaited,
        };
        Arc::new(Gather {
            state: Mutex::new(State {
                parts: links.map(|(link, doppler)| (link, part(doppler))).collect(),
                live: VecDeque::new(),
                live_bytes: 0,
                lost: BTreeMap::new(),
                over: false,
            }),
            answered: Notify::new(),
        })
    }

    /// The request as link number `link` will hold it.
    pub fn asked(self: &Arc<Gather>, link: usize) -> Asked {
        Asked {
            gather: self.clone(),
            link,
        }
    }

    /// An envelope of the app came over that link: it is held until the tail begins, unless the
    /// link's snapshot turns out to have it.
    pub fn live(&self, link: usize, frames: &Frames) {
        let mut state = self.lock();
        for n in 0..frames.len() {
            let envelope = Bytes::copy_from_slice(frames.payload(n));
            state.live_bytes += envelope.len();
            state.live.push_back((link, envelope));
        }
        while state.live_bytes > LIVE_BYTES {
            let Some((from, oldest)) = state.live.pop_front() else {
                break;
            };
            state.live_bytes -= oldest.len();
            *state.lost.entry(from).or_default() += 1;
        }
    }

    /// Waits until every Doppler has answered or cannot any more, or [`PATIENCE`] is over; then
    /// takes the snapshots that are whole. What comes later is not looked at.
    pub async fn gathered(&self) -> Gathered {
        let all = async {
            loop {
                let answered = self.answered.notified();
                if self.lock().parts.values().all(Part::is_settled) {
                    break;
                }
                answered.await;
            }
        };
        // Either way what is there is taken.
        let _ = tokio::time::timeout(PATIENCE, all).await;
        let mut state = self.lock();
        state.over = true;
        let mut gathered = Gathered {
            asked: state.parts.len(),
            ..Gathered::default()
        };
        for part in std::mem::take(&mut state.parts).into_values() {
            match part.answer {
                Answer::Whole => gathered.envelopes.extend(part.envelopes),
                Answer::Awaited | Answer::Missing => gathered.missing.push(part.doppler),
            }
        }
        gathered
    }

    /// Takes what came of the app meanwhile.
    pub fn take_live(&self) -> Live {
        let mut state = self.lock();
        state.live_bytes = 0;
        Live {
            envelopes: state.live.drain(..).map(|(_, envelope)| envelope).collect(),
            lost: std::mem::take(&mut state.lost).values().sum(),
        }
    }

    /// Whether nobody waits any more.
    pub fn is_over(&self) -> bool {
        self.lock().over
    }

    /// Nobody waits any more.
    pub fn give_up(&self) {
        let mut state = self.lock();
        state.over = true;
        state.parts.clear();
        state.live.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn is_settled(&self) -> bool {
        self.answer != Answer::Awaited
    }
}

impl Asked {
    /// An envelope of the snapshot.
    pub fn add(&self, envelope: &[u8]) {
        let mut state = self.gather.lock();
        let most = SNAPSHOT_BYTES / state.parts.len().max(1);
        let Some(part) = state.parts.get_mut(&self.link) else {
            return;
        };
        part.bytes += envelope.len();
        // A copy: the message lies in a buffer that is much larger.
        part.envelopes.push_back(Bytes::copy_from_slice(envelope));
        while part.bytes > most {
            let oldest = part.envelopes.pop_front();
            part.bytes -= oldest.map_or(part.bytes, |oldest| oldest.len());
        }
    }

    /// The marker: the snapshot is whole, and has whatever came of the app before.
    pub fn whole(self) {
        let link = self.link;
        let mut state = self.gather.lock();
        if state.over {
            return;
        }
        if let Some(part) = state.parts.get_mut(&link) {
            part.answer = Answer::Whole;
        }
        state.live.retain(|(from, _)| *from != link);
        state.live_bytes = state.live.iter().map(|(_, envelope)| envelope.len()).sum();
        state.lost.remove(&link);
    }

    /// Whether nobody waits any more.
    pub fn is_over(&self) -> bool {
        self.gather.is_over()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = self.gather.lock();
        if let Some(part) = state.parts.get_mut(&self.link)
            && !part.is_settled()
        {
            part.answer = Answer::Missing;
            part.envelopes.clear();
        }
        drop(state);
        self.gather.answered.notify_one();
    }
}

/// The newest `most` logs by their timestamps, oldest first.
pub fn newest_logs(envelopes: Vec<Bytes>, most: usize) -> Vec<Bytes> {
    let of_log = |bytes: Bytes| {
        let envelope = v1::decode(&bytes).ok()?;
        envelope.log_message.as_ref()?;
        Some((timestamp(&envelope), bytes))
    };
    let mut logs: Vec<(i64, Bytes)> = envelopes.into_iter().filter_map(of_log).collect();
    // Stable: of one time they stay as their Doppler kept them.
    logs.sort_by_key(|(timestamp, _)| *timestamp);
    let skipped = logs.len().saturating_sub(most);
    logs.into_iter().skip(skipped).map(|(_, log)| log).collect()
}

/// The newest container metric of each instance, by instance.
pub fn newest_metrics(envelopes: Vec<Bytes>) -> Vec<Bytes> {
    let mut newest: BTreeMap<i32, (i64, Bytes)> = BTreeMap::new();
    for bytes in envelopes {
        let Ok(envelope) = v1::decode(&bytes) else {
            continue;
        };
        let Some(metric) = &envelope.container_metric else {
            continue;
        };
        let at = timestamp(&envelope);
        let known = newest.get(&metric.instance_index);
        if known.is_none_or(|(known, _)| *known <= at) {
            newest.insert(metric.instance_index, (at, bytes));
        }
    }
    newest.into_values().map(|(_, metric)| metric).collect()
}

/// When it was said; where the envelope has no time, its log has.
fn timestamp(envelope: &Envelope) -> i64 {
    let of_log = || envelope.log_message.as_ref().map(|log| log.timestamp);
    envelope.timestamp.or_else(of_log).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use tokio::time::Instant;

    fn frames(envelopes: &[&[u8]]) -> Frames {
        let mut frames = Frames::new();
        envelopes.iter().for_each(|it| frames.push(it, false));
        frames
    }

    /// A request to so many Dopplers.
    fn gather_of(links: usize) -> Arc<Gather> {
        Gather::new((0..links).map(|link| (link, format!("doppler {link}").into())))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_all_answers_does_not_wait() {
        let begun = Instant::now();
        let gather = gather_of(2);
        let (one, two) = (gather.asked(0), gather.asked(1));
        one.add(b"a");
        two.add(b"b");
        one.whole();
        two.whole();
        let gathered = gather.gathered().await;
        assert_eq!(gathered.envelopes, ["a", "b"]);
        assert_eq!((gathered.missing, gathered.asked), (vec![], 2));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_answer_is_waited_for_a_second_and_is_missing_as_a_whole() {
        let begun = Instant::now();
        let gather = gather_of(2);
        let (one, two) = (gather.asked(0), gather.asked(1));
        one.add(b"half a snapshot");
        two.add(b"b");
        two.whole();
        let gathered = gather.gathered().await;
        assert_eq!(begun.elapsed(), PATIENCE);
        assert_eq!(
            (gathered.envelopes, gathered.missing),
            (vec!["b".into()], vec!["doppler 0".into()])
        );
        assert!(one.is_over());
        one.add(b"too late");
        one.whole();
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_ends_is_not_waited_for() {
        let begun = Instant::now();
        let gather = gather_of(1);
        drop(gather.asked(0));
        assert_eq!(gather.gathered().await.missing.len(), 1);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    /// A log if it has no instance, a container metric otherwise.
    fn envelope(timestamp: i64, instance: Option<i32>) -> Bytes {
        let mut envelope = Envelope {
            origin: "test".into(),
            timestamp: Some(timestamp),
            ..Envelope::default()
        };
        match instance {
            None => envelope.log_message = Some(v1::LogMessage::default()),
            Some(instance_index) => {
                envelope.container_metric = Some(v1::ContainerMetric {
                    instance_index,
                    ..v1::ContainerMetric::default()
                });
            }
        }
        envelope.encode_to_vec().into()
    }

    #[test]
    fn of_all_snapshots_the_newest_are_shown_whichever_doppler_had_them() {
        let log = |timestamp| envelope(timestamp, None);
        let logs = || vec![log(3), log(5), envelope(9, Some(0)), log(2), log(4)];
        assert_eq!(newest_logs(logs(), 3), [log(3), log(4), log(5)]);
        assert_eq!(newest_logs(logs(), 100).len(), 4);
        assert!(newest_logs(logs(), 0).is_empty());
        let metric = |timestamp, instance| envelope(timestamp, Some(instance));
        let metrics = vec![
            metric(5, 1),
            log(9),
            metric(4, 1),
            metric(2, 0),
            metric(3, 0),
        ];
        assert_eq!(newest_metrics(metrics), [metric(3, 0), metric(5, 1)]);
    }

    #[tokio::test]
    async fn what_came_before_a_marker_is_in_the_snapshot_and_what_came_after_is_not() {
        let gather = gather_of(3);
        let (one, two, three) = (gather.asked(0), gather.asked(1), gather.asked(2));
        gather.live(0, &frames(&[b"0 before"]));
        gather.live(1, &frames(&[b"1 before"]));
        gather.live(2, &frames(&[b"2"]));
        one.whole();
        gather.live(1, &frames(&[b"1 before too"]));
        gather.live(0, &frames(&[b"0 after"]));
        two.whole();
        gather.live(1, &frames(&[b"1 after"]));
        drop(three);
        assert_eq!(gather.gathered().await.missing.len(), 1);
        let live = gather.take_live();
        assert_eq!(live.envelopes, ["2", "0 after", "1 after"]);
        assert_eq!(live.lost, 0);
    }

    #[tokio::test]
    async fn a_request_holds_no_more_than_it_may_and_keeps_the_newest() {
        let gather = gather_of(2);
        let (one, two) = (gather.asked(0), gather.asked(1));
        let large = vec![7; SNAPSHOT_BYTES / 4];
        one.add(b"old");
        (0..3).for_each(|_| one.add(&large));
        one.add(b"new");
        gather.live(0, &frames(&[&vec![1; LIVE_BYTES], b"x"]));
        one.whole();
        two.whole();
        // What had to go and is in the snapshot is not lost.
        gather.live(0, &frames(&[&vec![1; LIVE_BYTES], b"y"]));
        let gathered = gather.gathered().await.envelopes;
        let bytes: usize = gathered.iter().map(Bytes::len).sum();
        assert!(bytes <= SNAPSHOT_BYTES / 2);
        assert_eq!(gathered.last().unwrap(), "new");
        let live = gather.take_live();
        assert_eq!((live.envelopes, live.lost), (vec!["y".into()], 1));
    }
}
