//! The io_uring driver: one thread that owns the ring and the memory lent to the kernel.
#![allow(unsafe_code)] // The kernel is given addresses; the in-flight table keeps what they point to.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use hearth_proto::limits::RING_IN_FLIGHT_MAX;
use io_uring::types::{Fd, Fixed, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};

use super::file::{extend, space};
use super::{Device, Done, ReadDone, Space, stopped};
use crate::arena::{Arena, HostBlock, SlotMut};
use crate::sync::lock;

/// Completion tag of the wake-up read; transfers are tagged with their place in the table.
const WAKE: u64 = u64::MAX;
/// Places of the table that writes and syncs leave to reads, so that a get never waits for a burst of
/// puts to pass.
const READS_RESERVED: usize = RING_IN_FLIGHT_MAX / 4;
/// Places that reads leave to writes and syncs, so that puts go on however many gets there are.
const WRITES_RESERVED: usize = RING_IN_FLIGHT_MAX / 8;
/// How often one transfer is submitted again after an interruption or a short count.
const RESUBMISSIONS_MAX: u32 = 64;

/// A device whose transfers run on an io_uring.
pub(crate) struct Ring {
    shared: Arc<Shared>,
}

/// The thread behind a [`Ring`].
pub(crate) struct RingThread {
    shared: Arc<Shared>,
    join: JoinHandle<()>,
    started: mpsc::Receiver<io::Result<()>>,
}

struct Shared {
    file: File,
    len_bytes: AtomicU64,
    queue: Mutex<Queue>,
    wake: OwnedFd,
}

#[derive(Default)]
struct Queue {
    reads: VecDeque<Request>,
    writes: VecDeque<Request>,
    /// True while the thread sleeps, or is about to, and has to be woken.
    sleeping: bool,
    stopping: bool,
}

enum Request {
    Read { offset: u64, slot: SlotMut, deadline: Instant, done: ReadDone },
    Write { offset: u64, block: Arc<HostBlock>, done: Done },
    Sync { done: Done },
}

struct InFlight {
    request: Request,
    /// Bytes of the record that were transferred already.
    progress: usize,
    submissions: u32,
}

impl Ring {
    /// Starts the thread, which registers the arena as far as the kernel lets it: that touches every page
    /// and takes its time, so the caller does other things before [`RingThread::wait_until_started`].
    pub(crate) fn start(file: File, arena: Arc<Arena>) -> io::Result<(Self, RingThread)> {
        let len_bytes = AtomicU64::new(file.metadata()?.len());
        // SAFETY: the call touches no memory of ours.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above made this descriptor and nobody else knows it.
        let wake = unsafe { OwnedFd::from_raw_fd(fd) };
        let shared = Arc::new(Shared { file, len_bytes, queue: Mutex::new(Queue::default()), wake });
        let (start, started) = mpsc::sync_channel(1);
        let for_thread = Arc::clone(&shared);
        let join =
            std::thread::Builder::new().name("hearth-disk".into()).spawn(move || {
                match Driver::new(for_thread, &arena) {
                    Ok(driver) => {
                        let _ = start.send(Ok(()));
                        driver.run(&arena);
                    }
                    Err(error) => {
                        let _ = start.send(Err(error));
                    }
                }
            })?;
        Ok((Self { shared: Arc::clone(&shared) }, RingThread { shared, join, started }))
    }

    fn enqueue(&self, request: Request) {
        let mut queue = lock(&self.shared.queue);
        if queue.stopping {
            drop(queue);
            return request.fail(stopped());
        }
        match request {
            Request::Read { .. } => queue.reads.push_back(request),
            Request::Write { .. } => queue.writes.push_back(request),
            // A sync covers the writes that are done, so it need not wait for those that are queued.
            Request::Sync { .. } => queue.writes.push_front(request),
        }
        if std::mem::take(&mut queue.sleeping) {
            drop(queue);
            self.shared.wake();
        }
    }
}

impl Device for Ring {
    fn len_bytes(&self) -> u64 {
        self.shared.len_bytes.load(Ordering::Acquire)
    }

    fn space(&self) -> io::Result<Space> {
        space(&self.shared.file)
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        extend(&self.shared.file, self.len_bytes(), len_bytes)?;
        self.shared.len_bytes.store(len_bytes, Ordering::Release);
        Ok(())
    }

    fn read(&self, offset: u64, slot: SlotMut, deadline: Instant, done: ReadDone) {
        self.enqueue(Request::Read { offset, slot, deadline, done });
    }

    fn write(&self, offset: u64, block: Arc<HostBlock>, done: Done) {
        self.enqueue(Request::Write { offset, block, done });
    }

    fn sync(&self, done: Done) {
        self.enqueue(Request::Sync { done });
    }
}

impl RingThread {
    /// Waits until the ring takes requests.
    pub(crate) fn wait_until_started(&self) -> io::Result<()> {
        self.started.recv().map_err(io::Error::other)?
    }

