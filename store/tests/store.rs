//! What a caller sees of a store: blocks go in, come out with their bytes, move between tiers, leave.

#![allow(clippy::unwrap_used)] // A test ends where it cannot go on.

mod common;

use std::time::{Duration, Instant};

use common::*;
use hearth_proto::{AckLevel, BlockDelta, Retention, Tier};
use hearth_store::{
    ArenaView, Codec, Compression, DeltaStatus, GetError, LendError, LoanExpired, MissReason, PinError,
    PutError, PutMeta, ReserveError, Store, Tiers,
};
use tempfile::tempdir;

/// 16,000 bytes and a footer take four sectors; an extent of 1 MiB has 64 such slots.
const BLOCKS_PER_EXTENT: u64 = 64;

#[tokio::test]
async fn a_block_comes_back_with_its_bytes() {
    let dir = tempdir().unwrap();
    let (store, report) = open(Some(dir.path()), 4, 4);
    assert_eq!((report.blocks, report.dropped), (0, 0));
    for (n, len) in [(2, 1), (3, 4_000), (4, 16_384), (5, 1_000_000)] {
        let outcome = put_with(&store, n, len, Retention::default(), AckLevel::Durable).await.unwrap();
        assert!(!outcome.existed);
        let lease = store.get_host(&id(n)).expect("a block that was just put is in the arena");
        assert_eq!((lease.len(), lease.generation(), lease.tier()), (len, outcome.generation, Tier::Host));
        assert_bytes(&lease, n);
        assert_eq!(store.contains(&id(n)), Tiers { host: true, nvme: true });
    }
    assert_eq!(miss(&store, 99).await, MissReason::NeverStored);
    assert!(!store.contains(&id(99)).any());
    store.close().await;
}

#[tokio::test]
async fn a_durable_block_survives_reopening() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 4, 8);
    let mut generations = Vec::new();
    for n in 0..100 {
        generations.push(put(&store, n, AckLevel::Durable).await.generation);
    }
    store.close().await;
    drop(store);
    let (store, report) = open(Some(dir.path()), 4, 8);
    assert_eq!((report.blocks, report.bytes, report.dropped), (100, 100 * BLOCK_BYTES as u64, 0));
    assert_eq!(store.inventory().len(), 100);
    for n in 0..100 {
        assert_eq!(store.contains(&id(n)), Tiers { host: false, nvme: true });
        let lease = hit(&store, n).await;
        assert_bytes(&lease, n);
        assert_eq!((lease.tier(), lease.generation()), (Tier::Nvme, generations[n as usize]));
    }
    let newer = put(&store, 1_000, AckLevel::Durable).await.generation;
    assert!(generations.iter().all(|old| *old < newer), "generations are never used twice");
}

#[tokio::test]
async fn host_puts_flow_to_nvme_without_being_asked() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 4, 8);
    for n in 0..50 {
        put(&store, n, AckLevel::Host).await;
    }
    store.flush().await;
    assert!((0..50).all(|n| store.contains(&id(n)).nvme));
    assert_eq!(store.stats().pending_writes, 0);
}

#[tokio::test]
async fn what_the_arena_evicts_is_read_back_from_nvme() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 16);
    let count = BLOCKS_PER_EXTENT * 8;
    for n in 0..count {
        put(&store, n, AckLevel::Host).await;
    }
    store.flush().await;
    assert!(store.stats().evicted_host >= BLOCKS_PER_EXTENT * 6);
    for n in 0..count {
        assert_bytes(&hit(&store, n).await, n);
    }
    let stats = store.stats();
    assert_eq!((stats.nvme_blocks, stats.gets_missed, stats.corrupt_blocks), (count, 0, 0));
    assert!(stats.gets_nvme >= BLOCKS_PER_EXTENT * 6, "{stats:?}");
    assert_eq!(hit(&store, count - 1).await.tier(), Tier::Host, "a read promotes");
}

#[tokio::test]
async fn many_gets_of_one_block_make_one_read() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    put(&store, 1, AckLevel::Durable).await;
    store.close().await;
    drop(store);
    let (store, _) = open(Some(dir.path()), 2, 4);
    let gets: Vec<_> = (0..100)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { assert_bytes(&hit(&store, 1).await, 1) })
        })
        .collect();
    for get in gets {
        get.await.unwrap();
    }
    assert_eq!(store.stats().host_used_bytes, 16_384, "one slot was filled for all of them");
}

