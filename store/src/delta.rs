//! The queue of changes of what this store holds, for its caller to report.
//!
//! Changes of one block are queued under the lock of its index shard, so their order is the order in
//! which they happened.

use std::collections::VecDeque;
use std::sync::Mutex;

use hearth_proto::BlockDelta;
use hearth_proto::limits::DELTA_QUEUE_MAX;
use tokio::sync::Notify;

use crate::sync::lock;

/// What remains after deltas were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaStatus {
    /// The queue is empty.
    Complete,
    /// There are more.
    More,
    /// More changes came than the queue holds, and it was cleared: the caller sends the inventory anew,
    /// then the deltas that follow.
    Overflowed,
}

pub(crate) struct DeltaQueue {
    state: Mutex<State>,
    ready: Notify,
    max: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<BlockDelta>,
    overflowed: bool,
}

impl DeltaQueue {
    pub(crate) fn new() -> Self {
        Self::with_max(DELTA_QUEUE_MAX)
    }

    fn with_max(max: usize) -> Self {
        Self { state: Mutex::new(State::default()), ready: Notify::new(), max }
    }

    pub(crate) fn push(&self, delta: BlockDelta) {
        let mut state = lock(&self.state);
        if state.overflowed {
            // The inventory that the caller takes after it learns of the overflow includes this change.
            return;
        }
        if state.queue.len() == self.max {
            state.queue = VecDeque::new();
            state.overflowed = true;
        } else {
            state.queue.push_back(delta);
        }
        if state.overflowed || state.queue.len() == 1 {
            self.ready.notify_one();
        }
    }

    pub(crate) fn take(&self, max: usize, out: &mut Vec<BlockDelta>) -> DeltaStatus {
        let mut state = lock(&self.state);
        if std::mem::take(&mut state.overflowed) {
            return DeltaStatus::Overflowed;
        }
        let count = max.min(state.queue.len());
        out.extend(state.queue.drain(..count));
        if state.queue.is_empty() { DeltaStatus::Complete } else { DeltaStatus::More }
    }

    /// Waits until there is something to take. Cancel safe. One task at a time may wait.
    pub(crate) async fn ready(&self) {
        loop {
            {
                let state = lock(&self.state);
                if state.overflowed || !state.queue.is_empty() {
                    return;
                }
            }
            self.ready.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::{BlockId, BlockKey, NamespaceId, Tier};

    use super::*;

    fn delta(n: u8) -> BlockDelta {
        let id = BlockId { namespace: NamespaceId(0), key: BlockKey([n; 32]) };
        BlockDelta { id, tier: Tier::Host, added: true, payload_len: 1 }
    }

    #[test]
    fn deltas_come_out_in_order_and_in_pieces() {
        let queue = DeltaQueue::with_max(10);
        (0..5).for_each(|n| queue.push(delta(n)));
        let mut out = Vec::new();
        assert_eq!(queue.take(3, &mut out), DeltaStatus::More);
        assert_eq!(queue.take(3, &mut out), DeltaStatus::Complete);
        assert_eq!(out, (0..5).map(delta).collect::<Vec<_>>());
    }

    #[test]
    fn overflow_is_said_once_and_then_changes_flow_again() {
        let queue = DeltaQueue::with_max(2);
        (0..5).for_each(|n| queue.push(delta(n)));
        let mut out = Vec::new();
        assert_eq!(queue.take(9, &mut out), DeltaStatus::Overflowed);
        assert!(out.is_empty());
        queue.push(delta(7));
        assert_eq!(queue.take(9, &mut out), DeltaStatus::Complete);
        assert_eq!(out, [delta(7)]);
    }

    #[tokio::test]
    async fn a_waiter_is_woken_by_the_first_delta() {
        let queue = DeltaQueue::with_max(2);
        tokio::join!(queue.ready(), async { queue.push(delta(1)) });
        queue.ready().await;
    }
}
