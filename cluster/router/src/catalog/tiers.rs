//! Sets of tiers, and the levels that they add up to.

use hearth_proto::Tier;

/// Levels: the accelerator's memory; that or the host's; any tier.
pub(super) const LEVELS: usize = 3;
/// The tiers of each level.
const OF_LEVEL: [Tiers; LEVELS] = [
    Tiers::NONE.with(Tier::Gpu),
    Tiers::NONE.with(Tier::Gpu).with(Tier::Host),
    Tiers::NONE.with(Tier::Gpu).with(Tier::Host).with(Tier::Nvme).with(Tier::Remote),
];

/// A set of tiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tiers(u8);

impl Tiers {
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn with(self, tier: Tier) -> Self {
        Self(self.0 | 1 << tier as u8)
    }

    pub(super) const fn without(self, tier: Tier) -> Self {
        Self(self.0 & !(1 << tier as u8))
    }

    pub(super) const fn has(self, tier: Tier) -> bool {
        self.0 & 1 << tier as u8 != 0
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether one of them belongs to a level.
    pub(super) const fn reach(self, level: usize) -> bool {
        self.0 & OF_LEVEL[level].0 != 0
    }
}

/// The first level that a tier belongs to.
pub(super) const fn level_of(tier: Tier) -> usize {
    match tier {
        Tier::Gpu => 0,
        Tier::Host => 1,
        Tier::Nvme | Tier::Remote => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_belongs_to_its_level_and_all_after_it() {
        for tier in Tier::ALL {
            let tiers = Tiers::NONE.with(tier);
            for level in 0..LEVELS {
                assert_eq!(tiers.reach(level), level >= level_of(tier), "{tier} {level}");
            }
            assert!(tiers.has(tier) && tiers.without(tier).is_empty());
        }
    }
}
