//! `hearth-chaos-cluster`: one history of a simulated cluster, which follows from its seed.
//!
//! `hearth-chaos cluster` runs many of them. Each has a process of its own: the simulation takes the place of
//! the clock and of the system's randomness, which a process has one of.

mod doors;
mod faults;
mod invariants;
mod machine;
mod network;
mod rng;
mod run;
mod source;
mod trace;
mod workload;
mod world;

use std::process::ExitCode;

use clap::Parser;

/// Simulates a cluster of metadata nodes under faults, and checks every invariant on the way.
#[derive(Debug, Parser)]
#[command(name = "hearth-chaos-cluster", version, about)]
struct Arguments {
    /// What the history follows from.
    #[arg(long)]
    seed: u64,
    /// Prints the history.
    #[arg(long)]
    verbose: bool,
    /// Milliseconds of faults; healing comes on top.
    #[arg(long, default_value_t = 12_000)]
    faults_ms: u64,
    /// A known bug that the cluster is to have.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutant: Option<String>,
}

#[allow(clippy::print_stdout)]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("HEARTH_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    }
    #[cfg(feature = "mutants")]
    if let Some(name) = &arguments.mutant {
        let Some(mutant) = hearth_cluster::mutant::Mutant::named(name) else {
            eprintln!("there is no mutant {name}");
            return ExitCode::FAILURE;
        };
        hearth_cluster::mutant::set(mutant);
    }
    // On a thread of its own, which has drawn no randomness before it is simulated.
    let history = move || run::run(arguments.seed, arguments.faults_ms, arguments.verbose);
    let Ok(outcome) = std::thread::spawn(history).join() else { return ExitCode::from(5) };
    println!("{}", outcome.to_json());
    if outcome.violation.is_some() { ExitCode::from(5) } else { ExitCode::SUCCESS }
}
