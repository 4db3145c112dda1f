//! When the index is told, what of, and what becomes of that.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::batch::Batch;
use super::{Message, Writer};
use crate::error::PutError;
use crate::mutant::{Mutant, is};
use crate::nvme::Nvme;
use crate::slab::ReadySlot;
use crate::sync::lock;

impl Writer {
    /// Takes in the replicas that were forgotten before now. Their slots may have been given out already, and
    /// what their extent serves since must not become durable before they are forgotten.
    fn take_deletes(&mut self, nvme: &Nvme) {
        let mut deletes = VecDeque::new();
        nvme.mailbox.take_where(|message| matches!(message, Message::Delete { .. }), &mut deletes);
        deletes.into_iter().for_each(|delete| self.handle(nvme, delete));
    }

    /// Hands what there is to the index, if it is time.
    pub(super) fn start_commit(&mut self, nvme: &Nvme) {
        // After a refusal only those who wait are answered, until something else has happened.
        if self.committing.is_some() || !self.may_commit && !self.next.is_waited_for() {
            return;
        }
        let is_quiet = self.stopping || lock(&nvme.under_way).len() == 0;
        let is_due = self.next.is_urgent()
            || self.next.is_worth_a_commit(is_quiet)
            || self.stopping && !self.next.is_empty();
        if !is_due {
            return;
        }
        self.take_deletes(nvme);
        let changes = self.changes();
        self.committing = Some(std::mem::take(&mut self.next));
        let mailbox = Arc::clone(&nvme.mailbox);
        let done = move |result| {
            // This thread reads its mailbox until every commit has ended.
            let _ = mailbox.send(Message::Committed(result));
        };
        self.commits.submit(changes, Box::new(done));
    }

    /// Takes in the end of the commit: names what the index names by now.
    pub(super) fn committed(&mut self, nvme: &Nvme, result: io::Result<()>) {
        let mut batch = self.committing.take().expect("a commit that ended was begun");
        if let Err(error) = result {
            return self.refused(nvme, batch, &error);
        }
        self.may_commit = true;
        if std::mem::take(&mut self.index_refuses) {
            tracing::info!("the index on disk takes changes again: blocks go to NVMe again");
        }
        batch.answer();
        if let Some(until) = batch.generations {
            nvme.generations.extend(until);
        }
        self.known_ready.extend(batch.ready.iter().map(|(_, slot)| (slot.sector, slot.from)));
        if !is(Mutant::AckBeforeReady) {
            self.shelve(nvme, &batch.ready);
        }
        let fenced = |slot: &ReadySlot| {
            let slots = lock(&nvme.slots);
            slots.is_fenced(slots.extent_of(slot.sector))
        };
        if batch.ready.iter().any(|(_, slot)| fenced(slot)) {
            let fenced = lock(&nvme.ready).take_slots(fenced);
            self.take_back(nvme, fenced);
        }
        for record in batch.records {
            self.take_up(nvme, record);
        }
    }

    /// Settles a commit of which nobody knows whether it happened.
    fn refused(&mut self, nvme: &Nvme, mut batch: Batch, error: &io::Error) {
        self.core.counters.io_errors.add(1);
        self.may_commit = false;
        if !std::mem::replace(&mut self.index_refuses, true) {
            tracing::error!(
                %error,
                "the index on disk refuses changes: new blocks stay in memory alone, durable puts are \
                 refused; if the disk is full, free space on the file system of the data folder"
            );
        }
        if batch.generations.is_some() {
            nvme.generations.extend_failed();
        }
        for (_, slot) in std::mem::take(&mut batch.ready) {
            batch.unready(slot.sector);
            lock(&nvme.slots).release(slot.sector);
        }
        for record in std::mem::take(&mut batch.records) {
            // The index may have taken the entries all the same, and their slots are given out again.
            batch.delete(record.job.resident());
            self.release(nvme, &record);
            record.job.give_up(&self.core, nvme, PutError::NotDurable);
        }
        self.next.go_on_with(batch);
    }

    /// Forgets what the index refuses once nothing else will happen. Until then blocks that still come need what
    /// their extents serve.
    pub(super) fn give_up_changes(&mut self, nvme: &Nvme) {
        if self.stopping && !self.may_commit && self.committing.is_none() && lock(&nvme.under_way).len() == 0
        {
            let given_up = std::mem::take(&mut self.next);
            given_up.ready.iter().for_each(|(_, slot)| lock(&nvme.slots).release(slot.sector));
        }
    }
}
