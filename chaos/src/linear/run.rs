//! One history: a cluster of real processes, clients, faults, and the check.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hearth_tests::{ClusterOptions, FakeClock, NodeOptions, NodeProcess, TestCluster};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::checker::{Finding, check};
use super::client::{Client, Heard, Nodes};
use super::history::{History, Outcome, Recorder};
use super::nemesis::Nemesis;
use super::network::Network;
use super::reporters;

const NODES: usize = 3;
/// How long clients go on when all faults have ended: the answers of a healed cluster are part of the history.
const HEALED: Duration = Duration::from_millis(1_500);

/// How a history is made.
#[derive(Debug, Clone)]
pub struct LinearOptions {
    /// Seed of clients and faults; the interleaving is the machine's.
    pub seed: u64,
    /// How long faults go on.
    pub total: Duration,
    /// Clients.
    pub clients: u32,
    /// Objects that they share.
    pub keys: u64,
    /// Where the history is kept, as `linear-SEED.jsonl`.
    pub folder: Option<PathBuf>,
    /// Whether nodes are cut off from each other as well, in network namespaces, which takes root.
    pub partitions: bool,
    /// Whether the clocks of nodes jump, which takes libfaketime. Where none jumps, rights must end in time.
    pub clock_jumps: bool,
}

/// Operations of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// All of them.
    pub all: u64,
    /// Those whose answer was heard.
    pub answered: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct LinearOutcome {
    /// What the checker found.
    pub finding: Finding,
    /// How long it took to find it.
    pub checked_in: Duration,
    /// Operations, by name.
    pub operations: BTreeMap<&'static str, Count>,
    /// Faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Where the history is kept.
    pub file: Option<PathBuf>,
    /// False if a node without a process, which reports what is looked up, was taken for silent and declared down:
    /// the history then says nothing of lookups and is no pass whatever the checker found.
    pub reporters_stayed: bool,
}

impl LinearOutcome {
    /// Operations of all kinds.
    pub fn total(&self) -> Count {
        self.operations.values().fold(Count::default(), |sum, of| Count {
            all: sum.all + of.all,
            answered: sum.answered + of.answered,
        })
    }
}

/// Runs one history and checks it.
///
/// # Errors
/// If the cluster cannot be started or does not heal.
pub async fn run(options: &LinearOptions) -> anyhow::Result<LinearOutcome> {
    let network = if options.partitions { Some(Network::new(NODES)?) } else { None };
    let networks = network.as_ref().map(|network| network.nodes().to_vec()).unwrap_or_default();
    let clock = if options.clock_jumps {
        Some(FakeClock::find().context("clocks jump by libfaketime, which is not installed")?)
    } else {
        None
    };
    let node = NodeOptions { clock, ..NodeOptions::default() };
    let cluster =
        TestCluster::start(ClusterOptions { nodes: NODES, node, networks, ..ClusterOptions::default() });
    let cluster = cluster.await?;
    let cluster_id = cluster.status(0).await?.cluster_id;
    let addresses = cluster.nodes.iter().map(NodeProcess::control_address).collect();
    let nodes = Nodes::connect(cluster_id, addresses)?;
    let reporters = Arc::new(reporters::register(&nodes, options.keys).await?);
    let _heartbeats = reporters::keep_up(&nodes, &reporters);
    let recorder = Arc::new(Recorder::default());
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for id in 0..options.clients {
        let client = Client {
            id,
            nodes: nodes.clone(),
            reporters: reporters.clone(),
            recorder: recorder.clone(),
            rng: ChaCha8Rng::seed_from_u64(options.seed ^ (u64::from(id) + 1) << 32),
            heard: vec![Heard::default(); options.keys as usize],
        };
        clients.spawn(client.live(stop.clone()));
    }
    let mut nemesis = Nemesis {
        cluster,
        network,
        clocks: options.clock_jumps.then(|| vec![0; NODES]),
        rng: ChaCha8Rng::seed_from_u64(options.seed),
        faults: BTreeMap::new(),
    };
    nemesis.strike_until(tokio::time::Instant::now() + options.total).await?;
    tokio::time::sleep(HEALED).await;
    stop.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.context("a client failed")?;
    }
    let reporters_stayed = reporters::are_all_up(&nodes, &reporters).await?;
    let history = Arc::into_inner(recorder).context("every client has ended")?;
    let history = history.into_history(options.seed, options.clock_jumps);
    let file = match &options.folder {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            let file = folder.join(format!("linear-{}.jsonl", options.seed));
            history.write(&file)?;
            Some(file)
        }
        None => None,
    };
    let operations = count(&history);
    let faults = nemesis.faults.clone();
    // Nobody needs the cluster any more, and the search may take all cores.
    drop(nemesis);
    let began = Instant::now();
    let finding = tokio::task::spawn_blocking(move || check(&history)).await?;
    Ok(LinearOutcome { finding, checked_in: began.elapsed(), operations, faults, file, reporters_stayed })
}

fn count(history: &History) -> BTreeMap<&'static str, Count> {
    let mut operations: BTreeMap<&'static str, Count> = BTreeMap::new();
    for record in &history.records {
        let count = operations.entry(record.operation.name()).or_default();
        count.all += 1;
        count.answered += u64::from(matches!(record.outcome, Outcome::Said { .. }));
    }
    operations
}
