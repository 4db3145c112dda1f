//! A bounded run of faults under load, as every change must pass it.

use std::time::Duration;

use hearth_chaos::{ChaosOptions, FaultKind, run};

#[tokio::test(flavor = "multi_thread")]
async fn kills_and_pauses_break_no_promise() {
    let seed = std::env::var("HEARTH_CHAOS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let options = ChaosOptions { seed, total: Duration::from_secs(20), nodes: 3, tasks: 4 };
    let outcome = run(options).await.expect("the cluster starts and heals");
    eprintln!("seed {seed}: {outcome:#?}");
    assert_eq!(outcome.failure(), None, "seed {seed}; run it again with HEARTH_CHAOS_SEED={seed}");
    for kind in FaultKind::ALL {
        assert!(outcome.faults.iter().any(|fault| fault.kind == kind), "{kind:?} does not occur");
    }
}
