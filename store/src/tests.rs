//! What the store does when its device fails or dawdles.

mod faulty;
mod fences;
mod queued;
mod ready;
mod recovered;
mod room;
mod striped;
mod urgent;

use std::sync::Arc;
use std::time::{Duration, Instant};

use faulty::Faulty;
use hearth_proto::limits::SLAB_DATA_OFFSET_BYTES;
use hearth_proto::{AckLevel, BlockId, BlockKey, Generation, NamespaceId, Retention};
use tempfile::{TempDir, tempdir};

use crate::device::Device;
use crate::growth::reserve_bytes;
use crate::open;
use crate::recovery::Parts;
use crate::slab::{BlockEntry, Catalog, Changes, Founding, RocksCatalog, StoreId};
use crate::writer::Message;
use crate::{
    Compression, GetError, GetOutcome, MissReason, NvmeConfig, PutError, PutMeta, PutOutcome, Store,
    StoreConfig, Tiers,
};

const EXTENT_BYTES: u64 = 1 << 20;
/// Only the size of extents matters to a store that was founded before.
const FOUNDING: Founding = Founding { store: StoreId([0; 16]), extent_bytes: EXTENT_BYTES, generation: 1 };
const BLOCK_BYTES: usize = 16_000;
const BLOCKS_PER_EXTENT: u64 = 64;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn shortly() -> Instant {
    Instant::now() + Duration::from_millis(30)
}

fn id(n: u64) -> BlockId {
    let mut key = [3; 32];
    key[..8].copy_from_slice(&n.to_le_bytes());
    key[31] = n as u8;
    BlockId { namespace: NamespaceId(1), key: BlockKey(key) }
}

fn config(dir: &TempDir, arena_extents: u64, nvme_extents: u64) -> StoreConfig {
    StoreConfig {
        arena_bytes: arena_extents * EXTENT_BYTES,
        // These tests count the sectors that records take, and those of a tier.
        nvme: Some(NvmeConfig {
            compression: Compression::Off,
            ready_bytes: 0,
            ..NvmeConfig::one_file(dir.path(), nvme_extents * EXTENT_BYTES)
        }),
        extent_bytes: EXTENT_BYTES as usize,
    }
}

fn open(dir: &TempDir, arena_extents: u64, nvme_extents: u64) -> (Store, Arc<Faulty>) {
    open_with(&config(dir, arena_extents, nvme_extents))
}

fn open_with(config: &StoreConfig) -> (Store, Arc<Faulty>) {
    open_changed(config, |parts| parts)
}

fn open_changed(config: &StoreConfig, change: impl Fn(Parts) -> Parts) -> (Store, Arc<Faulty>) {
    let faulty = std::sync::OnceLock::new();
    let interpose = |parts: Parts| {
        let mut members = parts.members;
        let (wrapped, catalog) = Faulty::new(Arc::clone(&members[0].device), parts.catalog);
        let wrapped = Arc::new(wrapped);
        members[0].device = Arc::clone(&wrapped) as Arc<dyn Device>;
        assert!(faulty.set(wrapped).is_ok(), "a store is opened once");
        change(Parts { members, catalog: Box::new(catalog), ..parts })
    };
    let (core, threads, _) = open::open(config, Some(&interpose)).unwrap();
    (Store::new(core, threads), faulty.into_inner().unwrap())
}

fn bytes(n: u64) -> Vec<u8> {
    (0..BLOCK_BYTES as u64).map(|at| (at.wrapping_mul(n * 2 + 1) >> 3) as u8).collect()
}

async fn put(store: &Store, n: u64, ack: AckLevel, deadline: Instant) -> Result<PutOutcome, PutError> {
    let mut slot = store.reserve(BLOCK_BYTES, soon()).await.unwrap();
    slot.copy_from_slice(&bytes(n));
    let meta = PutMeta { crc32: crc32fast::hash(&slot), retention: Retention::default(), depth: 0 };
    store.put(id(n), slot, meta, ack, deadline).await
}

