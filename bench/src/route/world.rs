//! What workers share, and what they tell the rest of the simulation.

use hearth_proto::Tier;
use hearth_router::placement::{PrefillReport, Transfer};

use super::arrivals::{Arrivals, Block};
use super::hardware::Hardware;
use super::store::Store;

/// What a worker has to do with the world: what it shares with others, what happens later, and what it says.
pub(super) struct World<'a> {
    pub(super) arrivals: &'a Arrivals,
    pub(super) hardware: &'a Hardware,
    pub(super) store: Store,
    pub(super) later: Vec<(u64, Happens)>,
    pub(super) said: Vec<Said>,
}

/// What happens at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Happens {
    /// A request is sent.
    Arrives(u32),
    /// What a request loads is there.
    Loaded { worker: usize, job: u32 },
    /// A worker's step is over, unless it was replaced by another.
    Stepped { worker: usize, step: u64 },
}

/// Where blocks are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Gpu(usize),
    Host(usize),
    Store,
}

/// What engines and the store tell routers.
#[derive(Clone, Debug)]
pub(super) enum Said {
    /// Blocks are there; in the order of a chain, with holes.
    Stored {
        place: Place,
        blocks: Vec<Block>,
    },
    Removed {
        place: Place,
        blocks: Vec<Block>,
    },
    /// A worker begins to load.
    Began {
        worker: usize,
        tier: Tier,
        bytes: u64,
    },
    Moved {
        worker: usize,
        tier: Tier,
        transfer: Transfer,
    },
    /// The first token of a request is there.
    Prefilled {
        job: u32,
        report: PrefillReport,
        resident_tokens: u32,
        loaded_tokens: u32,
    },
    /// So is its last.
    Ended {
        job: u32,
    },
}

impl World<'_> {
    /// Tells what is new in some place, and what went.
    pub(super) fn say(&mut self, place: Place, [new, gone]: [Vec<Block>; 2]) {
        if !gone.is_empty() {
            self.said.push(Said::Removed { place, blocks: gone });
        }
        if !new.is_empty() {
            self.said.push(Said::Stored { place, blocks: new });
        }
    }
}
