//! What one node holds of one block, in sixteen bits.

/// Holders that a directory group can number: the last number with all tiers is no claim but the mark of a
/// block whose claims lie elsewhere.
pub(super) const HOLDERS_MAX: u16 = (1 << (16 - TIER_BITS)) - 1;
const TIER_BITS: u32 = 4;

/// A holder, by its number in the group, and the tiers on which it claims to hold a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Held(u16);

impl Held {
    /// No claim.
    pub(super) const NONE: Self = Self(0);
    /// No claim either: says that the block has more of them than fit beside it.
    pub(super) const SPILLED: Self = Self(u16::MAX);

    /// `tiers` is as in [`super::Replica`], and not zero.
    #[inline]
    pub(super) fn new(holder: u16, tiers: u8) -> Self {
        debug_assert!(holder < HOLDERS_MAX && tiers != 0 && tiers < 1 << TIER_BITS);
        Self(holder << TIER_BITS | u16::from(tiers))
    }

    #[inline]
    pub(super) fn holder(self) -> u16 {
        self.0 >> TIER_BITS
    }

    #[inline]
    pub(super) fn tiers(self) -> u8 {
        (self.0 & ((1 << TIER_BITS) - 1)) as u8
    }

    /// Sixteen bits that stand in the place of a claim and are none.
    pub(super) fn raw(bits: u16) -> Self {
        Self(bits)
    }

    pub(super) fn to_raw(self) -> u16 {
        self.0
    }

    pub(super) fn to_bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }

    /// `None` for what is no claim.
    pub(super) fn from_bytes(bytes: [u8; 2]) -> Option<Self> {
        Some(Self(u16::from_le_bytes(bytes))).filter(|held| held.tiers() != 0 && held.holder() < HOLDERS_MAX)
    }
}
