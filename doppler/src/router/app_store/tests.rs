use super::*;
use crate::router::batch::Batch;
use proptest::prelude::*;

fn batch(app: &str, envelopes: u32) -> Batch {
    let mut batch = Batch::default();
    for n in 0..envelopes {
        batch.push_v1(&n.to_be_bytes().repeat(25), true, app.as_bytes());
    }
    batch
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
    store.offer(&batch("b", 3));
    store.offer(&batch("a", 2));
    assert_eq!(take_by_handle(&mut link), BTreeMap::from([(7, 2)]));
    assert_eq!(try_take(&mut link), None);
}

#[test]
fn every_link_that_tails_an_app_gets_all_of_it() {
    let store = AppStore::new(1 << 20);
    let (mut one, mut two) = (store.link("one"), store.link("two"));
    one.subscribe(1, "a").unwrap();
    two.subscribe(2, "a").unwrap();
    store.offer(&batch("a", 5));
    assert_eq!(take_by_handle(&mut one), BTreeMap::from([(1, 5)]));
    assert_eq!(take_by_handle(&mut two), BTreeMap::from([(2, 5)]));
}

#[test]
fn a_loud_app_does_not_hold_up_a_quiet_one() {
    let store = AppStore::new(1 << 20);
    let mut link = store.link("tc");
    link.subscribe(1, "loud").unwrap();
    link.subscribe(2, "quiet").unwrap();
    store.offer(&batch("loud", 5_000));
    store.offer(&batch("quiet", 1));
    assert_eq!(take_by_handle(&mut link).get(&2), Some(&1));
}

#[test]
fn a_full_store_costs_the_fattest_app_and_not_the_quiet_one() {
    let store = AppStore::new(1_000 * COST);
    let mut link = store.link("tc");
    link.subscribe(1, "loud").unwrap();
    link.subscribe(2, "quiet").unwrap();
    store.offer(&batch("quiet", 100));
    store.offer(&batch("loud", 2_000));
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
        store.offer(&batch("a", 3));
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
    store.offer(&batch("a", 3));
    link.unsubscribe(1);
    let Some(Taken::Ended(1, account)) = try_take(&mut link) else {
        panic!("no last account");
    };
    assert_eq!((account.offered, account.dropped[Reason::NoMember]), (3, 3));
    assert_eq!(store.accounts().gone, account);
    assert!(store.accounts().open.is_empty() && store.tailed().0.is_none());
}

#[test]
fn what_a_broken_link_held_is_residue_and_what_waited_had_no_reader() {
    let store = AppStore::new(1 << 20);
    let mut link = store.link("tc");
    link.subscribe(1, "a").unwrap();
    store.offer(&batch("a", 2));
    assert!(try_take(&mut link).is_some());
    store.offer(&batch("a", 3));
    drop(link);
    let gone = store.accounts().gone;
    assert_eq!(gone.dropped[Reason::CloseResidue], 2);
    assert_eq!(gone.dropped[Reason::NoMember], 3);
    assert_eq!(store.lock().bytes, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Subscribe { link: usize, app: u8 },
    Unsubscribe { link: usize, handle: u32 },
    Offer { app: u8, envelopes: u32 },
    Take(usize),
    Settle(usize),
    Break(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0usize..3, 0u8..4).prop_map(|(link, app)| Step::Subscribe { link, app }),
        1 => (0usize..3, 0u32..20).prop_map(|(link, handle)| Step::Unsubscribe { link, handle }),
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
        let mut links: Vec<Link> = (0..3).map(|n| store.link(&n.to_string())).collect();
        let mut held = [false; 3];
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Subscribe { link, app } => {
                    let _ = links[link].subscribe(n as u32, &app.to_string());
                }
                Step::Unsubscribe { link, handle } => links[link].unsubscribe(handle),
                Step::Offer { app, envelopes } => store.offer(&batch(&app.to_string(), envelopes)),
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
        }
        links.clear();
        prop_assert_eq!(store.lock().bytes, 0);
        prop_assert!(store.tailed().0.is_none());
    }
}
