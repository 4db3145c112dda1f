//! Blocks whose bytes follow from a number, and a store to put them into.
#![allow(dead_code)] // Each test file uses a part of this.

use std::path::Path;
use std::time::{Duration, Instant};

use hearth_proto::{AckLevel, BlockId, BlockKey, NamespaceId, Priority, Retention};
use hearth_store::{
    GetOutcome, Lease, MissReason, NvmeConfig, PutError, PutMeta, PutOutcome, RecoveryReport, Store,
    StoreConfig,
};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) const EXTENT_BYTES: usize = 1 << 20;
pub(crate) const BLOCK_BYTES: usize = 16_000;

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(crate) fn id(n: u64) -> BlockId {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&n.to_le_bytes());
    key[24..].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    BlockId { namespace: NamespaceId(7), key: BlockKey(key) }
}

pub(crate) fn payload(n: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(n).fill_bytes(&mut bytes);
    bytes
}

pub(crate) fn config(dir: Option<&Path>, arena_extents: u64, nvme_extents: u64) -> StoreConfig {
    let extent_bytes = EXTENT_BYTES as u64;
    StoreConfig {
        arena_bytes: arena_extents * extent_bytes,
        nvme: dir.map(|dir| NvmeConfig::one_file(dir, nvme_extents * extent_bytes)),
        extent_bytes: EXTENT_BYTES,
    }
}

pub(crate) fn open(dir: Option<&Path>, arena_extents: u64, nvme_extents: u64) -> (Store, RecoveryReport) {
    Store::open(config(dir, arena_extents, nvme_extents)).expect("the store opens")
}

pub(crate) async fn put_with(
    store: &Store,
    n: u64,
    len: usize,
    retention: Retention,
    ack: AckLevel,
) -> Result<PutOutcome, PutError> {
    let bytes = payload(n, len);
    let mut slot = store.reserve(len, soon()).await.expect("room for a block");
    slot.copy_from_slice(&bytes);
    let meta = PutMeta { crc32: crc32fast::hash(&bytes), retention, depth: 0 };
    store.put(id(n), slot, meta, ack, soon()).await
}

pub(crate) async fn put(store: &Store, n: u64, ack: AckLevel) -> PutOutcome {
    put_with(store, n, BLOCK_BYTES, Retention::default(), ack).await.expect("the put succeeds")
}

pub(crate) fn retention(priority: u8) -> Retention {
    Retention { priority: Priority::new(priority).unwrap(), duration_ms: None }
}

pub(crate) async fn hit(store: &Store, n: u64) -> Lease {
    match store.get(&id(n), soon()).await.expect("the get ends in time") {
        GetOutcome::Hit(lease) => lease,
        GetOutcome::Miss(reason) => panic!("block {n} is missing: {reason:?}"),
    }
}

pub(crate) async fn miss(store: &Store, n: u64) -> MissReason {
    match store.get(&id(n), soon()).await.expect("the get ends in time") {
        GetOutcome::Hit(_) => panic!("block {n} should be missing"),
        GetOutcome::Miss(reason) => reason,
    }
}

pub(crate) fn assert_bytes(lease: &Lease, n: u64) {
    assert!(**lease == *payload(n, lease.len()), "block {n} has the wrong bytes (INV-BYTES)");
    assert_eq!(lease.crc32(), crc32fast::hash(lease));
}
