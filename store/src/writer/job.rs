//! One block on its way to NVMe.

use std::sync::Arc;

use hearth_proto::BlockId;
use tokio::sync::OwnedSemaphorePermit;

use super::batch::block_entry;
use crate::arena::HostBlock;
use crate::core::Core;
use crate::error::PutError;
use crate::index::NvmeReplica;
use crate::nvme::Nvme;
use crate::slab::BlockEntry;
use crate::space::Resident;
use crate::sync::lock;

/// A block that is in the arena and is to become durable. Ends in exactly one of
/// [`WriteJob::end`] and [`WriteJob::give_up`].
pub(crate) struct WriteJob {
    id: BlockId,
    block: Arc<HostBlock>,
    /// What is written for it, once that was decided.
    form: Option<Arc<HostBlock>>,
    attempts: u32,
    /// Its number among all that are under way.
    pub(super) number: u64,
    _permit: OwnedSemaphorePermit,
}

impl WriteJob {
    pub(crate) fn new(nvme: &Nvme, id: BlockId, block: Arc<HostBlock>, permit: OwnedSemaphorePermit) -> Self {
        let resident = Resident { id, generation: block.generation() };
        let number = lock(&nvme.under_way).begin(resident);
        Self { id, block, form: None, attempts: 0, number, _permit: permit }
    }

    pub(crate) fn block(&self) -> &Arc<HostBlock> {
        &self.block
    }

    /// What is written for the block: `encode` decides it the first time.
    pub(super) fn form(&mut self, encode: impl FnOnce(&Arc<HostBlock>) -> Arc<HostBlock>) -> Arc<HostBlock> {
        Arc::clone(self.form.get_or_insert_with(|| encode(&self.block)))
    }

    pub(crate) fn resident(&self) -> Resident {
        Resident { id: self.id, generation: self.block.generation() }
    }

    /// True while the index waits for this write.
    pub(super) fn is_wanted(&self, core: &Core) -> bool {
        let mut shard = core.index.shard(&self.id);
        shard.same(&self.resident()).is_some_and(|node| node.nvme() == NvmeReplica::Pending)
    }

    /// The index entry of the block at `sector`; `None` if the block is no longer wanted.
    pub(super) fn entry(&self, core: &Core, sector: u32) -> Option<BlockEntry> {
        let mut shard = core.index.shard(&self.id);
        let node = shard.same(&self.resident()).filter(|node| node.nvme() == NvmeReplica::Pending)?;
        Some(block_entry(core, node, sector))
    }

    /// Counts one more try that failed and says how many there were.
    pub(super) fn count_attempt(&mut self) -> u32 {
        self.attempts += 1;
        self.attempts
    }

    /// The block is durable, or nobody wants it any more.
    pub(super) fn end(self, nvme: &Nvme) {
        lock(&nvme.under_way).end(self.number);
    }

    /// The block stays in the arena alone.
    pub(crate) fn give_up(self, core: &Core, nvme: &Nvme, why: PutError) {
        lock(&nvme.under_way).end(self.number);
        core.give_up_writing(&self.resident(), &self.block, Err(why));
    }
}
