//! Slots of NVMe that are ready for records: the index on disk knows already that a record may lie there
//! which it does not name. A block that goes to such a slot is durable with its record, and the index may
//! hear of it later; after a crash the slots that were ready are looked at.

use std::collections::VecDeque;

use hearth_proto::Generation;
use hearth_proto::limits::{READY_SLOTS_MAX, READY_SLOTS_MIN, READY_TIER_DIVISOR, SECTOR_BYTES};
use rustc_hash::FxHashMap;

use crate::slab::ReadySlot;

/// How many slots are kept ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadyLimits {
    /// The most bytes of them.
    pub(crate) bytes_max: u64,
    /// They take no more of the tier than this part of it.
    pub(crate) tier_divisor: u64,
    /// Fewer are not worth it.
    pub(crate) slots_min: usize,
}

impl ReadyLimits {
    pub(crate) const fn of_bytes(bytes_max: u64) -> Self {
        Self { bytes_max, tier_divisor: READY_TIER_DIVISOR, slots_min: READY_SLOTS_MIN }
    }

    /// How many slots are to be ready for records of so many sectors in a tier of so many bytes, if there are
    /// so many record sizes. None where that is hardly any.
    pub(crate) fn target(&self, class: u32, tier_bytes: u64, sharers: usize) -> usize {
        let bytes = self.bytes_max.min(tier_bytes / self.tier_divisor) / sharers as u64;
        let slots = bytes / (u64::from(class) * SECTOR_BYTES as u64);
        let slots = usize::try_from(slots).unwrap_or(usize::MAX).min(READY_SLOTS_MAX);
        if slots < self.slots_min { 0 } else { slots }
    }
}

/// The slots that are ready and wait for a record, by their record size in sectors.
#[derive(Default)]
pub(crate) struct ReadySlots {
    shelves: FxHashMap<u32, Shelf>,
    sectors: u64,
}

#[derive(Default)]
struct Shelf {
    slots: VecDeque<ReadySlot>,
    /// More are asked for when there are no more than this.
    low: usize,
    asked: bool,
    /// How often others were made ready since a slot was taken.
    idle: u32,
}

/// Slots stay ready while others are made ready so often.
const IDLE_MAX: u32 = 8;

impl ReadySlots {
    /// Takes a slot for the record of `put`; `None` if there is none that was free of newer records when it
    /// became ready. Says too whether more have to be made ready: once, until some were.
    pub(crate) fn take(&mut self, class: u32, put: Generation) -> (Option<ReadySlot>, bool) {
        let Some(shelf) = self.shelves.get_mut(&class) else { return (None, false) };
        shelf.idle = 0;
        let fits = shelf.slots.front().is_some_and(|slot| slot.from <= put);
        let taken = if fits { shelf.slots.pop_front() } else { None };
        self.sectors -= taken.map_or(0, |_| u64::from(class));
        let ask = shelf.slots.len() <= shelf.low && !std::mem::replace(&mut shelf.asked, true);
        (taken, ask)
    }

    /// Adds slots that became ready. More are asked for when no more than `low` are left.
    pub(crate) fn add(&mut self, class: u32, slots: impl Iterator<Item = ReadySlot>, low: usize) {
        let shelf = self.shelves.entry(class).or_default();
        let before = shelf.slots.len();
        shelf.slots.extend(slots);
        self.sectors += (shelf.slots.len() - before) as u64 * u64::from(class);
        (shelf.low, shelf.asked) = (low, false);
    }

    pub(crate) fn count(&self, class: u32) -> usize {
        self.shelves.get(&class).map_or(0, |shelf| shelf.slots.len())
    }

    /// Record sizes other than `class` for which slots wait, or one was taken lately.
    pub(crate) fn others(&self, class: u32) -> usize {
        self.shelves.keys().filter(|other| **other != class).count()
    }

    /// Sectors of all slots that wait.
    pub(crate) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Takes away the slots of record sizes other than `class` that nobody took a slot of for long, as slots
    /// of `class` are made ready.
    pub(crate) fn take_idle(&mut self, class: u32) -> Vec<ReadySlot> {
        let is_idle = |other, shelf: &mut Shelf| {
            shelf.idle += u32::from(other != class);
            shelf.idle > IDLE_MAX
        };
        self.take_where(is_idle, |_| true)
    }

