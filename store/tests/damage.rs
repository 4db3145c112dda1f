//! Disks lie: flipped bytes, torn records, cut files. Whatever is read, it is never wrong bytes.

#![allow(clippy::unwrap_used)] // A test ends where it cannot go on.

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::*;
use hearth_proto::AckLevel;
use hearth_store::{MissReason, OpenError, SlabConfig, Store};
use tempfile::{TempDir, tempdir};

/// Sectors are 4 KiB; 16,000 bytes and their footer take four of them.
const RECORD_BYTES: u64 = 16_384;
/// Where the first extent of a slab begins.
const DATA_OFFSET: u64 = 1 << 20;

/// Makes a store of `count` blocks, in order from the start of the slab, and closes it.
async fn founded(count: u64) -> TempDir {
    let dir = tempdir().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    for n in 0..count {
        put(&store, n, AckLevel::Durable).await;
    }
    store.close().await;
    dir
}

fn change(dir: &Path, offset: u64, len: usize, change: impl Fn(&mut [u8])) {
    let file = OpenOptions::new().read(true).write(true).open(dir.join("blocks.slab")).unwrap();
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, DATA_OFFSET + offset).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, DATA_OFFSET + offset).unwrap();
    file.sync_all().unwrap();
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_a_miss_and_is_counted() {
    let dir = founded(5).await;
    // In the payload, at its end, in the footer's magic, in its key, in its checksum.
    for (n, at) in [(0, 5), (1, 15_999), (2, 16_384 - 128), (3, 16_384 - 100), (4, 16_383)] {
        change(dir.path(), n * RECORD_BYTES + at, 1, |bytes| bytes[0] ^= 0x10);
    }
    let (store, _) = open(Some(dir.path()), 2, 4);
    for n in 0..5 {
        assert_eq!(miss(&store, n).await, MissReason::Corrupt, "block {n}");
        assert_eq!(miss(&store, n).await, MissReason::NeverStored, "block {n} is forgotten");
    }
    let stats = store.stats();
    assert_eq!((stats.corrupt_blocks, stats.nvme_blocks, stats.nvme_used_bytes), (5, 0, 0));
    for n in 0..5 {
        assert!(!put(&store, n, AckLevel::Durable).await.existed);
    }
    store.close().await;
    drop(store);
    let (store, report) = open(Some(dir.path()), 2, 4);
    assert_eq!(report.blocks, 5);
    for n in 0..5 {
        assert_bytes(&hit(&store, n).await, n);
    }
}

#[tokio::test]
async fn a_torn_record_is_a_miss() {
    let dir = founded(2).await;
    change(dir.path(), 4_096, 4_096, |bytes| bytes.fill(0));
    change(dir.path(), RECORD_BYTES + 3 * 4_096, 4_096, |bytes| bytes.fill(0));
    let (store, _) = open(Some(dir.path()), 2, 4);
    assert_eq!(miss(&store, 0).await, MissReason::Corrupt);
    assert_eq!(miss(&store, 1).await, MissReason::Corrupt);
}

#[tokio::test]
async fn a_slot_that_holds_another_block_is_a_miss() {
    let dir = founded(2).await;
    let file = OpenOptions::new().read(true).write(true).open(dir.path().join("blocks.slab")).unwrap();
    let mut record = vec![0; RECORD_BYTES as usize];
    file.read_exact_at(&mut record, DATA_OFFSET + RECORD_BYTES).unwrap();
    file.write_all_at(&record, DATA_OFFSET).unwrap();
    file.sync_all().unwrap();
    let (store, _) = open(Some(dir.path()), 2, 4);
    assert_eq!(miss(&store, 0).await, MissReason::Stale);
    assert_bytes(&hit(&store, 1).await, 1);
    assert_eq!((store.stats().stale_blocks, store.stats().corrupt_blocks), (1, 0));
}

/// After a crash the index may name a slot that was reused. A put that finds such an entry must not
/// take it for the block (INV-ACK).
#[tokio::test]
async fn a_put_does_not_trust_what_nobody_has_read_since_the_crash() {
    let dir = founded(2).await;
    change(dir.path(), 0, 4_096, |bytes| bytes.fill(7));
    let (store, _) = open(Some(dir.path()), 2, 4);
    assert!(!put(&store, 0, AckLevel::Durable).await.existed);
    assert_bytes(&hit(&store, 1).await, 1);
    assert!(put(&store, 1, AckLevel::Durable).await.existed, "what was read is trusted");
    let stats = store.stats();
    assert_eq!((stats.corrupt_blocks, stats.nvme_blocks), (1, 2), "the put read what it replaced");
    assert_eq!(stats.nvme_used_bytes, 2 * RECORD_BYTES, "INV-LEAK");
    store.close().await;
    drop(store);
    let (store, _) = open(Some(dir.path()), 2, 4);
    assert_bytes(&hit(&store, 0).await, 0);
}

