//! The index on disk, simulated: a commit takes its time, and is durable when it has ended. A crash in the
//! middle of it either has it or not, and after an error either may be the case.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use hearth_proto::BlockId;
use hearth_proto::limits::SECTOR_BYTES;

use super::disk::SimulatedDisk;
use super::faults::Faults;
use super::rng::Rng;
use crate::codec::{Codec, Coder};
use crate::device::Done;
use crate::error::OpenError;
use crate::slab::{
    BlockEntry, Catalog, Change, Changes, ExtentEntry, FOOTER_BYTES, Footer, ReadySlot, Remembered, StoreId,
};
use crate::sync::lock;
use crate::writer::Commits;

thread_local! {
    static CODER: RefCell<Coder> = RefCell::new(Coder::new());
}

/// What the index holds, and what it is to do next. Outlives a crash.
pub(super) struct CatalogState {
    extent_bytes: usize,
    pub(super) blocks: BTreeMap<BlockId, BlockEntry>,
    pub(super) extents: BTreeMap<u32, ExtentEntry>,
    /// Slots that are ready, by their sectors.
    pub(super) ready: BTreeMap<u32, ReadySlot>,
    generation: u64,
    /// The commit that has begun and not ended.
    pending: Option<(Changes, Done)>,
    rng: Rng,
    faults: Faults,
    /// Set by a crash in the middle of a commit: nothing that follows it happened.
    pub(super) crashed: bool,
    pub(super) commits: u64,
    pub(super) refusals: u64,
    /// What was applied and nobody looked at yet.
    pub(super) committed: Vec<Change>,
    /// True if a read was taken from the wrong place while the store opened: what it believes since is excused.
    pub(super) misread: bool,
    /// An entry that names bytes which a crash could still take away.
    pub(super) premature: Option<BlockEntry>,
    /// Commits after which the power fails, for exhaustive crashes: before it is applied, or after.
    pub(super) power_fails: Option<PowerFails>,
}

/// When the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PowerFails {
    /// In which commit, counted from the opening of the store.
    pub(super) commit: u64,
    /// True if that commit reached the disk.
    pub(super) applied: bool,
}

impl CatalogState {
    pub(super) fn new(extent_bytes: usize, rng: Rng) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            extent_bytes,
            blocks: BTreeMap::new(),
            extents: BTreeMap::new(),
            ready: BTreeMap::new(),
            generation: 1,
            pending: None,
            rng,
            faults: Faults::default(),
            crashed: false,
            commits: 0,
            refusals: 0,
            committed: Vec::new(),
            misread: false,
            premature: None,
            power_fails: None,
        }))
    }

    /// Begins a life of the store.
    pub(super) fn begin_life(&mut self, faults: Faults) {
        self.faults = faults;
        self.crashed = false;
        self.misread = false;
        self.commits = 0;
        self.refusals = 0;
    }

    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// What the index says is out of service.
    pub(super) fn fenced(&self) -> Fenced {
        let fenced = |extent: &u32| self.extents.get(extent).is_some_and(|entry| entry.fenced);
        let extent_sectors = (self.extent_bytes / SECTOR_BYTES) as u32;
        let blocks = self.blocks.values().filter(|entry| fenced(&(entry.sector / extent_sectors)));
        Fenced {
            extents: self.extents.keys().copied().filter(fenced).collect(),
            blocks: blocks.map(|entry| entry.id).collect(),
        }
    }

    fn apply(&mut self, changes: &Changes) {
        self.committed.extend_from_slice(&changes.list);
        for change in &changes.list {
            match change {
                Change::PutBlock(entry) => drop(self.blocks.insert(entry.id, *entry)),
                Change::DeleteBlock(id) => drop(self.blocks.remove(id)),
                Change::PutExtent(entry) => drop(self.extents.insert(entry.extent, *entry)),
                Change::PutReady(slot) => drop(self.ready.insert(slot.sector, *slot)),
                Change::DeleteReady(sector) => drop(self.ready.remove(sector)),
                Change::SetAside(until) => self.generation = *until,
            }
        }
    }

    fn commit(&mut self, changes: &Changes) -> io::Result<()> {
        if changes.list.is_empty() {
            return Ok(());
        }
        let number = self.commits;
        self.commits += 1;
        let planned = self.power_fails.filter(|planned| planned.commit == number);
        if planned.is_some() || self.crashed || self.rng.chance(self.faults.commit_crash) {
            let applied = planned.map_or_else(|| self.rng.below(2) == 0, |planned| planned.applied);
            if applied && !self.crashed {
                self.apply(changes);
            }
            self.crashed = true;
            return Err(io::Error::other("the power failed"));
        }
        if self.rng.chance(self.faults.commit_error) {
            self.refusals += 1;
            if self.rng.below(2) == 0 {
                self.apply(changes);
            }
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.apply(changes);
        Ok(())
    }
}

