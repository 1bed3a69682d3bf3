use super::*;
use crate::frame;
use proptest::prelude::*;
use std::collections::HashMap;
use std::task::Waker;

/// A batch of frames whose payloads are the numbers `ids`; even numbers are logs.
fn batch(ids: std::ops::Range<u32>) -> Frames {
    let mut frames = Frames::new();
    for id in ids {
        frames.push(&id.to_be_bytes(), id % 2 == 0);
    }
    frames
}

fn ids(run: &bytes::Bytes) -> Vec<u32> {
    let number = |payload: bytes::Bytes| u32::from_be_bytes((*payload).try_into().unwrap());
    frame::payloads(run).map(number).collect()
}

fn try_claim(member: &mut Member) -> Option<Claim> {
    match member.poll_claim(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(claim) => claim,
        Poll::Pending => None,
    }
}

fn claimed_ids(member: &mut Member) -> Vec<u32> {
    match try_claim(member) {
        Some(Claim::Frames(run)) => ids(&run),
        other => panic!("no frames but {other:?}"),
    }
}

fn log(cap: usize) -> Arc<Log> {
    Log::new(cap, Reason::LogOverflow)
}

/// What one sealed frame of [`batch`] counts for.
const FRAME: usize = 2 + 4 + 4 + chunk::OVERHEAD;

#[test]
fn differently_named_groups_each_get_everything() {
    let log = log(1 << 20);
    let (mut a, mut b) = (
        log.join("a", Filter::Everything),
        log.join("b", Filter::Everything),
    );
    log.append(&mut batch(0..3));
    log.seal();
    assert_eq!(claimed_ids(&mut a), [0, 1, 2]);
    assert_eq!(claimed_ids(&mut b), [0, 1, 2]);
}

#[test]
fn one_name_with_two_filters_is_two_groups() {
    let log = log(1 << 20);
    let (mut logs, mut rest) = (log.join("a", Filter::Logs), log.join("a", Filter::Metrics));
    log.append(&mut batch(0..4));
    log.seal();
    assert_eq!(claimed_ids(&mut logs), [0, 2]);
    assert_eq!(claimed_ids(&mut rest), [1, 3]);
}

#[test]
fn who_joins_behind_frames_of_its_own_reads_them_first_and_answers_for_them() {
    let log = log(1 << 20);
    log.join("other", Filter::Everything).leave(0);
    let mut member = log.join_behind("a", &mut batch(10..13), 2);
    log.append(&mut batch(0..2));
    log.seal();
    let lost = Some(Claim::Lost { delta: 2, total: 2 });
    assert_eq!(try_claim(&mut member), lost);
    member.sent();
    assert_eq!(claimed_ids(&mut member), [10, 11, 12]);
    assert_eq!(member.account().queued, 5);
    member.sent();
    assert_eq!(claimed_ids(&mut member), [0, 1]);
    member.sent();
    let account = member.account();
    assert_eq!((account.offered, account.notices, account.sent), (7, 1, 6));
    assert_eq!(account.imbalance(), 0);
}

#[test]
fn members_of_a_group_share_it_in_turns_of_64() {
    let log = log(1 << 20);
    let (mut a, mut b) = (
        log.join("g", Filter::Everything),
        log.join("g", Filter::Everything),
    );
    assert_eq!(try_claim(&mut a), None);
    assert_eq!(try_claim(&mut b), None);
    log.append(&mut batch(0..200));
    log.seal();
    assert_eq!(try_claim(&mut b), None, "it is a's turn");
    assert_eq!(claimed_ids(&mut a), (0..64).collect::<Vec<_>>());
    assert_eq!(claimed_ids(&mut b), (64..128).collect::<Vec<_>>());
    a.sent();
    assert_eq!(claimed_ids(&mut a), (128..192).collect::<Vec<_>>());
}

