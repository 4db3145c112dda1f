//! One slot of the arena and its exclusive owner.
#![allow(unsafe_code)] // Slots turn addresses of the arena into slices; ownership makes that sound.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::slice;
use std::sync::Arc;

use hearth_proto::limits::SECTOR_BYTES;

use super::Arena;
use super::view::strike_out;
use crate::slab::{FOOTER_BYTES, Footer, GENERATION_AT};

/// A slot that was given out: payload, padding, footer. Returns to the arena on drop.
///
/// *Invariant*: no two `Slot`s of an arena overlap, so whoever owns one, or borrows it mutably, is alone
/// with its bytes.
pub(crate) struct Slot {
    base: *mut u8,
    arena: Arc<Arena>,
    sector: u32,
    class: u32,
    /// Sectors that a transfer moves: all, but for a record that is shorter than its payload.
    record_sectors: u32,
    payload_len: u32,
}

// SAFETY: a slot owns its bytes, which any thread may use, and its other fields are `Send`.
unsafe impl Send for Slot {}
// SAFETY: through a shared reference the bytes can only be read.
unsafe impl Sync for Slot {}

impl Slot {
    pub(super) fn new(arena: Arc<Arena>, sector: u32, class: u32, payload_len: usize) -> Self {
        let base = arena.mapping.at(sector as usize * SECTOR_BYTES);
        let payload_len = u32::try_from(payload_len).expect("payloads are bounded by BLOCK_BYTES_MAX");
        let slot = Self { base, arena, sector, class, record_sectors: class, payload_len };
        assert!(payload_len as usize + FOOTER_BYTES <= slot.record_len(), "a slot holds payload and footer");
        slot
    }

    pub(crate) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    pub(crate) fn sector(&self) -> u32 {
        self.sector
    }

    /// Sectors of the slot: the class it was taken from.
    pub(crate) fn class(&self) -> u32 {
        self.class
    }

    /// Sectors of the record.
    pub(crate) fn record_sectors(&self) -> u32 {
        self.record_sectors
    }

    /// Bytes that a transfer of the record moves.
    pub(crate) fn record_len(&self) -> usize {
        self.record_sectors as usize * SECTOR_BYTES
    }

    /// The address of the record, for the ring: aligned to a sector, [`Slot::record_len`] bytes long.
    ///
    /// The kernel may read through it while the slot is shared, and write through it while it is owned
    /// exclusively; the driver keeps the slot until the kernel is done.
    pub(crate) fn record_address(&self) -> *mut u8 {
        self.base
    }

    /// The bytes of the record, footer included.
    pub(crate) fn record(&self) -> &[u8] {
        &self.bytes()[..self.record_len()]
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes()[..self.payload_len as usize]
    }

    fn bytes(&self) -> &[u8] {
        let len = self.class as usize * SECTOR_BYTES;
        // SAFETY: the slot's bytes are mapped and initialised (a memfd begins zeroed), and nobody writes
        // them while `self` is borrowed: writing takes `&mut`.
        unsafe { slice::from_raw_parts(self.base, len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.class as usize * SECTOR_BYTES;
        // SAFETY: as for `bytes`, and `&mut self` makes this the only borrow of the slot's bytes.
        unsafe { slice::from_raw_parts_mut(self.base, len) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let footer = self.class as usize * SECTOR_BYTES - FOOTER_BYTES;
        let generation = self.base.wrapping_add(footer + GENERATION_AT);
        // SAFETY: the generation lies in the slot's last sector, aligned to eight bytes, and the slot is
        // still exclusively this one's.
        unsafe { strike_out(generation) };
        self.arena.release(self.sector);
    }
}

/// A slot that only its owner sees, to be filled with one payload.
///
/// *Shapes*: dereferences to exactly the bytes that were reserved, aligned to 4 KiB. What they hold
/// before they are filled is unspecified. Dropping it frees the slot.
pub struct SlotMut(Slot);

impl SlotMut {
    pub(crate) fn new(slot: Slot) -> Self {
        Self(slot)
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.0
    }

    pub(crate) fn into_slot(self) -> Slot {
        self.0
    }

    /// The bytes of the record, to be filled by a device that uses no addresses.
    pub(crate) fn record_mut(&mut self) -> &mut [u8] {
        let len = self.0.record_len();
        &mut self.0.bytes_mut()[..len]
    }

    /// Lets the next transfer fill only the first sectors, for a record that is shorter than the payload
    /// it stands for.
    pub(crate) fn narrow(&mut self, sectors: u32) {
        assert!((1..=self.0.class).contains(&sectors), "a record fits its slot");
        self.0.record_sectors = sectors;
    }

    /// Undoes [`SlotMut::narrow`].
    pub(crate) fn widen(&mut self) {
        self.0.record_sectors = self.0.class;
    }

    /// Makes the slot a record of `stored`, which stands for another payload.
    pub(crate) fn store(&mut self, stored: &[u8], footer: &Footer) {
        self.record_mut()[..stored.len()].copy_from_slice(stored);
        self.finish(stored.len(), footer);
    }

    /// Makes the slot a record of its payload.
    pub(crate) fn seal(&mut self, footer: &Footer) {
        self.finish(self.len(), footer);
    }

    /// Writes the footer, and zeroes between it and the stored bytes: what a former owner left there is
    /// not to reach the disk.
    fn finish(&mut self, stored_len: usize, footer: &Footer) {
        assert_eq!(footer.stored_len as usize, stored_len, "a footer describes its own record");
        let (_, tail) = self.record_mut().split_at_mut(stored_len);
        let (padding, end) = tail.split_at_mut(tail.len() - FOOTER_BYTES);
        padding.fill(0);
        end.copy_from_slice(&footer.encode());
    }

    /// The bytes where the footer of a record is.
    pub(crate) fn footer(&self) -> &[u8; FOOTER_BYTES] {
        self.0.record().last_chunk().expect("a record ends with a footer")
    }

    /// The first `stored_len` bytes of the record, if nothing but zeros lies between them and the footer.
    pub(crate) fn stored(&self, stored_len: u32) -> Option<&[u8]> {
        let record = self.0.record();
        let (stored, tail) = record.split_at_checked(stored_len as usize)?;
        let padding = &tail[..tail.len().checked_sub(FOOTER_BYTES)?];
        padding.iter().all(|byte| *byte == 0).then_some(stored)
    }
}

impl Deref for SlotMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.payload()
    }
}

impl DerefMut for SlotMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.0.payload_len as usize;
        &mut self.0.bytes_mut()[..len]
    }
}

impl AsRef<[u8]> for SlotMut {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for SlotMut {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for SlotMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotMut").field("payload_len", &self.len()).finish_non_exhaustive()
    }
}
