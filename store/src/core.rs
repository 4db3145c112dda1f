//! The state that callers, the disk thread and the durability thread share, and the moves of a block
//! between tiers.
//!
//! Lock order: the bags of the arena, the bags of NVMe, one shard of the index, then leaves (extents of a
//! tier, delta queue). A replica is announced under the lock of its shard, so per block the deltas tell the
//! true order. An entry of the index goes only while the bags are locked in which its block stands, so a
//! handle in a bag always names the block that was put there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use hearth_proto::{BlockDelta, BlockId, Generation, Tier};

use crate::arena::{Arena, HostBlock, Loans, SlotMut};
use crate::clock::Clock;
use crate::delta::DeltaQueue;
use crate::error::{PutError, ReserveError};
use crate::extents::class_of;
use crate::index::{Durability, Handle, Index, Kept, Node, NvmeReplica, Shard};
use crate::nvme::Nvme;
use crate::pins::Pins;
use crate::policy::{Bags, Candidates, Keep, Ranker, Standing, Tick};
use crate::space::{Resident, Room};
use crate::stats::Counters;
use crate::store::Copies;
use crate::sync::lock;
use crate::tiers::{HostTier, NvmeTier};
use crate::writer::Message;

/// How often a reservation evicts and loses the room to somebody else before it waits in line.
const ROOM_ATTEMPTS_MAX: usize = 16;

/// What an operator does about extents that are out of service.
pub(crate) const LIFT_FENCES: &str =
    "when the cause is gone, start once with --nvme-lift-fences, or open with lift_fences";

pub(crate) struct Core {
    pub(crate) arena: Arc<Arena>,
    /// Blocks that may be evicted from the arena: those that are not waiting to be written.
    pub(crate) host_room: Mutex<Room>,
    pub(crate) index: Index,
    pub(crate) ranker: Ranker,
    pub(crate) pins: Mutex<Pins>,
    pub(crate) loans: Loans,
    /// Says what the rest of the cluster has, once somebody does.
    pub(crate) copies: OnceLock<Arc<dyn Copies>>,
    pub(crate) deltas: DeltaQueue,
    pub(crate) counters: Counters,
    pub(crate) clock: Clock,
    pub(crate) nvme: Option<Nvme>,
    pub(crate) payload_bytes_max: usize,
    /// Numbers of puts of a store without an NVMe tier: its life ends with the process.
    pub(crate) volatile_generation: AtomicU64,
    pub(crate) closed: AtomicBool,
}

/// A replica on NVMe that was taken out of its entry and still stands in its bag.
struct Withdrawn {
    sector: u32,
    standing: Standing,
    place: u32,
}

impl Core {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Tells the world that a replica came or is about to go. Called under the lock of the shard.
    pub(crate) fn announce(&self, id: &BlockId, tier: Tier, added: bool, payload_len: u32) {
        let blocks = match tier {
            Tier::Host => &self.counters.host_blocks,
            _ => &self.counters.nvme_blocks,
        };
        if added {
            blocks.add(1);
        } else {
            blocks.subtract(1);
        }
        if tier == Tier::Nvme {
            let bytes = &self.counters.nvme_payload_bytes;
            if added { bytes.add(u64::from(payload_len)) } else { bytes.subtract(u64::from(payload_len)) }
        }
        self.deltas.push(BlockDelta { id: *id, tier, added, payload_len });
    }

    /// Notes that a block was used. Called under the lock of its shard.
    pub(crate) fn used(&self, node: &mut Node, now_us: u64) {
        node.reuse = self.ranker.used(node.key_bits(), node.spot(), node.reuse, Tick::from_us(now_us));
    }

