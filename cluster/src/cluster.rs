//! [`Cluster`]: the handle of a running member.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hearth_proto::limits::{
    GRPC_CONNECTION_WINDOW_BYTES, GRPC_FRAME_BYTES_MAX, GRPC_MESSAGE_BYTES_MAX, GRPC_STREAM_WINDOW_BYTES,
    GRPC_STREAMS_MAX,
};
use hearth_proto::v1::cluster_server::ClusterServer;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::raft_server::RaftServer;
use hearth_proto::{BlockKey, ClusterId, DirectoryGroups, GroupId, Incarnation, NamespaceId, NodeId, v1};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::config::{ClusterConfig, Tuning};
use crate::duties::Absences;
use crate::error::{FoundError, ProposeError, StartError};
use crate::liveness::Liveness;
use crate::lookup::{self, LookupAnswer};
use crate::offload::spawn_blocking;
use crate::raft::{Database, Group, Identity, Peers, RaftService};
use crate::service::ClusterService;
use crate::state::{State, command};

/// How long founding may take: an election among one voter and one commit.
const FOUND_DEADLINE: Duration = Duration::from_secs(20);

/// A running member of the cluster. Clones are handles to the same member.
#[derive(Clone, Debug)]
pub struct Cluster(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: ClusterConfig,
    pub(crate) tuning: Tuning,
    pub(crate) control: Arc<Group>,
    /// The directory groups, in the order of [`DirectoryGroups::ids`].
    pub(crate) directories: Vec<Arc<Group>>,
    pub(crate) peers: Peers,
    pub(crate) liveness: Liveness,
    pub(crate) absences: Absences,
    /// The incarnation under which this process is registered.
    pub(crate) registered: watch::Sender<Option<Incarnation>>,
    /// The number of the last block report to each directory group; it only grows, whatever the incarnation.
    pub(crate) report_sequences: Vec<AtomicU64>,
    /// Fires when the groups stop, and ends the streams that peers hold open.
    pub(crate) stopping: CancellationToken,
}

impl Cluster {
    /// Opens the metadata folder and runs the groups. The node takes part in elections at once; it
    /// is reachable once [`Self::services`] are mounted, and a member once [`Self::run_member`] runs.
    ///
    /// # Errors
    /// [`StartError`]; none of them goes away by itself.
    pub async fn start(config: ClusterConfig) -> Result<Self, StartError> {
        let voter_lost_after_ms = config.voter_lost_after_ms;
        Self::start_tuned(config, Tuning { voter_lost_after_ms, ..Tuning::default() }).await
    }

    pub(crate) async fn start_tuned(config: ClusterConfig, tuning: Tuning) -> Result<Self, StartError> {
        let identity = Identity {
            node: config.node_id,
            cluster: config.cluster_id,
            directory_groups: config.directory_groups.count(),
        };
        let (dir, groups) = (config.dir.clone(), config.directory_groups);
        // Recovery reads the whole state from disk, which is not for an async thread to wait on.
        let load = move || -> Result<_, StartError> {
            let database = Arc::new(Database::open(&dir, identity)?);
            let sync = Group::sync(&database).map_err(StartError::Io)?;
            let control = Group::prepare(GroupId::CONTROL, &database, &sync)?;
            let directories = groups.ids().map(|id| Group::prepare(id, &database, &sync));
            let directories = directories.collect::<Result<Vec<_>, _>>()?;
            Ok((control, directories))
        };
        let (control, prepared) =
            spawn_blocking(load).await.map_err(|error| StartError::Io(std::io::Error::other(error)))??;
        let peers = Peers::new(config.cluster_id, control.replicated());
        let control = Group::run(control, config.node_id, peers.clone(), &tuning).await?;
        let mut directories = Vec::with_capacity(prepared.len());
        for directory in prepared {
            directories.push(Arc::new(Group::run(directory, config.node_id, peers.clone(), &tuning).await?));
        }
        Ok(Self(Arc::new(Inner {
            config,
            tuning,
            control: Arc::new(control),
            report_sequences: directories.iter().map(|_| AtomicU64::new(0)).collect(),
            directories,
            peers,
            liveness: Liveness::default(),
            absences: Absences::default(),
            registered: watch::Sender::new(None),
            stopping: CancellationToken::new(),
        })))
    }

