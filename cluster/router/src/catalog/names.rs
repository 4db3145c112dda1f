//! What one worker calls its blocks.
//!
//! An engine has hashes of its own, which nobody else need understand, and names its blocks by them when it drops them
//! or puts others behind them. Names belong to the worker that uses them: two engines may well give one name to
//! different blocks, by accident or because one lies, and then each is still taken at its own word alone.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use hearth_proto::Tier;

use super::tiers::Tiers;

/// Names that are forgotten together when there are too many: one part in so many.
const FORGOTTEN_DIVISOR: usize = 8;
/// Generations that the names of a full map have, about.
const GENERATIONS: usize = 64;
/// Below this size a map is not worth making smaller.
const SHRUNK_MIN: usize = 1_024;

/// What a worker means by one of its hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The block as the index has it.
    pub(super) block: u64,
    /// When it was last told of.
    generation: u32,
    /// Where the worker holds it. Never empty.
    pub(super) tiers: Tiers,
    /// Whether the block is known by its tokens: otherwise it is what the engine calls it.
    pub(super) is_rolled: bool,
}

/// What became of a name that a worker told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nobody had told of it.
    New,
    /// It means what it did.
    Same,
    /// It was not known what it means; now it stands for another block than it was taken for, in all its tiers.
    Understood {
        /// What it was taken for.
        before: u64,
    },
    /// It meant another block; the worker is taken at its last word.
    Changed {
        /// What it meant.
        before: u64,
    },
}

/// Names by the worker's hashes.
#[derive(Debug)]
pub(super) struct Names {
    by_hash: HashMap<u64, Name, Spread>,
    names_max: usize,
    told: u64,
}

impl Names {
    pub(super) fn new(names_max: usize, keys: [u64; 2]) -> Self {
        Self { by_hash: HashMap::with_hasher(Spread(keys)), names_max, told: 0 }
    }

    #[inline]
    pub(super) fn of(&self, hash: u64) -> Option<&Name> {
        self.by_hash.get(&hash)
    }

    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// The blocks that have names.
    pub(super) fn blocks(&self) -> impl Iterator<Item = u64> {
        self.by_hash.values().map(|name| name.block)
    }

    /// Notes that a block is held in a tier.
    pub(super) fn tell(&mut self, hash: u64, block: u64, is_rolled: bool, tier: Tier) -> Told {
        self.told += 1;
        let generation = self.generation();
        let new = Name { block, generation, tiers: Tiers::NONE.with(tier), is_rolled };
        let Some(name) = self.by_hash.get_mut(&hash) else {
            self.by_hash.insert(hash, new);
            return Told::New;
        };
        let before = *name;
        *name = Name { tiers: before.tiers.with(tier), is_rolled: before.is_rolled || is_rolled, ..new };
        match before.block == block {
            true => Told::Same,
            false if !before.is_rolled => Told::Understood { before: before.block },
            false => {
                name.tiers = new.tiers;
                Told::Changed { before: before.block }
            }
        }
    }

    /// Notes that a block is no longer held in a tier. Gives what it was and where it is still held; none if it was
    /// not known to be there.
    pub(super) fn drop_tier(&mut self, hash: u64, tier: Tier) -> Option<(u64, Tiers)> {
        let name = self.by_hash.get_mut(&hash).filter(|name| name.tiers.has(tier))?;
        name.tiers = name.tiers.without(tier);
        let left = (name.block, name.tiers);
        if left.1.is_empty() {
            self.by_hash.remove(&hash);
        }
        Some(left)
    }

    /// Gives memory back of which little is used.
    pub(super) fn shrink(&mut self) {
        if self.by_hash.capacity() > SHRUNK_MIN.max(self.by_hash.len() * 8) {
            self.by_hash.shrink_to(self.by_hash.len() * 2);
        }
    }

