//! The client against nodes that are slow, silent, cut off, registered anew, or strangers.

#[path = "../../fabric/tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_client::{
    BlockBuf, BlockResult, Chain, Client, ClientConfig, GetOptions, MissReason, NotStoredReason, PutBlock,
    PutOptions, PutResult,
};
use hearth_fabric::{BlockStatus, serve_tcp};
use hearth_proto::limits::{BLOCK_BYTES_MAX, DEADLINE_GRACE_MS};
use hearth_proto::v1::directory_server::{Directory, DirectoryServer};
use hearth_proto::{AckLevel, BlockKey, ClusterId, Incarnation, NodeId, v1};
use support::{CLUSTER, Fault, INCARNATION, MemoryService, key, payload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

const LEN: usize = 64 << 10;
/// What the deadline's grace is given on top, on a machine that others use too.
const SCHEDULING: Duration = Duration::from_millis(450);

/// A block service in this process.
struct Node {
    id: u64,
    address: String,
    service: Arc<MemoryService>,
}

impl Node {
    async fn start(id: u64) -> Self {
        let service = Arc::new(MemoryService::default());
        service.info(|info| info.node_id = NodeId(id));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        tokio::spawn(serve_tcp(listener, service.clone(), CancellationToken::new()));
        Self { id, address, service }
    }

    fn listed(&self, control: &str) -> v1::Node {
        v1::Node {
            node_id: self.id,
            incarnation: INCARNATION.0,
            state: v1::NodeState::Up.into(),
            control_address: control.to_owned(),
            data_address: self.address.clone(),
            ..v1::Node::default()
        }
    }

    fn replica(&self, incarnation: Incarnation) -> v1::Replica {
        v1::Replica { node_id: self.id, incarnation: incarnation.0, tier: v1::Tier::Host.into() }
    }

    fn holds(&self, count: u32) -> usize {
        (0..count).filter(|n| self.service.holds(key(*n))).count()
    }
}

/// A router that says what a test wants it to say.
#[derive(Clone)]
struct Router(Arc<Answers>);

struct Answers {
    cluster: ClusterId,
    nodes: Mutex<Vec<v1::Node>>,
    /// Of every block alike.
    replicas: Mutex<Vec<v1::Replica>>,
    silent: AtomicBool,
}

#[tonic::async_trait]
impl Directory for Router {
    async fn lookup(
        &self,
        request: Request<v1::LookupRequest>,
    ) -> Result<Response<v1::LookupResponse>, Status> {
        if self.0.silent.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        let replicas = self.0.replicas.lock().expect("no test panics under a lock").clone();
        let block = v1::BlockReplicas { replicas };
        Ok(Response::new(v1::LookupResponse {
            blocks: vec![block; request.into_inner().keys.len()],
            node_id: 1,
            nodes: self.0.nodes.lock().expect("no test panics under a lock").clone(),
            cluster_id: self.0.cluster.0.to_vec().into(),
            ..v1::LookupResponse::default()
        }))
    }

    async fn nodes(&self, _: Request<v1::NodesRequest>) -> Result<Response<v1::NodesResponse>, Status> {
        Ok(Response::new(v1::NodesResponse {
            cluster_id: self.0.cluster.0.to_vec().into(),
            nodes: self.0.nodes.lock().expect("no test panics under a lock").clone(),
            node_id: 1,
            ..v1::NodesResponse::default()
        }))
    }
}

impl Router {
    /// Serves as node 1's control services; returns their address.
    async fn start(cluster: ClusterId) -> (Self, String) {
        let (nodes, replicas, silent) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        let router = Self(Arc::new(Answers { cluster, nodes, replicas, silent }));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let server = tonic::transport::Server::builder().add_service(DirectoryServer::new(router.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        (router, address)
    }

    fn lists(&self, nodes: Vec<v1::Node>) {
        *self.0.nodes.lock().expect("no test panics under a lock") = nodes;
    }

    fn locates(&self, replicas: Vec<v1::Replica>) {
        *self.0.replicas.lock().expect("no test panics under a lock") = replicas;
    }
}

/// Two nodes, the first of them the client's own.
async fn two_nodes() -> (Node, Node, Router, Client) {
    let (near, far) = (Node::start(1).await, Node::start(2).await);
    let (router, address) = Router::start(CLUSTER).await;
    router.lists(vec![near.listed(&address), far.listed("127.0.0.1:1")]);
    let config = ClientConfig { cluster: Some(CLUSTER), ..ClientConfig::new([address]) };
    let client = Client::connect(config).await.expect("the router answers");
    (near, far, router, client)
}

fn keys(count: u32) -> Vec<BlockKey> {
    (0..count).map(key).collect()
}

fn chain(count: u32) -> Chain {
    Chain::from_keys(keys(count)).expect("the count is within the limits")
}

fn blocks(count: u32) -> Vec<PutBlock> {
    (0..count).map(|n| PutBlock::new(n as usize, payload(n, LEN))).collect()
}

fn within(patience: Duration) -> PutOptions {
    PutOptions { ack: AckLevel::Durable, patience: Some(patience) }
}

fn stored_on(result: &PutResult, wanted: u64) -> bool {
    matches!(result, PutResult::Stored { node, .. } if node.0 == wanted)
}

#[tokio::test]
async fn a_put_stays_with_a_node_for_as_long_as_acknowledgements_arrive() {
    let (near, far, _router, client) = two_nodes().await;
    let (gate, count) = (Arc::new(Semaphore::new(0)), 12);
    keys(count).into_iter().for_each(|key| near.service.fault(key, Fault::Waits(gate.clone())));
    // 2.4 seconds in all: longer than half of the time, and never half of it without a word.
    let opens = gate.clone();
    tokio::spawn(async move {
        for _ in 0..count {
            tokio::time::sleep(Duration::from_millis(200)).await;
            opens.add_permits(1);
        }
    });
    let (started, mut told) = (Instant::now(), Vec::new());
    client
        .put_each(&chain(count), &blocks(count), within(Duration::from_secs(4)), |position, result| {
            told.push((position, result, started.elapsed()));
        })
        .await
        .expect("the request is well formed");
    assert!(told.iter().all(|(_, result, _)| stored_on(result, 1)), "{told:?}");
    assert_eq!((near.holds(count), far.holds(count)), (count as usize, 0), "nothing is stored twice");
    let mut positions: Vec<usize> = told.iter().map(|(position, ..)| *position).collect();
    positions.sort_unstable();
    assert_eq!(positions, (0..count as usize).collect::<Vec<_>>(), "each block is told once");
    assert!(told[0].2 < started.elapsed() / 2, "a block is told when it is stored: {told:?}");
}

#[tokio::test]
async fn a_node_without_a_word_costs_its_share_and_the_next_one_stores() {
    let (near, far, _router, client) = two_nodes().await;
    let never = Arc::new(Semaphore::new(0));
    keys(8).into_iter().for_each(|key| near.service.fault(key, Fault::Waits(never.clone())));
    let (started, patience) = (Instant::now(), Duration::from_secs(2));
    let results = client.put(&chain(8), &blocks(8), within(patience)).await.expect("well formed");
    assert!(results.iter().all(|result| stored_on(result, 2)), "{results:?}");
    assert!(started.elapsed() < patience, "{:?}", started.elapsed());
    assert_eq!(far.holds(8), 8);
}

#[tokio::test]
async fn what_a_node_refuses_goes_to_the_next_one() {
    let (near, far, _router, client) = two_nodes().await;
    for n in [2, 5] {
        near.service.fault(key(n), Fault::Fails(BlockStatus::Full));
    }
    let results =
        client.put(&chain(8), &blocks(8), within(Duration::from_secs(5))).await.expect("well formed");
    assert!((0..8).all(|n| stored_on(&results[n], if n == 2 || n == 5 { 2 } else { 1 })), "{results:?}");
    assert_eq!((near.holds(8), far.holds(8)), (6, 2));
}

#[tokio::test]
async fn a_put_without_time_is_unknown_and_takes_the_node_from_nobody() {
    let (near, _far, _router, client) = two_nodes().await;
    for _ in 0..5 {
        let options = within(Duration::ZERO);
        let results = client.put(&chain(8), &blocks(8), options).await.expect("well formed");
        assert!(results.iter().all(|r| matches!(r, PutResult::NotStored(_))), "{results:?}");
    }
    let results =
        client.put(&chain(8), &blocks(8), within(Duration::from_secs(5))).await.expect("well formed");
    assert!(results.iter().all(|result| stored_on(result, 1)), "no breaker is open: {results:?}");
    assert_eq!(near.holds(8), 8);
}

#[tokio::test]
async fn a_put_too_large_for_its_time_ends_in_time() {
    let (near, far, _router, client) = two_nodes().await;
    // Checksums alone of all that would take many seconds.
    let payload = Bytes::from(vec![7; BLOCK_BYTES_MAX]);
    let blocks: Vec<_> = (0..1_000).map(|n| PutBlock::new(n, payload.clone())).collect();
    let (started, patience) = (Instant::now(), Duration::from_millis(200));
    let results = client.put(&chain(1_000), &blocks, within(patience)).await.expect("well formed");
    let elapsed = started.elapsed();
    assert!(elapsed < patience + Duration::from_millis(DEADLINE_GRACE_MS) + SCHEDULING, "{elapsed:?}");
    assert!(results.iter().all(|r| *r == PutResult::NotStored(NotStoredReason::Unknown)), "{results:?}");
    assert_eq!((near.holds(1_000), far.holds(1_000)), (0, 0));
}

/// Passes a connection on, and cuts it when the node has sent `limit` bytes.
async fn cut_after(limit: usize, node: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(node) = TcpStream::connect(&node).await else { return };
            let ((mut from_client, mut to_client), (from_node, mut to_node)) =
                (client.into_split(), node.into_split());
            let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_node).await });
            let mut answer = from_node.take(limit as u64);
            // Either end may be gone by then: the connection is to be cut anyway.
            let _ = tokio::io::copy(&mut answer, &mut to_client).await;
            let _ = to_client.shutdown().await;
            up.abort();
        }
    });
    address
}

