//! Callers that keep blocks: pins that are made, renewed, ended and forgotten, and retentions.

use bytes::Bytes;
use hearth_proto::limits::PIN_TTL_MS_MIN;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{BlockKey, GroupId, v1};
use tonic::Request;

use super::caller::{Caller, pause, within};
use super::{Clients, PinAnswered, command};
use crate::source::{BLOCKS, block};
use crate::world::world;

/// Callers that pin.
pub(super) const KEEPERS: u64 = 2;
/// Pins that each of them knows by name.
const PINS: u64 = 4;
/// What a block is charged with.
const BLOCK_BYTES: u64 = 4_096;

/// One caller, for ever.
pub(super) async fn keep(clients: Clients, number: u64) {
    let mut keeper = Keeper { clients, caller: Caller::new() };
    loop {
        let (what, pin_id, namespace_id, ttl_ms, at_door) = {
            let mut rng = world().rng();
            let pin_id: Bytes = vec![(number * PINS + rng.below(PINS)) as u8 + 1; 16].into();
            let namespace_id = if rng.chance(75) { 0 } else { rng.between(1, 3) as u32 };
            let ttl_ms = rng.between(PIN_TTL_MS_MIN, 5_000);
            (rng.below(100), pin_id, namespace_id, ttl_ms, rng.chance(30))
        };
        match what {
            0..45 if at_door => keeper.pin_at_door(pin_id, ttl_ms).await,
            0..45 => keeper.pin(pin_id, namespace_id, ttl_ms).await,
            45..65 => {
                let renew = v1::PinBlocks { pin_id, namespace_id, ttl_ms, ..Default::default() };
                keeper.control(Body::PinBlocks(renew)).await;
            }
            65..85 if at_door => {
                let node = keeper.caller.any_node();
                let unpin = Request::new(v1::UnpinRequest { pin_id });
                within(keeper.caller.nodes[node].retention.unpin(unpin)).await;
            }
            65..85 => {
                keeper.control(Body::UnpinBlocks(v1::UnpinBlocks { pin_id, namespace_id })).await;
            }
            _ => keeper.retain(at_door).await,
        }
        if world().is_quiet() { pause(100, 600).await } else { pause(20, 300).await }
    }
}

struct Keeper {
    clients: Clients,
    caller: Caller,
}

impl Keeper {
    async fn control(&mut self, body: Body) -> Kind {
        self.clients.write(&mut self.caller, GroupId::CONTROL, command(3, body)).await
    }

    async fn pin(&mut self, pin_id: Bytes, namespace_id: u32, ttl_ms: u64) {
        let keys = some_keys();
        let size_bytes = keys.len() as u64 * BLOCK_BYTES;
        let keys = keys.iter().flat_map(|key| key.0).collect::<Vec<_>>().into();
        self.control(Body::PinBlocks(v1::PinBlocks { pin_id, namespace_id, keys, size_bytes, ttl_ms })).await;
    }

    /// Asks whichever node, which knows what the blocks cost.
    async fn pin_at_door(&mut self, pin_id: Bytes, ttl_ms: u64) {
        let keys = some_keys().iter().map(|key| key.0.to_vec().into()).collect();
        let request = Request::new(v1::PinRequest { pin_id: pin_id.clone(), keys, ttl_ms });
        let node = self.caller.any_node();
        if let Some(pinned) = within(self.caller.nodes[node].retention.pin(request)).await {
            self.clients.was_pinned(PinAnswered {
                pin_id,
                expires_at_ms: pinned.expires_at_ms,
                pinned_bytes: pinned.pinned_bytes,
            });
        }
    }

    async fn retain(&mut self, at_door: bool) {
        let (keys, priority, duration_ms) = {
            let mut rng = world().rng();
            let duration_ms = if rng.chance(20) { 0 } else { rng.between(200, 4_000) };
            (vec![block(rng.below(BLOCKS)).key], rng.below(101) as u32, duration_ms)
        };
        if at_door {
            let keys = keys.iter().map(|key| key.0.to_vec().into()).collect();
            let request = Request::new(v1::SetRetentionRequest { keys, priority, duration_ms });
            let node = self.caller.any_node();
            within(self.caller.nodes[node].retention.set_retention(request)).await;
            return;
        }
        let keys = keys.iter().flat_map(|key| key.0).collect::<Vec<_>>().into();
        let set = v1::SetRetention { namespace_id: 0, keys, priority, duration_ms };
        self.clients.write(&mut self.caller, GroupId::DIRECTORY, command(3, Body::SetRetention(set))).await;
    }
}

/// Up to four blocks that nodes may hold, each once.
fn some_keys() -> Vec<BlockKey> {
    let mut rng = world().rng();
    let (first, count) = (rng.below(BLOCKS), rng.between(1, 4));
    (first..first + count).map(|number| block(number % BLOCKS).key).collect()
}

/// Namespaces come, go and may pin more or less, for ever.
pub(super) async fn change_namespaces(clients: Clients) {
    let mut caller = Caller::new();
    loop {
        let body = {
            let mut rng = world().rng();
            let name = match rng.below(4) {
                0 | 1 => "default".to_owned(),
                number => format!("tenant-{number}"),
            };
            let pin_quota_bytes = BLOCK_BYTES * [0, 4, 8, 12, 200][rng.index(5)];
            match rng.chance(80) {
                true => Body::PutNamespace(v1::PutNamespace {
                    spec: Some(v1::NamespaceSpec { name, pin_quota_bytes, ..Default::default() }),
                }),
                false => {
                    Body::DeleteNamespace(v1::DeleteNamespace { namespace_id: rng.between(1, 4) as u32 })
                }
            }
        };
        clients.write(&mut caller, GroupId::CONTROL, command(3, body)).await;
        pause(200, 1_500).await;
    }
}
