//! A bounded history over real processes, as every change must pass it. `hearth-chaos linear` runs many of them.

use std::time::Duration;

use hearth_chaos::linear::{Cuts, LinearOptions, LinearOutcome, cuts, run};
use hearth_tests::FakeClock;

async fn run_one(clock_jumps: bool) -> LinearOutcome {
    let seed = std::env::var("HEARTH_CHAOS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let cuts = cuts();
    if cuts != Cuts::Directions {
        eprintln!(
            "NOT TESTED: all partitions, for which root and the commands `ip`, `bridge` and `nft` are needed"
        );
    }
    let options = LinearOptions {
        seed,
        total: Duration::from_secs(5),
        clients: 6,
        keys: 9,
        folder: None,
        partitions: cuts != Cuts::None,
        clock_jumps,
    };
    let outcome = run(&options).await.expect("the cluster starts and heals");
    eprintln!("seed {seed}: {outcome:#?}");
    assert!(outcome.finding.verdict.is_pass(), "seed {seed}: {:#?}", outcome.finding.verdict);
    assert!(outcome.reporters_stayed, "the machine stood still for seconds: lookups were not tested");
    let total = outcome.total();
    assert!(total.answered > 200 && !outcome.faults.is_empty(), "nothing was tested");
    for name in ["report", "linearizable lookup", "claim", "renew", "release", "pin", "renew pin", "unpin"] {
        assert!(
            outcome.operations.get(name).is_some_and(|count| count.answered > 0),
            "{name} was not tested"
        );
    }
    outcome
}

/// One after the other: what one of them does is felt by the machine that the other one runs on.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_linearizable_under_kills_stops_partitions_and_clocks_that_jump() {
    run_one(false).await;
    if FakeClock::find().is_none() {
        eprintln!("NOT TESTED: clocks that jump, for which libfaketime (package faketime) is needed");
        return;
    }
    let outcome = run_one(true).await;
    assert!(outcome.faults.keys().any(|kind| kind.starts_with("clock jumps")), "no clock jumped");
}
