//! What was used a moment ago at each depth, so that a chain's new blocks take over its pace.
//!
//! A request reads the beginning of its chain and puts the rest, so the parent of a new block is most
//! likely the block of the same tenant that was used last one step less deep. A wrong guess costs a worse
//! estimate of one block.

use std::sync::atomic::{AtomicU64, Ordering};

use super::age::Tick;
use super::class::Reuse;

/// Depths of tenants that are remembered.
const PLACES: usize = 1 << 12;

/// Where in a chain a block stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    /// The tenant.
    pub namespace: u32,
    /// Position in the chain.
    pub depth: u16,
}

pub(super) struct Recent {
    places: Vec<AtomicU64>,
}

impl Spot {
    fn parent(self) -> Option<Self> {
        Some(Self { depth: self.depth.checked_sub(1)?, ..self })
    }

    /// A place and a tag that tells most others at the same place apart.
    fn spread(self) -> (usize, u16) {
        let word = u64::from(self.namespace) << 16 | u64::from(self.depth);
        let spread = (word + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((spread >> 52) as usize % PLACES, (spread >> 16) as u16)
    }
}

impl Recent {
    pub(super) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(super) fn note(&self, spot: Spot, reuse: Reuse) {
        let (place, tag) = spot.spread();
        self.places[place].store(reuse.to_bits(tag), Ordering::Relaxed);
    }

    /// The state of the block that was used just before one at `spot`, one step less deep.
    pub(super) fn parent(&self, spot: Spot, now: Tick) -> Option<Reuse> {
        let (place, tag) = spot.parent()?.spread();
        let (reuse, found) = Reuse::from_bits(self.places[place].load(Ordering::Relaxed));
        (found == tag && reuse.is_of_request_at(now)).then_some(reuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_one_less_deep_of_the_same_tenant_and_of_a_moment_ago() {
        let recent = Recent::new();
        let spot = |namespace, depth| Spot { namespace, depth };
        let (used, _) = Reuse::first(None, Tick(0)).again(Tick(640));
        recent.note(spot(1, 4), used);
        assert_eq!(recent.parent(spot(1, 5), Tick(641)), Some(used));
        assert_eq!(recent.parent(spot(1, 6), Tick(641)), None);
        assert_eq!(recent.parent(spot(2, 5), Tick(641)), None);
        assert_eq!(recent.parent(spot(1, 5), Tick(900)), None);
        assert_eq!(recent.parent(spot(1, 0), Tick(641)), None);
    }
}
