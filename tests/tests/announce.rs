//! What is acknowledged on one node is found through the others at once, not when the log gets there.

use std::time::Duration;

use hearth_proto::AckLevel;
use hearth_tests::blocks::{chain, get_all, put_all};
use hearth_tests::{ClusterOptions, TestCluster};

const BLOCK: usize = 32 << 10;
const ROUNDS: u64 = 60;
/// Between them: who does not answer in time is told nothing for a second, which is not to be all there is.
const APART: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_put_is_found_through_another_node_at_once() {
    let cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let mut clients = Vec::new();
    for home in 0..3 {
        clients.push(cluster.client(home).await.expect("the node answers"));
    }
    let mut at_once = 0;
    for round in 0..ROUNDS {
        tokio::time::sleep(APART).await;
        let chain = chain(round, 16);
        let (writer, reader) = (&clients[round as usize % 3], &clients[(round as usize + 1) % 3]);
        put_all(writer, &chain, BLOCK, AckLevel::Host).await.expect("stored");
        // No waiting: this is the first question after the acknowledgement.
        let got = get_all(reader, &chain, BLOCK, Duration::from_secs(5)).await.expect("never wrong bytes");
        at_once += u64::from(got.hits.len() == chain.len());
    }
    // An announcement that takes longer than its bound is left to the directory, as on a stalled machine.
    assert!(at_once * 10 >= ROUNDS * 9, "{at_once} of {ROUNDS} chains were found at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_listen_does_not_slow_puts_down() {
    let cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let writer = cluster.client(0).await.expect("node 0 answers");
    put_all(&writer, &chain(1, 16), BLOCK, AckLevel::Host).await.expect("stored");
    cluster.nodes[2].pause().expect("node 2 was running");
    let started = std::time::Instant::now();
    for seed in 100..150 {
        put_all(&writer, &chain(seed, 16), BLOCK, AckLevel::Host).await.expect("stored");
    }
    // Waiting out the bound for the silent node on every put would alone take a second.
    let elapsed = started.elapsed();
    cluster.nodes[2].resume().expect("node 2 is still there");
    assert!(elapsed < Duration::from_millis(900), "50 puts beside a silent node took {elapsed:?}");
}
