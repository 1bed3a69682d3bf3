//! The one link to a Doppler that carries all app tails: tells it which apps are wanted, and
//! puts what comes into their topics.
//!
//! Reading never waits for writing: a Doppler that has much to send and a Traffic Controller
//! that has much to ask for do not wait for each other.

use super::gate::Turn;
use super::hop::Delivered;
use super::{Doppler, Hop, LEAVE};
use crate::metrics::Metrics;
use crate::recent::Asked;
use crate::topics::{Changes, Feed, Inbox, Topics};
use bytes::Bytes;
use proto::link::{self, APPS_PATH, Downstream, HANDLE_BYTES, Handle, Upstream};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use tracing::debug;
use transport::backoff::Backoff;
use transport::frame::{self, Frames};
use transport::ledger::Reason;
use transport::listener::Stream;
use transport::shutdown::Shutdown;
use transport::websocket::{Close, Incoming, Socket};

/// The app link to one Doppler.
pub struct AppLink {
    doppler: Arc<Doppler>,
    topics: Arc<Topics>,
    inbox: Arc<Inbox>,
    hop: Arc<Hop>,
    filling: Filling,
}

impl AppLink {
    /// A link that is not open yet, and what it will have counted.
    pub fn new(doppler: Arc<Doppler>, topics: Arc<Topics>) -> (AppLink, Arc<Hop>) {
        let hop = Arc::new(Hop::to_topics(&doppler.address));
        let inbox = topics.link(&doppler.address);
        let link = AppLink {
            doppler,
            topics,
            hop: hop.clone(),
            filling: Filling::of(inbox.number),
            inbox,
        };
        (link, hop)
    }

    /// Keeps the link open until the shutdown begins; then says so to the Doppler and reads
    /// what it had begun to send.
    pub async fn run(mut self, shutdown: Shutdown) {
        self.keep_open(&shutdown).await;
        self.topics.unlink(&self.inbox);
    }

    async fn keep_open(&mut self, shutdown: &Shutdown) {
        let mut backoff = Backoff::new(fastrand::Rng::new());
        while !shutdown.is_begun() {
            let doppler = self.doppler.clone();
            let open = async {
                doppler
                    .open(doppler.pass(Turn::First).await, APPS_PATH)
                    .await
            };
            let opened = tokio::select! {
                opened = open => opened,
                () = shutdown.begun() => return,
            };
            // How long to wait if nobody was reached is for all links to decide together.
            let Ok(socket) = opened else { continue };
            self.hop.opened();
            self.topics.renew(&self.inbox);
            self.doppler.standings.open();
            self.carry(socket, shutdown, &mut backoff).await;
            self.inbox.close();
            self.doppler.standings.close();
            self.filling.clear();
            self.hop.closed();
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                () = shutdown.begun() => return,
            }
        }
    }

    /// Carries envelopes and changes until the link ends.
    async fn carry(
        &mut self,
        mut socket: Socket<Stream>,
        shutdown: &Shutdown,
        backoff: &mut Backoff,
    ) {
        let mut begun = pin!(shutdown.begun());
        let mut overdue = pin!(async {
            shutdown.begun().await;
            tokio::time::sleep(LEAVE).await;
        });
        let mut leaving = false;
        let ended = loop {
            tokio::select! {
                said = socket.next() => match said {
                    Ok(Incoming::Frames { run, count }) => {
                        backoff.reset();
                        self.hop.delivered(count as u64, self.filling.deliver(&run));
                        self.topics.make_room();
                    }
                    Ok(Incoming::Text(text)) => self.note(&text),
                    Err(ended) => break ended,
                },
                changes = self.inbox.changes() => self.pass_on(&mut socket, changes),
                questions = self.doppler.standings.questions() => {
                    questions.iter().for_each(|question| socket.say(&question.to_json()));
                }
                () = &mut begun, if !leaving => {
                    leaving = true;
                    // It is asked no more for what is kept.
                    self.topics.unlink(&self.inbox);
                    socket.say(&Upstream::Leave {}.to_json());
                }
                () = &mut overdue => return socket.close(Close::GOING_AWAY).await,
            }
        };
        Metrics::link_ended(&ended);
        debug!(doppler = &*self.doppler.address, %ended, "app link ended");
        socket.answer(&ended).await;
    }

    /// What is said here is kept until the Doppler takes it. It is bounded by the apps that are
    /// tailed, and the changes of the 30 s after which a peer that takes nothing has stalled.
    fn pass_on(&mut self, socket: &mut Socket<Stream>, changes: Changes) {
        for message in changes.messages() {
            socket.say(&message.to_json());
        }
        self.filling.change(changes);
    }

    fn note(&self, text: &str) {
        match Downstream::parse(text) {
            Ok(Downstream::Report(report)) => self.hop.reported(report),
            Ok(Downstream::Ended(ended)) => self.hop.ended_there(ended.dropped),
            Ok(Downstream::Standing(standing)) => self.doppler.standings.answered(standing),
            Ok(Downstream::Unknown) => {}
            Err(bad) => {
                Metrics::link_faults("malformed", 1);
                debug!(doppler = &*self.doppler.address, %bad, "a Doppler said something else")
            }
        }
    }
}

