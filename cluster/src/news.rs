//! What the entries applied on this node did, handed to those who wait for it: callers who wait for a claim,
//! and the store that keeps blocks longer or less long than it knew.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hearth_proto::BlockId;
use hearth_proto::limits::KEPT_QUEUE_MAX;
use tokio::sync::Notify;

use crate::state::News;
use crate::waiters::Waiters;

/// One group's news.
#[derive(Debug, Default)]
pub(crate) struct NewsDesk {
    pub(crate) waiters: Waiters,
    pub(crate) kept: KeptQueue,
}

impl NewsDesk {
    /// Hands out what an entry did, after it was applied.
    pub(crate) fn post(&self, news: News) {
        if !news.unclaimed.is_empty() {
            self.waiters.wake(&news.unclaimed);
        }
        self.kept.push(news.kept);
    }

    /// The whole state was replaced.
    pub(crate) fn replaced(&self) {
        self.waiters.wake_all();
        self.kept.push_all();
    }
}

/// Blocks whose store is to be told how they are kept.
#[derive(Debug)]
pub(crate) struct KeptQueue {
    changed: Mutex<Changed>,
    filled: Notify,
}

/// What the store is to be told of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// Every block of which anything is known.
    All,
    These(Vec<BlockId>),
}

impl Default for KeptQueue {
    /// A store that begins knows nothing: it is told everything first.
    fn default() -> Self {
        Self { changed: Mutex::new(Changed::All), filled: Notify::new() }
    }
}

impl KeptQueue {
    /// Adds blocks; if there are too many, all are told anew instead.
    pub(crate) fn push(&self, blocks: Vec<BlockId>) {
        if blocks.is_empty() {
            return;
        }
        let mut changed = self.lock();
        match &mut *changed {
            Changed::All => {}
            Changed::These(waiting) if waiting.len() + blocks.len() > KEPT_QUEUE_MAX => {
                *changed = Changed::All;
            }
            Changed::These(waiting) => waiting.extend(blocks),
        }
        drop(changed);
        self.filled.notify_one();
    }

    pub(crate) fn push_all(&self) {
        *self.lock() = Changed::All;
        self.filled.notify_one();
    }

    /// Waits for something to tell. *Cancel safety*: what was not returned stays.
    pub(crate) async fn take(&self) -> Changed {
        loop {
            let changed = std::mem::replace(&mut *self.lock(), Changed::These(Vec::new()));
            if changed != Changed::These(Vec::new()) {
                return changed;
            }
            self.filled.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use hearth_proto::{BlockKey, NamespaceId};

    use super::*;

    fn blocks(count: usize) -> Vec<BlockId> {
        let block =
            |number: usize| BlockId { namespace: NamespaceId::DEFAULT, key: BlockKey([number as u8; 32]) };
        (0..count).map(block).collect()
    }

    #[test]
    fn a_store_is_told_all_at_first_then_what_changes_and_all_again_if_that_is_too_much() {
        let queue = KeptQueue::default();
        queue.push(blocks(1));
        assert_eq!(queue.take().now_or_never(), Some(Changed::All));
        assert_eq!(queue.take().now_or_never(), None);
        queue.push(blocks(2));
        queue.push(blocks(1));
        let told = queue.take().now_or_never();
        assert_eq!(told, Some(Changed::These([blocks(2), blocks(1)].concat())));
        queue.push(blocks(KEPT_QUEUE_MAX));
        queue.push(blocks(1));
        assert_eq!(queue.take().now_or_never(), Some(Changed::All));
        queue.push_all();
        assert_eq!(queue.take().now_or_never(), Some(Changed::All));
        assert_eq!(queue.take().now_or_never(), None);
    }
}