/// Extents that are out of service, and the blocks that lie there by the index.
pub(super) struct Fenced {
    pub(super) extents: Vec<u32>,
    pub(super) blocks: Vec<BlockId>,
}

/// One store's handle to the index.
#[derive(Clone)]
pub(super) struct SimulatedCatalog {
    pub(super) state: Arc<Mutex<CatalogState>>,
    pub(super) disks: Disks,
}

impl SimulatedCatalog {
    /// True if a commit has begun that has not ended.
    pub(super) fn is_committing(&self) -> bool {
        lock(&self.state).pending.is_some()
    }

    /// Ends the commit that has begun.
    pub(super) fn end_commit(&self) {
        let Some((changes, done)) = lock(&self.state).pending.take() else { return };
        let result = lock(&self.state).commit(&changes);
        done(result);
    }

    /// The power fails: a commit that has begun happened or not.
    pub(super) fn crash(&self) {
        let mut state = lock(&self.state);
        if let Some((changes, done)) = state.pending.take() {
            if !state.crashed && state.rng.below(2) == 0 {
                state.apply(&changes);
            }
            drop(state);
            // Whoever would hear of it is gone.
            drop(done);
        }
    }

    fn check_and_commit(&self, changes: &Changes) -> io::Result<()> {
        self.check_durable(changes);
        lock(&self.state).commit(changes)
    }

    /// An index entry never names bytes that a crash could take away, when it is asked for. Before it is there
    /// they may be let go of.
    fn check_durable(&self, changes: &Changes) {
        let mut state = lock(&self.state);
        for change in &changes.list {
            let Change::PutBlock(entry) = change else { continue };
            // What an extent serves may be news of the same commit.
            let news = changes.list.iter().rev().find_map(|change| match change {
                Change::PutExtent(extent) if state.extent_of(entry) == extent.extent => Some(extent),
                _ => None,
            });
            // A record in an extent that was fenced meanwhile is found out by the fence.
            let extent = news.or_else(|| state.extents.get(&state.extent_of(entry)));
            if extent.is_some_and(|extent| extent.fenced) {
                continue;
            }
            let spot = state.spot_in(entry, news);
            if !spot.is_some_and(|spot| is_durable(&self.disks, entry, spot)) && !state.misread {
                state.premature.get_or_insert(*entry);
            }
        }
    }
}

/// The disks of a store, by the numbers of its members.
pub(super) type Disks = Vec<Arc<Mutex<SimulatedDisk>>>;

/// Where every disk's first extent begins.
pub(super) const DATA_OFFSET: usize = SECTOR_BYTES;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) member: usize,
    pub(super) offset: usize,
    pub(super) len: usize,
}

impl Spot {
    /// True if a fault is to blame for whatever is found there.
    pub(super) fn is_excused(&self, disks: &Disks) -> bool {
        lock(&disks[self.member]).has_lied() || self.is_tainted(disks)
    }

    /// True if a write that was meant for another place may have ended there, or none that was meant for it.
    pub(super) fn is_tainted(&self, disks: &Disks) -> bool {
        lock(&disks[self.member]).is_tainted(self.offset, self.len)
    }
}

impl CatalogState {
    /// Where the record of an entry lies; `None` if the index does not know its extent.
    pub(super) fn spot_of(&self, entry: &BlockEntry) -> Option<Spot> {
        self.spot_in(entry, None)
    }

