//! The metadata plane: how many changes of blocks three nodes commit and apply, beside etcd.
//!
//! Each node is a process and reports blocks of its own; the clock stops when every node has all of them in
//! its copy of the directory. etcd is given new keys of 36 bytes, and its clock stops when every member
//! has applied the last. Both sync before they acknowledge, and both lie on the same disk. The machine's cores
//! serve all processes of a side, so the rates for each second of processor time are the ones that carry over.

mod directory;
mod etcd;
mod node;
mod source;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use hearth_replay::{BenchReport, Figure, Goal};

pub(crate) use self::directory::{DirectoryArgs, run as run_directory};
use self::etcd::{Etcd, Run};
use self::node::{Done, Node, Order, Start};
pub(crate) use self::node::{NodeArgs, run as run_node};
use crate::ReportArgs;

const NODES: usize = 3;
/// How many times etcd's keys.
const GOAL_TIMES: f64 = 50.0;
/// A lookup of a chain, at the 99th percentile.
const LOOKUP_GOAL_US: f64 = 100.0;
const CHAIN: u64 = 1_000;
/// Blocks of a chain that were reported together: all of them, as many as an agent's turn adds, and one, as after a node
/// that lost its claims has told its inventory anew.
const PIECES: [u64; 3] = [CHAIN, 16, 1];
/// How often it is looked whether the nodes rest, which they do if all together used no more processor time since
/// the last look: clock ticks of ten milliseconds.
const REST_LOOK: Duration = Duration::from_secs(1);
const REST_TICKS: u64 = 15;
const REST_LOOKS_MAX: u32 = 30;
/// Part of the slowest turn's rate at which latency is measured under load.
const LOAD: f64 = 0.7;

#[derive(Debug, Args)]
pub(crate) struct MetaArgs {
    /// Folder on the disk that both write to; a temporary folder is made in it [default: the system's].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Blocks that each node reports in a turn, so many that snapshots are written meanwhile; 50000 with --quick.
    #[arg(long, default_value_t = 1_000_000)]
    blocks: u64,
    /// Turns of each side; 1 with --quick.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Raft groups that share the directory.
    #[arg(long, default_value_t = 1)]
    directory_groups: u32,
    #[command(flatten)]
    report: ReportArgs,
}

/// What one side did in one turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    per_s: f64,
    per_cpu_s: f64,
}