    pub(crate) async fn reserve(
        &self,
        payload_len: usize,
        deadline: Instant,
    ) -> Result<SlotMut, ReserveError> {
        if payload_len == 0 {
            return Err(ReserveError::Empty);
        }
        if payload_len > self.payload_bytes_max {
            return Err(self.too_large(payload_len));
        }
        if self.is_closed() {
            return Err(ReserveError::Closed);
        }
        let class = class_of(payload_len);
        // Whoever comes while others wait for a slot of the same size does not overtake them.
        if !self.arena.anyone_waits(class)
            && let Some(slot) = self.try_reserve(payload_len)
        {
            return Ok(slot);
        }
        let attempt = || match self.is_closed() {
            true => Some(Err(ReserveError::Closed)),
            false => self.try_reserve(payload_len).or_else(|| self.drain_for(payload_len, class)).map(Ok),
        };
        let next_end = || {
            let ends = [self.loans.first_end_us(), lock(&self.pins).first_end_us()];
            ends.into_iter().flatten().min().map(|end_us| self.clock.instant_of(end_us))
        };
        let waiting = self.arena.wait_for_room(class, &self.clock, next_end, attempt);
        self.clock.timeout_at(deadline, waiting).await.unwrap_or(Err(ReserveError::Deadline))
    }

    fn too_large(&self, payload_len: usize) -> ReserveError {
        let limit = self.payload_bytes_max;
        let limit_name = match limit == hearth_proto::limits::BLOCK_BYTES_MAX {
            true => "BLOCK_BYTES_MAX",
            false => "the extent size less the footer",
        };
        ReserveError::TooLarge { payload_len, limit, limit_name }
    }

    /// Gives a slot if there is one, or if there is one after evictions. Never waits.
    pub(crate) fn try_reserve(&self, payload_len: usize) -> Option<SlotMut> {
        self.try_reserve_class(payload_len, class_of(payload_len))
    }

    /// The same, of a slot of so many sectors.
    pub(crate) fn try_reserve_class(&self, payload_len: usize, class: u32) -> Option<SlotMut> {
        for _ in 0..ROOM_ATTEMPTS_MAX {
            if let Some(slot) = self.arena.allocate(payload_len, class) {
                return Some(slot);
            }
            let now_us = self.clock.now_us();
            if self.loans.end_overdue(now_us) {
                continue;
            }
            self.end_overdue_pins(now_us);
            let residents = HostTier { core: self, now_us };
            if !lock(&self.host_room).make(self.arena.slots(), class, now_us, &residents) {
                return None;
            }
        }
        None
    }

    /// Makes a block of the arena a candidate for eviction, if it still is what the index names.
    pub(crate) fn enter_host_bag(&self, id: &BlockId, block: &Arc<HostBlock>) {
        let mut room = lock(&self.host_room);
        let bags = &mut room.bags;
        let mut shard = self.index.shard(id);
        let Some(handle) = shard.find(id) else { return };
        let is_named = shard.host(handle).is_some_and(|host| Arc::ptr_eq(host, block));
        if !is_named {
            return;
        }
        if block.place().is_some() {
            drop(shard);
            drop(room);
            // It may have been written meanwhile, and can go now.
            return self.arena.made_room();
        }
        let node = shard.node_mut(handle);
        let standing = node.stand(Kept::Host, self.clock.now_us());
        let slot = block.slot();
        block.set_place(Some(bags.insert(slot.class(), handle, standing, node.reuse)));
        lock(self.arena.slots()).set_owner(slot.sector(), Some(handle.to_bits()));
        drop(shard);
        drop(room);
        self.arena.made_room();
    }

    /// Takes a block that stands in the bags of the arena out of the arena, the index and the bags, and the
    /// entry with it if nothing else is left. Its slot is free when nobody holds it any more.
    pub(crate) fn unname_host(
        &self,
        bags: &mut Bags<Handle>,
        mut shard: MutexGuard<'_, Shard>,
        handle: Handle,
    ) -> Arc<HostBlock> {
        let node = shard.node(handle);
        let (id, standing, payload_len) = (node.id(), node.standing(Kept::Host), node.payload_len());
        let host = shard.take_host(handle).expect("a candidate of the arena lies there");
        self.announce(&id, Tier::Host, false, payload_len);
        self.drop_if_empty(&mut shard, handle);
        drop(shard);
        self.leave_host_bag(bags, handle, standing, &host);
        host
    }

