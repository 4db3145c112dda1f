//! Opening a store on real files: the index, the slabs, the threads.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::arena::Arena;
use crate::clock::Clock;
use crate::config::{NvmeConfig, StoreConfig};
use crate::core::Core;
use crate::device::{self, Device, Member, Started};
use crate::error::OpenError;
use crate::recovery::{Parts, RecoveryReport, assemble, new_core};
use crate::slab::{Founding, RocksCatalog, StoreUuid};
use crate::sync::Mailbox;
use crate::volume::VolumeMember;
use crate::writer::{Message, Writer};

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

/// Opens a store. Tests may interpose parts that fail.
pub(crate) fn open(
    config: &StoreConfig,
    interpose: Option<Interpose<'_>>,
) -> Result<(Arc<Core>, Option<Threads>, RecoveryReport), OpenError> {
    let began = Instant::now();
    config.check()?;
    let arena = Arena::new(config.arena_bytes, config.extent_bytes)?;
    let clock = Clock::real();
    let seed = random_seed()?;
    let Some(nvme) = &config.nvme else {
        let core = Arc::new(new_core(config, arena, clock, seed));
        return Ok((core, None, RecoveryReport { elapsed: began.elapsed(), ..RecoveryReport::default() }));
    };
    let dir = &nvme.dir;
    std::fs::create_dir_all(dir).map_err(OpenError::io(format!("make the folder {}", dir.display())))?;
    // Nothing of the folder is touched before the index has granted its lock.
    let catalog = RocksCatalog::open(dir, found(config, &clock)?)?;
    let started = start_members(nvme, &arena)?;
    let devices: Vec<_> = started.iter().map(|started| Arc::clone(&started.device)).collect();
    let members = members(config, nvme, &devices);
    let parts = Parts { members, catalog: Box::new(catalog), clock, seed };
    let parts = match interpose {
        Some(interpose) => interpose(parts),
        None => parts,
    };
    let opened =
        assemble(config, arena, parts).and_then(|(core, writer, report)| Ok((core, spawn(writer)?, report)));
    started.iter().for_each(Started::wait_until_ready);
    match opened {
        Ok((core, writer, mut report)) => {
            let nvme = core.nvme.as_ref().expect("it was assembled with an NVMe tier");
            let threads = Threads { mailbox: Arc::clone(&nvme.mailbox), writer, devices };
            report.elapsed = began.elapsed();
            Ok((core, Some(threads), report))
        }
        Err(error) => {
            devices.iter().for_each(|device| device.stop());
            Err(error)
        }
    }
}

/// What a store gets if it is founded now. Its first generation follows the time, so that it is above
/// those of whatever lay in the same place before.
fn found(config: &StoreConfig, clock: &Clock) -> Result<Founding, OpenError> {
    let mut uuid = [0; 16];
    fill_randomly(&mut uuid)?;
    let generation = clock.unix_ms() / 1_000 * GENERATIONS_PER_SECOND;
    Ok(Founding { store: StoreUuid(uuid), extent_bytes: config.extent_bytes as u64, generation })
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

fn start_members(nvme: &NvmeConfig, arena: &Arc<Arena>) -> Result<Vec<Started>, OpenError> {
    let mut all: Vec<Started> = Vec::new();
    for slab in &nvme.slabs {
        let started = start_member(&slab.path, arena, nvme);
        match started {
            Ok(started) => all.push(started),
            Err(error) => {
                all.iter().for_each(|started| started.device.stop());
                return Err(error);
            }
        }
    }
    Ok(all)
}

fn start_member(path: &Path, arena: &Arc<Arena>, nvme: &NvmeConfig) -> Result<Started, OpenError> {
    let member = Member::open(path)?;
    device::start(member, Arc::clone(arena), nvme.driver)
        .map_err(OpenError::io(format!("start the driver of {}", path.display())))
}

fn members(config: &StoreConfig, nvme: &NvmeConfig, devices: &[Arc<dyn Device>]) -> Vec<VolumeMember> {
    let extents_max = |bytes: u64| u32::try_from(bytes / config.extent_bytes as u64).unwrap_or(u32::MAX);
    (0..)
        .zip(nvme.slabs.iter().zip(devices))
        .map(|(number, (slab, device))| VolumeMember {
            device: Arc::clone(device),
            number,
            data_offset: 0,
            extents_max: extents_max(slab.capacity_bytes),
        })
        .collect()
}

fn spawn(writer: Writer) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new()
        .name("hearth-durable".into())
        .spawn(move || writer.run())
        .map_err(OpenError::io("start the durability thread"))
}
