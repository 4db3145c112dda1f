//! Blocks that are durable before the index hears of them.

use super::*;
use crate::sync::lock;

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
    for n in 0..NVME_EXTENTS * BLOCKS_PER_EXTENT {
        put(&store, 10_000 + n, AckLevel::Durable, soon()).await.unwrap();
    }
    let nvme = store.core().nvme.as_ref().unwrap();
    let class = crate::extents::class_of(BLOCK_BYTES);
    while lock(&nvme.ready).count(class) < 4 {
        tokio::task::yield_now().await;
    }
    (store, device)
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
