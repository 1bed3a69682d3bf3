//! Where envelopes were lost in the last hour, whose they were, and why.
//!
//! In come readings of all accounts, about once a second, and the time; out come the page
//! `/losses` ([`History::page`]) and what is worth a line in the log ([`Transition`]). What was
//! lost is the difference between two readings, so that whoever counts pays nothing for it.
//!
//! The sums are exact: all that accounts grew by is in the history, once. Only names are
//! bounded: of each minute the [`NAMED`] that lost most are kept, the others are one sum for
//! each place and cause. Whoever chooses names may make it hold 8 MiB, and names of
//! [`NAME_BYTES`]; on an ordinary day it holds some KiB. The history itself knows no clock.

mod kept;
mod page;
mod told;

pub use kept::Losses;
pub use page::{About, Asked, BadQuestion, Explained, Minute, Page, Row, Sender};
pub use told::tell;

use crate::ledger::{Cause, Dropped, Reason};
use crate::ration::Ration;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

/// How far back it goes.
pub const HISTORY: Duration = Duration::from_secs(3_600);

/// Losses of one minute that are kept by name. A platform has some tens of nozzles, and tens of
/// apps that lose in one minute are a bad day.
pub const NAMED: usize = 256;

/// The longest name that is shown whole, in bytes. A GUID has 36.
pub const NAME_BYTES: usize = 128;

/// What "now" means on the page: long enough to see a flood, short enough to see its end.
const NOW: Duration = Duration::from_secs(10);

/// The most losers and senders that are kept of each reading, and readings of [`NOW`].
const TOP: usize = 32;
const READINGS: usize = 64;

/// Who has lost nothing for so long is over it.
const OVER: Duration = Duration::from_secs(60);

/// Subscriptions whose loss is followed from its beginning to its end at one time; more are in
/// the history alone.
const FOLLOWED: usize = 4_096;

/// Lines a process may log about this in a second.
const LINES: u32 = 10;

/// Seconds in a minute, for minutes of the day.
const MINUTE: u64 = 60;

/// Where an envelope was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// At a Doppler's door.
    Ingress,
    /// Behind a Doppler's chunk log, or in front of a Traffic Controller's firehose client.
    Firehose,
    /// In an app's queue at a Doppler, or its topic at a Traffic Controller.
    App,
    /// Between an app link and the topics of a Traffic Controller.
    AppLink,
    /// Between a Doppler and a Traffic Controller.
    Link,
}

impl Place {
    /// The name used in pages and logs.
    pub fn name(self) -> &'static str {
        match self {
            Place::Ingress => "ingress",
            Place::Firehose => "firehose",
            Place::App => "app",
            Place::AppLink => "app_link",
            Place::Link => "link",
        }
    }
}

/// A place, and whose envelopes were lost there. Names are cut to [`NAME_BYTES`], and hold
/// nothing that a terminal would obey: others chose them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Whose {
    place: Place,
    subscription: Option<Arc<str>>,
    filter: Option<&'static str>,
    app: Option<Arc<str>>,
    doppler: Option<Arc<str>>,
}

impl Whose {
    /// Of an app, or of nobody we could tell.
    pub fn ingress(app: Option<&str>) -> Whose {
        Whose {
            app: app.map(shown),
            ..Whose::at(Place::Ingress)
        }
    }

    /// A firehose subscription's.
    pub fn firehose(id: &str, filter: &'static str) -> Whose {
        Whose {
            subscription: Some(shown(id)),
            filter: Some(filter),
            ..Whose::at(Place::Firehose)
        }
    }

    /// Those who tail an app.
    pub fn app(app: &str) -> Whose {
        Whose {
            app: Some(shown(app)),
            ..Whose::at(Place::App)
        }
    }

    /// What came from that Doppler for some app.
    pub fn app_link(doppler: &str) -> Whose {
        Whose {
            doppler: Some(shown(doppler)),
            ..Whose::at(Place::AppLink)
        }
    }

    /// What that Doppler sent: to a firehose subscription, or for all tailed apps.
    pub fn link(doppler: &str, subscription: Option<&str>) -> Whose {
        Whose {
            doppler: Some(shown(doppler)),
            subscription: subscription.map(shown),
            ..Whose::at(Place::Link)
        }
    }

    fn at(place: Place) -> Whose {
        Whose {
            place,
            subscription: None,
            filter: None,
            app: None,
            doppler: None,
        }
    }

