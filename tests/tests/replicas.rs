//! Blocks have as many copies as the policy says, lose none with a node, and leave one that is drained.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_client::{Chain, Client, ClientConfig, PutOptions, PutResult};
use hearth_proto::{AckLevel, Priority, Tier, v1};
use hearth_tests::blocks::{blocks, chain, get_all, put_all};
use hearth_tests::{ClusterOptions, NodeOptions, TestCluster, http_get};

const BLOCK: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

async fn start(nodes: usize, grace_ms: u64) -> TestCluster {
    let extra = vec!["--repair-grace-ms".into(), grace_ms.to_string()];
    let node = NodeOptions { extra, ..NodeOptions::default() };
    let options = ClusterOptions { nodes, node, ..ClusterOptions::default() };
    TestCluster::start(options).await.expect("the nodes start")
}

fn two() -> v1::ClusterPolicy {
    v1::ClusterPolicy { replicas: 2, ..Default::default() }
}

/// The nodes that hold each block on NVMe, as the client's router knows them.
async fn holders(client: &Client, chain: &Chain) -> Vec<BTreeSet<u64>> {
    let lookup = client.lookup(chain, None).await;
    let durable = |replicas: &Vec<hearth_client::Replica>| {
        replicas.iter().filter(|replica| replica.tier == Tier::Nvme).map(|replica| replica.node.0).collect()
    };
    lookup.replicas().iter().map(durable).collect()
}

/// Waits until each block has `count` durable copies, none of them on `gone`.
async fn wait_copies(client: &Client, chains: &[Chain], count: usize, gone: Option<u64>) {
    let lacking = async || {
        let mut lacking = Vec::new();
        for (at, chain) in chains.iter().enumerate() {
            let all = holders(client, chain).await;
            let lacks =
                |nodes: &BTreeSet<u64>| nodes.iter().filter(|node| Some(**node) != gone).count() < count;
            lacking.extend(all.into_iter().filter(lacks).map(|nodes| (at, nodes)));
        }
        lacking
    };
    let copied = TestCluster::wait_until("copies", PATIENCE, async || lacking().await.is_empty()).await;
    assert!(
        copied.is_ok(),
        "these blocks, by chain, lack copies besides those of {gone:?}: {:?}",
        lacking().await
    );
}

/// The sum of one counter over the nodes that run.
async fn metric(cluster: &mut TestCluster, name: &str) -> u64 {
    let mut sum = 0.0;
    for node in &mut cluster.nodes {
        if node.is_running() {
            let (_, text) = http_get(node.http_port, "/metrics", PATIENCE).await.expect("metrics are served");
            let line = text.lines().find(|line| line.split(' ').next() == Some(name));
            let value = line.and_then(|line| line.split(' ').nth(1)).expect("the metric is exported");
            sum += value.parse::<f64>().expect("a number");
        }
    }
    sum as u64
}

