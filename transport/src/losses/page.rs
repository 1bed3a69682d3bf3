//! The page `/losses`: what is asked, and what is answered. `firehose why` reads it with the same
//! types.

use super::{At, Cause};
use super::{HISTORY, History, Loss, MINUTE, NOW, OneMinute, Place, Whose, shown};
use crate::clock::{Utc, seconds};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Losers and senders of the last seconds that are shown.
const SHOWN_NOW: usize = 10;

/// What an operator wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// How far to look back.
    pub since: Duration,
    /// About what.
    pub about: About,
}

/// About what the question is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// Everything.
    All,
    /// An app's envelopes.
    App(Arc<str>),
    /// A firehose subscription.
    Subscription(Arc<str>),
}

/// What is wrong with a question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadQuestion {
    /// It is no time.
    #[error("since={0}: {1}")]
    Since(String, String),
    /// Longer than we remember.
    #[error("since={0}: losses are kept for an hour; ask for 1h or less")]
    TooLong(String),
    /// We have no such parameter.
    #[error("{0}: there is since (such as 3600s or 1h), app (a GUID) and subscription (an id)")]
    Unknown(String),
    /// It is there and says nothing.
    #[error("{0} has no value")]
    Empty(&'static str),
    /// One question at a time.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// An app is in no subscription.
    #[error("app and subscription are two questions: ask one")]
    Both,
}

impl Asked {
    /// Reads `since`, `app` and `subscription` of a query.
    pub fn parse(query: &str) -> Result<Asked, BadQuestion> {
        let (mut since, mut app, mut subscription) = (None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let (name, slot) = match &*name {
                "since" => ("since", &mut since),
                "app" => ("app", &mut app),
                "subscription" => ("subscription", &mut subscription),
                other => return Err(BadQuestion::Unknown(shown(other).to_string())),
            };
            if value.is_empty() {
                return Err(BadQuestion::Empty(name));
            }
            if slot.replace(value.into_owned()).is_some() {
                return Err(BadQuestion::Twice(name));
            }
        }
        let about = match (app, subscription) {
            (None, None) => About::All,
            (Some(app), None) => About::App(shown(&app)),
            (None, Some(id)) => About::Subscription(shown(&id)),
            (Some(_), Some(_)) => return Err(BadQuestion::Both),
        };
        Ok(Asked {
            since: match since {
                Some(text) => how_long(&text)?,
                None => HISTORY,
            },
            about,
        })
    }
}

fn how_long(text: &str) -> Result<Duration, BadQuestion> {
    let quoted = || shown(text).to_string();
    let since = seconds(text).map_err(|wrong| BadQuestion::Since(quoted(), wrong))?;
    match since {
        since if since > HISTORY => Err(BadQuestion::TooLong(quoted())),
        since => Ok(since),
    }
}

/// The answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Page {
    /// `doppler` or `traffic-controller`.
    pub process: String,
    /// When that process began, and with it what it can tell.
    pub began: String,
    /// The time asked about: from then …
    pub from: String,
    /// … to then.
    pub to: String,
    /// How many envelopes of those asked about were lost in that time.
    pub lost: u64,
    /// They, newest minute first.
    pub minutes: Vec<Minute>,
    /// What was lost beside them in that time and cannot be told apart: what is asked about may
    /// be among them.
    pub perhaps: Vec<Row>,
    /// Who loses most at the moment: in the last 10 s, whatever is asked about.
    pub losers_now: Vec<Row>,
    /// Which apps send most at the moment, as far as is known: in the last 10 s.
    pub senders_now: Vec<Sender>,
    /// All that was lost since the process began, whatever is asked about.
    pub since_began: Vec<Row>,
    /// The reasons that occur above.
    pub reasons: BTreeMap<String, Explained>,
}

/// What was lost in one minute.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Minute {
    /// When it began.
    pub minute: String,
    /// Most first.
    pub losses: Vec<Row>,
}

/// One sum.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Where: `ingress`, `firehose`, `app`, `app_link` or `link`.
    #[serde(rename = "where")]
    pub place: String,
    /// Of which subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// What it asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Of which app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// From which Doppler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doppler: Option<String>,
    /// Why.
    pub reason: String,
    /// How many.
    pub envelopes: u64,
}

/// An app that sends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sender {
    /// Which.
    pub app: String,
    /// Logs and container metrics in the last 10 s.
    pub envelopes: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A reason, explained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explained {
    /// What happened.
    pub meaning: String,
    /// What to do.
    pub remedy: String,
}

/// Whether a loss is what is asked about.
#[derive(PartialEq, Eq)]
enum Match {
    Yes,
    Perhaps,
    No,
}

impl About {
    fn matches(&self, whose: &Whose) -> Match {
        let (is, may_be) = match self {
            About::All => return Match::Yes,
            About::App(app) => (
                whose.app.as_ref() == Some(app),
                match whose.place {
                    Place::Ingress | Place::App => whose.app.is_none(),
                    Place::AppLink => true,
                    Place::Link => whose.subscription.is_none(),
                    Place::Firehose => false,
                },
            ),
            About::Subscription(id) => (
                whose.subscription.as_ref() == Some(id),
                match whose.place {
                    // What the door refuses is missing everywhere.
                    Place::Ingress => true,
                    Place::Firehose => whose.subscription.is_none(),
                    Place::Link => whose.subscription.is_none() && whose.doppler.is_none(),
                    Place::App | Place::AppLink => false,
                },
            ),
        };
        match (is, may_be) {
            (true, _) => Match::Yes,
            (false, true) => Match::Perhaps,
            (false, false) => Match::No,
        }
    }
}

