//! The NVMe tier as callers see it: the device, who lies where, and the way to the durability thread.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hearth_proto::Generation;
use hearth_proto::limits::{DISK_QUEUE_MAX, GROWTH_RETRY_MS, SECTOR_BYTES, WRITE_THROUGH_MAX};
use tokio::sync::Semaphore;

use crate::device::Device;
use crate::extents::ExtentMap;
use crate::growth::Growth;
use crate::space::Lines;
use crate::stats::Counters;
use crate::sync::{Mailbox, lock};
use crate::writer::Message;

pub(crate) struct Nvme {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) slots: Mutex<ExtentMap>,
    pub(crate) lines: Mutex<Lines>,
    pub(crate) mailbox: Arc<Mailbox<Message>>,
    pub(crate) generations: Generations,
    /// One for each block on its way to NVMe.
    pub(crate) write_permits: Arc<Semaphore>,
    /// One for each read.
    pub(crate) read_permits: Semaphore,
    pub(crate) extent_bytes: u64,
    pub(crate) extents_max: u32,
    pub(crate) growth: Mutex<Growth>,
}

impl Nvme {
    pub(crate) fn new(
        device: Arc<dyn Device>,
        slots: ExtentMap,
        lines: Lines,
        generations: Generations,
        extent_bytes: u64,
        extents_max: u32,
    ) -> Self {
        Self {
            device,
            slots: Mutex::new(slots),
            lines: Mutex::new(lines),
            mailbox: Arc::new(Mailbox::new()),
            generations,
            write_permits: Arc::new(Semaphore::new(WRITE_THROUGH_MAX)),
            read_permits: Semaphore::new(DISK_QUEUE_MAX),
            extent_bytes,
            extents_max,
            growth: Mutex::new(Growth::default()),
        }
    }

    /// Makes do with the extents that there are: the file system has no room for more.
    pub(crate) fn growth_refused(&self, counters: &Counters, now_us: u64, error: &dyn Display) {
        counters.growth_failures.add(1);
        if lock(&self.growth).refused(now_us) {
            let extents = lock(&self.slots).count();
            tracing::warn!(
                %error, extents, retry_ms = GROWTH_RETRY_MS,
                "the slab cannot grow: blocks are evicted within the extents that there are; free space on \
                 the file system of the data folder, or give this node a smaller NVMe capacity"
            );
        }
    }

    pub(crate) fn grew(&self) {
        let extents = lock(&self.slots).grow() + 1;
        if lock(&self.growth).succeeded() {
            tracing::info!(extents, "the slab grows again");
        }
    }

    pub(crate) fn offset_of(sector: u32) -> u64 {
        u64::from(sector) * SECTOR_BYTES as u64
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        u64::from(self.extents_max) * self.extent_bytes
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
