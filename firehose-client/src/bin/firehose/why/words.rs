//! What admin listeners know of losses, in words: where, when, how many, why, and what to do.

use super::{Answer, Subscription};
use crate::words::{line, number};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;
use transport::losses::{Explained, Page, Row};

/// Losses of one process that are told one by one; the others are counted.
const TOLD: usize = 10;

/// Readers, losers and senders of the moment that are shown.
const SHOWN: usize = 5;

/// What the question is about.
pub(crate) enum About {
    /// Everything.
    All,
    /// An app.
    App(String),
    /// A firehose subscription.
    Subscription(String),
}

/// One loss over all its minutes.
struct Told<'a> {
    row: &'a Row,
    envelopes: u64,
    first: &'a str,
    last: &'a str,
    worst: (&'a str, u64),
}

/// All of it.
pub(super) fn say(about: &About, answers: &[Answer]) -> String {
    let mut text = String::new();
    let all: u64 = answers.iter().map(|answer| answer.losses.lost).sum();
    let from = answers.iter().map(|answer| &*answer.losses.from).min();
    let Some(from) = from else {
        return text;
    };
    let what = match about {
        About::All => String::new(),
        About::App(app) => format!(" of app {}", clean(app)),
        About::Subscription(id) => format!(" of subscription {}", clean(id)),
    };
    let from = clean(from);
    match all {
        0 => line(
            &mut text,
            format_args!("Nothing{what} was lost since {from}."),
        ),
        1 => line(
            &mut text,
            format_args!("1 envelope{what} was lost since {from}."),
        ),
        n => line(
            &mut text,
            format_args!("{} envelopes{what} were lost since {from}.", number(n)),
        ),
    }
    let losing = answers.iter().any(|it| !it.losses.losers_now.is_empty());
    for answer in answers {
        one(&mut text, about, answer);
        // Who sends is known at Dopplers, wherever it is lost.
        if losing {
            senders(&mut text, &answer.losses);
        }
    }
    text
}

fn one(text: &mut String, about: &About, answer: &Answer) {
    let page = &answer.losses;
    let (process, admin) = (clean(&page.process), clean(&answer.admin));
    line(text, "");
    line(text, format_args!("{process} at {admin}"));
    if page.began >= page.from {
        let began = clean(&page.began);
        line(
            text,
            format_args!("  It runs since {began}; what was before is not known."),
        );
    }
    let told = told(page);
    if told.is_empty() {
        line(
            text,
            format_args!("  Nothing was lost here since {}.", clean(&page.from)),
        );
    }
    for told in told.iter().take(TOLD) {
        loss(text, told, page);
    }
    if told.len() > TOLD {
        let more: u64 = told[TOLD..].iter().map(|told| told.envelopes).sum();
        let (kinds, more) = (told.len() - TOLD, number(more));
        line(
            text,
            format_args!("  {more} more in {kinds} other sums; --json has them."),
        );
    }
    for row in page.perhaps.iter().take(SHOWN) {
        let (n, place) = (number(row.envelopes), place(row));
        let reason = clean(&row.reason);
        line(
            text,
            format_args!("  Perhaps among these too: {n} {place} ({reason})."),
        );
    }
    let of_firehoses = page
        .since_began
        .iter()
        .filter(|row| row.place == "firehose");
    let of_firehoses: u64 = of_firehoses.map(|row| row.envelopes).sum();
    if matches!(about, About::App(_)) && of_firehoses > 0 {
        let n = number(of_firehoses);
        line(
            text,
            format_args!("  Firehoses lost {n} here since it runs; those are not counted by app."),
        );
    }
    now(text, about, answer);
}

fn loss(text: &mut String, told: &Told<'_>, page: &Page) {
    let (n, row) = (number(told.envelopes), told.row);
    let when = match told.first == told.last {
        true => format!("in the minute of {}", clean(told.first)),
        false => format!(
            "from {} to {}, most ({}) at {}",
            clean(told.first),
            clean(told.last),
            number(told.worst.1),
            clean(told.worst.0)
        ),
    };
    let place = place(row);
    line(text, format_args!("  {n} {place}: {}", clean(&row.reason)));
    line(text, format_args!("    when   {when}"));
    if let Some(Explained { meaning, remedy }) = page.reasons.get(&row.reason) {
        line(text, format_args!("    why    {}", clean(meaning)));
        line(text, format_args!("    to do  {}", clean(remedy)));
    }
}