async fn get(store: &Store, n: u64) -> GetOutcome {
    store.get(&id(n), soon()).await.unwrap()
}

#[tokio::test]
async fn a_failed_write_fences_its_extent_and_the_block_goes_elsewhere() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 2, 3);
    for n in 0..10 {
        put(&store, n, AckLevel::Durable, soon()).await.unwrap();
    }
    device.fail_writes(1);
    put(&store, 10, AckLevel::Durable, soon()).await.unwrap();
    let stats = store.stats();
    assert_eq!((stats.io_errors, stats.fenced_extents, stats.nvme_blocks), (1, 1, 1), "{stats:?}");
    for n in 0..10 {
        assert_eq!(store.contains(&id(n)), Tiers { host: true, nvme: false }, "INV-EIO: block {n}");
    }
    store.close().await;
    drop(store);
    let (store, _) = open(&dir, 2, 3);
    assert_eq!(store.stats().fenced_extents, 1, "the fence outlives the process");
    assert!(matches!(get(&store, 10).await, GetOutcome::Hit(lease) if *lease == *bytes(10)));
    assert!(matches!(get(&store, 3).await, GetOutcome::Miss(MissReason::NeverStored)));
}

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_as_clean() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 2, 4);
    device.fail_syncs(1);
    put(&store, 1, AckLevel::Durable, soon()).await.unwrap();
    let stats = store.stats();
    assert_eq!((stats.fenced_extents, stats.nvme_blocks), (1, 1), "it was written again, to another extent");
    device.fail_syncs(u32::MAX);
    assert_eq!(put(&store, 2, AckLevel::Durable, soon()).await, Err(PutError::NotDurable));
    assert_eq!(store.contains(&id(2)), Tiers { host: true, nvme: false });
    assert_eq!((store.stats().writes_given_up, store.stats().pending_writes), (1, 0));
}

#[tokio::test]
async fn a_fence_that_comes_while_closing_is_remembered() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 2, 4);
    device.hold();
    device.fail_syncs(u32::MAX);
    put(&store, 1, AckLevel::Host, soon()).await.unwrap();
    device.wait_until_held(1).await;
    // The same that closing sends, but surely before the write ends.
    assert!(store.core().nvme.as_ref().unwrap().mailbox.send(Message::Stop).is_ok());
    device.release();
    store.close().await;
    assert_eq!(store.stats().fenced_extents, 1);
    drop(store);
    let (store, _) = open(&dir, 2, 4);
    assert_eq!(store.stats().fenced_extents, 1, "INV-EIO");
}

#[tokio::test]
async fn an_unreadable_record_is_a_miss_and_takes_its_extent_with_it() {
    let dir = tempdir().unwrap();
    let (store, _) = open(&dir, 1, 4);
    for n in 0..BLOCKS_PER_EXTENT + 1 {
        put(&store, n, AckLevel::Durable, soon()).await.unwrap();
    }
    store.close().await;
    drop(store);
    let (store, device) = open(&dir, 1, 4);
    device.fail_reads(1);
    assert!(matches!(get(&store, 0).await, GetOutcome::Miss(MissReason::Unreadable)));
    assert!(matches!(get(&store, 1).await, GetOutcome::Miss(MissReason::NeverStored)), "same extent");
    assert!(matches!(get(&store, BLOCKS_PER_EXTENT).await, GetOutcome::Hit(_)), "another extent");
    let stats = store.stats();
    assert_eq!((stats.io_errors, stats.fenced_extents, stats.nvme_used_bytes), (1, 1, 16_384), "{stats:?}");
}