    /// Takes away the slots of record sizes other than `class`.
    pub(crate) fn take_others(&mut self, class: u32) -> Vec<ReadySlot> {
        self.take_where(|other, _| other != class, |_| true)
    }

    /// Takes away those slots.
    pub(crate) fn take_slots(&mut self, is_taken: impl Fn(&ReadySlot) -> bool) -> Vec<ReadySlot> {
        self.take_where(|_, _| true, is_taken)
    }

    fn take_where(
        &mut self,
        is_looked_at: impl Fn(u32, &mut Shelf) -> bool,
        is_taken: impl Fn(&ReadySlot) -> bool,
    ) -> Vec<ReadySlot> {
        let mut taken = Vec::new();
        for (class, shelf) in &mut self.shelves {
            if is_looked_at(*class, shelf) {
                let (gone, left): (VecDeque<_>, _) =
                    std::mem::take(&mut shelf.slots).into_iter().partition(&is_taken);
                shelf.slots = left;
                self.sectors -= gone.len() as u64 * u64::from(*class);
                taken.extend(gone);
            }
        }
        self.shelves.retain(|_, shelf| !shelf.slots.is_empty() || shelf.idle <= IDLE_MAX);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(sector: u32, from: u64) -> ReadySlot {
        ReadySlot { sector, from: Generation(from) }
    }

    #[test]
    fn a_slot_goes_to_puts_that_came_after_what_it_held() {
        let mut ready = ReadySlots::default();
        ready.add(3, [slot(9, 7)].into_iter(), 0);
        assert_eq!(ready.take(3, Generation(6)), (None, false));
        assert_eq!(ready.take(4, Generation(9)), (None, false));
        assert_eq!(ready.sectors(), 3);
        assert_eq!(ready.take(3, Generation(7)), (Some(slot(9, 7)), true));
        assert_eq!(ready.sectors(), 0);
    }

    #[test]
    fn there_are_few_beside_what_the_tier_has() {
        let limits = ReadyLimits::of_bytes(1 << 20);
        assert_eq!(limits.target(1, 1 << 40, 1), 256);
        assert_eq!(limits.target(1, 1 << 40, 4), 64, "for each of four record sizes");
        assert_eq!(limits.target(1, 16 << 20, 1), 128, "a thirty-second part of it");
        assert_eq!(limits.target(65, 1 << 40, 1), 0, "three would not be worth it");
        assert_eq!(ReadyLimits::of_bytes(0).target(1, 1 << 40, 1), 0);
        assert_eq!(ReadyLimits::of_bytes(u64::MAX).target(1, u64::MAX, 1), READY_SLOTS_MAX);
    }

    #[test]
    fn more_are_asked_for_once_until_some_came() {
        let mut ready = ReadySlots::default();
        ready.add(1, (0..4).map(|sector| slot(sector, 0)), 2);
        let asked = std::array::from_fn(|_| ready.take(1, Generation(1)).1);
        assert_eq!(asked, [false, true, false, false, false]);
        ready.add(1, [slot(4, 0)].into_iter(), 2);
        assert_eq!(ready.take(1, Generation(1)), (Some(slot(4, 0)), true));
    }

    #[test]
    fn what_nobody_uses_is_taken_away_and_what_is_used_stays() {
        let mut ready = ReadySlots::default();
        ready.add(1, [slot(0, 0), slot(1, 0)].into_iter(), 0);
        ready.add(2, [slot(10, 0)].into_iter(), 0);
        for _ in 0..IDLE_MAX {
            assert_eq!(ready.take_idle(9), []);
        }
        ready.take(1, Generation(1));
        assert_eq!(ready.others(9), 2);
        assert_eq!(ready.take_idle(9), [slot(10, 0)]);
        assert_eq!((ready.others(9), ready.sectors()), (1, 1), "what is used stays");
        assert_eq!(ready.take_others(9), [slot(1, 0)]);
        assert_eq!(ready.sectors(), 0);
    }
}
