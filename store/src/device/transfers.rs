//! Which transfer begins when, and what becomes of it: the part that all drivers share.
//!
//! A state machine without I/O, threads or clock. A driver puts requests in, takes submissions out,
//! performs them however it can, and reports what each came to. It then tells the waiters, outside of any
//! lock. Everything depends on the order of these calls alone.
//!
//! *Invariants*: each request ends exactly once. The table owns the memory of a transfer from its
//! submission to its completion, whoever stops waiting meanwhile.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use hearth_proto::limits::SECTOR_BYTES;

use super::group::Group;
use super::request::Request;
use super::stopped;
use super::transfer::{Ended, Kind, Memory, Step, Transfer};
use super::waiting::Waiting;
use crate::mutant::{Mutant, is};

/// The fewest places with which nobody is kept waiting for ever.
pub(crate) const PLACES_MIN: usize = 8;
/// Places that reads leave to the others at the least: a sync, a discard and two writes.
const OTHERS_RESERVED_MIN: usize = 4;

/// Number of a transfer's place in the table; reused once the transfer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(pub(crate) u32);

/// Something for a driver to perform, and to report with [`Transfers::complete`].
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) place: Place,
    pub(crate) work: Work,
}

#[derive(Debug)]
pub(crate) enum Work {
    Read(Span),
    Write(Span),
    Sync,
    Discard { offset: u64, len: u64 },
}

/// What remains of a record, on the device and in memory.
#[derive(Debug)]
pub(crate) struct Span {
    /// Where it lies on the device.
    pub(crate) offset: u64,
    /// Where it lies in memory. Valid until the transfer is completed; for drivers that hand addresses to
    /// the kernel. Others borrow the memory with [`Transfers::lend`].
    pub(crate) address: *mut u8,
    /// Bytes of the record before this.
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// The sector of the arena where the record begins.
    pub(crate) sector: u32,
}

pub(crate) struct Transfers {
    waiting: Waiting,
    table: Vec<Option<Transfer>>,
    free: Vec<Place>,
    again: VecDeque<Place>,
    ended: VecDeque<Ended>,
    reads: Share,
    /// Writes, syncs and discards together.
    others: Share,
    writes_in_flight: usize,
    /// Writes that have ended and are not durable yet.
    group: Group,
    discard_runs: bool,
}

/// How many of the places a kind of transfer has, and may have.
struct Share {
    in_flight: usize,
    max: usize,
}

impl Share {
    fn has_room(&self) -> bool {
        self.in_flight < self.max
    }
}

impl Transfers {
    /// A table of `places`: so many transfers are in flight at the most. A quarter of them is kept for
    /// reads, so that a get never waits for a burst of puts to pass, and an eighth for the others, so that
    /// puts go on however many gets there are.
    pub(crate) fn new(places: usize) -> Self {
        assert!(places >= PLACES_MIN, "every kind of transfer has a place of its own");
        let count = u32::try_from(places).expect("places are few");
        Self {
            waiting: Waiting::default(),
            table: (0..places).map(|_| None).collect(),
            free: (0..count).rev().map(Place).collect(),
            again: VecDeque::new(),
            ended: VecDeque::new(),
            reads: Share { in_flight: 0, max: places - (places / 8).max(OTHERS_RESERVED_MIN) },
            others: Share { in_flight: 0, max: places - places / 4 },
            writes_in_flight: 0,
            group: Group::default(),
            discard_runs: false,
        }
    }

    pub(crate) fn push(&mut self, request: Request) {
        self.waiting.push(Transfer::new(request));
    }

