//! Which run each block is in, and where: a table of 256 parts. Readers wait for nobody; of writers, one a part.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_epoch::Guard;

use super::body::OFFSET_BITS;
use super::runs::NUMBER_BITS;
use crate::swap::{Array, Words};

const PARTS: usize = 256;
const SLOTS_MIN: usize = 64;
const EMPTY: u64 = 0;
/// Where an entry was: those that were put behind it are still to be found.
const GRAVE: u64 = u64::MAX;
const TAG_SHIFT: u32 = NUMBER_BITS + OFFSET_BITS;

/// Where a block is: a run, and the block's position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) run: u32,
    pub(super) offset: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    parts: Box<[Part]>,
    bytes: AtomicUsize,
    /// Hashes come from whoever runs an engine, and must not be able to aim at a part.
    keys: [u64; 2],
}

/// Apart from the others in the processor's cache.
#[derive(Debug)]
#[repr(align(64))]
struct Part {
    slots: Words,
    writer: Mutex<Count>,
}

#[derive(Debug, Default)]
struct Count {
    entries: usize,
    graves: usize,
}

/// A hash as the table spreads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread(u64);

impl Spread {
    #[inline]
    fn part(self) -> usize {
        (self.0 >> 56) as usize
    }

    /// Bits that neither of the others uses.
    #[inline]
    pub(super) fn filter(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// What an entry says of the hash: enough to grow a part without looking at a run.
    #[inline]
    fn tag(self) -> u64 {
        self.0 & ((1 << (u64::BITS - TAG_SHIFT)) - 1)
    }
}

impl Place {
    /// No run has the number zero or the last one, so that no entry looks empty or like a grave.
    #[inline]
    fn entry(self, spread: Spread) -> u64 {
        spread.tag() << TAG_SHIFT | u64::from(self.run) << OFFSET_BITS | u64::from(self.offset)
    }

    #[inline]
    fn of_entry(entry: u64) -> Self {
        Self {
            run: (entry >> OFFSET_BITS) as u32 & ((1 << NUMBER_BITS) - 1),
            offset: entry as u32 & ((1 << OFFSET_BITS) - 1),
        }
    }
}

impl Table {
    pub(super) fn new(keys: [u64; 2]) -> Self {
        let part = |_| Part { slots: Words::none(), writer: Mutex::default() };
        Self { parts: (0..PARTS).map(part).collect(), bytes: AtomicUsize::new(0), keys }
    }

    /// How the table spreads a hash.
    #[inline]
    pub(super) fn spread(&self, hash: u64) -> Spread {
        // A folded product of 128 bits.
        let product = u128::from(hash ^ self.keys[0]) * u128::from(self.keys[1] | 1);
        Spread(product as u64 ^ (product >> 64) as u64)
    }

    /// The first place with this hash's tag at which the block is found to be.
    #[inline]
    pub(super) fn find<T>(
        &self,
        spread: Spread,
        guard: &Guard,
        mut is_there: impl FnMut(Place) -> Option<T>,
    ) -> Option<T> {
        let part = &self.parts[spread.part()];
        let mut slots = part.slots.get(guard)?;
        'again: loop {
            for (at, entry) in probe(slots, spread) {
                if let Some(found) = is_there(Place::of_entry(entry)) {
                    return Some(found);
                }
                // Another block with the same tag, or one that was moved away after its entry was read.
                let now = part.slots.get(guard)?;
                if !std::ptr::eq(now, slots) || slots[at].load(Ordering::Acquire) != entry {
                    slots = now;
                    continue 'again;
                }
            }
            return None;
        }
    }

    /// Asks for the memory where an entry is looked for first.
    #[inline]
    pub(super) fn prefetch(&self, spread: Spread, guard: &Guard) {
        if let Some(slots) = self.parts[spread.part()].slots.get(guard) {
            hearth_proto::prefetch(&slots[spread.tag() as usize & (slots.len() - 1)]);
        }
    }

