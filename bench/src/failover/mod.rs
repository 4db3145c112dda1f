//! How long the metadata plane takes no writes after its leader is killed or stopped, and that none is lost.
//!
//! Three hearthd processes with default settings on loopback. A writer reports one new block after the other to
//! the directory and never skips one: if an acknowledged report were lost, the next would find a gap. A fault
//! strikes the leader of a group; the clock runs from there to the acknowledgement of a write begun after it.
//! Meanwhile blocks are claimed and pinned: each claim has to outlast eight faults, each pin all that follow.

mod promises;
mod writer;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use hearth_client::{Client, ClientConfig};
use hearth_proto::AckLevel;
use hearth_proto::limits::RAFT_ELECTION_MS_MAX;
use hearth_replay::{BenchReport, Figure, Goal};
use hearth_tests::blocks::{chain, put_all};
use hearth_tests::{ClusterOptions, TestCluster};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::promises::Promises;
use self::writer::{Writer, admit};
use crate::ReportArgs;

const PATIENCE: Duration = Duration::from_secs(60);
/// The longest that writes may stand still, at the 99th percentile.
const GOAL_MS: f64 = 1_000.0;
/// Groups that a fault may leave without a leader: control and directory.
const GROUPS: [u32; 2] = [0, 1];
/// Blocks put through the surviving nodes in each round, and looked for at the end.
const BLOCKS: usize = 4;
const BLOCK_BYTES: usize = 16 << 10;

#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    /// Leaders to kill and to stop, each; 5 with --quick.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// Seconds of writes without a fault, during which nobody may be elected; 3 with --quick.
    #[arg(long, default_value_t = 15)]
    steady_seconds: u64,
    /// Seed of when the faults strike.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    report: ReportArgs,
}

/// What is done to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// SIGKILL, and a new start once others have taken over.
    Kill,
    /// SIGSTOP, and SIGCONT once others have taken over.
    Stop,
}

/// Milliseconds without writes, by group.
#[derive(Debug, Default)]
struct Outages {
    directory: Vec<f64>,
    control: Vec<f64>,
    /// Until both took writes, of every fault.
    either: Vec<f64>,
}

/// Measures. True when nothing was lost and, with --check, every goal was met.
pub(crate) async fn run(args: FailoverArgs) -> anyhow::Result<bool> {
    let (rounds, steady) = if args.report.quick { (5, 3) } else { (args.rounds, args.steady_seconds) };
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let mut cluster = TestCluster::start(ClusterOptions::default()).await?;
    let writer = Writer::start(&cluster).await?;

    let before = terms(&cluster).await?;
    tokio::time::sleep(Duration::from_secs(steady)).await;
    let elections: u64 = terms(&cluster).await?.iter().zip(&before).map(|(now, then)| now - then).sum();
    let steady_rate = writer.acknowledged() as f64 / steady as f64;

    let mut promises = Promises::default();
    let mut put = 0;
    let mut outages = Vec::new();
    for fault in [Fault::Kill, Fault::Stop] {
        let mut found = Outages::default();
        for round in 0..rounds {
            let struck = strike(&mut cluster, &writer, fault, &mut rng, &mut found, &mut promises, put).await;
            struck.with_context(|| {
                format!("{fault:?} {round}, after {} acknowledged writes", writer.acknowledged())
            })?;
            put += 1;
        }
        outages.push((fault, found));
    }
    let acknowledged = writer.stop().await?;
    let missing = missing(&mut cluster, acknowledged, put).await?;
    let pins_lost = promises.pins_lost(&cluster).await?;

    let mut figures = vec![
        Figure::new("writes acknowledged", "writes", acknowledged as f64),
        Figure::new("acknowledged writes lost", "writes", missing as f64).with_goal(Goal::AtMost(0.0)),
        Figure::new("claims granted", "claims", promises.claims_granted as f64),
        Figure::new("claims lost", "claims", promises.claims_lost as f64).with_goal(Goal::AtMost(0.0)),
        Figure::new("pins granted", "pins", promises.pins_granted() as f64),
        Figure::new("pins lost", "pins", pins_lost as f64).with_goal(Goal::AtMost(0.0)),
        Figure::new("one writer, no fault", "writes/s", steady_rate),
        Figure::new("elections without a fault", "elections", elections as f64).with_goal(Goal::AtMost(0.0)),
    ];
    for (fault, found) in &outages {
        let what = match fault {
            Fault::Kill => "leader killed",
            Fault::Stop => "leader stopped",
        };
        figures.extend(quantiles(&format!("{what}, any group without writes"), &found.either));
        figures.extend(quantiles(&format!("{what}, directory without writes"), &found.directory));
        figures.extend(quantiles(&format!("{what}, control without writes"), &found.control));
    }
    figures.extend(quantiles("from the fault to a claim granted by a survivor", &promises.claim_ms));
    let lost = missing + promises.claims_lost + pins_lost;
    let report = BenchReport::new("hearth-bench failover", figures, lost);
    args.report.publish(&report)?;
    Ok(lost == 0 && (!args.report.check || report.passes()))
}

