//! The blocks of a directory group, in one array that grows without moving what is in it.
//!
//! A block takes 32 bytes whatever the number of its claims up to four. Blocks lie in the order in which they came,
//! those of a chain, which are stored and reported together, one after the other; once some have gone, others fill the
//! gaps in order (`free_slots.rs`). Nothing here grows by more than a chunk at a time.
//!
//! While a snapshot is being written, blocks that it has not come to yet are kept as they were when it began.

use std::ops::{Index, IndexMut};
use std::sync::atomic::{AtomicU32, Ordering};

use hearth_proto::{Fingerprint, NamespaceId};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::encoded::encode_to;
use super::free_slots::FreeSlots;
use super::held::Held;
use super::places::SLOTS_MAX;

/// Claims that lie beside the block.
const NEAR_MAX: usize = 4;
/// Blocks that memory is asked for at a time: 256 KiB.
pub(super) const CHUNK: usize = 1 << CHUNK_BITS;
pub(super) const CHUNK_BITS: u32 = 13;

/// Half a line of the processor's cache, and never in two of them.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Block {
    /// Of the fingerprint.
    words: [u64; 2],
    namespace: u32,
    pub(super) payload_len: u32,
    /// In the order of their holders; [`Held::SPILLED`] and then two halves of an index if there are more.
    held: [Held; NEAR_MAX],
}

const _: () = assert!(size_of::<Block>() == 32);

impl Block {
    const FREE: Self = Self { words: [0; 2], namespace: 0, payload_len: 0, held: [Held::NONE; NEAR_MAX] };

    #[inline]
    pub(super) fn name(&self) -> Fingerprint {
        Fingerprint { namespace: NamespaceId(self.namespace), words: self.words }
    }

    /// A slot that is free is nobody's.
    #[inline]
    pub(super) fn is(&self, name: &Fingerprint) -> bool {
        self.words == name.words && self.namespace == name.namespace.0 && !self.is_free()
    }

    #[inline]
    fn is_free(&self) -> bool {
        self.held[0] == Held::NONE
    }

    #[inline]
    fn spill(&self) -> Option<usize> {
        let index = || usize::from(self.held[1].to_raw()) | usize::from(self.held[2].to_raw()) << 16;
        (self.held[0] == Held::SPILLED).then(index)
    }
}

/// See the module. Slots are numbered from zero.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// The first `len` slots of them have been used.
    chunks: Vec<Box<[Block]>>,
    len: usize,
    free: FreeSlots,
    /// Claims of blocks with more than lie beside them, as many in a chunk as blocks.
    spilled: Vec<Box<[Vec<Held>]>>,
    /// Of them, those that have been used.
    spilled_len: usize,
    spilled_free: Vec<u32>,
    shadow: Option<Shadow>,
}

/// The blocks of a snapshot that is being written.
#[derive(Debug)]
pub(crate) struct Shadow {
    /// Slots below it are written.
    from: AtomicU32,
    /// Slots from here on were taken later.
    until: u32,
    /// What is no longer as it was, by chunk: the bytes that it had, none if it was free.
    saved: Vec<FxHashMap<u32, Vec<u8>>>,
}

impl Shadow {
    fn saved(&self, slot: u32) -> Option<&Vec<u8>> {
        self.saved[slot as usize >> CHUNK_BITS].get(&slot)
    }
}

impl Blocks {
    /// Blocks with at least one claim.
    pub(super) fn len(&self) -> usize {
        self.len - self.free.len()
    }

    /// Slots that are or were in use: those below it.
    pub(super) fn slots(&self) -> u32 {
        self.len as u32
    }

    /// The block in this slot, if that is one.
    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&Block> {
        self.chunks.get(slot as usize >> CHUNK_BITS).map(|chunk| &chunk[slot as usize & (CHUNK - 1)])
    }

