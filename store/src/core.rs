//! The state that callers, the disk thread and the durability thread share, and the moves of a block
//! between tiers.
//!
//! Lock order: the lines of a tier, a shard of the index, then leaves (extents of a tier, delta queue).
//! A replica is announced under the lock of its shard, so per block the deltas tell the true order.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use hearth_proto::{BlockDelta, BlockId, Generation, Tier};

use crate::arena::{Arena, HostBlock, SlotMut};
use crate::clock::Clock;
use crate::delta::DeltaQueue;
use crate::error::ReserveError;
use crate::extents::class_of;
use crate::index::{Durability, Index, NvmeReplica};
use crate::nvme::Nvme;
use crate::policy::Verdict;
use crate::space::{Evictor, Lines, Resident};
use crate::stats::Counters;
use crate::sync::lock;
use crate::writer::Message;

/// How often a reservation evicts and loses the room to somebody else before it waits in line.
const ROOM_ATTEMPTS_MAX: usize = 16;

pub(crate) struct Core {
    pub(crate) arena: Arc<Arena>,
    /// Blocks that may be evicted from the arena: those that are not waiting to be written.
    pub(crate) host_lines: Mutex<Lines>,
    pub(crate) index: Index,
    pub(crate) deltas: DeltaQueue,
    pub(crate) counters: Counters,
    pub(crate) clock: Clock,
    pub(crate) nvme: Option<Nvme>,
    pub(crate) payload_bytes_max: usize,
    /// Numbers of puts of a store without an NVMe tier: its life ends with the process.
    pub(crate) volatile_generation: AtomicU64,
    pub(crate) closed: AtomicBool,
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
        self.deltas.push(BlockDelta { id: *id, tier, added, payload_len });
    }

    pub(crate) async fn reserve(
        &self,
        payload_len: usize,
        deadline: Instant,
    ) -> Result<SlotMut, ReserveError> {
        if payload_len > self.payload_bytes_max {
            return Err(self.too_large(payload_len));
        }
        if self.is_closed() {
            return Err(ReserveError::Closed);
        }
        // Whoever comes while others wait does not overtake them.
        if !self.arena.anyone_waits()
            && let Some(slot) = self.try_reserve(payload_len)
        {
            return Ok(slot);
        }
        let attempt = || match self.is_closed() {
            true => Some(Err(ReserveError::Closed)),
            false => self.try_reserve(payload_len).map(Ok),
        };
        let waiting = self.arena.wait_for_room(attempt);
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

    fn try_reserve(&self, payload_len: usize) -> Option<SlotMut> {
        let class = class_of(payload_len);
        for _ in 0..ROOM_ATTEMPTS_MAX {
            if let Some(slot) = self.arena.allocate(payload_len) {
                return Some(slot);
            }
            let evictor = HostEvictor(self);
            if !lock(&self.host_lines).make_room(self.arena.slots(), class, self.clock.now_us(), &evictor) {
                return None;
            }
        }
        None
    }

    /// Puts a block of the arena in line for eviction, if it still is what the index names.
    pub(crate) fn line_up_host(&self, id: &BlockId, block: &Arc<HostBlock>) {
        let mut lines = lock(&self.host_lines);
        let mut shard = self.index.shard(id);
        let Some(entry) = shard.entries.get_mut(id) else { return };
        if !entry.host.as_ref().is_some_and(|host| Arc::ptr_eq(host, block)) {
            return;
        }
        let resident = Resident { id: *id, generation: entry.generation };
        let (keep, used_at_us) = (entry.keep, entry.used_at_us);
        drop(shard);
        // The lines stay locked, so whoever removes the entry now removes the candidate afterwards.
        let slot = block.slot();
        lines.insert(slot.class(), slot.sector(), resident, keep, used_at_us, self.clock.now_us());
        drop(lines);
        self.arena.made_room();
    }

    /// Takes a block of the arena, which the index no longer names, out of line.
    pub(crate) fn withdraw_host(&self, id: &BlockId, block: &HostBlock) {
        let resident = Resident { id: *id, generation: block.generation() };
        lock(&self.host_lines).remove(block.slot().class(), block.slot().sector(), &resident);
    }

    /// Makes a durable record the NVMe replica of its block. Returns false if that block is no longer
    /// wanted or its extent was fenced; the slot is then still the caller's.
    pub(crate) fn publish_nvme(&self, nvme: &Nvme, resident: &Resident, sector: u32) -> bool {
        let mut lines = lock(&nvme.lines);
        let mut shard = self.index.shard(&resident.id);
        let fenced = {
            let slots = lock(&nvme.slots);
            slots.is_fenced(slots.extent_of(sector))
        };
        let Some(entry) = shard.same(resident).filter(|entry| entry.nvme == NvmeReplica::Pending && !fenced)
        else {
            return false;
        };
        entry.nvme = NvmeReplica::Stored(sector);
        let (keep, used_at_us, payload_len) = (entry.keep, entry.used_at_us, entry.payload_len);
        self.announce(&resident.id, Tier::Nvme, true, payload_len);
        shard.answer_waiters(&resident.id, &Ok(()));
        drop(shard);
        let class = class_of(payload_len as usize);
        lines.insert(class, sector, *resident, keep, used_at_us, self.clock.now_us());
        true
    }

    /// Gives up writing a block: it stays in the arena, where it may now be evicted.
    pub(crate) fn give_up_writing(&self, resident: &Resident, block: &Arc<HostBlock>, answer: Durability) {
        let mut shard = self.index.shard(&resident.id);
        let Some(entry) = shard.same(resident).filter(|entry| entry.nvme == NvmeReplica::Pending) else {
            return;
        };
        entry.nvme = NvmeReplica::Absent;
        self.counters.writes_given_up.add(1);
        shard.answer_waiters(&resident.id, &answer);
        drop(shard);
        self.line_up_host(&resident.id, block);
    }

    /// Retracts the NVMe replica at `sector` if the index still names it there, and frees its slot.
    /// Returns true if it did.
    pub(crate) fn retract_nvme(&self, nvme: &Nvme, resident: &Resident, sector: u32) -> bool {
        let Some(payload_len) = self.unname_nvme(resident, sector) else { return false };
        self.free_nvme(nvme, resident, sector, payload_len);
        true
    }

    /// Takes the NVMe replica out of the index, and the entry with it if nothing else is left.
    fn unname_nvme(&self, resident: &Resident, sector: u32) -> Option<u32> {
        let mut shard = self.index.shard(&resident.id);
        let entry = shard.same(resident).filter(|entry| entry.nvme == NvmeReplica::Stored(sector))?;
        let payload_len = entry.payload_len;
        entry.nvme = NvmeReplica::Absent;
        if entry.is_empty() {
            shard.entries.remove(&resident.id);
        }
        self.announce(&resident.id, Tier::Nvme, false, payload_len);
        Some(payload_len)
    }

    /// Frees the slot of a replica that the index no longer names. The slot may be reused before the
    /// index on disk forgets the replica: whoever reads it then finds another footer (INV-FENCE).
    pub(crate) fn free_nvme(&self, nvme: &Nvme, resident: &Resident, sector: u32, payload_len: u32) {
        lock(&nvme.lines).remove(class_of(payload_len as usize), sector, resident);
        self.release_nvme(nvme, resident, sector);
    }

    fn release_nvme(&self, nvme: &Nvme, resident: &Resident, sector: u32) {
        // Queued before the slot is free, so it is committed no later than the slot's next record.
        let _ = nvme.mailbox.send(Message::Delete { resident: *resident, done: None });
        lock(&nvme.slots).release(sector);
    }

    /// Takes an extent of the slab out of service: its blocks lose their NVMe replica (INV-EIO).
    pub(crate) fn fence_extent(&self, nvme: &Nvme, extent: u32) {
        {
            let mut slots = lock(&nvme.slots);
            if slots.is_fenced(extent) {
                return;
            }
            slots.fence(extent);
        }
        tracing::error!(extent, "an extent of the slab is taken out of service after an I/O error");
        let _ = nvme.mailbox.send(Message::Fenced(extent));
        let residents = lock(&nvme.lines).residents(&nvme.slots, extent);
        for (sector, resident) in residents {
            self.retract_nvme(nvme, &resident, sector);
        }
    }

    pub(crate) fn next_generation(&self) -> Option<Generation> {
        match &self.nvme {
            Some(nvme) => nvme.next_generation(),
            None => Some(Generation(self.volatile_generation.fetch_add(1, Ordering::Relaxed))),
        }
    }
}

