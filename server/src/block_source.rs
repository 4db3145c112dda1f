//! The store as the metadata plane sees it: what it holds, and what changed since the last report.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;

use hearth_cluster::{BlockSource, DeltaStatus};
use hearth_proto::BlockDelta;
use hearth_store::Store;

/// One node's holdings, as the cluster's reporter reads them.
pub(crate) struct StoreSource(pub(crate) Store);

impl BlockSource for StoreSource {
    fn for_each_held(&self, visit: &mut dyn FnMut(BlockDelta) -> ControlFlow<()>) -> ControlFlow<()> {
        self.0.for_each_held(visit)
    }

    fn take_deltas(&self, max: usize, out: &mut Vec<BlockDelta>) -> DeltaStatus {
        match self.0.take_deltas(max, out) {
            hearth_store::DeltaStatus::Complete => DeltaStatus::Complete,
            hearth_store::DeltaStatus::More => DeltaStatus::More,
            hearth_store::DeltaStatus::Overflowed => DeltaStatus::Overflowed,
        }
    }

    fn ready<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(self.0.deltas_ready())
    }
}