/// The topics a link fills, and the requests it answers.
#[derive(Default)]
struct Filling {
    /// Which of the links it is.
    link: usize,
    topics: HashMap<Handle, Arc<Feed>>,
    asked: HashMap<Handle, Asked>,
    frames: Frames,
}

impl Filling {
    fn of(link: usize) -> Filling {
        Filling {
            link,
            ..Filling::default()
        }
    }

    /// The link is over: there are no more answers.
    fn clear(&mut self) {
        self.topics.clear();
        self.asked.clear();
    }

    fn change(&mut self, changes: Changes) {
        for handle in changes.ended {
            self.topics.remove(&handle);
        }
        let began = changes.began.into_iter();
        self.topics
            .extend(began.map(|(handle, (_, feed))| (handle, feed)));
        // A Doppler need not answer at all.
        self.asked.retain(|_, asked| !asked.is_over());
        let asked = changes.asked.into_iter();
        self.asked
            .extend(asked.map(|(question, asked)| (question.handle, asked)));
    }

    /// Puts a run of link frames where they belong, into topics all of one topic at a time;
    /// returns what became of them.
    fn deliver(&mut self, run: &Bytes) -> Delivered {
        let mut delivered = Delivered::default();
        let mut messages = Vec::new();
        for message in frame::payloads(run) {
            let Some((handle, envelope)) = link::split_handle(&message) else {
                Metrics::link_faults("malformed", 1);
                delivered.dropped.add(Reason::Malformed, 1);
                continue;
            };
            let Some(asked) = self.asked.get(&handle) else {
                messages.push((handle, message.slice(HANDLE_BYTES..)));
                continue;
            };
            delivered.answers += 1;
            if !envelope.is_empty() {
                asked.add(envelope);
                continue;
            }
            // What came before the marker is in its topic before it.
            self.fill(&mut messages, &mut delivered);
            self.asked
                .remove(&handle)
                .into_iter()
                .for_each(Asked::whole);
        }
        self.fill(&mut messages, &mut delivered);
        delivered
    }

