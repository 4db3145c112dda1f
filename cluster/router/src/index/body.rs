//! The words of one run: consecutive blocks of a chain, and who holds which of them.
//!
//! A body is one array: a head, entries, and the blocks' hashes in the order of the chain. A hash never moves or
//! changes within a body, so that whoever found a block in it may read who holds it, however much else changes. An
//! entry says of one member that it holds the blocks of an interval; a member with holes has several.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Member;
use crate::swap::Array;

/// Blocks of a run at the most.
pub(super) const BLOCKS_MAX: usize = 1 << OFFSET_BITS;
pub(super) const OFFSET_BITS: u32 = 12;
/// Hashes that are compared at once where a chain and a run part.
const PROBES: usize = 8;
/// The head: number of blocks in the low half, room for entries in 30 bits of the high half.
const HEAD: usize = 1;
/// Bit of the head: somebody told of a chain that has a block of this one behind another block, so that somebody lies,
/// and who holds blocks on both sides need not hold one chain.
const DISPUTED: u64 = 1 << 63;
/// Bit of the head: the first block is one that a chain begins with, and noted as such.
const ROOT: u64 = 1 << 62;
const FLAGS: u64 = DISPUTED | ROOT;

/// A body as it is read. Only who has the run's lock changes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body<'g> {
    words: &'g [AtomicU64],
}

/// What one member holds of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) member: Member,
    pub(super) from: u32,
    /// Beyond the last; none are held if it is zero.
    pub(super) until: u32,
}

impl Held {
    #[inline]
    fn of_word(word: u64) -> Self {
        Self {
            member: Member((word >> 32) as u16),
            from: (word >> 16) as u32 & 0xffff,
            until: word as u32 & 0xffff,
        }
    }

    fn to_word(self) -> u64 {
        u64::from(self.member.0) << 32 | u64::from(self.from) << 16 | u64::from(self.until)
    }

    pub(super) fn range(&self) -> Range<u32> {
        self.from..self.until
    }
}

impl<'g> Body<'g> {
    #[inline]
    pub(super) fn of(words: &'g [AtomicU64]) -> Self {
        Self { words }
    }

    /// The words of an empty run.
    pub(super) fn empty(entries: usize, blocks: usize) -> Array {
        let words = Array::zeroed(HEAD + entries + blocks.min(BLOCKS_MAX));
        words[0].store((entries as u64) << 32, Ordering::Relaxed);
        words
    }

    /// The same blocks and entries with room for so many.
    pub(super) fn grown(self, entries: usize, blocks: usize) -> Array {
        let grown = Self::empty(entries, blocks);
        let body = Body::of(&grown);
        let flags = self.words[0].load(Ordering::Relaxed) & FLAGS;
        body.words[0].store(flags | (entries as u64) << 32 | self.len() as u64, Ordering::Relaxed);
        let held = self.entries().iter().filter(|word| word.load(Ordering::Relaxed) != 0);
        body.entries().iter().zip(held).for_each(|(to, from)| copy(to, from));
        body.slots().iter().zip(self.hashes()).for_each(|(to, from)| copy(to, from));
        grown
    }

    #[inline]
    fn head(self) -> u64 {
        self.words[0].load(Ordering::Acquire)
    }

    /// Blocks that are in it.
    #[inline]
    pub(super) fn len(self) -> usize {
        self.head() as u32 as usize
    }

    #[inline]
    fn room(self) -> usize {
        ((self.head() & !FLAGS) >> 32) as usize
    }

    fn is_disputed(self) -> bool {
        self.head() & DISPUTED != 0
    }

    pub(super) fn dispute(self) {
        self.words[0].fetch_or(DISPUTED, Ordering::AcqRel);
    }

    pub(super) fn is_root(self) -> bool {
        self.head() & ROOT != 0
    }

    pub(super) fn mark_root(self) {
        self.words[0].fetch_or(ROOT, Ordering::AcqRel);
    }

