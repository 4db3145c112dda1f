//! How long it takes to place a request: looking up a chain of 1,000 blocks over 64 workers, and deciding.
//!
//! In one process and on one thread, as the router of a node does it, without the network.

use std::time::Instant;

use clap::Args;
use hearth_proto::{Tier, Urgency};
use hearth_replay::{BenchReport, Figure, Goal};
use hearth_router::catalog::{
    Answer, Catalog, Pool, PoolKey, Query, Settings, StoredBlocks, TierPrefix, WorkerKey,
};
use hearth_router::placement::{
    self, Candidate, DecodeSpeed, Held, LinkSpeed, Origin, PrefillCurve, PrefillWork, Prompt, Queue, Request,
    Source, Worker, WorkerId, WorkerLoad, place,
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::ReportArgs;

const WORKERS: u64 = 64;
const SESSIONS_EACH: usize = 10;
const BLOCK_TOKENS: u32 = 16;
/// Of a model of 8 billion parameters with 16-bit keys and values.
const BLOCK_BYTES: u64 = 2 << 20;
/// Blocks that all sessions begin with.
const SHARED: usize = 64;
/// Blocks of a session that a worker holds, and of a request.
const HELD: usize = 900;
const ASKED: usize = 1_000;
const GOAL_US: f64 = 20.0;

#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    #[command(flatten)]
    report: ReportArgs,
}

/// A session: the blocks of its next request, and who holds the first of them.
struct Session {
    chain: Vec<u64>,
    worker: usize,
    /// Those that are in the accelerator's memory; the rest of what is held is in the host's.
    resident: usize,
}

/// Measures. True when nothing was wrong and, with --check, the goal was met.
pub(crate) fn run(args: &PlaceArgs) -> anyhow::Result<bool> {
    let requests = if args.report.quick { 20_000 } else { 200_000 };
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let catalog = Catalog::new(Settings::new(usize::MAX, [rng.random(), rng.random()]));
    let key = PoolKey::new("model", "tenant", None, BLOCK_TOKENS)?;
    let names: Vec<WorkerKey> =
        (0..WORKERS).map(|number| WorkerKey::new(&format!("{number:02}"), 0)).collect::<Result<_, _>>()?;
    let pool =
        names.iter().map(|name| catalog.register(&key, name, 0)).collect::<Result<Vec<_>, _>>()?.remove(0);
    let sessions = fill(&pool, &names, &mut rng)?;
    let workers = workers(&mut rng)?;
    // From the host's memory over PCIe.
    let speed = LinkSpeed::new(1e-4, 2e10)?;
    let (mut answer, mut latencies_us, mut wrong) = (Answer::new(), Vec::new(), 0);
    let mut total_s = 0.0;
    for _ in 0..requests {
        let session = &sessions[rng.random_range(0..sessions.len())];
        let request = Request { spread: session.chain[0], ..Request::new(prompt()?) };
        let asked = Instant::now();
        pool.query(Query::SequenceHashes(&session.chain), &mut answer)?;
        let candidates: Vec<Candidate<'_>> = answer
            .workers()
            .zip(&workers)
            .map(|(found, worker)| Candidate { worker, held: held(found.prefix, speed) })
            .collect();
        let placed = place(&request, &candidates, &placement::Settings::default())?;
        latencies_us.push(asked.elapsed().as_secs_f64() * 1e6);
        total_s += placed.terms.total_s;
        let holder = &candidates[session.worker].held;
        let is_found = holder.resident_blocks() as usize == session.resident
            && holder.sources().last().map_or(session.resident, |source| source.prefix_blocks as usize)
                == HELD;
        let best = placement::explain(&request, &candidates, &placement::Settings::default());
        wrong += u64::from(!is_found || best.placement? != placed);
    }
    anyhow::ensure!(total_s.is_finite(), "a placement without a cost");
    latencies_us.sort_by(f64::total_cmp);
    let at = |share: f64| Some(latencies_us[((latencies_us.len() - 1) as f64 * share) as usize]);
    let what = format!("a request of {ASKED} blocks placed on one of {WORKERS} workers, lookup included");
    let figures = vec![
        Figure::new(format!("{what}, p50"), "us", at(0.5)),
        Figure::new(format!("{what}, p99"), "us", at(0.99)).with_goal(Goal::AtMost(GOAL_US)),
    ];
    let command = format!("hearth-bench place{}", if args.report.quick { " --quick" } else { "" });
    let report = BenchReport::new(command, figures, wrong);
    args.report.publish(&report)?;
    Ok(report.wrong == 0 && (!args.report.check || report.passes()))
}

fn prompt() -> anyhow::Result<Prompt> {
    Ok(Prompt::new(ASKED as u32 * BLOCK_TOKENS, BLOCK_TOKENS, BLOCK_BYTES)?)
}

/// Every worker holds sessions of its own, a part of each in its accelerator's memory and all in its host's.
fn fill(pool: &Pool, names: &[WorkerKey], rng: &mut ChaCha8Rng) -> anyhow::Result<Vec<Session>> {
    let shared: Vec<u64> = (0..SHARED).map(|_| rng.random()).collect();
    let mut sessions = Vec::new();
    for (worker, name) in names.iter().enumerate() {
        for _ in 0..SESSIONS_EACH {
            let mut chain = shared.clone();
            chain.extend((SHARED..ASKED).map(|_| rng.random::<u64>()));
            let resident = rng.random_range(SHARED..=HELD);
            for (tier, blocks) in [(Tier::Gpu, &chain[..resident]), (Tier::Host, &chain[..HELD])] {
                pool.stored(name, tier, &StoredBlocks { hashes: blocks, ..StoredBlocks::default() }, 0)?;
            }
            sessions.push(Session { chain, worker, resident });
        }
    }
    Ok(sessions)
}

/// Workers with more or less to do.
fn workers(rng: &mut ChaCha8Rng) -> anyhow::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for id in 0..WORKERS {
        let mut load =
            WorkerLoad { sequences: rng.random_range(0..64), blocks: 20_000, queue: Queue::default() };
        load.queue.add(Urgency::Normal, PrefillWork::new(rng.random_range(1..40_000), 0)?);
        workers.push(Worker {
            id: WorkerId(id),
            prefill: PrefillCurve::PRIOR,
            decode: DecodeSpeed::new(0.01, 1e-4, 1e-7)?,
            load,
            blocks_max: 50_000,
            is_draining: false,
        });
    }
    Ok(workers)
}

fn held(found: TierPrefix, speed: LinkSpeed) -> Held {
    let TierPrefix { gpu_blocks, host_blocks, .. } = found;
    let mut held = Held::resident(gpu_blocks);
    if host_blocks > gpu_blocks {
        let source = Source { tier: Tier::Host, origin: Origin::Worker, prefix_blocks: host_blocks, speed };
        let added = held.add(source);
        debug_assert!(added.is_ok(), "one place is not too many");
    }
    held
}
