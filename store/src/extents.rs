//! Which slots of a tier are taken: extents given to record sizes, slots given to records.
//!
//! A place is the number of its first sector within the tier. An extent serves one class, the sectors
//! of one slot; when its last slot is released it may serve another class. Extents may lie on several
//! stripes, which are members of a volume: a class then takes its slots from all of them in turn, some at
//! a time. Pure bookkeeping: it moves no bytes and knows nothing of what lies in a slot.

mod reserved;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use hearth_proto::Generation;
use hearth_proto::limits::{SECTOR_BYTES, STRIPE_BLOCKS_MIN, STRIPE_BYTES};
use reserved::Reserved;
use rustc_hash::FxHashMap;

use crate::stripes::{ByStripe, Turn};

/// Part of the tier, as a divisor, up to which every class may keep an extent open on each stripe. Beyond
/// it a class keeps no more open than it fills, so that many small ones do not take the room of one another.
const SPREAD_FREELY_DIVISOR: u32 = 4;
/// Part of an extent, as a divisor, that is the most of a class's turn on one stripe.
const TURN_DIVISOR: u32 = 4;

/// Sectors of one slot that holds a record of `payload_len` bytes with its footer.
pub(crate) fn class_of(payload_len: usize) -> u32 {
    let sectors = (payload_len + crate::slab::FOOTER_BYTES).div_ceil(SECTOR_BYTES);
    u32::try_from(sectors).expect("payloads are bounded by BLOCK_BYTES_MAX")
}

/// The extents of one tier.
pub(crate) struct ExtentMap {
    extent_sectors: u32,
    /// The first put of this life: what lies in free slots at its beginning is older.
    first: Generation,
    extents: Vec<Extent>,
    /// How many stripes there are.
    stripes: u16,
    /// How many extents there may be.
    extents_max: u32,
    /// Extents without a class, lowest first so that a file fills from its start.
    free: ByStripe,
    /// Those of the free ones that held something since they were last discarded.
    used_before: BTreeSet<u32>,
    classes: FxHashMap<u32, Class>,
    reserved: Option<Reserved>,
    used_sectors: u64,
}

#[derive(Default)]
struct Class {
    /// Extents of this class with a free slot.
    open: ByStripe,
    extents: u32,
    turn: Turn,
}