#[test]
fn a_full_log_loses_its_oldest_chunk_and_tells_how_much() {
    let log = log(3 * FRAME);
    let mut reader = log.join("g", Filter::Everything);
    for id in 0..5 {
        log.append(&mut batch(id..id + 1));
        log.seal();
    }
    assert_eq!(
        try_claim(&mut reader),
        Some(Claim::Lost { delta: 2, total: 2 })
    );
    reader.sent();
    assert_eq!(claimed_ids(&mut reader), [2]);
    let account = log.accounts().open[0].account;
    assert_eq!((account.offered, account.notices, account.sent), (5, 1, 1));
    assert_eq!(
        (account.dropped[Reason::LogOverflow], account.queued),
        (2, 3)
    );
}

#[test]
fn a_filtered_reader_is_charged_only_with_what_it_asked_for() {
    let log = log(FRAME);
    let mut reader = log.join("g", Filter::Logs);
    for id in 0..4 {
        log.append(&mut batch(id..id + 1));
        log.seal();
    }
    assert_eq!(
        try_claim(&mut reader),
        Some(Claim::Lost { delta: 2, total: 2 })
    );
    assert_eq!(log.accounts().open[0].account.offered, 2);
}

#[test]
fn a_new_group_starts_behind_what_gathers() {
    let log = log(1 << 20);
    let _first = log.join("first", Filter::Everything);
    log.append(&mut batch(0..2));
    let mut second = log.join("second", Filter::Everything);
    log.append(&mut batch(2..3));
    log.seal();
    assert_eq!(claimed_ids(&mut second), [2]);
    assert_eq!(log.accounts().open[1].account.offered, 1);
}

#[test]
fn unstarted_frames_of_a_leaving_member_go_to_the_next_and_started_ones_are_residue() {
    let log = log(1 << 20);
    let (mut a, mut b) = (
        log.join("g", Filter::Everything),
        log.join("g", Filter::Everything),
    );
    log.append(&mut batch(0..3));
    log.seal();
    assert_eq!(claimed_ids(&mut a), [0, 1, 2]);
    let one_frame_and_a_byte = 7;
    a.leave(one_frame_and_a_byte);
    assert_eq!(try_claim(&mut b), Some(Claim::Lost { delta: 2, total: 2 }));
    b.sent();
    assert_eq!(claimed_ids(&mut b), [2]);
    assert_eq!(
        log.accounts().open[0].account.dropped[Reason::CloseResidue],
        2
    );
}

#[test]
fn a_group_lingers_for_a_member_that_comes_back() {
    let log = log(1 << 20);
    let vacant = log.join("g", Filter::Everything).leave(0).unwrap();
    log.append(&mut batch(0..2));
    log.seal();
    let mut back = log.join("g", Filter::Everything);
    vacant.end(Reason::NoMember);
    assert_eq!(claimed_ids(&mut back), [0, 1]);
}

#[test]
fn what_nobody_came_back_for_is_counted_when_its_group_ends() {
    let log = log(1 << 20);
    let vacant = log.join("g", Filter::Everything).leave(0).unwrap();
    log.append(&mut batch(0..2));
    vacant.end(Reason::NoMember);
    assert_eq!(log.accounts().gone.dropped[Reason::NoMember], 2);
    assert_eq!(log.accounts().gone.imbalance(), 0);
    assert!(!log.is_read() && log.bytes() == 0);
}

#[test]
fn a_chunk_that_everybody_passed_is_let_go() {
    let log = log(1 << 20);
    let (mut a, mut b) = (
        log.join("a", Filter::Everything),
        log.join("b", Filter::Metrics),
    );
    log.append(&mut batch(0..2));
    log.seal();
    claimed_ids(&mut a);
    assert!(log.bytes() > 0);
    claimed_ids(&mut b);
    assert_eq!(log.bytes(), 0);
}

