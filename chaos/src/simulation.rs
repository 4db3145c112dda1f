//! `hearth-chaos cluster`: as many histories of the simulated cluster as asked, on every core.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Context;
use hearth_chaos::simulated::{History, run_all, total};
use hearth_tests::sibling_binary;

/// What is summed up over all histories.
const FIGURES: [&str; 14] = [
    "/virtual_ms",
    "/acknowledged",
    "/claims_granted",
    "/pins_made",
    "/reads",
    "/committed",
    "/leaderships",
    "/snapshots_installed",
    "/faults/crashes",
    "/faults/writes_lost",
    "/faults/cuts",
    "/faults/mutes",
    "/faults/holds",
    "/faults/clock_jumps",
];

/// Runs three to five real metadata nodes on a simulated network, disk and clock: every seed is one history of
/// writes, crashes, partitions and delays, the same one each time.
#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArguments {
    /// Histories to run, one seed each.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints every event of the one seed.
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// Writes the figures to a file.
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) fn main(arguments: &ClusterArguments) -> anyhow::Result<ExitCode> {
    let program = sibling_binary("hearth-chaos-cluster")?;
    if let Some(seed) = arguments.seed {
        let mut command = Command::new(program);
        command.arg("--seed").arg(seed.to_string()).args(arguments.verbose.then_some("--verbose"));
        let ended = command.status().context("cannot run the simulation")?;
        return Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::from(5) });
    }
    let began = Instant::now();
    let histories = run_all(&program, arguments.from, arguments.seeds, &[])?;
    let report = report(arguments, &histories, began.elapsed().as_secs_f64());
    eprintln!("{}", serde_json::to_string_pretty(&report)?);
    if let Some(path) = &arguments.json {
        let mut text = serde_json::to_vec_pretty(&report)?;
        text.push(b'\n');
        std::fs::write(path, text).with_context(|| format!("write the report to {}", path.display()))?;
    }
    let Some(failed) = histories.iter().find(|history| history.violation.is_some()) else {
        return Ok(ExitCode::SUCCESS);
    };
    eprintln!("seed {}: {}", failed.seed, failed.violation.as_deref().unwrap_or_default());
    eprintln!("see it happen: hearth-chaos cluster --seed {} --verbose", failed.seed);
    Ok(ExitCode::from(5))
}

fn report(arguments: &ClusterArguments, histories: &[History], seconds: f64) -> serde_json::Value {
    let figures: serde_json::Map<String, serde_json::Value> = FIGURES
        .iter()
        .map(|name| (name.trim_start_matches('/').replace('/', "_"), total(histories, name).into()))
        .collect();
    let violation = histories.iter().find_map(|history| history.violation.clone());
    serde_json::json!({
        "command": std::iter::once("hearth-chaos".into()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" "),
        "seeds": { "first": arguments.from, "count": histories.len(), "seconds": seconds },
        "histories": figures,
        "violation": violation,
    })
}
