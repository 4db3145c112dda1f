//! Who goes first when a tier is full.
//!
//! The order is the effective priority, then the time of last use, then the depth in the chain: of
//! blocks used at about the same time the deepest goes first, since a child is useless without its
//! parent. Pure: time comes in as microseconds since an origin that the caller chose, and the caller
//! judges each candidate, because only it knows what is leased or was used since.
//!
//! Use does not reorder anything when it happens. A candidate that was used after its place in line was
//! fixed is put back to where it belongs when its turn comes, so a hit costs one store to memory.

mod rank;
pub mod reuse;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use hearth_proto::Priority;
pub(crate) use rank::Keep;
use rank::Rank;

/// What the caller knows of a candidate when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was evicted just now.
    Evicted,
    /// It was last used at this time, later than the line knew: it goes back in line.
    UsedAt(u64),
    /// It is in use: it counts as used now.
    InUse,
    /// It is no longer there.
    Gone,
}

/// The line of candidates of one record size in one tier, each named by its first sector.
pub(crate) struct EvictionQueue<T> {
    entries: BTreeMap<u32, Entry<T>>,
    order: BTreeSet<Rank>,
    expiries: BTreeSet<(u64, u32)>,
}

struct Entry<T> {
    value: T,
    keep: Keep,
    rank: Rank,
}

impl<T> Default for EvictionQueue<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), order: BTreeSet::new(), expiries: BTreeSet::new() }
    }
}

impl<T> EvictionQueue<T> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Puts a candidate in line, in place of any that had the same sector.
    pub(crate) fn insert(&mut self, sector: u32, value: T, keep: Keep, used_at_us: u64, now_us: u64) {
        self.remove(sector);
        let rank = Rank::new(keep.priority_at(now_us), used_at_us, keep.depth, sector);
        self.order.insert(rank);
        if let Some(expiry) = keep.expiry_after(now_us) {
            self.expiries.insert((expiry, sector));
        }
        self.entries.insert(sector, Entry { value, keep, rank });
    }

    pub(crate) fn remove(&mut self, sector: u32) -> Option<T> {
        let entry = self.entries.remove(&sector)?;
        self.order.remove(&entry.rank);
        if let Some(expiry) = entry.keep.expires_at_us {
            self.expiries.remove(&(expiry, sector));
        }
        Some(entry.value)
    }

    /// Removes a candidate if it is still the one that the caller means.
    pub(crate) fn remove_if(&mut self, sector: u32, same: impl FnOnce(&T) -> bool) -> bool {
        let found = self.entries.get(&sector).is_some_and(|entry| same(&entry.value));
        found && self.remove(sector).is_some()
    }

    /// Changes how long a candidate is kept, if it is still the one that the caller means.
    pub(crate) fn keep_if(&mut self, sector: u32, keep: Keep, now_us: u64, same: impl FnOnce(&T) -> bool) {
        if self.entries.get(&sector).is_some_and(|entry| same(&entry.value)) {
            let used_at_us = self.entries[&sector].rank.used_at_us();
            if let Some(value) = self.remove(sector) {
                self.insert(sector, value, keep, used_at_us, now_us);
            }
        }
    }

    /// The candidates whose slots begin within `sectors`.
    pub(crate) fn within(&self, sectors: Range<u32>) -> impl Iterator<Item = (u32, &T)> {
        self.entries.range(sectors).map(|(sector, entry)| (*sector, &entry.value))
    }

    /// The highest priority that any candidate within `sectors` has, as far as the line knows.
    pub(crate) fn highest_priority(&self, sectors: Range<u32>) -> Option<Priority> {
        self.entries.range(sectors).map(|(_, entry)| entry.rank.priority()).max()
    }

    /// Asks `judge` about one candidate after the other, the least worth keeping first, until one was
    /// evicted. Returns false if none could be.
    pub(crate) fn evict_one(&mut self, now_us: u64, mut judge: impl FnMut(u32, &T, u64) -> Verdict) -> bool {
        self.expire(now_us);
        let mut in_use = Vec::new();
        let mut evicted = false;
        while !evicted && let Some(rank) = self.order.pop_first() {
            let sector = rank.sector();
            let entry = self.entries.get_mut(&sector).expect("every rank has its entry");
            match judge(sector, &entry.value, rank.used_at_us()) {
                Verdict::UsedAt(used_at_us) if used_at_us > rank.used_at_us() => {
                    entry.rank = rank.used(used_at_us);
                    self.order.insert(entry.rank);
                }
                // A use that is not later than the line knew would come up again at once, for ever.
                Verdict::InUse | Verdict::UsedAt(_) => {
                    entry.rank = rank.used(now_us.max(rank.used_at_us()));
                    in_use.push(entry.rank);
                }
                verdict @ (Verdict::Evicted | Verdict::Gone) => {
                    self.remove(sector);
                    evicted = verdict == Verdict::Evicted;
                }
            }
        }
        self.order.extend(in_use);
        evicted
    }

    /// Lets every priority fall back whose time has passed.
    fn expire(&mut self, now_us: u64) {
        while let Some((expiry, sector)) = self.expiries.first().copied()
            && expiry <= now_us
        {
            self.expiries.pop_first();
            let entry = self.entries.get_mut(&sector).expect("every expiry has its entry");
            self.order.remove(&entry.rank);
            entry.rank = Rank::new(Priority::DEFAULT, entry.rank.used_at_us(), entry.keep.depth, sector);
            self.order.insert(entry.rank);
        }
    }
}

#[cfg(test)]
mod tests;
