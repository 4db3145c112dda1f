//! The arena: one memory region cut into extents and slots, and the leases that keep slots alive.
//!
//! A slot has one exclusive owner while it is filled ([`SlotMut`]), then becomes an immutable block that
//! any number of [`Lease`]s share. Its memory returns to the arena when the last owner is gone, whoever
//! that is: the index, a lease, or the disk thread in the middle of a transfer.

mod block;
mod lines;
mod loan;
mod mapping;
mod prefetch;
mod slot;
mod view;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

pub(crate) use block::HostBlock;
pub use block::Lease;
use hearth_proto::limits::{FIXED_BUFFER_BYTES_MAX, SECTOR_BYTES};
use lines::{Line, Lines};
pub use loan::Loan;
pub(crate) use loan::Loans;
use mapping::Mapping;
pub(crate) use prefetch::prefetch;
pub(crate) use slot::Slot;
pub use slot::SlotMut;
pub use view::{ArenaView, LoanExpired};

use crate::clock::Clock;
use crate::error::OpenError;
use crate::extents::ExtentMap;
use crate::sync::lock;

pub(crate) struct Arena {
    mapping: Mapping,
    slots: Mutex<ExtentMap>,
    piece_bytes: usize,
    /// Those who wait for room.
    lines: Lines,
}

impl Arena {
    pub(crate) fn new(arena_bytes: u64, extent_bytes: usize) -> Result<Arc<Self>, OpenError> {
        let extents = arena_bytes / extent_bytes as u64;
        let bytes = usize::try_from(extents * extent_bytes as u64)
            .map_err(|_| OpenError::Config { detail: "arena_bytes exceeds the address space".into() })?;
        let mapping = Mapping::new(bytes).map_err(OpenError::io(format!("map an arena of {bytes} bytes")))?;
        let extent_sectors =
            u32::try_from(extent_bytes / SECTOR_BYTES).expect("checked with the configuration");
        let mut slots = ExtentMap::new(extent_sectors);
        for _ in 0..extents {
            slots.grow();
        }
        Ok(Arc::new(Self {
            mapping,
            slots: Mutex::new(slots),
            piece_bytes: FIXED_BUFFER_BYTES_MAX / extent_bytes * extent_bytes,
            lines: Lines::default(),
        }))
    }

    /// Gives a free slot of `class` sectors for a payload; evicts nothing.
    pub(crate) fn allocate(self: &Arc<Self>, payload_len: usize, class: u32) -> Option<SlotMut> {
        let given = lock(&self.slots).allocate(class)?;
        Some(SlotMut::new(Slot::new(Arc::clone(self), given.sector, class, payload_len)))
    }

    pub(crate) fn slots(&self) -> &Mutex<ExtentMap> {
        &self.slots
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.mapping.len_bytes() as u64
    }

    /// Makes the memory quick to reach, for devices and for readers; touches all of it, and takes its time.
    pub(crate) fn settle(&self) {
        self.mapping.collapse();
    }

    /// The pieces to register as fixed buffers. No slot spans two of them.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (*mut u8, usize)> {
        let len = self.mapping.len_bytes();
        (0..len)
            .step_by(self.piece_bytes)
            .map(move |at| (self.mapping.at(at), self.piece_bytes.min(len - at)))
    }

    /// The piece in which a slot lies.
    pub(crate) fn piece_of(&self, sector: u32) -> usize {
        sector as usize * SECTOR_BYTES / self.piece_bytes
    }

    /// The memory behind the arena.
    pub(crate) fn memfd(&self) -> BorrowedFd<'_> {
        self.mapping.memfd()
    }

    /// True if anyone waits for a slot of `class` sectors.
    pub(crate) fn anyone_waits(&self, class: u32) -> bool {
        self.lines.anyone_waits(class)
    }

    /// Lets the first in line of each record size try again. Called after anything that may have made room.
    pub(crate) fn made_room(&self) {
        self.lines.made_room();
    }

    /// Waits in the line of a record size and then until `attempt` gives something, tried again whenever
    /// there may be room, and when something ends by itself that `attempt` looks at.
    ///
    /// Cancel safe: whoever gives up leaves the line, and with the last of a line goes what was reserved for
    /// its size.
    pub(crate) async fn wait_for_room<T>(
        &self,
        class: u32,
        clock: &Clock,
        next_end: impl Fn() -> Option<Instant>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> T {
        let waiting = Waiting { arena: self, class, line: self.lines.join(class) };
        let line = &waiting.line;
        let _turn = line.turnstile.acquire().await.expect("the turnstile is never closed");
        loop {
            if let Some(given) = attempt() {
                return given;
            }
            // A notification that came since the attempt began is kept, so none is missed.
            let notified = line.room.notified();
            match next_end() {
                Some(end) => drop(clock.timeout_at(end, notified).await),
                None => notified.await,
            }
        }
    }

    fn release(&self, sector: u32) {
        lock(&self.slots).release(sector);
        self.made_room();
    }
}

