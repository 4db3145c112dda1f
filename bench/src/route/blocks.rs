//! The router's prefix index, fed with what the simulated engines say.

use hearth_router::{Index, Matches, Member};

use super::arrivals::{Arrivals, Block};
use super::world::{Place, Said};

/// Bytes that the index keeps to.
const BYTES_MAX: usize = 1 << 30;
const SEED: [u64; 2] = [0x51ed_270b_9f6c_11d3, 0x8c4f_0a5e_6d3b_2f97];

/// Who holds which blocks.
pub(super) struct Blocks {
    workers: usize,
    index: Index,
    matches: Matches,
}

impl Blocks {
    pub(super) fn new(workers: usize) -> Self {
        let members = 2 * workers + 1;
        Self { workers, index: Index::new(BYTES_MAX, SEED), matches: Matches::new(members) }
    }

    /// Takes in what is said about blocks.
    pub(super) fn hear(&mut self, said: &Said, arrivals: &Arrivals) {
        match said {
            Said::Stored { place, blocks } => {
                let member = self.member(*place);
                let is_next = |before: &Block, block: &Block| arrivals.follows(*block, *before);
                for stretch in blocks.chunk_by(is_next) {
                    let before = arrivals.hash_before(stretch[0]);
                    let added = self.index.add(member, before, &arrivals.hashes(stretch));
                    added.expect("a trace has fewer runs of blocks than the index");
                }
            }
            Said::Removed { place, blocks } => {
                self.index.remove(self.member(*place), &arrivals.hashes(blocks));
            }
            _ => {}
        }
    }

    /// Looks for a chain.
    pub(super) fn find(&mut self, chain: &[u64]) {
        self.index.find(chain, &mut self.matches);
    }

    /// How much of the chain that was looked for last is held somewhere.
    pub(super) fn of(&self, place: Place) -> u32 {
        self.matches.of(self.member(place))
    }

    fn member(&self, place: Place) -> Member {
        Member(match place {
            Place::Gpu(worker) => worker,
            Place::Host(worker) => self.workers + worker,
            Place::Store => 2 * self.workers,
        } as u16)
    }
}
