//! Every block of a directory group with its claims, and the way to each.
//!
//! Blocks are split by hash into 256 ranges with a table of places each: what must not take long stays short, growing
//! a table, comparing or dropping what a node holds in a range. Whoever follows a chain needs few of the tables: its
//! blocks lie one after the other.

use hearth_proto::{Fingerprint, prefetch};
use smallvec::SmallVec;

use super::blocks::{Blocks, Shadow};
use super::encoded::Encoded;
use super::held::Held;
use super::places::Places;
use super::record::RecordError;

/// Ranges of a directory group; a block's hash says which.
pub(super) const RANGES: usize = 256;
/// Parts of a chain that are followed at once: as many as memory is asked for together.
const TRAILS: usize = 32;
/// Blocks beyond the next one whose memory is asked for on a trail.
const AHEAD: i32 = 16;
/// Places whose blocks are looked at together.
const WARM_PLACES: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct BlockTable {
    ranges: Box<[Places]>,
    blocks: Blocks,
}

/// What a change did to one node's claim on a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) before: u8,
    pub(super) after: u8,
    /// Length of the payload, as the first that held the block said it.
    pub(super) payload_len: u32,
}

impl Default for BlockTable {
    fn default() -> Self {
        Self { ranges: (0..RANGES).map(|_| Places::default()).collect(), blocks: Blocks::default() }
    }
}

impl BlockTable {
    /// Blocks with at least one claim.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Visits blocks in their order: each one's range, and its claims in the order of their holders.
    #[inline]
    pub(super) fn find_each(&self, names: &[Fingerprint], mut visit: impl FnMut(usize, &[Held])) {
        let mut slots = SmallVec::<[Option<u32>; TRAILS]>::from_elem(None, names.len());
        self.locate(names, &mut slots);
        for (name, slot) in names.iter().zip(slots) {
            let held = slot.map_or(&[][..], |slot| self.blocks.held(&self.blocks[slot]));
            visit(range_of(hash(name)), held);
        }
    }

