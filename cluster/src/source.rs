//! Where the block reports of this node come from.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;

use hearth_proto::BlockDelta;

/// What [`BlockSource::take_deltas`] left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaStatus {
    /// Nothing more is waiting.
    Complete,
    /// More deltas are waiting.
    More,
    /// Deltas were lost since the last call, and those waiting are dropped: only the inventory is right.
    Overflowed,
}

/// The node's store, as far as the directory is concerned with it.
///
/// *Invariants*: a delta is queued only after the store's own index has changed (INV-PUBLISH), and
/// deltas of one block and tier come in the order of the changes.
pub trait BlockSource: Send + Sync + 'static {
    /// Visits everything that is readable now, each block and tier as an added delta and none twice, until the
    /// visitor breaks off. Changes that are queued already may show in it. The visitor may take long.
    fn for_each_held(&self, visit: &mut dyn FnMut(BlockDelta) -> ControlFlow<()>) -> ControlFlow<()>;

    /// Appends up to `max` of the oldest waiting deltas to `out`.
    fn take_deltas(&self, max: usize, out: &mut Vec<BlockDelta>) -> DeltaStatus;

    /// Resolves once there is something to take. *Cancel safety*: dropping it loses nothing.
    fn ready<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}
