//! A directory of many blocks with three replicas each: its memory, its snapshot, a restart.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use hearth_replay::{BenchReport, Figure};

use super::node::{Node, Order, Start};
use super::{NODES, all};
use crate::ReportArgs;

/// Blocks that are looked up to see whether a node's claims count.
const CHAIN: u64 = 4_096;

#[derive(Debug, Args)]
pub(crate) struct DirectoryArgs {
    /// Folder on the disk that is written to; a temporary folder is made in it [default: the system's].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Blocks, each held by all three nodes; 500000 with --quick.
    #[arg(long, default_value_t = 10_000_000)]
    blocks: u64,
    #[command(flatten)]
    report: ReportArgs,
}

/// Measures. True when nothing was wrong.
pub(crate) async fn run(args: DirectoryArgs) -> anyhow::Result<bool> {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let dir = dir.context("cannot make a temporary folder")?;
    let blocks = if args.report.quick { 500_000 } else { args.blocks };
    let mut nodes: Vec<Node> = Vec::new();
    let mut starts = Vec::new();
    for number in 0..NODES {
        let seed = nodes.first().map(|first| first.address.clone());
        let start = Start {
            dir: dir.path().join(format!("node-{number}")),
            seed,
            directory_groups: 1,
            shared: true,
            holds: 0,
        };
        nodes.push(Node::start(&start).await?);
        starts.push(start);
    }
    all(&mut nodes, |_| Order::Ready { nodes: NODES }).await?;
    let empty = resident(&nodes)?;
    let filled = Instant::now();
    all(&mut nodes, |_| Order::Fill { count: blocks, total: blocks }).await?;
    all(&mut nodes, |_| Order::Found { chain: CHAIN.min(blocks), replicas: NODES }).await?;
    eprintln!(
        "directory: {blocks} blocks of {NODES} nodes reported in {:.1} s",
        filled.elapsed().as_secs_f64()
    );
    // Once what was on its way has been let go of; the largest of the three, to be safe.
    let full = resident(&nodes)?;
    let per_block = full.iter().zip(&empty).map(|(full, empty)| full.saturating_sub(*empty)).max();
    let snapshot = nodes[0].order(Order::Snapshot).await?;
    let last = nodes.pop().context("there are three nodes")?;
    last.kill().await?;
    let start = Start { holds: blocks, ..starts.pop().context("there are three nodes")? };
    let restarted = Instant::now();
    let mut back = Node::start(&start).await?;
    back.order(Order::Fill { count: 0, total: blocks }).await?;
    let whole_s = restarted.elapsed().as_secs_f64();
    back.order(Order::Found { chain: CHAIN.min(blocks), replicas: NODES }).await?;
    let counted_s = restarted.elapsed().as_secs_f64();
    let figure = |name: &str, unit: &str, value: f64| Figure::new(name, unit, Some(value));
    let bytes = per_block.context("there are nodes")? as f64 / blocks as f64;
    let figures = vec![
        figure(
            &format!("{blocks} blocks, three replicas each: growth of the process"),
            "bytes per block",
            bytes,
        ),
        figure("snapshot of the directory and the control state, synced", "s", snapshot.elapsed_s),
        figure("after kill -9: from the start to the whole directory in memory", "s", whole_s),
        figure("to its own replicas counting again, compared by digests", "s", counted_s),
    ];
    let quick = if args.report.quick { " --quick".into() } else { format!(" --blocks {blocks}") };
    let report = BenchReport::new(format!("hearth-bench directory{quick}"), figures, 0);
    args.report.publish(&report)?;
    Ok(!args.report.check || report.passes())
}

fn resident(nodes: &[Node]) -> anyhow::Result<Vec<u64>> {
    nodes.iter().map(Node::resident_bytes).collect()
}
