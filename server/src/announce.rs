//! Tells the other nodes of new blocks at once, so that whoever is told "stored" can be sure that the
//! others find the block, without waiting for the directory's log.
//!
//! One round trip to all nodes serves every block that came meanwhile. A node that does not answer is
//! left out for a while: it must never slow a put down (INV-HARMLESS), and learns from the directory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hearth_cluster::Cluster;
use hearth_proto::limits::{
    ANNOUNCE_BLOCKS_MAX, ANNOUNCE_NODES_MAX, ANNOUNCE_PAUSE_MS, ANNOUNCE_QUEUE_MAX, ANNOUNCE_WAIT_MS,
};
use hearth_proto::v1::announce_client::AnnounceClient;
use hearth_proto::v1::announce_server::Announce;
use hearth_proto::{BlockId, BlockKey, Incarnation, NamespaceId, NodeId, v1};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::early_claims::{EarlyClaim, EarlyClaims};
use crate::identity::Member;

const BLOCK_BYTES: usize = 36;
const WAIT: Duration = Duration::from_millis(ANNOUNCE_WAIT_MS);
const PAUSE: Duration = Duration::from_millis(ANNOUNCE_PAUSE_MS);

struct News {
    id: BlockId,
    told: oneshot::Sender<()>,
}

/// Where new blocks are handed in.
#[derive(Clone)]
pub(crate) struct Announcer(mpsc::Sender<News>);

impl Announcer {
    /// The handle, and the work behind it, which ends when `stop` fires.
    pub(crate) fn new(
        cluster: Cluster,
        member: Member,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (sender, news) = mpsc::channel(ANNOUNCE_QUEUE_MAX);
        let rounds = Rounds { cluster, member, peers: HashMap::new() };
        let work = async move { stop.run_until_cancelled(rounds.run(news)).await.unwrap_or_default() };
        (Self(sender), work)
    }

    /// Returns when the other nodes have heard of the block, or soon if they do not answer.
    pub(crate) async fn announce(&self, id: BlockId) {
        let (told, heard) = oneshot::channel();
        if self.0.try_send(News { id, told }).is_ok() {
            // The directory tells those who were not told in time.
            let _ = tokio::time::timeout(WAIT, heard).await;
        }
    }
}

/// One other node, at one address.
struct Peer {
    address: String,
    channel: Channel,
    left_out_until: Option<Instant>,
}

struct Rounds {
    cluster: Cluster,
    member: Member,
    peers: HashMap<u64, Peer>,
}

impl Rounds {
    async fn run(mut self, mut news: mpsc::Receiver<News>) {
        let mut batch = Vec::new();
        while news.recv_many(&mut batch, ANNOUNCE_BLOCKS_MAX).await > 0 {
            self.tell(&batch).await;
            // Whoever no longer waits needs no answer.
            for news in batch.drain(..) {
                let _ = news.told.send(());
            }
        }
    }

    async fn tell(&mut self, batch: &[News]) {
        let Some(incarnation) = self.cluster.incarnation() else { return };
        self.meet_peers();
        let mut blocks = Vec::with_capacity(batch.len() * BLOCK_BYTES);
        for news in batch {
            blocks.extend_from_slice(&news.id.namespace.0.to_le_bytes());
            blocks.extend_from_slice(&news.id.key.0);
        }
        let request = v1::AnnounceRequest {
            cluster_id: self.member.cluster_id.0.to_vec().into(),
            node_id: self.member.node_id.0,
            incarnation: incarnation.0,
            blocks: blocks.into(),
        };
        let now = Instant::now();
        let calls =
            self.peers.values_mut().filter(|peer| peer.left_out_until.is_none_or(|until| until <= now));
        join_all(calls.map(|peer| peer.tell(request.clone()))).await;
    }

    /// The nodes that are up now; a changed address means a new connection.
    fn meet_peers(&mut self) {
        let mut nodes = self.cluster.nodes();
        nodes.retain(|node| node.node_id != self.member.node_id.0 && node.state() == v1::NodeState::Up);
        if nodes.len() >= ANNOUNCE_NODES_MAX {
            self.peers.clear();
            return;
        }
        self.peers.retain(|id, peer| {
            nodes.iter().any(|node| node.node_id == *id && node.control_address == peer.address)
        });
        for node in nodes {
            if !self.peers.contains_key(&node.node_id)
                && let Some(peer) = Peer::new(node.control_address)
            {
                self.peers.insert(node.node_id, peer);
            }
        }
    }
}

impl Peer {
    fn new(address: String) -> Option<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let channel = endpoint
            .connect_timeout(PAUSE)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(3))
            .connect_lazy();
        Some(Self { address, channel, left_out_until: None })
    }

    async fn tell(&mut self, request: v1::AnnounceRequest) {
        let mut service = AnnounceClient::new(self.channel.clone());
        let told = matches!(tokio::time::timeout(WAIT, service.blocks(request)).await, Ok(Ok(_)));
        self.left_out_until = (!told).then(|| Instant::now() + PAUSE);
    }
}

/// The receiving end: what other nodes announced, for lookups to use.
#[derive(Clone)]
pub(crate) struct Announced {
    member: Member,
    claims: Arc<Mutex<EarlyClaims>>,
}

impl Announced {
    pub(crate) fn new(member: Member) -> Self {
        Self { member, claims: Arc::default() }
    }

    /// The latest claims on some blocks, in their order.
    pub(crate) fn find(&self, namespace: NamespaceId, keys: &[BlockKey]) -> Vec<Option<EarlyClaim>> {
        let now = Instant::now();
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().map(|&key| claims.find(now, &BlockId { namespace, key })).collect()
    }
}

#[tonic::async_trait]
impl Announce for Announced {
    async fn blocks(
        &self,
        request: Request<v1::AnnounceRequest>,
    ) -> Result<Response<v1::AnnounceResponse>, Status> {
        let request = request.into_inner();
        if request.cluster_id[..] != self.member.cluster_id.0 {
            return Err(Status::failed_precondition("this node belongs to another cluster"));
        }
        let (blocks, rest) = request.blocks.as_chunks::<BLOCK_BYTES>();
        if !rest.is_empty() || !(1..=ANNOUNCE_BLOCKS_MAX).contains(&blocks.len()) {
            return Err(Status::invalid_argument(format!(
                "an announcement has 1 to {ANNOUNCE_BLOCKS_MAX} blocks of {BLOCK_BYTES} bytes"
            )));
        }
        let claim =
            EarlyClaim { node: NodeId(request.node_id), incarnation: Incarnation(request.incarnation) };
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.insert(Instant::now(), claim, blocks.iter().map(block_of));
        Ok(Response::new(v1::AnnounceResponse {}))
    }
}

fn block_of(bytes: &[u8; BLOCK_BYTES]) -> BlockId {
    let (namespace, key) = bytes.split_at(4);
    BlockId {
        namespace: NamespaceId(u32::from_le_bytes(namespace.try_into().expect("4 of 36 bytes"))),
        key: BlockKey(key.try_into().expect("32 of 36 bytes")),
    }
}
