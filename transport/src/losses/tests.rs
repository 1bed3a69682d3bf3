use super::*;
use proptest::prelude::*;

const LOG: Reason = Reason::LogOverflow;

fn at(seconds: u64) -> At {
    At {
        up: Duration::from_secs(seconds),
        // A minute of the day begins with the process.
        unix_ns: (1_500_000_000 + seconds as i64) * 1_000_000_000,
    }
}

fn history() -> History {
    History::new("doppler", at(0).unix_ns)
}

fn dropped(reason: Reason, envelopes: u64) -> Dropped {
    let mut dropped = Dropped::default();
    dropped.add(reason, envelopes);
    dropped
}

fn splunk() -> Whose {
    Whose::firehose("splunk", "everything")
}

/// A reading of one firehose that has lost so many for a full log.
fn stands(envelopes: u64) -> Reading {
    let mut reading = Reading::default();
    reading.stands(splunk(), dropped(LOG, envelopes).causes());
    reading
}

fn ask(history: &History, now: u64, query: &str) -> Page {
    history.page(at(now), &Asked::parse(query).unwrap())
}

/// All the history knows of a place and cause, by name and without.
fn sum(history: &History, place: Place, cause: Cause) -> u64 {
    let all = history.minutes.iter().flat_map(OneMinute::all);
    let here = all.filter(|((whose, it), _)| (whose.place, *it) == (place, cause));
    here.map(|(_, n)| n).sum()
}

#[test]
fn the_page_says_where_when_whose_why_and_what_to_do() {
    let mut history = history();
    history.observe(at(1), stands(0));
    history.observe(at(2), stands(7));
    history.observe(at(62), stands(10));
    let page = ask(&history, 63, "");
    assert_eq!((page.process.as_str(), page.lost), ("doppler", 10));
    assert_eq!(page.began, "2017-07-14T02:40:00Z");
    assert_eq!(
        (&*page.from, &*page.to),
        ("2017-07-14T02:40:00Z", "2017-07-14T02:41:03Z")
    );
    let minutes: Vec<_> = page.minutes.iter().map(|it| &*it.minute).collect();
    assert_eq!(minutes, ["2017-07-14T02:41:00Z", "2017-07-14T02:40:00Z"]);
    let row = &page.minutes[1].losses[0];
    assert_eq!(
        serde_json::to_string(row).unwrap(),
        r#"{"where":"firehose","subscription":"splunk","filter":"everything","reason":"log_overflow","envelopes":7}"#
    );
    assert_eq!(page.losers_now[0].envelopes, 3, "the last 10 s");
    assert_eq!(page.since_began[0].envelopes, 10);
    assert!(page.reasons["log_overflow"].remedy.contains("instances"));
    assert_eq!(ask(&history, 63, "since=1s").lost, 3);
    assert_eq!(ask(&history, 123, "since=60").lost, 0);
}

#[test]
fn an_hour_is_remembered_whatever_the_clock_does() {
    let mut history = history();
    let at = |up: u64, unix: i64| At {
        up: Duration::from_secs(up),
        unix_ns: unix * 1_000_000_000,
    };
    for second in 0..10_000 {
        let clock = [1_000_000_000, 5, i64::MAX / 1_000_000_000][second as usize % 3];
        history.observe(at(second, clock), stands(second + 1));
        assert!(history.minutes.len() <= 61);
    }
    let now = at(10_000, 0);
    let page = history.page(now, &Asked::parse("").unwrap());
    assert!((3_600..=10_000).contains(&page.lost), "{}", page.lost);
    assert_eq!(page.since_began[0].envelopes, 10_000);
    history.observe(at(20_000, 0), stands(10_000));
    assert!(history.minutes.is_empty());
}

#[test]
fn a_question_about_an_app_says_what_may_be_its_too() {
    let mut history = history();
    let mut reading = Reading::default();
    reading.grew(Whose::app("mine"), dropped(Reason::AppOverflow, 3).causes());
    reading.grew(
        Whose::app("other"),
        dropped(Reason::AppOverflow, 4).causes(),
    );
    reading.grew(
        Whose::ingress(Some("mine")),
        dropped(Reason::NotV1, 1).causes(),
    );
    reading.others(Place::Ingress, dropped(Reason::Malformed, 2).causes());
    reading.grew(Whose::link("d:8082", None), [(Cause::Gap, 5)]);
    reading.grew(splunk(), dropped(LOG, 6).causes());
    history.observe(at(1), reading);

    let page = ask(&history, 2, "app=mine");
    assert_eq!(page.lost, 4);
    let perhaps: Vec<_> = page
        .perhaps
        .iter()
        .map(|row| (&*row.place, &*row.reason, row.envelopes))
        .collect();
    assert_eq!(perhaps, [("link", "gap", 5), ("ingress", "malformed", 2)]);
    let page = ask(&history, 2, "subscription=splunk&since=1h");
    assert_eq!(page.lost, 6);
    assert_eq!(page.perhaps.iter().map(|it| it.envelopes).sum::<u64>(), 3);
}

