//! The store as the metadata plane sees it: what it holds, and what changed since the last report.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hearth_cluster::{BlockSource, DeltaStatus};
use hearth_proto::BlockDelta;
use hearth_store::Store;

use crate::repair::NewBlocks;

/// One node's holdings, as the cluster's reporter reads them; what is new is told to whoever copies it.
pub(crate) struct StoreSource {
    pub(crate) store: Store,
    pub(crate) news: Arc<NewBlocks>,
}

impl BlockSource for StoreSource {
    fn inventory(&self) -> Vec<BlockDelta> {
        self.store.inventory()
    }

    fn take_deltas(&self, max: usize, out: &mut Vec<BlockDelta>) -> DeltaStatus {
        let before = out.len();
        let status = self.store.take_deltas(max, out);
        self.news.observe(&out[before..]);
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
