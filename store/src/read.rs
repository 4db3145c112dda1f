//! Gets: from the arena at once, from NVMe with one read however many ask.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use hearth_proto::limits::SECTOR_BYTES;
use hearth_proto::{BlockId, Generation, Tier, Urgency};
use tokio::sync::watch;

use crate::arena::{HostBlock, Lease, SlotMut};
use crate::codec::{Codec, Coder};
use crate::core::Core;
use crate::device::{ReadDone, Request};
use crate::error::{GetError, ReserveError};
use crate::index::{InFlight, NvmeReplica, Shard};
use crate::mutant::{Mutant, is};
use crate::nvme::Nvme;
use crate::slab::Footer;
use crate::space::Resident;
use crate::store::{GetOutcome, MissReason, Store};
use crate::sync::lock;

thread_local! {
    /// Decodes what this thread reads.
    static CODER: RefCell<Coder> = RefCell::new(Coder::new());
}

/// Whether a block that was read comes into the arena for others to find.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promotion {
    Always,
    /// Only if somebody came to wait for the read meanwhile.
    IfAwaited,
}

/// Where a get has to go.
enum Route {
    Host(Lease),
    Nvme(Flight),
    Miss,
}

/// The one read of a block that is made at a time.
pub(crate) enum Flight {
    /// Nobody reads the block yet: the caller does.
    Lead(Record, watch::Sender<()>),
    /// Somebody reads it: look again when that has ended.
    Follow(watch::Receiver<()>),
}

/// A record on NVMe as the index names it.
#[derive(Clone, Copy)]
pub(crate) struct Record {
    resident: Resident,
    sector: u32,
    payload_len: u32,
    crc32: u32,
}

/// What a record turned out to be.
enum Judgement {
    Good,
    Corrupt,
    Stale,
}

impl Store {
    /// Leases a block that lies in the arena. Never waits: one probe of the index and one count.
    ///
    /// `None` says only that the block is not in the arena, or that the store is closed: [`Store::get`]
    /// knows more.
    pub fn get_host(&self, id: &BlockId) -> Option<Lease> {
        let core = self.core();
        if core.is_closed() {
            return None;
        }
        let now_us = core.clock.now_us();
        let mut shard = core.index.shard(id);
        let handle = shard.find(id)?;
        if !shard.node(handle).is_in_arena() {
            return None;
        }
        shard.prefetch_host(handle);
        core.used(shard.node_mut(handle), now_us);
        shard.gets_host += 1;
        shard.host(handle).map(|host| Lease::new(host, Tier::Host))
    }

    /// Leases a block, reading it from NVMe into the arena if it is not there. However many ask for the
    /// same block, one read is made.
    ///
    /// # Errors
    /// [`GetError::Deadline`] if the block is stored but could not be read in time, [`GetError::Closed`].
    /// Whatever is damaged or unreadable is a miss that says so, and is not found again.
    ///
    /// *Cancel safe*: a read that was begun is finished by the disk thread, and others who wait for it
    /// begin their own.
    pub async fn get(&self, id: &BlockId, deadline: Instant) -> Result<GetOutcome, GetError> {
        self.get_with(id, Urgency::default(), deadline).await
    }

    /// The same, with a say in which reads of NVMe begin first. A read that several ask for is as urgent as
    /// the most urgent of those who came before it was handed to the device: in the device's own line it
    /// keeps its place.
    ///
    /// # Errors
    /// Those of [`Store::get`].
    ///
    /// *Cancel safe*, as [`Store::get`] is.
    pub async fn get_with(
        &self,
        id: &BlockId,
        urgency: Urgency,
        deadline: Instant,
    ) -> Result<GetOutcome, GetError> {
        let core = self.core();
        let mut waited = false;
        loop {
            if core.is_closed() {
                return Err(GetError::Closed);
            }
            match route(core, id, urgency, waited) {
                Route::Host(lease) => return Ok(GetOutcome::Hit(lease)),
                Route::Miss => {
                    core.counters.gets_missed.add(1);
                    return Ok(GetOutcome::Miss(MissReason::NeverStored));
                }
                Route::Nvme(Flight::Follow(reading)) => {
                    waited = true;
                    wait_for_end(core, reading, deadline).await?;
                }
                Route::Nvme(Flight::Lead(record, ended)) => {
                    let _reading = Reading::new(core, id, ended);
                    if let Some(outcome) = read(core, &record, Promotion::Always, deadline, deadline).await? {
                        let counter = match outcome {
                            GetOutcome::Hit(_) => &core.counters.gets_nvme,
                            GetOutcome::Miss(_) => &core.counters.gets_missed,
                        };
                        counter.add(1);
                        return Ok(outcome);
                    }
                }
            }
        }
    }
}