    /// Takes a block of the arena, which the index no longer names, out of the bags.
    pub(crate) fn leave_host_bag(
        &self,
        bags: &mut Bags<Handle>,
        handle: Handle,
        standing: Standing,
        block: &HostBlock,
    ) {
        let Some(place) = block.place() else { return };
        block.set_place(None);
        let slot = block.slot();
        if let Some(moved) = bags.remove(handle, standing, place) {
            HostTier { core: self, now_us: 0 }.place(moved, place);
        }
        lock(self.arena.slots()).set_owner(slot.sector(), None);
    }

    /// Makes a durable record the NVMe replica of its block. Returns false if that block is no longer
    /// wanted or its extent was fenced; the slot is then still the caller's.
    pub(crate) fn publish_nvme(&self, nvme: &Nvme, resident: &Resident, sector: u32) -> bool {
        let mut room = lock(&nvme.room);
        let bags = &mut room.bags;
        let mut shard = self.index.shard(&resident.id);
        let class = {
            let slots = lock(&nvme.slots);
            if slots.is_fenced(slots.extent_of(sector)) {
                return false;
            }
            slots.class_at(sector)
        };
        let Some(node) = shard.same(resident).filter(|node| node.nvme() == NvmeReplica::Pending) else {
            return false;
        };
        node.set_nvme(NvmeReplica::Stored(sector));
        let payload_len = node.payload_len();
        self.announce(&resident.id, Tier::Nvme, true, payload_len);
        shard.answer_waiters(&resident.id, &Ok(()));
        let handle = shard.find(&resident.id).expect("it was there a moment ago");
        self.enter_nvme_bag(nvme, bags, &mut shard, handle, class);
        true
    }

    /// Makes a replica on NVMe a candidate for eviction.
    pub(crate) fn enter_nvme_bag(
        &self,
        nvme: &Nvme,
        bags: &mut Bags<Handle>,
        shard: &mut Shard,
        handle: Handle,
        class: u32,
    ) {
        let node = shard.node_mut(handle);
        let NvmeReplica::Stored(sector) = node.nvme() else { return };
        let standing = node.stand(Kept::Nvme, self.clock.now_us());
        node.place = bags.insert(class, handle, standing, node.reuse);
        lock(&nvme.slots).set_owner(sector, Some(handle.to_bits()));
    }

    /// Changes how long a block is kept, in every tier.
    pub(crate) fn change_keep(&self, resident: &Resident, keep: &Keep) {
        let changed = self.restand(&resident.id, |node| {
            let same = node.generation() == resident.generation;
            if same {
                node.set_keep(keep);
            }
            same
        });
        if let (Some(NvmeReplica::Stored(_)), Some(nvme)) = (changed, &self.nvme) {
            // So that it is kept likewise after the next start.
            let _ = nvme.mailbox.send(Message::Kept(*resident));
        }
    }

    /// Changes something in a block by which it stands in the bags. Returns its replica on NVMe, if it is
    /// there and `change` changed it.
    pub(crate) fn restand(
        &self,
        id: &BlockId,
        change: impl FnOnce(&mut Node) -> bool,
    ) -> Option<NvmeReplica> {
        let mut host_room = lock(&self.host_room);
        let host_bags = &mut host_room.bags;
        let mut nvme_room = self.nvme.as_ref().map(|nvme| lock(&nvme.room));
        let mut nvme_bags = nvme_room.as_mut().map(|room| &mut room.bags);
        let mut shard = self.index.shard(id);
        let handle = shard.find(id)?;
        let now_us = self.clock.now_us();
        let host = shard.host(handle).filter(|host| host.place().is_some()).map(Arc::clone);
        let node = shard.node_mut(handle);
        let before = [Kept::Host, Kept::Nvme].map(|tier| node.standing(tier));
        if !change(node) {
            return None;
        }
        let after = [Kept::Host, Kept::Nvme].map(|tier| node.stand(tier, now_us));
        let (replica, nvme_place, reuse) = (node.nvme(), node.place, node.reuse);
        drop(shard);
        if let Some(block) = host {
            let class = block.slot().class();
            let place = block.place().expect("only the holder of the bags takes blocks out of them");
            if let Some(moved) = host_bags.remove(handle, before[0], place) {
                HostTier { core: self, now_us }.place(moved, place);
            }
            block.set_place(Some(host_bags.insert(class, handle, after[0], reuse)));
        }
        if let (NvmeReplica::Stored(sector), Some(nvme), Some(bags)) = (replica, &self.nvme, &mut nvme_bags) {
            let class = lock(&nvme.slots).class_at(sector);
            let tier = NvmeTier::new(self, nvme, now_us);
            if let Some(moved) = bags.remove(handle, before[1], nvme_place) {
                tier.place(moved, nvme_place);
            }
            tier.place(handle, bags.insert(class, handle, after[1], reuse));
        }
        drop(host_room);
        // What stands lower than before may make room.
        self.arena.made_room();
        Some(replica)
    }

