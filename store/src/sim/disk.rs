//! The medium under a simulated device: what outlives a crash, and what does not.
//!
//! A write that ended is visible at once and volatile until a sync that began after its end. A crash
//! decides about each volatile write on its own. Nothing here is random: whoever crashes the disk says
//! what becomes of each write.

use std::ops::Range;

/// Unit in which a medium writes all or nothing.
pub(super) const ATOM_BYTES: usize = 512;
/// Buffers kept for further writes.
const SPARES_MAX: usize = 16;

/// What a crash makes of one volatile write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    Lose,
    /// Only the atoms before this one reached the medium.
    Prefix(usize),
    /// Only the atoms from this one on did.
    Suffix(usize),
    /// Only the atoms did whose bit, counted modulo 64, is set.
    Atoms(u64),
}

pub(super) struct SimulatedDisk {
    /// What reads see.
    visible: Vec<u8>,
    /// What a crash leaves if it loses every volatile write.
    durable: Vec<u8>,
    /// Length that a crash cannot shorten.
    durable_len: usize,
    volatile: Vec<Volatile>,
    writes_ended: u64,
    /// Atoms whose bytes a fault changed, where the store was not told.
    tainted: Vec<bool>,
    /// How long the disk may become.
    limit_bytes: usize,
    /// True once a sync said that it had done what it had not.
    lied: bool,
    spares: Vec<Vec<u8>>,
}

struct Volatile {
    number: u64,
    offset: usize,
    data: Vec<u8>,
}

impl SimulatedDisk {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            visible: Vec::new(),
            durable: Vec::new(),
            durable_len: 0,
            volatile: Vec::new(),
            writes_ended: 0,
            tainted: Vec::new(),
            limit_bytes,
            lied: false,
            spares: Vec::new(),
        }
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.visible.len()
    }

    /// Lengthens the disk; false if there is no room. The length is durable after the next sync.
    pub(super) fn allocate(&mut self, len_bytes: usize) -> bool {
        if len_bytes > self.limit_bytes {
            return false;
        }
        self.set_len(len_bytes.max(self.len_bytes()));
        true
    }

    pub(super) fn set_limit(&mut self, limit_bytes: usize) {
        self.limit_bytes = limit_bytes;
    }

    /// Fills `into` as far as the disk goes, and says how far.
    pub(super) fn read(&self, offset: usize, into: &mut [u8]) -> usize {
        let range = self.clamp(offset, into.len());
        into[..range.len()].copy_from_slice(&self.visible[range.clone()]);
        range.len()
    }

    /// Takes a write that ended, or the part of it that the disk is long enough for.
    pub(super) fn write(&mut self, offset: usize, data: &[u8]) -> usize {
        let range = self.clamp(offset, data.len());
        let data = &data[..range.len()];
        self.visible[range.clone()].copy_from_slice(data);
        self.tainted[atoms(&range)].fill(false);
        let mut kept = self.spares.pop().unwrap_or_default();
        kept.extend_from_slice(data);
        self.volatile.push(Volatile { number: self.writes_ended, offset: range.start, data: kept });
        self.writes_ended += 1;
        range.len()
    }

    /// Forgets a range: it is as if something had been written there.
    pub(super) fn discard(&mut self, offset: usize, len: usize) {
        let range = self.clamp(offset, len);
        self.write(range.start, &vec![0xdd; range.len()]);
    }

    /// The writes that a sync covers which begins now.
    pub(super) fn writes_ended(&self) -> u64 {
        self.writes_ended
    }

    pub(super) fn volatile_count(&self) -> usize {
        self.volatile.len()
    }

    /// Makes durable what had ended when `writes_ended` was asked.
    pub(super) fn sync(&mut self, covered: u64) {
        self.durable_len = self.len_bytes();
        let mut volatile = std::mem::take(&mut self.volatile);
        for write in volatile.extract_if(.., |write| write.number < covered) {
            self.persist(&write, Fate::Keep);
            self.spare(write.data);
        }
        self.volatile = volatile;
    }

    /// Says that a sync was done, and does nothing.
    pub(super) fn lie(&mut self) {
        self.lied = true;
    }

    pub(super) fn has_lied(&self) -> bool {
        self.lied
    }

    /// What a sync may do that fails: it forgets volatile writes, and nobody is told which.
    pub(super) fn forget_volatile(&mut self, mut forget: impl FnMut() -> bool) {
        let mut volatile = std::mem::take(&mut self.volatile);
        for write in volatile.extract_if(.., |_| forget()) {
            let range = write.offset..write.offset + write.data.len();
            self.visible[range.clone()].copy_from_slice(&self.durable[range]);
            self.spare(write.data);
        }
        for write in &volatile {
            self.visible[write.offset..write.offset + write.data.len()].copy_from_slice(&write.data);
        }
        self.volatile = volatile;
    }

    /// Loses power. `order` may rearrange the volatile writes; `fate` decides about each in turn.
    pub(super) fn crash(
        &mut self,
        len_bytes: impl FnOnce(Range<usize>) -> usize,
        order: impl FnOnce(&mut [usize]),
        mut fate: impl FnMut(usize, usize) -> Fate,
    ) {
        let volatile = std::mem::take(&mut self.volatile);
        let mut sequence: Vec<_> = (0..volatile.len()).collect();
        order(&mut sequence);
        for index in sequence {
            let write = &volatile[index];
            self.persist(write, fate(index, write.data.len() / ATOM_BYTES));
        }
        volatile.into_iter().for_each(|write| self.spare(write.data));
        let len_bytes = len_bytes(self.durable_len..self.len_bytes());
        self.durable_len = len_bytes;
        self.set_len(len_bytes);
        self.visible.clone_from(&self.durable);
    }

    /// The bytes that every crash leaves.
    pub(super) fn durable(&self, offset: usize, len: usize) -> Option<&[u8]> {
        self.durable.get(offset..offset + len)
    }

    /// What lies on the medium.
    pub(super) fn image(&self) -> Vec<u8> {
        self.durable.clone()
    }

    /// Puts an image back that was taken before, and forgets whatever happened since.
    pub(super) fn restore(&mut self, image: &[u8]) {
        self.set_len(image.len());
        self.durable.copy_from_slice(image);
        self.visible.copy_from_slice(image);
        self.tainted.fill(false);
        self.volatile.clear();
    }

    /// Flips one bit of the medium, wherever the bytes are.
    pub(super) fn rot(&mut self, offset: usize, bit: u8) {
        self.taint(offset, 1);
        self.visible[offset] ^= 1 << bit;
        self.durable[offset] ^= 1 << bit;
        for write in &mut self.volatile {
            if let Some(byte) = offset.checked_sub(write.offset).and_then(|at| write.data.get_mut(at)) {
                *byte ^= 1 << bit;
            }
        }
    }

    /// Notes that the bytes of a range are not what the store thinks.
    pub(super) fn taint(&mut self, offset: usize, len: usize) {
        let range = self.clamp(offset, len);
        self.tainted[atoms(&range)].fill(true);
    }

    pub(super) fn is_tainted(&self, offset: usize, len: usize) -> bool {
        let range = self.clamp(offset, len);
        self.tainted[atoms(&range)].contains(&true)
    }

    fn persist(&mut self, write: &Volatile, fate: Fate) {
        let reaches = |atom: usize| match fate {
            Fate::Keep => true,
            Fate::Lose => false,
            Fate::Prefix(end) => atom < end,
            Fate::Suffix(start) => atom >= start,
            Fate::Atoms(mask) => mask >> (atom % 64) & 1 == 1,
        };
        if fate == Fate::Keep {
            self.durable[write.offset..write.offset + write.data.len()].copy_from_slice(&write.data);
            return;
        }
        for (atom, data) in write.data.chunks(ATOM_BYTES).enumerate() {
            if reaches(atom) {
                let offset = write.offset + atom * ATOM_BYTES;
                self.durable[offset..offset + data.len()].copy_from_slice(data);
            }
        }
    }

    fn set_len(&mut self, len_bytes: usize) {
        self.visible.resize(len_bytes, 0);
        self.durable.resize(len_bytes, 0);
        self.tainted.resize(len_bytes.div_ceil(ATOM_BYTES), false);
    }

    fn clamp(&self, offset: usize, len: usize) -> Range<usize> {
        let start = offset.min(self.len_bytes());
        start..offset.saturating_add(len).min(self.len_bytes()).max(start)
    }

    fn spare(&mut self, mut data: Vec<u8>) {
        if self.spares.len() < SPARES_MAX {
            data.clear();
            self.spares.push(data);
        }
    }
}

