//! A simulation that finds nothing proves nothing: each known bug must be found within few seeds.

use hearth_store::mutant::{Mutant, set};
use hearth_store::sim::{Options, Violation, run};

/// Seeds within which each mutant has to be killed.
const SEEDS: u64 = 200;

/// The first seed that finds a bug, and what it finds.
fn hunt(mutant: Mutant) -> Option<Violation> {
    set(Some(mutant));
    let killed = (0..SEEDS).find_map(|seed| run(seed, &Options::default()).err());
    set(None);
    killed.map(|violation| *violation)
}

#[test]
fn every_mutant_is_killed() {
    // Assertions of the store are among what kills; their reports would drown the table.
    std::panic::set_hook(Box::new(|_| ()));
    let hunts = Mutant::ALL.map(|mutant| (mutant, hunt(mutant)));
    let _ = std::panic::take_hook();
    println!("| mutant | killed by seed | invariant |\n|---|---|---|");
    for (mutant, killed) in &hunts {
        let (seed, invariant) = killed.as_ref().map_or(("none".into(), "survives"), |violation| {
            (violation.seed.to_string(), violation.invariant)
        });
        println!("| {mutant:?} | {seed} | {invariant} |");
    }
    let survivors: Vec<_> =
        hunts.iter().filter(|(_, killed)| killed.is_none()).map(|(mutant, _)| mutant).collect();
    assert!(survivors.is_empty(), "the simulation does not find {survivors:?} in time");
}
