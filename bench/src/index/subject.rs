//! The indexes under one interface, and the sets that say what is right.

use std::collections::HashSet;

use hearth_router::{Index, Matches, Member};

use super::workload::{Block, Event};

/// An index that is measured.
pub(super) trait Subject {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// Takes events; returns when all of them can be found.
    fn apply(&mut self, events: Vec<Prepared>);

    /// The blocks from the start of a chain that each worker holds; adds them up, as a scorer would look at each.
    fn find(&mut self, query: &Query) -> u64;

    /// What [`Self::find`] finds of each worker.
    fn scores(&mut self, query: &Query) -> Vec<u32>;

    /// Forgets everything that any worker holds.
    fn clear(&mut self, workers: u16);
}

/// An event in the form that an index takes.
pub(super) enum Prepared {
    Ours(Event),
    #[cfg(feature = "peers")]
    Dynamo(dynamo_kv_router::protocols::RouterEvent),
}

/// A chain in both forms.
#[derive(Default)]
pub(super) struct Query {
    pub(super) chained: Vec<u64>,
    #[cfg(feature = "peers")]
    pub(super) local: Vec<dynamo_kv_router::protocols::LocalBlockHash>,
}

impl Query {
    pub(super) fn new(chain: &[Block]) -> Self {
        Self {
            chained: chain.iter().map(|block| block.chained).collect(),
            #[cfg(feature = "peers")]
            local: chain
                .iter()
                .map(|block| dynamo_kv_router::protocols::LocalBlockHash(block.local))
                .collect(),
        }
    }

    /// Becomes the same as another one, in its own memory.
    pub(super) fn copy_from(&mut self, query: &Self) {
        self.chained.clone_from(&query.chained);
        #[cfg(feature = "peers")]
        self.local.clone_from(&query.local);
    }
}

pub(super) struct Ours {
    index: Index,
    matches: Matches,
    workers: u16,
    /// Reused, as a reader of events would.
    hashes: Vec<u64>,
}

impl Ours {
    pub(super) fn new(workers: u16) -> Self {
        Self {
            index: Index::new(usize::MAX, [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344]),
            matches: Matches::new(usize::from(workers)),
            workers,
            hashes: Vec::new(),
        }
    }
}

impl Subject for Ours {
    fn name(&self) -> &'static str {
        "hearth"
    }

    fn apply(&mut self, events: Vec<Prepared>) {
        for event in events {
            match event {
                Prepared::Ours(Event::Stored { worker, before, blocks, .. }) => {
                    self.hashes.clear();
                    self.hashes.extend(blocks.iter().map(|block| block.chained));
                    let added = self.index.add(Member(worker), before, &self.hashes);
                    assert!(added.is_ok(), "the index has no bounds here");
                }
                Prepared::Ours(Event::Removed { worker, blocks }) => {
                    self.index.remove(Member(worker), &blocks);
                }
                #[cfg(feature = "peers")]
                Prepared::Dynamo(_) => {}
            }
        }
    }

    fn find(&mut self, query: &Query) -> u64 {
        self.index.find(&query.chained, &mut self.matches);
        self.matches.iter().map(|(_, len)| u64::from(len)).sum()
    }

    fn scores(&mut self, query: &Query) -> Vec<u32> {
        self.index.find(&query.chained, &mut self.matches);
        (0..self.workers).map(|worker| self.matches.of(Member(worker))).collect()
    }

    fn clear(&mut self, workers: u16) {
        for worker in 0..workers {
            self.index.clear(Member(worker));
        }
    }
}

/// What each worker holds, as sets.
#[derive(Default)]
pub(super) struct Oracle {
    held: Vec<HashSet<u64>>,
}

impl Oracle {
    pub(super) fn of(workers: u16, events: &[Event]) -> Self {
        let mut oracle = Self { held: vec![HashSet::new(); usize::from(workers)] };
        for event in events {
            match event {
                Event::Stored { worker, blocks, .. } => {
                    oracle.held[usize::from(*worker)].extend(blocks.iter().map(|block| block.chained));
                }
                Event::Removed { worker, blocks } => {
                    let held = &mut oracle.held[usize::from(*worker)];
                    for hash in blocks {
                        held.remove(hash);
                    }
                }
            }
        }
        oracle
    }

    /// Blocks that workers hold, each counted for each of them.
    pub(super) fn memberships(&self) -> u64 {
        self.held.iter().map(|held| held.len() as u64).sum()
    }

    pub(super) fn scores(&self, chain: &[u64]) -> Vec<u32> {
        let prefix = |held: &HashSet<u64>| chain.iter().take_while(|hash| held.contains(hash)).count() as u32;
        self.held.iter().map(prefix).collect()
    }
}
