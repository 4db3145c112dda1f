//! The blocks of each tier as candidates for eviction.

use std::sync::Arc;

use hearth_proto::Generation;

use crate::arena::HostBlock;
use crate::core::Core;
use crate::index::{Handle, Kept, Node, NvmeReplica};
use crate::mutant::{Mutant, is};
use crate::nvme::Nvme;
use crate::policy::{Bags, Candidates, Level, Tick};
use crate::space::{Link, Resident, Residents, Worth};
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
}

impl Candidates<Handle> for HostTier<'_> {
    fn score(&self, block: Handle) -> Option<(u64, Generation)> {
        let shard = self.core.index.shard_of(block);
        let node = shard.node(block);
        // New leases come from this entry, under this lock, or from a lease that is already counted.
        let last = node.is_pinned() && node.nvme() == NvmeReplica::Absent;
        let in_use = last || is_leased(shard.host(block)?) || node.nvme() == NvmeReplica::Pending;
        (!in_use).then(|| score(self.core, node, self.now_us))
    }

    /// What leaves the arena stays on this node, or was not worth writing.
    fn is_copied(&self, _block: Handle) -> bool {
        false
    }

    fn place(&self, block: Handle, place: u32) {
        let shard = self.core.index.shard_of(block);
        shard.host(block).expect("a candidate of the arena lies there").set_place(Some(place));
    }

    fn expire(&self, block: Handle) -> (u32, Level, u32) {
        let mut shard = self.core.index.shard_of(block);
        let level = shard.node(block).standing(Kept::Host).level;
        shard.node_mut(block).expire(Kept::Host);
        let host = shard.host(block).expect("a candidate of the arena lies there");
        (host.slot().class(), level, host.place().expect("a candidate has a place"))
    }
}

impl Residents for HostTier<'_> {
    fn worth(&self, block: Handle) -> Option<Worth> {
        Some(worth(self.core, &self.link(block)?, self.now_us))
    }

    fn link(&self, block: Handle) -> Option<Link> {
        let shard = self.core.index.shard_of(block);
        let node = shard.try_node(block)?;
        let host = shard.host(block).filter(|host| host.place().is_some() && !is_leased(host))?;
        let stays =
            node.nvme() == NvmeReplica::Pending || node.is_pinned() && node.nvme() == NvmeReplica::Absent;
        (!stays).then(|| link(node, host.slot().sector(), Kept::Host))
    }

    fn evict(&self, bags: &mut Bags<Handle>, block: Handle) -> bool {
        let core = self.core;
        let shard = core.index.shard_of(block);
        let node = shard.node(block);
        let host = shard.host(block).expect("a candidate of the arena lies there");
        let last = node.is_pinned() && node.nvme() == NvmeReplica::Absent;
        if last || is_leased(host) || node.nvme() == NvmeReplica::Pending {
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

fn is_leased(host: &HostBlock) -> bool {
    host.is_leased() && !is(Mutant::SlotReusedUnderLease)
}

impl Candidates<Handle> for NvmeTier<'_> {
    fn score(&self, block: Handle) -> Option<(u64, Generation)> {
        let shard = self.core.index.shard_of(block);
        let node = shard.node(block);
        (!node.is_pinned()).then(|| score(self.core, node, self.now_us))
    }

    fn is_copied(&self, block: Handle) -> bool {
        let Some(copies) = self.core.copies.get() else { return false };
        let id = self.core.index.shard_of(block).node(block).id();
        copies.is_elsewhere(&id)
    }

    fn place(&self, block: Handle, place: u32) {
        self.core.index.shard_of(block).node_mut(block).place = place;
    }

    fn expire(&self, block: Handle) -> (u32, Level, u32) {
        let mut shard = self.core.index.shard_of(block);
        let node = shard.node_mut(block);
        let level = node.standing(Kept::Nvme).level;
        node.expire(Kept::Nvme);
        let NvmeReplica::Stored(sector) = node.nvme() else {
            unreachable!("a candidate of NVMe is stored there");
        };
        (lock(&self.nvme.slots).class_at(sector), level, node.place)
    }
}

impl Residents for NvmeTier<'_> {
    fn worth(&self, block: Handle) -> Option<Worth> {
        Some(worth(self.core, &self.link(block)?, self.now_us))
    }

    fn link(&self, block: Handle) -> Option<Link> {
        let shard = self.core.index.shard_of(block);
        let node = shard.try_node(block)?;
        let NvmeReplica::Stored(sector) = node.nvme() else { return None };
        (!node.is_pinned()).then(|| link(node, sector, Kept::Nvme))
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
}

pub(crate) fn link(node: &Node, sector: u32, tier: Kept) -> Link {
    Link {
        sector,
        depth: node.depth(),
        level: node.standing(tier).level,
        namespace: node.id().namespace,
        generation: node.generation(),
        reuse: node.reuse,
    }
}

fn score(core: &Core, node: &Node, now_us: u64) -> (u64, Generation) {
    let rank = core.ranker.rank(node.reuse, node.depth().into(), Tick::from_us(now_us));
    (rank, node.generation())
}

fn worth(core: &Core, link: &Link, now_us: u64) -> Worth {
    let uses = core.ranker.worth(link.reuse, Tick::from_us(now_us));
    Worth { level: link.level, uses: uses.to_bits() }
}
