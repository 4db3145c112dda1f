//! One of the 256 parts of a directory group: an array of blocks and a table of where each one is.
//!
//! A block takes 32 bytes and four in the table, whatever the number of its replicas up to four. Parts keep
//! what must not take long short: growing a table, comparing or dropping what a node holds in a range.
//!
//! While a snapshot is being written, blocks that it has not come to yet are kept as they were when it began.

use std::sync::atomic::{AtomicU32, Ordering};

use hearth_proto::{Fingerprint, NamespaceId};
use rustc_hash::FxHashMap;

use super::blocks::{Block, Blocks, NEAR_MAX};
use super::held::Held;
use super::record::RecordError;
use crate::prefetch::prefetch;

/// Parts of a directory group; a block's hash says which.
pub(super) const SHARDS: usize = 256;
/// The low bits of a place hold the block's slot, counted from one; the rest is a tag from its hash.
const SLOT_BITS: u32 = 24;
const SLOTS_MAX: usize = (1 << SLOT_BITS) - 2;
const EMPTY: u32 = 0;
/// Where a block was: those that were put behind it are still to be found.
const GRAVE: u32 = u32::MAX;
const PLACES_MIN: usize = 16;
/// Bytes of a block in a snapshot, without its claims.
const ENCODED_BYTES: usize = 4 + Fingerprint::BYTES + 4 + 2;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// A power of two of them, never full; linear probing.
    places: Vec<u32>,
    graves: usize,
    /// Without a claim: a slot that is free.
    blocks: Blocks,
    free: Vec<u32>,
    /// Claims of blocks with more than lie beside them.
    spilled: Vec<Vec<Held>>,
    spilled_free: Vec<usize>,
    shadow: Option<Shadow>,
}

/// The blocks of a snapshot that is being written.
#[derive(Debug)]
pub(crate) struct Shadow {
    /// Slots below it are written.
    from: AtomicU32,
    /// Slots from here on were taken later.
    until: u32,
    /// What is no longer as it was: the bytes that it had, none if it was free.
    saved: FxHashMap<u32, Vec<u8>>,
}

/// What a change did to one node's claim on a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) before: u8,
    pub(super) after: u8,
    /// Length of the payload, as the first that held the block said it.
    pub(super) payload_len: u32,
}

impl Shard {
    /// Blocks with at least one claim.
    pub(super) fn len(&self) -> usize {
        self.blocks.len() - self.free.len()
    }

    /// Asks for the memory of the place that is looked at first.
    #[inline]
    pub(super) fn prefetch_place(&self, hash: u64) {
        if let Some(place) = self.places.get(self.first_at(hash)) {
            prefetch(place);
        }
    }

    /// The block with this hash, or another one that looks like it; `None` if there is surely none. Its memory is
    /// asked for, not waited for: that of its place should have been.
    #[inline]
    pub(super) fn likely(&self, hash: u64) -> Option<&Block> {
        let slot = self.tagged(hash).next()?;
        let block = &self.blocks[slot];
        prefetch(block);
        Some(block)
    }

    /// The first place of a block with this hash; beyond the table if that is empty.
    #[inline]
    fn first_at(&self, hash: u64) -> usize {
        hash as usize & self.places.len().wrapping_sub(1)
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, name: &Fingerprint) -> Option<u32> {
        self.tagged(hash).find(|slot| self.blocks[*slot].is(name))
    }

    /// The slots of blocks whose hash has the same tag, in the order of their places.
    #[inline]
    fn tagged(&self, hash: u64) -> impl Iterator<Item = u32> {
        let mask = self.places.len().wrapping_sub(1);
        let mut at = self.first_at(hash);
        std::iter::from_fn(move || {
            loop {
                let place = *self.places.get(at)?;
                if place == EMPTY {
                    return None;
                }
                at = (at + 1) & mask;
                if place != GRAVE && place >> SLOT_BITS == tag(hash) {
                    return Some(slot_in(place) as u32);
                }
            }
        })
    }

    /// The claims on the block in this slot, in the order of their holders.
    #[inline]
    pub(super) fn held(&self, slot: u32) -> &[Held] {
        self.held_by(&self.blocks[slot])
    }

    /// The claims on this block of the shard, in the order of their holders.
    #[inline]
    pub(super) fn held_by<'a>(&'a self, block: &'a Block) -> &'a [Held] {
        if block.held[0] == Held::SPILLED {
            return &self.spilled[spill_of(block)];
        }
        let count = block.held.iter().position(|held| *held == Held::NONE).unwrap_or(NEAR_MAX);
        &block.held[..count]
    }

    #[inline]
    pub(super) fn payload_len(&self, slot: u32) -> u32 {
        self.blocks[slot].payload_len
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
        let payload_len = self.payload_len(slot);
        let held = self.held(slot).iter().find(|held| held.holder() == holder);
        let before = held.map_or(0, |held| held.tiers());
        let after = tiers(before);
        if after != before {
            self.preserve(slot);
            if !self.set(slot, holder, after) {
                self.remove(hash, slot);
            }
        }
        Changed { before, after, payload_len }
    }

