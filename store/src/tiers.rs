//! The blocks of each tier as candidates for eviction.

use std::cell::RefCell;
use std::sync::Arc;

use crate::arena::HostBlock;
use crate::core::Core;
use crate::index::{Handle, Kept, Node, NvmeReplica};
use crate::mutant::{Mutant, is};
use crate::nvme::Nvme;
use crate::policy::{Bags, Candidates, Look, Reuse, Tick};
use crate::slab::ReadySlot;
use crate::space::{Resident, Residents, Worth};
use crate::sync::lock;

/// The blocks of the arena. Those that go keep their replica on NVMe.
pub(crate) struct HostTier<'a> {
    pub(crate) core: &'a Core,
    pub(crate) now_us: u64,
}

/// The blocks on NVMe. Those that go keep their replica in the arena.
pub(crate) struct NvmeTier<'a> {
    pub(crate) core: &'a Core,
    pub(crate) nvme: &'a Nvme,
    pub(crate) now_us: u64,
    /// Slots that were ready and are free now. The index has to hear of it before anything else lies there.
    pub(crate) unready: RefCell<Vec<ReadySlot>>,
}

impl Candidates<Handle> for HostTier<'_> {
    fn look(&self, block: Handle) -> Look {
        let shard = self.core.index.shard_of(block);
        let node = shard.node(block);
        // New leases come from this entry, under this lock, or from a lease that is already counted.
        let is_free = shard.host(block).is_some_and(|host| may_leave_arena(node, host));
        look(node, is_free)
    }

    fn uses(&self, reuse: Reuse) -> f32 {
        self.core.ranker.worth(reuse, self.now())
    }

    fn now(&self) -> Tick {
        Tick::from_us(self.now_us)
    }

    /// What leaves the arena stays on this node, or was not worth writing.
    fn is_copied(&self, _block: Handle) -> bool {
        false
    }

    fn place(&self, block: Handle, place: u32) {
        let shard = self.core.index.shard_of(block);
        shard.host(block).expect("a candidate of the arena lies there").set_place(Some(place));
    }

    fn expire(&self, block: Handle) -> u32 {
        let mut shard = self.core.index.shard_of(block);
        shard.node_mut(block).expire(Kept::Host);
        let host = shard.host(block).expect("a candidate of the arena lies there");
        host.place().expect("a candidate has a place")
    }
}

impl Residents for HostTier<'_> {
    fn worth(&self, block: Handle) -> Option<Worth> {
        let shard = self.core.index.shard_of(block);
        let node = shard.try_node(block)?;
        let host = shard.host(block).filter(|host| host.place().is_some())?;
        may_leave_arena(node, host).then(|| worth(node, Kept::Host, self))
    }

    fn evict(&self, bags: &mut Bags<Handle>, block: Handle) -> bool {
        let core = self.core;
        let shard = core.index.shard_of(block);
        let node = shard.node(block);
        let host = shard.host(block).expect("a candidate of the arena lies there");
        if !may_leave_arena(node, host) {
            return false;
        }
        let host = core.unname_host(bags, shard, block);
        if host.is_leased() {
            // Only as a mutant: the slot goes now, and must not go again with the lease.
            lock(core.arena.slots()).release(host.slot().sector());
            std::mem::forget(Arc::clone(&host));
        }
        core.counters.evicted_host.add(1);
        true
    }
}

fn may_leave_arena(node: &Node, host: &HostBlock) -> bool {
    let is_last = node.is_pinned() && node.nvme() == NvmeReplica::Absent;
    !is_last && !is_leased(host) && node.nvme() != NvmeReplica::Pending
}

fn is_leased(host: &HostBlock) -> bool {
    host.is_leased() && !is(Mutant::SlotReusedUnderLease)
}

impl<'a> NvmeTier<'a> {
    pub(crate) fn new(core: &'a Core, nvme: &'a Nvme, now_us: u64) -> Self {
        Self { core, nvme, now_us, unready: RefCell::default() }
    }
}

impl Candidates<Handle> for NvmeTier<'_> {
    fn look(&self, block: Handle) -> Look {
        let shard = self.core.index.shard_of(block);
        let node = shard.node(block);
        look(node, !node.is_pinned())
    }

    fn uses(&self, reuse: Reuse) -> f32 {
        self.core.ranker.worth(reuse, self.now())
    }

    fn now(&self) -> Tick {
        Tick::from_us(self.now_us)
    }

    fn is_copied(&self, block: Handle) -> bool {
        let Some(copies) = self.core.copies.get() else { return false };
        let id = self.core.index.shard_of(block).node(block).id();
        copies.is_elsewhere(&id)
    }

    fn place(&self, block: Handle, place: u32) {
        self.core.index.shard_of(block).node_mut(block).place = place;
    }

    fn expire(&self, block: Handle) -> u32 {
        let mut shard = self.core.index.shard_of(block);
        let node = shard.node_mut(block);
        node.expire(Kept::Nvme);
        node.place
    }
}

impl Residents for NvmeTier<'_> {
    fn worth(&self, block: Handle) -> Option<Worth> {
        let shard = self.core.index.shard_of(block);
        let node = shard.try_node(block)?;
        let is_stored = matches!(node.nvme(), NvmeReplica::Stored(_));
        (is_stored && !node.is_pinned()).then(|| worth(node, Kept::Nvme, self))
    }

    fn evict(&self, bags: &mut Bags<Handle>, block: Handle) -> bool {
        let (core, nvme) = (self.core, self.nvme);
        let shard = core.index.shard_of(block);
        let node = shard.node(block);
        if node.is_pinned() {
            return false;
        }
        let resident = Resident { id: node.id(), generation: node.generation() };
        let sector = core.unname_nvme(nvme, bags, shard, block);
        core.counters.evicted_nvme.add(1);
        core.release_nvme(nvme, &resident, sector);
        true
    }

    fn free_waiting(&self, extent: u32) {
        let of_extent = |slot: &ReadySlot| lock(&self.nvme.slots).extent_of(slot.sector) == extent;
        let waiting = lock(&self.nvme.ready).take_slots(of_extent);
        let mut slots = lock(&self.nvme.slots);
        waiting.iter().for_each(|slot| slots.release(slot.sector));
        drop(slots);
        self.unready.borrow_mut().extend(waiting);
    }
}

pub(crate) fn look(node: &Node, is_free: bool) -> Look {
    Look { reuse: node.reuse, depth: node.depth(), generation: node.generation(), is_free }
}

pub(crate) fn worth(node: &Node, tier: Kept, candidates: &impl Candidates<Handle>) -> Worth {
    Worth { level: node.standing(tier).level, uses: candidates.uses(node.reuse).to_bits() }
}
