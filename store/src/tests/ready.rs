//! Blocks that are durable before the index hears of them.

use hearth_proto::Priority;

use super::*;
use crate::extents::class_of;
use crate::index::NvmeReplica;
use crate::ready::ReadyLimits;
use crate::sync::lock;
use crate::writer::{WriteJob, send};

/// Enough for a few slots to be ready.
const NVME_EXTENTS: u64 = 16;

fn config(dir: &TempDir) -> StoreConfig {
    let mut config = super::config(dir, 4, NVME_EXTENTS);
    let nvme = config.nvme.as_mut().unwrap();
    nvme.ready_bytes = 1 << 20;
    config
}

/// A store whose tier is as long as it will be, with slots ready.
async fn open_ready(dir: &TempDir) -> (Store, Arc<Faulty>) {
    let (store, device) = open_with(&config(dir));
    fill(&store, NVME_EXTENTS).await;
    (store, device)
}

/// Puts as many blocks as extents have room for, and waits until slots are ready.
async fn fill(store: &Store, extents: u64) {
    for n in 0..extents * BLOCKS_PER_EXTENT {
        put(store, 10_000 + n, AckLevel::Durable, soon()).await.unwrap();
    }
    let nvme = store.core().nvme.as_ref().unwrap();
    while lock(&nvme.ready).count(class_of(BLOCK_BYTES)) < 4 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_block_in_a_ready_slot_is_durable_although_the_index_refuses_everything() {
    let dir = tempdir().unwrap();
    let (store, device) = open_ready(&dir).await;
    device.refuse_commits(u32::MAX);
    for n in 0..4 {
        put(&store, n, AckLevel::Durable, soon()).await.unwrap();
        assert_eq!(store.contains(&id(n)), Tiers { host: true, nvme: true });
    }
    store.close().await;
    drop(store);
    let (store, report) = Store::open(config(&dir)).unwrap();
    assert!(report.ahead >= 4, "{report:?}");
    for n in 0..4 {
        assert!(matches!(get(&store, n).await, GetOutcome::Hit(lease) if *lease == *bytes(n)), "block {n}");
    }
    store.close().await;
    drop(store);
    let (_, report) = Store::open(config(&dir)).unwrap();
    assert_eq!(report.ahead, 0, "the index names them by now: {report:?}");
}

#[tokio::test]
async fn a_store_that_closes_leaves_nothing_to_look_at() {
    let dir = tempdir().unwrap();
    let (store, _) = open_ready(&dir).await;
    put(&store, 1, AckLevel::Durable, soon()).await.unwrap();
    let held = store.stats().nvme_blocks;
    store.close().await;
    assert_eq!(store.stats().nvme_used_bytes, held * 16_384, "INV-LEAK");
    drop(store);
    let catalog = RocksCatalog::open(dir.path(), FOUNDING).unwrap();
    assert_eq!(catalog.remembered().unwrap().ready, []);
    drop(catalog);
    let (store, report) = Store::open(config(&dir)).unwrap();
    assert_eq!((report.blocks, report.ahead, report.dropped), (held, 0, 0));
    assert!(matches!(get(&store, 1).await, GetOutcome::Hit(lease) if *lease == *bytes(1)));
}

#[tokio::test]
async fn what_was_removed_from_a_ready_slot_stays_removed() {
    let dir = tempdir().unwrap();
    let (store, device) = open_ready(&dir).await;
    put(&store, 1, AckLevel::Durable, soon()).await.unwrap();
    put(&store, 2, AckLevel::Durable, soon()).await.unwrap();
    assert!(store.remove(&id(1)).await);
    // As after a crash: nothing that comes now reaches the index.
    device.refuse_commits(u32::MAX);
    store.close().await;
    drop(store);
    let (store, _) = Store::open(config(&dir)).unwrap();
    assert!(!store.contains(&id(1)).any());
    assert!(store.contains(&id(2)).nvme);
}

#[tokio::test]
async fn what_was_removed_before_it_got_its_ready_slot_stays_removed() {
    let dir = tempdir().unwrap();
    let (store, device) = open_ready(&dir).await;
    let mut slot = store.reserve(BLOCK_BYTES, soon()).await.unwrap();
    slot.copy_from_slice(&bytes(1));
    let retention = Retention { priority: Priority::new(0).unwrap(), duration_ms: None };
    let meta = PutMeta { crc32: crc32fast::hash(&slot), retention, depth: 0 };
    // Not worth writing, so that the test can have it written when it likes.
    store.put(id(1), slot, meta, AckLevel::Host, soon()).await.unwrap();
    let core = store.core();
    let nvme = core.nvme.as_ref().unwrap();
    let block = {
        let mut shard = core.index.shard(&id(1));
        let handle = shard.find(&id(1)).unwrap();
        shard.node_mut(handle).set_nvme(NvmeReplica::Pending);
        Arc::clone(shard.host(handle).unwrap())
    };
    let permit = Arc::clone(&nvme.write_permits).acquire_owned().await.unwrap();
    let job = WriteJob::new(nvme, id(1), block, permit);
    assert!(store.remove(&id(1)).await);
    device.refuse_commits(u32::MAX);
    send(core, nvme, job);
    store.flush().await;
    assert_eq!(store.stats().pending_writes, 0);
    store.close().await;
    drop(store);
    let (store, _) = Store::open(config(&dir)).unwrap();
    assert!(!store.contains(&id(1)).any());
}

#[tokio::test]
async fn what_waits_for_blocks_of_one_size_makes_room_for_those_of_another() {
    let dir = tempdir().unwrap();
    let limits = ReadyLimits { bytes_max: u64::MAX, tier_divisor: 4, slots_min: 1 };
    let config = super::config(&dir, 4, 1);
    let (store, _) = open_changed(&config, |parts| Parts { ready: limits, ..parts });
    fill(&store, 1).await;
    put(&store, 1, AckLevel::Durable, soon()).await.unwrap();
    let payload = vec![7; 3 * BLOCK_BYTES];
    let mut slot = store.reserve(payload.len(), soon()).await.unwrap();
    slot.copy_from_slice(&payload);
    let meta = PutMeta { crc32: crc32fast::hash(&slot), retention: Retention::default(), depth: 0 };
    store.put(id(2), slot, meta, AckLevel::Durable, soon()).await.unwrap();
    assert!(store.contains(&id(2)).nvme);
    assert!(!store.contains(&id(1)).nvme, "the only extent was emptied for it");
}