    /// Forgets the oldest if there would be too many with so many more. Gives the blocks whose names were forgotten.
    pub(super) fn make_room(&mut self, more: usize) -> Vec<u64> {
        if self.by_hash.len() + more <= self.names_max {
            return Vec::new();
        }
        let excess = (self.by_hash.len() + more - self.names_max).min(self.by_hash.len());
        let count = excess.max(self.by_hash.len() / FORGOTTEN_DIVISOR);
        let now = self.generation();
        let mut ages: Vec<u32> =
            self.by_hash.values().map(|name| now.wrapping_sub(name.generation)).collect();
        let Some(last) = count.checked_sub(1) else { return Vec::new() };
        // Those that are as old as the last one go with it.
        let (_, age, _) = ages.select_nth_unstable_by_key(last, |age| std::cmp::Reverse(*age));
        let age = *age;
        self.by_hash
            .extract_if(|_, name| now.wrapping_sub(name.generation) >= age)
            .map(|(_, name)| name.block)
            .collect()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.by_hash = HashMap::with_hasher(*self.by_hash.hasher());
    }

    fn generation(&self) -> u32 {
        (self.told / (self.names_max / GENERATIONS).max(1) as u64) as u32
    }
}

/// Spreads hashes that come from whoever runs an engine: a folded product with keys that it does not know.
#[derive(Clone, Copy, Debug)]
struct Spread([u64; 2]);

struct Spreading {
    keys: [u64; 2],
    spread: u64,
}

impl BuildHasher for Spread {
    type Hasher = Spreading;

    fn build_hasher(&self) -> Spreading {
        Spreading { keys: self.0, spread: 0 }
    }
}

impl Hasher for Spreading {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(size_of::<u64>()) {
            let mut word = [0; size_of::<u64>()];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.spread ^ word ^ self.keys[0]) * u128::from(self.keys[1] | 1);
        self.spread = product as u64 ^ (product >> 64) as u64;
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.spread
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [u64; 2] = [0x1234_5678_9abc_def1, 0xfedc_ba98_7654_3217];

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut names = Names::new(640, KEYS);
        let mut forgotten = 0;
        for hash in 0..10_000_u64 {
            forgotten += names.make_room(1).len();
            names.tell(hash, !hash, true, Tier::Gpu);
            // One that is told of again and again does not grow old.
            names.tell(7, !7, true, Tier::Gpu);
            assert!(names.len() <= 640);
            assert_eq!(names.len() + forgotten, hash as usize + 1 + usize::from(hash < 7));
        }
        assert!(names.len() >= 640 * 6 / 8, "no more than has to: {}", names.len());
        assert!((9_600..10_000).all(|hash| names.of(hash).is_some()));
        assert!(names.of(7).is_some() && names.of(6).is_none());
        let blocks = names.make_room(640);
        assert_eq!(names.len(), 0);
        assert!(blocks.contains(&!9_999));
    }

    #[test]
    fn a_worker_is_taken_at_its_last_word() {
        let mut names = Names::new(64, KEYS);
        assert_eq!(names.tell(1, 1, false, Tier::Host), Told::New);
        assert_eq!(names.tell(1, 1, false, Tier::Nvme), Told::Same);
        assert_eq!(names.tell(1, 10, true, Tier::Gpu), Told::Understood { before: 1 });
        assert_eq!(names.tell(1, 10, false, Tier::Gpu), Told::Same);
        assert!(names.of(1).is_some_and(|name| name.is_rolled && name.tiers.has(Tier::Nvme)));
        assert_eq!(names.tell(1, 20, true, Tier::Gpu), Told::Changed { before: 10 });
        assert_eq!(names.drop_tier(1, Tier::Host), None, "what was said of the other block is void");
        assert_eq!(names.drop_tier(1, Tier::Gpu), Some((20, Tiers::NONE)));
        assert_eq!((names.drop_tier(1, Tier::Gpu), names.len()), (None, 0));
    }
}
