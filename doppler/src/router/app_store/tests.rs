use super::*;
use crate::router::batch::Batch;
use crate::router::recent::{Form, Kind};
use proptest::prelude::*;

fn batch(app: &str, envelopes: u32) -> Batch {
    let mut batch = Batch::default();
    for n in 0..envelopes {
        batch.push_v1(&n.to_be_bytes().repeat(25), true, app.as_bytes());
    }
    batch
}

fn offer(store: &AppStore, app: &str, envelopes: u32) {
    store.offer(&batch(app, envelopes), &store.tailed(false));
}

/// What one envelope of [`batch`] costs the store.
const COST: usize = 2 + HANDLE_BYTES + 100 + PLACE;

fn try_take(link: &mut Link) -> Option<Taken> {
    match link.poll_take(&mut Context::from_waker(Waker::noop()), || 0) {
        Poll::Ready(taken) => taken,
        Poll::Pending => None,
    }
}

/// How many frames each handle got in one take.
fn take_by_handle(link: &mut Link) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    if let Some(Taken::Frames(frames)) = try_take(link) {
        for message in frame::payloads(&frames.into()) {
            let (handle, _) = proto::link::split_handle(&message).unwrap();
            *counts.entry(handle).or_default() += 1;
        }
    }
    counts
}

fn account(store: &AppStore, app: &str) -> Account {
    let is = |(whose, account): (Subscription, Account)| match whose {
        Subscription::App { app: named, .. } if &*named == app => Some(account),
        _ => None,
    };
    store.accounts().open.into_iter().find_map(is).unwrap()
}

#[test]
fn a_link_gets_the_apps_it_asked_for_and_no_other() {
    let store = AppStore::new(1 << 20);
    let mut link = store.link("tc");
    link.subscribe(7, "a").unwrap();
    offer(&store, "b", 3);
    offer(&store, "a", 2);
    assert_eq!(take_by_handle(&mut link), BTreeMap::from([(7, 2)]));
    assert_eq!(try_take(&mut link), None);
}

#[test]
fn every_link_that_tails_an_app_gets_all_of_it() {
    let store = AppStore::new(1 << 20);
    let (mut one, mut two) = (store.link("one"), store.link("two"));
    one.subscribe(1, "a").unwrap();
    two.subscribe(2, "a").unwrap();
    offer(&store, "a", 5);
    assert_eq!(take_by_handle(&mut one), BTreeMap::from([(1, 5)]));
    assert_eq!(take_by_handle(&mut two), BTreeMap::from([(2, 5)]));
}

#[test]
fn a_loud_app_does_not_hold_up_a_quiet_one() {
    let store = AppStore::new(1 << 20);
    let mut link = store.link("tc");
    link.subscribe(1, "loud").unwrap();
    link.subscribe(2, "quiet").unwrap();
    offer(&store, "loud", 5_000);
    offer(&store, "quiet", 1);
    assert_eq!(take_by_handle(&mut link).get(&2), Some(&1));
}

#[test]
fn a_full_store_costs_the_fattest_app_and_not_the_quiet_one() {
    let store = AppStore::new(1_000 * COST);
    let mut link = store.link("tc");
    link.subscribe(1, "loud").unwrap();
    link.subscribe(2, "quiet").unwrap();
    offer(&store, "quiet", 100);
    offer(&store, "loud", 2_000);
    let (loud, quiet) = (account(&store, "loud"), account(&store, "quiet"));
    assert_eq!(quiet.dropped.total(), 0);
    assert_eq!(loud.dropped[Reason::AppOverflow] + loud.queued, 2_000);
    assert!(
        loud.queued > 850,
        "no more is lost than has to be: {loud:?}"
    );

    // Its tails are told first, once, and exactly.
    assert!(take_by_handle(&mut link).contains_key(&1));
    let after = account(&store, "loud");
    assert_eq!((after.notices, after.imbalance()), (1, 0));
}

#[test]
fn a_link_has_one_queue_for_an_app_and_may_have_another_once_that_ended() {
    let store = AppStore::new(1 << 20);
    let link = store.link("tc");
    link.subscribe(1, "a").unwrap();
    assert_eq!(link.subscribe(2, "a"), Err(Refused::Twice));
    assert_eq!(link.subscribe(1, "b"), Err(Refused::Twice));
    link.unsubscribe(1);
    assert_eq!(link.subscribe(2, "a"), Ok(()));
}

