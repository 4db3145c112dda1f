//! Records that are ahead of the index: those that went to ready slots shortly before a store ended.
//!
//! When a store opens, the slots that were ready are read and judged. What is whole, and was put after the
//! slot became ready, counts: it may have been acknowledged as durable (INV-ACK). What was torn never was.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::Urgency;
use hearth_proto::limits::SECTOR_BYTES;

use crate::arena::{Arena, SlotMut};
use crate::clock::Clock;
use crate::codec::{Codec, Coder};
use crate::device::{ReadDone, ReadEnd, Request};
use crate::mutant::{Mutant, is};
use crate::slab::{BlockEntry, FOOTER_BYTES, Footer, ReadySlot};
use crate::volume::Volume;

/// Reads under way at a time.
const READS_MAX: usize = 32;
/// Longer than any store takes to open: the device may still be preparing to serve.
const PATIENCE: Duration = Duration::from_secs(86_400);

thread_local! {
    static CODER: RefCell<Coder> = RefCell::new(Coder::new());
}

/// Waits for a read. The simulation, which has no threads, lets its devices work meanwhile.
pub(crate) type Wait = Box<dyn FnMut(ReadEnd) -> io::Result<SlotMut>>;

/// A slot that was ready, with its record size in sectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    pub(crate) slot: ReadySlot,
    pub(crate) class: u32,
}

/// What was found in slots that were ready.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) entries: Vec<BlockEntry>,
    /// Sectors of the slots that could not be read.
    pub(crate) unreadable: Vec<u32>,
}

/// Reads the slots and says what counts of what lies there.
///
/// # Errors
/// The device stopped, or did not answer: that says nothing of what lies there.
pub(crate) fn look(
    volume: &Volume,
    arena: &Arc<Arena>,
    clock: &Clock,
    mut slots: VecDeque<Ahead>,
    wait: &mut Wait,
) -> io::Result<Found> {
    let mut found = Found::default();
    let mut reads = VecDeque::new();
    while !slots.is_empty() || !reads.is_empty() {
        if reads.len() < READS_MAX
            && let Some(ahead) = slots.front().copied()
            && let Some(end) = read(volume, arena, clock, ahead)
        {
            slots.pop_front();
            reads.push_back((ahead, end));
            continue;
        }
        let Some((ahead, end)) = reads.pop_front() else {
            // The arena is smaller than the record, which was never put into it.
            slots.pop_front();
            continue;
        };
        match wait(end) {
            Ok(record) => found.entries.extend(judge(ahead, &record)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) if is_of_driver(&error) => return Err(error),
            Err(error) => {
                tracing::error!(%error, sector = ahead.slot.sector, "a slot that was ready cannot be read");
                found.unreadable.push(ahead.slot.sector);
            }
        }
    }
    Ok(found)
}

fn is_of_driver(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::TimedOut)
        && error.raw_os_error().is_none()
}

/// Begins to read a slot; `None` if the arena has no room now.
fn read(volume: &Volume, arena: &Arc<Arena>, clock: &Clock, ahead: Ahead) -> Option<ReadEnd> {
    let payload_len = ahead.class as usize * SECTOR_BYTES - FOOTER_BYTES;
    let slot = arena.allocate(payload_len, ahead.class)?;
    let (done, end) = ReadDone::new();
    let (member, offset) = volume.locate(ahead.slot.sector);
    let deadline = clock.now() + PATIENCE;
    volume.device(member).submit(Request::Read { offset, slot, urgency: Urgency::Normal, deadline, done });
    Some(end)
}

/// The entry of a record that is whole and counts.
fn judge(ahead: Ahead, record: &SlotMut) -> Option<BlockEntry> {
    let footer = Footer::decode(record.footer()).ok()?;
    let counts = footer.generation >= ahead.slot.from || is(Mutant::OldRecordTaken);
    let stored = record.stored(footer.stored_len).filter(|_| counts)?;
    if !is_whole(&footer, stored) {
        return None;
    }
    Some(footer.entry(ahead.slot.sector))
}

fn is_whole(footer: &Footer, stored: &[u8]) -> bool {
    if footer.codec == Codec::Raw {
        return crc32fast::hash(stored) == footer.payload_crc;
    }
    let mut payload = vec![0; footer.payload_len as usize];
    let decoded = CODER.with_borrow_mut(|coder| coder.decode(footer.codec, stored, &mut payload));
    decoded.is_ok() && crc32fast::hash(&payload) == footer.payload_crc
}
