//! The blocks that wait to be copied, bounded, the most valuable first. Pure: time is passed in.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use hearth_proto::limits::{COPY_DELAY_MS, COPY_QUEUE_MAX, COPY_SETTLE_MS};
use hearth_proto::{BlockId, NodeId};
use hearth_store::Standing;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

/// A block that is to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) id: BlockId,
    pub(super) payload_len: u32,
    /// Came to this node a moment ago, and was not found missing.
    pub(super) is_new: bool,
    /// Times that it was tried.
    pub(super) attempts: u32,
}

/// Blocks that wait or are being copied, each once.
#[derive(Debug, Default)]
pub(super) struct CopyQueue {
    new: VecDeque<(Instant, Task)>,
    missing: BTreeMap<(Standing, BlockId), Task>,
    /// Of all that wait or are being copied.
    known: FxHashSet<BlockId>,
}

/// Copies that were made a moment ago: the directory may not have them yet.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// By block, each with the end of its time, the oldest first.
    copies: FxHashMap<BlockId, SmallVec<[(Instant, NodeId); 2]>>,
    order: VecDeque<(Instant, BlockId)>,
}

impl CopyQueue {
    /// Adds a block that came to this node. False if there is no room.
    pub(super) fn push_new(&mut self, task: Task, now: Instant) -> bool {
        if self.new.len() >= COPY_QUEUE_MAX {
            return false;
        }
        if self.known.insert(task.id) {
            self.new.push_back((now + Duration::from_millis(COPY_DELAY_MS), task));
        }
        true
    }

    /// Adds a block that was found to be missing elsewhere. False if one, this or one that is worth less, had
    /// no room.
    pub(super) fn push_missing(&mut self, task: Task, worth: Standing) -> bool {
        if !self.known.insert(task.id) {
            return true;
        }
        self.missing.insert((worth, task.id), task);
        if self.missing.len() <= COPY_QUEUE_MAX {
            return true;
        }
        if let Some((_, least)) = self.missing.pop_first() {
            self.known.remove(&least.id);
        }
        false
    }

    /// The next block that came to this node, if it has waited long enough.
    pub(super) fn pop_new(&mut self, now: Instant) -> Option<Task> {
        let (ready, _) = self.new.front()?;
        if *ready > now {
            return None;
        }
        self.new.pop_front().map(|(_, task)| task)
    }

    /// When the next block that came to this node has waited long enough.
    pub(super) fn new_ready_at(&self) -> Option<Instant> {
        self.new.front().map(|(ready, _)| *ready)
    }

    /// The length of the most valuable block that is missing elsewhere.
    pub(super) fn next_missing_len(&self) -> Option<u32> {
        self.missing.last_key_value().map(|(_, task)| task.payload_len)
    }

    /// The most valuable block that is missing elsewhere.
    pub(super) fn pop_missing(&mut self) -> Option<Task> {
        self.missing.pop_last().map(|(_, task)| task)
    }

    /// A block that was popped is dealt with: it may be added again.
    pub(super) fn done(&mut self, id: &BlockId) {
        self.known.remove(id);
    }

    pub(super) fn missing_len(&self) -> usize {
        self.missing.len()
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        let new = self.new.drain(..).map(|(_, task)| task.id);
        let missing = std::mem::take(&mut self.missing);
        for id in new.chain(missing.into_values().map(|task| task.id)) {
            self.known.remove(&id);
        }
    }
}

impl Settling {
    /// Notes that a node has a copy now.
    pub(super) fn insert(&mut self, id: BlockId, node: NodeId, now: Instant) {
        let until = now + Duration::from_millis(COPY_SETTLE_MS);
        self.order.push_back((until, id));
        self.copies.entry(id).or_default().push((until, node));
        while self.order.len() > COPY_QUEUE_MAX || self.order.front().is_some_and(|(until, _)| *until <= now)
        {
            self.drop_oldest();
        }
    }

    /// The nodes that were given a copy a moment ago.
    pub(super) fn of(&self, id: &BlockId, now: Instant) -> SmallVec<[NodeId; 2]> {
        let copies = self.copies.get(id).into_iter().flatten();
        copies.filter(|(until, _)| *until > now).map(|(_, node)| *node).collect()
    }

