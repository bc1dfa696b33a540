//! Backup of a running daemon, restore into an empty folder, check of every record.

use crate::harness::bench::{Bench, body};
use crate::harness::receiver::{Receiver, status};
use crate::harness::stores;
use holdline::store::{Opened, Options, restore, verify};
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

async fn backup(bench: &Bench) -> Vec<u8> {
    let reply = bench.admin("GET", "/v1/backup", b"").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/octet-stream")));
    reply.body
}

#[tokio::test]
async fn a_backup_under_load_has_everything_acknowledged_before_it() {
    let receiver = Receiver::start(|r| status(if r.sequence() % 5 == 0 { 422 } else { 503 })).await;
    let bench = Arc::new(Bench::start(receiver.to()).await);
    for n in 0..300 {
        bench.accept(&format!("k{}", n % 40), &format!("before {n}")).await;
    }
    let (running, sent) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let senders: Vec<_> = (0..4)
        .map(|s| {
            let (bench, running, sent) = (bench.clone(), running.clone(), sent.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    if !running.load(Ordering::SeqCst) {
                        break;
                    }
                    assert_eq!(bench.post(&body(&format!("s{s}"), &format!("during {s} {n}"))).await.status, 202);
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut before = 0;
    for round in 0..3 {
        before = 300 + sent.load(Ordering::SeqCst) as u64;
        let copy = backup(&bench).await;
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("restored");
        let restored = restore(Cursor::new(copy), &path, || {}).unwrap();
        assert_eq!(restored.faults, Vec::<String>::new(), "round {round}");
        assert!(restored.accepted >= before, "{} of {before} at least", restored.accepted);
        assert_eq!(restored.accepted, restored.waiting + restored.dead);
        assert!(restore(Cursor::new(Vec::new()), &path, || {}).is_err(), "a store is never overwritten");
    }
    assert!(before > 300, "events are sent during the backup");
    running.store(false, Ordering::SeqCst);
    for sender in senders {
        sender.await.unwrap();
    }
    bench.sound().await;
}

#[tokio::test]
async fn an_incomplete_or_altered_backup_is_not_restored() {
    let bench = Bench::start(None).await;
    for n in 0..20 {
        bench.accept("k", &n.to_string()).await;
    }
    let copy = backup(&bench).await;
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("d");
    for (what, bad) in [
        ("nothing", Vec::new()),
        ("cut", copy[..copy.len() - 1].to_vec()),
        ("half", copy[..copy.len() / 2].to_vec()),
        ("flipped", {
            let mut bad = copy.clone();
            let at = copy.len() / 2;
            bad[at] ^= 1;
            bad
        }),
    ] {
        assert!(restore(Cursor::new(bad), &path, || {}).is_err(), "{what}");
        assert!(!path.exists(), "{what}: no folder is created");
    }
    assert!(restore(Cursor::new(copy), &path, || {}).unwrap().faults.is_empty());
    assert_eq!(verify(&path).map(|found| found.waiting).unwrap_or_default(), 20);
}

#[tokio::test]
async fn a_restored_store_continues_as_it_was() {
    let receiver = Receiver::start(|_| status(422)).await;
    let bench = Bench::start(receiver.to()).await;
    let id = bench.accept("k", "1").await;
    bench.becomes(&id, "dead").await;
    let copy = backup(&bench).await;
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("d");
    restore(Cursor::new(copy), &path, || {}).unwrap();
    let Opened { store, findings, .. } = stores::open(&path, &Options::default(), &holdline::clock::Clock::system());
    assert_eq!(findings, Vec::<String>::new());
    let dead_letter = store.dead_letter(store.dead_ids(None).next().unwrap().unwrap()).unwrap().unwrap();
    assert_eq!(dead_letter.delivery.event.body, body("k", "1"));
    assert_eq!(store.audit(u64::MAX, 1).unwrap()[0].1.what, "backup");
}
