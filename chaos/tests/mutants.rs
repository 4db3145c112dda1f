//! A simulation that finds nothing proves nothing: each known bug of the cluster must be found within few seeds.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hearth_chaos::simulated::{History, run_one};
use hearth_cluster::mutant::Mutant;

/// Seeds within which each mutant has to be killed.
const SEEDS: u64 = 60;
/// Mutants that are hunted at a time.
const HUNTERS: usize = 2;
/// Seeds that found a mutant once. Those come first; which seed finds one changes with cluster and simulation.
const KNOWN: [(Mutant, u64); 4] = [
    (Mutant::VoteNotSynced, 19),
    (Mutant::LeaderRestored, 6),
    (Mutant::TruncateIgnored, 4),
    (Mutant::TimeGoesBack, 46),
];

/// The first seed that finds a bug, and what it finds.
fn hunt(mutant: Mutant) -> Option<History> {
    let program = Path::new(env!("CARGO_BIN_EXE_hearth-chaos-cluster"));
    let name = format!("{mutant:?}");
    let known = KNOWN.into_iter().filter(|(of, _)| *of == mutant).map(|(_, seed)| seed);
    known
        .chain(0..SEEDS)
        .map(|seed| run_one(program, seed, &["--mutant", &name]).expect("the simulation runs"))
        .find(|history| history.violation.is_some())
}

/// What became of all of them, in their order.
fn hunt_all() -> Vec<(Mutant, Option<History>)> {
    let (next, hunted) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..HUNTERS {
            scope.spawn(|| {
                while let Some(mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let killed = hunt(*mutant);
                    hunted.lock().expect("no hunter panics").push((*mutant, killed));
                }
            });
        }
    });
    let mut hunted = hunted.into_inner().expect("no hunter panicked");
    hunted.sort_by_key(|(mutant, _)| Mutant::ALL.iter().position(|of_all| of_all == mutant));
    hunted
}

/// The name of the invariant that does not hold.
fn invariant(said: &str) -> String {
    let is_name =
        |part: &&str| part.chars().all(|letter| letter.is_ascii_alphabetic() || " -".contains(letter));
    said.split(": ").take(2).take_while(is_name).collect::<Vec<_>>().join(": ")
}

#[test]
fn every_mutant_is_killed() {
    println!("| mutant | killed by seed | invariant |\n|---|---|---|");
    let mut survivors = Vec::new();
    let hunted = hunt_all();
    assert_eq!(hunted.len(), Mutant::ALL.len());
    for (mutant, killed) in hunted {
        let Some(killed) = killed else {
            println!("| {mutant:?} | none | survives |");
            survivors.push(mutant);
            continue;
        };
        let said = killed.violation.unwrap_or_default();
        println!("| {mutant:?} | {} | {} |", killed.seed, invariant(&said));
    }
    assert!(survivors.is_empty(), "the simulation does not find {survivors:?} within {SEEDS} seeds");
}
