//! A block in the arena and the leases on it.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hearth_proto::limits::SECTOR_BYTES;
use hearth_proto::{Generation, Tier};

use super::{Loan, Slot};

/// The place of a block that stands in no bag.
const OUTSIDE: u32 = u32::MAX;

/// A filled slot. Its bytes never change again.
pub(crate) struct HostBlock {
    slot: Slot,
    generation: Generation,
    crc32: u32,
    /// Leases alive. While there is one the block is no victim; the memory itself lives as long as
    /// anyone holds the block.
    leases: AtomicU32,
    /// Its place in the bag of the host tier; changed under the lock of the bags alone.
    place: AtomicU32,
}

impl HostBlock {
    pub(crate) fn new(slot: Slot, generation: Generation, crc32: u32) -> Self {
        Self { slot, generation, crc32, leases: AtomicU32::new(0), place: AtomicU32::new(OUTSIDE) }
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    pub(crate) fn crc32(&self) -> u32 {
        self.crc32
    }

    pub(crate) fn payload_len(&self) -> NonZeroU32 {
        let len = u32::try_from(self.slot.payload().len()).ok().and_then(NonZeroU32::new);
        len.expect("no slot is given for an empty payload, nor for one over BLOCK_BYTES_MAX")
    }

    /// The place in the bag, if the block stands in one.
    pub(crate) fn place(&self) -> Option<u32> {
        Some(self.place.load(Ordering::Relaxed)).filter(|place| *place != OUTSIDE)
    }

    pub(crate) fn set_place(&self, place: Option<u32>) {
        self.place.store(place.unwrap_or(OUTSIDE), Ordering::Relaxed);
    }

    pub(crate) fn is_leased(&self) -> bool {
        self.leases.load(Ordering::SeqCst) > 0
    }
}

/// Shared, read-only access to the bytes of one block.
///
/// *Invariants*: the bytes are exactly those that were put (INV-BYTES) and stay so, and the slot is not
/// used for anything else while a lease lives, even if the block is evicted, removed, or the store
/// closed.
pub struct Lease {
    block: Arc<HostBlock>,
    tier: Tier,
}

impl Lease {
    pub(crate) fn new(block: &Arc<HostBlock>, tier: Tier) -> Self {
        block.leases.fetch_add(1, Ordering::SeqCst);
        Self { block: Arc::clone(block), tier }
    }

    /// Where the block lies, for a loan.
    pub(super) fn describe(&self, id: u64) -> Loan {
        let slot = self.block.slot();
        Loan {
            id,
            offset: u64::from(slot.sector()) * SECTOR_BYTES as u64,
            payload_len: self.block.payload_len().get(),
            slot_len: slot.class() * SECTOR_BYTES as u32,
            generation: self.block.generation,
            crc32: self.block.crc32,
        }
    }

    /// The number of the put that wrote the block.
    pub fn generation(&self) -> Generation {
        self.block.generation
    }

    /// Checksum of the payload.
    pub fn crc32(&self) -> u32 {
        self.block.crc32
    }

    /// Where the block was found: `Host`, or `Nvme` if it had to be read.
    pub fn tier(&self) -> Tier {
        self.tier
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        Self::new(&self.block, self.tier)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.block.leases.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.block.slot.arena().made_room();
        }
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.block.slot.payload()
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("generation", &self.generation())
            .field("tier", &self.tier)
            .field("payload_len", &self.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_go_anywhere() {
        fn goes_anywhere<T: Send + Sync + Clone + AsRef<[u8]> + 'static>() {}
        goes_anywhere::<Lease>();
    }
}