    /// Whose loss is followed from its beginning to its end, if it is of that cause.
    ///
    /// A stop of the process has a line of its own. Whoever ends `cf logs` leaves something
    /// behind each time, which is worth none. Apps whose envelopes are refused at the door are
    /// not followed one by one: senders choose them.
    fn followed(&self, cause: Cause) -> Option<Whose> {
        match (self.place, cause) {
            (_, Cause::Counted(Reason::Drain)) => None,
            (
                Place::App | Place::AppLink,
                Cause::Counted(Reason::CloseResidue | Reason::NoMember),
            ) => None,
            (Place::Ingress, _) => Some(Whose::at(Place::Ingress)),
            _ => Some(self.clone()),
        }
    }
}

/// Takes from both what is in both.
fn take(one: &mut u64, other: &mut u64) {
    let both = (*one).min(*other);
    *one -= both;
    *other -= both;
}

/// A name as it is shown: so long and no longer, and no control characters.
fn shown(name: &str) -> Arc<str> {
    let is_fit = |name: &str| name.len() <= NAME_BYTES && !name.contains(char::is_control);
    if is_fit(name) {
        return name.into();
    }
    let mut fit = String::new();
    for char in name.chars() {
        let char = match char.is_control() {
            true => char::REPLACEMENT_CHARACTER,
            false => char,
        };
        if fit.len() + char.len_utf8() > NAME_BYTES {
            fit.push('…');
            break;
        }
        fit.push(char);
    }
    fit.into()
}

/// When something was read: how long the process has run, which no change of the clock disturbs,
/// and the time of day, for showing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Since the process began.
    pub up: Duration,
    /// Nanoseconds since 1970.
    pub unix_ns: i64,
}

impl At {
    fn minute(self) -> i64 {
        self.unix_ns.div_euclid(MINUTE as i64 * 1_000_000_000)
    }
}

/// Sums of accounts that ended since they were last taken, by name. What does not fit is one sum.
#[derive(Debug, Clone)]
pub struct EndedSums<K, V> {
    most: usize,
    /// By name.
    pub named: HashMap<K, V>,
    /// Of all others.
    pub others: V,
}

impl<K: Eq + Hash, V: AddAssign + Default> EndedSums<K, V> {
    /// Keeps at most so many names.
    pub fn new(most: usize) -> EndedSums<K, V> {
        EndedSums {
            most,
            named: HashMap::new(),
            others: V::default(),
        }
    }

    /// An account ended.
    pub fn add(&mut self, name: K, lost: V) {
        if self.named.len() < self.most || self.named.contains_key(&name) {
            *self.named.entry(name).or_default() += lost;
        } else {
            self.others += lost;
        }
    }

    /// Takes what there is.
    pub fn take(&mut self) -> EndedSums<K, V> {
        std::mem::replace(self, EndedSums::new(self.most))
    }
}

/// What was lost, and by what cause.
type Loss = (Whose, Cause);

/// All accounts of a process at one moment.
#[derive(Debug, Default)]
pub struct Reading {
    stand: HashMap<Loss, u64>,
    grown: HashMap<Loss, u64>,
    others: BTreeMap<(Place, Cause), u64>,
    sent: Vec<(Arc<str>, u64, u64)>,
}

impl Reading {
    /// An open account, as it stands. Those of one name are added up.
    pub fn stands(&mut self, whose: Whose, lost: impl IntoIterator<Item = (Cause, u64)>) {
        add(&mut self.stand, &whose, lost);
    }

    /// An account that ended since the last reading, as it stood; or what came to be lost since
    /// then.
    pub fn grew(&mut self, whose: Whose, lost: impl IntoIterator<Item = (Cause, u64)>) {
        add(&mut self.grown, &whose, lost);
    }

    /// The same, of those whose names were not kept.
    pub fn others(&mut self, place: Place, lost: impl IntoIterator<Item = (Cause, u64)>) {
        for (cause, envelopes) in lost {
            *self.others.entry((place, cause)).or_default() += envelopes;
        }
    }

    /// An app that sent so much since the last reading. Those that sent little need not be said.
    pub fn sent(&mut self, app: &str, envelopes: u64, bytes: u64) {
        self.sent.push((shown(app), envelopes, bytes));
    }
}

fn add(
    losses: &mut HashMap<Loss, u64>,
    whose: &Whose,
    lost: impl IntoIterator<Item = (Cause, u64)>,
) {
    for (cause, envelopes) in lost {
        *losses.entry((whose.clone(), cause)).or_default() += envelopes;
    }
}

impl Dropped {
    /// The causes that occurred, with their counts.
    pub fn causes(&self) -> impl Iterator<Item = (Cause, u64)> + '_ {
        self.iter()
            .map(|(reason, count)| (Cause::Counted(reason), count))
    }
}

/// What is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Somebody begins to lose.
    Began {
        /// Who.
        whose: Whose,
        /// What most of it was lost by.
        cause: Cause,
        /// How many in the first second.
        envelopes: u64,
    },
    /// Somebody has lost nothing for a minute.
    Over {
        /// Who.
        whose: Whose,
        /// How many since it began.
        envelopes: u64,
        /// From the first loss to the last.
        lasted: Duration,
    },
    /// So many of the others had no line.
    Unsaid(u64),
}

