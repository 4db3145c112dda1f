//! A node that dies or stalls becomes a miss, in time; what was acknowledged stays.

use std::time::{Duration, Instant};

use hearth_client::{Client, ClientConfig};
use hearth_proto::limits::DEADLINE_GRACE_MS;
use hearth_proto::{AckLevel, v1};
use hearth_tests::blocks::{chain, get_all, put_all};
use hearth_tests::{ClusterOptions, TestCluster};

const BLOCK: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(20);
/// The machine that runs the tests is shared: what the deadline's grace is given on top for
/// scheduling, far below the seconds that a hang would take.
const SCHEDULING: Duration = Duration::from_millis(450);

fn in_time(elapsed: Duration, patience: Duration) -> bool {
    elapsed <= patience + Duration::from_millis(DEADLINE_GRACE_MS) + SCHEDULING
}

async fn visible(client: &Client, chain: &hearth_client::Chain) -> bool {
    client.lookup(chain, None).await.held_prefix() == chain.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn gets_from_a_killed_node_are_misses_within_the_deadline() {
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let lost = chain(1, 64);
    let kept = chain(2, 64);
    let on_two = cluster.client(2).await.expect("node 2 answers");
    put_all(&on_two, &lost, BLOCK, AckLevel::Durable).await.expect("stored on node 2");
    let reader = cluster.client(0).await.expect("node 0 answers");
    put_all(&reader, &kept, BLOCK, AckLevel::Host).await.expect("stored on node 0");
    TestCluster::wait_until("node 0 knows the blocks", PATIENCE, async || visible(&reader, &lost).await)
        .await
        .expect("the directory spreads");

    cluster.nodes[2].kill().expect("node 2 was running");
    let patience = Duration::from_millis(800);
    for _ in 0..5 {
        let got = get_all(&reader, &lost, BLOCK, patience).await.expect("never wrong bytes");
        assert!(got.hits.is_empty(), "nobody has these bytes any more");
        assert!(in_time(got.elapsed, patience), "INV-DEADLINE: {:?}", got.elapsed);
        let got = get_all(&reader, &kept, BLOCK, patience).await.expect("never wrong bytes");
        assert_eq!(got.hits.len(), kept.len(), "a dead node must not cost other nodes' blocks");
    }
    TestCluster::wait_until("the dead node's claims are gone", PATIENCE, async || {
        reader.lookup(&lost, None).await.held_prefix() == 0
    })
    .await
    .expect("NodeDown hides what the node held");

    cluster.nodes[2].launch().expect("node 2 starts again");
    cluster.nodes[2].wait_ready(Duration::from_secs(60)).await.expect("node 2 is ready again");
    TestCluster::wait_until("the blocks are back", PATIENCE, async || visible(&reader, &lost).await)
        .await
        .expect("NVMe replicas come back when their node does");
    let got = get_all(&reader, &lost, BLOCK, Duration::from_secs(10)).await.expect("never wrong bytes");
    assert_eq!(got.hits.len(), lost.len(), "{:?}", got.misses);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_node_is_a_miss_in_time_and_comes_back() {
    let cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let blocks = chain(3, 32);
    let on_one = cluster.client(1).await.expect("node 1 answers");
    put_all(&on_one, &blocks, BLOCK, AckLevel::Host).await.expect("stored on node 1");
    let reader = cluster.client(0).await.expect("node 0 answers");
    TestCluster::wait_until("node 0 knows the blocks", PATIENCE, async || visible(&reader, &blocks).await)
        .await
        .expect("the directory spreads");
    // The connection is open before the node stalls: the hard case.
    get_all(&reader, &blocks, BLOCK, PATIENCE).await.expect("never wrong bytes");

    cluster.nodes[1].pause().expect("node 1 was running");
    // Far longer than a call that is spared the wait may take.
    let patience = Duration::from_millis(1_500);
    let mut waited = 0;
    for _ in 0..8 {
        let got = get_all(&reader, &blocks, BLOCK, patience).await.expect("never wrong bytes");
        assert!(got.hits.is_empty(), "a paused node serves nothing");
        assert!(in_time(got.elapsed, patience), "INV-DEADLINE: {:?}", got.elapsed);
        waited += u32::from(!in_time(got.elapsed, Duration::ZERO));
    }
    // The first call finds the node silent; another may come when its first pause is over.
    assert!(waited <= 2, "the breaker must spare later calls the wait, and {waited} of 8 waited");
    cluster.nodes[1].resume().expect("node 1 is still there");
    TestCluster::wait_until("the blocks are served again", PATIENCE, async || {
        let got = get_all(&reader, &blocks, BLOCK, Duration::from_secs(2)).await.expect("never wrong bytes");
        got.hits.len() == blocks.len()
    })
    .await
    .expect("a node that was only slow is used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_metadata_survives_kill_9_of_the_directory_leader() {
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let leader = cluster.wait_leader(1).await.expect("the directory has a leader");
    let (holder, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let before = chain(4, 128);
    let writer = cluster.client(holder).await.expect("the node answers");
    put_all(&writer, &before, BLOCK, AckLevel::Durable).await.expect("stored");
    let reader = cluster.client(other).await.expect("the node answers");
    let committed = async |blocks| cluster.committed_blocks(other).await.is_ok_and(|count| count >= blocks);
    TestCluster::wait_until("the report is committed", PATIENCE, async || committed(128).await)
        .await
        .expect("the directory spreads");

    cluster.nodes[leader].kill().expect("the leader was running");
    assert!(visible(&reader, &before).await, "INV-ACK: committed locations need no leader to be read");
    let after = chain(5, 128);
    put_all(&writer, &after, BLOCK, AckLevel::Durable).await.expect("puts go on without the leader");
    let committed = async |blocks| cluster.committed_blocks(other).await.is_ok_and(|count| count >= blocks);
    TestCluster::wait_until("new reports are committed", PATIENCE, async || committed(256).await)
        .await
        .expect("another leader takes over");
    let new_leader = cluster.wait_leader(1).await.expect("the directory has a leader again");
    assert_ne!(new_leader, leader);
    for chain in [&before, &after] {
        let got = get_all(&reader, chain, BLOCK, PATIENCE).await.expect("never wrong bytes");
        assert_eq!(got.hits.len(), chain.len(), "{:?}", got.misses);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_cluster_looks_like_a_miss_to_an_engine() {
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let blocks = chain(6, 16);
    let client = cluster.client(0).await.expect("node 0 answers");
    put_all(&client, &blocks, BLOCK, AckLevel::Host).await.expect("stored");
    for node in &mut cluster.nodes {
        node.kill().expect("the node was running");
    }
    let patience = Duration::from_millis(400);
    for _ in 0..4 {
        let got = get_all(&client, &blocks, BLOCK, patience).await.expect("a miss is not an error");
        assert_eq!(got.misses.len(), blocks.len());
        assert!(in_time(got.elapsed, patience), "INV-HARMLESS: {:?}", got.elapsed);
        let options = hearth_client::PutOptions { patience: Some(patience), ..Default::default() };
        let started = Instant::now();
        let payload = hearth_tests::blocks::blocks(&blocks, BLOCK);
        let results = client.put(&blocks, &payload, options).await.expect("a put that fails is no error");
        assert!(in_time(started.elapsed(), patience), "INV-HARMLESS: {:?}", started.elapsed());
        assert!(results.iter().all(|r| matches!(r, hearth_client::PutResult::NotStored(_))), "{results:?}");
    }
    // An engine that starts while the store is dead starts all the same.
    let fresh = Client::new(ClientConfig::new(cluster.seeds(0))).expect("no connection is needed");
    let got = get_all(&fresh, &blocks, BLOCK, patience).await.expect("a miss is not an error");
    assert!(got.hits.is_empty() && in_time(got.elapsed, patience));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_rejoins_has_a_new_incarnation() {
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let incarnation = async |cluster: &TestCluster| {
        let client = cluster.client(0).await.expect("node 0 answers");
        let nodes = client.nodes().await.expect("node 0 answers").nodes;
        let address = cluster.nodes[2].control_address();
        let node = nodes.into_iter().find(|n| n.control_address == address).expect("node 2 is listed");
        (node.incarnation, node.state())
    };
    let (before, _) = incarnation(&cluster).await;
    cluster.nodes[2].kill().expect("node 2 was running");
    cluster.nodes[2].launch().expect("node 2 starts again");
    cluster.nodes[2].wait_ready(Duration::from_secs(60)).await.expect("node 2 is ready again");
    TestCluster::wait_until("the new registration is known", PATIENCE, async || {
        let (now, state) = incarnation(&cluster).await;
        now > before && state == v1::NodeState::Up
    })
    .await
    .expect("INV-FENCE: each registration has a number of its own");
}
