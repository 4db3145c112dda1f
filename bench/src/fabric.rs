//! Host-tier gets over loopback TCP, beside the limit: a bare TCP stream between two processes.
//!
//! Both move the same working set from one process into reused buffers of another, in turns within
//! one run. Ours is the whole path: client, hearthd, arena, frames, checksums.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use hearth_client::{BlockBuf, BlockResult, Client, GetOptions, Lookup, PutOptions, PutResult};
use hearth_proto::AckLevel;
use hearth_proto::Tier;
use hearth_replay::{BenchReport, Figure, Goal, content};
use hearth_tests::blocks::{blocks, chain};
use hearth_tests::{ClusterOptions, NodeOptions, TestCluster};

use crate::ReportArgs;
use crate::peer::TcpPeer;

/// Bytes of blocks that are got round and round; larger than the caches of the processor.
const WORKING_SET_BYTES: usize = 128 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
/// Share of the bare stream that a get must reach.
const GOAL: f64 = 0.5;

#[derive(Debug, Args)]
pub(crate) struct FabricArgs {
    /// Sizes of a block; may be given several times.
    #[arg(long, default_values = ["64KiB", "256KiB", "1MiB", "2560KiB"], value_parser = hearth_proto::size::parse, value_name = "SIZE")]
    block_bytes: Vec<u64>,
    /// Blocks in one get.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Turns of each side.
    #[arg(long, default_value_t = 9)]
    turns: usize,
    #[command(flatten)]
    report: ReportArgs,
}

/// Measures every block size. True when nothing was wrong and, with --check, every goal was met.
pub(crate) async fn run(args: FabricArgs) -> anyhow::Result<bool> {
    let turns = if args.report.quick { args.turns.min(3) } else { args.turns };
    let node =
        NodeOptions { host_capacity: "1GiB".into(), nvme_capacity: "0".into(), ..NodeOptions::default() };
    let cluster = TestCluster::start(ClusterOptions { nodes: 1, node, ..ClusterOptions::default() }).await?;
    let client = cluster.client(0).await?;
    let peer = TcpPeer::start(WORKING_SET_BYTES)?;
    let (mut figures, mut wrong) = (Vec::new(), 0);
    for (seed, &block_bytes) in args.block_bytes.iter().enumerate() {
        let len = usize::try_from(block_bytes)?;
        let count = (WORKING_SET_BYTES / len / args.batch).max(1) * args.batch;
        let mut hearth = Hearth::fill(client.clone(), seed as u64, count, len).await?;
        let mut bare = Bare::connect(peer.port, args.batch * len)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for turn in 0..=turns {
            let t = bare.turn(count * len / (args.batch * len))?;
            let o = hearth.turn(args.batch, &mut wrong).await?;
            if turn > 0 {
                // The first turn of each warms buffers and connections.
                theirs.push((count * len) as f64 / t.as_secs_f64() / 1e9);
                ours.push((count * len) as f64 / o.as_secs_f64() / 1e9);
            }
        }
        let name = format!("get, {} KiB blocks, batches of {}", len >> 10, args.batch);
        figures.push(
            Figure::new(&name, "GB/s", median(&mut ours))
                .with_peer("bare TCP stream", median(&mut theirs))
                .with_goal(Goal::RatioAtLeast(GOAL)),
        );
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..turns * 20 {
            theirs.push(bare.one(len)?.as_secs_f64() * 1e6);
            ours.push(hearth.one(&mut wrong).await?.as_secs_f64() * 1e6);
        }
        let name = format!("single get p50, {} KiB", len >> 10);
        figures.push(
            Figure::new(&name, "us", median(&mut ours)).with_peer("bare TCP request", median(&mut theirs)),
        );
    }
    let report = BenchReport::new("hearth-bench fabric", figures, wrong);
    args.report.publish(&report)?;
    Ok(report.wrong == 0 && (!args.report.check || report.passes()))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Our side: a client process and a hearthd.
struct Hearth {
    client: Client,
    lookup: Lookup,
    len: usize,
    free: Vec<BlockBuf>,
}

impl Hearth {
    async fn fill(client: Client, seed: u64, count: usize, len: usize) -> anyhow::Result<Self> {
        let chain = chain(0xFAB0 + seed, count);
        let options = PutOptions { ack: AckLevel::Host, patience: Some(PATIENCE) };
        let results = client.put(&chain, &blocks(&chain, len), options).await?;
        ensure!(results.iter().all(|r| matches!(r, PutResult::Stored { .. })), "the working set must fit");
        let lookup = client.lookup(&chain, Some(PATIENCE)).await;
        ensure!(lookup.held_prefix() == count, "the working set must be found");
        Ok(Self { client, lookup, len, free: Vec::new() })
    }

    /// Gets the whole working set, a batch at a time; checks every byte after the clock has stopped.
    async fn turn(&mut self, batch: usize, wrong: &mut u64) -> anyhow::Result<Duration> {
        let mut elapsed = Duration::ZERO;
        let count = self.lookup.chain().len();
        for first in (0..count).step_by(batch) {
            elapsed += self.get(first..(first + batch).min(count), wrong).await?;
        }
        Ok(elapsed)
    }

    async fn one(&mut self, wrong: &mut u64) -> anyhow::Result<Duration> {
        self.get(0..1, wrong).await
    }

    async fn get(&mut self, range: std::ops::Range<usize>, wrong: &mut u64) -> anyhow::Result<Duration> {
        let wanted = range
            .clone()
            .map(|i| (i, self.free.pop().unwrap_or_else(|| BlockBuf::with_capacity(self.len))))
            .collect();
        let mut got = Vec::with_capacity(range.len());
        let started = Instant::now();
        self.client
            .get(&self.lookup, wanted, GetOptions::within(PATIENCE), |index, result| {
                if let BlockResult::Hit(hit) = result {
                    got.push((index, hit));
                }
            })
            .await?;
        let elapsed = started.elapsed();
        ensure!(got.len() == range.len(), "{} of {} blocks came", got.len(), range.len());
        for (index, hit) in got {
            ensure!(hit.tier == Tier::Host, "the working set must stay in the Host tier");
            let key = &self.lookup.chain().keys()[index];
            *wrong += u64::from(content::verify(key, self.len, hit.buffer.as_slice()).is_err());
            self.free.push(hit.buffer);
        }
        Ok(elapsed)
    }
}

/// The limit: one socket, one buffer, nothing else.
struct Bare {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Bare {
    fn connect(port: u16, buffer_bytes: usize) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; buffer_bytes] })
    }

    /// Asks for the buffer's size, `times` times.
    fn turn(&mut self, times: usize) -> anyhow::Result<Duration> {
        let started = Instant::now();
        for _ in 0..times {
            self.ask(self.buffer.len())?;
        }
        Ok(started.elapsed())
    }

    fn one(&mut self, len: usize) -> anyhow::Result<Duration> {
        let started = Instant::now();
        self.ask(len)?;
        Ok(started.elapsed())
    }

    fn ask(&mut self, len: usize) -> anyhow::Result<()> {
        self.stream.write_all(&(len as u64).to_le_bytes())?;
        self.stream.read_exact(&mut self.buffer[..len])?;
        Ok(())
    }
}
