//! What a node of the cluster is told when it starts.

use std::path::PathBuf;

use hearth_proto::limits::{
    NODE_DOWN_AFTER_MS, SNAPSHOT_EVERY_ENTRIES, SNAPSHOT_KEEP_ENTRIES, VOTER_LOST_AFTER_MS,
};
use hearth_proto::{ClusterId, DirectoryGroups, NodeId};

use crate::state::command;

/// Where a node's services are reached, each as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddresses {
    /// The gRPC services.
    pub control: String,
    /// The block service.
    pub data: String,
}

/// The identity of a node and what it brings to the cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Folder of the metadata plane, for this node alone.
    pub dir: PathBuf,
    /// This node, as founding (1) or joining gave it.
    pub node_id: NodeId,
    /// The cluster it belongs to.
    pub cluster_id: ClusterId,
    /// The groups that share the directory there, fixed when the cluster is founded.
    pub directory_groups: DirectoryGroups,
    /// Its name in listings.
    pub name: String,
    /// What it fails together with, such as a rack or a room; empty is one zone as well.
    pub zone: String,
    /// True for an observer: it holds the log and never votes.
    pub never_votes: bool,
    /// How long a voter may be down before another node votes in its place.
    pub voter_lost_after_ms: u64,
    /// Random bytes of this process, to tell it from another one with the same folder.
    pub boot_id: [u8; 16],
    /// Where others reach it.
    pub addresses: NodeAddresses,
    /// Memory it gives to blocks.
    pub host_capacity_bytes: u64,
    /// Solid-state storage it gives to blocks.
    pub nvme_capacity_bytes: u64,
}

/// Limits that tests make smaller.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    pub(crate) snapshot_every_entries: u64,
    pub(crate) snapshot_keep_entries: u64,
    pub(crate) node_down_after_ms: u64,
    pub(crate) voter_lost_after_ms: u64,
    /// The newest command version that the node says it knows.
    pub(crate) command_version: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            snapshot_every_entries: SNAPSHOT_EVERY_ENTRIES,
            snapshot_keep_entries: SNAPSHOT_KEEP_ENTRIES,
            node_down_after_ms: NODE_DOWN_AFTER_MS,
            voter_lost_after_ms: VOTER_LOST_AFTER_MS,
            command_version: command::VERSION,
        }
    }
}
