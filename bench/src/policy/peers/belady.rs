//! Belady's optimum with bypass: whoever is used again last goes first, or never comes in.
//!
//! Of blocks with the same next use the deepest goes first. A child is never used without its parent, so
//! what is held is always whole chains from the root, and no policy finds more blocks.

use std::collections::BTreeSet;

use crate::policy::cache::Cache;
use crate::policy::trace::{Request, Trace};

const NEVER: u32 = u32::MAX;

/// For every block of every request, in order, the number of the next request that uses it.
pub(in crate::policy) struct Future(Vec<u32>);

impl Future {
    pub(in crate::policy) fn of(trace: &Trace) -> Self {
        let (mut next, mut uses, mut chain) = (vec![NEVER; trace.parents.len()], Vec::new(), Vec::new());
        for (number, request) in trace.requests.iter().enumerate().rev() {
            trace.chain_into(request, &mut chain);
            for block in chain.iter().rev() {
                uses.push(std::mem::replace(&mut next[*block as usize], number as u32));
            }
        }
        uses.reverse();
        Self(uses)
    }
}

pub(in crate::policy) struct Belady<'a> {
    capacity: usize,
    future: &'a Future,
    depths: &'a [u32],
    at: usize,
    /// The next use of every block held.
    next: Vec<Option<u32>>,
    held: BTreeSet<(u32, u32, u32)>,
}

impl<'a> Belady<'a> {
    pub(in crate::policy) fn new(trace: &'a Trace, future: &'a Future, capacity: usize) -> Self {
        let next = vec![None; trace.parents.len()];
        Self { capacity, future, depths: &trace.depths, at: 0, next, held: BTreeSet::new() }
    }
}

impl Cache for Belady<'_> {
    fn holds(&self, block: u32) -> bool {
        self.next[block as usize].is_some()
    }

    fn serve(&mut self, _request: &Request, chain: &[u32], _held: usize) {
        for (&block, &next) in chain.iter().zip(&self.future.0[self.at..]) {
            let depth = self.depths[block as usize];
            if let Some(known) = self.next[block as usize] {
                self.held.remove(&(known, depth, block));
            } else if self.held.len() >= self.capacity {
                let Some(&(latest, deepest, victim)) = self.held.last() else { continue };
                if (next, depth) >= (latest, deepest) {
                    continue;
                }
                self.held.pop_last();
                self.next[victim as usize] = None;
            }
            self.next[block as usize] = Some(next);
            self.held.insert((next, depth, block));
        }
        self.at += chain.len();
    }
}
