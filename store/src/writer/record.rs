//! A block with a place on the device: how it gets there, and how it is named once it is durable.

use std::io;
use std::sync::Arc;

use super::{Message, WriteJob};
use crate::arena::HostBlock;
use crate::codec::LayoutClass;
use crate::core::Core;
use crate::device::Request;
use crate::error::PutError;
use crate::mutant::{Mutant, is};
use crate::nvme::Nvme;
use crate::space::Resident;
use crate::sync::lock;

/// A block with a place on the device.
pub(crate) struct Record {
    pub(super) job: WriteJob,
    pub(super) sector: u32,
    /// True if the slot is one of which the index knows that a record may lie there: then the block is
    /// durable when the record is.
    pub(super) ready: bool,
}

/// A block that was named before the index on disk heard of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    pub(super) resident: Resident,
    pub(super) sector: u32,
}

/// Sends a block on its way to NVMe: straight to the device if a slot is ready for it and it is stored as it
/// lies in the arena, else by way of the durability thread.
pub(crate) fn send(core: &Arc<Core>, nvme: &Nvme, job: WriteJob) {
    let Err(job) = send_directly(core, nvme, job) else { return };
    if let Err(Message::Write(job)) = nvme.mailbox.send(Message::Write(job)) {
        job.give_up(core, nvme, PutError::Closed);
    }
}

fn send_directly(core: &Arc<Core>, nvme: &Nvme, job: WriteJob) -> Result<(), WriteJob> {
    let block = Arc::clone(job.block());
    let class = block.slot().record_sectors();
    let layout =
        LayoutClass { namespace: job.resident().id.namespace, payload_len: block.payload_len().get() };
    let mut sampler = lock(&nvme.sampler);
    if !sampler.is_next_raw(layout) {
        return Err(job);
    }
    let Some(slot) = nvme.take_ready(class, block.generation()) else { return Err(job) };
    sampler.count_raw(layout);
    drop(sampler);
    Record { job, sector: slot.sector, ready: true }.submit(core, nvme, block);
    Ok(())
}

impl Record {
    /// Hands the record to the device, in the form that is written of it.
    pub(super) fn submit(self, core: &Arc<Core>, nvme: &Nvme, form: Arc<HostBlock>) {
        lock(&nvme.under_way).writes_to(self.job.number, self.ready.then_some(self.sector));
        // Whoever lets go of the block from now on finds out where it goes.
        if self.ready && !self.job.is_wanted(core) {
            return self.hand_over(core, nvme, Message::Unused);
        }
        core.counters.nvme_written_bytes.add(form.slot().record_len() as u64);
        core.counters.nvme_written_payload_bytes.add(u64::from(self.job.block().payload_len().get()));
        self.name_early(core, nvme);
        let (member, offset) = nvme.volume.locate(self.sector);
        let core = Arc::clone(core);
        let done = Box::new(move |result| self.written(&core, result));
        nvme.volume.device(member).submit(Request::Write { offset, block: form, done });
    }

    /// Takes in the end of the write, on a thread of the device.
    fn written(self, core: &Core, result: io::Result<()>) {
        let nvme = core.nvme.as_ref().expect("a record was written to it");
        let resident = self.job.resident();
        if result.is_ok() && self.ready && core.publish_nvme(nvme, &resident, self.sector) {
            core.enter_host_bag(&resident.id, self.job.block());
            self.job.end(nvme);
            let named = Named { resident, sector: self.sector };
            return nvme.mailbox.send_quietly(Message::Named(named));
        }
        self.hand_over(core, nvme, |record| Message::Written(record, result));
    }

    /// Lets the durability thread decide what becomes of the record.
    fn hand_over(self, core: &Core, nvme: &Nvme, message: impl FnOnce(Self) -> Message) {
        // Refused only by a thread that died: whoever closes the mailbox waits for every record.
        if let Err(Message::Written(record, _) | Message::Unused(record)) = nvme.mailbox.send(message(self)) {
            record.job.give_up(core, nvme, PutError::Closed);
        }
    }

    /// What three mutants do with a record that is not durable.
    fn name_early(&self, core: &Core, nvme: &Nvme) {
        let resident = self.job.resident();
        if is(Mutant::PublishBeforeDurable) {
            core.publish_nvme(nvme, &resident, self.sector);
        }
        if is(Mutant::AckBeforeDurable) {
            core.index.shard(&resident.id).answer_waiters(&resident.id, &Ok(()));
        }
        if is(Mutant::CommitBeforeSync) {
            nvme.mailbox.send_quietly(Message::Named(Named { resident, sector: self.sector }));
        }
    }
}
