//! Admits the same few nodes again and again: each must get the same id every time.

use std::collections::BTreeMap;

use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{GroupId, v1};

use super::caller::{Caller, pause};
use super::{Clients, command};
use crate::world::world;

/// Uuids of the nodes that are admitted again and again.
const UUIDS: u64 = 4;

/// One client, for ever.
pub(super) async fn admit(clients: Clients) {
    let mut caller = Caller::new();
    let mut ids: BTreeMap<u64, u64> = BTreeMap::new();
    loop {
        let uuid = world().rng().below(UUIDS);
        let admit = v1::AdmitNode {
            node_uuid: vec![0xa0 + uuid as u8; 16].into(),
            name: format!("admitted-{uuid}"),
            ..Default::default()
        };
        let admit = command(1, Body::AdmitNode(admit));
        match clients.write(&mut caller, GroupId::CONTROL, admit).await {
            Kind::Admitted(admitted) => {
                let (known, now) = (*ids.entry(uuid).or_insert(admitted.node_id), admitted.node_id);
                if known != now {
                    clients
                        .wrong_answer(format!("INV-IDEMPOTENT: one uuid was node {known} and is node {now}"));
                }
            }
            // Before the cluster is founded.
            Kind::Refused(_) => {}
            other => clients.wrong_answer(format!("an admission had the outcome {other:?}")),
        }
        pause(50, 600).await;
    }
}
