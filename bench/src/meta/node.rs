//! A process of its own for each node: the metadata plane of a hearthd without blocks.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use hearth_cluster::{Cluster, ClusterConfig, Freshness, JoinRequest, NodeAddresses, request_join};
use hearth_proto::limits::VOTER_LOST_AFTER_MS;
use hearth_proto::{BlockKey, ClusterId, DirectoryGroups, NamespaceId, NodeId};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio_util::sync::CancellationToken;

use super::source::{NumberedSource, key};
use crate::store::Clock;

/// How long anything but the work itself may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// Stands for the node in the keys of blocks that all hold.
const SHARED: u64 = 0;
/// How often a node looks whether everything was applied.
const LOOK: Duration = Duration::from_millis(1);
/// How often a probe looks for itself: no answer can be exact to less.
const PROBE_LOOK: Duration = Duration::from_micros(50);

/// Arguments of the process.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeArgs {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    join: Option<String>,
    #[arg(long, default_value_t = 1)]
    directory_groups: u32,
    /// Holds the blocks that every node with this flag holds, not blocks of its own.
    #[arg(long)]
    shared: bool,
    /// Blocks that it holds from the start.
    #[arg(long, default_value_t = 0)]
    holds: u64,
}

/// What a node keeps beside its folder, to come back as the same one.
#[derive(Serialize, Deserialize)]
struct Kept {
    cluster_id: ClusterId,
    node_id: NodeId,
    directory_groups: DirectoryGroups,
}

/// How a node is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    pub(crate) dir: PathBuf,
    /// Whom to join at the first start; it founds a cluster otherwise.
    pub(crate) seed: Option<String>,
    pub(crate) directory_groups: u32,
    pub(crate) shared: bool,
    pub(crate) holds: u64,
}

/// What a node is to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Waits until the cluster has so many voters of every group.
    Ready { nodes: usize },
    /// Adds so many blocks, and waits until so many are in its copy of the directory.
    Fill { count: u64, total: u64 },
    /// Adds so many blocks at a rate; meanwhile adds single ones, evenly over the time, and times them.
    Probe { count: u64, per_s: f64, millis: u64, probes: u32 },
    /// Writes snapshots of all groups.
    Snapshot,
    /// Waits until a chain of the shared blocks has so many replicas each.
    Found { chain: u64, replicas: usize },
    /// Looks up chains of so many blocks of each node in turn, in pieces of so many that were reported together.
    Lookup { rounds: u32, chain: u64, piece: u64, blocks: u64, linearizable: bool },
    /// Reads two places of memory at random for each block of a chain in a directory of so many blocks.
    Bare { rounds: u32, chain: u64, blocks: u64 },
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) elapsed_s: f64,
    pub(crate) cpu_s: f64,
    /// One for each probe or lookup.
    pub(crate) latencies_us: Vec<f64>,
    /// Answers that were not what was stored.
    pub(crate) wrong: u64,
}

/// A node as the one who started it sees it; ended when dropped.
pub(crate) struct Node {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    pub(crate) address: String,
}

impl Node {
    /// Starts the process.
    pub(crate) async fn start(start: &Start) -> anyhow::Result<Self> {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.arg("meta-node").arg("--dir").arg(&start.dir);
        command.arg(format!("--directory-groups={}", start.directory_groups.max(1)));
        command.arg(format!("--holds={}", start.holds));
        command.args(start.seed.iter().flat_map(|seed| ["--join", seed]));
        command.args(start.shared.then_some("--shared"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot start a node")?;
        let orders = child.stdin.take().context("the node's input is a pipe")?;
        let answers = child.stdout.take().context("the node's output is a pipe")?;
        let mut answers = BufReader::new(answers).lines();
        let address = tokio::time::timeout(PATIENCE, answers.next_line()).await??;
        let address = address.context("the node ended at once")?;
        Ok(Self { child, orders, answers, address })
    }

    /// Memory that the process holds, in bytes.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let pid = self.child.id().context("the node has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib = line.split_whitespace().next().context("no number")?;
        Ok(kib.parse::<u64>()? << 10)
    }

    /// Clock ticks of processor time that the process has used.
    pub(crate) fn cpu_ticks(&self) -> anyhow::Result<u64> {
        let pid = self.child.id().context("the node has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may hold anything.
        let fields: Vec<&str> = stat.rsplit(')').next().context("no fields")?.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).context("too few fields")?.parse::<u64>().context("no number");
        Ok(ticks(11)? + ticks(12)?)
    }

    /// Ends the process with SIGKILL.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Has the node do something, and waits for that.
    pub(crate) async fn order(&mut self, order: Order) -> anyhow::Result<Done> {
        self.orders.write_all(format!("{}\n", serde_json::to_string(&order)?).as_bytes()).await?;
        let answer = self.answers.next_line().await?.context("a node ended in the middle of its work")?;
        serde_json::from_str(&answer).with_context(|| format!("a node answers {answer:?}"))
    }
}

/// The process: runs a member and does what it is told, until there is nobody to tell it.
#[allow(clippy::print_stdout)]
pub(crate) async fn run(args: NodeArgs) -> anyhow::Result<bool> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (cluster, source) = start(&args, listener, address).await?;
    println!("{address}");
    std::io::stdout().flush()?;
    let (sender, mut orders) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    while let Some(order) = orders.recv().await {
        let done = obey(&cluster, &source, serde_json::from_str(&order)?).await?;
        println!("{}", serde_json::to_string(&done)?);
        std::io::stdout().flush()?;
    }
    Ok(true)
}

