use super::*;
use proptest::prelude::*;
use prost::Message;
use proto::v1;
use proto::v2::{self, envelope};

const SECOND: i64 = 1_000_000_000;

fn recents(logs: usize, bytes: usize) -> Recents {
    Recents::new(logs, bytes, Duration::from_secs(120))
}

/// Keeps `envelope` as a v1 log: what is v1 already is not looked at.
fn keep(recents: &Recents, app: &str, envelope: &[u8]) {
    keep_as(recents, app.as_bytes(), Kind::Log, Form::V1, envelope, 0);
}

fn keep_as(recents: &Recents, app: &[u8], kind: Kind, form: Form, envelope: &[u8], now_ns: i64) {
    recents.keep(
        recents.to_keep(app, kind, form, envelope).as_slice(),
        now_ns,
    );
}

/// What the apps really cost: [`Recents::bytes`] must say so.
fn counted(recents: &Recents) -> usize {
    let of_shard = |shard: &Mutex<Shard>| -> usize {
        let shard = lock(shard);
        let apps = shard.apps.iter();
        apps.map(Named::cost).sum()
    };
    recents.shards.iter().map(of_shard).sum()
}

fn log(text: &str) -> Vec<u8> {
    v2::Envelope {
        timestamp: 7,
        source_id: "app".into(),
        message: Some(envelope::Message::Log(v2::Log {
            payload: text.into(),
            ..Default::default()
        })),
        ..Default::default()
    }
    .encode_to_vec()
}

#[test]
fn the_newest_logs_are_kept_and_come_out_oldest_first_as_v1() {
    let recents = recents(3, 32 << 20);
    for n in 0..5 {
        let envelope = log(&n.to_string());
        keep_as(&recents, b"app", Kind::Log, Form::V2, &envelope, 0);
    }
    let texts = |logs| -> Vec<String> {
        let kept = recents.snapshot("app", logs, true, 0);
        let text = |envelope: &Vec<u8>| {
            let log = v1::decode(envelope).unwrap().log_message.unwrap();
            String::from_utf8(log.message).unwrap()
        };
        kept.iter().map(text).collect()
    };
    assert_eq!(texts(100), ["2", "3", "4"]);
    assert_eq!(texts(2), ["3", "4"]);
    assert!(texts(0).is_empty());
    assert!(recents.snapshot("another", 100, true, 0).is_empty());
}

#[test]
fn the_newest_container_metric_of_each_instance_is_kept_for_its_time() {
    let recents = recents(100, 32 << 20);
    let keep = |instance, envelope: &[u8], now| {
        let kind = Kind::Container(instance);
        keep_as(&recents, b"a", kind, Form::V1, envelope, now);
    };
    keep(0, b"old", 0);
    keep(0, b"new", SECOND);
    keep(1, b"one", 60 * SECOND);
    let at = |second| recents.snapshot("a", 100, true, second * SECOND);
    assert_eq!(at(121), [b"new", b"one"]);
    assert_eq!(at(122), [b"one"]);
    assert!(recents.snapshot("a", 100, false, 0).is_empty());
    recents.forget(122 * SECOND);
    assert_eq!(at(0), [b"one"]);
    recents.forget(181 * SECOND);
    assert_eq!(recents.bytes(), 0);
}

#[test]
fn an_app_that_has_been_silent_for_an_hour_is_forgotten() {
    let recents = recents(100, 32 << 20);
    keep(&recents, "app", b"log");
    recents.forget(3_600 * SECOND);
    assert!(recents.bytes() > 0);
    recents.forget(3_601 * SECOND);
    assert_eq!(recents.bytes(), 0);
    assert!(recents.snapshot("app", 100, true, 0).is_empty());
}

#[test]
fn with_no_logs_to_keep_nothing_is_kept() {
    let recents = recents(0, 32 << 20);
    keep(&recents, "app", b"log");
    keep_as(&recents, b"app", Kind::Container(0), Form::V1, b"metric", 0);
    assert!(!recents.keeps());
    assert_eq!(recents.bytes(), 0);
}