#[tokio::test]
async fn a_cut_file_loses_what_it_lost_and_nothing_else() {
    let dir = founded(100).await;
    let file = OpenOptions::new().write(true).open(dir.path().join("blocks.slab")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), DATA_OFFSET + 2 * EXTENT_BYTES as u64);
    file.set_len(DATA_OFFSET + EXTENT_BYTES as u64).unwrap();
    let (store, report) = open(Some(dir.path()), 2, 4);
    assert_eq!((report.blocks, report.dropped), (64, 36));
    for n in 0..64 {
        assert_bytes(&hit(&store, n).await, n);
    }
    for n in 64..100 {
        assert_eq!(miss(&store, n).await, MissReason::NeverStored);
    }
}

#[tokio::test]
async fn a_file_cut_while_the_store_is_open_is_a_miss() {
    let dir = founded(2).await;
    let (store, _) = open(Some(dir.path()), 2, 4);
    let file = OpenOptions::new().write(true).open(dir.path().join("blocks.slab")).unwrap();
    file.set_len(DATA_OFFSET + RECORD_BYTES).unwrap();
    assert_eq!(miss(&store, 1).await, MissReason::Corrupt);
    assert_bytes(&hit(&store, 0).await, 0);
}

#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let dir = founded(1).await;
    let (_store, _) = open(Some(dir.path()), 2, 4);
    let error = Store::open(config(Some(dir.path()), 2, 4)).err().expect("the folder is in use");
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

