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
use crate::index::NvmeReplica;
use crate::store::Store;
use crate::sync::lock;

/// Every change of a pin happens under the lock of its block's shard, together with the mark in the entry.
#[derive(Default)]
pub(crate) struct Pins {
    by_id: FxHashMap<BlockId, Pin>,
    by_end: BTreeSet<(u64, BlockId)>,
    bytes: Held,
}

#[derive(Clone, Copy)]
struct Pin {
    until_us: u64,
    bytes: Held,
}

/// Payload bytes that pins hold in each tier.
#[derive(Clone, Copy, Default)]
struct Held {
    host: u64,
    nvme: u64,
}

impl Pins {
    /// Bytes of pinned payloads.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.host + self.bytes.nvme
    }

    /// When the first pin ends.
    pub(crate) fn first_end_us(&self) -> Option<u64> {
        self.by_end.first().map(|(until_us, _)| *until_us)
    }

    pub(crate) fn remove(&mut self, id: &BlockId) -> bool {
        let Some(pin) = self.by_id.remove(id) else { return false };
        self.by_end.remove(&(pin.until_us, *id));
        self.bytes.host -= pin.bytes.host;
        self.bytes.nvme -= pin.bytes.nvme;
        true
    }

    /// Notes a pin, or moves the end of one.
    fn insert(&mut self, id: BlockId, pin: Pin, limit: Held) -> Result<(), PinError> {
        let before = self.by_id.get(&id).map_or(Held::default(), |pin| pin.bytes);
        let other = Held { host: self.bytes.host - before.host, nvme: self.bytes.nvme - before.nvme };
        for (pinned_bytes, bytes, limit_bytes) in
            [(other.host, pin.bytes.host, limit.host), (other.nvme, pin.bytes.nvme, limit.nvme)]
        {
            if bytes > 0 && pinned_bytes + bytes > limit_bytes {
                return Err(PinError::TooMuch { pinned_bytes, limit_bytes });
            }
        }
        self.remove(&id);
        self.by_id.insert(id, pin);
        self.by_end.insert((pin.until_us, id));
        self.bytes.host += pin.bytes.host;
        self.bytes.nvme += pin.bytes.nvme;
        Ok(())
    }

    fn first_overdue(&self, now_us: u64) -> Option<BlockId> {
        self.by_end.first().filter(|(until_us, _)| *until_us <= now_us).map(|(_, id)| *id)
    }

    fn is_overdue(&self, id: &BlockId, now_us: u64) -> bool {
        self.by_id.get(id).is_some_and(|pin| pin.until_us <= now_us)
    }
}

impl Core {
    /// Lets go of blocks whose pins have ended. Called with no lock held.
    pub(crate) fn end_overdue_pins(&self, now_us: u64) {
        loop {
            // The lock is not held while the block moves: that takes others.
            let overdue = lock(&self.pins).first_overdue(now_us);
            let Some(id) = overdue else { return };
            let ended = self.restand(&id, |node| {
                let mut pins = lock(&self.pins);
                let ends = pins.is_overdue(&id, now_us);
                if ends {
                    pins.remove(&id);
                    node.set_pinned(false);
                }
                ends
            });
            if ended.is_none() && self.index.shard(&id).find(&id).is_none() {
                lock(&self.pins).remove(&id);
            }
        }
    }
}

impl Store {
    /// Keeps a block on this node for a time, whatever else there is to evict. Pinning again moves the end.
    ///
    /// # Errors
    /// [`PinError`]: it is not here, or too much is pinned already where it lies.
    pub fn pin(&self, id: &BlockId, duration: Duration) -> Result<(), PinError> {
        let core = self.core();
        let now_us = core.clock.now_us();
        core.end_overdue_pins(now_us);
        let part = |bytes: u64| bytes / 1_000 * PINNED_PERMILLE_MAX;
        let nvme_bytes = core.nvme.as_ref().map_or(0, |nvme| nvme.volume.capacity_bytes());
        let limit = Held { host: part(core.arena.len_bytes()), nvme: part(nvme_bytes) };
        let duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let until_us = now_us.saturating_add(duration_us);
        let mut outcome = Err(PinError::NotHere);
        core.restand(id, |node| {
            let payload_len = u64::from(node.payload_len());
            let bytes = match node.nvme() {
                NvmeReplica::Absent => Held { host: payload_len, nvme: 0 },
                _ => Held { host: 0, nvme: payload_len },
            };
            outcome = lock(&core.pins).insert(*id, Pin { until_us, bytes }, limit);
            if outcome.is_ok() {
                node.set_pinned(true);
            }
            outcome.is_ok()
        });
        outcome
    }

    /// The blocks that are pinned, in no order; some of the pins may have ended a moment ago.
    pub fn pinned(&self) -> Vec<BlockId> {
        lock(&self.core().pins).by_id.keys().copied().collect()
    }

    /// Ends a pin. Returns false if there was none.
    pub fn unpin(&self, id: &BlockId) -> bool {
        let core = self.core();
        let unpinned = core.restand(id, |node| {
            let removed = lock(&core.pins).remove(id);
            node.set_pinned(false);
            removed
        });
        unpinned.is_some()
    }
}
