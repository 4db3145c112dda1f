//! The durability thread: makes groups of writes durable and is the only one to touch RocksDB.
//!
//! A block goes from its slot to the device, then one sync covers every write that is done, then one
//! synced batch enters them into the index, and only then is the NVMe replica named in memory, its delta
//! queued and its putter answered (INV-ACK, INV-PUBLISH). While one group is being synced the next is
//! being written.

mod encoder;
mod job;
mod loose;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use encoder::Encoder;
use hearth_proto::BlockId;
use hearth_proto::limits::DURABLE_GROUP_MAX;
pub(crate) use job::WriteJob;
use loose::LooseChanges;
use tokio::sync::oneshot;

use crate::arena::HostBlock;
use crate::core::Core;
use crate::device::Request;
use crate::error::PutError;
use crate::mutant::{Mutant, is};
use crate::nvme::Nvme;
use crate::policy::Tick;
use crate::slab::{Catalog, Changes};
use crate::space::Resident;
use crate::sync::lock;
use crate::tiers::NvmeTier;

/// Slots that are tried for one block before it stays in the arena alone.
const ATTEMPTS_MAX: u32 = 3;

/// What the durability thread is told.
pub(crate) enum Message {
    /// A block is to be made durable.
    Write(WriteJob),
    /// A write ended.
    Written(Record, io::Result<()>),
    /// The sync of the current group ended on one member of the volume.
    Synced(usize, io::Result<()>),
    /// The index is to forget a replica that memory has forgotten.
    Delete { resident: Resident, done: Option<oneshot::Sender<()>> },
    /// Somebody waits until the index has forgotten a block that memory has forgotten before.
    Forgotten { id: BlockId, done: oneshot::Sender<()> },
    /// The block is to be kept otherwise, and the index is to remember that.
    Kept(Resident),
    /// The device forgot what an extent held, if it could.
    Discarded(u32, io::Result<()>),
    /// An extent was taken out of service.
    Fenced(u32),
    /// More generations are to be set aside.
    Generations,
    /// Somebody waits for all blocks that came before.
    Flush(oneshot::Sender<()>),
    /// End when everything that came before is durable.
    Stop,
}

/// A block with a place on the device.
pub(crate) struct Record {
    job: WriteJob,
    sequence: u64,
    /// Which write this is, counted as they begin.
    write: u64,
    sector: u32,
}

/// Records that are made durable together.
struct Group {
    records: Vec<Record>,
    /// Members of the volume whose sync runs.
    running: usize,
    /// Members whose sync failed, and why.
    failed: BTreeMap<usize, io::Error>,
}

pub(crate) struct Writer {
    core: Arc<Core>,
    catalog: Box<dyn Catalog>,
    inbox: VecDeque<Message>,
    /// Blocks without a place, with the order in which they came.
    backlog: VecDeque<(u64, WriteJob)>,
    in_flight: usize,
    writes_begun: u64,
    /// The last write that had begun when a sync failed, by the member of the volume.
    lost_until: BTreeMap<usize, u64>,
    /// Written, and not covered by a sync that has begun.
    written: Vec<Record>,
    /// Covered by the syncs that run.
    syncing: Option<Group>,
    discarding: bool,
    /// True since a device refused to discard: no other is asked.
    discard_refused: bool,
    loose: LooseChanges,
    encoder: Encoder,
    /// True since the index on disk refused changes; told once.
    index_refuses: bool,
    next_sequence: u64,
    /// Blocks that came and are neither durable nor given up.
    outstanding: BTreeSet<u64>,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    stopping: bool,
}

impl Writer {
    pub(crate) fn new(core: Arc<Core>, catalog: Box<dyn Catalog>) -> Self {
        Self {
            core,
            catalog,
            inbox: VecDeque::new(),
            backlog: VecDeque::new(),
            in_flight: 0,
            writes_begun: 0,
            lost_until: BTreeMap::new(),
            written: Vec::new(),
            syncing: None,
            discarding: false,
            discard_refused: false,
            loose: LooseChanges::default(),
            encoder: Encoder::new(),
            index_refuses: false,
            next_sequence: 0,
            outstanding: BTreeSet::new(),
            flushes: Vec::new(),
            stopping: false,
        }
    }