    /// Finds the slot of each block: on several trails at once, so that the memory which one waits for comes while the
    /// others are followed.
    fn locate(&self, names: &[Fingerprint], slots: &mut [Option<u32>]) {
        let part = names.len().div_ceil(TRAILS).max(1);
        let mut trails: SmallVec<[Trail<'_>; TRAILS]> = names
            .chunks(part)
            .zip(slots.chunks_mut(part))
            .map(|(names, slots)| Trail::new(names, slots))
            .collect();
        while !trails.is_empty() {
            trails.retain(|trail| self.follow(trail));
        }
    }

    /// Goes on until memory has to be waited for. False at the end.
    #[inline]
    fn follow(&self, trail: &mut Trail<'_>) -> bool {
        while let Some(name) = trail.name() {
            let slot = match trail.stage {
                Stage::Expect => match self.blocks.get(trail.expected).filter(|block| block.is(name)) {
                    Some(_) => Some(trail.expected),
                    None => {
                        self.prefetch_place(hash(name));
                        trail.stage = Stage::Place;
                        return true;
                    }
                },
                Stage::Place => match self.places(hash(name)).likely(hash(name)).next() {
                    Some(slot) => {
                        prefetch(&self.blocks[slot]);
                        trail.stage = Stage::Block(slot);
                        return true;
                    }
                    None => None,
                },
                Stage::Block(slot) if self.blocks[slot].is(name) => Some(slot),
                Stage::Block(_) => self.find(hash(name), name),
            };
            let was_expected = matches!(trail.stage, Stage::Expect);
            match trail.found(slot) {
                true if was_expected => self.prefetch_slot(trail.ahead(AHEAD)),
                true => {
                    (0..AHEAD).step_by(2).for_each(|blocks| self.prefetch_slot(trail.ahead(blocks)));
                    return true;
                }
                // Nothing says where the next is.
                false => {
                    trail.name().into_iter().for_each(|name| self.prefetch_place(hash(name)));
                    return true;
                }
            }
        }
        false
    }

    /// Asks for the memory of a slot, if that is one.
    #[inline]
    fn prefetch_slot(&self, slot: u32) {
        self.blocks.get(slot).into_iter().for_each(prefetch);
    }

    /// Asks for the memory of the place that is looked at first.
    #[inline]
    pub(super) fn prefetch_place(&self, hash: u64) {
        self.places(hash).prefetch(hash);
    }

    /// Asks for the memory of the block with this hash: that of its place should be there.
    #[inline]
    pub(super) fn prefetch_block(&self, hash: u64) {
        if let Some(slot) = self.places(hash).likely(hash).next() {
            prefetch(&self.blocks[slot]);
        }
    }

    /// Length of the block's payload in bytes, if anybody holds it.
    pub(super) fn payload_len(&self, name: &Fingerprint) -> Option<u32> {
        self.find(hash(name), name).map(|slot| self.blocks[slot].payload_len)
    }

    /// Changes the tiers on which a holder claims a block, from those that it does now.
    pub(super) fn change(
        &mut self,
        hash: u64,
        name: &Fingerprint,
        holder: u16,
        payload_len: u32,
        tiers: impl FnOnce(u8) -> u8,
    ) -> Changed {
        let Some(slot) = self.find(hash, name) else {
            let after = tiers(0);
            if after != 0 {
                self.insert(hash, name, payload_len, Held::new(holder, after));
            }
            return Changed { before: 0, after, payload_len };
        };
        self.change_at(hash, slot, holder, tiers)
    }

    /// Drops tiers of a holder's claims in a range, those that are named for the block, and tells of each block:
    /// what the holder had of them and the payload's length.
    pub(super) fn drop_tiers(
        &mut self,
        range: usize,
        holder: u16,
        tiers: impl Fn(&Fingerprint) -> u8,
        mut dropped: impl FnMut(&Fingerprint, Changed),
    ) {
        let (mut from, mut slots, mut is_more) = (0, Vec::new(), true);
        while is_more {
            is_more = self.take_warm(range, &mut from, &mut slots);
            for slot in slots.drain(..) {
                self.drop_at(slot, holder, &tiers, &mut dropped);
            }
        }
    }

    /// Drops all of a holder's claims, as [`Self::drop_tiers`] does.
    pub(super) fn drop_all(&mut self, holder: u16, mut dropped: impl FnMut(&Fingerprint, Changed)) {
        for slot in 0..self.blocks.slots() {
            self.drop_at(slot, holder, &|_| u8::MAX, &mut dropped);
        }
    }

    fn drop_at(
        &mut self,
        slot: u32,
        holder: u16,
        tiers: &impl Fn(&Fingerprint) -> u8,
        dropped: &mut impl FnMut(&Fingerprint, Changed),
    ) {
        let block = &self.blocks[slot];
        if self.blocks.held(block).iter().any(|held| held.holder() == holder) {
            let name = block.name();
            let changed = self.change_at(hash(&name), slot, holder, |before| before & !tiers(&name));
            if changed.before != changed.after {
                dropped(&name, changed);
            }
        }
    }

    /// Every block of a range with its payload's length and its claims, in no order that means anything.
    pub(super) fn for_each_in(&self, range: usize, mut visit: impl FnMut(&Fingerprint, u32, &[Held])) {
        let (mut from, mut slots, mut is_more) = (0, Vec::new(), true);
        while is_more {
            is_more = self.take_warm(range, &mut from, &mut slots);
            for slot in slots.drain(..) {
                let block = &self.blocks[slot];
                visit(&block.name(), block.payload_len, self.blocks.held(block));
            }
        }
    }

    /// Appends the next slots of a range, and asks for their memory. False if there are no more.
    fn take_warm(&self, range: usize, from: &mut usize, slots: &mut Vec<u32>) -> bool {
        let is_more = self.ranges[range].take_slots(from, WARM_PLACES, slots);
        slots.iter().for_each(|slot| prefetch(&self.blocks[*slot]));
        is_more
    }

    /// Begins a snapshot of what is here now.
    pub(super) fn begin_shadow(&mut self) {
        self.blocks.begin_shadow();
    }

    /// Ends it, whether it was written or not.
    pub(super) fn end_shadow(&mut self) -> Option<Shadow> {
        self.blocks.end_shadow()
    }

    /// Appends the next slots of the snapshot, at the most so many. False if there are no more.
    pub(super) fn write_shadow(&self, slots_max: u32, out: &mut Vec<u8>) -> bool {
        self.blocks.write_shadow(slots_max, out)
    }

    /// Puts back one block of what [`Self::write_shadow`] wrote.
    pub(super) fn restore(&mut self, hash: u64, encoded: &Encoded<'_>) -> Result<(), RecordError> {
        if self.find(hash, &encoded.name).is_some() {
            return Err(RecordError("a block that is there twice"));
        }
        let mut held = encoded.held();
        let first = held.next().flatten().ok_or(RecordError("a block without a claim"))?;
        let slot = self.insert(hash, &encoded.name, encoded.payload_len, first);
        let mut last = first;
        for held in held {
            let held = held.ok_or(RecordError("a claim that is none"))?;
            if held.holder() <= last.holder() {
                return Err(RecordError("claims out of order"));
            }
            last = held;
            self.blocks.set(slot, held.holder(), held.tiers());
        }
        Ok(())
    }

    /// Every block as a snapshot has it, sorted: the canonical bytes.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn canonical(&self) -> Vec<Vec<u8>> {
        let encoded = |slot| {
            let mut out = Vec::new();
            self.blocks.encode(slot, &mut out);
            out
        };
        let mut blocks: Vec<_> =
            (0..self.blocks.slots()).map(encoded).filter(|encoded| !encoded.is_empty()).collect();
        blocks.sort_unstable();
        blocks
    }

