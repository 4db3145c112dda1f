//! Puts: from a filled slot to a block that is readable, and on its way to NVMe.

use std::sync::Arc;
use std::time::Instant;

use hearth_proto::{AckLevel, BlockId, Generation, Tier};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::arena::{HostBlock, SlotMut};
use crate::codec::Codec;
use crate::core::Core;
use crate::error::PutError;
use crate::index::{Durability, Entry, NvmeReplica, Shard};
use crate::policy::Keep;
use crate::read::verify;
use crate::slab::Footer;
use crate::space::Resident;
use crate::store::{PutMeta, PutOutcome, Store};
use crate::writer::{Message, WriteJob};

/// What a put found under its id.
struct Existing {
    generation: Generation,
    /// Present if the caller waits for the block to be durable.
    wait: Option<oneshot::Receiver<Durability>>,
    /// Present if the block has to be written to NVMe first.
    write: Option<Arc<HostBlock>>,
    keep_changed: Option<KeepChange>,
}

/// What publishing a block came to.
enum Published {
    /// It is in the index, and the caller may wait for it to be durable.
    New(Option<oneshot::Receiver<Durability>>),
    /// Somebody else had put it.
    Existing(Existing),
}

/// Where the candidates of a block are that was put again with another contract.
struct KeepChange {
    resident: Resident,
    keep: Keep,
    payload_len: u32,
    host: Option<Arc<HostBlock>>,
    nvme: NvmeReplica,
}

impl Store {
    /// Publishes a filled slot under `id`: it is readable when this returns, and flows to NVMe.
    ///
    /// Putting what is already there changes nothing but its retention, and still waits until the block
    /// is as durable as `ack` asks (INV-IDEMPOTENT). What an earlier life of the store left on NVMe is
    /// there only if its record can be read, so the first put of such a block reads it.
    ///
    /// # Errors
    /// [`PutError`]; each says whether anything was stored.
    ///
    /// *Cancel safe*: a put that is dropped either stored the block or freed the slot; the block may yet
    /// become durable.
    pub async fn put(
        &self,
        id: BlockId,
        slot: SlotMut,
        meta: PutMeta,
        ack: AckLevel,
        deadline: Instant,
    ) -> Result<PutOutcome, PutError> {
        let core = self.core();
        check(core, &slot, &meta, ack)?;
        verify(core, &id, deadline).await?;
        let permit = acquire_write_permit(core, deadline).await?;
        if core.is_closed() {
            return Err(PutError::Closed);
        }
        let now_us = core.clock.now_us();
        let keep = Keep::new(meta.retention, meta.depth, now_us);
        let durable = ack == AckLevel::Durable;
        let found = core.index.shard(&id).put_again(&id, keep, durable, now_us);
        let existing = match found {
            Some(existing) => {
                drop(slot);
                existing
            }
            None => {
                let block = seal(core, &id, slot, meta.crc32)?;
                match publish(core, &id, &block, keep, durable, now_us) {
                    Published::New(wait) => return enter(core, id, block, permit, wait, deadline).await,
                    Published::Existing(existing) => existing,
                }
            }
        };
        put_again(core, id, existing, permit, deadline).await
    }
}

fn check(core: &Core, slot: &SlotMut, meta: &PutMeta, ack: AckLevel) -> Result<(), PutError> {
    if core.is_closed() {
        return Err(PutError::Closed);
    }
    if !Arc::ptr_eq(slot.slot().arena(), &core.arena) {
        return Err(PutError::ForeignSlot);
    }
    if ack == AckLevel::Durable && core.nvme.is_none() {
        return Err(PutError::NoNvme);
    }
    let actual = crc32fast::hash(slot);
    if actual != meta.crc32 {
        return Err(PutError::ChecksumMismatch { expected: meta.crc32, actual });
    }
    Ok(())
}

/// Waits until one more block may be on its way to NVMe.
async fn acquire_write_permit(
    core: &Core,
    deadline: Instant,
) -> Result<Option<OwnedSemaphorePermit>, PutError> {
    let Some(nvme) = &core.nvme else { return Ok(None) };
    if let Ok(permit) = Arc::clone(&nvme.write_permits).try_acquire_owned() {
        return Ok(Some(permit));
    }
    let acquire = Arc::clone(&nvme.write_permits).acquire_owned();
    match tokio::time::timeout_at(deadline.into(), acquire).await {
        Ok(permit) => Ok(Some(permit.map_err(|_| PutError::Closed)?)),
        Err(_) => Err(PutError::Overloaded),
    }
}

/// Gives the slot its number and its footer; from here on its bytes never change.
fn seal(core: &Core, id: &BlockId, mut slot: SlotMut, crc32: u32) -> Result<Arc<HostBlock>, PutError> {
    let generation = core.next_generation().ok_or(PutError::Overloaded)?;
    let payload_len = u32::try_from(slot.len()).expect("payloads are bounded by BLOCK_BYTES_MAX");
    let (codec, stored_len) = (Codec::Raw, payload_len);
    slot.seal(&Footer { id: *id, codec, payload_len, stored_len, generation, payload_crc: crc32 });
    Ok(Arc::new(HostBlock::new(slot.into_slot(), generation, crc32)))
}