    /// Where the ready slots lie.
    pub(super) fn ready_spots(&self) -> impl Iterator<Item = Spot> {
        self.ready.values().filter_map(|slot| self.spot_at(slot.sector, None))
    }

    /// The entries that an opening store would find in ready slots: of records that survive every crash.
    pub(super) fn ahead<'a>(&'a self, disks: &'a Disks) -> impl Iterator<Item = (BlockEntry, Spot)> + 'a {
        self.ready.values().filter_map(|slot| {
            let spot = self.spot_at(slot.sector, None)?;
            let disk = lock(&disks[spot.member]);
            let footer = Footer::decode(disk.durable(spot.offset, spot.len)?.last_chunk()?).ok()?;
            drop(disk);
            let entry = footer.entry(slot.sector);
            (footer.generation >= slot.from && is_durable(disks, &entry, spot)).then_some((entry, spot))
        })
    }

    pub(super) fn extent_of(&self, entry: &BlockEntry) -> u32 {
        entry.sector / (self.extent_bytes / SECTOR_BYTES) as u32
    }

    fn spot_in(&self, entry: &BlockEntry, news: Option<&ExtentEntry>) -> Option<Spot> {
        self.spot_at(entry.sector, news)
    }

    fn spot_at(&self, sector: u32, news: Option<&ExtentEntry>) -> Option<Spot> {
        let number = sector / (self.extent_bytes / SECTOR_BYTES) as u32;
        let extent = news.or_else(|| self.extents.get(&number))?;
        let within = sector as usize * SECTOR_BYTES % self.extent_bytes;
        let offset = DATA_OFFSET + extent.place.local as usize * self.extent_bytes + within;
        let len = extent.class as usize * SECTOR_BYTES;
        Some(Spot { member: usize::from(extent.place.member), offset, len })
    }
}

/// True if the record that the entry names is on the medium, or if a fault is to blame that it is not.
pub(super) fn is_durable(disks: &Disks, entry: &BlockEntry, spot: Spot) -> bool {
    if spot.is_excused(disks) {
        return true;
    }
    let disk = lock(&disks[spot.member]);
    let Some(record) = disk.durable(spot.offset, spot.len) else { return false };
    let Some(footer) = record.last_chunk::<FOOTER_BYTES>() else { return false };
    Footer::decode(footer).is_ok_and(|footer| {
        footer.id == entry.id
            && footer.generation == entry.generation
            && footer.payload_len == entry.payload_len
            && payload_crc(&footer, record) == Some(entry.payload_crc)
    })
}

/// The checksum of the payload that a record stands for.
fn payload_crc(footer: &Footer, record: &[u8]) -> Option<u32> {
    let stored = record.get(..footer.stored_len as usize)?;
    if footer.codec == Codec::Raw {
        return Some(crc32fast::hash(stored));
    }
    let mut payload = vec![0; footer.payload_len as usize];
    CODER.with_borrow_mut(|coder| coder.decode(footer.codec, stored, &mut payload)).ok()?;
    Some(crc32fast::hash(&payload))
}

impl Catalog for SimulatedCatalog {
    fn remembered(&self) -> Result<Remembered, OpenError> {
        let state = lock(&self.state);
        Ok(Remembered {
            store: StoreId([7; 16]),
            generation: state.generation,
            extents: state.extents.values().copied().collect(),
            ready: state.ready.values().copied().collect(),
        })
    }

    fn blocks(&self, visit: &mut dyn FnMut(BlockEntry)) -> Result<u64, OpenError> {
        lock(&self.state).blocks.values().for_each(|entry| visit(*entry));
        Ok(0)
    }

    fn commit(&mut self, changes: &Changes) -> io::Result<()> {
        self.check_and_commit(changes)
    }
}

impl Commits for SimulatedCatalog {
    fn submit(&mut self, changes: Changes, done: Done) {
        self.check_durable(&changes);
        let before = lock(&self.state).pending.replace((changes, done));
        assert!(before.is_none(), "one commit at a time");
    }

    fn commit_now(&mut self, changes: Changes) -> io::Result<()> {
        self.check_and_commit(&changes)
    }
}
