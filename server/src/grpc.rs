//! The Directory and Admin services: what routers, clients and operators ask of this node.

use std::time::Instant;

use hearth_cluster::Cluster;
use hearth_proto::limits::CHAIN_BLOCKS_MAX;
use hearth_proto::v1::admin_server::Admin;
use hearth_proto::v1::directory_server::Directory;
use hearth_proto::{BlockId, BlockKey, DirectoryGroups, GroupId, LogIndex, NamespaceId, v1};
use hearth_store::Store;
use rustc_hash::{FxHashMap, FxHashSet};
use tonic::{Request, Response, Status};

use crate::announce::Announced;
use crate::identity::Member;
use crate::{calls, freshness};

/// Answers from the local directory and the local store; makes no call to another node, unless a lookup asks
/// for more than what this node has.
#[derive(Clone)]
pub(crate) struct GrpcService {
    pub(crate) cluster: Cluster,
    pub(crate) store: Store,
    pub(crate) announced: Announced,
    pub(crate) member: Member,
    pub(crate) started: Instant,
}

#[tonic::async_trait]
impl Directory for GrpcService {
    async fn lookup(
        &self,
        request: Request<v1::LookupRequest>,
    ) -> Result<Response<v1::LookupResponse>, Status> {
        let deadline = calls::deadline_of(request.metadata());
        let request = request.into_inner();
        let keys = keys_of(&request)?;
        let freshness = freshness::freshness_of(request.freshness)?;
        let namespace = NamespaceId::DEFAULT;
        let answer = self.cluster.lookup_fresh(namespace, &keys, &freshness, deadline).await;
        let answer = answer.map_err(|error| freshness::status_of(&error))?;
        let announced = self.announced.find(namespace, &keys);
        let mut nodes = self.cluster.nodes();
        let serving: FxHashMap<u64, u64> =
            nodes.iter().filter(|n| is_serving(n)).map(|n| (n.node_id, n.incarnation)).collect();
        let mut named = FxHashSet::default();
        let blocks = keys
            .iter()
            .zip(answer.replicas.iter())
            .zip(announced)
            .map(|((&key, claimed), early)| {
                let mut replicas = self.own_replicas(BlockId { namespace, key });
                // What a node announced is in its arena; the directory may not have it yet.
                let early = early.filter(|claim| {
                    claim.node != self.member.node_id
                        && serving.get(&claim.node.0) == Some(&claim.incarnation.0)
                        && !claimed.iter().any(|r| r.node == claim.node)
                });
                replicas.extend(early.map(|claim| v1::Replica {
                    node_id: claim.node.0,
                    incarnation: claim.incarnation.0,
                    tier: v1::Tier::Host.into(),
                }));
                let elsewhere = claimed.iter().filter(|r| r.node != self.member.node_id);
                replicas.extend(elsewhere.map(|r| v1::Replica {
                    node_id: r.node.0,
                    incarnation: r.incarnation.0,
                    tier: i32::from(r.tier as u8),
                }));
                named.extend(replicas.iter().map(|r| r.node_id));
                v1::BlockReplicas { replicas }
            })
            .collect();
        nodes.retain(|node| named.contains(&node.node_id));
        let applied: Vec<_> = answer.applied.iter().map(group_index).collect();
        Ok(Response::new(v1::LookupResponse {
            blocks,
            applied_index: match applied.as_slice() {
                [only] if self.member.directory_groups == DirectoryGroups::ONE => only.index,
                _ => 0,
            },
            applied,
            staleness_ms: answer.staleness.map_or(u64::MAX, |staleness| staleness.as_millis() as u64),
            node_id: self.member.node_id.0,
            nodes,
            cluster_id: self.member.cluster_id.0.to_vec().into(),
        }))
    }

    async fn nodes(&self, _: Request<v1::NodesRequest>) -> Result<Response<v1::NodesResponse>, Status> {
        Ok(Response::new(v1::NodesResponse {
            cluster_id: self.member.cluster_id.0.to_vec().into(),
            nodes: self.cluster.nodes(),
            applied_index: self.control_applied(),
            node_id: self.member.node_id.0,
        }))
    }
}

fn group_index((group, index): &(GroupId, LogIndex)) -> v1::GroupIndex {
    v1::GroupIndex { group_id: group.0, index: index.0 }
}

impl GrpcService {
    /// What this node itself holds: newer than anything the directory says of it.
    fn own_replicas(&self, id: BlockId) -> Vec<v1::Replica> {
        // Zero asks for no check of the incarnation: a node that has not found its cluster yet, or lost
        // it, still has its blocks.
        let incarnation = self.cluster.incarnation().unwrap_or_default();
        let tiers = self.store.contains(&id);
        let held = [(tiers.host, v1::Tier::Host), (tiers.nvme, v1::Tier::Nvme)];
        held.into_iter()
            .filter(|(holds, _)| *holds)
            .map(|(_, tier)| v1::Replica {
                node_id: self.member.node_id.0,
                incarnation: incarnation.0,
                tier: tier.into(),
            })
            .collect()
    }

    fn control_applied(&self) -> u64 {
        self.cluster.groups().iter().find(|g| g.group_id == 0).map_or(0, |g| g.applied_index)
    }
}

fn is_serving(node: &v1::Node) -> bool {
    matches!(node.state(), v1::NodeState::Up | v1::NodeState::Draining)
}

/// Checks a request's keys: bytes from a peer are parsed and refused, never trusted.
fn keys_of(request: &v1::LookupRequest) -> Result<Vec<BlockKey>, Status> {
    let count = request.keys.len();
    if !(1..=CHAIN_BLOCKS_MAX).contains(&count) {
        return Err(Status::invalid_argument(format!(
            "a lookup names 1 to {CHAIN_BLOCKS_MAX} blocks, and this one names {count}; split the chain"
        )));
    }
    request
        .keys
        .iter()
        .map(|key| BlockKey::try_from(&key[..]).map_err(|e| Status::invalid_argument(e.to_string())))
        .collect()
}

#[tonic::async_trait]
impl Admin for GrpcService {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let nodes = self.cluster.nodes();
        let s = self.store.stats();
        Ok(Response::new(v1::StatusResponse {
            cluster_id: self.member.cluster_id.0.to_vec().into(),
            node: nodes.into_iter().find(|node| node.node_id == self.member.node_id.0),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            groups: self.cluster.groups(),
            store: Some(v1::StoreStatus {
                host_capacity_bytes: s.host_capacity_bytes,
                host_used_bytes: s.host_used_bytes,
                host_blocks: s.host_blocks,
                nvme_capacity_bytes: s.nvme_capacity_bytes,
                nvme_used_bytes: s.nvme_used_bytes,
                nvme_blocks: s.nvme_blocks,
                gets_host: s.gets_host,
                gets_nvme: s.gets_nvme,
                gets_missed: s.gets_missed,
                puts: s.puts,
                put_bytes: s.put_bytes,
                evicted_host: s.evicted_host,
                evicted_nvme: s.evicted_nvme,
                corrupt_blocks: s.corrupt_blocks,
                io_errors: s.io_errors,
                pending_writes: s.pending_writes,
                fenced_extents: s.fenced_extents,
            }),
        }))
    }
}
