//! Who goes first when a tier is full, and what is written to NVMe at all.
//!
//! The lowest effective priority that has a candidate goes first, strictly, since retention is a contract.
//! Within a priority candidates stand in lines by class of reuse and time of last use, and of the oldest of
//! each class the one that is worth least goes. A hit costs one small change to the block's own entry: it
//! is moved when its turn would have come. Pure: time and random numbers come from the caller, and so does what only
//! it knows of a candidate, such as that somebody reads it.

mod admission;
mod bags;
mod keep;
pub mod reuse;

pub(crate) use admission::is_worth_writing;
pub(crate) use bags::{Bags, Candidates, Level, Look, Standing};
pub(crate) use keep::Keep;
pub(crate) use reuse::{Ranker, Reuse, Spot, Tick};

/// A source of numbers that look random and are the same for equal seeds (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}
