//! The io_urings of one device: how they are set up, and what is handed to the kernel and comes back.
#![allow(unsafe_code)] // The kernel is given addresses; whoever owns the rings keeps what they point to.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use hearth_proto::limits::{RING_IN_FLIGHT_MAX, SQPOLL_IDLE_MS};
use io_uring::types::{Fd, Fixed, FsyncFlags};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::{EventfdFlags, eventfd};

use super::file::Member;
use super::transfers::{Place, Span, Submission, Work};
use crate::arena::Arena;
use crate::config::DriverOptions;

/// Completion tag of the wake-up read; transfers are tagged with their place.
const WAKE: u64 = u64::MAX;
/// Entries of a ring: one for each transfer and one for the wake-up.
const ENTRIES: u32 = (RING_IN_FLIGHT_MAX + 1).next_power_of_two() as u32;

/// The rings of one device. They belong to the thread that made them.
pub(super) struct Rings {
    /// Takes everything that the other does not.
    main: Ring,
    /// Short reads and writes whose completions the device is asked for: such a ring takes nothing else.
    polled: Option<Ring>,
    polled_in_flight: usize,
    /// The longest that goes there: of a transfer that falls into pieces, kernels may try to submit the
    /// first for ever. Zero once the device turned out to have nothing to poll.
    polled_bytes_max: usize,
    wake: Wake,
}

/// The poll that completes whenever somebody wakes the thread.
struct Wake {
    eventfd: OwnedFd,
    armed: bool,
    /// False on kernels whose polls complete once.
    multishot: bool,
}

/// Wakes the thread of a device out of [`Rings::wait`].
pub(super) struct Waker(OwnedFd);

impl Rings {
    /// # Errors
    /// The kernel's, if it refuses any ring at all. Options that it refuses are left out.
    pub(super) fn new(member: &Member, options: DriverOptions) -> io::Result<Self> {
        let polled = if options.iopoll { polled_ring(member, options.sqpoll) } else { None };
        let (polled, polled_bytes_max) = polled.unzip();
        // Where completions are polled for, those of the other ring must come by themselves.
        let main = match polled {
            Some(_) => IoUring::new(ENTRIES)?,
            None => main_ring(options.sqpoll)?,
        };
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let rings = Self {
            main: Ring::new(main),
            polled: polled.map(Ring::new),
            polled_in_flight: 0,
            polled_bytes_max: polled_bytes_max.unwrap_or(0),
            wake: Wake { eventfd, armed: false, multishot: true },
        };
        for ring in std::iter::once(&rings.main).chain(&rings.polled) {
            ring.uring.submitter().register_files(&[member.file().as_raw_fd()])?;
        }
        Ok(rings)
    }

    pub(super) fn waker(&self) -> io::Result<Waker> {
        self.wake.eventfd.try_clone().map(Waker)
    }

    /// Lends the arena to the rings, as far as the kernel lets it. That touches every page and takes its
    /// time.
    pub(super) fn register(&mut self, arena: &Arena) {
        for ring in std::iter::once(&mut self.main).chain(&mut self.polled) {
            ring.register_buffers(arena);
        }
    }

    /// Queues a submission for the kernel.
    ///
    /// # Safety
    /// The memory that the submission names is a slot of the arena that was registered, if any was. It
    /// stays valid, and nobody else uses it in a way that contradicts the transfer, until its completion
    /// comes out of [`Rings::reap`]; if that never comes, for ever.
    pub(super) unsafe fn push(&mut self, submission: &Submission, arena: &Arena) {
        let ring = match (&submission.work, &mut self.polled) {
            (Work::Read(span) | Work::Write(span), Some(polled)) if span.len <= self.polled_bytes_max => {
                self.polled_in_flight += 1;
                polled
            }
            _ => &mut self.main,
        };
        let fd = Fixed(0);
        let entry = match &submission.work {
            Work::Read(span) => ring.read(span, arena),
            Work::Write(span) => ring.write(span, arena),
            Work::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Work::Discard { offset, len } => opcode::Fallocate::new(fd, *len)
                .offset(*offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
        };
        // SAFETY: the caller sees to the memory; the file is registered.
        unsafe { ring.push(&entry.user_data(u64::from(submission.place.0))) };
    }

    /// Sees to it that a [`Waker`] ends the next [`Rings::wait`]. What happened before a wake-up that came
    /// before this has to be looked for afterwards.
    pub(super) fn arm_wake(&mut self) {
        if std::mem::replace(&mut self.wake.armed, true) {
            return;
        }
        // What was written so far would complete the poll at once.
        let _ = rustix::io::read(&self.wake.eventfd, &mut [0; 8]);
        let fd = Fd(self.wake.eventfd.as_raw_fd());
        let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(self.wake.multishot).build();
        // SAFETY: the descriptor is owned by `self`, whose rings go first, and there is no memory.
        unsafe { self.main.push(&poll.user_data(WAKE)) };
    }

    /// True if the next [`Rings::wait`] returns at once, so that nobody has to wake the thread.
    pub(super) fn is_polling(&self) -> bool {
        self.polled_in_flight > 0
    }

    /// Submits what was pushed, and lets the kernel say what has completed.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        if let Some(polled) = &self.polled {
            polled.submit_and_wait(0)?;
        }
        self.main.submit_and_wait(0)
    }

    /// Submits what was pushed and waits for a completion, or polls for it once.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        match &self.polled {
            Some(polled) if self.polled_in_flight > 0 => {
                self.main.submit_and_wait(0)?;
                polled.submit_and_wait(0)
            }
            _ => self.main.submit_and_wait(1),
        }
    }

    /// Hands every completion to `complete`.
    pub(super) fn reap(&mut self, mut complete: impl FnMut(Place, io::Result<usize>)) {
        for (tag, result, _) in self.polled.as_mut().into_iter().flat_map(Ring::completions) {
            self.polled_in_flight -= 1;
            let place = Place(tag as u32);
            if result != -libc::EOPNOTSUPP {
                complete(place, outcome(result));
                continue;
            }
            if std::mem::take(&mut self.polled_bytes_max) > 0 {
                tracing::warn!("the device cannot be polled after all: iopoll is left out");
            }
            // Nothing was transferred: the other ring does it.
            complete(place, Err(io::ErrorKind::Interrupted.into()));
        }
        for (tag, result, flags) in self.main.completions() {
            if tag == WAKE {
                self.wake.armed = cqueue::more(flags);
                self.wake.multishot &= result >= 0;
            } else {
                complete(Place(tag as u32), outcome(result));
            }
        }
    }

    /// Gives the file back now. The kernel takes rings apart some time after they are closed, and a block
    /// device would be in use until then.
    pub(super) fn release(&self) {
        for ring in std::iter::once(&self.main).chain(&self.polled) {
            if let Err(error) = ring.uring.submitter().unregister_files() {
                tracing::debug!(%error, "the kernel keeps the file until the ring is gone");
            }
        }
    }
}