    #[inline]
    fn entries(self) -> &'g [AtomicU64] {
        &self.words[HEAD..HEAD + self.room()]
    }

    /// Room for hashes, of which the first [`Self::len`] are there.
    #[inline]
    fn slots(self) -> &'g [AtomicU64] {
        &self.words[HEAD + self.room()..]
    }

    #[inline]
    fn hashes(self) -> &'g [AtomicU64] {
        let (len, slots) = (self.len(), self.slots());
        &slots[..len.min(slots.len())]
    }

    /// The hash of a block, if it is there.
    #[inline]
    pub(super) fn hash(self, offset: u32) -> Option<u64> {
        self.slots().get(offset as usize).map(|hash| hash.load(Ordering::Relaxed))
    }

    /// The same of a block that is there to be seen.
    #[inline]
    pub(super) fn seen(self, offset: u32) -> Option<u64> {
        self.hashes().get(offset as usize).map(|hash| hash.load(Ordering::Relaxed))
    }

    /// What each member holds.
    #[inline]
    pub(super) fn held(self) -> impl Iterator<Item = Held> + 'g {
        let words = self.entries().iter().map(|word| word.load(Ordering::Acquire));
        words.filter(|word| *word != 0).map(Held::of_word)
    }

    /// How many blocks of a chain are here from this block on.
    #[inline]
    pub(super) fn common(self, offset: u32, chain: &[u64]) -> usize {
        let hashes = self.hashes().get(offset as usize..).unwrap_or_default();
        let both = hashes.iter().zip(chain);
        both.take_while(|(hash, other)| hash.load(Ordering::Relaxed) == **other).count()
    }

    /// The same if all of them are held by one member that told of them in this order: then a hash stands for all
    /// blocks before it.
    #[inline]
    pub(super) fn common_of_one(self, offset: u32, chain: &[u64]) -> usize {
        let is_same = |at: usize| self.hash(offset + at as u32) == Some(chain[at]);
        match chain.len().checked_sub(1) {
            Some(last) if !self.is_disputed() && is_same(last) => return chain.len(),
            Some(_) if !self.is_disputed() => {}
            _ => return self.common(offset, chain),
        }
        let (mut same, mut differs) = (0, chain.len());
        while differs - same > PROBES {
            let step = (differs - same) / (PROBES + 1);
            // All of them are asked for before any is there.
            let found: usize = (1..=PROBES).map(|probe| usize::from(is_same(same + probe * step - 1))).sum();
            if found < PROBES {
                differs = same + (found + 1) * step - 1;
            }
            same += found * step;
        }
        same + (same..differs).take_while(|at| is_same(*at)).count()
    }

    /// Writes a block's hash that is not seen yet. False if there is no room.
    pub(super) fn put(self, offset: u32, hash: u64) -> bool {
        let Some(slot) = self.slots().get(offset as usize) else { return false };
        slot.store(hash, Ordering::Relaxed);
        true
    }

    /// Lets so many blocks be seen that were put behind the last one.
    pub(super) fn publish(self, blocks: u32) {
        self.words[0].fetch_add(u64::from(blocks), Ordering::AcqRel);
    }

    /// Room for entries that are free.
    fn free_entry(self) -> Option<&'g AtomicU64> {
        self.entries().iter().find(|word| word.load(Ordering::Relaxed) == 0)
    }

    /// The hashes of all blocks.
    pub(super) fn chain(self) -> impl Iterator<Item = u64> + 'g {
        self.hashes().iter().map(|hash| hash.load(Ordering::Relaxed))
    }

    /// A body of its own for some of the blocks of the whole, and what is held of them by those that stay.
    pub(super) fn part(self, range: Range<u32>, chain: &[u64], stays: impl Fn(&Held) -> bool) -> Array {
        let clip = |held: Held| {
            let (from, until) = (held.from.max(range.start), held.until.min(range.end));
            let clipped = Held { from: from - range.start, until: until.saturating_sub(range.start), ..held };
            (from < until && stays(&clipped)).then_some(clipped)
        };
        let held: Vec<Held> = self.held().filter_map(clip).collect();
        let blocks = &chain[range.start as usize..range.end as usize];
        let part = Self::empty(held.len().max(1), blocks.len());
        let body = Body::of(&part);
        let kept = if range.start == 0 { FLAGS } else { DISPUTED };
        let flags = self.words[0].load(Ordering::Relaxed) & kept;
        body.words[0].fetch_or(flags | blocks.len() as u64, Ordering::Relaxed);
        body.entries()
            .iter()
            .zip(held)
            .for_each(|(word, held)| word.store(held.to_word(), Ordering::Relaxed));
        body.slots().iter().zip(blocks).for_each(|(slot, hash)| slot.store(*hash, Ordering::Relaxed));
        part
    }

    /// Notes that a member holds these blocks. Gives the blocks that it did not hold before; `None`, and nothing is
    /// changed, if there is no room for another entry.
    pub(super) fn add(self, member: Member, range: Range<u32>) -> Option<u32> {
        let (mut from, mut until, mut known) = (range.start, range.end, 0);
        let mut kept: Option<&AtomicU64> = None;
        // Whatever it meets is a part of what takes its place, which readers may see beside it.
        let touches = |word: &&AtomicU64| {
            let held = Held::of_word(word.load(Ordering::Relaxed));
            held.until != 0 && held.member == member && held.from <= range.end && held.until >= range.start
        };
        for word in self.entries().iter().filter(touches) {
            let held = Held::of_word(word.load(Ordering::Relaxed));
            known += held.until.min(range.end).saturating_sub(held.from.max(range.start));
            (from, until) = (from.min(held.from), until.max(held.until));
            kept = kept.or(Some(word));
        }
        let word = kept.or_else(|| self.free_entry())?;
        word.store(Held { member, from, until }.to_word(), Ordering::Release);
        let others = self.entries().iter().filter(touches).filter(|other| !std::ptr::eq(*other, word));
        others.for_each(|other| other.store(0, Ordering::Release));
        Some(range.end - range.start - known)
    }

    /// Notes that a member no longer holds a block. False if it did not; `None`, and nothing is changed, if there is
    /// no room for another entry.
    pub(super) fn remove(self, member: Member, offset: u32) -> Option<bool> {
        let holds = |word: &&AtomicU64| {
            let held = Held::of_word(word.load(Ordering::Relaxed));
            held.member == member && held.range().contains(&offset)
        };
        let Some(word) = self.entries().iter().find(holds) else { return Some(false) };
        let held = Held::of_word(word.load(Ordering::Relaxed));
        let left = Held { until: offset, ..held };
        let right = Held { from: offset + 1, ..held };
        let rest = match (left.range().is_empty(), right.range().is_empty()) {
            (true, true) => 0,
            (true, false) => right.to_word(),
            (false, true) => left.to_word(),
            (false, false) => {
                self.free_entry()?.store(right.to_word(), Ordering::Release);
                left.to_word()
            }
        };
        word.store(rest, Ordering::Release);
        Some(true)
    }

    /// Takes all of a member's entries away, and gives the blocks that it held.
    pub(super) fn clear(self, member: Member) -> u32 {
        let mut blocks = 0;
        for word in self.entries() {
            let held = Held::of_word(word.load(Ordering::Relaxed));
            if held.until != 0 && held.member == member {
                blocks += held.until - held.from;
                word.store(0, Ordering::Release);
            }
        }
        blocks
    }

    /// Room that it has: for entries, and for blocks.
    pub(super) fn capacity(self) -> (usize, usize) {
        (self.room(), self.slots().len())
    }

    /// Bytes of memory.
    pub(super) fn bytes(self) -> usize {
        size_of_val(self.words)
    }
}

fn copy(to: &AtomicU64, from: &AtomicU64) {
    to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_more_entries_than_members() {
        let (entries, blocks) = (200_000, 10);
        let words = Body::empty(entries, blocks);
        let body = Body::of(&words);
        assert_eq!(body.capacity(), (entries, blocks));
        assert!(body.put(0, 7));
        body.publish(1);
        body.dispute();
        body.mark_root();
        assert_eq!(body.add(Member(u16::MAX), 0..1), Some(1));
        let grown = body.grown(2 * entries, blocks);
        let body = Body::of(&grown);
        assert_eq!((body.capacity(), body.len()), ((2 * entries, blocks), 1));
        assert!(body.is_disputed() && body.is_root());
        assert_eq!(body.held().collect::<Vec<_>>(), [Held { member: Member(u16::MAX), from: 0, until: 1 }]);
        assert_eq!(body.seen(0), Some(7));
    }
}
