//! A slice of the simulated histories, as every change must pass it. `hearth-chaos cluster` runs more.

use std::path::Path;

use hearth_chaos::simulated::{run_all, run_one, total};

/// Seeds of one run of the tests.
const SEEDS: u64 = 20;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_hearth-chaos-cluster"))
}

#[test]
fn every_invariant_holds_in_every_history() {
    let histories = run_all(program(), 0, SEEDS, &[]).unwrap();
    for history in &histories {
        let seed = history.seed;
        assert_eq!(history.violation, None, "hearth-chaos cluster --seed {seed} --verbose");
    }
    let figure = |name| total(&histories, name);
    let figures = [
        "/acknowledged",
        "/claims_granted",
        "/pins_made",
        "/reads",
        "/leaderships",
        "/snapshots_installed",
        "/faults/crashes",
        "/faults/writes_lost",
    ];
    println!("{SEEDS} seeds: {:?}", figures.map(|name| (name, figure(name))));
    assert!(figures.iter().all(|name| figure(name) > SEEDS / 2), "the histories are too tame");
    assert!(
        figure("/leaderships") > 2 * SEEDS && figure("/acknowledged") > 50 * SEEDS,
        "the histories are too tame"
    );
}

#[test]
fn one_seed_is_one_history() {
    for seed in 100..104 {
        let report = || run_one(program(), seed, &[]).unwrap().report;
        let first = report();
        assert!(first["digest"].is_string(), "{first}");
        assert_eq!(first, report(), "seed {seed}");
    }
}
