//! Blocks whose bytes follow from a number, the stores they are put into, and what they must look
//! like when they come back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use hearth_proto::limits::EXTENT_BYTES;
use hearth_proto::{AckLevel, BlockId, BlockKey, LayoutId, NamespaceId, PrefixHash, Retention};
use hearth_replay::content;
use hearth_store::{DriverOptions, GetOutcome, Lease, NvmeConfig, PutMeta, SlotMut, Store, StoreConfig};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;

/// How long a single call of a store may take. A slow disk is no error here.
const PATIENCE: Duration = Duration::from_secs(60);
/// Blocks in work at a time where speed is not measured.
const SIDE_BY_SIDE: usize = 16;

/// A deadline that only a store that hangs misses.
pub(crate) fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// A block, and enough of its content to know it by without reading all of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) id: BlockId,
    pub(crate) first: u64,
    last: u64,
    crc32: u32,
}

impl Block {
    /// The block of that number: no other number has its key. Fills `payload` with its content.
    pub(crate) fn make(number: u64, payload: &mut [u8]) -> Self {
        let id = id(number);
        content::fill(&id.key, payload);
        Self { id, first: first_word(payload), last: last_word(payload), crc32: crc32fast::hash(payload) }
    }

    pub(crate) fn meta(&self) -> PutMeta {
        PutMeta { crc32: self.crc32, retention: Retention::default(), depth: 0 }
    }

    /// Whether `lease` is of this block as far as length, checksum and both ends tell. It costs next to
    /// nothing, so it may run inside a clock; [`read_back`] checks every byte outside.
    pub(crate) fn looks_right(&self, len: usize, lease: &Lease) -> bool {
        let ends = (first_word(lease), last_word(lease));
        lease.len() == len && lease.crc32() == self.crc32 && ends == (self.first, self.last)
    }
}

/// The id of a block of a bench.
pub(crate) fn id(number: u64) -> BlockId {
    let prefix = PrefixHash::new(&number.to_le_bytes()).expect("eight bytes are a prefix hash");
    BlockId { namespace: NamespaceId(1), key: BlockKey::derive(LayoutId([0xbe; 32]), &prefix) }
}

pub(crate) fn first_word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

