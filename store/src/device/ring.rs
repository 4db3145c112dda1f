//! The io_uring driver: one thread that owns the rings and the memory lent to the kernel.
#![allow(unsafe_code)] // The kernel is given addresses; the table of transfers keeps what they point to.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use hearth_proto::limits::{RING_IN_FLIGHT_MAX, SQPOLL_IDLE_MS};
use io_uring::types::{Fd, Fixed, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};

use super::file::Member;
use super::request::Request;
use super::transfers::{Place, Span, Submission, Transfers, Work};
use super::{Device, Space, Started, stopped};
use crate::arena::Arena;
use crate::config::DriverOptions;
use crate::sync::lock;

/// Completion tag of the wake-up read; transfers are tagged with their place.
const WAKE: u64 = u64::MAX;
/// Entries of a ring: one for each transfer and one for the wake-up read.
const ENTRIES: u32 = (RING_IN_FLIGHT_MAX + 1).next_power_of_two() as u32;

/// Starts a ring on `member`.
///
/// # Errors
/// The kernel's, if it refuses any ring at all. Options that it refuses are left out.
pub(super) fn start(member: &Arc<Member>, arena: &Arc<Arena>, options: DriverOptions) -> io::Result<Started> {
    // SAFETY: the call touches no memory of ours.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above made this descriptor and nobody else knows it.
    let wake = unsafe { OwnedFd::from_raw_fd(fd) };
    let shared = Arc::new(Shared { member: Arc::clone(member), inbox: Mutex::default(), wake });
    let (made, made_receiver) = mpsc::sync_channel(1);
    let (ready_sender, ready) = mpsc::sync_channel(1);
    let (for_thread, arena) = (Arc::clone(&shared), Arc::clone(arena));
    let body = move || match Rings::new(&for_thread.member, options) {
        Ok(rings) => {
            let _ = made.send(Ok(()));
            let mut driver = Driver::new(rings, for_thread, arena);
            driver.register();
            let _ = ready_sender.send(());
            driver.run();
        }
        Err(error) => {
            let _ = made.send(Err(error));
        }
    };
    // The ring belongs to the thread that makes it.
    let thread = std::thread::Builder::new().name("hearth-disk".into()).spawn(body)?;
    made_receiver.recv().map_err(io::Error::other)??;
    Ok(Started { device: Arc::new(RingDevice { shared, thread: Mutex::new(Some(thread)) }), ready })
}

/// A device whose transfers run on an io_uring.
struct RingDevice {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    member: Arc<Member>,
    inbox: Mutex<Inbox>,
    wake: OwnedFd,
}

#[derive(Default)]
struct Inbox {
    requests: Vec<Request>,
    /// True while the thread sleeps, or is about to, and has to be woken.
    sleeping: bool,
    stopping: bool,
}

impl Device for RingDevice {
    fn len_bytes(&self) -> u64 {
        self.shared.member.len_bytes()
    }

    fn space(&self) -> io::Result<Option<Space>> {
        self.shared.member.space()
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        self.shared.member.allocate(len_bytes)
    }

    fn submit(&self, request: Request) {
        let mut inbox = lock(&self.shared.inbox);
        if inbox.stopping {
            drop(inbox);
            return request.refuse(stopped());
        }
        inbox.requests.push(request);
        if std::mem::take(&mut inbox.sleeping) {
            drop(inbox);
            self.shared.wake();
        }
    }

