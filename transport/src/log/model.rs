//! Interleavings of the log under Shuttle: `RUSTFLAGS="--cfg shuttle" cargo test -p transport log::`.

use super::*;
use shuttle::{future, thread};

const SCHEDULES: usize = 20_000;

/// What a chunk of two frames counts for; the log is made to hold two of them.
const CHUNK: usize = 2 * (2 + 8 + 4) + chunk::OVERHEAD;

fn frames(n: usize) -> Frames {
    let mut frames = Frames::new();
    (0..n).for_each(|id| frames.push(&[id as u8; 8], id % 2 == 0));
    frames
}

/// Reads until the log ends; returns frames received and frames told of as lost.
fn read(mut member: Member) -> (u64, u64) {
    let (mut got, mut told) = (0, 0);
    future::block_on(async {
        while let Some(claim) = member.claim().await {
            match claim {
                Claim::Frames(run) => got += crate::frame::frames(&run).count() as u64,
                Claim::Lost { delta, .. } => told += delta,
            }
            member.sent();
        }
    });
    (got, told)
}

#[test]
fn two_writers_an_overflowing_log_and_two_members_lose_nothing_uncounted() {
    shuttle::check_random(
        || {
            let log = Log::new(2 * CHUNK, Reason::LogOverflow);
            let readers: Vec<_> = (0..2)
                .map(|_| log.join("g", Filter::Everything))
                .map(|member| thread::spawn(move || read(member)))
                .collect();
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    let log = log.clone();
                    thread::spawn(move || {
                        for _ in 0..3 {
                            log.append(&mut frames(2));
                            log.seal();
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().unwrap();
            }
            log.close();
            let sums = readers.into_iter().map(|reader| reader.join().unwrap());
            let (got, told) = sums.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            assert_eq!(got + told, 12);
        },
        SCHEDULES,
    );
}

#[test]
fn a_member_that_leaves_wakes_the_one_behind_it() {
    shuttle::check_random(
        || {
            let log = Log::new(1 << 20, Reason::LogOverflow);
            let (quitter, stayer) = (
                log.join("g", Filter::Everything),
                log.join("g", Filter::Everything),
            );
            let leaving = thread::spawn(move || {
                let mut quitter = quitter;
                // It has taken its place in the queue, and goes without claiming.
                let mut cx = Context::from_waker(Waker::noop());
                let claimed = quitter.poll_claim(&mut cx).is_ready();
                quitter.leave(0);
                claimed
            });
            let reading = thread::spawn(move || read(stayer));
            log.append(&mut frames(1));
            log.seal();
            leaving.join().unwrap();
            log.close();
            let (got, _) = reading.join().unwrap();
            assert_eq!(got, 1, "what the leaver had claimed came back");
        },
        SCHEDULES,
    );
}

#[test]
fn accounts_add_up_whenever_they_are_read() {
    shuttle::check_random(
        || {
            let log = Log::new(2 * CHUNK, Reason::LogOverflow);
            let member = log.join("g", Filter::Logs);
            let reader = thread::spawn(move || read(member));
            let writer = thread::spawn({
                let log = log.clone();
                move || {
                    for _ in 0..4 {
                        log.append(&mut frames(1));
                        log.seal();
                    }
                    log.close();
                }
            });
            for _ in 0..3 {
                assert!(
                    log.accounts()
                        .open
                        .iter()
                        .all(|e| e.account.imbalance() == 0)
                );
            }
            writer.join().unwrap();
            let (got, told) = reader.join().unwrap();
            assert_eq!(got + told, 4);
        },
        SCHEDULES,
    );
}

#[test]
fn a_group_that_ends_while_somebody_joins_loses_nothing_uncounted() {
    shuttle::check_random(
        || {
            let log = Log::new(1 << 20, Reason::LogOverflow);
            let vacant = log.join("g", Filter::Everything).leave(0).unwrap();
            log.append(&mut frames(1));
            log.seal();
            let joining = thread::spawn({
                let log = log.clone();
                move || log.join("g", Filter::Everything)
            });
            vacant.end(Reason::NoMember);
            let member = joining.join().unwrap();
            log.append(&mut frames(1));
            log.close();
            let (got, _) = read(member);
            assert_eq!(got + log.accounts().gone.dropped[Reason::NoMember], 2);
        },
        SCHEDULES,
    );
}