#[tokio::test]
async fn putting_again_is_harmless_and_waits_as_asked() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    let first = put(&store, 1, AckLevel::Host).await;
    let again = put(&store, 1, AckLevel::Durable).await;
    assert!(again.existed && again.generation == first.generation);
    assert!(store.contains(&id(1)).nvme, "the durable answer came after the block was durable");
    assert_eq!((store.stats().puts, store.stats().host_used_bytes), (1, 16_384));
}

#[tokio::test]
async fn wrong_bytes_are_refused_before_anything_is_stored() {
    let (store, _) = open(None, 2, 0);
    let slot = store.reserve(100, soon()).await.unwrap();
    let meta = PutMeta { crc32: !crc32fast::hash(&slot), retention: Retention::default(), depth: 0 };
    let error = store.put(id(1), slot, meta, AckLevel::Host, soon()).await.unwrap_err();
    assert!(matches!(error, PutError::ChecksumMismatch { .. }));
    assert!(!store.contains(&id(1)).any());
    assert_eq!(store.stats().host_used_bytes, 0);
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let (store, _) = open(None, 1, 0);
    let error = store.reserve(EXTENT_BYTES, soon()).await.unwrap_err();
    assert!(matches!(error, ReserveError::TooLarge { limit, .. } if limit == EXTENT_BYTES - 128), "{error}");
    assert_eq!(store.reserve(0, soon()).await.unwrap_err(), ReserveError::Empty);
    let (other, _) = open(None, 1, 0);
    let slot = other.reserve(10, soon()).await.unwrap();
    let meta = PutMeta { crc32: crc32fast::hash(&slot), retention: Retention::default(), depth: 0 };
    assert_eq!(store.put(id(1), slot, meta, AckLevel::Host, soon()).await, Err(PutError::ForeignSlot));
    let durable = put_with(&store, 1, 10, Retention::default(), AckLevel::Durable).await;
    assert_eq!(durable, Err(PutError::NoNvme));
}

#[tokio::test]
async fn other_bytes_under_the_same_id_are_refused_and_the_first_stay() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    put(&store, 1, AckLevel::Durable).await;
    let other = |len: usize| {
        let store = store.clone();
        async move {
            let mut slot = store.reserve(len, soon()).await.unwrap();
            slot.fill(7);
            let meta = PutMeta { crc32: crc32fast::hash(&slot), retention: Retention::default(), depth: 0 };
            store.put(id(1), slot, meta, AckLevel::Host, soon()).await
        }
    };
    for len in [BLOCK_BYTES, 5] {
        assert!(matches!(other(len).await, Err(PutError::Conflict { .. })), "{len} bytes");
    }
    assert_bytes(&hit(&store, 1).await, 1);
    assert_eq!(store.stats().conflicts, 2);
    store.close().await;
    drop(store);
    // The same holds for what a former life left.
    let (store, _) = open(Some(dir.path()), 2, 4);
    let mut slot = store.reserve(5, soon()).await.unwrap();
    slot.fill(7);
    let meta = PutMeta { crc32: crc32fast::hash(&slot), retention: Retention::default(), depth: 0 };
    let outcome = store.put(id(1), slot, meta, AckLevel::Host, soon()).await;
    assert!(matches!(outcome, Err(PutError::Conflict { .. })));
    assert_bytes(&hit(&store, 1).await, 1);
}

#[tokio::test]
async fn what_nobody_will_read_again_is_not_written_unless_asked() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    put_with(&store, 1, BLOCK_BYTES, retention(0), AckLevel::Host).await.unwrap();
    put_with(&store, 2, BLOCK_BYTES, retention(0), AckLevel::Durable).await.unwrap();
    store.flush().await;
    assert_eq!(store.contains(&id(1)), Tiers { host: true, nvme: false });
    assert_eq!(store.contains(&id(2)), Tiers { host: true, nvme: true });
    assert_eq!(store.stats().not_admitted, 1);
    // Asked for later, it is written after all.
    assert!(put_with(&store, 1, BLOCK_BYTES, retention(0), AckLevel::Durable).await.unwrap().existed);
    assert_eq!(store.contains(&id(1)), Tiers { host: true, nvme: true });
}

