//! Opening a store on real files: the index, the slabs, the threads.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::arena::Arena;
use crate::clock::Clock;
use crate::config::{NvmeConfig, SlabConfig, StoreConfig};
use crate::core::Core;
use crate::device::{self, Device, Member, ReadEnd, Started};
use crate::error::OpenError;
use crate::ready::ReadyLimits;
use crate::recovery::{Parts, RecoveryReport, assemble, new_core};
use crate::slab::{Catalog, Founding, RocksCatalog, StoreId, Superblock};
use crate::slabs::{Begun, Looked};
use crate::sync::Mailbox;
use crate::volume::VolumeMember;
use crate::writer::{CommitThread, Message, Writer};

/// More than any store puts in a second.
const GENERATIONS_PER_SECOND: u64 = 1 << 24;

/// The threads of a store with an NVMe tier.
pub(crate) struct Threads {
    mailbox: Arc<Mailbox<Message>>,
    writer: JoinHandle<()>,
    devices: Vec<Arc<dyn Device>>,
}

impl Threads {
    /// Writes through what was put, then ends the threads.
    pub(crate) fn stop(self) {
        // Refused only by a thread that has ended.
        let _ = self.mailbox.send(Message::Stop);
        if self.writer.join().is_err() {
            tracing::error!("the durability thread panicked");
        }
        self.devices.iter().for_each(|device| device.stop());
    }
}

/// Puts something between the store and what it stands on.
pub(crate) type Interpose<'a> = &'a dyn Fn(Parts) -> Parts;

/// What opening gives: the store, its threads if it has an NVMe tier, and what was found.
pub(crate) type Opened = (Arc<Core>, Option<Threads>, RecoveryReport);

/// Opens a store. Tests may interpose parts that fail.
///
/// An index that cannot be read is set aside and the store begins anew: its blocks are a cache.
pub(crate) fn open(config: &StoreConfig, interpose: Option<Interpose<'_>>) -> Result<Opened, OpenError> {
    let began = Instant::now();
    config.check()?;
    let clock = Clock::real();
    let mut opened = open_once(config, interpose);
    if let (Err(OpenError::IndexDamaged { detail, .. }), Some(nvme)) = (&opened, &config.nvme) {
        let refuse = OpenError::io("set the damaged index aside");
        let aside = RocksCatalog::set_aside(&nvme.dir, clock.unix_ms()).map_err(refuse)?;
        tracing::error!(
            detail, aside = %aside.display(),
            "the index on disk is damaged: it is set aside, and the store begins without its blocks"
        );
        opened = open_once(config, interpose);
        if let Ok((_, _, report)) = &mut opened {
            report.index_set_aside = Some(aside);
        }
    }
    let (core, threads, mut report) = opened?;
    report.elapsed = began.elapsed();
    Ok((core, threads, report))
}

fn open_once(config: &StoreConfig, interpose: Option<Interpose<'_>>) -> Result<Opened, OpenError> {
    let arena = Arena::new(config.arena_bytes, config.extent_bytes)?;
    let clock = Clock::real();
    let seed = random_seed()?;
    let Some(nvme) = &config.nvme else {
        settle_aside(&arena);
        let core = Arc::new(new_core(config, arena, clock, seed));
        return Ok((core, None, RecoveryReport::default()));
    };
    let dir = &nvme.dir;
    std::fs::create_dir_all(dir).map_err(OpenError::io(format!("make the folder {}", dir.display())))?;
    let looked = Looked::at(nvme)?;
    // Nothing is written anywhere before the index has granted its lock.
    let catalog = RocksCatalog::open(dir, found(config, &clock, looked.store_id())?)?;
    let Begun { slabs, set_aside } = looked.begin(config, nvme, &catalog.remembered()?, clock.unix_ms())?;
    let started = start(nvme, slabs, &arena)?;
    let devices: Vec<_> = started.iter().map(|(_, started)| Arc::clone(&started.device)).collect();
    let members = members(config, nvme, &started);
    let wait = Box::new(ReadEnd::wait);
    let ready = ReadyLimits::of_bytes(nvme.ready_bytes);
    let parts = Parts { members, catalog: Box::new(catalog), clock, wait, ready, seed };
    let parts = match interpose {
        Some(interpose) => interpose(parts),
        None => parts,
    };
    let opened = assemble(config, arena, parts).and_then(|(core, catalog, report)| {
        let writer = spawn(&core, catalog)?;
        Ok((core, writer, report))
    });
    started.iter().for_each(|(_, started)| started.wait_until_ready());
    match opened {
        Ok((core, writer, mut report)) => {
            let nvme = core.nvme.as_ref().expect("it was assembled with an NVMe tier");
            let threads = Threads { mailbox: Arc::clone(&nvme.mailbox), writer, devices };
            report.slabs_set_aside = set_aside;
            Ok((core, Some(threads), report))
        }
        Err(error) => {
            devices.iter().for_each(|device| device.stop());
            Err(error)
        }
    }
}