    pub(crate) fn run(mut self) {
        let core = Arc::clone(&self.core);
        let nvme = core.nvme.as_ref().expect("a store without an NVMe tier has no durability thread");
        let _guard = CloseOnExit { core: &core, nvme };
        while !self.has_ended() {
            nvme.mailbox.receive_all(&mut self.inbox);
            self.turn();
        }
        self.end();
    }

    /// True when it was told to stop and has nothing left to do.
    pub(crate) fn has_ended(&self) -> bool {
        self.stopping && self.is_idle()
    }

    /// Treats what came, and starts what can be started. Never waits.
    pub(crate) fn turn(&mut self) {
        let core = Arc::clone(&self.core);
        let nvme = core.nvme.as_ref().expect("a store without an NVMe tier has no durability thread");
        nvme.mailbox.take_all(&mut self.inbox);
        while let Some(message) = self.inbox.pop_front() {
            self.handle(nvme, message);
        }
        self.start_writes(nvme);
        self.start_sync(nvme);
        self.start_discard(nvme);
        self.commit_loose_changes(nvme);
        self.answer_flushes();
        if core.ranker.lesson_due() {
            core.ranker.learn(Tick::from_us(core.clock.now_us()));
        }
    }

    /// Refuses what comes from now on, and settles what came too late.
    pub(crate) fn end(&mut self) {
        let core = Arc::clone(&self.core);
        let nvme = core.nvme.as_ref().expect("a store without an NVMe tier has no durability thread");
        // The last failures may have fenced extents and retracted replicas.
        for message in nvme.mailbox.close() {
            match message {
                Message::Write(job) => job.give_up(&core, PutError::Closed),
                message => self.handle(nvme, message),
            }
        }
        self.commit_loose_changes(nvme);
    }

    fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && self.syncing.is_none() && self.loose.is_empty() && !self.discarding
    }

    fn handle(&mut self, nvme: &Nvme, message: Message) {
        match message {
            Message::Write(job) => {
                let sequence = self.next_sequence;
                self.next_sequence += 1;
                self.outstanding.insert(sequence);
                self.backlog.push_back((sequence, job));
            }
            Message::Written(record, result) => {
                self.in_flight -= 1;
                match result {
                    Ok(()) if self.is_lost(nvme, &record) => {
                        let error = io::Error::other("a sync failed while it was written");
                        self.write_failed(nvme, record, &error);
                    }
                    Ok(()) => {
                        self.name_early(nvme, &record);
                        self.written.push(record);
                    }
                    Err(error) => self.write_failed(nvme, record, &error),
                }
            }
            Message::Synced(member, result) => self.synced(nvme, member, result),
            Message::Kept(resident) => self.loose.keep(resident),
            Message::Discarded(extent, result) => {
                self.discarding = false;
                self.discard_refused |= result.is_err();
                lock(&nvme.slots).end_discard(extent);
            }
            Message::Delete { done, .. } if is(Mutant::RemoveNotLogged) => {
                let _ = done.map(|done| done.send(()));
            }
            Message::Delete { resident, done } => self.loose.delete(resident, done),
            Message::Forgotten { id, done } => self.loose.await_delete(&id, done),
            Message::Fenced(_) if is(Mutant::FenceForgotten) => {}
            Message::Fenced(extent) => self.loose.set_extent(nvme.extent_entry(extent, 0, true)),
            Message::Generations => self.reserve_generations(nvme),
            Message::Flush(done) => self.flushes.push((self.next_sequence, done)),
            Message::Stop => self.stopping = true,
        }
    }

    /// What two mutants do with a record that is written and not durable.
    fn name_early(&self, nvme: &Nvme, record: &Record) {
        let resident = record.job.resident();
        if is(Mutant::PublishBeforeDurable) {
            self.core.publish_nvme(nvme, &resident, record.sector);
        }
        if is(Mutant::AckBeforeDurable) {
            self.core.index.shard(&resident.id).answer_waiters(&resident.id, &Ok(()));
        }
    }

    /// Gives blocks of the backlog places and hands them to the device.
    fn start_writes(&mut self, nvme: &Nvme) {
        while self.in_flight + self.written.len() < DURABLE_GROUP_MAX
            && let Some((sequence, mut job)) = self.backlog.pop_front()
        {
            if !job.is_wanted(&self.core) {
                self.outstanding.remove(&sequence);
                job.end(&self.core);
                continue;
            }
            let resident = job.resident();
            let encode = |block: &Arc<HostBlock>| {
                let encoded = self.encoder.record(&self.core, nvme, &resident.id, block);
                encoded.unwrap_or_else(|| Arc::clone(block))
            };
            let block = job.form(encode);
            let Some(sector) = self.allocate(nvme, block.slot().record_sectors()) else {
                if self.in_flight > 0 || !self.written.is_empty() || self.syncing.is_some() || self.discarding
                {
                    // What is being written becomes evictable soon, and what is being discarded free.
                    self.backlog.push_front((sequence, job));
                    return;
                }
                self.outstanding.remove(&sequence);
                job.give_up(&self.core, PutError::NotDurable);
                continue;
            };
            self.in_flight += 1;
            self.writes_begun += 1;
            self.core.counters.nvme_written_bytes.add(block.slot().record_len() as u64);
            self.core.counters.nvme_written_payload_bytes.add(u64::from(job.block().payload_len().get()));
            let record = Record { job, sequence, write: self.writes_begun, sector };
            let mailbox = Arc::clone(&nvme.mailbox);
            let done = move |result| {
                // This thread reads its mailbox until every write has ended.
                let _ = mailbox.send(Message::Written(record, result));
            };
            let (member, offset) = nvme.volume.locate(sector);
            nvme.volume.device(member).submit(Request::Write { offset, block, done: Box::new(done) });
        }
    }

    /// Finds a slot on the device: a free one, else a longer file, else an evicted block's.
    fn allocate(&mut self, nvme: &Nvme, class: u32) -> Option<u32> {
        let core = Arc::clone(&self.core);
        let refused = &mut || core.counters.growth_failures.add(1);
        nvme.spread(class, core.clock.now_us(), refused);
        loop {
            if let Some(given) = lock(&nvme.slots).allocate(class) {
                if let Some(extent) = given.assigned {
                    self.loose.set_extent(nvme.extent_entry(extent, class, false));
                }
                return Some(given.sector);
            }
            let now_us = core.clock.now_us();
            if nvme.grow(now_us, refused) {
                continue;
            }
            core.end_overdue_pins(now_us);
            let residents = NvmeTier { core: &core, nvme, now_us };
            if !lock(&nvme.room).make(&nvme.slots, class, now_us, &residents) {
                return None;
            }
        }
    }

    fn start_sync(&mut self, nvme: &Nvme) {
        if self.syncing.is_some() || self.written.is_empty() {
            return;
        }
        if is(Mutant::CommitBeforeSync) {
            let entries =
                self.written.iter().filter_map(|record| record.job.entry(&self.core, record.sector));
            let mut changes = Changes::default();
            entries.for_each(|entry| changes.put_block(entry));
            let _ = self.catalog.commit(&changes);
        }
        let records = std::mem::take(&mut self.written);
        let members: BTreeSet<_> = records.iter().map(|record| nvme.volume.locate(record.sector).0).collect();
        self.syncing = Some(Group { records, running: members.len(), failed: BTreeMap::new() });
        for member in members {
            let mailbox = Arc::clone(&nvme.mailbox);
            let done = move |result| {
                // This thread reads its mailbox until every sync has ended.
                let _ = mailbox.send(Message::Synced(member, result));
            };
            match is(Mutant::SyncIgnored) {
                true => done(Ok(())),
                false => nvme.volume.device(member).submit(Request::Sync { done: Box::new(done) }),
            }
        }
    }

    /// Takes in the end of a sync; with the last one the group is durable where none failed.
    fn synced(&mut self, nvme: &Nvme, member: usize, result: io::Result<()>) {
        if let Err(error) = &result {
            self.lose_written(nvme, member, error);
        }
        let group = self.syncing.as_mut().expect("a sync belongs to a group");
        group.running -= 1;
        if let Err(error) = result {
            group.failed.insert(member, error);
        }
        if group.running > 0 {
            return;
        }
        let mut group = self.syncing.take().expect("it was there a moment ago");
        if is(Mutant::SyncCoversLaterWrites) {
            group.records.append(&mut self.written);
        }
        let mut durable = Vec::with_capacity(group.records.len());
        for record in group.records {
            match group.failed.get(&nvme.volume.locate(record.sector).0) {
                None => durable.push(record),
                Some(error) => self.write_failed(nvme, record, error),
            }
        }
        if !durable.is_empty() {
            self.commit(nvme, durable);
        }
    }

    /// A device that fails a sync may have forgotten whatever it had not made durable, and says so once:
    /// the next sync knows nothing of it. So writes are lost that ended while the sync ran, and those that
    /// have not ended, of which a part may have been done.
    fn lose_written(&mut self, nvme: &Nvme, member: usize, error: &io::Error) {
        self.lost_until.insert(member, self.writes_begun);
        let written = std::mem::take(&mut self.written);
        let (lost, kept): (Vec<_>, Vec<_>) =
            written.into_iter().partition(|record| self.is_lost(nvme, record));
        self.written = kept;
        for record in lost {
            self.write_failed(nvme, record, error);
        }
    }

    /// True if a sync failed on the record's member since its write began.
    fn is_lost(&self, nvme: &Nvme, record: &Record) -> bool {
        let (member, _) = nvme.volume.locate(record.sector);
        self.lost_until.get(&member).is_some_and(|until| record.write <= *until)
    }

    /// Lets a device forget what a free extent held, one at a time and when nothing else is to do.
    fn start_discard(&mut self, nvme: &Nvme) {
        let busy = self.in_flight > 0 || self.syncing.is_some() || !self.backlog.is_empty();
        if busy || self.discarding || self.discard_refused || self.stopping {
            return;
        }
        let Some(extent) = lock(&nvme.slots).begin_discard() else { return };
        self.discarding = true;
        let mailbox = Arc::clone(&nvme.mailbox);
        let done = move |result| {
            // A thread that has ended gives out no extents.
            let _ = mailbox.send(Message::Discarded(extent, result));
        };
        nvme.volume.discard(extent, Box::new(done));
    }

    /// Takes in the replicas that were forgotten before now. Their slots may have been given out already, and
    /// what their extent serves since must not become durable before they are forgotten.
    fn take_deletes(&mut self, nvme: &Nvme) {
        let mut deletes = VecDeque::new();
        nvme.mailbox.take_where(|message| matches!(message, Message::Delete { .. }), &mut deletes);
        deletes.into_iter().for_each(|delete| self.handle(nvme, delete));
    }

    /// Enters a group whose bytes are durable into the index, then names it in memory.
    fn commit(&mut self, nvme: &Nvme, group: Vec<Record>) {
        self.take_deletes(nvme);
        let mut changes = Changes::default();
        self.loose.add_to(&self.core, &mut changes);
        for record in &group {
            if let Some(entry) = record.job.entry(&self.core, record.sector) {
                changes.put_block(entry);
            }
        }
        let result = self.catalog.commit(&changes);
        if !self.loose_changes_end(result) {
            for record in group {
                // The index may have taken the entries all the same, and their slots are given out again.
                self.loose.delete(record.job.resident(), None);
                if !is(Mutant::SlotLeakedOnRefusal) {
                    lock(&nvme.slots).release(record.sector);
                }
                self.outstanding.remove(&record.sequence);
                record.job.give_up(&self.core, PutError::NotDurable);
            }
            return;
        }
        for record in group {
            self.publish(nvme, record);
        }
    }

    fn publish(&mut self, nvme: &Nvme, record: Record) {
        let resident = record.job.resident();
        if self.core.publish_nvme(nvme, &resident, record.sector) {
            self.outstanding.remove(&record.sequence);
            self.core.enter_host_bag(&resident.id, record.job.block());
            record.job.end(&self.core);
            return;
        }
        self.loose.delete(resident, None);
        self.discard(nvme, record);
    }

    /// Takes back the place of a record that is not to be used, and tries another if the block is still
    /// wanted.
    fn discard(&mut self, nvme: &Nvme, mut record: Record) {
        lock(&nvme.slots).release(record.sector);
        if !record.job.is_wanted(&self.core) {
            self.outstanding.remove(&record.sequence);
            record.job.end(&self.core);
        } else if record.job.count_attempt() < ATTEMPTS_MAX && !self.stopping {
            self.backlog.push_back((record.sequence, record.job));
        } else {
            self.outstanding.remove(&record.sequence);
            record.job.give_up(&self.core, PutError::NotDurable);
        }
    }

    /// Never takes the bytes of a failed write or sync as written: the extent is fenced (INV-EIO).
    fn write_failed(&mut self, nvme: &Nvme, record: Record, error: &io::Error) {
        self.core.counters.io_errors.add(1);
        match error.raw_os_error() {
            // No space in a file system that cannot set blocks aside: the extent itself is sound.
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
                tracing::warn!(%error, "a record could not be written");
                self.core.counters.growth_failures.add(1);
                let (member, _) = nvme.volume.locate(record.sector);
                nvme.volume.pause_growth(member, self.core.clock.now_us(), error);
            }
            // The device was stopped.
            None if error.kind() == io::ErrorKind::NotConnected => {}
            _ => {
                let extent = lock(&nvme.slots).extent_of(record.sector);
                self.core.fence_extent(nvme, extent);
            }
        }
        self.discard(nvme, record);
    }

    /// Commits what has no group to go with.
    fn commit_loose_changes(&mut self, nvme: &Nvme) {
        let group_comes = self.in_flight > 0 || !self.written.is_empty() || self.syncing.is_some();
        if group_comes || self.loose.is_empty() {
            return;
        }
        self.take_deletes(nvme);
        let mut changes = Changes::default();
        self.loose.add_to(&self.core, &mut changes);
        let result = self.catalog.commit(&changes);
        self.loose_changes_end(result);
    }

    /// Settles the loose changes after a commit that held them; true if it succeeded.
    fn loose_changes_end(&mut self, result: io::Result<()>) -> bool {
        match result {
            Ok(()) => {
                if std::mem::take(&mut self.index_refuses) {
                    tracing::info!("the index on disk takes changes again: blocks go to NVMe again");
                }
                self.loose.are_durable();
                true
            }
            Err(error) => {
                self.core.counters.io_errors.add(1);
                if !std::mem::replace(&mut self.index_refuses, true) {
                    tracing::error!(
                        %error,
                        "the index on disk refuses changes: new blocks stay in memory alone, durable puts are \
                         refused; if the disk is full, free space on the file system of the data folder"
                    );
                }
                // Blocks that still come need what their extents serve.
                match self.stopping && self.outstanding.is_empty() {
                    true => self.loose.drop_all(),
                    false => self.loose.were_refused(),
                }
                false
            }
        }
    }

    fn reserve_generations(&mut self, nvme: &Nvme) {
        let until = nvme.generations.next_until();
        let mut changes = Changes::default();
        changes.set_aside(until);
        match self.catalog.commit(&changes) {
            Ok(()) => nvme.generations.extend(until),
            Err(error) => {
                tracing::error!(%error, "no more generations could be set aside");
                nvme.generations.extend_failed();
            }
        }
    }

    fn answer_flushes(&mut self) {
        let oldest = self.outstanding.first().copied().unwrap_or(u64::MAX);
        let (done, waiting) =
            std::mem::take(&mut self.flushes).into_iter().partition(|(until, _)| *until <= oldest);
        self.flushes = waiting;
        let done: Vec<(u64, oneshot::Sender<()>)> = done;
        for (_, done) in done {
            // One who no longer waits does not need the answer.
            let _ = done.send(());
        }
    }
}

/// Sees to it that whoever comes after the thread's end, even by a panic, is told so at once.
struct CloseOnExit<'a> {
    core: &'a Core,
    nvme: &'a Nvme,
}

impl Drop for CloseOnExit<'_> {
    fn drop(&mut self) {
        for message in self.nvme.mailbox.close() {
            if let Message::Write(job) = message {
                job.give_up(self.core, PutError::Closed);
            }
        }
    }
}