    #[inline]
    fn find(&self, hash: u64, name: &Fingerprint) -> Option<u32> {
        self.places(hash).likely(hash).find(|slot| self.blocks[*slot].is(name))
    }

    fn insert(&mut self, hash: u64, name: &Fingerprint, payload_len: u32, held: Held) -> u32 {
        let slot = self.blocks.insert(name, payload_len, held);
        self.ranges[range_of(hash)].insert(hash, slot);
        slot
    }

    fn change_at(&mut self, hash: u64, slot: u32, holder: u16, tiers: impl FnOnce(u8) -> u8) -> Changed {
        let block = &self.blocks[slot];
        let payload_len = block.payload_len;
        let held = self.blocks.held(block).iter().find(|held| held.holder() == holder);
        let before = held.map_or(0, |held| held.tiers());
        let after = tiers(before);
        if after != before && !self.blocks.set(slot, holder, after) {
            self.ranges[range_of(hash)].remove(hash, slot);
        }
        Changed { before, after, payload_len }
    }

    #[inline]
    fn places(&self, hash: u64) -> &Places {
        &self.ranges[range_of(hash)]
    }
}

/// Blocks of a chain that are looked for one after the other: the next lies behind the one before, or before it, until
/// it does not.
struct Trail<'a> {
    names: &'a [Fingerprint],
    slots: &'a mut [Option<u32>],
    at: usize,
    stage: Stage,
    /// Where the next block should be.
    expected: u32,
    /// One, or minus one.
    step: i32,
}

/// Where the next block is looked for.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// In the slot where it is expected.
    Expect,
    /// At its place, whose memory was asked for.
    Place,
    /// In the slot that its place leads to, whose memory was asked for.
    Block(u32),
}

impl<'a> Trail<'a> {
    fn new(names: &'a [Fingerprint], slots: &'a mut [Option<u32>]) -> Self {
        Self { names, slots, at: 0, stage: Stage::Expect, expected: u32::MAX, step: 1 }
    }

    /// What is looked for next.
    #[inline]
    fn name(&self) -> Option<&'a Fingerprint> {
        self.names.get(self.at)
    }

    /// The slot of the block that comes so many after the next one.
    #[inline]
    fn ahead(&self, blocks: i32) -> u32 {
        self.expected.wrapping_add_signed(blocks * self.step)
    }

    /// Notes where that is, and goes on to the next. False if that one is to be looked for at its place: two have to
    /// lie one after the other before a third is expected to, and one that is nowhere says nothing.
    #[inline]
    fn found(&mut self, slot: Option<u32>) -> bool {
        self.slots[self.at] = slot;
        self.at += 1;
        let Some(slot) = slot else {
            self.stage = Stage::Place;
            return false;
        };
        let is_behind = slot == self.expected;
        let is_before = slot == self.expected.wrapping_add_signed(-2 * self.step);
        if is_before {
            self.step = -self.step;
        }
        self.expected = slot.wrapping_add_signed(self.step);
        let is_first = self.at == 1;
        self.stage = if is_behind || is_before || is_first { Stage::Expect } else { Stage::Place };
        matches!(self.stage, Stage::Expect)
    }
}