impl History {
    /// What is asked, as far as it is known.
    pub fn page(&self, at: At, asked: &Asked) -> Page {
        let since = asked.since.min(at.up);
        let earliest = at.up - since;
        let now_ns = at.unix_ns;
        let ns = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        let time = |ns: i64| format!("{:.0}", Utc(ns));

        let mut perhaps: HashMap<Loss, u64> = HashMap::new();
        let mut minutes = Vec::new();
        let in_time = |one: &&OneMinute| one.last >= earliest;
        for one in self.minutes.iter().rev().filter(in_time) {
            let mut losses = Vec::new();
            for ((whose, cause), envelopes) in one.all() {
                match asked.about.matches(&whose) {
                    Match::Yes => losses.push(row(&whose, cause, envelopes)),
                    Match::Perhaps => *perhaps.entry((whose, cause)).or_default() += envelopes,
                    Match::No => {}
                }
            }
            if !losses.is_empty() {
                let ns = one.minute.saturating_mul(MINUTE as i64 * 1_000_000_000);
                minutes.push(Minute {
                    minute: time(ns),
                    losses: sorted(losses),
                });
            }
        }
        let of_minutes = minutes.iter().flat_map(|minute| &minute.losses);
        let mut page = Page {
            process: self.process.to_owned(),
            began: time(self.began_ns),
            from: time(now_ns.saturating_sub(ns)),
            to: time(now_ns),
            lost: of_minutes.map(|row| row.envelopes).sum(),
            minutes,
            perhaps: rows(perhaps),
            losers_now: self.losers(at.up),
            senders_now: self.senders(at.up),
            since_began: rows(
                self.all
                    .iter()
                    .map(|((place, cause), n)| ((Whose::at(*place), *cause), *n)),
            ),
            reasons: BTreeMap::new(),
        };
        page.explain();
        page
    }

    fn losers(&self, now: Duration) -> Vec<Row> {
        let mut sums: HashMap<&Loss, u64> = HashMap::new();
        for (loss, envelopes) in self.now(now).flat_map(|latest| &latest.lost) {
            *sums.entry(loss).or_default() += envelopes;
        }
        let mut losers = rows(sums.into_iter().map(|(loss, n)| (loss.clone(), n)));
        losers.truncate(SHOWN_NOW);
        losers
    }

    fn senders(&self, now: Duration) -> Vec<Sender> {
        let mut sums: HashMap<&str, (u64, u64)> = HashMap::new();
        for (app, envelopes, bytes) in self.now(now).flat_map(|latest| &latest.sent) {
            let sum = sums.entry(app).or_default();
            *sum = (sum.0 + envelopes, sum.1 + bytes);
        }
        let sender = |(app, (envelopes, bytes)): (&str, (u64, u64))| Sender {
            app: app.to_owned(),
            envelopes,
            bytes,
        };
        let mut senders: Vec<Sender> = sums.into_iter().map(sender).collect();
        senders.sort_unstable_by_key(|it| (Reverse(it.bytes), it.app.clone()));
        senders.truncate(SHOWN_NOW);
        senders
    }

    fn now(&self, now: Duration) -> impl Iterator<Item = &super::Latest> {
        let is_new = move |latest: &&super::Latest| now.saturating_sub(latest.at) < NOW;
        self.latest.iter().filter(is_new)
    }
}

impl Page {
    fn explain(&mut self) {
        let of_minutes = self.minutes.iter().flat_map(|minute| &minute.losses);
        let rows = of_minutes
            .chain(&self.perhaps)
            .chain(&self.losers_now)
            .chain(&self.since_began);
        let named: Vec<&str> = rows.map(|row| row.reason.as_str()).collect();
        let explained = Cause::all().filter(|cause| named.contains(&cause.name()));
        self.reasons = explained
            .map(|cause| {
                let explained = Explained {
                    meaning: cause.meaning().to_owned(),
                    remedy: cause.remedy().to_owned(),
                };
                (cause.name().to_owned(), explained)
            })
            .collect();
    }
}

impl OneMinute {
    /// Everything that was lost, those without a name at last.
    pub(super) fn all(&self) -> impl Iterator<Item = (Loss, u64)> + '_ {
        let named = self.named.iter().map(|(loss, n)| (loss.clone(), *n));
        let others = self.others.iter();
        named.chain(others.map(|((place, cause), n)| ((Whose::at(*place), *cause), *n)))
    }
}

fn row(whose: &Whose, cause: Cause, envelopes: u64) -> Row {
    let text = |name: &Option<Arc<str>>| name.as_ref().map(|name| name.to_string());
    Row {
        place: whose.place.name().to_owned(),
        subscription: text(&whose.subscription),
        filter: whose.filter.map(str::to_owned),
        app: text(&whose.app),
        doppler: text(&whose.doppler),
        reason: cause.name().to_owned(),
        envelopes,
    }
}

fn rows(losses: impl IntoIterator<Item = (Loss, u64)>) -> Vec<Row> {
    let losses = losses.into_iter();
    sorted(
        losses
            .map(|((whose, cause), n)| row(&whose, cause, n))
            .collect(),
    )
}

/// Most first; equals in the order of their names, so that the page is still.
fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by(|a, b| {
        let names = |row: &Row| {
            (
                row.place.clone(),
                row.subscription.clone(),
                row.app.clone(),
                row.doppler.clone(),
                row.reason.clone(),
            )
        };
        let by_count = b.envelopes.cmp(&a.envelopes);
        by_count.then_with(|| names(a).cmp(&names(b)))
    });
    rows
}