#[test]
fn a_fat_app_loses_its_own_and_does_not_evict_the_others() {
    // A shard holds 64 KiB, an app 32.
    let recents = recents(100, 1 << 20);
    for app in 0..16 {
        keep(&recents, &format!("quiet-{app}"), &[1; 200]);
    }
    for n in 0..1_000u32 {
        keep(&recents, "fat", &n.to_be_bytes().repeat(1_000));
    }
    for app in 0..16 {
        let kept = recents.snapshot(&format!("quiet-{app}"), 100, false, 0);
        assert_eq!(kept.len(), 1, "quiet-{app}");
    }
    let fat = recents.snapshot("fat", 100, false, 0);
    assert!((4..=8).contains(&fat.len()), "{}", fat.len());
    assert!(fat[fat.len() - 1].starts_with(&999u32.to_be_bytes()));
}

#[test]
fn a_fat_apps_logs_stay_where_they_are_when_the_next_one_comes() {
    let recents = recents(100, 32 << 20);
    // A hundred of them are more than the app's share of 1 MiB.
    let keep_of = |n: usize| keep(&recents, "fat", &vec![7; 11_000 + n * 37 % 2_000]);
    let capacity = || {
        let hash = recents.hash.hash_one(b"fat".as_slice());
        let shard = recents.shard(hash);
        let fat = shard.apps.find(hash, |named| *named.name == *b"fat");
        fat.unwrap().app.logs.capacity()
    };
    (0..200).for_each(keep_of);
    let settled = capacity();
    for n in 200..400 {
        keep_of(n);
        assert_eq!(capacity(), settled, "log {n} moved a megabyte");
    }
    assert_eq!(recents.bytes(), counted(&recents));
    assert!(recents.bytes() <= (1 << 20) + "fat".len());
    assert!(recents.snapshot("fat", 100, false, 0).len() > 80);
}

#[test]
fn over_the_cap_the_app_that_was_written_to_longest_ago_is_forgotten() {
    let recents = recents(100, 1 << 20);
    let apps: Vec<String> = (0..4_000).map(|n| format!("app-{n:04}")).collect();
    for app in &apps {
        keep(&recents, "often", b"log");
        keep(&recents, app, &[1; 500]);
    }
    let is_kept = |app: &str| !recents.snapshot(app, 1, false, 0).is_empty();
    assert!(is_kept("often"));
    assert!(is_kept("app-3999"));
    assert!(!is_kept("app-0000"));
    assert!(
        recents.bytes() > 1 << 19,
        "no more is forgotten than has to be"
    );
}

#[test]
fn two_fat_apps_pay_for_each_other_and_quiet_ones_keep_theirs() {
    // One shard's worth of apps: all in one, as if they had been chosen for it.
    let recents = recents(100, 1 << 20);
    let shard = |app: &str| (recents.hash.hash_one(app.as_bytes()) >> 32) as usize % SHARDS;
    let mut apps = (0..)
        .map(|n| format!("app-{n}"))
        .filter(|app| shard(app) == 0);
    let quiet: Vec<String> = apps.by_ref().take(16).collect();
    let fat: Vec<String> = apps.take(3).collect();
    for app in &quiet {
        keep(&recents, app, &[1; 200]);
    }
    for n in 0..1_000u32 {
        for app in &fat {
            keep(&recents, app, &n.to_be_bytes().repeat(500));
        }
    }
    for app in &quiet {
        assert_eq!(recents.snapshot(app, 100, false, 0).len(), 1, "{app}");
    }
    for app in &fat {
        let kept = recents.snapshot(app, 100, false, 0);
        assert!(kept.is_empty() || kept[kept.len() - 1].starts_with(&999u32.to_be_bytes()));
    }
    assert_eq!(recents.bytes(), counted(&recents));
}

#[test]
fn who_chooses_ids_does_not_choose_shards() {
    let (one, other) = (recents(100, 1 << 20), recents(100, 1 << 20));
    let shards = |recents: &Recents| -> Vec<u64> {
        let ids = (0..64u32).map(|n| n.to_be_bytes());
        ids.map(|id| (recents.hash.hash_one(id.as_slice()) >> 32) % SHARDS as u64)
            .collect()
    };
    assert_ne!(shards(&one), shards(&other));
}