/// Measures. True when nothing was wrong and, with --check, every goal was met.
pub(crate) async fn run(args: MetaArgs) -> anyhow::Result<bool> {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let dir = dir.context("cannot make a temporary folder")?;
    let (blocks, rounds) = if args.report.quick { (50_000, 1) } else { (args.blocks, args.rounds) };
    let etcd = Etcd::start(dir.path()).await;
    if let Err(why) = &etcd {
        eprintln!("meta: {why}");
    }
    let mut nodes = start_nodes(dir.path(), args.directory_groups).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=u64::from(rounds) {
        ours.push(fill(&mut nodes, blocks, round * blocks * NODES as u64).await?);
        if let Ok(etcd) = &etcd {
            theirs.push(turn_of(etcd.run(Duration::from_secs(if args.report.quick { 2 } else { 5 })).await?));
        }
    }
    tell("ours", &ours);
    tell("etcd", &theirs);
    let mut figures = Vec::from(rates(&ours, &theirs, &etcd));
    let probes = if args.report.quick { 50 } else { 500 };
    let pause = Duration::from_millis(10);
    let millis = u64::from(probes) * pause.as_millis() as u64;
    let light = probe(&mut nodes, 0, millis, probes).await?;
    let etcd_light = match &etcd {
        Ok(etcd) => Some(etcd.latencies_us(probes, pause).await?),
        Err(_) => None,
    };
    // Of what it sustains: snapshots are written beside some turns, and beside the load.
    let sustained = ours.iter().map(|turn| turn.per_s).fold(f64::INFINITY, f64::min);
    let per_s = sustained * LOAD / NODES as f64;
    let count = (per_s * millis as f64 / 1e3) as u64;
    let loaded = probe(&mut nodes, count, millis, probes).await?;
    // What is left of the load must not slow the lookups down.
    let total = (u64::from(rounds) * blocks + count) * NODES as u64 + 2 * u64::from(probes);
    all(&mut nodes, |_| Order::Fill { count: 0, total }).await?;
    all(&mut nodes, |_| Order::Snapshot).await?;
    rest(&nodes).await?;
    let of_node = u64::from(rounds) * blocks + count;
    let lookups = if args.report.quick { 2_000 } else { 20_000 };
    // As a node that has answered for a while.
    look_up(&mut nodes[0], lookups, 1, of_node, false).await?;
    let mut looked = Vec::new();
    for piece in PIECES {
        looked.push((piece, look_up(&mut nodes[0], lookups, piece, of_node, false).await?));
    }
    let bare = nodes[0].order(Order::Bare { rounds: lookups, chain: CHAIN, blocks: total }).await?;
    // Of a node that does not lead, so that a round to the leader is in it.
    let fresh = look_up(&mut nodes[2], lookups / 10, CHAIN, of_node, true).await?;
    for (share, percent) in [(0.5, "p50"), (0.99, "p99")] {
        let figure = |what: &str, values: &[f64]| {
            Figure::new(format!("{what}, {percent}"), "us", percentile(values, share))
        };
        let light = figure("a change committed and found, light load", &light);
        figures.push(match (&etcd, etcd_light.as_ref().and_then(|theirs| percentile(theirs, share))) {
            (Ok(etcd), Some(theirs)) => light.with_peer(format!("{}, one put", etcd.version), theirs),
            (Err(why), _) => light.with_absent_peer("etcd", why),
            (Ok(_), None) => light,
        });
        figures.push(figure(
            &format!("the same, beside {:.0} others per s, 70% of the slowest turn", per_s * NODES as f64),
            &loaded,
        ));
        for (piece, looked) in &looked {
            let what = format!("lookup of a chain of {CHAIN} blocks, local, {}", together(*piece));
            let lookup = figure(&what, &looked.latencies_us);
            let lookup = match percentile(&bare.latencies_us, share) {
                Some(limit) => lookup.with_peer("two reads of memory at random for each block", limit),
                None => lookup,
            };
            let is_chain = *piece > 1;
            figures.push(if share > 0.9 && is_chain {
                lookup.with_goal(Goal::AtMost(LOOKUP_GOAL_US))
            } else {
                lookup
            });
        }
        figures.push(figure("the same chain, linearizable, asked of a follower", &fresh.latencies_us));
    }
    let wrong = fresh.wrong + looked.iter().map(|(_, looked)| looked.wrong).sum::<u64>();
    let report = BenchReport::new(args.command(), figures, wrong);
    args.report.publish(&report)?;
    Ok(report.wrong == 0 && (!args.report.check || report.passes()))
}

impl MetaArgs {
    /// The command that shows it again.
    fn command(&self) -> String {
        let quick = if self.report.quick { " --quick" } else { "" };
        let groups = match self.directory_groups {
            1 => String::new(),
            groups => format!(" --directory-groups {groups}"),
        };
        let work = if self.report.quick {
            String::new()
        } else {
            format!(" --blocks {} --rounds {}", self.blocks, self.rounds)
        };
        format!("hearth-bench meta{work}{groups}{quick}")
    }
}

async fn start_nodes(dir: &Path, groups: u32) -> anyhow::Result<Vec<Node>> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..NODES {
        let seed = nodes.first().map(|first| first.address.clone());
        let dir = dir.join(format!("node-{number}"));
        nodes.push(Node::start(&Start { dir, seed, directory_groups: groups, ..Start::default() }).await?);
    }
    all(&mut nodes, |_| Order::Ready { nodes: NODES }).await?;
    Ok(nodes)
}

