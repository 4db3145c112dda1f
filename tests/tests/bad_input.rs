//! Bad input is refused with an error that names the thing and the mend, and nothing is lost.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use hearth_client::{Chain, Client, ClientConfig, PutBlock, PutOptions, RequestError};
use hearth_proto::AckLevel;
use hearth_proto::limits::BLOCK_BYTES_MAX;
use hearth_tests::blocks::{chain, get_all, put_all};
use hearth_tests::{ClusterOptions, NodeOptions, TestCluster, free_port, hearthd_binary, sibling_binary};

const BLOCK: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(10);

fn one_node() -> ClusterOptions {
    ClusterOptions { nodes: 1, ..ClusterOptions::default() }
}

/// Runs hearthd until it refuses; a hearthd that starts instead is ended and fails the test.
fn refused(data_dir: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "40"]).arg(hearthd_binary().expect("hearthd is built"));
    command.args(["--data-dir".as_ref(), data_dir.as_os_str()]);
    for flag in ["--listen", "--data-listen", "--http-listen"] {
        if !arguments.contains(&flag) {
            command.args([flag, &format!("127.0.0.1:{}", free_port())]);
        }
    }
    if !arguments.contains(&"--host-capacity") {
        command.args(["--host-capacity", "128MiB", "--nvme-capacity", "128MiB"]);
    }
    let output = command.args(arguments).output().expect("hearthd runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?} was not refused: {error}");
    error
}

fn hearth(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(sibling_binary("hearth").expect("hearth is built"))
        .args(arguments)
        .output()
        .expect("hearth runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, error)
}

fn contains_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn an_unknown_flag_or_key_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    contains_all(&refused(folder.path(), &["--lisen", "x"]), &["--lisen", "--listen"]);
    let file = folder.path().join("hearth.toml");
    std::fs::write(&file, "host_capacty = '1GiB'\n").expect("the file is writable");
    let path = file.to_str().expect("a printable path");
    contains_all(&refused(folder.path(), &["--config", path]), &["host_capacty", "host_capacity", path]);
}

#[test]
fn an_address_beyond_loopback_needs_insecure() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = refused(folder.path(), &["--listen", "0.0.0.0:1"]);
    contains_all(&error, &["0.0.0.0:1", "TLS", "--insecure"]);
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound").to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    contains_all(&refused(folder.path(), &["--listen", &address]), &[&address, "--listen"]);
}

