//! A sample of blocks whose lives are followed, whether or not the store still holds them.
//!
//! A life runs from one use of a block to the next. The sample is by key, so a block is always in it or
//! never; a life pushed out by another is lost from sight at that age, which the estimate knows.
//!
//! Two small stores are played with the same sample, one that evicts by age alone and one by what was
//! learned: what was learned is followed only while it finds more.

use super::age::{Tick, bin};
use super::class::{CLASSES, Class};
use super::density::Ends;

/// Lives followed at once.
const SLOTS: usize = 1 << 14;
/// Part of a small store that is evicted at a time.
const TRIMMED: usize = 32;
/// What a lesson keeps of the uses counted before.
const MEMORY: f32 = 0.9;
/// What is learned has to find so many more in a thousand uses to be followed.
const LEAD_PERMILLE: f32 = 5.0;

#[derive(Clone, Copy)]
struct Life {
    name: u32,
    began: Tick,
    class: Class,
    known: bool,
    /// Whether the block is in the small store that evicts by age, and in the one that has learned.
    held: [bool; 2],
}

/// The followed lives, and how those ended that have.
pub(super) struct Lives {
    slots: Vec<Life>,
    /// How the lives of each class ended, at the index of [`Class`].
    pub(super) ends: Vec<Ends>,
    /// Blocks that a small store holds at the most, and that the two do.
    capacity: usize,
    held: [usize; 2],
    /// Uses that the one that has learned found and the other did not, less those the other way round.
    lead: f32,
    uses: f32,
}

/// Which blocks are followed: one of 2^`shift`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    shift: u32,
}

impl Sample {
    /// A sample that stays in sight for about four times what the store holds.
    pub(super) fn of(capacity_blocks: usize) -> Self {
        let wanted = capacity_blocks.saturating_mul(4) / SLOTS;
        Self { shift: wanted.max(1).ilog2().min(16) }
    }

    /// The part of a store's blocks that is followed.
    pub(super) fn part_of(self, capacity_blocks: usize) -> usize {
        (capacity_blocks >> self.shift).max(1)
    }

    /// The spread key of a followed block, `None` for any other.
    pub(super) fn follow(self, key: u64) -> Option<u64> {
        let spread = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (spread >> (64 - 16)).trailing_zeros().ge(&self.shift).then_some(spread)
    }
}

impl Lives {
    /// With small stores of so many blocks.
    pub(super) fn new(capacity: usize) -> Self {
        let none = Life { name: 0, began: Tick(0), class: Class::default(), known: false, held: [false; 2] };
        let (slots, ends) = (vec![none; SLOTS], vec![Ends::NONE; CLASSES]);
        Self { slots, ends, capacity, held: [0; 2], lead: 0.0, uses: 0.0 }
    }

    /// A block was used or came in: its life so far ends, the next begins.
    pub(super) fn begin(&mut self, spread: u64, class: Class, now: Tick) {
        let (at, name) = place(spread);
        let next = Life { name, began: now, class, known: true, held: [true; 2] };
        let life = std::mem::replace(&mut self.slots[at], next);
        for (count, held) in self.held.iter_mut().zip(life.held) {
            *count += usize::from(!held);
        }
        if life.known {
            let ends = &mut self.ends[life.class.index()];
            let is_use = life.name == name;
            let into = if is_use { &mut ends.used } else { &mut ends.lost };
            into[bin(now.since(life.began))] += 1.0;
            if is_use {
                let [aged, learned] = life.held.map(|held| f32::from(u8::from(held)));
                self.lead += learned - aged;
                self.uses += 1.0;
            }
        }
    }

    /// Evicts from the small stores what they hold too many. `worth` is what was learned.
    pub(super) fn trim(&mut self, now: Tick, worth: impl Fn(Class, u32) -> f32) {
        for order in [0, 1] {
            if self.held[order] <= self.capacity {
                continue;
            }
            let rank = |life: &Life| {
                let age = now.since(life.began);
                let worth = if order == 0 { 0.0 } else { worth(life.class, age) };
                (worth.to_bits(), u32::MAX - age)
            };
            let held = (0..SLOTS).filter(|at| self.slots[*at].held[order]);
            let mut ranked: Vec<_> = held.map(|at| (rank(&self.slots[at]), at)).collect();
            let evicted = self.held[order] - self.capacity + self.capacity / TRIMMED;
            let evicted = evicted.min(ranked.len());
            if evicted < ranked.len() {
                ranked.select_nth_unstable(evicted);
            }
            for (_, at) in &ranked[..evicted] {
                self.slots[*at].held[order] = false;
            }
            self.held[order] -= evicted;
        }
    }

    /// True if the small store that has learned finds more than the one that evicts by age.
    pub(super) fn learning_pays(&self) -> bool {
        self.lead * 1_000.0 > self.uses * LEAD_PERMILLE
    }

    /// Lets what was long ago count less.
    pub(super) fn fade(&mut self, ends_kept: f32) {
        self.ends.iter_mut().for_each(|ends| ends.fade(ends_kept));
        (self.lead, self.uses) = (self.lead * MEMORY, self.uses * MEMORY);
    }

    /// How lives ended so far; those that go on are lost from sight now.
    pub(super) fn ends_at(&self, now: Tick) -> Vec<Ends> {
        let mut ends = self.ends.clone();
        for life in self.slots.iter().filter(|life| life.known) {
            ends[life.class.index()].lost[bin(now.since(life.began))] += 1.0;
        }
        ends
    }
}

fn place(spread: u64) -> (usize, u32) {
    ((spread as usize) % SLOTS, (spread >> 14) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_ends_with_a_use_or_is_lost() {
        let mut lives = Lives::new(100);
        let class = Class::default();
        let total = |counts: &[f32]| counts.iter().sum::<f32>();
        lives.begin(1, class, Tick(0));
        lives.begin(1, class, Tick(100));
        assert_eq!(lives.ends[class.index()].used[bin(100)], 1.0);
        // Another block of the same slot pushes the life out.
        lives.begin(1 + (1 << 14), class, Tick(107));
        assert_eq!(lives.ends[class.index()].lost[bin(7)], 1.0);
        assert_eq!(total(&lives.ends_at(Tick(207))[class.index()].lost), 2.0);
        assert_eq!(total(&lives.ends[class.index()].used), 1.0);
    }

    #[test]
    fn learning_pays_once_it_finds_more_than_age_does() {
        // A round of 150 blocks through stores of 100: by age nothing is ever found, by keeping the first of
        // them most are.
        let mut lives = Lives::new(100);
        let class = Class::default();
        for round in 0..20_u32 {
            for block in 0..150_u32 {
                let now = Tick(round * 15_000 + block * 100);
                lives.begin(u64::from(block), class, now);
                lives.trim(now, |_, age| age as f32);
            }
            assert_eq!(lives.learning_pays(), round > 0, "round {round}");
            assert!(lives.held.iter().all(|held| *held <= 100));
        }
    }

    #[test]
    fn the_sample_is_the_same_for_a_key_and_of_the_size_asked_for() {
        for (capacity, share) in [(1_000, 1.0), (72_000, 1.0 / 16.0), (600_000, 1.0 / 128.0)] {
            let sample = Sample::of(capacity);
            let followed = (0..100_000).filter(|key| sample.follow(*key).is_some()).count();
            let found = followed as f64 / 100_000.0;
            assert!((found / share - 1.0).abs() < 0.15, "{capacity}: {found}");
            assert!((0..1_000).all(|key| sample.follow(key) == sample.follow(key)));
        }
    }
}
