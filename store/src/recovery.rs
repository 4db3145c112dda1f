//! Opening a store: what the index on disk remembers is loaded, checked against itself and believed
//! until somebody reads it. Of the records only those in slots that were ready are read, of which there are
//! few, so the time depends on the number of blocks alone.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hearth_proto::limits::SECTOR_BYTES;
use hearth_proto::{BlockId, Generation};
use rustc_hash::FxHashMap;

use crate::ahead::{self, Ahead, Found, Wait};
use crate::arena::{Arena, Loans};
use crate::clock::Clock;
use crate::codec::Compression;
use crate::config::StoreConfig;
use crate::core::{Core, LIFT_FENCES};
use crate::delta::DeltaQueue;
use crate::error::OpenError;
use crate::extents::{ClaimError, ExtentMap, class_of};
use crate::index::{Handle, Index, NewBlock, NvmeReplica, SECTORS_MAX, Seed, key_bits};
use crate::mutant::{Mutant, is};
use crate::nvme::{Generations, Nvme};
use crate::policy::{Keep, Random, Ranker, Reuse, Spot, Tick};
use crate::ready::ReadyLimits;
use crate::slab::{BlockEntry, Catalog, Changes, ExtentEntry, ReadySlot};
use crate::space::Room;
use crate::stats::Counters;
use crate::sync::lock;
use crate::volume::{Volume, VolumeMember};

/// What was found when a store opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Blocks that the index names.
    pub blocks: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Blocks that the index did not name yet, found by their records.
    pub ahead: u64,
    /// Entries of the index that were dropped, because they contradict another or because what they name
    /// is gone with a file or a part of one.
    pub dropped: u64,
    /// Extents that are out of service since an I/O error.
    pub fenced_extents: u64,
    /// Extents that were, and are back in service, empty, because the configuration asked for it.
    pub lifted_fences: u64,
    /// Where an index that could not be read lies now; the store began anew, and what it named is lost.
    pub index_set_aside: Option<PathBuf>,
    /// Where slab files lie now that could not be used; what lay in them is in `dropped`.
    pub slabs_set_aside: Vec<PathBuf>,
    /// How long opening took.
    pub elapsed: Duration,
}

/// What a store with an NVMe tier stands on. Tests and the simulation bring their own.
pub(crate) struct Parts {
    pub(crate) members: Vec<VolumeMember>,
    pub(crate) catalog: Box<dyn Catalog>,
    pub(crate) clock: Clock,
    /// How to wait for what a device reads.
    pub(crate) wait: Wait,
    pub(crate) ready: ReadyLimits,
    /// Decides whatever is left to chance.
    pub(crate) seed: u64,
}

/// A store, the index that it is to commit its changes to, and what was found.
pub(crate) type Assembled = (Arc<Core>, Box<dyn Catalog>, RecoveryReport);

/// Puts a store with an NVMe tier together, without any thread. The index is given back, for whoever commits
/// its changes from now on.
pub(crate) fn assemble(
    config: &StoreConfig,
    arena: Arc<Arena>,
    parts: Parts,
) -> Result<Assembled, OpenError> {
    let Parts { members, mut catalog, clock, mut wait, ready, seed } = parts;
    let mut core = new_core(config, arena, clock, seed);
    let (nvme, report) = recover(&core, config, members, &mut *catalog, &mut wait, (ready, seed))?;
    core.nvme = Some(nvme);
    Ok((Arc::new(core), catalog, report))
}

/// A store without an NVMe tier.
pub(crate) fn new_core(config: &StoreConfig, arena: Arc<Arena>, clock: Clock, seed: u64) -> Core {
    let mut random = Random::new(seed);
    Core {
        arena,
        host_room: Mutex::new(Room::new(random.next())),
        index: Index::new(Seed([(); 4].map(|()| random.next()))),
        ranker: Ranker::new(config.capacity_blocks()),
        pins: Mutex::default(),
        loans: Loans::new(),
        copies: OnceLock::new(),
        deltas: DeltaQueue::new(),
        counters: Counters::default(),
        clock,
        nvme: None,
        payload_bytes_max: config.payload_bytes_max(),
        volatile_generation: AtomicU64::new(1),
        closed: AtomicBool::new(false),
    }
}