    /// Founds the cluster: makes this node the only voter of every group and commits the cluster's
    /// identity and this node as node 1. Founding again with the same identity is harmless.
    ///
    /// # Errors
    /// [`FoundError`]; after `Commit` the caller may found again.
    pub async fn found(&self, node_uuid: [u8; 16]) -> Result<(), FoundError> {
        let config = &self.0.config;
        if config.node_id != NodeId(1) {
            return Err(FoundError::NotFirst(config.node_id));
        }
        for group in self.all_groups() {
            let initialized = group.initialize(config.node_id, &config.addresses.control).await;
            initialized.map_err(|error| FoundError::Raft(error.to_string()))?;
        }
        let first_node = v1::AdmitNode {
            node_uuid: node_uuid.to_vec().into(),
            name: config.name.clone(),
            control_address: config.addresses.control.clone(),
            data_address: config.addresses.data.clone(),
            ..Default::default()
        };
        let found = v1::FoundCluster {
            cluster_id: config.cluster_id.0.to_vec().into(),
            first_node: Some(first_node),
            // As clusters of one were founded before there could be more.
            directory_groups: Some(config.directory_groups.count()).filter(|count| *count > 1).unwrap_or(0),
        };
        let command = command::new(Body::FoundCluster(found));
        match self.propose(GroupId::CONTROL, command, Instant::now() + FOUND_DEADLINE).await {
            Ok(_) => {}
            // It is founded, and goes on without its founder: registering says so too, and what to do.
            Err(ProposeError::Refused { reason: v1::RefusalReason::NodeRemoved, .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if self.is_new() {
            // Nobody else has to know it: a new cluster begins with all that its founder can say.
            let finalize = v1::FinalizeVersion { version: self.newest_version() };
            let command = command::new(Body::FinalizeVersion(finalize));
            if self.newest_version() >= command.version {
                self.propose(GroupId::CONTROL, command, Instant::now() + FOUND_DEADLINE).await?;
            }
        }
        Ok(())
    }

    /// Whether the cluster was founded just now: its founder is alone and has not registered yet.
    fn is_new(&self) -> bool {
        let replicated = self.0.control.replicated();
        let State::Control(control) = &replicated.state else { return false };
        control.nodes().count() == 1 && control.nodes().all(|node| node.incarnation == 0)
    }

    /// The gRPC services that other members call, to be mounted on the node's listener.
    pub fn services(&self) -> Routes {
        let groups: Arc<[Arc<Group>]> = self.all_groups().cloned().collect();
        let config = &self.0.config;
        let raft = RaftService::new(config.cluster_id, config.node_id, groups, self.0.stopping.clone());
        let raft = RaftServer::new(raft)
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
        let cluster = ClusterServer::new(ClusterService::new(self.clone()))
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX);
        Routes::new(raft).add_service(cluster)
    }

    /// The incarnation under which this process is registered; `None` until it is, and again after it
    /// was declared down, until it has registered anew.
    pub fn incarnation(&self) -> Option<Incarnation> {
        *self.0.registered.borrow()
    }

    /// Why the metadata plane of this node no longer works, after a failed disk or a newer command;
    /// `None` while it does. Lookups go on from what was known then, ever more stale, and nothing is
    /// led, voted or reported. The cause in full, which may name files, is in the log alone.
    pub fn failure(&self) -> Option<String> {
        let stopped = self.all_groups().filter_map(|group| Some((group.id(), group.stopped()?)));
        // When one fails the others are shut down, which is not the reason.
        let (group, reason) = stopped.min_by_key(|(_, reason)| *reason)?;
        Some(format!("group {group} {reason}"))
    }

    /// Whether this node is registered, runs every group, and knows a leader of each.
    pub fn is_ready(&self) -> bool {
        self.failure().is_none()
            && self.incarnation().is_some()
            && self.all_groups().all(|group| group.is_led())
    }

    /// What this node waits for until it is ready, for people; `None` if it is.
    pub fn waits_for(&self) -> Option<String> {
        let leaderless = self.all_groups().find(|group| !group.is_led());
        match leaderless {
            Some(group) => {
                let (id, silent) = (group.id(), self.silent_voters(group));
                Some(format!("no leader of group {id} is heard{silent}"))
            }
            None if self.incarnation().is_none() => {
                Some("not registered with a leader of the cluster yet".into())
            }
            None => None,
        }
    }

    /// Finds the replicas of blocks in this node's copy of the directory.
    ///
    /// The answer may be stale by `staleness`, as far as this node can know; a claim counts only while its node is
    /// up under the claim's incarnation.
    pub fn lookup(&self, namespace: NamespaceId, keys: &[BlockKey]) -> LookupAnswer {
        let directory =
            lookup::SplitDirectory { groups: self.directory_groups(), directories: &self.0.directories };
        lookup::lookup(&self.0.control, directory, namespace, keys)
    }

    /// Every node of the cluster, by id, as this node's copy of the control state has it.
    pub fn nodes(&self) -> Vec<v1::Node> {
        let (voters, _) = self.0.control.members();
        let replicated = self.0.control.replicated();
        let State::Control(control) = &replicated.state else { return Vec::new() };
        let view = |node: &v1::NodeRecord| v1::Node {
            node_id: node.node_id,
            name: node.name.clone(),
            incarnation: node.incarnation,
            state: node.state,
            control_address: node.control_address.clone(),
            data_address: node.data_address.clone(),
            voter: voters.contains(&NodeId(node.node_id)),
            host_capacity_bytes: node.host_capacity_bytes,
            nvme_capacity_bytes: node.nvme_capacity_bytes,
            zone: node.zone.clone(),
            command_version: node.command_version,
        };
        control.nodes().map(view).collect()
    }

    /// The state of every group on this node.
    pub fn groups(&self) -> Vec<v1::GroupStatus> {
        self.all_groups().map(|group| group.status()).collect()
    }

    /// The groups that share the directory.
    pub fn directory_groups(&self) -> DirectoryGroups {
        self.0.config.directory_groups
    }

    /// The cluster that this node belongs to.
    pub fn cluster_id(&self) -> ClusterId {
        self.0.config.cluster_id
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.0.config.node_id
    }

    /// Writes a snapshot of each group, so that the next start has little to catch up on.
    ///
    /// # Errors
    /// [`StartError`] of a group that has stopped or stops over it; the ones before it are written.
    pub async fn write_snapshots(&self) -> Result<(), StartError> {
        for group in self.all_groups() {
            group.write_snapshot().await?;
        }
        Ok(())
    }

    /// Stops the groups, and the streams that peers hold open to them. What was acknowledged is on
    /// disk; the database is closed, and the folder free again, once every handle is dropped and the
    /// runtime has ended.
    pub async fn shutdown(&self) {
        self.0.stopping.cancel();
        futures::future::join_all(self.all_groups().map(|group| group.shutdown())).await;
    }

    pub(crate) fn group(&self, id: GroupId) -> Option<&Arc<Group>> {
        self.all_groups().find(|group| group.id() == id)
    }

    /// The control group, then the directory groups.
    pub(crate) fn all_groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        std::iter::once(&self.0.control).chain(&self.0.directories)
    }
}

/// A gRPC server for [`Cluster::services`] and whatever else the node serves: the windows and frames are large
/// enough for log entries, and connections that a partition cut are given up.
pub fn grpc_server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .max_concurrent_streams(Some(GRPC_STREAMS_MAX))
        .initial_connection_window_size(Some(GRPC_CONNECTION_WINDOW_BYTES))
        .initial_stream_window_size(Some(GRPC_STREAM_WINDOW_BYTES))
        .max_frame_size(Some(GRPC_FRAME_BYTES_MAX))
}

/// The time that a leader stamps its commands with.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    #[cfg(feature = "sim")]
    let now = now.saturating_add(crate::sim::clock_ahead_ms());
    now
}