#[tokio::test]
async fn a_buffer_lost_with_its_connection_is_replaced_for_the_next_copy() {
    let (near, far, router, client) = two_nodes().await;
    let content: Bytes = payload(0, LEN);
    near.service.store(key(0), content.clone());
    far.service.store(key(0), content.clone());
    // The connection ends in the middle of the payload, when it owns the caller's buffer.
    let through = cut_after(LEN / 2, near.address.clone()).await;
    let cut =
        v1::Node { data_address: through, incarnation: INCARNATION.0 + 1, ..near.listed("127.0.0.1:1") };
    router.lists(vec![cut, far.listed("127.0.0.1:1")]);
    router.locates(vec![near.replica(INCARNATION), far.replica(INCARNATION)]);
    let lookup = client.lookup(&chain(1), Some(Duration::from_secs(2))).await;
    let mut results = Vec::new();
    client
        .get(
            &lookup,
            vec![(0, BlockBuf::with_capacity(LEN))],
            GetOptions::within(Duration::from_secs(5)),
            |_, result| {
                results.push(result);
            },
        )
        .await
        .expect("the request is well formed");
    match &results[..] {
        [BlockResult::Hit(hit)] => {
            assert_eq!(hit.node, NodeId(2));
            assert_eq!(hit.buffer.as_slice(), &content[..]);
        }
        other => panic!("the second copy must serve it: {other:?}"),
    }
}

