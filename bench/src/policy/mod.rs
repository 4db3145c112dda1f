//! `policy`: hit rate of the store's eviction policy, beside its peers and Belady's optimum, on traces.
//!
//! A simulation of one tier: no bytes, no threads. Ours is the store's own ranker.

mod cache;
mod cost;
mod ours;
mod peers;
mod plot;
mod trace;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use hearth_replay::{BenchReport, Figure, Goal};

use crate::ReportArgs;
use crate::workloads::traces_or_agents;
use cache::{BlockPolicy, Cache, DeepestFirst, bound_percent, hit_percent};
use ours::{Ours, Told};
use peers::{Belady, Future, Lru, S3Fifo, Sieve, TinyLfu};
use trace::Trace;

/// Sizes of the cache, in percent of the different blocks of the trace.
const SIZES_PERCENT: [usize; 4] = [5, 10, 20, 40];
/// Share of the gap between LRU and Belady that is to be closed.
const GOAL_PERCENT: f64 = 50.0;
/// Sessions that are generated when no trace is given, and with `--quick`.
const SESSIONS: (usize, usize) = (200, 40);
/// Sessions of a trace that `--quick` keeps.
const QUICK_SESSIONS: usize = 60;

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// Traces to simulate, plain or xz; may be given several times. Without one, agents are generated.
    #[arg(long, value_name = "FILE")]
    trace: Vec<PathBuf>,
    /// Seconds from one session's beginning to the next, for traces that do not say; may be given several
    /// times. With 0 all begin together.
    #[arg(long, default_values_t = [0.0, 60.0], value_name = "SECONDS")]
    apart_s: Vec<f64>,
    /// Writes the plot as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    report: ReportArgs,
}

/// What was found on one trace: for each policy its hit rate at each size, in percent.
struct Found {
    name: String,
    bound: f64,
    rows: Vec<(&'static str, Vec<f64>)>,
}

/// Simulates every trace. True when, with --check, every goal was met.
pub(crate) async fn run(args: PolicyArgs) -> anyhow::Result<bool> {
    // Seconds of computation: off the threads that listen for signals.
    tokio::task::spawn_blocking(move || simulate(&args)).await?
}

fn simulate(args: &PolicyArgs) -> anyhow::Result<bool> {
    let mut found = Vec::new();
    for (name, trace) in traces(args)? {
        ensure!(!trace.requests.is_empty(), "{name} has no request");
        eprintln!("{name}: {} requests, {} blocks", trace.requests.len(), trace.block_count());
        found.push(measure(name, &trace));
    }
    let figures = found.iter().flat_map(figures).chain(cost::figures()).collect();
    let mut report = BenchReport::new("hearth-bench policy", figures, 0);
    report.detail = Some(found.iter().map(detail).collect());
    args.report.publish(&report)?;
    if let Some(file) = &args.plot {
        let svg = plot::render(&found);
        std::fs::write(file, svg).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(!args.report.check || report.passes())
}

fn traces(args: &PolicyArgs) -> anyhow::Result<Vec<(String, Trace)>> {
    let kept = args.report.quick.then_some(QUICK_SESSIONS);
    let generated = if args.report.quick { SESSIONS.1 } else { SESSIONS.0 };
    let workloads = traces_or_agents(&args.trace, kept, generated, 1)?;
    let mut traces = Vec::new();
    for workload in &workloads {
        if workload.sessions.iter().all(|session| session.start.is_some()) {
            traces.push((workload.name.clone(), Trace::new(workload, Duration::ZERO)));
            continue;
        }
        for &apart_s in &args.apart_s {
            let apart = Duration::try_from_secs_f64(apart_s).context("--apart-s")?;
            let how = match apart_s {
                0.0 => "all sessions begin together".to_owned(),
                apart_s => format!("a session every {apart_s} s"),
            };
            traces.push((format!("{}, {how}", workload.name), Trace::new(workload, apart)));
        }
    }
    Ok(traces)
}

const LRU: &str = "LRU";
const BELADY: &str = "Belady";
const OURS: &str = "Hearth";
const OURS_CLASSES: &str = "Hearth, classes";
const OURS_ENDS: &str = "Hearth, classes and ends";

fn measure(name: String, trace: &Trace) -> Found {
    type Make<'a> = Box<dyn Fn(usize) -> Box<dyn Cache + 'a> + 'a>;
    fn peer<'a>(policy: impl BlockPolicy + 'a) -> Box<dyn Cache + 'a> {
        Box::new(DeepestFirst(policy))
    }
    let blocks = trace.parents.len();
    let future = Future::of(trace);
    let ours = |told| -> Make<'_> { Box::new(move |size| Box::new(Ours::new(trace, size, told))) };
    let policies: Vec<(&'static str, Make<'_>)> = vec![
        (LRU, Box::new(|size| peer(Lru::new(blocks, size)))),
        ("S3-FIFO", Box::new(|size| peer(S3Fifo::new(blocks, size)))),
        ("SIEVE", Box::new(|size| peer(Sieve::new(blocks, size)))),
        ("W-TinyLFU", Box::new(|size| peer(TinyLfu::new(blocks, size)))),
        (OURS, ours(Told::Nothing)),
        (OURS_CLASSES, ours(Told::Classes)),
        (OURS_ENDS, ours(Told::ClassesAndEnds)),
        (BELADY, Box::new(|size| Box::new(Belady::new(trace, &future, size)))),
    ];
    let sizes = SIZES_PERCENT.map(|percent| (trace.block_count() * percent / 100).max(1));
    let row = |(policy, make): (&'static str, Make<'_>)| {
        (policy, sizes.iter().map(|&size| hit_percent(trace, make(size).as_mut())).collect())
    };
    Found { name, bound: bound_percent(trace), rows: policies.into_iter().map(row).collect() }
}

