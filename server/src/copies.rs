//! What the rest of the cluster has, for the store to know whose loss costs least.

use hearth_cluster::Cluster;
use hearth_proto::{BlockId, NodeId, Tier};
use hearth_store::Copies;

/// The directory, asked for durable copies on other nodes.
pub(crate) struct DirectoryCopies {
    pub(crate) cluster: Cluster,
    pub(crate) node_id: NodeId,
}

impl Copies for DirectoryCopies {
    fn is_elsewhere(&self, id: &BlockId) -> bool {
        let answer = self.cluster.lookup(id.namespace, std::slice::from_ref(&id.key));
        answer
            .replicas
            .iter()
            .flatten()
            .any(|replica| replica.node != self.node_id && replica.tier == Tier::Nvme)
    }
}
