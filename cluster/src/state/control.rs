//! The control group's state: the cluster's identity and its nodes.

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_proto::{ClusterId, DirectoryGroups, Incarnation, NodeId, limits, v1};
use prost::Message;
use rustc_hash::FxHashMap;
use v1::command::Body;
use v1::{NodeState, RefusalReason};

use super::membership::FINALIZED_FIRST;
use super::outcome::{self, refused};
use super::record::{RecordError, RecordKey};
use super::tenancy::Tenancy;
use crate::mutant::{self, Mutant};

/// Bytes of a node's uuid and of a boot id.
const ID_BYTES: usize = 16;
/// Boot ids that are remembered as replaced, per node.
const RETIRED_BOOTS_MAX: usize = 16;

/// The cluster's identity, its nodes, and which incarnation of each one serves.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(super) cluster: Option<v1::ClusterRecord>,
    pub(super) nodes: BTreeMap<NodeId, v1::NodeRecord>,
    /// Derived: the nodes whose replicas count, with the one incarnation that they count under.
    pub(super) serving: FxHashMap<NodeId, Incarnation>,
    tenancy: Tenancy,
}

impl Control {
    /// The identity fixed by the founder, once there is one.
    pub(crate) fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster.as_ref().and_then(|cluster| ClusterId::try_from(&cluster.cluster_id[..]).ok())
    }

    /// The groups that share the directory, once the cluster is founded.
    pub(crate) fn directory_groups(&self) -> Option<DirectoryGroups> {
        self.cluster.as_ref().and_then(|cluster| DirectoryGroups::from_wire(cluster.directory_groups).ok())
    }

    /// What holds for all nodes; the default until somebody says otherwise.
    pub(crate) fn policy(&self) -> v1::ClusterPolicy {
        self.cluster.as_ref().and_then(|cluster| cluster.policy).unwrap_or_default()
    }

    /// Every node that was ever admitted, by id.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &v1::NodeRecord> {
        self.nodes.values()
    }

    /// One node.
    pub(crate) fn node(&self, id: NodeId) -> Option<&v1::NodeRecord> {
        self.nodes.get(&id)
    }

    /// The incarnation under which the node's claims count now; `None` while it is not up (INV-FENCE).
    pub(crate) fn serving_incarnation(&self, id: NodeId) -> Option<Incarnation> {
        self.serving.get(&id).copied()
    }

    pub(super) fn apply(&mut self, stamp_ms: u64, body: &Body) -> v1::Outcome {
        match body {
            Body::FoundCluster(found) => self.found(stamp_ms, found),
            Body::AdmitNode(_)
            | Body::RegisterNode(_)
            | Body::NodeDown(_)
            | Body::DrainNode(_)
            | Body::RemoveNode(_)
            | Body::FinalizeVersion(_)
                if self.cluster.is_none() =>
            {
                refused(RefusalReason::NotFounded, "the cluster is not founded yet")
            }
            Body::AdmitNode(admit) => self.admit(stamp_ms, admit),
            Body::RegisterNode(register) => self.register(stamp_ms, register),
            Body::NodeDown(down) => self.mark_down(stamp_ms, down),
            Body::DrainNode(drain) => self.drain(stamp_ms, drain),
            Body::PutNamespace(_)
            | Body::DeleteNamespace(_)
            | Body::PinBlocks(_)
            | Body::UnpinBlocks(_)
            | Body::PutPolicy(_)
            | Body::AdvanceTime(_) => match &mut self.cluster {
                Some(cluster) => self.tenancy.apply(cluster, body),
                None => refused(RefusalReason::NotFounded, "the cluster is not founded yet"),
            },
            Body::RemoveNode(remove) => self.remove(stamp_ms, remove),
            Body::FinalizeVersion(finalize) => self.finalize(finalize),
            _ => outcome::wrong_group(),
        }
    }

    pub(super) fn advance(&mut self, stamp_ms: u64) {
        if let Some(cluster) = &mut self.cluster {
            self.tenancy.advance(cluster, stamp_ms);
        }
    }

    /// The latest stamp that was applied.
    pub(crate) fn time_ms(&self) -> u64 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.time_ms)
    }

    /// What the cluster record says, once there is a cluster.
    pub(crate) fn cluster_record(&self) -> Option<&v1::ClusterRecord> {
        self.cluster.as_ref()
    }

    /// Namespaces and pins.
    pub(crate) fn tenancy(&self) -> &Tenancy {
        &self.tenancy
    }

    pub(super) fn tenancy_mut(&mut self) -> &mut Tenancy {
        &mut self.tenancy
    }

    fn found(&mut self, stamp_ms: u64, found: &v1::FoundCluster) -> v1::Outcome {
        let (Ok(cluster_id), Some(first)) = (ClusterId::try_from(&found.cluster_id[..]), &found.first_node)
        else {
            return refused(RefusalReason::Malformed, "a cluster id or the first node is missing");
        };
        let groups = match DirectoryGroups::from_wire(found.directory_groups) {
            Ok(groups) => groups,
            Err(error) => return refused(RefusalReason::Malformed, error.to_string()),
        };
        match (self.cluster_id(), self.directory_groups()) {
            (Some(known), _) if known != cluster_id => {
                return refused(RefusalReason::OtherCluster, format!("this is cluster {known} already"));
            }
            (_, Some(known)) if known != groups => {
                let detail = format!("the cluster has {} directory groups already", known.count());
                return refused(RefusalReason::OtherCluster, detail);
            }
            (Some(_), _) => {}
            (None, _) => {
                if first.node_uuid.len() != ID_BYTES {
                    return refused(RefusalReason::Malformed, "a node uuid must be 16 bytes");
                }
                self.cluster = Some(v1::ClusterRecord {
                    cluster_id: found.cluster_id.clone(),
                    next_node_id: 1,
                    directory_groups: found.directory_groups,
                    ..Default::default()
                });
            }
        }
        self.admit(stamp_ms, first)
    }

    fn admit(&mut self, stamp_ms: u64, admit: &v1::AdmitNode) -> v1::Outcome {
        let texts = [&admit.name, &admit.control_address, &admit.data_address, &admit.zone];
        if let Some(refused) = check_texts(texts) {
            return refused;
        }
        if admit.node_uuid.len() != ID_BYTES {
            return refused(RefusalReason::Malformed, "a node uuid must be 16 bytes");
        }
        if let Some(known) = self.nodes.values_mut().find(|node| node.node_uuid == admit.node_uuid) {
            let id = NodeId(known.node_id);
            if known.state() == NodeState::Removed {
                let detail = format!(
                    "node {id} was removed for good; to come in again, start with an empty data folder and join"
                );
                return refused(RefusalReason::NodeRemoved, detail);
            }
            // Until it registers, a node can only be reached where it last asked to join from.
            if known.incarnation == 0 {
                known.name = admit.name.clone();
                known.control_address = admit.control_address.clone();
                known.data_address = admit.data_address.clone();
                known.zone = admit.zone.clone();
            }
            return outcome::admitted(id);
        }
        // Those that were taken out are remembered and make room.
        let there = self.nodes.values().filter(|node| node.state() != NodeState::Removed).count();
        if there >= limits::NODES_MAX {
            let detail = format!("a cluster has at most {} nodes", limits::NODES_MAX);
            return refused(RefusalReason::ClusterFull, detail);
        }
        let Some(cluster) = &mut self.cluster else {
            return refused(RefusalReason::NotFounded, "the cluster is not founded yet");
        };
        let id = NodeId(cluster.next_node_id);
        cluster.next_node_id += 1;
        let record = v1::NodeRecord {
            node_id: id.0,
            node_uuid: admit.node_uuid.clone(),
            name: admit.name.clone(),
            control_address: admit.control_address.clone(),
            data_address: admit.data_address.clone(),
            zone: admit.zone.clone(),
            state: NodeState::Down.into(),
            changed_at_ms: stamp_ms,
            ..Default::default()
        };
        self.nodes.insert(id, record);
        outcome::admitted(id)
    }

    fn register(&mut self, stamp_ms: u64, register: &v1::RegisterNode) -> v1::Outcome {
        let texts = [&register.name, &register.control_address, &register.data_address, &register.zone];
        if let Some(refused) = check_texts(texts) {
            return refused;
        }
        if register.boot_id.len() != ID_BYTES {
            return refused(RefusalReason::Malformed, "a boot id must be 16 bytes");
        }
        let id = NodeId(register.node_id);
        let finalized = self.finalized_version();
        let Some(node) = self.nodes.get_mut(&id) else {
            return refused(RefusalReason::UnknownNode, format!("node {id} was never admitted"));
        };
        if node.state() == NodeState::Removed {
            return refused(RefusalReason::NodeRemoved, format!("node {id} was removed for good"));
        }
        if register.command_version.max(FINALIZED_FIRST) < finalized {
            let known = register.command_version;
            let detail = format!(
                "the cluster is at version {finalized} and this build knows {known}: start a newer build"
            );
            return refused(RefusalReason::Version, detail);
        }
        // A process that was replaced stays out, even if its request was only late: it may be a copy
        // of the data folder, and two processes must never serve under one identity (INV-FENCE).
        if node.retired_boot_ids.contains(&register.boot_id) {
            return outcome::superseded(Incarnation(node.incarnation));
        }
        let serving = is_serving(node);
        if !(serving && node.boot_id == register.boot_id) {
            let replaced = std::mem::replace(&mut node.boot_id, register.boot_id.clone());
            if !replaced.is_empty() && replaced != register.boot_id {
                retire(&mut node.retired_boot_ids, replaced);
            }
            node.incarnation += u64::from(!mutant::is(Mutant::IncarnationKept) || node.incarnation == 0);
            node.set_state(if node.draining { NodeState::Draining } else { NodeState::Up });
            node.changed_at_ms = stamp_ms;
        }
        node.name = register.name.clone();
        node.control_address = register.control_address.clone();
        node.data_address = register.data_address.clone();
        node.host_capacity_bytes = register.host_capacity_bytes;
        node.nvme_capacity_bytes = register.nvme_capacity_bytes;
        node.zone = register.zone.clone();
        node.command_version = register.command_version;
        node.never_votes = register.never_votes;
        let incarnation = node.incarnation;
        self.serving.insert(id, Incarnation(incarnation));
        outcome::registered(incarnation)
    }

    fn mark_down(&mut self, stamp_ms: u64, down: &v1::NodeDown) -> v1::Outcome {
        let id = NodeId(down.node_id);
        let Some(node) = self.nodes.get_mut(&id) else {
            return refused(RefusalReason::UnknownNode, format!("node {id} was never admitted"));
        };
        if node.incarnation != down.incarnation || !is_serving(node) {
            return outcome::marked(false);
        }
        node.set_state(NodeState::Down);
        node.changed_at_ms = stamp_ms;
        self.serving.remove(&id);
        outcome::marked(true)
    }

    pub(super) fn read_record(&self, key: &RecordKey, out: &mut Vec<u8>) -> bool {
        match key {
            RecordKey::Cluster => self.cluster.as_ref().map(|cluster| cluster.encode_raw(out)).is_some(),
            RecordKey::Node(id) => self.nodes.get(id).map(|node| node.encode_raw(out)).is_some(),
            _ => self.tenancy.read_record(key, out),
        }
    }

    pub(super) fn restore(&mut self, key: RecordKey, value: &[u8]) -> Result<(), RecordError> {
        match key {
            RecordKey::Cluster => {
                let record = v1::ClusterRecord::decode(value)
                    .map_err(|_| RecordError("the cluster record is unreadable"))?;
                if record.cluster_id.len() != ID_BYTES {
                    return Err(RecordError("the cluster id is not 16 bytes"));
                }
                if DirectoryGroups::from_wire(record.directory_groups).is_err() {
                    return Err(RecordError(
                        "the cluster has a number of directory groups that none can have",
                    ));
                }
                self.cluster = Some(record);
            }
            RecordKey::Node(id) => {
                let record =
                    v1::NodeRecord::decode(value).map_err(|_| RecordError("a node record is unreadable"))?;
                if record.node_id != id.0 {
                    return Err(RecordError("a node record lies under another id"));
                }
                if is_serving(&record) {
                    self.serving.insert(id, Incarnation(record.incarnation));
                }
                self.nodes.insert(id, record);
            }
            _ => self.tenancy.restore(key, value)?,
        }
        Ok(())
    }

    /// Every record.
    pub(super) fn record_keys(&self) -> Vec<RecordKey> {
        let cluster = self.cluster.iter().map(|_| RecordKey::Cluster);
        let nodes = self.nodes.keys().map(|id| RecordKey::Node(*id));
        cluster.chain(nodes).chain(self.tenancy.record_keys()).collect()
    }
}

/// Whether the replicas of a node in this state count.
pub(super) fn is_serving(node: &v1::NodeRecord) -> bool {
    matches!(node.state(), NodeState::Up | NodeState::Draining)
}

/// Refuses what would let one node fill the state of all (INV-BOUND).
fn check_texts(texts: [&String; 4]) -> Option<v1::Outcome> {
    let limit = limits::NODE_TEXT_BYTES_MAX;
    let too_long = texts.iter().any(|text| text.len() > limit);
    too_long.then(|| {
        refused(RefusalReason::Malformed, format!("a name, zone or address is longer than {limit} bytes"))
    })
}

fn retire(retired: &mut Vec<Bytes>, boot_id: Bytes) {
    if retired.len() >= RETIRED_BOOTS_MAX {
        retired.remove(0);
    }
    retired.push(boot_id);
}
