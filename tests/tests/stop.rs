//! A node stops when it is told to: cleanly, in time, and without an error for whoever uses it; and
//! one whose metadata plane cannot go on says so and serves what it has.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hearth_client::{Client, ClientConfig, PutOptions};
use hearth_proto::AckLevel;
use hearth_proto::limits::DEADLINE_GRACE_MS;
use hearth_tests::blocks::{blocks, chain, get_all, put_all};
use hearth_tests::{
    ClusterOptions, NodeOptions, NodeProcess, TestCluster, free_port, hearthd_binary, http_get,
    sibling_binary,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::task::JoinSet;

const BLOCK: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(20);
/// What a caller of the load gives each of its requests.
const REQUEST_PATIENCE: Duration = Duration::from_millis(800);
/// What scheduling on a shared machine is given on top of the deadline's grace.
const SCHEDULING: Duration = Duration::from_millis(450);
/// Below the time after which a node cuts requests off: nothing here may have to be cut off.
const STOP_PATIENCE: Duration = Duration::from_secs(8);

/// Clients of every node that put and get for as long as it lives.
struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    clients: JoinSet<()>,
}

impl Load {
    async fn start(cluster: &TestCluster) -> Self {
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut clients = JoinSet::new();
        for home in 0..cluster.nodes.len() {
            let client = cluster.client(home).await.expect("the node answers");
            let (stop, rounds) = (stop.clone(), rounds.clone());
            clients.spawn(async move {
                let mut seed = 1_000 * home as u64;
                while !stop.load(Ordering::Relaxed) {
                    put_and_get(&client, seed).await;
                    seed += 1;
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { stop, rounds, clients }
    }

    /// Waits until every client is in the middle of its work.
    async fn wait_busy(&self) {
        let enough = self.rounds.load(Ordering::Relaxed) + 3 * self.clients.len() as u64;
        TestCluster::wait_until("the load runs", PATIENCE, async || {
            self.rounds.load(Ordering::Relaxed) >= enough
        })
        .await
        .expect("requests complete");
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("no request gave an error, wrong bytes, or a late answer");
        }
    }
}

/// Whatever becomes of the node, a request completes or becomes a miss, in time (INV-HARMLESS).
async fn put_and_get(client: &Client, seed: u64) {
    let chain = chain(seed, 24);
    let payload = blocks(&chain, BLOCK);
    let options = PutOptions { ack: AckLevel::Host, patience: Some(REQUEST_PATIENCE) };
    let started = Instant::now();
    client.put(&chain, &payload, options).await.expect("a put that fails is no error");
    assert!(in_time(started.elapsed()), "INV-DEADLINE: a put took {:?}", started.elapsed());
    let got = get_all(client, &chain, BLOCK, REQUEST_PATIENCE).await.expect("never wrong bytes");
    assert!(in_time(got.elapsed), "INV-DEADLINE: a get took {:?}", got.elapsed);
}

fn in_time(elapsed: Duration) -> bool {
    elapsed <= REQUEST_PATIENCE + Duration::from_millis(DEADLINE_GRACE_MS) + SCHEDULING
}

/// Stops a node under load and starts it again, `rounds` times.
async fn stop_again_and_again(nodes: usize, rounds: usize) {
    let options = ClusterOptions { nodes, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start(options).await.expect("the nodes start");
    for round in 0..rounds {
        let load = Load::start(&cluster).await;
        load.wait_busy().await;
        let node = &mut cluster.nodes[round % nodes];
        let status = node.stop(STOP_PATIENCE).await.expect("a stop is bounded");
        assert!(status.success(), "round {round}: {status}:\n{}", node.log_tail());
        assert!(!node.log_tail().contains("cut off"), "round {round}:\n{}", node.log_tail());
        load.end().await;
        let node = &mut cluster.nodes[round % nodes];
        node.launch().expect("the node starts again");
        node.wait_ready(PATIENCE).await.expect("the node is ready again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_under_load_stops_with_success_every_time() {
    stop_again_and_again(1, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_leaders_under_load_stop_in_time() {
    stop_again_and_again(3, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_for_a_cluster_to_join_stops_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nobody = Some(format!("127.0.0.1:{}", free_port()));
    let mut node =
        NodeProcess::start(folder.path().join("node"), nobody, NodeOptions::default()).expect("it starts");
    TestCluster::wait_until("it is on its way", PATIENCE, async || {
        node.log_tail().contains("block store open")
    })
    .await
    .expect("a start opens the store first");
    let status = node.stop(STOP_PATIENCE).await.expect("a stop is bounded");
    assert!(status.success(), "{status}:\n{}", node.log_tail());
}

/// A node whose files can be kept from growing, as a full disk does, while it runs.
struct Confined {
    child: Child,
    control: String,
    http_port: u16,
}

impl Confined {
    async fn start(folder: &Path) -> Self {
        let (control, http_port) = (format!("127.0.0.1:{}", free_port()), free_port());
        // Without a signal for it, a write beyond the limit is an error.
        let child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(hearthd_binary().expect("hearthd is built"))
            .args(["--data-dir".as_ref(), folder.as_os_str()])
            .args(["--listen", &control])
            .args(["--data-listen", &format!("127.0.0.1:{}", free_port())])
            .args(["--http-listen", &format!("127.0.0.1:{http_port}")])
            // Memory alone: the slab of the block store is to stay out of it.
            .args(["--host-capacity", "128MiB", "--nvme-capacity", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell is there");
        let node = Self { child, control, http_port };
        node.wait_readyz("ready").await;
        node
    }

    /// Waits until /readyz says `expected`.
    async fn wait_readyz(&self, expected: &str) {
        TestCluster::wait_until(expected, PATIENCE, async || {
            let answer = http_get(self.http_port, "/readyz", Duration::from_secs(1)).await;
            answer.is_ok_and(|(code, body)| body.contains(expected) && (code == 200) == (expected == "ready"))
        })
        .await
        .expect("/readyz tells how the node is");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid is not zero")
    }

    fn forbid_growth(&self) {
        let limit = Rlimit { current: Some(1), maximum: None };
        prlimit(Some(self.pid()), Resource::Fsize, limit).expect("a child's limit may be lowered");
    }

    async fn stop(mut self) -> std::process::ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("the node runs");
        let until = Instant::now() + STOP_PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < until, "the node does not stop");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_metadata_log_cannot_be_written_says_so_and_serves_what_it_has() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = Confined::start(&folder.path().join("data")).await;
    let client = Client::new(ClientConfig::new(vec![node.control.clone()])).expect("an address");
    let held = chain(1, 32);
    put_all(&client, &held, BLOCK, AckLevel::Host).await.expect("stored");

    node.forbid_growth();
    // Putting goes on, so that there is something to report that cannot be written.
    put_all(&client, &chain(2, 32), BLOCK, AckLevel::Host).await.expect("memory needs no disk");
    node.wait_readyz("metadata plane does not work").await;
    let status = client.status(&node.control).await.expect("the node answers");
    // The control group stops as soon as it has something to write as well.
    let stopped: Vec<_> = status.groups.iter().filter(|group| !group.stopped.is_empty()).collect();
    assert!(stopped.iter().any(|group| group.group_id == 1), "{status:?}");
    assert!(stopped.iter().all(|group| group.leader == 0), "{status:?}");
    let told = Command::new(sibling_binary("hearth").expect("hearth is built"))
        .args(["status", "--addr", &node.control])
        .output()
        .expect("hearth runs");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("stopped here"), "an operator is told:\n{told}");
    let got = get_all(&client, &held, BLOCK, PATIENCE).await.expect("never wrong bytes");
    assert_eq!(got.hits.len(), held.len(), "the blocks are as good as before: {:?}", got.misses);

    assert!(node.stop().await.success(), "a node without its metadata plane stops cleanly too");
    let again = Confined::start(&folder.path().join("data")).await;
    assert!(again.stop().await.success(), "with room again, all is well");
}
