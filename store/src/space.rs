//! Room in a tier: who goes, and how the extents of a tier move between record sizes.

use std::sync::Mutex;

use hearth_proto::{BlockId, Generation};

use crate::extents::ExtentMap;
use crate::index::Handle;
use crate::policy::{Bags, Candidates, Level};
use crate::sync::lock;

/// Extents of another record size that are considered at a time.
const EXTENTS_TRIED_MAX: usize = 8;
/// Blocks by which an extent is judged.
const JUDGED: usize = 8;

/// A block as a write or a read in flight names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) id: BlockId,
    pub(crate) generation: Generation,
}

/// What a block is worth for the room that it takes; the least goes first.
///
/// A block of twice the size saves about twice the work each time it is used, so size does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Worth {
    pub(crate) level: Level,
    /// Uses per tick, as the bits of a float that is not negative, which have its order.
    pub(crate) uses: u32,
}

/// The blocks of a tier, as whoever makes room sees them.
pub(crate) trait Residents: Candidates<Handle> {
    /// What a block is worth in comparison with those of other bags; `None` if it cannot go now.
    fn worth(&self, block: Handle) -> Option<Worth>;

    /// Evicts a block that stands in `bags`. Returns false if it is in use by now.
    fn evict(&self, bags: &mut Bags<Handle>, block: Handle) -> bool;

    /// Frees the slots of an extent that are in use for blocks which are still to come, and whom nobody
    /// promised one.
    fn free_waiting(&self, _extent: u32) {}
}

/// The candidates of a tier, and who goes next among them.
pub(crate) struct Room {
    pub(crate) bags: Bags<Handle>,
}

impl Room {
    pub(crate) fn new(seed: u64) -> Self {
        Self { bags: Bags::new(seed) }
    }

    /// Frees at least one slot of `class`. Returns false if nothing may be evicted for it.
    ///
    /// A record size evicts what is worth least of its own, of a chain the deepest first: a child is useless
    /// without its parent. Extents follow the worth of what lies in them: when those of another record size
    /// hold what is worth less, one of them is emptied and changes sides, so that what nobody uses any more
    /// makes room whatever its size. A record size that has nothing to evict
    /// takes an extent all the same.
    pub(crate) fn make(
        &mut self,
        slots: &Mutex<ExtentMap>,
        class: u32,
        now_us: u64,
        residents: &impl Residents,
    ) -> bool {
        self.bags.expire(now_us, residents);
        // Whoever is chosen may be taken into use before it is evicted: then it is the next one's turn.
        while let Some(own) = self.bags.next(class, residents) {
            let worth = residents.worth(own);
            if self.take_from_rival(slots, class, worth, residents) || residents.evict(&mut self.bags, own) {
                return true;
            }
        }
        let others: Vec<_> = self.bags.sizes().filter(|other| *other != class).collect();
        take_extent(&mut self.bags, slots, &others, None, residents)
    }

    /// Takes an extent of another record size, if what lies there is worth less than `own`.
    fn take_from_rival(
        &mut self,
        slots: &Mutex<ExtentMap>,
        class: u32,
        own: Option<Worth>,
        residents: &impl Residents,
    ) -> bool {
        let Some(rival) = some_other(&mut self.bags, class) else { return false };
        let theirs = self.bags.next(rival, residents).and_then(|block| residents.worth(block));
        let less = theirs.zip(own).is_some_and(|(theirs, own)| theirs < own);
        less && take_extent(&mut self.bags, slots, &[rival], own, residents)
    }
}

/// Some record size that has candidates, other than `class`.
fn some_other(bags: &mut Bags<Handle>, class: u32) -> Option<u32> {
    let count = bags.sizes().filter(|other| *other != class).count();
    if count == 0 {
        return None;
    }
    let chosen = bags.random().below(count);
    bags.sizes().filter(|other| *other != class).nth(chosen)
}

/// Empties the extent of one of the record sizes `of` that is worth least, if it is worth less than `bound`.
fn take_extent(
    bags: &mut Bags<Handle>,
    slots: &Mutex<ExtentMap>,
    of: &[u32],
    bound: Option<Worth>,
    residents: &impl Residents,
) -> bool {
    let mut extents = Vec::new();
    for class in of {
        let serving: Vec<_> = lock(slots).extents_of(*class).collect();
        let begin = bags.random().below(serving.len().max(1));
        let tried = serving.iter().cycle().skip(begin).take(serving.len().min(EXTENTS_TRIED_MAX));
        extents
            .extend(tried.filter_map(|extent| Some((mean_worth(bags, slots, *extent, residents)?, *extent))));
    }
    extents.sort_unstable();
    extents
        .into_iter()
        .take_while(|(worth, _)| bound.is_none_or(|bound| *worth < bound))
        .any(|(_, extent)| empty(bags, slots, extent, residents))
}

/// What the blocks of an extent are worth, by some of them: the highest priority, and the mean. `None` if
/// none of them can go now.
fn mean_worth(
    bags: &mut Bags<Handle>,
    slots: &Mutex<ExtentMap>,
    extent: u32,
    residents: &impl Residents,
) -> Option<Worth> {
    let random = bags.random();
    let judged: Vec<_> = {
        let slots = lock(slots);
        (0..JUDGED).filter_map(|_| slots.some_owner(extent, |bound| random.below(bound))).collect()
    };
    let worths: Vec<_> =
        judged.into_iter().filter_map(|bits| residents.worth(Handle::from_bits(bits))).collect();
    let level = worths.iter().map(|worth| worth.level).max()?;
    let sum: f32 = worths.iter().map(|worth| f32::from_bits(worth.uses)).sum();
    Some(Worth { level, uses: (sum / worths.len() as f32).to_bits() })
}

/// Evicts every block of an extent, or none.
fn empty(bags: &mut Bags<Handle>, slots: &Mutex<ExtentMap>, extent: u32, residents: &impl Residents) -> bool {
    let owners: Vec<_> = lock(slots).owners(extent).map(Handle::from_bits).collect();
    if !owners.iter().all(|owner| residents.look(*owner).is_free) {
        return false;
    }
    residents.free_waiting(extent);
    // Slots without an owner are being filled or emptied.
    if owners.len() != lock(slots).used_in(extent) as usize {
        return false;
    }
    let mut all = true;
    for owner in owners {
        all &= residents.evict(bags, owner);
    }
    all
}
