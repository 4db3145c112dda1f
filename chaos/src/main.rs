//! `hearth-chaos`: runs faults for as long as asked, one seed after the other.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hearth_chaos::{ChaosOptions, run};

/// Kills and pauses nodes of a cluster under load, one, two or all at a time, and checks every byte,
/// deadline and promise.
#[derive(Debug, Parser)]
#[command(name = "hearth-chaos", version, about)]
struct Arguments {
    /// First seed; each run takes the next.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs.
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Seconds of faults in each run.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Tasks that put and get.
    #[arg(long, default_value_t = 6)]
    tasks: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    for seed in arguments.seed..arguments.seed + arguments.runs {
        let options = ChaosOptions {
            seed,
            total: Duration::from_secs(arguments.seconds),
            nodes: arguments.nodes,
            tasks: arguments.tasks,
        };
        match run(options).await {
            Ok(outcome) => {
                eprintln!("seed {seed}: {outcome:#?}");
                if let Some(failure) = outcome.failure() {
                    eprintln!("seed {seed} fails: {failure}");
                    return ExitCode::from(5);
                }
            }
            Err(error) => {
                eprintln!("seed {seed}: {error:#}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
