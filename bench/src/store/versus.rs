//! Part `foyer`: the same trace through the store and through foyer, with the same memory and the same
//! disk. Each run is a process of its own: first on an empty folder, then again on what that left.
//!
//! The replay makes every block it writes and checks every byte it reads, in both alike, inside the clock.

use std::path::{Path, PathBuf};

use anyhow::Context;
use hearth_replay::{Figure, Goal};

use super::cost::median_pair;
use super::trial::{Engine, Opened, Replayed, Trial};
use super::{PEER, PEER_ABSENT, peer};

/// What is replayed, and into how much room.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) dir: PathBuf,
    pub(crate) dram_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) block_bytes: u64,
    /// A trace; generated sessions without one.
    pub(crate) trace: Option<PathBuf>,
    pub(crate) sessions: usize,
    pub(crate) requests: usize,
    pub(crate) rounds: usize,
}

/// The cold run and the warm run of one engine.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    cold: Replayed,
    warm_open: Opened,
    warm: Replayed,
}

/// Measures all rounds. Returns the figures and how many of our answers were wrong.
pub(crate) async fn measure(plan: &Plan) -> anyhow::Result<(Vec<Figure>, u64)> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let engines = [Some(Engine::Hearth), peer()];
        // The engines change who goes first, so that a drift of the disk helps neither.
        for engine in engines.iter().cycle().skip(round % 2).take(2).copied().flatten() {
            let run = run(plan, engine).await?;
            if engine == Engine::Hearth { &mut ours } else { &mut theirs }.push(run);
        }
    }
    let wrong = ours.iter().map(|run: &Run| run.cold.wrong + run.warm.wrong).sum();
    Ok((figures(plan, &ours, &theirs)?, wrong))
}

async fn run(plan: &Plan, engine: Engine) -> anyhow::Result<Run> {
    let dir = plan.dir.join("trial");
    let (dram_bytes, disk_bytes) = (plan.dram_bytes, plan.disk_bytes);
    let trial = Trial { engine, dir: dir.clone(), dram_bytes, disk_bytes };
    let (_, cold) = trial.replay(&arguments(plan)).await?;
    tell(engine, "empty", &cold);
    let (warm_open, warm) = trial.replay(&arguments(plan)).await?;
    tell(engine, "reopened", &warm);
    remove(&dir)?;
    Ok(Run { cold, warm_open, warm })
}

fn tell(engine: Engine, from: &str, found: &Replayed) {
    eprintln!(
        "foyer: {engine:?}, {from}: {:.2}% hit of {} blocks, {:.1} s, read {:.1} GB, wrote {:.1} GB, \
         {} lost, {} errors, {} wrong",
        found.hit_percent,
        found.working_set_blocks,
        found.elapsed_s,
        found.bytes_read as f64 / 1e9,
        found.bytes_written as f64 / 1e9,
        found.lost,
        found.errors,
        found.wrong,
    );
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    std::fs::remove_dir_all(dir).context("cannot remove the blocks")
}

fn arguments(plan: &Plan) -> Vec<String> {
    let mut arguments = vec![
        format!("--block-bytes={}", plan.block_bytes),
        format!("--sessions={}", plan.sessions),
        format!("--requests={}", plan.requests),
        format!("--concurrency={}", plan.sessions),
        // The slowest disk is no error here.
        "--deadline-ms=60000".to_owned(),
    ];
    match &plan.trace {
        Some(trace) => arguments.push(format!("--trace={}", trace.display())),
        None => arguments.push(format!("--agents={}", plan.sessions)),
    }
    arguments
}