#[test]
fn a_filtered_group_that_waits_does_not_hold_the_log_for_what_it_does_not_want() {
    let log = log(1 << 20);
    let mut idle = log.join("idle", Filter::Metrics);
    assert_eq!(try_claim(&mut idle), None);
    for id in 0..50 {
        log.append(&mut batch(2 * id..2 * id + 1));
        log.seal();
    }
    assert_eq!(log.bytes(), 0);
}

#[test]
fn what_several_leavers_return_is_claimed_in_its_order() {
    let log = log(1 << 20);
    let mut all: Vec<Member> = (0..3).map(|_| log.join("g", Filter::Everything)).collect();
    log.append(&mut batch(0..128));
    log.seal();
    let mut stays = all.pop().unwrap();
    let (mut a, mut b) = (all.remove(0), all.remove(0));
    assert_eq!(claimed_ids(&mut a)[0], 0);
    assert_eq!(claimed_ids(&mut b)[0], 64);
    b.leave(0);
    a.leave(0);
    assert_eq!(claimed_ids(&mut stays)[0], 0);
    stays.sent();
    assert_eq!(claimed_ids(&mut stays)[0], 64);
}

#[test]
fn a_chunk_keeps_no_more_memory_than_it_is_charged_for() {
    let mut frames = batch(0..17);
    frames.begin().extend_from_slice(&[7; 100]);
    frames.end(true);
    let (bytes, ends) = frames.take();
    let size = bytes.len() + size_of_val(&*ends);
    // A vector made from it would own its whole allocation.
    assert_eq!(Vec::from(bytes).capacity() + size_of_val(&*ends), size);
}

#[test]
fn a_closed_log_is_drained_and_then_ends() {
    let log = log(1 << 20);
    let mut reader = log.join("g", Filter::Everything);
    log.append(&mut batch(0..1));
    log.close();
    log.append(&mut batch(1..2));
    let mut next = || match reader.poll_claim(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(claim) => {
            reader.sent();
            claim
        }
        Poll::Pending => panic!("a closed log keeps nobody waiting"),
    };
    assert_eq!(next(), Some(Claim::Lost { delta: 1, total: 1 }));
    assert!(matches!(next(), Some(Claim::Frames(_))));
    assert_eq!(next(), None);
}

#[tokio::test(start_paused = true)]
async fn a_lone_frame_is_readable_after_the_gathering_time() {
    let log = log(1 << 20);
    let mut reader = log.join("g", Filter::Everything);
    let sealer = tokio::spawn({
        let log = log.clone();
        async move { log.keep_sealing(GATHER).await }
    });
    log.append(&mut batch(7..8));
    let began = tokio::time::Instant::now();
    assert!(matches!(reader.claim().await, Some(Claim::Frames(run)) if ids(&run) == [7]));
    assert!(began.elapsed() >= GATHER && began.elapsed() <= 3 * GATHER);
    sealer.abort();
}

/// Of each group how far it stands behind, and the bytes of the chunks that lie there.
fn behind(log: &Log) -> Vec<(usize, usize)> {
    let state = log.lock();
    let groups = state.groups.iter().flatten();
    groups
        .map(|group| {
            let from = (group.chunk - state.first) as usize;
            let ahead = state.chunks.iter().skip(from);
            let walked = ahead.map(|held| held.chunk.size()).sum();
            (state.standing(group, log.overflow).behind, walked)
        })
        .collect()
}

/// One step against the log, and against a model that knows every frame by its number.
#[derive(Debug, Clone)]
enum Step {
    Append(u32),
    Seal,
    Shed,
    Join { name: u8, filter: u8 },
    Claim(usize),
    Settle(usize),
    Leave { member: usize, taken: usize },
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u32..80).prop_map(Step::Append),
        3 => Just(Step::Seal),
        1 => Just(Step::Shed),
        2 => (0u8..3, 0u8..3).prop_map(|(name, filter)| Step::Join { name, filter }),
        6 => any::<usize>().prop_map(Step::Claim),
        4 => any::<usize>().prop_map(Step::Settle),
        1 => (any::<usize>(), 0usize..900).prop_map(|(member, taken)| Step::Leave { member, taken }),
        1 => Just(Step::Expire),
    ]
}

