//! What a node did for replicas, as metrics and answers about progress tell it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start, and what the last look at the directory found.
#[derive(Debug, Default)]
pub(crate) struct CopyCounters {
    pub(crate) copied_blocks: Count,
    pub(crate) copied_bytes: Count,
    /// Copies that did not get there, each try counted.
    pub(crate) failures: Count,
    /// Blocks that this node has to see to, as its last search of the directory found, less what it did since.
    pub(crate) missing_blocks: Count,
    pub(crate) missing_bytes: Count,
    /// Searches of the whole directory.
    pub(crate) searches: Count,
}

/// One number, changed and read by anyone.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Down to zero at the least.
    pub(super) fn subtract(&self, count: u64) {
        let less = |value: u64| Some(value.saturating_sub(count));
        // It never refuses.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    pub(super) fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }
}
