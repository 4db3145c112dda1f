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
use crate::config::{NvmeConfig, StoreConfig};
use crate::core::{Clock, Core};
use crate::delta::DeltaQueue;
use crate::device::{self, Device, Member};
use crate::error::OpenError;
use crate::extents::{ExtentMap, class_of};
use crate::index::{Entry, Index, NvmeReplica};
use crate::nvme::{Generations, Nvme};
use crate::policy::Keep;
use crate::slab::{BlockEntry, Catalog, Opened};
use crate::space::{Lines, Resident};
use crate::stats::Counters;
use crate::sync::Mailbox;
use crate::writer::{Message, Writer};

const SLAB_FILE: &str = "blocks.slab";

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

/// Puts something between the store and its device.
pub(crate) type Interpose<'a> = &'a dyn Fn(Arc<dyn Device>) -> Arc<dyn Device>;

/// Opens a store. Tests may interpose a device that fails.
pub(crate) fn open(
    config: &StoreConfig,
    interpose: Option<Interpose<'_>>,
) -> Result<(Arc<Core>, Option<Threads>, RecoveryReport), OpenError> {
    let began = Instant::now();
    config.check()?;
    let arena = Arena::new(config.arena_bytes, config.extent_bytes)?;
    let mut core = Core {
        arena: Arc::clone(&arena),
        host_lines: Mutex::new(Lines::default()),
        index: Index::new(),
        deltas: DeltaQueue::new(),
        counters: Counters::default(),
        clock: Clock::new(),
        nvme: None,
        payload_bytes_max: config.payload_bytes_max(),
        volatile_generation: AtomicU64::new(1),
        closed: AtomicBool::new(false),
        #[cfg(test)]
        index_commits_to_fail: std::sync::atomic::AtomicU32::new(0),
    };
    let mut report = RecoveryReport::default();
    let mut threads = None;
    let core = if let Some(nvme) = &config.nvme {
        let dir = &nvme.dir;
        std::fs::create_dir_all(dir).map_err(OpenError::io(format!("make the folder {}", dir.display())))?;
        // Nothing of the folder is touched before the index has granted its lock.
        let Opened { catalog, generation } = Catalog::open(dir, config.extent_bytes as u64)?;
        let member = Member::open(&dir.join(SLAB_FILE))?;
        let started =
            device::start(member, &arena, nvme.driver).map_err(OpenError::io("start its driver"))?;
        let real = Arc::clone(&started.device);
        let device = interpose.map_or_else(|| Arc::clone(&real), |interpose| interpose(Arc::clone(&real)));
        let prepared = recover(&mut core, config, nvme, device, &catalog, generation, &mut report)
            .and_then(|()| spawn_writer(core, catalog));
        started.wait_until_ready();
        match prepared {
            Ok((core, writer)) => {
                let nvme = core.nvme.as_ref().expect("recovery made the NVMe tier");
                let mailbox = Arc::clone(&nvme.mailbox);
                threads = Some(Threads { mailbox, writer, device: real });
                core
            }
            Err(error) => {
                real.stop();
                return Err(error);
            }
        }
    } else {
        Arc::new(core)
    };
    report.elapsed = began.elapsed();
    Ok((core, threads, report))
}

fn spawn_writer(core: Core, catalog: Catalog) -> Result<(Arc<Core>, JoinHandle<()>), OpenError> {
    let core = Arc::new(core);
    let writer = Writer::new(Arc::clone(&core), catalog);
    let join = std::thread::Builder::new()
        .name("hearth-durable".into())
        .spawn(move || writer.run())
        .map_err(OpenError::io("start the durability thread"))?;
    Ok((core, join))
}

/// Loads the index into `core` and gives it its NVMe tier.
fn recover(
    core: &mut Core,
    config: &StoreConfig,
    nvme: &NvmeConfig,
    device: Arc<dyn Device>,
    catalog: &Catalog,
    generation: u64,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
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
    let mut classes = FxHashMap::default();
    for extent in catalog.extents()? {
        if extent.fenced && extent.extent < extents_found {
            slots.fence(extent.extent);
        }
        classes.insert(extent.extent, extent.class);
    }
    let (mut entries, unreadable) = catalog.blocks()?;
    // Of two blocks in one place the one that was put last is right.
    entries.sort_unstable_by_key(|entry| Reverse(entry.generation));
    let mut lines = Lines::default();
    let mut dropped = catalog.changes();
    report.dropped = unreadable;
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
            dropped.delete_block(&entry.id);
            report.dropped += 1;
        }
    }
    if report.dropped > 0 {
        tracing::warn!(dropped = report.dropped, "entries of the index contradict each other or the file");
    }
    let refuse = |error: rocksdb::Error| OpenError::Io {
        what: "write the index".into(),
        source: std::io::Error::other(error),
    };
    dropped.commit().map_err(refuse)?;
    let until = generation + Generations::STEP;
    catalog.reserve_generations(until).map_err(refuse)?;
    let generations = Generations::new(generation, until);
    core.nvme = Some(Nvme::new(device, slots, lines, generations, extent_bytes, extents_max));
    Ok(())
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