#[test]
fn a_bad_question_is_told_what_is_wrong_with_it() {
    for (query, says) in [
        ("since=soon", "since=soon: not a time"),
        ("since=2h", "since=2h: losses are kept for an hour"),
        ("since=-1", "since=-1"),
        ("app=", "app has no value"),
        ("app=a&app=b", "app is given twice"),
        ("app=a&subscription=b", "two questions"),
        ("guid=a", "guid: there is since"),
    ] {
        let wrong = Asked::parse(query).unwrap_err().to_string();
        assert!(wrong.contains(says), "{query}: {wrong}");
    }
    assert_eq!(Asked::parse("").unwrap().since, HISTORY);
    assert_eq!(
        Asked::parse("since=1m30s").unwrap().since,
        Duration::from_secs(90)
    );
}

#[test]
fn what_moves_from_one_account_to_another_is_not_lost_again() {
    let mut history = history();
    let gap = |doppler: &str, gap| {
        let mut reading = Reading::default();
        reading.stands(Whose::link(doppler, None), [(Cause::Gap, gap)]);
        reading
    };
    history.observe(at(1), gap("d:8082", 5));
    // Its Doppler left, and lost 2 more while it did.
    history.observe(at(2), gap("(left)", 7));
    assert_eq!(ask(&history, 3, "").lost, 7);
    assert_eq!(ask(&history, 3, "").since_began[0].envelopes, 7);
}

