//! What callers ask of a simulated node: the services of a `hearthd` over its metadata alone. Each of them does
//! what the server does, and nothing besides; a node has no store here.

use std::time::{Duration, Instant};

use hearth_cluster::{ClaimState, Cluster, Freshness, Grant, WatchEnd};
use hearth_proto::v1::claims_server::{Claims, ClaimsServer};
use hearth_proto::v1::directory_server::{Directory, DirectoryServer};
use hearth_proto::v1::retention_server::{Retention as RetentionRpc, RetentionServer};
use hearth_proto::{BlockKey, GroupId, LogIndex, NamespaceId, Priority, Retention, v1};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use v1::claim_response::Result as Claimed;
use v1::renew_response::Result as Renewed;
use v1::watch_response::Result as Watched;

use crate::invariants::OnTime;

/// How long a node may take to answer. Whoever asked waits a little longer.
pub(crate) const DEADLINE: Duration = Duration::from_millis(300);
/// Callers have no identity of their own yet.
const NAMESPACE: NamespaceId = NamespaceId::DEFAULT;

/// The doors of one node.
#[derive(Clone, Debug)]
pub(crate) struct Doors(Cluster);

impl Doors {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self(cluster)
    }

    pub(crate) fn add_to(self, routes: Routes) -> Routes {
        routes
            .add_service(DirectoryServer::new(self.clone()))
            .add_service(ClaimsServer::new(self.clone()))
            .add_service(RetentionServer::new(self))
    }

    /// A call that came now, and when it has to be answered.
    fn call(&self, what: &'static str) -> (OnTime, Instant) {
        (OnTime::new(self.0.node_id(), what, DEADLINE), Instant::now() + DEADLINE)
    }
}

#[tonic::async_trait]
impl Directory for Doors {
    async fn lookup(
        &self,
        request: Request<v1::LookupRequest>,
    ) -> Result<Response<v1::LookupResponse>, Status> {
        let (_on_time, deadline) = self.call("a lookup");
        let request = request.into_inner();
        let keys = keys_of(&request.keys)?;
        let freshness = Freshness::from_wire(request.freshness).ok_or_else(unreadable)?;
        let answer = self.0.lookup_fresh(NAMESPACE, &keys, &freshness, deadline).await;
        let answer = answer.map_err(|error| Status::aborted(error.to_string()))?;
        let index =
            |(group, index): &(GroupId, LogIndex)| v1::GroupIndex { group_id: group.0, index: index.0 };
        let applied = answer.applied.iter().map(index).collect();
        let blocks = answer.replicas.iter().map(|found| v1::BlockReplicas {
            replicas: found
                .iter()
                .map(|replica| v1::Replica {
                    node_id: replica.node.0,
                    incarnation: replica.incarnation.0,
                    tier: i32::from(replica.tier as u8),
                })
                .collect(),
        });
        Ok(Response::new(v1::LookupResponse {
            blocks: blocks.collect(),
            applied,
            node_id: self.0.node_id().0,
            ..Default::default()
        }))
    }

    async fn nodes(&self, _: Request<v1::NodesRequest>) -> Result<Response<v1::NodesResponse>, Status> {
        Ok(Response::new(v1::NodesResponse { nodes: self.0.nodes(), ..Default::default() }))
    }
}