    /// Gives up writing a block: it stays in the arena, where it may now be evicted.
    pub(crate) fn give_up_writing(&self, resident: &Resident, block: &Arc<HostBlock>, answer: Durability) {
        let mut shard = self.index.shard(&resident.id);
        let Some(node) = shard.same(resident).filter(|node| node.nvme() == NvmeReplica::Pending) else {
            return;
        };
        node.set_nvme(NvmeReplica::Absent);
        self.counters.writes_given_up.add(1);
        shard.answer_waiters(&resident.id, &answer);
        drop(shard);
        self.enter_host_bag(&resident.id, block);
    }

    /// Retracts the NVMe replica at `sector` if the index still names it there, and frees its slot.
    /// Returns true if it did.
    pub(crate) fn retract_nvme(&self, nvme: &Nvme, resident: &Resident, sector: u32) -> bool {
        let mut room = lock(&nvme.room);
        let bags = &mut room.bags;
        let mut shard = self.index.shard(&resident.id);
        let stored = shard.same(resident).is_some_and(|node| node.nvme() == NvmeReplica::Stored(sector));
        if !stored {
            return false;
        }
        let handle = shard.find(&resident.id).expect("it was there a moment ago");
        self.unname_nvme(nvme, bags, shard, handle);
        drop(room);
        self.release_nvme(nvme, resident, sector);
        true
    }

    /// Takes a replica on NVMe out of the index and the bags, and the entry with it if nothing else is
    /// left. Returns where it lies; the slot is still taken.
    pub(crate) fn unname_nvme(
        &self,
        nvme: &Nvme,
        bags: &mut Bags<Handle>,
        mut shard: MutexGuard<'_, Shard>,
        handle: Handle,
    ) -> u32 {
        let withdrawn = self.withdraw_nvme(&mut shard, handle);
        self.drop_if_empty(&mut shard, handle);
        drop(shard);
        self.leave_nvme_bag(nvme, bags, handle, &withdrawn);
        withdrawn.sector
    }

    /// Takes a replica on NVMe out of its entry.
    fn withdraw_nvme(&self, shard: &mut Shard, handle: Handle) -> Withdrawn {
        let node = shard.node_mut(handle);
        let NvmeReplica::Stored(sector) = node.nvme() else {
            unreachable!("a candidate of NVMe is stored there");
        };
        let withdrawn = Withdrawn { sector, standing: node.standing(Kept::Nvme), place: node.place };
        node.set_nvme(NvmeReplica::Absent);
        self.announce(&node.id(), Tier::Nvme, false, node.payload_len());
        withdrawn
    }

    fn leave_nvme_bag(&self, nvme: &Nvme, bags: &mut Bags<Handle>, handle: Handle, was: &Withdrawn) {
        if let Some(moved) = bags.remove(handle, was.standing, was.place) {
            NvmeTier::new(self, nvme, 0).place(moved, was.place);
        }
        lock(&nvme.slots).set_owner(was.sector, None);
    }

    pub(crate) fn drop_if_empty(&self, shard: &mut Shard, handle: Handle) {
        let node = shard.node(handle);
        if node.is_empty() {
            if node.is_pinned() {
                lock(&self.pins).remove(&node.id());
            }
            shard.remove(handle);
        }
    }