#[tokio::test]
async fn contradicting_entries_are_dropped_and_the_later_put_wins() {
    let dir = tempdir().unwrap();
    let (store, _) = open(&dir, 1, 4);
    put(&store, 1, AckLevel::Durable, soon()).await.unwrap();
    let right = put(&store, 2, AckLevel::Durable, soon()).await.unwrap();
    store.close().await;
    drop(store);
    {
        let mut catalog = RocksCatalog::open(dir.path(), FOUNDING).unwrap();
        let mut entries = Vec::new();
        catalog.blocks(&mut |entry| entries.push(entry)).unwrap();
        let second = *entries.iter().find(|entry| entry.generation == right.generation).unwrap();
        let mut changes = Changes::default();
        let older = Generation(second.generation.0 - 1);
        // In the second block's place; between two slots; beyond the file; from the future; too long.
        changes.put_block(BlockEntry { id: id(3), generation: older, ..second });
        changes.put_block(BlockEntry { id: id(4), sector: second.sector + 1, ..second });
        changes.put_block(BlockEntry { id: id(5), sector: 1_000_000, ..second });
        changes.put_block(BlockEntry { id: id(6), sector: 128, generation: Generation(u64::MAX), ..second });
        changes.put_block(BlockEntry { id: id(7), sector: 0, payload_len: u32::MAX, ..second });
        catalog.commit(&changes).unwrap();
    }
    let config = config(&dir, 1, 4);
    for (dropped, opening) in [(5, "first"), (0, "second")] {
        let (store, report) = Store::open(config.clone()).unwrap();
        assert_eq!((report.blocks, report.dropped), (2, dropped), "{opening} opening");
        for n in 1..=2 {
            assert!(
                matches!(get(&store, n).await, GetOutcome::Hit(lease) if *lease == *bytes(n)),
                "block {n}"
            );
        }
        store.close().await;
    }
}

#[tokio::test]
async fn a_full_file_system_makes_the_slab_stop_growing_and_evict() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 2, 100);
    device.limit_bytes(SLAB_DATA_OFFSET_BYTES + 2 * EXTENT_BYTES);
    for n in 0..BLOCKS_PER_EXTENT * 4 {
        put(&store, n, AckLevel::Durable, soon()).await.unwrap();
    }
    let stats = store.stats();
    assert_eq!(stats.nvme_blocks, BLOCKS_PER_EXTENT * 2);
    assert_eq!((stats.growth_failures, stats.evicted_nvme), (1, BLOCKS_PER_EXTENT * 2), "{stats:?}");
    assert!(matches!(get(&store, BLOCKS_PER_EXTENT * 4 - 1).await, GetOutcome::Hit(_)));
}

#[tokio::test]
async fn the_slab_leaves_room_for_metadata_and_grows_again_when_there_is_more() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 2, 100);
    let total_bytes = 1 << 30;
    let reserve_bytes = reserve_bytes(total_bytes);
    // One byte less than the third extent takes.
    device.pretend_space(total_bytes, reserve_bytes + SLAB_DATA_OFFSET_BYTES + 3 * EXTENT_BYTES - 1);
    for n in 0..BLOCKS_PER_EXTENT * 4 {
        put(&store, n, AckLevel::Durable, soon()).await.unwrap();
    }
    let stats = store.stats();
    assert_eq!(device.len_bytes(), SLAB_DATA_OFFSET_BYTES + 2 * EXTENT_BYTES);
    assert_eq!((stats.nvme_blocks, stats.evicted_nvme), (BLOCKS_PER_EXTENT * 2, BLOCKS_PER_EXTENT * 2));
    // However many puts there were, the file system was asked once.
    assert_eq!(stats.growth_failures, 1);
    device.pretend_space(total_bytes, reserve_bytes + SLAB_DATA_OFFSET_BYTES + 3 * EXTENT_BYTES);
    put(&store, 1_000, AckLevel::Durable, soon()).await.unwrap();
    assert_eq!(
        device.len_bytes(),
        SLAB_DATA_OFFSET_BYTES + 2 * EXTENT_BYTES,
        "not before the pause has passed"
    );
    // The pause has passed.
    store.core().nvme.as_ref().unwrap().volume.end_growth_pauses();
    for n in 1_001..1_001 + BLOCKS_PER_EXTENT {
        put(&store, n, AckLevel::Durable, soon()).await.unwrap();
    }
    assert_eq!(device.len_bytes(), SLAB_DATA_OFFSET_BYTES + 3 * EXTENT_BYTES);
    assert_eq!(store.stats().nvme_blocks, BLOCKS_PER_EXTENT * 3);
    for n in 1_000..1_001 + BLOCKS_PER_EXTENT {
        assert!(matches!(get(&store, n).await, GetOutcome::Hit(lease) if *lease == *bytes(n)), "block {n}");
    }
}