#[tonic::async_trait]
impl Claims for Doors {
    /// Names one block: which one of a chain is missing is the server's to find out.
    async fn claim(&self, request: Request<v1::ClaimRequest>) -> Result<Response<v1::ClaimResponse>, Status> {
        let (_on_time, deadline) = self.call("a claim");
        let request = request.into_inner();
        let keys = keys_of(&request.keys)?;
        let key = *keys.first().ok_or_else(unreadable)?;
        let answer = self.0.claim(NAMESPACE, key, request.claimant, request.ttl_ms, deadline).await;
        let answer = answer.map_err(status)?;
        let result = match answer.state {
            ClaimState::Granted(grant) => Some(Claimed::Granted(granted(grant))),
            ClaimState::Held { claimant, expires_at_ms } => {
                Some(Claimed::Held(v1::ClaimHeld { claimant, expires_at_ms }))
            }
            ClaimState::Present => None,
        };
        Ok(Response::new(v1::ClaimResponse {
            present_blocks: u32::from(result.is_none()),
            result,
            group_id: answer.group.0,
            log_index: answer.log_index.0,
        }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let (_on_time, deadline) = self.call("a renewal");
        let v1::RenewRequest { key, token, ttl_ms } = request.into_inner();
        let renewed = self.0.renew_claim(NAMESPACE, key_of(&key)?, token, ttl_ms, deadline).await;
        let result = match renewed.map_err(status)? {
            Some(grant) => Renewed::Granted(granted(grant)),
            None => Renewed::Gone(v1::ClaimGone {}),
        };
        Ok(Response::new(v1::RenewResponse { result: Some(result) }))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let (_on_time, deadline) = self.call("a release");
        let v1::ReleaseRequest { key, token } = request.into_inner();
        let released = self.0.release_claim(NAMESPACE, key_of(&key)?, token, deadline).await;
        Ok(Response::new(v1::ReleaseResponse { released: released.map_err(status)? }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<v1::WatchResponse>, Status> {
        let (_on_time, deadline) = self.call("a watch");
        let key = key_of(&request.get_ref().key)?;
        let end = self.0.watch_claim(NAMESPACE, key, deadline, || false).await;
        let result = match end.map_err(status)? {
            WatchEnd::Present => Watched::Present(v1::BlockPresent {}),
            WatchEnd::Free => Watched::Free(v1::ClaimGone {}),
            WatchEnd::Held { claimant, expires_at_ms } => {
                Watched::Held(v1::ClaimHeld { claimant, expires_at_ms })
            }
        };
        Ok(Response::new(v1::WatchResponse { result: Some(result) }))
    }
}

#[tonic::async_trait]
impl RetentionRpc for Doors {
    async fn pin(&self, request: Request<v1::PinRequest>) -> Result<Response<v1::PinResponse>, Status> {
        let (_on_time, deadline) = self.call("a pin");
        let v1::PinRequest { pin_id, keys, ttl_ms } = request.into_inner();
        let (id, keys) = (pin_id_of(&pin_id)?, keys_of(&keys)?);
        let pinned = self.0.pin(NAMESPACE, id, &keys, ttl_ms, |_| None, deadline).await.map_err(status)?;
        Ok(Response::new(v1::PinResponse {
            expires_at_ms: pinned.expires_at_ms,
            pinned_bytes: pinned.pinned_bytes,
            pin_quota_bytes: pinned.pin_quota_bytes,
            absent_blocks: pinned.absent_blocks as u32,
        }))
    }

    async fn unpin(&self, request: Request<v1::UnpinRequest>) -> Result<Response<v1::UnpinResponse>, Status> {
        let (_on_time, deadline) = self.call("an unpin");
        let id = pin_id_of(&request.get_ref().pin_id)?;
        let changed = self.0.unpin(NAMESPACE, id, deadline).await.map_err(status)?;
        Ok(Response::new(v1::UnpinResponse { changed }))
    }

    /// As new as can be, or not at all.
    async fn pins(&self, _: Request<v1::PinsRequest>) -> Result<Response<v1::PinsResponse>, Status> {
        let (_on_time, deadline) = self.call("a list of pins");
        match self.0.refresh_control(deadline).await {
            true => Ok(Response::new(self.0.pins(NAMESPACE))),
            false => Err(Status::aborted("the control state cannot be made new enough in time")),
        }
    }

    async fn set_retention(
        &self,
        request: Request<v1::SetRetentionRequest>,
    ) -> Result<Response<v1::SetRetentionResponse>, Status> {
        let (_on_time, deadline) = self.call("a retention");
        let v1::SetRetentionRequest { keys, priority, duration_ms } = request.into_inner();
        let keys = keys_of(&keys)?;
        let priority = u8::try_from(priority).ok().and_then(|priority| Priority::new(priority).ok());
        let duration_ms = Some(duration_ms).filter(|duration_ms| *duration_ms != 0);
        let retention = Retention { priority: priority.ok_or_else(unreadable)?, duration_ms };
        self.0.set_retention(NAMESPACE, &keys, retention, deadline).await.map_err(status)?;
        Ok(Response::new(v1::SetRetentionResponse {}))
    }
}

fn granted(grant: Grant) -> v1::ClaimGranted {
    v1::ClaimGranted { token: grant.token, expires_at_ms: grant.expires_at_ms }
}

fn keys_of(keys: &[impl AsRef<[u8]>]) -> Result<Vec<BlockKey>, Status> {
    keys.iter().map(|key| key_of(key.as_ref())).collect()
}

fn key_of(bytes: &[u8]) -> Result<BlockKey, Status> {
    BlockKey::try_from(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn pin_id_of(bytes: &[u8]) -> Result<[u8; 16], Status> {
    bytes.try_into().map_err(|_| unreadable())
}

fn unreadable() -> Status {
    Status::invalid_argument("a request that no client here makes")
}

fn status(error: impl std::fmt::Display) -> Status {
    Status::aborted(error.to_string())
}