impl Found {
    fn at(&self, policy: &str, size: usize) -> f64 {
        let row = self.rows.iter().find(|row| row.0 == policy);
        row.map_or(f64::NAN, |row| row.1[size])
    }

    /// Percent of the way from LRU to Belady.
    fn closed(&self, policy: &str, size: usize) -> f64 {
        let (lru, best) = (self.at(LRU, size), self.at(BELADY, size));
        100.0 * (self.at(policy, size) - lru) / (best - lru)
    }
}

fn figures(found: &Found) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (size, percent) in SIZES_PERCENT.iter().enumerate() {
        let named = |what: &str| format!("{}: {what}, cache {percent}%", found.name);
        for (peer, rates) in found.rows.iter().filter(|row| !row.0.starts_with(OURS)) {
            let figure = Figure::new(named("hit rate, Hearth"), "%", found.at(OURS, size));
            figures.push(figure.with_peer(*peer, rates[size]));
        }
        for ours in [OURS_CLASSES, OURS_ENDS] {
            let figure = Figure::new(named(&format!("hit rate, {ours}")), "%", found.at(ours, size));
            figures.push(figure.with_peer(BELADY, found.at(BELADY, size)));
        }
        for ours in [OURS, OURS_CLASSES, OURS_ENDS] {
            let figure = Figure::new(
                named(&format!("gap closed, {ours}")),
                "% of LRU to Belady",
                found.closed(ours, size),
            );
            // The ends of sessions are an assumption of ours, so nothing is claimed by them.
            let held_to_goal = ours != OURS_ENDS;
            figures.push(if held_to_goal { figure.with_goal(Goal::AtLeast(GOAL_PERCENT)) } else { figure });
        }
    }
    figures
}

fn detail(found: &Found) -> serde_json::Value {
    let rows: serde_json::Map<_, _> =
        found.rows.iter().map(|(policy, rates)| ((*policy).to_owned(), rates.clone().into())).collect();
    serde_json::json!({
        "trace": found.name, "sizes_percent": SIZES_PERCENT, "hit_percent": rows, "infinite_percent": found.bound,
    })
}