#[derive(Default)]
struct Extent {
    /// Sectors per slot; zero while the extent serves nobody.
    class: u32,
    used: u32,
    stripe: u16,
    fenced: bool,
    /// True if the extent lies nowhere: its file is gone, or that part of it.
    missing: bool,
    /// No put from this one on has left a record in a free slot.
    newer: Generation,
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
        Self::since(extent_sectors, Generation(0))
    }

    /// Extents in which records of puts before `first` may lie in slots that count as free.
    pub(crate) fn since(extent_sectors: u32, first: Generation) -> Self {
        assert!(extent_sectors > 0, "an extent has sectors");
        Self {
            extent_sectors,
            first,
            extents: Vec::new(),
            stripes: 1,
            extents_max: 0,
            free: ByStripe::default(),
            used_before: BTreeSet::new(),
            classes: FxHashMap::default(),
            reserved: None,
            used_sectors: 0,
        }
    }

    /// Lets the extents, of which there may be so many, lie on several stripes.
    pub(crate) fn striped(self, stripes: usize, extents_max: u32) -> Self {
        let stripes = u16::try_from(stripes).expect("the slabs of a store are few");
        Self { stripes, extents_max, ..self }
    }

    /// Adds one extent at the end and says its number.
    pub(crate) fn grow(&mut self) -> u32 {
        self.grow_on(0)
    }

    /// The same, on a stripe.
    pub(crate) fn grow_on(&mut self, stripe: u16) -> u32 {
        let extent = self.count();
        self.extents.push(Extent { stripe, newer: self.first, ..Extent::default() });
        self.free.insert(stripe, extent);
        extent
    }

    /// The first put whose record cannot be mistaken for what was left in a free slot of an extent.
    pub(crate) fn newer(&self, extent: u32) -> Generation {
        self.extents[extent as usize].newer
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
        let gone = &mut self.extents[extent as usize];
        gone.missing = true;
        self.free.remove(gone.stripe, extent);
    }

    /// Notes that an extent that lay nowhere, and that nobody uses, lies on a stripe again.
    pub(crate) fn find(&mut self, number: u32, stripe: u16) {
        let extent = &mut self.extents[number as usize];
        (extent.missing, extent.stripe) = (false, stripe);
        if !extent.fenced {
            self.free.insert(stripe, number);
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

    /// Whose records lie in an extent, where that is settled.
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
        let serving = move |(number, extent): &(u32, &Extent)| {
            extent.class == class && !extent.fenced && !self.is_reserved(*number)
        };
        (0..self.count()).zip(&self.extents).filter(serving).map(|(number, _)| number)
    }

    /// Takes a free extent whose old contents the device may forget. It is given to nobody until
    /// [`ExtentMap::end_discard`].
    pub(crate) fn begin_discard(&mut self) -> Option<u32> {
        let extent = self.used_before.pop_first()?;
        self.free.remove(self.extents[extent as usize].stripe, extent);
        Some(extent)
    }

    pub(crate) fn end_discard(&mut self, extent: u32) {
        if !self.is_fenced(extent) {
            self.free.insert(self.extents[extent as usize].stripe, extent);
        }
    }

    /// Gives a free slot of `class`, in the lowest extent that has one on the stripe whose turn it is;
    /// `None` if there is none anywhere.
    pub(crate) fn allocate(&mut self, class: u32) -> Option<Given> {
        let slots = self.slots_per_extent(class);
        if slots == 0 {
            return None;
        }
        let extent = self.next_extent(class)?;
        let assigned = (self.extents[extent as usize].class == 0).then_some(extent);
        if assigned.is_some() {
            self.assign(extent, class);
        }
        let turn_slots = self.turn_slots(class);
        let stripe = self.extents[extent as usize].stripe;
        if let Some(class) = self.classes.get_mut(&class) {
            class.turn.take(stripe, turn_slots);
        }
        let taken = &self.extents[extent as usize].taken;
        let word = taken.iter().position(|word| *word != u64::MAX).expect("an open extent has a free slot");
        let slot = word as u32 * 64 + taken[word].trailing_ones();
        assert!(slot < slots, "the bits beyond the last slot are set from the start");
        let sector = extent * self.extent_sectors + slot * class;
        self.take(sector, class);
        Some(Given { sector, assigned })
    }

    /// True if a slot of `class` begins at a sector, in an extent that lies somewhere.
    pub(crate) fn is_slot(&self, sector: u32, class: u32) -> bool {
        let within = sector % self.extent_sectors;
        let is_there =
            self.extents.get(self.extent_of(sector) as usize).is_some_and(|extent| !extent.missing);
        is_there && class > 0 && within.is_multiple_of(class) && within / class < self.slots_per_extent(class)
    }

    /// Gives the one slot at `sector`, as an index remembered it.
    pub(crate) fn claim(&mut self, sector: u32, class: u32) -> Result<(), ClaimError> {
        if !self.is_slot(sector, class) {
            return Err(ClaimError::OutOfRange);
        }
        let number = self.extent_of(sector);
        let within = sector % self.extent_sectors;
        let extent = &self.extents[number as usize];
        if extent.fenced {
            return Err(ClaimError::Fenced);
        }
        if extent.class == 0 {
            self.assign(number, class);
        } else if extent.class != class {
            return Err(ClaimError::OtherClass);
        } else if extent.is_taken(within / class) {
            return Err(ClaimError::Taken);
        }
        self.take(sector, class);
        Ok(())
    }

    /// Takes back a slot in which the record of a put lies, or a part of it.
    pub(crate) fn release_after(&mut self, sector: u32, put: Generation) {
        let number = self.extent_of(sector);
        let extent = &mut self.extents[number as usize];
        extent.newer = extent.newer.max(Generation(put.0 + 1));
        self.release(sector);
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
        let (empty, stripe) = (extent.used == 0, extent.stripe);
        let reserved = self.reserved.is_some_and(|reserved| reserved.is(number));
        let entry = self.classes.entry(class).or_default();
        if empty {
            extent.class = 0;
            extent.taken = Vec::new();
            extent.owners = Vec::new();
            entry.open.remove(stripe, number);
            entry.extents -= 1;
            if entry.extents == 0 {
                self.classes.remove(&class);
            }
            if !reserved {
                self.free.insert(stripe, number);
                self.used_before.insert(number);
            }
        } else if !reserved {
            entry.open.insert(stripe, number);
        }
    }

    /// Takes an extent out of service for ever. Slots still held there are released as usual.
    pub(crate) fn fence(&mut self, number: u32) {
        let extent = &mut self.extents[number as usize];
        if std::mem::replace(&mut extent.fenced, true) {
            return;
        }
        self.reserved.take_if(|reserved| reserved.is(number));
        self.free.remove(extent.stripe, number);
        self.used_before.remove(&number);
        if let Some(class) = self.classes.get_mut(&extent.class) {
            class.open.remove(extent.stripe, number);
            class.extents -= 1;
            if class.extents == 0 {
                self.classes.remove(&extent.class);
            }
        }
    }

    /// The stripes that the next slots of `class` would go to, in turn, if those had an extent more: up to the
    /// first that has one to give. Whoever can lengthen one of them does so before he allocates.
    pub(crate) fn lacking(&self, class: u32) -> Vec<u16> {
        let Some(serving) = self.classes.get(&class) else { return Vec::new() };
        if self.stripes == 1 || serving.has_turn() || !self.may_spread(serving) {
            return Vec::new();
        }
        let has_room =
            |stripe: &u16| serving.open.first_on(*stripe).or_else(|| self.free.first_on(*stripe)).is_some();
        serving.turn.stripes(self.stripes).take_while(|stripe| !has_room(stripe)).collect()
    }

    /// The extent in which the next slot of `class` lies: one that serves the class, or a free one.
    fn next_extent(&self, class: u32) -> Option<u32> {
        if let Some(extent) = self.reserved_for(class).filter(|extent| self.class_of_extent(*extent) == 0) {
            return Some(extent);
        }
        let Some(serving) = self.classes.get(&class) else { return self.free.lowest() };
        if serving.has_turn() {
            return serving.open.first_on(serving.turn.stripe());
        }
        let spreads = self.may_spread(serving);
        let free = |stripe| self.free.first_on(stripe).filter(|_| spreads);
        serving
            .turn
            .stripes(self.stripes)
            .find_map(|stripe| serving.open.first_on(stripe).or_else(|| free(stripe)))
    }

    /// True if a class may take another extent although it has open ones, for the sake of another stripe.
    fn may_spread(&self, class: &Class) -> bool {
        let open = class.open.count();
        let serving = || self.classes.values().map(|class| class.extents).sum::<u32>();
        open + open <= class.extents || serving() <= self.extents_max / SPREAD_FREELY_DIVISOR
    }

    /// Slots that a class takes on one stripe before it is the next one's turn.
    fn turn_slots(&self, class: u32) -> u32 {
        let slots = (STRIPE_BYTES / SECTOR_BYTES) as u32 / class;
        let most = (self.slots_per_extent(class) / TURN_DIVISOR).max(1);
        slots.max(STRIPE_BLOCKS_MIN).min(most)
    }

    /// Puts a fenced extent, which nobody uses, back into service.
    pub(crate) fn lift_fence(&mut self, number: u32) {
        let extent = &mut self.extents[number as usize];
        assert_eq!((extent.class, extent.used), (0, 0), "nobody uses an extent whose fence is lifted");
        extent.fenced = false;
        if !extent.missing {
            self.free.insert(extent.stripe, number);
            self.used_before.insert(number);
        }
    }

    fn slots_per_extent(&self, class: u32) -> u32 {
        self.extent_sectors.checked_div(class).unwrap_or(0)
    }

    /// Lets a free extent serve a class.
    fn assign(&mut self, number: u32, class: u32) {
        self.end_reservation(class);
        let stripe = self.extents[number as usize].stripe;
        self.free.remove(stripe, number);
        self.used_before.remove(&number);
        let slots = self.slots_per_extent(class);
        let mut taken = vec![0_u64; slots.div_ceil(64) as usize];
        if !slots.is_multiple_of(64)
            && let Some(last) = taken.last_mut()
        {
            *last = u64::MAX << (slots % 64);
        }
        let owners = vec![NOBODY; slots as usize];
        let newer = self.newer(number);
        self.extents[number as usize] =
            Extent { class, used: 0, stripe, fenced: false, missing: false, newer, taken, owners };
        let entry = self.classes.entry(class).or_default();
        entry.extents += 1;
        entry.open.insert(stripe, number);
    }

    fn take(&mut self, sector: u32, class: u32) {
        let number = self.extent_of(sector);
        let slots = self.slots_per_extent(class);
        let slot = sector % self.extent_sectors / class;
        let extent = &mut self.extents[number as usize];
        extent.taken[slot as usize / 64] |= 1 << (slot % 64);
        extent.used += 1;
        self.used_sectors += u64::from(class);
        let stripe = extent.stripe;
        if extent.used == slots
            && let Some(class) = self.classes.get_mut(&class)
        {
            class.open.remove(stripe, number);
        }
    }
}

impl Class {
    /// True while the class goes on where it got its last slot.
    fn has_turn(&self) -> bool {
        self.turn.goes_on() && self.open.first_on(self.turn.stripe()).is_some()
    }
}

impl Extent {
    fn is_taken(&self, slot: u32) -> bool {
        self.taken.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }
}