#[test]
fn a_queue_that_was_emptied_by_eviction_gets_one_turn_at_a_time() {
    let store = AppStore::new(2 * COST);
    let mut link = store.link("tc");
    link.subscribe(1, "a").unwrap();
    for _ in 0..100 {
        offer(&store, "a", 3);
    }
    assert_eq!(store.lock().links.values().next().unwrap().turns.len(), 1);
    assert!(try_take(&mut link).is_some());
    assert_eq!(account(&store, "a").imbalance(), 0);
}

#[test]
fn an_unsubscribed_app_ends_with_its_last_account() {
    let store = AppStore::new(1 << 20);
    let mut link = store.link("tc");
    link.subscribe(1, "a").unwrap();
    offer(&store, "a", 3);
    link.unsubscribe(1);
    let Some(Taken::Ended(1, account)) = try_take(&mut link) else {
        panic!("no last account");
    };
    assert_eq!((account.offered, account.dropped[Reason::NoMember]), (3, 3));
    assert_eq!(store.accounts().gone, account);
    assert!(store.accounts().open.is_empty() && store.tailed(false).0.is_none());
}

#[test]
fn what_a_broken_link_held_is_residue_and_what_waited_had_no_reader() {
    let store = AppStore::new(1 << 20);
    let mut link = store.link("tc");
    link.subscribe(1, "a").unwrap();
    offer(&store, "a", 2);
    assert!(try_take(&mut link).is_some());
    offer(&store, "a", 3);
    drop(link);
    let gone = store.accounts().gone;
    assert_eq!(gone.dropped[Reason::CloseResidue], 2);
    assert_eq!(gone.dropped[Reason::NoMember], 3);
    assert_eq!(store.lock().bytes, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Subscribe {
        link: usize,
        app: u8,
    },
    Unsubscribe {
        link: usize,
        handle: u32,
    },
    Offer {
        app: u8,
        envelopes: u32,
    },
    Answer {
        link: usize,
        tail: Option<u32>,
        logs: u32,
    },
    Take(usize),
    Settle(usize),
    Break(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0usize..3, 0u8..4).prop_map(|(link, app)| Step::Subscribe { link, app }),
        1 => (0usize..3, 0u32..20).prop_map(|(link, handle)| Step::Unsubscribe { link, handle }),
        1 => (0usize..3, 1_000u32..1_020).prop_map(|(link, handle)| Step::Unsubscribe { link, handle }),
        3 => (0usize..3, proptest::option::of(0u32..20), 0u32..70)
            .prop_map(|(link, tail, logs)| Step::Answer { link, tail, logs }),
        6 => (0u8..4, 1u32..40).prop_map(|(app, envelopes)| Step::Offer { app, envelopes }),
        4 => (0usize..3).prop_map(Step::Take),
        3 => (0usize..3).prop_map(Step::Settle),
        1 => (0usize..3).prop_map(Step::Break),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn every_account_adds_up_after_every_step_and_the_cap_holds(
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let store = AppStore::new(60 * COST);
        let recents: Vec<Recents> = (0..4).map(|app| recents(&app.to_string(), 100)).collect();
        let mut links: Vec<Link> = (0..3).map(|n| store.link(&n.to_string())).collect();
        let mut held = [false; 3];
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Subscribe { link, app } => {
                    let _ = links[link].subscribe(n as u32, &app.to_string());
                }
                Step::Unsubscribe { link, handle } => links[link].unsubscribe(handle),
                Step::Offer { app, envelopes } => offer(&store, &app.to_string(), envelopes),
                Step::Answer { link, tail, logs } => {
                    // Of a stream's app, where there is one: which, only its account says.
                    for (app, recents) in recents.iter().enumerate() {
                        let asked = Recent {
                            app: app.to_string(),
                            logs,
                            ..asked(1_000 + n as u32, tail)
                        };
                        if links[link].answer(&asked, recents, 0) {
                            break;
                        }
                    }
                }
                Step::Take(link) if !held[link] => {
                    held[link] = matches!(try_take(&mut links[link]), Some(Taken::Frames(_)));
                }
                Step::Take(_) => {}
                Step::Settle(link) => {
                    links[link].sent();
                    held[link] = false;
                }
                Step::Break(link) => {
                    links[link] = store.link("again");
                    held[link] = false;
                }
            }
            for (whose, account) in store.accounts().open {
                prop_assert_eq!(account.imbalance(), 0, "{:?}", whose);
            }
            prop_assert_eq!(store.accounts().gone.imbalance(), 0);
            prop_assert!(store.lock().bytes <= 60 * COST);
            for queues in store.lock().links.values() {
                let of = |queue: &&Queue| queue.once;
                prop_assert_eq!(queues.queues.values().filter(of).count(), queues.answers);
                for queue in queues.queues.values() {
                    let markers = queue.frames.iter().filter(|frame| is_marker(frame));
                    prop_assert_eq!(markers.count(), queue.markers);
                }
            }
        }
        links.clear();
        prop_assert_eq!(store.lock().bytes, 0);
        prop_assert!(store.tailed(false).0.is_none());
    }
}