/// Enters a new block into the index, or says what is there already.
fn publish(
    core: &Core,
    id: &BlockId,
    block: &Arc<HostBlock>,
    keep: Keep,
    durable: bool,
    now_us: u64,
) -> Published {
    let payload_len = block.slot().payload().len() as u32;
    let mut shard = core.index.shard(id);
    if let Some(existing) = shard.put_again(id, keep, durable, now_us) {
        return Published::Existing(existing);
    }
    let entry = Entry {
        host: Some(Arc::clone(block)),
        nvme: if core.nvme.is_some() { NvmeReplica::Pending } else { NvmeReplica::Absent },
        generation: block.generation(),
        payload_len,
        crc32: block.crc32(),
        keep,
        used_at_us: now_us,
        verified: true,
    };
    shard.entries.insert(*id, entry);
    core.announce(id, Tier::Host, true, payload_len);
    core.counters.puts.add(1);
    core.counters.put_bytes.add(u64::from(payload_len));
    Published::New(durable.then(|| shard.wait_durable(id)))
}

/// Sends a block that is new in the index on its way.
async fn enter(
    core: &Core,
    id: BlockId,
    block: Arc<HostBlock>,
    permit: Option<OwnedSemaphorePermit>,
    wait: Option<oneshot::Receiver<Durability>>,
    deadline: Instant,
) -> Result<PutOutcome, PutError> {
    let generation = block.generation();
    match permit {
        Some(permit) => send_job(core, WriteJob::new(id, block, permit)),
        None => core.line_up_host(&id, &block),
    }
    wait_until_durable(wait, deadline).await?;
    Ok(PutOutcome { generation, existed: false })
}

async fn put_again(
    core: &Core,
    id: BlockId,
    existing: Existing,
    permit: Option<OwnedSemaphorePermit>,
    deadline: Instant,
) -> Result<PutOutcome, PutError> {
    if let Some(change) = &existing.keep_changed {
        apply_keep(core, change);
    }
    if let (Some(block), Some(permit)) = (existing.write, permit) {
        send_job(core, WriteJob::new(id, block, permit));
    }
    wait_until_durable(existing.wait, deadline).await?;
    Ok(PutOutcome { generation: existing.generation, existed: true })
}

fn send_job(core: &Core, job: WriteJob) {
    let Some(nvme) = &core.nvme else { return };
    core.counters.pending_writes.add(1);
    if let Err(Message::Write(job)) = nvme.mailbox.send(Message::Write(job)) {
        job.give_up(core, PutError::Closed);
    }
}

fn apply_keep(core: &Core, change: &KeepChange) {
    let now_us = core.clock.now_us();
    let KeepChange { resident, keep, payload_len, host, nvme } = change;
    if let Some(block) = host {
        let slot = block.slot();
        crate::sync::lock(&core.host_lines).keep(slot.class(), slot.sector(), resident, *keep, now_us);
    }
    if let (NvmeReplica::Stored(sector), Some(nvme)) = (nvme, &core.nvme) {
        let class = crate::extents::class_of(*payload_len as usize);
        crate::sync::lock(&nvme.lines).keep(class, *sector, resident, *keep, now_us);
    }
}

async fn wait_until_durable(
    wait: Option<oneshot::Receiver<Durability>>,
    deadline: Instant,
) -> Result<(), PutError> {
    let Some(wait) = wait else { return Ok(()) };
    match tokio::time::timeout_at(deadline.into(), wait).await {
        Ok(Ok(durability)) => durability,
        Ok(Err(_)) => Err(PutError::Closed),
        Err(_) => Err(PutError::UnknownDurability),
    }
}

impl Shard {
    /// Treats a put of a block that is already there; `None` if it is not.
    fn put_again(&mut self, id: &BlockId, keep: Keep, durable: bool, now_us: u64) -> Option<Existing> {
        let entry = self.entries.get_mut(id)?;
        assert!(entry.verified, "a put has read what a former life left, and nothing comes from there later");
        entry.used_at_us = now_us;
        let generation = entry.generation;
        let keep_changed = (entry.keep != keep).then(|| KeepChange {
            resident: Resident { id: *id, generation },
            keep,
            payload_len: entry.payload_len,
            host: entry.host.clone(),
            nvme: entry.nvme,
        });
        entry.keep = keep;
        let mut write = None;
        if durable && entry.nvme == NvmeReplica::Absent {
            entry.nvme = NvmeReplica::Pending;
            write = entry.host.clone();
        }
        let wait = (durable && entry.nvme == NvmeReplica::Pending).then(|| self.wait_durable(id));
        Some(Existing { generation, wait, write, keep_changed })
    }

    fn wait_durable(&mut self, id: &BlockId) -> oneshot::Receiver<Durability> {
        let (sender, wait) = oneshot::channel();
        let waiters = self.waiters.entry(*id).or_default();
        // Those who gave up make place, so that repeated puts do not pile up here.
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.push(sender);
        wait
    }
}
