//! The whole store on simulated parts: many seeds, each of them several lives with crashes between.

use hearth_store::sim::{Counters, Options, run};

/// Seeds of one run of the tests; `hearth-chaos store` runs as many as it is told.
const SEEDS: u64 = 4_000;

#[test]
fn every_invariant_holds_in_every_history() {
    let mut counters = Counters::default();
    for seed in 0..SEEDS {
        match run(seed, &Options::default()) {
            Ok(outcome) => counters.add(&outcome.counters),
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("{SEEDS} seeds: {counters:?}");
    assert!(counters.crashes > SEEDS && counters.hits > SEEDS && counters.durable > SEEDS, "{counters:?}");
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..200 {
        let digest = || run(seed, &Options::default()).map(|outcome| (outcome.digest, outcome.counters));
        let first = digest().unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(Some(first), digest().ok(), "seed {seed}");
    }
}
