//! Who gets the slots of a small arena when several record sizes want them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_proto::AckLevel;
use tempfile::tempdir;
use tokio::task::JoinHandle;

use super::{BLOCK_BYTES, BLOCKS_PER_EXTENT, EXTENT_BYTES, bytes, get, id, put, shortly, soon};
use crate::{GetOutcome, Lease, ReserveError, SlotMut, Store, StoreConfig, Tiers};

const LARGE_BYTES: usize = 500_000;

/// A store without NVMe, whose arena has two extents.
fn small() -> Store {
    let config =
        StoreConfig { extent_bytes: EXTENT_BYTES as usize, ..StoreConfig::in_memory(2 * EXTENT_BYTES) };
    Store::open(config).unwrap().0
}

/// Fills the arena with blocks that are read.
async fn fill(store: &Store) -> Vec<Lease> {
    let mut leases = Vec::new();
    for n in 0..2 * BLOCKS_PER_EXTENT {
        put(store, n, AckLevel::Host, soon()).await.unwrap();
        leases.push(store.get_host(&id(n)).unwrap());
    }
    leases
}

fn reserve(store: &Store, payload_len: usize) -> JoinHandle<Result<SlotMut, ReserveError>> {
    let store = store.clone();
    tokio::spawn(async move { store.reserve(payload_len, soon()).await })
}

/// Lets the other tasks come to where they wait.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_size_that_finds_no_room_holds_up_no_other() {
    let store = small();
    let mut leases = fill(&store).await;
    let large = reserve(&store, LARGE_BYTES);
    settle().await;
    let other = reserve(&store, BLOCK_BYTES);
    settle().await;
    drop(leases.pop());
    let slot = other.await.unwrap().unwrap();
    assert!(!large.is_finished());
    drop((slot, leases));
    large.await.unwrap().unwrap();
}

/// Whenever a slot is free, somebody takes it at once, so that no extent is idle at any moment.
#[tokio::test]
async fn a_size_without_an_extent_gets_one_although_another_uses_all() {
    let store = small();
    let mut slots = VecDeque::new();
    while let Ok(slot) = store.reserve(BLOCK_BYTES, Instant::now()).await {
        slots.push_back(slot);
    }
    let large = reserve(&store, LARGE_BYTES);
    settle().await;
    for _ in 0..4 * slots.len() {
        slots.pop_front();
        settle().await;
        slots.extend(store.reserve(BLOCK_BYTES, Instant::now()).await);
    }
    assert!(large.is_finished(), "it waits for an idle extent, which never comes");
    drop((slots, large.await.unwrap().unwrap()));
    assert_eq!(store.stats().host_used_bytes, 0, "INV-LEAK");
}

#[tokio::test]
async fn blocks_that_give_way_to_another_size_stay_readable_under_their_leases_and_on_nvme() {
    let dir = tempdir().unwrap();
    let (store, _) = Store::open(super::config(&dir, 1, 4)).unwrap();
    let mut leases = Vec::new();
    for n in 0..BLOCKS_PER_EXTENT {
        put(&store, n, AckLevel::Durable, soon()).await.unwrap();
        leases.push(store.get_host(&id(n)).unwrap());
    }
    let large = reserve(&store, LARGE_BYTES);
    settle().await;
    assert_eq!(store.contains(&id(0)), Tiers { host: false, nvme: true });
    for (n, lease) in (0..).zip(&leases) {
        assert_eq!(**lease, *bytes(n), "block {n}");
    }
    drop(leases);
    drop(large.await.unwrap().unwrap());
    assert!(matches!(get(&store, 0).await, GetOutcome::Hit(lease) if *lease == *bytes(0)));
}

#[tokio::test]
async fn pinned_blocks_that_are_nowhere_else_do_not_give_way() {
    let store = small();
    let leases = fill(&store).await;
    // One in each extent.
    for n in [0, BLOCKS_PER_EXTENT] {
        store.pin(&id(n), Duration::from_secs(60)).unwrap();
    }
    assert_eq!(store.reserve(LARGE_BYTES, shortly()).await.unwrap_err(), ReserveError::Deadline);
    assert_eq!(store.stats().host_blocks, 2 * BLOCKS_PER_EXTENT);
    drop(leases);
}

#[tokio::test]
async fn whoever_gives_up_waiting_leaves_nothing_reserved() {
    let store = small();
    let mut leases = fill(&store).await;
    let waiting = [(); 2].map(|()| reserve(&store, LARGE_BYTES));
    settle().await;
    let arena = Arc::clone(&store.core().arena);
    let is_reserved = || crate::sync::lock(arena.slots()).anything_is_reserved();
    assert!(is_reserved());
    let [first, second] = waiting;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    settle().await;
    assert!(is_reserved(), "the second one still waits");
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    assert!(!is_reserved());
    // A slot of the extent that was to be emptied.
    drop(leases.remove(0));
    drop(store.reserve(BLOCK_BYTES, soon()).await.unwrap());
    drop(leases);
}

#[tokio::test]
async fn two_sizes_without_an_extent_get_one_after_the_other() {
    let store = small();
    let leases = fill(&store).await;
    let waiting = [LARGE_BYTES, 2 * BLOCK_BYTES].map(|len| reserve(&store, len));
    settle().await;
    drop(leases);
    for slot in waiting {
        drop(slot.await.unwrap().unwrap());
    }
    assert_eq!(store.stats().host_used_bytes, store.stats().host_blocks * 16_384);
}
