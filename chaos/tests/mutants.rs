//! A simulation that finds nothing proves nothing: each known bug of the cluster must be found within few seeds.

use std::path::Path;

use hearth_chaos::simulated::{History, run_one};
use hearth_cluster::mutant::Mutant;

/// Seeds within which each mutant has to be killed.
const SEEDS: u64 = 60;

/// The first seed that finds a bug, and what it finds.
fn hunt(mutant: Mutant) -> Option<History> {
    let program = Path::new(env!("CARGO_BIN_EXE_hearth-chaos-cluster"));
    let name = format!("{mutant:?}");
    (0..SEEDS)
        .map(|seed| run_one(program, seed, &["--mutant", &name]).expect("the simulation runs"))
        .find(|history| history.violation.is_some())
}

#[test]
fn every_mutant_is_killed() {
    println!("| mutant | killed by seed | invariant |\n|---|---|---|");
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        let Some(killed) = hunt(mutant) else {
            println!("| {mutant:?} | none | survives |");
            survivors.push(mutant);
            continue;
        };
        let said = killed.violation.unwrap_or_default();
        let invariant = said.split(':').next().unwrap_or_default();
        println!("| {mutant:?} | {} | {invariant} |", killed.seed);
    }
    assert!(survivors.is_empty(), "the simulation does not find {survivors:?} within {SEEDS} seeds");
}