struct Reader {
    member: Member,
    key: (String, Filter),
    hand: Option<Claim>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_account_adds_up_after_every_step_and_nothing_is_delivered_twice(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let log = log(60 * FRAME);
        let mut next_id = 0;
        let mut readers: Vec<Reader> = Vec::new();
        let mut vacant = Vec::new();
        let mut received: HashMap<(String, Filter), Vec<u32>> = HashMap::new();
        let mut told = 0;
        for step in steps {
            match step {
                Step::Append(n) => {
                    log.append(&mut batch(next_id..next_id + n));
                    next_id += n;
                }
                Step::Seal => log.seal(),
                Step::Shed => drop(log.shed()),
                Step::Join { name, filter } => {
                    let filter = [Filter::Everything, Filter::Logs, Filter::Metrics][filter as usize];
                    let name = name.to_string();
                    let member = log.join(&name, filter);
                    readers.push(Reader { member, key: (name, filter), hand: None });
                }
                Step::Claim(n) if !readers.is_empty() => {
                    let n = n % readers.len();
                    let reader = &mut readers[n];
                    if reader.hand.is_none() {
                        reader.hand = try_claim(&mut reader.member);
                    }
                }
                Step::Settle(n) if !readers.is_empty() => {
                    let n = n % readers.len();
                    let reader = &mut readers[n];
                    match reader.hand.take() {
                        Some(Claim::Frames(run)) => {
                            reader.member.sent();
                            let got = ids(&run);
                            prop_assert!(got.iter().all(|id| reader.key.1.matches(id % 2 == 0)));
                            received.entry(reader.key.clone()).or_default().extend(got);
                        }
                        Some(Claim::Lost { delta, .. }) => {
                            reader.member.sent();
                            told += delta;
                        }
                        None => {}
                    }
                }
                Step::Leave { member, taken } if !readers.is_empty() => {
                    let n = member % readers.len();
                    let reader = readers.swap_remove(n);
                    vacant.extend(reader.member.leave(taken));
                }
                Step::Expire => vacant.drain(..).for_each(|v: Vacant| _ = v.end(Reason::NoMember)),
                _ => {}
            }
            for entry in log.accounts().open {
                prop_assert_eq!(entry.account.imbalance(), 0, "{:?}", entry);
                let overflowed = entry.account.dropped[Reason::LogOverflow];
                let standing = log.standing(&entry.name, entry.filter).unwrap();
                prop_assert_eq!(standing.overflowed, overflowed);
            }
            for (stands, walked) in behind(&log) {
                prop_assert_eq!(stands, walked);
            }
            prop_assert_eq!(log.accounts().gone.imbalance(), 0);
        }
        // Everybody goes: what was received and what was dropped is all that was offered.
        readers.clear();
        vacant.drain(..).for_each(|v| _ = v.end(Reason::NoMember));
        prop_assert!(log.accounts().open.is_empty());
        let (mut all, mut count) = (log.accounts().gone, 0);
        for ids in received.values_mut() {
            count += ids.len() as u64;
            ids.sort_unstable();
            let before = ids.len();
            ids.dedup();
            prop_assert_eq!(ids.len(), before, "delivered twice");
        }
        all.sent -= count;
        prop_assert!(all.sent <= all.notices, "what is sent beyond the frames is notices");
        prop_assert!(told <= all.dropped.total());
        prop_assert_eq!(log.bytes(), 0);
    }
}

