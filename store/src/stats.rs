//! What a store counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of a store's counters. Counts begin at zero when the store opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Size of the arena.
    pub host_capacity_bytes: u64,
    /// Slots of the arena that are taken, in bytes, footers and padding included.
    pub host_used_bytes: u64,
    /// Blocks readable from the arena.
    pub host_blocks: u64,
    /// How far the slabs may grow, together.
    pub nvme_capacity_bytes: u64,
    /// Slots of the slabs that are taken, in bytes, footers and padding included, without those that are
    /// kept ready for puts.
    pub nvme_used_bytes: u64,
    /// Blocks readable from NVMe.
    pub nvme_blocks: u64,
    /// Gets answered from the arena.
    pub gets_host: u64,
    /// Gets answered from NVMe.
    pub gets_nvme: u64,
    /// Gets that found nothing, or nothing readable.
    pub gets_missed: u64,
    /// Puts of blocks that were not there.
    pub puts: u64,
    /// Payload bytes of those puts.
    pub put_bytes: u64,
    /// Blocks evicted from the arena.
    pub evicted_host: u64,
    /// Blocks evicted from NVMe.
    pub evicted_nvme: u64,
    /// Records found damaged when they were read.
    pub corrupt_blocks: u64,
    /// Records found to belong to another block when they were read: after a crash the index may name
    /// slots that were reused.
    pub stale_blocks: u64,
    /// Transfers that the device refused.
    pub io_errors: u64,
    /// Puts that wait to be durable on NVMe.
    pub pending_writes: u64,
    /// Blocks that were not written to NVMe because of their low priority.
    pub not_admitted: u64,
    /// Puts that brought other bytes under the id of a stored block, and were refused.
    pub conflicts: u64,
    /// Bytes written to the slabs, footers and padding included.
    pub nvme_written_bytes: u64,
    /// Payload bytes of the blocks that were written. Without compression the ratio of the two is the write
    /// amplification: one, and what footers and padding take.
    pub nvme_written_payload_bytes: u64,
    /// Payload bytes of the blocks on NVMe. What is used beyond them is waste; what is used less is the gain
    /// of compression.
    pub nvme_payload_bytes: u64,
    /// Blocks of the arena that are lent to readers outside the process.
    pub lent_blocks: u64,
    /// Payload bytes of pinned blocks.
    pub pinned_bytes: u64,
    /// Memory of the index in bytes: entries and what finds them. Bags and slot owners add eight bytes a block.
    pub index_bytes: u64,
    /// Blocks that stay in the arena alone because NVMe had no room or refused them.
    pub writes_given_up: u64,
    /// Extents taken out of service after an I/O error.
    pub fenced_extents: u64,
    /// Times that a slab could not grow.
    pub growth_failures: u64,
}

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) host_blocks: Counter,
    pub(crate) nvme_blocks: Counter,
    pub(crate) gets_nvme: Counter,
    pub(crate) gets_missed: Counter,
    pub(crate) puts: Counter,
    pub(crate) put_bytes: Counter,
    pub(crate) evicted_host: Counter,
    pub(crate) evicted_nvme: Counter,
    pub(crate) corrupt_blocks: Counter,
    pub(crate) stale_blocks: Counter,
    pub(crate) io_errors: Counter,
    pub(crate) nvme_written_bytes: Counter,
    pub(crate) nvme_written_payload_bytes: Counter,
    pub(crate) nvme_payload_bytes: Counter,
    pub(crate) not_admitted: Counter,
    pub(crate) conflicts: Counter,
    pub(crate) writes_given_up: Counter,
    pub(crate) growth_failures: Counter,
}
