//! Extents by the stripe on which they lie, and whose turn it is among the stripes.

use std::collections::BTreeSet;

/// Extents, lowest first on each stripe.
#[derive(Default)]
pub(crate) struct ByStripe(BTreeSet<(u16, u32)>);

impl ByStripe {
    pub(crate) fn insert(&mut self, stripe: u16, extent: u32) {
        self.0.insert((stripe, extent));
    }

    pub(crate) fn remove(&mut self, stripe: u16, extent: u32) {
        self.0.remove(&(stripe, extent));
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).expect("extents are counted in 32 bits")
    }

    /// The lowest extent of one stripe.
    pub(crate) fn first_on(&self, stripe: u16) -> Option<u32> {
        self.from(stripe).filter(|(found, _)| *found == stripe).map(|(_, extent)| extent)
    }

    /// The lowest extent of all.
    pub(crate) fn lowest(&self) -> Option<u32> {
        let mut lowest = None;
        let mut next = self.from(0);
        while let Some((stripe, extent)) = next {
            lowest = Some(lowest.map_or(extent, |lowest| extent.min(lowest)));
            next = self.from(stripe + 1);
        }
        lowest
    }

    /// The lowest extent of the first stripe from one on that has any.
    fn from(&self, stripe: u16) -> Option<(u16, u32)> {
        self.0.range((stripe, 0)..).next().copied()
    }
}

/// The stripe from which a record size gets its slots, and how many more before the next one's turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turn {
    stripe: u16,
    left: u32,
}

impl Turn {
    pub(crate) fn stripe(&self) -> u16 {
        self.stripe
    }

    /// True if the turn has not ended.
    pub(crate) fn goes_on(&self) -> bool {
        self.left > 0
    }

    /// Notes that a slot was taken on a stripe, where a turn is so many slots.
    pub(crate) fn take(&mut self, stripe: u16, slots: u32) {
        if self.left == 0 || self.stripe != stripe {
            *self = Self { stripe, left: slots };
        }
        self.left -= 1;
    }

    /// The stripes of `count` in the order of their turns, the one that had the last one at the end.
    pub(crate) fn stripes(&self, count: u16) -> impl Iterator<Item = u16> + use<> {
        let last = self.stripe;
        (last + 1..count).chain(0..=last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_found_by_stripe_and_by_number() {
        let mut extents = ByStripe::default();
        assert_eq!((extents.lowest(), extents.first_on(0)), (None, None));
        [(2, 4), (0, 9), (0, 6), (5, 5)]
            .into_iter()
            .for_each(|(stripe, extent)| extents.insert(stripe, extent));
        assert_eq!((extents.lowest(), extents.count()), (Some(4), 4));
        assert_eq!([0, 1, 2].map(|stripe| extents.first_on(stripe)), [Some(6), None, Some(4)]);
        extents.remove(2, 4);
        assert_eq!((extents.lowest(), extents.first_on(2)), (Some(5), None));
    }

    #[test]
    fn a_turn_ends_after_its_slots_or_with_the_stripe() {
        let mut turn = Turn::default();
        assert!(!turn.goes_on());
        turn.take(1, 2);
        assert!(turn.goes_on());
        turn.take(1, 2);
        assert!(!turn.goes_on());
        assert_eq!(turn.stripes(4).collect::<Vec<_>>(), [2, 3, 0, 1]);
        turn.take(3, 2);
        turn.take(0, 2);
        assert!(turn.goes_on(), "it was the first on another stripe");
    }
}