    /// Refuses new requests, completes those that were taken, and waits for the thread to end.
    pub(crate) fn stop(self) {
        lock(&self.shared.queue).stopping = true;
        // Also ends the wake-up read, which would otherwise outlive its buffer.
        self.shared.wake();
        if self.join.join().is_err() {
            tracing::error!("the disk thread panicked");
        }
    }
}

impl Shared {
    fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the buffer is eight readable bytes, as an eventfd takes them.
        let written = unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        // It can only fail if 2^64 - 2 wake-ups were never read.
        debug_assert_eq!(written, 8);
    }
}

impl Request {
    fn fail(self, error: io::Error) {
        match self {
            Self::Read { slot, done, .. } => done(slot, Err(error)),
            Self::Write { done, .. } | Self::Sync { done } => done(Err(error)),
        }
    }

    fn succeed(self) {
        match self {
            Self::Read { slot, done, .. } => done(slot, Ok(())),
            Self::Write { done, .. } | Self::Sync { done } => done(Ok(())),
        }
    }

    fn record_len(&self) -> usize {
        match self {
            Self::Read { slot, .. } => slot.slot().record_len(),
            Self::Write { block, .. } => block.slot().record_len(),
            Self::Sync { .. } => 0,
        }
    }
}

/// Ends the process if the thread panics: unwinding would free memory that the kernel still uses.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// The state of the thread. Fields drop in order: the ring before the memory it may refer to.
struct Driver {
    ring: IoUring,
    table: Vec<Option<InFlight>>,
    free: Vec<usize>,
    writes_in_flight: usize,
    again: VecDeque<usize>,
    wake_buffer: Box<[u8; 8]>,
    wake_armed: bool,
    fixed_buffers: bool,
    shared: Arc<Shared>,
}

impl Driver {
    fn new(shared: Arc<Shared>, arena: &Arena) -> io::Result<Self> {
        // One entry more than transfers, for the wake-up read.
        let entries = (RING_IN_FLIGHT_MAX + 1).next_power_of_two() as u32;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            .or_else(|_| IoUring::new(entries))?;
        ring.submitter().register_files(&[shared.file.as_raw_fd()])?;
        let pieces: Vec<_> =
            arena.pieces().map(|(base, len)| libc::iovec { iov_base: base.cast(), iov_len: len }).collect();
        // SAFETY: the pieces are parts of the arena's mapping, which `run` keeps alive longer than the
        // ring, and the mapping never moves.
        let registered = unsafe { ring.submitter().register_buffers(&pieces) };
        if let Err(error) = &registered {
            tracing::warn!(%error, "the kernel does not take the arena as fixed buffers (see `ulimit -l`)");
        }
        Ok(Self {
            ring,
            table: (0..RING_IN_FLIGHT_MAX).map(|_| None).collect(),
            free: (0..RING_IN_FLIGHT_MAX).rev().collect(),
            writes_in_flight: 0,
            again: VecDeque::new(),
            wake_buffer: Box::new([0; 8]),
            wake_armed: false,
            fixed_buffers: registered.is_ok(),
            shared,
        })
    }

    fn run(mut self, arena: &Arena) {
        let _guard = AbortOnPanic;
        let mut batch = Vec::new();
        while !self.take_requests(&mut batch) {
            let mut wait_for = 1;
            for request in batch.drain(..) {
                if !self.begin(request, arena) {
                    // Its place is free again, and more may be queued.
                    wait_for = 0;
                }
            }
            while let Some(place) = self.again.pop_front() {
                self.submit(place, arena);
            }
            if let Err(error) = self.ring.submit_and_wait(wait_for)
                && !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
            {
                return self.abandon(&error);
            }
            self.reap();
        }
        tracing::debug!("the disk thread ends");
    }

