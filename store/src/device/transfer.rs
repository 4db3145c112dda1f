//! One transfer: what a request became, how far it got, and how its waiter is told.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use hearth_proto::limits::{SECTOR_BYTES, TRANSFER_SUBMISSIONS_MAX};

use super::request::{Done, ReadDone, Request, Urgency};
use crate::arena::{HostBlock, SlotMut};
use crate::mutant::{Mutant, is};

/// The memory of a transfer.
pub(crate) enum Memory {
    /// To be filled by a read.
    Slot(SlotMut),
    /// To be written.
    Block(Arc<HostBlock>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read {
        urgency: Urgency,
        deadline: Instant,
    },
    Write,
    /// Makes durable the writes that had ended when it began. Nobody asks for it but the table.
    Sync,
    Discard,
}

enum Tell {
    Read(ReadDone),
    Other(Done),
    Nobody,
}

/// What a driver reported means for a transfer.
pub(super) enum Step {
    /// What remains has to be submitted.
    Again,
    Ended(io::Result<()>),
}

pub(super) struct Transfer {
    kind: Kind,
    offset: u64,
    len: u64,
    /// Bytes that were transferred already, whole sectors.
    progress: u64,
    submissions: u32,
    /// True for a write once a sync has failed since it began.
    doomed: bool,
    /// Absent from a sync or a discard, and while it is lent.
    memory: Option<Memory>,
    tell: Tell,
}

/// A transfer that has ended and whose waiter is to be told, outside of any lock.
pub(crate) struct Ended {
    memory: Option<Memory>,
    tell: Tell,
    result: io::Result<()>,
}

impl Transfer {
    pub(super) fn new(request: Request) -> Self {
        let (kind, offset, len, memory, tell) = match request {
            Request::Read { offset, slot, urgency, deadline, done } => {
                let len = slot.slot().record_len() as u64;
                let kind = Kind::Read { urgency, deadline };
                (kind, offset, len, Some(Memory::Slot(slot)), Tell::Read(done))
            }
            Request::Write { offset, block, done } => {
                let len = block.slot().record_len() as u64;
                (Kind::Write, offset, len, Some(Memory::Block(block)), Tell::Other(done))
            }
            Request::Discard { offset, len, done } => (Kind::Discard, offset, len, None, Tell::Other(done)),
        };
        Self { kind, offset, len, progress: 0, submissions: 0, doomed: false, memory, tell }
    }

    pub(super) fn sync() -> Self {
        let (kind, tell) = (Kind::Sync, Tell::Nobody);
        Self { kind, offset: 0, len: 0, progress: 0, submissions: 0, doomed: false, memory: None, tell }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn progress(&self) -> u64 {
        self.progress
    }

    pub(super) fn memory_mut(&mut self) -> &mut Option<Memory> {
        &mut self.memory
    }

    /// True if nobody waits for the outcome any more.
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(&self.tell, Tell::Read(done) if done.is_abandoned())
    }

    pub(super) fn count_submission(&mut self) {
        self.submissions += 1;
    }

    /// Lets a write fail however it ends: a sync failed while it was in flight.
    pub(super) fn doom(&mut self) {
        self.doomed = self.kind == Kind::Write;
    }

    /// Takes in what one submission came to.
    pub(super) fn advance(&mut self, result: io::Result<usize>) -> Step {
        let step = match (self.kind, result) {
            // Nothing was transferred, and it says nothing of the disk.
            (_, Err(error))
                if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) =>
            {
                Step::Again
            }
            (Kind::Write | Kind::Sync, Err(_)) if is(Mutant::EioTakenAsClean) => Step::Ended(Ok(())),
            (_, Err(error)) => Step::Ended(Err(error)),
            (Kind::Sync | Kind::Discard, Ok(_)) => Step::Ended(Ok(())),
            (Kind::Read { .. } | Kind::Write, Ok(count)) => self.advance_by(count as u64),
        };
        match step {
            Step::Ended(Ok(())) if self.doomed => {
                Step::Ended(Err(io::Error::other("a sync failed while it was written")))
            }
            Step::Again if self.submissions >= TRANSFER_SUBMISSIONS_MAX => {
                Step::Ended(Err(io::Error::other("the transfer made no progress")))
            }
            step => step,
        }
    }

    fn advance_by(&mut self, count: u64) -> Step {
        if self.is_footer_first() {
            return Step::Again;
        }
        let reached = self.progress + count;
        if is(Mutant::ShortReadAccepted) && matches!(self.kind, Kind::Read { .. }) {
            return Step::Ended(Ok(()));
        }
        if reached >= self.len {
            return Step::Ended(Ok(()));
        }
        // Direct I/O goes on at a sector's start only. Less than a sector is where a device ends.
        let whole = reached - reached % SECTOR_BYTES as u64;
        if whole == self.progress {
            let kind = match self.kind {
                Kind::Write => io::ErrorKind::WriteZero,
                _ => io::ErrorKind::UnexpectedEof,
            };
            return Step::Ended(Err(kind.into()));
        }
        self.progress = whole;
        Step::Again
    }

    /// True while only the footer was submitted. The bug that this is has no other place.
    pub(super) fn is_footer_first(&self) -> bool {
        is(Mutant::FooterBeforePayload) && self.kind == Kind::Write && self.submissions == 1
    }

    /// A transfer that has ended in the eyes of the waiter, while this one goes on.
    pub(super) fn end_early(&mut self) -> Self {
        let tell = std::mem::replace(&mut self.tell, Tell::Nobody);
        Self { memory: None, tell, ..*self }
    }

    pub(super) fn end(self, result: io::Result<()>) -> Ended {
        Ended { memory: self.memory, tell: self.tell, result }
    }

    /// Ends a transfer whose memory is never given back, because somebody may still use it.
    pub(super) fn end_without_memory(mut self, error: io::Error) -> Ended {
        std::mem::forget(self.memory.take());
        self.end(Err(error))
    }
}

impl Ended {
    pub(crate) fn tell(self) {
        match (self.tell, self.memory) {
            (Tell::Read(done), Some(Memory::Slot(slot))) => done.end(self.result.map(|()| slot)),
            (Tell::Read(done), _) => {
                let error = self.result.err().unwrap_or_else(|| io::Error::other("the slot is lost"));
                done.end(Err(error));
            }
            (Tell::Other(done), memory) => {
                // Before the waiter hears of it, so that nothing is held when it looks.
                drop(memory);
                done(self.result);
            }
            (Tell::Nobody, _) => {}
        }
    }
}