/// Loads the index into `core` and makes its NVMe tier.
fn recover(
    core: &Core,
    config: &StoreConfig,
    members: Vec<VolumeMember>,
    catalog: &mut dyn Catalog,
    wait: &mut Wait,
    (ready, seed): (ReadyLimits, u64),
) -> Result<(Nvme, RecoveryReport), OpenError> {
    let extent_sectors = (config.extent_bytes / SECTOR_BYTES) as u32;
    let mut remembered = catalog.remembered()?;
    // Beyond this no sector has a number: no version of Hearth wrote such an entry.
    remembered.extents.retain(|entry| entry.extent < SECTORS_MAX / extent_sectors);
    let places: Vec<_> = remembered.extents.iter().map(|entry| (entry.extent, entry.place)).collect();
    let volume = Volume::new(members, config.extent_bytes as u64, &places);
    if u64::from(volume.extents_max()) * u64::from(extent_sectors) > u64::from(SECTORS_MAX) {
        let addressable = u64::from(SECTORS_MAX) * SECTOR_BYTES as u64;
        let detail = format!("the slabs of a store may have at most {addressable} bytes together");
        return Err(OpenError::Config { detail });
    }
    let mut load = Load::new(core, &volume, extent_sectors, &remembered.extents, remembered.generation);
    let unreadable = catalog.blocks(&mut |entry| load.add(&entry, is(Mutant::StaleIndexTrusted)))?;
    // Before fences are lifted: what lies behind them is forgotten.
    let ahead: VecDeque<_> = remembered.ready.iter().filter_map(|slot| load.ahead(*slot)).collect();
    if config.nvme.as_ref().is_some_and(|nvme| nvme.lift_fences) {
        load.lift_fences(&remembered.extents);
    }
    let mut look = |slots| {
        let found = ahead::look(&volume, &core.arena, &core.clock, slots, wait);
        found.map_err(OpenError::io("read the slots that were ready"))
    };
    let found = look(ahead)?;
    found.unreadable.iter().for_each(|sector| load.fence(*sector, &volume));
    for entry in &found.entries {
        // A write that failed may have left the record of a put in a second place.
        let rival = match load.rival_of(entry) {
            Some(rival) => look(VecDeque::from([rival]))?,
            None => Found::default(),
        };
        rival.unreadable.iter().for_each(|sector| load.fence(*sector, &volume));
        if !rival.entries.iter().any(|other| (other.id, other.generation) == (entry.id, entry.generation)) {
            load.add_ahead(entry);
        }
    }
    remembered.ready.iter().for_each(|slot| load.changes.delete_ready(slot.sector));
    let Load { slots, mut changes, mut report, .. } = load;
    report.fenced_extents = slots.fenced_count() as u64;
    tell_fences(&report, &remembered.extents);
    report.dropped += unreadable;
    if report.dropped > 0 {
        tracing::warn!(
            dropped = report.dropped,
            "entries of the index contradict each other, or name what is not there any more"
        );
    }
    let until = remembered.generation + Generations::STEP;
    if !is(Mutant::GenerationsReused) {
        changes.set_aside(until);
    }
    catalog.commit(&changes).map_err(OpenError::io("write the index"))?;
    let generations = Generations::new(remembered.generation, until);
    let compression = config.nvme.as_ref().map_or(Compression::Off, |nvme| nvme.compression);
    let seed = Random::new(seed ^ 1).next();
    let nvme = Nvme::new(volume, slots, generations, seed, (compression, ready));
    line_up(core, &nvme);
    Ok((nvme, report))
}

/// The index on disk on its way into memory.
struct Load<'a> {
    core: &'a Core,
    slots: ExtentMap,
    classes: FxHashMap<u32, u32>,
    generation: u64,
    changes: Changes,
    report: RecoveryReport,
}

