//! Several hearthd processes that form one cluster.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hearth_client::{Client, ClientConfig};
use hearth_proto::v1;
use tempfile::TempDir;

use crate::node::{NodeNetwork, NodeOptions, NodeProcess};

/// How a cluster is started.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Number of nodes.
    pub nodes: usize,
    /// How each is started.
    pub node: NodeOptions,
    /// How long each may take to be ready.
    pub patience: Duration,
    /// Where each runs, in their order; the others run on loopback.
    pub networks: Vec<NodeNetwork>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            nodes: 3,
            node: NodeOptions::default(),
            patience: Duration::from_secs(60),
            networks: Vec::new(),
        }
    }
}

/// A cluster of real processes with temporary data. Everything is gone when it is dropped.
#[derive(Debug)]
pub struct TestCluster {
    /// The nodes; the first one founded the cluster.
    pub nodes: Vec<NodeProcess>,
    patience: Duration,
    folder: TempDir,
}

impl TestCluster {
    /// Starts the nodes and waits until all are ready and, up to three, vote.
    ///
    /// # Errors
    /// If one does not get there; the message holds the end of its log.
    pub async fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let mut cluster = Self { nodes: Vec::new(), patience: options.patience, folder };
        for index in 0..options.nodes {
            let join = cluster.nodes.first().map(NodeProcess::control_address);
            let folder = cluster.folder.path().join(format!("node-{index}"));
            let network = options.networks.get(index).cloned();
            let mut node = NodeProcess::start(folder, join, NodeOptions { network, ..options.node.clone() })?;
            node.wait_ready(options.patience).await?;
            cluster.nodes.push(node);
        }
        cluster.wait_voters(options.nodes.min(3)).await?;
        Ok(cluster)
    }

    /// The folder that all data lies in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The control addresses, that of node `home` first.
    pub fn seeds(&self, home: usize) -> Vec<String> {
        let mut seeds: Vec<String> = self.nodes.iter().map(NodeProcess::control_address).collect();
        seeds.rotate_left(home);
        seeds
    }

    /// A client whose own node is `home`, knowing the others too.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn client(&self, home: usize) -> anyhow::Result<Client> {
        Ok(Client::connect(ClientConfig::new(self.seeds(home))).await?)
    }

    /// What node `index` says of itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self, index: usize) -> anyhow::Result<v1::StatusResponse> {
        let client = Client::new(ClientConfig::new(self.seeds(index)))?;
        Ok(client.status(&self.nodes[index].control_address()).await?)
    }

    /// The position of the node that leads a Raft group, as the running node with the latest term knows
    /// it; `None` if that one knows of no leader, or of one that does not run.
    pub async fn leader(&mut self, group: u32) -> Option<usize> {
        let mut ids = Vec::new();
        let mut latest = (0, 0);
        for index in 0..self.nodes.len() {
            let running = self.nodes[index].is_running();
            let status = if running { self.status(index).await.ok() } else { None };
            ids.push(status.as_ref().and_then(|s| s.node.as_ref()).map(|n| n.node_id));
            let known = status.iter().flat_map(|s| &s.groups).find(|g| g.group_id == group);
            latest = latest.max(known.map_or((0, 0), |g| (g.term, g.leader)));
        }
        let (_, leader) = latest;
        ids.iter().position(|id| *id == Some(leader) && leader != 0)
    }

    /// Waits until a running node leads a Raft group; returns its position.
    ///
    /// # Errors
    /// If none does within the cluster's patience.
    pub async fn wait_leader(&mut self, group: u32) -> anyhow::Result<usize> {
        let until = Instant::now() + self.patience;
        loop {
            if let Some(leader) = self.leader(group).await {
                return Ok(leader);
            }
            if Instant::now() > until {
                bail!("group {group} has no leader:\n{}", self.nodes[0].log_tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Blocks that node `index` finds in its committed copy of the directory.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn committed_blocks(&self, index: usize) -> anyhow::Result<u64> {
        let status = self.status(index).await?;
        Ok(status.groups.iter().filter(|group| group.group_id != 0).map(|group| group.blocks).sum())
    }

    /// Waits until both Raft groups have `count` voters.
    ///
    /// # Errors
    /// If that takes longer than the cluster's patience.
    pub async fn wait_voters(&mut self, count: usize) -> anyhow::Result<()> {
        let until = Instant::now() + self.patience;
        loop {
            if let Ok(status) = self.status(0).await
                && !status.groups.is_empty()
                && status.groups.iter().all(|group| group.voters.len() >= count)
            {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("the cluster did not get {count} voters:\n{}", self.nodes[0].log_tail());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until `condition` holds, asking again every few milliseconds.
    ///
    /// # Errors
    /// If it does not within `patience`; the message names `what`.
    pub async fn wait_until<F: Future<Output = bool>>(
        what: &str,
        patience: Duration,
        mut condition: impl FnMut() -> F,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + patience;
        while !condition().await {
            if Instant::now() > until {
                bail!("{what}: not within {patience:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
