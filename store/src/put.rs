//! Puts: from a filled slot to a block that is readable, and on its way to NVMe.

use std::sync::Arc;
use std::time::Instant;

use hearth_proto::{AckLevel, BlockId, Tier};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::arena::{HostBlock, SlotMut};
use crate::codec::Codec;
use crate::core::Core;
use crate::error::PutError;
use crate::index::{Durability, NewBlock, NvmeReplica, Shard, key_bits};
use crate::policy::{Keep, Spot, Tick, is_worth_writing};
use crate::read::verify;
use crate::slab::Footer;
use crate::space::Resident;
use crate::store::{PutMeta, PutOutcome, Store};
use crate::writer::{WriteJob, send};

/// What a put found under its id.
struct Existing {
    resident: Resident,
    /// Present if the caller waits for the block to be durable.
    wait: Option<oneshot::Receiver<Durability>>,
    /// Present if the block has to be written to NVMe first.
    write: Option<Arc<HostBlock>>,
    /// True if the block was to be kept otherwise.
    keep_changes: bool,
}

/// What publishing a block came to.
enum Published {
    /// It is in the index, and the caller may wait for it to be durable.
    New(Option<oneshot::Receiver<Durability>>),
    /// Somebody else had put it.
    Existing(Existing),
}

/// What a put brings besides the bytes.
struct Offer {
    id: BlockId,
    payload_len: u32,
    crc32: u32,
    keep: Keep,
    ack: AckLevel,
    now_us: u64,
}

impl Offer {
    fn spot(&self) -> Spot {
        let depth = u16::try_from(self.keep.depth).unwrap_or(u16::MAX);
        Spot { namespace: self.id.namespace.0, depth }
    }
}

impl Store {
    /// Publishes a filled slot under `id`: it is readable when this returns, and flows to NVMe.
    ///
    /// Putting what is already there changes nothing but its retention, and still waits until the block
    /// is as durable as `ack` asks (INV-IDEMPOTENT). Other bytes under the same id are refused. A block of
    /// the lowest priorities is not written to NVMe unless `ack` asks for it. What an earlier life of the store left on NVMe is
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
        let core = &self.inner.core;
        check(core, &slot, &meta, ack)?;
        verify(core, &id, deadline).await?;
        let permit = acquire_write_permit(core, deadline).await?;
        if core.is_closed() {
            return Err(PutError::Closed);
        }
        let now_us = core.clock.now_us();
        let keep = Keep::new(meta.retention, meta.depth, now_us);
        let payload_len = u32::try_from(slot.len()).expect("payloads are bounded by BLOCK_BYTES_MAX");
        let offer = Offer { id, payload_len, crc32: meta.crc32, keep, ack, now_us };
        let found = core.index.shard(&id).put_again(core, &offer)?;
        let existing = match found {
            Some(existing) => {
                drop(slot);
                existing
            }
            None => {
                let block = seal(core, &offer, slot)?;
                match publish(core, &offer, &block)? {
                    Published::New(wait) => return enter(core, &offer, block, permit, wait, deadline).await,
                    Published::Existing(existing) => existing,
                }
            }
        };
        put_again(core, &offer, existing, permit, deadline).await
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
    match core.clock.timeout_at(deadline, acquire).await {
        Ok(permit) => Ok(Some(permit.map_err(|_| PutError::Closed)?)),
        Err(_) => Err(PutError::Overloaded),
    }
}

/// Gives the slot its number and its footer; from here on its bytes never change.
fn seal(core: &Core, offer: &Offer, mut slot: SlotMut) -> Result<Arc<HostBlock>, PutError> {
    let generation = core.next_generation().ok_or(PutError::Overloaded)?;
    slot.seal(&Footer {
        id: offer.id,
        codec: Codec::Raw,
        payload_len: offer.payload_len,
        stored_len: offer.payload_len,
        generation,
        payload_crc: offer.crc32,
        depth: offer.keep.depth,
        priority: offer.keep.priority,
        expires_at_ms: offer.keep.expires_at_us.map(|at_us| core.clock.unix_ms_at(at_us)),
    });
    Ok(Arc::new(HostBlock::new(slot.into_slot(), generation, offer.crc32)))
}

