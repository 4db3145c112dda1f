//! A sample of blocks whose lives are followed, whether or not the store still holds them.
//!
//! A life runs from one use of a block to the next. The sample is by key, so a block is always in it or
//! never; a life pushed out by another is lost from sight at that age, which the estimate knows.

use super::age::{Tick, bin};
use super::class::{CLASSES, Class};
use super::density::Ends;

/// Lives followed at once.
const SLOTS: usize = 1 << 14;

#[derive(Clone, Copy)]
struct Life {
    name: u32,
    began: Tick,
    class: Class,
    known: bool,
}

/// The followed lives, and how those ended that have.
pub(super) struct Lives {
    slots: Vec<Life>,
    /// How the lives of each class ended, at the index of [`Class`].
    pub(super) ends: Vec<Ends>,
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

    /// The spread key of a followed block, `None` for any other.
    pub(super) fn follow(self, key: u64) -> Option<u64> {
        let spread = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (spread >> (64 - 16)).trailing_zeros().ge(&self.shift).then_some(spread)
    }
}

impl Lives {
    pub(super) fn new() -> Self {
        let none = Life { name: 0, began: Tick(0), class: Class::default(), known: false };
        Self { slots: vec![none; SLOTS], ends: vec![Ends::NONE; CLASSES] }
    }

    /// A block was used or came in: its life so far ends, the next begins.
    pub(super) fn begin(&mut self, spread: u64, class: Class, now: Tick) {
        let (at, name) = place(spread);
        let life = std::mem::replace(&mut self.slots[at], Life { name, began: now, class, known: true });
        if life.known {
            let ends = &mut self.ends[life.class.index()];
            let into = if life.name == name { &mut ends.used } else { &mut ends.lost };
            into[bin(now.since(life.began))] += 1.0;
        }
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
        let mut lives = Lives::new();
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