    /// What is to be submitted now; asked until there is nothing. Reads that are too late, or that nobody
    /// waits for, end instead.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Submission> {
        while let Some(read) = self.waiting.pop_lapsed_read(now) {
            self.ended.push_back(read.end(Err(io::ErrorKind::TimedOut.into())));
        }
        let place = self.again.pop_front().or_else(|| self.begin())?;
        Some(self.submission(place))
    }

    /// Takes in what a submission came to: the bytes that were transferred, or an error. A short count or
    /// an interruption is submitted again, within bounds; any other error is final (INV-EIO).
    pub(crate) fn complete(&mut self, place: Place, result: io::Result<usize>) {
        let transfer = self.table[place.0 as usize].as_mut().expect("completions belong to transfers");
        match transfer.advance(result) {
            Step::Again => {
                if transfer.is_footer_first() {
                    self.group.add(transfer.end_early());
                }
                self.again.push_back(place);
            }
            Step::Ended(result) => {
                let transfer = self.take_out(place);
                match (transfer.kind(), result) {
                    (Kind::Write, Ok(())) if !is(Mutant::SyncIgnored) => self.group.add(transfer),
                    (Kind::Sync, result) => self.end_sync(&result),
                    (_, result) => self.ended.push_back(transfer.end(result)),
                }
            }
        }
    }

    /// Ends the writes that a sync covered. If it failed, those in flight are lost as well, since a part of
    /// them may have been done before.
    fn end_sync(&mut self, result: &io::Result<()>) {
        self.ended.extend(self.group.end_sync(result));
        if result.is_err() {
            self.table.iter_mut().flatten().for_each(Transfer::doom);
        }
    }

    /// The next waiter to be told.
    pub(crate) fn pop_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    /// Moves the memory of a transfer to who performs it, for drivers that hand nothing to the kernel
    /// beyond a call. It comes back with [`Transfers::restore`] before the completion.
    pub(crate) fn lend(&mut self, place: Place) -> Option<Memory> {
        self.table[place.0 as usize].as_mut()?.memory_mut().take()
    }

    pub(crate) fn restore(&mut self, place: Place, memory: Memory) {
        let transfer = self.table[place.0 as usize].as_mut().expect("a transfer outlives its loan");
        *transfer.memory_mut() = Some(memory);
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.reads.in_flight + self.others.in_flight
    }

    /// True if nothing waits and nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight() == 0 && self.waiting.is_empty() && self.group.is_empty()
    }

    /// Ends everything after the driver failed. Whoever performs the transfers in flight may still use
    /// their memory, so that is never given back.
    pub(crate) fn abandon(&mut self) {
        self.again.clear();
        self.ended.extend(self.group.abandon());
        while let Some(transfer) = self.waiting.pop_any() {
            self.ended.push_back(transfer.end(Err(stopped())));
        }
        for place in 0..self.table.len() {
            if self.table[place].is_some() {
                let transfer = self.take_out(Place(place as u32));
                self.ended.push_back(transfer.end_without_memory(stopped()));
            }
        }
    }

    /// Gives a place to the transfer whose turn it is.
    fn begin(&mut self) -> Option<Place> {
        let place = *self.free.last()?;
        let transfer = self.pop_begun()?;
        self.free.pop();
        self.table[place.0 as usize] = Some(transfer);
        Some(place)
    }

    fn pop_begun(&mut self) -> Option<Transfer> {
        if self.reads.has_room()
            && let Some(read) = self.waiting.pop_read()
        {
            self.reads.in_flight += 1;
            return Some(read);
        }
        if !self.others.has_room() {
            return None;
        }
        // One sync at a time, as with discards, leaves the writes their places.
        let other = if self.group.is_sync_due(self.writes_in_flight) {
            self.group.begin_sync();
            Transfer::sync()
        } else if !self.discard_runs
            && let Some(discard) = self.waiting.pop_discard()
        {
            self.discard_runs = true;
            discard
        } else {
            let write = self.waiting.pop_write()?;
            self.writes_in_flight += 1;
            write
        };
        self.others.in_flight += 1;
        Some(other)
    }

    fn submission(&mut self, place: Place) -> Submission {
        let transfer = self.table[place.0 as usize].as_mut().expect("a place in use");
        transfer.count_submission();
        let work = match transfer.kind() {
            Kind::Read { .. } => Work::Read(span(transfer)),
            Kind::Write => Work::Write(span(transfer)),
            Kind::Sync => Work::Sync,
            Kind::Discard => Work::Discard { offset: transfer.offset(), len: transfer.len() },
        };
        Submission { place, work }
    }

    fn take_out(&mut self, place: Place) -> Transfer {
        let transfer = self.table[place.0 as usize].take().expect("a place in use");
        self.free.push(place);
        match transfer.kind() {
            Kind::Read { .. } => self.reads.in_flight -= 1,
            Kind::Write => {
                self.others.in_flight -= 1;
                self.writes_in_flight -= 1;
            }
            Kind::Sync => self.others.in_flight -= 1,
            Kind::Discard => {
                self.others.in_flight -= 1;
                self.discard_runs = false;
            }
        }
        transfer
    }
}

fn span(transfer: &mut Transfer) -> Span {
    let (offset, progress, footer_first) =
        (transfer.offset(), transfer.progress(), transfer.is_footer_first());
    let slot = match transfer.memory_mut().as_ref().expect("memory is in the table when it is submitted") {
        Memory::Slot(slot) => slot.slot(),
        Memory::Block(block) => block.slot(),
    };
    // Records are shorter than an extent, which is addressable.
    let start = if footer_first { slot.record_len() - SECTOR_BYTES } else { progress as usize };
    Span {
        offset: offset + start as u64,
        address: slot.record_address().wrapping_add(start),
        start,
        len: slot.record_len() - start,
        sector: slot.sector(),
    }
}
