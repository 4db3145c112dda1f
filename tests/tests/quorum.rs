//! What a node does while the majority of the voters is away.

use std::time::Duration;

use hearth_client::{Client, ClientConfig};
use hearth_proto::AckLevel;
use hearth_tests::blocks::{chain, get_all, put_all};
use hearth_tests::{ClusterOptions, NodeOptions, NodeProcess, TestCluster, http_get};

const BLOCK: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_that_starts_alone_waits_for_its_peers_and_serves_what_it_has() {
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let blocks = chain(1, 40);
    let client = cluster.client(0).await.expect("node 0 answers");
    put_all(&client, &blocks, BLOCK, AckLevel::Durable).await.expect("stored on the founder");
    for node in &mut cluster.nodes {
        node.kill().expect("the node was running");
    }

    let founder = &mut cluster.nodes[0];
    founder.launch().expect("the founder starts alone");
    let (http, log) = (founder.http_port, founder.log_path());
    TestCluster::wait_until("the founder says what it waits for", PATIENCE, async || {
        std::fs::read_to_string(&log).is_ok_and(|log| log.contains("waiting for a majority"))
    })
    .await
    .expect("a missing majority is waited for, not died of");
    assert!(cluster.nodes[0].is_running());
    let (code, reason) = http_get(http, "/readyz", Duration::from_secs(5)).await.expect("it answers");
    assert_eq!(code, 503, "{reason}");
    let alone = Client::new(ClientConfig::new([cluster.nodes[0].control_address()])).expect("an address");
    TestCluster::wait_until("the founder serves its blocks", PATIENCE, async || {
        let got = get_all(&alone, &blocks, BLOCK, Duration::from_secs(2)).await.expect("never wrong bytes");
        got.hits.len() == blocks.len()
    })
    .await
    .expect("INV-HARMLESS: its blocks are as good as before");

    for node in &mut cluster.nodes[1..] {
        node.launch().expect("the node starts again");
    }
    for node in &mut cluster.nodes {
        node.wait_ready(PATIENCE).await.expect("the cluster is whole again");
    }
    let client = cluster.client(2).await.expect("node 2 answers");
    TestCluster::wait_until("the blocks are found through another node", PATIENCE, async || {
        client.lookup(&blocks, None).await.held_prefix() == blocks.len()
    })
    .await
    .expect("the inventory is reported again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_voter_does_not_make_the_others_spin() {
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    cluster.nodes[2].kill().expect("node 2 was running");
    let client = cluster.client(0).await.expect("node 0 answers");
    TestCluster::wait_until("the death is known", PATIENCE, async || {
        let nodes = client.nodes().await.expect("node 0 answers").nodes;
        nodes.iter().any(|node| node.state() == hearth_proto::v1::NodeState::Down)
    })
    .await
    .expect("a dead node is declared down");
    let logged = |cluster: &TestCluster| -> u64 {
        let len =
            |node: &hearth_tests::NodeProcess| std::fs::metadata(node.log_path()).map_or(0, |m| m.len());
        cluster.nodes[..2].iter().map(len).sum()
    };
    let before = logged(&cluster);
    // The window of a measurement, not a wait for something to have happened.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let grown = logged(&cluster) - before;
    assert!(grown < 64 << 10, "the logs of two nodes grew by {grown} bytes in four seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_to_join_is_alive_and_not_ready() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let seed = silent.local_addr().expect("it is bound").to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = NodeProcess::start(folder.path().join("node"), Some(seed), NodeOptions::default())
        .expect("the process starts");
    let port = node.http_port;
    TestCluster::wait_until("health is answered", PATIENCE, async || {
        matches!(http_get(port, "/livez", Duration::from_secs(1)).await, Ok((200, _)))
    })
    .await
    .expect("a node that waits is alive");
    let (code, reason) = http_get(port, "/readyz", Duration::from_secs(5)).await.expect("it answers");
    assert!(code == 503 && reason.contains("opening"), "{code} {reason}");
    node.stop(Duration::from_secs(10)).await.expect("it stops when asked");
}