/// Lets go of blocks of the arena. Their NVMe replica stays.
pub(crate) struct HostEvictor<'a>(pub(crate) &'a Core);

impl Evictor for HostEvictor<'_> {
    fn may_evict(&self, sector: u32, resident: &Resident) -> bool {
        let mut shard = self.0.index.shard(&resident.id);
        let Some(entry) = shard.same(resident) else { return true };
        let in_use = |host: &Arc<HostBlock>| host.slot().sector() == sector && host.is_leased();
        entry.nvme != NvmeReplica::Pending && !entry.host.as_ref().is_some_and(in_use)
    }

    fn evict(&self, sector: u32, resident: &Resident, known_use_us: u64) -> Verdict {
        let mut shard = self.0.index.shard(&resident.id);
        let Some(entry) = shard.same(resident) else { return Verdict::Gone };
        let Some(host) = entry.host.as_ref().filter(|host| host.slot().sector() == sector) else {
            return Verdict::Gone;
        };
        // New leases come from this entry, under this lock, or from a lease that is already counted.
        if host.is_leased() || entry.nvme == NvmeReplica::Pending {
            return Verdict::InUse;
        }
        if entry.used_at_us > known_use_us {
            return Verdict::UsedAt(entry.used_at_us);
        }
        let block = entry.host.take();
        let payload_len = entry.payload_len;
        if entry.is_empty() {
            shard.entries.remove(&resident.id);
        }
        self.0.announce(&resident.id, Tier::Host, false, payload_len);
        drop(shard);
        self.0.counters.evicted_host.add(1);
        drop(block);
        Verdict::Evicted
    }
}

/// Lets go of blocks on NVMe. Their replica in the arena stays.
pub(crate) struct NvmeEvictor<'a>(pub(crate) &'a Core, pub(crate) &'a Nvme);

impl Evictor for NvmeEvictor<'_> {
    fn may_evict(&self, _sector: u32, _resident: &Resident) -> bool {
        true
    }

    fn evict(&self, sector: u32, resident: &Resident, known_use_us: u64) -> Verdict {
        let Self(core, nvme) = self;
        {
            let mut shard = core.index.shard(&resident.id);
            let Some(entry) = shard.same(resident).filter(|entry| entry.nvme == NvmeReplica::Stored(sector))
            else {
                return Verdict::Gone;
            };
            if entry.used_at_us > known_use_us {
                return Verdict::UsedAt(entry.used_at_us);
            }
        }
        // Nobody but the durability thread evicts here, and whoever else retracts the replica meanwhile
        // frees its slot.
        if core.unname_nvme(resident, sector).is_none() {
            return Verdict::Gone;
        }
        core.counters.evicted_nvme.add(1);
        core.release_nvme(nvme, resident, sector);
        Verdict::Evicted
    }
}
