//! What is remembered of a block's use, and the classes of blocks whose futures are alike.

use super::age::Tick;

/// Octaves of the time between the last two uses that are told apart; 0 is "never used twice".
const GAPS: usize = 16;
/// Numbers of uses that are told apart.
const USES: usize = 5;
/// All classes.
pub(super) const CLASSES: usize = GAPS * USES;
/// Uses within so many ticks, about 131 ms, are one: a get and the put after it are one request.
const SIMULTANEOUS_TICKS: u32 = 8;

/// What the policy remembers of one block. Eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reuse {
    used_at: Tick,
    gap: u8,
    uses: u8,
}

const _: () = assert!(size_of::<Reuse>() == 8);

/// Blocks of one class are expected to be used alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class(u8);

const _: () = assert!(CLASSES <= u8::MAX as usize);

impl Class {
    pub(crate) const FIRST: Self = Self(0);
    pub(crate) const LAST: Self = Self(CLASSES as u8 - 1);

    pub(super) fn index(self) -> usize {
        self.0.into()
    }
}

impl Reuse {
    /// When the block was last used, or came in.
    pub const fn used_at(self) -> Tick {
        self.used_at
    }

    /// True if the request that comes at `now` may have used the block.
    pub(super) fn is_of_request_at(self, now: Tick) -> bool {
        now.since(self.used_at) <= SIMULTANEOUS_TICKS && self.used_at.since(now) <= SIMULTANEOUS_TICKS
    }

    /// The state and a tag in one word.
    pub(super) fn to_bits(self, tag: u16) -> u64 {
        let [gap, uses] = [self.gap, self.uses].map(u64::from);
        u64::from(self.used_at.0) | gap << 32 | uses << 40 | u64::from(tag) << 48
    }

    /// Reverses [`Reuse::to_bits`].
    pub(super) fn from_bits(bits: u64) -> (Self, u16) {
        let reuse = Self { used_at: Tick(bits as u32), gap: (bits >> 32) as u8, uses: (bits >> 40) as u8 };
        (reuse, (bits >> 48) as u16)
    }

    /// A block that comes in behind `parent`. It takes over the pace of its chain, because the next request
    /// of the chain will want both.
    pub(crate) fn first(parent: Option<Self>, now: Tick) -> Self {
        Self { used_at: now, gap: parent.map_or(0, |parent| parent.gap), uses: 0 }
    }

    /// The block was used again; true when that is not the same request as before.
    pub(crate) fn again(self, now: Tick) -> (Self, bool) {
        let gap = now.since(self.used_at);
        let used_at = if gap == 0 { self.used_at } else { now };
        if gap <= SIMULTANEOUS_TICKS {
            return (Self { used_at, ..self }, false);
        }
        let uses = self.uses.saturating_add(1);
        (Self { used_at, gap: gap_octave(gap), uses }, true)
    }

    /// The blocks that this one is expected to be used like.
    pub(crate) fn class(self) -> Class {
        let uses = match self.uses {
            0 => 0,
            1 => 1,
            2..=3 => 2,
            4..=7 => 3,
            _ => 4,
        };
        Class((usize::from(self.gap).min(GAPS - 1) * USES + uses) as u8)
    }
}

/// Octave of a gap, from half a second on; at least 1.
fn gap_octave(ticks: u32) -> u8 {
    let halves = ticks >> 5;
    let octave = 1 + if halves == 0 { 0 } else { halves.ilog2() + 1 };
    octave.min(GAPS as u32 - 1) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn uses_of_one_request_count_once() {
        let block = Reuse::first(None, Tick(0));
        let (same, new) = block.again(Tick(SIMULTANEOUS_TICKS));
        assert_eq!((same.uses, same.used_at, new), (0, Tick(SIMULTANEOUS_TICKS), false));
        let (next, new) = same.again(Tick(2 * SIMULTANEOUS_TICKS + 1));
        assert_eq!((next.uses, next.gap, new), (1, 1, true));
    }

    #[test]
    fn gaps_are_told_apart_by_octaves_from_half_a_second_on() {
        let gaps = [9, 31, 32, 63, 64, 640, u32::MAX / 4]
            .map(|gap| Reuse::first(None, Tick(0)).again(Tick(gap)).0.gap);
        // 640 ticks are 10.5 s: between 8 and 16 of them.
        assert_eq!(gaps, [1, 1, 2, 2, 3, 6, 15]);
    }

    proptest! {
        #[test]
        fn time_never_runs_backwards_in_a_block(uses in prop::collection::vec(0..10_000_u32, 1..50)) {
            let mut block = Reuse::first(None, Tick(5_000));
            for now in uses {
                let before = block.used_at();
                block = block.again(Tick(now)).0;
                prop_assert_eq!(block.used_at(), Tick(before.0.max(now)));
            }
        }
    }
}