/// Reads what a former life left of a block and nobody has read since, as a crash may have left an index
/// that names reused slots. Afterwards the block is verified and in the arena, or it is not there: no put
/// has to take anything on trust, nor give up a durable replica for one that is not (INV-ACK).
///
/// *Cancel safe*, as [`Store::get`] is.
pub(crate) async fn verify(core: &Core, id: &BlockId, deadline: Instant) -> Result<(), GetError> {
    loop {
        if core.is_closed() {
            return Err(GetError::Closed);
        }
        match route_unverified(core, id) {
            None => return Ok(()),
            Some(Flight::Lead(record, ended)) => {
                let _reading = Reading::new(core, id, ended);
                // The putter holds a slot already. Puts that waited for a second one could fill the arena
                // and wait for each other, so there is room now or the put is refused.
                read(core, &record, Promotion::Always, core.clock.now(), deadline).await?;
            }
            Some(Flight::Follow(reading)) => wait_for_end(core, reading, deadline).await?,
        }
    }
}

pub(crate) async fn wait_for_end(
    core: &Core,
    mut reading: watch::Receiver<()>,
    deadline: Instant,
) -> Result<(), GetError> {
    // The channel never carries a value: it closes when the read has ended.
    let ended = core.clock.timeout_at(deadline, reading.changed()).await;
    ended.map(drop).map_err(|_| GetError::Deadline)
}

/// Ends a single-flight read, on whatever path: those who wait look again.
pub(crate) struct Reading<'a> {
    core: &'a Core,
    id: &'a BlockId,
    _ended: watch::Sender<()>,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(core: &'a Core, id: &'a BlockId, ended: watch::Sender<()>) -> Self {
        Self { core, id, _ended: ended }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.core.index.shard(self.id).reading.remove(self.id);
    }
}

fn route(core: &Core, id: &BlockId, urgency: Urgency, waited: bool) -> Route {
    let now_us = core.clock.now_us();
    let mut guard = core.index.shard(id);
    let shard = &mut *guard;
    let Some(handle) = shard.find(id) else { return Route::Miss };
    shard.prefetch_host(handle);
    core.used(shard.node_mut(handle), now_us);
    if let Some(host) = shard.host(handle) {
        if waited {
            core.counters.gets_nvme.add(1);
            return Route::Host(Lease::new(host, Tier::Nvme));
        }
        let lease = Lease::new(host, Tier::Host);
        shard.gets_host += 1;
        return Route::Host(lease);
    }
    board(shard, id, urgency).map_or(Route::Miss, Route::Nvme)
}

fn route_unverified(core: &Core, id: &BlockId) -> Option<Flight> {
    let mut shard = core.index.shard(id);
    if shard.get(id)?.is_verified() {
        return None;
    }
    board(&mut shard, id, Urgency::default())
}

/// Begins the read of a block's record, or joins the one that was begun; `None` if there is no record.
pub(crate) fn board(shard: &mut Shard, id: &BlockId, urgency: Urgency) -> Option<Flight> {
    let node = shard.get(id)?;
    let NvmeReplica::Stored(sector) = node.nvme() else { return None };
    if let Some(reading) = shard.reading.get_mut(id) {
        reading.urgency = reading.urgency.max(urgency);
        reading.awaited = true;
        return Some(Flight::Follow(reading.ended.clone()));
    }
    let node = shard.get(id)?;
    let (ended, reading) = watch::channel(());
    let resident = Resident { id: *id, generation: node.generation() };
    let record = Record { resident, sector, payload_len: node.payload_len(), crc32: node.crc32() };
    shard.reading.insert(*id, InFlight { ended: reading, urgency, awaited: false });
    Some(Flight::Lead(record, ended))
}

