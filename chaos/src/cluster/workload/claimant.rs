//! Workers that want to compute the same blocks: they claim, renew in time or too late, give back or let expire.

use std::time::Duration;

use bytes::Bytes;
use hearth_proto::limits::CLAIM_TTL_MS_MIN;
use hearth_proto::v1::claim_response::Result as Claimed;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{BlockId, GroupId, v1};
use tonic::Request;

use super::caller::{Caller, pause, within};
use super::{Acknowledged, Clients, command};
use crate::source::{BLOCKS, block};
use crate::world::world;

/// Workers.
pub(super) const CLAIMANTS: u64 = 3;
/// Blocks that no node ever holds, so few that workers meet.
const WANTED: u64 = 3;
/// The number of the first of them.
const FIRST_WANTED: u64 = 500;

/// One worker, for ever.
pub(super) async fn claim(clients: Clients, number: u64) {
    let mut worker = Worker { clients, caller: Caller::new(), name: format!("worker-{number}").into() };
    loop {
        let (id, ttl_ms, at_door) = {
            let mut rng = world().rng();
            // What nodes hold and lose is claimed as well: it ends claims by coming.
            let number = if rng.chance(70) { FIRST_WANTED + rng.below(WANTED) } else { rng.below(BLOCKS) };
            (block(number), rng.between(CLAIM_TTL_MS_MIN, 1_500), rng.chance(50))
        };
        let outcome = match at_door {
            true => worker.claim_at_door(&id, ttl_ms).await,
            false => Some(worker.propose_claim(&id, ttl_ms).await),
        };
        match outcome {
            Some(Kind::ClaimGranted(granted)) => worker.hold(&id, granted.token, ttl_ms).await,
            Some(Kind::ClaimHeld(_)) => worker.watch(&id).await,
            _ => {}
        }
        if world().is_quiet() { pause(100, 600).await } else { pause(10, 250).await }
    }
}

struct Worker {
    clients: Clients,
    caller: Caller,
    name: Bytes,
}

impl Worker {
    /// Asks whichever node.
    async fn claim_at_door(&mut self, id: &BlockId, ttl_ms: u64) -> Option<Kind> {
        let keys = vec![id.key.0.to_vec().into()];
        let request = Request::new(v1::ClaimRequest { keys, claimant: self.name.clone(), ttl_ms });
        let node = self.caller.any_node();
        let answer = within(self.caller.nodes[node].claims.claim(request)).await?;
        let outcome = match answer.result {
            Some(Claimed::Granted(granted)) => Kind::ClaimGranted(granted),
            Some(Claimed::Held(held)) => Kind::ClaimHeld(held),
            None => Kind::BlockPresent(v1::BlockPresent {}),
        };
        self.clients.acknowledge(Acknowledged {
            group: GroupId(answer.group_id),
            index: answer.log_index,
            command: None,
            outcome: outcome.clone(),
        });
        Some(outcome)
    }

    /// Asks the leader, until it answers.
    async fn propose_claim(&mut self, id: &BlockId, ttl_ms: u64) -> Kind {
        let ((namespace_id, key), claimant) = (named(id), self.name.clone());
        let ask = v1::ClaimPrefill { namespace_id, key, claimant, ttl_ms, gone: Vec::new() };
        self.clients.write(&mut self.caller, GroupId::DIRECTORY, command(3, Body::ClaimPrefill(ask))).await
    }

    /// Works for as long as it likes.
    async fn hold(&mut self, id: &BlockId, token: u64, ttl_ms: u64) {
        let (namespace_id, key) = named(id);
        let renewals = world().rng().below(4);
        for _ in 0..renewals {
            let wait_ms = {
                let mut rng = world().rng();
                if rng.chance(70) { ttl_ms * rng.between(10, 80) / 100 } else { ttl_ms + rng.below(1_000) }
            };
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            let renew = v1::RenewClaim { namespace_id, key: key.clone(), token, ttl_ms };
            let renew = command(3, Body::RenewClaim(renew));
            let outcome = self.clients.write(&mut self.caller, GroupId::DIRECTORY, renew).await;
            if !matches!(outcome, Kind::ClaimGranted(_)) {
                return;
            }
        }
        if world().rng().chance(50) {
            return;
        }
        if world().rng().chance(30) {
            let request = Request::new(v1::ReleaseRequest { key, token });
            let node = self.caller.any_node();
            within(self.caller.nodes[node].claims.release(request)).await;
            return;
        }
        let release = command(3, Body::ReleaseClaim(v1::ReleaseClaim { namespace_id, key, token }));
        self.clients.write(&mut self.caller, GroupId::DIRECTORY, release).await;
    }

    /// Waits on whichever node until the block may be claimed.
    async fn watch(&mut self, id: &BlockId) {
        let request = Request::new(v1::WatchRequest { key: id.key.0.to_vec().into(), wait_ms: 0 });
        let node = self.caller.any_node();
        let end = within(self.caller.nodes[node].claims.watch(request)).await;
        world().note(&format!("a watch on {} ends with {end:?}", world().machines[node].name));
    }
}

fn named(id: &BlockId) -> (u32, Bytes) {
    (id.namespace.0, id.key.0.to_vec().into())
}
