//! An extent of the arena for a record size that has none, where others are in use all the time.
//!
//! Evicting makes room for another size only where a whole extent is idle at one moment, which may never
//! come. So once somebody waits for a slot of a size without an extent, one is reserved: it gives out no more
//! slots, its blocks leave the arena, whoever reads them keeps his lease, and when the last lease, put and
//! write there has ended it serves the one who waits. One extent is emptied at a time.

use hearth_proto::limits::DRAIN_EXTENTS_TRIED_MAX;

use crate::arena::SlotMut;
use crate::core::Core;
use crate::index::{Handle, Node, NvmeReplica};
use crate::policy::Bags;
use crate::sync::lock;

impl Core {
    /// Goes on emptying an extent for slots of `class` sectors, if the class has none. Gives a slot once that
    /// is done. Called for somebody who stands in the line of the class: the reservation ends with the line.
    pub(crate) fn drain_for(&self, payload_len: usize, class: u32) -> Option<SlotMut> {
        let mut room = lock(&self.host_room);
        let extent = self.reserve_extent(class)?;
        for block in self.blocks_of(extent) {
            self.leave_arena(&mut room.bags, block);
        }
        drop(room);
        self.arena.allocate(payload_len, class)
    }

    /// The extent that is reserved for a class, or one that can be: with few blocks, and none that has to
    /// stay. Called while the bags of the arena are locked, so that the blocks of an extent stay.
    fn reserve_extent(&self, class: u32) -> Option<u32> {
        let reservable = {
            let slots = lock(self.arena.slots());
            if let Some(extent) = slots.reserved_for(class) {
                return Some(extent);
            }
            slots.reservable(class)
        };
        let may_go = |block: &Handle| !is_last(self.index.shard_of(*block).node(*block));
        let mut tried = reservable.into_iter().take(DRAIN_EXTENTS_TRIED_MAX);
        let extent = tried.find(|extent| self.blocks_of(*extent).iter().all(may_go))?;
        lock(self.arena.slots()).reserve(extent, class).then_some(extent)
    }

    fn blocks_of(&self, extent: u32) -> Vec<Handle> {
        lock(self.arena.slots()).owners(extent).map(Handle::from_bits).collect()
    }

    /// Takes a block out of the arena, unless it waits to be written or has to stay. Its slot is free when
    /// nobody reads it any more.
    fn leave_arena(&self, bags: &mut Bags<Handle>, block: Handle) {
        let shard = self.index.shard_of(block);
        let node = shard.node(block);
        if node.nvme() == NvmeReplica::Pending || is_last(node) {
            return;
        }
        drop(self.unname_host(bags, shard, block));
        self.counters.evicted_host.add(1);
    }
}

/// True for a pinned block that is nowhere else on this node.
fn is_last(node: &Node) -> bool {
    node.is_pinned() && node.nvme() == NvmeReplica::Absent
}
