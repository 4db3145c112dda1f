//! What an operator does to a cluster.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hearth_proto::v1;
use v1::cluster_client::ClusterClient;
use v1::command::Body;
use v1::operate_client::OperateClient;
use v1::outcome::Kind;
use v1::propose_response::Result as Proposed;

use crate::cluster::TestCluster;

/// How long a command may take to find a leader that commits it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The format of the commands made here.
const VERSION: u32 = 3;

impl TestCluster {
    /// Commits a command of the control group through its leader.
    ///
    /// # Errors
    /// If it is refused, or no leader commits it in time.
    pub async fn commit(&mut self, body: Body) -> anyhow::Result<Kind> {
        let until = Instant::now() + PATIENCE;
        loop {
            let leader = self.wait_leader(0).await?;
            match self.propose(leader, body.clone()).await {
                Ok(Some(Kind::Refused(refused))) => bail!("refused: {}", refused.detail),
                Ok(Some(kind)) => return Ok(kind),
                Ok(None) if Instant::now() < until => {}
                Ok(None) => bail!("no leader committed the command within {PATIENCE:?}"),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks for so many copies of each block.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn set_policy(&mut self, policy: v1::ClusterPolicy) -> anyhow::Result<()> {
        self.commit(Body::PutPolicy(v1::PutPolicy { policy: Some(policy) })).await.map(drop)
    }

    /// Begins or ends the drain of node `index`.
    ///
    /// # Errors
    /// As [`Self::commit`], and if the node does not say who it is.
    pub async fn drain(&mut self, index: usize, undo: bool) -> anyhow::Result<()> {
        let node_id = self.node_id(index).await?;
        self.commit(Body::DrainNode(v1::DrainNode { node_id, undo })).await.map(drop)
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

    /// The outcome of a command that node `index` was asked to commit; `None` if it does not lead.
    async fn propose(&self, index: usize, body: Body) -> anyhow::Result<Option<Kind>> {
        let cluster_id = self.status(index).await?.cluster_id;
        let address = format!("http://{}", self.nodes[index].control_address());
        let mut service = ClusterClient::connect(address).await?;
        let command = Some(v1::Command { version: VERSION, stamp_ms: 0, body: Some(body) });
        let answer = service.propose(v1::ProposeRequest { cluster_id, group_id: 0, command }).await?;
        match answer.into_inner().result {
            Some(Proposed::Applied(applied)) => Ok(applied.outcome.and_then(|outcome| outcome.kind)),
            _ => Ok(None),
        }
    }
}
