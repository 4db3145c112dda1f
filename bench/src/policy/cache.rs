//! What a simulated cache does with a request, and how often it hits.

use super::trace::{Request, Trace};

/// A cache of blocks of equal size under one policy.
pub(super) trait Cache {
    fn holds(&self, block: u32) -> bool;
    /// Serves a request whose first `held` blocks were hits: the others are computed and put.
    fn serve(&mut self, request: &Request, chain: &[u32], held: usize);
}

/// A policy that knows of blocks only, as the peers are published.
pub(super) trait BlockPolicy {
    fn holds(&self, block: u32) -> bool;
    /// The block was read, or came in.
    fn access(&mut self, block: u32);
}

/// Feeds a block policy the chain's end first, so that among blocks of one request the deepest counts as
/// the oldest. The other way round the peers would lose heads of chains first, and look worse.
pub(super) struct DeepestFirst<P>(pub(super) P);

impl<P: BlockPolicy> Cache for DeepestFirst<P> {
    fn holds(&self, block: u32) -> bool {
        self.0.holds(block)
    }

    fn serve(&mut self, _request: &Request, chain: &[u32], _held: usize) {
        chain.iter().rev().for_each(|block| self.0.access(*block));
    }
}

/// Share of blocks found, in percent. A block counts when all before it in its chain were found too.
pub(super) fn hit_percent(trace: &Trace, cache: &mut dyn Cache) -> f64 {
    let (mut hits, mut total, mut chain) = (0, 0, Vec::new());
    for request in &trace.requests {
        trace.chain_into(request, &mut chain);
        let held = chain.iter().take_while(|block| cache.holds(**block)).count();
        cache.serve(request, &chain, held);
        hits += held;
        total += chain.len();
    }
    100.0 * hits as f64 / total.max(1) as f64
}

/// The same for a cache that never forgets.
pub(super) fn bound_percent(trace: &Trace) -> f64 {
    struct Infinite(Vec<bool>);
    impl BlockPolicy for Infinite {
        fn holds(&self, block: u32) -> bool {
            self.0[block as usize]
        }
        fn access(&mut self, block: u32) {
            self.0[block as usize] = true;
        }
    }
    hit_percent(trace, &mut DeepestFirst(Infinite(vec![false; trace.parents.len()])))
}
