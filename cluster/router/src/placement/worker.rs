//! A worker and what it has to do.

use std::fmt;

use hearth_proto::Urgency;
use hearth_proto::limits::PLACEMENT_SECONDS_MAX;

use super::prefill::PrefillCurve;
use super::range::{RangeError, check};
use super::work::PrefillWork;

/// A worker: one engine, or one data-parallel rank of it. Equal on all routers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is known of a worker, whatever the request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worker {
    /// Which one.
    pub id: WorkerId,
    /// How long prefills take.
    pub prefill: PrefillCurve,
    /// How long a token takes that is generated.
    pub decode: DecodeSpeed,
    /// What it has to do already.
    pub load: WorkerLoad,
    /// Blocks that fit into its accelerator's memory.
    pub blocks_max: u64,
    /// It takes no new requests.
    pub is_draining: bool,
}

/// What a worker has to do. Loads of the same worker can be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Prefills that are not done.
    pub queue: Queue,
    /// Sequences that are, or will be, decoded.
    pub sequences: u64,
    /// Blocks that those take up.
    pub blocks: u64,
}

/// Prefills that are not done, by how urgent they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    by_urgency: [PrefillWork; Urgency::ALL.len()],
}

/// How long one token takes that is generated: `fixed + sequences * per sequence + blocks * per block` seconds, where
/// sequences and blocks are all that the worker decodes at the time. Weights are read once for all sequences, the cache
/// of each for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DecodeSpeed {
    fixed_s: f64,
    sequence_s: f64,
    block_s: f64,
}

impl WorkerLoad {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let mut sum = self;
        for urgency in Urgency::ALL {
            sum.queue.add(urgency, other.queue.of(urgency));
        }
        sum.sequences = sum.sequences.saturating_add(other.sequences);
        sum.blocks = sum.blocks.saturating_add(other.blocks);
        sum
    }
}

impl Queue {
    /// Adds prefills of one urgency.
    pub fn add(&mut self, urgency: Urgency, work: PrefillWork) {
        let sum = &mut self.by_urgency[urgency.to_wire() as usize];
        *sum = sum.plus(work);
    }

    /// Takes prefills of one urgency away.
    pub fn remove(&mut self, urgency: Urgency, work: PrefillWork) {
        let sum = &mut self.by_urgency[urgency.to_wire() as usize];
        *sum = sum.minus(work);
    }

    /// Those of one urgency.
    pub const fn of(&self, urgency: Urgency) -> PrefillWork {
        self.by_urgency[urgency.to_wire() as usize]
    }

    /// Those that somebody who comes now has to wait for: the more urgent, and the equally urgent that came before.
    pub fn ahead_of(&self, urgency: Urgency) -> PrefillWork {
        let ahead = Urgency::ALL.into_iter().filter(|other| *other >= urgency);
        ahead.fold(PrefillWork::NONE, |sum, other| sum.plus(self.of(other)))
    }

    /// All of them.
    pub fn whole(&self) -> PrefillWork {
        self.ahead_of(Urgency::Background)
    }
}

impl DecodeSpeed {
    /// Checks the coefficients.
    ///
    /// *Units*: seconds for each token; on top of that seconds for each sequence, and for each block that is held.
    ///
    /// # Errors
    /// [`RangeError`] if one is no number from zero to [`PLACEMENT_SECONDS_MAX`]; the caller mends it.
    pub fn new(fixed_s: f64, sequence_s: f64, block_s: f64) -> Result<Self, RangeError> {
        let check = |what, given| check(what, given, 0.0, PLACEMENT_SECONDS_MAX);
        Ok(Self {
            fixed_s: check("seconds for each token", fixed_s)?,
            sequence_s: check("seconds for each token and sequence", sequence_s)?,
            block_s: check("seconds for each token and block", block_s)?,
        })
    }

    /// How long one token takes beside so many sequences with so many blocks, its own included.
    ///
    /// *Units*: seconds.
    #[inline]
    pub fn token_s(&self, sequences: u64, blocks: u64) -> f64 {
        self.fixed_s + self.sequence_s * sequences as f64 + self.block_s * blocks as f64
    }
}