/// One fault: strikes a leader, times the next write, and heals.
async fn strike(
    cluster: &mut TestCluster,
    writer: &Writer,
    fault: Fault,
    rng: &mut ChaCha8Rng,
    outages: &mut Outages,
    promises: &mut Promises,
    round: u64,
) -> anyhow::Result<()> {
    let leads = [cluster.wait_leader(0).await?, cluster.wait_leader(1).await?];
    // In turn, should the groups have different leaders.
    let struck = leads[round as usize % 2];
    let survivor = (struck + 1 + rng.random_range(0..2)) % 3;
    let client = cluster.client(survivor).await?;
    // Anywhere between two heartbeats, while the writer has it acknowledge one write after the other.
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..RAFT_ELECTION_MS_MAX))).await;
    let begun = Instant::now();
    match fault {
        Fault::Kill => cluster.nodes[struck].kill()?,
        Fault::Stop => cluster.nodes[struck].pause()?,
    }
    writer.avoid(Some(struck));
    let survivors = [1, 2].map(|step| cluster.nodes[(struck + step) % 3].control_address());
    let (directory, control, claimed) = tokio::join!(
        writer.next_acknowledged(begun, PATIENCE),
        admit(&survivors, begun, PATIENCE),
        promises.claim(&client, round, begun)
    );
    for group in GROUPS.into_iter().filter(|group| leads[*group as usize] == struck) {
        match group {
            0 => outages.control.push(control.as_ref().map_or(f64::NAN, |took| millis(*took))),
            _ => outages.directory.push(directory.as_ref().map_or(f64::NAN, |took| millis(*took))),
        }
    }
    outages.either.push(millis(control?.max(directory?)));
    claimed?;
    put_all(&client, &chain(round, BLOCKS), BLOCK_BYTES, AckLevel::Durable).await?;
    promises.keep(&client, round).await?;
    match fault {
        Fault::Kill => cluster.nodes[struck].launch()?,
        Fault::Stop => cluster.nodes[struck].resume()?,
    }
    cluster.nodes[struck].wait_ready(PATIENCE).await?;
    writer.avoid(None);
    caught_up(cluster, struck).await
}

/// Waits until the node has what the others had when this was called.
async fn caught_up(cluster: &TestCluster, node: usize) -> anyhow::Result<()> {
    let applied = async |node| -> anyhow::Result<Vec<u64>> {
        Ok(cluster.status(node).await?.groups.iter().map(|group| group.applied_index).collect())
    };
    let wanted = applied((node + 1) % 3).await?;
    TestCluster::wait_until("the node has what it missed", PATIENCE, || async {
        applied(node).await.is_ok_and(|has| has.iter().zip(&wanted).all(|(has, wanted)| has >= wanted))
    })
    .await
}

async fn terms(cluster: &TestCluster) -> anyhow::Result<Vec<u64>> {
    let status = cluster.status(0).await?;
    ensure!(status.groups.len() == GROUPS.len(), "the default is one directory group");
    Ok(status.groups.iter().map(|group| group.term).collect())
}

/// Acknowledged writes that a node's copy of the directory lacks, the worst node's, once all had the time to
/// apply what is committed.
async fn missing(cluster: &mut TestCluster, acknowledged: u64, rounds: u64) -> anyhow::Result<u64> {
    let expected = acknowledged + rounds * BLOCKS as u64;
    let mut worst = 0;
    for index in 0..cluster.nodes.len() {
        let mut found = 0;
        let until = Instant::now() + Duration::from_secs(20);
        while found < expected && Instant::now() < until {
            found = cluster.committed_blocks(index).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The reported blocks are nobody's; those that were put can be looked up.
        let client = Client::connect(ClientConfig::new(vec![cluster.nodes[index].control_address()])).await?;
        let mut unseen = 0;
        for round in 0..rounds {
            let lookup = client.lookup(&chain(round, BLOCKS), Some(PATIENCE)).await;
            unseen += lookup.replicas().iter().filter(|replicas| replicas.is_empty()).count() as u64;
        }
        worst = worst.max(unseen).max(expected.saturating_sub(found));
    }
    Ok(worst)
}

fn quantiles(what: &str, outages: &[f64]) -> Vec<Figure> {
    let mut sorted = outages.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
    };
    vec![
        Figure::new(format!("{what}: faults"), "faults", sorted.len() as f64),
        Figure::new(format!("{what}, median"), "ms", at(0.5)),
        Figure::new(format!("{what}, 99th percentile"), "ms", at(0.99)).with_goal(Goal::AtMost(GOAL_MS)),
        Figure::new(format!("{what}, longest"), "ms", at(1.0)),
    ]
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