    /// Adds a block, unless it is found to be there: then it says where.
    pub(super) fn insert<T>(
        &self,
        spread: Spread,
        place: Place,
        guard: &Guard,
        is_there: impl FnMut(Place) -> Option<T>,
    ) -> Option<T> {
        let part = &self.parts[spread.part()];
        let mut count = part.lock();
        if let Some(found) = self.find(spread, guard, is_there) {
            return Some(found);
        }
        let slots = part.make_room(&mut count, &self.bytes, guard);
        let mask = slots.len() - 1;
        let mut at = spread.tag() as usize & mask;
        let was = loop {
            match slots[at].load(Ordering::Relaxed) {
                free @ (EMPTY | GRAVE) => break free,
                _ => at = (at + 1) & mask,
            }
        };
        count.graves -= usize::from(was == GRAVE);
        count.entries += 1;
        slots[at].store(place.entry(spread), Ordering::Release);
        None
    }

    /// Changes where a block is said to be, or that it is. False if it is not said to be there.
    pub(super) fn replace(&self, spread: Spread, from: Place, to: Option<Place>, guard: &Guard) -> bool {
        let part = &self.parts[spread.part()];
        let mut count = part.lock();
        let Some(slots) = part.slots.get(guard) else { return false };
        let entry = from.entry(spread);
        let Some((mut at, _)) = probe(slots, spread).find(|(_, found)| *found == entry) else { return false };
        if let Some(to) = to {
            slots[at].store(to.entry(spread), Ordering::Release);
            return true;
        }
        slots[at].store(GRAVE, Ordering::Release);
        count.entries -= 1;
        count.graves += 1;
        // At the end of a run of entries nobody looks further: it and the graves before it are no use.
        let mask = slots.len() - 1;
        if slots[(at + 1) & mask].load(Ordering::Relaxed) == EMPTY {
            while slots[at].load(Ordering::Relaxed) == GRAVE {
                slots[at].store(EMPTY, Ordering::Release);
                count.graves -= 1;
                at = at.wrapping_sub(1) & mask;
            }
        }
        if slots.len() > SLOTS_MIN && count.entries * 8 < slots.len() {
            part.resize(&mut count, &self.bytes, guard);
        }
        true
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.parts) + self.bytes.load(Ordering::Relaxed)
    }

    /// Blocks that are in it.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().entries).sum()
    }
}

impl Part {
    fn lock(&self) -> MutexGuard<'_, Count> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an eighth of the slots empty.
    fn make_room<'g>(&'g self, count: &mut Count, bytes: &AtomicUsize, guard: &'g Guard) -> &'g [AtomicU64] {
        match self.slots.get(guard) {
            Some(slots) if (count.entries + count.graves + 1) * 8 <= slots.len() * 7 => slots,
            _ => self.resize(count, bytes, guard),
        }
    }

    /// Takes as many slots as the entries and one more need.
    fn resize<'g>(&'g self, count: &mut Count, bytes: &AtomicUsize, guard: &'g Guard) -> &'g [AtomicU64] {
        let len = ((count.entries + 1) * 3 / 2).next_power_of_two().max(SLOTS_MIN);
        let (resized, mask) = (Array::zeroed(len), len - 1);
        let before = self.slots.get(guard).unwrap_or_default();
        for entry in before.iter().map(|slot| slot.load(Ordering::Relaxed)) {
            if entry != EMPTY && entry != GRAVE {
                let mut at = (entry >> TAG_SHIFT) as usize & mask;
                while resized[at].load(Ordering::Relaxed) != EMPTY {
                    at = (at + 1) & mask;
                }
                resized[at].store(entry, Ordering::Relaxed);
            }
        }
        count.graves = 0;
        bytes.fetch_add(size_of_val(&*resized), Ordering::Relaxed);
        bytes.fetch_sub(size_of_val(before), Ordering::Relaxed);
        self.slots.replace(Some(resized), guard);
        self.slots.get(guard).unwrap_or_default()
    }
}

/// The entries that have the tag of this hash, with their positions, in the order in which they are looked at.
#[inline]
fn probe(slots: &[AtomicU64], spread: Spread) -> impl Iterator<Item = (usize, u64)> {
    let (mask, tag) = (slots.len() - 1, spread.tag());
    let mut next = tag as usize & mask;
    std::iter::from_fn(move || {
        loop {
            let entry = slots[next].load(Ordering::Acquire);
            if entry == EMPTY {
                return None;
            }
            let at = next;
            next = (next + 1) & mask;
            if entry >> TAG_SHIFT == tag && entry != GRAVE {
                return Some((at, entry));
            }
        }
    })
}
