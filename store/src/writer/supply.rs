//! Where blocks go: slots that are free, slots that are ready, and how there come to be more of them.

use std::sync::Arc;

use hearth_proto::limits::READY_SLOTS_STEP;

use super::Writer;
use crate::mutant::{Mutant, is};
use crate::nvme::Nvme;
use crate::slab::ReadySlot;
use crate::sync::lock;
use crate::tiers::NvmeTier;

impl Writer {
    /// Finds a slot on the device: a free one, else a longer file, else an evicted block's, else one that is
    /// ready for records of another size.
    pub(super) fn allocate(&mut self, nvme: &Nvme, class: u32) -> Option<u32> {
        let core = Arc::clone(&self.core);
        let refused = &mut || core.counters.growth_failures.add(1);
        nvme.spread(class, core.clock.now_us(), refused);
        loop {
            if let Some(given) = lock(&nvme.slots).allocate(class) {
                if let Some(extent) = given.assigned {
                    self.next.set_extent(nvme.extent_entry(extent, class, false));
                }
                return Some(given.sector);
            }
            let now_us = core.clock.now_us();
            if nvme.grow(now_us, refused) {
                continue;
            }
            core.end_overdue_pins(now_us);
            let residents = NvmeTier::new(&core, nvme, now_us);
            let made = lock(&nvme.room).make(&nvme.slots, class, now_us, &residents);
            residents.unready.into_inner().iter().for_each(|slot| self.unready(slot.sector));
            if made {
                continue;
            }
            // What waits for records of another size may be all that is left.
            let others = lock(&nvme.ready).take_others(class);
            if !self.take_back(nvme, others) {
                return None;
            }
        }
    }

    /// Makes slots ready for the record sizes that run out of them, some at a time.
    pub(super) fn make_ready(&mut self, nvme: &Nvme) {
        if !self.next.ready.is_empty() || self.stopping || self.index_refuses {
            return;
        }
        while let Some(class) = self.wanted.pop_first() {
            let target = ready_target(nvme, class);
            let wanted = target.saturating_sub(lock(&nvme.ready).count(class)).min(READY_SLOTS_STEP);
            let before = self.next.ready.len();
            for _ in 0..wanted {
                let Some(sector) = self.allocate(nvme, class) else { break };
                let from = {
                    let slots = lock(&nvme.slots);
                    slots.newer(slots.extent_of(sector))
                };
                self.next.ready.push((class, ReadySlot { sector, from }));
            }
            if self.next.ready.len() > before {
                let idle = lock(&nvme.ready).take_idle(class);
                self.take_back(nvme, idle);
            }
        }
        if is(Mutant::AckBeforeReady) {
            self.shelve(nvme, &self.next.ready);
        }
    }

    /// Puts slots that are ready where blocks find them.
    pub(super) fn shelve(&self, nvme: &Nvme, slots: &[(u32, ReadySlot)]) {
        for of_class in slots.chunk_by(|one, other| one.0 == other.0) {
            let class = of_class[0].0;
            let low = ready_target(nvme, class) / 2;
            lock(&nvme.ready).add(class, of_class.iter().map(|(_, slot)| *slot), low);
        }
    }

    /// Frees slots that were ready and hold nothing. Says whether there are any.
    pub(super) fn take_back(&mut self, nvme: &Nvme, slots: Vec<ReadySlot>) -> bool {
        for slot in &slots {
            self.unready(slot.sector);
            lock(&nvme.slots).release(slot.sector);
        }
        !slots.is_empty()
    }

    /// Lets the index believe nothing any more that lies in a slot.
    pub(super) fn unready(&mut self, sector: u32) {
        if self.known_ready.remove(&sector).is_some() && !is(Mutant::ReadyForEver) {
            self.next.unready(sector);
        }
    }
}

/// How many slots are to be ready for records of a size, in a tier that is as long as it is now. Record sizes
/// that are in use share what there may be.
fn ready_target(nvme: &Nvme, class: u32) -> usize {
    let tier_bytes = u64::from(lock(&nvme.slots).count()) * nvme.volume.extent_bytes();
    let sharers = 1 + lock(&nvme.ready).others(class);
    nvme.ready_limits.target(class, tier_bytes, sharers)
}