fn recents(app: &str, logs: u32) -> Recents {
    let recents = Recents::new(100, 32 << 20, std::time::Duration::from_secs(120));
    for n in 0..logs {
        let envelope = n.to_be_bytes().repeat(25);
        let envelope = recents.to_keep(app.as_bytes(), Kind::Log, Form::V1, &envelope);
        recents.keep(envelope.as_slice(), 0);
    }
    recents
}

fn asked(handle: u32, tail: Option<u32>) -> Recent {
    Recent {
        handle,
        app: "a".into(),
        logs: 100,
        metrics: false,
        tail,
    }
}

/// Handle and length of each message of one take.
fn messages(link: &mut Link) -> Vec<(u32, usize)> {
    let Some(Taken::Frames(frames)) = try_take(link) else {
        return Vec::new();
    };
    frame::payloads(&frames.into())
        .map(|message| {
            let (handle, envelope) = proto::link::split_handle(&message).unwrap();
            (handle, envelope.len())
        })
        .collect()
}

#[test]
fn a_snapshot_stands_in_its_stream_between_what_it_has_seen_and_what_it_has_not() {
    let store = AppStore::new(1 << 20);
    let mut link = store.link("tc");
    link.subscribe(1, "a").unwrap();
    offer(&store, "a", 1);
    assert!(link.answer(&asked(9, Some(1)), &recents("a", 2), 0));
    offer(&store, "a", 1);
    let expected = [(1, 100), (9, 100), (9, 100), (9, 0), (1, 100)];
    assert_eq!(messages(&mut link), expected);
    link.sent();
    assert_eq!(account(&store, "a").sent, 5);
    assert_eq!(account(&store, "a").imbalance(), 0);
}

#[test]
fn a_snapshot_without_a_stream_has_a_queue_that_ends_with_it() {
    let store = AppStore::new(1 << 20);
    let mut link = store.link("tc");
    assert!(link.answer(&asked(9, None), &recents("a", 2), 0));
    assert_eq!(messages(&mut link), [(9, 100), (9, 100), (9, 0)]);
    assert_eq!(account(&store, "a").queued, 3, "the socket has it");
    link.sent();
    assert!(store.accounts().open.is_empty());
    let gone = store.accounts().gone;
    assert_eq!((gone.offered, gone.sent, gone.imbalance()), (3, 3, 0));
    assert!(matches!(try_take(&mut link), Some(Taken::Ended(9, _))));
    // Nothing of it is in the way of the app's stream, or of a next one.
    link.subscribe(9, "a").unwrap();
    assert!(link.answer(&asked(10, None), &recents("a", 0), 0));
    assert_eq!(messages(&mut link), [(10, 0)]);
}

#[test]
fn a_snapshot_that_the_store_had_no_room_for_ends_all_the_same() {
    let store = AppStore::new(2 * COST);
    let mut link = store.link("tc");
    assert!(link.answer(&asked(9, None), &recents("a", 50), 0));
    assert!(!messages(&mut link).is_empty());
    link.sent();
    let gone = store.accounts().gone;
    assert!(gone.dropped[Reason::AppOverflow] >= 48);
    assert_eq!((gone.offered, gone.imbalance()), (51, 0));
}

