//! The extent that is being emptied for a record size that has none.

use super::{Extent, ExtentMap};

/// An extent that gives out no slots until it is empty, and then serves a class that has no extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reserved {
    extent: u32,
    class: u32,
}

impl Reserved {
    /// True if it is this extent.
    pub(super) fn is(&self, extent: u32) -> bool {
        self.extent == extent
    }
}

impl ExtentMap {
    /// The extents that may be reserved for `class`, those with the fewest slots in use first. None if the
    /// class has an extent, or another one is reserved already: one at a time is emptied.
    pub(crate) fn reservable(&self, class: u32) -> Vec<u32> {
        if self.classes.contains_key(&class) || self.reserved.is_some() || self.slots_per_extent(class) == 0 {
            return Vec::new();
        }
        let in_service = |extent: &Extent| !extent.fenced && !extent.missing;
        let mut found: Vec<_> =
            (0..self.count()).zip(&self.extents).filter(|(_, extent)| in_service(extent)).collect();
        found.sort_by_key(|(_, extent)| extent.used);
        found.into_iter().map(|(number, _)| number).collect()
    }

    /// Lets an extent give out no more slots, until it is empty and serves `class`, or the reservation ends.
    /// False if [`ExtentMap::reservable`] would not name it.
    pub(crate) fn reserve(&mut self, number: u32, class: u32) -> bool {
        let extent = &self.extents[number as usize];
        if self.reserved.is_some() || self.classes.contains_key(&class) || extent.fenced || extent.missing {
            return false;
        }
        self.free.remove(extent.stripe, number);
        self.used_before.remove(&number);
        if let Some(serving) = self.classes.get_mut(&extent.class) {
            serving.open.remove(extent.stripe, number);
        }
        self.reserved = Some(Reserved { extent: number, class });
        true
    }

    /// The extent that is reserved for `class`.
    pub(crate) fn reserved_for(&self, class: u32) -> Option<u32> {
        self.reserved.filter(|reserved| reserved.class == class).map(|reserved| reserved.extent)
    }

    /// Lets the extent that is reserved for `class` serve anyone again. False if there is none.
    pub(crate) fn end_reservation(&mut self, class: u32) -> bool {
        let Some(number) = self.reserved_for(class) else { return false };
        self.reserved = None;
        let extent = &self.extents[number as usize];
        if extent.class == 0 {
            self.free.insert(extent.stripe, number);
        } else if extent.used < self.slots_per_extent(extent.class) {
            self.classes.entry(extent.class).or_default().open.insert(extent.stripe, number);
        }
        true
    }

    /// True while any extent is reserved.
    pub(crate) fn anything_is_reserved(&self) -> bool {
        self.reserved.is_some()
    }

    pub(super) fn is_reserved(&self, extent: u32) -> bool {
        self.reserved.is_some_and(|reserved| reserved.is(extent))
    }
}