    /// Drops tiers of a holder's claims, those that are named for the block, wherever there are any, and tells
    /// of each block: what the holder had of them and the payload's length.
    pub(super) fn drop_tiers(
        &mut self,
        holder: u16,
        tiers: impl Fn(&Fingerprint) -> u8,
        mut dropped: impl FnMut(&Fingerprint, Changed),
    ) {
        for slot in 0..self.blocks.len() as u32 {
            let Some(before) = self.held(slot).iter().find(|held| held.holder() == holder) else { continue };
            let (before, name) = (before.tiers(), self.blocks[slot].name());
            let after = before & !tiers(&name);
            if after == before {
                continue;
            }
            self.preserve(slot);
            let payload_len = self.payload_len(slot);
            if !self.set(slot, holder, after) {
                self.remove(hash(&name), slot);
            }
            dropped(&name, Changed { before, after, payload_len });
        }
    }

    /// Every block with its claims, in no order that means anything.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&Fingerprint, u32, &[Held])) {
        for block in self.blocks.iter() {
            let held = self.held_by(block);
            if !held.is_empty() {
                visit(&block.name(), block.payload_len, held);
            }
        }
    }

    /// Begins a snapshot of what is here now.
    pub(super) fn begin_shadow(&mut self) {
        let until = self.blocks.len() as u32;
        self.shadow = Some(Shadow { from: AtomicU32::new(0), until, saved: FxHashMap::default() });
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
            match shadow.saved.get(&slot) {
                Some(saved) => out.extend_from_slice(saved),
                None => self.encode(slot, out),
            }
        }
        // Only writers read it, and none is at work while a reader is.
        shadow.from.store(to, Ordering::Relaxed);
        to < shadow.until
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
            self.set(slot, held.holder(), held.tiers());
        }
        Ok(())
    }

    /// Sets a holder's claim; one without tiers goes away. False when none is left.
    fn set(&mut self, slot: u32, holder: u16, tiers: u8) -> bool {
        let block = self.blocks[slot];
        let mut held = smallvec::SmallVec::<[Held; NEAR_MAX + 1]>::from_slice(self.held_by(&block));
        match held.binary_search_by_key(&holder, |held| held.holder()) {
            Ok(at) if tiers == 0 => drop(held.remove(at)),
            Ok(at) => held[at] = Held::new(holder, tiers),
            Err(at) if tiers != 0 => held.insert(at, Held::new(holder, tiers)),
            Err(_) => {}
        }
        if block.held[0] == Held::SPILLED {
            let spill = spill_of(&block);
            if held.len() > NEAR_MAX {
                self.spilled[spill] = held.into_vec();
                return true;
            }
            self.spilled[spill] = Vec::new();
            self.spilled_free.push(spill);
        }
        let mut near = [Held::NONE; NEAR_MAX];
        if held.len() > NEAR_MAX {
            near = self.spill(held.into_vec());
        } else {
            near[..held.len()].copy_from_slice(&held);
        }
        self.blocks[slot].held = near;
        near[0] != Held::NONE
    }

    fn spill(&mut self, held: Vec<Held>) -> [Held; NEAR_MAX] {
        let spill = match self.spilled_free.pop() {
            Some(spill) => {
                self.spilled[spill] = held;
                spill
            }
            None => {
                self.spilled.push(held);
                self.spilled.len() - 1
            }
        };
        let [low, high] = [spill & 0xffff, spill >> 16].map(|half| Held::raw(half as u16));
        [Held::SPILLED, low, high, Held::NONE]
    }

    fn insert(&mut self, hash: u64, name: &Fingerprint, payload_len: u32, held: Held) -> u32 {
        self.make_room();
        let mut near = [Held::NONE; NEAR_MAX];
        near[0] = held;
        let block = Block { words: name.words, namespace: name.namespace.0, payload_len, held: near };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.preserve(slot);
                self.blocks[slot] = block;
                slot
            }
            None => {
                let len = self.blocks.len();
                assert!(len < SLOTS_MAX, "a directory group holds under 2^32 blocks");
                self.blocks.push(block);
                len as u32
            }
        };
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        while self.places[at] != EMPTY && self.places[at] != GRAVE {
            at = (at + 1) & mask;
        }
        if self.places[at] == GRAVE {
            self.graves -= 1;
        }
        self.places[at] = place_of(hash, slot);
        slot
    }

    fn remove(&mut self, hash: u64, slot: u32) {
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        while self.places[at] != place_of(hash, slot) {
            debug_assert_ne!(self.places[at], EMPTY, "the block is in the table");
            at = (at + 1) & mask;
        }
        self.places[at] = GRAVE;
        self.graves += 1;
        // At the end of a run nobody looks further: it and the graves before it are no use.
        if self.places[(at + 1) & mask] == EMPTY {
            while self.places[at] == GRAVE {
                self.places[at] = EMPTY;
                self.graves -= 1;
                at = at.wrapping_sub(1) & mask;
            }
        }
        self.blocks[slot].held = [Held::NONE; NEAR_MAX];
        self.free.push(slot);
    }

    /// Keeps a quarter of the places empty.
    fn make_room(&mut self) {
        let needed = self.len() + 1;
        if (needed + self.graves) * 4 <= self.places.len() * 3 {
            return;
        }
        // Twice as many if blocks are the cause, as many if graves are.
        let count = (needed * 2).next_power_of_two().max(PLACES_MIN);
        self.places.clear();
        self.places.resize(count, EMPTY);
        self.places.shrink_to_fit();
        self.graves = 0;
        for (slot, block) in self.blocks.iter().enumerate() {
            if block.held[0] == Held::NONE {
                continue;
            }
            let hash = hash(&block.name());
            let mut at = hash as usize & (count - 1);
            while self.places[at] != EMPTY {
                at = (at + 1) & (count - 1);
            }
            self.places[at] = place_of(hash, slot as u32);
        }
    }

    /// Keeps the slot as it is for the snapshot that has not come to it yet.
    fn preserve(&mut self, slot: u32) {
        let Some(shadow) = &self.shadow else { return };
        if slot >= shadow.until
            || slot < shadow.from.load(Ordering::Relaxed)
            || shadow.saved.contains_key(&slot)
        {
            return;
        }
        let mut bytes = Vec::new();
        self.encode(slot, &mut bytes);
        if let Some(shadow) = &mut self.shadow {
            shadow.saved.insert(slot, bytes);
        }
    }

    /// Appends the block in this slot, nothing if it is free.
    fn encode(&self, slot: u32, out: &mut Vec<u8>) {
        let block = &self.blocks[slot];
        let held = self.held_by(block);
        if !held.is_empty() {
            encode_to(&block.name(), block.payload_len, held, out);
        }
    }
}

