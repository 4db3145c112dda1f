//! One run: a cluster, load, faults one after the other, and the final reckoning.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hearth_client::{Client, ClientConfig, Replica};
use hearth_tests::blocks::{chain, get_all};
use hearth_tests::{ClusterOptions, TestCluster};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::checker::{Checker, Findings};
use crate::nemesis::{Fault, FaultKind, plan};
use crate::workload::{BLOCK_BYTES, CHAIN_BLOCKS, Promised, Promises, load};

/// How long the cluster may take to heal after the last fault.
const HEALING: Duration = Duration::from_secs(60);

/// How a run is made.
#[derive(Debug, Clone, Copy)]
pub struct ChaosOptions {
    /// Seed of the plan of faults and of the load.
    pub seed: u64,
    /// How long faults go on.
    pub total: Duration,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Tasks that put and get.
    pub tasks: usize,
}

/// What a run found.
#[derive(Debug)]
pub struct Outcome {
    /// The faults that were carried out.
    pub faults: Vec<Fault>,
    /// What the load and the final check saw.
    pub findings: Findings,
    /// Durable acknowledgements that were checked at the end.
    pub promises_checked: u64,
}

impl Outcome {
    /// Why the run does not pass, if it does not.
    pub fn failure(&self) -> Option<String> {
        let f = &self.findings;
        if f.violation_count > 0 {
            Some(format!("{} broken promises, the first: {:#?}", f.violation_count, f.violations))
        } else if self.faults.is_empty() || f.faults_felt() == 0 {
            Some("no fault was observed: the run has tested nothing".into())
        } else if f.hits == 0 || self.promises_checked == 0 {
            Some("nothing was got or promised: the run has tested nothing".into())
        } else {
            None
        }
    }
}

/// Runs faults under load, then lets the cluster heal and checks every durable promise.
///
/// # Errors
/// If the cluster cannot be started, or does not heal; broken promises are in the outcome.
pub async fn run(options: ChaosOptions) -> anyhow::Result<Outcome> {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut cluster =
        TestCluster::start(ClusterOptions { nodes: options.nodes, ..ClusterOptions::default() }).await?;
    let checker = Arc::new(Checker::default());
    let started = Instant::now();
    let promises = Arc::new(Promises::default());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for task in 0..options.tasks {
        let client = cluster.client(task % options.nodes).await?;
        let rng = ChaCha8Rng::seed_from_u64(options.seed ^ (task as u64 + 1) << 32);
        tasks.spawn(load(client, rng, checker.clone(), promises.clone(), stop.clone()));
    }
    let faults = plan(&mut rng, options.nodes, options.total);
    for fault in &faults {
        inflict(&mut cluster, fault, started).await?;
    }
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a task of the load failed")?;
    }
    for node in &mut cluster.nodes {
        node.wait_ready(HEALING).await?;
    }
    let promises_checked = check_promises(&cluster, &promises, &checker, started).await?;
    Ok(Outcome { faults, findings: checker.findings(), promises_checked })
}

async fn inflict(cluster: &mut TestCluster, fault: &Fault, started: Instant) -> anyhow::Result<()> {
    // The plan's times are the fault itself, not a wait for something to have happened.
    tokio::time::sleep(fault.after).await;
    let nodes = &mut cluster.nodes;
    for (index, node) in nodes.iter_mut().enumerate() {
        ensure!(node.is_running(), "node {index} died of something else:\n{}", node.log_tail());
    }
    let (kind, at) = (fault.kind, started.elapsed());
    eprintln!("nemesis, {at:?} after the start: {kind:?} of {:?} for {:?}", fault.nodes, fault.lasts);
    for &struck in &fault.nodes {
        match fault.kind {
            FaultKind::Pause => nodes[struck].pause()?,
            FaultKind::Kill | FaultKind::KillTwo | FaultKind::KillAll => nodes[struck].kill()?,
        }
    }
    tokio::time::sleep(fault.lasts).await;
    for (position, &struck) in fault.nodes.iter().enumerate() {
        if position > 0 {
            tokio::time::sleep(fault.between).await;
        }
        match fault.kind {
            FaultKind::Pause => nodes[struck].resume()?,
            // The next fault may come while it still recovers: that is a fault worth having.
            FaultKind::Kill | FaultKind::KillTwo | FaultKind::KillAll => nodes[struck].launch()?,
        }
    }
    Ok(())
}

/// Every block acknowledged durable must be got with its bytes once all nodes are back (INV-ACK).
async fn check_promises(
    cluster: &TestCluster,
    promises: &Promises,
    checker: &Checker,
    started: Instant,
) -> anyhow::Result<u64> {
    let client = cluster.client(0).await?;
    let mut checked = 0;
    let until = Instant::now() + HEALING;
    for (seed, promised) in promises.all() {
        let lost = lost_of(&client, seed, &promised, until).await?;
        checked += promised.iter().flatten().count() as u64;
        if lost.is_empty() {
            continue;
        }
        let held = held_where(cluster, seed).await?;
        for index in lost {
            let Some(promise) = promised[index] else { continue };
            checker.violation(format!(
                "INV-ACK: durable block {index} of chain {seed} is gone; node {} acknowledged it {:?} after the \
                 start (existed: {}); as each node says, it is on {:?}",
                promise.node,
                promise.at.duration_since(started),
                promise.existed,
                held.iter().map(|of_node| &of_node[index]).collect::<Vec<_>>(),
            ));
        }
    }
    Ok(checked)
}

/// What each node says of where the blocks of a chain are: its own are what its store holds.
async fn held_where(cluster: &TestCluster, seed: u64) -> anyhow::Result<Vec<Vec<Vec<Replica>>>> {
    let chain = chain(seed, CHAIN_BLOCKS);
    let mut held = Vec::new();
    for node in &cluster.nodes {
        let client = Client::new(ClientConfig::new([node.control_address()]))?;
        held.push(client.lookup(&chain, Some(Duration::from_secs(5))).await.replicas().to_vec());
    }
    Ok(held)
}

/// The promised blocks of one chain that cannot be got; asked again until the cluster has healed.
async fn lost_of(
    client: &Client,
    seed: u64,
    promised: &Promised,
    until: Instant,
) -> anyhow::Result<Vec<usize>> {
    let chain = chain(seed, CHAIN_BLOCKS);
    loop {
        let got = get_all(client, &chain, BLOCK_BYTES, Duration::from_secs(5)).await?;
        let lost: Vec<usize> =
            got.misses.iter().map(|(index, _)| *index).filter(|index| promised[*index].is_some()).collect();
        if lost.is_empty() || Instant::now() > until {
            return Ok(lost);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
