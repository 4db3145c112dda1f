//! The durability thread: sees to it that slots are ready for blocks, and that the index on disk hears of
//! what lies in them.
//!
//! A block goes from its slot in the arena to the device, which says when it is durable. If it went to a
//! ready slot ([`crate::ready`]) it is named in memory at once, its delta queued and its putter answered;
//! the index hears of it with the next commit. If there was none, that commit comes first (INV-ACK,
//! INV-PUBLISH). Commits run beside everything else, one at a time.

mod batch;
mod commits;
mod encoder;
mod job;
mod record;
mod under_way;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use batch::Batch;
pub(crate) use commits::{CommitThread, Commits};
use encoder::Encoder;
use hearth_proto::Generation;
use hearth_proto::limits::READY_SLOTS_STEP;
pub(crate) use job::WriteJob;
pub(crate) use record::{Named, Record, send};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
pub(crate) use under_way::UnderWay;

use crate::arena::HostBlock;
use crate::core::Core;
use crate::error::PutError;
use crate::mutant::{Mutant, is};
use crate::nvme::Nvme;
use crate::policy::Tick;
use crate::slab::ReadySlot;
use crate::space::Resident;
use crate::sync::lock;
use crate::tiers::NvmeTier;

/// Slots that are tried for one block before it stays in the arena alone.
const ATTEMPTS_MAX: u32 = 3;

/// What the durability thread is told.
pub(crate) enum Message {
    /// A block is to be made durable.
    Write(WriteJob),
    /// A write ended and its block has no name yet.
    Written(Record, io::Result<()>),
    /// A block is durable and named, and the index is to hear of it.
    Named(Named),
    /// The commit that ran ended.
    Committed(io::Result<()>),
    /// The index is to forget a replica that memory has forgotten, and where it lay if it was durable.
    Delete { resident: Resident, sector: Option<u32>, done: Option<oneshot::Sender<()>> },
    /// Somebody waits until the index has forgotten a block that memory has forgotten before.
    Forgotten { done: oneshot::Sender<()> },
    /// The block is to be kept otherwise, and the index is to remember that.
    Kept(Resident),
    /// The device forgot what an extent held, if it could.
    Discarded(u32, io::Result<()>),
    /// An extent was taken out of service.
    Fenced(u32),
    /// Few slots are ready for records of this size.
    ReadyLow(u32),
    /// More generations are to be set aside.
    Generations,
    /// Somebody waits for all blocks that came before.
    Flush(oneshot::Sender<()>),
    /// End when everything that came before is durable.
    Stop,
}

pub(crate) struct Writer {
    core: Arc<Core>,
    commits: Box<dyn Commits>,
    inbox: VecDeque<Message>,
    /// Blocks without a place, in the order in which they came.
    backlog: VecDeque<WriteJob>,
    /// What the index is to hear next.
    next: Batch,
    /// What it is being told.
    committing: Option<Batch>,
    /// Slots of which the index on disk knows that a record may lie there, each with the first put that
    /// counts; those that wait for a record and those that hold one.
    known_ready: FxHashMap<u32, Generation>,
    /// Record sizes for which slots are to be made ready.
    wanted: BTreeSet<u32>,
    discarding: bool,
    /// True since a device refused to discard: no other is asked.
    discard_refused: bool,
    encoder: Encoder,
    /// True since the index on disk refused changes; told once.
    index_refuses: bool,
    /// False from a refusal until something else has happened.
    may_commit: bool,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    stopping: bool,
}

