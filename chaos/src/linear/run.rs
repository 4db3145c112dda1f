//! One history: a cluster of real processes, clients, faults, and the check.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use hearth_proto::v1;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::v1::propose_response::Result as Answer;
use hearth_tests::{ClusterOptions, NodeProcess, TestCluster};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::checker::{Verdict, check};
use super::client::{Client, command, connect};
use super::history::{History, Outcome, Record, write};
use super::model::Operation;
use super::network::Network;

const NODES: usize = 3;
/// How long the cluster may take to heal.
const HEALING: Duration = Duration::from_secs(60);
/// A key that no client uses, to ask what the cluster knows.
const PROBE: u64 = 1 << 20;

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
}

/// What came of it.
#[derive(Debug)]
pub struct LinearOutcome {
    /// What the checker found.
    pub verdict: Verdict,
    /// Operations with an answer, and all.
    pub answered: usize,
    /// All operations.
    pub operations: usize,
    /// Faults, by kind.
    pub faults: BTreeMap<&'static str, u32>,
    /// Whether claims were part of it: an older build does not know them.
    pub claims: bool,
}

/// Runs one history and checks it.
///
/// # Errors
/// If the cluster cannot be started or does not heal.
pub async fn run(options: &LinearOptions) -> anyhow::Result<LinearOutcome> {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let network = if options.partitions { Some(Network::new(NODES)?) } else { None };
    let networks = network.as_ref().map(|network| network.nodes().to_vec()).unwrap_or_default();
    let cluster = ClusterOptions { nodes: NODES, networks, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start(cluster).await?;
    let cluster_id = cluster.status(0).await?.cluster_id;
    let addresses: Vec<String> = cluster.nodes.iter().map(NodeProcess::control_address).collect();
    let claims = knows_claims(&addresses, &cluster_id).await?;
    let history = Arc::new(History::default());
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for id in 0..options.clients {
        let client = Client {
            id,
            keys: options.keys,
            cluster_id: cluster_id.clone(),
            nodes: connect(&addresses)?,
            addresses: addresses.clone(),
            history: history.clone(),
            rng: ChaCha8Rng::seed_from_u64(options.seed ^ (u64::from(id) + 1) << 32),
            next: vec![0; options.keys as usize],
            tokens: vec![0; options.keys as usize],
            claims,
        };
        clients.spawn(client.live(stop.clone()));
    }
    let mut faults = BTreeMap::new();
    let until = tokio::time::Instant::now() + options.total;
    while tokio::time::Instant::now() < until {
        let kind = strike(&mut cluster, network.as_ref(), &mut rng).await?;
        *faults.entry(kind).or_default() += 1;
    }
    // The answers of a healed cluster are part of the history.
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.context("a client failed")?;
    }
    let records = Arc::into_inner(history).context("every client has ended")?.into_records();
    if let Some(folder) = &options.folder {
        std::fs::create_dir_all(folder)?;
        write(&folder.join(format!("linear-{}.jsonl", options.seed)), &records)?;
    }
    let answered = records.iter().filter(|record| matches!(record.outcome, Outcome::Said { .. })).count();
    let verdict = verdict_of(records.clone()).await?;
    Ok(LinearOutcome { verdict, answered, operations: records.len(), faults, claims })
}

/// The search may take long, and other tasks must go on.
async fn verdict_of(records: Vec<Record>) -> anyhow::Result<Verdict> {
    Ok(tokio::task::spawn_blocking(move || check(&records)).await?)
}

/// One fault, from its beginning to its end.
async fn strike(
    cluster: &mut TestCluster,
    network: Option<&Network>,
    rng: &mut ChaCha8Rng,
) -> anyhow::Result<&'static str> {
    tokio::time::sleep(Duration::from_millis(rng.random_range(200..1_200))).await;
    for (index, node) in cluster.nodes.iter_mut().enumerate() {
        ensure!(node.is_running(), "node {index} died of something else:\n{}", node.log_tail());
    }
    // Rather a leader, whose faults are felt.
    let leader = cluster.leader(1).await.filter(|_| rng.random_bool(0.6));
    let struck = leader.unwrap_or_else(|| rng.random_range(0..NODES));
    let other = (struck + rng.random_range(1..NODES)) % NODES;
    let lasts = Duration::from_millis(rng.random_range(200..3_000));
    if let Some(network) = network
        && rng.random_bool(0.5)
    {
        let kind = network.strike(struck, other, rng.random_range(0..3))?;
        tokio::time::sleep(lasts).await;
        network.heal()?;
        return Ok(kind);
    }
    let kind = ["kill", "stop", "kill a majority", "stop a majority"][rng.random_range(0..4)];
    let nodes = if kind.ends_with("majority") { vec![struck, other] } else { vec![struck] };
    let kills = kind.starts_with("kill");
    for node in &nodes {
        let node = &mut cluster.nodes[*node];
        if kills { node.kill()? } else { node.pause()? }
    }
    tokio::time::sleep(lasts).await;
    for node in &nodes {
        let node = &mut cluster.nodes[*node];
        if kills { node.launch()? } else { node.resume()? }
    }
    for node in &nodes {
        cluster.nodes[*node].wait_ready(HEALING).await?;
    }
    Ok(kind)
}

/// Whether this build's directory answers claims.
async fn knows_claims(addresses: &[String], cluster_id: &bytes::Bytes) -> anyhow::Result<bool> {
    let command = command(PROBE, &Operation::Release { token: 1 });
    for _ in 0..200 {
        for node in &mut connect(addresses)? {
            let request = v1::ProposeRequest {
                cluster_id: cluster_id.clone(),
                group_id: 1,
                command: Some(command.clone()),
            };
            match node.propose(Request::new(request)).await.map(|response| response.into_inner().result) {
                Ok(Some(Answer::Applied(applied))) => {
                    let kind = applied.outcome.and_then(|outcome| outcome.kind);
                    return Ok(!matches!(kind, None | Some(Kind::Refused(_))));
                }
                // The command is of a later version than the build.
                Err(status) if status.code() == tonic::Code::FailedPrecondition => return Ok(false),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
    anyhow::bail!("no node leads the directory")
}