/// Half of each payload is what `n` says, the other half is empty.
fn half_empty(n: u64, len: usize) -> Vec<u8> {
    let mut bytes = payload(n, len / 2);
    bytes.resize(len, 0);
    bytes
}

async fn put_bytes(store: &Store, n: u64, bytes: &[u8]) {
    let mut slot = store.reserve(bytes.len(), soon()).await.unwrap();
    slot.copy_from_slice(bytes);
    let meta = PutMeta { crc32: crc32fast::hash(bytes), retention: Retention::default(), depth: 0 };
    store.put(id(n), slot, meta, AckLevel::Durable, soon()).await.unwrap();
}

#[tokio::test]
async fn what_compresses_takes_less_room_and_comes_back_whole() {
    const LEN: usize = 64_000;
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 4, 8);
    for n in 0..40 {
        put_bytes(&store, n, &half_empty(n, LEN)).await;
        put(&store, 1_000 + n, AckLevel::Durable).await;
    }
    let stats = store.stats();
    let raw_bytes = 40 * (16 + 4) * 4_096;
    assert!(stats.nvme_used_bytes < raw_bytes * 7 / 10, "{stats:?}");
    assert_eq!(stats.nvme_payload_bytes, 40 * (LEN + BLOCK_BYTES) as u64);
    let layouts = store.compression();
    let of = |len: usize| *layouts.iter().find(|layout| layout.payload_len == len as u32).unwrap();
    assert_eq!((of(LEN).codec, of(LEN).blocks), (Codec::Lz4, 40), "{layouts:?}");
    assert!(of(LEN).blocks_encoded >= 39 && of(LEN).stored_bytes * 10 < of(LEN).raw_bytes * 7, "{layouts:?}");
    assert_eq!((of(BLOCK_BYTES).codec, of(BLOCK_BYTES).blocks_encoded), (Codec::Raw, 0), "{layouts:?}");
    store.close().await;
    drop(store);
    let (store, report) = open(Some(dir.path()), 4, 8);
    assert_eq!((report.blocks, report.dropped), (80, 0));
    for n in 0..40 {
        assert_eq!(*hit(&store, n).await, *half_empty(n, LEN), "block {n}");
        assert_bytes(&hit(&store, 1_000 + n).await, 1_000 + n);
    }
    // What was decoded may be put and written once more.
    assert!(store.remove(&id(5)).await);
    put_bytes(&store, 5, &half_empty(5, LEN)).await;
    assert_eq!(*hit(&store, 5).await, *half_empty(5, LEN));
    for n in 0..40 {
        store.remove(&id(n)).await;
        store.remove(&id(1_000 + n)).await;
    }
    let stats = store.stats();
    assert_eq!(
        (stats.host_used_bytes, stats.nvme_used_bytes, stats.nvme_payload_bytes),
        (0, 0, 0),
        "INV-LEAK"
    );
}

#[tokio::test]
async fn without_compression_a_write_costs_its_footer_and_padding() {
    let dir = tempdir().unwrap();
    let mut config = config(Some(dir.path()), 4, 8);
    config.nvme.as_mut().unwrap().compression = Compression::Off;
    let (store, _) = Store::open(config).unwrap();
    for n in 0..100 {
        put_bytes(&store, n, &half_empty(n, 65_536 - 128)).await;
    }
    let stats = store.stats();
    assert_eq!(stats.nvme_written_bytes, 100 * 65_536, "every block is written once");
    assert_eq!(stats.nvme_written_payload_bytes, 100 * (65_536 - 128));
    assert!(store.compression().is_empty());
}