#[test]
fn contradictory_configurations_are_refused() {
    let mut bad = config(None, 1, 0);
    bad.extent_bytes = 5_000;
    assert!(matches!(Store::open(bad), Err(OpenError::Config { .. })));
    let mut bad = config(None, 1, 0);
    bad.arena_bytes = 4_096;
    assert!(matches!(Store::open(bad), Err(OpenError::Config { .. })));
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

/// What a folder is refused with, and that the refusal changed nothing in the slab.
fn refusal(dir: &Path) -> OpenError {
    let slab = dir.join("blocks.slab");
    let before = std::fs::read(&slab).ok();
    let error = Store::open(config(Some(dir), 2, 4)).err().expect("the store is refused");
    assert_eq!(std::fs::read(&slab).ok(), before);
    error
}

#[tokio::test]
async fn a_damaged_superblock_costs_the_slab_and_not_the_store() {
    let dir = founded(5).await;
    change_superblock(dir.path(), |bytes| bytes[20] ^= 1);
    let (store, report) = open(Some(dir.path()), 2, 4);
    assert_eq!((report.blocks, report.dropped, report.slabs_set_aside.len()), (0, 5, 1), "{report:?}");
    let aside = &report.slabs_set_aside[0];
    assert!(aside.exists() && aside.to_string_lossy().contains("blocks.slab.damaged-"), "{aside:?}");
    assert_eq!(miss(&store, 0).await, MissReason::NeverStored);
    put(&store, 0, AckLevel::Durable).await;
    store.close().await;
    drop(store);
    let (store, report) = open(Some(dir.path()), 2, 4);
    assert_eq!((report.blocks, report.slabs_set_aside.len()), (1, 0));
    assert_bytes(&hit(&store, 0).await, 0);
}

fn change_superblock(dir: &Path, change: impl Fn(&mut [u8])) {
    let slab = dir.join("blocks.slab");
    let mut bytes = std::fs::read(&slab).unwrap()[..4_096].to_vec();
    change(&mut bytes);
    overwrite(&slab, 0, &bytes);
}

#[tokio::test]
async fn a_slab_of_a_newer_version_is_refused_and_both_versions_are_named() {
    let dir = founded(1).await;
    change_superblock(dir.path(), |bytes| {
        bytes[8] = 9;
        let crc = crc32fast::hash(&bytes[..4_092]);
        bytes[4_092..].copy_from_slice(&crc.to_le_bytes());
    });
    let error = refusal(dir.path());
    assert!(matches!(error, OpenError::NewerFormat { found: 9, supported: 1, .. }), "{error}");
}

#[tokio::test]
async fn what_is_no_slab_or_another_stores_is_left_alone() {
    let dir = founded(1).await;
    let other = founded(1).await;
    std::fs::copy(other.path().join("blocks.slab"), dir.path().join("blocks.slab")).unwrap();
    assert!(matches!(refusal(dir.path()), OpenError::ForeignSlab { .. }));
    std::fs::write(dir.path().join("blocks.slab"), vec![b'x'; 10_000]).unwrap();
    assert!(matches!(refusal(dir.path()), OpenError::NotASlab { .. }));
    std::fs::remove_file(dir.path().join("blocks.slab")).unwrap();
    let error = refusal(dir.path());
    assert!(matches!(error, OpenError::SlabMissing { .. }), "{error}");
    assert!(error.to_string().contains("bring it back"), "{error}");
}

#[tokio::test]
async fn a_damaged_index_is_set_aside_and_the_store_begins_anew() {
    let dir = founded(3).await;
    std::fs::write(dir.path().join("index/CURRENT"), b"nonsense\n").unwrap();
    let (store, report) = open(Some(dir.path()), 2, 4);
    let aside = report.index_set_aside.expect("it says where the index lies now");
    assert!(aside.join("CURRENT").exists());
    assert_eq!(miss(&store, 0).await, MissReason::NeverStored);
    for n in 0..3 {
        assert!(!put(&store, n, AckLevel::Durable).await.existed);
    }
    store.close().await;
    drop(store);
    let (store, report) = open(Some(dir.path()), 2, 4);
    assert_eq!((report.blocks, report.index_set_aside), (3, None));
    assert_bytes(&hit(&store, 2).await, 2);
}

/// Two slabs: one in the folder, one beside it.
fn striped(dir: &Path) -> hearth_store::StoreConfig {
    let mut config = config(Some(dir), 2, 4);
    let capacity_bytes = 2 * EXTENT_BYTES as u64;
    let slabs = ["a.slab", "b.slab"].map(|name| SlabConfig { path: dir.join(name), capacity_bytes });
    config.nvme.as_mut().unwrap().slabs = slabs.into();
    config
}

#[tokio::test]
async fn blocks_are_striped_over_slabs_and_one_may_be_added_or_lost() {
    let dir = tempdir().unwrap();
    let both = striped(dir.path());
    let mut one = both.clone();
    one.nvme.as_mut().unwrap().slabs.truncate(1);
    let (store, _) = Store::open(one.clone()).unwrap();
    put(&store, 0, AckLevel::Durable).await;
    store.close().await;
    drop(store);
    // The second is added to a store that holds blocks.
    let (store, _) = Store::open(both.clone()).unwrap();
    assert_eq!(store.stats().nvme_capacity_bytes, 4 * EXTENT_BYTES as u64);
    for n in 1..200 {
        put(&store, n, AckLevel::Durable).await;
    }
    store.close().await;
    drop(store);
    for name in ["a.slab", "b.slab"] {
        let len = std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert_eq!(len, DATA_OFFSET + 2 * EXTENT_BYTES as u64, "{name}");
    }
    let (store, report) = Store::open(both.clone()).unwrap();
    assert_eq!((report.blocks, report.dropped), (200, 0));
    for n in 0..200 {
        assert_bytes(&hit(&store, n).await, n);
    }
    store.close().await;
    drop(store);
    // A file that is named and gone is refused; one that is named no more costs its blocks alone.
    std::fs::rename(dir.path().join("b.slab"), dir.path().join("elsewhere")).unwrap();
    assert!(matches!(Store::open(both.clone()), Err(OpenError::SlabMissing { .. })));
    std::fs::rename(dir.path().join("elsewhere"), dir.path().join("b.slab")).unwrap();
    let (store, report) = Store::open(one).unwrap();
    assert!(report.blocks >= 64 && report.blocks + report.dropped == 200, "{report:?}");
    let held = (0..200).filter(|n| store.contains(&id(*n)).nvme).count() as u64;
    assert_eq!(held, report.blocks);
    store.close().await;
    // A copy cannot stand in for another slab.
    std::fs::copy(dir.path().join("a.slab"), dir.path().join("b.slab")).unwrap();
    assert!(matches!(Store::open(both), Err(OpenError::SameSlab { .. })));
}
