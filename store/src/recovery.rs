//! Opening a store: what the index on disk remembers is loaded, checked against itself and believed
//! until somebody reads it. No record is read, so the time depends on the number of blocks alone.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hearth_proto::limits::SECTOR_BYTES;
use rustc_hash::FxHashMap;

use crate::arena::Arena;
use crate::clock::Clock;
use crate::config::{NvmeConfig, StoreConfig};
use crate::core::Core;
use crate::delta::DeltaQueue;
use crate::device::{self, Device, Member};
use crate::error::OpenError;
use crate::extents::{ExtentMap, class_of};
use crate::index::{Entry, Index, NvmeReplica};
use crate::nvme::{Generations, Nvme};
use crate::policy::Keep;
use crate::slab::{BlockEntry, Catalog, Changes, Founding, RocksCatalog, StoreUuid};
use crate::space::{Lines, Resident};
use crate::stats::Counters;
use crate::sync::Mailbox;
use crate::writer::{Message, Writer};

const SLAB_FILE: &str = "blocks.slab";
/// More than any store puts in a second.
const GENERATIONS_PER_SECOND: u64 = 1 << 24;

/// What was found when a store opened.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Blocks that the index names.
    pub blocks: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Entries of the index that were dropped because they contradict another or the file.
    pub dropped: u64,
    /// How long opening took.
    pub elapsed: Duration,
}

/// The threads of a store with an NVMe tier.
pub(crate) struct Threads {
    mailbox: Arc<Mailbox<Message>>,
    writer: JoinHandle<()>,
    device: Arc<dyn Device>,
}

impl Threads {
    /// Writes through what was put, then ends the threads.
    pub(crate) fn stop(self) {
        // Refused only by a thread that has ended.
        let _ = self.mailbox.send(Message::Stop);
        if self.writer.join().is_err() {
            tracing::error!("the durability thread panicked");
        }
        self.device.stop();
    }
}

/// What a store stands on. Tests and the simulation bring their own.
pub(crate) struct Parts {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) catalog: Box<dyn Catalog>,
    pub(crate) clock: Clock,
}

/// Puts something between the store and what it stands on.
pub(crate) type Interpose<'a> = &'a dyn Fn(Parts) -> Parts;

/// Opens a store. Tests may interpose parts that fail.
pub(crate) fn open(
    config: &StoreConfig,
    interpose: Option<Interpose<'_>>,
) -> Result<(Arc<Core>, Option<Threads>, RecoveryReport), OpenError> {
    let began = Instant::now();
    config.check()?;
    let arena = Arena::new(config.arena_bytes, config.extent_bytes)?;
    let clock = Clock::real();
    let Some(nvme) = &config.nvme else {
        let core = Arc::new(new_core(config, arena, clock));
        return Ok((core, None, RecoveryReport { elapsed: began.elapsed(), ..RecoveryReport::default() }));
    };
    let dir = &nvme.dir;
    std::fs::create_dir_all(dir).map_err(OpenError::io(format!("make the folder {}", dir.display())))?;
    // Nothing of the folder is touched before the index has granted its lock.
    let catalog = RocksCatalog::open(dir, found(config, &clock)?)?;
    let member = Member::open(&dir.join(SLAB_FILE))?;
    let started =
        device::start(member, Arc::clone(&arena), nvme.driver).map_err(OpenError::io("start its driver"))?;
    let real = Arc::clone(&started.device);
    let parts = Parts { device: Arc::clone(&real), catalog: Box::new(catalog), clock };
    let parts = match interpose {
        Some(interpose) => interpose(parts),
        None => parts,
    };
    let opened =
        assemble(config, arena, parts).and_then(|(core, writer, report)| Ok((core, spawn(writer)?, report)));
    started.wait_until_ready();
    match opened {
        Ok((core, writer, mut report)) => {
            let nvme = core.nvme.as_ref().expect("recovery made the NVMe tier");
            let threads = Threads { mailbox: Arc::clone(&nvme.mailbox), writer, device: real };
            report.elapsed = began.elapsed();
            Ok((core, Some(threads), report))
        }
        Err(error) => {
            real.stop();
            Err(error)
        }
    }
}

/// Puts a store with an NVMe tier together, without any thread: whoever calls this turns the writer.
pub(crate) fn assemble(
    config: &StoreConfig,
    arena: Arc<Arena>,
    parts: Parts,
) -> Result<(Arc<Core>, Writer, RecoveryReport), OpenError> {
    let nvme = config.nvme.as_ref().expect("a store without an NVMe tier stands on no parts");
    let Parts { device, mut catalog, clock } = parts;
    let mut core = new_core(config, arena, clock);
    let report = recover(&mut core, config, nvme, device, &mut *catalog)?;
    let core = Arc::new(core);
    let writer = Writer::new(Arc::clone(&core), catalog);
    Ok((core, writer, report))
}

