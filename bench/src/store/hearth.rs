//! The store, in this process, as the replay's store and as an engine of a trial.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use hearth_proto::{AckLevel, BlockId, BlockKey, NamespaceId};
use hearth_replay::{
    BlockStore, Held, PutBlock, PutOutcome, ReadBlock, StoreError, StoreErrorKind, WrittenBlock, content,
};
use hearth_store::{GetError, GetOutcome, Lease, MissReason, PutError, PutMeta, ReserveError, Store};

use super::blocks;
use super::index::PAYLOAD_BYTES;
use super::trial::Cache;

/// Blocks of one call that are in work at a time, here as for the peer.
pub(crate) const IN_WORK: usize = 16;
/// Durable puts in flight: a group of them shares one sync.
const FILL_IN_FLIGHT: usize = 1_024;

/// A store without a network before it.
pub(crate) struct HearthCache {
    store: Store,
}

fn id(key: &BlockKey) -> BlockId {
    BlockId { namespace: NamespaceId(1), key: *key }
}

impl HearthCache {
    async fn get_one(&self, key: &BlockKey, deadline: Instant) -> (Option<Lease>, Option<StoreErrorKind>) {
        match self.store.get(&id(key), deadline).await {
            Ok(GetOutcome::Hit(lease)) => (Some(lease), None),
            Ok(GetOutcome::Miss(MissReason::Corrupt)) => (None, Some(StoreErrorKind::Corrupt)),
            Ok(GetOutcome::Miss(_)) => (None, None),
            Err(GetError::Deadline) => (None, Some(StoreErrorKind::Deadline)),
            Err(_) => (None, Some(StoreErrorKind::Other)),
        }
    }

    async fn put_one(&self, block: &PutBlock, deadline: Instant) -> PutOutcome {
        let mut slot = match self.store.reserve(block.bytes.len(), deadline).await {
            Ok(slot) => slot,
            Err(ReserveError::Deadline) => return PutOutcome::Refused,
            Err(_) => return PutOutcome::Failed(StoreErrorKind::Other),
        };
        slot.copy_from_slice(&block.bytes);
        let depth = u32::try_from(block.depth).unwrap_or(u32::MAX);
        let meta = PutMeta { crc32: crc32fast::hash(&slot), retention: block.retention, depth };
        match self.store.put(id(&block.key), slot, meta, AckLevel::Host, deadline).await {
            Ok(outcome) if outcome.existed => PutOutcome::Exists,
            Ok(_) => PutOutcome::Stored,
            Err(PutError::Overloaded) => PutOutcome::Refused,
            Err(_) => PutOutcome::Failed(StoreErrorKind::Other),
        }
    }
}

impl BlockStore for HearthCache {
    type Found = ();

    async fn lookup(&self, chain: &[BlockKey], _: Duration) -> Result<Held<()>, StoreError> {
        let blocks = chain.iter().take_while(|key| self.store.contains(&id(key)).any()).count();
        Ok(Held { blocks, found: () })
    }

    async fn get(
        &self,
        (): &(),
        _: Range<usize>,
        keys: &[BlockKey],
        deadline: Duration,
        sink: &mut (dyn FnMut(ReadBlock<'_>) + Send),
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let deadline = began + deadline;
        let gets = stream::iter(0..keys.len())
            .map(|index| async move { (index, self.get_one(&keys[index], deadline).await) });
        let mut done = gets.buffer_unordered(IN_WORK);
        while let Some((index, (lease, failure))) = done.next().await {
            let (bytes, tier) = (lease.as_deref(), lease.as_ref().map(Lease::tier));
            sink(ReadBlock { index, bytes, failure, tier, latency: began.elapsed() });
        }
        Ok(())
    }

    async fn put(
        &self,
        blocks: &[PutBlock],
        deadline: Duration,
        sink: &mut (dyn FnMut(WrittenBlock) + Send),
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let deadline = began + deadline;
        let puts = stream::iter(0..blocks.len())
            .map(|index| async move { (index, self.put_one(&blocks[index], deadline).await) });
        let mut done = puts.buffer_unordered(IN_WORK);
        while let Some((index, outcome)) = done.next().await {
            sink(WrittenBlock { index, outcome, latency: began.elapsed() });
        }
        Ok(())
    }
}

impl Cache for HearthCache {
    async fn open(dir: &Path, dram_bytes: u64, disk_bytes: u64) -> anyhow::Result<Self> {
        Ok(Self { store: blocks::open(dir, dram_bytes, disk_bytes).await? })
    }

    async fn fill(&self, count: u64) -> anyhow::Result<()> {
        blocks::put_all(&self.store, 0..count, PAYLOAD_BYTES, FILL_IN_FLIGHT).await
    }

    fn holds(&self, number: u64) -> bool {
        self.store.contains(&blocks::id(number)).any()
    }

    async fn is_right(&self, number: u64) -> anyhow::Result<Option<bool>> {
        let id = blocks::id(number);
        let GetOutcome::Hit(lease) = self.store.get(&id, blocks::deadline()).await? else { return Ok(None) };
        Ok(Some(content::verify(&id.key, PAYLOAD_BYTES, &lease).is_ok()))
    }

    async fn drain(&self) {
        self.store.flush().await;
    }

    fn cached_bytes(&self) -> u64 {
        // The arena is shared memory, which is not counted.
        0
    }

    fn index_bytes(&self) -> Option<u64> {
        Some(self.store.stats().index_bytes)
    }

    async fn close(&self) -> anyhow::Result<()> {
        self.store.close().await;
        Ok(())
    }
}
