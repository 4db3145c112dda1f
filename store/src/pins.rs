//! Blocks that are not to leave the node until a moment.
//!
//! A pin holds the block where it would be lost: on NVMe, or in the arena if it is not there. It ends by
//! itself, with the block if that is removed or turns out damaged, and with the process: whoever promises
//! pins to others remembers them and pins again.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_proto::BlockId;
use hearth_proto::limits::PINNED_PERMILLE_MAX;
use rustc_hash::FxHashMap;

use crate::core::Core;
use crate::error::PinError;
use crate::store::Store;
use crate::sync::lock;

#[derive(Default)]
pub(crate) struct Pins {
    by_id: FxHashMap<BlockId, Pin>,
    by_end: BTreeSet<(u64, BlockId)>,
    bytes: u64,
}

#[derive(Clone, Copy)]
struct Pin {
    until_us: u64,
    bytes: u64,
}

impl Pins {
    /// Bytes of pinned payloads.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn remove(&mut self, id: &BlockId) -> bool {
        let Some(pin) = self.by_id.remove(id) else { return false };
        self.by_end.remove(&(pin.until_us, *id));
        self.bytes -= pin.bytes;
        true
    }

    /// Notes a pin, or moves the end of one.
    fn insert(&mut self, id: BlockId, pin: Pin, limit_bytes: u64) -> Result<(), PinError> {
        let pinned_bytes = self.bytes - self.by_id.get(&id).map_or(0, |pin| pin.bytes);
        if pinned_bytes + pin.bytes > limit_bytes {
            return Err(PinError::TooMuch { pinned_bytes, limit_bytes });
        }
        self.remove(&id);
        self.by_id.insert(id, pin);
        self.by_end.insert((pin.until_us, id));
        self.bytes += pin.bytes;
        Ok(())
    }

    fn pop_overdue(&mut self, now_us: u64) -> Option<BlockId> {
        let (until_us, id) = *self.by_end.first()?;
        (until_us <= now_us && self.remove(&id)).then_some(id)
    }
}

impl Core {
    /// Lets go of blocks whose pins have ended. Called with no lock held.
    pub(crate) fn end_overdue_pins(&self, now_us: u64) {
        loop {
            // The lock is not held while the block moves: that takes others.
            let overdue = lock(&self.pins).pop_overdue(now_us);
            let Some(id) = overdue else { return };
            self.set_pinned(&id, false);
        }
    }

    fn set_pinned(&self, id: &BlockId, pinned: bool) -> bool {
        let changed = self.restand(id, |node| {
            node.set_pinned(pinned);
            true
        });
        changed.is_some()
    }
}

impl Store {
    /// Keeps a block on this node for a time, whatever else there is to evict. Pinning again moves the end.
    ///
    /// # Errors
    /// [`PinError`]: it is not here, or too much is pinned already.
    pub fn pin(&self, id: &BlockId, duration: Duration) -> Result<(), PinError> {
        let core = self.core();
        let now_us = core.clock.now_us();
        core.end_overdue_pins(now_us);
        let capacity_bytes =
            core.nvme.as_ref().map_or(core.arena.len_bytes(), |nvme| nvme.volume.capacity_bytes());
        let limit_bytes = capacity_bytes / 1_000 * PINNED_PERMILLE_MAX;
        let bytes = core.index.shard(id).get(id).map(|node| u64::from(node.payload_len()));
        let duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let pin =
            Pin { until_us: now_us.saturating_add(duration_us), bytes: bytes.ok_or(PinError::NotHere)? };
        lock(&core.pins).insert(*id, pin, limit_bytes)?;
        if core.set_pinned(id, true) {
            return Ok(());
        }
        // It went in between.
        lock(&core.pins).remove(id);
        Err(PinError::NotHere)
    }

    /// Ends a pin. Returns false if there was none.
    pub fn unpin(&self, id: &BlockId) -> bool {
        let removed = lock(&self.core().pins).remove(id);
        if removed {
            self.core().set_pinned(id, false);
        }
        removed
    }
}
