//! Puts of blocks that an earlier life of the store left on NVMe, and that nobody has read since.

use std::time::Duration;

use super::*;

const RECORD_BYTES: u64 = 16_384;

/// Puts `count` blocks durably and opens the store again.
async fn reopened(dir: &TempDir, arena_extents: u64, count: u64) -> (Store, Arc<Faulty>) {
    let (store, _) = open(dir, arena_extents, 4);
    for n in 0..count {
        put(&store, n, AckLevel::Durable, soon()).await.unwrap();
    }
    store.close().await;
    drop(store);
    open(dir, arena_extents, 4)
}

fn spawn_put(store: &Store, n: u64, ack: AckLevel) -> tokio::task::JoinHandle<Result<PutOutcome, PutError>> {
    let store = store.clone();
    tokio::spawn(async move { put(&store, n, ack, soon()).await })
}

async fn assert_held(store: &Store, n: u64) {
    assert!(matches!(get(store, n).await, GetOutcome::Hit(lease) if *lease == *bytes(n)), "block {n}");
}

/// To the disk, a kill and an index that refuses changes are one: what the index said before is what the
/// next start finds, and what was written to the slab meanwhile stays written (INV-ACK).
#[tokio::test]
async fn a_put_that_never_becomes_durable_does_not_cost_the_replica_that_is() {
    for ack in [AckLevel::Host, AckLevel::Durable] {
        let dir = tempdir().unwrap();
        let (store, device) = reopened(&dir, 2, 2).await;
        device.refuse_commits(u32::MAX);
        put(&store, 0, ack, soon()).await.unwrap();
        store.flush().await;
        assert_held(&store, 0).await;
        store.close().await;
        drop(store);
        let (store, _) = open(&dir, 2, 4);
        assert_held(&store, 0).await;
        assert_held(&store, 1).await;
        assert_eq!(store.stats().nvme_used_bytes, 2 * RECORD_BYTES);
    }
}

#[tokio::test]
async fn a_put_that_the_device_holds_up_leaves_the_replica_where_it_is() {
    let dir = tempdir().unwrap();
    let (store, device) = reopened(&dir, 2, 1).await;
    device.hold();
    let outcome = put(&store, 0, AckLevel::Host, shortly()).await;
    assert_eq!(outcome, Err(PutError::Overloaded));
    assert_eq!(store.contains(&id(0)), Tiers { host: false, nvme: true });
    assert_eq!(store.stats().nvme_used_bytes, RECORD_BYTES);
    device.release();
    assert_held(&store, 0).await;
}

#[tokio::test]
async fn a_good_replica_is_read_once_and_stays_the_only_one() {
    let dir = tempdir().unwrap();
    let (store, device) = reopened(&dir, 2, 1).await;
    device.hold();
    let puts = [AckLevel::Host, AckLevel::Durable, AckLevel::Host].map(|ack| spawn_put(&store, 0, ack));
    device.wait_until_held(1).await;
    let got = tokio::spawn({
        let store = store.clone();
        async move { get(&store, 0).await }
    });
    // All four wait for this one read: what else they might send to the device stays held.
    device.release_one();
    let mut generations = Vec::new();
    for put in puts {
        let outcome = put.await.unwrap().unwrap();
        assert!(outcome.existed);
        generations.push(outcome.generation);
    }
    assert!(generations.iter().all(|generation| *generation == generations[0]));
    assert!(matches!(got.await.unwrap(), GetOutcome::Hit(lease) if *lease == *bytes(0)));
    device.release();
    store.flush().await;
    let mut deltas = Vec::new();
    store.take_deltas(10, &mut deltas);
    assert_eq!(deltas.len(), 1, "the arena has it as well, and nothing else changed: {deltas:?}");
    let stats = store.stats();
    assert_eq!((stats.nvme_blocks, stats.nvme_used_bytes), (1, RECORD_BYTES), "INV-LEAK");
    assert_eq!((stats.host_blocks, stats.host_used_bytes), (1, RECORD_BYTES), "INV-LEAK");
    assert_eq!((stats.puts, stats.gets_nvme + stats.gets_host, stats.gets_missed), (0, 1, 0));
}

#[tokio::test]
async fn an_unreadable_replica_is_replaced_by_the_put() {
    let dir = tempdir().unwrap();
    let (store, device) = reopened(&dir, 2, 1).await;
    device.fail_reads(1);
    assert!(!put(&store, 0, AckLevel::Durable, soon()).await.unwrap().existed);
    let stats = store.stats();
    assert_eq!((stats.fenced_extents, stats.nvme_blocks, stats.nvme_used_bytes), (1, 1, RECORD_BYTES));
    store.close().await;
    drop(store);
    let (store, _) = open(&dir, 2, 4);
    assert_held(&store, 0).await;
}

#[tokio::test]
async fn a_replica_removed_while_a_put_checks_it_is_replaced_by_the_put() {
    let dir = tempdir().unwrap();
    let (store, device) = reopened(&dir, 2, 1).await;
    device.hold();
    let put_again = spawn_put(&store, 0, AckLevel::Durable);
    device.wait_until_held(1).await;
    assert!(store.remove(&id(0)).await);
    device.release();
    assert!(!put_again.await.unwrap().unwrap().existed);
    let stats = store.stats();
    assert_eq!((stats.nvme_blocks, stats.nvme_used_bytes), (1, RECORD_BYTES), "INV-LEAK");
    assert_eq!((stats.host_blocks, stats.host_used_bytes), (1, RECORD_BYTES), "INV-LEAK");
    store.close().await;
    drop(store);
    let (store, _) = open(&dir, 2, 4);
    assert_held(&store, 0).await;
}

/// A put that checks a replica holds a slot and needs another. If it waited for that, puts that hold all
/// slots would wait for each other.
#[tokio::test]
async fn puts_that_fill_the_arena_do_not_wait_for_each_other() {
    let dir = tempdir().unwrap();
    let (store, _) = reopened(&dir, 1, BLOCKS_PER_EXTENT).await;
    let never = Instant::now() + Duration::from_secs(86_400);
    let mut slots = Vec::new();
    for n in 0..BLOCKS_PER_EXTENT {
        let mut slot = store.reserve(BLOCK_BYTES, soon()).await.unwrap();
        slot.copy_from_slice(&bytes(n));
        slots.push((n, slot));
    }
    let mut puts = tokio::task::JoinSet::new();
    for (n, slot) in slots {
        let store = store.clone();
        let meta = PutMeta { crc32: crc32fast::hash(&slot), retention: Retention::default(), depth: 0 };
        puts.spawn(async move { store.put(id(n), slot, meta, AckLevel::Host, never).await });
    }
    let outcomes = tokio::time::timeout_at(soon().into(), puts.join_all()).await.expect("no put waits");
    let taken = outcomes.iter().filter(|outcome| outcome.as_ref().is_ok_and(|put| put.existed)).count();
    let refused = outcomes.iter().filter(|outcome| **outcome == Err(PutError::Overloaded)).count();
    assert!(taken > 0 && taken + refused == outcomes.len(), "{outcomes:?}");
    for n in 0..BLOCKS_PER_EXTENT {
        assert_held(&store, n).await;
    }
}