async fn start(
    args: &NodeArgs,
    listener: TcpListener,
    address: SocketAddr,
) -> anyhow::Result<(Cluster, Arc<NumberedSource>)> {
    // No blocks are served: the second address only has to be one.
    let addresses = NodeAddresses { control: address.to_string(), data: address.to_string() };
    let node_uuid = rand::rng().random();
    let kept = args.dir.with_extension("json");
    let is_first = !kept.exists();
    let member = if is_first {
        let member = become_member(args, &addresses, node_uuid).await?;
        std::fs::write(&kept, serde_json::to_vec(&member)?)?;
        member
    } else {
        serde_json::from_slice(&std::fs::read(&kept)?)?
    };
    let Kept { cluster_id, node_id, directory_groups } = member;
    let cluster = Cluster::start(ClusterConfig {
        dir: args.dir.clone(),
        node_id,
        cluster_id,
        directory_groups,
        name: address.to_string(),
        zone: String::new(),
        never_votes: false,
        voter_lost_after_ms: VOTER_LOST_AFTER_MS,
        boot_id: rand::rng().random(),
        addresses,
        host_capacity_bytes: 1 << 30,
        nvme_capacity_bytes: 1 << 40,
    })
    .await?;
    let server = hearth_cluster::grpc_server().add_routes(cluster.services());
    // As hearthd serves: without this each answer may wait for the peer's delayed acknowledgement.
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(server.serve_with_incoming(incoming));
    if is_first && args.join.is_none() {
        cluster.found(node_uuid).await?;
    }
    let source = Arc::new(NumberedSource::new(if args.shared { SHARED } else { node_id.0 }));
    source.hold(args.holds);
    let (member, reported) = (cluster.clone(), Arc::clone(&source));
    tokio::spawn(async move {
        if let Err(error) = member.run_member(reported, CancellationToken::new()).await {
            tracing::error!(%error, "the member ended");
            // Whoever waits for this node is told by its end.
            std::process::exit(1);
        }
    });
    Ok((cluster, source))
}

async fn become_member(
    args: &NodeArgs,
    addresses: &NodeAddresses,
    node_uuid: [u8; 16],
) -> anyhow::Result<Kept> {
    let Some(seed) = &args.join else {
        return Ok(Kept {
            cluster_id: ClusterId(rand::rng().random()),
            node_id: NodeId(1),
            directory_groups: DirectoryGroups::new(args.directory_groups)?,
        });
    };
    let request = JoinRequest {
        node_uuid,
        name: addresses.control.clone(),
        zone: String::new(),
        addresses: addresses.clone(),
        expected_cluster: None,
        expected_directory_groups: None,
    };
    let grant = request_join(seed, request, Instant::now() + PATIENCE).await?;
    Ok(Kept {
        cluster_id: grant.cluster_id,
        node_id: grant.node_id,
        directory_groups: grant.directory_groups,
    })
}

async fn obey(cluster: &Cluster, source: &Arc<NumberedSource>, order: Order) -> anyhow::Result<Done> {
    let clock = Clock::start();
    let mut done = Done::default();
    match order {
        Order::Ready { nodes } => wait_until_ready(cluster, nodes).await?,
        Order::Fill { count, total } => {
            source.add(count);
            while blocks(cluster) < total {
                ensure!(clock.elapsed() < PATIENCE, "{} of {total} blocks were applied", blocks(cluster));
                tokio::time::sleep(LOOK).await;
            }
        }
        Order::Probe { count, per_s, millis, probes } => {
            let time = Duration::from_millis(millis);
            source.add_at(per_s, count);
            let (cluster, prober) = (cluster.clone(), Arc::clone(source));
            let timed = move || probe(&cluster, &prober, time, probes);
            done.latencies_us = tokio::task::spawn_blocking(timed).await??;
            while source.is_busy() {
                ensure!(clock.elapsed() < PATIENCE, "what was reported is not taken");
                tokio::time::sleep(LOOK).await;
            }
        }
        Order::Snapshot => cluster.write_snapshots().await?,
        Order::Found { chain, replicas } => {
            let keys: Vec<BlockKey> = (0..chain).map(|number| key(SHARED, number)).collect();
            let found = |views: &[hearth_cluster::ReplicaView]| views.len() == replicas;
            while !cluster.lookup(NamespaceId::DEFAULT, &keys).replicas.iter().all(found) {
                ensure!(clock.elapsed() < PATIENCE, "a block has not {replicas} replicas");
                tokio::time::sleep(LOOK).await;
            }
        }
        Order::Lookup { rounds, chain, piece, blocks, linearizable } => {
            let cluster = cluster.clone();
            let look = move || look_up(&cluster, rounds, (chain, piece), blocks, linearizable);
            (done.latencies_us, done.wrong) = tokio::task::spawn_blocking(look).await?;
        }
        Order::Bare { rounds, chain, blocks } => {
            let read = move || bare(rounds, chain as usize, blocks as usize);
            done.latencies_us = tokio::task::spawn_blocking(read).await?;
        }
    }
    let turn = clock.stop(0);
    (done.elapsed_s, done.cpu_s) = (turn.elapsed.as_secs_f64(), turn.cpu.as_secs_f64());
    Ok(done)
}

