//! The Claims service: one worker computes a missing block, every other waits and loads it.

use std::time::{Duration, Instant};

use hearth_cluster::{ClaimState, Cluster, CommandError, Grant, WatchEnd};
use hearth_proto::limits::{CLAIM_ROUNDS_MAX, CLAIMANT_BYTES_MAX};
use hearth_proto::v1::claims_server::Claims;
use hearth_proto::{BlockId, BlockKey, NamespaceId, v1};
use hearth_store::Store;
use rustc_hash::FxHashSet;
use tonic::{Request, Response, Status};
use v1::claim_response::Result as Claimed;
use v1::renew_response::Result as Renewed;
use v1::watch_response::Result as Watched;

use crate::announce::Announced;
use crate::calls::{deadline_of, key_of, keys_of, malformed, status_of};

/// Answers from the directory, the local store and what other nodes announced; claims are committed.
#[derive(Clone)]
pub(crate) struct ClaimService {
    pub(crate) cluster: Cluster,
    pub(crate) store: Store,
    pub(crate) announced: Announced,
}

impl ClaimService {
    /// The first block of a chain that nobody holds; `known` are held although it does not show here yet.
    fn first_absent(
        &self,
        namespace: NamespaceId,
        keys: &[BlockKey],
        known: &FxHashSet<usize>,
    ) -> Option<usize> {
        let replicas = self.cluster.lookup(namespace, keys).replicas;
        let announced = self.announced.find(namespace, keys);
        let nodes = self.cluster.nodes();
        let serves = |node: u64, incarnation: u64| {
            let is_up = |node: &v1::Node| matches!(node.state(), v1::NodeState::Up | v1::NodeState::Draining);
            nodes.iter().any(|n| n.node_id == node && n.incarnation == incarnation && is_up(n))
        };
        (0..keys.len()).find(|&index| {
            let id = BlockId { namespace, key: keys[index] };
            let is_announced =
                || announced[index].is_some_and(|early| serves(early.node.0, early.incarnation.0));
            !known.contains(&index)
                && replicas[index].is_empty()
                && !self.store.contains(&id).any()
                && !is_announced()
        })
    }
}

#[tonic::async_trait]
impl Claims for ClaimService {
    async fn claim(&self, request: Request<v1::ClaimRequest>) -> Result<Response<v1::ClaimResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let request = request.into_inner();
        let keys = keys_of(&request.keys, 1)?;
        if !(1..=CLAIMANT_BYTES_MAX).contains(&request.claimant.len()) {
            return Err(malformed(format!("the name of a claimant is 1 to {CLAIMANT_BYTES_MAX} bytes")));
        }
        let namespace = NamespaceId::DEFAULT;
        let mut known = FxHashSet::default();
        for _ in 0..CLAIM_ROUNDS_MAX {
            let Some(index) = self.first_absent(namespace, &keys, &known) else {
                let present_blocks = keys.len() as u32;
                return Ok(Response::new(v1::ClaimResponse { present_blocks, ..Default::default() }));
            };
            let claimant = request.claimant.clone();
            let answer = self.cluster.claim(namespace, keys[index], claimant, request.ttl_ms, deadline);
            let answer = answer.await.map_err(|error| status_of(&error))?;
            let result = match answer.state {
                ClaimState::Granted(grant) => Claimed::Granted(granted(grant)),
                ClaimState::Held { claimant, expires_at_ms } => {
                    Claimed::Held(v1::ClaimHeld { claimant, expires_at_ms })
                }
                ClaimState::Present => {
                    known.insert(index);
                    continue;
                }
            };
            return Ok(Response::new(v1::ClaimResponse {
                present_blocks: index as u32,
                result: Some(result),
                group_id: answer.group.0,
                log_index: answer.log_index.0,
            }));
        }
        Err(status_of(&CommandError::Unsettled))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let v1::RenewRequest { key, token, ttl_ms } = request.into_inner();
        let renewed = self.cluster.renew_claim(NamespaceId::DEFAULT, key_of(&key)?, token, ttl_ms, deadline);
        let result = match renewed.await.map_err(|error| status_of(&error))? {
            Some(grant) => Renewed::Granted(granted(grant)),
            None => Renewed::Gone(v1::ClaimGone {}),
        };
        Ok(Response::new(v1::RenewResponse { result: Some(result) }))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let v1::ReleaseRequest { key, token } = request.into_inner();
        let released = self.cluster.release_claim(NamespaceId::DEFAULT, key_of(&key)?, token, deadline);
        let released = released.await.map_err(|error| status_of(&error))?;
        Ok(Response::new(v1::ReleaseResponse { released }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<v1::WatchResponse>, Status> {
        let deadline = deadline_of(request.metadata());
        let v1::WatchRequest { key, wait_ms } = request.into_inner();
        let key = key_of(&key)?;
        let wait = Some(Duration::from_millis(wait_ms)).filter(|wait| !wait.is_zero());
        let until = wait.and_then(|wait| Instant::now().checked_add(wait)).unwrap_or(deadline).min(deadline);
        let namespace = NamespaceId::DEFAULT;
        let is_held_here = || self.store.contains(&BlockId { namespace, key }).any();
        let end = self.cluster.watch_claim(namespace, key, until, is_held_here).await;
        let result = match end.map_err(|error| status_of(&error))? {
            WatchEnd::Present => Watched::Present(v1::BlockPresent {}),
            WatchEnd::Free => Watched::Free(v1::ClaimGone {}),
            WatchEnd::Held { claimant, expires_at_ms } => {
                Watched::Held(v1::ClaimHeld { claimant, expires_at_ms })
            }
        };
        Ok(Response::new(v1::WatchResponse { result: Some(result) }))
    }
}

fn granted(grant: Grant) -> v1::ClaimGranted {
    v1::ClaimGranted { token: grant.token, expires_at_ms: grant.expires_at_ms }
}
