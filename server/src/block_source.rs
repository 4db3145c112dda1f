//! The store as the metadata plane sees it: what it holds, what changed since the last report, and what it
//! is told to keep.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hearth_cluster::{BlockKeeper, BlockSource, Cluster, DeltaStatus};
use hearth_proto::{BlockDelta, BlockId, Retention};
use hearth_store::{PinError, Store};

use crate::repair::NewBlocks;

/// One node's holdings, as the cluster's reporter reads them.
pub(crate) struct StoreSource {
    pub(crate) store: Store,
    /// Told of what came, so that it is kept as the cluster says.
    pub(crate) cluster: Cluster,
    /// Told of what is new, so that it is copied.
    pub(crate) news: Arc<NewBlocks>,
}

impl BlockSource for StoreSource {
    fn for_each_held(&self, visit: &mut dyn FnMut(BlockDelta) -> ControlFlow<()>) -> ControlFlow<()> {
        self.store.for_each_held(visit)
    }

    fn take_deltas(&self, max: usize, out: &mut Vec<BlockDelta>) -> DeltaStatus {
        let known = out.len();
        let status = self.store.take_deltas(max, out);
        self.news.observe(&out[known..]);
        let came: Vec<BlockId> =
            out[known..].iter().filter(|delta| delta.added).map(|delta| delta.id).collect();
        if !came.is_empty() {
            self.cluster.blocks_came(&came);
        }
        match status {
            hearth_store::DeltaStatus::Complete => DeltaStatus::Complete,
            hearth_store::DeltaStatus::More => DeltaStatus::More,
            hearth_store::DeltaStatus::Overflowed => {
                self.news.missed_some();
                DeltaStatus::Overflowed
            }
        }
    }

    fn ready<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(self.store.deltas_ready())
    }
}

/// The store as the cluster decides what it keeps.
pub(crate) struct StoreKeeper {
    store: Store,
    /// Set once the operator has been told that not all pins fit.
    has_warned: AtomicBool,
}

impl StoreKeeper {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, has_warned: AtomicBool::new(false) }
    }
}

impl BlockKeeper for StoreKeeper {
    fn pinned(&self) -> Vec<BlockId> {
        self.store.pinned()
    }

    fn pin(&self, id: &BlockId, duration: Option<Duration>) {
        let Some(duration) = duration else {
            self.store.unpin(id);
            return;
        };
        match self.store.pin(id, duration) {
            Ok(()) | Err(PinError::NotHere) => {}
            // Other nodes may have room for it; here it is evicted like any other.
            Err(error) if !self.has_warned.swap(true, Ordering::Relaxed) => {
                tracing::warn!(block = ?id.key, %error, "pinned blocks do not all fit on this node");
            }
            Err(error) => tracing::debug!(block = ?id.key, %error, "a block is not pinned on this node"),
        }
    }

    fn retain(&self, id: &BlockId, retention: Retention) {
        self.store.retain(id, retention);
    }
}
