//! Extents that come back into service when somebody says that the cause is gone.

use hearth_proto::AckLevel;
use tempfile::{TempDir, tempdir};

use super::queued::Queued;
use super::{BLOCK_BYTES, BLOCKS_PER_EXTENT, FOUNDING, bytes, config, get, id, open, put, soon};
use crate::slab::{BlockEntry, Catalog, Changes, RocksCatalog};
use crate::{GetError, GetOutcome, MissReason, RecoveryReport, Store};

/// Opens the store without anything in between.
fn open_plainly(dir: &TempDir, lift_fences: bool) -> (Store, RecoveryReport) {
    let mut config = config(dir, 2, 4);
    config.nvme.as_mut().unwrap().lift_fences = lift_fences;
    Store::open(config).unwrap()
}

async fn end(store: Store) {
    store.close().await;
    drop(store);
}

#[tokio::test]
async fn a_moment_of_errors_on_everything_costs_a_slab_until_its_fences_are_lifted() {
    let dir = tempdir().unwrap();
    let (store, device) = open(&dir, 2, 4);
    for n in 0..BLOCKS_PER_EXTENT * 3 {
        put(&store, n, AckLevel::Durable, soon()).await.unwrap();
    }
    device.fail_writes(u32::MAX);
    for n in 1_000..1_010 {
        put(&store, n, AckLevel::Durable, soon()).await.unwrap_err();
    }
    end(store).await;
    let (store, report) = open_plainly(&dir, false);
    assert!(report.fenced_extents > 0 && report.lifted_fences == 0, "{report:?}");
    let (fenced, blocks) = (report.fenced_extents, report.blocks);
    assert_eq!(store.stats().fenced_extents, fenced);
    end(store).await;
    let (store, report) = open_plainly(&dir, true);
    assert_eq!((report.fenced_extents, report.lifted_fences, report.blocks), (0, fenced, blocks));
    end(store).await;
    // What was lifted stays so, without being asked for again.
    let (store, report) = open_plainly(&dir, false);
    assert_eq!((report.fenced_extents, report.lifted_fences, report.dropped), (0, 0, 0));
    for n in 2_000..2_000 + BLOCKS_PER_EXTENT * 4 {
        put(&store, n, AckLevel::Durable, soon()).await.unwrap();
    }
    let stats = store.stats();
    assert_eq!((stats.nvme_blocks, stats.fenced_extents), (BLOCKS_PER_EXTENT * 4, 0), "all of it is used");
    assert_eq!(stats.nvme_used_bytes, stats.nvme_blocks * (BLOCK_BYTES as u64).next_multiple_of(4_096));
    end(store).await;
    let (store, report) = open_plainly(&dir, false);
    assert_eq!((report.blocks, report.dropped), (BLOCKS_PER_EXTENT * 4, 0));
    assert!(matches!(get(&store, 2_000).await, GetOutcome::Hit(lease) if *lease == *bytes(2_000)));
}

/// A crash may leave an index that names blocks in an extent that it also says is fenced.
#[tokio::test]
async fn no_block_comes_back_with_the_extent_that_it_lay_in() {
    let dir = tempdir().unwrap();
    let (store, _) = open(&dir, 2, 4);
    for n in 0..10 {
        put(&store, n, AckLevel::Durable, soon()).await.unwrap();
    }
    end(store).await;
    {
        let mut catalog = RocksCatalog::open(dir.path(), FOUNDING).unwrap();
        let mut changes = Changes::default();
        for entry in catalog.remembered().unwrap().extents {
            changes.put_extent(crate::slab::ExtentEntry { fenced: true, ..entry });
        }
        catalog.commit(&changes).unwrap();
    }
    let (store, report) = open_plainly(&dir, true);
    assert_eq!((report.blocks, report.dropped, report.lifted_fences), (0, 10, 1));
    for n in 0..10 {
        assert!(matches!(get(&store, n).await, GetOutcome::Miss(MissReason::NeverStored)), "INV-EIO: {n}");
    }
    put(&store, 100, AckLevel::Durable, soon()).await.unwrap();
    end(store).await;
    let mut names = Vec::new();
    let catalog = RocksCatalog::open(dir.path(), FOUNDING).unwrap();
    catalog.blocks(&mut |entry: BlockEntry| names.push(entry.id)).unwrap();
    assert_eq!(names, [id(100)]);
}

/// Nobody could remember a fence any more, so there is none: what was not remembered would come back after
/// the next start as if nothing had been.
#[tokio::test]
async fn a_read_that_fails_after_the_store_was_closed_fences_nothing() {
    let dir = tempdir().unwrap();
    let (store, device) = Queued::open(&dir, 1).await;
    let got = tokio::spawn({
        let store = store.clone();
        async move { store.get(&id(0), soon()).await }
    });
    device.urgencies(1).await;
    store.close().await;
    device.fail_next();
    assert_eq!(got.await.unwrap().unwrap_err(), GetError::Closed);
    assert_eq!((store.stats().fenced_extents, store.stats().nvme_blocks), (0, 1));
    assert_eq!(store.stats().host_used_bytes, 0, "INV-LEAK");
    drop(store);
    let (store, report) = open_plainly(&dir, false);
    assert_eq!((report.blocks, report.fenced_extents), (1, 0));
    assert!(matches!(get(&store, 0).await, GetOutcome::Hit(lease) if *lease == *bytes(0)));
}
