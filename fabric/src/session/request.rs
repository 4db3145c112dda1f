//! One request, and which of its parts still await an answer.

use std::time::Instant;

use hearth_proto::Incarnation;
use hearth_proto::frame::BlockStatus;

use super::{Outcome, Route};
use crate::block_buf::BlockBuf;
use crate::mover::{GetCompletion, GetItem, PutCompletion};

/// One block of a get.
pub(super) enum GetSlot {
    Awaiting(GetItem),
    /// Its buffer is with the transport.
    Landing,
    Done,
}

impl GetSlot {
    pub(super) fn awaiting(mut item: GetItem) -> Self {
        item.buffer.clear();
        Self::Awaiting(item)
    }
}

/// A get, and what every answer to it is judged by.
pub(super) struct GetWork {
    pub(super) slots: Vec<GetSlot>,
    /// The incarnation that must answer; zero for any.
    pub(super) expected: Incarnation,
    pub(super) deadline: Instant,
}

/// What was asked, with the parts that are still to be answered.
pub(super) enum Work {
    Get(GetWork),
    /// Whether each block awaits its answer.
    Put(Vec<bool>),
    Contains(usize),
    Remove(usize),
}

pub(super) struct Request<R> {
    pub(super) work: Work,
    pub(super) route: R,
    /// Parts not yet delivered.
    missing: usize,
}

impl<R: Route> Request<R> {
    pub(super) fn new(work: Work, route: R) -> Self {
        let missing = match &work {
            Work::Get(get) => get.slots.len(),
            Work::Put(awaited) => awaited.iter().filter(|awaited| **awaited).count(),
            Work::Contains(_) | Work::Remove(_) => 1,
        };
        Self { work, route, missing }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.missing == 0
    }

    pub(super) fn complete(&mut self, outcome: Outcome) {
        self.missing = self.missing.checked_sub(1).expect("a slot is completed once");
        self.route.deliver(outcome);
    }

    pub(super) fn unanswered(mut self, why: BlockStatus) -> Vec<Outcome> {
        self.take_unanswered(why)
    }

    pub(super) fn take_unanswered(&mut self, why: BlockStatus) -> Vec<Outcome> {
        let outcomes: Vec<Outcome> = match &mut self.work {
            Work::Get(get) => (0..)
                .zip(get.slots.drain(..))
                .filter_map(|(index, slot)| slot_unanswered(index, slot, why))
                .collect(),
            Work::Put(awaited) => (0..)
                .zip(awaited.drain(..))
                .filter(|(_, awaited)| *awaited)
                .map(|(index, _)| Outcome::Put(PutCompletion { index, result: Err(why) }))
                .collect(),
            Work::Contains(_) | Work::Remove(_) => vec![Outcome::Failed(why)],
        };
        assert_eq!(outcomes.len(), self.missing, "what is missing is what was not delivered");
        self.missing = 0;
        outcomes
    }
}

fn slot_unanswered(index: u32, slot: GetSlot, why: BlockStatus) -> Option<Outcome> {
    let buffer = match slot {
        GetSlot::Awaiting(item) => item.buffer,
        GetSlot::Landing => BlockBuf::default(),
        GetSlot::Done => return None,
    };
    Some(Outcome::Got(GetCompletion { index, buffer, block_len: 0, result: Err(why) }))
}

pub(super) fn refused_get(items: Vec<GetItem>, why: BlockStatus) -> Vec<Outcome> {
    let slots = items.into_iter().map(GetSlot::awaiting);
    (0..).zip(slots).filter_map(|(index, slot)| slot_unanswered(index, slot, why)).collect()
}

pub(crate) fn refused_put(count: usize, why: BlockStatus) -> Vec<Outcome> {
    (0..).zip(0..count).map(|(index, _)| Outcome::Put(PutCompletion { index, result: Err(why) })).collect()
}