impl<'a> Load<'a> {
    fn new(
        core: &'a Core,
        volume: &Volume,
        extent_sectors: u32,
        extents: &[ExtentEntry],
        generation: u64,
    ) -> Self {
        let mut slots = ExtentMap::since(extent_sectors, Generation(generation))
            .striped(volume.member_count(), volume.extents_max());
        for stripe in volume.stripes() {
            let extent = slots.grow_on(stripe.unwrap_or(0));
            if stripe.is_none() {
                slots.miss(extent);
            }
        }
        for entry in extents.iter().filter(|entry| entry.fenced) {
            slots.fence(entry.extent);
        }
        let classes = extents.iter().map(|entry| (entry.extent, entry.class)).collect();
        let (changes, report) = (Changes::default(), RecoveryReport::default());
        Self { core, slots, classes, generation, changes, report }
    }

    /// A ready slot that may hold a record.
    fn ahead(&self, slot: ReadySlot) -> Option<Ahead> {
        let class = *self.classes.get(&self.slots.extent_of(slot.sector))?;
        let is_fenced = || self.slots.is_fenced(self.slots.extent_of(slot.sector));
        (self.slots.is_slot(slot.sector, class) && !is_fenced()).then_some(Ahead { slot, class })
    }

    /// Another place that is named for the same put.
    fn rival_of(&self, entry: &BlockEntry) -> Option<Ahead> {
        let shard = self.core.index.shard(&entry.id);
        let node = shard.get(&entry.id).filter(|node| node.generation() == entry.generation)?;
        let NvmeReplica::Stored(sector) = node.nvme() else { return None };
        let class = self.slots.class_at(sector);
        let slot = ReadySlot { sector, from: Generation(0) };
        (sector != entry.sector).then_some(Ahead { slot, class })
    }

    /// Takes the extent of a slot that cannot be read out of service (INV-EIO).
    fn fence(&mut self, sector: u32, volume: &Volume) {
        self.core.counters.io_errors.add(1);
        let extent = self.slots.extent_of(sector);
        if self.slots.is_fenced(extent) {
            return;
        }
        let owners: Vec<_> = self.slots.owners(extent).map(Handle::from_bits).collect();
        for owner in owners {
            let replica = self.core.index.shard_of(owner).node(owner).nvme();
            self.forget(owner);
            self.report.dropped += 1;
            if let NvmeReplica::Stored(sector) = replica {
                self.slots.release(sector);
            }
        }
        self.slots.fence(extent);
        if let Some(place) = volume.place_of(extent) {
            self.changes.put_extent(ExtentEntry { extent, class: 0, fenced: true, place });
        }
    }

    /// Names a block whose record was found in a ready slot, unless the index names that of a later put.
    fn add_ahead(&mut self, entry: &BlockEntry) {
        if self.slots.is_fenced(self.slots.extent_of(entry.sector)) {
            return;
        }
        let known = self.core.index.shard(&entry.id).find(&entry.id);
        if let Some(known) = known {
            let (generation, replica) = {
                let shard = self.core.index.shard_of(known);
                (shard.node(known).generation(), shard.node(known).nvme())
            };
            if generation > entry.generation {
                return;
            }
            self.forget(known);
            if let NvmeReplica::Stored(sector) = replica {
                self.slots.release(sector);
            }
        }
        let before = self.report.blocks;
        self.add(entry, true);
        if self.report.blocks > before {
            self.changes.put_block(*entry);
            self.report.ahead += 1;
        }
    }

    /// Names a block in memory, if nothing speaks against it. Of two in one place the one that was put last
    /// is right.
    fn add(&mut self, entry: &BlockEntry, verified: bool) {
        let class = self.classes.get(&self.slots.extent_of(entry.sector)).copied().unwrap_or(0);
        let payload_len = NonZeroU32::new(entry.payload_len)
            .filter(|len| len.get() as usize <= self.core.payload_bytes_max)
            .filter(|len| class <= class_of(len.get() as usize))
            .filter(|_| entry.generation.0 < self.generation);
        let Some(payload_len) = payload_len else { return self.drop_entry(entry) };
        match self.slots.claim(entry.sector, class) {
            Ok(()) => {}
            Err(ClaimError::Taken) if self.is_newer(entry) => self.drop_owner(entry.sector),
            Err(_) => return self.drop_entry(entry),
        }
        let handle = self.core.index.shard(&entry.id).insert(&NewBlock {
            id: entry.id,
            generation: entry.generation,
            payload_len,
            crc32: entry.payload_crc,
            nvme: NvmeReplica::Stored(entry.sector),
            keep: Keep {
                priority: entry.priority,
                expires_at_us: entry.expires_at_ms.map(|at_ms| self.core.clock.time_of_unix_ms(at_ms)),
                depth: entry.depth,
            },
            // Nobody remembers when a block was used last; those put earlier go first.
            reuse: recovered(&entry.id, self.generation - entry.generation.0, self.core),
            verified,
        });
        self.slots.set_owner(entry.sector, Some(handle.to_bits()));
        self.core.counters.nvme_blocks.add(1);
        self.core.counters.nvme_payload_bytes.add(u64::from(entry.payload_len));
        self.report.blocks += 1;
        self.report.bytes += u64::from(entry.payload_len);
    }

