//! The router's prefix index beside those of Dynamo's router, on the same events and the same questions, with a set
//! for each worker to say what is right.
//!
//! Everything runs on one thread but what Dynamo's pools feed themselves with; rates are for each second of processor
//! time. The clock of what is applied stops when all of it can be found. An engine's chained hashes are what our index
//! is asked with; Dynamo's are asked with hashes of each block's tokens, as their router does.

#[cfg(feature = "peers")]
mod dynamo;
mod memory;
mod subject;
mod workload;

use std::time::Instant;

use clap::Args;
use hearth_replay::{BenchReport, Figure, Goal};

use self::memory::Counted;
pub(crate) use self::memory::Counting;
use self::subject::{Oracle, Ours, Prepared, Query, Subject};
use self::workload::{Event, Workload, agentic, all_miss, head_first};
use crate::ReportArgs;
use crate::store::Clock;

/// How often finds go over all queries.
const FIND_TURNS: usize = 5;
/// Queries that are asked in a row: as many as the processor's cache holds.
const ASKED: usize = 16;
/// Queries that are compared with the oracle.
const CHECKED: usize = 400;
/// Finds before memory is counted: what is let go of is let go of by then.
const SETTLE: usize = 2_000;

const FINDS_GOAL: f64 = 3.0;
const APPLIED_GOAL: f64 = 2.0;
const P50_GOAL_US: f64 = 1.0;
const BYTES_GOAL: f64 = 36.0;

#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    #[command(flatten)]
    report: ReportArgs,
}

/// What one index did with one workload.
#[derive(Clone, Debug, Default)]
struct Measured {
    name: &'static str,
    finds_per_cpu_s: f64,
    p50_us: f64,
    p99_us: f64,
    applied_per_cpu_s: f64,
    bytes: f64,
    bytes_churned: f64,
    bytes_cleared: f64,
    wrong: u64,
}

/// Measures. True when nothing was wrong and, with --check, every goal was met.
pub(crate) async fn run(args: IndexArgs) -> anyhow::Result<bool> {
    let quick = args.report.quick;
    let runtime = tokio::runtime::Handle::current();
    let report = tokio::task::spawn_blocking(move || measure_all(quick, &runtime)).await?;
    args.report.publish(&report)?;
    Ok(report.wrong == 0 && (!args.report.check || report.passes()))
}

fn measure_all(quick: bool, runtime: &tokio::runtime::Handle) -> BenchReport {
    let queries = if quick { 2_000 } else { 20_000 };
    let (few, many) = if quick { (2, 1) } else { (10, 2) };
    let makers: [&dyn Fn() -> Workload; 4] = [
        &|| agentic(64, few, queries),
        &|| agentic(1_024, many, queries),
        &|| all_miss(64, few, queries),
        &|| head_first(64, few, queries),
    ];
    let (mut figures, mut wrong) = (Vec::new(), 0);
    for make in makers {
        let workload = make();
        let all = measure_workload(&workload, runtime);
        for measured in &all {
            eprintln!("index: {}: {measured:?}", workload.name);
        }
        wrong += all[0].wrong;
        figures.extend(figures_of(&workload.name, &all));
    }
    let features = if cfg!(feature = "peers") {
        "cargo run --release -p hearth-bench --features peers -- "
    } else {
        "hearth-bench "
    };
    BenchReport::new(format!("{features}index{}", if quick { " --quick" } else { "" }), figures, wrong)
}

fn measure_workload(workload: &Workload, runtime: &tokio::runtime::Handle) -> Vec<Measured> {
    let workers = workload.workers;
    let oracle = Oracle::of(workers, &workload.events);
    let queries: Vec<Query> = workload.queries.iter().map(|chain| Query::new(chain)).collect();
    let ours = || -> Box<dyn Subject> { Box::new(Ours::new(workers)) };
    #[allow(unused_mut)]
    let mut all =
        vec![measure(workload, &oracle, &queries, &ours, &|_, event| Prepared::Ours(event.clone()))];
    #[cfg(feature = "peers")]
    {
        use dynamo_kv_router::ConcurrentRadixTreeCompressed;
        use dynamo_kv_router::nested_map::PositionalIndexer;
        let pool = |name, backend| dynamo::Pool::new(name, backend, workers, runtime.clone());
        let compressed =
            || -> Box<dyn Subject> { Box::new(pool("CRTC", ConcurrentRadixTreeCompressed::new())) };
        let tree = || -> Box<dyn Subject> { Box::new(dynamo::Tree::new(workers)) };
        let positional = || -> Box<dyn Subject> {
            let backend = PositionalIndexer::new(32);
            Box::new(dynamo::Pool::new("PositionalIndexer", backend, workers, runtime.clone()))
        };
        for start in [&compressed as &dyn Fn() -> Box<dyn Subject>, &tree, &positional] {
            all.push(measure(workload, &oracle, &queries, start, &dynamo::prepare));
        }
    }
    #[cfg(not(feature = "peers"))]
    let _ = runtime;
    all
}