#[test]
fn those_that_send_most_are_known_and_counted_from_one_time_to_the_next() {
    let recents = recents(100, 32 << 20);
    for n in 0..500 {
        keep(&recents, &format!("quiet-{}", n % 50), &[1; 10]);
        keep(&recents, "noisy", &[1; 100]);
    }
    let senders = recents.senders(3);
    assert_eq!(senders.len(), 3);
    let noisy = Sender {
        app: b"noisy".as_slice().into(),
        envelopes: 500,
        bytes: 50_000,
    };
    assert_eq!(senders[0], noisy);
    assert_eq!((senders[1].envelopes, senders[1].bytes), (10, 100));
    assert!(recents.senders(3).is_empty());
    keep(&recents, "noisy", &[1; 100]);
    assert_eq!(recents.senders(3)[0].envelopes, 1);
}

proptest! {
    /// Whatever floods, an app whose memory is no more than an equal share of its shard loses
    /// nothing.
    #[test]
    fn a_quiet_app_keeps_everything_while_others_flood(
        quiet in 1..6usize,
        noisy in 1..5usize,
        writes in prop::collection::vec((0..8usize, 0..20_000usize, any::<bool>()), 1..600),
    ) {
        // A shard holds 64 KiB.
        let recents = recents(100, 1 << 20);
        let share = ((64 << 10) - (4 << 10)) / (quiet + noisy);
        let shard = |app: &str| (recents.hash.hash_one(app.as_bytes()) >> 32) as usize % SHARDS;
        let apps = (0..).map(|n| format!("app-{n}")).filter(|app| shard(app) == 0);
        let apps: Vec<String> = apps.take(quiet + noisy).collect();
        let mut due = vec![Vec::new(); quiet];
        let mut bytes = vec![0; quiet];
        for (n, (app, size, is_quiet)) in writes.into_iter().enumerate() {
            let mut envelope = (n as u64).to_be_bytes().to_vec();
            if is_quiet {
                let app = app % quiet;
                envelope.resize(8 + size % 300, 0);
                // Its memory may have grown to twice of what is in it.
                let cost = APP + 10 + 2 * (bytes[app] + envelope.len() + 16 * due[app].len() + 64);
                if cost > share || due[app].len() == 100 {
                    continue;
                }
                bytes[app] += envelope.len();
                keep(&recents, &apps[app], &envelope);
                due[app].push(envelope);
            } else {
                envelope.resize(8 + size, 0);
                keep(&recents, &apps[quiet + app % noisy], &envelope);
            }
            prop_assert!(recents.bytes() <= 1 << 20);
        }
        for (app, due) in due.into_iter().enumerate() {
            prop_assert_eq!(recents.snapshot(&apps[app], 100, false, 0), due);
        }
        prop_assert_eq!(recents.bytes(), counted(&recents));
    }

    #[test]
    fn it_is_bounded_and_keeps_the_newest(
        kept in prop::collection::vec((0..40u8, 0..3u8, 0..6_000usize), 1..400),
    ) {
        let recents = recents(10, 1 << 20);
        let mut newest = std::collections::HashMap::new();
        for (n, (app, kind, size)) in kept.into_iter().enumerate() {
            let name = format!("app-{app}");
            let mut envelope = (n as u64).to_be_bytes().to_vec();
            envelope.resize(8 + size, 0);
            let kind = match kind {
                0 => Kind::Container(i32::from(app % 3)),
                _ => {
                    newest.insert(name.clone(), envelope.clone());
                    Kind::Log
                }
            };
            keep_as(&recents, name.as_bytes(), kind, Form::V1, &envelope, n as i64);
            prop_assert!(recents.bytes() <= 1 << 20);
            prop_assert_eq!(recents.bytes(), counted(&recents));
        }
        for (app, envelope) in newest {
            let logs = recents.snapshot(&app, 100, false, 0);
            prop_assert!(logs.len() <= 10);
            prop_assert!(logs.is_sorted());
            if let Some(last) = logs.last() {
                prop_assert_eq!(last, &envelope);
            }
        }
    }
}
