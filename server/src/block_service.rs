//! The store as the fabric's block service: statuses instead of errors, nothing else.

use std::sync::Arc;
use std::time::Instant;

use hearth_cluster::Cluster;
use hearth_fabric::{BlockService, BlockStatus, GetHit, GetRequest, PeerInfo, PutAck, PutRequest, TierBits};
use hearth_proto::limits::BLOCK_BYTES_MAX;
use hearth_proto::{AckLevel, BlockId, BlockKey, Incarnation, NamespaceId, Retention, Tier};
use hearth_store::{
    GetError, GetOutcome, Lease, MissReason, PutError, PutMeta, ReserveError, SlotMut, Store,
};

use crate::announce::Announcer;
use crate::identity::Member;
use crate::repair::NewBlocks;

/// One node's blocks, as the data plane serves them.
pub(crate) struct StoreService {
    pub(crate) store: Store,
    pub(crate) cluster: Cluster,
    pub(crate) announcer: Announcer,
    pub(crate) member: Member,
    pub(crate) news: Arc<NewBlocks>,
}

impl BlockService for StoreService {
    type Lease = Lease;
    type Slot = SlotMut;

    fn hello(&self) -> PeerInfo {
        PeerInfo {
            node_id: self.member.node_id,
            incarnation: self.cluster.incarnation().unwrap_or(Incarnation(0)),
            cluster_id: self.member.cluster_id,
            block_bytes_max: BLOCK_BYTES_MAX,
        }
    }

    async fn get(
        &self,
        namespace: NamespaceId,
        request: GetRequest,
        deadline: Instant,
    ) -> Result<GetHit<Lease>, BlockStatus> {
        let id = BlockId { namespace, key: request.key };
        match self.store.get_with(&id, request.urgency, deadline).await {
            Ok(GetOutcome::Hit(lease)) => {
                Ok(GetHit { tier: lease.tier(), generation: lease.generation(), crc32: lease.crc32(), lease })
            }
            Ok(GetOutcome::Miss(MissReason::Corrupt)) => Err(BlockStatus::Corrupt),
            Ok(GetOutcome::Miss(MissReason::Unreadable)) => Err(BlockStatus::IoError),
            Ok(GetOutcome::Miss(_)) => Err(BlockStatus::Miss),
            Err(GetError::Deadline) => Err(BlockStatus::DeadlineExceeded),
            Err(_) => Err(BlockStatus::ShuttingDown),
        }
    }

    async fn reserve(&self, _: NamespaceId, len: usize, deadline: Instant) -> Result<SlotMut, BlockStatus> {
        self.store.reserve(len, deadline).await.map_err(|error| match error {
            ReserveError::TooLarge { .. } => BlockStatus::TooLarge,
            ReserveError::Empty => BlockStatus::BadRequest,
            ReserveError::Deadline => BlockStatus::Full,
            _ => BlockStatus::ShuttingDown,
        })
    }

    async fn put(
        &self,
        namespace: NamespaceId,
        request: PutRequest,
        slot: SlotMut,
        deadline: Instant,
    ) -> Result<PutAck, BlockStatus> {
        let id = BlockId { namespace, key: request.key };
        // A copy has what the node has that gives it; what nobody said is the namespace's to say.
        let retention = match request.retention {
            said if request.is_copy || said != Retention::default() => said,
            _ => self.cluster.default_retention(namespace),
        };
        let meta = PutMeta { crc32: request.crc32, retention, depth: request.depth };
        if request.is_copy {
            return self.keep_copy(id, slot, meta, request.ack, deadline).await;
        }
        match self.store.put(id, slot, meta, request.ack, deadline).await {
            Ok(outcome) => {
                if !outcome.existed {
                    self.announcer.announce(id).await;
                }
                Ok(PutAck { generation: outcome.generation, existed: outcome.existed })
            }
            Err(error) => Err(put_status(&error)),
        }
    }

    fn contains(&self, namespace: NamespaceId, key: BlockKey) -> TierBits {
        let tiers = self.store.contains(&BlockId { namespace, key });
        [(tiers.host, Tier::Host), (tiers.nvme, Tier::Nvme)]
            .into_iter()
            .filter(|(held, _)| *held)
            .fold(TierBits::NONE, |bits, (_, tier)| bits.with(tier))
    }

    async fn remove(&self, namespace: NamespaceId, key: BlockKey) -> BlockStatus {
        if self.store.remove(&BlockId { namespace, key }).await { BlockStatus::Ok } else { BlockStatus::Miss }
    }
}

impl StoreService {
    /// Keeps a copy that another node gives. It is nobody's news, is not copied on, and leaves memory to what
    /// engines read here.
    async fn keep_copy(
        &self,
        id: BlockId,
        slot: SlotMut,
        meta: PutMeta,
        ack: AckLevel,
        deadline: Instant,
    ) -> Result<PutAck, BlockStatus> {
        self.news.arrives(id);
        let put = self.store.put(id, slot, meta, ack, deadline).await;
        if !put.as_ref().is_ok_and(|outcome| !outcome.existed) {
            self.news.arrived_not(&id);
        } else if ack == AckLevel::Durable {
            self.store.leave_arena(&id);
        }
        match put {
            Ok(outcome) => Ok(PutAck { generation: outcome.generation, existed: outcome.existed }),
            Err(error) => Err(put_status(&error)),
        }
    }
}

fn put_status(error: &PutError) -> BlockStatus {
    match error {
        PutError::ChecksumMismatch { .. } => BlockStatus::Corrupt,
        PutError::Overloaded => BlockStatus::Overloaded,
        PutError::UnknownDurability => BlockStatus::DeadlineExceeded,
        PutError::NotDurable => BlockStatus::IoError,
        PutError::Closed => BlockStatus::ShuttingDown,
        _ => BlockStatus::BadRequest,
    }
}
