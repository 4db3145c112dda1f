//! Disks lie: flipped bytes, torn records, cut files. Whatever is read, it is never wrong bytes.

#![allow(clippy::unwrap_used)] // A test ends where it cannot go on.

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::*;
use hearth_proto::AckLevel;
use hearth_store::{MissReason, OpenError, Store};
use tempfile::{TempDir, tempdir};

/// Sectors are 4 KiB; 16,000 bytes and their footer take four of them.
const RECORD_BYTES: u64 = 16_384;

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
    file.read_exact_at(&mut bytes, offset).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, offset).unwrap();
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
    file.read_exact_at(&mut record, RECORD_BYTES).unwrap();
    file.write_all_at(&record, 0).unwrap();
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
    assert_eq!(file.metadata().unwrap().len(), 2 * EXTENT_BYTES as u64);
    file.set_len(EXTENT_BYTES as u64).unwrap();
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
    file.set_len(RECORD_BYTES).unwrap();
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