#[tokio::test]
async fn a_pinned_block_stays_until_the_pin_ends_whatever_its_priority() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 1, 1);
    for n in 0..BLOCKS_PER_EXTENT {
        put_with(&store, n, BLOCK_BYTES, retention(10), AckLevel::Durable).await.unwrap();
    }
    for n in 0..8 {
        store.pin(&id(n), Duration::from_secs(3_600)).unwrap();
    }
    assert_eq!(store.stats().pinned_bytes, 8 * BLOCK_BYTES as u64);
    assert_eq!(store.pinned().len(), 8);
    for n in 0..BLOCKS_PER_EXTENT * 2 {
        put_with(&store, 1_000 + n, BLOCK_BYTES, retention(90), AckLevel::Durable).await.unwrap();
    }
    for n in 0..BLOCKS_PER_EXTENT {
        assert_eq!(store.contains(&id(n)).nvme, n < 8, "block {n}");
    }
    assert_bytes(&hit(&store, 7).await, 7);
    // One is let go, one ends by itself, one is removed.
    assert!(store.unpin(&id(0)) && !store.unpin(&id(0)));
    store.pin(&id(1), Duration::ZERO).unwrap();
    assert!(store.remove(&id(2)).await);
    for n in 0..2 {
        put_with(&store, 2_000 + n, BLOCK_BYTES, retention(95), AckLevel::Durable).await.unwrap();
    }
    let held: Vec<_> = (0..8).filter(|n| store.contains(&id(*n)).nvme).collect();
    assert!(held.len() == 6 && held[1..] == [3, 4, 5, 6, 7] || held == [3, 4, 5, 6, 7], "{held:?}");
    assert_eq!(store.stats().pinned_bytes, 5 * BLOCK_BYTES as u64);
}

#[tokio::test]
async fn pins_are_bounded_and_end_with_their_block() {
    let (store, _) = open(None, 1, 0);
    assert_eq!(store.pin(&id(1), Duration::from_secs(1)), Err(PinError::NotHere));
    let mut pinned = 0;
    for n in 0..BLOCKS_PER_EXTENT {
        put(&store, n, AckLevel::Host).await;
        match store.pin(&id(n), Duration::from_secs(60)) {
            Ok(()) => pinned += 1,
            Err(error) => assert!(matches!(error, PinError::TooMuch { .. }), "{error}"),
        }
    }
    assert!((20..=BLOCKS_PER_EXTENT / 2 + 1).contains(&pinned), "{pinned}");
    // There is room for others all the same.
    for n in 0..BLOCKS_PER_EXTENT {
        put(&store, 1_000 + n, AckLevel::Host).await;
    }
    assert!((0..pinned).all(|n| store.contains(&id(n)).host));
    for n in 0..pinned {
        store.remove(&id(n)).await;
    }
    assert_eq!(store.stats().pinned_bytes, 0);
}

#[tokio::test]
async fn a_reader_that_stalls_past_the_end_of_its_loan_finds_out() {
    let (store, _) = open(None, 1, 0);
    let arena = ArenaView::map(store.arena_fd()).unwrap();
    for n in 0..BLOCKS_PER_EXTENT {
        put(&store, n, AckLevel::Host).await;
    }
    assert_eq!(store.lend(&id(9_999), Duration::from_secs(1)), Err(LendError::NotInArena));
    let long = store.lend(&id(0), Duration::from_secs(60)).unwrap();
    let short = store.lend(&id(1), Duration::ZERO).unwrap();
    let returned = store.lend(&id(2), Duration::from_secs(60)).unwrap();
    assert!(store.end_loan(&returned) && !store.end_loan(&returned));
    let mut bytes = vec![0; BLOCK_BYTES];
    for (n, loan) in [(0, &long), (1, &short), (2, &returned)] {
        assert_eq!(arena.copy(loan, &mut bytes), Ok(()), "nobody needed the slot yet");
        assert_eq!(bytes, payload(n, BLOCK_BYTES));
    }
    assert_eq!(arena.copy(&long, &mut bytes[1..]), Err(LoanExpired), "another length");
    // Every other slot is needed now.
    let mut n = 1_000;
    while store.contains(&id(1)).any() || store.contains(&id(2)).any() {
        put(&store, n, AckLevel::Host).await;
        n += 1;
    }
    assert_eq!(arena.copy(&long, &mut bytes), Ok(()), "a loan keeps its slot");
    assert_eq!(bytes, payload(0, BLOCK_BYTES));
    for loan in [&short, &returned] {
        assert_eq!(arena.copy(loan, &mut bytes), Err(LoanExpired));
    }
    assert_eq!(store.stats().lent_blocks, 1);
    assert!(store.end_loan(&long));
}