#[test]
fn no_more_snapshots_wait_than_may() {
    let store = AppStore::new(32 << 20);
    let link = store.link("tc");
    link.subscribe(1, "a").unwrap();
    link.subscribe(2, "b").unwrap();
    let recents = recents("a", 1);
    let given = (100..200).filter(|handle| link.answer(&asked(*handle, None), &recents, 0));
    assert_eq!(given.count(), MAX_ANSWERS);
    assert!(!link.answer(&asked(100, None), &recents, 0), "in use");
    let given = (200..300).filter(|handle| link.answer(&asked(*handle, Some(1)), &recents, 0));
    assert_eq!(given.count(), MAX_ANSWERS_IN_A_STREAM);
    assert!(
        !link.answer(&asked(300, Some(2)), &recents, 0),
        "of another app"
    );
    assert!(!link.answer(&asked(300, Some(3)), &recents, 0), "of none");
}

#[test]
fn what_an_ended_queue_lost_has_its_apps_name_until_somebody_asks() {
    let store = AppStore::new(1 << 20);
    let link = store.link("tc");
    link.subscribe(1, "a").unwrap();
    link.subscribe(2, "b").unwrap();
    offer(&store, "a", 3);
    link.unsubscribe(1);
    let (accounts, ended) = store.audit();
    assert_eq!(accounts.open.len(), 1);
    assert_eq!(ended.named["a"][Reason::NoMember], 3);
    assert_eq!((ended.named.len(), ended.others.total()), (1, 0));
    offer(&store, "b", 2);
    drop(link);
    let (accounts, ended) = store.audit();
    assert_eq!(accounts.gone.dropped[Reason::NoMember], 5);
    assert_eq!(ended.named["b"][Reason::NoMember], 2);
}

#[test]
fn who_tails_an_app_is_not_told_of_a_snapshot_that_fell_out() {
    let store = AppStore::new(4 * COST);
    let mut link = store.link("tc");
    link.subscribe(1, "a").unwrap();
    assert!(link.answer(&asked(9, Some(1)), &recents("a", 50), 0));
    offer(&store, "a", 2);
    let of_stream = |messages: Vec<(u32, usize)>| {
        let mine = messages.into_iter().filter(|(handle, _)| *handle == 1);
        mine.map(|(_, bytes)| bytes).collect::<Vec<_>>()
    };
    assert_eq!(of_stream(messages(&mut link)), [100, 100], "and no notice");
    link.sent();
    let lost = account(&store, "a");
    assert!(lost.dropped[Reason::AppOverflow] >= 47, "{lost:?}");
    assert_eq!((lost.notices, lost.imbalance()), (0, 0));
}

proptest! {
    /// Whatever floods, an app whose queue is no more than an equal share of the store loses
    /// nothing.
    #[test]
    fn a_quiet_app_loses_nothing_while_others_flood(
        noisy in 1..6u32,
        steps in prop::collection::vec((0..6u32, 1..40u32), 1..200),
    ) {
        let store = AppStore::new(200 * COST);
        let mut link = store.link("tc");
        let share = (200 - 200 / 64 - 1) / (noisy as usize + 1);
        link.subscribe(0, "quiet").unwrap();
        (1..=noisy).for_each(|app| link.subscribe(app, &format!("noisy-{app}")).unwrap());
        let mut flooded = 0;
        for (app, envelopes) in steps {
            match app {
                0 => {
                    let waits = account(&store, "quiet").queued as usize;
                    let room = share.saturating_sub(waits).min(envelopes as usize);
                    offer(&store, "quiet", room as u32);
                }
                5 => {
                    try_take(&mut link);
                    link.sent();
                }
                app => {
                    flooded += envelopes;
                    offer(&store, &format!("noisy-{}", 1 + app % noisy), envelopes);
                }
            }
            prop_assert_eq!(account(&store, "quiet").dropped.total(), 0, "{} flooded", flooded);
        }
    }
}
