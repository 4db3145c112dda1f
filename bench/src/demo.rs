//! The main job, from nothing: three nodes, an agent workload, every byte checked.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use hearth_replay::ReplayArgs;
use hearth_tests::{ClusterOptions, NodeOptions, TestCluster};

use crate::replay::{passes, replay_through};

/// Sessions that are generated when nothing else is asked for: a minute or two.
const AGENTS: usize = 8;
/// Requests that are taken of a trace when no other part is asked for: a minute or two.
const TRACE_REQUESTS: usize = 1_500;

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
    /// Folder of the plot and the report.
    #[arg(long, default_value = "demo", value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    replay: ReplayArgs,
}

/// Starts the cluster, replays, stops every node. True when blocks came back, every byte was right,
/// nothing failed and no node died.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<bool> {
    let replay = sized(args.replay, &args.out)?;
    eprintln!("starting {} hearthd processes on loopback with temporary data", args.nodes);
    let node = NodeOptions {
        host_capacity: args.host_capacity,
        nvme_capacity: args.nvme_capacity,
        ..NodeOptions::default()
    };
    let options = ClusterOptions { nodes: args.nodes as usize, node, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start(options).await?;
    let mut clients = Vec::new();
    for home in 0..cluster.nodes.len() {
        clients.push(cluster.client(home).await?);
    }
    let report = replay_through(clients, &replay).await?;
    eprintln!("stopping the nodes");
    for (index, node) in cluster.nodes.iter_mut().enumerate() {
        ensure!(node.is_running(), "node {index} died while the workload was replayed:\n{}", node.log_tail());
        let status = node.stop(Duration::from_secs(20)).await?;
        ensure!(status.success(), "node {index} did not stop cleanly:\n{}", node.log_tail());
    }
    Ok(passes(report.check_faultless()) && (!replay.check || passes(report.check())))
}

/// Fills in what was not said: a part of the workload that ends soon, and where plot and report go.
fn sized(mut replay: ReplayArgs, out: &std::path::Path) -> anyhow::Result<ReplayArgs> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    replay.plot.get_or_insert_with(|| out.join("replay.svg"));
    replay.json.get_or_insert_with(|| out.join("replay.json"));
    if replay.trace.is_none() {
        if !replay.quick {
            replay.agents.get_or_insert(AGENTS);
        }
    } else if replay.sessions.is_none() && replay.requests.is_none() {
        eprintln!(
            "taking the first {TRACE_REQUESTS} requests of the trace; --requests or --sessions says otherwise"
        );
        replay.requests = Some(TRACE_REQUESTS);
    }
    Ok(replay)
}