#[tokio::test]
async fn a_contract_that_changed_outlives_the_process() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 4, 1);
    for n in 0..BLOCKS_PER_EXTENT {
        put_with(&store, n, BLOCK_BYTES, retention(50), AckLevel::Durable).await.unwrap();
    }
    for n in 0..10 {
        put_with(&store, n, BLOCK_BYTES, retention(10), AckLevel::Host).await.unwrap();
    }
    store.close().await;
    drop(store);
    let (store, _) = open(Some(dir.path()), 4, 1);
    for n in 0..10 {
        put_with(&store, 1_000 + n, BLOCK_BYTES, retention(60), AckLevel::Durable).await.unwrap();
    }
    for n in 0..BLOCKS_PER_EXTENT {
        assert_eq!(store.contains(&id(n)).nvme, n >= 10, "block {n}");
    }
}

#[tokio::test]
async fn removed_blocks_are_gone_from_every_tier_and_stay_gone() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    put(&store, 1, AckLevel::Durable).await;
    put(&store, 2, AckLevel::Durable).await;
    let lease = hit(&store, 1).await;
    assert!(store.remove(&id(1)).await);
    assert!(!store.remove(&id(1)).await);
    assert_eq!(miss(&store, 1).await, MissReason::NeverStored);
    assert_bytes(&lease, 1);
    drop(lease);
    store.close().await;
    drop(store);
    let (store, report) = open(Some(dir.path()), 2, 4);
    assert_eq!(report.blocks, 1);
    assert!(!store.contains(&id(1)).any() && store.contains(&id(2)).nvme);
    put(&store, 1, AckLevel::Durable).await;
    assert_bytes(&hit(&store, 1).await, 1);
}

#[tokio::test]
async fn low_priority_leaves_the_arena_first() {
    let (store, _) = open(None, 1, 0);
    for n in 0..BLOCKS_PER_EXTENT {
        let priority = if n % 2 == 0 { 90 } else { 10 };
        put_with(&store, n, BLOCK_BYTES, retention(priority), AckLevel::Host).await.unwrap();
    }
    for n in 0..BLOCKS_PER_EXTENT / 2 {
        put_with(&store, 1_000 + n, BLOCK_BYTES, retention(50), AckLevel::Host).await.unwrap();
    }
    for n in 0..BLOCKS_PER_EXTENT {
        assert_eq!(store.contains(&id(n)).host, n % 2 == 0, "block {n}");
    }
    assert_eq!(store.stats().evicted_host, BLOCKS_PER_EXTENT / 2);
}

#[tokio::test]
async fn what_is_said_of_a_block_later_decides_who_leaves_and_lasts_across_restarts() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 1, 1);
    for n in 0..BLOCKS_PER_EXTENT {
        put_with(&store, n, BLOCK_BYTES, retention(60), AckLevel::Durable).await.unwrap();
    }
    for n in 0..8 {
        assert!(store.retain(&id(n), retention(90)));
        assert!(store.retain(&id(n), retention(90)), "INV-IDEMPOTENT");
    }
    assert!(!store.retain(&id(9_999), retention(90)));
    assert_eq!(store.payload_len(&id(1)), Some(BLOCK_BYTES as u32));
    assert_eq!(store.payload_len(&id(9_999)), None);
    store.close().await;
    drop(store);
    let (store, _) = open(Some(dir.path()), 1, 1);
    for n in 0..BLOCKS_PER_EXTENT {
        put_with(&store, 1_000 + n, BLOCK_BYTES, retention(80), AckLevel::Durable).await.unwrap();
    }
    for n in 0..BLOCKS_PER_EXTENT {
        assert_eq!(store.contains(&id(n)).nvme, n < 8, "block {n}");
    }
    assert_bytes(&hit(&store, 7).await, 7);
}

