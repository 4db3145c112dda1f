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
    turn: u8,
    superseded: bool,
}

const _: () = assert!(size_of::<Reuse>() == 8);

/// Blocks of one class are expected to be used alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Class(u8);

const _: () = assert!(CLASSES <= u8::MAX as usize);

impl Class {
    pub(super) fn index(self) -> usize {
        self.0.into()
    }
}

impl Reuse {
    /// When the block was last used, or came in.
    pub const fn used_at(self) -> Tick {
        self.used_at
    }

    /// Whether one request may have used both blocks last.
    pub fn is_simultaneous(self, other: Self) -> bool {
        let apart = self.used_at.since(other.used_at).max(other.used_at.since(self.used_at));
        apart <= SIMULTANEOUS_TICKS
    }

    /// Whether its chain was gone on with elsewhere since it was last used.
    pub const fn is_superseded(self) -> bool {
        self.superseded
    }

    /// The same as one word, for an atomic.
    pub fn to_bits(self) -> u64 {
        let [gap, uses, turn] = [self.gap, self.uses, self.turn].map(u64::from);
        u64::from(self.used_at.0) | gap << 32 | uses << 40 | turn << 48 | u64::from(self.superseded) << 56
    }

    /// Reverses [`Reuse::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        let byte = |shift: u32| (bits >> shift) as u8;
        Self {
            used_at: Tick(bits as u32),
            gap: byte(32),
            uses: byte(40),
            turn: byte(48),
            superseded: byte(56) & 1 == 1,
        }
    }

    /// A block that comes in behind `parent`, whose use by the same request is already noted. It
    /// inherits the pace of its chain, because the next request of the chain will want both.
    pub(super) fn first(parent: Option<Self>, now: Tick) -> Self {
        let (gap, turn) = match parent {
            None => (0, 1),
            // A parent that was never used came in with the same request.
            Some(parent) if parent.uses == 0 => (parent.gap, parent.turn),
            Some(parent) => (parent.gap, parent.turn.saturating_add(1)),
        };
        Self { used_at: now, gap, uses: 0, turn, superseded: false }
    }

    /// The block was used again; true when that is not the same request as before.
    pub(super) fn again(self, now: Tick) -> (Self, bool) {
        let gap = now.since(self.used_at);
        let used_at = if gap == 0 { self.used_at } else { now };
        if gap <= SIMULTANEOUS_TICKS {
            return (Self { used_at, superseded: false, ..self }, false);
        }
        let uses = self.uses.saturating_add(1);
        (Self { used_at, gap: gap_octave(gap), uses, superseded: false, ..self }, true)
    }

    pub(super) fn superseded(self) -> Self {
        Self { superseded: true, ..self }
    }

    /// Whether a second child of this block means that the first is done with.
    pub(super) fn belongs_to_one_chain(self) -> bool {
        self.turn >= 2
    }

    pub(super) fn class(self) -> Class {
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
    fn a_child_takes_over_the_pace_of_its_chain_and_counts_turns() {
        let first = Reuse::first(None, Tick(0));
        let sibling = Reuse::first(Some(first), Tick(0));
        assert_eq!((first.turn, sibling.turn, sibling.gap), (1, 1, 0));
        let (tip, _) = sibling.again(Tick(640));
        let child = Reuse::first(Some(tip), Tick(640));
        // 640 ticks are 10.5 s: between 8 and 16 of them.
        assert_eq!((child.turn, child.gap, child.uses), (2, 6, 0));
        assert!(child.belongs_to_one_chain() && !tip.belongs_to_one_chain());
    }

    #[test]
    fn a_use_takes_a_block_back_from_the_superseded() {
        let block = Reuse::first(None, Tick(0)).superseded();
        assert!(block.is_superseded() && !block.again(Tick(1)).0.is_superseded());
    }

    proptest! {
        #[test]
        fn a_word_holds_all_of_it(used_at: u32, gap: u8, uses: u8, turn: u8, superseded: bool) {
            let reuse = Reuse { used_at: Tick(used_at), gap, uses, turn, superseded };
            prop_assert_eq!(Reuse::from_bits(reuse.to_bits()), reuse);
            prop_assert!(reuse.class().index() < CLASSES);
        }

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
