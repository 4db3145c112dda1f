//! Batches that wait for those before them.

use std::collections::VecDeque;

use hearth_proto::limits::{EVENT_HELD_BATCHES_MAX, EVENT_HELD_BYTES_MAX};

/// Batches in the order of their numbers, holes allowed.
#[derive(Debug)]
pub(super) struct Held<T> {
    batches: VecDeque<(u64, T)>,
    bytes: usize,
}

impl<T: AsRef<[u8]>> Held<T> {
    pub(super) const fn new() -> Self {
        Self { batches: VecDeque::new(), bytes: 0 }
    }

    /// Keeps one that comes after all others. Says whether there was room for it.
    ///
    /// *Invariants*: its number is the highest.
    pub(super) fn push(&mut self, seq: u64, payload: T) -> bool {
        assert!(self.batches.back().is_none_or(|(last, _)| *last < seq), "batches are held in order");
        let bytes = self.bytes + payload.as_ref().len();
        if self.batches.len() >= EVENT_HELD_BATCHES_MAX || bytes > EVENT_HELD_BYTES_MAX {
            return false;
        }
        self.bytes = bytes;
        self.batches.push_back((seq, payload));
        true
    }

    /// The number of the first.
    pub(super) fn first(&self) -> Option<u64> {
        self.batches.front().map(|(seq, _)| *seq)
    }

    /// Takes the first if it has this number. Those with lower ones are let go of.
    pub(super) fn pop(&mut self, seq: u64) -> Option<T> {
        while self.first()? < seq {
            self.pop_first();
        }
        if self.first()? == seq { self.pop_first() } else { None }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    fn pop_first(&mut self) -> Option<T> {
        let (_, payload) = self.batches.pop_front()?;
        self.bytes -= payload.as_ref().len();
        Some(payload)
    }
}
