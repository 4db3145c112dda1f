//! Nodes that leave for good, told to or not, over real processes.

use std::process::Command;
use std::time::Duration;

use hearth_proto::{AckLevel, v1};
use hearth_tests::blocks::{chain, get_all, put_all};
use hearth_tests::{ClusterOptions, NodeOptions, TestCluster, sibling_binary};

const BLOCK: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(90);

/// Exit status, and what was printed.
fn hearth(address: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let hearth = sibling_binary("hearth").expect("hearth is built");
    let output = Command::new(hearth).args(["--addr", address]).args(arguments).output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// The voters of each group, as node `index` knows them; none if it does not answer.
async fn voters(cluster: &TestCluster, index: usize) -> Vec<Vec<u64>> {
    let status = cluster.status(index).await.ok();
    status.map(|status| status.groups.into_iter().map(|group| group.voters).collect()).unwrap_or_default()
}

async fn wait_voters(cluster: &TestCluster, index: usize, expected: &[u64]) {
    TestCluster::wait_until("the voters", PATIENCE, async || {
        let known = voters(cluster, index).await;
        !known.is_empty() && known.iter().all(|voters| voters == expected)
    })
    .await
    .unwrap_or_else(|error| panic!("{error}: {expected:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_and_removed_and_its_process_stops_and_says_why() {
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let ask = cluster.nodes[0].control_address();
    let blocks = chain(1, 20);
    let other = cluster.client(2).await.expect("node 3 answers");
    put_all(&other, &blocks, BLOCK, AckLevel::Durable).await.expect("stored on node 3");

    let (code, text) = hearth(&ask, &["node", "remove", "3"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("not drained"), "{text}");
    let (code, text) = hearth(&ask, &["node", "drain", "nobody"]);
    assert!(code == Some(2) && text.contains("no node is called"), "{text}");
    let (code, text) = hearth(&ask, &["node", "drain", "3"]);
    assert!(code == Some(0) && text.contains("node 3 is being drained"), "{text}");
    // What only it holds is moved first.
    let (code, text) = hearth(&ask, &["node", "remove", "3"]);
    let is_early = code == Some(2) && text.contains("blocks are on no node that stays");
    if !is_early {
        assert!(code == Some(0) && text.contains("node 3 is removed"), "all was moved in a moment: {text}");
    } else {
        let (code, text) = hearth(&ask, &["node", "drain", "3", "--wait"]);
        assert!(code == Some(0) && text.contains("was being drained already"), "{text}");
        assert!(text.contains("node 3 holds nothing that no other node has"), "{text}");
        let (code, text) = hearth(&ask, &["node", "progress"]);
        assert!(code == Some(0) && text.contains("nothing is left that no other node has"), "{text}");
        let (code, text) = hearth(&ask, &["node", "remove", "3"]);
        assert!(code == Some(0) && text.contains("node 3 is removed"), "{text}");
    }

    let ended = cluster.nodes[2].wait_end(PATIENCE).await.expect("the process stops by itself");
    assert!(!ended.success(), "whoever watches it must see that it did not mean to stop");
    let log = std::fs::read_to_string(cluster.nodes[2].log_path()).expect("it has a log");
    assert!(log.contains("node 3 was removed from the cluster"), "{log}");
    cluster.nodes[2].launch().expect("it is started again");
    cluster.nodes[2].wait_end(PATIENCE).await.expect("it stops again");

    for index in 0..2 {
        wait_voters(&cluster, index, &[1, 2]).await;
    }
    let client = cluster.client(0).await.expect("node 1 answers");
    let got = get_all(&client, &blocks, BLOCK, Duration::from_secs(2)).await.expect("INV-BYTES");
    assert_eq!(got.hits.len(), 20, "what only it held was moved: {got:?}");
    let more = chain(2, 20);
    put_all(&client, &more, BLOCK, AckLevel::Durable).await.expect("the rest goes on");
    let (code, text) = hearth(&ask, &["upgrade", "finalize"]);
    assert!(code == Some(0) && text.contains("was already at version"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_with_nowhere_to_go_does_not_end() {
    let options = ClusterOptions { nodes: 2, ..Default::default() };
    let cluster = TestCluster::start(options).await.expect("two nodes start");
    let ask = cluster.nodes[0].control_address();
    let writer = cluster.client(1).await.expect("node 2 answers");
    put_all(&writer, &chain(1, 5), BLOCK, AckLevel::Durable).await.expect("stored on node 2");
    TestCluster::wait_until("the directory knows them", PATIENCE, async || {
        cluster.committed_blocks(0).await.is_ok_and(|blocks| blocks == 5)
    })
    .await
    .expect("the blocks are reported");
    for node in ["1", "2"] {
        let (code, text) = hearth(&ask, &["node", "drain", node]);
        assert!(code == Some(0) && text.contains("is being drained"), "{text}");
    }
    let (code, text) = hearth(&ask, &["node", "remove", "2"]);
    assert!(code == Some(2) && text.contains("5 blocks are on no node that stays"), "{text}");
    let (code, text) = hearth(&ask, &["node", "progress"]);
    assert!(code == Some(0) && text.contains("5 blocks, 320.0 KiB to move"), "{text}");
    // Where there is a node again that takes them, it ends.
    let (code, text) = hearth(&ask, &["node", "undrain", "1"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = hearth(&ask, &["node", "drain", "2", "--wait"]);
    assert!(code == Some(0) && text.contains("node 2 holds nothing that no other node has"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_does_not_come_back_is_replaced_and_another_may_be_lost() {
    let extra = vec!["--voter-lost-after".to_owned(), "4".to_owned()];
    let options = ClusterOptions {
        nodes: 4,
        node: NodeOptions { extra, ..NodeOptions::default() },
        ..Default::default()
    };
    let mut cluster = TestCluster::start(options).await.expect("four nodes start");
    cluster.nodes[1].kill().expect("node 2 was running");
    for index in [0, 2, 3] {
        wait_voters(&cluster, index, &[1, 3, 4]).await;
    }
    // Of the first three voters one is left now.
    cluster.nodes[0].kill().expect("node 1 was running");
    let client = cluster.client(3).await.expect("node 4 answers");
    let blocks = chain(3, 20);
    put_all(&client, &blocks, BLOCK, AckLevel::Durable).await.expect("stored");
    let ask = cluster.nodes[2].control_address();
    TestCluster::wait_until("a linearizable answer", PATIENCE, async || {
        let mut arguments = vec!["--deadline-ms".to_owned(), "5000".into(), "locate".into()];
        arguments.extend(["--linearizable".into(), "00112233445566778899aabbccddeeff".into()]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        // Nowhere is an answer as well, and the right one.
        hearth(&ask, &arguments).0 == Some(3)
    })
    .await
    .expect("the new voters are a quorum");
    TestCluster::wait_until("the blocks are in the directory", PATIENCE, async || {
        cluster.committed_blocks(2).await.is_ok_and(|held| held == blocks.len() as u64)
    })
    .await
    .expect("reports are committed");
    let nodes = client.nodes().await.expect("node 4 answers").nodes;
    let down = nodes.iter().filter(|node| node.state() == v1::NodeState::Down);
    assert!(down.count() >= 1, "the lost ones are known");
}
