//! Which slots of a tier are taken: extents given to record sizes, slots given to records.
//!
//! A place is the number of its first sector within the tier. An extent serves one class, the sectors
//! of one slot; when its last slot is released it may serve another class. Pure bookkeeping: it moves
//! no bytes and knows nothing of what lies in a slot.

use std::collections::BTreeSet;

use hearth_proto::limits::SECTOR_BYTES;
use rustc_hash::FxHashMap;

/// Sectors of one slot that holds a record of `payload_len` bytes with its footer.
pub(crate) fn class_of(payload_len: usize) -> u32 {
    let sectors = (payload_len + crate::slab::FOOTER_BYTES).div_ceil(SECTOR_BYTES);
    u32::try_from(sectors).expect("payloads are bounded by BLOCK_BYTES_MAX")
}

/// The extents of one tier.
pub(crate) struct ExtentMap {
    extent_sectors: u32,
    extents: Vec<Extent>,
    /// Extents without a class, lowest first so that a file fills from its start.
    free: BTreeSet<u32>,
    /// Those of the free ones that held something since they were last discarded.
    used_before: BTreeSet<u32>,
    classes: FxHashMap<u32, Class>,
    used_sectors: u64,
}

#[derive(Default)]
struct Class {
    /// Extents of this class with a free slot.
    open: BTreeSet<u32>,
    extents: u32,
}

#[derive(Default)]
struct Extent {
    /// Sectors per slot; zero while the extent serves nobody.
    class: u32,
    used: u32,
    fenced: bool,
    /// True if the extent lies nowhere: its file is gone, or that part of it.
    missing: bool,
    /// One bit per slot.
    taken: Vec<u64>,
    /// Whose record lies in each slot.
    owners: Vec<u32>,
}

/// The owner of a slot that is free, or being filled or emptied.
const NOBODY: u32 = u32::MAX;

/// A slot that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) sector: u32,
    /// The extent that this made serve the slot's class, if it served none before.
    pub(crate) assigned: Option<u32>,
}

/// Why a recorded place cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimError {
    OutOfRange,
    Fenced,
    OtherClass,
    Taken,
}

impl ExtentMap {
    pub(crate) fn new(extent_sectors: u32) -> Self {
        assert!(extent_sectors > 0, "an extent has sectors");
        Self {
            extent_sectors,
            extents: Vec::new(),
            free: BTreeSet::new(),
            used_before: BTreeSet::new(),
            classes: FxHashMap::default(),
            used_sectors: 0,
        }
    }

