//! Room in a tier: who goes, and how the extents of a tier move between record sizes.

use std::sync::Mutex;

use hearth_proto::{BlockId, Generation};

use crate::extents::ExtentMap;
use crate::index::Handle;
use crate::policy::{Bags, Candidates, Worth};
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

/// The blocks of a tier, as whoever makes room sees them.
pub(crate) trait Residents: Candidates<Handle> {
    /// Evicts a block that stands in `bags`. Returns false if it is in use by now.
    fn evict(&self, bags: &mut Bags<Handle>, block: Handle) -> bool;
}

/// Frees at least one slot of `class`. Returns false if nothing may be evicted for it.
///
/// A record size evicts what is worth least of its own. Extents follow the worth of what lies in them: when
/// those of another record size hold what is worth less, one of them is emptied and changes sides, so that
/// what nobody uses any more makes room whatever its size. A record size that has nothing to evict takes an
/// extent all the same.
pub(crate) fn make_room(
    bags: &mut Bags<Handle>,
    slots: &Mutex<ExtentMap>,
    class: u32,
    now_us: u64,
    residents: &impl Residents,
) -> bool {
    bags.expire(now_us, residents);
    // Whoever is drawn may be taken into use before it is evicted: then the next one is drawn.
    while let Some(own) = bags.draw(class, residents) {
        let rival = some_other(bags, class);
        if let Some(rival) = rival
            && bags.draw(rival, residents).is_some_and(|drawn| drawn.worth < own.worth)
            && take_extent(bags, slots, &[rival], Some(own.worth), residents)
        {
            return true;
        }
        if residents.evict(bags, own.candidate) {
            return true;
        }
    }
    let others: Vec<_> = bags.classes().filter(|other| *other != class).collect();
    take_extent(bags, slots, &others, None, residents)
}

/// Some record size that has candidates, other than `class`.
fn some_other(bags: &mut Bags<Handle>, class: u32) -> Option<u32> {
    let count = bags.classes().filter(|other| *other != class).count();
    if count == 0 {
        return None;
    }
    let chosen = bags.random().below(count);
    bags.classes().filter(|other| *other != class).nth(chosen)
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
    let score = worths.iter().map(|worth| worth.score / worths.len() as u64).sum();
    Some(Worth { level, score })
}

/// Evicts every block of an extent, or none.
fn empty(bags: &mut Bags<Handle>, slots: &Mutex<ExtentMap>, extent: u32, residents: &impl Residents) -> bool {
    let owners: Vec<_> = {
        let slots = lock(slots);
        let owners: Vec<_> = slots.owners(extent).map(Handle::from_bits).collect();
        // Slots without an owner are being filled or emptied.
        if owners.len() != slots.used_in(extent) as usize {
            return false;
        }
        owners
    };
    if !owners.iter().all(|owner| residents.score(*owner).is_some()) {
        return false;
    }
    let mut all = true;
    for owner in owners {
        all &= residents.evict(bags, owner);
    }
    all
}