#[test]
fn an_unreachable_member_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nobody = format!("127.0.0.1:{}", free_port());
    let error = refused(folder.path(), &["--join", &nobody]);
    contains_all(&error, &[&nobody, "cannot join the cluster", "--join names", "--listen"]);
    let (output, error) = hearth(&["--addr", &nobody, "status"]);
    assert_eq!(output.status.code(), Some(4), "{error}");
    contains_all(&error, &[&nobody, "--listen"]);
    let (output, error) = hearth(&["--addr", "nowhere", "nodes"]);
    assert_eq!(output.status.code(), Some(2), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_cluster_is_refused_with_both_ids() {
    let cluster = TestCluster::start(one_node()).await.expect("a node starts");
    let own = cluster.client(0).await.expect("the node answers").nodes().await.expect("it lists itself");
    let own = hearth_proto::hex::encode(&own.cluster_id);
    let other = "0123456789abcdef0123456789abcdef";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let address = cluster.nodes[0].control_address();
    let error = refused(folder.path(), &["--join", &address, "--cluster-id", other]);
    contains_all(&error, &[&own, other, &address, "correct --join or --cluster-id"]);
    let wanted = Some(own.parse().expect("an id as the cluster prints it"));
    let config = ClientConfig { cluster: wanted, ..ClientConfig::new([address.clone()]) };
    let client = Client::connect(config).await.expect("it is the right cluster");
    let workers = hearth_replay::worker_clients(&client).await.expect("the node answers");
    assert!(workers.len() == 1 && workers.iter().all(|worker| worker.config().cluster == wanted));
    let (output, error) = hearth(&["--addr", &address, "--cluster-id", other, "nodes"]);
    assert_eq!(output.status.code(), Some(2), "{error}");
    contains_all(&error, &[&own, other]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_node_cluster_or_format_is_refused_and_nothing_is_lost() {
    let mut cluster = TestCluster::start(one_node()).await.expect("a node starts");
    let blocks = chain(1, 20);
    let client = cluster.client(0).await.expect("the node answers");
    put_all(&client, &blocks, BLOCK, AckLevel::Durable).await.expect("stored");
    let data_dir = cluster.nodes[0].data_dir();
    contains_all(&refused(&data_dir, &[]), &["in use"]);
    cluster.nodes[0].stop(Duration::from_secs(20)).await.expect("a clean stop");

    contains_all(&refused(&data_dir, &["--name", "another"]), &["another", "belongs to node"]);
    let other = "0123456789abcdef0123456789abcdef";
    contains_all(&refused(&data_dir, &["--cluster-id", other]), &[other, "belongs to cluster"]);
    let identity = data_dir.join("identity.json");
    let text = std::fs::read_to_string(&identity).expect("the identity is there");
    std::fs::write(&identity, text.replace("\"format\": 1", "\"format\": 7")).expect("writable");
    contains_all(&refused(&data_dir, &[]), &["format 7", "newer hearthd"]);
    std::fs::write(&identity, text).expect("writable");

    cluster.nodes[0].launch().expect("the node starts again");
    cluster.nodes[0].wait_ready(Duration::from_secs(60)).await.expect("the node is ready again");
    let client = cluster.client(0).await.expect("the node answers");
    let got = get_all(&client, &blocks, BLOCK, PATIENCE).await.expect("never wrong bytes");
    assert_eq!(got.hits.len(), blocks.len(), "{:?}", got.misses);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_can_never_succeed_say_so() {
    let cluster = TestCluster::start(one_node()).await.expect("a node starts");
    let client = cluster.client(0).await.expect("the node answers");
    assert_eq!(Chain::from_keys(Vec::new()), Err(RequestError::EmptyChain));
    let two = chain(2, 2);
    let put = async |index, len| {
        let block = PutBlock::new(index, vec![0; len]);
        client.put(&two, &[block], PutOptions::default()).await
    };
    assert!(matches!(put(0, BLOCK_BYTES_MAX + 1).await, Err(RequestError::BlockTooLarge { index: 0, .. })));
    assert!(matches!(put(1, 0).await, Err(RequestError::BlockEmpty { index: 1 })));
    assert!(matches!(put(2, 1).await, Err(RequestError::OutsideChain { index: 2, count: 2 })));
    let address = cluster.nodes[0].control_address();
    for bad in ["xyz", "00", "0011223344556677889"] {
        let (output, error) = hearth(&["--addr", &address, "locate", bad]);
        assert_eq!(output.status.code(), Some(2), "{error}");
        contains_all(&error, &[bad, "hexadecimal digits"]);
    }
    let (output, error) = hearth(&["--addr", &address, "put", "/nonexistent/file"]);
    assert_eq!(output.status.code(), Some(1), "{error}");
    contains_all(&error, &["/nonexistent/file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_makes_room_and_never_fails_a_get() {
    let node = NodeOptions {
        host_capacity: "128MiB".into(),
        nvme_capacity: "256MiB".into(),
        ..NodeOptions::default()
    };
    let cluster =
        TestCluster::start(ClusterOptions { nodes: 1, node, ..one_node() }).await.expect("a node starts");
    let client = cluster.client(0).await.expect("the node answers");
    let len = 1 << 20;
    let chains: Vec<Chain> = (0..10).map(|seed| chain(100 + seed, 64)).collect();
    for chain in &chains {
        put_all(&client, chain, len, AckLevel::Durable).await.expect("a full store evicts and stores");
    }
    let mut held = 0;
    for chain in &chains {
        held += get_all(&client, chain, len, PATIENCE).await.expect("never wrong bytes").hits.len();
    }
    assert!((100..640).contains(&held), "640 MiB were put into 256 MiB, and {held} blocks are held");
}
