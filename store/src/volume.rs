//! The files and devices of a store as one row of extents. Each member is a stripe: blocks go to all of
//! them in turn.
//!
//! Each member is a file or a raw device, cut into extents. An extent of the volume is one of some member;
//! which one is fixed when it is made, and the index on disk remembers it, so members may be added, be of
//! different sizes, or be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hearth_proto::limits::{GROWTH_RETRY_MS, SECTOR_BYTES};

use crate::device::{Device, Done, Request};
use crate::growth::{Growth, lengthen};
use crate::mutant::{Mutant, is};
use crate::slab::Place;
use crate::sync::lock;

/// One file or device.
pub(crate) struct VolumeMember {
    pub(crate) device: Arc<dyn Device>,
    /// Its number in its superblock, for ever.
    pub(crate) number: u16,
    /// Where the first extent begins.
    pub(crate) data_offset: u64,
    /// How many extents it may grow to.
    pub(crate) extents_max: u32,
}

pub(crate) struct Volume {
    members: Vec<Member>,
    extent_bytes: u64,
    /// Where each extent lies; `None` if it lies nowhere.
    homes: RwLock<Vec<Option<Home>>>,
    /// Extents that lie nowhere because their member is shorter than it was, by where they lay. They come
    /// back when it grows: a place never has two numbers, and a fence stays with its place.
    cut_off: Mutex<BTreeMap<(usize, u32), u32>>,
}

struct Member {
    device: Arc<dyn Device>,
    number: u16,
    data_offset: u64,
    extents_max: u32,
    growing: Mutex<Growing>,
}

struct Growing {
    extents: u32,
    pace: Growth,
}

/// A place, with the member found.
#[derive(Clone, Copy)]
struct Home {
    member: usize,
    local: u32,
}

impl Home {
    fn stripe(self) -> u16 {
        u16::try_from(self.member).expect("the slabs of a store are few")
    }
}

impl Volume {
    /// A volume of `members`, with the extents that an index remembered by their numbers.
    ///
    /// What it remembers that is not there lies nowhere. What is there and is not remembered gets a number.
    pub(crate) fn new(members: Vec<VolumeMember>, extent_bytes: u64, remembered: &[(u32, Place)]) -> Self {
        let members: Vec<_> = members.into_iter().map(|member| Member::new(member, extent_bytes)).collect();
        let mut unnamed: BTreeSet<_> = (0..members.len())
            .flat_map(|member| (0..members[member].growing().extents).map(move |local| (local, member)))
            .collect();
        let count = remembered.iter().map(|(extent, _)| *extent as usize + 1).max().unwrap_or(0);
        let mut homes = vec![None; count];
        let mut skipped: BTreeSet<_> = (0..count).collect();
        let mut cut_off = BTreeMap::new();
        for (extent, place) in remembered {
            skipped.remove(&(*extent as usize));
            let Some(member) = members.iter().position(|member| member.number == place.member) else {
                continue;
            };
            if unnamed.remove(&(place.local, member)) {
                homes[*extent as usize] = Some(Home { member, local: place.local });
            } else if place.local >= members[member].growing().extents {
                cut_off.insert((member, place.local), *extent);
            }
        }
        for (local, member) in unnamed {
            let home = Some(Home { member, local });
            match skipped.pop_first() {
                Some(extent) => homes[extent] = home,
                None => homes.push(home),
            }
        }
        Self { members, extent_bytes, homes: RwLock::new(homes), cut_off: Mutex::new(cut_off) }
    }

    /// The stripes of the extents, by their numbers: each member is one; `None` for an extent that lies
    /// nowhere.
    pub(crate) fn stripes(&self) -> Vec<Option<u16>> {
        self.homes().iter().map(|home| home.map(Home::stripe)).collect()
    }

    /// The stripe of an extent that lies somewhere.
    pub(crate) fn stripe_of(&self, extent: u32) -> u16 {
        self.homes()[extent as usize].expect("the extent lies somewhere").stripe()
    }

    pub(crate) fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Where an extent lies.
    pub(crate) fn place_of(&self, extent: u32) -> Option<Place> {
        let home = self.homes().get(extent as usize).copied().flatten()?;
        Some(Place { member: self.members[home.member].number, local: home.local })
    }

    /// The member on which a sector lies, and where there.
    pub(crate) fn locate(&self, sector: u32) -> (usize, u64) {
        let at = u64::from(sector) * SECTOR_BYTES as u64;
        let home = self.homes()[(at / self.extent_bytes) as usize];
        let home = home.expect("a sector that was given out lies somewhere");
        let base = self.members[home.member].data_offset + u64::from(home.local) * self.extent_bytes;
        (home.member, base + at % self.extent_bytes)
    }

    pub(crate) fn extent_bytes(&self) -> u64 {
        self.extent_bytes
    }

