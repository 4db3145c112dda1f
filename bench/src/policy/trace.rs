//! A workload as a cache sees it: requests in order of time, each a chain of numbered blocks.

use std::collections::HashSet;
use std::time::Duration;

use hearth_proto::Priority;
use hearth_replay::workload::{Tip, Workload};

/// One request of the trace.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// When it is sent. No two are sent at the same time.
    pub(super) at_us: u64,
    /// Its last block.
    pub(super) tip: u32,
    pub(super) session: u32,
    /// Whether its session sends no more.
    pub(super) last: bool,
    /// Index of the first block after the set-up that sessions share, as the harness marked it.
    pub(super) setup_blocks: u32,
}

/// All requests, and the tree of their blocks; block 0 is the root and stands for none.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    pub(super) parents: Vec<u32>,
    pub(super) depths: Vec<u32>,
    pub(super) requests: Vec<Request>,
}

/// Least time between two requests, a little more than a tick of the store. Traces give times in whole seconds or
/// so, and what is used within a tick counts as one moment, of which the deepest blocks go first.
const APART_US: u64 = 20_000;
/// From this priority on a harness means what sessions share.
const PRIORITY_SETUP: u8 = 80;

impl Trace {
    /// The requests of `workload`. Sessions that do not say when they begin do so one after another, with
    /// `apart` between them.
    pub(super) fn new(workload: &Workload, apart: Duration) -> Self {
        let parents = vec![0; workload.tree.block_count() + 1];
        let mut trace = Self { parents, ..Self::default() };
        let mut begin = Duration::ZERO;
        for (number, session) in workload.sessions.iter().enumerate() {
            let start = session.start.unwrap_or(begin);
            begin += apart;
            for request in &session.requests {
                trace.link(workload, request.prompt);
                let setup = request.ranges.first().filter(|range| range.priority >= setup_priority());
                trace.requests.push(Request {
                    at_us: (start + request.at).as_micros() as u64,
                    tip: request.prompt.index() as u32,
                    session: number as u32,
                    last: false,
                    setup_blocks: setup.map_or(0, |range| range.end_block),
                });
            }
        }
        trace.order();
        trace
    }

    /// A trace of the given chains, a second apart, each by a session of its own.
    #[cfg(test)]
    pub(super) fn of_chains(parents: Vec<u32>, tips: &[u32]) -> Self {
        let request = |(index, &tip)| Request {
            at_us: index as u64 * 1_000_000,
            tip,
            session: index as u32,
            last: true,
            setup_blocks: 0,
        };
        let mut trace =
            Self { parents, depths: Vec::new(), requests: tips.iter().enumerate().map(request).collect() };
        trace.order();
        trace
    }

    fn link(&mut self, workload: &Workload, mut tip: Tip) {
        while tip != Tip::ROOT && self.parents[tip.index()] == 0 {
            let parent = workload.tree.parent(tip);
            self.parents[tip.index()] = parent.index() as u32;
            tip = parent;
        }
    }

    fn order(&mut self) {
        self.depths = vec![0; self.parents.len()];
        for block in 1..self.parents.len() {
            let parent = self.parents[block] as usize;
            if parent != 0 {
                self.depths[block] = self.depths[parent] + 1;
            }
        }
        self.requests.sort_by_key(|request| request.at_us);
        let mut earliest = 0;
        for request in &mut self.requests {
            request.at_us = request.at_us.max(earliest);
            earliest = request.at_us + APART_US;
        }
        let mut ended = HashSet::new();
        for request in self.requests.iter_mut().rev() {
            request.last = ended.insert(request.session);
        }
    }

    /// Different blocks: the working set.
    pub(super) fn block_count(&self) -> usize {
        self.parents.len().saturating_sub(1)
    }

    /// Puts the blocks of a request into `chain`, first block first.
    pub(super) fn chain_into(&self, request: &Request, chain: &mut Vec<u32>) {
        chain.clear();
        let mut block = request.tip;
        while block != 0 {
            chain.push(block);
            block = self.parents[block as usize];
        }
        chain.reverse();
    }
}

fn setup_priority() -> Priority {
    Priority::new(PRIORITY_SETUP).expect("80 lies within 0 to 100")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_replay::workload::agents::{AgentParams, generate};

    #[test]
    fn requests_come_in_order_of_time_and_chains_run_from_the_root() {
        let workload = generate(&AgentParams::default(), 5, 1).unwrap();
        let trace = Trace::new(&workload, Duration::from_secs(60));
        assert_eq!(trace.requests.len(), workload.request_count());
        assert!(trace.requests.windows(2).all(|pair| pair[0].at_us < pair[1].at_us));
        assert_eq!(trace.requests.iter().filter(|request| request.last).count(), workload.sessions.len());
        let mut chain = Vec::new();
        for request in &trace.requests {
            trace.chain_into(request, &mut chain);
            assert!(request.setup_blocks > 0 && chain.len() >= request.setup_blocks as usize);
            assert_eq!(chain.last(), Some(&request.tip));
            assert!((0..).zip(&chain).all(|(depth, block)| trace.depths[*block as usize] == depth));
        }
    }
}
