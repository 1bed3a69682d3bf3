//! Asking whoever knows, at a rate it can bear.
//!
//! In come questions, each with its key; out comes the answer. Equal questions asked meanwhile
//! share one call. A yes is believed for a few seconds; a no is asked again, because whoever
//! was just granted something tries at once, and because keeping the no of every bad token
//! would let strangers fill our memory. What is under way, waits or is believed is bounded.

use super::Refusal;
use crate::metrics::Metrics;
use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

/// How long an answer may take in all, waiting for our turn included: 5 s. Upstream waits 20 s,
/// longer than a person does, and clients give up before.
pub(super) const WITHIN: Duration = Duration::from_secs(5);

/// Calls under way at a time to one authority: 64. When 10,000 clients come back at once it
/// is still other people's authority too.
const MOST_CALLS: usize = 64;

/// Different questions under way or waiting: 1,024. At 64 calls of 300 ms each all of them are
/// answered within [`WITHIN`]; beyond that it is kinder to say at once that we cannot.
const MOST_QUESTIONS: usize = 1_024;

/// How long a yes is believed: 5 s. It lets a client open its streams with one call, and a
/// token that is revoked is good for that long.
const BELIEVED: Duration = Duration::from_secs(5);

/// The most yeses believed at a time, 10,000 of about 120 bytes: as many as streams by default.
const MOST_BELIEVED: usize = 10_000;

/// When to come back if the authority is in trouble: 5 s.
pub(super) const TROUBLE: Duration = Duration::from_secs(5);

/// When to come back if it is only busy: 1 s.
const BUSY: Duration = Duration::from_secs(1);

/// Trouble is over when an answer comes and there was none for this long; one line each way.
const QUIET: Duration = Duration::from_secs(5);

/// What a question is known by: a SHA-256, so that no token lies about.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; SHA256_OUTPUT_LEN]);

impl Key {
    /// The key of a credential, shown to read `what`.
    pub(super) fn of(credential: &str, what: &str) -> Key {
        let mut context = Context::new(&SHA256);
        // The length keeps the end of one from passing for the start of the other.
        context.update(&(credential.len() as u64).to_be_bytes());
        context.update(credential.as_bytes());
        context.update(what.as_bytes());
        let mut key = [0; SHA256_OUTPUT_LEN];
        key.copy_from_slice(context.finish().as_ref());
        Key(key)
    }
}

/// What came of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Yes.
    Granted,
    /// No.
    Refused(Refusal),
    /// The authority did not say, or nothing sensible.
    Trouble {
        /// What the client is told.
        refusal: Refusal,
        /// What the operator is told; never anything of a token or a body.
        why: String,
    },
}

impl Verdict {
    /// The authority cannot be asked at the moment.
    pub(super) fn unavailable(why: String) -> Verdict {
        Verdict::Trouble {
            refusal: Refusal::Unavailable {
                retry_after: TROUBLE,
            },
            why,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Verdict::Granted => "granted",
            Verdict::Refused(_) => "refused",
            Verdict::Trouble { .. } => "trouble",
        }
    }
}

type Answer = Result<(), Refusal>;

/// One authority, as far as it is asked by us. Clones are the same one.
#[derive(Clone)]
pub(super) struct Authority(Arc<Inner>);

struct Inner {
    name: &'static str,
    calls: Semaphore,
    desk: Mutex<Desk>,
}

/// What is under way and what is believed.
#[derive(Default)]
struct Desk {
    under_way: HashMap<Key, watch::Receiver<Option<Answer>>>,
    believed: HashMap<Key, Instant>,
    /// The keys of `believed`, oldest first.
    oldest: VecDeque<Key>,
    /// When it last failed, while it is in trouble.
    trouble: Option<Instant>,
}

impl Authority {
    /// An authority by its name in logs and metrics.
    pub(super) fn new(name: &'static str) -> Authority {
        Authority(Arc::new(Inner {
            name,
            calls: Semaphore::new(MOST_CALLS),
            desk: Mutex::default(),
        }))
    }