fn figures(plan: &Plan, ours: &[Run], theirs: &[Run]) -> anyhow::Result<Vec<Figure>> {
    let pairs: Vec<(Run, Run)> = ours.iter().copied().zip(theirs.iter().copied()).collect();
    let first = ours.first().context("there are rounds")?;
    let figure = |name: &str, unit: &str, value: fn(&Run) -> f64| match median_pair(&pairs, value) {
        Some((ours, theirs)) => Figure::new(name, unit, value(&ours)).with_peer(PEER, value(&theirs)),
        None => Figure::new(name, unit, value(first)).with_absent_peer(PEER, PEER_ABSENT),
    };
    let working_set = first.cold.working_set_blocks as f64 * plan.block_bytes as f64;
    let bound = first.cold.bound_percent;
    Ok(vec![
        Figure::new("different bytes of the trace", "GB", working_set / 1e9),
        Figure::new("capacity of the disk tier", "GB", plan.disk_bytes as f64 / 1e9),
        Figure::new("hit rate of an infinite cache", "%", bound),
        figure("hit rate", "%", |run| run.cold.hit_percent).with_goal(Goal::RatioAtLeast(1.0)),
        figure("requests", "1/s", |run| run.cold.requests_per_s()).with_goal(Goal::RatioAtLeast(1.0)),
        figure("gets, while busy", "GB/s", |run| run.cold.get_gb_per_s).with_goal(Goal::RatioAtLeast(1.0)),
        figure("puts, while busy", "GB/s", |run| run.cold.put_gb_per_s),
        figure("processor, replay included", "s per GB", |run| run.cold.cpu_s_per_gb())
            .with_goal(Goal::RatioAtMost(1.0)),
        figure("memory besides cached bytes, replay included", "MiB", |run| mib(run.cold.memory_bytes)),
        figure("blocks promised and not delivered", "blocks", |run| run.cold.lost as f64),
        figure("open warm", "ms", |run| run.warm_open.open_s * 1e3).with_goal(Goal::RatioAtMost(1.0)),
        figure("memory after opening warm", "MiB", |run| mib(run.warm_open.memory_bytes)),
        figure("hit rate after opening warm", "%", |run| run.warm.hit_percent),
        figure("requests after opening warm", "1/s", |run| run.warm.requests_per_s()),
        figure("answers with wrong bytes", "blocks", |run| (run.cold.wrong + run.warm.wrong) as f64),
    ])
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rounds: usize) -> Plan {
        Plan {
            dir: PathBuf::from("/nowhere"),
            dram_bytes: 1 << 28,
            disk_bytes: 1 << 30,
            block_bytes: 1 << 18,
            trace: None,
            sessions: 3,
            requests: 50,
            rounds,
        }
    }

    fn with_hits(hit_percent: f64) -> Run {
        let cold = Replayed { hit_percent, requests: 50, elapsed_s: 2.0, ..Replayed::default() };
        Run { cold, ..Run::default() }
    }

    #[test]
    fn both_engines_are_given_the_same_trace() {
        let generated = arguments(&plan(1));
        assert!(
            generated.contains(&"--agents=3".to_owned()) && generated.contains(&"--requests=50".to_owned())
        );
        let traced = arguments(&Plan { trace: Some("t.jsonl".into()), ..plan(1) });
        assert!(traced.contains(&"--trace=t.jsonl".to_owned()));
        assert!(!traced.iter().any(|argument| argument.starts_with("--agents")), "they exclude each other");
    }

    #[test]
    fn figures_compare_runs_of_the_same_round() {
        let ours = [with_hits(80.0), with_hits(60.0), with_hits(90.0)];
        let theirs = [with_hits(40.0), with_hits(60.0), with_hits(80.0)];
        let figures = figures(&plan(3), &ours, &theirs).unwrap();
        let hit = figures.iter().find(|figure| figure.name == "hit rate").unwrap();
        assert_eq!((hit.ours, hit.peer, hit.met), (Some(90.0), Some(80.0), Some(true)));
    }

    #[test]
    fn without_the_peer_the_figures_say_so_and_decide_nothing() {
        let figures = figures(&plan(1), &[with_hits(80.0)], &[]).unwrap();
        let hit = figures.iter().find(|figure| figure.name == "hit rate").unwrap();
        assert!(hit.peer_name.as_deref().unwrap().contains("absent"));
        assert_eq!((hit.ours, hit.met), (Some(80.0), None));
    }
}