/// An hour of losses.
#[derive(Debug)]
pub struct History {
    process: &'static str,
    began_ns: i64,
    /// Open accounts as they stood at the last reading.
    stand: HashMap<Loss, u64>,
    /// Oldest first; minutes without loss are not there.
    minutes: VecDeque<OneMinute>,
    /// All that was ever lost.
    all: BTreeMap<(Place, Cause), u64>,
    latest: VecDeque<Latest>,
    followed: HashMap<Whose, Followed>,
    lines: Ration,
}

#[derive(Debug)]
struct OneMinute {
    /// Of the day.
    minute: i64,
    /// How long the process had run when the last of it was lost.
    last: Duration,
    named: HashMap<Loss, u64>,
    others: BTreeMap<(Place, Cause), u64>,
}

/// One reading's top losers and senders.
#[derive(Debug)]
struct Latest {
    at: Duration,
    lost: Vec<(Loss, u64)>,
    sent: Vec<(Arc<str>, u64, u64)>,
}

#[derive(Debug)]
struct Followed {
    began: Duration,
    last: Duration,
    envelopes: u64,
}

impl History {
    /// Nothing was lost yet; `process` is a name for operators.
    pub fn new(process: &'static str, began_ns: i64) -> History {
        History {
            process,
            began_ns,
            stand: HashMap::new(),
            minutes: VecDeque::new(),
            all: BTreeMap::new(),
            latest: VecDeque::new(),
            followed: HashMap::new(),
            lines: Ration::new(LINES),
        }
    }

    /// Takes what accounts grew by since the last reading; returns what is to be logged.
    pub fn observe(&mut self, at: At, reading: Reading) -> Vec<Transition> {
        let Reading {
            stand,
            grown,
            others,
            mut sent,
        } = reading;
        let (named, others) = self.differences(stand, grown, others);
        self.forget(at);
        if !named.is_empty() || !others.is_empty() {
            self.record(at, &named, &others);
        }
        sent.sort_unstable_by_key(|(_, envelopes, bytes)| Reverse((*bytes, *envelopes)));
        sent.truncate(TOP);
        let mut lost: Vec<(Loss, u64)> = named.iter().map(|(l, n)| (l.clone(), *n)).collect();
        lost.sort_unstable_by_key(|(_, envelopes)| Reverse(*envelopes));
        lost.truncate(TOP);
        self.latest.push_back(Latest {
            at: at.up,
            lost,
            sent,
        });
        self.follow(at.up, &named, &others)
    }

    /// What each account grew by. What was known of one that is neither there nor among those
    /// that ended is in the sum of the others now, or in another account: it is taken from that.
    fn differences(
        &mut self,
        stand: HashMap<Loss, u64>,
        grown: HashMap<Loss, u64>,
        others: BTreeMap<(Place, Cause), u64>,
    ) -> (HashMap<Loss, u64>, BTreeMap<(Place, Cause), u64>) {
        let mut named = grown;
        for (loss, envelopes) in &stand {
            *named.entry(loss.clone()).or_default() += envelopes;
        }
        let mut known: BTreeMap<(Place, Cause), u64> = BTreeMap::new();
        for (loss, before) in std::mem::replace(&mut self.stand, stand) {
            let place = (loss.0.place, loss.1);
            let now = named.entry(loss).or_default();
            *known.entry(place).or_default() += before.saturating_sub(*now);
            *now = now.saturating_sub(before);
        }
        let mut others = others;
        for (place, known) in &mut known {
            take(known, others.entry(*place).or_default());
        }
        let mut moved: Vec<(&Loss, &mut u64)> = named.iter_mut().collect();
        moved.sort_unstable_by(|a, b| a.0.cmp(b.0));
        for ((whose, cause), envelopes) in moved {
            if let Some(known) = known.get_mut(&(whose.place, *cause)) {
                take(known, envelopes);
            }
        }
        named.retain(|_, envelopes| *envelopes > 0);
        others.retain(|_, envelopes| *envelopes > 0);
        (named, others)
    }

    fn forget(&mut self, at: At) {
        let too_old = |one: &OneMinute| at.up.saturating_sub(one.last) > HISTORY;
        while self.minutes.front().is_some_and(too_old) {
            self.minutes.pop_front();
        }
        let too_old = |latest: &Latest| at.up.saturating_sub(latest.at) >= NOW;
        while self.latest.front().is_some_and(too_old) || self.latest.len() >= READINGS {
            self.latest.pop_front();
        }
    }

