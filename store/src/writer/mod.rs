//! The durability thread: sees to it that slots are ready for blocks, and that the index on disk hears of
//! what lies in them.
//!
//! A block goes from its slot in the arena to the device, which says when it is durable. If it went to a
//! ready slot ([`crate::ready`]) it is named in memory at once, its delta queued and its putter answered;
//! the index hears of it with the next commit. If there was none, that commit comes first (INV-ACK,
//! INV-PUBLISH). Commits run beside everything else, one at a time.

mod batch;
mod commits;
mod committing;
mod encoder;
mod job;
mod record;
mod supply;
mod under_way;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use batch::Batch;
pub(crate) use commits::{CommitThread, Commits};
use encoder::Encoder;
use hearth_proto::Generation;
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
use crate::slab::{Changes, ReadySlot};
use crate::space::Resident;
use crate::sync::lock;

/// Slots that are tried for one block before it stays in the arena alone.
const ATTEMPTS_MAX: u32 = 3;

/// What the durability thread is told.
pub(crate) enum Message {
    /// A block is to be made durable.
    Write(WriteJob),
    /// A write ended and its block has no name yet.
    Written(Record, io::Result<()>),
    /// A block was let go of before its record was written.
    Unused(Record),
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
        nvme.mailbox.set_attentive(self.stopping || !self.flushes.is_empty() || !self.backlog.is_empty());
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
            let result = self.commits.commit_now(self.changes());
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
            Message::Unused(record) => self.discard(nvme, record),
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

    /// Lets the index forget a replica. Its slot may be another's by now, and ready for that.
    fn forget(&mut self, nvme: &Nvme, resident: Resident, sector: Option<u32>) {
        self.next.delete(resident);
        // Once it was durable somewhere it may be on its way to another place, which is none of this.
        let under_way = match sector {
            Some(_) => Vec::new(),
            None => lock(&nvme.under_way).ready_slots_of(&resident),
        };
        for sector in sector.into_iter().chain(under_way) {
            if self.known_ready.get(&sector).is_some_and(|from| *from <= resident.generation) {
                self.unready(sector);
            }
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

    /// What the index is to hear next.
    fn changes(&self) -> Changes {
        self.next.changes(&self.core, |sector| self.known_ready.contains_key(&sector))
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