#[tokio::test]
async fn low_priority_leaves_nvme_first_and_the_arena_keeps_its_copy() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 4, 1);
    for n in 0..BLOCKS_PER_EXTENT {
        let priority = if n < 10 { 10 } else { 90 };
        put_with(&store, n, BLOCK_BYTES, retention(priority), AckLevel::Durable).await.unwrap();
    }
    for n in 0..10 {
        put_with(&store, 1_000 + n, BLOCK_BYTES, retention(50), AckLevel::Durable).await.unwrap();
    }
    for n in 0..BLOCKS_PER_EXTENT {
        assert_eq!(store.contains(&id(n)), Tiers { host: true, nvme: n >= 10 }, "block {n}");
    }
    let stats = store.stats();
    assert_eq!((stats.evicted_nvme, stats.evicted_host, stats.nvme_blocks), (10, 0, BLOCKS_PER_EXTENT));
    // A durable put of a block that only the arena still has writes it again.
    assert!(put_with(&store, 3, BLOCK_BYTES, retention(95), AckLevel::Durable).await.unwrap().existed);
    assert_eq!(store.contains(&id(3)), Tiers { host: true, nvme: true });
}

#[tokio::test]
async fn record_sizes_compete_for_extents() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 4, 4);
    for n in 0..BLOCKS_PER_EXTENT * 4 {
        put(&store, n, AckLevel::Durable).await;
    }
    for n in 0..8 {
        put_with(&store, 5_000 + n, 200_000, Retention::default(), AckLevel::Durable).await.unwrap();
    }
    for n in 0..8 {
        assert_bytes(&hit(&store, 5_000 + n).await, 5_000 + n);
    }
    let small = (0..BLOCKS_PER_EXTENT * 4).filter(|n| store.contains(&id(*n)).nvme).count() as u64;
    assert!((BLOCKS_PER_EXTENT * 2..BLOCKS_PER_EXTENT * 4).contains(&small), "{small} small blocks are left");
}

#[tokio::test]
async fn an_extent_changes_hands_where_the_least_is_lost() {
    let (store, _) = open(None, 2, 0);
    for n in 0..BLOCKS_PER_EXTENT * 2 {
        let priority = if n < BLOCKS_PER_EXTENT { 90 } else { 10 };
        put_with(&store, n, BLOCK_BYTES, retention(priority), AckLevel::Host).await.unwrap();
    }
    put_with(&store, 1_000, 200_000, retention(50), AckLevel::Host).await.unwrap();
    for n in 0..BLOCKS_PER_EXTENT * 2 {
        assert_eq!(store.contains(&id(n)).host, n < BLOCKS_PER_EXTENT, "block {n}");
    }
}

#[tokio::test]
async fn a_lease_keeps_its_bytes_while_everything_else_is_evicted() {
    let (store, _) = open(None, 1, 0);
    put(&store, 1, AckLevel::Host).await;
    let lease = hit(&store, 1).await;
    for n in 0..BLOCKS_PER_EXTENT * 5 {
        put(&store, 100 + n, AckLevel::Host).await;
        assert_bytes(&lease, 1);
    }
    assert!(store.contains(&id(1)).host, "a leased block is no victim");
    store.remove(&id(1)).await;
    for n in 0..BLOCKS_PER_EXTENT * 2 {
        put(&store, 1_000 + n, AckLevel::Host).await;
    }
    assert_bytes(&lease, 1);
    store.close().await;
    drop(store);
    assert_bytes(&lease, 1);
}

#[tokio::test]
async fn reserving_waits_for_a_lease_to_end_and_gives_up_at_its_deadline() {
    let (store, _) = open(None, 1, 0);
    let mut leases = Vec::new();
    for n in 0..BLOCKS_PER_EXTENT {
        put(&store, n, AckLevel::Host).await;
        leases.push(hit(&store, n).await);
    }
    let began = Instant::now();
    let refused = store.reserve(BLOCK_BYTES, began + Duration::from_millis(30)).await;
    assert_eq!(refused.unwrap_err(), ReserveError::Deadline);
    assert!(began.elapsed() < Duration::from_secs(5), "INV-DEADLINE");
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.reserve(BLOCK_BYTES, soon()).await.map(drop) })
        })
        .collect();
    tokio::task::yield_now().await;
    leases.truncate(10);
    for task in waiting {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn deltas_and_inventory_tell_what_is_held() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    put(&store, 1, AckLevel::Durable).await;
    store.remove(&id(1)).await;
    store.deltas_ready().await;
    let mut deltas = Vec::new();
    assert_eq!(store.take_deltas(3, &mut deltas), DeltaStatus::More);
    assert_eq!(store.take_deltas(9, &mut deltas), DeltaStatus::Complete);
    let delta = |tier, added| BlockDelta { id: id(1), tier, added, payload_len: BLOCK_BYTES as u32 };
    let expected = [
        delta(Tier::Host, true),
        delta(Tier::Nvme, true),
        delta(Tier::Host, false),
        delta(Tier::Nvme, false),
    ];
    assert_eq!(deltas, expected);
    put(&store, 2, AckLevel::Durable).await;
    assert_eq!(store.inventory().len(), 2);
}

