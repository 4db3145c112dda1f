//! The index on disk, simulated: a commit is durable when it returns, a crash in the middle of it either
//! has it or not, and after an error either may be the case.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use hearth_proto::BlockId;
use hearth_proto::limits::SECTOR_BYTES;

use super::disk::SimulatedDisk;
use super::faults::Faults;
use super::rng::Rng;
use super::tasks::Tasks;
use crate::error::OpenError;
use crate::extents::class_of;
use crate::slab::{
    BlockEntry, Catalog, Change, Changes, ExtentEntry, FOOTER_BYTES, Footer, Remembered, StoreUuid,
};
use crate::sync::lock;

/// What the index holds, and what it is to do next. Outlives a crash.
pub(super) struct CatalogState {
    pub(super) blocks: BTreeMap<BlockId, BlockEntry>,
    pub(super) extents: BTreeMap<u32, ExtentEntry>,
    generation: u64,
    rng: Rng,
    faults: Faults,
    /// Set by a crash in the middle of a commit: nothing that follows it happened.
    pub(super) crashed: bool,
    pub(super) commits: u64,
    pub(super) refusals: u64,
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
    pub(super) fn new(rng: Rng) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            blocks: BTreeMap::new(),
            extents: BTreeMap::new(),
            generation: 1,
            rng,
            faults: Faults::default(),
            crashed: false,
            commits: 0,
            refusals: 0,
            premature: None,
            power_fails: None,
        }))
    }

    /// Begins a life of the store.
    pub(super) fn begin_life(&mut self, faults: Faults) {
        self.faults = faults;
        self.crashed = false;
        self.commits = 0;
        self.refusals = 0;
    }

    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    fn apply(&mut self, changes: &Changes) {
        for change in &changes.list {
            match change {
                Change::PutBlock(entry) => drop(self.blocks.insert(entry.id, *entry)),
                Change::DeleteBlock(id) => drop(self.blocks.remove(id)),
                Change::PutExtent(entry) => drop(self.extents.insert(entry.extent, *entry)),
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

/// One store's handle to the index.
pub(super) struct SimulatedCatalog {
    pub(super) state: Arc<Mutex<CatalogState>>,
    pub(super) disk: Arc<Mutex<SimulatedDisk>>,
    /// Callers of the store, who go on while a commit takes its time.
    pub(super) tasks: Arc<Mutex<Tasks>>,
}

impl SimulatedCatalog {
    /// Lets callers run in the middle of a commit, as they do when a thread waits for the disk.
    fn let_others_run(&self) {
        let polls = lock(&self.state).rng.below(3);
        let mut tasks = lock(&self.tasks);
        for _ in 0..polls {
            let choice = lock(&self.state).rng.next();
            tasks.poll_any(choice);
        }
    }

    /// An index entry never names bytes that a crash could take away.
    fn check_durable(&self, changes: &Changes) {
        let disk = lock(&self.disk);
        for change in &changes.list {
            if let Change::PutBlock(entry) = change
                && !is_durable(&disk, entry)
            {
                lock(&self.state).premature.get_or_insert(*entry);
            }
        }
    }
}

/// True if the record that the entry names is on the medium, or if a fault is to blame that it is not.
pub(super) fn is_durable(disk: &SimulatedDisk, entry: &BlockEntry) -> bool {
    let (offset, len) = range_of(entry);
    if disk.has_lied() || disk.is_tainted(offset, len) {
        return true;
    }
    let Some(record) = disk.durable(offset, len) else { return false };
    let Some(footer) = record.last_chunk::<FOOTER_BYTES>() else { return false };
    let payload = &record[..entry.payload_len as usize];
    Footer::decode(footer).is_ok_and(|footer| {
        footer.id == entry.id
            && footer.generation == entry.generation
            && crc32fast::hash(payload) == entry.payload_crc
    })
}

/// Where the record of an entry lies on its disk.
pub(super) fn range_of(entry: &BlockEntry) -> (usize, usize) {
    let len = class_of(entry.payload_len as usize) as usize * SECTOR_BYTES;
    (entry.sector as usize * SECTOR_BYTES, len)
}

impl Catalog for SimulatedCatalog {
    fn load(&self, visit: &mut dyn FnMut(BlockEntry)) -> Result<Remembered, OpenError> {
        let state = lock(&self.state);
        state.blocks.values().for_each(|entry| visit(*entry));
        Ok(Remembered {
            store: StoreUuid([7; 16]),
            generation: state.generation,
            extents: state.extents.values().copied().collect(),
            unreadable: 0,
        })
    }

    fn commit(&mut self, changes: &Changes) -> io::Result<()> {
        self.check_durable(changes);
        self.let_others_run();
        let result = lock(&self.state).commit(changes);
        self.let_others_run();
        result
    }
}
