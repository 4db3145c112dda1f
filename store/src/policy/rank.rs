//! How long one block is kept, and its place in line.

use std::cmp::{Ordering, Reverse};

use hearth_proto::{Priority, Retention};

/// Uses that lie within one such span, about 131 ms, count as simultaneous, so that the blocks of one
/// chain, read by one request, leave deepest first.
const SIMULTANEOUS_SHIFT: u32 = 17;

/// The contract of how a block is kept, in the store's own time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) priority: Priority,
    /// When the priority falls back to the default; `None` is never.
    pub(crate) expires_at_us: Option<u64>,
    /// Position in its chain; children are deeper.
    pub(crate) depth: u32,
}

impl Keep {
    pub(crate) fn new(retention: Retention, depth: u32, now_us: u64) -> Self {
        let expires_at_us = retention.duration_ms.map(|ms| now_us.saturating_add(ms.saturating_mul(1_000)));
        Self { priority: retention.priority, expires_at_us, depth }
    }

    pub(crate) fn priority_at(&self, now_us: u64) -> Priority {
        match self.expires_at_us {
            Some(expiry) if expiry <= now_us => Priority::DEFAULT,
            _ => self.priority,
        }
    }

    pub(super) fn expiry_after(&self, now_us: u64) -> Option<u64> {
        self.expires_at_us.filter(|expiry| *expiry > now_us)
    }
}

/// A place in line; the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rank {
    used_at_us: u64,
    depth: u32,
    sector: u32,
    priority: Priority,
}

impl Rank {
    pub(super) fn new(priority: Priority, used_at_us: u64, depth: u32, sector: u32) -> Self {
        Self { used_at_us, depth, sector, priority }
    }

    pub(super) fn used_at_us(&self) -> u64 {
        self.used_at_us
    }

    pub(super) fn priority(&self) -> Priority {
        self.priority
    }

    pub(super) fn sector(&self) -> u32 {
        self.sector
    }

    pub(super) fn used(self, used_at_us: u64) -> Self {
        Self { used_at_us, ..self }
    }

    fn order(&self) -> (Priority, u64, Reverse<u32>, u64, u32) {
        let span = self.used_at_us >> SIMULTANEOUS_SHIFT;
        (self.priority, span, Reverse(self.depth), self.used_at_us, self.sector)
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
