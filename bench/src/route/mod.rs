//! `route`: a fleet of engines in simulation, and who sends requests where: our router beside round robin, least
//! loaded, session sticky and overlap only.
//!
//! Virtual time, no bytes, no threads. Ours is the router's own index, placement, models and reservations; engines,
//! links and the store are models with stated numbers ([`hardware`]). All routers see the same requests on the same
//! fleet, and whoever routes, engines load what is stored where that is faster than computing it.
//!
//! What is left out: events reach routers at once; writes take no bandwidth; answers leave no blocks that a later
//! prompt could find, as traces do not say which; nothing fails.

mod arrivals;
mod blocks;
mod cache;
mod cases;
mod figures;
mod fleet;
mod hardware;
mod measured;
mod routers;
mod store;
#[cfg(test)]
mod tests;
mod worker;
mod world;

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use hearth_replay::BenchReport;
use hearth_replay::workload::Workload;

use crate::ReportArgs;
use crate::workloads::traces_or_agents;
use cases::{Beneath, Case, Common};
use hardware::Hardware;

/// Sessions that are generated when no trace is given, and with `--quick`.
const SESSIONS: (usize, usize) = (200, 40);
/// Sessions of a trace that `--quick` keeps.
const QUICK_SESSIONS: usize = 60;
/// Sessions at a time for each worker when memory is short: their contexts together are more than all of it.
const PRESSED_SESSIONS: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    /// Traces to simulate, plain or xz; may be given several times. Without one, agents are generated.
    #[arg(long, value_name = "FILE")]
    trace: Vec<PathBuf>,
    /// Workers of the fleet.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
    /// Sessions at a time for each worker, where a trace does not say when they begin; may be given several times. The
    /// first is held to the goals, the others are told in the report.
    #[arg(long, default_values_t = [3, 1, 8], value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    sessions: Vec<u16>,
    /// Speed of traces that say when sessions begin, as a multiple.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    speed: f64,
    /// The longest that a session thinks between an answer and its next request, in seconds.
    #[arg(long, default_value_t = 600.0, value_name = "SECONDS")]
    think_max_s: f64,
    /// Share of sessions that are tagged as urgent.
    #[arg(long, default_value_t = 0.2, value_name = "SHARE")]
    tagged: f64,
    /// Seed of the order of sessions, of their tags, and of how long steps take.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    #[command(flatten)]
    report: ReportArgs,
}

/// Simulates every trace. True when nothing was wrong and, with --check, every goal was met.
pub(crate) async fn run(args: RouteArgs) -> anyhow::Result<bool> {
    // Seconds of computation: off the threads that listen for signals.
    tokio::task::spawn_blocking(move || simulate(&args)).await?
}

fn simulate(args: &RouteArgs) -> anyhow::Result<bool> {
    ensure!((0.01..=1_000.0).contains(&args.speed), "--speed is a multiple from 0.01 to 1000");
    ensure!((0.0..=86_400.0).contains(&args.think_max_s), "--think-max-s is from 0 to 86400 seconds");
    ensure!((0.0..=1.0).contains(&args.tagged), "--tagged is a share from 0 to 1");
    let common = Common {
        workers: usize::from(args.workers),
        hardware: Hardware::default(),
        think_max_s: args.think_max_s,
        speed: args.speed,
        tagged: args.tagged,
        seed: args.seed,
    };
    let (mut figures, mut cases) = (Vec::new(), Vec::new());
    for workload in workloads(args)? {
        let found = compare(args, &common, &workload)?;
        figures.extend(figures::of(&found, common.workers));
        cases.extend(found);
    }
    let wrong = cases.iter().flat_map(|case| &case.rows).map(|row| row.wrong).sum();
    let mut report = BenchReport::new(command(args), figures, wrong);
    report.detail = Some(serde_json::json!({
        "model": figures::MODEL,
        "workers": args.workers,
        "think_max_s": args.think_max_s,
        "tagged_share_of_sessions": args.tagged,
        "seed": args.seed,
        "cases": cases.iter().map(Case::told).collect::<Vec<_>>(),
    }));
    args.report.publish(&report)?;
    Ok(wrong == 0 && (!args.report.check || report.passes()))
}

/// All cases of one workload; those that are held to goals come first.
fn compare(args: &RouteArgs, common: &Common, workload: &Workload) -> anyhow::Result<Vec<Case>> {
    let says_when = workload.sessions.iter().all(|session| session.start.is_some());
    // Where the workload says when its requests are sent, there is one load.
    let loads = if says_when || args.report.quick { 1 } else { args.sessions.len() };
    let mut cases = Vec::new();
    for sessions in &args.sessions[..loads] {
        for beneath in [Beneath::Nothing, Beneath::Store] {
            cases.push(common.compare(workload, usize::from(*sessions), beneath)?);
        }
    }
    cases.insert(2, common.compare(workload, PRESSED_SESSIONS, Beneath::Pressure)?);
    Ok(cases)
}

fn workloads(args: &RouteArgs) -> anyhow::Result<Vec<Workload>> {
    let kept = args.report.quick.then_some(QUICK_SESSIONS);
    let generated = if args.report.quick { SESSIONS.1 } else { SESSIONS.0 };
    traces_or_agents(&args.trace, kept, generated, args.seed)
}

/// The command that shows it again, without paths of this machine.
fn command(args: &RouteArgs) -> String {
    let mut command = "hearth-bench route".to_owned();
    for name in args.trace.iter().filter_map(|file| file.file_name()) {
        command += &format!(" --trace {}", name.to_string_lossy());
    }
    command += &format!(" --workers {} --seed {}", args.workers, args.seed);
    command + if args.report.quick { " --quick" } else { "" }
}
