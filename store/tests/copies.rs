//! Copies between nodes leave no trace in the order of eviction, and stay out of memory.

#![allow(clippy::unwrap_used)] // A test ends where it cannot go on.

mod common;

use common::*;
use hearth_proto::{AckLevel, Priority, Retention, Tier};
use hearth_store::Tiers;
use tempfile::tempdir;

const HOST: Tiers = Tiers { host: true, nvme: false };
const NVME: Tiers = Tiers { host: false, nvme: true };
const BOTH: Tiers = Tiers { host: true, nvme: true };

#[tokio::test]
async fn a_copy_has_the_bytes_and_the_rest_of_the_contract() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    let kept = Retention { priority: Priority::MAX, duration_ms: Some(3_600_000) };
    put_with(&store, 1, BLOCK_BYTES, kept, AckLevel::Durable).await.unwrap();
    put_with(&store, 2, BLOCK_BYTES, retention(0), AckLevel::Host).await.unwrap();
    let copy = store.read_copy(&id(1), soon()).await.unwrap().expect("it is held");
    assert_bytes(&copy.lease, 1);
    assert_eq!((copy.meta.crc32, copy.durable), (copy.lease.crc32(), true));
    let left = copy.meta.retention.duration_ms.expect("it has an end");
    assert!(copy.meta.retention.priority == Priority::MAX && left <= 3_600_100, "{left}");
    let volatile = store.read_copy(&id(2), soon()).await.unwrap().expect("it is held");
    assert_eq!((volatile.durable, volatile.meta.retention), (false, retention(0)));
    assert!(store.read_copy(&id(3), soon()).await.unwrap().is_none());
    store.close().await;
}

#[tokio::test]
async fn what_is_read_for_another_node_is_neither_used_nor_promoted() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    put(&store, 1, AckLevel::Durable).await;
    store.close().await;
    drop(store);
    let (store, _) = open(Some(dir.path()), 2, 4);
    let before = (store.standing(&id(1)).unwrap(), store.stats());
    let copy = store.read_copy(&id(1), soon()).await.unwrap().expect("it is held");
    assert_bytes(&copy.lease, 1);
    assert_eq!(copy.lease.tier(), Tier::Nvme);
    assert_eq!(store.contains(&id(1)), NVME);
    drop(copy);
    let after = store.stats();
    assert_eq!((store.standing(&id(1)).unwrap(), after.gets_nvme), (before.0, before.1.gets_nvme));
    assert_eq!(after.host_used_bytes, before.1.host_used_bytes, "its memory is free again (INV-LEAK)");
    store.close().await;
}

#[tokio::test]
async fn who_waits_for_the_read_of_a_copy_finds_the_block_in_the_arena() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    put(&store, 1, AckLevel::Durable).await;
    store.close().await;
    drop(store);
    let (store, _) = open(Some(dir.path()), 2, 4);
    let name = id(1);
    // Polled in this order: the copy begins the read, and the get joins it.
    let (copy, lease) = tokio::join!(biased; store.read_copy(&name, soon()), hit(&store, 1));
    assert_bytes(&copy.unwrap().expect("it is held").lease, 1);
    assert_bytes(&lease, 1);
    assert_eq!(store.contains(&name), BOTH, "one read served both");
    assert_eq!(store.stats().gets_nvme, 1);
    drop(lease);
    store.close().await;
}

#[tokio::test]
async fn a_durable_copy_leaves_the_arena_unless_it_is_read_there() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    put(&store, 1, AckLevel::Durable).await;
    put_with(&store, 2, BLOCK_BYTES, retention(0), AckLevel::Host).await.unwrap();
    let lease = hit(&store, 1).await;
    assert!(!store.leave_arena(&id(1)), "somebody reads it");
    drop(lease);
    assert!(store.leave_arena(&id(1)));
    assert_eq!(store.contains(&id(1)), NVME);
    assert!(!store.leave_arena(&id(1)) && !store.leave_arena(&id(2)) && !store.leave_arena(&id(3)));
    assert_eq!(store.contains(&id(2)), HOST, "the only copy stays");
    assert_bytes(&hit(&store, 1).await, 1);
    // A slot that was given back twice or not at all would show when all are in use.
    for n in 10..210 {
        put(&store, n, AckLevel::Durable).await;
        assert!(n % 2 == 0 || store.leave_arena(&id(n)));
    }
    for n in 10..200 {
        assert_bytes(&hit(&store, n).await, n);
    }
    store.close().await;
}

#[tokio::test]
async fn a_block_is_worth_more_by_its_priority_and_then_by_its_last_use() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    put_with(&store, 1, BLOCK_BYTES, retention(90), AckLevel::Durable).await.unwrap();
    put_with(&store, 2, BLOCK_BYTES, retention(20), AckLevel::Durable).await.unwrap();
    let [first, second] = [1, 2].map(|n| store.standing(&id(n)).unwrap());
    assert!(first > second && second.priority == retention(20).priority);
    assert!(store.standing(&id(3)).is_none());
    store.close().await;
}
