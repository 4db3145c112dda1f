//! The NVMe tier as callers see it: the volume, who lies where, and the way to the durability thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hearth_proto::Generation;
use hearth_proto::limits::{DISK_QUEUE_MAX, WRITE_THROUGH_MAX};
use tokio::sync::Semaphore;

use crate::codec::{Compression, Sampler};
use crate::extents::ExtentMap;
use crate::ready::{ReadyLimits, ReadySlots};
use crate::slab::{ExtentEntry, ReadySlot};
use crate::space::Room;
use crate::sync::{Mailbox, lock};
use crate::volume::Volume;
use crate::writer::{Message, UnderWay};

pub(crate) struct Nvme {
    pub(crate) volume: Volume,
    pub(crate) slots: Mutex<ExtentMap>,
    /// Blocks that may be evicted from NVMe: all that are durable there.
    pub(crate) room: Mutex<Room>,
    pub(crate) mailbox: Arc<Mailbox<Message>>,
    /// Slots to which blocks go without a word to the index.
    pub(crate) ready: Mutex<ReadySlots>,
    pub(crate) ready_limits: ReadyLimits,
    /// Blocks on their way to NVMe.
    pub(crate) under_way: Mutex<UnderWay>,
    pub(crate) generations: Generations,
    /// One for each block on its way to NVMe.
    pub(crate) write_permits: Arc<Semaphore>,
    /// One for each read.
    pub(crate) read_permits: Semaphore,
    /// Decides which layouts are compressed.
    pub(crate) sampler: Mutex<Sampler>,
}

impl Nvme {
    pub(crate) fn new(
        volume: Volume,
        slots: ExtentMap,
        generations: Generations,
        seed: u64,
        (compression, ready_limits): (Compression, ReadyLimits),
    ) -> Self {
        Self {
            volume,
            slots: Mutex::new(slots),
            room: Mutex::new(Room::new(seed)),
            mailbox: Arc::new(Mailbox::new()),
            ready: Mutex::default(),
            ready_limits,
            under_way: Mutex::default(),
            generations,
            write_permits: Arc::new(Semaphore::new(WRITE_THROUGH_MAX)),
            read_permits: Semaphore::new(DISK_QUEUE_MAX),
            sampler: Mutex::new(Sampler::new(compression)),
        }
    }

    /// Adds an extent, on the least full of the slabs that may grow. False if none may; `refused` counts
    /// those that had no room.
    pub(crate) fn grow(&self, now_us: u64, refused: &mut dyn FnMut()) -> bool {
        let grown = self.volume.grow(now_us, refused);
        grown.is_some_and(|extent| self.enter_extent(extent))
    }

    /// Adds an extent to a slab whose turn it is to take blocks of a record size, if it has no room for
    /// them and may grow.
    pub(crate) fn spread(&self, class: u32, now_us: u64, refused: &mut dyn FnMut()) -> bool {
        let lacking = lock(&self.slots).lacking(class);
        let grown =
            lacking.into_iter().find_map(|stripe| self.volume.grow_member(stripe.into(), now_us, refused));
        grown.is_some_and(|extent| self.enter_extent(extent))
    }

    /// Enters an extent that the volume has got.
    fn enter_extent(&self, extent: u32) -> bool {
        let stripe = self.volume.stripe_of(extent);
        let mut slots = lock(&self.slots);
        if extent < slots.count() {
            slots.find(extent, stripe);
        } else {
            let known = slots.grow_on(stripe);
            assert_eq!(known, extent, "the volume and its bookkeeping grow together");
        }
        true
    }

    /// The entry of an extent in the index on disk; `None` if it lies nowhere.
    pub(crate) fn extent_entry(&self, extent: u32, class: u32, fenced: bool) -> Option<ExtentEntry> {
        let place = self.volume.place_of(extent)?;
        Some(ExtentEntry { extent, class, fenced, place })
    }

    /// Takes a ready slot for the record of a put, if there is one that it may have.
    pub(crate) fn take_ready(&self, class: u32, put: Generation) -> Option<ReadySlot> {
        let (slot, ask) = lock(&self.ready).take(class, put);
        if ask {
            // Only a closed store reads no messages, and it needs no slots.
            let _ = self.mailbox.send(Message::ReadyLow(class));
        }
        slot
    }

    /// Takes the number of the next put; `None` if the durability thread has not yet set more aside.
    pub(crate) fn next_generation(&self) -> Option<Generation> {
        let (generation, running_low) = self.generations.take();
        if running_low {
            // Only a closed store reads no messages, and it needs no generations.
            let _ = self.mailbox.send(Message::Generations);
        }
        generation
    }
}

/// Numbers of puts, unique for the store's whole life: those below `until` are set aside in the index
/// and are used at most once, whatever crashes.
pub(crate) struct Generations {
    next: AtomicU64,
    until: AtomicU64,
    asked: AtomicBool,
}

impl Generations {
    /// How many are set aside at a time.
    pub(crate) const STEP: u64 = 1 << 20;

    pub(crate) fn new(next: u64, until: u64) -> Self {
        Self { next: AtomicU64::new(next), until: AtomicU64::new(until), asked: AtomicBool::new(false) }
    }

    /// The next number if there is one, and whether more have to be set aside; the latter once only.
    fn take(&self) -> (Option<Generation>, bool) {
        let generation = self.next.fetch_add(1, Ordering::Relaxed);
        let until = self.until.load(Ordering::Acquire);
        let running_low = generation + Self::STEP / 2 >= until && !self.asked.swap(true, Ordering::Relaxed);
        ((generation < until).then_some(Generation(generation)), running_low)
    }

    /// Where the next step ends.
    pub(crate) fn next_until(&self) -> u64 {
        self.next.load(Ordering::Relaxed).max(self.until.load(Ordering::Relaxed)) + Self::STEP
    }

    /// Notes that numbers below `until` are durably set aside.
    pub(crate) fn extend(&self, until: u64) {
        self.until.store(until, Ordering::Release);
        self.asked.store(false, Ordering::Relaxed);
    }

    /// Notes that setting more aside failed, so that it is asked for again.
    pub(crate) fn extend_failed(&self) {
        self.asked.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_where_they_are_not_set_aside() {
        let generations = Generations::new(5, 7);
        assert_eq!(generations.take(), (Some(Generation(5)), true));
        assert_eq!(generations.take(), (Some(Generation(6)), false));
        assert_eq!(generations.take(), (None, false));
        let until = generations.next_until();
        generations.extend(until);
        let (next, _) = generations.take();
        assert!(next.is_some_and(|next| next.0 > 6 && next.0 < until));
    }
}
