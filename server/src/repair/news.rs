//! Blocks that came to this node a moment ago, and which of them are copies that another node sent.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hearth_proto::limits::COPY_QUEUE_MAX;
use hearth_proto::{BlockDelta, BlockId, Tier};
use rustc_hash::FxHashSet;
use tokio::sync::Notify;

/// What the node's store and its block service tell whoever makes copies. While nobody wants to know, it
/// costs one load for each batch of changes.
#[derive(Debug)]
pub(crate) struct NewBlocks {
    /// The tier in which a block of this node is durable, or is for lack of another.
    tier: Tier,
    wanted: AtomicBool,
    state: Mutex<State>,
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: Vec<(BlockId, u32)>,
    /// More came than were remembered.
    lost: bool,
    arriving: Arriving,
}

/// Copies that were sent here: they are what was missing, and are not copied on.
#[derive(Debug, Default)]
struct Arriving {
    known: FxHashSet<BlockId>,
    order: VecDeque<BlockId>,
}

impl NewBlocks {
    pub(crate) fn new(has_nvme: bool) -> Self {
        Self {
            tier: if has_nvme { Tier::Nvme } else { Tier::Host },
            wanted: AtomicBool::new(false),
            state: Mutex::default(),
            came: Notify::new(),
        }
    }

    /// Takes in changes of what the store holds, in their order.
    pub(crate) fn observe(&self, deltas: &[BlockDelta]) {
        if deltas.is_empty() || !self.is_wanted() {
            return;
        }
        let mut state = self.lock();
        let before = state.queue.len();
        for delta in deltas.iter().filter(|delta| delta.added && delta.tier == self.tier) {
            if state.arriving.known.remove(&delta.id) {
                continue;
            }
            if state.queue.len() < COPY_QUEUE_MAX {
                state.queue.push((delta.id, delta.payload_len));
            } else {
                state.lost = true;
            }
        }
        let came = state.queue.len() > before || state.lost;
        drop(state);
        if came {
            self.came.notify_one();
        }
    }

    /// Changes were lost before they could be taken in.
    pub(crate) fn missed_some(&self) {
        if self.is_wanted() {
            self.lock().lost = true;
            self.came.notify_one();
        }
    }

    /// A copy is about to be put into the store.
    pub(crate) fn arrives(&self, id: BlockId) {
        if !self.is_wanted() {
            return;
        }
        let mut state = self.lock();
        if state.arriving.known.insert(id) {
            state.arriving.order.push_back(id);
        }
        if state.arriving.order.len() > COPY_QUEUE_MAX
            && let Some(oldest) = state.arriving.order.pop_front()
        {
            state.arriving.known.remove(&oldest);
        }
    }

    /// A copy did not come, or was here already.
    pub(crate) fn arrived_not(&self, id: &BlockId) {
        if self.is_wanted() {
            self.lock().arriving.known.remove(id);
        }
    }

    /// Says whether anybody wants to know from now on.
    pub(super) fn want(&self, wanted: bool) {
        if self.wanted.swap(wanted, Ordering::Relaxed) && !wanted {
            *self.lock() = State::default();
        }
    }

    /// Takes what came, and whether there was more. *Cancel safe*.
    pub(super) async fn next(&self) -> (Vec<(BlockId, u32)>, bool) {
        loop {
            {
                let mut state = self.lock();
                if !state.queue.is_empty() || state.lost {
                    return (std::mem::take(&mut state.queue), std::mem::take(&mut state.lost));
                }
            }
            self.came.notified().await;
        }
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::{BlockKey, NamespaceId};

    use super::*;

    fn delta(number: u32, tier: Tier, added: bool) -> BlockDelta {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let id = BlockId { namespace: NamespaceId::DEFAULT, key: BlockKey(key) };
        BlockDelta { id, tier, added, payload_len: number }
    }

    fn taken(news: &NewBlocks) -> Option<(Vec<u32>, bool)> {
        let next = futures::FutureExt::now_or_never(news.next());
        next.map(|(blocks, lost)| (blocks.into_iter().map(|(_, len)| len).collect(), lost))
    }

    #[test]
    fn what_becomes_durable_is_news_unless_it_is_a_copy() {
        let news = NewBlocks::new(true);
        news.observe(&[delta(1, Tier::Nvme, true)]);
        assert_eq!(taken(&news), None, "nobody wanted to know");
        news.want(true);
        news.arrives(delta(3, Tier::Nvme, true).id);
        news.observe(&[
            delta(2, Tier::Nvme, true),
            delta(3, Tier::Nvme, true),
            delta(4, Tier::Host, true),
            delta(5, Tier::Nvme, false),
        ]);
        assert_eq!(taken(&news), Some((vec![2], false)));
        news.observe(&[delta(3, Tier::Nvme, true)]);
        assert_eq!(taken(&news), Some((vec![3], false)), "it was a copy once");
        news.arrives(delta(7, Tier::Nvme, true).id);
        news.arrived_not(&delta(7, Tier::Nvme, true).id);
        news.observe(&[delta(7, Tier::Nvme, true)]);
        assert_eq!(taken(&news), Some((vec![7], false)), "a client put it after the copy had failed");
        let memory_only = NewBlocks::new(false);
        memory_only.want(true);
        memory_only.observe(&[delta(6, Tier::Host, true)]);
        assert_eq!(taken(&memory_only), Some((vec![6], false)));
    }

    #[test]
    fn what_is_too_much_is_said_to_be_lost() {
        let news = NewBlocks::new(true);
        news.want(true);
        let many: Vec<_> = (0..COPY_QUEUE_MAX as u32 + 1).map(|n| delta(n, Tier::Nvme, true)).collect();
        news.observe(&many);
        let (blocks, lost) = taken(&news).expect("much came");
        assert!(blocks.len() == COPY_QUEUE_MAX && lost);
        assert_eq!(taken(&news), None);
        news.missed_some();
        assert_eq!(taken(&news), Some((vec![], true)));
        (0..COPY_QUEUE_MAX as u32 * 2).for_each(|n| news.arrives(delta(n, Tier::Nvme, true).id));
        assert!(news.lock().arriving.known.len() <= COPY_QUEUE_MAX);
        news.want(false);
        assert!(news.lock().arriving.known.is_empty(), "whoever stops to listen keeps nothing");
    }
}