/// The nodes that still live, by their control addresses.
async fn survivor(cluster: &TestCluster, index: usize) -> Client {
    Client::connect(ClientConfig::new([cluster.nodes[index].control_address()])).await.expect("it answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_block_outlives_any_node_and_gets_its_copies_back() {
    let mut cluster = start(3, 200).await;
    // Some were there before anybody asked for copies.
    let early = chain(100, 40);
    put_all(&cluster.client(1).await.expect("it answers"), &early, BLOCK, AckLevel::Durable)
        .await
        .expect("stored");
    cluster.set_policy(two()).await.expect("the policy is committed");
    let mut chains = vec![early];
    for home in 0..3 {
        let client = cluster.client(home).await.expect("the node answers");
        for seed in 0..2 {
            let chain = chain(10 * home as u64 + seed, 40);
            let ack = if seed == 0 { AckLevel::Durable } else { AckLevel::Host };
            put_all(&client, &chain, BLOCK, ack).await.expect("stored");
            chains.push(chain);
        }
    }
    let reader = survivor(&cluster, 0).await;
    wait_copies(&reader, &chains, 2, None).await;
    for chain in &chains {
        assert!(holders(&reader, chain).await.iter().all(|nodes| nodes.len() == 2), "two are enough");
    }
    let copied = metric(&mut cluster, "hearth_copied_blocks_total").await;
    assert!(copied >= 280, "{copied}");
    TestCluster::wait_until("copies leave memory to what engines read", PATIENCE, async || {
        for chain in &chains {
            let lookup = reader.lookup(chain, None).await;
            let in_memory = |replicas: &Vec<hearth_client::Replica>| {
                replicas.iter().filter(|replica| replica.tier == Tier::Host).count()
            };
            if lookup.replicas().iter().any(|replicas| in_memory(replicas) > 1) {
                return false;
            }
        }
        true
    })
    .await
    .expect("only the writer's node has a block in memory");

    let gone = cluster.node_id(2).await.expect("it knows its id");
    cluster.nodes[2].kill().expect("node 2 was running");
    for chain in &chains {
        let got = get_all(&reader, chain, BLOCK, Duration::from_secs(10)).await.expect("never wrong bytes");
        assert_eq!(got.hits.len(), chain.len(), "no block was on one node alone: {:?}", got.misses);
    }
    wait_copies(&reader, &chains, 2, Some(gone)).await;
    TestCluster::wait_until("nothing is missing", PATIENCE, async || {
        cluster.progress(1).await.expect("node 1 answers").missing_blocks == 0
    })
    .await
    .expect("progress tells that all is well");
    for chain in &chains {
        let got = get_all(&reader, chain, BLOCK, PATIENCE).await.expect("never wrong bytes");
        assert_eq!(got.hits.len(), chain.len(), "{:?}", got.misses);
    }

    // What comes back with the node is more than is needed, and is kept: it costs nothing until room is short.
    cluster.nodes[2].launch().expect("node 2 starts again");
    cluster.nodes[2].wait_ready(PATIENCE).await.expect("node 2 is ready again");
    let all_three = |nodes: &BTreeSet<u64>| nodes.len() == 3;
    TestCluster::wait_until("its blocks are known again", PATIENCE, async || {
        let mut surplus = 0;
        for chain in &chains {
            surplus += holders(&reader, chain).await.iter().filter(|nodes| all_three(nodes)).count();
        }
        surplus >= 100
    })
    .await
    .expect("surplus copies stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_merely_restarts_has_nothing_copied_for_it() {
    let mut cluster = start(3, 600_000).await;
    cluster.set_policy(two()).await.expect("the policy is committed");
    let client = cluster.client(2).await.expect("node 2 answers");
    let reader = survivor(&cluster, 0).await;
    // What comes before node 2 has heard of the policy waits for a search, which waits for the grace.
    for seed in 1_000.. {
        let probe = chain(seed, 1);
        put_all(&client, &probe, BLOCK, AckLevel::Durable).await.expect("stored");
        let copied = async || holders(&reader, &probe).await[0].len() == 2;
        if TestCluster::wait_until("the probe is copied", Duration::from_secs(2), copied).await.is_ok() {
            break;
        }
        assert!(seed < 1_030, "new blocks are not copied:\n{}", cluster.nodes[2].log_tail());
    }
    let chains = [chain(1, 100)];
    put_all(&client, &chains[0], BLOCK, AckLevel::Durable).await.expect("stored");
    wait_copies(&reader, &chains, 2, None).await;
    let gone = cluster.node_id(2).await.expect("it knows its id");
    cluster.nodes[2].kill().expect("node 2 was running");
    TestCluster::wait_until("the death is known", PATIENCE, async || {
        holders(&reader, &chains[0]).await.iter().all(|nodes| !nodes.contains(&gone))
    })
    .await
    .expect("a dead node is declared down");
    let before = metric(&mut cluster, "hearth_copied_blocks_total").await;
    cluster.nodes[2].launch().expect("node 2 starts again");
    cluster.nodes[2].wait_ready(PATIENCE).await.expect("node 2 is ready again");
    wait_copies(&reader, &chains, 2, None).await;
    assert_eq!(
        metric(&mut cluster, "hearth_copied_blocks_total").await,
        before,
        "its copies came back with it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_takes_nothing_with_it() {
    let mut cluster = start(3, 200).await;
    let durable = chain(1, 120);
    let volatile = chain(2, 30);
    let client = cluster.client(2).await.expect("node 2 answers");
    put_all(&client, &durable, BLOCK, AckLevel::Durable).await.expect("stored");
    // Of the lowest priority: kept in memory alone.
    let mut payloads = blocks(&volatile, BLOCK);
    payloads.iter_mut().for_each(|block| block.retention.priority = Priority::new(0).expect("within range"));
    let results = client.put(&volatile, &payloads, PutOptions::default()).await.expect("well formed");
    assert!(results.iter().all(|result| matches!(result, PutResult::Stored { .. })), "{results:?}");

    let drained = cluster.node_id(2).await.expect("it knows its id");
    let reader = survivor(&cluster, 0).await;
    TestCluster::wait_until("node 0 knows the blocks", PATIENCE, async || {
        let known = async |chain| reader.lookup(chain, None).await.held_prefix() == chain.len();
        known(&durable).await && known(&volatile).await
    })
    .await
    .expect("the directory spreads");
    // So slow that hardly anything moves: first it is undone.
    let slow = v1::ClusterPolicy { repair_bytes_per_second: 1, ..Default::default() };
    cluster.set_policy(slow).await.expect("the policy is committed");
    cluster.drain(2, false).await.expect("the drain begins");
    TestCluster::wait_until("the drain is seen", PATIENCE, async || {
        let progress = cluster.progress(0).await.expect("node 0 answers");
        let of_drained =
            progress.drains.iter().find(|d| d.node.as_ref().is_some_and(|n| n.node_id == drained));
        of_drained.is_some_and(|drain| drain.remaining_blocks > 0 && drain.remaining_bytes > 0)
    })
    .await
    .expect("progress tells of it");
    cluster.drain(2, true).await.expect("the drain ends");
    TestCluster::wait_until("the drain is no more", PATIENCE, async || {
        cluster.progress(0).await.expect("node 0 answers").drains.is_empty()
    })
    .await
    .expect("undoing it ends it");

    cluster.set_policy(v1::ClusterPolicy::default()).await.expect("the policy is committed");
    cluster.drain(2, false).await.expect("the drain begins");
    TestCluster::wait_until("nothing remains", PATIENCE, async || {
        let progress = cluster.progress(1).await.expect("node 1 answers");
        progress.drains.len() == 1 && progress.drains[0].remaining_blocks == 0
    })
    .await
    .expect("the drain comes to its end");

    // It still serves, and new blocks go elsewhere.
    let got = get_all(&reader, &durable, BLOCK, PATIENCE).await.expect("never wrong bytes");
    assert_eq!(got.hits.len(), durable.len(), "{:?}", got.misses);
    client.nodes().await.expect("the cluster answers");
    let fresh = chain(3, 10);
    let results =
        client.put(&fresh, &blocks(&fresh, BLOCK), PutOptions::default()).await.expect("well formed");
    for result in results {
        assert!(matches!(result, PutResult::Stored { node, .. } if node.0 != drained), "{result:?}");
    }

    cluster.nodes[2].kill().expect("node 2 was running");
    for chain in [&durable, &volatile, &fresh] {
        let got = get_all(&reader, chain, BLOCK, PATIENCE).await.expect("never wrong bytes");
        assert_eq!(got.hits.len(), chain.len(), "nothing went with the node: {:?}", got.misses);
    }
    assert!(holders(&reader, &durable).await.iter().all(|nodes| nodes.iter().any(|node| *node != drained)));
}

/// `cargo test --release -p hearth-tests --test replicas -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn what_a_drain_and_copies_move() {
    const COUNT: usize = 2_000;
    const LARGE: usize = 256 << 10;
    let mut cluster = start(3, 200).await;
    let all = chain(1, COUNT);
    let client = cluster.client(2).await.expect("node 2 answers");
    put_all(&client, &all, LARGE, AckLevel::Durable).await.expect("stored");
    let unbounded = v1::ClusterPolicy { repair_bytes_per_second: 1 << 40, ..Default::default() };
    cluster.set_policy(unbounded).await.expect("the policy is committed");
    let bytes = (COUNT * LARGE) as f64 / f64::from(1 << 20);
    let begun = std::time::Instant::now();
    cluster.drain(2, false).await.expect("the drain begins");
    TestCluster::wait_until("nothing remains", PATIENCE, async || {
        let progress = cluster.progress(1).await.expect("node 1 answers");
        progress.drains.len() == 1 && progress.drains[0].remaining_blocks == 0
    })
    .await
    .expect("the drain comes to its end");
    println!("a drain of {bytes} MiB: {:.0} MiB/s", bytes / begun.elapsed().as_secs_f64());
    let reader = survivor(&cluster, 0).await;
    let begun = std::time::Instant::now();
    cluster
        .set_policy(v1::ClusterPolicy { replicas: 2, ..unbounded })
        .await
        .expect("the policy is committed");
    let drained = cluster.node_id(2).await.expect("it knows its id");
    wait_copies(&reader, &[all], 2, Some(drained)).await;
    println!("a second copy of {bytes} MiB: {:.0} MiB/s", bytes / begun.elapsed().as_secs_f64());
}