    /// The claims on this block, in the order of their holders.
    #[inline]
    pub(super) fn held<'a>(&'a self, block: &'a Block) -> &'a [Held] {
        if let Some(spill) = block.spill() {
            return &self.spilled[spill >> CHUNK_BITS][spill & (CHUNK - 1)];
        }
        let count = block.held.iter().position(|held| *held == Held::NONE).unwrap_or(NEAR_MAX);
        &block.held[..count]
    }

    /// Takes a slot for a block with its first claim.
    pub(super) fn insert(&mut self, name: &Fingerprint, payload_len: u32, first: Held) -> u32 {
        let mut held = [Held::NONE; NEAR_MAX];
        held[0] = first;
        let block = Block { words: name.words, namespace: name.namespace.0, payload_len, held };
        if let Some(slot) = self.free.take() {
            self.preserve(slot);
            self[slot] = block;
            return slot;
        }
        let slot = self.len;
        assert!(slot < SLOTS_MAX, "a directory group holds under 2^32 blocks");
        if slot >> CHUNK_BITS == self.chunks.len() {
            self.chunks.push(vec![Block::FREE; CHUNK].into());
            self.free.add_chunk();
        }
        self.len += 1;
        self[slot as u32] = block;
        slot as u32
    }

    /// Sets a holder's claim; one without tiers goes away. Without any the slot is free: false.
    pub(super) fn set(&mut self, slot: u32, holder: u16, tiers: u8) -> bool {
        self.preserve(slot);
        let block = self[slot];
        let mut held = SmallVec::<[Held; NEAR_MAX + 1]>::from_slice(self.held(&block));
        match held.binary_search_by_key(&holder, |held| held.holder()) {
            Ok(at) if tiers == 0 => drop(held.remove(at)),
            Ok(at) => held[at] = Held::new(holder, tiers),
            Err(at) if tiers != 0 => held.insert(at, Held::new(holder, tiers)),
            Err(_) => {}
        }
        if let Some(spill) = block.spill() {
            if held.len() > NEAR_MAX {
                *self.spilled_mut(spill) = held.into_vec();
                return true;
            }
            *self.spilled_mut(spill) = Vec::new();
            self.spilled_free.push(spill as u32);
        }
        let mut near = [Held::NONE; NEAR_MAX];
        if held.len() > NEAR_MAX {
            near = self.spill(held.into_vec());
        } else {
            near[..held.len()].copy_from_slice(&held);
        }
        self[slot].held = near;
        let is_free = near[0] == Held::NONE;
        if is_free {
            self.free.give(slot);
        }
        !is_free
    }

    fn spill(&mut self, held: Vec<Held>) -> [Held; NEAR_MAX] {
        let spill = self.spilled_free.pop().map_or(self.spilled_len, |spill| spill as usize);
        if spill == self.spilled_len {
            if spill >> CHUNK_BITS == self.spilled.len() {
                self.spilled.push(vec![Vec::new(); CHUNK].into());
            }
            self.spilled_len += 1;
        }
        *self.spilled_mut(spill) = held;
        let [low, high] = [spill & 0xffff, spill >> 16].map(|half| Held::raw(half as u16));
        [Held::SPILLED, low, high, Held::NONE]
    }

    fn spilled_mut(&mut self, spill: usize) -> &mut Vec<Held> {
        &mut self.spilled[spill >> CHUNK_BITS][spill & (CHUNK - 1)]
    }

    /// Begins a snapshot of what is here now.
    pub(super) fn begin_shadow(&mut self) {
        let until = self.slots();
        let saved = vec![FxHashMap::default(); self.chunks.len()];
        self.shadow = Some(Shadow { from: AtomicU32::new(0), until, saved });
    }

    /// Ends it, whether it was written or not.
    pub(super) fn end_shadow(&mut self) -> Option<Shadow> {
        self.shadow.take()
    }

