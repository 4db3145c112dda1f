//! What a block is worth: the uses that keeping it brings, per tick, learned while the store runs.
//!
//! Blocks fall into classes by the time between their last two uses and the number of uses. For every class
//! the chance of the next use at each age is learned from a sample of blocks that are followed beyond their
//! eviction. The worth of a block is the best rate of uses per tick from its age on, so a block that is about
//! to be used is kept before one that just was, and where little is known the order is that of LRU.
//!
//! Priorities come before worth; they are the caller's. So is the choice of victims, which must keep chains
//! whole from their roots: that matters more than any score (measured in `bench/results/policy.md`).
//!
//! Pure: time and keys are arguments, and nothing is random. All methods take `&self`.

mod age;
mod class;
mod density;
mod lives;
mod recent;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use age::Tick;
use age::{BINS, bin, lower};
use class::CLASSES;
pub(crate) use class::Class;
pub use class::Reuse;
use density::{ByAge, Ends, density};
use lives::{Lives, Sample};
use recent::Recent;
pub use recent::Spot;

/// The chance of a use in each quarter octave of age before anything is known.
const PRIOR_HAZARD: f32 = 0.005;
/// Lives that the prior, and what is known of all classes together, count for in each class.
const PRIOR_LIVES: f32 = 300.0;
/// What a lesson keeps of the counts of the one before.
const MEMORY: f32 = 0.8;
/// The fewest insertions between two lessons.
const LESSON_MIN: usize = 4_096;

/// Learns how blocks are used again, and ranks them by it. About 400 KiB, whatever the store holds.
pub struct Ranker {
    sample: Sample,
    recent: Recent,
    lives: Mutex<Lives>,
    /// Worth by class and age, as the bits of an `f32`.
    worth: Vec<AtomicU32>,
    /// False while the order of age finds more than what was learned.
    learning_pays: AtomicBool,
    inserted: AtomicUsize,
    lesson: usize,
}

impl Ranker {
    /// A ranker for a store that holds about `capacity_blocks`.
    pub fn new(capacity_blocks: usize) -> Self {
        let sample = Sample::of(capacity_blocks);
        let ranker = Self {
            sample,
            recent: Recent::new(),
            lives: Mutex::new(Lives::new(sample.part_of(capacity_blocks))),
            worth: (0..CLASSES * BINS).map(|_| AtomicU32::new(0)).collect(),
            learning_pays: AtomicBool::new(false),
            inserted: AtomicUsize::new(0),
            lesson: capacity_blocks.max(LESSON_MIN),
        };
        ranker.learn(Tick::default());
        ranker
    }

    /// The state of a block that comes in now. `key` is any 64 bits of the block's key.
    pub fn inserted(&self, key: u64, spot: Spot, now: Tick) -> Reuse {
        self.inserted.fetch_add(1, Ordering::Relaxed);
        let reuse = Reuse::first(self.recent.parent(spot, now), now);
        self.recent.note(spot, reuse);
        if self.follow(key, reuse, now) {
            let mut lives = self.lives();
            lives.trim(now, |class, age| self.learned(class, age));
            self.learning_pays.store(lives.learning_pays(), Ordering::Relaxed);
        }
        reuse
    }

    /// The state of a block that is used now: read, or put again.
    pub fn used(&self, key: u64, spot: Spot, reuse: Reuse, now: Tick) -> Reuse {
        let (reuse, another_request) = reuse.again(now);
        self.recent.note(spot, reuse);
        if another_request {
            self.follow(key, reuse, now);
        }
        reuse
    }

    /// Uses per tick that keeping the block will bring, at best. Within a class it falls with age.
    pub fn worth(&self, reuse: Reuse, now: Tick) -> f32 {
        let age = now.since(reuse.used_at());
        match self.learning_pays.load(Ordering::Relaxed) {
            true => self.learned(reuse.class(), age),
            false => 1.0 / (1.0 + age as f32),
        }
    }

    fn learned(&self, class: Class, age: u32) -> f32 {
        let at = bin(age).min(BINS - 2);
        let (from, to) = (lower(at), lower(at + 1));
        let share = ((u64::from(age) - from) as f32 / (to - from) as f32).min(1.0);
        let row = class.index() * BINS + at;
        let [near, far] = [row, row + 1].map(|cell| f32::from_bits(self.worth[cell].load(Ordering::Relaxed)));
        near + (far - near) * share
    }

    /// Whether so much came in since the last lesson that [`Ranker::learn`] should be called.
    pub fn lesson_due(&self) -> bool {
        self.inserted.load(Ordering::Relaxed) >= self.lesson
    }

    /// Learns from the lives that were followed. Some milliseconds; not for a caller in a hurry.
    pub fn learn(&self, now: Tick) {
        self.inserted.store(0, Ordering::Relaxed);
        let ends = {
            let mut lives = self.lives();
            let ends = lives.ends_at(now);
            lives.fade(MEMORY);
            ends
        };
        let mut all = Ends::NONE;
        ends.iter().for_each(|ends| all.add(ends));
        let prior = all.hazard(&[PRIOR_HAZARD; BINS], PRIOR_LIVES);
        let unknown = density(&prior);
        for (class, ends) in ends.iter().enumerate() {
            let worth = if ends.is_empty() { unknown } else { density(&ends.hazard(&prior, PRIOR_LIVES)) };
            self.store_worth(class, &worth);
        }
    }

    fn store_worth(&self, class: usize, worth: &ByAge) {
        for (cell, worth) in self.worth[class * BINS..][..BINS].iter().zip(worth) {
            cell.store(worth.to_bits(), Ordering::Relaxed);
        }
    }

    /// True if the block is one of those that are followed.
    fn follow(&self, key: u64, reuse: Reuse, now: Tick) -> bool {
        let Some(spread) = self.sample.follow(key) else { return false };
        self.lives().begin(spread, reuse.class(), now);
        true
    }

    /// Counts stay usable whatever a thread did that died with them in hand.
    fn lives(&self) -> MutexGuard<'_, Lives> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