#[test]
fn what_an_ended_group_lost_has_its_name_until_somebody_asks() {
    let log = log(1 << 20);
    let (nozzle, other) = (
        log.join("nozzle", Filter::Logs),
        log.join("other", Filter::Everything),
    );
    log.append(&mut batch(0..4));
    drop(nozzle);
    let (accounts, ended) = log.audit();
    assert_eq!(accounts.open.len(), 1);
    let lost = ended.named[&("nozzle".into(), Filter::Logs)];
    assert_eq!(lost[Reason::NoMember], 2);
    assert_eq!((ended.named.len(), ended.others.total()), (1, 0));
    assert!(log.audit().1.named.is_empty(), "it is told once");
    drop(other);
    assert_eq!(log.accounts().gone.dropped[Reason::NoMember], 6);
    assert_eq!(log.audit().1.named.len(), 1);
}

#[test]
fn a_group_stands_as_far_behind_as_the_log_holds_for_it() {
    let log = log(10 * FRAME);
    let mut member = log.join("a", Filter::Logs);
    let standing = || log.standing("a", Filter::Logs).unwrap();
    assert_eq!(log.standing("a", Filter::Everything), None);
    assert_eq!(standing().per_mille(), 0);
    assert_eq!(try_claim(&mut member), None);
    assert!(standing().idle);

    // It holds one frame in hand, and what comes is more than there is room for.
    for id in 0..16 {
        log.append(&mut batch(id..id + 1));
        log.seal();
        if id == 0 {
            assert_eq!(claimed_ids(&mut member), [0]);
        }
    }
    assert_eq!(member.standing(), standing());
    assert!(!standing().idle);
    // Of 15 behind its cursor 10 are there, and of the others only logs were lost to it.
    assert_eq!(
        (standing().behind, standing().per_mille()),
        (10 * FRAME, 1_000)
    );
    assert_eq!(standing().overflowed, 2);

    let mut other = log.join("a", Filter::Logs);
    while try_claim(&mut other).is_some() {
        other.sent();
    }
    assert!(standing().idle, "the other one waits");
    assert_eq!(standing().behind, 0);
}

#[test]
fn a_group_lags_only_while_nothing_but_us_keeps_its_readers_waiting() {
    let log = log(10 * FRAME);
    let mut member = log.join("a", Filter::Everything);
    let mut feed = (0..).map(|id| {
        log.append(&mut batch(id..id + 1));
        log.seal();
    });
    let mut take = |member: &mut Member| {
        feed.by_ref().take(2).for_each(drop);
        assert!(try_claim(member).is_some());
        member.sent();
    };
    take(&mut member);
    let lag = || log.lag(3);
    assert_eq!(lag(), 0, "nobody said that it would take more");
    member.would_take_more(true);
    take(&mut member);
    assert!(lag() > 0);
    assert!(lag() > 0, "it may not have had its turn");
    assert_eq!(lag(), 0, "it has taken nothing for long");
    take(&mut member);
    member.would_take_more(false);
    assert_eq!(lag(), 0, "its own client keeps it waiting");
    member.would_take_more(true);
    take(&mut member);
    drop(member);
    assert_eq!(lag(), 0, "it is gone");
}

#[test]
fn who_takes_nothing_is_not_kept_waiting_though_others_of_its_group_are_served() {
    let log = log(10 * FRAME);
    let mut eager = log.join("a", Filter::Everything);
    let mut slow = log.join("a", Filter::Everything);
    let mut feed = (0..).map(|id| {
        log.append(&mut batch(id..id + 1));
        log.seal();
    });
    feed.by_ref().take(3).for_each(drop);
    eager.would_take_more(true);
    assert!(try_claim(&mut eager).is_some());
    for _ in 0..2 {
        assert!(log.lag(3) > 0, "it may not have had its turn");
        assert!(try_claim(&mut slow).is_some());
        slow.sent();
        feed.by_ref().take(1).for_each(drop);
    }
    assert_eq!(log.lag(3), 0, "it stands still, and the other one is slow");
    eager.sent();
    assert!(log.lag(3) > 0);
}
