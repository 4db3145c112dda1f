//! `hearth-chaos`: runs faults for as long as asked, one seed after the other.

mod linearizability;
mod simulation;
mod store;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use hearth_chaos::{ChaosOptions, run};

/// Kills and pauses nodes of a cluster under load, one, two or all at a time, and checks every byte,
/// deadline and promise.
#[derive(Debug, Parser)]
#[command(name = "hearth-chaos", version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
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

#[derive(Debug, Subcommand)]
enum Command {
    Store(store::StoreArguments),
    Cluster(simulation::ClusterArguments),
    Linear(linearizability::LinearArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match &arguments.command {
        Some(Command::Store(arguments)) => Some(store::main(arguments)),
        Some(Command::Cluster(arguments)) => Some(simulation::main(arguments)),
        Some(Command::Linear(_)) | None => None,
    };
    if let Some(ended) = ended {
        return ended.unwrap_or_else(|error| {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        });
    }
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => match &arguments.command {
            Some(Command::Linear(linear)) => runtime.block_on(linearizability::main(linear)),
            _ => runtime.block_on(run_cluster(&arguments)),
        },
        Err(error) => {
            eprintln!("cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run_cluster(arguments: &Arguments) -> ExitCode {
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