    fn record(
        &mut self,
        at: At,
        named: &HashMap<Loss, u64>,
        others: &BTreeMap<(Place, Cause), u64>,
    ) {
        let of_named = named
            .iter()
            .map(|((whose, cause), n)| ((whose.place, *cause), *n));
        for (place, envelopes) in of_named.chain(others.iter().map(|(place, n)| (*place, *n))) {
            *self.all.entry(place).or_default() += envelopes;
        }
        let minute = self.minute(at);
        for (loss, envelopes) in named {
            *minute.named.entry(loss.clone()).or_default() += envelopes;
        }
        for (place, envelopes) in others {
            *minute.others.entry(*place).or_default() += envelopes;
        }
        minute.last = at.up;
        // Twice as many while it lasts, so that who comes late has a chance.
        minute.keep(2 * NAMED);
    }

    /// The minute that it is now. A clock that steps makes a new one, too; one that steps all
    /// the time makes no more than there are in an hour.
    fn minute(&mut self, at: At) -> &mut OneMinute {
        let now = at.minute();
        let most = (HISTORY.as_secs() / MINUTE + 1) as usize;
        let newest = self.minutes.back();
        if newest.is_none_or(|one| one.minute != now && self.minutes.len() < most) {
            if let Some(full) = self.minutes.back_mut() {
                full.keep(NAMED);
            }
            self.minutes.push_back(OneMinute {
                minute: now,
                last: at.up,
                named: HashMap::new(),
                others: BTreeMap::new(),
            });
        }
        let newest = self.minutes.len() - 1;
        &mut self.minutes[newest]
    }

    fn follow(
        &mut self,
        now: Duration,
        named: &HashMap<Loss, u64>,
        others: &BTreeMap<(Place, Cause), u64>,
    ) -> Vec<Transition> {
        let mut losing: HashMap<Whose, (u64, Cause, u64)> = HashMap::new();
        let named = named
            .iter()
            .map(|((whose, cause), n)| (whose.followed(*cause), cause, n));
        // The door is followed as one.
        let others = others
            .iter()
            .filter(|((place, _), _)| *place == Place::Ingress)
            .map(|((place, cause), n)| (Some(Whose::at(*place)), cause, n));
        for (whose, cause, envelopes) in named.chain(others) {
            let Some(whose) = whose else {
                continue;
            };
            let (sum, most, of_most) = losing.entry(whose).or_insert((0, *cause, 0));
            *sum += envelopes;
            if *envelopes > *of_most {
                (*most, *of_most) = (*cause, *envelopes);
            }
        }
        let mut lines = Vec::new();
        for (whose, (envelopes, cause, _)) in losing {
            let more = self.followed.len() < FOLLOWED;
            match self.followed.get_mut(&whose) {
                Some(followed) => {
                    followed.last = now;
                    followed.envelopes += envelopes;
                }
                None if more => {
                    let followed = Followed {
                        began: now,
                        last: now,
                        envelopes,
                    };
                    self.followed.insert(whose.clone(), followed);
                    lines.push(Transition::Began {
                        whose,
                        cause,
                        envelopes,
                    });
                }
                None => {}
            }
        }
        self.followed.retain(|whose, followed| {
            let is_over = now.saturating_sub(followed.last) >= OVER;
            if is_over {
                lines.push(Transition::Over {
                    whose: whose.clone(),
                    envelopes: followed.envelopes,
                    lasted: followed.last.saturating_sub(followed.began),
                });
            }
            !is_over
        });
        lines.sort_by_key(|line| match line {
            Transition::Began { envelopes, .. } | Transition::Over { envelopes, .. } => {
                Reverse(*envelopes)
            }
            Transition::Unsaid(_) => Reverse(0),
        });
        self.limit(now, lines)
    }

    /// So many lines a second; what has none is counted, and said in the next second.
    fn limit(&mut self, now: Duration, lines: Vec<Transition>) -> Vec<Transition> {
        let unsaid = self.lines.unsaid(now).map(Transition::Unsaid);
        let said = lines.into_iter().filter(|_| self.lines.line(now).is_some());
        unsaid.into_iter().chain(said).collect()
    }
}

impl OneMinute {
    /// Keeps the [`NAMED`] that lost most by name, once there are more than `most`.
    fn keep(&mut self, most: usize) {
        if self.named.len() <= most {
            return;
        }
        let mut named: Vec<(Loss, u64)> = self.named.drain().collect();
        named.select_nth_unstable_by_key(NAMED, |(_, envelopes)| Reverse(*envelopes));
        for ((whose, cause), envelopes) in named.split_off(NAMED) {
            *self.others.entry((whose.place, cause)).or_default() += envelopes;
        }
        self.named = named.into_iter().collect();
    }
}

#[cfg(test)]
mod tests;
