//! The local index: what this store holds, in memory, in shards with a lock each.

use std::sync::{Arc, Mutex, MutexGuard};

use hearth_proto::{BlockId, Generation};
use rustc_hash::FxHashMap;
use tokio::sync::{oneshot, watch};

use crate::arena::HostBlock;
use crate::error::PutError;
use crate::policy::Keep;
use crate::space::Resident;
use crate::sync::lock;

const SHARDS: usize = 64;

/// The answer to one who waits for a block to be durable.
pub(crate) type Durability = Result<(), PutError>;

pub(crate) struct Index {
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Default)]
pub(crate) struct Shard {
    pub(crate) entries: FxHashMap<BlockId, Entry>,
    /// Blocks that someone reads from NVMe; the channel closes when that ends, well or not.
    pub(crate) reading: FxHashMap<BlockId, watch::Receiver<()>>,
    /// Those who wait for a block to be durable.
    pub(crate) waiters: FxHashMap<BlockId, Vec<oneshot::Sender<Durability>>>,
    pub(crate) gets_host: u64,
}

/// One block. It has a replica in at least one tier, and all its replicas come from the same put.
pub(crate) struct Entry {
    pub(crate) host: Option<Arc<HostBlock>>,
    pub(crate) nvme: NvmeReplica,
    pub(crate) generation: Generation,
    pub(crate) payload_len: u32,
    pub(crate) crc32: u32,
    pub(crate) keep: Keep,
    pub(crate) used_at_us: u64,
    /// False while all that is known of the NVMe replica is what the index remembered of a former life.
    pub(crate) verified: bool,
}

/// The state of a block's replica on NVMe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NvmeReplica {
    /// There is none: no NVMe tier, evicted there, or refused by the device.
    Absent,
    /// It is being written; the block is no victim in the arena until that has ended.
    Pending,
    /// It is durable and begins at this sector.
    Stored(u32),
}

impl Index {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect() }
    }

    pub(crate) fn shard(&self, id: &BlockId) -> MutexGuard<'_, Shard> {
        // Keys are digests, so any of their bits are spread evenly.
        lock(&self.shards[usize::from(id.key.0[31]) % SHARDS])
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(lock)
    }
}

impl Shard {
    /// The entry of a block, if it still is the one that `resident` names.
    pub(crate) fn same(&mut self, resident: &Resident) -> Option<&mut Entry> {
        self.entries.get_mut(&resident.id).filter(|entry| entry.generation == resident.generation)
    }

    pub(crate) fn answer_waiters(&mut self, id: &BlockId, answer: &Durability) {
        for waiter in self.waiters.remove(id).into_iter().flatten() {
            // One who no longer waits does not need the answer.
            let _ = waiter.send(answer.clone());
        }
    }
}

impl Entry {
    /// True if the block has no replica left.
    pub(crate) fn is_empty(&self) -> bool {
        self.host.is_none() && self.nvme == NvmeReplica::Absent
    }
}
