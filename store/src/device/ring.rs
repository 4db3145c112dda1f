//! The io_uring driver: one thread that owns the rings and the memory lent to the kernel.
#![allow(unsafe_code)] // Of what is submitted the table of transfers keeps the memory.

use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use hearth_proto::limits::RING_IN_FLIGHT_MAX;

use super::file::Member;
use super::request::Request;
use super::rings::{Rings, Waker};
use super::transfers::Transfers;
use super::{Device, Space, Started, stopped};
use crate::arena::Arena;
use crate::config::DriverOptions;
use crate::sync::lock;

/// Starts a ring on `member`.
///
/// # Errors
/// The kernel's, if it refuses any ring at all. Options that it refuses are left out.
pub(super) fn start(member: &Arc<Member>, arena: &Arc<Arena>, options: DriverOptions) -> io::Result<Started> {
    let (made_sender, made) = mpsc::sync_channel(1);
    let (ready_sender, ready) = mpsc::sync_channel(1);
    let (member_of_thread, arena) = (Arc::clone(member), Arc::clone(arena));
    let body = move || {
        // The rings belong to the thread that makes them.
        let made = Rings::new(&member_of_thread, options).and_then(|rings| {
            let waker = rings.waker()?;
            Ok((rings, Arc::new(Shared { member: member_of_thread, inbox: Mutex::default(), waker })))
        });
        let (mut rings, shared) = match made {
            Ok(made) => made,
            Err(error) => return drop(made_sender.send(Err(error))),
        };
        let _ = made_sender.send(Ok(Arc::clone(&shared)));
        arena.settle();
        rings.register(&arena);
        let _ = ready_sender.send(());
        Driver { rings, transfers: Transfers::new(RING_IN_FLIGHT_MAX), shared, arena }.run();
    };
    let thread = std::thread::Builder::new().name("hearth-disk".into()).spawn(body)?;
    let shared = match made.recv().map_err(io::Error::other)? {
        Ok(shared) => shared,
        Err(error) => {
            // Nothing of it is left when another driver begins.
            let _ = thread.join();
            return Err(error);
        }
    };
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
    waker: Waker,
}

#[derive(Default)]
struct Inbox {
    requests: Vec<Request>,
    /// True while the thread sleeps and has to be woken.
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
            self.shared.waker.wake();
        }
    }

    fn stop(&self) {
        lock(&self.shared.inbox).stopping = true;
        // Held while waiting, so that whoever else stops the device waits too.
        if let Some(thread) = lock(&self.thread).take() {
            self.shared.waker.wake();
            if thread.join().is_err() {
                tracing::error!("the disk thread panicked");
            }
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
    shared: Arc<Shared>,
    arena: Arc<Arena>,
}

impl Driver {
    fn run(mut self) {
        let _guard = AbortOnPanic;
        loop {
            self.take_requests();
            let now = Instant::now();
            while let Some(submission) = self.transfers.next(now) {
                // SAFETY: the memory is a slot of `arena`, which was registered, and belongs to the table
                // until the completion below: the table lends none of it, `abandon` frees none of it, and
                // a panic ends the process.
                unsafe { self.rings.push(&submission, &self.arena) };
            }
            self.tell_ended();
            let entered = match self.fall_asleep() {
                Some(true) if self.transfers.is_idle() => return self.rings.release(),
                Some(_) => self.rings.wait(),
                // Something came meanwhile.
                None => self.rings.submit(),
            };
            if let Err(error) = entered {
                return self.abandon(&error);
            }
            self.rings.reap(|place, result| self.transfers.complete(place, result));
        }
    }

    fn take_requests(&mut self) {
        let requests = {
            let mut inbox = lock(&self.shared.inbox);
            inbox.sleeping = false;
            std::mem::take(&mut inbox.requests)
        };
        for request in requests {
            self.transfers.push(request);
        }
    }

    /// Sees to it that the next request wakes this thread, unless one has come. Says whether no more will come.
    fn fall_asleep(&mut self) -> Option<bool> {
        self.rings.arm_wake();
        let mut inbox = lock(&self.shared.inbox);
        if !inbox.requests.is_empty() {
            return None;
        }
        inbox.sleeping = !self.rings.is_polling();
        Some(inbox.stopping)
    }

    fn tell_ended(&mut self) {
        while let Some(ended) = self.transfers.pop_ended() {
            ended.tell();
        }
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
