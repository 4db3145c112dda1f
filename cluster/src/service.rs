//! What other nodes ask of this one outside Raft: joining, proposals, heartbeats.

use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use hearth_proto::limits::{COMMAND_BYTES_MAX, PROPOSE_ATTEMPT_MS};
use hearth_proto::v1::cluster_server::Cluster as ClusterRpc;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{DirectoryGroups, GroupId, Incarnation, NodeId, v1};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};
use v1::heartbeat_response::Result as Beat;
use v1::join_response::Result as Joined;
use v1::read_index_response::Result as Read;

use crate::cluster::Cluster;
use crate::error::ProposeError;
use crate::propose::not_leader;
use crate::raft::{LocalRead, check_cluster};
use crate::state::{State, command};
use crate::upgrade::too_old;

/// Serves [`ClusterRpc`] for one member.
#[derive(Clone, Debug)]
pub(crate) struct ClusterService {
    cluster: Cluster,
}

impl ClusterService {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }
}

/// Why a node cannot be part of a cluster with so many directory groups; asked before it is admitted.
fn unfit(request: &v1::JoinRequest, groups: DirectoryGroups) -> Option<String> {
    let (ours, theirs) = (groups.count(), request.expected_directory_groups);
    // It would take all of them for one.
    if ours > 1 && request.command_version < command::SPLIT_SINCE {
        return Some(format!("the cluster has {ours} directory groups, of which this build knows nothing"));
    }
    (theirs != 0 && theirs != ours).then(|| {
        format!(
            "the cluster has {ours} directory groups, not {theirs}: their number is fixed when a cluster is \
             founded; leave --directory-groups out"
        )
    })
}

#[tonic::async_trait]
impl ClusterRpc for ClusterService {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let request = request.into_inner();
        let ours = self.cluster.cluster_id();
        let respond = |result| {
            let cluster_id = ours.0.to_vec().into();
            let directory_groups = self.cluster.directory_groups().count();
            Ok(Response::new(v1::JoinResponse { cluster_id, result, directory_groups }))
        };
        if !request.expected_cluster_id.is_empty() && request.expected_cluster_id[..] != ours.0 {
            // The cluster id alone says it; the node compares and names both.
            return respond(None);
        }
        let finalized = self.cluster.finalized_version();
        let unfit = unfit(&request, self.cluster.directory_groups())
            .or_else(|| too_old(request.command_version, finalized));
        if let Some(detail) = unfit {
            return respond(Some(Joined::Refused(v1::CommandRefused { reason: 0, detail })));
        }
        let admit = command::new(Body::AdmitNode(v1::AdmitNode {
            node_uuid: request.node_uuid,
            name: request.name,
            control_address: request.control_address,
            data_address: request.data_address,
            // What the cluster cannot be told yet, the node says when it can.
            zone: if finalized >= command::MEMBERSHIP_SINCE { request.zone } else { String::new() },
        }));
        let deadline = Instant::now() + Duration::from_millis(PROPOSE_ATTEMPT_MS);
        match self.cluster.propose(GroupId::CONTROL, admit, deadline).await {
            Ok((_, Kind::Admitted(admitted))) => respond(Some(Joined::NodeId(admitted.node_id))),
            Ok(_) => Err(Status::internal("an admission had the outcome of another command")),
            Err(ProposeError::Refused { reason, detail }) => {
                respond(Some(Joined::Refused(v1::CommandRefused { reason: reason.into(), detail })))
            }
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn propose(
        &self,
        request: Request<v1::ProposeRequest>,
    ) -> Result<Response<v1::ProposeResponse>, Status> {
        let request = request.into_inner();
        check_cluster(self.cluster.cluster_id(), &request.cluster_id)?;
        let group = self.cluster.group(GroupId(request.group_id));
        let group = group.ok_or_else(|| Status::not_found("this node does not have the group"))?;
        let command = request.command.ok_or_else(|| Status::invalid_argument("there is no command"))?;
        let size = command.encoded_len();
        if size > COMMAND_BYTES_MAX {
            let detail = format!("a command of {size} bytes is over the limit of {COMMAND_BYTES_MAX}");
            return Err(Status::invalid_argument(detail));
        }
        Ok(Response::new(self.cluster.propose_for_peer(group, command).await))
    }

    type ProposeInOrderStream = BoxStream<'static, Result<v1::ProposeResponse, Status>>;

    async fn propose_in_order(
        &self,
        request: Request<Streaming<v1::OrderedProposal>>,
    ) -> Result<Response<Self::ProposeInOrderStream>, Status> {
        Ok(Response::new(self.cluster.propose_in_order(request.into_inner())))
    }

    async fn read_index(
        &self,
        request: Request<v1::ReadIndexRequest>,
    ) -> Result<Response<v1::ReadIndexResponse>, Status> {
        let request = request.into_inner();
        check_cluster(self.cluster.cluster_id(), &request.cluster_id)?;
        let group = self.cluster.group(GroupId(request.group_id));
        let group = group.ok_or_else(|| Status::not_found("this node does not have the group"))?;
        let result = match group.read_index(Duration::from_millis(PROPOSE_ATTEMPT_MS)).await {
            LocalRead::Index(index) => Read::LogIndex(index.0),
            LocalRead::NotLeader(leader) => Read::NotLeader(not_leader(leader)),
            LocalRead::NoQuorum => {
                let silent = self.cluster.silent_voters(group);
                return Err(Status::unavailable(format!("no quorum confirmed that this node leads{silent}")));
            }
            LocalRead::Stopped => return Err(Status::unavailable("the group has stopped on this node")),
        };
        Ok(Response::new(v1::ReadIndexResponse { result: Some(result) }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        check_cluster(self.cluster.cluster_id(), &request.get_ref().cluster_id)?;
        let result = self.cluster.hear(request.get_ref());
        Ok(Response::new(v1::HeartbeatResponse { result: Some(result) }))
    }
}

impl Cluster {
    /// Takes a heartbeat as the control leader, or says who that is.
    pub(crate) fn hear(&self, beat: &v1::HeartbeatRequest) -> Beat {
        let control = &self.0.control;
        let Some(term) = control.leading_term() else {
            return Beat::NotLeader(not_leader(self.known_leader(control)));
        };
        let (id, incarnation) = (NodeId(beat.node_id), Incarnation(beat.incarnation));
        let replicated = control.replicated();
        let State::Control(state) = &replicated.state else {
            return Beat::RegisterAgain(v1::RegisterAgain {});
        };
        let Some(known) = state.node(id) else { return Beat::RegisterAgain(v1::RegisterAgain {}) };
        if known.state() == v1::NodeState::Removed {
            // As long as it votes it may be needed: it is told to stop when it is not any more.
            let votes = self.all_groups().any(|group| group.members().0.contains(&id));
            return match votes {
                true => Beat::RegisterAgain(v1::RegisterAgain {}),
                false => Beat::Removed(v1::NodeRemoved {}),
            };
        }
        let registered = known.incarnation;
        if registered > incarnation.0 && known.boot_id != beat.boot_id {
            return Beat::Superseded(v1::NodeSuperseded { incarnation: registered });
        }
        // An incarnation that this leader has not applied yet is one that it will: it was committed.
        if registered < incarnation.0 || state.serving_incarnation(id) == Some(incarnation) {
            let now = Instant::now();
            self.0.liveness.hear(term, id, incarnation, beat.command_version, now);
            return Beat::Heard(v1::HeartbeatHeard {});
        }
        Beat::RegisterAgain(v1::RegisterAgain {})
    }
}
