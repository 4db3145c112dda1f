//! Calls that wait on this node until the claim on a block ends. What is applied wakes them; nobody polls.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_proto::BlockId;
use hearth_proto::limits::WAITERS_MAX;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::state::BlockMap;

/// Who waits for what.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    by_block: BlockMap<(Arc<Notify>, usize)>,
    count: usize,
}

/// One call that waits; it counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiter<'a> {
    waiters: &'a Waiters,
    id: BlockId,
    notify: Arc<Notify>,
}

impl Waiters {
    /// Counts one more call; `None` if there are too many (INV-BOUND).
    pub(crate) fn register(&self, id: BlockId) -> Option<Waiter<'_>> {
        let mut waiting = self.lock();
        if waiting.count >= WAITERS_MAX {
            return None;
        }
        waiting.count += 1;
        let (notify, count) = waiting.by_block.entry(id).or_default();
        *count += 1;
        let notify = Arc::clone(notify);
        drop(waiting);
        Some(Waiter { waiters: self, id, notify })
    }

    /// Wakes who waits for one of these blocks.
    pub(crate) fn wake(&self, blocks: &[BlockId]) {
        let waiting = self.lock();
        for id in blocks {
            if let Some((notify, _)) = waiting.by_block.get(id) {
                notify.notify_waiters();
            }
        }
    }

    /// Wakes everybody: the state was replaced, and what happened to whom is not known.
    pub(crate) fn wake_all(&self) {
        self.lock().by_block.values().for_each(|(notify, _)| notify.notify_waiters());
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter<'_> {
    /// Resolves once something has happened since this call, even before it is polled: what it waits for is
    /// looked at after this, and before it is awaited.
    pub(crate) fn woken(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        waiting.count -= 1;
        if let Some((_, count)) = waiting.by_block.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                waiting.by_block.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use hearth_proto::{BlockKey, NamespaceId};

    use super::*;

    fn block(number: u8) -> BlockId {
        BlockId { namespace: NamespaceId::DEFAULT, key: BlockKey([number; 32]) }
    }

    #[test]
    fn whoever_waits_for_a_block_is_woken_and_nobody_else() {
        let waiters = Waiters::default();
        let [first, second, other] =
            [1, 1, 2].map(|number| waiters.register(block(number)).expect("there is room"));
        let woken = [&first, &second, &other].map(Waiter::woken);
        waiters.wake(&[block(1), block(3)]);
        assert_eq!(woken.map(|woken| woken.now_or_never().is_some()), [true, true, false]);
        assert!(first.woken().now_or_never().is_none(), "that was heard already");
        let woken = [&first, &other].map(Waiter::woken);
        waiters.wake_all();
        assert_eq!(woken.map(|woken| woken.now_or_never().is_some()), [true, true]);
    }

    #[test]
    fn those_who_wait_are_bounded_and_leave_nothing_behind() {
        let waiters = Waiters::default();
        let mut waiting: Vec<_> =
            (0..WAITERS_MAX).map(|number| waiters.register(block(number as u8))).collect();
        assert!(waiting.iter().all(Option::is_some) && waiters.register(block(1)).is_none());
        waiting.pop();
        assert!(waiters.register(block(1)).is_some());
        drop(waiting);
        let left = waiters.lock();
        assert_eq!((left.count, left.by_block.len()), (0, 0), "INV-LEAK");
    }
}
