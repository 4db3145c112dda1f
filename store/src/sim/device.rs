//! A device over a simulated disk. Which transfer begins when, and what a short count or an error means,
//! is decided by the same table as in the real drivers; what the medium does, and when, by the world.

use std::io;
use std::sync::{Arc, Mutex};

use hearth_proto::limits::SECTOR_BYTES;

use super::disk::{ATOM_BYTES, SimulatedDisk};
use super::faults::Faults;
use super::rng::Rng;
use crate::clock::SimulatedTime;
use crate::device::transfer::Memory;
use crate::device::transfers::{Place, Transfers, Work};
use crate::device::{Device, Request, Space};
use crate::sync::lock;

const PLACES: usize = 16;

pub(super) struct SimulatedDevice {
    state: Mutex<State>,
    disk: Arc<Mutex<SimulatedDisk>>,
    time: Arc<SimulatedTime>,
}

struct State {
    transfers: Transfers,
    in_flight: Vec<InFlight>,
    stopped: bool,
    /// Submissions that were ended by the device's own fault and not by the medium's length.
    errors: u64,
    misreads: u64,
    /// Where writes failed for good.
    failed_writes: Vec<usize>,
}

#[derive(Clone, Copy)]
struct InFlight {
    place: Place,
    operation: Operation,
}

#[derive(Clone, Copy)]
enum Operation {
    Read { offset: usize, start: usize, len: usize },
    Write { offset: usize, start: usize, len: usize },
    Sync { covered: u64 },
    Discard { offset: usize, len: usize },
}

/// What a completion was, for the trace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) name: &'static str,
    pub(super) offset: u64,
    pub(super) count: u64,
}

impl SimulatedDevice {
    pub(super) fn new(disk: Arc<Mutex<SimulatedDisk>>, time: Arc<SimulatedTime>) -> Arc<Self> {
        let state = State {
            transfers: Transfers::new(PLACES),
            in_flight: Vec::new(),
            stopped: false,
            errors: 0,
            misreads: 0,
            failed_writes: Vec::new(),
        };
        Arc::new(Self { state: Mutex::new(state), disk, time })
    }

    pub(super) fn in_flight(&self) -> usize {
        lock(&self.state).in_flight.len()
    }

    /// Errors that the device made up, and reads that it took from the wrong place.
    pub(super) fn mischief(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.errors, state.misreads)
    }

    pub(super) fn failed_writes(&self) -> Vec<usize> {
        lock(&self.state).failed_writes.clone()
    }

    /// Begins what may begin now, and ends the reads whose time is over.
    pub(super) fn pump(&self) {
        loop {
            let ended = {
                let mut state = lock(&self.state);
                state.submit_all(&self.disk, &self.time);
                state.transfers.pop_ended()
            };
            let Some(ended) = ended else { return };
            ended.tell();
        }
    }

    /// Ends one of the submissions in flight, whichever `index` says.
    pub(super) fn complete(&self, index: usize, rng: &mut Rng, faults: &Faults) -> Completion {
        let completion = {
            let mut state = lock(&self.state);
            let InFlight { place, operation } = state.in_flight.swap_remove(index);
            let (completion, result) = match operation {
                _ if rng.chance(faults.interrupted) => {
                    let completion = Completion { name: "interrupted", offset: 0, count: u64::from(place.0) };
                    (completion, Err(io::ErrorKind::Interrupted.into()))
                }
                Operation::Read { offset, start, len } => {
                    self.read(&mut state, place, [offset, start, len], rng, faults)
                }
                Operation::Write { offset, start, len } => {
                    self.write(&mut state, place, [offset, start, len], rng, faults)
                }
                Operation::Sync { covered } => self.sync(&mut state, covered, rng, faults),
                Operation::Discard { offset, len } => {
                    let completion = Completion { name: "discard", offset: offset as u64, count: len as u64 };
                    match faults.discards {
                        true => {
                            lock(&self.disk).discard(offset, len);
                            (completion, Ok(0))
                        }
                        false => (completion, Err(io::ErrorKind::Unsupported.into())),
                    }
                }
            };
            state.transfers.complete(place, result);
            completion
        };
        self.pump();
        completion
    }

    /// Loses power: what is in flight may have reached the disk's cache.
    pub(super) fn crash(&self) {
        let mut state = lock(&self.state);
        state.stopped = true;
        for InFlight { place, operation } in std::mem::take(&mut state.in_flight) {
            match operation {
                Operation::Write { offset, start, len } => {
                    let memory = state.transfers.lend(place).expect("a transfer in flight has its memory");
                    lock(&self.disk).write(offset, &record(&memory)[start..start + len]);
                    state.transfers.restore(place, memory);
                }
                Operation::Discard { offset, len } => lock(&self.disk).discard(offset, len),
                Operation::Read { .. } | Operation::Sync { .. } => {}
            }
        }
        // Whoever waits for them keeps the store alive, which keeps this device.
        let abandoned = std::mem::replace(&mut state.transfers, Transfers::new(PLACES));
        drop(state);
        drop(abandoned);
    }

    fn read(
        &self,
        state: &mut State,
        place: Place,
        [offset, start, len]: [usize; 3],
        rng: &mut Rng,
        faults: &Faults,
    ) -> (Completion, io::Result<usize>) {
        let disk = lock(&self.disk);
        if rng.chance(faults.read_error) {
            state.errors += 1;
            return (Completion { name: "read error", offset: offset as u64, count: 0 }, Err(eio()));
        }
        let from = match rng.chance(faults.misdirected_read) {
            true => {
                state.misreads += 1;
                misdirect(rng, disk.len_bytes(), len)
            }
            false => offset,
        };
        let len = shorten(len, rng, faults);
        let mut memory = state.transfers.lend(place).expect("a transfer in flight has its memory");
        let Memory::Slot(slot) = &mut memory else { panic!("a read fills a slot") };
        let count = disk.read(from, &mut slot.record_mut()[start..start + len]);
        state.transfers.restore(place, memory);
        (Completion { name: "read", offset: from as u64, count: count as u64 }, Ok(count))
    }

    fn write(
        &self,
        state: &mut State,
        place: Place,
        [offset, start, len]: [usize; 3],
        rng: &mut Rng,
        faults: &Faults,
    ) -> (Completion, io::Result<usize>) {
        let mut disk = lock(&self.disk);
        let memory = state.transfers.lend(place).expect("a transfer in flight has its memory");
        let data = &record(&memory)[start..start + len];
        let outcome = if rng.chance(faults.write_error) {
            state.errors += 1;
            state.failed_writes.push(offset);
            let count = rng.index(len / ATOM_BYTES + 1) * ATOM_BYTES;
            disk.write(offset, &data[..count]);
            (Completion { name: "write error", offset: offset as u64, count: count as u64 }, Err(eio()))
        } else if rng.chance(faults.misdirected_write) {
            let to = misdirect(rng, disk.len_bytes(), len);
            let count = disk.write(to, data);
            disk.taint(to, len);
            disk.taint(offset, len);
            (Completion { name: "misdirected write", offset: to as u64, count: count as u64 }, Ok(len))
        } else {
            let count = disk.write(offset, &data[..shorten(len, rng, faults)]);
            (Completion { name: "write", offset: offset as u64, count: count as u64 }, Ok(count))
        };
        state.transfers.restore(place, memory);
        outcome
    }

    fn sync(
        &self,
        state: &mut State,
        covered: u64,
        rng: &mut Rng,
        faults: &Faults,
    ) -> (Completion, io::Result<usize>) {
        let mut disk = lock(&self.disk);
        let volatile = disk.volatile_count() as u64;
        if rng.chance(faults.sync_error) {
            state.errors += 1;
            disk.forget_volatile(|| rng.below(2) == 0);
            return (Completion { name: "sync error", offset: covered, count: volatile }, Err(eio()));
        }
        if rng.chance(faults.lie) {
            disk.lie();
            return (Completion { name: "sync that lies", offset: covered, count: volatile }, Ok(0));
        }
        disk.sync(covered);
        (Completion { name: "sync", offset: covered, count: volatile }, Ok(0))
    }
}