/// What goes on at the moment: who reads, who loses, and who sends.
fn now(text: &mut String, about: &About, answer: &Answer) {
    let mut readers: Vec<&Subscription> = answer
        .subscriptions
        .iter()
        .filter(|it| it.is_of(about))
        .collect();
    readers.sort_by_key(|it| std::cmp::Reverse((it.account.queued, it.lost())));
    for reader in readers.iter().take(SHOWN) {
        let (who, queued) = (reader.words(), number(reader.account.queued));
        let lost = number(reader.lost());
        line(
            text,
            format_args!("  Now: {who}: {queued} wait, {lost} lost since it began to read."),
        );
    }
    let page = &answer.losses;
    for row in page.losers_now.iter().take(SHOWN) {
        let (n, place, reason) = (number(row.envelopes), place(row), clean(&row.reason));
        line(
            text,
            format_args!("  In the last 10 s {n} were lost {place}: {reason}."),
        );
    }
}

fn senders(text: &mut String, page: &Page) {
    for sender in page.senders_now.iter().take(SHOWN) {
        let (app, n) = (clean(&sender.app), number(sender.envelopes));
        let kib = number(sender.bytes >> 10);
        line(
            text,
            format_args!(
                "  In the last 10 s app {app} sent {n} logs and container metrics, {kib} KiB."
            ),
        );
    }
}

/// Losses that differ in nothing but the minute, as one; most first.
fn told(page: &Page) -> Vec<Told<'_>> {
    type Names<'a> = (&'a str, [Option<&'a str>; 4], &'a str);
    let mut all: Vec<Told<'_>> = Vec::new();
    let mut seen: HashMap<Names<'_>, usize> = HashMap::new();
    // Newest minute first.
    for minute in &page.minutes {
        for row in &minute.losses {
            let names = [&row.subscription, &row.filter, &row.app, &row.doppler];
            let key = (&*row.place, names.map(|it| it.as_deref()), &*row.reason);
            let at = *seen.entry(key).or_insert_with(|| {
                all.push(Told {
                    row,
                    envelopes: 0,
                    first: &minute.minute,
                    last: &minute.minute,
                    worst: (&minute.minute, 0),
                });
                all.len() - 1
            });
            let told = &mut all[at];
            told.envelopes += row.envelopes;
            told.first = &minute.minute;
            if row.envelopes > told.worst.1 {
                told.worst = (&minute.minute, row.envelopes);
            }
        }
    }
    all.sort_by_key(|told| std::cmp::Reverse(told.envelopes));
    all
}

/// Where something was lost, and whose it was.
fn place(row: &Row) -> String {
    let name = |name: &Option<String>| name.as_deref().map(|it| clean(it).into_owned());
    let (app, doppler) = (name(&row.app), name(&row.doppler));
    let firehose = name(&row.subscription).map(|id| match &row.filter {
        Some(filter) if filter != "everything" => format!("{id} ({})", clean(filter)),
        _ => id,
    });
    let some = |it: Option<String>| it.unwrap_or_else(|| "unknown".to_owned());
    match &*row.place {
        "ingress" => match app {
            Some(app) => format!("at the door, of app {app}"),
            None => "at the door".to_owned(),
        },
        "firehose" => match firehose {
            Some(firehose) => format!("in front of firehose {firehose}"),
            None => "in front of other firehoses".to_owned(),
        },
        "app" => match app {
            Some(app) => format!("in front of those who tail app {app}"),
            None => "in front of those who tail other apps".to_owned(),
        },
        "app_link" => format!("between Doppler {} and the tailed apps", some(doppler)),
        "link" => match firehose {
            Some(firehose) => format!(
                "on the way from Doppler {} to firehose {firehose}",
                some(doppler)
            ),
            None => format!("on the way from Doppler {} to tailed apps", some(doppler)),
        },
        other => format!("at {}", clean(other)),
    }
}

impl Subscription {
    fn is_of(&self, about: &About) -> bool {
        match about {
            About::All => self.account.queued > 0 && self.lost() > 0,
            About::App(app) => self.app.as_ref() == Some(app),
            About::Subscription(id) => self.firehose.as_ref() == Some(id),
        }
    }

    fn lost(&self) -> u64 {
        self.account.dropped.values().sum()
    }

