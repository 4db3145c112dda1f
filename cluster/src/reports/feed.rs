//! What waits to be reported to one directory group.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_proto::BlockDelta;
use hearth_proto::limits::REPORT_STALL_MS;
use tokio::sync::Notify;

use crate::state::Digests;

/// See the module. A group that takes what it is told holds the source back while too much waits; one that takes
/// nothing does not, for long: its inventory is compared later.
pub(super) struct Feed {
    queue: Mutex<Queue>,
    filled: Notify,
    emptied: Notify,
    /// Changes that may wait before the source is held back.
    deltas_max: usize,
}

struct Queue {
    /// What came since the inventory was taken, or is about to be.
    deltas: Vec<BlockDelta>,
    inventory: Inventory,
    /// When the group last took something.
    progress: Instant,
}

/// Whether a group needs to be told everything.
#[derive(Default)]
enum Inventory {
    #[default]
    Known,
    /// It missed something.
    Lacking,
    /// It is being taken: what comes from here on is told after it.
    Coming,
    There(Digests),
}

/// What a group is told next.
pub(super) enum News {
    Inventory(Digests),
    Changes(Vec<BlockDelta>),
}

impl Feed {
    /// A feed whose inventory is to be told first.
    pub(super) fn new(deltas_max: usize) -> Self {
        let queue = Queue { deltas: Vec::new(), inventory: Inventory::Lacking, progress: Instant::now() };
        Self { queue: Mutex::new(queue), filled: Notify::new(), emptied: Notify::new(), deltas_max }
    }

    /// Waits until there is room for more. False if there is none for so long that only the inventory will do.
    pub(super) async fn has_room(&self) -> bool {
        loop {
            let until = {
                let queue = self.lock();
                if queue.deltas.len() < self.deltas_max {
                    return true;
                }
                let until = queue.progress + Duration::from_millis(REPORT_STALL_MS);
                // Taking an inventory ends by itself, however long it takes.
                let is_stalled = until <= Instant::now() && !matches!(queue.inventory, Inventory::Coming);
                if is_stalled {
                    return false;
                }
                until.max(Instant::now() + Duration::from_millis(REPORT_STALL_MS / 10))
            };
            // Looked at again in any case.
            let _ = tokio::time::timeout_at(until.into(), self.emptied.notified()).await;
        }
    }

    /// Adds changes, unless the inventory is to be taken later, which has them.
    pub(super) fn push(&self, deltas: impl Iterator<Item = BlockDelta>) {
        let mut queue = self.lock();
        if matches!(queue.inventory, Inventory::Lacking) {
            return;
        }
        queue.deltas.extend(deltas);
        let is_news = !queue.deltas.is_empty();
        drop(queue);
        if is_news {
            self.filled.notify_one();
        }
    }

    /// Notes that the group has taken something.
    pub(super) fn note_progress(&self) {
        self.lock().progress = Instant::now();
    }

    pub(super) fn lack_inventory(&self) {
        let mut queue = self.lock();
        queue.deltas = Vec::new();
        queue.inventory = Inventory::Lacking;
        drop(queue);
        self.emptied.notify_one();
    }

    /// True if the inventory is to be taken for this group: after this call.
    pub(super) fn awaits_inventory(&self) -> bool {
        let mut queue = self.lock();
        let lacks = matches!(queue.inventory, Inventory::Lacking);
        if lacks {
            queue.inventory = Inventory::Coming;
        }
        lacks
    }

    /// Gives the inventory to a group that waits for it: not to one that never did, nor to one that missed
    /// something again meanwhile, for which it is too old.
    pub(super) fn give_inventory(&self, inventory: Digests) {
        let mut queue = self.lock();
        if matches!(queue.inventory, Inventory::Coming) {
            queue.inventory = Inventory::There(inventory);
            queue.progress = Instant::now();
            drop(queue);
            self.filled.notify_one();
        }
    }

    /// Waits for something to tell.
    pub(super) async fn next(&self) -> News {
        loop {
            {
                let mut queue = self.lock();
                match std::mem::take(&mut queue.inventory) {
                    Inventory::There(inventory) => return News::Inventory(inventory),
                    Inventory::Known if !queue.deltas.is_empty() => {
                        return News::Changes(self.take(queue));
                    }
                    other => queue.inventory = other,
                }
            }
            self.filled.notified().await;
        }
    }

    /// Waits for changes, as long as no inventory has to be told first.
    pub(super) async fn changes(&self) -> Vec<BlockDelta> {
        loop {
            {
                let queue = self.lock();
                if matches!(queue.inventory, Inventory::Known) && !queue.deltas.is_empty() {
                    return self.take(queue);
                }
            }
            self.filled.notified().await;
        }
    }

    fn take(&self, mut queue: MutexGuard<'_, Queue>) -> Vec<BlockDelta> {
        let deltas = std::mem::take(&mut queue.deltas);
        queue.progress = Instant::now();
        drop(queue);
        self.emptied.notify_one();
        deltas
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use hearth_proto::{BlockId, BlockKey, NamespaceId, Tier};

    use super::*;

    fn delta(number: u8) -> BlockDelta {
        let id = BlockId { namespace: NamespaceId::DEFAULT, key: BlockKey([number; 32]) };
        BlockDelta { id, tier: Tier::Host, added: true, payload_len: 1 }
    }

    /// A feed whose inventory was told.
    async fn told() -> Feed {
        let feed = Feed::new(2);
        assert!(feed.awaits_inventory() && !feed.awaits_inventory());
        feed.give_inventory(Digests::new(1));
        assert!(matches!(feed.next().await, News::Inventory(_)));
        feed
    }

    #[tokio::test]
    async fn a_source_waits_while_too_much_does_and_goes_on_when_it_was_taken() {
        let feed = told().await;
        feed.push([delta(1)].into_iter());
        assert!(feed.has_room().await);
        feed.push([delta(2), delta(3)].into_iter());
        assert_eq!(feed.has_room().now_or_never(), None);
        let (has_room, taken) = tokio::join!(feed.has_room(), feed.changes());
        assert!(has_room);
        assert_eq!(taken, [delta(1), delta(2), delta(3)]);
    }

    #[tokio::test]
    async fn a_group_that_takes_nothing_does_not_hold_the_source_back_for_ever() {
        let feed = told().await;
        feed.push([delta(1), delta(2)].into_iter());
        let began = Instant::now();
        assert!(!feed.has_room().await);
        assert!(began.elapsed() >= Duration::from_millis(REPORT_STALL_MS / 2));
        feed.lack_inventory();
        assert!(feed.has_room().await);
        feed.push([delta(3)].into_iter());
        assert!(feed.awaits_inventory());
        // What comes while the inventory is taken is told after it.
        feed.push([delta(4)].into_iter());
        feed.give_inventory(Digests::new(1));
        assert!(matches!(feed.next().await, News::Inventory(_)));
        assert_eq!(feed.changes().await, [delta(4)]);
    }
}