fn measure(
    workload: &Workload,
    oracle: &Oracle,
    queries: &[Query],
    start: &dyn Fn() -> Box<dyn Subject>,
    prepare: &dyn Fn(u64, &Event) -> Prepared,
) -> Measured {
    let prepared =
        |events: &[Event]| (0..).zip(events).map(|(number, event)| prepare(number, event)).collect();
    // The memory that an index takes is not the system's to clear while it is timed: whoever comes second would be
    // given what the first one left.
    start().apply(prepared(&workload.events));
    let mut subject = start();
    let mut measured = Measured { name: subject.name(), ..Measured::default() };
    let events: Vec<Prepared> = prepared(&workload.events);
    let clock = Clock::start();
    subject.apply(events);
    let cpu_s = clock.stop(0).cpu.as_secs_f64();
    measured.applied_per_cpu_s = blocks(&workload.events) as f64 / cpu_s;
    measured.wrong = queries
        .iter()
        .step_by((queries.len() / CHECKED).max(1))
        .filter(|query| subject.scores(query) != oracle.scores(&query.chained))
        .count() as u64;
    let mut asked = Asked::default();
    let (mut sum, mut cpu_s) = (0, 0.0);
    for _ in 0..FIND_TURNS {
        for queries in queries.chunks(ASKED) {
            let queries = asked.take(queries);
            let clock = Clock::start();
            sum += queries.iter().map(|query| subject.find(query)).sum::<u64>();
            cpu_s += clock.stop(0).cpu.as_secs_f64();
        }
    }
    measured.finds_per_cpu_s = (FIND_TURNS * queries.len()) as f64 / cpu_s;
    std::hint::black_box(sum);
    let mut latencies_us = Vec::new();
    for query in queries {
        let query = &asked.take(std::slice::from_ref(query))[0];
        let start = Instant::now();
        std::hint::black_box(subject.find(query));
        latencies_us.push(start.elapsed().as_secs_f64() * 1e6);
    }
    latencies_us.sort_by(f64::total_cmp);
    let at = |share: f64| latencies_us[((latencies_us.len() - 1) as f64 * share) as usize];
    (measured.p50_us, measured.p99_us) = (at(0.5), at(0.99));
    drop(subject);
    // What readers of the first one might have read is let go of by then, and not while it is counted.
    let mut idle = Ours::new(1);
    idle.apply(workload.events.iter().take(SETTLE).map(|event| Prepared::Ours(event.clone())).collect());
    for query in queries.iter().take(SETTLE) {
        std::hint::black_box(idle.find(query));
    }
    let counted = Counted::start();
    let memberships = oracle.memberships() as f64;
    let mut subject = start();
    let settle = |subject: &mut dyn Subject| {
        for query in queries.iter().take(SETTLE) {
            std::hint::black_box(subject.find(query));
        }
        counted.bytes() as f64 / memberships
    };
    for events in workload.events.chunks(1_024) {
        subject.apply(prepared(events));
    }
    measured.bytes = settle(&mut *subject);
    for events in workload.churn.chunks(1_024) {
        subject.apply(prepared(events));
    }
    measured.bytes_churned = settle(&mut *subject);
    subject.clear(workload.workers);
    measured.bytes_cleared = settle(&mut *subject);
    drop(subject);
    measured
}

/// Queries as a router has them: their hashes were received, or worked out, just before.
#[derive(Default)]
struct Asked(Vec<Query>);

impl Asked {
    fn take(&mut self, queries: &[Query]) -> &[Query] {
        self.0.resize_with(queries.len(), Query::default);
        self.0.iter_mut().zip(queries).for_each(|(asked, query)| asked.copy_from(query));
        &self.0
    }
}

/// Blocks that events name.
fn blocks(events: &[Event]) -> usize {
    let blocks = events.iter().map(|event| match event {
        Event::Stored { blocks, .. } => blocks.len(),
        Event::Removed { blocks, .. } => blocks.len(),
    });
    blocks.sum()
}

/// Ours beside each of Dynamo's; the goals stand against the first, its default.
fn figures_of(workload: &str, all: &[Measured]) -> Vec<Figure> {
    let Some((ours, peers)) = all.split_first() else { return Vec::new() };
    let is_agentic = workload.starts_with("agentic");
    let mut figures = Vec::new();
    let mut tell = |name: &str, unit: &str, value: fn(&Measured) -> f64, goal: Option<Goal>| {
        let figure = || Figure::new(format!("{workload}: {name}"), unit, value(ours));
        let with_goal = |figure: Figure| match goal {
            Some(goal) => figure.with_goal(goal),
            None => figure,
        };
        if peers.is_empty() {
            let absent = figure().with_absent_peer("dynamo-kv-router", "built without --features peers");
            figures.push(with_goal(absent));
        }
        for (number, peer) in peers.iter().enumerate() {
            let figure = figure().with_peer(peer.name, value(peer));
            figures.push(if number == 0 { with_goal(figure) } else { figure });
        }
    };
    let ahead = |goal: f64| Some(Goal::RatioAtLeast(if is_agentic { goal } else { 1.0 }));
    let small = Some(Goal::AtMost(BYTES_GOAL));
    tell("finds", "per CPU s", |measured| measured.finds_per_cpu_s, ahead(FINDS_GOAL));
    tell("p50", "us", |measured| measured.p50_us, is_agentic.then_some(Goal::AtMost(P50_GOAL_US)));
    tell("p99", "us", |measured| measured.p99_us, None);
    tell("applied", "blocks per CPU s", |measured| measured.applied_per_cpu_s, ahead(APPLIED_GOAL));
    tell("memory", "bytes per membership", |measured| measured.bytes, small);
    if is_agentic {
        tell("memory after churn", "bytes per membership", |measured| measured.bytes_churned, small);
        tell("memory after all is cleared", "bytes per membership", |measured| measured.bytes_cleared, None);
    }
    tell("queries answered wrongly", "of 400", |measured| measured.wrong as f64, None);
    figures
}