    /// Puts messages into their topics.
    fn fill(&mut self, messages: &mut Vec<(Handle, Bytes)>, delivered: &mut Delivered) {
        // Stable: an app's envelopes keep their order.
        messages.sort_by_key(|(handle, _)| *handle);
        for of_app in messages.chunk_by(|(one, _), (other, _)| one == other) {
            for (_, envelope) in of_app {
                // Whether it is a log is not asked: tails read everything.
                self.frames.push(envelope, false);
            }
            let count = self.frames.len() as u64;
            let topic = self.topics.get(&of_app[0].0);
            if topic.is_some_and(|feed| feed.append(self.link, &mut self.frames)) {
                delivered.appended += count;
            } else {
                delivered.dropped.add(Reason::NoMember, count);
            }
            self.frames.clear();
        }
        messages.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dopplers::fake::{Fake, frames, heard, report};
    use crate::topics::Tail;
    use futures::FutureExt;
    use transport::log::Claim;
    use transport::shutdown::Drain;

    fn run_of(messages: &[(Handle, &[u8])]) -> Bytes {
        let mut frames = Frames::new();
        for (handle, envelope) in messages {
            frames.push(&[&handle.to_be_bytes(), *envelope].concat(), false);
        }
        frames.push(b"abc", false);
        Bytes::copy_from_slice(frames.bytes())
    }

    async fn envelopes(tail: &mut Tail) -> Vec<Bytes> {
        match tail.member().claim().await {
            Some(Claim::Frames(run)) => frame::payloads(&run).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_run_is_sorted_into_its_topics_and_what_has_none_is_counted() {
        let topics = Topics::new(1 << 20, 1 << 20);
        let inbox = topics.link(&"d".into());
        topics.renew(&inbox);
        let (mut one, mut two, three) = (topics.tail("a"), topics.tail("b"), topics.tail("c"));
        let mut filling = Filling::default();
        filling.change(inbox.changes().await);
        // The Doppler does not know yet.
        drop(three);

        let delivered = filling.deliver(&run_of(&[
            (2, b"b1"),
            (1, b"a1"),
            (3, b"c1"),
            (9, b"?"),
            (2, b"b2"),
        ]));

        assert_eq!(delivered.appended, 3);
        assert_eq!(
            delivered.dropped.iter().collect::<Vec<_>>(),
            [(Reason::NoMember, 2), (Reason::Malformed, 1)]
        );
        assert_eq!(envelopes(&mut one).await, ["a1"]);
        assert_eq!(envelopes(&mut two).await, ["b1", "b2"]);
    }

    #[tokio::test]
    async fn a_tail_that_begins_with_a_snapshot_has_what_came_behind_the_marker_once() {
        let topics = Topics::new(1 << 20, 1 << 20);
        let inbox = topics.link(&"d".into());
        topics.renew(&inbox);
        let beginning = topics.tail_with_recent("a", 10);
        let mut filling = Filling::of(inbox.number);
        let changes = inbox.changes().await;
        let said: Vec<Upstream> = changes.messages().collect();
        assert_eq!(said[0], Upstream::Subscribe(vec![(1, "a".into())]));
        let Upstream::Recent(question) = &said[1] else {
            panic!("{said:?}")
        };
        assert_eq!((question.handle, question.tail), (2, Some(1)));
        filling.change(changes);

        let delivered = filling.deliver(&run_of(&[
            (1, b"one"),
            (2, b"zero"),
            (2, b"one"),
            (2, b""),
            (1, b"two"),
        ]));
        assert_eq!((delivered.appended, delivered.answers), (2, 3));
        let gathered = beginning.gathered().await;
        assert_eq!(
            (&gathered.envelopes[..], gathered.missing.len()),
            (&["zero", "one"].map(Bytes::from)[..], 0)
        );
        filling.deliver(&run_of(&[(1, b"three")]));
        let (mut tail, _) = beginning.begin(&gathered.envelopes);
        filling.deliver(&run_of(&[(1, b"four"), (2, b"nobody asks any more")]));

        assert_eq!(envelopes(&mut tail).await, ["zero", "one", "two", "three"]);
        assert_eq!(tail.member().sent(), 4);
        assert_eq!(envelopes(&mut tail).await, ["four"]);
        let account = topics.accounts().open[0].1;
        assert_eq!((account.offered, account.imbalance()), (5, 0));
        // Another tail of the app never saw it.
        assert!(topics.tail("a").member().claim().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_ends_is_missing_and_so_is_one_that_is_not_open() {
        let topics = Topics::new(1 << 20, 1 << 20);
        let (open, _closed) = (topics.link(&"open".into()), topics.link(&"closed".into()));
        topics.renew(&open);
        let beginning = topics.tail_with_recent("a", 10);
        let mut filling = Filling::of(open.number);
        filling.change(open.changes().await);
        filling.deliver(&run_of(&[(1, b"live"), (2, b"half a snapshot")]));
        filling.clear();
        let gathered = beginning.gathered().await;
        assert_eq!(
            (gathered.missing, gathered.asked),
            (vec!["open".into(), "closed".into()], 2)
        );
        assert!(gathered.envelopes.is_empty());
        let (mut tail, _) = beginning.begin(&[]);
        assert_eq!(envelopes(&mut tail).await, ["live"]);
    }

    #[tokio::test]
    async fn a_doppler_with_much_to_send_does_not_wait_for_one_with_much_to_ask() {
        const APPS: usize = 40_000;
        let (fake, doppler) = Fake::new().await;
        let topics = Topics::new(1 << 20, 1 << 20);
        let app = |n: usize| format!("{n:0>200}");
        let _tails: Vec<Tail> = (0..APPS).map(|n| topics.tail(&app(n))).collect();
        let (link, hop) = AppLink::new(doppler, topics.clone());
        let drain = Drain::new();
        let theirs = async {
            let mut link = fake.link().await;
            // More than the kernel keeps for the two, before a word is read.
            let run = frames(64, &[&1u32.to_be_bytes()[..], &[0; 64 << 10]].concat());
            for _ in 0..4 {
                link.send(&run).await.unwrap();
            }
            let mut asked = 0;
            while asked < APPS {
                match heard(&mut link).await {
                    Upstream::Subscribe(apps) => asked += apps.len(),
                    other => panic!("{other:?}"),
                }
            }
            drain.begin();
            assert_eq!(heard(&mut link).await, Upstream::Leave {});
            link.send_text(&report(256)).await.unwrap();
            link.close(Close::NORMAL).await;
        };
        tokio::join!(link.run(drain.shutdown()), theirs);
        let page = hop.page();
        assert_eq!(
            (page.sums.sent, page.sums.received, page.sums.gap),
            (256, 256, 0)
        );
        assert_eq!(page.imbalance(), 0);
    }
}
