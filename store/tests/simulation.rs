//! The whole store on simulated parts. `hearth-chaos store` runs as many seeds as it is told.

use hearth_store::sim::{Counters, Crossed, Options, exhaust, flip_bits, run};

/// Seeds of one run of the tests.
const SEEDS: u64 = 10_000;
/// Small histories that crash at every boundary.
const HISTORIES: u64 = 60;
const FLIPS: u64 = 50_000;

#[test]
fn every_invariant_holds_in_every_history() {
    let mut counters = Counters::default();
    for seed in 0..SEEDS {
        let outcome = run(seed, &Options::default()).unwrap_or_else(|violation| panic!("{violation}"));
        counters.add(&outcome.counters);
    }
    println!("{SEEDS} seeds: {counters:?}");
    let least = [counters.crashes, counters.hits, counters.misses, counters.durable];
    assert!(least.iter().all(|count| *count > SEEDS), "the histories are too tame: {counters:?}");
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..300 {
        let digest = || run(seed, &Options::default()).map(|outcome| (outcome.digest, outcome.counters));
        let first = digest().unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(Some(first), digest().ok(), "seed {seed}");
    }
}

#[test]
fn a_crash_at_any_boundary_costs_nothing_that_was_promised() {
    let mut crossed = Crossed::default();
    for seed in 0..HISTORIES {
        crossed.add(&exhaust(seed).unwrap_or_else(|violation| panic!("{violation}")));
    }
    println!("{HISTORIES} histories: {crossed:?}");
    assert!(crossed.crashes > 2 * crossed.boundaries && crossed.volatile_max >= 3, "{crossed:?}");
}

#[test]
fn every_flipped_bit_is_refused() {
    let flips = flip_bits(1, FLIPS).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{flips:?}");
    assert!(flips.payload > 0 && flips.padding > 0 && flips.footer > 0, "{flips:?}");
}