#[tokio::test]
async fn nothing_leaks() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    let abandoned = store.reserve(BLOCK_BYTES, soon()).await.unwrap();
    for n in 0..200 {
        put(&store, n, AckLevel::Host).await;
    }
    let leases = vec![hit(&store, 199).await, hit(&store, 0).await];
    store.flush().await;
    for n in 0..200 {
        store.remove(&id(n)).await;
    }
    drop((leases, abandoned));
    let stats = store.stats();
    assert_eq!((stats.host_used_bytes, stats.nvme_used_bytes, stats.pending_writes), (0, 0, 0), "INV-LEAK");
    assert_eq!((stats.host_blocks, stats.nvme_blocks), (0, 0));
    assert!(store.inventory().is_empty());
}

#[tokio::test]
async fn a_closed_store_refuses_and_can_be_opened_again() {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    let slot = store.reserve(10, soon()).await.unwrap();
    put(&store, 1, AckLevel::Host).await;
    store.close().await;
    assert_eq!(store.reserve(10, soon()).await.unwrap_err(), ReserveError::Closed);
    assert_eq!(store.get(&id(1), soon()).await.unwrap_err(), GetError::Closed);
    let meta = PutMeta { crc32: crc32fast::hash(&slot), retention: Retention::default(), depth: 0 };
    assert_eq!(store.put(id(2), slot, meta, AckLevel::Host, soon()).await, Err(PutError::Closed));
    store.flush().await;
    let (again, report) = open(Some(dir.path()), 2, 4);
    assert_eq!(report.blocks, 1, "closing wrote through what was put");
    assert_bytes(&hit(&again, 1).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_at_once_never_see_wrong_bytes() {
    const TASKS: u64 = 8;
    const KEYS: u64 = 300;
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 3);
    let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(churn(store.clone(), task, KEYS))).collect();
    let mut hits = 0;
    for task in tasks {
        hits += task.await.unwrap();
    }
    store.flush().await;
    let stats = store.stats();
    assert_eq!((stats.corrupt_blocks, stats.stale_blocks, stats.io_errors), (0, 0, 0), "{stats:?}");
    assert!(
        hits > 100 && stats.evicted_host > 100 && stats.evicted_nvme > 100,
        "too little happened: {stats:?}"
    );
    for n in 0..KEYS {
        store.remove(&id(n)).await;
    }
    let stats = store.stats();
    assert_eq!((stats.host_used_bytes, stats.nvme_used_bytes), (0, 0), "INV-LEAK");
}

/// Puts, gets and removes blocks of three sizes by chance; returns how many gets hit.
async fn churn(store: Store, seed: u64, keys: u64) -> u64 {
    use rand::{Rng, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut hits = 0;
    for _ in 0..600 {
        let n = rng.random_range(0..keys);
        let len = [BLOCK_BYTES, 7_000, 50_000][(n % 3) as usize];
        match rng.random_range(0..10) {
            0 => drop(store.remove(&id(n)).await),
            1..5 => {
                let ack = if rng.random_bool(0.3) { AckLevel::Durable } else { AckLevel::Host };
                match put_with(&store, n, len, retention(rng.random_range(0..=100)), ack).await {
                    Ok(_) | Err(PutError::Removed) => {}
                    Err(error) => panic!("seed {seed}, block {n}: {error}"),
                }
            }
            _ => {
                if let hearth_store::GetOutcome::Hit(lease) = store.get(&id(n), soon()).await.unwrap() {
                    assert_eq!(lease.len(), len);
                    assert_bytes(&lease, n);
                    hits += 1;
                }
            }
        }
    }
    hits
}