#[test]
fn names_are_cut_and_tell_a_terminal_nothing() {
    let long = "x".repeat(NAME_BYTES + 1);
    let name = shown(&long);
    assert_eq!(name.len(), NAME_BYTES + '…'.len_utf8());
    assert_eq!(&*shown("a\u{1b}[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
    assert!(shown(&"ä".repeat(NAME_BYTES)).len() <= NAME_BYTES + '…'.len_utf8());
    assert_eq!(&*shown(&long[1..]), &long[1..]);
}

#[test]
fn a_loss_has_a_line_when_it_begins_and_one_when_it_is_over() {
    let mut history = history();
    assert!(history.observe(at(0), stands(0)).is_empty());
    let began = Transition::Began {
        whose: splunk(),
        cause: Cause::Counted(LOG),
        envelopes: 5,
    };
    assert_eq!(history.observe(at(1), stands(5)), [began]);
    for second in 2..20 {
        assert!(history.observe(at(second), stands(second * 5)).is_empty());
    }
    assert!(history.observe(at(78), stands(95)).is_empty());
    let over = Transition::Over {
        whose: splunk(),
        envelopes: 95,
        lasted: Duration::from_secs(18),
    };
    assert_eq!(history.observe(at(79), stands(95)), [over]);
    assert!(history.observe(at(200), stands(95)).is_empty());
}

#[test]
fn what_a_tail_leaves_behind_has_no_line_and_is_in_the_history() {
    let mut history = history();
    let mut reading = Reading::default();
    reading.grew(Whose::app("a"), dropped(Reason::CloseResidue, 3).causes());
    assert!(history.observe(at(1), reading).is_empty());
    assert_eq!(ask(&history, 1, "app=a").lost, 3);
}

#[test]
fn the_door_has_one_line_whatever_apps_are_named_there() {
    let mut history = history();
    let mut reading = Reading::default();
    for app in 0..100 {
        let app = format!("app-{app}");
        reading.grew(
            Whose::ingress(Some(&app)),
            dropped(Reason::NotV1, 1).causes(),
        );
    }
    reading.others(Place::Ingress, dropped(Reason::NotV1, 1).causes());
    let lines = history.observe(at(1), reading);
    let [Transition::Began { envelopes: 101, .. }] = lines[..] else {
        panic!("{lines:?}")
    };
}

#[test]
fn a_thousand_losers_are_ten_lines_a_second_and_the_others_are_counted() {
    let mut history = history();
    let mut reading = Reading::default();
    for app in 0..1_000 {
        let lost = dropped(Reason::AppOverflow, app + 1);
        reading.grew(Whose::app(&app.to_string()), lost.causes());
    }
    let lines = history.observe(at(1), reading);
    assert_eq!(lines.len(), LINES as usize);
    let Transition::Began { envelopes, .. } = &lines[0] else {
        panic!("{lines:?}")
    };
    assert_eq!(*envelopes, 1_000, "the worst first");
    assert!(history.observe(at(1), Reading::default()).is_empty());
    let unsaid = history.observe(at(2), Reading::default());
    assert_eq!(unsaid, [Transition::Unsaid(990)]);
    assert!(history.observe(at(3), Reading::default()).is_empty());
}

#[test]
fn of_a_minute_those_that_lost_most_have_a_name_and_the_others_still_add_up() {
    let mut history = history();
    for second in 0..30u64 {
        let mut reading = Reading::default();
        for app in 0..100 {
            let name = format!("small-{second}-{app}");
            reading.grew(Whose::app(&name), dropped(Reason::AppOverflow, 1).causes());
        }
        reading.grew(Whose::app("fat"), dropped(Reason::AppOverflow, 50).causes());
        history.observe(at(second), reading);
        assert!(history.minutes[0].named.len() <= 2 * NAMED);
    }
    let page = ask(&history, 30, "");
    assert_eq!(page.lost, 30 * 150);
    let row = &page.minutes[0].losses[0];
    assert_eq!(row.app, None, "those without a name, together");
    assert_eq!(ask(&history, 30, "app=fat").lost, 30 * 50);
}

#[test]
fn senders_and_losers_of_the_last_seconds_are_ranked() {
    let mut history = history();
    for second in 0..20u64 {
        let mut reading = Reading::default();
        reading.sent("quiet", 1, 100);
        reading.sent("noisy", 1_000, 100_000);
        history.observe(at(second), reading);
    }
    let page = ask(&history, 19, "");
    let senders: Vec<_> = page
        .senders_now
        .iter()
        .map(|it| (&*it.app, it.envelopes))
        .collect();
    assert_eq!(senders, [("noisy", 10_000), ("quiet", 10)]);
    assert!(ask(&history, 40, "").senders_now.is_empty());
}

/// What can happen to accounts between two readings.
#[derive(Debug, Clone)]
enum Step {
    /// An account of that name loses so many.
    Loses(u8, Reason, u64),
    /// It ends.
    Ends(u8),
    /// All are read, so many seconds after the last time.
    Read(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let reason = (0..Reason::ALL.len()).prop_map(|n| Reason::ALL[n]);
    prop_oneof![
        6 => (0..12u8, reason, 1..1_000u64).prop_map(|(name, why, n)| Step::Loses(name, why, n)),
        2 => (0..12u8).prop_map(Step::Ends),
        3 => (1..40u64).prop_map(Step::Read),
    ]
}

proptest! {
    /// Accounts come, lose, end and come again under the same names, more of them than are kept:
    /// the history is what they lost, by place and cause, to the envelope, and no name has more
    /// than is its.
    #[test]
    fn the_history_is_what_the_counters_grew_by(
        steps in prop::collection::vec(step(), 1..100),
        kept in 0..6usize,
    ) {
        let mut history = history();
        let mut open: BTreeMap<u8, Dropped> = BTreeMap::new();
        let mut ended: EndedSums<u8, Dropped> = EndedSums::new(kept);
        let mut all = Dropped::default();
        let mut of_name: BTreeMap<u8, u64> = BTreeMap::new();
        let mut now = 0;
        for step in steps.into_iter().chain([Step::Read(1)]) {
            match step {
                Step::Loses(name, reason, n) => {
                    open.entry(name).or_default().add(reason, n);
                    all.add(reason, n);
                    *of_name.entry(name).or_default() += n;
                }
                Step::Ends(name) => {
                    if let Some(account) = open.remove(&name) {
                        ended.add(name, account);
                    }
                }
                Step::Read(seconds) => {
                    now += seconds;
                    let mut reading = Reading::default();
                    let whose = |name: &u8| Whose::app(&name.to_string());
                    for (name, account) in &open {
                        reading.stands(whose(name), account.causes());
                    }
                    let gone = ended.take();
                    for (name, account) in &gone.named {
                        reading.grew(whose(name), account.causes());
                    }
                    reading.others(Place::App, gone.others.causes());
                    history.observe(at(now), reading);
                    if now < HISTORY.as_secs() {
                        for reason in Reason::ALL {
                            let kept = sum(&history, Place::App, Cause::Counted(reason));
                            prop_assert_eq!(kept, all[reason], "{:?} after {} s", reason, now);
                        }
                    }
                    for reason in Reason::ALL {
                        let cause = (Place::App, Cause::Counted(reason));
                        let ever = history.all.get(&cause).copied().unwrap_or_default();
                        prop_assert_eq!(ever, all[reason]);
                    }
                }
            }
        }
        for (name, lost) in &of_name {
            let page = ask(&history, now, &format!("app={name}"));
            prop_assert!(page.lost <= *lost, "{}: {} > {}", name, page.lost, lost);
        }
    }
}