    /// Frees the slot of a replica that the index no longer names. The slot may be reused before the
    /// index on disk forgets the replica: whoever reads it then finds another footer (INV-FENCE).
    pub(crate) fn release_nvme(&self, nvme: &Nvme, resident: &Resident, sector: u32) {
        // Queued before the slot is free, so it is committed no later than the slot's next record.
        let _ = nvme.mailbox.send(Message::Delete { resident: *resident, sector: Some(sector), done: None });
        lock(&nvme.slots).release_after(sector, resident.generation);
    }

    /// Forgets a block in every tier. Returns what it was, if it was held.
    pub(crate) fn forget(&self, id: &BlockId) -> Option<(Resident, NvmeReplica)> {
        let mut host_room = lock(&self.host_room);
        let host_bags = &mut host_room.bags;
        let mut nvme_room = self.nvme.as_ref().map(|nvme| lock(&nvme.room));
        let mut nvme_bags = nvme_room.as_mut().map(|room| &mut room.bags);
        let mut shard = self.index.shard(id);
        let handle = shard.find(id)?;
        let node = shard.node_mut(handle);
        let resident = Resident { id: *id, generation: node.generation() };
        let (replica, payload_len) = (node.nvme(), node.payload_len());
        let standing = node.standing(Kept::Host);
        let host = shard.take_host(handle);
        if host.is_some() {
            self.announce(id, Tier::Host, false, payload_len);
        }
        let withdrawn = match replica {
            NvmeReplica::Stored(_) => Some(self.withdraw_nvme(&mut shard, handle)),
            _ => None,
        };
        shard.node_mut(handle).set_nvme(NvmeReplica::Absent);
        shard.answer_waiters(id, &Err(PutError::Removed));
        lock(&self.pins).remove(id);
        shard.remove(handle);
        drop(shard);
        // The bags are locked, so nobody has drawn the handle since its entry went.
        if let Some(block) = &host {
            self.leave_host_bag(host_bags, handle, standing, block);
        }
        if let (Some(withdrawn), Some(nvme), Some(bags)) = (&withdrawn, &self.nvme, &mut nvme_bags) {
            self.leave_nvme_bag(nvme, bags, handle, withdrawn);
            self.release_nvme(nvme, &resident, withdrawn.sector);
        }
        Some((resident, replica))
    }

    /// Takes an extent of the slabs out of service: its blocks lose their NVMe replica (INV-EIO). False if it
    /// stays, because the durability thread has ended and nobody would remember the fence: a store that is
    /// closed gives out no slots, and its next life verifies whatever it reads.
    pub(crate) fn fence_extent(&self, nvme: &Nvme, extent: u32) -> bool {
        {
            let mut slots = lock(&nvme.slots);
            if slots.is_fenced(extent) {
                return true;
            }
            if nvme.mailbox.send(Message::Fenced(extent)).is_err() {
                return false;
            }
            slots.fence(extent);
        }
        let place = nvme.volume.place_of(extent);
        tracing::error!(
            extent,
            member = place.map(|place| place.member),
            local = place.map(|place| place.local),
            "an extent of a slab is taken out of service after an I/O error: {LIFT_FENCES}"
        );
        let mut room = lock(&nvme.room);
        let bags = &mut room.bags;
        let owners: Vec<_> = lock(&nvme.slots).owners(extent).map(Handle::from_bits).collect();
        for handle in owners {
            let shard = self.index.shard_of(handle);
            let node = shard.node(handle);
            let resident = Resident { id: node.id(), generation: node.generation() };
            let sector = self.unname_nvme(nvme, bags, shard, handle);
            self.release_nvme(nvme, &resident, sector);
        }
        true
    }

    pub(crate) fn next_generation(&self) -> Option<Generation> {
        match &self.nvme {
            Some(nvme) => nvme.next_generation(),
            None => Some(Generation(self.volatile_generation.fetch_add(1, Ordering::Relaxed))),
        }
    }
}