/// Where a block is: the range, and the place there. It is part of the protocol.
#[inline]
pub(super) fn hash(name: &Fingerprint) -> u64 {
    name.words[1] ^ u64::from(name.namespace.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The range that a block with this hash is in.
#[inline]
pub(super) fn range_of(hash: u64) -> usize {
    (hash >> 56) as usize
}

/// The digest of one block in the sum of those that a node holds in a range. It is part of the protocol.
#[inline]
pub(super) fn digest(name: &Fingerprint) -> u64 {
    let mixed = (name.words[0] ^ hash(name).rotate_left(32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hearth_proto::NamespaceId;
    use proptest::prelude::*;

    use super::*;

    fn name(number: u16) -> Fingerprint {
        // Few ranges and tags, so that places meet.
        let word = u64::from(number % 5) << 56 | u64::from(number / 7);
        Fingerprint { namespace: NamespaceId(0), words: [u64::from(number), word] }
    }

    fn found(table: &BlockTable, numbers: &[u16]) -> Vec<Vec<u16>> {
        let names: Vec<Fingerprint> = numbers.iter().copied().map(name).collect();
        let mut found = Vec::new();
        table.find_each(&names, |range, held| {
            assert_eq!(range, range_of(hash(&names[found.len()])));
            found.push(held.iter().map(|held| held.holder()).collect());
        });
        found
    }

    #[test]
    fn a_trail_goes_on_across_the_edge_of_a_chunk() {
        let count = super::super::blocks::CHUNK as u16 + 100;
        let mut table = BlockTable::default();
        for number in 0..count {
            let name = name(number);
            table.change(hash(&name), &name, number % 3, 1, |_| 1);
        }
        let mut asked: Vec<u16> = (0..count).collect();
        for _ in 0..2 {
            let expected: Vec<Vec<u16>> = asked.iter().map(|number| vec![number % 3]).collect();
            assert_eq!(found(&table, &asked), expected);
            asked.reverse();
        }
    }

    /// Blocks of chains, forwards and backwards, in pieces of any length, with others and some that are nowhere.
    fn chain() -> impl Strategy<Value = Vec<u16>> {
        let piece = (0_u16..600, 1_u16..80, any::<bool>()).prop_map(|(from, len, is_forward)| {
            let mut piece: Vec<u16> = (from..from + len).collect();
            if !is_forward {
                piece.reverse();
            }
            piece
        });
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn chains_are_found_however_their_blocks_lie(
            changes in prop::collection::vec((chain(), 0_u16..7, any::<bool>()), 1..6),
            asked in chain(),
        ) {
            let (mut table, mut model) = (BlockTable::default(), BTreeMap::<u16, Vec<u16>>::new());
            for (chain, holder, added) in changes {
                for number in chain.into_iter().filter(|number| number % 11 != 0) {
                    let name = name(number);
                    table.change(hash(&name), &name, holder, 1, |_| u8::from(added));
                    let holders = model.entry(number).or_default();
                    holders.retain(|known| *known != holder);
                    holders.extend(added.then_some(holder));
                    holders.sort_unstable();
                }
            }
            let expected: Vec<Vec<u16>> =
                asked.iter().map(|number| model.get(number).cloned().unwrap_or_default()).collect();
            prop_assert_eq!(found(&table, &asked), expected);
            // All claims of one holder, in one range and in all.
            let held = |model: &BTreeMap<u16, Vec<u16>>, holder| {
                let held = model.iter().filter(|(_, holders)| holders.contains(&holder));
                held.map(|(number, _)| *number).collect::<Vec<_>>()
            };
            let mut dropped = Vec::new();
            table.drop_tiers(3, 2, |_| u8::MAX, |name, _| dropped.push(name.words[0] as u16));
            table.drop_all(2, |name, _| dropped.push(name.words[0] as u16));
            dropped.sort_unstable();
            prop_assert_eq!(dropped, held(&model, 2));
            model.values_mut().for_each(|holders| holders.retain(|holder| *holder != 2));
            model.retain(|_, holders| !holders.is_empty());
            prop_assert_eq!(table.len(), model.len());
            let mut visited = BTreeMap::new();
            for range in 0..RANGES {
                table.for_each_in(range, |name, _, held| {
                    let holders = held.iter().map(|held| held.holder()).collect::<Vec<_>>();
                    assert!(visited.insert(name.words[0] as u16, holders).is_none());
                });
            }
            prop_assert_eq!(visited, model);
        }
    }
}
