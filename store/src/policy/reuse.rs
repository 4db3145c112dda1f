//! What is remembered of a block's use, and what that says of its future.

use crate::clock::Clock;

/// Microseconds of one tick as a shift, about 16 ms: uses within a tick count as simultaneous.
const TICK_SHIFT: u32 = 14;
/// The tick at which a store opens. What was put in former lives has earlier ones.
const OPENED_TICK: u32 = 1 << 20;

/// The use of one block so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reuse {
    used_at: u32,
}

/// Turns use into worth.
#[derive(Debug, Default)]
pub(crate) struct Ranker {}

fn tick(at_us: u64) -> u32 {
    let ticks = at_us.saturating_sub(Clock::OPENED_US) >> TICK_SHIFT;
    u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(OPENED_TICK)
}

impl Ranker {
    pub(crate) fn inserted(&self, now_us: u64) -> Reuse {
        Reuse { used_at: tick(now_us) }
    }

    /// A block that an earlier life of the store left, `puts_ago` before the last one.
    pub(crate) fn recovered(&self, puts_ago: u64) -> Reuse {
        let ago = u32::try_from(puts_ago >> 6).unwrap_or(u32::MAX);
        Reuse { used_at: OPENED_TICK.saturating_sub(ago) }
    }

    pub(crate) fn used(&self, reuse: &mut Reuse, _depth: u16, now_us: u64) {
        reuse.used_at = tick(now_us);
    }

    /// The least goes first: what was used least recently, and of that the deepest, since a child is
    /// useless without its parent.
    pub(crate) fn score(&self, reuse: &Reuse, depth: u16, _now_us: u64) -> u64 {
        u64::from(reuse.used_at) << 16 | u64::from(u16::MAX - depth)
    }

    pub(crate) fn evicted(&self, _reuse: &Reuse, _depth: u16, _now_us: u64) {}
}