    fn drop_oldest(&mut self) {
        let Some((_, id)) = self.order.pop_front() else { return };
        let Some(copies) = self.copies.get_mut(&id) else { return };
        copies.remove(0);
        if copies.is_empty() {
            self.copies.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::{BlockKey, NamespaceId, Priority};

    use super::*;

    const DELAY: Duration = Duration::from_millis(COPY_DELAY_MS);
    const SETTLE: Duration = Duration::from_millis(COPY_SETTLE_MS);

    fn task(number: u32) -> Task {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let id = BlockId { namespace: NamespaceId::DEFAULT, key: BlockKey(key) };
        Task { id, payload_len: 1_000 + number, is_new: false, attempts: 0 }
    }

    fn worth(priority: u8, used_ms: u64) -> Standing {
        Standing { priority: Priority::new(priority).expect("within range"), used_ms }
    }

    #[test]
    fn the_most_valuable_goes_first_and_then_what_was_used_last() {
        let mut queue = CopyQueue::default();
        for (number, worth) in [(1, worth(35, 9)), (2, worth(80, 1)), (3, worth(35, 10)), (4, worth(0, 99))] {
            assert!(queue.push_missing(task(number), worth));
        }
        assert_eq!(queue.next_missing_len(), Some(1_002));
        let order: Vec<u32> =
            std::iter::from_fn(|| queue.pop_missing()).map(|task| task.payload_len - 1_000).collect();
        assert_eq!(order, [2, 3, 1, 4]);
    }

    #[test]
    fn a_block_waits_once_and_may_come_again_when_it_is_dealt_with() {
        let (mut queue, now) = (CopyQueue::default(), Instant::now());
        assert!(queue.push_new(task(1), now) && queue.push_new(task(1), now));
        assert!(queue.push_missing(task(1), worth(1, 1)));
        assert_eq!((queue.missing_len(), queue.pop_new(now)), (0, None), "it waits for its delay");
        assert_eq!(queue.new_ready_at(), Some(now + DELAY));
        assert_eq!(queue.pop_new(now + DELAY), Some(task(1)));
        queue.push_new(task(1), now);
        assert_eq!(queue.pop_new(now + DELAY), None, "it is being copied");
        queue.done(&task(1).id);
        assert!(queue.push_missing(task(1), worth(1, 1)));
        queue.clear();
        assert!(queue.pop_missing().is_none());
        queue.push_missing(task(1), worth(1, 1));
        assert_eq!(queue.missing_len(), 1, "what was forgotten may come again");
    }

    #[test]
    fn when_there_is_no_room_the_least_valuable_goes() {
        let (mut queue, now) = (CopyQueue::default(), Instant::now());
        let count = COPY_QUEUE_MAX as u32;
        assert!((0..count).all(|number| queue.push_missing(task(number), worth(50, u64::from(number)))));
        assert!(!queue.push_missing(task(count), worth(50, u64::from(count))), "block 0 went");
        assert!(!queue.push_missing(task(0), worth(10, 0)), "and does not come back in");
        assert_eq!(queue.missing_len(), COPY_QUEUE_MAX);
        assert_eq!(queue.pop_missing(), Some(task(count)));
        assert!((0..count).all(|number| queue.push_new(task(count + 1 + number), now)));
        assert!(!queue.push_new(task(3 * count), now));
    }

    #[test]
    fn a_copy_settles_for_its_time_and_their_number_is_bounded() {
        let (mut settling, now) = (Settling::default(), Instant::now());
        settling.insert(task(1).id, NodeId(2), now);
        settling.insert(task(1).id, NodeId(3), now + SETTLE / 2);
        assert_eq!(settling.of(&task(1).id, now)[..], [NodeId(2), NodeId(3)]);
        assert_eq!(settling.of(&task(1).id, now + SETTLE)[..], [NodeId(3)]);
        settling.insert(task(2).id, NodeId(2), now + SETTLE * 2);
        assert_eq!(
            (settling.copies.len(), settling.order.len()),
            (1, 1),
            "what expired gives its memory back"
        );
        (0..COPY_QUEUE_MAX as u32 + 9).for_each(|n| settling.insert(task(n).id, NodeId(2), now + SETTLE * 2));
        assert!(settling.order.len() <= COPY_QUEUE_MAX && settling.copies.len() <= COPY_QUEUE_MAX);
    }
}
