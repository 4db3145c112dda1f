//! What an operator does to a cluster.

use anyhow::Context;
use hearth_proto::v1;
use v1::operate_client::OperateClient;

use crate::cluster::TestCluster;

impl TestCluster {
    /// Asks for so many copies of each block.
    ///
    /// # Errors
    /// If it is refused, or no leader commits it in time.
    pub async fn set_policy(&mut self, policy: v1::ClusterPolicy) -> anyhow::Result<()> {
        let leader = self.wait_leader(0).await?;
        self.client(leader).await?.put_policy(policy).await?;
        Ok(())
    }

    /// Begins or ends the drain of node `index`.
    ///
    /// # Errors
    /// As [`Self::set_policy`], and if the node does not say who it is.
    pub async fn drain(&mut self, index: usize, undo: bool) -> anyhow::Result<()> {
        let node_id = self.node_id(index).await?;
        let leader = self.wait_leader(0).await?;
        let client = self.client(leader).await?;
        if undo { client.undrain_node(node_id).await } else { client.drain_node(node_id).await }?;
        Ok(())
    }

    /// The id of node `index` in the cluster.
    ///
    /// # Errors
    /// If it does not say.
    pub async fn node_id(&self, index: usize) -> anyhow::Result<u64> {
        self.status(index).await?.node.map(|node| node.node_id).context("the node does not know itself yet")
    }

    /// How far drains and repairs are, as node `index` sees it.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn progress(&self, index: usize) -> anyhow::Result<v1::ProgressResponse> {
        let address = format!("http://{}", self.nodes[index].control_address());
        let mut service = OperateClient::connect(address).await?;
        Ok(service.progress(v1::ProgressRequest {}).await?.into_inner())
    }
}