/// Every node reports so many new blocks; over when all of them have all.
async fn fill(nodes: &mut [Node], count: u64, total: u64) -> anyhow::Result<Turn> {
    let done = all(nodes, |_| Order::Fill { count, total }).await?;
    let changes = (count * NODES as u64) as f64;
    let elapsed_s = done.iter().map(|done| done.elapsed_s).fold(0.0, f64::max);
    let cpu_s: f64 = done.iter().map(|done| done.cpu_s).sum();
    Ok(Turn { per_s: changes / elapsed_s, per_cpu_s: changes / cpu_s })
}

/// All nodes report so many blocks each, evenly over the time, and the first times changes of its own.
async fn probe(nodes: &mut [Node], count: u64, millis: u64, probes: u32) -> anyhow::Result<Vec<f64>> {
    let per_s = count as f64 / (millis as f64 / 1e3);
    let order = |number| Order::Probe { count, per_s, millis, probes: if number == 0 { probes } else { 0 } };
    let done = all(nodes, order).await?;
    Ok(done.into_iter().next().map(|first| first.latencies_us).unwrap_or_default())
}

/// Waits until nobody is busy with what was done before, as RocksDB is with dropping a log.
async fn rest(nodes: &[Node]) -> anyhow::Result<()> {
    let used = || nodes.iter().map(Node::cpu_ticks).sum::<anyhow::Result<u64>>();
    for _ in 0..REST_LOOKS_MAX {
        let before = used()?;
        tokio::time::sleep(REST_LOOK).await;
        if used()? - before <= REST_TICKS {
            return Ok(());
        }
    }
    eprintln!("meta: the nodes do not come to rest");
    Ok(())
}

/// How the blocks of a chain were reported.
fn together(piece: u64) -> String {
    match piece {
        CHAIN => "reported as one".into(),
        1 => "each at another time".into(),
        piece => format!("{piece} at a time"),
    }
}

async fn look_up(
    node: &mut Node,
    rounds: u32,
    piece: u64,
    blocks: u64,
    linearizable: bool,
) -> anyhow::Result<Done> {
    node.order(Order::Lookup { rounds, chain: CHAIN.min(blocks), piece, blocks, linearizable }).await
}

/// Gives every node its order at once and waits for all.
async fn all(nodes: &mut [Node], order: impl Fn(usize) -> Order) -> anyhow::Result<Vec<Done>> {
    let orders = nodes.iter_mut().enumerate().map(|(number, node)| node.order(order(number)));
    futures::future::try_join_all(orders).await
}

fn turn_of(run: Run) -> Turn {
    Turn { per_s: run.keys as f64 / run.elapsed_s, per_cpu_s: run.keys as f64 / run.cpu_s }
}

fn rates(ours: &[Turn], theirs: &[Turn], etcd: &Result<Etcd, String>) -> [Figure; 2] {
    let figure = |name: &str, unit: &str, rate: fn(&Turn) -> f64| {
        let figure = Figure::new(name, unit, median(ours, rate));
        match (etcd, median(theirs, rate)) {
            (Ok(etcd), Some(theirs)) => figure.with_peer(etcd.version.as_str(), theirs),
            (Err(why), _) => figure.with_absent_peer("etcd", why),
            (Ok(_), None) => figure,
        }
    };
    let all = "changes committed and applied on three nodes";
    [
        figure(all, "per s", |turn| turn.per_s).with_goal(Goal::RatioAtLeast(GOAL_TIMES)),
        figure(&format!("{all}, processor"), "per CPU s", |turn| turn.per_cpu_s),
    ]
}

fn median(turns: &[Turn], rate: impl Fn(&Turn) -> f64) -> Option<f64> {
    percentile(&turns.iter().map(rate).collect::<Vec<_>>(), 0.5)
}

/// The value that so many, as a part of all, do not exceed.
fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied()
}

fn tell(who: &str, turns: &[Turn]) {
    let rates: Vec<_> =
        turns.iter().map(|turn| format!("{:.0} ({:.0} per CPU s)", turn.per_s, turn.per_cpu_s)).collect();
    eprintln!("meta: {who}: {} per s", rates.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(percentile(&values, 0.5), Some(3.0));
        assert_eq!(percentile(&values, 0.99), Some(5.0));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