    fn words(&self) -> String {
        if let Some(app) = &self.app {
            return format!("a tail of app {}", clean(app));
        }
        let id = clean(self.firehose.as_deref().unwrap_or("unknown"));
        let mut words = format!("firehose {id}");
        if let Some(filter) = self.filter.as_deref().filter(|it| *it != "everything") {
            _ = write!(words, " ({})", clean(filter));
        }
        if let Some(members) = self.members {
            _ = write!(words, " with {members} clients");
        }
        if let Some(client) = &self.client {
            _ = write!(words, ", client {}", clean(client));
        }
        words
    }
}

/// What others chose, without anything that a terminal would obey.
fn clean(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_control) {
        false => text.into(),
        true => text.replace(char::is_control, "\u{fffd}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::losses::{Minute, Sender};

    fn row(app: &str, envelopes: u64) -> Row {
        Row {
            place: "app".into(),
            app: Some(app.into()),
            reason: "app_overflow".into(),
            envelopes,
            ..Row::default()
        }
    }

    fn answer(minutes: &[(&str, u64)]) -> Answer {
        let minute = |(minute, lost): &(&str, u64)| Minute {
            minute: (*minute).into(),
            losses: vec![row("a", *lost)],
        };
        let explained = Explained {
            meaning: "too loud".into(),
            remedy: "be quiet".into(),
        };
        Answer {
            admin: "127.0.0.1:14825".into(),
            losses: Page {
                process: "doppler".into(),
                began: "2026-01-01T00:00:00Z".into(),
                from: "2026-02-01T14:00:00Z".into(),
                lost: minutes.iter().map(|(_, lost)| lost).sum(),
                minutes: minutes.iter().map(minute).collect(),
                reasons: [("app_overflow".to_owned(), explained)].into(),
                ..Page::default()
            },
            subscriptions: Vec::new(),
        }
    }

    #[test]
    fn it_says_where_when_how_many_why_and_what_to_do() {
        let answer = answer(&[
            ("2026-02-01T14:03:00Z", 1_000),
            ("2026-02-01T14:02:00Z", 300),
        ]);
        assert_eq!(
            say(&About::App("a".into()), &[answer]),
            "\
1,300 envelopes of app a were lost since 2026-02-01T14:00:00Z.

doppler at 127.0.0.1:14825
  1,300 in front of those who tail app a: app_overflow
    when   from 2026-02-01T14:02:00Z to 2026-02-01T14:03:00Z, most (1,000) at 2026-02-01T14:03:00Z
    why    too loud
    to do  be quiet
"
        );
    }

    #[test]
    fn it_says_that_nothing_was_lost_and_from_when_that_is_known() {
        let mut answer = answer(&[]);
        answer.losses.began = "2026-02-01T14:00:00Z".into();
        assert_eq!(
            say(&About::All, &[answer]),
            "\
Nothing was lost since 2026-02-01T14:00:00Z.

doppler at 127.0.0.1:14825
  It runs since 2026-02-01T14:00:00Z; what was before is not known.
  Nothing was lost here since 2026-02-01T14:00:00Z.
"
        );
    }

    #[test]
    fn it_names_who_sends_and_who_loses_now_and_a_terminal_obeys_none_of_it() {
        let mut answer = answer(&[("2026-02-01T14:03:00Z", 7)]);
        answer.losses.losers_now = vec![row("a\u{1b}[2J", 7)];
        answer.losses.senders_now = vec![Sender {
            app: "a".into(),
            envelopes: 12_345,
            bytes: 1 << 20,
        }];
        answer.losses.perhaps = vec![Row {
            app: None,
            ..row("", 3)
        }];
        answer.losses.since_began = vec![Row {
            place: "firehose".into(),
            ..row("", 9)
        }];
        answer.subscriptions = vec![Subscription {
            app: Some("a".into()),
            account: super::super::Account {
                queued: 5,
                ..Default::default()
            },
            ..Subscription::default()
        }];
        let text = say(&About::App("a".into()), &[answer]);
        for line in [
            "  Perhaps among these too: 3 in front of those who tail other apps (app_overflow).\n",
            "  Firehoses lost 9 here since it runs; those are not counted by app.\n",
            "  Now: a tail of app a: 5 wait, 0 lost since it began to read.\n",
            "  In the last 10 s 7 were lost in front of those who tail app a\u{fffd}[2J: app_overflow.\n",
            "  In the last 10 s app a sent 12,345 logs and container metrics, 1,024 KiB.\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