/// Enters a new block into the index, or says what is there already.
fn publish(core: &Core, offer: &Offer, block: &Arc<HostBlock>) -> Result<Published, PutError> {
    let mut shard = core.index.shard(&offer.id);
    if let Some(existing) = shard.put_again(core, offer)? {
        return Ok(Published::Existing(existing));
    }
    let written = is_written(core, offer);
    let handle = shard.insert(&NewBlock {
        id: offer.id,
        generation: block.generation(),
        payload_len: block.payload_len(),
        crc32: offer.crc32,
        nvme: if written { NvmeReplica::Pending } else { NvmeReplica::Absent },
        keep: offer.keep,
        reuse: core.ranker.inserted(key_bits(&offer.id), offer.spot(), Tick::from_us(offer.now_us)),
        verified: true,
    });
    shard.set_host(handle, Arc::clone(block));
    core.announce(&offer.id, Tier::Host, true, offer.payload_len);
    core.counters.puts.add(1);
    core.counters.put_bytes.add(u64::from(offer.payload_len));
    if core.nvme.is_some() && !written {
        core.counters.not_admitted.add(1);
    }
    Ok(Published::New((offer.ack == AckLevel::Durable).then(|| shard.wait_durable(&offer.id))))
}

/// True if a new block is to be written to NVMe.
fn is_written(core: &Core, offer: &Offer) -> bool {
    core.nvme.is_some() && is_worth_writing(offer.keep.priority, offer.ack)
}

/// Sends a block that is new in the index on its way.
async fn enter(
    core: &Arc<Core>,
    offer: &Offer,
    block: Arc<HostBlock>,
    permit: Option<OwnedSemaphorePermit>,
    wait: Option<oneshot::Receiver<Durability>>,
    deadline: Instant,
) -> Result<PutOutcome, PutError> {
    let generation = block.generation();
    match (permit, &core.nvme) {
        (Some(permit), Some(nvme)) if is_written(core, offer) => {
            send(core, nvme, WriteJob::new(nvme, offer.id, block, permit));
        }
        _ => core.enter_host_bag(&offer.id, &block),
    }
    wait_until_durable(core, wait, deadline).await?;
    Ok(PutOutcome { generation, existed: false })
}

async fn put_again(
    core: &Arc<Core>,
    offer: &Offer,
    existing: Existing,
    permit: Option<OwnedSemaphorePermit>,
    deadline: Instant,
) -> Result<PutOutcome, PutError> {
    if existing.keep_changes {
        core.change_keep(&existing.resident, &offer.keep);
    }
    if let (Some(block), Some(permit), Some(nvme)) = (existing.write, permit, &core.nvme) {
        send(core, nvme, WriteJob::new(nvme, offer.id, block, permit));
    }
    wait_until_durable(core, existing.wait, deadline).await?;
    Ok(PutOutcome { generation: existing.resident.generation, existed: true })
}

async fn wait_until_durable(
    core: &Core,
    wait: Option<oneshot::Receiver<Durability>>,
    deadline: Instant,
) -> Result<(), PutError> {
    let Some(wait) = wait else { return Ok(()) };
    match core.clock.timeout_at(deadline, wait).await {
        Ok(Ok(durability)) => durability,
        Ok(Err(_)) => Err(PutError::Closed),
        Err(_) => Err(PutError::UnknownDurability),
    }
}

impl Shard {
    /// Treats a put of a block that is already there; `None` if it is not. Blocks never change: other bytes
    /// are refused and those that came first stay.
    fn put_again(&mut self, core: &Core, offer: &Offer) -> Result<Option<Existing>, PutError> {
        let Some(handle) = self.find(&offer.id) else { return Ok(None) };
        let node = self.node_mut(handle);
        assert!(node.is_verified(), "a put has read what a former life left, and nothing comes later");
        if (node.payload_len(), node.crc32()) != (offer.payload_len, offer.crc32) {
            core.counters.conflicts.add(1);
            return Err(PutError::Conflict { stored: node.crc32(), offered: offer.crc32 });
        }
        core.used(node, offer.now_us);
        let resident = Resident { id: offer.id, generation: node.generation() };
        let keep_changes = !node.keeps(&offer.keep);
        let durable = offer.ack == AckLevel::Durable;
        let write = durable && node.nvme() == NvmeReplica::Absent;
        if write {
            node.set_nvme(NvmeReplica::Pending);
        }
        let waits = durable && node.nvme() == NvmeReplica::Pending;
        let write = self.host(handle).filter(|_| write).map(Arc::clone);
        let wait = waits.then(|| self.wait_durable(&offer.id));
        Ok(Some(Existing { resident, wait, write, keep_changes }))
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
