//! foyer's hybrid cache as the replay's store and as an engine of a trial, built the way its README shows:
//! the block engine on a folder, direct I/O, io_uring, recovery on.
//!
//! Values are inserted into memory and written to disk on insertion, which is what write-through is here;
//! writing on eviction, foyer's default, hits far less on these traces, and S3-FIFO in memory no more than
//! its default. foyer drops what its write queue has no room for; the queue takes whole prompts.

use std::hash::Hash;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use foyer::{
    BlockEngineConfig, Code, DeviceBuilder, Error, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    HybridCacheEntry, HybridCachePolicy, IoEngineConfig, RecoverMode, UringIoEngineConfig,
};
use futures::{StreamExt, stream};
use hearth_proto::BlockKey;
use hearth_replay::{
    BlockStore, Held, PutBlock, PutOutcome, ReadBlock, StoreError, StoreErrorKind, WrittenBlock, content,
};

use super::blocks::{self, Block};
use super::hearth::IN_WORK;
use super::index::PAYLOAD_BYTES;
use super::trial::Cache;

/// Memory in which blocks are gathered before they are written.
const WRITE_BUFFER_BYTES: usize = 64 << 20;
/// Bytes that may wait to be written; what comes when they do is dropped.
const WRITE_QUEUE_BYTES: usize = 512 << 20;
/// Small blocks that are inserted between two waits for the disk, so that none is dropped.
const FILL_CHUNK: u64 = 4_096;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key([u8; 32]);

impl Key {
    fn new(key: &BlockKey) -> Self {
        Self(key.0)
    }
}

impl Code for Key {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        writer.write_all(&self.0).map_err(Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let mut key = [0; 32];
        reader.read_exact(&mut key).map_err(Error::io_error)?;
        Ok(Self(key))
    }

    fn estimated_size(&self) -> usize {
        32
    }
}

/// A hybrid cache of foyer.
pub(crate) struct FoyerCache {
    cache: HybridCache<Key, Vec<u8>>,
}

impl FoyerCache {
    async fn get_one(
        &self,
        key: &BlockKey,
    ) -> (Option<HybridCacheEntry<Key, Vec<u8>>>, Option<StoreErrorKind>) {
        match self.cache.get(&Key::new(key)).await {
            Ok(entry) => (entry, None),
            Err(_) => (None, Some(StoreErrorKind::Other)),
        }
    }
}

impl BlockStore for FoyerCache {
    type Found = ();

    async fn lookup(&self, chain: &[BlockKey], _: Duration) -> Result<Held<()>, StoreError> {
        let blocks = chain.iter().take_while(|key| self.cache.contains(&Key::new(key))).count();
        Ok(Held { blocks, found: () })
    }

    async fn get(
        &self,
        (): &(),
        _: Range<usize>,
        keys: &[BlockKey],
        _: Duration,
        sink: &mut (dyn FnMut(ReadBlock<'_>) + Send),
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let gets =
            stream::iter(0..keys.len()).map(|index| async move { (index, self.get_one(&keys[index]).await) });
        let mut done = gets.buffer_unordered(IN_WORK);
        while let Some((index, (entry, failure))) = done.next().await {
            let bytes = entry.as_ref().map(|entry| entry.value().as_slice());
            sink(ReadBlock { index, bytes, failure, tier: None, latency: began.elapsed() });
        }
        Ok(())
    }

    async fn put(
        &self,
        blocks: &[PutBlock],
        _: Duration,
        sink: &mut (dyn FnMut(WrittenBlock) + Send),
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        for (index, block) in blocks.iter().enumerate() {
            self.cache.insert(Key::new(&block.key), block.bytes.to_vec());
            sink(WrittenBlock { index, outcome: PutOutcome::Stored, latency: began.elapsed() });
        }
        Ok(())
    }
}

impl Cache for FoyerCache {
    async fn open(dir: &Path, dram_bytes: u64, disk_bytes: u64) -> anyhow::Result<Self> {
        let device = FsDeviceBuilder::new(dir)
            .with_capacity(usize::try_from(disk_bytes)?)
            .with_direct(true)
            .build()?;
        let engine = BlockEngineConfig::new(device)
            .with_flushers(2)
            .with_reclaimers(2)
            .with_buffer_pool_size(WRITE_BUFFER_BYTES)
            .with_submit_queue_size_threshold(WRITE_QUEUE_BYTES);
        let ring: Box<dyn IoEngineConfig> = Box::new(UringIoEngineConfig::new());
        let cache = HybridCacheBuilder::new()
            .with_name("peer")
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .memory(usize::try_from(dram_bytes)?)
            .with_weighter(|_: &Key, value: &Vec<u8>| size_of::<Key>() + value.len())
            .storage()
            .with_io_engine_config(ring)
            .with_engine_config(engine)
            .with_recover_mode(RecoverMode::Quiet)
            .build()
            .await?;
        Ok(Self { cache })
    }

    async fn fill(&self, count: u64) -> anyhow::Result<()> {
        for number in 0..count {
            let mut bytes = vec![0; PAYLOAD_BYTES];
            let block = Block::make(number, &mut bytes);
            self.cache.insert(Key::new(&block.id.key), bytes);
            if number % FILL_CHUNK == 0 {
                self.drain().await;
            }
        }
        self.drain().await;
        Ok(())
    }

    fn holds(&self, number: u64) -> bool {
        self.cache.contains(&Key::new(&blocks::id(number).key))
    }

    async fn is_right(&self, number: u64) -> anyhow::Result<Option<bool>> {
        let key = blocks::id(number).key;
        let entry = self.cache.get(&Key::new(&key)).await?;
        Ok(entry.map(|entry| content::verify(&key, PAYLOAD_BYTES, entry.value()).is_ok()))
    }

    async fn drain(&self) {
        self.cache.storage().wait().await;
    }

    fn cached_bytes(&self) -> u64 {
        self.cache.memory().usage() as u64
    }

    fn index_bytes(&self) -> Option<u64> {
        None
    }

    async fn close(&self) -> anyhow::Result<()> {
        Ok(self.cache.close().await?)
    }
}