/// Reads one record, checks it and promotes it, if there is room for it in the arena by `room_by`. A miss
/// means that the index no longer names the record; `None` that it was replaced or evicted meanwhile, so
/// that the index has to be asked again.
pub(crate) async fn read(
    core: &Core,
    record: &Record,
    promotion: Promotion,
    room_by: Instant,
    deadline: Instant,
) -> Result<Option<GetOutcome>, GetError> {
    let Some(nvme) = &core.nvme else { return Ok(None) };
    let permit = core.clock.timeout_at(deadline, nvme.read_permits.acquire()).await;
    let _permit = permit.map_err(|_| GetError::Deadline)?.map_err(|_| GetError::Closed)?;
    let mut slot = match core.reserve(record.payload_len as usize, room_by).await {
        Ok(slot) => slot,
        Err(ReserveError::Closed) => return Err(GetError::Closed),
        Err(ReserveError::Deadline) => return Err(GetError::Deadline),
        // Recovery drops entries that are too large for an extent, and puts refuse them.
        Err(ReserveError::TooLarge { .. } | ReserveError::Empty) => {
            return Ok(Some(lose(core, nvme, record, MissReason::Corrupt)));
        }
    };
    // The record may be shorter than the payload, if it is encoded. Never longer, unless the extent serves
    // others by now.
    let sectors = lock(&nvme.slots).class_at(record.sector);
    if !(1..=slot.slot().class()).contains(&sectors) {
        return Ok(is_named(core, record).then(|| lose(core, nvme, record, MissReason::Corrupt)));
    }
    slot.narrow(sectors);
    let (done, end) = ReadDone::new();
    let (member, offset) = nvme.volume.locate(record.sector);
    nvme.volume.device(member).submit(Request::Read {
        offset,
        slot,
        urgency: urgency_of(core, record),
        deadline,
        done,
    });
    match core.clock.timeout_at(deadline, end).await {
        Ok(Ok(slot)) => Ok(settle(core, nvme, record, promotion, slot)),
        Ok(Err(error)) => fail(core, nvme, record, &error),
        Err(_) => Err(GetError::Deadline),
    }
}

/// How urgent the read of a record is by now.
fn urgency_of(core: &Core, record: &Record) -> Urgency {
    let id = &record.resident.id;
    core.index.shard(id).reading.get(id).map_or_else(Urgency::default, |reading| reading.urgency)
}

/// True if others than its reader wait for the read of a record.
fn is_awaited(core: &Core, record: &Record) -> bool {
    let id = &record.resident.id;
    core.index.shard(id).reading.get(id).is_some_and(|reading| reading.awaited)
}

/// Decides what a record is that was read in full.
fn settle(
    core: &Core,
    nvme: &Nvme,
    record: &Record,
    promotion: Promotion,
    mut slot: SlotMut,
) -> Option<GetOutcome> {
    match judge(record, &mut slot) {
        Judgement::Good => {
            let block = Arc::new(HostBlock::new(slot.into_slot(), record.resident.generation, record.crc32));
            // Leased before it is entered, so that it cannot be evicted in between.
            let lease = Lease::new(&block, Tier::Nvme);
            if promotion == Promotion::Always || is_awaited(core, record) {
                promote(core, record, &block);
            }
            Some(GetOutcome::Hit(lease))
        }
        _ if !is_named(core, record) => None,
        Judgement::Corrupt => {
            core.counters.corrupt_blocks.add(1);
            Some(lose(core, nvme, record, MissReason::Corrupt))
        }
        Judgement::Stale => {
            core.counters.stale_blocks.add(1);
            Some(lose(core, nvme, record, MissReason::Stale))
        }
    }
}

