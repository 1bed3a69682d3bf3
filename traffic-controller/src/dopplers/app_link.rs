//! The one link to a Doppler that carries all app tails: tells it which apps are wanted, and
//! puts what comes into their topics.

use super::{Doppler, Hop};
use crate::topics::{Change, Inbox, Topics, messages};
use bytes::Bytes;
use proto::link::{self, APPS_PATH, Downstream, Handle, Upstream};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tracing::debug;
use transport::backoff::Backoff;
use transport::frame::{self, Frames};
use transport::listener::Stream;
use transport::log::Log;
use transport::shutdown::Shutdown;
use transport::websocket::{Close, Ended, Incoming, Socket};

/// The app link to one Doppler.
pub struct AppLink {
    doppler: Arc<Doppler>,
    topics: Arc<Topics>,
    inbox: Arc<Inbox>,
    hop: Arc<Hop>,
    /// The topics this link fills.
    filling: HashMap<Handle, Arc<Log>>,
    frames: Frames,
    touched: HashSet<Handle>,
}

impl AppLink {
    /// A link that is not open yet, and what it will have counted.
    pub fn new(doppler: Arc<Doppler>, topics: Arc<Topics>) -> (AppLink, Arc<Hop>) {
        let hop = Arc::new(Hop::default());
        let link = AppLink {
            doppler,
            inbox: topics.link(),
            topics,
            hop: hop.clone(),
            filling: HashMap::new(),
            frames: Frames::new(),
            touched: HashSet::new(),
        };
        (link, hop)
    }

    /// Keeps the link open until the shutdown begins.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut backoff = Backoff::new(fastrand::Rng::new());
        while !shutdown.is_begun() {
            let opened = tokio::select! {
                opened = self.doppler.open(APPS_PATH) => opened,
                () = shutdown.begun() => return,
            };
            match opened {
                Ok(socket) => {
                    self.hop.opened();
                    self.filling.clear();
                    self.topics.renew(&self.inbox);
                    self.carry(socket, &shutdown, &mut backoff).await;
                    self.hop.closed();
                }
                Err(error) => self.doppler.report(Some(&error)),
            }
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
        let ended = loop {
            tokio::select! {
                said = socket.next() => match said {
                    Ok(Incoming::Frames { run, count }) => {
                        backoff.reset();
                        self.hop.received(count as u64);
                        self.deliver(&run);
                    }
                    Ok(Incoming::Text(text)) => self.note(&text),
                    Err(ended) => break ended,
                },
                changes = self.inbox.changes() => {
                    if let Err(ended) = self.pass_on(&mut socket, changes).await {
                        break ended;
                    }
                }
                () = shutdown.begun() => {
                    // Best effort: the process is ending.
                    if socket.send_text(&Upstream::Leave {}.to_json()).await.is_ok() {
                        socket.close(Close::GOING_AWAY).await;
                    }
                    return;
                }
            }
        };
        debug!(doppler = self.doppler.address, %ended, "app link ended");
        if let Some(close) = ended.answer() {
            socket.close(close).await;
        }
    }

    async fn pass_on(
        &mut self,
        socket: &mut Socket<Stream>,
        changes: Vec<Change>,
    ) -> Result<(), Ended> {
        for message in messages(&changes) {
            socket.send_text(&message.to_json()).await?;
        }
        for change in changes {
            match change {
                Change::Began(handle, _, log) => drop(self.filling.insert(handle, log)),
                Change::Ended(handle) => drop(self.filling.remove(&handle)),
            }
        }
        Ok(())
    }

    /// Puts a run of link frames into their topics. Envelopes of a topic that has just ended
    /// have no reader any more.
    fn deliver(&mut self, run: &Bytes) {
        for message in frame::payloads(run) {
            let Some((handle, envelope)) = link::split_handle(&message) else {
                continue;
            };
            if let Some(log) = self.filling.get(&handle) {
                self.frames.push(envelope, true);
                log.append(&mut self.frames);
                self.touched.insert(handle);
            }
        }
        for handle in self.touched.drain() {
            if let Some(log) = self.filling.get(&handle) {
                log.seal();
            }
        }
        self.topics.make_room();
    }

    fn note(&self, text: &str) {
        match Downstream::parse(text) {
            Ok(Downstream::Report(report)) => self.hop.reported(report.sent),
            Ok(_) => {}
            Err(bad) => {
                debug!(doppler = self.doppler.address, %bad, "a Doppler said something else")
            }
        }
    }
}
