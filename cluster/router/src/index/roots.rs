//! Which blocks chains begin with, about: whoever asks for a chain that nobody knows is told so at once.

use std::sync::atomic::{AtomicU8, Ordering};

use super::table::Spread;

const COUNTS: usize = 1 << 16;
/// As many as this are not counted any more, up or down.
const MANY: u8 = u8::MAX;

/// Counts first blocks by some bits of their hash. May take another block for one; never misses one.
#[derive(Debug)]
pub(super) struct Roots {
    counts: Box<[AtomicU8]>,
}

impl Roots {
    pub(super) fn new() -> Self {
        Self { counts: (0..COUNTS).map(|_| AtomicU8::new(0)).collect() }
    }

    /// False only of a block that no chain begins with.
    #[inline]
    pub(super) fn may_have(&self, spread: Spread) -> bool {
        self.count(spread).load(Ordering::Acquire) != 0
    }

    /// Notes a chain's first block: once for each time that it is taken out.
    pub(super) fn add(&self, spread: Spread) {
        self.change(spread, |count| (count != MANY).then(|| count + 1));
    }

    pub(super) fn remove(&self, spread: Spread) {
        self.change(spread, |count| (count != MANY).then(|| count.saturating_sub(1)));
    }

    fn change(&self, spread: Spread, change: impl Fn(u8) -> Option<u8>) {
        // An error is a count that stays as it is.
        let _ = self.count(spread).fetch_update(Ordering::AcqRel, Ordering::Relaxed, change);
    }

    #[inline]
    fn count(&self, spread: Spread) -> &AtomicU8 {
        &self.counts[usize::from(spread.filter())]
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.counts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Table;
    use super::*;

    #[test]
    fn a_first_block_is_there_until_each_who_noted_it_takes_it_out() {
        let (roots, table) = (Roots::new(), Table::new([3, 5]));
        let spread = table.spread(7);
        assert!(!roots.may_have(spread));
        roots.add(spread);
        roots.add(spread);
        roots.remove(spread);
        assert!(roots.may_have(spread));
        roots.remove(spread);
        assert!(!roots.may_have(spread));
    }

    #[test]
    fn counts_that_are_full_stay_so() {
        let (roots, table) = (Roots::new(), Table::new([3, 5]));
        let spread = table.spread(7);
        (0..1_000).for_each(|_| roots.add(spread));
        (0..2_000).for_each(|_| roots.remove(spread));
        assert!(roots.may_have(spread));
    }
}