    /// The answer to the question of this `key`: believed, of a call under way, or of `call`.
    ///
    /// A call goes on when nobody waits for it any more, until [`WITHIN`] is over.
    pub(super) async fn ask<C>(&self, key: Key, call: C) -> Answer
    where
        C: Future<Output = Verdict> + Send + 'static,
    {
        let mut answer = {
            let mut desk = self.desk();
            if desk.believes(&key, Instant::now()) {
                Metrics::access_check(self.0.name, "believed");
                return Ok(());
            }
            match desk.under_way.get(&key) {
                Some(answer) => {
                    Metrics::access_check(self.0.name, "shared");
                    answer.clone()
                }
                None if desk.under_way.len() >= MOST_QUESTIONS => {
                    Metrics::access_check(self.0.name, "busy");
                    return Err(Refusal::Unavailable { retry_after: BUSY });
                }
                None => {
                    let (answered, answer) = watch::channel(None);
                    desk.under_way.insert(key, answer.clone());
                    let question = Question {
                        authority: self.clone(),
                        key,
                    };
                    tokio::spawn(async move {
                        let answer = question.put(call).await;
                        // Asked anew from here on; who waits is told.
                        drop(question);
                        answered.send_replace(Some(answer));
                    });
                    answer
                }
            }
        };
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => *answer,
            // The task of the call is gone: the runtime ends, or it panicked.
            _ => Err(Refusal::Unavailable { retry_after: BUSY }),
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Each change is whole after each statement: a panic elsewhere leaves nothing half done.
        self.0.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says once that trouble began, and once that it is over.
    fn tell(&self, verdict: &Verdict) {
        let (authority, now) = (self.0.name, Instant::now());
        let mut desk = self.desk();
        match verdict {
            Verdict::Trouble { why, .. } => {
                if desk.trouble.replace(now).is_none() {
                    warn!(authority, why, "cannot be asked who may read what");
                } else {
                    debug!(authority, why, "still cannot be asked");
                }
            }
            _ if desk.trouble.is_some_and(|last| now - last >= QUIET) => {
                desk.trouble = None;
                info!(authority, "answers again");
            }
            _ => {}
        }
    }
}

/// A question under way; dropped, it is no longer.
struct Question {
    authority: Authority,
    key: Key,
}

impl Question {
    async fn put(&self, call: impl Future<Output = Verdict>) -> Answer {
        let inner = &self.authority.0;
        let begun = Instant::now();
        let late =
            || Verdict::unavailable(format!("no answer within {WITHIN:?}, our turn included"));
        let called = async {
            // The semaphore is never closed, so this never fails.
            let _turn = inner.calls.acquire().await;
            // Those whose turn comes with the deadline would only call and hang up.
            match begun.elapsed() < WITHIN {
                true => call.await,
                false => late(),
            }
        };
        let verdict = timeout(WITHIN, called).await.unwrap_or_else(|_| late());
        Metrics::access_check(inner.name, verdict.outcome());
        Metrics::access_checked(inner.name, begun.elapsed());
        self.authority.tell(&verdict);
        match verdict {
            Verdict::Granted => {
                self.authority.desk().believe(self.key, Instant::now());
                Ok(())
            }
            Verdict::Refused(refusal) | Verdict::Trouble { refusal, .. } => Err(refusal),
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.authority.desk().under_way.remove(&self.key);
    }
}

impl Desk {
    fn believes(&mut self, key: &Key, now: Instant) -> bool {
        while let Some(oldest) = self.oldest.front() {
            let since = self.believed.get(oldest);
            if since.is_some_and(|since| now - *since < BELIEVED) {
                break;
            }
            self.forget_oldest();
        }
        self.believed.contains_key(key)
    }

