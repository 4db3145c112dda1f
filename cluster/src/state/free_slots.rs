//! Slots that are free, so that blocks which come together lie together: those of one chunk are taken in their order, of
//! a chunk that has many.

use super::blocks::{CHUNK, CHUNK_BITS};

const WORDS: usize = CHUNK / 64;

/// See the module.
#[derive(Debug)]
pub(super) struct FreeSlots {
    /// A bit for each slot of each chunk.
    chunks: Vec<Chunk>,
    /// Chunks that have at least 2^n free slots and fewer than twice as many, for each n; without the current one.
    by_octave: Box<[Vec<u32>]>,
    /// The chunk that slots are taken of, and the word that is looked at next.
    current: Option<(u32, usize)>,
    len: usize,
}

#[derive(Debug)]
struct Chunk {
    words: Box<[u64; WORDS]>,
    count: u32,
    /// The list that it is in, and where.
    listed: Option<(usize, usize)>,
}

impl Default for FreeSlots {
    fn default() -> Self {
        let by_octave = (0..=CHUNK_BITS).map(|_| Vec::new()).collect();
        Self { chunks: Vec::new(), by_octave, current: None, len: 0 }
    }
}

impl FreeSlots {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Follows the array, which has grown by a chunk without a free slot.
    pub(super) fn add_chunk(&mut self) {
        self.chunks.push(Chunk { words: Box::new([0; WORDS]), count: 0, listed: None });
    }

    /// Makes a slot free.
    pub(super) fn give(&mut self, slot: u32) {
        let (number, at) = (slot >> CHUNK_BITS, slot as usize & (CHUNK - 1));
        let chunk = &mut self.chunks[number as usize];
        debug_assert_eq!(chunk.words[at / 64] & 1 << (at % 64), 0, "it was in use");
        chunk.words[at / 64] |= 1 << (at % 64);
        chunk.count += 1;
        self.len += 1;
        if chunk.count.is_power_of_two() && self.current.is_none_or(|(current, _)| current != number) {
            self.unlist(number);
            self.list(number);
        }
    }

    /// Takes a free slot, behind the one that was taken before as long as there are some.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        loop {
            let (number, mut at) = match self.current {
                Some(current) => current,
                None => (self.next_chunk()?, 0),
            };
            let chunk = &mut self.chunks[number as usize];
            while at < WORDS && chunk.words[at] == 0 {
                at += 1;
            }
            if let Some(word) = chunk.words.get_mut(at) {
                let bit = word.trailing_zeros();
                *word &= *word - 1;
                chunk.count -= 1;
                self.len -= 1;
                self.current = Some((number, at));
                return Some(number << CHUNK_BITS | (at as u32 * 64 + bit));
            }
            // What has become free before it meanwhile is taken another time.
            self.current = None;
            self.list(number);
        }
    }

    /// Takes a chunk off its list that has about as many free slots as any other.
    fn next_chunk(&mut self) -> Option<u32> {
        let number = *self.by_octave.iter().rev().find_map(|chunks| chunks.last())?;
        self.unlist(number);
        Some(number)
    }

    fn list(&mut self, number: u32) {
        let chunk = &mut self.chunks[number as usize];
        if let Some(octave) = chunk.count.checked_ilog2() {
            let list = &mut self.by_octave[octave as usize];
            chunk.listed = Some((octave as usize, list.len()));
            list.push(number);
        }
    }

    fn unlist(&mut self, number: u32) {
        let Some((octave, at)) = self.chunks[number as usize].listed.take() else { return };
        self.by_octave[octave].swap_remove(at);
        if let Some(moved) = self.by_octave[octave].get(at) {
            self.chunks[*moved as usize].listed = Some((octave, at));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const CHUNKS: usize = 3;

    fn full() -> FreeSlots {
        let mut free = FreeSlots::default();
        (0..CHUNKS).for_each(|_| free.add_chunk());
        free
    }

    #[test]
    fn slots_are_taken_in_order_of_the_chunk_that_has_most() {
        let mut free = full();
        assert_eq!(free.take(), None);
        let chunk = CHUNK as u32;
        for slot in [5, 3, 2 * chunk + 9, chunk + 70, chunk + 2, chunk + 1, 7, chunk + 3] {
            free.give(slot);
        }
        assert_eq!([free.take(), free.take()], [Some(chunk + 1), Some(chunk + 2)]);
        // What comes behind those is taken in its turn.
        free.give(chunk + 99);
        let taken: Vec<u32> = std::iter::from_fn(|| free.take()).collect();
        assert_eq!(taken, [chunk + 3, chunk + 70, chunk + 99, 3, 5, 7, 2 * chunk + 9]);
    }

    proptest! {
        #[test]
        fn each_free_slot_is_taken_once(steps in prop::collection::vec((any::<bool>(), 0..(CHUNKS * CHUNK) as u32), 0..3_000)) {
            let (mut free, mut model) = (full(), BTreeSet::new());
            for (is_given, slot) in steps {
                if is_given && model.insert(slot) {
                    free.give(slot);
                } else if let Some(slot) = free.take() {
                    prop_assert!(model.remove(&slot));
                } else {
                    prop_assert!(model.is_empty());
                }
                prop_assert_eq!(free.len(), model.len());
                let listed: usize = free.by_octave.iter().map(Vec::len).sum();
                prop_assert!(listed <= CHUNKS, "each chunk is listed once");
            }
            let rest: BTreeSet<u32> = std::iter::from_fn(|| free.take()).collect();
            prop_assert_eq!(rest, model);
        }
    }
}