    /// Appends the next slots of the snapshot, at the most so many. False if there are no more.
    pub(super) fn write_shadow(&self, slots_max: u32, out: &mut Vec<u8>) -> bool {
        let Some(shadow) = &self.shadow else { return false };
        let from = shadow.from.load(Ordering::Relaxed);
        let to = shadow.until.min(from.saturating_add(slots_max));
        for slot in from..to {
            match shadow.saved(slot) {
                Some(saved) => out.extend_from_slice(saved),
                None => self.encode(slot, out),
            }
        }
        // Only writers read it, and none is at work while a reader is.
        shadow.from.store(to, Ordering::Relaxed);
        to < shadow.until
    }

    /// Keeps the slot as it is for the snapshot that has not come to it yet.
    fn preserve(&mut self, slot: u32) {
        let Some(shadow) = &self.shadow else { return };
        if slot >= shadow.until || slot < shadow.from.load(Ordering::Relaxed) || shadow.saved(slot).is_some()
        {
            return;
        }
        let mut bytes = Vec::new();
        self.encode(slot, &mut bytes);
        if let Some(shadow) = &mut self.shadow {
            shadow.saved[slot as usize >> CHUNK_BITS].insert(slot, bytes);
        }
    }

    /// Appends the block in this slot, nothing if it is free.
    pub(super) fn encode(&self, slot: u32, out: &mut Vec<u8>) {
        let block = &self[slot];
        if !block.is_free() {
            encode_to(&block.name(), block.payload_len, self.held(block), out);
        }
    }
}

impl Index<u32> for Blocks {
    type Output = Block;

    #[inline]
    fn index(&self, slot: u32) -> &Block {
        &self.chunks[slot as usize >> CHUNK_BITS][slot as usize & (CHUNK - 1)]
    }
}

impl IndexMut<u32> for Blocks {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Block {
        &mut self.chunks[slot as usize >> CHUNK_BITS][slot as usize & (CHUNK - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> Fingerprint {
        Fingerprint { namespace: NamespaceId(number), words: [number.into(); 2] }
    }

    #[test]
    fn blocks_keep_their_slots_while_more_come() {
        let mut blocks = Blocks::default();
        let count = 2 * CHUNK as u32 + 3;
        assert!((0..count).all(|number| blocks.insert(&name(number), 0, Held::new(1, 1)) == number));
        assert_eq!((blocks.slots(), blocks.len()), (count, count as usize));
        for slot in [0, 1, CHUNK as u32 - 1, CHUNK as u32, count - 1] {
            assert!(blocks[slot].is(&name(slot)));
        }
        assert!((0..count).all(|slot| blocks[slot].name() == name(slot)));
        assert!(blocks.get(3 * CHUNK as u32).is_none());
    }

    #[test]
    fn a_slot_that_is_free_is_nobodys_and_is_taken_again() {
        let mut blocks = Blocks::default();
        (0..3).for_each(|number| assert_eq!(blocks.insert(&name(number), 0, Held::new(1, 1)), number));
        assert!(!blocks.set(1, 1, 0));
        assert!(!blocks[1].is(&name(1)) && !blocks[1].is(&name(0)));
        assert_eq!((blocks.slots(), blocks.len()), (3, 2));
        assert_eq!(blocks.insert(&name(7), 0, Held::new(2, 1)), 1);
        assert!(blocks[1].is(&name(7)));
    }

    #[test]
    fn claims_beyond_four_spill_and_come_back() {
        let mut blocks = Blocks::default();
        let slot = blocks.insert(&name(1), 0, Held::new(0, 1));
        let held =
            |blocks: &Blocks| blocks.held(&blocks[slot]).iter().map(|held| held.holder()).collect::<Vec<_>>();
        for holder in 1..7 {
            assert!(blocks.set(slot, holder, 2));
            assert_eq!(held(&blocks), (0..=holder).collect::<Vec<_>>());
        }
        for holder in (1..7).rev() {
            assert!(blocks.set(slot, holder, 0));
            assert_eq!(held(&blocks), (0..holder).collect::<Vec<_>>());
        }
        assert!(!blocks.set(slot, 0, 0) && blocks.len() == 0);
        assert_eq!(blocks.spilled_free.len(), blocks.spilled_len);
    }
}
