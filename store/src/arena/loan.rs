//! Blocks lent for a time to readers outside the process, who map the arena and read in place.
//!
//! Nobody can be stopped from reading what he has mapped, so a loan has an end. When it has passed, the
//! slot may be given to another block whatever the reader does. Before that the generation in the slot's
//! footer is struck out, and a reader who looks at it after he has read knows whether the bytes were the
//! block's all the while (INV-FENCE).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hearth_proto::Generation;
use hearth_proto::limits::LOANS_MAX;

use super::Lease;
use crate::error::LendError;
use crate::sync::lock;

/// Where a block lies in the arena, and until when it surely does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// Names the loan when it is ended.
    pub id: u64,
    /// Where the payload begins in the arena, in bytes.
    pub offset: u64,
    /// Length of the payload in bytes.
    pub payload_len: u32,
    /// Length of the slot in bytes; its last 128 are the footer.
    pub slot_len: u32,
    /// The number of the put that wrote the block.
    pub generation: Generation,
    /// Checksum of the payload.
    pub crc32: u32,
}

/// The loans of one arena.
pub(crate) struct Loans {
    state: Mutex<State>,
    /// When the first loan ends, so that asking costs nothing while there is none.
    first_end_us: AtomicU64,
}

#[derive(Default)]
struct State {
    next_id: u64,
    leases: BTreeMap<u64, (u64, Lease)>,
    ends: BTreeSet<(u64, u64)>,
}

impl Loans {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), first_end_us: AtomicU64::new(u64::MAX) }
    }

    /// Lends a block until a moment.
    pub(crate) fn lend(&self, lease: Lease, until_us: u64) -> Result<Loan, LendError> {
        let mut state = lock(&self.state);
        if state.leases.len() == LOANS_MAX {
            return Err(LendError::TooMany(LOANS_MAX));
        }
        let id = state.next_id;
        state.next_id += 1;
        let loan = lease.describe(id);
        state.leases.insert(id, (until_us, lease));
        state.ends.insert((until_us, id));
        self.note_first(&state);
        Ok(loan)
    }

    /// Ends a loan; false if it had ended.
    pub(crate) fn end(&self, id: u64) -> bool {
        let mut state = lock(&self.state);
        let Some((until_us, lease)) = state.leases.remove(&id) else { return false };
        state.ends.remove(&(until_us, id));
        self.note_first(&state);
        drop(state);
        // A slot may return to the arena with it, which takes other locks.
        drop(lease);
        true
    }

    /// Ends the loans whose time has passed; true if there were any.
    pub(crate) fn end_overdue(&self, now_us: u64) -> bool {
        if now_us < self.first_end_us.load(Ordering::Relaxed) {
            return false;
        }
        let mut overdue = Vec::new();
        let mut state = lock(&self.state);
        while let Some((until_us, id)) = state.ends.first().copied()
            && until_us <= now_us
        {
            state.ends.pop_first();
            overdue.extend(state.leases.remove(&id));
        }
        self.note_first(&state);
        drop(state);
        !overdue.is_empty()
    }

    /// When the first loan ends.
    pub(crate) fn first_end_us(&self) -> Option<u64> {
        Some(self.first_end_us.load(Ordering::Relaxed)).filter(|end_us| *end_us != u64::MAX)
    }

    /// How many blocks are lent.
    pub(crate) fn count(&self) -> usize {
        lock(&self.state).leases.len()
    }

    fn note_first(&self, state: &State) {
        let first = state.ends.first().map_or(u64::MAX, |(until_us, _)| *until_us);
        self.first_end_us.store(first, Ordering::Relaxed);
    }
}