/// Somebody in a line.
struct Waiting<'a> {
    arena: &'a Arena,
    class: u32,
    line: Arc<Line>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let last = self.arena.lines.leave(self.class, &self.line);
        if last && lock(&self.arena.slots).end_reservation(self.class) {
            self.arena.made_room();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::extents::class_of;

    fn allocate(arena: &Arc<Arena>, payload_len: usize) -> Option<SlotMut> {
        arena.allocate(payload_len, class_of(payload_len))
    }

    #[test]
    fn slots_come_back_when_their_last_owner_goes() {
        let arena = Arena::new(2 << 20, 1 << 20).unwrap();
        let slot = allocate(&arena, 10_000).unwrap();
        let other = allocate(&arena, 100).unwrap();
        assert_eq!(lock(arena.slots()).used_bytes(), 4 * 4_096);
        drop(slot);
        let block = Arc::new(HostBlock::new(other.into_slot(), hearth_proto::Generation(1), 0));
        let lease = Lease::new(&block, hearth_proto::Tier::Host);
        drop(block);
        assert_eq!(lock(arena.slots()).used_bytes(), 4_096);
        drop(lease);
        assert_eq!(lock(arena.slots()).used_bytes(), 0);
    }

    #[tokio::test]
    async fn room_wakes_the_first_of_each_size_and_nobody_else() {
        let arena = Arena::new(1 << 20, 1 << 20).unwrap();
        let clock = Clock::real();
        let (attempts, may) = (Cell::new(0), Cell::new(false));
        let waiter = |class| {
            arena.wait_for_room(
                class,
                &clock,
                || None,
                || {
                    attempts.set(attempts.get() + 1);
                    may.get().then_some(())
                },
            )
        };
        let mut waiters: Vec<_> = [1, 1, 1, 2, 2].map(|class| Box::pin(waiter(class))).into();
        let mut poll_all = |ended: &mut usize| {
            waiters.retain_mut(|waiter| {
                let pending = futures_poll(waiter.as_mut());
                *ended += usize::from(!pending);
                pending
            });
        };
        let mut ended = 0;
        poll_all(&mut ended);
        assert_eq!(attempts.take(), 2, "the first of each line");
        arena.made_room();
        poll_all(&mut ended);
        assert_eq!((attempts.take(), ended), (2, 0));
        may.set(true);
        arena.made_room();
        (0..3).for_each(|_| poll_all(&mut ended));
        assert_eq!((attempts.take(), ended), (5, 5), "whoever is served makes way for the next");
        assert!(!arena.anyone_waits(1) && !arena.anyone_waits(2));
    }

    /// True if a future is not ready.
    fn futures_poll(future: Pin<&mut impl Future<Output = ()>>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[test]
    fn slots_do_not_share_bytes() {
        let arena = Arena::new(1 << 20, 1 << 20).unwrap();
        let mut slots: Vec<_> = std::iter::from_fn(|| arena.allocate(8_000, 2)).collect();
        assert_eq!(slots.len(), 128);
        for (n, slot) in slots.iter_mut().enumerate() {
            slot.as_mut().fill(n as u8);
        }
        for (n, slot) in slots.iter().enumerate() {
            assert!(slot.iter().all(|byte| *byte == n as u8), "slot {n} was overwritten");
        }
    }

    #[test]
    fn what_a_slot_holds_stays_while_the_arena_gets_huge_pages() {
        let arena = Arena::new(8 << 20, 1 << 20).unwrap();
        let mut slots: Vec<_> = std::iter::from_fn(|| arena.allocate(100_000, 25)).step_by(3).collect();
        for (n, slot) in slots.iter_mut().enumerate() {
            slot.as_mut().fill(n as u8 + 1);
        }
        arena.settle();
        for (n, slot) in slots.iter().enumerate() {
            assert!(slot.iter().all(|byte| *byte == n as u8 + 1), "slot {n} was changed");
        }
    }
}