    pub(crate) fn device(&self, member: usize) -> &dyn Device {
        &*self.members[member].device
    }

    /// Lets the device forget what an extent held, if it can.
    pub(crate) fn discard(&self, extent: u32, done: Done) {
        let first = extent * (self.extent_bytes / SECTOR_BYTES as u64) as u32;
        let (member, offset) = self.locate(first);
        self.device(member).submit(Request::Discard { offset, len: self.extent_bytes, done });
    }

    /// Bytes of all extents, those to come included.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.members.iter().map(|member| u64::from(member.extents_max) * self.extent_bytes).sum()
    }

    /// How many extents there may be.
    pub(crate) fn extents_max(&self) -> u32 {
        self.members.iter().map(|member| member.extents_max).sum()
    }

    /// Adds an extent to the least full of the members that may grow now, and says its number: the next
    /// one, or the one that the place had before. `None` if all are as long as they may be, or have no
    /// room: those pause, and `refused` counts them.
    pub(crate) fn grow(&self, now_us: u64, refused: &mut dyn FnMut()) -> Option<u32> {
        loop {
            let candidates = (0..self.members.len()).filter(|member| self.members[*member].may_grow(now_us));
            let member = candidates.min_by_key(|member| self.members[*member].fullness())?;
            if let Some(extent) = self.grow_member(member, now_us, refused) {
                return Some(extent);
            }
        }
    }

    /// The same for one member.
    pub(crate) fn grow_member(&self, member: usize, now_us: u64, refused: &mut dyn FnMut()) -> Option<u32> {
        if !self.members[member].may_grow(now_us) {
            return None;
        }
        match self.members[member].grow(self.extent_bytes) {
            Ok(local) => {
                let mut homes = self.homes.write().unwrap_or_else(PoisonError::into_inner);
                let home = Some(Home { member, local });
                if let Some(extent) = lock(&self.cut_off).remove(&(member, local))
                    && !is(Mutant::ExtentNumberedTwice)
                {
                    homes[extent as usize] = home;
                    return Some(extent);
                }
                homes.push(home);
                Some(homes.len() as u32 - 1)
            }
            Err(error) => {
                refused();
                self.pause_growth(member, now_us, &error);
                None
            }
        }
    }

    /// Makes do with the extents that a member has: its file system has no room for more.
    pub(crate) fn pause_growth(&self, member: usize, now_us: u64, error: &dyn std::fmt::Display) {
        let mut growing = self.members[member].growing();
        if growing.pace.refused(now_us) {
            tracing::warn!(
                %error, member = self.members[member].number, extents = growing.extents,
                retry_ms = GROWTH_RETRY_MS,
                "the slab cannot grow: blocks are evicted within the extents that there are; free space on \
                 its file system, or give this node a smaller NVMe capacity"
            );
        }
    }

    #[cfg(test)]
    pub(crate) fn end_growth_pauses(&self) {
        self.members.iter().for_each(|member| member.growing().pace = Growth::default());
    }

    fn homes(&self) -> std::sync::RwLockReadGuard<'_, Vec<Option<Home>>> {
        self.homes.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn new(member: VolumeMember, extent_bytes: u64) -> Self {
        let VolumeMember { device, number, data_offset, extents_max } = member;
        let found = device.len_bytes().saturating_sub(data_offset) / extent_bytes;
        let extents = u32::try_from(found).unwrap_or(u32::MAX);
        // A device is as long as it is, and may be given in part. A file that is already longer is used as
        // it is.
        let is_device = matches!(device.space(), Ok(None));
        let extents = if is_device { extents.min(extents_max) } else { extents };
        let growing = Mutex::new(Growing { extents, pace: Growth::default() });
        Self { device, number, data_offset, extents_max: extents_max.max(extents), growing }
    }

    fn growing(&self) -> MutexGuard<'_, Growing> {
        lock(&self.growing)
    }

    fn may_grow(&self, now_us: u64) -> bool {
        let growing = self.growing();
        growing.extents < self.extents_max && growing.pace.may_try(now_us)
    }

    /// How much of the member is there already, in units that compare.
    fn fullness(&self) -> u64 {
        (u64::from(self.growing().extents) << 32) / u64::from(self.extents_max.max(1))
    }

    fn grow(&self, extent_bytes: u64) -> Result<u32, crate::growth::GrowthError> {
        let mut growing = self.growing();
        let local = growing.extents;
        let len_bytes = self.data_offset + u64::from(local + 1) * extent_bytes;
        if self.device.len_bytes() < len_bytes {
            lengthen(&*self.device, len_bytes, extent_bytes)?;
        }
        growing.extents += 1;
        if growing.pace.succeeded() {
            tracing::info!(member = self.number, extents = growing.extents, "a slab grows again");
        }
        Ok(local)
    }
}