#[tokio::test]
async fn an_index_that_refuses_changes_refuses_durable_puts_until_it_takes_them_again() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 1, 4);
    put(&store, 1, AckLevel::Durable, soon()).await.unwrap();
    device.refuse_commits(u32::MAX);
    assert_eq!(put(&store, 2, AckLevel::Durable, soon()).await, Err(PutError::NotDurable));
    assert_eq!(store.contains(&id(2)), Tiers { host: true, nvme: false });
    for n in 100..100 + BLOCKS_PER_EXTENT * 2 {
        put(&store, n, AckLevel::Host, soon()).await.unwrap();
    }
    store.flush().await;
    assert!(store.remove(&id(1)).await, "removing does not wait for the index");
    device.refuse_commits(0);
    put(&store, 3, AckLevel::Durable, soon()).await.unwrap();
    store.flush().await;
    store.close().await;
    drop(store);
    let (store, report) = Store::open(config(&dir, 1, 4)).unwrap();
    assert_eq!((report.blocks, report.dropped), (1, 0), "what was removed meanwhile stays removed");
    assert!(matches!(get(&store, 3).await, GetOutcome::Hit(lease) if *lease == *bytes(3)));
}

#[tokio::test]
async fn closing_ends_although_the_index_refuses_everything() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 2, 4);
    put(&store, 1, AckLevel::Durable, soon()).await.unwrap();
    device.refuse_commits(u32::MAX);
    device.fail_writes(1);
    put(&store, 2, AckLevel::Host, soon()).await.unwrap();
    store.remove(&id(1)).await;
    let closed = tokio::time::timeout_at(soon().into(), store.close()).await;
    assert!(closed.is_ok(), "nobody is left to take what the index refused");
}

/// What an extent serves is written with its first block. If the index refuses just that, the blocks that
/// follow must not contradict what it says of the extent (INV-ACK).
#[tokio::test]
async fn blocks_of_an_extent_whose_new_class_was_refused_at_first_survive() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 2, 1);
    let large = store.reserve(500_000, soon()).await.unwrap();
    let meta = PutMeta { crc32: crc32fast::hash(&large), retention: Retention::default(), depth: 0 };
    store.put(id(9), large, meta, AckLevel::Durable, soon()).await.unwrap();
    assert!(store.remove(&id(9)).await);
    // The only extent serves another class now. While its first block is refused, a second is on its way,
    // so that the extent is not emptied in between.
    device.hold();
    let first = tokio::spawn({
        let store = store.clone();
        async move { put(&store, 1, AckLevel::Durable, soon()).await }
    });
    device.wait_until_held(1).await;
    put(&store, 2, AckLevel::Host, soon()).await.unwrap();
    device.wait_until_held(2).await;
    device.refuse_commits(1);
    device.release_one();
    assert_eq!(first.await.unwrap(), Err(PutError::NotDurable));
    device.release();
    store.flush().await;
    assert_eq!(store.contains(&id(1)), Tiers { host: true, nvme: false });
    assert_eq!(store.contains(&id(2)), Tiers { host: true, nvme: true });
    store.close().await;
    drop(store);
    let (store, report) = Store::open(config(&dir, 2, 1)).unwrap();
    assert_eq!((report.blocks, report.dropped), (1, 0));
    assert!(matches!(get(&store, 2).await, GetOutcome::Hit(lease) if *lease == *bytes(2)));
}

