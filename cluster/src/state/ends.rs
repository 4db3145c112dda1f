//! What ends by replicated time, in the order in which it ends.

use std::collections::BTreeSet;

/// Names with the millisecond at which each of them ends.
#[derive(Debug)]
pub(super) struct Ends<K>(BTreeSet<(u64, K)>);

impl<K> Default for Ends<K> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Ord + Copy> Ends<K> {
    pub(super) fn insert(&mut self, at_ms: u64, name: K) {
        self.0.insert((at_ms, name));
    }

    pub(super) fn remove(&mut self, at_ms: u64, name: K) {
        self.0.remove(&(at_ms, name));
    }

    /// When the first one ends.
    pub(super) fn first_ms(&self) -> Option<u64> {
        self.0.first().map(|(at_ms, _)| *at_ms)
    }

    /// The first one, if it has ended by `now_ms`.
    pub(super) fn first_due(&self, now_ms: u64) -> Option<K> {
        self.0.first().filter(|(at_ms, _)| *at_ms <= now_ms).map(|(_, name)| *name)
    }
}