fn last_word(bytes: &[u8]) -> u64 {
    bytes.last_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// Opens a store with an arena of `arena_bytes` over `capacity_bytes` in `dir`, off the async threads.
pub(crate) async fn open(dir: &Path, arena_bytes: u64, capacity_bytes: u64) -> anyhow::Result<Store> {
    open_with(dir, arena_bytes, capacity_bytes, DriverOptions::default()).await
}

/// The same, with a driver that is not the default.
pub(crate) async fn open_with(
    dir: &Path,
    arena_bytes: u64,
    capacity_bytes: u64,
    driver: DriverOptions,
) -> anyhow::Result<Store> {
    let nvme = NvmeConfig { driver, ..NvmeConfig::one_file(dir, capacity_bytes) };
    let config = StoreConfig { nvme: Some(nvme), ..StoreConfig::in_memory(whole_extents(arena_bytes)) };
    let opened = tokio::task::spawn_blocking(move || Store::open(config)).await?;
    Ok(opened.context("the store does not open")?.0)
}

/// A store without an NVMe tier.
pub(crate) fn in_memory(arena_bytes: u64) -> anyhow::Result<Store> {
    let opened = Store::open(StoreConfig::in_memory(whole_extents(arena_bytes)));
    Ok(opened.context("the store does not open")?.0)
}

fn whole_extents(bytes: u64) -> u64 {
    bytes.next_multiple_of(EXTENT_BYTES as u64)
}

/// Reserves a slot and fills it with the block of that number.
pub(crate) async fn prepare(store: &Store, number: u64, len: usize) -> anyhow::Result<(Block, SlotMut)> {
    let mut slot = store.reserve(len, deadline()).await.context("no slot for a block")?;
    let block = Block::make(number, &mut slot);
    Ok((block, slot))
}

/// Puts the blocks of those numbers durably, many side by side.
pub(crate) async fn put_all(
    store: &Store,
    numbers: std::ops::Range<u64>,
    len: usize,
    side_by_side: usize,
) -> anyhow::Result<()> {
    let next = Arc::new(std::sync::atomic::AtomicU64::new(numbers.start));
    let mut tasks = JoinSet::new();
    for _ in 0..side_by_side {
        let (store, next, end) = (store.clone(), Arc::clone(&next), numbers.end);
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return anyhow::Ok(());
                }
                let (block, slot) = prepare(&store, number, len).await?;
                store.put(block.id, slot, block.meta(), AckLevel::Durable, deadline()).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Blocks in an order that says nothing of where they lie, dealt round and round.
pub(crate) struct Deck {
    blocks: Vec<Block>,
    next: AtomicUsize,
}

impl Deck {
    pub(crate) fn shuffled(mut blocks: Vec<Block>) -> Self {
        blocks.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
        Self { blocks, next: AtomicUsize::new(0) }
    }

    /// The next block that a get has to read from the device; after a whole round without one, any.
    pub(crate) fn deal_from_nvme(&self, store: &Store) -> &Block {
        let mut block = self.deal();
        for _ in 0..self.blocks.len() {
            if !store.contains(&block.id).host {
                break;
            }
            block = self.deal();
        }
        block
    }

    fn deal(&self) -> &Block {
        &self.blocks[self.next.fetch_add(1, Ordering::Relaxed) % self.blocks.len()]
    }
}

/// What a check of every byte found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadBack {
    pub(crate) right: u64,
    pub(crate) missing: u64,
    pub(crate) wrong: u64,
}

/// Gets every block of `ids` and compares every byte with what its key says.
pub(crate) async fn read_back(store: &Store, ids: Vec<BlockId>, len: usize) -> anyhow::Result<ReadBack> {
    let (ids, next) = (Arc::new(ids), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..SIDE_BY_SIDE {
        let (store, ids, next) = (store.clone(), Arc::clone(&ids), Arc::clone(&next));
        tasks.spawn(async move {
            let mut found = ReadBack::default();
            while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                match store.get(id, deadline()).await? {
                    GetOutcome::Miss(_) => found.missing += 1,
                    GetOutcome::Hit(lease) => match content::verify(&id.key, len, &lease) {
                        Ok(()) => found.right += 1,
                        Err(_) => found.wrong += 1,
                    },
                }
            }
            anyhow::Ok(found)
        });
    }
    let mut all = ReadBack::default();
    while let Some(part) = tasks.join_next().await {
        let part = part??;
        all.right += part.right;
        all.missing += part.missing;
        all.wrong += part.wrong;
    }
    Ok(all)
}

/// The largest file of a store's folder: its slab.
pub(crate) fn slab_of(dir: &Path) -> anyhow::Result<(PathBuf, u64)> {
    let mut largest = None;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() && largest.as_ref().is_none_or(|(_, len)| meta.len() > *len) {
            largest = Some((entry.path(), meta.len()));
        }
    }
    largest.context("the folder of the store holds no file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_put_is_read_back_and_what_was_not_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let extent = EXTENT_BYTES as u64;
        let store = open(dir.path(), extent, extent).await.unwrap();
        put_all(&store, 0..40, 10_000, 4).await.unwrap();
        let ids = (0..50).map(id).collect();
        let found = read_back(&store, ids, 10_000).await.unwrap();
        assert_eq!(found, ReadBack { right: 40, missing: 10, wrong: 0 });
        assert!(slab_of(dir.path()).unwrap().1 >= extent, "the slab is the largest file");
        store.close().await;
    }

    #[tokio::test]
    async fn a_block_is_known_by_its_ends_and_no_other_passes_for_it() {
        let store = in_memory(1).unwrap();
        let (block, slot) = prepare(&store, 7, 5_000).await.unwrap();
        let other = Block::make(8, &mut vec![0; 5_000]);
        store.put(block.id, slot, block.meta(), AckLevel::Host, deadline()).await.unwrap();
        let lease = store.get_host(&block.id).unwrap();
        assert!(block.looks_right(5_000, &lease));
        assert!(!block.looks_right(5_001, &lease) && !other.looks_right(5_000, &lease));
        let found = read_back(&store, vec![block.id], 4_999).await.unwrap();
        assert_eq!(found, ReadBack { right: 0, missing: 0, wrong: 1 });
    }

    #[tokio::test]
    async fn a_deck_deals_what_the_arena_does_not_hold() {
        let dir = tempfile::tempdir().unwrap();
        let extent = EXTENT_BYTES as u64;
        let mut blocks: Vec<Block> = (0..4).map(|n| Block::make(n, &mut [0; 4_096])).collect();
        let store = open(dir.path(), extent, extent).await.unwrap();
        put_all(&store, 0..4, 4_096, 1).await.unwrap();
        store.close().await;
        let store = open(dir.path(), extent, extent).await.unwrap();
        let held = blocks.pop().unwrap();
        blocks.push(held);
        assert_eq!(read_back(&store, vec![held.id], 4_096).await.unwrap().right, 1);
        let deck = Deck::shuffled(blocks);
        for _ in 0..12 {
            assert_ne!(deck.deal_from_nvme(&store).id, held.id);
        }
        store.close().await;
    }
}
