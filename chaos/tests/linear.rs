//! A bounded history over real processes, as every change must pass it. `hearth-chaos linear` runs longer ones.

use std::time::Duration;

use hearth_chaos::linear::{LinearOptions, Verdict, run};

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_linearizable_under_kills_and_stops() {
    let seed = std::env::var("HEARTH_CHAOS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let partitions = hearth_chaos::linear::can_partition();
    if !partitions {
        eprintln!("NOT TESTED: partitions, for which root and the commands `ip` and `bridge` are needed");
    }
    let options =
        LinearOptions { seed, total: Duration::from_secs(12), clients: 6, keys: 8, folder: None, partitions };
    let outcome = run(&options).await.expect("the cluster starts and heals");
    eprintln!("seed {seed}: {outcome:#?}");
    assert!(matches!(outcome.verdict, Verdict::Linearizable { .. }), "seed {seed}: {:#?}", outcome.verdict);
    assert!(outcome.answered > 200 && outcome.answered < outcome.operations, "no fault was felt");
}