impl State {
    fn submit_all(&mut self, disk: &Mutex<SimulatedDisk>, time: &SimulatedTime) {
        while let Some(submission) = self.transfers.next(time.now()) {
            let operation = match submission.work {
                Work::Read(span) => {
                    Operation::Read { offset: span.offset as usize, start: span.start, len: span.len }
                }
                Work::Write(span) => {
                    Operation::Write { offset: span.offset as usize, start: span.start, len: span.len }
                }
                Work::Sync => Operation::Sync { covered: lock(disk).writes_ended() },
                Work::Discard { offset, len } => {
                    Operation::Discard { offset: offset as usize, len: len as usize }
                }
            };
            self.in_flight.push(InFlight { place: submission.place, operation });
        }
    }
}

impl Device for SimulatedDevice {
    fn len_bytes(&self) -> u64 {
        lock(&self.disk).len_bytes() as u64
    }

    fn space(&self) -> io::Result<Option<Space>> {
        Ok(None)
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        match lock(&self.disk).allocate(len_bytes as usize) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        }
    }

    fn submit(&self, request: Request) {
        {
            let mut state = lock(&self.state);
            if !state.stopped {
                state.transfers.push(request);
                state.submit_all(&self.disk, &self.time);
                return;
            }
        }
        request.refuse(io::Error::new(io::ErrorKind::NotConnected, "the device is stopped"));
    }

    fn stop(&self) {
        lock(&self.state).stopped = true;
        let mut rng = Rng::new(0);
        loop {
            self.pump();
            if self.in_flight() == 0 {
                return;
            }
            self.complete(0, &mut rng, &Faults::default());
        }
    }
}

fn record(memory: &Memory) -> &[u8] {
    match memory {
        Memory::Slot(slot) => slot.slot().record(),
        Memory::Block(block) => block.slot().record(),
    }
}

/// A transfer ends on an atom, and no earlier than after one sector: less than that is what a device
/// transfers where it ends.
fn shorten(len: usize, rng: &mut Rng, faults: &Faults) -> usize {
    match len > SECTOR_BYTES && rng.chance(faults.short) {
        true => SECTOR_BYTES + rng.index((len - SECTOR_BYTES) / ATOM_BYTES) * ATOM_BYTES,
        false => len,
    }
}

/// Some other place, from which as much can be transferred.
fn misdirect(rng: &mut Rng, disk_bytes: usize, len: usize) -> usize {
    rng.index(disk_bytes.saturating_sub(len) / ATOM_BYTES + 1) * ATOM_BYTES
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}
