//! The bound: what a cache that never loses anything would have held.
//!
//! Over a whole workload the bound does not depend on the order of requests: each block is missed
//! once, by whoever comes first. Only its course over time depends on the order.

use crate::workload::{BlockTree, Tip};

/// An infinite cache of the blocks of one workload, fed request by request.
///
/// It holds a block from the moment its first request is sent; a store can hold it only once that
/// request has put it. Requests that race for a new block therefore stay below the bound.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// One bit for each block; a block's ancestors are always held with it.
    held: Vec<u64>,
}

impl Oracle {
    /// An empty cache for the blocks of `tree`.
    pub fn new(tree: &BlockTree) -> Self {
        let mut held = vec![0; (tree.block_count() + 1).div_ceil(64)];
        held[0] = 1; // The empty chain is always held: the walk up ends there.
        Self { held }
    }

    /// Blocks of the prompt that an earlier request had, contiguous from the start; afterwards the
    /// cache holds everything up to `output`, which must descend from `prompt` or be it.
    pub fn observe(&mut self, tree: &BlockTree, prompt: Tip, output: Tip) -> usize {
        let hits = self.held_prefix(tree, prompt);
        let mut at = output;
        while !self.has(at) {
            self.held[at.index() / 64] |= 1 << (at.index() % 64);
            at = tree.parent(at);
        }
        hits
    }

    /// Blocks of the prompt that the cache holds, contiguous from the start.
    pub fn held_prefix(&self, tree: &BlockTree, prompt: Tip) -> usize {
        let mut at = prompt;
        while !self.has(at) {
            at = tree.parent(at);
        }
        tree.depth(at)
    }

    fn has(&self, tip: Tip) -> bool {
        self.held[tip.index() / 64] >> (tip.index() % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Scope;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// Against the definition: the set of all blocks of all earlier chains.
        #[test]
        fn the_bound_is_that_of_a_set_of_all_earlier_blocks(
            parents in prop::collection::vec(any::<prop::sample::Index>(), 1..200),
            requests in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4), 1..60),
        ) {
            let scope = Scope::new(&[b"oracle"]);
            let mut tree = BlockTree::new();
            let mut tips = vec![Tip::ROOT];
            for (id, parent) in parents.iter().enumerate() {
                let parent = tips[parent.index(tips.len())];
                tips.push(tree.push(parent, &scope, id as u64).unwrap());
            }
            let mut oracle = Oracle::new(&tree);
            let mut seen = HashSet::new();
            let (mut chain, mut total, mut hits) = (vec![], 0, 0);
            for (tip, answered) in requests {
                let output = tips[tip.index(tips.len())];
                let prompt = tree.truncated(output, tree.depth(output).saturating_sub(answered));
                tree.chain_into(prompt, &mut chain);
                let want = chain.iter().take_while(|block| seen.contains(*block)).count();
                prop_assert_eq!(oracle.observe(&tree, prompt, output), want);
                total += chain.len();
                hits += want;
                tree.chain_into(output, &mut chain);
                seen.extend(chain.iter().copied());
            }
            prop_assert!(total - hits <= seen.len());
        }
    }
}