#[tokio::test]
async fn a_second_lookup_without_an_answer_costs_no_known_copy() {
    let (near, far, router, client) = two_nodes().await;
    far.service.store(key(0), payload(0, LEN));
    far.service.store(key(1), payload(1, LEN));
    near.service.store(key(1), payload(1, LEN));
    // The first location is from before the node registered anew.
    router.locates(vec![near.replica(Incarnation(INCARNATION.0 - 1)), far.replica(INCARNATION)]);
    let lookup = client.lookup(&chain(2), Some(Duration::from_secs(2))).await;
    assert_eq!(lookup.held_prefix(), 2);
    router.0.silent.store(true, Ordering::SeqCst);
    let (started, patience) = (Instant::now(), Duration::from_secs(3));
    let (wanted, mut from) =
        ((0..2).map(|index| (index, BlockBuf::with_capacity(LEN))).collect(), Vec::new());
    client
        .get(&lookup, wanted, GetOptions::within(patience), |index, result| match result {
            BlockResult::Hit(hit) => from.push((index, hit.node)),
            BlockResult::Miss { reason, .. } => panic!("block {index} is held elsewhere: {reason:?}"),
        })
        .await
        .expect("the request is well formed");
    from.sort_unstable();
    assert_eq!(from, [(0, NodeId(2)), (1, NodeId(2))]);
    assert!(started.elapsed() < patience, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_node_that_registered_anew_is_asked_under_its_new_incarnation() {
    let (near, _far, router, client) = two_nodes().await;
    near.service.store(key(0), payload(0, LEN));
    router.locates(vec![near.replica(Incarnation(INCARNATION.0 - 1))]);
    let lookup = client.lookup(&chain(1), Some(Duration::from_secs(2))).await;
    router.locates(vec![near.replica(INCARNATION)]);
    let mut results = Vec::new();
    client
        .get(
            &lookup,
            vec![(0, BlockBuf::with_capacity(LEN))],
            GetOptions::within(Duration::from_secs(5)),
            |_, result| {
                results.push(result);
            },
        )
        .await
        .expect("the request is well formed");
    assert!(matches!(&results[..], [BlockResult::Hit(hit)] if hit.node == NodeId(1)), "{results:?}");
}

#[tokio::test]
async fn a_router_of_another_cluster_is_believed_nothing() {
    let stranger = Node::start(1).await;
    let (router, address) = Router::start(ClusterId([9; 16])).await;
    router.lists(vec![stranger.listed(&address)]);
    router.locates(vec![stranger.replica(INCARNATION)]);
    let config = ClientConfig { cluster: Some(CLUSTER), ..ClientConfig::new([address]) };
    let client = Client::new(config).expect("an address");
    let lookup = client.lookup(&chain(1), Some(Duration::from_secs(2))).await;
    assert_eq!((lookup.source(), lookup.held_prefix()), (None, 0));
    let mut reasons = Vec::new();
    client
        .get(&lookup, vec![(0, BlockBuf::with_capacity(LEN))], GetOptions::default(), |_, result| {
            if let BlockResult::Miss { reason, .. } = result {
                reasons.push(reason);
            }
        })
        .await
        .expect("the request is well formed");
    assert_eq!(reasons, [MissReason::NotStored]);
    let results =
        client.put(&chain(1), &blocks(1), within(Duration::from_secs(1))).await.expect("well formed");
    assert_eq!(results, [PutResult::NotStored(NotStoredReason::Unreachable)]);
    assert_eq!(stranger.holds(1), 0);
}