/// Compares a record with what the index said of it, and decodes it if it is encoded (INV-BYTES, INV-FENCE).
fn judge(record: &Record, slot: &mut SlotMut) -> Judgement {
    let Ok(footer) = Footer::decode(slot.footer()) else { return Judgement::Corrupt };
    let named = (record.resident.id, record.resident.generation);
    // Two known bugs that the simulation must find; without them the first is the index's checksum.
    let crc32 = if is(Mutant::GenerationNotChecked) { footer.payload_crc } else { record.crc32 };
    let is_whole = |payload: &[u8]| crc32fast::hash(payload) == crc32 || is(Mutant::ChecksumNotVerified);
    let generation = if is(Mutant::GenerationNotChecked) { named.1 } else { footer.generation };
    if (footer.id, generation) != named {
        return Judgement::Stale;
    }
    if (footer.payload_len, footer.payload_crc) != (record.payload_len, crc32) {
        return Judgement::Corrupt;
    }
    let Some(stored) = slot.stored(footer.stored_len) else { return Judgement::Corrupt };
    if footer.codec == Codec::Raw {
        let fills = slot.slot().record_len() == slot.slot().class() as usize * SECTOR_BYTES;
        return if fills && is_whole(stored) { Judgement::Good } else { Judgement::Corrupt };
    }
    let stored = stored.to_vec();
    slot.widen();
    let decoded = CODER.with_borrow_mut(|coder| coder.decode(footer.codec, &stored, slot));
    if decoded.is_err() || !is_whole(slot) {
        return Judgement::Corrupt;
    }
    // As the block lies in the arena it may be written once more.
    slot.seal(&Footer { codec: Codec::Raw, stored_len: footer.payload_len, ..footer });
    Judgement::Good
}

/// Enters a block that was read into the index, if that still wants it.
fn promote(core: &Core, record: &Record, block: &Arc<HostBlock>) {
    let id = &record.resident.id;
    let mut shard = core.index.shard(id);
    let Some(node) = shard.same(&record.resident).filter(|node| !node.is_in_arena()) else { return };
    node.set_verified();
    let handle = shard.find(id).expect("it was there a moment ago");
    shard.set_host(handle, Arc::clone(block));
    core.announce(id, Tier::Host, true, record.payload_len);
    drop(shard);
    core.enter_host_bag(id, block);
}

/// True if the index still names the record. If it does not, the slot was reused while it was read.
fn is_named(core: &Core, record: &Record) -> bool {
    let mut shard = core.index.shard(&record.resident.id);
    shard.same(&record.resident).is_some_and(|node| node.nvme() == NvmeReplica::Stored(record.sector))
}

/// Removes a record that cannot be used.
fn lose(core: &Core, nvme: &Nvme, record: &Record, reason: MissReason) -> GetOutcome {
    let Generation(generation) = record.resident.generation;
    // Stale entries are what a crash leaves behind; damage is news.
    if reason == MissReason::Corrupt {
        tracing::warn!(generation, sector = record.sector, "a record on NVMe is damaged");
    }
    core.retract_nvme(nvme, &record.resident, record.sector);
    GetOutcome::Miss(reason)
}

/// Decides what to do about a read that failed.
fn fail(
    core: &Core,
    nvme: &Nvme,
    record: &Record,
    error: &io::Error,
) -> Result<Option<GetOutcome>, GetError> {
    // Only what the driver says of itself: a device that times out is one that failed.
    match error.kind() {
        io::ErrorKind::TimedOut if error.raw_os_error().is_none() => return Err(GetError::Deadline),
        io::ErrorKind::NotConnected if error.raw_os_error().is_none() => return Err(GetError::Closed),
        _ => {}
    }
    core.counters.io_errors.add(1);
    if error.kind() == io::ErrorKind::UnexpectedEof {
        // The file ends before the record does: it was cut, but the device itself works.
        core.counters.corrupt_blocks.add(1);
        return Ok(Some(lose(core, nvme, record, MissReason::Corrupt)));
    }
    let extent = lock(&nvme.slots).extent_of(record.sector);
    if !core.fence_extent(nvme, extent) {
        return Err(GetError::Closed);
    }
    // Whoever else fences the extent at this moment may not have come to this record yet.
    core.retract_nvme(nvme, &record.resident, record.sector);
    Ok(Some(GetOutcome::Miss(MissReason::Unreadable)))
}