fn new_core(config: &StoreConfig, arena: Arc<Arena>, clock: Clock) -> Core {
    Core {
        arena,
        host_lines: Mutex::new(Lines::default()),
        index: Index::new(),
        deltas: DeltaQueue::new(),
        counters: Counters::default(),
        clock,
        nvme: None,
        payload_bytes_max: config.payload_bytes_max(),
        volatile_generation: AtomicU64::new(1),
        closed: AtomicBool::new(false),
    }
}

/// What a store gets if it is founded now. Its first generation follows the time, so that it is above
/// those of whatever lay in the same place before.
fn found(config: &StoreConfig, clock: &Clock) -> Result<Founding, OpenError> {
    let mut uuid = [0; 16];
    rustix::rand::getrandom(&mut uuid, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| OpenError::io("take random bytes for the store's name")(error.into()))?;
    let generation = clock.unix_ms() / 1_000 * GENERATIONS_PER_SECOND;
    Ok(Founding { store: StoreUuid(uuid), extent_bytes: config.extent_bytes as u64, generation })
}

fn spawn(writer: Writer) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new()
        .name("hearth-durable".into())
        .spawn(move || writer.run())
        .map_err(OpenError::io("start the durability thread"))
}

/// Loads the index into `core` and gives it its NVMe tier.
fn recover(
    core: &mut Core,
    config: &StoreConfig,
    nvme: &NvmeConfig,
    device: Arc<dyn Device>,
    catalog: &mut dyn Catalog,
) -> Result<RecoveryReport, OpenError> {
    let extent_bytes = config.extent_bytes as u64;
    let extent_sectors = (config.extent_bytes / SECTOR_BYTES) as u32;
    // What lies beyond the addressable part of a file that somebody else lengthened is left alone.
    let addressable = u64::from(u32::MAX / extent_sectors);
    let extents_found = extent_count((device.len_bytes() / extent_bytes).min(addressable))?;
    let extents_max = extent_count(nvme.capacity_bytes / extent_bytes)?.max(extents_found);
    let mut slots = ExtentMap::new(extent_sectors);
    for _ in 0..extents_found {
        slots.grow();
    }
    let mut entries = Vec::new();
    let remembered = catalog.load(&mut |entry| entries.push(entry))?;
    let generation = remembered.generation;
    let mut classes = FxHashMap::default();
    for extent in &remembered.extents {
        if extent.fenced && extent.extent < extents_found {
            slots.fence(extent.extent);
        }
        classes.insert(extent.extent, extent.class);
    }
    // Of two blocks in one place the one that was put last is right.
    entries.sort_unstable_by_key(|entry| Reverse(entry.generation));
    let mut lines = Lines::default();
    let mut changes = Changes::default();
    let mut report = RecoveryReport { dropped: remembered.unreadable, ..RecoveryReport::default() };
    for entry in &entries {
        let class = class_of(entry.payload_len as usize);
        let known = classes.get(&slots.extent_of(entry.sector));
        let plausible = entry.generation.0 < generation
            && entry.payload_len as usize <= core.payload_bytes_max
            && known.is_none_or(|known| *known == class);
        if plausible && slots.claim(entry.sector, class).is_ok() {
            admit(core, &mut lines, entry, class);
            report.blocks += 1;
            report.bytes += u64::from(entry.payload_len);
        } else {
            changes.delete_block(&entry.id);
            report.dropped += 1;
        }
    }
    if report.dropped > 0 {
        tracing::warn!(dropped = report.dropped, "entries of the index contradict each other or the file");
    }
    let until = generation + Generations::STEP;
    changes.set_aside(until);
    catalog.commit(&changes).map_err(OpenError::io("write the index"))?;
    let generations = Generations::new(generation, until);
    core.nvme = Some(Nvme::new(device, slots, lines, generations, extent_bytes, extents_max));
    Ok(report)
}

fn extent_count(count: u64) -> Result<u32, OpenError> {
    u32::try_from(count).map_err(|_| OpenError::Config { detail: format!("{count} extents are too many") })
}

/// Names a recovered block in memory.
fn admit(core: &Core, lines: &mut Lines, entry: &BlockEntry, class: u32) {
    let keep = Keep {
        priority: entry.priority,
        expires_at_us: entry.expires_at_ms.map(|at_ms| core.clock.time_of_unix_ms(at_ms)),
        depth: entry.depth,
    };
    // Nobody remembers when a block was used last; those put earlier go first.
    let used_at_us = entry.generation.0.min(Clock::OPENED_US - 1);
    let resident = Resident { id: entry.id, generation: entry.generation };
    lines.insert(class, entry.sector, resident, keep, used_at_us, core.clock.now_us());
    let indexed = Entry {
        host: None,
        nvme: NvmeReplica::Stored(entry.sector),
        generation: entry.generation,
        payload_len: entry.payload_len,
        crc32: entry.payload_crc,
        keep,
        used_at_us,
        verified: false,
    };
    core.index.shard(&entry.id).entries.insert(entry.id, indexed);
    core.counters.nvme_blocks.add(1);
}
