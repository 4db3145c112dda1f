//! Where the blocks of one range of a directory group are: a table of places, by the blocks' hashes.
//!
//! A place takes eight bytes and says enough of its block's hash that a table grows without looking at a block.

use hearth_proto::prefetch;

/// Slots that a place can lead to.
pub(super) const SLOTS_MAX: usize = u32::MAX as usize - 1;
const PLACES_MIN: usize = 16;

/// A block's tag in the high half, and its slot in the low half, counted from one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place(u64);

impl Place {
    const EMPTY: Self = Self(0);
    /// Where a block was: those that were put behind it are still to be found.
    const GRAVE: Self = Self(u64::MAX);

    fn new(tag: u32, slot: u32) -> Self {
        Self(u64::from(tag) << 32 | u64::from(slot + 1))
    }

    #[inline]
    fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    fn slot(self) -> Option<u32> {
        (self != Self::GRAVE).then(|| (self.0 as u32).checked_sub(1)).flatten()
    }
}

/// See the module. A power of two of places, a quarter of them empty; linear probing.
#[derive(Debug, Default)]
pub(super) struct Places {
    places: Vec<Place>,
    blocks: usize,
    graves: usize,
}

impl Places {
    /// Asks for the memory of the place that is looked at first.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        if let Some(place) = self.places.get(self.first_at(hash)) {
            prefetch(place);
        }
    }

    /// The slots of blocks whose hash has the same tag, in the order of their places.
    #[inline]
    pub(super) fn likely(&self, hash: u64) -> impl Iterator<Item = u32> {
        let mask = self.places.len().wrapping_sub(1);
        let mut at = self.first_at(hash);
        std::iter::from_fn(move || {
            loop {
                let place = *self.places.get(at)?;
                if place == Place::EMPTY {
                    return None;
                }
                at = (at + 1) & mask;
                if place.tag() == tag(hash)
                    && let Some(slot) = place.slot()
                {
                    return Some(slot);
                }
            }
        })
    }

    /// Appends the slots at the next places from this one on, of so many places. False if there are no more.
    pub(super) fn take_slots(&self, from: &mut usize, places_max: usize, out: &mut Vec<u32>) -> bool {
        let to = self.places.len().min(from.saturating_add(places_max));
        out.extend(self.places[*from..to].iter().filter_map(|place| place.slot()));
        *from = to;
        to < self.places.len()
    }

    /// Gives a block a place; it must not have one.
    pub(super) fn insert(&mut self, hash: u64, slot: u32) {
        self.make_room();
        let mask = self.places.len() - 1;
        let mut at = self.first_at(hash);
        while self.places[at].slot().is_some() {
            at = (at + 1) & mask;
        }
        if self.places[at] == Place::GRAVE {
            self.graves -= 1;
        }
        self.places[at] = Place::new(tag(hash), slot);
        self.blocks += 1;
    }

    /// Takes a block's place away; it must have one. No other block's place changes.
    pub(super) fn remove(&mut self, hash: u64, slot: u32) {
        let (mask, place) = (self.places.len() - 1, Place::new(tag(hash), slot));
        let mut at = self.first_at(hash);
        while self.places[at] != place {
            debug_assert_ne!(self.places[at], Place::EMPTY, "the block is in the table");
            at = (at + 1) & mask;
        }
        self.places[at] = Place::GRAVE;
        self.blocks -= 1;
        self.graves += 1;
        // At the end of a run nobody looks further: it and the graves before it are no use.
        if self.places[(at + 1) & mask] == Place::EMPTY {
            while self.places[at] == Place::GRAVE {
                self.places[at] = Place::EMPTY;
                self.graves -= 1;
                at = at.wrapping_sub(1) & mask;
            }
        }
    }

    /// The first place of a block with this hash; beyond the table if that is empty.
    #[inline]
    fn first_at(&self, hash: u64) -> usize {
        tag(hash) as usize & self.places.len().wrapping_sub(1)
    }

    /// Keeps a quarter of the places empty.
    fn make_room(&mut self) {
        let needed = self.blocks + 1;
        if (needed + self.graves) * 4 <= self.places.len() * 3 {
            return;
        }
        // Twice as many if blocks are the cause, as many if graves are.
        let count = (needed * 2).next_power_of_two().max(PLACES_MIN);
        let before = std::mem::replace(&mut self.places, vec![Place::EMPTY; count]);
        self.graves = 0;
        for place in before.into_iter().filter(|place| place.slot().is_some()) {
            let mut at = place.tag() as usize & (count - 1);
            while self.places[at] != Place::EMPTY {
                at = (at + 1) & (count - 1);
            }
            self.places[at] = place;
        }
    }
}

#[inline]
fn tag(hash: u64) -> u32 {
    hash as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn slots_of(places: &Places) -> Vec<u32> {
        let (mut slots, mut from) = (Vec::new(), 0);
        while places.take_slots(&mut from, 7, &mut slots) {}
        slots.sort_unstable();
        slots
    }

    proptest! {
        #[test]
        fn every_block_is_found_and_no_other(changes in prop::collection::vec((any::<bool>(), 0_u64..300), 0..2_000)) {
            let (mut places, mut model) = (Places::default(), BTreeMap::new());
            for (slot, (added, number)) in changes.into_iter().enumerate() {
                // Runs of places that meet, tags that are alike, and a tag of nothing but ones.
                let hash = if number % 50 == 0 { u64::MAX - number } else { number / 2 * 0x1_0000_0003 };
                let slot = slot as u32;
                if added && !model.contains_key(&number) {
                    places.insert(hash, slot);
                    model.insert(number, (hash, slot));
                } else if !added && let Some((hash, slot)) = model.remove(&number) {
                    places.remove(hash, slot);
                }
            }
            prop_assert_eq!(places.blocks, model.len());
            for (hash, slot) in model.values() {
                prop_assert_eq!(places.likely(*hash).filter(|found| found == slot).count(), 1);
            }
            let mut slots: Vec<u32> = model.values().map(|(_, slot)| *slot).collect();
            slots.sort_unstable();
            prop_assert_eq!(slots_of(&places), slots);
            // Nothing is left behind that would make searches long.
            model.into_values().for_each(|(hash, slot)| places.remove(hash, slot));
            prop_assert_eq!((places.blocks, places.graves, slots_of(&places)), (0, 0, Vec::new()));
        }
    }

    #[test]
    fn the_last_slot_there_can_be_is_no_grave() {
        let mut places = Places::default();
        let slot = SLOTS_MAX as u32 - 1;
        places.insert(u64::MAX, slot);
        assert!(places.likely(u64::MAX).eq([slot]));
        places.remove(u64::MAX, slot);
        assert_eq!(places.likely(u64::MAX).count(), 0);
    }
}
