//! Blocks travel between real processes, and outlive them.

use std::time::Duration;

use hearth_client::{BlockResult, GetOptions};
use hearth_proto::{AckLevel, Tier};
use hearth_replay::content;
use hearth_tests::blocks::{chain, get_all, put_all};
use hearth_tests::{ClusterOptions, TestCluster};

const BLOCK: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until node `through` knows where all blocks of the chain are.
async fn wait_visible(cluster: &TestCluster, through: usize, chain: &hearth_client::Chain) {
    let client = cluster.client(through).await.expect("the node answers");
    TestCluster::wait_until("every block is known to the other node", PATIENCE, async || {
        client.lookup(chain, None).await.held_prefix() == chain.len()
    })
    .await
    .expect("the directory spreads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_put_on_one_node_is_got_through_every_other() {
    let cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let chain = self::chain(1, 200);
    let writer = cluster.client(0).await.expect("node 0 answers");
    put_all(&writer, &chain, BLOCK, AckLevel::Host).await.expect("every block is stored");
    for through in 0..3 {
        wait_visible(&cluster, through, &chain).await;
        let reader = cluster.client(through).await.expect("the node answers");
        let got = get_all(&reader, &chain, BLOCK, PATIENCE).await.expect("no wrong bytes");
        assert_eq!(got.hits.len(), chain.len(), "through node {through}: {:?}", got.misses);
        let whole = reader.get_chain(&chain, BLOCK, GetOptions::within(PATIENCE)).await;
        assert_eq!(whole.len(), chain.len());
        for (key, result) in chain.keys().iter().zip(whole) {
            let BlockResult::Hit(hit) = result else { panic!("{key} is missing: {result:?}") };
            assert!(content::verify(key, BLOCK, hit.buffer.as_slice()).is_ok(), "chain order is kept");
        }
    }
    let reader = cluster.client(2).await.expect("the node answers");
    let absent = reader.get_chain(&self::chain(999, 3), BLOCK, GetOptions::within(PATIENCE)).await;
    assert!(absent.is_empty(), "what nobody holds is an empty answer: {absent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nvme_blocks_are_warm_after_the_whole_cluster_restarts() {
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    for home in 0..3 {
        let client = cluster.client(home).await.expect("the node answers");
        put_all(&client, &chain(home as u64, 100), BLOCK, AckLevel::Durable).await.expect("stored durably");
    }
    for node in &mut cluster.nodes {
        let status = node.stop(Duration::from_secs(20)).await.expect("a stop is clean and bounded");
        assert!(status.success(), "SIGTERM ends a node with success:\n{}", node.log_tail());
    }
    for node in &mut cluster.nodes {
        node.launch().expect("the node starts again");
    }
    for node in &mut cluster.nodes {
        node.wait_ready(Duration::from_secs(60)).await.expect("the node is ready again");
    }
    for home in 0..3u64 {
        let through = (home as usize + 1) % 3;
        wait_visible(&cluster, through, &chain(home, 100)).await;
        let client = cluster.client(through).await.expect("the node answers");
        let got = get_all(&client, &chain(home, 100), BLOCK, PATIENCE).await.expect("no wrong bytes");
        assert_eq!(got.hits.len(), 100, "{:?}", got.misses);
        assert!(got.hits.iter().all(|(_, tier)| *tier == Tier::Nvme), "DRAM does not survive a restart");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_blocks_survive_kill_9_of_every_node_at_once() {
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let chain = chain(9, 150);
    let client = cluster.client(1).await.expect("node 1 answers");
    put_all(&client, &chain, BLOCK, AckLevel::Durable).await.expect("stored durably");
    for node in &mut cluster.nodes {
        node.kill().expect("the node was running");
    }
    for node in &mut cluster.nodes {
        node.launch().expect("the node starts again");
    }
    for node in &mut cluster.nodes {
        node.wait_ready(Duration::from_secs(60)).await.expect("the node is ready again");
    }
    wait_visible(&cluster, 0, &chain).await;
    let client = cluster.client(0).await.expect("node 0 answers");
    let got = get_all(&client, &chain, BLOCK, PATIENCE).await.expect("no wrong bytes");
    assert_eq!(got.hits.len(), chain.len(), "INV-ACK: {:?}", got.misses);
}