    /// Adds one extent at the end and says its number.
    pub(crate) fn grow(&mut self) -> u32 {
        let extent = self.count();
        self.extents.push(Extent::default());
        self.free.insert(extent);
        extent
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.extents.len()).expect("sectors of a tier are counted in 32 bits")
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_sectors * SECTOR_BYTES as u64
    }

    pub(crate) fn extent_of(&self, sector: u32) -> u32 {
        sector / self.extent_sectors
    }

    pub(crate) fn is_fenced(&self, extent: u32) -> bool {
        self.extents[extent as usize].fenced
    }

    /// Notes that an extent, which nobody uses yet, lies nowhere.
    pub(crate) fn miss(&mut self, extent: u32) {
        self.extents[extent as usize].missing = true;
        self.free.remove(&extent);
    }

    /// Notes that an extent that lay nowhere, and that nobody uses, lies somewhere again.
    pub(crate) fn find(&mut self, number: u32) {
        let extent = &mut self.extents[number as usize];
        extent.missing = false;
        if !extent.fenced {
            self.free.insert(number);
        }
    }

    /// The record size that an extent serves; zero if none.
    pub(crate) fn class_of_extent(&self, extent: u32) -> u32 {
        self.extents[extent as usize].class
    }

    /// Whose record lies in a slot in use, where that is settled.
    pub(crate) fn owner_of(&self, sector: u32) -> Option<u32> {
        let extent = &self.extents[self.extent_of(sector) as usize];
        let slot = sector % self.extent_sectors / extent.class;
        Some(extent.owners[slot as usize]).filter(|owner| *owner != NOBODY)
    }

    pub(crate) fn fenced_count(&self) -> usize {
        self.extents.iter().filter(|extent| extent.fenced).count()
    }

    pub(crate) fn used_in(&self, extent: u32) -> u32 {
        self.extents[extent as usize].used
    }

    /// The record size that the extent of a slot in use serves.
    pub(crate) fn class_at(&self, sector: u32) -> u32 {
        self.extents[self.extent_of(sector) as usize].class
    }

    /// Notes whose record lies in a slot in use; `None` while that is not settled.
    pub(crate) fn set_owner(&mut self, sector: u32, owner: Option<u32>) {
        let number = self.extent_of(sector);
        let extent = &mut self.extents[number as usize];
        let slot = sector % self.extent_sectors / extent.class;
        assert!(extent.is_taken(slot), "a slot with an owner is in use");
        extent.owners[slot as usize] = owner.unwrap_or(NOBODY);
    }

    /// Whose records lie in an extent, where that is settled, from a slot on.
    pub(crate) fn owners(&self, extent: u32) -> impl Iterator<Item = u32> {
        self.extents[extent as usize].owners.iter().copied().filter(|owner| *owner != NOBODY)
    }

    /// The owner of some slot of an extent: the first from the slot on that `pick` chooses below the bound
    /// it gets. `None` if no slot has an owner.
    pub(crate) fn some_owner(&self, extent: u32, pick: impl FnOnce(usize) -> usize) -> Option<u32> {
        let owners = &self.extents[extent as usize].owners;
        if owners.is_empty() {
            return None;
        }
        let (before, from) = owners.split_at(pick(owners.len()));
        from.iter().chain(before).copied().find(|owner| *owner != NOBODY)
    }

    /// The extents that serve `class`, lowest first.
    pub(crate) fn extents_of(&self, class: u32) -> impl Iterator<Item = u32> {
        let serving = move |(_, extent): &(u32, &Extent)| extent.class == class && !extent.fenced;
        (0..self.count()).zip(&self.extents).filter(serving).map(|(number, _)| number)
    }

    /// Takes a free extent whose old contents the device may forget. It is given to nobody until
    /// [`ExtentMap::end_discard`].
    pub(crate) fn begin_discard(&mut self) -> Option<u32> {
        let extent = self.used_before.pop_first()?;
        self.free.remove(&extent);
        Some(extent)
    }

    pub(crate) fn end_discard(&mut self, extent: u32) {
        if !self.is_fenced(extent) {
            self.free.insert(extent);
        }
    }

    /// Gives a free slot of `class`, in the lowest extent that has one; `None` if there is none.
    pub(crate) fn allocate(&mut self, class: u32) -> Option<Given> {
        let slots = self.slots_per_extent(class);
        if slots == 0 {
            return None;
        }
        let open = self.classes.get(&class).and_then(|class| class.open.first().copied());
        let (extent, assigned) = match open {
            Some(extent) => (extent, None),
            None => {
                let extent = self.free.pop_first()?;
                self.used_before.remove(&extent);
                self.assign(extent, class);
                (extent, Some(extent))
            }
        };
        let taken = &self.extents[extent as usize].taken;
        let word = taken.iter().position(|word| *word != u64::MAX).expect("an open extent has a free slot");
        let slot = word as u32 * 64 + taken[word].trailing_ones();
        assert!(slot < slots, "the bits beyond the last slot are set from the start");
        let sector = extent * self.extent_sectors + slot * class;
        self.take(sector, class);
        Some(Given { sector, assigned })
    }

    /// Gives the one slot at `sector`, as an index remembered it.
    pub(crate) fn claim(&mut self, sector: u32, class: u32) -> Result<(), ClaimError> {
        let number = self.extent_of(sector);
        let slots = self.slots_per_extent(class);
        let within = sector % self.extent_sectors;
        if number >= self.count() || class == 0 || !within.is_multiple_of(class) || within / class >= slots {
            return Err(ClaimError::OutOfRange);
        }
        let extent = &self.extents[number as usize];
        if extent.missing {
            return Err(ClaimError::OutOfRange);
        }
        if extent.fenced {
            return Err(ClaimError::Fenced);
        }
        if extent.class == 0 {
            self.free.remove(&number);
            self.used_before.remove(&number);
            self.assign(number, class);
        } else if extent.class != class {
            return Err(ClaimError::OtherClass);
        } else if extent.is_taken(within / class) {
            return Err(ClaimError::Taken);
        }
        self.take(sector, class);
        Ok(())
    }

    /// Takes back a slot. The caller no longer reads or writes it.
    pub(crate) fn release(&mut self, sector: u32) {
        let number = self.extent_of(sector);
        let extent = &mut self.extents[number as usize];
        let class = extent.class;
        assert!(class > 0, "a released slot lies in an extent that serves a class");
        let slot = sector % self.extent_sectors / class;
        assert!(extent.is_taken(slot), "a slot is released once (INV-LEAK)");
        extent.taken[slot as usize / 64] &= !(1 << (slot % 64));
        extent.owners[slot as usize] = NOBODY;
        extent.used -= 1;
        self.used_sectors -= u64::from(class);
        if extent.fenced {
            return;
        }
        let empty = extent.used == 0;
        let entry = self.classes.entry(class).or_default();
        if empty {
            extent.class = 0;
            extent.taken = Vec::new();
            extent.owners = Vec::new();
            entry.open.remove(&number);
            entry.extents -= 1;
            if entry.extents == 0 {
                self.classes.remove(&class);
            }
            self.free.insert(number);
            self.used_before.insert(number);
        } else {
            entry.open.insert(number);
        }
    }

    /// Takes an extent out of service for ever. Slots still held there are released as usual.
    pub(crate) fn fence(&mut self, number: u32) {
        let extent = &mut self.extents[number as usize];
        if std::mem::replace(&mut extent.fenced, true) {
            return;
        }
        self.free.remove(&number);
        self.used_before.remove(&number);
        if let Some(class) = self.classes.get_mut(&extent.class) {
            class.open.remove(&number);
            class.extents -= 1;
            if class.extents == 0 {
                self.classes.remove(&extent.class);
            }
        }
    }

    fn slots_per_extent(&self, class: u32) -> u32 {
        self.extent_sectors.checked_div(class).unwrap_or(0)
    }

    fn assign(&mut self, number: u32, class: u32) {
        let slots = self.slots_per_extent(class);
        let mut taken = vec![0_u64; slots.div_ceil(64) as usize];
        if !slots.is_multiple_of(64)
            && let Some(last) = taken.last_mut()
        {
            *last = u64::MAX << (slots % 64);
        }
        let owners = vec![NOBODY; slots as usize];
        self.extents[number as usize] =
            Extent { class, used: 0, fenced: false, missing: false, taken, owners };
        let entry = self.classes.entry(class).or_default();
        entry.extents += 1;
        entry.open.insert(number);
    }

    fn take(&mut self, sector: u32, class: u32) {
        let number = self.extent_of(sector);
        let slots = self.slots_per_extent(class);
        let slot = sector % self.extent_sectors / class;
        let extent = &mut self.extents[number as usize];
        extent.taken[slot as usize / 64] |= 1 << (slot % 64);
        extent.used += 1;
        self.used_sectors += u64::from(class);
        if extent.used == slots
            && let Some(class) = self.classes.get_mut(&class)
        {
            class.open.remove(&number);
        }
    }
}

