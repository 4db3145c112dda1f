//! The portable driver: a few threads that make blocking calls. It lends nothing to the kernel beyond a
//! call, so it needs no unsafe code.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use hearth_proto::limits::DISK_THREADS;
use rustix::fs::{FallocateFlags, fallocate};

use super::file::Member;
use super::request::Request;
use super::transfer::{Ended, Memory};
use super::transfers::{PLACES_MIN, Submission, Transfers, Work};
use super::{Device, Space, Started, stopped};
use crate::arena::Arena;
use crate::sync::lock;

const _: () = assert!(DISK_THREADS >= PLACES_MIN, "each thread performs one transfer at a time");

/// Starts the threads, which serve at once, and makes the arena ready meanwhile.
pub(super) fn start(member: &Arc<Member>, arena: &Arc<Arena>) -> io::Result<Started> {
    let shared = Arc::new(Shared {
        member: Arc::clone(member),
        state: Mutex::new(State { transfers: Transfers::new(DISK_THREADS), stopping: false }),
        changed: Condvar::new(),
    });
    let (ready_sender, ready) = mpsc::sync_channel(1);
    let mut settle = Some((Arc::clone(arena), ready_sender));
    let pool = PoolDevice { shared, threads: Mutex::default() };
    for number in 0..DISK_THREADS {
        let shared = Arc::clone(&pool.shared);
        let name = format!("hearth-disk-{number}");
        let settle = settle.take();
        let body = move || {
            if let Some((arena, ready)) = settle {
                arena.settle();
                let _ = ready.send(());
            }
            shared.serve();
        };
        match std::thread::Builder::new().name(name).spawn(body) {
            Ok(thread) => lock(&pool.threads).push(thread),
            Err(error) => {
                pool.stop();
                return Err(error);
            }
        }
    }
    Ok(Started { device: Arc::new(pool), ready })
}

/// A device whose transfers run on threads.
struct PoolDevice {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    member: Arc<Member>,
    state: Mutex<State>,
    /// Tells idle threads of a request, or of the end.
    changed: Condvar,
}

struct State {
    transfers: Transfers,
    stopping: bool,
}

impl Device for PoolDevice {
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
        let mut state = lock(&self.shared.state);
        if state.stopping {
            drop(state);
            return request.refuse(stopped());
        }
        state.transfers.push(request);
        drop(state);
        self.shared.changed.notify_one();
    }

    fn stop(&self) {
        lock(&self.shared.state).stopping = true;
        self.shared.changed.notify_all();
        // Held while waiting, so that whoever else stops the device waits too.
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a disk thread panicked");
            }
        }
    }
}

impl Shared {
    /// The life of one thread.
    fn serve(&self) {
        let mut state = lock(&self.state);
        loop {
            let submission = state.transfers.next(Instant::now());
            // Of reads that came too late, and of what this thread has performed.
            let ended: Vec<_> = std::iter::from_fn(|| state.transfers.pop_ended()).collect();
            if let Some(submission) = submission {
                let mut memory = state.transfers.lend(submission.place);
                drop(state);
                tell(ended);
                let result = self.perform(&submission, memory.as_mut());
                state = lock(&self.state);
                if let Some(memory) = memory {
                    state.transfers.restore(submission.place, memory);
                }
                state.transfers.complete(submission.place, result);
            } else if !ended.is_empty() {
                drop(state);
                tell(ended);
                state = lock(&self.state);
            } else if state.stopping && state.transfers.is_idle() {
                self.changed.notify_all();
                return;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn perform(&self, submission: &Submission, memory: Option<&mut Memory>) -> io::Result<usize> {
        let file = self.member.file();
        match (&submission.work, memory) {
            (Work::Read(span), Some(Memory::Slot(slot))) => {
                file.read_at(&mut slot.record_mut()[span.start..], span.offset)
            }
            (Work::Write(span), Some(Memory::Block(block))) => {
                file.write_at(&block.slot().record()[span.start..], span.offset)
            }
            (Work::Sync, _) => file.sync_data().map(|()| 0),
            (Work::Discard { offset, len }, _) => {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                Ok(fallocate(file, punch, *offset, *len).map(|()| 0)?)
            }
            _ => unreachable!("reads come with a slot and writes with a block"),
        }
    }
}

fn tell(ended: Vec<Ended>) {
    for ended in ended {
        ended.tell();
    }
}