impl Waker {
    pub(super) fn wake(&self) {
        let written = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        // It can only fail if 2^64 - 2 wake-ups were never read.
        debug_assert_eq!(written, Ok(8));
    }
}

/// A completion as the table of transfers takes it.
fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

fn main_ring(sqpoll: bool) -> io::Result<IoUring> {
    if sqpoll {
        match IoUring::builder().setup_sqpoll(SQPOLL_IDLE_MS).build(ENTRIES) {
            Ok(ring) => return Ok(ring),
            Err(error) => tracing::warn!(%error, "the kernel gives no submission thread: sqpoll is left out"),
        }
    }
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        // Says when entering the kernel without waiting would bring completions.
        .setup_taskrun_flag()
        .build(ENTRIES)
        .or_else(|_| IoUring::new(ENTRIES))
}

/// A ring that polls, and the longest transfer that it takes, if kernel, file and disk can do that.
fn polled_ring(member: &Member, sqpoll: bool) -> Option<(IoUring, usize)> {
    let disk = member.disk().filter(|disk| member.is_direct() && disk.can_be_polled());
    let Some(bytes_max) = disk.and_then(|disk| disk.piece_bytes_max()) else {
        tracing::warn!("there is no direct I/O, or no disk with poll queues beneath: iopoll is left out");
        return None;
    };
    let mut builder = IoUring::builder();
    builder.setup_iopoll();
    if sqpoll {
        builder.setup_sqpoll(SQPOLL_IDLE_MS);
    }
    match builder.build(ENTRIES) {
        Ok(ring) => Some((ring, usize::try_from(bytes_max).unwrap_or(usize::MAX))),
        Err(error) => {
            tracing::warn!(%error, "the kernel gives no ring that polls: iopoll is left out");
            None
        }
    }
}

struct Ring {
    uring: IoUring,
    /// True if the arena is registered with it.
    fixed_buffers: bool,
}

impl Ring {
    fn new(uring: IoUring) -> Self {
        Self { uring, fixed_buffers: false }
    }

    fn register_buffers(&mut self, arena: &Arena) {
        let pieces: Vec<_> =
            arena.pieces().map(|(base, len)| libc::iovec { iov_base: base.cast(), iov_len: len }).collect();
        // SAFETY: the pieces are parts of the arena's mapping, which never moves and which the owner of
        // the rings keeps alive longer than them.
        let registered = unsafe { self.uring.submitter().register_buffers(&pieces) };
        if let Err(error) = &registered {
            tracing::warn!(%error, "the kernel does not take the arena as fixed buffers (see `ulimit -l`)");
        }
        self.fixed_buffers = registered.is_ok();
    }

    /// # Safety
    /// Descriptor and memory in the entry stay valid until its completion is reaped.
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: as the caller promises.
        let pushed = unsafe { self.uring.submission().push(entry) };
        pushed.expect("the submission queue has an entry for each place and one for the wake-up");
    }

    fn submit_and_wait(&self, count: usize) -> io::Result<()> {
        match self.uring.submitter().submit_and_wait(count) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// What the kernel has completed: tags, results and flags.
    fn completions(&mut self) -> impl Iterator<Item = (u64, i32, u32)> + use<> {
        let mut reaped = [(0_u64, 0_i32, 0_u32); ENTRIES as usize];
        let mut count = 0;
        // In this order: what finds no room stays in the queue.
        for (into, completion) in reaped.iter_mut().zip(self.uring.completion()) {
            *into = (completion.user_data(), completion.result(), completion.flags());
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