impl Writer {
    pub(crate) fn new(core: Arc<Core>, commits: Box<dyn Commits>) -> Self {
        Self {
            core,
            commits,
            inbox: VecDeque::new(),
            backlog: VecDeque::new(),
            next: Batch::default(),
            committing: None,
            known_ready: FxHashMap::default(),
            wanted: BTreeSet::new(),
            discarding: false,
            discard_refused: false,
            encoder: Encoder::new(),
            index_refuses: false,
            may_commit: true,
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
        let is_idle = self.next.is_empty() && self.committing.is_none() && !self.discarding;
        self.stopping
            && is_idle
            && self.core.nvme.as_ref().is_none_or(|nvme| lock(&nvme.under_way).len() == 0)
    }

    /// What keeps the writer from ending, in words.
    pub(crate) fn waits_for(&self) -> String {
        let under_way = self.core.nvme.as_ref().map_or(0, |nvme| lock(&nvme.under_way).len());
        let commits = self.committing.is_some() || !self.next.is_empty();
        let (backlog, discards) = (self.backlog.len(), self.discarding);
        format!(
            "{under_way} blocks under way, {backlog} without a place, commits {commits}, discards {discards}"
        )
    }

    /// Treats what came, and starts what can be started. Never waits.
    pub(crate) fn turn(&mut self) {
        let core = Arc::clone(&self.core);
        let nvme = core.nvme.as_ref().expect("a store without an NVMe tier has no durability thread");
        nvme.mailbox.take_all(&mut self.inbox);
        while let Some(message) = self.inbox.pop_front() {
            self.handle(nvme, message);
        }
        if self.stopping {
            let idle = lock(&nvme.ready).take_slots(|_| true);
            self.take_back(nvme, idle);
        }
        self.start_writes(nvme);
        self.make_ready(nvme);
        self.start_discard(nvme);
        self.start_commit(nvme);
        self.give_up_changes(nvme);
        self.answer_flushes(nvme);
        nvme.mailbox.set_attentive(self.stopping || !self.flushes.is_empty());
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
                Message::Write(job) => job.give_up(&core, nvme, PutError::Closed),
                message => self.handle(nvme, message),
            }
        }
        if !self.next.is_empty() {
            let result = self.commits.commit_now(self.next.changes(&core));
            self.committing = Some(std::mem::take(&mut self.next));
            self.committed(nvme, result);
        }
    }

    fn handle(&mut self, nvme: &Nvme, message: Message) {
        self.may_commit |= !matches!(message, Message::Committed(_));
        match message {
            Message::Write(job) => self.backlog.push_back(job),
            Message::Written(record, Ok(())) if !record.ready => self.next.records.push(record),
            Message::Written(record, Ok(())) => self.take_up(nvme, record),
            Message::Written(record, Err(error)) => self.write_failed(nvme, record, &error),
            Message::Named(named) => self.heard_of(named),
            Message::Committed(result) => self.committed(nvme, result),
            Message::Kept(resident) => self.next.keep(resident),
            Message::Discarded(extent, result) => {
                self.discarding = false;
                self.discard_refused |= result.is_err();
                lock(&nvme.slots).end_discard(extent);
            }
            Message::Delete { done, .. } if is(Mutant::RemoveNotLogged) => {
                let _ = done.map(|done| done.send(()));
            }
            Message::Delete { resident, sector, done } => {
                self.forget(nvme, resident, sector);
                done.into_iter().for_each(|done| self.next.wait(done));
            }
            Message::Forgotten { done } => {
                self.next.wait(done);
                if self.committing.is_none() && self.next.changes_nothing() {
                    self.next.answer();
                }
            }
            Message::Fenced(extent) => {
                let of_extent = |slot: &ReadySlot| lock(&nvme.slots).extent_of(slot.sector) == extent;
                let fenced = lock(&nvme.ready).take_slots(of_extent);
                self.take_back(nvme, fenced);
                if !is(Mutant::FenceForgotten) {
                    self.next.set_extent(nvme.extent_entry(extent, 0, true));
                }
            }
            Message::ReadyLow(class) => drop(self.wanted.insert(class)),
            Message::Generations => self.next.generations = Some(nvme.generations.next_until()),
            Message::Flush(done) => self.flushes.push((lock(&nvme.under_way).next(), done)),
            Message::Stop => self.stopping = true,
        }
    }

    /// Gives blocks of the backlog places and hands them to the device.
    fn start_writes(&mut self, nvme: &Nvme) {
        while let Some(mut job) = self.backlog.pop_front() {
            if !job.is_wanted(&self.core) {
                job.end(nvme);
                continue;
            }
            let resident = job.resident();
            let encode = |block: &Arc<HostBlock>| {
                let encoded = self.encoder.record(&self.core, nvme, &resident.id, block);
                encoded.unwrap_or_else(|| Arc::clone(block))
            };
            let form = job.form(encode);
            let class = form.slot().record_sectors();
            let ready = nvme.take_ready(class, resident.generation);
            if ready.is_none() {
                self.wanted.insert(class);
            }
            let sector = ready.map(|slot| slot.sector).or_else(|| self.allocate(nvme, class));
            let Some(sector) = sector else {
                // What is being written becomes evictable soon, what is being discarded free.
                let others = lock(&nvme.under_way).len() > self.backlog.len() + 1;
                if others || self.committing.is_some() || self.discarding {
                    self.backlog.push_front(job);
                    return;
                }
                job.give_up(&self.core, nvme, PutError::NotDurable);
                continue;
            };
            Record { job, sector, ready: ready.is_some() }.submit(&self.core, nvme, form);
        }
    }

    /// Finds a slot on the device: a free one, else a longer file, else one that is ready for others and
    /// that nobody takes, else an evicted block's.
    fn allocate(&mut self, nvme: &Nvme, class: u32) -> Option<u32> {
        let core = Arc::clone(&self.core);
        let refused = &mut || core.counters.growth_failures.add(1);
        nvme.spread(class, core.clock.now_us(), refused);
        loop {
            if let Some(given) = lock(&nvme.slots).allocate(class) {
                if let Some(extent) = given.assigned {
                    self.next.set_extent(nvme.extent_entry(extent, class, false));
                }
                return Some(given.sector);
            }
            let now_us = core.clock.now_us();
            if nvme.grow(now_us, refused) {
                continue;
            }
            let idle = lock(&nvme.ready).take_idle(class);
            if !idle.is_empty() {
                self.take_back(nvme, idle);
                continue;
            }
            core.end_overdue_pins(now_us);
            let residents = NvmeTier { core: &core, nvme, now_us };
            if !lock(&nvme.room).make(&nvme.slots, class, now_us, &residents) {
                return None;
            }
        }
    }

    /// Makes slots ready for the record sizes that run out of them, some at a time.
    fn make_ready(&mut self, nvme: &Nvme) {
        if !self.next.ready.is_empty() || self.stopping || self.index_refuses {
            return;
        }
        while let Some(class) = self.wanted.pop_first() {
            let target = ready_target(nvme, class);
            let wanted = target.saturating_sub(lock(&nvme.ready).count(class)).min(READY_SLOTS_STEP);
            for _ in 0..wanted {
                let Some(sector) = self.allocate(nvme, class) else { break };
                let from = {
                    let slots = lock(&nvme.slots);
                    slots.newer(slots.extent_of(sector))
                };
                self.next.ready.push((class, ReadySlot { sector, from }));
            }
        }
        if is(Mutant::AckBeforeReady) {
            self.shelve(nvme, &self.next.ready);
        }
    }

    /// Puts slots that are ready where blocks find them.
    fn shelve(&self, nvme: &Nvme, slots: &[(u32, ReadySlot)]) {
        for of_class in slots.chunk_by(|one, other| one.0 == other.0) {
            let class = of_class[0].0;
            let low = ready_target(nvme, class) / 2;
            lock(&nvme.ready).add(class, of_class.iter().map(|(_, slot)| *slot), low);
        }
    }

    /// Frees slots that were ready and hold nothing.
    fn take_back(&mut self, nvme: &Nvme, slots: Vec<ReadySlot>) {
        for slot in slots {
            self.unready(slot.sector);
            lock(&nvme.slots).release(slot.sector);
        }
    }

    /// Lets the index believe nothing any more that lies in a slot.
    fn unready(&mut self, sector: u32) {
        if self.known_ready.remove(&sector).is_some() && !is(Mutant::ReadyForEver) {
            self.next.unready(sector);
        }
    }

    /// Lets the index forget a replica. Its slot may be another's by now, and ready for that.
    fn forget(&mut self, nvme: &Nvme, resident: Resident, sector: Option<u32>) {
        self.next.delete(resident);
        let sector = sector.or_else(|| lock(&nvme.under_way).ready_slot_of(&resident));
        if let Some(sector) = sector
            && self.known_ready.get(&sector).is_some_and(|from| *from <= resident.generation)
        {
            self.unready(sector);
        }
    }

    /// Lets the index hear of a block, unless it was let go of and its slot is ready for another by now.
    fn heard_of(&mut self, named: Named) {
        let from = self.known_ready.get(&named.sector);
        if from.is_some_and(|from| *from <= named.resident.generation) || is(Mutant::CommitBeforeSync) {
            self.known_ready.remove(&named.sector);
            self.next.name(named);
        }
    }

    /// Lets a device forget what a free extent held, one at a time and when nothing else is to do.
    fn start_discard(&mut self, nvme: &Nvme) {
        let busy = lock(&nvme.under_way).len() > 0;
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

    /// Hands what there is to the index, if it is time.
    fn start_commit(&mut self, nvme: &Nvme) {
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
        let changes = self.next.changes(&self.core);
        self.committing = Some(std::mem::take(&mut self.next));
        let mailbox = Arc::clone(&nvme.mailbox);
        let done = move |result| {
            // This thread reads its mailbox until every commit has ended.
            let _ = mailbox.send(Message::Committed(result));
        };
        self.commits.submit(changes, Box::new(done));
    }

    /// Takes in the end of the commit: names what the index names by now.
    fn committed(&mut self, nvme: &Nvme, result: io::Result<()>) {
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
    fn give_up_changes(&mut self, nvme: &Nvme) {
        if self.stopping && !self.may_commit && self.committing.is_none() && lock(&nvme.under_way).len() == 0
        {
            let given_up = std::mem::take(&mut self.next);
            given_up.ready.iter().for_each(|(_, slot)| lock(&nvme.slots).release(slot.sector));
        }
    }

    /// Names a durable record, or lets go of it if it is not wanted any more.
    fn take_up(&mut self, nvme: &Nvme, record: Record) {
        let resident = record.job.resident();
        if self.core.publish_nvme(nvme, &resident, record.sector) {
            self.core.enter_host_bag(&resident.id, record.job.block());
            if record.ready {
                self.heard_of(Named { resident, sector: record.sector });
            }
            return record.job.end(nvme);
        }
        self.next.delete(resident);
        self.discard(nvme, record);
    }

    /// Takes back the place of a record that is not to be used, and tries another if the block is still
    /// wanted.
    fn discard(&mut self, nvme: &Nvme, mut record: Record) {
        if record.ready {
            self.unready(record.sector);
        }
        self.release(nvme, &record);
        lock(&nvme.under_way).writes_to(record.job.number, None);
        if !record.job.is_wanted(&self.core) {
            record.job.end(nvme);
        } else if record.job.count_attempt() < ATTEMPTS_MAX && !self.stopping {
            self.backlog.push_back(record.job);
        } else {
            record.job.give_up(&self.core, nvme, PutError::NotDurable);
        }
    }

    fn release(&self, nvme: &Nvme, record: &Record) {
        if !is(Mutant::SlotLeakedOnRefusal) || record.ready {
            lock(&nvme.slots).release_after(record.sector, record.job.resident().generation);
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

    fn answer_flushes(&mut self, nvme: &Nvme) {
        if self.flushes.is_empty() {
            return;
        }
        let under_way = lock(&nvme.under_way);
        let is_done = |(until, _): &(u64, _)| under_way.is_past(*until);
        let (done, waiting): (Vec<_>, _) = std::mem::take(&mut self.flushes).into_iter().partition(is_done);
        self.flushes = waiting;
        drop(under_way);
        for (_, done) in done {
            // One who no longer waits does not need the answer.
            let _ = done.send(());
        }
    }
}

/// How many slots are to be ready for records of a size, in a tier that is as long as it is now.
fn ready_target(nvme: &Nvme, class: u32) -> usize {
    let extents = lock(&nvme.slots).count();
    nvme.ready_limits.target(class, u64::from(extents) * nvme.volume.extent_bytes())
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
                job.give_up(self.core, self.nvme, PutError::Closed);
            }
        }
    }
}
