//! The store's own policy: its rule for who goes, run on a tier without bytes.

use std::collections::{HashMap, VecDeque};

use hearth_proto::{Priority, Retention};
use hearth_store::model::TierModel;

use super::cache::Cache;
use super::trace::{Request, Trace};

/// What a harness tells the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing.
    Nothing,
    /// What a session's next request leaves out of its prompt (compaction, edits) has priority 0 from then on;
    /// all else has the default. The harness knows both prompts when it sends the second one.
    Classes,
    /// And a session that has ended is released 60 s after its last request.
    ClassesAndEnds,
}

const RELEASE_US: u64 = 60_000_000;
/// Any number: equal ones give equal results.
const SEED: u64 = 0x2545_f491_4f6c_dd1d;

pub(super) struct Ours<'a> {
    trace: &'a Trace,
    told: Told,
    tier: TierModel,
    prompts: HashMap<u32, Vec<u32>>,
    releases: VecDeque<(u64, Vec<u32>)>,
}

impl<'a> Ours<'a> {
    pub(super) fn new(trace: &'a Trace, capacity: usize, told: Told) -> Self {
        let capacity = u32::try_from(capacity).expect("blocks of a trace are counted in 32 bits");
        let tier = TierModel::new(capacity, SEED);
        Self { trace, told, tier, prompts: HashMap::new(), releases: VecDeque::new() }
    }

    fn release(&mut self, blocks: &[u32], now_us: u64) {
        let retention = Retention { priority: priority(0), duration_ms: None };
        blocks.iter().for_each(|block| self.tier.change_keep(*block, retention, now_us));
    }

    fn release_ended(&mut self, now_us: u64) {
        while self.releases.front().is_some_and(|release| release.0 <= now_us) {
            let released = self.releases.pop_front().map(|release| release.1).unwrap_or_default();
            self.release(&released, now_us);
        }
    }

    /// What the harness says after this request: what its prompt left out, and that its session has ended.
    fn hear(&mut self, request: &Request, chain: &[u32]) {
        let setup = (request.setup_blocks as usize).min(chain.len());
        let before = self.prompts.insert(request.session, chain.to_vec()).unwrap_or_default();
        let kept = before.iter().zip(chain).take_while(|(old, new)| old == new).count();
        self.release(&before[kept.max(setup).min(before.len())..], request.at_us);
        if self.told == Told::ClassesAndEnds && request.last {
            self.releases.push_back((request.at_us + RELEASE_US, chain[setup..].to_vec()));
        }
    }
}

fn priority(value: u8) -> Priority {
    Priority::new(value).expect("it lies within 0 to 100")
}

impl Cache for Ours<'_> {
    fn holds(&self, block: u32) -> bool {
        self.tier.contains(block)
    }

    fn serve(&mut self, request: &Request, chain: &[u32], _held: usize) {
        self.release_ended(request.at_us);
        let retention = Retention::default();
        for block in chain {
            if self.tier.contains(*block) {
                self.tier.used(*block, request.at_us);
                self.tier.change_keep(*block, retention, request.at_us);
            } else {
                self.tier.insert(*block, self.trace.depths[*block as usize], retention, request.at_us);
            }
        }
        if self.told != Told::Nothing {
            self.hear(request, chain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::cache::hit_percent;

    #[test]
    fn it_never_holds_more_than_it_may_and_holds_what_fits() {
        // A root with 40 chains of 10 blocks, asked for in turn.
        let parents: Vec<u32> = (0..=401_u32)
            .map(|block| {
                if block < 2 {
                    0
                } else if block % 10 == 2 {
                    1
                } else {
                    block - 1
                }
            })
            .collect();
        let tips: Vec<u32> = (0..400).map(|turn| 11 + 10 * ((turn * 7) % 40)).collect();
        let trace = Trace::of_chains(parents, &tips);
        for told in [Told::Nothing, Told::Classes, Told::ClassesAndEnds] {
            let mut cache = Ours::new(&trace, 100, told);
            let mut chain = Vec::new();
            for request in &trace.requests {
                trace.chain_into(request, &mut chain);
                cache.serve(request, &chain, 0);
                assert!(chain.iter().all(|block| *block < 402) && cache.tier.len() <= 100);
            }
        }
        assert!(hit_percent(&trace, &mut Ours::new(&trace, 401, Told::Nothing)) > 85.0);
    }
}