#[tokio::test]
async fn a_fence_that_the_index_refuses_is_remembered_once_it_takes_changes_again() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 2, 4);
    device.refuse_commits(1);
    device.fail_writes(1);
    // Whether the commit that is refused has the block in it as well is a matter of luck.
    let _ = put(&store, 1, AckLevel::Durable, soon()).await;
    put(&store, 2, AckLevel::Durable, soon()).await.unwrap();
    store.close().await;
    drop(store);
    let (store, _) = open(&dir, 2, 4);
    assert_eq!(store.stats().fenced_extents, 1, "INV-EIO");
}

#[tokio::test]
async fn without_any_room_on_the_device_durable_is_refused_and_the_arena_serves() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 1, 100);
    device.limit_bytes(0);
    assert_eq!(put(&store, 1, AckLevel::Durable, soon()).await, Err(PutError::NotDurable));
    for n in 0..BLOCKS_PER_EXTENT * 2 {
        put(&store, n, AckLevel::Host, soon()).await.unwrap();
    }
    assert_eq!(store.stats().nvme_blocks, 0);
}

#[tokio::test]
async fn blocks_that_are_not_yet_written_are_no_victims() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 1, 4);
    device.hold();
    for n in 0..BLOCKS_PER_EXTENT {
        put(&store, n, AckLevel::Host, soon()).await.unwrap();
    }
    assert!(store.reserve(BLOCK_BYTES, shortly()).await.is_err(), "every slot waits to be written");
    device.release();
    drop(store.reserve(BLOCK_BYTES, soon()).await.unwrap());
    store.flush().await;
    assert_eq!(store.stats().nvme_blocks, BLOCKS_PER_EXTENT);
}

#[tokio::test]
async fn durable_puts_answer_only_when_the_bytes_are_synced() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 1, 4);
    device.hold();
    assert_eq!(put(&store, 1, AckLevel::Durable, shortly()).await, Err(PutError::UnknownDurability));
    assert_eq!(put(&store, 1, AckLevel::Durable, shortly()).await, Err(PutError::UnknownDurability));
    assert_eq!(store.contains(&id(1)), Tiers { host: true, nvme: false });
    device.release();
    assert!(put(&store, 1, AckLevel::Durable, soon()).await.unwrap().existed);
    assert_eq!(store.contains(&id(1)), Tiers { host: true, nvme: true });
}

#[tokio::test]
async fn a_block_removed_while_it_is_written_stays_removed() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 1, 4);
    device.hold();
    let durable = tokio::spawn({
        let store = store.clone();
        async move { put(&store, 1, AckLevel::Durable, soon()).await }
    });
    device.wait_until_held(1).await;
    let removed = tokio::spawn({
        let store = store.clone();
        async move { store.remove(&id(1)).await }
    });
    assert_eq!(durable.await.unwrap(), Err(PutError::Removed));
    device.release();
    assert!(removed.await.unwrap());
    store.flush().await;
    assert_eq!((store.stats().nvme_used_bytes, store.stats().host_used_bytes), (0, 0), "INV-LEAK");
    store.close().await;
    drop(store);
    let (store, _) = open(&dir, 1, 4);
    assert!(!store.contains(&id(1)).any());
}

#[tokio::test]
async fn memory_of_an_abandoned_read_stays_with_the_device_until_it_ends() {
    let dir = tempdir().unwrap();
    let (store, _) = open(&dir, 1, 4);
    put(&store, 1, AckLevel::Durable, soon()).await.unwrap();
    store.close().await;
    drop(store);
    let (store, device) = open(&dir, 1, 4);
    device.hold();
    assert_eq!(store.get(&id(1), shortly()).await.unwrap_err(), GetError::Deadline);
    assert_eq!(store.stats().host_used_bytes, 16_384, "the kernel may still write there");
    device.release();
    // The same block again: it must not wait for the read that was abandoned.
    assert!(matches!(get(&store, 1).await, GetOutcome::Hit(lease) if *lease == *bytes(1)));
    store.remove(&id(1)).await;
    store.close().await;
    assert_eq!(store.stats().host_used_bytes, 0, "INV-LEAK");
}