    /// Moves to `batch` what may begin now. Returns true when the thread is to end.
    fn take_requests(&mut self, batch: &mut Vec<Request>) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut queue = lock(&shared.queue);
        let mut room = self.free.len();
        let reads_in_flight = RING_IN_FLIGHT_MAX - room - self.writes_in_flight;
        let mut reads = (RING_IN_FLIGHT_MAX - WRITES_RESERVED).saturating_sub(reads_in_flight);
        while room > 0
            && reads > 0
            && let Some(request) = queue.reads.pop_front()
        {
            batch.push(request);
            room -= 1;
            reads -= 1;
        }
        let mut writes = (RING_IN_FLIGHT_MAX - READS_RESERVED).saturating_sub(self.writes_in_flight);
        while room > 0
            && writes > 0
            && let Some(request) = queue.writes.pop_front()
        {
            batch.push(request);
            room -= 1;
            writes -= 1;
        }
        let idle = batch.is_empty() && self.free.len() == RING_IN_FLIGHT_MAX;
        if queue.stopping && idle && !self.wake_armed {
            return true;
        }
        if !queue.stopping && !self.wake_armed {
            self.arm_wake();
        }
        queue.sleeping = true;
        false
    }

    fn arm_wake(&mut self) {
        let fd = Fd(self.shared.wake.as_raw_fd());
        let read = opcode::Read::new(fd, self.wake_buffer.as_mut_ptr(), 8).build().user_data(WAKE);
        self.push(&read);
        self.wake_armed = true;
    }

    /// Begins a transfer, unless it is too late for it. Returns true if it began.
    fn begin(&mut self, request: Request, arena: &Arena) -> bool {
        if let Request::Read { deadline, .. } = &request
            && *deadline <= Instant::now()
        {
            request.fail(io::ErrorKind::TimedOut.into());
            return false;
        }
        self.writes_in_flight += usize::from(!matches!(request, Request::Read { .. }));
        let place = self.free.pop().expect("no more is taken than there are places");
        self.table[place] = Some(InFlight { request, progress: 0, submissions: 0 });
        self.submit(place, arena);
        true
    }

    /// Hands what remains of a transfer to the kernel.
    fn submit(&mut self, place: usize, arena: &Arena) {
        let in_flight = self.table[place].as_mut().expect("a place in use");
        in_flight.submissions += 1;
        let done = in_flight.progress;
        let remaining = (in_flight.request.record_len() - done) as u32;
        let fd = Fixed(0);
        let entry = match &in_flight.request {
            Request::Read { offset, slot, .. } => {
                let slot = slot.slot();
                let at = slot.record_address().wrapping_add(done);
                let offset = *offset + done as u64;
                if self.fixed_buffers {
                    let piece = arena.piece_of(slot.sector()) as u16;
                    opcode::ReadFixed::new(fd, at, remaining, piece).offset(offset).build()
                } else {
                    opcode::Read::new(fd, at, remaining).offset(offset).build()
                }
            }
            Request::Write { offset, block, .. } => {
                let slot = block.slot();
                let at = slot.record_address().wrapping_add(done).cast_const();
                let offset = *offset + done as u64;
                if self.fixed_buffers {
                    let piece = arena.piece_of(slot.sector()) as u16;
                    opcode::WriteFixed::new(fd, at, remaining, piece).offset(offset).build()
                } else {
                    opcode::Write::new(fd, at, remaining).offset(offset).build()
                }
            }
            Request::Sync { .. } => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        };
        self.push(&entry.user_data(place as u64));
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the addresses in the entry lie in a slot that the in-flight table owns until the
        // completion is reaped, or in `wake_buffer`, which outlives the armed read; the file descriptors
        // are registered or owned by `shared`.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("the submission queue has an entry for each place and one for the wake-up");
    }

    fn reap(&mut self) {
        let mut completions = [(0_u64, 0_i32); RING_IN_FLIGHT_MAX + 1];
        let mut count = 0;
        for (completion, into) in self.ring.completion().zip(&mut completions) {
            *into = (completion.user_data(), completion.result());
            count += 1;
        }
        for (tag, result) in &completions[..count] {
            if *tag == WAKE {
                self.wake_armed = false;
            } else {
                self.complete(*tag as usize, *result);
            }
        }
    }

    fn complete(&mut self, place: usize, result: i32) {
        let in_flight = self.table[place].as_mut().expect("completions belong to transfers in flight");
        let length = in_flight.request.record_len();
        let outcome = match usize::try_from(result) {
            Ok(0) if length > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                in_flight.progress += count;
                Ok(in_flight.progress >= length)
            }
            // Interrupted before anything was transferred: the one failure that says nothing of the disk.
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => Ok(false),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        match outcome {
            Ok(true) => self.take_out(place).succeed(),
            Ok(false) if in_flight.submissions < RESUBMISSIONS_MAX => self.again.push_back(place),
            Ok(false) => self.take_out(place).fail(io::Error::other("the transfer made no progress")),
            Err(error) => self.take_out(place).fail(error),
        }
    }

    fn take_out(&mut self, place: usize) -> Request {
        let in_flight = self.table[place].take().expect("a place in use");
        self.free.push(place);
        self.writes_in_flight -= usize::from(!matches!(in_flight.request, Request::Read { .. }));
        in_flight.request
    }

    /// Ends after the ring itself failed. The kernel may still use the memory in flight, so that memory
    /// is never given back, and neither is the ring.
    fn abandon(mut self, error: &io::Error) {
        tracing::error!(%error, "the ring failed: the NVMe tier is out of service");
        let (reads, writes) = {
            let mut queue = lock(&self.shared.queue);
            queue.stopping = true;
            (std::mem::take(&mut queue.reads), std::mem::take(&mut queue.writes))
        };
        for request in reads.into_iter().chain(writes) {
            request.fail(stopped());
        }
        for in_flight in self.table.iter_mut().filter_map(Option::take) {
            match in_flight.request {
                Request::Write { block, done, .. } => {
                    std::mem::forget(block);
                    done(Err(stopped()));
                }
                Request::Sync { done } => done(Err(stopped())),
                // The waiter learns of it when `done` is dropped; the slot stays with the kernel.
                Request::Read { slot, done, .. } => {
                    std::mem::forget(slot);
                    drop(done);
                }
            }
        }
        std::mem::forget(self);
    }
}