async fn wait_until_ready(cluster: &Cluster, nodes: usize) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    let is_ready = || cluster.is_ready() && cluster.groups().iter().all(|group| group.voters.len() == nodes);
    while !is_ready() {
        ensure!(Instant::now() < until, "the cluster has not become whole");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn blocks(cluster: &Cluster) -> u64 {
    cluster.groups().iter().map(|group| group.blocks).sum()
}

/// Times from a change to its being found, evenly over the time.
fn probe(
    cluster: &Cluster,
    source: &NumberedSource,
    time: Duration,
    probes: u32,
) -> anyhow::Result<Vec<f64>> {
    let began = Instant::now();
    let mut latencies_us = Vec::new();
    for number in 0..probes {
        let at = began + time * number / probes;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        // From when it should have been sent: one that is late makes those behind it late.
        let key = source.probe();
        while cluster.lookup(NamespaceId::DEFAULT, &[key]).replicas[0].is_empty() {
            if at.elapsed() > PATIENCE {
                bail!("a block that was reported is not found");
            }
            std::thread::sleep(PROBE_LOOK);
        }
        latencies_us.push(at.elapsed().as_secs_f64() * 1e6);
    }
    Ok(latencies_us)
}

/// Times lookups of chains whose blocks lie on some node each, pieces of so many in the order of their reports;
/// counts blocks that are not found there.
fn look_up(
    cluster: &Cluster,
    rounds: u32,
    (chain, piece): (u64, u64),
    blocks: u64,
    linearizable: bool,
) -> (Vec<f64>, u64) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let (mut latencies_us, mut wrong) = (Vec::new(), 0);
    let runtime = tokio::runtime::Handle::current();
    for round in 0..rounds {
        let node = 1 + u64::from(round) % 3;
        let mut keys: Vec<BlockKey> = Vec::new();
        while (keys.len() as u64) < chain {
            let count = piece.min(chain - keys.len() as u64);
            let from = rng.random_range(0..=blocks.saturating_sub(count));
            keys.extend((from..from + count).map(|number| key(node, number)));
        }
        let asked = Instant::now();
        let namespace = NamespaceId::DEFAULT;
        let replicas = if linearizable {
            let lookup = cluster.lookup_fresh(namespace, &keys, &Freshness::Linearizable, asked + PATIENCE);
            runtime.block_on(lookup).map(|answer| answer.replicas).unwrap_or_default()
        } else {
            cluster.lookup(namespace, &keys).replicas
        };
        latencies_us.push(asked.elapsed().as_secs_f64() * 1e6);
        let right = |found: &&[hearth_cluster::ReplicaView]| found.iter().map(|view| view.node.0).eq([node]);
        wrong += chain - replicas.iter().filter(right).count() as u64;
    }
    (latencies_us, wrong)
}

/// Times what a directory that knows nothing of chains cannot do without: for each block a read of a table of places,
/// and one of the block that the place leads to, both at random. Neither waits for the one before.
fn bare(rounds: u32, chain: usize, blocks: usize) -> Vec<f64> {
    const PLACE_OF: u64 = 0x9e37_79b9_7f4a_7c15;
    let slots = blocks.max(1);
    let places: Vec<u32> = (0..(2 * slots).next_power_of_two() as u64)
        .map(|at| (at.wrapping_mul(PLACE_OF) % slots as u64) as u32)
        .collect();
    let held = vec![[1_u64; 4]; slots];
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut latencies_us = Vec::new();
    let mut slots = Vec::with_capacity(chain);
    for _ in 0..rounds {
        let wanted: Vec<usize> = (0..chain).map(|_| rng.random_range(0..places.len())).collect();
        let asked = Instant::now();
        slots.clear();
        slots.extend(wanted.iter().map(|at| places[*at] as usize));
        let sum: u64 = slots.iter().map(|slot| held[*slot][0]).sum();
        latencies_us.push(asked.elapsed().as_secs_f64() * 1e6);
        assert_eq!(sum, chain as u64);
    }
    latencies_us
}