/// Lays the arena out as the thread of a device does where there is one; blocks may come meanwhile.
fn settle_aside(arena: &Arc<Arena>) {
    let arena = Arc::clone(arena);
    let thread = std::thread::Builder::new().name("hearth-arena".into());
    if let Err(error) = thread.spawn(move || arena.settle()) {
        tracing::warn!(%error, "no thread to lay out the arena: its memory comes as it is used");
    }
}

/// What a store gets if it is founded now. Its first generation follows the time, so that it is above
/// those of whatever lay in the same place before.
fn found(config: &StoreConfig, clock: &Clock, known: Option<StoreId>) -> Result<Founding, OpenError> {
    let mut id = [0; 16];
    fill_randomly(&mut id)?;
    let generation = clock.unix_ms() / 1_000 * GENERATIONS_PER_SECOND;
    let store = known.unwrap_or(StoreId(id));
    Ok(Founding { store, extent_bytes: config.extent_bytes as u64, generation })
}

fn random_seed() -> Result<u64, OpenError> {
    let mut bytes = [0; 8];
    fill_randomly(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn fill_randomly(bytes: &mut [u8]) -> Result<(), OpenError> {
    let filled = rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty());
    filled.map(drop).map_err(|error| OpenError::io("take random bytes")(error.into()))
}

/// Starts the driver of each slab.
fn start(
    nvme: &NvmeConfig,
    slabs: Vec<(Member, Superblock)>,
    arena: &Arc<Arena>,
) -> Result<Vec<(Superblock, Started)>, OpenError> {
    let mut all: Vec<(Superblock, Started)> = Vec::new();
    for (member, superblock) in slabs {
        match device::start(member, arena, nvme.driver) {
            Ok(started) => all.push((superblock, started)),
            Err(error) => {
                all.iter().for_each(|(_, started)| started.device.stop());
                return Err(OpenError::io("start the driver of a slab")(error));
            }
        }
    }
    Ok(all)
}

fn members(config: &StoreConfig, nvme: &NvmeConfig, slabs: &[(Superblock, Started)]) -> Vec<VolumeMember> {
    let extents_max = |bytes: u64| u32::try_from(bytes / config.extent_bytes as u64).unwrap_or(u32::MAX);
    let member = |(slab, (superblock, started)): (&SlabConfig, &(Superblock, Started))| VolumeMember {
        device: Arc::clone(&started.device),
        number: superblock.member,
        data_offset: superblock.data_offset,
        extents_max: extents_max(slab.capacity_bytes),
    };
    nvme.slabs.iter().zip(slabs).map(member).collect()
}

/// Starts the durability thread and that of the index.
fn spawn(core: &Arc<Core>, catalog: Box<dyn Catalog>) -> Result<JoinHandle<()>, OpenError> {
    let commits = CommitThread::spawn(catalog).map_err(OpenError::io("start the thread of the index"))?;
    let writer = Writer::new(Arc::clone(core), Box::new(commits));
    std::thread::Builder::new()
        .name("hearth-durable".into())
        .spawn(move || writer.run())
        .map_err(OpenError::io("start the durability thread"))
}