    fn stop(&self) {
        lock(&self.shared.inbox).stopping = true;
        // Held while waiting, so that whoever else stops the device waits too.
        if let Some(thread) = lock(&self.thread).take() {
            // Also ends the wake-up read, which would otherwise outlive its buffer.
            self.shared.wake();
            if thread.join().is_err() {
                tracing::error!("the disk thread panicked");
            }
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

/// The rings of one device.
struct Rings {
    /// Takes everything, unless there is a ring for reads and writes that polls.
    main: Ring,
    /// Reads and writes whose completions the device is asked for: such a ring takes nothing else.
    polled: Option<Ring>,
    polled_in_flight: usize,
    /// False once the device turned out to have nothing to poll.
    polling: bool,
}

struct Ring {
    uring: IoUring,
    /// True if the arena is registered with it.
    fixed_buffers: bool,
}

impl Rings {
    fn new(member: &Member, options: DriverOptions) -> io::Result<Self> {
        let polled = if options.iopoll { polled_ring(member, options.sqpoll) } else { None };
        // Where completions are polled for, those of the other ring must come by themselves.
        let main = match polled {
            Some(_) => IoUring::new(ENTRIES)?,
            None => main_ring(options.sqpoll)?,
        };
        let polling = polled.is_some();
        let (main, polled) = (Ring::new(main), polled.map(Ring::new));
        let rings = Self { main, polled, polled_in_flight: 0, polling };
        for ring in std::iter::once(&rings.main).chain(&rings.polled) {
            ring.uring.submitter().register_files(&[member.file().as_raw_fd()])?;
        }
        Ok(rings)
    }

    /// Gives the file back now. The kernel takes rings apart some time after they are closed, and a block
    /// device would be in use until then.
    fn release(&self) {
        for ring in std::iter::once(&self.main).chain(&self.polled) {
            if let Err(error) = ring.uring.submitter().unregister_files() {
                tracing::debug!(%error, "the kernel keeps the file until the ring is gone");
            }
        }
    }
}

fn main_ring(sqpoll: bool) -> io::Result<IoUring> {
    if sqpoll {
        match IoUring::builder().setup_sqpoll(SQPOLL_IDLE_MS).build(ENTRIES) {
            Ok(ring) => return Ok(ring),
            Err(error) => tracing::warn!(%error, "the kernel gives no submission thread (sqpoll)"),
        }
    }
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(ENTRIES)
        .or_else(|_| IoUring::new(ENTRIES))
}

/// A ring that polls, if the kernel and the file can do that. Whether the device can is seen when it is
/// used first.
fn polled_ring(member: &Member, sqpoll: bool) -> Option<IoUring> {
    if !member.is_direct() {
        tracing::warn!("without direct I/O completions cannot be polled for (iopoll)");
        return None;
    }
    let mut builder = IoUring::builder();
    builder.setup_iopoll();
    if sqpoll {
        builder.setup_sqpoll(SQPOLL_IDLE_MS);
    }
    builder
        .build(ENTRIES)
        .inspect_err(|error| tracing::warn!(%error, "the kernel gives no ring that polls (iopoll)"))
        .ok()
}

impl Ring {
    fn new(uring: IoUring) -> Self {
        Self { uring, fixed_buffers: false }
    }

    fn register_buffers(&mut self, arena: &Arena) {
        let pieces: Vec<_> =
            arena.pieces().map(|(base, len)| libc::iovec { iov_base: base.cast(), iov_len: len }).collect();
        // SAFETY: the pieces are parts of the arena's mapping, which never moves and which the driver
        // keeps alive longer than its rings.
        let registered = unsafe { self.uring.submitter().register_buffers(&pieces) };
        if let Err(error) = &registered {
            tracing::warn!(%error, "the kernel does not take the arena as fixed buffers (see `ulimit -l`)");
        }
        self.fixed_buffers = registered.is_ok();
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the addresses in the entry lie in memory that the table of transfers owns until the
        // completion is reaped, or in `wake_buffer`, which outlives the armed read; the descriptors are
        // registered or owned by `shared`.
        let pushed = unsafe { self.uring.submission().push(entry) };
        pushed.expect("the submission queue has an entry for each place and one for the wake-up");
    }

    /// Submits what was pushed, if anything.
    fn submit(&mut self) -> io::Result<()> {
        if self.uring.submission().is_empty() { Ok(()) } else { self.submit_and_wait(0) }
    }

    fn submit_and_wait(&self, count: usize) -> io::Result<()> {
        match self.uring.submitter().submit_and_wait(count) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// What the kernel has completed, with the tags.
    fn completions(&mut self) -> impl Iterator<Item = (u64, i32)> + use<> {
        let mut reaped = [(0_u64, 0_i32); ENTRIES as usize];
        let mut count = 0;
        for (completion, into) in self.uring.completion().zip(&mut reaped) {
            *into = (completion.user_data(), completion.result());
            count += 1;
        }
        reaped.into_iter().take(count)
    }

    fn read(&self, span: &Span, arena: &Arena) -> squeue::Entry {
        let (fd, at, len) = (Fixed(0), span.address, span.len as u32);
        if self.fixed_buffers {
            let piece = arena.piece_of(span.sector) as u16;
            opcode::ReadFixed::new(fd, at, len, piece).offset(span.offset).build()
        } else {
            opcode::Read::new(fd, at, len).offset(span.offset).build()
        }
    }

    fn write(&self, span: &Span, arena: &Arena) -> squeue::Entry {
        let (fd, at, len) = (Fixed(0), span.address.cast_const(), span.len as u32);
        if self.fixed_buffers {
            let piece = arena.piece_of(span.sector) as u16;
            opcode::WriteFixed::new(fd, at, len, piece).offset(span.offset).build()
        } else {
            opcode::Write::new(fd, at, len).offset(span.offset).build()
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

/// The state of the thread. Fields drop in order: the rings before the memory they may refer to.
struct Driver {
    rings: Rings,
    transfers: Transfers,
    wake_buffer: Box<[u8; 8]>,
    wake_armed: bool,
    shared: Arc<Shared>,
    arena: Arc<Arena>,
}

impl Driver {
    fn new(rings: Rings, shared: Arc<Shared>, arena: Arc<Arena>) -> Self {
        Self {
            rings,
            transfers: Transfers::new(RING_IN_FLIGHT_MAX),
            wake_buffer: Box::new([0; 8]),
            wake_armed: false,
            shared,
            arena,
        }
    }

    /// Lends the arena to the ring that reads and writes, as far as the kernel lets it. That touches every
    /// page and takes its time.
    fn register(&mut self) {
        self.arena.settle();
        self.rings.polled.as_mut().unwrap_or(&mut self.rings.main).register_buffers(&self.arena);
    }

    fn run(mut self) {
        let _guard = AbortOnPanic;
        loop {
            let stopping = self.take_requests();
            let now = Instant::now();
            while let Some(submission) = self.transfers.next(now) {
                self.push(&submission);
            }
            self.tell_ended();
            if stopping && self.transfers.is_idle() && !self.wake_armed {
                return self.rings.release();
            }
            if let Err(error) = self.wait() {
                return self.abandon(&error);
            }
            self.reap();
        }
    }

    /// Takes in what was queued. Returns true if nothing more will come.
    fn take_requests(&mut self) -> bool {
        let (requests, stopping) = {
            let mut inbox = lock(&self.shared.inbox);
            // A thread that polls looks here by itself.
            inbox.sleeping = self.rings.polled_in_flight == 0;
            (std::mem::take(&mut inbox.requests), inbox.stopping)
        };
        for request in requests {
            self.transfers.push(request);
        }
        if !stopping && !self.wake_armed {
            let fd = Fd(self.shared.wake.as_raw_fd());
            let read = opcode::Read::new(fd, self.wake_buffer.as_mut_ptr(), 8).build().user_data(WAKE);
            self.rings.main.push(&read);
            self.wake_armed = true;
        }
        stopping
    }

    fn push(&mut self, submission: &Submission) {
        let Rings { main, polled, polled_in_flight, polling } = &mut self.rings;
        let ring = match (&submission.work, polled) {
            (Work::Read(_) | Work::Write(_), Some(polled)) if *polling => {
                *polled_in_flight += 1;
                polled
            }
            _ => main,
        };
        let fd = Fixed(0);
        let entry = match &submission.work {
            Work::Read(span) => ring.read(span, &self.arena),
            Work::Write(span) => ring.write(span, &self.arena),
            Work::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Work::Discard { offset, len } => opcode::Fallocate::new(fd, *len)
                .offset(*offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
        };
        ring.push(&entry.user_data(u64::from(submission.place.0)));
    }

    fn tell_ended(&mut self) {
        while let Some(ended) = self.transfers.pop_ended() {
            ended.tell();
        }
    }

    /// Submits what was pushed and waits for a completion, or polls for it once.
    fn wait(&mut self) -> io::Result<()> {
        let Rings { main, polled, polled_in_flight, .. } = &mut self.rings;
        match polled {
            Some(polled) if *polled_in_flight > 0 => {
                main.submit()?;
                polled.submit_and_wait(0)
            }
            _ => main.submit_and_wait(1),
        }
    }

    fn reap(&mut self) {
        if let Some(polled) = &mut self.rings.polled {
            for (tag, result) in polled.completions() {
                self.rings.polled_in_flight -= 1;
                self.complete_polled(Place(tag as u32), result);
            }
        }
        for (tag, result) in self.rings.main.completions() {
            if tag == WAKE {
                self.wake_armed = false;
            } else {
                self.transfers.complete(Place(tag as u32), outcome(result));
            }
        }
    }

    fn complete_polled(&mut self, place: Place, result: i32) {
        if result != -libc::EOPNOTSUPP {
            return self.transfers.complete(place, outcome(result));
        }
        if std::mem::take(&mut self.rings.polling) {
            tracing::warn!("the device has no queues to poll (iopoll): it interrupts instead");
            self.rings.main.register_buffers(&self.arena);
        }
        // Nothing was transferred: the other ring does it.
        self.transfers.complete(place, Err(io::ErrorKind::Interrupted.into()));
    }

    /// Ends after the ring itself failed. The kernel may still use the memory in flight, so that memory
    /// is never given back, and neither is the ring.
    fn abandon(mut self, error: &io::Error) {
        tracing::error!(%error, "the ring failed: the NVMe tier is out of service");
        let requests = {
            let mut inbox = lock(&self.shared.inbox);
            inbox.stopping = true;
            std::mem::take(&mut inbox.requests)
        };
        for request in requests {
            request.refuse(stopped());
        }
        self.transfers.abandon();
        self.tell_ended();
        std::mem::forget(self);
    }
}

/// A completion as the table of transfers takes it.
fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
