//! Room in a tier: the lines of eviction candidates of each record size, and how they compete.

use std::sync::Mutex;

use hearth_proto::{BlockId, Generation};
use rustc_hash::FxHashMap;

use crate::extents::ExtentMap;
use crate::policy::{EvictionQueue, Keep, Verdict};
use crate::sync::lock;

/// Extents that one attempt to empty an extent looks at.
const EXTENTS_TRIED_MAX: usize = 16;

/// A block that lies in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) id: BlockId,
    pub(crate) generation: Generation,
}

/// How a tier lets go of a block.
pub(crate) trait Evictor {
    /// True if the block could be evicted now.
    fn may_evict(&self, sector: u32, resident: &Resident) -> bool;

    /// Evicts the block, unless it is in use or was used later than `known_use_us`.
    fn evict(&self, sector: u32, resident: &Resident, known_use_us: u64) -> Verdict;
}

/// The candidates of one tier, in one line for each record size.
///
/// Lock order: lines, then a shard of the index, then the extents of a tier.
#[derive(Default)]
pub(crate) struct Lines {
    classes: FxHashMap<u32, EvictionQueue<Resident>>,
}

impl Lines {
    pub(crate) fn insert(
        &mut self,
        class: u32,
        sector: u32,
        resident: Resident,
        keep: Keep,
        used_at_us: u64,
        now_us: u64,
    ) {
        self.classes.entry(class).or_default().insert(sector, resident, keep, used_at_us, now_us);
    }

    pub(crate) fn remove(&mut self, class: u32, sector: u32, resident: &Resident) {
        if let Some(line) = self.classes.get_mut(&class) {
            line.remove_if(sector, |found| found == resident);
            if line.len() == 0 {
                self.classes.remove(&class);
            }
        }
    }

    pub(crate) fn keep(&mut self, class: u32, sector: u32, resident: &Resident, keep: Keep, now_us: u64) {
        if let Some(line) = self.classes.get_mut(&class) {
            line.keep_if(sector, keep, now_us, |found| found == resident);
        }
    }

    /// The candidates that lie in an extent.
    pub(crate) fn residents(&self, slots: &Mutex<ExtentMap>, extent: u32) -> Vec<(u32, Resident)> {
        let sectors = lock(slots).sectors_of(extent);
        self.classes
            .values()
            .flat_map(|line| line.within(sectors.clone()))
            .map(|(sector, resident)| (sector, *resident))
            .collect()
    }

    /// Frees at least one slot of `class`. Returns false if nothing may be evicted for it.
    ///
    /// A class that holds less than its share takes a whole extent from a class that holds more; else
    /// it evicts its own least valuable block, and if it has none, takes an extent all the same.
    pub(crate) fn make_room(
        &mut self,
        slots: &Mutex<ExtentMap>,
        class: u32,
        now_us: u64,
        evictor: &impl Evictor,
    ) -> bool {
        let below_share = lock(slots).is_below_share(class);
        if below_share && self.empty_an_extent(slots, class, evictor) {
            return true;
        }
        let judge = |sector, resident: &Resident, known| evictor.evict(sector, resident, known);
        if self.classes.get_mut(&class).is_some_and(|line| line.evict_one(now_us, judge)) {
            return true;
        }
        !below_share && self.empty_an_extent(slots, class, evictor)
    }

    /// Evicts every block of one extent of another class, preferring the extent whose most valuable
    /// block is worth least.
    fn empty_an_extent(&mut self, slots: &Mutex<ExtentMap>, class: u32, evictor: &impl Evictor) -> bool {
        let mut others = lock(slots).extents_of_others(class);
        others.truncate(EXTENTS_TRIED_MAX);
        others.sort_by_cached_key(|(extent, other)| {
            let sectors = lock(slots).sectors_of(*extent);
            self.classes.get(other).and_then(|line| line.highest_priority(sectors))
        });
        for (extent, other) in others {
            let residents = self.residents(slots, extent);
            // Slots that are held by nobody in line are being filled, or wait to be written.
            let all_in_line = residents.len() == lock(slots).used_in(extent) as usize;
            if !all_in_line
                || !residents.iter().all(|(sector, resident)| evictor.may_evict(*sector, resident))
            {
                continue;
            }
            for (sector, resident) in &residents {
                let verdict = evictor.evict(*sector, resident, u64::MAX);
                if matches!(verdict, Verdict::Evicted | Verdict::Gone) {
                    self.remove(other, *sector, resident);
                }
            }
            if lock(slots).used_in(extent) == 0 {
                return true;
            }
        }
        false
    }
}
