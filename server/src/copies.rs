//! What the rest of the cluster has, for the store to know whose loss costs least.

use hearth_cluster::Cluster;
use hearth_proto::BlockId;
use hearth_store::Copies;

/// The directory, asked for durable copies on other nodes. One that is being drained is no such node.
pub(crate) struct DirectoryCopies(pub(crate) Cluster);

impl Copies for DirectoryCopies {
    fn is_elsewhere(&self, id: &BlockId) -> bool {
        self.0.is_durable_elsewhere(id)
    }
}