fn atoms(range: &Range<usize>) -> Range<usize> {
    range.start / ATOM_BYTES..range.end.div_ceil(ATOM_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> SimulatedDisk {
        let mut disk = SimulatedDisk::new(8 * ATOM_BYTES);
        assert!(disk.allocate(8 * ATOM_BYTES));
        disk.sync(0);
        disk
    }

    fn crash(disk: &mut SimulatedDisk, fate: Fate) {
        disk.crash(|lens| lens.end, |_| (), |_, _| fate);
    }

    #[test]
    fn what_was_synced_survives_and_what_was_not_may_be_lost() {
        let mut disk = disk();
        disk.write(0, &[1; ATOM_BYTES]);
        let covered = disk.writes_ended();
        disk.write(ATOM_BYTES, &[2; ATOM_BYTES]);
        disk.sync(covered);
        crash(&mut disk, Fate::Lose);
        let mut bytes = [9; 2 * ATOM_BYTES];
        assert_eq!(disk.read(0, &mut bytes), bytes.len());
        assert_eq!((bytes[0], bytes[ATOM_BYTES]), (1, 0));
    }

    #[test]
    fn a_tear_leaves_some_atoms_of_a_write() {
        for (fate, expected) in
            [(Fate::Prefix(1), [7, 0, 0]), (Fate::Suffix(2), [0, 0, 7]), (Fate::Atoms(0b101), [7, 0, 7])]
        {
            let mut disk = disk();
            disk.write(0, &[7; 3 * ATOM_BYTES]);
            crash(&mut disk, fate);
            let found = [0, 1, 2].map(|atom| disk.durable(atom * ATOM_BYTES, 1).unwrap()[0]);
            assert_eq!(found, expected, "{fate:?}");
        }
    }

    #[test]
    fn a_length_that_no_sync_followed_may_be_lost() {
        let mut disk = SimulatedDisk::new(8 * ATOM_BYTES);
        assert!(disk.allocate(ATOM_BYTES));
        disk.sync(0);
        assert!(disk.allocate(2 * ATOM_BYTES));
        disk.crash(|lens| lens.start, |_| (), |_, _| Fate::Keep);
        assert_eq!(disk.len_bytes(), ATOM_BYTES);
        assert!(!disk.allocate(9 * ATOM_BYTES));
    }
}