    fn believe(&mut self, key: Key, now: Instant) {
        // A question is asked again only after its yes was forgotten, so `oldest` stays in
        // order and has each key once.
        if self.believed.len() >= MOST_BELIEVED {
            self.forget_oldest();
        }
        if self.believed.insert(key, now).is_none() {
            self.oldest.push_back(key);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.oldest.pop_front() {
            self.believed.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A call that counts itself, takes a second and says this.
    fn call(
        calls: &Arc<AtomicUsize>,
        verdict: Verdict,
    ) -> impl Future<Output = Verdict> + Send + use<> {
        let calls = calls.clone();
        async move {
            calls.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            verdict
        }
    }

    fn bad() -> Verdict {
        Verdict::Refused(Refusal::BadToken)
    }

    #[tokio::test(start_paused = true)]
    async fn equal_questions_asked_meanwhile_are_one_call() {
        let (authority, calls) = (Authority::new("uaa"), Arc::default());
        let key = Key::of("t", "");
        let asked = (0..100).map(|_| authority.ask(key, call(&calls, bad())));
        for answer in join_all(asked).await {
            assert_eq!(answer, Err(Refusal::BadToken));
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert!(authority.desk().under_way.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_yes_is_believed_for_five_seconds_and_a_no_is_not() {
        let (authority, calls) = (Authority::new("uaa"), Arc::default());
        let (good_key, bad_key) = (Key::of("good", ""), Key::of("bad", ""));
        for (wait, expected) in [(0, 1), (4, 1), (1, 2)] {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let answer = authority.ask(good_key, call(&calls, Verdict::Granted));
            assert_eq!(answer.await, Ok(()));
            assert_eq!(calls.load(Ordering::Relaxed), expected, "{wait}");
        }
        calls.store(0, Ordering::Relaxed);
        for n in 1..3 {
            let answer = authority.ask(bad_key, call(&calls, bad()));
            assert_eq!(answer.await, Err(Refusal::BadToken));
            assert_eq!(calls.load(Ordering::Relaxed), n);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn questions_beyond_the_cap_wait_and_beyond_those_are_refused_at_once() {
        let (authority, calls) = (Authority::new("uaa"), Arc::new(AtomicUsize::new(0)));
        let asked = (0..2_000).map(|n| {
            let key = Key::of(&n.to_string(), "");
            authority.ask(key, call(&calls, Verdict::Granted))
        });
        let begun = Instant::now();
        let answers = join_all(asked).await;
        let granted = answers.iter().filter(|answer| answer.is_ok()).count();
        let busy = Err(Refusal::Unavailable { retry_after: BUSY });
        let late = Err(Refusal::Unavailable {
            retry_after: TROUBLE,
        });
        assert_eq!(begun.elapsed().as_secs(), WITHIN.as_secs());
        let refused = |refusal| answers.iter().filter(|answer| **answer == refusal).count();
        assert_eq!(refused(busy), 2_000 - MOST_QUESTIONS);
        assert_eq!(granted + refused(late), MOST_QUESTIONS);
        // A second each, 64 at a time, for five seconds.
        assert!(
            (4 * MOST_CALLS..=5 * MOST_CALLS).contains(&granted),
            "{granted}"
        );
        assert!(calls.load(Ordering::Relaxed) <= 5 * MOST_CALLS);
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_bad_tokens_leave_nothing_behind() {
        let authority = Authority::new("uaa");
        for hundred in 0..100 {
            let asked = (0..100).map(|n| {
                let key = Key::of(&format!("{hundred} {n}"), "");
                authority.ask(key, async { bad() })
            });
            join_all(asked).await;
        }
        let desk = authority.desk();
        assert!(desk.under_way.is_empty() && desk.believed.is_empty() && desk.oldest.is_empty());
        assert!(desk.under_way.capacity() <= 2 * MOST_QUESTIONS);
    }

    #[test]
    fn what_is_believed_is_bounded_and_the_oldest_goes_first() {
        let (mut desk, now) = (Desk::default(), Instant::now());
        let key = |n: usize| Key::of(&n.to_string(), "");
        (0..=MOST_BELIEVED).for_each(|n| desk.believe(key(n), now));
        assert_eq!(desk.believed.len(), MOST_BELIEVED);
        assert_eq!(desk.oldest.len(), MOST_BELIEVED);
        assert!(!desk.believes(&key(0), now) && desk.believes(&key(1), now));
        assert!(!desk.believes(&key(1), now + BELIEVED));
        assert!(desk.believed.is_empty() && desk.oldest.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_panics_does_not_block_its_question() {
        let authority = Authority::new("uaa");
        let key = Key::of("t", "");
        let answer = authority.ask(key, async { panic!("on purpose") }).await;
        assert!(matches!(answer, Err(Refusal::Unavailable { .. })));
        let again = authority.ask(key, async { Verdict::Granted }).await;
        assert_eq!(again, Ok(()));
    }

    #[test]
    fn a_key_tells_a_credential_from_what_it_is_shown_for() {
        assert!(Key::of("ab", "c") != Key::of("a", "bc"));
    }
}
