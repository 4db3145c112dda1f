//! The main job, from nothing: three nodes, an agent workload, every byte checked.

use clap::Args;
use hearth_replay::ReplayArgs;
use hearth_tests::{ClusterOptions, NodeOptions, TestCluster};

use crate::replay::replay_through;

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Nodes to start.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Memory for blocks on each node.
    #[arg(long, default_value = "1GiB", value_name = "SIZE")]
    host_capacity: String,
    /// Disk space for blocks on each node.
    #[arg(long, default_value = "4GiB", value_name = "SIZE")]
    nvme_capacity: String,
    #[command(flatten)]
    replay: ReplayArgs,
}

/// Starts the cluster, replays, stops everything whatever happened. True when every byte was right.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<bool> {
    eprintln!("starting {} hearthd processes on loopback with temporary data", args.nodes);
    let node = NodeOptions {
        host_capacity: args.host_capacity,
        nvme_capacity: args.nvme_capacity,
        extra: Vec::new(),
    };
    let options = ClusterOptions { nodes: args.nodes as usize, node, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start(options).await?;
    let mut clients = Vec::new();
    for home in 0..cluster.nodes.len() {
        clients.push(cluster.client(home).await?);
    }
    let outcome = tokio::select! {
        outcome = replay_through(clients, &args.replay) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    eprintln!("stopping the nodes");
    for node in &mut cluster.nodes {
        if node.is_running() {
            let status = node.stop(std::time::Duration::from_secs(20)).await?;
            anyhow::ensure!(status.success(), "a node did not stop cleanly:\n{}", node.log_tail());
        }
    }
    outcome
}