/// A block as a snapshot has it: namespace u32, fingerprint, payload length u32, number u16 of claims and those,
/// little-endian.
fn encode_to(name: &Fingerprint, payload_len: u32, held: &[Held], out: &mut Vec<u8>) {
    out.extend_from_slice(&name.namespace.0.to_le_bytes());
    out.extend_from_slice(&name.to_bytes());
    out.extend_from_slice(&payload_len.to_le_bytes());
    out.extend_from_slice(&(held.len() as u16).to_le_bytes());
    out.extend(held.iter().flat_map(|held| held.to_bytes()));
}

#[cfg(any(test, feature = "sim"))]
pub(super) fn encode(name: &Fingerprint, payload_len: u32, held: &[Held]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_to(name, payload_len, held, &mut out);
    out
}

/// A block that [`encode_to`] wrote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoded<'a> {
    pub(super) name: Fingerprint,
    pub(super) payload_len: u32,
    held: &'a [[u8; 2]],
}

impl<'a> Encoded<'a> {
    /// The first block of these bytes, and the bytes behind it.
    pub(super) fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), RecordError> {
        let cut = RecordError("a block that is cut");
        let (head, rest) = bytes.split_first_chunk::<ENCODED_BYTES>().ok_or(cut.clone())?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mut name = [0; Fingerprint::BYTES];
        name.copy_from_slice(&head[4..20]);
        let count = usize::from(u16::from_le_bytes([head[24], head[25]]));
        let (held, rest) = rest.split_at_checked(count * 2).ok_or(cut)?;
        let name = Fingerprint::from_bytes(NamespaceId(number(0)), &name);
        Ok((Self { name, payload_len: number(20), held: held.as_chunks().0 }, rest))
    }

    /// The claims; `None` for bytes that are none.
    pub(super) fn held(&self) -> impl Iterator<Item = Option<Held>> + 'a {
        self.held.iter().map(|bytes| Held::from_bytes(*bytes))
    }
}

/// Where a block is: the part of the group, and the place there. It is part of the protocol.
#[inline]
pub(super) fn hash(name: &Fingerprint) -> u64 {
    name.words[1] ^ u64::from(name.namespace.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The part of the group that a block with this hash is in.
#[inline]
pub(super) fn shard_of(hash: u64) -> usize {
    (hash >> 56) as usize
}

/// The digest of one block in the sum of those that a node holds in a range. It is part of the protocol.
#[inline]
pub(super) fn digest(name: &Fingerprint) -> u64 {
    let mixed = (name.words[0] ^ hash(name).rotate_left(32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

#[inline]
fn tag(hash: u64) -> u32 {
    (hash >> 48) as u32 & 0xff
}

#[inline]
fn place_of(hash: u64, slot: u32) -> u32 {
    tag(hash) << SLOT_BITS | (slot + 1)
}

/// The slot that a place leads to, which must not be empty.
#[inline]
fn slot_in(place: u32) -> usize {
    (place as usize & ((1 << SLOT_BITS) - 1)) - 1
}

#[inline]
fn spill_of(block: &Block) -> usize {
    usize::from(block.held[1].to_raw()) | usize::from(block.held[2].to_raw()) << 16
}
