//! How long a node needs after kill -9, and that nothing it then serves is wrong.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use hearth_client::{BlockBuf, BlockResult, Client, GetOptions, PutOptions, PutResult};
use hearth_proto::AckLevel;
use hearth_replay::{BenchReport, Figure, content};
use hearth_tests::blocks::{blocks, chain};
use hearth_tests::{ClusterOptions, NodeOptions, TestCluster};

use crate::ReportArgs;

const BATCH: usize = 500;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct RecoveryArgs {
    /// Blocks to store before the kill; 10,000 with --quick.
    #[arg(long, default_value_t = 100_000)]
    blocks: usize,
    /// Size of each.
    #[arg(long, default_value = "16KiB", value_parser = hearth_proto::size::parse, value_name = "SIZE")]
    block_bytes: u64,
    #[command(flatten)]
    report: ReportArgs,
}

/// What a full read-back found.
#[derive(Default)]
struct ReadBack {
    right: usize,
    missing: usize,
    wrong: u64,
}

/// Fills one node durably, kills it in the middle of further writes, and reads everything back.
pub(crate) async fn run(args: RecoveryArgs) -> anyhow::Result<bool> {
    let count = if args.report.quick { args.blocks.min(10_000) } else { args.blocks };
    let len = usize::try_from(args.block_bytes)?;
    let need = (count as u64 * 2) * (args.block_bytes + 8_192) + (512 << 20);
    let node = NodeOptions { nvme_capacity: need.to_string(), ..NodeOptions::default() };
    let options = ClusterOptions { nodes: 1, node, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start(options).await?;
    let client = cluster.client(0).await?;

    let batches = count.div_ceil(BATCH);
    let filled = Instant::now();
    for batch in 0..batches as u64 {
        let stored = store(&client, batch, len, AckLevel::Durable).await?;
        ensure!(stored == BATCH, "{stored} of {BATCH} blocks were stored durably");
    }
    let fill = filled.elapsed();
    // More writes, so that the kill falls in the middle of some; nothing was promised of these.
    let unpromised = batches as u64;
    let writer = tokio::spawn(async move {
        for batch in unpromised..unpromised + 20 {
            if store(&client, batch, len, AckLevel::Host).await.is_err() {
                break;
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.nodes[0].kill()?;
    writer.abort();

    let restarted = Instant::now();
    cluster.nodes[0].launch()?;
    cluster.nodes[0].wait_ready(PATIENCE).await?;
    let to_ready = restarted.elapsed();
    let store_open = opened_in(&cluster.nodes[0].log_path())?;

    let client = cluster.client(0).await?;
    let reading = Instant::now();
    let mut promised = ReadBack::default();
    for batch in 0..unpromised {
        read_back(&client, batch, len, &mut promised).await?;
    }
    let read = reading.elapsed();
    let mut rest = ReadBack::default();
    for batch in unpromised..unpromised + 20 {
        read_back(&client, batch, len, &mut rest).await?;
    }

    let bytes = (batches * BATCH * len) as f64;
    let figures = vec![
        Figure::new("blocks acknowledged durable before kill -9", "blocks", (batches * BATCH) as f64),
        Figure::new("of these read back right", "blocks", promised.right as f64),
        Figure::new("unacknowledged blocks read back right", "blocks", rest.right as f64),
        Figure::new("unacknowledged blocks lost", "blocks", rest.missing as f64),
        Figure::new("durable fill", "blocks/s", (batches * BATCH) as f64 / fill.as_secs_f64()),
        Figure::new("store open after kill -9", "ms", store_open.as_secs_f64() * 1e3),
        Figure::new("process start to ready", "ms", to_ready.as_secs_f64() * 1e3),
        Figure::new("full read-back from NVMe", "GB/s", bytes / read.as_secs_f64() / 1e9),
    ];
    let report = BenchReport::new("hearth-bench recovery", figures, promised.wrong + rest.wrong);
    args.report.publish(&report)?;
    let right = report.wrong == 0 && promised.missing == 0;
    if !right {
        eprintln!("INV-ACK or INV-BYTES broken: {} missing, {} wrong", promised.missing, report.wrong);
    }
    Ok(right)
}

async fn store(client: &Client, batch: u64, len: usize, ack: AckLevel) -> anyhow::Result<usize> {
    let chain = chain(batch, BATCH);
    let options = PutOptions { ack, patience: Some(PATIENCE) };
    let results = client.put(&chain, &blocks(&chain, len), options).await?;
    let stored = results.iter().filter(|r| matches!(r, PutResult::Stored { .. })).count();
    ensure!(stored > 0, "nothing was stored: {:?}", results.first());
    Ok(stored)
}

async fn read_back(client: &Client, batch: u64, len: usize, found: &mut ReadBack) -> anyhow::Result<()> {
    let chain = chain(batch, BATCH);
    let lookup = client.lookup(&chain, Some(PATIENCE)).await;
    let buffers = (0..BATCH).map(|i| (i, BlockBuf::with_capacity(len))).collect();
    client
        .get(&lookup, buffers, GetOptions::within(PATIENCE), |index, result| match result {
            BlockResult::Hit(hit) => {
                match content::verify(&chain.keys()[index], len, hit.buffer.as_slice()) {
                    Ok(()) => found.right += 1,
                    Err(_) => found.wrong += 1,
                }
            }
            BlockResult::Miss { .. } => found.missing += 1,
        })
        .await?;
    Ok(())
}

/// How long the last start took to open the store, as the node's log says it.
fn opened_in(log: &std::path::Path) -> anyhow::Result<Duration> {
    let log = std::fs::read_to_string(log)?;
    let line = log.lines().rfind(|l| l.contains("block store open")).context("the log says it")?;
    let (_, rest) = line.split_once("elapsed_us=").context("the line holds the time")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(Duration::from_micros(digits.parse()?))
}
