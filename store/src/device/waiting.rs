//! Transfers that wait for a place, in the order in which they are to begin. Pure: time is passed in.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::request::Urgency;
use super::transfer::{Kind, Transfer};

/// Reads by urgency, deadline and arrival; the rest by arrival.
///
/// It has no bound of its own: what waits was bounded where its slot was given out (INV-BOUND).
#[derive(Default)]
pub(super) struct Waiting {
    /// One for each of [`Urgency::ALL`].
    reads: [BTreeMap<(Instant, u64), Transfer>; Urgency::ALL.len()],
    arrivals: u64,
    writes: VecDeque<Transfer>,
    discards: VecDeque<Transfer>,
}

impl Waiting {
    pub(super) fn push(&mut self, transfer: Transfer) {
        match transfer.kind() {
            Kind::Read { urgency, deadline } => {
                let class = Urgency::ALL.iter().position(|one| *one == urgency).expect("one of all");
                self.reads[class].insert((deadline, self.arrivals), transfer);
                self.arrivals += 1;
            }
            Kind::Write => self.writes.push_back(transfer),
            Kind::Sync => unreachable!("the table makes its syncs itself"),
            Kind::Discard => self.discards.push_back(transfer),
        }
    }

    /// Takes a read that is too late to begin, of whatever urgency, or that nobody waits for and whose turn
    /// it is.
    pub(super) fn pop_lapsed_read(&mut self, now: Instant) -> Option<Transfer> {
        let class = self.reads.iter_mut().find(|class| {
            class
                .first_key_value()
                .is_some_and(|((deadline, _), transfer)| *deadline <= now || transfer.is_abandoned())
        })?;
        class.pop_first().map(|(_, transfer)| transfer)
    }

    pub(super) fn pop_read(&mut self) -> Option<Transfer> {
        self.reads.iter_mut().find_map(BTreeMap::pop_first).map(|(_, transfer)| transfer)
    }

    pub(super) fn pop_write(&mut self) -> Option<Transfer> {
        self.writes.pop_front()
    }

    pub(super) fn pop_discard(&mut self) -> Option<Transfer> {
        self.discards.pop_front()
    }

    pub(super) fn pop_any(&mut self) -> Option<Transfer> {
        self.pop_read().or_else(|| self.pop_discard()).or_else(|| self.pop_write())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reads.iter().all(BTreeMap::is_empty) && self.writes.is_empty() && self.discards.is_empty()
    }
}