    /// Puts the fenced extents back into service. Their blocks were dropped as they came (INV-EIO); what lies
    /// there is never read, since the index names none of it.
    fn lift_fences(&mut self, extents: &[ExtentEntry]) {
        for entry in extents.iter().filter(|entry| entry.fenced) {
            self.slots.lift_fence(entry.extent);
            self.changes.put_extent(ExtentEntry { class: 0, fenced: false, ..*entry });
            self.report.lifted_fences += 1;
        }
    }

    fn is_newer(&self, entry: &BlockEntry) -> bool {
        let Some(owner) = self.slots.owner_of(entry.sector).map(Handle::from_bits) else { return false };
        self.core.index.shard_of(owner).node(owner).generation() < entry.generation
    }

    /// Forgets the block that was named in a place before; the place stays taken.
    fn drop_owner(&mut self, sector: u32) {
        if let Some(owner) = self.slots.owner_of(sector).map(Handle::from_bits) {
            self.forget(owner);
            self.report.dropped += 1;
        }
    }

    fn forget(&mut self, block: Handle) {
        let mut shard = self.core.index.shard_of(block);
        let node = shard.node_mut(block);
        node.set_nvme(NvmeReplica::Absent);
        self.changes.delete_block(&node.id());
        let payload_len = u64::from(node.payload_len());
        shard.remove(block);
        self.core.counters.nvme_blocks.subtract(1);
        self.core.counters.nvme_payload_bytes.subtract(payload_len);
        self.report.blocks -= 1;
        self.report.bytes -= payload_len;
    }

    fn drop_entry(&mut self, entry: &BlockEntry) {
        self.changes.delete_block(&entry.id);
        self.report.dropped += 1;
    }
}

fn tell_fences(report: &RecoveryReport, extents: &[ExtentEntry]) {
    let fenced = extents.iter().filter(|entry| entry.fenced);
    let members: BTreeSet<_> = fenced.map(|entry| entry.place.member).collect();
    if report.lifted_fences > 0 {
        tracing::warn!(
            extents = report.lifted_fences,
            ?members,
            "extents of the slabs are back in service, empty, as asked for"
        );
    }
    if report.fenced_extents > 0 {
        tracing::warn!(
            extents = report.fenced_extents,
            ?members,
            "extents of the slabs are out of service since an I/O error: {LIFT_FENCES}"
        );
    }
}

/// The state of a block that was put `puts_ago` before the store opened: as if a put had taken a sixteenth of
/// a tick.
fn recovered(id: &BlockId, puts_ago: u64, core: &Core) -> Reuse {
    let then_us = Clock::OPENED_US.saturating_sub(puts_ago.saturating_mul(1_000));
    core.ranker.inserted(key_bits(id), Spot::default(), Tick::from_us(then_us))
}

/// Makes every block that was found a candidate for eviction.
fn line_up(core: &Core, nvme: &Nvme) {
    let mut room = lock(&nvme.room);
    let extents = lock(&nvme.slots).count();
    for extent in 0..extents {
        let (class, owners): (u32, Vec<_>) = {
            let slots = lock(&nvme.slots);
            (slots.class_of_extent(extent), slots.owners(extent).map(Handle::from_bits).collect())
        };
        for handle in owners {
            let mut shard = core.index.shard_of(handle);
            core.enter_nvme_bag(nvme, &mut room.bags, &mut shard, handle, class);
        }
    }
}