impl Extent {
    fn is_taken(&self, slot: u32) -> bool {
        self.taken.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn map(extents: u32) -> ExtentMap {
        let mut map = ExtentMap::new(100);
        for _ in 0..extents {
            map.grow();
        }
        map
    }

    #[test]
    fn a_class_fills_its_extent_before_it_takes_another() {
        let mut map = map(2);
        let sectors: Vec<_> = (0..20).map(|_| map.allocate(10).unwrap().sector).collect();
        assert_eq!(sectors, (0..20).map(|n| n * 10).collect::<Vec<_>>());
        assert_eq!(map.allocate(10), None);
    }

    #[test]
    fn an_emptied_extent_serves_another_class() {
        let mut map = map(1);
        let first = map.allocate(30).unwrap();
        assert_eq!(map.allocate(7), None, "the only extent serves slots of 30 sectors");
        map.release(first.sector);
        assert_eq!(map.allocate(7), Some(Given { sector: 0, assigned: Some(0) }));
    }

    #[test]
    fn what_does_not_fit_an_extent_gets_nothing() {
        assert_eq!(map(1).allocate(101), None);
    }

    #[test]
    fn a_fenced_extent_gives_nothing_and_takes_back_what_was_given() {
        let mut map = map(1);
        let given = map.allocate(10).unwrap();
        map.fence(0);
        assert_eq!(map.allocate(10), None);
        map.release(given.sector);
        assert_eq!(map.allocate(10), None);
        assert_eq!((map.used_bytes(), map.fenced_count()), (0, 1));
    }

    #[test]
    fn contradicting_claims_are_refused() {
        let mut map = map(2);
        assert_eq!(map.claim(10, 10), Ok(()));
        assert_eq!(map.claim(10, 10), Err(ClaimError::Taken));
        assert_eq!(map.claim(20, 5), Err(ClaimError::OtherClass));
        assert_eq!(map.claim(15, 10), Err(ClaimError::OutOfRange));
        assert_eq!(map.claim(200, 10), Err(ClaimError::OutOfRange));
        assert_eq!(map.claim(130, 40), Err(ClaimError::OutOfRange));
        map.fence(1);
        assert_eq!(map.claim(100, 10), Err(ClaimError::Fenced));
    }

    #[test]
    fn slots_remember_whose_they_are_until_they_are_released() {
        let mut map = map(1);
        let first = map.allocate(10).unwrap().sector;
        let second = map.allocate(10).unwrap().sector;
        map.set_owner(second, Some(7));
        assert_eq!(map.owners(0).collect::<Vec<_>>(), [7]);
        assert_eq!((map.some_owner(0, |_| 1), map.some_owner(0, |_| 2)), (Some(7), Some(7)));
        map.set_owner(first, Some(8));
        map.release(second);
        assert_eq!(map.owners(0).collect::<Vec<_>>(), [8]);
        assert_eq!(map.extents_of(10).collect::<Vec<_>>(), [0]);
        assert_eq!(map.extents_of(11).count(), 0);
    }

    #[test]
    fn an_extent_is_discarded_once_after_each_use_and_meanwhile_given_to_nobody() {
        let mut map = map(1);
        assert_eq!(map.begin_discard(), None, "it never held anything");
        let given = map.allocate(10).unwrap();
        assert_eq!(map.begin_discard(), None, "it is in use");
        map.release(given.sector);
        assert_eq!(map.begin_discard(), Some(0));
        assert_eq!(map.allocate(10), None);
        map.end_discard(0);
        assert_eq!(map.begin_discard(), None);
        assert!(map.allocate(10).is_some());
    }

    proptest! {
        #[test]
        fn slots_never_overlap_and_all_come_back(steps in prop::collection::vec((0..4_u32, any::<u16>()), 1..400)) {
            let mut map = map(5);
            let mut held: BTreeMap<u32, u32> = BTreeMap::new();
            for (step, choice) in steps {
                if step < 3 {
                    let class = [3, 10, 64][step as usize];
                    if let Some(given) = map.allocate(class) {
                        let before = held.range(..given.sector + class).next_back();
                        prop_assert!(before.is_none_or(|(sector, class)| sector + class <= given.sector));
                        prop_assert_eq!(given.sector / 100, (given.sector + class - 1) / 100);
                        held.insert(given.sector, class);
                    }
                } else if !held.is_empty() {
                    let sector = *held.keys().nth(usize::from(choice) % held.len()).unwrap();
                    held.remove(&sector);
                    map.release(sector);
                }
                let used: u64 = held.values().map(|class| u64::from(*class)).sum();
                prop_assert_eq!(map.used_bytes(), used * SECTOR_BYTES as u64);
            }
            held.keys().for_each(|sector| map.release(*sector));
            prop_assert_eq!(map.used_bytes(), 0);
            prop_assert_eq!(map.free.len(), 5);
        }
    }
}
